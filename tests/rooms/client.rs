//! What a reader or publisher does: it connects at some entrance, subscribes from where it was, publishes, and sends again
//! what was not accepted.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::{Value, json};
use trishula::gateway::readers::{RoomNews, RoomSay, Wish};
use trishula::wire::envelope::{Head, Kind, State, Target};
use trishula::wire::frame::{Attach, Frame, RoomAsk, RoomQuestion};
use trishula::wire::ids::{AgentAddr, MessageId, Namespace, RoomName, Sequence, SessionNo};
use trishula::wire::room::{RoomKey, Vector};

use crate::clock::{MS, SECOND, Us};
use crate::world::{Event, World};

/// A publish without an answer is sent again after so long.
const SEND_AGAIN: Us = 2 * SECOND;

pub fn namespace() -> Namespace {
    Namespace::new("trishula").unwrap()
}

pub fn room_name() -> RoomName {
    RoomName::new("deploys").unwrap()
}

pub struct Client {
    pub agent: AgentAddr,
    pub gate: usize,
    pub session: Option<SessionNo>,
    /// It sent SUBSCRIBE in this session.
    subscribed: bool,
    /// The cursor of the last thing that it got.
    cursor: Option<String>,
    place: Vector,
    /// What it need not get: it was there before it came, or it was told that something is missing.
    pub excused: Vector,
    pub got: BTreeSet<String>,
    pending: BTreeMap<String, Us>,
    away_until: Us,
    pause: Us,
    writes: bool,
    pub lapses: usize,
}

impl Client {
    pub fn new(n: usize, gate: usize, pause: Us, writes: bool) -> Client {
        Client {
            agent: AgentAddr::parse(&format!("c{n}"), &namespace()).unwrap(),
            gate,
            session: None,
            subscribed: false,
            cursor: None,
            place: Vector::default(),
            excused: Vector::default(),
            got: BTreeSet::new(),
            pending: BTreeMap::new(),
            away_until: 0,
            pause,
            writes,
            lapses: 0,
        }
    }

    /// Its connection is gone.
    pub fn lost(&mut self) {
        (self.session, self.subscribed) = (None, false);
    }

    pub fn is_done(&self) -> bool {
        self.pending.is_empty()
    }
}

impl World {
    /// A client's turn.
    pub fn act(&mut self, c: usize) {
        let pause = self.clients[c].pause;
        let next = self.now + pause / 2 + self.rng.below(pause);
        self.at(next, Event::Act(c));
        if self.clients[c].away_until > self.now {
            return;
        }
        let Some(session) = self.clients[c].session else { return self.connect(c) };
        let gate = self.clients[c].gate;
        if !self.quiet && self.rng.percent(3) {
            return self.go(c, session);
        }
        if self.gates[gate].wire.is_none() {
            return;
        }
        if !self.clients[c].subscribed {
            self.clients[c].subscribed = true;
            let cursor = self.clients[c].cursor.as_deref().map(|text| Vector::from_cursor(text).unwrap());
            self.note(|| format!("{} subscribes from {cursor:?}", self.clients[c].agent));
            let room = RoomKey::new(namespace(), room_name());
            let wish = Wish { room, id: None, cursor, history: 0, presence: true, most: None };
            return self.subscribe(gate, session, wish);
        }
        let registered = self.gates[gate].sessions.get(&session).is_some_and(|seat| seat.registered);
        if !registered {
            return;
        }
        let due: Vec<String> = {
            let now = self.now;
            let pending = self.clients[c].pending.iter();
            pending.filter(|(_, at)| **at + SEND_AGAIN <= now).map(|(id, _)| id.clone()).collect()
        };
        for id in due {
            self.send_publish(c, &id);
        }
        if self.clients[c].writes && self.now < self.write_until {
            let id = self.model.next_id();
            self.send_publish(c, &id);
        }
    }

    fn send_publish(&mut self, c: usize, id: &str) {
        let (gate, Some(session)) = (self.clients[c].gate, self.clients[c].session) else { return };
        self.clients[c].pending.insert(id.to_owned(), self.now);
        let from = self.clients[c].agent.clone();
        let text = json!({"type": "STATUS", "from": from.name.as_str(), "id": id}).to_string();
        let to = Target::Room(namespace(), room_name());
        let mut head = Head::new(from, to, MessageId::new(id).unwrap(), Kind::Status);
        head.receipt = Some(State::Accepted);
        self.tell_node(gate, &Frame::Submit(session, head, Bytes::from(text)));
    }

