//! Which carrier a link is to have: QUIC, and TLS in a WebSocket where QUIC does not get through.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::{Error, congestion};
use crate::rt::{clock, gone};

/// So often another try begins beside one that has no answer: quinn doubles the time between the first flights of one
/// (RFC 9002 section 6.2.1), so that a way that is open again would be found late …
pub const BESIDE_EVERY: Duration = Duration::from_millis(500);
/// … for so long after there was a connection; then who is missed may be gone for good …
pub const BESIDE_WITHIN: Duration = Duration::from_secs(60);
/// … and so many at once: all that begin within the time that one address may take.
pub const MAX_BESIDE: usize = 10;

/// How long the one that is believed to be better is alone.
pub const HEAD_START: Duration = Duration::from_millis(200);
/// How long a network counts as one that lets no QUIC through.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Networks that are remembered.
const MAX_NETWORKS: usize = 16;

/// Begins with the one, and with the other as well after [`HEAD_START`] or when the one has failed. The first that
/// comes up wins, and the other is dropped.
///
/// # Errors
///
/// Both failed: what each said.
pub async fn race<T>(
    first: impl Future<Output = Result<T, Error>>,
    second: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let (mut first, mut second) = (std::pin::pin!(first), std::pin::pin!(second));
    let early = tokio::time::timeout(HEAD_START, &mut first).await;
    let failed = match early {
        Ok(Ok(won)) => return Ok(won),
        Ok(Err(why)) => why,
        Err(_) => tokio::select! {
            // The same in each run of a simulation.
            biased;
            result = &mut first => match result {
                Ok(won) => return Ok(won),
                Err(why) => why,
            },
            result = &mut second => match result {
                Ok(won) => return Ok(won),
                Err(why) => return first.await.map_err(|other| both(other, why)),
            },
        },
    };
    second.await.map_err(|other| both(failed, other))
}

/// Begins with the first, and with the next one whenever one has failed or [`HEAD_START`] has passed, while the earlier ones go
/// on (RFC 8305 section 5). The first that comes up wins, and the others are dropped.
///
/// # Errors
///
/// Each has failed: the last failure; `None`: there was nothing to begin with.
pub async fn in_turn<I, T, E, F: Future<Output = Result<T, E>>>(
    items: Vec<I>,
    begin: impl Fn(I) -> F,
) -> Result<T, Option<E>> {
    let (mut left, mut begun, mut last) = (items.into_iter(), FuturesUnordered::new(), None);
    loop {
        if let Some(item) = left.next() {
            begun.push(begin(item));
        }
        let more = left.len() > 0;
        tokio::select! {
            biased;
            ended = begun.next() => match ended {
                Some(Ok(won)) => return Ok(won),
                Some(Err(why)) => last = Some(why),
                None => return Err(last),
            },
            () = tokio::time::sleep(HEAD_START), if more => {}
        }
    }
}

/// Addresses of both families by turns, each family in its order (RFC 8305 section 4): if one family is dead, the other is
/// not waited for long.
pub fn by_turns(found: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
    let found: Vec<SocketAddr> = found.into_iter().collect();
    let six_first = found.first().is_some_and(SocketAddr::is_ipv6);
    let count = found.len();
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) =
        found.into_iter().partition(|to| to.is_ipv6() == six_first);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut ordered = Vec::with_capacity(count);
    while ordered.len() < count {
        ordered.extend(first.next());
        ordered.extend(second.next());
    }
    ordered
}

/// Begins the first of so many, and the next one beside it whenever so long has passed and none has ended. The first that
/// ends decides, and the others are dropped.
pub async fn beside<F: Future>(most: usize, every: Duration, begin: impl Fn(usize) -> F) -> F::Output {
    let mut begun = FuturesUnordered::from_iter([begin(0)]);
    loop {
        let room = begun.len() < most;
        tokio::select! {
            biased;
            Some(ended) = begun.next() => return ended,
            () = tokio::time::sleep(every), if room => begun.push(begin(begun.len())),
        }
    }
}

fn both(one: Error, other: Error) -> Error {
    match (one, other) {
        (Error::Stopping, _) | (_, Error::Stopping) => Error::Stopping,
        // One of the two had nothing to dial.
        (Error::NoAddress, why) | (why, Error::NoAddress) => why,
        (one, other) => Error::Both(Box::new(one), Box::new(other)),
    }
}

