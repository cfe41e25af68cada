//! Notices that the machine has woken up, or is on another network: then who waits to try again tries at once.
//!
//! Both are looked for twice a second, alike on every system: a wall clock that ran ahead of the monotonic one, which stands
//! still while most machines sleep; a look that came late; and another address from which packets would leave.

use std::future::Future;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::clock;
use crate::metrics;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A look that comes so much late, or a wall clock that runs so far ahead, means that the machine or the process stood still.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// To which a packet would leave by the default way (RFC 5737, RFC 3849). None is sent.
const ELSEWHERE: [&str; 2] = ["192.0.2.1:9", "[2001:db8::1]:9"];

/// Keeps the look-out of this process, which ends with the last one of these.
#[derive(Debug)]
#[must_use = "when nobody keeps it, nobody looks"]
pub struct Watch {
    _kept: Arc<mpsc::Sender<()>>,
}

/// Begins to look, where nobody in this process does; until then nobody is woken.
///
/// One thread looks for all. Nodes, edges and clients of one process may be on several runtimes: a task would end with its
/// own, and stand still whenever that one does.
pub fn watch() -> Watch {
    static KEPT: Mutex<Weak<mpsc::Sender<()>>> = Mutex::new(Weak::new());
    let mut kept = KEPT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(kept) = kept.upgrade() {
        return Watch { _kept: kept };
    }
    let (keeps, ended) = mpsc::channel();
    let keeps = Arc::new(keeps);
    *kept = Arc::downgrade(&keeps);
    let thread = std::thread::Builder::new().name("rt.wake".into());
    if let Err(why) = thread.spawn(move || look_until(&ended)) {
        tracing::warn!(%why, "no thread to notice that the machine has slept: what is dead is found out by its silence");
    }
    Watch { _kept: keeps }
}

/// Nothing is ever sent: it ends when nobody could any more.
fn look_until(ended: &mpsc::Receiver<()>) {
    let mut before = Look::new();
    while ended.recv_timeout(LOOK_EVERY) == Err(RecvTimeoutError::Timeout) {
        let now = Look::new();
        if let Some(why) = now.woke_since(&before) {
            woke(why);
        }
        before = now;
    }
}

/// Wakes all who wait.
pub(crate) fn woke(why: &'static str) {
    metrics::WAKES.with_label_values(&[why]).inc();
    tracing::info!(why, "links are tried again at once");
    wakes().send_modify(|count| *count += 1);
}

/// For tests that wake: all others of the process hear it.
#[cfg(test)]
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The times that the machine woke up, or was on another network, from now on.
#[derive(Debug)]
pub struct Wakes(watch::Receiver<u64>);

impl Wakes {
    /// Waits for the next; several while nobody waited count once. `false`: there will be none.
    pub async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }

    /// Waits so long, or until the next; `true`: it came.
    pub async fn within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.next()).await.unwrap_or(false)
    }

    /// Whether there was one since the last that was heard of here.
    pub fn any(&mut self) -> bool {
        let any = self.0.has_changed().unwrap_or(false);
        self.0.mark_unchanged();
        any
    }
}

/// For who has something to do whenever the machine has woken up.
pub fn subscribe() -> Wakes {
    Wakes(wakes().subscribe())
}

/// Waits so long, or until the machine wakes up or is on another network; `true`: it is.
pub async fn or_sleep(time: Duration) -> bool {
    subscribe().within(time).await
}

/// Does this, unless the machine wakes up or is on another network meanwhile: then what is under way is dropped, and `None`.
pub async fn unless<T>(what: impl Future<Output = T>) -> Option<T> {
    let mut wakes = subscribe();
    tokio::select! {
        biased;
        done = what => Some(done),
        true = wakes.next() => None,
    }
}

fn wakes() -> &'static watch::Sender<u64> {
    static WAKES: OnceLock<watch::Sender<u64>> = OnceLock::new();
    WAKES.get_or_init(|| watch::channel(0).0)
}

/// How things are at one moment.
#[derive(Debug, Clone)]
struct Look {
    at: Instant,
    wall_ms: u64,
    addresses: [Option<IpAddr>; 2],
}

