//! What is remembered of addresses, each table bounded: a stranger with many addresses must not cost memory.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::keyed::HashMapStateStore;
use governor::{NotUntil, Quota, RateLimiter};
use trishula::metrics;

use crate::dialect::pace::Told;

/// Addresses that a table remembers; all others share one place.
pub const MAX_ADDRESSES: usize = 65_536;
/// How often a full table is gone through for what can be forgotten, in microseconds.
const TIDY_EVERY: u64 = 1_000_000;

/// Who counts as one: an address, or a network of the size that one customer gets (IPv6, /64).
pub fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// How many of something each address has at once.
#[derive(Debug)]
pub struct Counted {
    table: &'static str,
    open: Mutex<HashMap<IpAddr, usize>>,
}

/// One of those; given back when dropped.
#[derive(Debug)]
pub struct Place {
    of: IpAddr,
    table: Arc<Counted>,
}

impl Counted {
    /// `table`: the name in metrics.
    pub fn new(table: &'static str) -> Counted {
        Counted { table, open: Mutex::default() }
    }

    /// One more for this address; `None`: it has as many as it may.
    pub fn take(self: &Arc<Counted>, address: IpAddr, most: usize) -> Option<Place> {
        let of = group(address);
        let mut open = self.lock();
        // As many entries as there are connections, which are bounded already.
        let count = open.entry(of).or_default();
        if *count >= most.max(1) {
            return None;
        }
        *count += 1;
        if *count == 1 {
            metrics::EDGE_ADDRESSES.with_label_values(&[self.table]).inc();
        }
        Some(Place { of, table: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.table.lock();
        if let Some(count) = open.get_mut(&self.of) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.of);
                metrics::EDGE_ADDRESSES.with_label_values(&[self.table.table]).dec();
            }
        }
    }
}

type Limiter = RateLimiter<IpAddr, HashMapStateStore<IpAddr>, Told, NoOpMiddleware<Nanos>>;

/// How often each address may do something.
pub struct Rates {
    table: &'static str,
    clock: Told,
    limiter: Limiter,
    /// When a full table was gone through last, in microseconds.
    tidied: AtomicU64,
    /// How many the metric shows of it.
    shown: AtomicI64,
}

impl Rates {
    /// `table`: the name in metrics.
    pub fn new(table: &'static str, quota: Quota) -> Rates {
        let clock = Told::default();
        let limiter = RateLimiter::hashmap_with_clock(quota, clock.clone());
        Rates { table, clock, limiter, tidied: AtomicU64::new(0), shown: AtomicI64::new(0) }
    }

    /// So many a second, and half as many again at once; `None`: no limit, as the rate is 0.
    pub fn per_second(table: &'static str, rate: u32) -> Option<Rates> {
        let burst = NonZeroU32::new(rate.saturating_add(rate / 2))?;
        Some(Rates::new(table, Quota::per_second(NonZeroU32::new(rate)?).allow_burst(burst)))
    }

    /// So many a minute, and as many at once.
    pub fn per_minute(table: &'static str, count: NonZeroU32) -> Rates {
        Rates::new(table, Quota::per_minute(count))
    }

    /// Takes one at this time, in microseconds.
    ///
    /// # Errors
    ///
    /// It is one too many; with the time after which the next one may come.
    pub fn take(&self, address: IpAddr, micros: u64) -> Result<(), Duration> {
        self.clock.tell(micros);
        let mut key = group(address);
        if self.limiter.len() >= MAX_ADDRESSES {
            let last = self.tidied.load(Ordering::Relaxed);
            if micros.saturating_sub(last) >= TIDY_EVERY {
                self.tidied.store(micros, Ordering::Relaxed);
                self.limiter.retain_recent();
            }
            if self.limiter.len() >= MAX_ADDRESSES {
                key = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
            }
        }
        let taken = self.limiter.check_key(&key);
        let known = self.limiter.len() as i64;
        let more = known - self.shown.swap(known, Ordering::Relaxed);
        metrics::EDGE_ADDRESSES.with_label_values(&[self.table]).add(more);
        taken.map_err(|until| self.wait(&until))
    }

