//! The payload of STATE (docs/protocol.md, section 9): what a client may know of a message.

use bytes::Bytes;
use serde::Serialize;

use super::Records;
use super::rows::Row;
use super::standing::{Message, NotAsked, together};
use crate::mesh::Queried;
use crate::wire::client::ErrorPayload;
use crate::wire::close::{Code, Refusal};
use crate::wire::ids::Namespace;

/// Recipients in one answer, and entries of its history.
const MOST: usize = 1000;

#[derive(Serialize)]
struct State<'a> {
    message: &'a str,
    state: &'a str,
    recipients: Vec<Standing<'a>>,
    history: Vec<Entry<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    not_asked: Vec<&'a str>,
}

#[derive(Serialize)]
struct Standing<'a> {
    recipient: &'a str,
    state: &'a str,
    node: &'a str,
    reason: Option<&'a str>,
    at: u64,
}

#[derive(Serialize, PartialEq)]
struct Entry<'a> {
    state: &'a str,
    recipient: &'a str,
    node: &'a str,
    at: u64,
}

impl Records {
    /// The answer for a session: its message's state, or an ERROR.
    pub(super) async fn queried(&self, queried: &Queried) -> Bytes {
        let (from, id) = (Some(queried.from.clone()), &queried.id);
        // What this node knows for sure needs no other one.
        let own = self.rows(from.clone(), id.clone()).await.unwrap_or_default();
        let (rows, not_asked) = match is_whole(queried, &own) {
            true => (own, Vec::new()),
            false => self.rows_of_all(from, id).await,
        };
        payload(queried, rows, not_asked)
    }
}

/// Whether nobody else can know more: the node that took the message knows every recipient, and that which has it, or
/// knows its end, where it stands.
fn is_whole(queried: &Queried, rows: &[Row]) -> bool {
    let settled = |row: &Row| matches!(row.place.as_str(), "mailbox" | "dead" | "ended");
    if queried.asker == queried.from {
        return !rows.is_empty() && rows.iter().all(|row| row.came_from.is_none() && settled(row));
    }
    let asker = queried.asker.to_string();
    rows.iter().any(|row| row.to == asker && settled(row))
}

fn payload(queried: &Queried, mut rows: Vec<Row>, not_asked: Vec<NotAsked>) -> Bytes {
    if queried.asker != queried.from {
        // A recipient sees how it stands for itself.
        let asker = queried.asker.to_string();
        rows.retain(|row| row.to == asker);
        if rows.is_empty() {
            let message = format!("message {} of {} was not sent to you", queried.id, queried.from);
            return error(&Refusal::new(Code::Forbidden, message));
        }
    }
    let shown = together(queried.id.clone(), rows, not_asked);
    let home = &queried.asker.namespace;
    let none = (Vec::new(), Vec::new(), "unknown");
    let (recipients, history, state) = match shown.messages.first() {
        Some(message) => (recipients(message, home), history(message, home), message.state.as_str()),
        None => none,
    };
    let not_asked = shown.not_asked.iter().map(|not| not.node.as_str()).collect();
    let state = State { message: queried.id.as_str(), state, recipients, history, not_asked };
    json(&state)
}

fn recipients<'a>(message: &'a Message, home: &Namespace) -> Vec<Standing<'a>> {
    let standing = |row: &'a super::standing::Recipient| Standing {
        recipient: in_namespace(&row.recipient, home),
        state: &row.state,
        node: row.node.as_str(),
        reason: row.reason.as_ref().map(|reason| reason.message.as_str()),
        at: row.at_ms,
    };
    message.recipients.iter().take(MOST).map(standing).collect()
}

/// What a client calls a state: that a message lies elsewhere from then on is none.
fn history<'a>(message: &'a Message, home: &Namespace) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = Vec::new();
    for change in &message.history {
        let entry = Entry {
            state: &change.state,
            recipient: in_namespace(&change.recipient, home),
            node: change.node.as_str(),
            at: change.at_ms,
        };
        let same = |known: &Entry<'_>| {
            (known.state, known.recipient, known.node) == (entry.state, entry.recipient, entry.node)
        };
        if entries.len() < MOST && !entries.iter().any(same) {
            entries.push(entry);
        }
    }
    entries
}

/// An address as the client writes it.
fn in_namespace<'a>(address: &'a str, home: &Namespace) -> &'a str {
    let name = address.strip_prefix(home.as_str()).and_then(|rest| rest.strip_prefix('/'));
    name.unwrap_or(address)
}

pub(super) fn error(refusal: &Refusal) -> Bytes {
    json(&ErrorPayload::from(refusal))
}

fn json<T: Serialize>(value: &T) -> Bytes {
    // Strings and numbers only: that can always be written.
    serde_json::to_vec(value).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::standing::tests::{name, row};
    use super::*;
    use crate::wire::ids::{AgentAddr, AgentName, MessageId};

    fn agent(name: &str) -> AgentAddr {
        AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(name).unwrap())
    }

    fn asked(asker: &str, rows: Vec<Row>) -> Value {
        let queried = Queried { asker: agent(asker), from: agent("dc"), id: MessageId::new("m-1").unwrap() };
        let not_asked = vec![NotAsked { node: name("far"), why: "no way".into() }];
        serde_json::from_slice(&payload(&queried, rows, not_asked)).unwrap()
    }

    #[test]
    fn a_sender_sees_all_a_recipient_itself_and_nobody_else_anything() {
        // covers T07, T08
        let rows = || vec![row("dc", "a", "outbox", "accepted", 20), row("dc", "b", "ended", "acked", 30)];
        let all = asked("dc", rows());
        assert_eq!((&all["message"], &all["state"]), (&json!("m-1"), &json!("accepted")));
        assert_eq!(
            all["recipients"],
            json!([
                {"recipient": "a", "state": "accepted", "node": "dc", "reason": null, "at": 20},
                {"recipient": "b", "state": "acked", "node": "dc", "reason": null, "at": 30},
            ])
        );
        assert_eq!(all["history"][0], json!({"state": "accepted", "recipient": "a", "node": "dc", "at": 20}));
        assert_eq!(all["not_asked"], json!(["far"]));
        let own = asked("b", rows());
        assert_eq!((&own["state"], own["recipients"].as_array().unwrap().len()), (&json!("acked"), 1));
        assert_eq!(own["history"].as_array().unwrap().len(), 1);
        // A stranger learns not even whether there is such a message.
        for rows in [rows(), Vec::new()] {
            assert_eq!(asked("c", rows)["code"], "forbidden");
        }
        let unknown = asked("dc", Vec::new());
        assert_eq!((&unknown["state"], &unknown["recipients"]), (&json!("unknown"), &json!([])));
    }

    #[test]
    fn other_nodes_are_asked_unless_this_one_knows_for_sure() {
        // covers T07
        let whole = |asker: &str, rows: &[Row]| {
            let queried =
                Queried { asker: agent(asker), from: agent("dc"), id: MessageId::new("m-1").unwrap() };
            is_whole(&queried, rows)
        };
        let (waits, handed) = (row("dc", "a", "mailbox", "stored", 1), row("dc", "b", "handed", "stored", 1));
        assert!(whole("dc", std::slice::from_ref(&waits)));
        assert!(!whole("dc", &[waits.clone(), handed.clone()]) && !whole("dc", &[]));
        let elsewhere = Row { came_from: Some(name("agni")), ..waits.clone() };
        assert!(!whole("dc", std::slice::from_ref(&elsewhere)) && whole("a", &[elsewhere]));
        assert!(!whole("b", &[waits, handed]));
    }
}
