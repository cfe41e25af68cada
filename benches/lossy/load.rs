//! What is sent, and what is known of each message.
use anyhow::Result;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Of a message, whatever carries it.
pub const MESSAGE: usize = 1024;
/// Messages of different flows need no order among each other.
pub const FLOWS: usize = 16;
/// Between two messages: 200 a second.
const GAP: Duration = Duration::from_millis(5);
/// The transfer beside them.
pub const BULK: usize = 10_000_000;
/// It is cut into pieces of whole KiB, so a little may be left out.
const WHOLE: usize = BULK / 65_536 * 65_536;

/// What shares the way with the messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    Nothing,
    /// 10 MB, at priority 5 where there are priorities.
    Bulk,
    /// As much as goes at priority 3 on all lanes; the messages are of priority 1.
    AllLanes,
}

#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub beside: Beside,
    /// Sent, but not counted: windows open, and the transfer gets going.
    warm_up: Duration,
    time: Duration,
    /// How long after the last one messages may still arrive.
    drain: Duration,
}

impl Load {
    pub fn new(quick: bool, beside: Beside) -> Load {
        let ms = Duration::from_millis;
        match quick {
            true => Load { beside, warm_up: ms(250), time: ms(750), drain: ms(750) },
            // Alone for longer: a congestion window takes seconds to shrink to what loss leaves it.
            false if beside == Beside::Nothing => {
                Load { beside, warm_up: ms(500), time: ms(7000), drain: ms(2000) }
            }
            false => Load { beside, warm_up: ms(500), time: ms(4500), drain: ms(2000) },
        }
    }

    /// The same with nothing beside.
    pub fn alone(self) -> Load {
        Load { beside: Beside::Nothing, ..self }
    }

    fn messages(&self) -> u64 {
        ((self.warm_up + self.time).as_micros() / GAP.as_micros()) as u64
    }

    fn uncounted(&self) -> u64 {
        (self.warm_up.as_micros() / GAP.as_micros()) as u64
    }

    /// Sends one after the other as time goes, by `queue`, and waits until they have arrived or cannot be waited for.
    pub async fn pace(&self, record: &Record, queue: mpsc::UnboundedSender<u64>) {
        let mut ticks = interval(GAP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        for n in 0..self.messages() {
            ticks.tick().await;
            record.sent(n);
            // Stamped when it is due, not when the carrier has room for it.
            let _ = queue.send(n);
        }
        let last = Instant::now();
        while last.elapsed() < self.drain && !record.all_arrived() {
            sleep(GAP).await;
        }
    }

    /// Paces messages through `carry`, beside what goes on for as long.
    pub async fn through<C: Future<Output = Result<()>>>(
        &self,
        record: &Record,
        carry: impl FnOnce(mpsc::UnboundedReceiver<u64>) -> C,
        beside: impl Future<Output = Result<()>>,
    ) -> Result<Outcome> {
        let (queue, messages) = mpsc::unbounded_channel();
        let carry = async {
            carry(messages).await?;
            std::future::pending::<Result<()>>().await
        };
        let beside = async {
            if self.beside != Beside::Nothing {
                record.bulk_begins();
                beside.await?;
            }
            std::future::pending::<Result<()>>().await
        };
        tokio::select! {
            () = self.pace(record, queue) => {}
            failed = carry => failed?,
            failed = beside => failed?,
        }
        Ok(record.outcome(self.uncounted()))
    }
}

/// When each message was sent and arrived. Sender and receiver are threads of one process, and share it.
#[derive(Debug, Clone, Default)]
pub struct Record(Arc<Mutex<Times>>);

#[derive(Debug, Default)]
struct Times {
    sent: Vec<Instant>,
    /// By number; what comes twice counts once.
    arrived: Vec<Option<Instant>>,
    missing: usize,
    bulk: usize,
    bulk_began: Option<Instant>,
    bulk_last: Option<Instant>,
}

impl Record {
    fn times(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers come in order.
    pub fn sent(&self, _: u64) {
        let mut times = self.times();
        times.sent.push(Instant::now());
        times.arrived.push(None);
        times.missing += 1;
    }

    pub fn arrived(&self, n: u64) {
        let now = Instant::now();
        let mut times = self.times();
        if let Some(arrived @ None) = times.arrived.get_mut(n as usize) {
            *arrived = Some(now);
            times.missing -= 1;
        }
    }

    fn bulk_begins(&self) {
        self.times().bulk_began = Some(Instant::now());
    }

    /// A part of what is beside has arrived.
    pub fn bulk(&self, bytes: usize) {
        let mut times = self.times();
        times.bulk += bytes;
        times.bulk_last = Some(Instant::now());
    }

    fn all_arrived(&self) -> bool {
        self.times().missing == 0
    }

    /// What is known by now of all but the first ones.
    fn outcome(&self, uncounted: u64) -> Outcome {
        let (now, times) = (Instant::now(), self.times());
        let mut outcome = Outcome::default();
        for (sent, arrived) in times.sent.iter().zip(&times.arrived).skip(uncounted as usize) {
            let took = arrived.unwrap_or(now).duration_since(*sent).as_secs_f64() * 1e3;
            if arrived.is_some() { outcome.took.push(took) } else { outcome.missing.push(took) }
        }
        outcome.took.sort_by(f64::total_cmp);
        if let Some(began) = times.bulk_began {
            // To its end, or as far as it came.
            let ended = times.bulk_last.filter(|_| times.bulk >= WHOLE).unwrap_or(now);
            let seconds = ended.duration_since(began).as_secs_f64();
            outcome.bulk_mbit = Some(times.bulk as f64 * 8.0 / seconds.max(1e-3) / 1e6);
        }
        outcome
    }
}

/// Of one row.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// One way, in milliseconds, in order.
    pub took: Vec<f64>,
    /// What has not arrived: how old it is.
    pub missing: Vec<f64>,
    pub bulk_mbit: Option<f64>,
    reliable: bool,
}

impl Outcome {
    /// For carriers that lose nothing: what has not arrived is at least as late as it is old.
    pub fn reliable(mut self) -> Outcome {
        self.reliable = true;
        self.took.extend(&self.missing);
        self.took.sort_by(f64::total_cmp);
        self
    }

    pub fn quantile(&self, share: f64) -> f64 {
        let at = (self.took.len().saturating_sub(1) as f64 * share).round() as usize;
        self.took.get(at).copied().unwrap_or(f64::NAN)
    }

    /// The share that took longer than so many milliseconds, in percent.
    pub fn late(&self, than: f64) -> f64 {
        let late = self.took.iter().filter(|took| **took > than).count();
        late as f64 * 100.0 / self.took.len().max(1) as f64
    }

    /// All that were counted.
    pub fn messages(&self) -> usize {
        self.took.len() + if self.reliable { 0 } else { self.missing.len() }
    }

    /// The share that has not arrived, in percent. With [`Outcome::reliable`], it counts in all other figures too.
    pub fn missing_percent(&self) -> f64 {
        self.missing.len() as f64 * 100.0 / self.messages().max(1) as f64
    }
}

/// A message as the bare carriers send it.
pub fn message(n: u64) -> [u8; MESSAGE] {
    let mut bytes = [0x5a; MESSAGE];
    bytes[..8].copy_from_slice(&n.to_le_bytes());
    bytes
}

/// Its number.
pub fn number(message: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(message.get(..8)?.try_into().ok()?))
}
