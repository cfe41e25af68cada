//! From one link to another without a gap: the sessions of an edge that goes back to its own node.
//!
//! First the node that is left hands out nothing more and says of each session when all that it handed out is settled: then no
//! message is given twice. Clients go on sending meanwhile. Then the sessions attach over the new link, with a
//! registration one millisecond newer than the old one, so that all nodes agree which one counts; and the old link stays for a while, as what was sent
//! over it may still be under way. A session that does not settle in time moves all the same; what it had in its
//! hands comes again, marked.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use super::{Hub, Notice, Up};
use crate::link::Handle;
use crate::rt::clock;
use crate::wire::close::LinkClose;
use crate::wire::frame::{Attach, Frame};
use crate::wire::ids::{LinkId, SessionNo};

/// How long sessions have to settle what is in their hands.
const SETTLE_WITHIN: Duration = Duration::from_millis(500);
/// How long the link that was left stays.
const STAYS_FOR: Duration = Duration::from_secs(2);
/// How often links are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A look that comes so much late means that this process stood still: what came meanwhile was not heard yet.
const STOOD_STILL: Duration = Duration::from_secs(1);
/// A link that was silent for so long is asked for a sign of life, whatever heartbeat its node has.
const ASK_AFTER: Duration = Duration::from_secs(1);

/// A move that is under way, or has just been.
#[derive(Debug, Default)]
pub(super) struct Moving {
    /// Where to, whose hands are still full, and until when that is waited for.
    going: Option<(LinkId, HashSet<SessionNo>, Instant)>,
    /// The link that was left, and when it is closed.
    left: Option<(LinkId, Instant)>,
    /// How long a link may be silent; `None`: for ever.
    patience: Option<Duration>,
    looked: Option<Instant>,
}

