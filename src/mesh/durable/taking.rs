//! A durable message from a session of this node: taken, refused, or recognised.

use bytes::Bytes;

use super::LONGEST_MS;
use super::copies::SECOND_WITHIN_MS;
use super::table::{Item, Known, No};
use crate::mesh::created::NEVER_MS;
use crate::mesh::{Event, Hop, Mesh, Output, Queried, Step, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, MessageKey, State, Target};
use crate::wire::frame::{AgentState, MAX_HOPS, Presence, Receipt};
use crate::wire::ids::{AgentAddr, LinkId, MessageId, NodeName, Sequence, SessionNo};
use crate::wire::record::{Change, Kept, Place, Record, Upstream};

/// Messages that may wait for the disk.
const MAX_WAITING: usize = 32_768;
/// What a message's age may lack by its sender's clock, in milliseconds: that may be so much ahead of this node's.
const AGE_UNSURE_MS: u64 = 10_000;

/// Who handed the message in: refusals go to that session only.
pub(in crate::mesh) type Sender = (LinkId, SessionNo);

/// For whom room is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// A client's new message.
    Clients,
    /// One that another node has accepted.
    Nodes,
}

/// What clients may fill of all that a node keeps. An eighth is for what other nodes bring: two that are full of messages for
/// each other would not get rid of any.
pub(super) fn keeping_back(all: usize) -> usize {
    all - all.div_ceil(8)
}

impl Mesh {
    /// Takes a message that its entrance and the mesh's checks have passed.
    pub(in crate::mesh) fn take(&mut self, sender: Sender, mut head: Head, payload: Bytes) {
        head.depth = self.depth_of(&head);
        head.taken = self.next_clock();
        self.heed_number(&mut head);
        if let Some(refusal) = self.stands_still() {
            return self.refuse_at(sender, &head, refusal);
        }
        let Target::Agent(to) = head.to.clone() else {
            return match self.recipients_of(&head) {
                Ok(recipients) => self.take_several(sender, &head, &payload, recipients),
                Err(refusal) => self.refuse_at(sender, &head, refusal),
            };
        };
        let key = MessageKey { from: head.from.clone(), id: head.id.clone(), to };
        match self.durable.table.known(&key) {
            Some(Known::Item(no)) => self.taken_before(no),
            Some(Known::Mark(mark)) => {
                let (state, reason) = (mark.state, mark.reason.clone());
                self.ended_before(&key, &head, state, reason);
            }
            // Only what is new is braked: what was accepted is answered as it stands.
            None => {
                match self.brake(&head).and_then(|()| self.take_new(Some(sender), key, head.clone(), payload))
                {
                    Ok(no) => {
                        self.place(no);
                        self.pump_all(&[no]);
                    }
                    Err(refusal) => self.refuse_at(sender, &head, refusal),
                }
            }
        }
    }

    /// A message of an agent's that its operator sends for it.
    pub(in crate::mesh) fn post(&mut self, number: Sequence, mut head: Head, payload: Bytes) {
        head.taken = self.next_clock();
        let result = match head.to.clone() {
            Target::Agent(to) => {
                let key = MessageKey { from: head.from.clone(), id: head.id.clone(), to };
                self.take_new(None, key, head, payload)
            }
            Target::Broadcast(_) | Target::Room(..) => {
                Err(Refusal::new(Code::BadFrame, "a message that died has one recipient"))
            }
        };
        if let Ok(no) = result {
            self.place(no);
            self.pump_all(&[no]);
        }
        self.outputs.push_back(Output::Posted(number, result.map(drop)));
    }

    /// The operator does not want a dead letter any more: only its mark is left.
    pub(in crate::mesh) fn drop_dead(&mut self, key: MessageKey) {
        let at_ms = self.wall_ms();
        let change = match self.durable.table.known(&key) {
            Some(Known::Mark(mark)) => Change {
                place: Place::Ended,
                state: mark.state,
                reason: mark.reason.clone(),
                at_ms,
                other: None,
                told: true,
            },
            // Its sender is still to be told: only the letter goes.
            Some(Known::Item(no)) => {
                let dead = self.durable.table.get_mut(no);
                let Some(item) = dead.filter(|item| item.place == Place::Dead && item.state.is_end()) else {
                    return;
                };
                item.place = Place::Ended;
                let change = item.change(at_ms);
                self.durable.table.drop_payload(no);
                change
            }
            None => return,
        };
        self.persist_change(key, change);
    }

