//! Mailboxes: what waits for agents whose home is here, what of it is in the hands of their sessions, and how much waits
//! here for the homes of others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::table::{Hand, InHand, Item, No};
use crate::mesh::{Event, Mesh, Step};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Priority, State};
use crate::wire::frame::{Deliver, Frame, Handing, Settlement};
use crate::wire::ids::{AgentAddr, LinkId, SessionNo};
use crate::wire::record::Place;

/// A message that its recipient wants later comes again after this long, twice as long each time …
const REQUEUE_AFTER: Duration = Duration::from_secs(1);
/// … but not longer, …
const REQUEUE_AT_MOST: Duration = Duration::from_secs(60);
/// … and not more often.
const REQUEUES: u32 = 20;

/// What waits here for one agent, wherever its home is.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    /// To be handed over: neither in a session's hands nor delayed.
    waiting: BTreeSet<(Priority, No)>,
    count: usize,
    bytes: usize,
}

impl Mailbox {
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Every agent's.
#[derive(Debug, Default)]
pub(super) struct Mailboxes(BTreeMap<AgentAddr, Mailbox>);

impl Mailboxes {
    pub(super) fn get(&self, agent: &AgentAddr) -> Option<&Mailbox> {
        self.0.get(agent)
    }

    /// The one with the most messages; of two, the first by name.
    pub(super) fn fullest(&self) -> Option<(&AgentAddr, &Mailbox)> {
        self.0.iter().rev().max_by_key(|(_, mailbox)| mailbox.count)
    }

    pub(super) fn add(&mut self, no: No, item: &Item, waits: bool) {
        let mailbox = self.0.entry(item.key.to.clone()).or_default();
        if waits {
            mailbox.waiting.insert((item.head.priority, no));
        }
        mailbox.count += 1;
        mailbox.bytes += item.payload.len();
    }

    pub(super) fn remove_item(&mut self, no: No, item: &Item) {
        if let Some(mailbox) = self.0.get_mut(&item.key.to) {
            mailbox.waiting.remove(&(item.head.priority, no));
        }
        self.uncount(&item.key.to, item.payload.len());
    }

    /// One more is on its way to the agent's home, or waits until that can be reached.
    pub(super) fn count_outbound(&mut self, agent: &AgentAddr, bytes: usize) {
        let mailbox = self.0.entry(agent.clone()).or_default();
        mailbox.count += 1;
        mailbox.bytes += bytes;
    }

    pub(super) fn uncount(&mut self, agent: &AgentAddr, bytes: usize) {
        let Some(mailbox) = self.0.get_mut(agent) else { return };
        mailbox.count -= 1;
        mailbox.bytes -= bytes;
        if mailbox.count == 0 {
            self.0.remove(agent);
        }
    }

    pub(super) fn waits(&mut self, no: No, item: &Item, waits: bool) {
        let Some(mailbox) = self.0.get_mut(&item.key.to) else { return };
        let entry = (item.head.priority, no);
        if waits {
            mailbox.waiting.insert(entry);
        } else {
            mailbox.waiting.remove(&entry);
        }
    }
}

impl Mesh {
    /// How many messages wait here for one agent, and the bytes of their payloads: what waits for one that nobody knows is in no
    /// mailbox.
    pub(super) fn mail_for(&self, agent: &AgentAddr) -> (usize, usize) {
        let of_mailbox =
            self.durable.mailboxes.get(agent).map_or((0, 0), |mailbox| (mailbox.count(), mailbox.bytes()));
        if self.directory.home(agent).is_some() {
            return of_mailbox;
        }
        let table = &self.durable.table;
        let all = table.of_recipient(agent).into_iter().filter_map(|no| table.get(no));
        let nobodys = all.filter(|item| item.place == Place::Outbox && item.peer.is_none());
        nobodys.fold(of_mailbox, |(count, bytes), item| (count + 1, bytes + item.payload.len()))
    }

    /// Hands over what can be handed over to an agent: urgent messages first, and by a window of their own.
    pub(in crate::mesh) fn pump_mailbox(&mut self, agent: &AgentAddr) {
        if self.rolled_back().is_some() {
            return;
        }
        for urgent in [true, false] {
            while let Some(no) = self.next_waiting(agent, urgent) {
                let bytes = self.durable.table.get(no).map_or(0, |item| item.payload.len());
                let Some(session) = self.sessions.next_with_room(agent, urgent, bytes) else { break };
                self.hand_over(no, session);
            }
        }
    }

    fn next_waiting(&self, agent: &AgentAddr, urgent: bool) -> Option<No> {
        let waiting = &self.durable.mailboxes.get(agent)?.waiting;
        let first_other = (Priority::URGENT, No::MAX);
        let next =
            if urgent { waiting.range(..=first_other).next() } else { waiting.range(first_other..).next() };
        next.map(|(_, no)| *no)
    }