impl Moving {
    /// Waits until something is due.
    pub(super) fn wait(&self) -> impl Future<Output = ()> + use<> {
        let going = self.going.as_ref().map(|(_, _, until)| *until);
        let left = self.left.map(|(_, until)| until);
        let look = self.looked.filter(|_| self.patience.is_some()).map(|at| at + LOOK_EVERY);
        let next = [going, left, look].into_iter().flatten().min();
        async move {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether a link is the one that was left.
    fn has_left(&self, link: LinkId) -> bool {
        self.left.is_some_and(|(left, _)| left == link)
    }
}

impl Hub {
    /// From now on a link that is silent for so long counts as broken.
    pub(super) fn watch_silence(&mut self, patience: Duration) {
        (self.moving.patience, self.moving.looked) = (Some(patience), Some(clock::now()));
    }

    /// Something came.
    pub(super) fn hears(&mut self, link: LinkId) {
        if let Some(up) = self.links.get_mut(&link) {
            up.heard = clock::now();
        }
    }

    /// A second link came up beside the one in use: whoever dialled it means it.
    pub(super) fn begin_move(&mut self, to: LinkId) {
        let until = clock::now() + SETTLE_WITHIN;
        let attached = self.sessions.iter_mut().filter_map(|(no, entry)| {
            let attach = entry.attach.as_ref()?;
            entry.unanswered += 1;
            Some((*no, Attach { resumed: true, window: 0, ..attach.clone() }))
        });
        let holds: Vec<(SessionNo, Attach)> = attached.collect();
        let waiting = holds.iter().map(|(no, _)| *no).collect();
        for (_, hold) in holds {
            self.control(Frame::Attach(hold));
        }
        if let Some((earlier, ..)) = self.moving.going.replace((to, waiting, until)) {
            self.close_left(earlier);
        }
        self.move_when_settled();
    }

    /// All that a session had in its hands is settled, or it is gone.
    pub(super) fn settled(&mut self, no: SessionNo) {
        if let Some((_, waiting, _)) = &mut self.moving.going {
            waiting.remove(&no);
            self.move_when_settled();
        }
    }

    fn move_when_settled(&mut self) {
        if self.moving.going.as_ref().is_some_and(|(_, waiting, _)| waiting.is_empty()) {
            self.finish_move();
        }
    }

    fn finish_move(&mut self) {
        let Some((to, waiting, _)) = self.moving.going.take() else { return };
        let Some(from) = self.current else { return };
        tracing::info!(unsettled = waiting.len(), "the sessions move to the other link");
        for attach in self.sessions.values_mut().filter_map(|entry| entry.attach.as_mut()) {
            attach.registered_ms += 1;
        }
        if let Some((earlier, _)) = self.moving.left.take() {
            self.close_left(earlier);
        }
        self.moving.left = Some((from, clock::now() + STAYS_FOR));
        self.make_current(to);
    }

    /// A link is over.
    pub(super) fn down(&mut self, link: LinkId, why: &str) {
        let Some(up) = self.links.remove(&link) else { return };
        if self.moving.has_left(link) {
            tracing::info!(node = %up.peer.node, "the link that the sessions have left is closed");
        } else {
            tracing::warn!(node = %up.peer.node, why, "the link to the node is down");
        }
        self.stop_moving(link);
        if self.current != Some(link) {
            return;
        }
        self.use_link(None);
        match self.links.keys().max().copied() {
            Some(reserve) => self.make_current(reserve),
            None => {
                for no in self.sessions.keys().copied().collect::<Vec<_>>() {
                    self.notice(no, Notice::Down);
                }
            }
        }
    }

    /// A move ends with either of its links: the sessions stay where they are, or have the other one.
    fn stop_moving(&mut self, link: LinkId) {
        if self.moving.has_left(link) {
            self.moving.left = None;
        }
        let going = self.moving.going.take_if(|(to, ..)| *to == link || self.current == Some(link));
        if going.is_none() || self.current == Some(link) {
            return;
        }
        // The node holds back what it has for them until they are attached as they were.
        let attached = self.sessions.values_mut().filter_map(|entry| {
            let attach = entry.attach.as_ref()?;
            entry.unanswered += 1;
            Some(Attach { resumed: true, ..attach.clone() })
        });
        for attach in attached.collect::<Vec<_>>() {
            self.control(Frame::Attach(attach));
        }
    }

    /// Does what is due.
    pub(super) fn look(&mut self) {
        let now = clock::now();
        if self.moving.going.as_ref().is_some_and(|(_, _, until)| *until <= now) {
            self.finish_move();
        }
        if let Some((left, _)) = self.moving.left.take_if(|(_, until)| *until <= now) {
            self.close_left(left);
        }
        self.look_at_silence(now);
    }

    fn close_left(&mut self, left: LinkId) {
        if self.current != Some(left)
            && let Some(up) = self.links.get(&left)
        {
            up.handle.close(LinkClose::Duplicate, "the sessions are at another link");
        }
    }

    /// A node that hangs keeps its sockets open; only its silence tells.
    fn look_at_silence(&mut self, now: Instant) {
        let (Some(patience), Some(looked)) = (self.moving.patience, self.moving.looked) else { return };
        if now < looked + LOOK_EVERY {
            return;
        }
        self.moving.looked = Some(now);
        let stood_still = now.saturating_duration_since(looked) >= LOOK_EVERY + STOOD_STILL;
        let mut silent = Vec::new();
        for (link, up) in &mut self.links {
            if stood_still {
                up.heard = now;
            }
            let silence = now.saturating_duration_since(up.heard);
            if silence >= patience {
                silent.push(*link);
            } else if silence >= ASK_AFTER {
                // One that finds no room has others before it that the node has not read either.
                let _ = up.handle.try_send(&Frame::Ping(0));
            }
        }
        for link in silent {
            if let Some(Up { handle, .. }) = self.links.get(&link) {
                let why = format!("nothing came from the node for {:.1} s", patience.as_secs_f64());
                Handle::close(handle, LinkClose::Silent, why.clone());
                self.down(link, &why);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::testing::{Node, Rig, agent, soon};
    use crate::link::Event;

    const REGISTERED_MS: u64 = 7_000;

    /// The next frame that is a registration.
    async fn attached(node: &mut Node) -> Attach {
        match node.next().await {
            Frame::Attach(attach) => attach,
            other => panic!("{} instead of Attach", other.name()),
        }
    }

    async fn says_nothing(rig: &Rig, node: &mut Node) {
        rig.hub.snapshot().await.unwrap();
        assert!(node.outlets.lanes.iter_mut().all(|lane| lane.try_recv().is_err()));
    }

    /// A session that is attached to the first of two nodes.
    async fn session(rig: &Rig, node: &mut Node) -> crate::gateway::hub::Seat {
        let seat = rig.hub.open().await.unwrap();
        let attach = Attach {
            session: seat.no,
            agent: agent("dc"),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: REGISTERED_MS,
            resumed: false,
            window: 64,
            transient: false,
        };
        seat.attach(attach).await.unwrap();
        node.grant().await;
        seat
    }

    // covers T09, Q02
    #[tokio::test(start_paused = true)]
    async fn sessions_move_when_their_hands_are_empty_and_the_old_link_stays_a_while() {
        let rig = Rig::new();
        let mut away = rig.link(1, "agni").await;
        let seat = session(&rig, &mut away).await;
        let mut own = rig.link(2, "dc").await;
        let hold = attached(&mut away).await;
        assert_eq!((hold.session, hold.window, hold.resumed), (seat.no, 0, true));
        says_nothing(&rig, &mut own).await;
        assert!(seat.is_current(away.link), "it goes on there until all is settled");
        away.tell(Frame::Attached(seat.no, REGISTERED_MS)).await;
        let moved = attached(&mut own).await;
        assert_eq!((moved.window, moved.resumed, moved.registered_ms), (64, true, REGISTERED_MS + 1));
        assert!(seat.is_current(own.link));
        let moved_at = clock::now();
        assert_eq!(soon(away.outlets.close.recv()).await.unwrap().code, LinkClose::Duplicate);
        assert!(clock::since(moved_at) >= STAYS_FOR);
    }

    // covers T09, Q02
    #[tokio::test(start_paused = true)]
    async fn a_session_that_does_not_settle_moves_in_time_and_one_whose_new_link_breaks_stays() {
        let rig = Rig::new();
        let mut away = rig.link(1, "agni").await;
        let seat = session(&rig, &mut away).await;
        let own = rig.link(2, "dc").await;
        assert_eq!(attached(&mut away).await.window, 0);
        own.down().await;
        assert_eq!(attached(&mut away).await.window, 64, "it is given messages again");
        assert!(seat.is_current(away.link));
        let began = clock::now();
        let mut own = rig.link(3, "dc").await;
        assert_eq!(attached(&mut own).await.window, 64);
        assert!((SETTLE_WITHIN..2 * SETTLE_WITHIN).contains(&clock::since(began)));
    }

    // covers T09, Q02
    #[tokio::test(start_paused = true)]
    async fn a_node_that_is_silent_is_left_and_one_that_answers_is_not() {
        let rig = Rig::new();
        let patience = Duration::from_secs(3);
        rig.hub.watch_silence(patience).await.unwrap();
        let mut node = rig.link(1, "agni").await;
        let began = clock::now();
        while clock::since(began) < 10 * patience {
            let Frame::Ping(number) = node.next().await else { panic!("no Ping") };
            node.tell(Frame::Pong(number, 0)).await;
        }
        let hangs = clock::now();
        assert_eq!(soon(node.outlets.close.recv()).await.unwrap().code, LinkClose::Silent);
        assert!((patience..patience + 2 * LOOK_EVERY).contains(&clock::since(hangs)));
        assert!(rig.hub.snapshot().await.unwrap().node.is_none());
        // What it says late is nobody's any more.
        let late = Event::Down { link: node.link, why: "late".into() };
        rig.events.send(late).await.unwrap();
    }
}
