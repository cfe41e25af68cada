//! What senders do: write, keep what is not accepted and send it again, and take note of what they are told.

use std::collections::BTreeSet;

use bytes::Bytes;
use trishula::wire::envelope::{Class, Head, Kind, Priority, State, Target};
use trishula::wire::frame::{Forward, Frame, Outcome, Receipt};
use trishula::wire::ids::{MessageId, Sequence};
use trishula::wire::record::Place;

use crate::client::SessionIx;
use crate::clock::MS;
use crate::model::{AgentNo, MachineNo, Message, MessageNo, Model, Submit, Told};
use crate::world::{Event, World};

/// One message in so many is large.
const LARGE_ONE_IN: MessageNo = 64;

impl World {
    /// An agent writes a few messages, to one recipient at a time more often than not.
    pub fn write(&mut self, agent: AgentNo) {
        if self.quiet || self.now > self.write_until {
            return;
        }
        let burst = if self.rng.percent(15) { self.rng.range(4, 12) } else { 1 };
        let to = self.somebody_but(agent);
        for _ in 0..burst {
            let number = self.compose(agent, to);
            self.again(number, false);
        }
        let wait = self.rng.range(50, self.mix.pause_ms * 2) * MS;
        self.after(wait, Event::Write(agent));
    }

    fn somebody_but(&mut self, agent: AgentNo) -> AgentNo {
        let other = self.rng.index(self.agents.len() - 1);
        if other >= agent { other + 1 } else { other }
    }

    /// A message that is not sent yet.
    pub fn compose(&mut self, from: AgentNo, to: AgentNo) -> MessageNo {
        let mix = self.mix;
        let number = self.model.messages.len();
        let durable = self.rng.percent(mix.durable);
        let broadcast = self.rng.percent(mix.broadcast);
        let priority = [3, 3, 3, 3, 1, 1, 2, 5][self.rng.index(8)];
        let some = |rng: &mut crate::rng::Rng, share, low, high| {
            (durable && rng.percent(share)).then(|| rng.range(low, high))
        };
        let ttl_ms = some(&mut self.rng, mix.ttl, 200, 40_000);
        let not_before_ms = some(&mut self.rng, mix.not_before, 100, 20_000);
        let copies = if durable && !broadcast && self.rng.percent(mix.copies) { 2 } else { 1 };
        let wish = match self.rng.below(10) {
            _ if !durable => [None, Some(State::Delivered)][usize::from(!broadcast)],
            0..7 if !broadcast => Some(State::Acked),
            7 if !broadcast => Some(State::Delivered),
            8 if !broadcast => Some(State::Stored),
            _ => Some(State::Accepted),
        };
        self.model.messages.push(Message {
            from,
            to: (!broadcast).then_some(to),
            id: MessageId::new(&format!("m{number}")).unwrap(),
            class: if durable { Class::Durable } else { Class::Live },
            priority: Priority::new(priority).unwrap(),
            ttl_ms,
            not_before_ms,
            copies,
            wish,
            first_sent: self.now,
            submits: Vec::new(),
            accepted: None,
            accepted_turn: 0,
            refused: false,
            partly_refused: false,
            create: self.creates(number),
            retry_of: None,
            parts: Default::default(),
        });
        number
    }

    /// Sends a message (again), unless its sender knows enough of it; `always`: then as well.
    pub fn again(&mut self, number: MessageNo, always: bool) {
        let message = &self.model.messages[number];
        let (from, settled, live) = (message.from, message.is_settled(), !message.is_durable());
        if settled && !always {
            return;
        }
        if let Some(ix) = self.session_to_write(from) {
            if live && self.agents[from].pending.contains(&number) {
                return;
            }
            self.submit(ix, number);
        }
        if !settled {
            self.agents[from].pending.insert(number);
            let wait = self.rng.range(1_500, 6_000) * MS;
            self.after(wait, Event::Again(number, false));
        }
    }

