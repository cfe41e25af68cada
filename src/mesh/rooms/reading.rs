//! Sessions that read: they subscribe, and ask who is there and what was published.
//!
//! A session that subscribes gets in one frame all that it missed, and where the node stands; whatever the node takes after
//! that reaches its entrance behind it in the same lane. So nothing is missed between the two, and nothing comes twice.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::mesh::Mesh;
use crate::mesh::sessions::Key;
use crate::wire::client::{ErrorPayload, HistoryPayload, MembersPayload, placed};
use crate::wire::close::{Code, Refusal};
use crate::wire::frame::{Frame, RoomAsk, RoomJoined, RoomQuestion, RoomSubscribe};
use crate::wire::ids::{AgentName, LinkId, NodeName, RoomName, Sequence, SessionNo};
use crate::wire::room::{MAX_CURSOR, MAX_HISTORY, MAX_SUBSCRIPTIONS, RoomKey, Vector};

use super::log::{CatchUp, Log};
use super::{MAX_QUEUED, Queued, Room, Sub};

impl Mesh {
    /// A session subscribes, for the first time or again.
    pub(in crate::mesh) fn subscribe(&mut self, link: LinkId, wish: RoomSubscribe) {
        let session = (link, wish.session);
        let known = self.sessions.get(session).filter(|known| known.ready);
        let Some(agent) = known.map(|known| known.agent.clone()) else { return };
        let key = RoomKey::new(agent.namespace.clone(), wish.room.clone());
        let has = self.rooms.by_session.get(&session);
        if has.is_some_and(|has| has.len() >= MAX_SUBSCRIPTIONS && !has.contains(&key)) {
            let message = format!("a session subscribes to {MAX_SUBSCRIPTIONS} rooms at most");
            return self.refuse_subscriber(link, &wish, key, Refusal::new(Code::RateLimited, message));
        }
        let now = self.now;
        let room = match self.keep_room(&key, Some(&agent)) {
            Ok(room) => room,
            Err(refusal) => return self.refuse_subscriber(link, &wish, key, refusal),
        };
        room.used = now;
        if room.ready_at.is_none() && !(begins_now(&wish) && self.has_unheard_keepers(&key)) {
            return self.subscribe_now(link, &key, &wish);
        }
        let Some(room) = self.rooms.kept.get_mut(&key) else { return };
        if room.queued.len() < MAX_QUEUED {
            return room.queued.push_back(Queued::Subscribe(link, wish));
        }
        let message = format!("{MAX_QUEUED} requests wait for {key} already");
        self.refuse_subscriber(link, &wish, key, Refusal::new(Code::Unavailable, message));
    }

    pub(super) fn subscribe_now(&mut self, link: LinkId, key: &RoomKey, wish: &RoomSubscribe) {
        if !self.asks_for_proof(link, key, wish) {
            self.join_room(link, key, wish, &BTreeSet::new());
        }
    }

    /// `answered`: nodes that were asked whether the cursor can be.
    pub(super) fn join_room(
        &mut self,
        link: LinkId,
        key: &RoomKey,
        wish: &RoomSubscribe,
        answered: &BTreeSet<NodeName>,
    ) {
        let session = (link, wish.session);
        // It may have ended while its wish waited.
        let Some(agent) = self.sessions.get(session).map(|known| known.agent.name.clone()) else { return };
        if let Some(refusal) = self.is_full_for(session, key, &agent) {
            return self.refuse_subscriber(link, wish, key.clone(), refusal);
        }
        let (wish, possible) = self.possible(key, wish, answered);
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let begin = beginning(room, &wish);
        let before = room.subs.insert(session, Sub { agent: agent.clone(), presence: wish.presence });
        let now = room.log.now();
        self.rooms.by_session.entry(session).or_default().insert(key.clone());
        self.rooms.interest.touch(key, false);
        let mut payload = BytesMut::with_capacity(begin.messages.iter().map(|(_, _, text)| text.len()).sum());
        begin.messages.iter().for_each(|(_, _, text)| payload.put_slice(text));
        // Before the events that its own joining brings about: those are for whoever was there.
        self.show_newcomer(key, &agent);
        if before.is_some_and(|before| before.agent != agent) {
            self.rooms.stale.entry(key.clone()).or_default();
        }
        let joined = RoomJoined {
            session: wish.session,
            number: wish.number,
            room: key.clone(),
            refusal: None,
            cursor: begin.cursor,
            recovered: begin.recovered && possible,
            members: self.members_listed(key),
            messages: begin.messages.into_iter().map(|(o, at, text)| (o, at, text.len() as u32)).collect(),
            now,
        };
        self.send(link, Frame::RoomJoined(joined, payload.freeze()));
    }