/// The networks that let no QUIC through, by this machine's own address on them.
#[derive(Debug, Default)]
pub struct Networks(Vec<(IpAddr, Instant)>);

impl Networks {
    /// Whether QUIC failed here not long ago.
    pub fn block_quic(&self, network: Option<IpAddr>) -> bool {
        let found = self.0.iter().find(|(known, _)| Some(*known) == network);
        found.is_some_and(|(_, since)| clock::since(*since) < REMEMBERED)
    }

    /// The other carrier was faster.
    pub fn lost(&mut self, network: Option<IpAddr>) {
        self.won(network);
        let Some(network) = network else { return };
        if self.0.len() >= MAX_NETWORKS {
            self.0.remove(0);
        }
        self.0.push((network, clock::now()));
    }

    /// QUIC came through.
    pub fn won(&mut self, network: Option<IpAddr>) {
        self.0.retain(|(known, _)| Some(*known) != network);
    }
}

/// Watches what a connection loses, and says when it is too much for too long.
#[derive(Debug, Default)]
pub struct LossWatch {
    /// Packets sent and lost, as counted at each look, the oldest first.
    looks: std::collections::VecDeque<(u64, u64)>,
}

impl LossWatch {
    /// How often to look.
    pub const EVERY: Duration = Duration::from_secs(1);
    /// Looks over which the loss is counted.
    const LOOKS: usize = 10;
    /// Of so many packets one is lost, or of fewer: a fifth.
    const ONE_OF: u64 = 5;
    /// Fewer packets than this say nothing.
    const ENOUGH: u64 = 20;

    /// One look: all packets that were sent and lost since the connection began. Answers whether it loses too much, and
    /// has for ten seconds.
    pub fn look(&mut self, sent: u64, lost: u64) -> bool {
        self.looks.push_back((sent, lost));
        if self.looks.len() <= Self::LOOKS {
            return false;
        }
        let Some((sent_before, lost_before)) = self.looks.pop_front() else { return false };
        let (sent, lost) = (sent.saturating_sub(sent_before), lost.saturating_sub(lost_before));
        sent >= Self::ENOUGH && lost * Self::ONE_OF > sent
    }
}

/// Watches whether a connection still answers, and says when it has not for too long: earlier than the mesh gives a link
/// up, as all that follows is a try of the other carrier.
#[derive(Debug, Default)]
pub struct SilenceWatch {
    answers: u64,
    asked: u64,
    since: Option<Instant>,
}

impl SilenceWatch {
    /// How often to look.
    pub const EVERY: Duration = Duration::from_millis(200);
    /// How long an answer may take, and three round trips.
    const PATIENCE: Duration = Duration::from_millis(700);

    /// One look: a number that changes with every acknowledgement, and frames sent that must be acknowledged, since the connection
    /// began. Answers whether it owes an answer for too long. What else comes is none: a way may be blocked in one
    /// direction. A connection that has moved to another path counts anew.
    fn look(&mut self, answers: u64, asked: u64, rtt: Duration) -> bool {
        if answers != self.answers {
            *self = SilenceWatch { answers, asked, since: None };
        } else if asked > self.asked && self.since.is_none() {
            self.since = Some(clock::now());
        }
        self.since.is_some_and(|since| clock::since(since) >= Self::PATIENCE + 3 * rtt)
    }

    /// One look at a connection.
    pub fn look_at(&mut self, connection: &quinn::Connection) -> bool {
        let (answers, asked, rtt) = counts(connection);
        self.look(answers, asked, rtt)
    }
}

fn counts(connection: &quinn::Connection) -> (u64, u64, Duration) {
    let stats = connection.stats();
    (congestion::answers(connection), gone::asked(&stats), stats.path.rtt)
}

/// Waits until a connection owes an answer for too long.
pub async fn silent(connection: &quinn::Connection) {
    owes(|| counts(connection)).await;
}