    pub fn submit(&mut self, ix: SessionIx, number: MessageNo) {
        let message = &self.model.messages[number];
        let from = self.agents[message.from].addr.clone();
        let gate = self.sessions[ix].gate;
        let clock = &self.machines[self.gates[gate].machine].clock;
        let to = match message.to {
            Some(to) => Target::Agent(self.agents[to].addr.clone()),
            None => Target::Broadcast(from.namespace.clone()),
        };
        let head = Head {
            priority: message.priority,
            class: message.class,
            receipt: message.wish,
            ttl_ms: message.ttl_ms,
            not_before_ms: message.not_before_ms,
            copies: message.copies,
            create: message.create,
            sent_ms: self.bounds.stamp(number, clock.wall_ms(message.first_sent)),
            ..Head::new(from, to, message.id.clone(), Kind::Command)
        };
        let no = self.sessions[ix].no;
        self.send_up(ix, &Frame::Submit(no, head, Bytes::from(payload_of(number))));
    }

    /// A node is given a message by its sender.
    pub fn submitted(&mut self, machine: MachineNo, head: &Head) {
        let Some(number) = Model::number_of(&head.id) else { return };
        self.model.turn += 1;
        let known = match (&head.to, &self.machines[machine].mesh) {
            (Target::Broadcast(namespace), Some(mesh)) => {
                let seen = mesh.agents_seen(Some(namespace));
                let seen = seen.into_iter().filter(|(_, state)| state.agent != head.from);
                seen.filter_map(|(_, state)| self.agent_called(&state.agent)).collect()
            }
            _ => Default::default(),
        };
        self.trace.count(if self.model.messages[number].submits.is_empty() { "messages" } else { "resends" });
        self.may_be_unseen(machine, number, head.create);
        let (at, turn) = (self.now, self.model.turn);
        self.model.messages[number].submits.push(Submit { at, machine, turn, known });
    }

    pub fn told(&mut self, ix: SessionIx, receipt: &Receipt) {
        if self.sessions[ix].deaf {
            return;
        }
        let sender = self.sessions[ix].agent;
        let Some(origin) = self.machine_called(&receipt.node) else { return };
        let recipient = self.agent_called(&receipt.recipient);
        let keeper = self.machine_called(&receipt.keeper).unwrap_or(origin);
        let Some(message) = self.model.get(&receipt.id) else { return };
        if message.from != sender || receipt.sender != self.agents[sender].addr {
            return self.fail(|| format!("a{sender} was told of another's message: {receipt:?}"));
        }
        let code = receipt.refusal.as_ref().map(|refusal| refusal.code);
        let crashes = self.trace.counts.get("nodes crashed").copied().unwrap_or(0);
        let told = Told { at: self.now, state: receipt.state, code, origin, keeper, session: ix, crashes };
        self.trace.note(self.now, || format!("a{sender} is told {told:?} of {}", receipt.id));
        let number = Model::number_of(&receipt.id).unwrap_or_default();
        let message = &mut self.model.messages[number];
        let first = !message.is_settled();
        if receipt.state == State::Refused {
            message.refused |= message.accepted.is_none();
        } else if message.accepted.is_none() {
            message.accepted = Some(self.now);
            message.accepted_turn = message.submits.last().map_or(0, |submit| submit.turn);
        }
        message.partly_refused |= receipt.counts.is_some_and(|(_, refused)| refused > 0);
        let durable = message.is_durable();
        let whole = message.to.is_none() && receipt.recipient == self.agents[sender].addr;
        let recipient = if whole { Some(sender) } else { recipient };
        if let Some(recipient) = recipient {
            message.parts.entry(recipient).or_default().told.push(told);
        }
        if durable {
            self.count_limit(receipt);
            self.trace.count(told_as(receipt.state));
        }
        self.agents[sender].pending.remove(&number);
        let again = code.is_some_and(|code| code.retry()) && durable && !self.quiet;
        if again && self.model.messages[number].accepted.is_none() && self.rng.percent(50) {
            let wait = self.rng.range(200, 5_000) * MS;
            self.after(wait, Event::Again(number, true));
        }
        if first && self.model.messages[number].accepted.is_some() && self.rng.percent(10) {
            let wait = self.rng.range(100, 40_000) * MS;
            self.after(wait, Event::Again(number, true));
        }
        if let Some(recipient) = recipient.filter(|_| !whole) {
            self.check_told(number, recipient);
        }
    }

