//! Links coming up and going down, double connections, signs of life.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::sessions::Over;
use super::{Config, Event, Mesh, Output, Role, Time};
use crate::wire::close::LinkClose;
use crate::wire::frame::{Adjacency, Frame};
use crate::wire::ids::{Incarnation, LinkId, NodeName, SessionNo};

/// A round trip is announced again when it has changed by more than this share of itself …
const RTT_CHANGE: f64 = 0.25;
/// … and by more than this, in microseconds: on a fast network every measurement differs by a half.
const RTT_CHANGE_US: u32 = 2_000;
/// What a link is taken to cost before it was measured, in microseconds.
const RTT_UNKNOWN_US: u32 = 10_000;
/// Measurements of which the least counts: one that waited for a busy processor must not send messages a long
/// way round.
const SAMPLES: usize = 8;
/// Measurements made one after the other when a link comes up, before the first is announced.
const FIRST_SAMPLES: u64 = 4;

/// The number of a ping whose pong measures nothing.
const ONLY_A_SIGN: u64 = 0;

/// A clock that differs from before by more than this was set, and does not drift.
const SET_MS: f64 = 1000.0;

/// What a new link is taken to have been silent: nothing is known of its path yet.
const FIRST_GAP: Duration = Duration::from_secs(1);
/// The longest silence of late is remembered with this half-life.
const GAP_HALVES_IN: Duration = Duration::from_secs(5);
/// So many times the longest silence of late is borne.
const GAPS: u32 = 3;

/// A second connection of the same two nodes is closed so long after the other was chosen: what is under way
/// on it still arrives.
const RETIRES_AFTER: Duration = Duration::from_secs(2);

/// What the mesh knows of one link.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: NodeName,
    pub(super) role: Role,
    pub(super) incarnation: Incarnation,
    pub(super) dialled: bool,
    /// On a carrier for when there is no better one.
    fallback: bool,
    pub(super) up_since: Time,
    /// When something came last.
    pub(super) heard: Time,
    /// The longest silence of late.
    gap: Duration,
    /// Its silence was forgiven once, because this node itself stood still.
    forgiven: bool,
    /// Smoothed, in microseconds (RFC 6298: an eighth of each new measurement); 0: not measured.
    pub(super) rtt_us: u32,
    /// By how much the peer's wall clock is ahead of ours, in milliseconds, smoothed; `None`: not measured.
    pub(super) skew_ms: Option<f64>,
    /// The latest round trips, in microseconds.
    samples: VecDeque<u32>,
    /// As announced last.
    announced_us: u32,
    ping: Option<(u64, Time)>,
    next_ping: u64,
    /// The peer is stopping: no way leads over this link any more.
    pub(super) leaving: bool,
    /// Nothing is sent over it any more, and it is closed then.
    retires: Option<Time>,
    pub(super) sessions: BTreeSet<SessionNo>,
}

impl Link {
    pub(super) fn new(
        peer: NodeName,
        role: Role,
        incarnation: Incarnation,
        (dialled, fallback): (bool, bool),
        rtt_us: u32,
        now: Time,
    ) -> Link {
        Link {
            peer,
            role,
            incarnation,
            dialled,
            fallback,
            up_since: now,
            heard: now,
            gap: FIRST_GAP,
            forgiven: false,
            rtt_us,
            skew_ms: None,
            samples: VecDeque::new(),
            announced_us: 0,
            ping: None,
            next_ping: 0,
            leaving: false,
            retires: None,
            sessions: BTreeSet::new(),
        }
    }

    /// Something came.
    pub(super) fn speaks(&mut self, now: Time) {
        let silent = now.since(self.heard);
        self.gap = silent.max(halved(self.gap, silent));
        (self.heard, self.forgiven) = (now, false);
    }

    /// How long it may be silent: a few heartbeats, or as much longer as it was of late, by loss or by a busy peer. An
    /// entrance is on this machine as a rule, and its end is noticed otherwise; only one that hangs is silent.
    fn patience(&self, config: &Config) -> Duration {
        if self.role == Role::Entrance {
            return config.silence;
        }
        self.gap.saturating_mul(GAPS).clamp(config.least_silence(), config.silence)
    }

    /// What it is announced with: the least of the latest measurements.
    fn cost_us(&self) -> u32 {
        self.samples.iter().copied().min().unwrap_or(RTT_UNKNOWN_US)
    }

