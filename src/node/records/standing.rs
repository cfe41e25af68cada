//! What the disks of several nodes say of a message, put together; the field names are what `--json` prints, and stay.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::rows::{Reason, Row, state_of};
use crate::wire::envelope::State;
use crate::wire::ids::{MessageId, NodeName};

/// `trishula show --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shown {
    /// As asked.
    pub id: MessageId,
    /// The messages of that id: one for each sender that has used it. Empty: no node that was asked knows one.
    pub messages: Vec<Message>,
    /// Nodes that may know more.
    pub not_asked: Vec<NotAsked>,
}

/// A node that could not be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotAsked {
    /// Which.
    pub node: NodeName,
    /// Why.
    pub why: String,
}

/// One message of one sender. Times are milliseconds since the epoch, by the clock of the node that says it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its sender.
    pub from: String,
    /// COMMAND, RESULT …
    pub kind: String,
    /// 1 to 5.
    pub priority: u8,
    /// The least advanced of its recipients' states.
    pub state: String,
    /// When the first node that knows it took it.
    pub taken_ms: u64,
    /// Bytes of its text.
    pub bytes: u64,
    /// The dead message that it has the content of.
    pub retry_of: Option<String>,
    /// By name.
    pub recipients: Vec<Recipient>,
    /// How it got there, oldest first.
    pub history: Vec<Change>,
}

/// Where a message stands for one recipient.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipient {
    /// Who.
    pub recipient: String,
    /// A state of the protocol.
    pub state: String,
    /// The node where it lies, or where it ended.
    pub node: NodeName,
    /// As what it lies there: mailbox, outbox, copy, handed, dead or ended.
    pub place: String,
    /// Nodes that have a copy of it.
    pub copies: Vec<NodeName>,
    /// Why it ended, where there is something to say.
    pub reason: Option<Reason>,
    /// When that state was written.
    pub at_ms: u64,
    /// When its time is over.
    pub expires_ms: u64,
}

/// One change of a message at one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at_ms: u64,
    /// Where.
    pub node: NodeName,
    /// For whom.
    pub recipient: String,
    /// How far it was from then on.
    pub state: String,
    /// Where it lay.
    pub place: String,
    /// The other node.
    pub other: Option<NodeName>,
}

/// Puts together what was found.
pub(super) fn together(id: MessageId, rows: Vec<Row>, mut not_asked: Vec<NotAsked>) -> Shown {
    let mut by_sender: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        by_sender.entry(row.from.clone()).or_default().push(row);
    }
    not_asked.sort_by(|a, b| a.node.cmp(&b.node));
    let messages = by_sender.into_iter().filter_map(|(from, rows)| message(from, rows)).collect();
    Shown { id, messages, not_asked }
}

fn message(from: String, rows: Vec<Row>) -> Option<Message> {
    let first = rows.iter().min_by_key(|row| (row.came_from.is_some(), row.taken_ms))?.clone();
    let history = history(&rows);
    let mut by_recipient: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for row in rows {
        by_recipient.entry(row.to.clone()).or_default().push(row);
    }
    let recipients: Vec<Recipient> = by_recipient.into_values().filter_map(recipient).collect();
    let least = recipients.iter().min_by_key(|row| state_of(&row.state))?;
    Some(Message {
        from,
        kind: first.kind,
        priority: first.priority,
        state: least.state.clone(),
        taken_ms: first.taken_ms,
        bytes: first.bytes,
        retry_of: first.retry_of,
        recipients,
        history,
    })
}

/// What several nodes say of one recipient: the most advanced state wins, and an end over everything.
fn recipient(rows: Vec<Row>) -> Option<Recipient> {
    let best = rows.iter().max_by_key(|row| weight(row))?;
    let copies = rows.iter().filter(|row| row.place == "copy").map(|row| row.node.clone()).collect();
    Some(Recipient {
        recipient: best.to.clone(),
        state: best.state.clone(),
        node: best.lies_at().clone(),
        place: best.place.clone(),
        copies,
        reason: best.reason.clone(),
        at_ms: best.at_ms,
        expires_ms: best.expires_ms,
    })
}

/// Of several ends the recipient's own word counts most. Of equal states that of the node which has the message, and
/// then of the one that is nearer to the recipient.
fn weight(row: &Row) -> impl Ord + use<> {
    let state = row.reached();
    let is_end = state.is_some_and(State::is_end);
    let far = state.filter(|_| !is_end);
    let end = state.filter(|_| is_end).map(Reverse);
    let has_it = matches!(row.place.as_str(), "mailbox" | "outbox" | "dead");
    (is_end, end, far, has_it, row.came_from.is_some(), row.at_ms)
}