    fn refuse_subscriber(&mut self, link: LinkId, wish: &RoomSubscribe, room: RoomKey, refusal: Refusal) {
        let joined = RoomJoined {
            session: wish.session,
            number: wish.number,
            room,
            refusal: Some(refusal),
            cursor: Vector::default(),
            recovered: false,
            members: Vec::new(),
            messages: Vec::new(),
            now: Vector::default(),
        };
        self.send(link, Frame::RoomJoined(joined, Bytes::new()));
    }

    /// The rooms that a session joins take no more than so many agents.
    pub(in crate::mesh) fn room_most(&mut self, session: Key, most: u32) {
        if self.sessions.get(session).is_some() {
            self.rooms.most.insert(session, most);
        }
    }

    /// Why a room does not take an agent that is not there yet, if it has as many as its entrance allows. Those that other nodes
    /// let in meanwhile are not known.
    fn is_full_for(&self, session: Key, key: &RoomKey, agent: &AgentName) -> Option<Refusal> {
        let most = *self.rooms.most.get(&session)?;
        let shown = &self.rooms.kept.get(key)?.shown;
        if shown.contains(agent) || shown.len() < most as usize {
            return None;
        }
        let message = format!("{key} has {} agents, and takes {most}", shown.len());
        Some(Refusal::new(Code::Unavailable, message))
    }

    /// A session leaves a room by its own word.
    pub(in crate::mesh) fn unsubscribe(&mut self, link: LinkId, session: SessionNo, name: RoomName) {
        let Some(known) = self.sessions.get((link, session)) else { return };
        let key = RoomKey::new(known.agent.namespace.clone(), name);
        if let Some(rooms) = self.rooms.by_session.get_mut(&(link, session)) {
            rooms.remove(&key);
        }
        if let Some(room) = self.rooms.kept.get_mut(&key) {
            room.queued.retain(|queued| {
                !matches!(queued, Queued::Subscribe(l, wish) if (*l, wish.session) == (link, session))
            });
            room.unproved.retain(|unproved| !unproved.is_of(link, session));
        }
        self.leave_room((link, session), &key, true);
    }

    /// A session is over, and with it its subscriptions; `forget`: by its own word.
    pub(in crate::mesh) fn leave_rooms(&mut self, session: Key, forget: bool) {
        self.rooms.most.remove(&session);
        for key in self.rooms.by_session.remove(&session).unwrap_or_default() {
            self.leave_room(session, &key, forget);
        }
    }

    fn leave_room(&mut self, session: Key, key: &RoomKey, by_its_word: bool) {
        let now = self.now;
        let Some(room) = self.rooms.kept.get_mut(key) else { return };
        let Some(sub) = room.subs.remove(&session) else { return };
        room.used = now;
        let parts = by_its_word && !room.subs.values().any(|other| other.agent == sub.agent);
        self.rooms.interest.touch(key, false);
        let parted = self.rooms.stale.entry(key.clone()).or_default();
        if parts {
            parted.insert(sub.agent.clone());
            self.rooms.interest.parts(key, &sub.agent);
        }
    }

    /// A session asks about a room.
    pub(in crate::mesh) fn ask_room(&mut self, link: LinkId, ask: RoomAsk) {
        let Some(known) = self.sessions.get((link, ask.session)).filter(|known| known.ready) else { return };
        let key = RoomKey::new(known.agent.namespace.clone(), ask.room.clone());
        // What nobody keeps need not be kept here to say that there is nothing.
        let there = self.rooms.kept.contains_key(&key) || !self.keepers(&key).is_empty();
        let history = matches!(ask.question, RoomQuestion::History { .. });
        if !history || !there {
            return self.ask_room_now(link, &key, &ask);
        }
        let now = self.now;
        let room = match self.keep_room(&key, None) {
            Ok(room) => room,
            Err(refusal) => return self.refuse_ask(link, &ask, &refusal),
        };
        room.used = now;
        if room.ready_at.is_none() {
            return self.ask_room_now(link, &key, &ask);
        }
        if room.queued.len() < MAX_QUEUED {
            return room.queued.push_back(Queued::Ask(link, ask));
        }
        let message = format!("{MAX_QUEUED} requests wait for {key} already");
        self.refuse_ask(link, &ask, &Refusal::new(Code::Unavailable, message));
    }