    fn hand_over(&mut self, no: No, (link, session): (LinkId, SessionNo)) {
        self.durable.last_tag += 1;
        let hand = Hand { link, session, tag: self.durable.last_tag };
        let Some(item) = self.durable.table.get_mut(no) else { return };
        let redelivered = item.redelivered;
        item.redelivered = true;
        item.hand = Some(hand);
        self.durable.doubtful.remove(&no);
        self.durable.mailboxes.waits(no, item, false);
        let (head, payload, urgent) = (item.head.clone(), item.payload.clone(), item.urgent());
        self.durable.depths.note(&item.key.to, &head);
        self.durable.hands.insert(hand, InHand { no, urgent, bytes: payload.len() });
        self.sessions.holds((link, session), urgent, payload.len(), true);
        self.event(Event::HandedOver);
        let step = if redelivered { Step::HandedOverAgain } else { Step::HandedOver };
        self.hop(no, step, None, Some(link));
        let to = vec![Handing { session, tag: hand.tag, redelivered }];
        self.send(link, Frame::Deliver(Deliver { to, head, confirm: None }, payload));
    }

    /// The frame did not fit into the link's queue: it was never in the session's hands.
    pub(in crate::mesh) fn unsent_handings(&mut self, link: LinkId, deliver: &Deliver) {
        for handing in &deliver.to {
            let hand = Hand { link, session: handing.session, tag: handing.tag };
            if let Some(no) = self.in_hand(hand) {
                self.out_of_hand(hand);
                if let Some(item) = self.durable.table.get_mut(no) {
                    item.redelivered = handing.redelivered;
                    self.durable.mailboxes.waits(no, item, true);
                }
                // The next round tries again.
                self.durable.unplaced.insert(no);
            }
        }
    }

    /// What became of messages in a session's hands.
    pub(in crate::mesh) fn settled(
        &mut self,
        link: LinkId,
        session: SessionNo,
        settled: Vec<(u64, Settlement)>,
    ) {
        let agent = self.sessions.get((link, session)).map(|known| known.agent.clone());
        for (tag, settlement) in settled {
            let hand = Hand { link, session, tag };
            // It was taken back, or the session never had it.
            let Some(no) = self.in_hand(hand) else { continue };
            match settlement {
                Settlement::Written => self.written(no),
                Settlement::Acked => {
                    self.out_of_hand(hand);
                    self.end(no, State::Acked, None);
                }
                Settlement::Nacked(why) => {
                    self.out_of_hand(hand);
                    self.end(no, State::Nacked, Some(Refusal::new(Code::Nacked, why)));
                }
                Settlement::Requeued(why) => {
                    self.out_of_hand(hand);
                    self.requeue(no, &why);
                }
            }
        }
        if let Some(agent) = agent {
            self.pump_mailbox(&agent);
        }
    }

    fn written(&mut self, no: No) {
        if let Some(item) = self.durable.table.get_mut(no)
            && item.state < State::Delivered
        {
            item.state = State::Delivered;
            self.hop(no, Step::Written, None, None);
            self.announce(no);
        }
    }

    fn requeue(&mut self, no: No, why: &str) {
        let now_ms = self.wall_ms();
        let Some(item) = self.durable.table.get_mut(no).filter(|item| !item.ending) else { return };
        item.requeues += 1;
        if item.requeues > REQUEUES {
            let message = format!("its recipient put it off {REQUEUES} times; the last time: {why}");
            return self.end(no, State::Dead, Some(Refusal::new(Code::Nacked, message)));
        }
        let wait = REQUEUE_AFTER * 2u32.saturating_pow(item.requeues - 1).min(64);
        self.hop(no, Step::Requeued, None, None);
        self.durable.table.wake_at(no, now_ms + wait.min(REQUEUE_AT_MOST).as_millis() as u64);
    }

    fn in_hand(&self, hand: Hand) -> Option<No> {
        self.durable.hands.get(&hand).map(|held| held.no)
    }

    /// The session has it no more.
    fn out_of_hand(&mut self, hand: Hand) {
        let Some(InHand { no, urgent, bytes }) = self.durable.hands.remove(&hand) else { return };
        self.sessions.holds((hand.link, hand.session), urgent, bytes, false);
        self.tell_parted((hand.link, hand.session));
        if let Some(item) = self.durable.table.get_mut(no).filter(|item| item.hand == Some(hand)) {
            item.hand = None;
        }
    }

    /// A session is over: what it had in its hands is handed out again, marked.
    pub(in crate::mesh) fn take_back(&mut self, link: LinkId, session: SessionNo, agent: &AgentAddr) {
        let first = Hand { link, session, tag: 0 };
        let last = Hand { link, session, tag: u64::MAX };
        let hands: Vec<(Hand, No)> =
            self.durable.hands.range(first..=last).map(|(hand, held)| (*hand, held.no)).collect();
        for (hand, no) in &hands {
            self.out_of_hand(*hand);
            self.hop(*no, Step::TakenBack, None, Some(link));
            if let Some(item) = self.durable.table.get(*no).filter(|item| item.place == Place::Mailbox) {
                self.durable.mailboxes.waits(*no, item, true);
            }
            self.place(*no);
            self.look_at_time(*no);
        }
        if !hands.is_empty() {
            self.pump_mailbox(agent);
        }
    }
}
