//! Channels between tasks: bounded, named, and counted. A queue whose bound is reached says so in the
//! metrics, never by growing.

use tokio::sync::mpsc;

use crate::metrics;

/// Nothing more fits, or nobody reads any more; the item comes back.
#[derive(Debug)]
pub enum Refused<T> {
    /// The bound is reached.
    Full(T),
    /// The reader is gone.
    Closed(T),
}

/// The writing end.
#[derive(Debug)]
pub struct Sender<T> {
    name: &'static str,
    inner: mpsc::Sender<T>,
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { name: self.name, inner: self.inner.clone() }
    }
}

/// Room for one item.
pub type Permit<'a, T> = mpsc::Permit<'a, T>;

/// The reading end.
pub type Receiver<T> = mpsc::Receiver<T>;

/// Makes a queue for at most `bound` items.
pub fn bounded<T>(name: &'static str, bound: usize) -> (Sender<T>, Receiver<T>) {
    let (inner, receiver) = mpsc::channel(bound);
    (Sender { name, inner }, receiver)
}

impl<T> Sender<T> {
    /// Puts an item in if there is room; counts it as dropped if not.
    pub fn try_send(&self, item: T) -> Result<(), Refused<T>> {
        self.inner.try_send(item).map_err(|e| match e {
            mpsc::error::TrySendError::Full(item) => {
                metrics::QUEUE_FULL.with_label_values(&[self.name]).inc();
                Refused::Full(item)
            }
            mpsc::error::TrySendError::Closed(item) => Refused::Closed(item),
        })
    }

    /// Counts an item that found no room by another bound than the number of items.
    pub fn count_full(&self) {
        metrics::QUEUE_FULL.with_label_values(&[self.name]).inc();
    }

    /// Waits for room; the item comes back when nobody reads any more.
    pub async fn send(&self, item: T) -> Result<(), T> {
        self.inner.send(item).await.map_err(|e| e.0)
    }

    /// The same from a thread that is not async's.
    pub fn blocking_send(&self, item: T) -> Result<(), T> {
        self.inner.blocking_send(item).map_err(|e| e.0)
    }

    /// Waits for room and keeps it; `None`: nobody reads any more.
    pub async fn reserve(&self) -> Option<Permit<'_, T>> {
        self.inner.reserve().await.ok()
    }

    /// Items that wait now.
    pub fn depth(&self) -> usize {
        self.inner.max_capacity() - self.inner.capacity()
    }

    /// Whether the reader is gone.
    pub fn is_closed(&self) -> bool {
        self.inner.is_closed()
    }

    /// Waits until the reader is gone.
    pub async fn closed(&self) {
        self.inner.closed().await;
    }
}
