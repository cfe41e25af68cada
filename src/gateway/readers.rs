//! Rooms at an entrance: one frame of the node's for all sessions that have subscribed, and where each of them stands.
//!
//! The entrance knows what each session has been given, whoever the node is. So it subscribes again for it when the link was
//! renewed, or leads to another node; what the client gets goes on where it was, and it is told only when something is missing.
//! It decides and does nothing: what is to be done is taken by [`Readers::poll`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;

use crate::wire::client::{Joined, Left, MemberEvent, placed};
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::{Frame, RoomJoined, RoomLapse, RoomMember, RoomMessage, RoomSubscribe};
use crate::wire::ids::{AgentName, MessageId, Namespace, NodeName, Sequence, SessionNo};
use crate::wire::room::{MAX_SUBSCRIPTIONS, Position, RoomKey, Vector};

/// What a session is told of a room, in this order: a frame of the server's own, then messages.
#[derive(Debug)]
pub struct RoomNews {
    /// The frame, and the one that it answers.
    pub say: Option<(Option<MessageId>, RoomSay)>,
    /// Texts of messages, with their cursors.
    pub texts: Vec<Bytes>,
}

/// A frame about a room in which the server itself speaks.
#[derive(Debug)]
pub enum RoomSay {
    /// SUBSCRIBED.
    Joined(Joined),
    /// UNSUBSCRIBED.
    Left(Left),
    /// PRESENCE, as an event.
    Member(MemberEvent),
    /// ERROR, about a SUBSCRIBE.
    Refused(Refusal),
}

/// What a session wants of a room.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The room.
    pub room: RoomKey,
    /// The frame to answer.
    pub id: Option<MessageId>,
    /// Where to go on.
    pub cursor: Option<Vector>,
    /// Without a cursor: begin with so many of the latest messages.
    pub history: u16,
    /// Whether who joins and leaves is told.
    pub presence: bool,
    /// It joins a room only if that has fewer agents; `None`: however many there are.
    pub most: Option<u32>,
}

/// What is to be done.
#[derive(Debug)]
pub enum Deed {
    /// Send this to the node.
    Send(Frame),
    /// Tell a session.
    Tell(SessionNo, RoomNews),
}

/// All rooms that sessions of an entrance have subscribed to.
#[derive(Debug, Default)]
pub struct Readers {
    rooms: BTreeMap<RoomKey, Room>,
    sessions: BTreeMap<SessionNo, BTreeSet<RoomKey>>,
    /// Who had a room and was not given it again, as the node can't give it now: it is asked again later.
    held: BTreeSet<(SessionNo, RoomKey)>,
    /// The number of the last SUBSCRIBE to the node, and of the last one that has left.
    last: u64,
    left: u64,
    deeds: VecDeque<Deed>,
    count: usize,
}

#[derive(Debug, Default)]
struct Room {
    /// How far the link in use has brought the messages.
    now: Vector,
    readers: BTreeMap<SessionNo, Reader>,
}

/// One session in one room.
#[derive(Debug)]
struct Reader {
    wish: Wish,
    /// The client waits for SUBSCRIBED.
    asked: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// It stands there, and the node of the link in use does not know it; `None`: it never got anything.
    Apart(Option<Vector>),
    /// The node was asked, perhaps more than once: the first and the last time. Any of the answers will do.
    Asked(Sequence, Sequence, Option<Vector>),
    /// It gets what is new. Where it is further than the link in use: an earlier node had more.
    Live(Vector),
}

impl Reader {
    /// Where it stands, to subscribe again.
    fn place(&self, now: &Vector) -> Option<Vector> {
        match &self.stage {
            Stage::Apart(place) | Stage::Asked(_, _, place) => place.clone(),
            Stage::Live(ahead) => {
                let mut place = now.clone();
                place.merge(ahead);
                Some(place)
            }
        }
    }
}

impl Readers {
    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Deed> {
        self.deeds.pop_front()
    }

    /// Subscriptions of all sessions.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The same by room, as the namespace of each.
    pub fn counts(&self) -> impl Iterator<Item = (&Namespace, usize)> {
        self.rooms.iter().map(|(key, room)| (&key.namespace, room.readers.len()))
    }