    /// A session asks where a message stands.
    pub(in crate::mesh) fn query(
        &mut self,
        link: LinkId,
        session: SessionNo,
        number: Sequence,
        from: AgentAddr,
        id: MessageId,
    ) {
        let Some(asker) = self.sessions.get((link, session)).map(|known| known.agent.clone()) else { return };
        self.outputs.push_back(Output::Query(link, session, number, Queried { asker, from, id }));
    }

    /// A step of a message, for the trace.
    pub(super) fn hop(&mut self, no: No, step: Step, node: Option<&NodeName>, link: Option<LinkId>) {
        let Some(item) = self.durable.table.get(no) else { return };
        let hop = Hop { key: item.key.clone(), taken: item.head.taken, step, node: node.cloned(), link };
        self.event(Event::Hop(Box::new(hop)));
    }

    /// For whom a broadcast is, if it may pass.
    fn recipients_of(&mut self, head: &Head) -> Result<Vec<AgentAddr>, Refusal> {
        let Target::Broadcast(namespace) = &head.to else {
            return Err(Refusal::unserved("a message to a room"));
        };
        let all = self.directory.agents(Some(namespace));
        let others = all.map(|(_, state)| state.agent.clone()).filter(|agent| *agent != head.from);
        // Nobody comes back for what is for all under the name of a connection that is lost.
        let others = others.filter(|agent| !self.transients.is_away(agent));
        let most = self.config.limits.broadcast_recipients;
        let recipients: Vec<AgentAddr> = others.take(most + 1).collect();
        if recipients.len() > most {
            let message = format!("{namespace} has more than {most} agents: too many at once");
            return Err(Refusal::new(Code::RateLimited, message));
        }
        let (from, id) = (&head.from, &head.id);
        let key = |to: &AgentAddr| MessageKey { from: from.clone(), id: id.clone(), to: to.clone() };
        if !recipients.iter().any(|to| self.durable.table.known(&key(to)).is_some()) {
            self.brake(head)?;
        }
        Ok(recipients)
    }

    /// `sender`: whoever gave it; `None`: its operator.
    pub(super) fn take_new(
        &mut self,
        sender: Option<Sender>,
        key: MessageKey,
        head: Head,
        payload: Bytes,
    ) -> Result<No, Refusal> {
        self.check_age(&head)?;
        let known = self.directory.home(&key.to).map(|(home, _)| home.clone());
        if known.is_none() && !head.create {
            let message = format!("no agent {} was ever registered", key.to);
            return Err(Refusal::new(Code::UnknownRecipient, message));
        }
        let makes = known.is_none();
        let home = known.unwrap_or_else(|| self.config.node.clone());
        self.check_disk()?;
        self.check_size(payload.len())?;
        self.check_room(&key.to, payload.len(), Whose::Clients)?;
        self.check_share(&key.from.namespace, payload.len())?;
        let second = if head.copies > 1 { Some(self.second_machine(&home)?) } else { None };
        if makes {
            // Last: all nodes hear of it, and a message that is refused must not have that done.
            self.create_agent(&key.to)?;
        }
        let no = self.durable.table.next_no();
        let may_come_again = sender.is_some_and(|sender| self.may_come_again(sender, &head));
        let mut item = self.new_item(key, head, payload, Upstream::Sender);
        item.alone = !may_come_again;
        // Where the home is another node, that is the second machine.
        item.other = second.filter(|second| *second != home);
        self.durable.table.insert(no, item);
        self.durable.table.look_again_if_second(no);
        self.hop(no, Step::Taken, None, None);
        Ok(no)
    }

    /// Whether a sender may have given this message away before: to another node, if it was connected there since it
    /// sent it first, or to this one, which gave it back.
    fn may_come_again(&self, sender: Sender, head: &Head) -> bool {
        let age_ms = self.age_at_least_ms(head).saturating_add(AGE_UNSURE_MS);
        let sent = Time(self.now.0.saturating_sub(age_ms.saturating_mul(1_000)));
        let since = self.sessions.get(sender).map_or(self.now, |session| session.since);
        let alone = self.directory.own(&head.from).is_some_and(|own| !own.shared)
            && self.directory.everywhere(&head.from).count() == 1;
        !alone || sent < since.max(self.durable.dark_until).max(self.durable.gave_back)
    }

    /// How old a message is that its sender gives here: by this node's clock, and by the latest one that it has heard of, which
    /// stands still while others are far behind it.
    fn age_at_least_ms(&self, head: &Head) -> u64 {
        let age = |by_ms: u64| by_ms.saturating_sub(head.sent_about_ms(by_ms));
        age(self.wall_ms()).max(age(self.latest_ms()))
    }

