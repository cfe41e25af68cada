//! A link that was dialled, for as long as it lasts, on the carrier that is best.
//!
//! A link in a WebSocket looks for QUIC in the background, and one on QUIC that loses too much, or does not answer any
//! more, tries the WebSocket. The other carrier's link comes up beside the one that is there; the mesh moves over to it as it settles any two
//! connections of the same two nodes, and closes the old one when what was under way has arrived. In the same way an entrance that is
//! not at the best place of its list goes back there: its hub moves the sessions over, and closes the old link.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::super::early::Configs;
use super::super::race::{LossWatch, SilenceWatch};
use super::super::wss;
use super::{Dialled, Dialler, Error, Role, count, quic, resolve, unix};
use crate::metrics;
use crate::rt::backoff::Backoff;
use crate::rt::places::Places;
use crate::rt::{clock, gone, queue, tasks};
use crate::wire::close::LinkClose;
use crate::wire::url::WSS;

/// Links to one peer at the same time: one that is used, one that retires, and one to spare.
const MAX_LINKS: usize = 3;
/// Waits before QUIC is tried again, the first and the longest …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … and how long a try may take: together under ten seconds, in which a link is to be back on QUIC.
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// See [`RETRY_LONGEST`].
const RETRY_WITHIN: Duration = Duration::from_secs(3);
/// Addresses that are tried at once.
const RETRY_ADDRESSES: usize = 8;
/// After too much loss, QUIC is left alone for so long, twice as long each further time …
const LOSSY_FIRST: Duration = Duration::from_secs(60);
/// … up to this. A link on QUIC that lasted so long begins anew.
const LOSSY_LONGEST: Duration = Duration::from_secs(600);
/// After a fallback that did not come up, how long it is left alone.
const FALLBACK_AGAIN: Duration = Duration::from_secs(10);

/// How often QUIC lost too much lately.
#[derive(Debug, Default)]
pub(super) struct Lossy {
    times: u32,
}

impl Lossy {
    /// A link on QUIC that lasted so long lost too much.
    fn again(&mut self, lasted: Duration) {
        self.times = if lasted >= LOSSY_LONGEST { 1 } else { self.times.saturating_add(1) };
    }

    /// How long QUIC is left alone.
    fn pause(&self) -> Duration {
        LOSSY_FIRST.saturating_mul(1 << self.times.saturating_sub(1).min(8)).min(LOSSY_LONGEST)
    }
}

/// Why a link changes its carrier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// QUIC does not answer.
    Silent,
    /// It loses too much.
    Lossy,
    /// It works again.
    Works,
    /// A better place of the list is there again.
    Home,
}

impl Why {
    fn word(self) -> &'static str {
        match self {
            Why::Silent => "silent",
            Why::Lossy => "lossy",
            Why::Works => "works",
            Why::Home => "home",
        }
    }
}

/// One link of ours.
struct Running {
    number: u64,
    /// Of the addresses.
    place: usize,
    kind: Kind,
    since: Instant,
    _task: tasks::Task,
}

#[derive(Clone)]
enum Kind {
    Quic(quinn::Connection),
    Wss {
        /// It came up since QUIC lost too much.
        lossy: bool,
    },
    Unix,
}

impl Dialler {
    /// Whether there is another way than QUIC.
    pub(super) fn has_fallback(&self) -> bool {
        self.outward.is_some() && self.target.addresses.iter().any(|address| address.starts_with(WSS))
    }

    fn has_quic(&self) -> bool {
        self.target.addresses.iter().any(|address| !address.starts_with(WSS))
    }