    // What nodes say, looked at before it leaves them.

    /// Nothing is said that is not on disk.
    pub fn watch(&mut self, m: MachineNo, frame: &Frame) {
        match frame {
            Frame::Deliver(deliver, _) => {
                self.model.turn += 1;
                let (now, turn) = (self.now, self.model.turn);
                for handing in &deliver.to {
                    let Some(session) = self.sessions.get(handing.session.0 as usize) else { continue };
                    let agent = session.agent;
                    let Some(message) = self.model.get(&deliver.head.id) else { continue };
                    let part = message.parts.entry(agent).or_default();
                    part.handed.get_or_insert((now, turn));
                }
            }
            Frame::Forward(forward, _) | Frame::Hold(forward, _) => self.remember_numbers(forward),
            Frame::Told(_, receipt) => {
                let origin = self.machine_called(&receipt.node);
                let recipient = self.agent_called(&receipt.recipient);
                if let (true, Some(to)) = (receipt.state.is_end(), recipient)
                    && let Some(message) = self.model.get(&receipt.id)
                {
                    message.parts.entry(to).or_default().end_sent = true;
                }
                match receipt.counts {
                    Some((accepted, _)) => self.check_count(origin.unwrap_or(m), accepted, &receipt.id),
                    None => {
                        self.check_on_disk(origin, m, receipt.state, &receipt.id, recipient);
                        self.check_copies(m, receipt.state, &receipt.id, recipient);
                    }
                }
            }
            Frame::Confirm(confirm) if self.machines[m].name == confirm.node => {
                for (number, outcome) in &confirm.reports {
                    let name = (confirm.to.clone(), confirm.incarnation, *number);
                    let Some((key, to)) = self.numbers.get(&name).cloned() else { continue };
                    let state = match outcome {
                        Outcome::Reached(state, _) => *state,
                        Outcome::Held => {
                            self.check_held(m, &key, to);
                            continue;
                        }
                        _ => continue,
                    };
                    self.check_on_disk(Some(m), m, state, &key, Some(to));
                }
            }
            _ => {}
        }
    }

    fn remember_numbers(&mut self, forward: &Forward) {
        for dest in forward.to.iter().filter(|dest| dest.number != Sequence(0)) {
            let to = match (&dest.agent, &forward.head.to) {
                (Some(agent), _) | (None, Target::Agent(agent)) => self.agent_called(agent),
                _ => None,
            };
            let Some(to) = to else { continue };
            let name = (forward.origin.clone(), forward.incarnation, dest.number);
            let now = (forward.head.id.clone(), to);
            if let Some(before) = self.numbers.insert(name.clone(), now.clone())
                && before != now
            {
                return self.fail(|| format!("{name:?} names two messages: {before:?} and {now:?}"));
            }
        }
    }

    /// What is accepted to be on two machines is on the disks of two, or has ended.
    fn check_copies(&mut self, m: MachineNo, state: State, id: &MessageId, to: Option<AgentNo>) {
        let Some(message) = self.model.get(id).filter(|message| message.copies > 1 && message.to.is_some())
        else {
            return;
        };
        let Some(part) = to.and_then(|to| message.parts.get(&to)) else { return };
        let machines: BTreeSet<MachineNo> = part.on_disk.iter().map(|(machine, ..)| *machine).collect();
        let ended = part.on_disk.iter().any(|(.., state)| state.is_end());
        if state == State::Accepted && !ended && machines.len() < 2 {
            self.fail(|| format!("n{m} says that {id} is on two machines, and it is on {machines:?}"));
        }
    }