impl Look {
    fn new() -> Look {
        Look {
            at: clock::now(),
            wall_ms: clock::wall_ms(),
            addresses: ELSEWHERE.map(|to| address_towards(to.parse().ok()?)),
        }
    }

    fn woke_since(&self, before: &Look) -> Option<&'static str> {
        let took = self.at.saturating_duration_since(before.at);
        let by_the_wall = Duration::from_millis(self.wall_ms.saturating_sub(before.wall_ms));
        if took.max(by_the_wall) >= LOOK_EVERY + STOOD_STILL {
            return Some("clock");
        }
        // A network that is gone gives nothing to try.
        let other = |(now, before): (&Option<IpAddr>, &Option<IpAddr>)| now.is_some() && now != before;
        self.addresses.iter().zip(&before.addresses).any(other).then_some("address")
    }
}

/// From which of this machine's addresses a packet would leave; nothing is sent. `None`: there is no way.
pub fn address_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { [0u8; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    socket.local_addr().ok().map(|from| from.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn sleep_and_another_network_are_noticed_and_the_hour_is_not() {
        // covers T09
        let look = Look::new();
        let later = |monotonic_ms: u64, wall_ms: u64| Look {
            at: look.at + Duration::from_millis(monotonic_ms),
            wall_ms: look.wall_ms + wall_ms,
            ..look.clone()
        };
        assert_eq!(later(510, 510).woke_since(&look), None);
        assert_eq!(
            later(500, 8 * 3_600_000).woke_since(&look),
            Some("clock"),
            "the monotonic clock stood still"
        );
        assert_eq!(later(60_000, 60_000).woke_since(&look), Some("clock"), "the process stood still");
        let set_back = Look { wall_ms: look.wall_ms - 3_600_000, ..later(500, 0) };
        assert_eq!(set_back.woke_since(&look), None);

        let at = |address: Option<&str>| Look {
            addresses: [address.map(|address| address.parse().unwrap()), None],
            ..later(500, 500)
        };
        let (home, phone, nowhere) = (at(Some("192.0.2.7")), at(Some("198.51.100.7")), at(None));
        assert_eq!(phone.woke_since(&home), Some("address"));
        assert_eq!(home.woke_since(&nowhere), Some("address"));
        assert_eq!(nowhere.woke_since(&home), None);
        assert_eq!(home.woke_since(&home), None);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken() {
        // covers T09
        let _alone = ALONE.lock().await;
        let waits = tokio::spawn(or_sleep(Duration::from_secs(3600)));
        tokio::task::yield_now().await;
        let mut wakes = subscribe();
        woke("clock");
        assert!(waits.await.unwrap());
        assert!(wakes.any());
        assert!(!wakes.any() && !wakes.within(Duration::from_secs(1)).await);
        assert!(!or_sleep(Duration::from_secs(1)).await);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_does_not_outlast_a_wake() {
        // covers T09
        let _alone = ALONE.lock().await;
        let dial = tokio::spawn(unless(std::future::pending::<()>()));
        tokio::task::yield_now().await;
        assert!(!dial.is_finished());
        woke("clock");
        assert_eq!(dial.await.unwrap(), None);
        assert_eq!(unless(async { 7 }).await, Some(7));
    }

    #[test]
    fn one_looks_for_the_whole_process_as_long_as_anybody_keeps_it() {
        // covers T09
        let begun = |runtime: tokio::runtime::Runtime| runtime.block_on(async { watch() });
        let runtime = || tokio::runtime::Builder::new_current_thread().build().unwrap();
        // Each on a runtime that ends at once.
        let (one, other) = (begun(runtime()), begun(runtime()));
        assert!(Arc::ptr_eq(&one._kept, &other._kept));
        drop(one);
        assert!(Arc::ptr_eq(&other._kept, &watch()._kept), "the first to begin is not needed");

        let (keeps, ended) = mpsc::channel();
        let looks = std::thread::spawn(move || look_until(&ended));
        drop(keeps);
        looks.join().unwrap();
    }
}