    fn connect(&mut self, c: usize) {
        let gate = match self.rng.percent(50) {
            true => self.clients[c].gate,
            false => self.rng.index(self.gates.len()),
        };
        if !self.gates[gate].on {
            return;
        }
        let attach = Attach {
            session: SessionNo(0),
            agent: self.clients[c].agent.clone(),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: self.machines[self.gates[gate].machine].clock.wall_ms(self.now),
            resumed: false,
            window: 64,
            transient: false,
        };
        let no = self.open(gate, c, attach);
        self.note(|| format!("{} connects at gate {gate} as {no}", self.clients[c].agent));
        let client = &mut self.clients[c];
        (client.gate, client.session, client.subscribed) = (gate, Some(no), false);
    }

    /// It closes its connection, and is back later, perhaps elsewhere.
    fn go(&mut self, c: usize, session: SessionNo) {
        let gate = self.clients[c].gate;
        self.close(gate, session);
        self.clients[c].lost();
        let away = self.rng.below(6_000) * MS;
        self.clients[c].away_until = self.now + away;
    }

    pub fn accepted(&mut self, c: usize, id: &MessageId) {
        self.clients[c].pending.remove(id.as_str());
        self.model.accepted.insert(id.as_str().to_owned());
    }

    /// What a client reads from its socket.
    pub fn told(&mut self, c: usize, news: RoomNews) {
        match news.say {
            Some((_, RoomSay::Joined(joined))) => {
                let cursor = Vector::from_cursor(&joined.cursor).unwrap();
                self.note(|| {
                    format!(
                        "{} SUBSCRIBED recovered {} at {cursor:?}",
                        self.clients[c].agent, joined.recovered
                    )
                });
                let client = &mut self.clients[c];
                let first = client.cursor.is_none();
                if !joined.recovered {
                    client.lapses += 1;
                    self.model.lapses += 1;
                }
                if first || !joined.recovered {
                    client.excused.merge(&cursor);
                }
                let back = client.place.at.iter().find(|(origin, at)| !cursor.covers(origin, **at));
                if let Some((origin, at)) = back {
                    let why = format!("{} was put back with {origin} from {at:?}", client.agent);
                    return self.model.breaks(why);
                }
                client.place = cursor;
                client.cursor = Some(joined.cursor);
            }
            Some((_, RoomSay::Refused(refusal))) => {
                self.note(|| format!("{} is refused: {refusal}", self.clients[c].agent));
                self.clients[c].subscribed = false;
            }
            _ => {}
        }
        for text in news.texts {
            self.read(c, &text);
        }
    }

    fn read(&mut self, c: usize, text: &[u8]) {
        let frame: Value = serde_json::from_slice(text).unwrap();
        let (id, cursor) = (frame["id"].as_str().unwrap().to_owned(), frame["cursor"].as_str().unwrap());
        let place = Vector::from_cursor(cursor).unwrap();
        self.note(|| format!("{} gets {id}", self.clients[c].agent));
        let client = &mut self.clients[c];
        let back = client.place.at.iter().any(|(origin, at)| !place.covers(origin, *at));
        let moved = |(origin, at): &(trishula::wire::ids::NodeName, _)| {
            place.get(origin) == *at && !client.place.covers(origin, *at)
        };
        let known = self.model.places.get(&id).is_some_and(|places| places.iter().any(moved));
        if back || !known {
            let why =
                format!("{} got {id} out of its order: {:?} then {place:?}", client.agent, client.place);
            return self.model.breaks(why);
        }
        client.place = place;
        client.cursor = Some(cursor.to_owned());
        self.model.read += 1;
        if client.got.insert(id.clone()) {
            return;
        }
        // Its sender gave it to two nodes, or when the history did not reach back to it any more: a reader that goes to the
        // other one while these do not see each other gets it from both.
        if self.model.places[&id].len() > 1 {
            self.model.twins += 1;
        } else {
            let why = format!("{} got {id} twice", client.agent);
            self.model.breaks(why);
        }
    }

    /// Asks every entrance who is in the room.
    pub fn ask_members(&mut self) {
        for gate in 0..self.gates.len() {
            let session = self.gates[gate].sessions.iter().find(|(_, seat)| seat.registered);
            let Some(session) = session.map(|(no, _)| *no) else { continue };
            let question = RoomQuestion::Members { bytes: 10_000 };
            let ask = RoomAsk { session, number: Sequence(1), room: room_name(), question };
            self.tell_node(gate, &Frame::RoomAsk(ask));
        }
    }

    pub fn answered(&mut self, gate: usize, payload: &[u8]) {
        let answer: Value = serde_json::from_slice(payload).unwrap();
        let members = answer["members"].as_array().unwrap();
        let members = members.iter().map(|member| member.as_str().unwrap().to_owned()).collect();
        self.model.members.insert(gate, members);
    }

    /// Agents that have subscribed now.
    pub fn subscribers(&self) -> BTreeSet<String> {
        let there = self.clients.iter().filter(|client| client.session.is_some() && client.subscribed);
        there.map(|client| client.agent.name.to_string()).collect()
    }
}