    fn check_held(&mut self, m: MachineNo, id: &MessageId, to: AgentNo) {
        let Some(part) = self.model.get(id).and_then(|message| message.parts.get(&to)) else { return };
        if !part.on_disk.iter().any(|(machine, ..)| *machine == m) {
            self.fail(|| format!("n{m} says that it holds a copy of {id}, and has none on disk"));
        }
    }

    /// A broadcast is told to be accepted for so many: all of them are on disk here.
    fn check_count(&mut self, m: MachineNo, accepted: u32, id: &MessageId) {
        let Some(message) = self.model.get(id).filter(|message| message.is_durable()) else { return };
        let here = |part: &&crate::model::Part| part.on_disk.iter().any(|(machine, ..)| *machine == m);
        let on_disk = message.parts.values().filter(here).count();
        if (on_disk as u32) < accepted {
            self.fail(|| format!("n{m} has accepted {id} for {accepted}, and has {on_disk} on disk"));
        }
    }

    fn check_on_disk(
        &mut self,
        told_at: Option<MachineNo>,
        m: MachineNo,
        state: State,
        id: &MessageId,
        recipient: Option<AgentNo>,
    ) {
        let message = Model::number_of(id).and_then(|number| self.model.messages.get(number));
        let Some(message) = message.filter(|message| message.is_durable()) else { return };
        if state == State::Refused {
            return;
        }
        let parts: Vec<&crate::model::Part> = match (message.to, recipient) {
            (None, Some(agent)) if agent == message.from => message.parts.values().collect(),
            (_, Some(agent)) => message.parts.get(&agent).into_iter().collect(),
            (_, None) => return,
        };
        let is_there = |part: &&crate::model::Part| {
            part.on_disk.iter().any(|(machine, place, on_disk)| match state {
                State::Accepted => told_at.is_none_or(|at| at == *machine),
                // One that waits to be passed on is stored if it was: or taken for the home's own, which it is asking about.
                State::Stored | State::Delivered if *place == Place::Outbox => *on_disk >= State::Stored,
                State::Stored | State::Delivered => *place != Place::Copy,
                end => *on_disk == end,
            })
        };
        if !parts.iter().any(is_there) {
            // A node that had it on its way to the home, and became the home, has it.
            let home = recipient.and_then(|to| self.home_seen_from(m, to));
            let here = parts.iter().any(|part| part.on_disk.iter().any(|(machine, ..)| *machine == m));
            if matches!(state, State::Stored | State::Delivered) && home == Some(m) && here {
                return;
            }
            let shown = parts.iter().map(|part| format!("{:?}", part.on_disk)).collect::<Vec<_>>();
            self.fail(|| format!("n{m} says that {id} is {state:?}, and that is on no disk: {shown:?}"));
        }
    }

    fn home_seen_from(&self, m: MachineNo, agent: AgentNo) -> Option<MachineNo> {
        let seen = self.machines[m].mesh.as_ref()?.agents_seen(None);
        let (node, _) = seen.into_iter().find(|(_, state)| state.agent == self.agents[agent].addr)?;
        self.machine_called(&node)
    }
}

/// Some are large enough to leave their flow's lane.
pub fn payload_of(number: MessageNo) -> String {
    let mut text = format!("the content of m{number}");
    if number % LARGE_ONE_IN == LARGE_ONE_IN - 1 {
        text.extend(std::iter::repeat_n('.', trishula::link::LARGE));
    }
    text
}

/// By what name a state that was told is counted.
pub fn told_as(state: State) -> &'static str {
    match state {
        State::Accepted => "told accepted",
        State::Stored => "told stored",
        State::Delivered => "told delivered",
        State::Acked => "told acked",
        State::Nacked => "told nacked",
        State::Expired => "told expired",
        State::Dead => "told dead",
        State::Refused => "told refused",
    }
}