    fn measured(&mut self, rtt: Duration) {
        let sample = u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX).max(1);
        if self.samples.len() >= SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(sample);
        self.rtt_us = match self.rtt_us {
            0 => sample,
            old => ((u64::from(old) * 7 + u64::from(sample)) / 8) as u32,
        };
    }

    /// `theirs` and `ours` are wall clocks in milliseconds, ours at the end of that round trip: theirs was read about half
    /// of it earlier. A clock that was set is followed at once.
    fn measured_skew(&mut self, theirs: u64, ours: u64, rtt: Duration) {
        let sample = theirs as f64 + rtt.as_secs_f64() * 500.0 - ours as f64;
        self.skew_ms = Some(match self.skew_ms {
            Some(old) if (sample - old).abs() < SET_MS => (old * 7.0 + sample) / 8.0,
            _ => sample,
        });
    }

    fn changed_much(&self) -> bool {
        let difference = self.cost_us().abs_diff(self.announced_us);
        difference > RTT_CHANGE_US && f64::from(difference) > f64::from(self.announced_us) * RTT_CHANGE
    }
}

/// A silence of the past after some more time.
fn halved(gap: Duration, after: Duration) -> Duration {
    gap.mul_f64(0.5f64.powf(after.as_secs_f64() / GAP_HALVES_IN.as_secs_f64()))
}

impl Mesh {
    pub(super) fn link_up(&mut self, id: LinkId, link: Link) {
        let (peer, role) = (link.peer.clone(), link.role);
        self.resuming.end(id);
        if role == Role::Node && peer == self.config.node {
            self.event(Event::NameClash(id));
            let why = format!("this node is called {peer} itself; give one of the two another name");
            return self.outputs.push_back(Output::Close(id, LinkClose::NotAdmitted, why));
        }
        let kept = if role == Role::Node { self.settle(id, link) } else { Some(link) };
        let Some(link) = kept else { return };
        self.links.insert(id, link);
        if let Some((number, der)) = self.revocations.clone() {
            self.send(id, Frame::Revocations(number, der));
        }
        if role == Role::Node {
            self.neighbours.insert(peer, id);
            self.announce_links();
            self.send_digest(id);
        }
        self.ping(id);
    }

    /// Two nodes that dial each other at once have two connections. Both ends keep the same one: that of the
    /// newer life; else, when each dialled one, that which is no fallback, or else that which the node with the smaller
    /// name dialled; else the newer: who dialled both had a reason to change. The other one retires, so that nothing is
    /// lost. Answers the new one if it is kept.
    fn settle(&mut self, id: LinkId, link: Link) -> Option<Link> {
        let Some(&other_id) = self.neighbours.get(&link.peer) else { return Some(link) };
        let Some(other) = self.links.get(&other_id) else { return Some(link) };
        let me_dials = self.config.node < link.peer;
        let superseded = link.incarnation != other.incarnation;
        let keep_new = if superseded {
            link.incarnation > other.incarnation
        } else if link.dialled != other.dialled {
            if link.fallback == other.fallback { link.dialled == me_dials } else { other.fallback }
        } else {
            true
        };
        let (kept, closed) = if keep_new { (id, other_id) } else { (other_id, id) };
        self.event(Event::Settled { peer: link.peer.clone(), kept, closed });
        let (link, retired) =
            if keep_new { (Some(link), self.links.remove(&other_id)) } else { (None, Some(link)) };
        if let Some(retired) = retired {
            self.retire(closed, retired, superseded);
        }
        link
    }

    /// Goes on listening to a link that is not kept, for a while. One of an earlier life has nobody at its other
    /// end; and of two that retire the earlier has had its time.
    fn retire(&mut self, id: LinkId, mut link: Link, superseded: bool) {
        for earlier in self.retiring(&link.peer) {
            self.close_retired(earlier, LinkClose::Duplicate);
        }
        link.retires = Some(self.now.after(RETIRES_AFTER));
        self.links.insert(id, link);
        if superseded {
            self.close_retired(id, LinkClose::Superseded);
        }
    }

    fn retiring(&self, peer: &NodeName) -> Vec<LinkId> {
        let retiring = self.links.iter().filter(|(_, link)| link.peer == *peer && link.retires.is_some());
        retiring.map(|(id, _)| *id).collect()
    }

    fn close_retired(&mut self, id: LinkId, code: LinkClose) {
        let Some(link) = self.links.remove(&id) else { return };
        let why = format!("another connection of {} and {} is kept", self.config.node, link.peer);
        self.outputs.push_back(Output::Close(id, code, why));
    }

    pub(super) fn link_down(&mut self, id: LinkId) {
        self.early_over(id);
        let Some(link) = self.links.remove(&id) else { return };
        for session in link.sessions {
            self.session_over(id, session, Over::Lost);
        }
        if self.neighbours.get(&link.peer) == Some(&id) {
            self.neighbours.remove(&link.peer);
            self.use_again(&link.peer);
            self.announce_links();
        }
    }

