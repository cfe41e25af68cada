//! What a third of the histories have besides: agents that register late and are written to before, agents that
//! unregister, and dead letters that an operator sends again.

use std::collections::BTreeMap;

use bytes::Bytes;
use trishula::mesh::Input;
use trishula::wire::close::Refusal;
use trishula::wire::envelope::{Head, Kind, MessageKey, State, Target};
use trishula::wire::frame::Frame;
use trishula::wire::ids::{MessageId, Sequence};
use trishula::wire::record::Place;

use crate::clock::{MS, SECOND, Us};
use crate::model::{AgentNo, MachineNo, Message, MessageNo, Submit};
use crate::rng::{Rng, mix};
use crate::scenario::add_agent;
use crate::sender::payload_of;
use crate::world::{Event, World};

/// A step that only these histories have.
#[derive(Debug, Clone, Copy)]
pub enum Extra {
    /// An agent unregisters, and comes back after so long.
    Unregister(AgentNo, Us),
    /// The operator of a machine sends one of its dead letters again.
    Retry(MachineNo),
}

/// Every name that they are counted by, and how often each must happen in a thousand histories.
pub const COUNTED: &[(&str, u64)] = &[
    ("agents unregistered", 300),
    ("written to before they registered", 300),
    ("mailboxes made for the unseen", 200),
    ("dead letters sent again", 50),
];

/// Retries that are under way, by the number that their node answers with.
#[derive(Debug, Default)]
pub struct Extras {
    pub on: bool,
    posted: BTreeMap<u64, MessageNo>,
}

/// Whether a seed's history has them: the others stay as they were.
pub fn has_them(seed: u64) -> bool {
    mix(seed ^ 0x6578_7472_6173).is_multiple_of(3)
}

/// One agent more, that comes late, and when the steps are taken.
pub fn plan(world: &mut World, rng: &mut Rng, begin: Us, length: Us) {
    world.extras.on = true;
    let gate = rng.index(world.gates.len());
    let late = add_agent(world, rng, gate, false);
    world.model.unknown.insert(late);
    world.agents[late].away_until = begin + rng.range(2, 30) * SECOND;
    for _ in 0..rng.range(1, 5) {
        let (agent, away) = (rng.index(world.agents.len()), rng.range(100, 20_000) * MS);
        let at = begin + rng.below(length - 10 * SECOND);
        world.at(at, Event::Extra(Extra::Unregister(agent, away)));
    }
    for _ in 0..rng.range(4, 12) {
        let at = begin + 8 * SECOND + rng.below(length - 10 * SECOND);
        world.at(at, Event::Extra(Extra::Retry(rng.index(world.machines.len()))));
    }
}

impl World {
    pub fn extra(&mut self, extra: Extra) {
        if self.quiet {
            return;
        }
        self.trace.note(self.now, || format!("FAULT {extra:?}"));
        match extra {
            Extra::Unregister(agent, away) => self.unregister(agent, away),
            Extra::Retry(m) => self.retry(m),
        }
    }

    /// Whether a message asks for a mailbox, where its recipient was never seen.
    pub fn creates(&self, number: MessageNo) -> bool {
        self.extras.on && mix(self.seed ^ (number as u64) << 24) % 100 < 40
    }

    /// A message is given to a node that may not know its recipient.
    pub fn may_be_unseen(&mut self, m: MachineNo, number: MessageNo, create: bool) {
        let Some(to) = self.model.messages[number].to.filter(|_| self.extras.on) else { return };
        let seen = self.machines[m].mesh.as_ref().is_some_and(|mesh| {
            mesh.agents_seen(None).iter().any(|(_, state)| state.agent == self.agents[to].addr)
        });
        if !seen {
            self.trace.count("written to before they registered");
            if create {
                self.trace.count("mailboxes made for the unseen");
            }
        }
    }

