//! Reads what the clients wrote, and nothing else, and compares it with what the contract promises (docs/protocol.md, §6):
//!
//! * **lost**: a sender was told that a message is accepted, and its recipient never wrote it down;
//! * **doubled**: a recipient got a message again, and that was not marked `redelivered`;
//! * **reordered**: two messages of one sender to one recipient with the same priority were sent once each over the same
//!   connection, accepted by the same node, and came for the first time, unmarked, in another order than they were sent.
//!   Recipients that move between nodes are promised no order while the old one can't be reached; they are left out;
//! * **unknown**: a recipient got what nobody sent;
//! * **waiting**: a message that was neither accepted nor refused for good: its sender has not done with it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::log::{self, Line};

/// (sender, id): as the mesh knows a message.
type Name = (String, String);

/// What was found. Of each fault, the messages concerned.
#[derive(Debug, Default)]
pub struct Verdict {
    pub lost: Vec<Name>,
    pub doubled: Vec<Name>,
    pub reordered: Vec<(Name, Name)>,
    pub unknown: Vec<Name>,
    pub waiting: Vec<Name>,
    /// Messages that were sent, accepted, refused for good; sendings beyond the first.
    pub sent: usize,
    pub accepted: usize,
    pub refused: usize,
    pub resent: usize,
    /// Deliveries, and those of them that were marked.
    pub got: usize,
    pub redelivered: usize,
    /// Pairs of neighbours whose order was promised, and looked at.
    pub in_order: usize,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        let faults = self.lost.len() + self.doubled.len() + self.reordered.len() + self.unknown.len();
        faults + self.waiting.len() == 0
    }
}

#[derive(Debug, Default)]
struct Sent {
    to: String,
    n: u64,
    priority: u8,
    times: usize,
    connection: u64,
    /// By which node, heard over which connection.
    accepted: Option<(String, u64)>,
    /// The mesh has it, or had it: `accepted` may have been left out.
    taken: bool,
    refused: bool,
}

#[derive(Debug, Default)]
struct Got {
    settled: bool,
    /// By name: where in the file it came first, and whether that was marked.
    first: HashMap<Name, (usize, bool)>,
}

/// Reads a folder of logs.
pub fn check(folder: &Path) -> Verdict {
    let mut verdict = Verdict::default();
    let mut sent: HashMap<Name, Sent> = HashMap::new();
    let mut got: HashMap<String, Got> = HashMap::new();
    for (agent, lines) in log::read(folder) {
        for (at, line) in lines.into_iter().enumerate() {
            match line {
                Line::Recipient { settled } => got.entry(agent.clone()).or_default().settled = settled,
                Line::Got { from, id, redelivered } => {
                    let got = got.entry(agent.clone()).or_default();
                    came(&mut verdict, got, at, (from, id), redelivered);
                }
                line => said(&mut sent, &agent, line),
            }
        }
    }
    count_sent(&mut verdict, &sent, &got);
    for (agent, got) in &got {
        let unsent = |name: &&Name| sent.get(*name).is_none_or(|sent| sent.to != *agent);
        verdict.unknown.extend(got.first.keys().filter(unsent).cloned());
        if got.settled {
            look_at_order(&mut verdict, agent, &sent, got);
        }
    }
    verdict
}

fn came(verdict: &mut Verdict, got: &mut Got, at: usize, name: Name, redelivered: bool) {
    verdict.got += 1;
    verdict.redelivered += usize::from(redelivered);
    if got.first.contains_key(&name) {
        if !redelivered {
            verdict.doubled.push(name);
        }
        return;
    }
    got.first.insert(name, (at, redelivered));
}

fn said(sent: &mut HashMap<Name, Sent>, agent: &str, line: Line) {
    let name = |id: String| (agent.to_owned(), id);
    match line {
        Line::Sent { id, to, n, priority, connection } => {
            let sent = sent.entry(name(id)).or_default();
            (sent.to, sent.n, sent.priority, sent.connection) = (to, n, priority, connection);
            sent.times += 1;
        }
        Line::Told { id, state, node, connection } => {
            let sent = sent.entry(name(id)).or_default();
            sent.taken = true;
            if state == "accepted" && sent.accepted.is_none() {
                sent.accepted = Some((node, connection));
            }
        }
        Line::Refused { id, retry, .. } => sent.entry(name(id)).or_default().refused |= !retry,
        Line::Recipient { .. } | Line::Connected { .. } | Line::Got { .. } => {}
    }
}

fn count_sent(verdict: &mut Verdict, sent: &HashMap<Name, Sent>, got: &HashMap<String, Got>) {
    for (name, sent) in sent {
        verdict.sent += 1;
        verdict.resent += sent.times.saturating_sub(1);
        let arrived = got.get(&sent.to).is_some_and(|got| got.first.contains_key(name));
        match (sent.taken, sent.refused) {
            (true, _) => {
                verdict.accepted += 1;
                if !arrived {
                    verdict.lost.push(name.clone());
                }
            }
            // Refused, and perhaps arrived all the same: both are allowed.
            (false, true) => verdict.refused += 1,
            (false, false) => verdict.waiting.push(name.clone()),
        }
    }
}