    /// The kept one of two connections breaks: the one that retires may be the one that the peer keeps, as it found
    /// out earlier that the other was dead.
    fn use_again(&mut self, peer: &NodeName) {
        let Some(id) = self.retiring(peer).pop() else { return };
        if let Some(link) = self.links.get_mut(&id) {
            link.retires = None;
            self.neighbours.insert(peer.clone(), id);
        }
    }

    /// The peer stops: routes change now, while it still passes on what is under way.
    pub(super) fn goodbye(&mut self, id: LinkId) {
        if let Some(link) = self.links.get_mut(&id) {
            link.leaving = true;
            self.announce_links();
        }
    }

    pub(super) fn announce_links(&mut self) {
        // A node that stops has said goodbye: its neighbours withdraw its links themselves.
        if self.stopping {
            return;
        }
        let mut links = Vec::with_capacity(self.neighbours.len());
        for (peer, id) in &self.neighbours {
            let Some(link) = self.links.get_mut(id).filter(|link| !link.leaving) else { continue };
            link.announced_us = link.cost_us();
            links.push(Adjacency { peer: peer.clone(), rtt_us: link.announced_us });
        }
        if let Some(own) = self.topology.announce(links) {
            self.flood(&Frame::LinkState(own), None);
        }
    }

    /// Pings every link, closes those that are silent, and announces round trips that have changed much. `late`: this node
    /// stood still, or had too much to do; what came meanwhile was not heard yet.
    pub(super) fn heartbeat(&mut self, late: bool) {
        if late {
            self.forgive_silence();
        }
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let Some(link) = self.links.get(&id) else { continue };
            let silent = self.now.since(link.heard);
            if link.retires.is_some_and(|when| when <= self.now) {
                self.close_retired(id, LinkClose::Duplicate);
            } else if silent >= link.patience(&self.config) {
                let why = format!("nothing came from {} for {:.1} s", link.peer, silent.as_secs_f64());
                self.outputs.push_back(Output::Close(id, LinkClose::Silent, why));
                self.link_down(id);
            } else {
                self.ping(id);
            }
        }
        let changed = self.neighbours.values().filter_map(|id| self.links.get(id)).any(Link::changed_much);
        if changed {
            self.announce_links();
        }
    }

    /// Every link is asked for a sign of life again, and has its time for it anew, once.
    fn forgive_silence(&mut self) {
        let now = self.now;
        for link in self.links.values_mut().filter(|link| !link.forgiven) {
            (link.heard, link.forgiven, link.ping) = (now, true, None);
        }
    }

    fn ping(&mut self, id: LinkId) {
        let (now, most) = (self.now, self.config.silence);
        let Some(link) = self.links.get_mut(&id) else { return };
        // One is measured at a time: a pong that is late measures the queue it waited in, and that is the truth. But one that
        // found no room is not waited for until the link counts as silent.
        let measured = link.ping.is_none_or(|(_, sent)| now.since(sent) >= most / 2);
        if measured {
            link.next_ping += 1;
            link.ping = Some((link.next_ping, now));
        }
        let number = if measured { link.next_ping } else { ONLY_A_SIGN };
        self.send(id, Frame::Ping(number));
    }

    pub(super) fn pong(&mut self, id: LinkId, number: u64, wall_ms: u64) {
        let (now, ours) = (self.now, self.wall_ms());
        if self.links.get(&id).is_some_and(|link| link.role == Role::Node) {
            self.seen_clock(wall_ms.saturating_mul(1 << 16));
        }
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some((_, sent)) = link.ping.filter(|(expected, _)| *expected == number) {
            link.ping = None;
            link.measured(now.since(sent));
            link.measured_skew(wall_ms, ours, now.since(sent));
            if link.next_ping < FIRST_SAMPLES {
                return self.ping(id);
            }
            if link.next_ping == FIRST_SAMPLES && link.role == Role::Node {
                self.announce_links();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_is_smoothed_and_one_that_was_set_is_followed() {
        // covers T18
        let name = NodeName::new("agni").unwrap();
        let mut link = Link::new(name, Role::Node, Incarnation(1), (true, false), 0, Time(0));
        let rtt = Duration::from_millis(40);
        let mut skew = |theirs: u64, ours: u64| {
            link.measured_skew(theirs, ours, rtt);
            link.skew_ms.unwrap()
        };
        assert_eq!(skew(1_000_000, 1_000_020), 0.0, "half of the round trip ago it was as late here");
        assert_eq!(skew(1_000_080, 1_000_020), 10.0, "an eighth of what is new");
        assert_eq!(skew(1_090_000, 1_000_020), 90_000.0);
        assert_eq!(skew(1_000_000, 1_002_020), -2000.0);
    }
}