    fn unregister(&mut self, agent: AgentNo, away: Us) {
        let mine = |s: &crate::client::Session| s.agent == agent && s.open && s.ready && !s.deaf;
        let Some(ix) = self.sessions.iter().position(mine) else { return };
        let no = self.sessions[ix].no;
        if !self.send_up(ix, &Frame::Detach(no, true)) {
            return;
        }
        self.trace.count("agents unregistered");
        self.model.unknown.insert(agent);
        let session = &mut self.sessions[ix];
        (session.open, session.ready) = (false, false);
        session.hands.clear();
        (self.agents[agent].away_until, self.agents[agent].home) = (self.now + away, None);
    }

    /// An agent that was not known registers: any other node may have made a mailbox for it before, and has to hand over
    /// what is in that.
    pub fn first_home(&mut self, agent: AgentNo, machine: MachineNo) {
        if self.extras.on {
            let others = (0..self.machines.len()).filter(|other| *other != machine);
            let moves = others.map(|other| (self.now, other, machine)).collect::<Vec<_>>();
            self.model.moves.entry(agent).or_default().extend(moves);
        }
    }

    /// As `trishula dlq retry` does: a new message with a new id, and when that is on disk the old one is dropped.
    fn retry(&mut self, m: MachineNo) {
        let platter = &self.machines[m].disk.platter;
        let dead: Vec<MessageKey> = platter
            .messages
            .values()
            .filter(|kept| kept.place == Place::Dead)
            .map(|kept| kept.key.clone())
            .collect();
        if dead.is_empty() || !self.is_up(m) {
            return;
        }
        let key = dead[self.rng.index(dead.len())].clone();
        let Some(old) = crate::model::Model::number_of(&key.id) else { return };
        let Some(to) = self.agent_called(&key.to) else { return };
        let number = self.model.messages.len();
        self.model.turn += 1;
        let submit = Submit { at: self.now, machine: m, turn: self.model.turn, known: Default::default() };
        let before = &self.model.messages[old];
        self.model.messages.push(Message {
            to: Some(to),
            id: MessageId::new(&format!("m{number}")).unwrap(),
            ttl_ms: None,
            not_before_ms: None,
            copies: 1,
            wish: None,
            first_sent: self.now,
            submits: vec![submit],
            accepted: None,
            accepted_turn: 0,
            refused: false,
            create: false,
            retry_of: Some(key.clone()),
            parts: Default::default(),
            ..before.clone()
        });
        self.extras.posted.insert(number as u64, number);
        let message = &self.model.messages[number];
        let head = Head {
            priority: message.priority,
            sent_ms: self.machines[m].clock.wall_ms(self.now),
            retry_of: Some(key.id.clone()),
            ..Head::new(key.from, Target::Agent(key.to), message.id.clone(), Kind::Command)
        };
        let payload = Bytes::from(payload_of(number));
        self.input(m, Input::Post(Sequence(number as u64), Box::new(head), payload));
    }

    /// The node takes the retry, or does not.
    pub fn posted(&mut self, number: Sequence, result: Result<(), Refusal>) {
        let Some(number) = self.extras.posted.remove(&number.0) else { return };
        self.trace.note(self.now, || format!("m{number} is posted: {result:?}"));
        match result {
            Ok(()) => self.trace.count("dead letters sent again"),
            Err(_) => self.model.messages[number].refused = true,
        }
    }

    /// A message is on a disk: nobody but that tells the operator that a retry was accepted. Then the old one is dropped.
    pub fn retry_is_on_disk(&mut self, m: MachineNo, number: MessageNo) {
        let message = &mut self.model.messages[number];
        let Some(old) = message.retry_of.clone().filter(|_| message.accepted.is_none()) else { return };
        message.accepted = Some(self.now);
        let life = self.machines[m].life;
        self.at(self.now, Event::Input(m, life, Box::new(Input::DropDead(old))));
    }
}

impl Message {
    /// It died, as a disk says. Its sender was told, perhaps by a session that was lost, or the record is gone by which it
    /// would have been.
    pub fn died(&self, to: AgentNo) -> bool {
        self.parts.get(&to).is_some_and(|part| {
            let told = part.end_sent || !part.excuses.is_empty();
            told && part.on_disk.iter().any(|(_, _, state)| *state == State::Dead)
        })
    }
}