    /// A session subscribes. `registered`: its node knows it; else it is asked when that is so ([`Readers::registered`]).
    pub fn subscribe(&mut self, no: SessionNo, wish: Wish, registered: bool) {
        let rooms = self.sessions.entry(no).or_default();
        if rooms.len() >= MAX_SUBSCRIPTIONS && !rooms.contains(&wish.room) {
            let message = format!("a session subscribes to {MAX_SUBSCRIPTIONS} rooms at most");
            return self.refuse(no, wish.id, Refusal::new(Code::RateLimited, message));
        }
        let asked = self.rooms.get(&wish.room).and_then(|room| room.readers.get(&no));
        if asked.is_some_and(|reader| reader.asked) {
            // The answer to the first one says where it begins: what a second one would mean shows only then.
            let message = format!("a SUBSCRIBE to {} waits for its answer", wish.room);
            return self.refuse(no, wish.id, Refusal::new(Code::RateLimited, message));
        }
        self.count += usize::from(rooms.insert(wish.room.clone()));
        let key = wish.room.clone();
        let room = self.rooms.entry(key.clone()).or_default();
        // Subscribing again without saying from where goes on from where it is.
        let fresh = wish.cursor.is_some() || wish.history > 0;
        let place = room.readers.get(&no).filter(|_| !fresh).and_then(|reader| reader.place(&room.now));
        room.readers.insert(no, Reader { wish, asked: true, stage: Stage::Apart(place) });
        if registered {
            self.ask(no, &key);
        }
    }

    /// A session is not to have what it asks for.
    pub fn refuse(&mut self, no: SessionNo, id: Option<MessageId>, refusal: Refusal) {
        self.tell(no, Some((id, RoomSay::Refused(refusal))), Vec::new());
    }

    /// The same for each SUBSCRIBE of a session that waits for its answer; its other subscriptions stay.
    pub fn refuse_asked(&mut self, no: SessionNo, refusal: &Refusal) {
        for key in self.sessions.get(&no).cloned().unwrap_or_default() {
            let reader = self.rooms.get_mut(&key).and_then(|room| room.readers.get_mut(&no));
            let Some(reader) = reader.filter(|reader| reader.asked) else { continue };
            let id = reader.wish.id.clone();
            self.forget(no, &key);
            self.refuse(no, id, refusal.clone());
        }
    }

    /// A session leaves a room, and is told so.
    pub fn unsubscribe(&mut self, no: SessionNo, key: &RoomKey, id: Option<MessageId>) {
        let reader = self.rooms.get(key).and_then(|room| room.readers.get(&no));
        let waits = reader.filter(|reader| reader.asked).map(|reader| reader.wish.id.clone());
        if self.forget(no, key) {
            self.deeds.push_back(Deed::Send(Frame::RoomUnsubscribe(no, key.name.clone())));
        }
        if let Some(asked) = waits {
            let message = format!("an UNSUBSCRIBE from {key} came before this SUBSCRIBE was answered");
            self.refuse(no, asked, Refusal::new(Code::Unavailable, message));
        }
        let left = Left { room: key.name.to_string() };
        self.tell(no, Some((id, RoomSay::Left(left))), Vec::new());
    }

    /// A session has no agent any more, or is gone: the node forgets its subscriptions by itself.
    pub fn leave(&mut self, no: SessionNo) {
        for key in self.sessions.get(&no).cloned().unwrap_or_default() {
            self.forget(no, &key);
        }
    }

    fn forget(&mut self, no: SessionNo, key: &RoomKey) -> bool {
        let Some(rooms) = self.sessions.get_mut(&no) else { return false };
        let had = rooms.remove(key);
        self.count -= usize::from(had);
        if rooms.is_empty() {
            self.sessions.remove(&no);
        }
        self.held.remove(&(no, key.clone()));
        if let Some(room) = self.rooms.get_mut(key) {
            room.readers.remove(&no);
            if room.readers.is_empty() {
                self.rooms.remove(key);
            }
        }
        had
    }

    /// The link in use is another one, or none: nothing is live until the sessions have subscribed again.
    pub fn part(&mut self) {
        for room in self.rooms.values_mut() {
            for reader in room.readers.values_mut() {
                reader.stage = Stage::Apart(reader.place(&room.now));
            }
            room.now = Vector::default();
        }
        // With the others, once the next node knows them.
        self.held.clear();
    }

