//! Tasks that somebody holds: dropped with their handle, named in the log when they die.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::{JoinHandle, JoinSet};

use crate::metrics;

/// A running task; dropping it stops the task.
#[derive(Debug)]
#[must_use = "a task stops when its handle is dropped"]
pub struct Task {
    handle: JoinHandle<()>,
}

impl Task {
    /// Waits for its end.
    pub async fn join(mut self) {
        // A panic was logged where it happened; an abort needs no word.
        let _ = (&mut self.handle).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

/// Starts a task. A panic in it ends the task only: it is logged and counted, and whoever waits for the
/// task or its channels sees them end.
pub fn spawn<F>(name: &'static str, work: F) -> Task
where
    F: Future<Output = ()> + Send + 'static,
{
    Task { handle: tokio::spawn(supervised(name, work)) }
}

fn supervised<F>(name: &'static str, work: F) -> impl Future<Output = ()> + Send + 'static
where
    F: Future<Output = ()> + Send + 'static,
{
    // Boxed, as an async block keeps room for what it was given beside what it awaits: it would be there twice.
    let work = Box::pin(AssertUnwindSafe(work).catch_unwind());
    async move {
        let _running = Running::new(name);
        if let Err(panic) = work.await {
            metrics::TASK_PANICS.with_label_values(&[name]).inc();
            let why = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(task = name, why, "a task panicked; please report this");
        }
    }
}

/// Counts a task for as long as it runs, however it ends.
struct Running(&'static str);

impl Running {
    fn new(name: &'static str) -> Running {
        metrics::TASKS.with_label_values(&[name]).inc();
        Running(name)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        metrics::TASKS.with_label_values(&[self.0]).dec();
    }
}

/// Tasks that end by themselves, such as one for each connection; dropping it stops them. Whoever adds to them looks at
/// [`Group::len`] first.
#[derive(Debug, Default)]
pub struct Group {
    tasks: JoinSet<()>,
}

impl Group {
    /// Adds a task and forgets those that have ended.
    pub fn spawn<F>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.forget_ended();
        self.tasks.spawn(supervised(name, work));
    }

    /// How many still run.
    pub fn len(&mut self) -> usize {
        self.forget_ended();
        self.tasks.len()
    }

    /// Whether none runs.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Waits until all have ended.
    pub async fn join_all(&mut self) {
        while self.tasks.join_next().await.is_some() {}
    }

    fn forget_ended(&mut self) {
        while self.tasks.try_join_next().is_some() {}
    }
}