    /// An item as it begins.
    pub(super) fn new_item(&self, key: MessageKey, head: Head, payload: Bytes, upstream: Upstream) -> Item {
        let now_ms = self.wall_ms();
        let not_before = head.not_before_ms.unwrap_or(0);
        Item {
            key,
            upstream: vec![upstream],
            payload,
            place: Place::Outbox,
            state: State::Accepted,
            reason: None,
            taken_ms: now_ms,
            sent_ms: self.latest_ms().saturating_sub(self.age_at_least_ms(&head)),
            expires_ms: now_ms.saturating_add(head.ttl_ms.unwrap_or(LONGEST_MS).min(LONGEST_MS)),
            not_before_ms: if not_before > 0 { now_ms.saturating_add(not_before) } else { 0 },
            on_disk: false,
            second: head.copies < 2,
            second_by_ms: now_ms.saturating_add(SECOND_WITHIN_MS),
            ending: false,
            other: None,
            unseen_since: 0,
            redelivered: false,
            peer: None,
            homeless: None,
            to_made: false,
            alone: false,
            restored: false,
            moving: false,
            writes: 0,
            placed: false,
            sent: None,
            hand: None,
            told: None,
            told_at: Time::default(),
            give_up_ms: 0,
            requeues: 0,
            head,
        }
    }

    /// A sender whose clock is right is told when its message may be one that was forgotten.
    pub(super) fn check_age(&self, head: &Head) -> Result<(), Refusal> {
        if let Some(checked) = self.check_number(head) {
            return checked;
        }
        let Some(horizon) = self.durable.table.horizon(&head.from) else { return Ok(()) };
        if head.sent_ms > horizon {
            return Ok(());
        }
        let ago = self.wall_ms().saturating_sub(head.sent_ms) / 1000;
        let message =
            format!("its timestamp is {ago} s ago; whether it came before is not remembered so long");
        Err(Refusal::new(Code::TooOld, message))
    }

    /// Whether a message can ever find room in a mailbox here.
    pub(super) fn check_size(&self, bytes: usize) -> Result<(), Refusal> {
        let most = self.config.limits.mailbox_bytes.min(self.config.limits.node_bytes);
        if bytes <= most {
            return Ok(());
        }
        let message = format!(
            "its payload has {bytes} bytes, and all messages of one recipient together may have {most} at node {}",
            self.config.node
        );
        Err(Refusal::new(Code::TooLarge, message))
    }

    /// Whether the disk takes what it is given, as far as is known. A recipient has a message in its hands before the disk has it: one
    /// that the disk then refuses can't be accepted, nor refused; its sender waits, and no other is to wait like that.
    fn check_disk(&self) -> Result<(), Refusal> {
        if self.durable.refused.is_empty() {
            return Ok(());
        }
        let message = format!(
            "the disk of node {} refuses what it is given; nothing is accepted until it has taken that",
            self.config.node
        );
        Err(Refusal::new(Code::Unavailable, message))
    }

