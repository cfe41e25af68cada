//! A durable message from a session of this node: taken, refused, or recognised.

use bytes::Bytes;

use super::copies::SECOND_WITHIN_MS;
use super::table::{Item, Known, No};
use super::{LONGEST_MS, MAX_BYTES, MAX_ITEMS, Waiting};
use crate::mesh::{Event, Hop, Mesh, Output, Queried, Step, Time};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, MessageKey, State, Target};
use crate::wire::frame::{AgentState, MAX_HOPS, Presence, Receipt};
use crate::wire::ids::{AgentAddr, LinkId, MessageId, NodeName, Sequence, SessionNo};
use crate::wire::record::{Change, Kept, Place, Record, Upstream};

/// Messages that may wait for the disk.
const MAX_WAITING: usize = 32_768;
/// Recipients of one message at most.
const MAX_FAN_OUT: usize = 4096;

/// Who handed the message in: refusals go to that session only.
pub(in crate::mesh) type Sender = (LinkId, SessionNo);

impl Mesh {
    /// Takes a message that its entrance and the mesh's checks have passed.
    pub(in crate::mesh) fn take(&mut self, sender: Sender, mut head: Head, payload: Bytes) {
        head.depth = self.depth_of(&head);
        head.taken = self.next_clock();
        let recipients = match self.recipients_of(&head) {
            Ok(recipients) => recipients,
            Err(refusal) => return self.refuse_at(sender, &head, refusal),
        };
        let several = matches!(head.to, Target::Broadcast(_));
        if several && recipients.is_empty() {
            return self.nobody_to_tell(sender, &head);
        }
        let mut taken = Vec::with_capacity(recipients.len());
        for to in recipients {
            let key = MessageKey { from: head.from.clone(), id: head.id.clone(), to };
            match self.durable.table.known(&key) {
                Some(Known::Item(no)) => self.taken_before(no),
                Some(Known::Mark(mark)) => {
                    let (state, reason) = (mark.state, mark.reason.clone());
                    self.ended_before(&key, &head, state, reason);
                }
                None => match self.take_new(key, head.clone(), payload.clone()) {
                    Ok(no) => taken.push(no),
                    Err(refusal) => self.refuse_at(sender, &head, refusal),
                },
            }
        }
        for no in &taken {
            self.place(*no);
        }
        self.pump_all(&taken);
    }