/// Sender, priority, connection and accepting node.
type Flow<'a> = (&'a str, u8, u64, &'a str);

fn look_at_order(verdict: &mut Verdict, agent: &str, sent: &HashMap<Name, Sent>, got: &Got) {
    // (sender, priority, connection, accepting node): (n, where it came, which).
    let mut runs: HashMap<Flow<'_>, Vec<(u64, usize, &Name)>> = HashMap::new();
    let mut seen = HashSet::new();
    for (name, (at, redelivered)) in &got.first {
        let Some(sent) = sent.get(name).filter(|sent| sent.to == agent && sent.times == 1) else { continue };
        let Some((node, connection)) = &sent.accepted else { continue };
        if *redelivered || *connection != sent.connection || !seen.insert(name) {
            continue;
        }
        let run = runs.entry((&name.0, sent.priority, *connection, node)).or_default();
        run.push((sent.n, *at, name));
    }
    for run in runs.values_mut() {
        run.sort_unstable();
        let mut latest: Option<(usize, &Name)> = None;
        for (_, at, name) in run.iter() {
            if let Some((before, earlier)) = latest {
                verdict.in_order += 1;
                if *at < before {
                    verdict.reordered.push((earlier.clone(), (*name).clone()));
                    continue;
                }
            }
            latest = Some((*at, name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::log::Log;

    fn sent(n: u64) -> Line {
        Line::Sent { id: format!("m-{n}"), to: "r".into(), n, priority: 3, connection: 1 }
    }

    fn accepted(n: u64) -> Line {
        Line::Told { id: format!("m-{n}"), state: "accepted".into(), node: "dc".into(), connection: 1 }
    }

    fn got(n: u64, redelivered: bool) -> Line {
        Line::Got { from: "s".into(), id: format!("m-{n}"), redelivered }
    }

    /// What a sender `s` and a settled recipient `r` wrote.
    fn verdict(sender: &[Line], recipient: &[Line]) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        let mut log = Log::create(folder.path(), "s");
        sender.iter().for_each(|line| log.write(line));
        let mut log = Log::create(folder.path(), "r");
        log.write(&Line::Recipient { settled: true });
        recipient.iter().for_each(|line| log.write(line));
        check(folder.path())
    }

    fn three() -> Vec<Line> {
        (1..=3).flat_map(|n| [sent(n), accepted(n)]).collect()
    }

    #[test]
    fn all_in_order_and_once_is_clean_and_so_is_what_is_marked() {
        let clean = verdict(&three(), &[got(1, false), got(2, false), got(2, true), got(3, false)]);
        assert!(clean.is_clean(), "{clean:?}");
        assert_eq!((clean.accepted, clean.got, clean.redelivered, clean.in_order), (3, 4, 1, 2));
    }

    #[test]
    fn a_planted_loss_a_double_and_a_reordering_are_found() {
        let name = |n: u64| ("s".to_owned(), format!("m-{n}"));
        let lost = verdict(&three(), &[got(1, false), got(3, false)]);
        assert_eq!(lost.lost, [name(2)]);
        assert!(!lost.is_clean() && lost.doubled.is_empty() && lost.reordered.is_empty(), "{lost:?}");

        let doubled = verdict(&three(), &[got(1, false), got(2, false), got(1, false), got(3, false)]);
        assert_eq!(doubled.doubled, [name(1)]);
        assert!(
            !doubled.is_clean() && doubled.lost.is_empty() && doubled.reordered.is_empty(),
            "{doubled:?}"
        );

        let reordered = verdict(&three(), &[got(1, false), got(3, false), got(2, false)]);
        assert_eq!(reordered.reordered, [(name(2), name(3))]);
        assert!(!reordered.is_clean() && reordered.lost.is_empty(), "{reordered:?}");

        let invented = verdict(&three(), &[got(1, false), got(2, false), got(3, false), got(4, false)]);
        assert_eq!(invented.unknown, [name(4)]);
        let open = verdict(&[sent(1)], &[]);
        assert_eq!((open.waiting, open.lost), (vec![name(1)], vec![]));
    }

    #[test]
    fn what_was_sent_twice_or_over_another_connection_has_no_place_in_the_order() {
        let mut lines = three();
        lines.push(sent(2));
        let resent = verdict(&lines, &[got(1, false), got(3, false), got(2, false)]);
        assert!(resent.is_clean() && resent.resent == 1, "{resent:?}");

        let elsewhere =
            Line::Told { id: "m-3".into(), state: "accepted".into(), node: "agni".into(), connection: 1 };
        let lines = [sent(2), accepted(2), sent(3), elsewhere];
        let other = verdict(&lines, &[got(3, false), got(2, false)]);
        assert!(other.is_clean() && other.in_order == 0, "{other:?}");

        // One that was refused for now and not sent again is not done with.
        let later = Line::Refused { id: "m-1".into(), code: "unavailable".into(), retry: true };
        assert_eq!(verdict(&[sent(1), later], &[]).waiting.len(), 1);
        let never = Line::Refused { id: "m-1".into(), code: "too_old".into(), retry: false };
        assert!(verdict(&[sent(1), never], &[]).is_clean());
    }
}
