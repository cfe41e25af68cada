//! What comes from the node, and whose it is.

use bytes::Bytes;

use super::message::{Message, Name, Verdict};
use super::standing::{self, Wanted};
use super::task::{Task, Waiting};
use crate::rt::queue::Refused;
use crate::wire::client::ErrorPayload;
use crate::wire::envelope::Kind;

/// Messages that are remembered to be acknowledged: more than a node has under way to us.
const MAX_DONE: usize = 1024;

impl Task {
    /// Takes what came: for whoever asked, for the program, or for nobody.
    pub(super) fn arrived(&mut self, message: Message) {
        let Some(message) = self.of_room(message).and_then(|message| self.answer(message)) else { return };
        if message.is_from_mesh() && message.is(Kind::Error) && message.reply_to.is_none() {
            self.parting = message.read().ok();
        }
        // Whom we acknowledged to may have gone; and what we refused too late comes again.
        let of_settling = message.reply_to.as_ref().is_some_and(|id| id.starts_with(&self.settles));
        if message.is_automatic() || (message.is_from_mesh() && of_settling) {
            return;
        }
        let name = message.is_durable().then(|| Name::of(&message));
        if name.as_ref().is_some_and(|name| message.redelivered && self.given.contains(name)) {
            return;
        }
        if let Some(name) = name.as_ref().filter(|name| message.redelivered && self.done.1.contains(name)) {
            let ack = self.settle(name, &Verdict::Acked { automatic: true });
            return self.own.push(ack);
        }
        // A full inbox counts what it drops, and what is kept comes again later.
        match (self.inbox.try_send(message), name) {
            (Err(Refused::Full(_)), Some(name)) => {
                let reason = "the client has too much to read".to_owned();
                let nack = self.settle(&name, &Verdict::Nacked { reason, requeue: true });
                self.own.push(nack);
            }
            (Ok(()), Some(name)) if self.given.len() < MAX_DONE => {
                self.given.insert(name);
            }
            _ => {}
        }
    }

    pub(super) fn settle(&mut self, name: &Name, verdict: &Verdict) -> Bytes {
        self.settled += 1;
        name.settle(&format!("{}{}", self.settles, self.settled), verdict)
    }

    /// Remembers that a message was acknowledged; of too many, the oldest are forgotten.
    pub(super) fn remember(&mut self, name: Name) {
        let (order, known) = &mut self.done;
        if known.insert(name.clone()) {
            order.push_back(name);
        }
        if order.len() > MAX_DONE
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }

    /// Gives a message to whoever waits for it, else back.
    fn answer(&mut self, message: Message) -> Option<Message> {
        let asked = message.reply_to.as_ref().and_then(|id| self.pending.get(id));
        let Some(Waiting { wanted, .. }) = asked else { return Some(message) };
        let mesh = message.is_from_mesh();
        let refused = mesh && message.is(Kind::Error);
        let fits = match wanted {
            Wanted::Answer => !mesh && (message.is(Kind::Result) || message.is(Kind::Error)),
            Wanted::Receipt(wish) if mesh && message.kind == "RECEIPT" => {
                // A state before it is not yet an answer.
                standing::reached(&message, *wish).map(|_| true)?
            }
            Wanted::Receipt(_) => false,
            Wanted::Said(kind) => mesh && message.kind == *kind,
            Wanted::Subscribed { .. } => mesh && message.kind == "SUBSCRIBED",
        };
        if !fits && !refused {
            return Some(message);
        }
        let Waiting { answer, .. } = message.reply_to.as_ref().and_then(|id| self.pending.remove(id))?;
        if answer.is_closed() && !mesh {
            // Too late for whoever asked; not for whoever listens.
            return Some(message);
        }
        if message.is_durable() {
            let name = Name::of(&message);
            let ack = self.settle(&name, &Verdict::Acked { automatic: true });
            self.own.push(ack);
            self.remember(name);
        }
        let given = match refused {
            true => message.read::<ErrorPayload>().and_then(|error| Err(error.into())),
            false => Ok(message),
        };
        let _ = answer.send(given);
        None
    }
}