    /// Whether somebody waits to be asked for again.
    pub fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Asks again for those.
    pub fn ask_held(&mut self) {
        for (no, key) in std::mem::take(&mut self.held) {
            let reader = self.rooms.get(&key).and_then(|room| room.readers.get(&no));
            // One that has asked by itself meanwhile has its answer, or waits for it.
            if reader.is_some_and(|reader| !reader.asked && matches!(reader.stage, Stage::Apart(_))) {
                self.ask(no, &key);
            }
        }
    }

    /// The node of the link in use knows a session: it subscribes to what it had.
    pub fn registered(&mut self, no: SessionNo) {
        for key in self.sessions.get(&no).cloned().unwrap_or_default() {
            let reader = self.rooms.get(&key).and_then(|room| room.readers.get(&no));
            if reader.is_some_and(|reader| matches!(reader.stage, Stage::Apart(_))) {
                self.ask(no, &key);
            }
        }
    }

    fn ask(&mut self, no: SessionNo, key: &RoomKey) {
        let Some(room) = self.rooms.get_mut(key) else { return };
        let Some(reader) = room.readers.get_mut(&no) else { return };
        self.last += 1;
        let number = Sequence(self.last);
        let place = reader.place(&room.now);
        let wish = &reader.wish;
        // Who was let in stays.
        if let Some(most) = wish.most.filter(|_| reader.asked && place.is_none()) {
            self.deeds.push_back(Deed::Send(Frame::RoomMost(no, most)));
        }
        let subscribe = RoomSubscribe {
            session: no,
            number,
            room: key.name.clone(),
            cursor: place.clone().or_else(|| wish.cursor.clone()),
            history: wish.history,
            presence: wish.presence,
        };
        let first = match reader.stage {
            Stage::Asked(first, ..) => first,
            _ => number,
        };
        reader.stage = Stage::Asked(first, number, place);
        self.deeds.push_back(Deed::Send(Frame::RoomSubscribe(subscribe)));
    }

    /// A frame to the node has left.
    pub fn left(&mut self, frame: &Frame) {
        if let Frame::RoomSubscribe(subscribe) = frame {
            self.left = self.left.max(subscribe.number.0);
        }
    }