async fn owes(counts: impl Fn() -> (u64, u64, Duration)) {
    let mut watch = SilenceWatch::default();
    loop {
        let before = clock::now();
        tokio::time::sleep(SilenceWatch::EVERY).await;
        // This process stood still: what came meanwhile was not read yet.
        if clock::since(before) >= 3 * SilenceWatch::EVERY {
            watch = SilenceWatch::default();
        }
        let (answers, asked, rtt) = counts();
        if watch.look(answers, asked, rtt) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    use super::*;

    async fn after(ms: u64, result: Result<&'static str, &'static str>) -> Result<&'static str, Error> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        result.map_err(|why| Error::Stream(why.into()))
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_has_a_head_start_and_the_faster_wins() {
        // covers Q01
        for (first, second, wins, took) in [
            ((50, Ok("quic")), (1, Ok("wss")), Ok("quic"), 50),
            ((150, Ok("quic")), (1, Ok("wss")), Ok("quic"), 150),
            ((5_000, Ok("quic")), (40, Ok("wss")), Ok("wss"), 240),
            ((250, Ok("quic")), (60, Ok("wss")), Ok("quic"), 250),
            ((10, Err("a")), (40, Ok("wss")), Ok("wss"), 50),
            ((300, Err("a")), (400, Ok("wss")), Ok("wss"), 600),
            ((900, Ok("quic")), (40, Err("b")), Ok("quic"), 900),
            ((10, Err("a")), (40, Err("b")), Err(()), 50),
        ] {
            let began = clock::now();
            let won = race(after(first.0, first.1), after(second.0, second.1)).await;
            assert_eq!(clock::since(began).as_millis(), took);
            if let Err(why) = &won {
                assert!(why.to_string().contains('a') && why.to_string().contains('b'), "{why}");
            }
            assert_eq!(won.map_err(|_| ()), wins);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn another_begins_beside_one_that_is_silent_and_the_first_to_end_decides() {
        // covers Q02
        let every = Duration::from_millis(500);
        // How long each takes, how many may be; who ends first, when, and how many had begun.
        for (takes, most, ends, at, begun) in [
            (vec![400, 0], 9, 0, 400, 1),
            (vec![9_000, 9_000, 10], 9, 2, 1_010, 3),
            (vec![1_100, 700, 700], 9, 0, 1_100, 3),
            (vec![9_000, 9_000, 10], 2, 0, 9_000, 2),
            (vec![9_000, 0], 1, 0, 9_000, 1),
        ] {
            let (began, count) = (clock::now(), std::cell::Cell::new(0));
            let ended = beside(most, every, |n| {
                count.set(count.get() + 1);
                let takes = Duration::from_millis(takes[n]);
                async move {
                    tokio::time::sleep(takes).await;
                    n
                }
            });
            let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
            assert_eq!((ended, clock::since(began).as_millis(), count.get()), (ends, at, begun), "{takes:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_or_fails_keeps_no_other_address_waiting() {
        // covers Q01
        const NEVER: u64 = 3_600_000;
        // Each: after how many milliseconds it ends, and whether it is up then. What comes of it, when, and how many began.
        for (items, outcome, at, count) in [
            (vec![(10, true), (10, true)], Ok(0), 10, 1),
            (vec![(10, false), (10, true)], Ok(1), 20, 2),
            (vec![(NEVER, true), (10, true)], Ok(1), 210, 2),
            (vec![(NEVER, true), (NEVER, true), (50, true)], Ok(2), 450, 3),
            (vec![(390, true), (NEVER, true)], Ok(0), 390, 2),
            (vec![(10, false), (20, false)], Err(Some(1)), 30, 2),
            (vec![], Err(None), 0, 0),
        ] {
            let (began, begun) = (clock::now(), std::cell::Cell::new(0));
            let ended = in_turn(items.iter().copied().enumerate().collect(), |(n, (takes, up))| {
                begun.set(begun.get() + 1);
                async move {
                    tokio::time::sleep(Duration::from_millis(takes)).await;
                    if up { Ok(n) } else { Err(n) }
                }
            });
            let ended = tokio::time::timeout(Duration::from_secs(60), ended).await.unwrap();
            let took = clock::since(began).as_millis();
            assert_eq!((ended, took, begun.get()), (outcome, at, count), "{items:?}");
        }
    }

    #[test]
    fn both_families_are_tried_by_turns() {
        // covers Q01
        let at = |text: &str| SocketAddr::new(text.parse().unwrap(), 1);
        let found = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1"].map(at);
        let ordered = ["2001:db8::1", "192.0.2.1", "2001:db8::2", "2001:db8::3"].map(at);
        assert_eq!(by_turns(found), ordered);
        assert_eq!(by_turns([]), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_that_blocks_quic_is_remembered_for_a_while() {
        // covers Q01
        let mut networks = Networks::default();
        let (hotel, home) = (Some(IpAddr::from([192, 0, 2, 7])), Some(IpAddr::from([198, 51, 100, 7])));
        networks.lost(hotel);
        networks.lost(hotel);
        networks.lost(None);
        assert!(networks.block_quic(hotel) && !networks.block_quic(home) && !networks.block_quic(None));
        networks.won(home);
        tokio::time::advance(REMEMBERED - Duration::from_secs(1)).await;
        assert!(networks.block_quic(hotel));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(!networks.block_quic(hotel));
        networks.lost(hotel);
        networks.won(hotel);
        assert!(!networks.block_quic(hotel));
        (0..100).for_each(|n| networks.lost(Some(IpAddr::from([192, 0, 2, n]))));
        assert!(networks.0.len() <= MAX_NETWORKS && networks.block_quic(Some(IpAddr::from([192, 0, 2, 99]))));
    }

    #[tokio::test(start_paused = true)]
    async fn who_owes_no_answer_may_be_silent() {
        // covers Q01
        let rtt = Duration::from_millis(50);
        // Each step: a look after 200 ms, with the answers and the questions until then.
        for (steps, silent_at) in [
            (vec![(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8)], None),
            (vec![(1, 1); 9], None),
            (vec![(1, 1), (1, 2), (1, 3), (1, 4), (1, 4), (1, 4), (1, 4)], Some(6)),
            // It has moved to another path.
            (vec![(9, 1), (9, 2), (9, 2), (9, 2), (0, 2), (1, 3), (1, 3), (1, 3), (2, 3)], None),
            (vec![(1, 1), (1, 2), (1, 2), (1, 2), (2, 2), (2, 2), (2, 2), (2, 2), (2, 2)], None),
        ] {
            let mut watch = SilenceWatch::default();
            let mut found = None;
            for (n, (answers, asked)) in steps.into_iter().enumerate() {
                tokio::time::advance(SilenceWatch::EVERY).await;
                if watch.look(answers, asked, rtt) {
                    found = found.or(Some(n));
                }
            }
            assert_eq!(found, silent_at);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_stood_still_itself_gives_the_other_its_time_anew() {
        // covers Q01, T09
        let (began, asked) = (clock::now(), AtomicU64::new(1));
        let silent = owes(|| (1, asked.load(Relaxed), Duration::from_millis(50)));
        let mut silent = std::pin::pin!(silent);
        assert!(tokio::time::timeout(SilenceWatch::EVERY * 5 / 2, &mut silent).await.is_err());
        asked.store(2, Relaxed);
        // It asks once more after the stop, as what has no answer is sent again.
        assert!(tokio::time::timeout(SilenceWatch::EVERY, &mut silent).await.is_err());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(tokio::time::timeout(SilenceWatch::EVERY / 2, &mut silent).await.is_err());
        asked.store(3, Relaxed);
        silent.await;
        let took = clock::since(began).as_millis();
        assert!((6_500..7_500).contains(&took), "{took}");
    }

    #[test]
    fn loss_counts_when_it_is_much_and_lasts() {
        // covers Q01
        let runs = |per_second: &dyn Fn(u64) -> (u64, u64)| {
            let (mut watch, mut sent, mut lost) = (LossWatch::default(), 0, 0);
            (0..30).position(|second| {
                let (more, gone) = per_second(second);
                (sent, lost) = (sent + more, lost + gone);
                watch.look(sent, lost)
            })
        };
        assert_eq!(runs(&|_| (100, 5)), None, "a bad network, not a useless one");
        assert_eq!(runs(&|_| (100, 30)), Some(10));
        assert_eq!(runs(&|_| (1, 1)), None, "ten packets are no measure");
        assert_eq!(runs(&|second| (100, if second % 10 == 0 { 90 } else { 2 })), None, "one burst");
        assert!(runs(&|second| (100, if second > 12 { 40 } else { 0 })).is_some_and(|at| at > 15));
    }
}