fn history(rows: &[Row]) -> Vec<Change> {
    let of_row = |row: &Row| {
        let (node, recipient) = (row.node.clone(), row.to.clone());
        let change = move |step: super::rows::Step| Change {
            at_ms: step.at_ms,
            node: node.clone(),
            recipient: recipient.clone(),
            state: step.state,
            place: step.place,
            other: step.other,
        };
        row.steps.clone().into_iter().map(change).collect::<Vec<_>>()
    };
    let mut all: Vec<Change> = rows.iter().flat_map(of_row).collect();
    // The clocks of two nodes differ: nothing is before the message was taken from its sender, and of what is at the
    // same time the earlier state is first.
    let taken = rows.iter().filter(|row| row.came_from.is_none()).map(|row| row.taken_ms).min().unwrap_or(0);
    all.sort_by_key(|change| (change.at_ms.max(taken), state_of(&change.state)));
    all
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::rows::Step;
    use super::*;

    pub fn name(name: &str) -> NodeName {
        NodeName::new(name).unwrap()
    }

    pub fn row(node: &str, to: &str, place: &str, state: &str, at_ms: u64) -> Row {
        Row {
            node: name(node),
            from: "trishula/dc".into(),
            to: format!("trishula/{to}"),
            kind: "COMMAND".into(),
            priority: 3,
            state: state.into(),
            place: place.into(),
            reason: None,
            taken_ms: 100,
            expires_ms: 900,
            at_ms,
            other: None,
            came_from: None,
            bytes: 7,
            retry_of: None,
            steps: vec![Step { at_ms, state: state.into(), place: place.into(), other: None }],
        }
    }

    fn shown(rows: Vec<Row>) -> Message {
        let mut shown = together(MessageId::new("m-1").unwrap(), rows, Vec::new());
        assert_eq!(shown.messages.len(), 1);
        shown.messages.remove(0)
    }

    #[test]
    fn the_most_advanced_state_wins_and_an_end_over_everything() {
        // covers T07, Q05
        let origin = || Row { other: Some(name("agni")), ..row("dc", "x", "handed", "stored", 200) };
        let home = |place, state| Row { came_from: Some(name("dc")), ..row("agni", "x", place, state, 150) };
        for (rows, state, node, place) in [
            (vec![row("dc", "x", "outbox", "accepted", 1)], "accepted", "dc", "outbox"),
            (vec![origin()], "stored", "agni", "handed"),
            (vec![origin(), home("mailbox", "stored")], "stored", "agni", "mailbox"),
            (vec![home("mailbox", "delivered"), origin()], "delivered", "agni", "mailbox"),
            // The home has not heard yet that it was expired long ago, says the origin.
            (
                vec![home("mailbox", "delivered"), row("dc", "x", "ended", "expired", 1)],
                "expired",
                "dc",
                "ended",
            ),
            // Both gave it up, but its recipient had it.
            (vec![row("dc", "x", "dead", "dead", 300), home("ended", "acked")], "acked", "agni", "ended"),
            (vec![origin(), row("rushabdev", "x", "outbox", "of tomorrow", 999)], "stored", "agni", "handed"),
        ] {
            let message = shown(rows);
            let found = &message.recipients[0];
            assert_eq!(
                (found.state.as_str(), found.node.as_str(), found.place.as_str()),
                (state, node, place)
            );
        }
    }

    #[test]
    fn a_message_of_several_recipients_is_as_far_as_the_last_of_them() {
        // covers T07
        let message = shown(vec![
            row("dc", "b", "ended", "acked", 130),
            row("dc", "a", "outbox", "accepted", 120),
            row("agni", "a", "copy", "accepted", 110),
            row("dc", "c", "dead", "dead", 140),
        ]);
        let names: Vec<&str> = message.recipients.iter().map(|row| row.recipient.as_str()).collect();
        assert_eq!(names, ["trishula/a", "trishula/b", "trishula/c"]);
        assert_eq!(message.state, "accepted");
        assert_eq!(message.recipients[0].copies, [name("agni")]);
        let times: Vec<u64> = message.history.iter().map(|change| change.at_ms).collect();
        assert_eq!(times, [110, 120, 130, 140]);
    }

    #[test]
    fn a_history_begins_with_the_senders_node_also_when_its_clock_is_ahead() {
        // covers T07, T18
        let origin = Row { taken_ms: 500, ..row("dc", "x", "outbox", "accepted", 500) };
        let home = Row { came_from: Some(name("dc")), ..row("agni", "x", "mailbox", "stored", 100) };
        let states: Vec<String> =
            shown(vec![home, origin]).history.into_iter().map(|change| change.state).collect();
        assert_eq!(states, ["accepted", "stored"]);
    }

    #[test]
    fn of_two_senders_with_one_id_each_has_a_message_and_who_was_not_asked_is_named() {
        // covers T07
        let other = Row { from: "trishula/rushabdev".into(), ..row("dc", "x", "ended", "acked", 1) };
        let not_asked = vec![NotAsked { node: name("agni"), why: "no way".into() }];
        let rows = vec![row("dc", "x", "outbox", "accepted", 1), other];
        let shown = together(MessageId::new("m-1").unwrap(), rows, not_asked.clone());
        let states: Vec<&str> = shown.messages.iter().map(|message| message.state.as_str()).collect();
        assert_eq!((states, shown.not_asked), (vec!["accepted", "acked"], not_asked));
    }
}