    /// A frame about a room came over the link in use.
    pub fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::RoomJoined(joined, payload) => self.joined(joined, payload),
            Frame::RoomMessage(message, payload) => self.message(message, &payload),
            Frame::RoomLapse(lapse) => self.lapse(lapse),
            Frame::RoomMember(member) => self.member(&member),
            Frame::RoomAgain(key) => self.again(&key, true),
            other => tracing::debug!(frame = other.name(), "a frame that an entrance has no use for"),
        }
    }

    fn joined(&mut self, joined: RoomJoined, payload: Bytes) {
        let Some(room) = self.rooms.get(&joined.room) else { return };
        if joined.now.at.iter().any(|(origin, at)| !room.now.covers(origin, *at)) {
            // The node is further than what it sent us, so something was lost; those that are live go on from where they are.
            self.again(&joined.room, false);
        }
        let Some(room) = self.rooms.get_mut(&joined.room) else { return };
        let Some(reader) = room.readers.get_mut(&joined.session) else { return };
        if !matches!(reader.stage, Stage::Asked(first, last, _) if (first..=last).contains(&joined.number)) {
            return;
        }
        let no = joined.session;
        let id = reader.wish.id.clone().filter(|_| reader.asked);
        if let Some(refusal) = joined.refusal {
            if refusal.code == Code::Unavailable && !reader.asked {
                // Its client believes that it has the room, and has not asked for anything that this could answer.
                reader.stage = Stage::Apart(reader.place(&room.now));
                self.held.insert((no, joined.room));
                return;
            }
            self.forget(no, &joined.room);
            return self.tell(no, Some((id, RoomSay::Refused(refusal))), Vec::new());
        }
        let say = Joined {
            room: joined.room.name.to_string(),
            cursor: joined.cursor.to_cursor(),
            recovered: joined.recovered,
            missed: joined.messages.len(),
            members: names(joined.members),
        };
        let (texts, mut place) = texts(joined.cursor, &joined.messages, &payload);
        place.merge(&joined.now);
        room.now.merge(&joined.now);
        place.at.retain(|origin, at| *at > room.now.get(origin));
        reader.stage = Stage::Live(place);
        // A client that did not ask is told only when something is missing.
        let told = std::mem::take(&mut reader.asked) || !joined.recovered;
        self.tell(no, told.then_some((id, RoomSay::Joined(say))), texts);
    }

    fn message(&mut self, message: RoomMessage, payload: &Bytes) {
        let RoomMessage { room: key, origin, at, after, known } = message;
        let Some(room) = self.rooms.get_mut(&key) else { return };
        if room.now.covers(&origin, at) {
            return;
        }
        if !room.now.covers(&origin, after) {
            // One was lost on its way to us; those that are asked already get this one with the answer.
            return self.again(&key, false);
        }
        room.now.advance(&origin, at);
        let mut shared = None;
        let mut told = Vec::new();
        for (no, reader) in &mut room.readers {
            let Stage::Live(ahead) = &mut reader.stage else { continue };
            if ahead.covers(&origin, at) {
                continue;
            }
            ahead.at.remove(&origin);
            if known {
                continue;
            }
            // Those who stand where the link stands share one text.
            let text = if ahead.at.is_empty() {
                shared.get_or_insert_with(|| placed(payload, &room.now.to_cursor())).clone()
            } else {
                let mut place = room.now.clone();
                place.merge(ahead);
                placed(payload, &place.to_cursor())
            };
            told.push((*no, text));
        }
        for (no, text) in told {
            self.tell(no, None, vec![text]);
        }
    }

    /// What can't be had any more: whoever has not got it is told.
    fn lapse(&mut self, lapse: RoomLapse) {
        let RoomLapse { room: key, origin, to, members } = lapse;
        let Some(room) = self.rooms.get_mut(&key) else { return };
        room.now.advance(&origin, to);
        let mut told = Vec::new();
        for (no, reader) in &mut room.readers {
            let Stage::Live(ahead) = &mut reader.stage else { continue };
            if ahead.covers(&origin, to) {
                continue;
            }
            ahead.at.remove(&origin);
            let mut place = room.now.clone();
            place.merge(ahead);
            let say = Joined {
                room: key.name.to_string(),
                cursor: place.to_cursor(),
                recovered: false,
                missed: 0,
                members: names(members.clone()),
            };
            told.push((*no, RoomSay::Joined(say)));
        }
        for (no, say) in told {
            self.tell(no, Some((None, say)), Vec::new());
        }
    }

    fn member(&mut self, member: &RoomMember) {
        let Some(room) = self.rooms.get(&member.room) else { return };
        let live = |reader: &Reader| reader.wish.presence && matches!(reader.stage, Stage::Live(_));
        let readers = room.readers.iter().filter(|(_, reader)| live(reader));
        for no in readers.map(|(no, _)| *no).collect::<Vec<_>>() {
            let event = MemberEvent {
                room: member.room.name.to_string(),
                event: if member.joined { "joined" } else { "left" }.into(),
                agent: member.agent.to_string(),
            };
            self.tell(no, Some((None, RoomSay::Member(event))), Vec::new());
        }
    }

    /// The node could not send us something: all subscribe again, from where they are; `asked`: also those that have.
    fn again(&mut self, key: &RoomKey, asked: bool) {
        let Some(room) = self.rooms.get(key) else { return };
        // One that waits to leave asks for all that the node has by then.
        let wanted = |reader: &Reader| match reader.stage {
            Stage::Live(_) => true,
            Stage::Asked(_, last, _) => asked && last.0 <= self.left,
            Stage::Apart(_) => false,
        };
        let readers = room.readers.iter().filter(|(_, reader)| wanted(reader));
        for no in readers.map(|(no, _)| *no).collect::<Vec<_>>() {
            self.ask(no, key);
        }
    }

    fn tell(&mut self, no: SessionNo, say: Option<(Option<MessageId>, RoomSay)>, texts: Vec<Bytes>) {
        if say.is_some() || !texts.is_empty() {
            self.deeds.push_back(Deed::Tell(no, RoomNews { say, texts }));
        }
    }
}

fn names(members: Vec<AgentName>) -> Vec<String> {
    members.into_iter().map(String::from).collect()
}

/// The messages that a session missed, each with its cursor; and where it stands after them.
fn texts(mut place: Vector, messages: &[(NodeName, Position, u32)], payload: &Bytes) -> (Vec<Bytes>, Vector) {
    let mut texts = Vec::with_capacity(messages.len());
    let mut begin = 0usize;
    for (origin, at, length) in messages {
        let end = begin.saturating_add(*length as usize).min(payload.len());
        place.advance(origin, *at);
        texts.push(placed(&payload[begin..end], &place.to_cursor()));
        begin = end;
    }
    (texts, place)
}

#[cfg(test)]
mod tests;
