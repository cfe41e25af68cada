//! Durable messages in a session's hands: each is written, and then acknowledged or refused, by the client's own word
//! or by the pong behind it; its node is told of both (docs/protocol.md section 7).

use std::collections::VecDeque;
use std::sync::Arc;

use super::Session;
use crate::gateway::carrier::Carrier;
use crate::gateway::hub::Delivery;
use crate::rt::queue::Refused;
use crate::wire::client::AckMode;
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, Kind, State, Target};
use crate::wire::frame::{Deliver, Frame, Settlement};
use crate::wire::ids::{AgentAddr, LinkId, MessageId};

/// Settlements that wait for others, so that one frame carries them, while the client has more to say.
const GATHERED: usize = 64;

/// What a session holds. The node hands out no more than the session's window twice over (once for priority 1), and
/// that bounds everything here.
#[derive(Debug, Default)]
pub(super) struct Hands {
    /// The link that all of it came by.
    link: Option<LinkId>,
    /// In the order in which they were given to the carrier.
    held: VecDeque<Held>,
    /// What the node is to be told, in this order.
    settled: Vec<(u64, Settlement)>,
    /// Messages taken so far.
    taken: u64,
    /// Of these, so many lie before the last ping.
    pinged: u64,
    /// Pings sent so far; the last one's number.
    pings: u64,
    /// Whether the last ping has no pong yet.
    awaited: bool,
}

#[derive(Debug)]
struct Held {
    tag: u64,
    /// The how-manieth that was taken.
    place: u64,
    written: bool,
    deliver: Arc<Deliver>,
}

impl Held {
    fn is(&self, from: &AgentAddr, id: &MessageId) -> bool {
        self.deliver.head.id == *id && self.deliver.head.from == *from
    }
}

impl Hands {
    /// What was handed over is the node's again: it hands it out anew.
    pub(super) fn forget(&mut self) {
        let (taken, pings) = (self.taken, self.pings);
        *self = Hands { taken, pings, pinged: taken, ..Hands::default() };
    }

    /// A message goes to the carrier.
    pub(super) fn take(&mut self, delivery: &Delivery) {
        // Of an earlier link nothing is left: the hub says so before this one brings anything.
        self.link = Some(delivery.link);
        let head = &delivery.deliver.head;
        if delivery.handing.redelivered {
            // Handed out anew by the same node: its earlier tag means nothing any more.
            self.held.retain(|held| !held.is(&head.from, &head.id));
        }
        self.taken += 1;
        let deliver = delivery.deliver.clone();
        self.held.push_back(Held { tag: delivery.handing.tag, place: self.taken, written: false, deliver });
    }

    /// All that the carrier was given is written.
    fn flushed(&mut self) {
        let written = self.held.iter().rev().take_while(|held| !held.written).count();
        let from = self.held.len() - written;
        for held in self.held.range_mut(from..) {
            held.written = true;
            self.settled.push((held.tag, Settlement::Written));
        }
    }

    /// Whether something was taken behind the last ping, and that ping has its pong.
    fn wants_ping(&self) -> bool {
        !self.awaited && self.held.back().is_some_and(|last| last.place > self.pinged)
    }

    /// The number of a ping that leaves now, behind all that was taken.
    pub(super) fn next_ping(&mut self) -> u64 {
        self.pings += 1;
        (self.pinged, self.awaited) = (self.taken, true);
        self.pings
    }

    /// The client has read everything before this ping. `true`: it was the last one.
    fn pong(&mut self, number: u64) -> bool {
        let answered = self.awaited && number == self.pings;
        self.awaited &= !answered;
        answered
    }

    /// Everything before the last ping is acknowledged.
    fn ack_pinged(&mut self) {
        let pinged = self.pinged;
        let acked = self.held.partition_point(|held| held.place <= pinged);
        for held in self.held.drain(..acked).collect::<Vec<_>>() {
            self.end(held, Settlement::Acked);
        }
    }