    /// Runs what was dialled until no link of it is left.
    pub(super) async fn carry(&mut self, configs: &Configs, first: (usize, Dialled)) {
        let (over, mut overs) = queue::bounded("link.over", MAX_LINKS);
        let mut places = std::mem::replace(&mut self.places, Places::new(0));
        let mut links = vec![self.start(first, false, 0, over.clone())];
        let mut number = 0;
        while let Some(newest) = links.last() {
            let (place, kind, lasted) = (newest.place, newest.kind.clone(), clock::since(newest.since));
            let full = links.len() >= MAX_LINKS;
            self.show_place(Some(place));
            tokio::select! {
                // The same in each run of a simulation.
                biased;
                Some((ended, well)) = overs.recv() => {
                    if let Some(at) = links.iter().position(|link| link.number == ended) {
                        let link = links.remove(at);
                        places.left(link.place, clock::since(link.since));
                        if !well {
                            places.shun(link.place);
                        }
                    }
                }
                () = self.gone(&kind) => {
                    if let Kind::Quic(connection) = &kind {
                        connection.close((LinkClose::Silent as u32).into(), b"nobody listens there");
                    }
                }
                (better, why) = self.better(configs, (place, &kind), &mut places), if !full => {
                    metrics::CARRIER_CHANGES.with_label_values(&[why.word()]).inc();
                    if why == Why::Lossy {
                        self.lossy.again(lasted);
                    }
                    if !self.is_entrance() {
                        let network = self.network().await;
                        self.remember(network, &better.1);
                    }
                    number += 1;
                    links.push(self.start(better, why == Why::Lossy, number, over.clone()));
                }
            }
        }
        self.places = places;
        self.show_place(None);
    }

