//! Tasks that somebody holds: dropped with their handle, named in the log when they die.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio::task::{AbortHandle, JoinHandle};

use crate::metrics;

/// A running task; dropping it stops the task.
#[derive(Debug)]
#[must_use = "a task stops when its handle is dropped"]
pub struct Task {
    name: &'static str,
    handle: JoinHandle<()>,
}

impl Task {
    /// What it was called when it was spawned.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Waits for its end.
    pub async fn join(mut self) {
        // A panic was logged where it happened; an abort needs no word.
        let _ = (&mut self.handle).await;
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.handle.is_finished()
    }

    /// Stops it from elsewhere.
    pub fn abort_handle(&self) -> AbortHandle {
        self.handle.abort_handle()
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
    let supervised = async move {
        metrics::TASKS.with_label_values(&[name]).inc();
        let _running = scopeguard(name);
        if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
            metrics::TASK_PANICS.with_label_values(&[name]).inc();
            let why = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
            let why = why.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            tracing::error!(task = name, why, "a task panicked; please report this");
        }
    };
    Task { name, handle: tokio::spawn(supervised) }
}

fn scopeguard(name: &'static str) -> impl Drop {
    struct Running(&'static str);
    impl Drop for Running {
        fn drop(&mut self) {
            metrics::TASKS.with_label_values(&[self.0]).dec();
        }
    }
    Running(name)
}

/// A bounded set of tasks that end by themselves, such as one for each connection.
#[derive(Debug, Default)]
pub struct Group {
    tasks: Vec<Task>,
}

impl Group {
    /// Adds a task and forgets those that have ended.
    pub fn spawn<F>(&mut self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.push(spawn(name, work));
    }

    /// How many still run.
    pub fn len(&mut self) -> usize {
        self.tasks.retain(|task| !task.is_finished());
        self.tasks.len()
    }

    /// Whether none runs.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Waits until all have ended.
    pub async fn join_all(&mut self) {
        for task in self.tasks.drain(..) {
            task.join().await;
        }
    }
}
