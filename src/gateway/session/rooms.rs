//! Rooms: what a client asks, and what it is told.

use super::{End, Phase, Session, stopping};
use crate::gateway::carrier::Carrier;
use crate::gateway::readers::{RoomNews, RoomSay, Wish};
use crate::gateway::rules::RoomAction;
use crate::rt::clock;
use crate::wire::client::RoomFrame;
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, Target};
use crate::wire::frame::{Frame, ROOMS, RoomAsk, RoomQuestion};
use crate::wire::ids::{MessageId, RoomName};
use crate::wire::room::RoomKey;

/// Bytes that the frame around an answer may need.
const AROUND: usize = 1024;

impl<C: Carrier> Session<C> {
    pub(super) async fn room(
        &mut self,
        id: Option<MessageId>,
        name: RoomName,
        frame: RoomFrame,
    ) -> Result<(), End> {
        let (word, served) = (frame.word(), self.rooms_served());
        let done = match frame {
            _ if self.phase == Phase::Unregistered => {
                Err(Refusal::new(Code::NotRegistered, format!("{word} needs a registered agent")))
            }
            RoomFrame::Unsubscribe => {
                self.measured.asks_room(id.clone(), clock::micros());
                let key = RoomKey::new(self.namespace.clone(), name);
                return Box::pin(self.seat.unsubscribe(key, id)).await.map_err(|_| stopping());
            }
            _ if !self.may(RoomAction::Read, &name) => Err(forbidden("read", &name)),
            RoomFrame::Subscribe { .. } if self.link.is_none() => Err(super::frames::no_node()),
            _ if served.is_err() => served,
            RoomFrame::Subscribe { cursor, history, presence } => {
                let room = RoomKey::new(self.namespace.clone(), name);
                self.measured.asks_room(id.clone(), clock::micros());
                let most = self.settings.rooms.most();
                let wish = Wish { room, id, cursor, history, presence, most };
                return Box::pin(self.seat.subscribe(wish)).await.map_err(|_| stopping());
            }
            RoomFrame::Presence => {
                let question = RoomQuestion::Members { bytes: self.answer_bytes() };
                self.ask_room(id.clone(), word, name, question)
            }
            RoomFrame::History { limit, before, after } => {
                let bytes = self.answer_bytes();
                let question = RoomQuestion::History { limit, before, after, bytes };
                self.ask_room(id.clone(), word, name, question)
            }
        };
        match done {
            Ok(()) => Ok(()),
            Err(refusal) => self.refused(id.as_ref(), Some(word.into()), refusal),
        }
    }

    fn ask_room(
        &mut self,
        id: Option<MessageId>,
        word: &'static str,
        room: RoomName,
        question: RoomQuestion,
    ) -> Result<(), Refusal> {
        self.ask(id, word, |session, number| Frame::RoomAsk(RoomAsk { session, number, room, question }))
    }

    fn answer_bytes(&self) -> u32 {
        self.settings.max_frame.saturating_sub(AROUND).try_into().unwrap_or(u32::MAX)
    }

    fn may(&self, action: RoomAction, room: &RoomName) -> bool {
        self.settings.rooms.allow(self.identity.as_ref(), action, room)
    }

    /// Whether a message may go where it is for, as far as rooms have rules.
    pub(super) fn may_publish(&self, head: &Head) -> Result<(), Refusal> {
        match &head.to {
            Target::Room(_, room) if !self.may(RoomAction::Write, room) => Err(forbidden("write", room)),
            Target::Room(..) => self.rooms_served(),
            _ => Ok(()),
        }
    }

    /// Whether the node, if there is one, serves rooms: one that does not would never answer.
    fn rooms_served(&self) -> Result<(), Refusal> {
        match &self.link {
            Some((_, node)) if !self.has_rooms => Err(Refusal::unserved_by(node, ROOMS)),
            _ => Ok(()),
        }
    }

    /// Queues what the node brought of a room: in order, behind what waits already.
    pub(super) fn room_news(&mut self, news: RoomNews) {
        // Those who said UNREGISTER have left.
        if self.agent.is_none() {
            return;
        }
        if let Some((id, say)) = news.say {
            let id = id.as_ref();
            let times = self.settings.room_times.as_ref();
            let into = match &say {
                RoomSay::Joined(_) => Some(times.map(|times| &times.join)),
                RoomSay::Left(_) => Some(times.map(|times| &times.leave)),
                RoomSay::Refused(_) => Some(None),
                RoomSay::Member(_) => None,
            };
            if let Some(into) = into {
                self.measured.answers_room(id, into, clock::micros());
            }
            match say {
                RoomSay::Joined(payload) => self.say("SUBSCRIBED", id, payload),
                RoomSay::Left(payload) => self.say("UNSUBSCRIBED", id, payload),
                RoomSay::Member(payload) => self.say("PRESENCE", id, payload),
                RoomSay::Refused(refusal) => self.error(id, Some("SUBSCRIBE".into()), &refusal),
            }
        }
        self.sent += news.texts.len() as u64;
        self.out.extend(news.texts);
    }
}

fn forbidden(what: &str, room: &RoomName) -> Refusal {
    Refusal::new(Code::Forbidden, format!("this session may not {what} room:{room}"))
}