    /// Waits until the node at the other end is gone. Other nodes are given up by the mesh's own measure.
    async fn gone(&self, kind: &Kind) {
        match kind {
            Kind::Quic(connection) if self.is_entrance() && connection.close_reason().is_none() => {
                gone::gone(connection).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// For the metric: only an entrance has a choice.
    fn show_place(&self, place: Option<usize>) {
        if self.is_entrance() {
            metrics::UPLINK_PLACE.set(place.map_or(0, |place| place as i64 + 1));
        }
    }

    fn start(
        &self,
        (place, dialled): (usize, Dialled),
        lossy: bool,
        number: u64,
        over: queue::Sender<(u64, bool)>,
    ) -> Running {
        let local = self.local.clone();
        let kind = match &dialled {
            Dialled::Quic(connection, ..) => Kind::Quic(connection.clone()),
            Dialled::Wss(_) => Kind::Wss { lossy },
            Dialled::Unix(_) => Kind::Unix,
        };
        let task = tasks::spawn("link.dialled", async move {
            let well = match dialled {
                // A QUIC connection is there because the node answered.
                Dialled::Quic(connection, peer, begun) => {
                    quic::run(&local, connection, peer, begun).await;
                    true
                }
                Dialled::Wss(connected) => {
                    wss::run(&local, *connected).await;
                    true
                }
                Dialled::Unix(stream) => unix::run(&local, stream, Role::Node).await,
            };
            // Nobody waits for it only when the dialler is gone, and this task with it.
            let _ = over.send((number, well)).await;
        });
        Running { number, place, kind, since: clock::now(), _task: task }
    }

    /// Waits until there is a better connection than the one at this place and of this kind.
    async fn better(
        &self,
        configs: &Configs,
        (place, kind): (usize, &Kind),
        places: &mut Places,
    ) -> ((usize, Dialled), Why) {
        match kind {
            _ if self.is_entrance() => {
                let home = places.better(place, |place| self.connect_at(place, configs));
                tokio::select! {
                    found = home => (found, Why::Home),
                    found = self.when_silent(kind) => found,
                }
            }
            Kind::Quic(connection) if self.has_fallback() => self.when_bad(connection, true).await,
            Kind::Wss { lossy } if self.has_quic() => {
                let pause = if *lossy { self.lossy.pause() } else { Duration::ZERO };
                ((0, self.when_quic_works(configs, pause).await), Why::Works)
            }
            _ => std::future::pending().await,
        }
    }

    async fn when_quic_works(&self, configs: &Configs, pause: Duration) -> Dialled {
        tokio::time::sleep(pause).await;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_LONGEST);
        loop {
            tokio::time::sleep(backoff.next_wait()).await;
            match tokio::time::timeout(RETRY_WITHIN, self.connect_anywhere(configs)).await {
                Ok(Ok(dialled)) => {
                    count("quic", true);
                    tracing::info!(peer = self.peer(), "QUIC works: the link goes back to it");
                    return dialled;
                }
                other => {
                    count("quic", false);
                    let why = other.map_or("no answer".to_owned(), |result| {
                        result.err().map(|e| e.to_string()).unwrap_or_default()
                    });
                    tracing::debug!(peer = self.peer(), why, "QUIC does not work yet; trying again");
                }
            }
        }
    }

    /// All addresses at once: one that does not answer must not keep the others waiting.
    async fn connect_anywhere(&self, configs: &Configs) -> Result<Dialled, Error> {
        let mut sockets = Vec::new();
        for address in self.target.addresses.iter().filter(|address| !address.starts_with(WSS)) {
            // A name that is not known now may be known at the next try.
            let found = resolve(address, self.endpoint.local_addr().ok()).await.unwrap_or_default();
            sockets.extend(found.iter().map(ToString::to_string));
        }
        sockets.truncate(RETRY_ADDRESSES);
        let mut tries: FuturesUnordered<_> =
            sockets.iter().map(|socket| self.connect_to(socket, configs)).collect();
        let mut last = Error::NoAddress;
        while let Some(result) = tries.next().await {
            match result {
                Ok((connection, peer, begun)) => return Ok(Dialled::Quic(connection, peer, begun)),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Of an entrance: its clients wait. What loses much still answers, and would be gone back to at once.
    async fn when_silent(&self, kind: &Kind) -> ((usize, Dialled), Why) {
        match kind {
            Kind::Quic(connection) if self.has_fallback() => self.when_bad(connection, false).await,
            _ => std::future::pending().await,
        }
    }

    /// Waits until QUIC answers no more, or loses too much if that is `heeded`, and the other carrier works.
    async fn when_bad(&self, connection: &quinn::Connection, heeded: bool) -> ((usize, Dialled), Why) {
        let (mut loss, mut silence) = (LossWatch::default(), SilenceWatch::default());
        let mut next_loss = clock::now() + LossWatch::EVERY;
        loop {
            tokio::time::sleep(SilenceWatch::EVERY).await;
            let silent = silence.look_at(connection);
            let mut lossy = false;
            if clock::now() >= next_loss {
                next_loss = clock::now() + LossWatch::EVERY;
                let path = connection.stats().path;
                lossy = loss.look(path.sent_packets, path.lost_packets) && heeded;
            }
            if !silent && !lossy {
                continue;
            }
            match self.connect_wss().await {
                // It answered after all.
                Ok(_) if silent && !silence.look_at(connection) => {}
                Ok(dialled) => {
                    let why = if silent { Why::Silent } else { Why::Lossy };
                    tracing::warn!(
                        peer = self.peer(),
                        why = why.word(),
                        "QUIC fails: the link goes on through the edge"
                    );
                    return (dialled, why);
                }
                Err(why) => {
                    tracing::info!(peer = self.peer(), %why, "QUIC fails, and there is no other way");
                    tokio::time::sleep(FALLBACK_AGAIN).await;
                    loss = LossWatch::default();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quic_that_loses_is_left_alone_longer_each_time() {
        // covers Q01
        let mut lossy = Lossy::default();
        let soon = Duration::from_secs(20);
        let pauses: Vec<u64> = (0..6)
            .map(|_| {
                lossy.again(soon);
                lossy.pause().as_secs()
            })
            .collect();
        assert_eq!(pauses, [60, 120, 240, 480, 600, 600]);
        lossy.again(LOSSY_LONGEST);
        assert_eq!(lossy.pause(), LOSSY_FIRST);
    }
}