    pub(super) fn ask_room_now(&mut self, link: LinkId, key: &RoomKey, ask: &RoomAsk) {
        match &ask.question {
            RoomQuestion::Members { bytes } => {
                let all = self.members_shown(key);
                let mut left = *bytes as usize;
                let fitting = all.iter().take_while(|agent| {
                    let need = agent.as_str().len() + 3;
                    let fits = need <= left;
                    left = left.saturating_sub(need);
                    fits
                });
                let members: Vec<String> = fitting.map(ToString::to_string).collect();
                let complete = members.len() == all.len() && !self.may_lack_members(key);
                let payload = MembersPayload { room: key.name.to_string(), members, complete };
                self.answer_ask(link, ask.session, ask.number, &payload);
            }
            RoomQuestion::History { limit, before, after, bytes } => {
                let empty = Log::default();
                let log = self.rooms.kept.get(key).map_or(&empty, |room| &room.log);
                let payload = history(log, key, (*limit, *bytes as usize), before.as_ref(), after.as_ref());
                self.answer_ask(link, ask.session, ask.number, &payload);
            }
        }
    }

    fn answer_ask<P: Serialize>(&mut self, link: LinkId, session: SessionNo, number: Sequence, payload: &P) {
        // Only maps with keys that are no strings can't be written.
        let text = serde_json::to_vec(payload).unwrap_or_default();
        self.send(link, Frame::Answer(session, number, Bytes::from(text)));
    }

    fn refuse_ask(&mut self, link: LinkId, ask: &RoomAsk, refusal: &Refusal) {
        self.answer_ask(link, ask.session, ask.number, &ErrorPayload::from(refusal));
    }
}

/// Bytes of what a subscriber asks for beforehand.
const MAX_CATCH_UP: usize = 8 << 20;

/// Whether a subscriber wants what is published from now on, and nothing older.
pub(super) fn begins_now(wish: &RoomSubscribe) -> bool {
    wish.cursor.is_none() && wish.history == 0
}

/// What a subscriber gets before what is new. What another keeper has is not new, also when it comes here later.
fn beginning(room: &Room, wish: &RoomSubscribe) -> CatchUp {
    let log = &room.log;
    match &wish.cursor {
        Some(cursor) => log.since(cursor),
        None if begins_now(wish) => {
            CatchUp { cursor: room.reached(), recovered: true, messages: Vec::new(), complete: true }
        }
        None => log.page_before(&log.now(), usize::from(wish.history.min(MAX_HISTORY)), MAX_CATCH_UP),
    }
}

pub(super) fn history(
    log: &Log,
    key: &RoomKey,
    (limit, bytes): (u16, usize),
    before: Option<&Vector>,
    after: Option<&Vector>,
) -> HistoryPayload {
    let now = log.now();
    // Each message has a cursor, and none of a page is longer than one that says all that is here and what was given.
    let mut longest = after.or(before).cloned().unwrap_or_default();
    longest.merge(&now);
    let each = longest.to_cursor().len().clamp(1, MAX_CURSOR) + 16;
    let limit = usize::from(limit.clamp(1, MAX_HISTORY)).min((bytes / 4 / each).max(1));
    let page = match after {
        Some(after) => log.page_after(after, limit, bytes / 4 * 3),
        None => log.page_before(before.unwrap_or(&now), limit, bytes / 4 * 3),
    };
    let mut place = page.cursor.clone();
    let messages = page.messages.iter().filter_map(|(origin, at, text)| {
        place.advance(origin, *at);
        let text = String::from_utf8(placed(text, &place.to_cursor()).to_vec()).ok()?;
        RawValue::from_string(text).ok()
    });
    let messages = messages.collect();
    let go_on = match after {
        Some(_) => {
            if page.complete {
                place.merge(&now);
            }
            place
        }
        None => page.cursor,
    };
    let (room, cursor) = (key.name.to_string(), go_on.to_cursor());
    HistoryPayload { room, messages, cursor, complete: page.complete }
}
