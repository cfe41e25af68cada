//! Rooms: what a client has subscribed to, and where it stands, so that it goes on there over its next connection.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::standing::Wanted;
use super::task::Task;
use super::{Client, Error, INBOX, Message, Outgoing, Receipt, Sender, message};
use crate::rt::clock;
use crate::rt::queue::Refused;
use crate::wire::envelope::{Kind, State};

/// How often a client that was behind looks whether its program has read enough to go on.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

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
    /// When to look at those that are behind.
    look_at: Option<Instant>,
}

impl Rooms {
    /// Waits until there may be something to go on with.
    pub(super) fn due(&self) -> impl Future<Output = ()> + use<> {
        let at = self.look_at;
        async move {
            match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        }
    }
}

#[derive(Debug)]
struct Joined {
    cursor: String,
    presence: bool,
    /// The program was behind: what came is left out, and asked for again.
    behind: bool,
    /// That was done, by this id, and is not answered yet.
    asked: Option<String>,
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
                    let joined = Joined { cursor: said.cursor, presence, behind: false, asked: None };
                    self.rooms.joined.insert(said.room, joined);
                    return (!own || !said.recovered).then_some(message);
                }
                "UNSUBSCRIBED" => {
                    if let Some(room) = message.read::<Value>().ok()?["room"].as_str() {
                        self.rooms.joined.remove(room);
                    }
                }
                "ERROR" if own => {
                    let refused =
                        |joined: &&mut Joined| joined.asked.is_some() && joined.asked == message.reply_to;
                    // One that goes on after being behind is asked for again.
                    if let Some(joined) = self.rooms.joined.values_mut().find(refused) {
                        joined.asked = None;
                        return (!joined.behind).then_some(message);
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
            return None;
        }
        // One that finds no room in the inbox is not lost: it comes again from the place before it.
        match self.inbox.try_send(message) {
            Err(Refused::Full(_)) => {
                joined.behind = true;
                self.rooms.look_at.get_or_insert_with(|| clock::now() + LOOK_AGAIN);
            }
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

    /// Goes on in rooms that the program was behind in, when it has read half of what waited: each is asked for once.
    pub(super) fn look_at_rooms(&mut self) {
        let behind = self.rooms.joined.iter().filter(|(_, joined)| joined.behind);
        let behind: Vec<(String, bool)> =
            behind.map(|(room, joined)| (room.clone(), joined.asked.is_some())).collect();
        self.rooms.look_at = (!behind.is_empty()).then(|| clock::now() + LOOK_AGAIN);
        if self.inbox.depth() > INBOX / 2 {
            return;
        }
        for (room, _) in behind.iter().filter(|(_, asked)| !asked) {
            self.go_on_in(room);
        }
    }

    fn go_on_in(&mut self, room: &str) {
        let id = format!("{}{}", self.own_rooms(), self.rooms.asked);
        let Some(joined) = self.rooms.joined.get_mut(room) else { return };
        self.rooms.asked += 1;
        joined.asked = Some(id.clone());
        let payload = json!({"cursor": joined.cursor, "presence": joined.presence});
        let frame = json!({"type": "SUBSCRIBE", "to": format!("room:{room}"), "id": id, "payload": payload});
        self.own.push(frame.to_string().into());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::client::{Options, Ways};
    use crate::rt::queue;

    fn frame(text: Value) -> Message {
        Message::parse(&Bytes::from(text.to_string())).unwrap()
    }

    fn said(room: &str, cursor: &str) -> Message {
        let payload = json!({"room": room, "cursor": cursor, "recovered": true, "missed": 0, "members": []});
        frame(json!({"type": "SUBSCRIBED", "from": "mesh", "to": "dc", "id": "s", "payload": payload}))
    }

    fn of(room: &str, n: usize) -> Message {
        let to = format!("room:{room}");
        frame(
            json!({"cursor": format!("c{n}"), "type": "STATUS", "from": "dc", "to": to, "id": "m", "payload": n}),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_burst_the_last_message_is_asked_for_once_when_the_program_has_read() {
        // covers B07
        let (_commands, waiting) = queue::bounded("test.commands", 1);
        let (inbox, mut arrived) = queue::bounded("test.inbox", INBOX);
        let mut task = Task::new(Ways::default(), Options::default(), waiting, inbox);
        for room in ["a", "b"] {
            task.of_room(said(room, "c0"));
        }
        // Both rooms overrun the inbox, and the last message of each finds no room.
        for n in 1..=INBOX / 2 + 9 {
            task.of_room(of("a", n));
            task.of_room(of("b", n));
        }
        assert!(task.own.is_empty(), "nothing is asked while the program reads nothing");
        tokio::time::timeout(LOOK_AGAIN * 2, task.rooms.due()).await.unwrap();
        task.look_at_rooms();
        assert!(task.own.is_empty(), "it is as far behind as before");
        for _ in 0..INBOX / 2 {
            arrived.recv().await.unwrap();
        }
        for _ in 0..3 {
            tokio::time::timeout(LOOK_AGAIN * 2, task.rooms.due()).await.unwrap();
            task.look_at_rooms();
        }
        let asked: Vec<Value> =
            task.own.drain(..).map(|text| serde_json::from_slice(&text).unwrap()).collect();
        let last = format!("c{}", INBOX / 2);
        assert_eq!(asked.len(), 2, "once a room: {asked:?}");
        assert!(asked.iter().all(|frame| frame["payload"]["cursor"] == last), "{asked:?}");
        // One is refused for the moment, the other is answered.
        let payload = json!({"code": "rate_limited", "message": "wait", "retry": true});
        task.of_room(frame(
            json!({"type": "ERROR", "from": "mesh", "to": "dc", "id": "e", "reply_to": asked[0]["id"],
            "payload": payload}),
        ));
        task.of_room(said("b", &last));
        tokio::time::timeout(LOOK_AGAIN * 2, task.rooms.due()).await.unwrap();
        task.look_at_rooms();
        assert_eq!(task.own.len(), 1, "the refused one is asked again");
        task.of_room(said("a", &last));
        task.look_at_rooms();
        let idle = tokio::time::timeout(LOOK_AGAIN * 9, task.rooms.due()).await;
        assert!(idle.is_err() && task.own.len() == 1);
    }
}