    fn wait(&self, until: &NotUntil<Nanos>) -> Duration {
        use governor::clock::{Clock, Reference};
        until.earliest_possible().duration_since(self.clock.now()).into()
    }
}

/// Addresses that failed too often, and until when they are not heard.
pub struct Failures {
    rates: Rates,
    blocked: Mutex<HashMap<IpAddr, u64>>,
}

impl Failures {
    /// So many a minute, and as many at once; `None`: no limit.
    pub fn per_minute(count: u32) -> Option<Failures> {
        let rates = Rates::per_minute("auth_failures", NonZeroU32::new(count)?);
        Some(Failures { rates, blocked: Mutex::default() })
    }

    /// Notes one failure, at this time in microseconds.
    pub fn note(&self, address: IpAddr, micros: u64) {
        let Err(wait) = self.rates.take(address, micros) else { return };
        let mut blocked = self.lock();
        if blocked.len() >= MAX_ADDRESSES {
            blocked.retain(|_, until| *until > micros);
        }
        if blocked.len() < MAX_ADDRESSES {
            let wait = u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
            blocked.insert(group(address), micros.saturating_add(wait));
        }
    }

    /// How long it is not heard any more; `None`: it is.
    pub fn blocked(&self, address: IpAddr, micros: u64) -> Option<Duration> {
        let mut blocked = self.lock();
        let until = *blocked.get(&group(address))?;
        match until.checked_sub(micros).filter(|left| *left > 0) {
            Some(left) => Some(Duration::from_micros(left)),
            None => {
                blocked.remove(&group(address));
                None
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u64>> {
        self.blocked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_of_ipv6_is_one_and_a_mapped_address_is_ipv4() {
        // covers B09
        assert_eq!(group(address("2001:db8:1:2:3::4")), group(address("2001:db8:1:2:ffff::1")));
        assert_ne!(group(address("2001:db8:1:2::4")), group(address("2001:db8:1:3::4")));
        assert_eq!(group(address("::ffff:192.0.2.1")), address("192.0.2.1"));
    }

    #[test]
    fn places_of_an_address_come_back() {
        // covers B09
        let table = Arc::new(Counted::new("test"));
        let (one, two) = (table.take(address("192.0.2.1"), 2), table.take(address("192.0.2.1"), 2));
        assert!(one.is_some() && two.is_some() && table.take(address("192.0.2.1"), 2).is_none());
        assert!(table.take(address("192.0.2.2"), 2).is_some());
        drop(one);
        assert!(table.take(address("192.0.2.1"), 2).is_some());
        drop(two);
        assert!(table.lock().is_empty(), "nothing is kept of who is gone");
    }

    #[test]
    fn who_fails_too_often_is_not_heard_for_a_while() {
        // covers B09
        let (failures, stranger, at) = (Failures::per_minute(3).unwrap(), address("192.0.2.1"), 5_000_000);
        for _ in 0..3 {
            failures.note(stranger, at);
            assert_eq!(failures.blocked(stranger, at), None);
        }
        failures.note(stranger, at);
        let wait = failures.blocked(stranger, at).unwrap();
        assert!(wait > Duration::from_secs(19) && wait <= Duration::from_secs(20), "{wait:?}");
        assert_eq!(failures.blocked(address("192.0.2.2"), at), None, "others are");
        assert_eq!(failures.blocked(stranger, at + 20_000_001), None, "after a while it is again");
        assert!(Failures::per_minute(0).is_none());
    }

    #[test]
    fn a_full_table_takes_no_more_memory() {
        // covers B09, B19
        let rates = Rates::per_second("test", 10).unwrap();
        for n in 0..(MAX_ADDRESSES as u32 + 1000) {
            let _ = rates.take(IpAddr::V4(n.into()), 1_000_000);
        }
        assert!(rates.limiter.len() <= MAX_ADDRESSES + 1, "{}", rates.limiter.len());
        assert!(rates.take(address("198.51.100.7"), 1_000_000).is_err(), "all others share one place");
        assert!(rates.take(address("198.51.100.7"), 9_000_000).is_ok(), "until others are forgotten");
        assert!(rates.limiter.len() < 10);
    }
}
