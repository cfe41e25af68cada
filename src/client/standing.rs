//! What a client learns of its messages.

use serde::Deserialize;

use super::{Error, Message};
use crate::wire::envelope::State;

/// What answers a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// RESULT or ERROR of the recipient.
    Answer,
    /// RECEIPT of the mesh, of this state or of an end.
    Receipt(State),
    /// Of the mesh, of this type.
    Said(&'static str),
    /// SUBSCRIBED of the mesh.
    Subscribed { presence: bool },
}

/// A receipt: a message has got so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// How far; never a state that it failed in, those are errors.
    pub state: State,
    /// To whom.
    pub recipient: String,
    /// Where.
    pub node: String,
    /// Of a broadcast: for how many recipients it was accepted, and for how many not.
    pub counts: Option<(u32, u32)>,
}

/// Payload of RECEIPT.
#[derive(Deserialize)]
struct Told {
    state: String,
    recipient: String,
    node: String,
    #[serde(default)]
    reason: Option<String>,
    #[serde(default)]
    recipients: Option<u32>,
    #[serde(default)]
    refused: u32,
}

/// What a receipt says to whoever waits for a state; `None`: it is not there yet.
pub(super) fn reached(message: &Message, wish: State) -> Option<Result<Receipt, Error>> {
    let told: Told = match message.read() {
        Ok(told) => told,
        Err(e) => return Some(Err(e)),
    };
    let Told { state: word, recipient, node, reason, recipients, refused } = told;
    let counts = recipients.map(|accepted| (accepted, refused));
    let all = [State::Accepted, State::Stored, State::Delivered, State::Acked];
    match all.into_iter().find(|state| state.as_str() == word) {
        Some(state) if state < wish => None,
        Some(state) => Some(Ok(Receipt { state, recipient, node, counts })),
        None => Some(Err(Error::Undelivered { state: word, reason: reason.unwrap_or_default() })),
    }
}

/// Where a message stands: the answer to a query.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Standing {
    /// Which.
    pub message: String,
    /// The least advanced of its recipients, or `unknown`.
    pub state: String,
    /// Each of them.
    #[serde(default)]
    pub recipients: Vec<Recipient>,
}

/// One recipient's share of a [`Standing`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Recipient {
    /// Who.
    pub recipient: String,
    /// How far it is.
    pub state: String,
    /// Where.
    pub node: String,
    /// Why it ended, where there is something to say.
    #[serde(default)]
    pub reason: Option<String>,
    /// Since when, in milliseconds since the epoch.
    #[serde(default)]
    pub at: u64,
}