    /// A message of an agent's that its operator sends for it.
    pub(in crate::mesh) fn post(&mut self, number: Sequence, mut head: Head, payload: Bytes) {
        head.taken = self.next_clock();
        let result = match head.to.clone() {
            Target::Agent(to) => {
                let key = MessageKey { from: head.from.clone(), id: head.id.clone(), to };
                self.take_new(key, head, payload)
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
        let Some(Known::Mark(mark)) = self.durable.table.known(&key) else { return };
        let change = Change {
            place: Place::Ended,
            state: mark.state,
            reason: mark.reason.clone(),
            at_ms: self.wall_ms(),
            other: None,
            told: true,
        };
        self.persist(Record::Change(key, change));
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

    fn recipients_of(&mut self, head: &Head) -> Result<Vec<AgentAddr>, Refusal> {
        if let Some(refusal) = self.stands_still() {
            return Err(refusal);
        }
        self.brake(head)?;
        match &head.to {
            Target::Agent(agent) => Ok(vec![agent.clone()]),
            Target::Broadcast(namespace) => {
                let all = self.directory.agents(Some(namespace));
                let others = all.map(|(_, state)| state.agent.clone()).filter(|agent| *agent != head.from);
                let recipients: Vec<AgentAddr> = others.take(MAX_FAN_OUT + 1).collect();
                if recipients.len() > MAX_FAN_OUT {
                    let message = format!("{namespace} has more than {MAX_FAN_OUT} agents: too many at once");
                    return Err(Refusal::new(Code::RateLimited, message));
                }
                Ok(recipients)
            }
            Target::Room(..) => Err(Refusal::unserved("a message to a room")),
        }
    }

    fn take_new(&mut self, key: MessageKey, head: Head, payload: Bytes) -> Result<No, Refusal> {
        self.check_age(&head)?;
        let home = match self.directory.home(&key.to) {
            Some((home, _)) => home.clone(),
            None if head.create => self.create_agent(&key.to),
            None => {
                let message = format!("no agent {} was ever registered", key.to);
                return Err(Refusal::new(Code::UnknownRecipient, message));
            }
        };
        self.check_room(&key.to, payload.len())?;
        let second = if head.copies > 1 { Some(self.second_machine(&home)?) } else { None };
        let no = self.durable.table.next_no();
        let mut item = self.new_item(key, head, payload, Upstream::Sender);
        // Where the home is another node, that is the second machine.
        item.other = second.filter(|second| *second != home);
        self.durable.table.insert(no, item);
        self.durable.table.look_again_if_second(no);
        self.hop(no, Step::Taken, None, None);
        Ok(no)
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
            sent_ms: head.sent_about_ms(now_ms),
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
            homeless_ms: 0,
            was_home: false,
            moving: false,
            placed: false,
            sent: None,
            hand: None,
            told: None,
            told_at: Time::default(),
            requeues: 0,
            head,
        }
    }

    /// A sender whose clock is right is told when its message may be one that was forgotten.
    pub(super) fn check_age(&self, head: &Head) -> Result<(), Refusal> {
        let Some(horizon) = self.durable.table.horizon(&head.from) else { return Ok(()) };
        if head.sent_ms > horizon {
            return Ok(());
        }
        let ago = self.wall_ms().saturating_sub(head.sent_ms) / 1000;
        let message =
            format!("its timestamp is {ago} s ago; whether it came before is not remembered so long");
        Err(Refusal::new(Code::TooOld, message))
    }

    /// Whether there is room for one message more for this recipient.
    pub(super) fn check_room(&self, to: &AgentAddr, bytes: usize) -> Result<(), Refusal> {
        let limits = &self.config.limits;
        if let Some(mailbox) = self.durable.mailboxes.get(to)
            && (mailbox.count() >= limits.mailbox_messages || mailbox.bytes() + bytes > limits.mailbox_bytes)
        {
            let message = format!("the mailbox of {to} is full: {} messages wait in it", mailbox.count());
            return Err(Refusal::new(Code::MailboxFull, message));
        }
        if self.durable.waiting.len() >= MAX_WAITING {
            let message = format!(
                "the disk of node {} is behind: {MAX_WAITING} messages wait for it",
                self.config.node
            );
            return Err(Refusal::new(Code::Unavailable, message));
        }
        let table = &self.durable.table;
        if table.len() >= MAX_ITEMS || table.bytes + bytes > MAX_BYTES {
            let message =
                format!("node {} keeps {} messages and has no room for more", self.config.node, table.len());
            return Err(Refusal::new(Code::Unavailable, message));
        }
        Ok(())
    }

    /// An agent that was never seen gets a mailbox here.
    pub(super) fn create_agent(&mut self, agent: &AgentAddr) -> NodeName {
        let state = AgentState {
            agent: agent.clone(),
            presence: Presence::Away,
            registered_ms: 1,
            shared: false,
            capabilities: Vec::new(),
        };
        self.persist(Record::Agent(state.clone()));
        self.announce_agent(state);
        self.config.node.clone()
    }

    /// The same message again, while it is here: its sender is told what it may not have heard.
    fn taken_before(&mut self, no: No) {
        self.hop(no, Step::Recognised, None, None);
        let now_ms = self.wall_ms();
        if let Some(item) = self.durable.table.get_mut(no) {
            item.told = None;
            if !item.upstream.contains(&Upstream::Sender) {
                item.upstream.push(Upstream::Sender);
            }
            item.second_by_ms = now_ms.saturating_add(SECOND_WITHIN_MS);
        }
        self.ask_for_second(no);
        self.announce(no);
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

    /// A broadcast without recipients has ended with its acceptance.
    fn nobody_to_tell(&mut self, sender: Sender, head: &Head) {
        if head.receipt.is_some() {
            let key = MessageKey { from: head.from.clone(), id: head.id.clone(), to: head.from.clone() };
            let receipt = self.receipt_of(&key, State::Accepted, None, true);
            self.send(sender.0, crate::wire::frame::Frame::Told(sender.1, receipt));
        }
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
            node: self.config.node.clone(),
            state,
            refusal,
            asked,
            keeper: self.config.node.clone(),
            hops_left: MAX_HOPS,
        }
    }

    /// Writes an item; what comes of it is an input.
    pub(super) fn write_item(&mut self, no: No) {
        let Some(record) = self.durable.table.get(no).map(|item| Record::Keep(Box::new(item.kept(no))))
        else {
            return;
        };
        let ticket = self.persist(record);
        self.durable.waiting.insert(ticket, Waiting::Kept(no));
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