    /// Whether there is room for one message more for this recipient: of those for one of them so many wait here, wherever its
    /// home is, so that one whose home is out of reach does not take the room of all others.
    pub(super) fn check_room(&self, to: &AgentAddr, bytes: usize, whose: Whose) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        let (count, used) = self.mail_for(to);
        if count > 0 && (count >= limits.mailbox_messages || used + bytes > limits.mailbox_bytes) {
            let message = match self.directory.home(to) {
                Some((home, _)) if *home != self.config.node => format!(
                    "{count} messages wait at node {} for {to} until node {home} has them: as many as a mailbox takes",
                    self.config.node
                ),
                _ => format!("the mailbox of {to} is full: {count} messages wait in it"),
            };
            return Err(Refusal::new(Code::MailboxFull, message));
        }
        if self.durable.waiting.len() >= MAX_WAITING {
            let message = format!(
                "the disk of node {} is behind: {MAX_WAITING} messages wait for it",
                self.config.node
            );
            return Err(Refusal::new(Code::Unavailable, message));
        }
        let (messages, most_bytes) = match whose {
            Whose::Clients => (keeping_back(limits.node_messages), keeping_back(limits.node_bytes)),
            Whose::Nodes => (limits.node_messages, limits.node_bytes),
        };
        let table = &self.durable.table;
        if table.len() >= messages || table.bytes + bytes > most_bytes {
            let message = format!(
                "node {} keeps {} messages of {} MiB and has no room for more; its operator sets that by [limits] node_messages and node_mib",
                self.config.node,
                table.len(),
                table.bytes >> 20
            );
            return Err(Refusal::new(Code::Unavailable, message));
        }
        Ok(())
    }

    /// An agent that was never seen gets a mailbox here.
    pub(super) fn create_agent(&mut self, agent: &AgentAddr) -> Result<(), Refusal> {
        if self.sessions.is_registering(agent) {
            // It is about to be known, and better.
            return Ok(());
        }
        let state = AgentState {
            agent: agent.clone(),
            presence: Presence::Away,
            registered_ms: NEVER_MS,
            shared: false,
            capabilities: Vec::new(),
        };
        self.check_created(&state)?;
        self.persist(Record::Agent(state.clone()));
        self.announce_agent(state);
        Ok(())
    }

    /// A registration came to nothing, for which a message waited that may create its recipient.
    pub(in crate::mesh) fn create_if_wanted(&mut self, agent: &AgentAddr) {
        if self.directory.home(agent).is_some() || self.sessions.is_registering(agent) {
            return;
        }
        let table = &self.durable.table;
        let waits = |no: &No| {
            table.get(*no).is_some_and(|item| item.head.create && item.is_ours() && item.homeless.is_none())
        };
        if table.of_recipient(agent).iter().any(waits) {
            // Where there is no room for it the message waits like one whose recipient is gone.
            let _ = self.create_agent(agent);
        }
    }

    /// The same message again, while it is here: its sender is told what it may not have heard.
    fn taken_before(&mut self, no: No) {
        self.hop(no, Step::Recognised, None, None);
        self.add_sender(no);
        let now_ms = self.wall_ms();
        if let Some(item) = self.durable.table.get_mut(no) {
            item.told = None;
            item.second_by_ms = now_ms.saturating_add(SECOND_WITHIN_MS);
        }
        self.ask_for_second(no);
        self.announce(no);
    }

    /// Its sender has given it to this node as well, and is told here what becomes of it: also after a restart.
    pub(super) fn add_sender(&mut self, no: No) {
        let Some(item) = self.durable.table.get_mut(no).filter(|item| !item.is_of_this_node()) else {
            return;
        };
        item.upstream.insert(0, Upstream::Sender);
        if !item.ending {
            item.moving = true;
            self.write_item(no);
            self.unsure_of_second(no);
        }
    }

    fn ended_before(&mut self, key: &MessageKey, head: &Head, state: State, reason: Option<Refusal>) {
        self.recognised(key, head);
        if head.receipt.is_some() {
            let receipt = self.receipt_of(key, state, reason, true);
            self.tell_sender(receipt);
        }
    }

    /// Known by its mark only.
    pub(super) fn recognised(&mut self, key: &MessageKey, head: &Head) {
        let hop = Hop { key: key.clone(), taken: head.taken, step: Step::Recognised, node: None, link: None };
        self.event(Event::Hop(Box::new(hop)));
    }

    /// A receipt as this node gives it.
    pub(super) fn receipt_of(
        &self,
        key: &MessageKey,
        state: State,
        refusal: Option<Refusal>,
        asked: bool,
    ) -> Receipt {
        Receipt {
            to: self.config.node.clone(),
            sender: key.from.clone(),
            id: key.id.clone(),
            recipient: key.to.clone(),
            counts: None,
            node: self.config.node.clone(),
            state,
            refusal,
            asked,
            keeper: self.config.node.clone(),
            hops_left: MAX_HOPS,
        }
    }
}

impl Item {
    /// As it is written.
    pub(super) fn kept(&self, order: No) -> Kept {
        Kept {
            key: self.key.clone(),
            order,
            place: self.place,
            upstream: self.upstream.first().cloned().unwrap_or(Upstream::Sender),
            head: self.head.clone(),
            payload: self.payload.clone(),
            state: self.state,
            reason: self.reason.clone(),
            taken_ms: self.taken_ms,
            unseen_since: self.unseen_since,
            other: self.other.clone(),
            told: false,
        }
    }

    /// What has changed in it, as it is written.
    pub(super) fn change(&self, at_ms: u64) -> Change {
        Change {
            place: self.place,
            state: self.state,
            reason: self.reason.clone(),
            at_ms,
            other: self.other.clone(),
            told: self.told == Some(self.state),
        }
    }
}
