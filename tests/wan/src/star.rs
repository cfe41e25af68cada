//! Namespaces in a star, and the threads that carry packets between them.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::namespace::Namespace;
use crate::packet;
use crate::shape::{Fate, Gate, Shape};
use crate::sys::{self, Tun};

/// Largest IP packet.
const MAX_PACKET: usize = 65_536;
/// Of each device, unless told otherwise.
const MTU: u16 = 1500;
/// Packets read before those are written that are due: a flood must not hold them back.
const BATCH: usize = 64;
/// So long at most until a thread sees that it is to end.
const LOOK: Duration = Duration::from_millis(50);
/// Addresses end in one byte.
const MOST: usize = 200;

/// Namespaces that reach each other only through this process. Dropping it ends its threads; the namespaces go with
/// their last handle.
#[derive(Debug)]
pub struct Star {
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
}

/// What became of the packets of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// All that came.
    pub packets: u64,
    /// Their bytes, IP headers included.
    pub bytes: u64,
    /// Lost by chance.
    pub lost: u64,
    /// For which the queue had no room.
    pub overflowed: u64,
    /// Larger than passes.
    pub too_large: u64,
    /// That came, or were on their way, while the direction was cut.
    pub cut: u64,
    /// UDP, where that is blocked.
    pub blocked: u64,
}

impl Star {
    /// So many namespaces, with nothing between them but the way: no delay, no loss, no limit.
    pub fn new(namespaces: usize) -> io::Result<Star> {
        Star::with(namespaces, MTU, 1)
    }

    /// The same with another MTU, and another seed: the same seed loses the same packets.
    pub fn with(namespaces: usize, mtu: u16, seed: u64) -> io::Result<Star> {
        if namespaces > MOST {
            let why = format!("{namespaces} namespaces: {MOST} at most");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let made: Vec<(Namespace, Tun)> =
            (0..namespaces).map(|n| Namespace::new(n as u8, mtu)).collect::<io::Result<_>>()?;
        let (namespaces, devices): (Vec<Namespace>, Vec<Tun>) = made.into_iter().unzip();
        let addresses = namespaces
            .iter()
            .enumerate()
            .flat_map(|(n, namespace)| [(namespace.ipv4().into(), n), (namespace.ipv6().into(), n)]);
        let count = namespaces.len();
        let ways = (0..count * count).map(|n| {
            Mutex::new(Way { gate: Gate::new(seed * 65_537 + n as u64), counters: Counters::default() })
        });
        let hub = Arc::new(Hub {
            addresses: RwLock::new(addresses.collect()),
            blocks_udp: devices.iter().map(|_| AtomicBool::new(false)).collect(),
            ways: ways.collect(),
            stop: AtomicBool::new(false),
            namespaces,
            devices,
        });
        let mut star = Star { hub, threads: Vec::new() };
        for from in 0..count {
            let hub = star.hub.clone();
            let carrier = std::thread::Builder::new().name(format!("wan-{from}"));
            star.threads.push(carrier.spawn(move || hub.carry(from))?);
        }
        Ok(star)
    }

    /// How many namespaces there are.
    pub fn count(&self) -> usize {
        self.hub.namespaces.len()
    }

    /// One of them.
    ///
    /// # Panics
    ///
    /// When there are not so many; so does everything here that takes a number.
    pub fn at(&self, namespace: usize) -> &Namespace {
        &self.hub.namespaces[namespace]
    }

    /// Shapes one direction from now on. Packets on their way keep their time.
    pub fn set(&self, from: usize, to: usize, shape: &Shape) {
        self.change(from, to, |old| old.clone_from(shape));
    }

    /// Shapes both directions between two.
    pub fn set_both(&self, a: usize, b: usize, shape: &Shape) {
        self.set(a, b, shape);
        self.set(b, a, shape);
    }

    /// Shapes every direction.
    pub fn set_all(&self, shape: &Shape) {
        for (from, to) in self.ways() {
            self.set(from, to, shape);
        }
    }

    /// Changes a part of a shape.
    pub fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Shape)) {
        change(&mut self.hub.way(from, to).gate.shape);
    }

    /// From now on nothing from one arrives at the other.
    pub fn cut(&self, from: usize, to: usize) {
        self.change(from, to, |shape| shape.cut = true);
    }

    /// Ends a cut.
    pub fn mend(&self, from: usize, to: usize) {
        self.change(from, to, |shape| shape.cut = false);
    }

    /// Cuts both directions between two, or ends that.
    pub fn link(&self, a: usize, b: usize, up: bool) {
        for (from, to) in [(a, b), (b, a)] {
            self.change(from, to, |shape| shape.cut = !up);
        }
    }

    /// Cuts a namespace off from all others, or ends that.
    pub fn connected(&self, namespace: usize, up: bool) {
        for other in (0..self.count()).filter(|other| *other != namespace) {
            self.link(namespace, other, up);
        }
    }

    /// Whether UDP from and to a namespace is dropped, as some networks do. TCP and ICMP pass.
    pub fn block_udp(&self, namespace: usize, blocks: bool) {
        self.hub.blocks_udp[namespace].store(blocks, Relaxed);
    }

    /// Gives a namespace a further address. While it has several of a family, its programs send from the first.
    pub fn add_address(&self, namespace: usize, address: IpAddr) -> io::Result<()> {
        self.at(namespace).add_address(address)?;
        self.hub.addresses.write().unwrap_or_else(PoisonError::into_inner).insert(address, namespace);
        Ok(())
    }

    /// Takes an address away; the first one too. What is on its way to it is lost.
    pub fn remove_address(&self, namespace: usize, address: IpAddr) -> io::Result<()> {
        self.hub.addresses.write().unwrap_or_else(PoisonError::into_inner).remove(&address);
        self.at(namespace).remove_address(address)
    }

    /// Of one direction, since the beginning.
    pub fn counters(&self, from: usize, to: usize) -> Counters {
        self.hub.way(from, to).counters
    }

    /// Every direction.
    pub fn ways(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.count();
        (0..count).flat_map(move |from| (0..count).map(move |to| (from, to))).filter(|(from, to)| from != to)
    }
}

