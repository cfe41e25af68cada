//! Rooms: what a client has subscribed to, and where it stands, so that it goes on there over its next connection.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::standing::Wanted;
use super::task::Task;
use super::{Client, Error, Message, Outgoing, Receipt, Sender, message};
use crate::rt::queue::Refused;
use crate::wire::envelope::{Kind, State};

/// Where a subscription begins.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Subscription {
    /// Behind this place: a [`Message::cursor`] of an earlier message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Without a cursor: with so many of the latest messages.
    pub history: u16,
    /// Whether the mesh says by PRESENCE who joins and leaves.
    pub presence: bool,
}

/// A subscription as the mesh made it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Subscribed {
    /// The room's name.
    pub room: String,
    /// Where it begins.
    pub cursor: String,
    /// Whether nothing is missing between the cursor that was given and what follows.
    pub recovered: bool,
    /// How many messages follow before new ones.
    pub missed: usize,
    /// Who is there, at most 1,000.
    pub members: Vec<String>,
}

/// What the task knows of rooms.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    joined: BTreeMap<String, Joined>,
    asked: u64,
}

#[derive(Debug)]
struct Joined {
    cursor: String,
    presence: bool,
    /// The program was behind: what came is left out, and asked for again.
    behind: bool,
}

impl Client {
    /// Subscribes to a room of the client's namespace. Its messages come by [`Client::next`], each with its
    /// [`cursor`](Message::cursor); over its next connection the client goes on where it was, and only when something is missing comes
    /// a message SUBSCRIBED from `mesh` with `recovered: false`.
    pub async fn subscribe(
        &self,
        room: &str,
        wish: &Subscription,
        within: Duration,
    ) -> Result<Subscribed, Error> {
        let id = message::new_id();
        let to = format!("room:{room}");
        let frame = json!({"type": "SUBSCRIBE", "to": to, "id": id, "payload": wish}).to_string();
        let wanted = Wanted::Subscribed { presence: wish.presence };
        self.sender().ask(frame.into(), id, wanted, within).await?.read()
    }

    /// Leaves a room.
    pub async fn unsubscribe(&self, room: &str, within: Duration) -> Result<(), Error> {
        let id = message::new_id();
        let frame = json!({"type": "UNSUBSCRIBE", "to": format!("room:{room}"), "id": id}).to_string();
        self.sender().ask(frame.into(), id, Wanted::Said("UNSUBSCRIBED"), within).await.map(drop)
    }
}

impl Sender {
    /// Publishes a STATUS in a room, and waits until a node has it on its disk. When the connection breaks, it is sent again
    /// over the next one, which is safe.
    pub async fn publish(&self, room: &str, payload: Value, within: Duration) -> Result<Receipt, Error> {
        let message = Outgoing::new(Kind::Status, &format!("room:{room}"), payload);
        self.send_and_wait(message, State::Accepted, within).await
    }
}

impl Task {
    /// What is about a room is noted; `None`: nobody else need see it.
    pub(super) fn of_room(&mut self, message: Message) -> Option<Message> {
        if message.is_from_mesh() {
            let own = message.reply_to.as_ref().is_some_and(|id| id.starts_with(&self.own_rooms()));
            match message.kind.as_str() {
                "SUBSCRIBED" => {
                    let Ok(said) = message.read::<Subscribed>() else { return Some(message) };
                    let known = self.rooms.joined.get(&said.room);
                    let presence = known.is_some_and(|known| known.presence) || self.wants_presence(&message);
                    let joined = Joined { cursor: said.cursor, presence, behind: false };
                    self.rooms.joined.insert(said.room, joined);
                    return (!own || !said.recovered).then_some(message);
                }
                "UNSUBSCRIBED" => {
                    if let Some(room) = message.read::<Value>().ok()?["room"].as_str() {
                        self.rooms.joined.remove(room);
                    }
                }
                _ => {}
            }
            return Some(message);
        }
        let Some(cursor) = message.cursor.clone() else { return Some(message) };
        let room = message.to.rsplit_once("room:").map_or("", |(_, room)| room).to_owned();
        let joined = self.rooms.joined.get_mut(&room)?;
        if joined.behind {
            self.go_on_in(&room);
            return None;
        }
        // One that finds no room in the inbox is not lost: it comes again from the place before it.
        match self.inbox.try_send(message) {
            Err(Refused::Full(_)) => joined.behind = true,
            _ => joined.cursor = cursor,
        }
        None
    }

    /// Whether the SUBSCRIBE that this answers asked for events.
    fn wants_presence(&self, message: &Message) -> bool {
        let asked = message.reply_to.as_ref().and_then(|id| self.pending.get(id));
        asked.is_some_and(|waiting| matches!(waiting.wanted, Wanted::Subscribed { presence: true }))
    }

    fn own_rooms(&self) -> String {
        format!("room.{}", self.settles)
    }

    /// Over a new connection all subscriptions are made again.
    pub(super) fn go_on_in_rooms(&mut self) {
        for room in self.rooms.joined.keys().cloned().collect::<Vec<_>>() {
            self.go_on_in(&room);
        }
    }

    fn go_on_in(&mut self, room: &str) {
        let id = format!("{}{}", self.own_rooms(), self.rooms.asked);
        let Some(joined) = self.rooms.joined.get(room) else { return };
        self.rooms.asked += 1;
        let payload = json!({"cursor": joined.cursor, "presence": joined.presence});
        let frame = json!({"type": "SUBSCRIBE", "to": format!("room:{room}"), "id": id, "payload": payload});
        self.own.push(frame.to_string().into());
    }
}