    /// Settles one message; answers what its sender asked for. `None`: it is not in hand.
    fn settle(&mut self, from: &AgentAddr, id: &MessageId, settlement: Settlement) -> Option<Option<State>> {
        let at = self.held.iter().position(|held| held.is(from, id))?;
        let held = self.held.remove(at)?;
        let wish = held.deliver.head.receipt;
        self.end(held, settlement);
        Some(wish)
    }

    /// Who speaks of a message has got it, whatever the flush says.
    fn end(&mut self, held: Held, settlement: Settlement) {
        if !held.written {
            self.settled.push((held.tag, Settlement::Written));
        }
        self.settled.push((held.tag, settlement));
    }
}

impl<C: Carrier> Session<C> {
    /// Whether pongs acknowledge.
    pub(super) fn acks_by_pong(&self) -> bool {
        self.carrier.has_ping() && self.register.ack != Some(AckMode::Manual)
    }

    /// Whether a handing is still this session's: its link is in use, and it is for the agent that the session is now.
    pub(super) fn is_ours(&self, delivery: &Delivery, agent: &AgentAddr) -> bool {
        let to = &delivery.deliver.head.to;
        self.seat.is_current(delivery.link) && !matches!(to, Target::Agent(to) if to != agent)
    }

    /// The number of the ping to send behind what was written, where one is to be sent.
    pub(super) fn ack_ping(&mut self) -> Option<u64> {
        (self.acks_by_pong() && self.hands.wants_ping()).then(|| self.hands.next_ping())
    }

    pub(super) fn pong(&mut self, number: u64) {
        if self.hands.pong(number) && self.acks_by_pong() {
            self.hands.ack_pinged();
        }
    }

    /// Everything that the carrier was given is written.
    pub(super) fn written(&mut self) {
        self.hands.flushed();
        self.tell_settled();
    }

    /// The client's ACK of a message in its hands. `true`: its sender is told by a receipt, and the ACK goes no further.
    pub(super) fn acknowledged(&mut self, head: &Head) -> bool {
        let (Kind::Ack, Some(id), Target::Agent(from)) = (head.kind, &head.reply_to, &head.to) else {
            return false;
        };
        self.hands.settle(from, id, Settlement::Acked) == Some(Some(State::Acked))
    }

    pub(super) fn nack(
        &mut self,
        to: &Target,
        id: &MessageId,
        reason: String,
        requeue: bool,
    ) -> Result<(), Refusal> {
        if self.agent.is_none() {
            return Err(Refusal::new(Code::NotRegistered, "NACK needs a registered agent that refuses"));
        }
        let settlement = if requeue { Settlement::Requeued(reason) } else { Settlement::Nacked(reason) };
        let settled = match to {
            Target::Agent(from) => self.hands.settle(from, id, settlement),
            _ => None,
        };
        settled.map(|_| ()).ok_or_else(|| {
            Refusal::new(Code::NotInHand, format!("no message {id} of {to} waits for its ACK or NACK here"))
        })
    }

    /// Nothing more is to be read at the moment, or much was: the node is told.
    pub(super) fn tell_gathered(&mut self, idle: bool) {
        if idle || self.hands.settled.len() >= GATHERED {
            self.tell_settled();
        }
    }

    /// Tells the node what became of its messages. A lane without room is tried again by the timer.
    pub(super) fn tell_settled(&mut self) {
        if self.hands.settled.is_empty() {
            return;
        }
        // A message may overtake the answer to the registration; then the link comes with that.
        let Some((link, _)) = self.link.as_ref().filter(|(link, _)| self.hands.link == Some(link.id()))
        else {
            return;
        };
        let frame = Frame::Settle(self.seat.no, std::mem::take(&mut self.hands.settled));
        if let (Err(Refused::Full(())), Frame::Settle(_, settled)) = (link.try_send(&frame), frame) {
            self.hands.settled = settled;
            self.try_again();
        }
    }
}

#[cfg(test)]
mod tests;