impl Drop for Star {
    fn drop(&mut self) {
        self.hub.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

#[derive(Debug)]
struct Hub {
    namespaces: Vec<Namespace>,
    devices: Vec<Tun>,
    addresses: RwLock<HashMap<IpAddr, usize>>,
    blocks_udp: Vec<AtomicBool>,
    /// From all to all, row by row.
    ways: Vec<Mutex<Way>>,
    stop: AtomicBool,
}

#[derive(Debug)]
struct Way {
    gate: Gate,
    counters: Counters,
}

/// Packets on their way, by the time of their arrival and the order in which they came.
type Waiting = BTreeMap<(Instant, u64), (usize, Vec<u8>)>;

impl Hub {
    fn way(&self, from: usize, to: usize) -> MutexGuard<'_, Way> {
        self.ways[from * self.namespaces.len() + to].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries what one namespace sends, until the star is dropped.
    fn carry(&self, from: usize) {
        sys::be_punctual();
        let mut packet = vec![0; MAX_PACKET];
        let mut waiting = Waiting::new();
        let mut number = 0;
        let device = &self.devices[from];
        while !self.stop.load(Relaxed) {
            let next = waiting.first_key_value().map(|((at, _), _)| *at);
            device.wait(next.map_or(LOOK, |at| at.saturating_duration_since(Instant::now()).min(LOOK)));
            for _ in 0..BATCH {
                let Some(length) = device.read(&mut packet) else { break };
                if let Some((to, at)) = self.route(from, &packet[..length]) {
                    number += 1;
                    waiting.insert((at, number), (to, packet[..length].to_vec()));
                }
            }
            self.deliver(from, &mut waiting);
        }
    }

    /// Where a packet goes and when it arrives, if it does.
    fn route(&self, from: usize, packet: &[u8]) -> Option<(usize, Instant)> {
        let head = packet::head(packet)?;
        // Nobody's, such as the multicasts by which a kernel looks for routers.
        let to = *self.addresses.read().unwrap_or_else(PoisonError::into_inner).get(&head.to)?;
        let blocked = head.is_udp && [from, to].iter().any(|n| self.blocks_udp[*n].load(Relaxed));
        let Way { gate, counters } = &mut *self.way(from, to);
        counters.packets += 1;
        counters.bytes += packet.len() as u64;
        if blocked {
            counters.blocked += 1;
            return None;
        }
        match gate.pass(Instant::now(), packet.len()) {
            Fate::Arrives(at) => return Some((to, at)),
            Fate::Lost => counters.lost += 1,
            Fate::Overflowed => counters.overflowed += 1,
            Fate::TooLarge => counters.too_large += 1,
            Fate::Cut => counters.cut += 1,
        }
        None
    }

    fn deliver(&self, from: usize, waiting: &mut Waiting) {
        let now = Instant::now();
        while let Some(first) = waiting.first_entry().filter(|first| first.key().0 <= now) {
            let (to, packet) = first.remove();
            let mut way = self.way(from, to);
            if way.gate.shape.cut {
                way.counters.cut += 1;
                continue;
            }
            // Under the lock, so that after a cut nothing arrives.
            self.devices[to].write(&packet);
        }
    }
}
