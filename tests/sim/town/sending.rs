//! What clients send, and what they are told of it.

use std::time::Duration;

use trishula::rt::clock;
use trishula::wire::envelope::{Head, Kind, MessageKey, Priority, State, Target};
use trishula::wire::frame::{Frame, Receipt};
use trishula::wire::ids::{MessageId, SessionNo};

use super::{Todo, Town, body, machine_of};
use crate::ledger::{AgentNo, Ledger, MachineNo, Message, MessageNo, Submit, Told};
use crate::rng::Rng;

impl Town {
    pub(super) fn write(&mut self, agent: AgentNo) {
        if self.is_over() {
            return;
        }
        self.within(200..1_200, Todo::Write(agent));
        let other = self.rng.index(self.agents.len() - 1);
        let to = if other >= agent { other + 1 } else { other };
        for _ in 0..if self.rng.percent(15) { 5 } else { 1 } {
            let number = self.compose(agent, to);
            self.send_again(number, false);
        }
    }

    fn compose(&mut self, from: AgentNo, to: AgentNo) -> MessageNo {
        let some = |rng: &mut Rng, share, low, high| {
            rng.percent(share).then(|| Duration::from_millis(rng.range(low, high)))
        };
        let message = |rng: &mut Rng, number| Message {
            from,
            to,
            id: MessageId::new(&format!("d{number}")).unwrap(),
            priority: [3, 3, 3, 1, 2, 5][rng.index(6)],
            ttl: some(rng, 12, 200, 25_000),
            not_before: some(rng, 5, 100, 8_000),
            copies: if rng.percent(10) { 2 } else { 1 },
            asks: rng.percent(85),
            submits: Vec::new(),
            accepted: None,
            accepted_turn: 0,
            told: Vec::new(),
            got: Vec::new(),
            handed: None,
            settled: None,
            requeued: false,
            may_ask: false,
        };
        let number = self.ledger().messages.len();
        let message = message(&mut self.rng, number);
        self.ledger().messages.push(message);
        number
    }

    /// Sends a message that its sender still keeps; `anyway`: also one that it does not.
    pub(super) fn send_again(&mut self, number: MessageNo, anyway: bool) {
        let (from, kept) = {
            let message = &self.ledger().messages[number];
            (message.from, !message.is_off_its_hands())
        };
        if !kept && !anyway {
            return;
        }
        if let Some(ix) = self.agents[from].session.filter(|ix| self.sessions[*ix].ready) {
            self.submit(ix, number);
        }
        if kept {
            self.within(1_500..6_000, Todo::Send(number));
        }
    }

    fn submit(&mut self, ix: usize, number: MessageNo) {
        let (link, at) = (self.sessions[ix].link, self.net.elapsed());
        let head = {
            let mut ledger = self.ledger();
            let turn = ledger.next_turn();
            let again = !ledger.messages[number].submits.is_empty();
            ledger.count(if again { "resends" } else { "messages" });
            let message = &mut ledger.messages[number];
            message.submits.push(Submit { at, machine: machine_of(link), turn });
            self.head_of(message)
        };
        self.net.note(format!("a{} sends {} by session {ix}", self.sessions[ix].agent, head.id));
        let payload = body(&head.id);
        self.to_node(link, &Frame::Submit(SessionNo(ix as u64), head, payload));
    }

    fn head_of(&self, message: &Message) -> Head {
        let ms = |time: Duration| time.as_millis() as u64;
        Head {
            priority: Priority::new(message.priority).unwrap(),
            receipt: Some(if message.asks { State::Acked } else { State::Accepted }),
            ttl_ms: message.ttl.map(ms),
            not_before_ms: message.not_before.map(ms),
            copies: message.copies,
            // A resend is the same message, with the time of the first one.
            sent_ms: clock::wall_ms() - ms(self.net.elapsed() - message.submits[0].at),
            ..Head::new(
                self.agents[message.from].addr.clone(),
                Target::Agent(self.agents[message.to].addr.clone()),
                message.id.clone(),
                Kind::Command,
            )
        }
    }

    /// Receipts that went to a session which was lost are asked for by sending the message again: that is always safe.
    pub(super) fn ask(&mut self) {
        self.within(10_000..11_000, Todo::Ask);
        let untold = |message: &Message| message.asks && message.may_ask && message.end().is_none();
        let numbers: Vec<MessageNo> = {
            let ledger = self.ledger();
            (0..ledger.messages.len()).filter(|number| untold(&ledger.messages[*number])).collect()
        };
        for number in numbers {
            self.ledger().count("receipts asked for");
            self.send_again(number, true);
        }
    }

    pub(super) fn told(&mut self, ix: usize, receipt: &Receipt) {
        let (agent, now) = (self.sessions[ix].agent, self.net.elapsed());
        let Some(number) = Ledger::number_of(&receipt.id) else { return };
        let heard = self.sessions[ix].open && !self.sessions[ix].deaf;
        let code = receipt.refusal.as_ref().map(|refusal| refusal.code);
        self.net
            .note(format!("a{agent} is told {} {:?} {code:?}, heard: {heard}", receipt.id, receipt.state));
        self.is_on_disk(number, receipt);
        let machine = receipt.node.as_str()[1..].parse().unwrap();
        let first = {
            let mut ledger = self.ledger();
            if ledger.messages[number].from != agent {
                ledger.fail(format!("a{agent} was told of another's message: {receipt:?}"));
            }
            if !heard {
                ledger.messages[number].may_ask = true;
                return;
            }
            let first = ledger.messages[number].accepted.is_none();
            ledger.told(number, Told { at: now, state: receipt.state, code, machine, session: ix });
            first && ledger.messages[number].accepted.is_some()
        };
        if first && self.rng.percent(8) {
            self.within(100..20_000, Todo::SendAnyway(number));
        }
    }

    /// Nothing is said that is not on disk.
    fn is_on_disk(&self, number: MessageNo, receipt: &Receipt) {
        let key = MessageKey {
            from: receipt.sender.clone(),
            id: receipt.id.clone(),
            to: receipt.recipient.clone(),
        };
        let all: Vec<_> = self.disks.iter().map(|disk| disk.has(&key)).collect();
        let machine: MachineNo = receipt.node.as_str()[1..].parse().unwrap();
        let fine = match receipt.state {
            State::Accepted => all[machine].is_some(),
            State::Stored | State::Delivered | State::Refused => true,
            end => all.iter().flatten().any(|(_, state)| *state == end),
        };
        let ended = all.iter().flatten().any(|(_, state)| state.is_end());
        let mut ledger = self.ledger();
        let on = if ended { self.disks.len() } else { all.iter().flatten().count() };
        if !fine {
            ledger.fail(format!("d{number} is told {:?}, and the disks say {all:?}", receipt.state));
        } else if receipt.state == State::Accepted && on < usize::from(ledger.messages[number].copies) {
            ledger.fail(format!("d{number} is to be on two machines, and the disks say {all:?}"));
        }
    }
}
