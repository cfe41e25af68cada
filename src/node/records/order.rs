//! Steps that several nodes recorded by their own clocks, in one order: no effect before its cause.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::trace::Recorded;
use crate::wire::ids::NodeName;

/// By how much the times of one node were moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shift {
    /// Which.
    pub node: NodeName,
    /// Its clock was behind by so much, or ahead when negative.
    pub ms: f64,
}

/// Steps that nothing follows.
const ENDS: [&str; 4] = ["acked", "nacked", "expired", "dead"];

/// How a message goes on from one node to another: what happens there is after the first, and what is told back is
/// before the second.
struct Bounds {
    begins_after: Option<u64>,
    ends_before: Option<u64>,
}

/// Puts steps in order. Their times are then those of the first node's clock, as far as that can be told.
pub(super) fn in_order(mut steps: Vec<Recorded>) -> (Vec<Recorded>, Vec<Shift>) {
    let shifts = shifts(&steps);
    for step in &mut steps {
        let shift = shifts.get(&step.node).copied().unwrap_or(0);
        step.detail.us = step.detail.us.saturating_add_signed(shift);
    }
    steps.sort_by_key(|step| (step.detail.us, rank(&step.step), step.clock));
    let moved = shifts.into_iter().filter(|(_, us)| *us != 0);
    (steps, moved.map(|(node, us)| Shift { node, ms: us as f64 / 1e3 }).collect())
}

/// What the time since an earlier step of the same node was spent with, in microseconds.
pub(super) fn span_before(steps: &[Recorded], at: usize) -> Option<(&'static str, u64)> {
    let step = &steps[at];
    let (what, causes): (&str, &[&str]) = match step.step.as_str() {
        "kept" => ("commit", &["taken", "arrived"]),
        "sent" => ("queue", &["taken"]),
        "handed over" | "handed over again" => {
            ("queue", &["taken", "arrived", "taken back", "requeued", "took over"])
        }
        "stored" => ("answer", &["sent", "sent again"]),
        "acked" | "nacked" => ("answer", &["handed over", "handed over again"]),
        _ => return None,
    };
    let mut earlier = steps[..at].iter().rev();
    let cause = earlier.find(|cause| cause.node == step.node && causes.contains(&cause.step.as_str()))?;
    Some((what, step.detail.us.saturating_sub(cause.detail.us)))
}

/// The order of steps that are at the same time.
fn rank(step: &str) -> usize {
    const ORDER: [&str; 9] =
        ["taken", "took over", "sent", "sent again", "relayed", "arrived", "recognised", "kept", "stored"];
    ORDER.iter().position(|known| *known == step).unwrap_or(match step {
        "handed over" | "handed over again" => ORDER.len(),
        "written" => ORDER.len() + 1,
        _ => ORDER.len() + 2,
    })
}

/// By how many microseconds each node's times are to be moved: by as little as brings causes before effects.
fn shifts(steps: &[Recorded]) -> BTreeMap<NodeName, i64> {
    let mut shifts = BTreeMap::new();
    let first = |node: &NodeName, words: &[&str]| {
        let of_node = steps.iter().filter(|step| step.node == *node && words.contains(&step.step.as_str()));
        of_node.map(|step| step.detail.us).min()
    };
    let taken = steps.iter().filter(|step| step.step == "taken").min_by_key(|step| step.clock);
    let Some(origin) = taken.or_else(|| steps.iter().min_by_key(|step| step.clock)) else { return shifts };
    let origin = origin.node.clone();
    shifts.insert(origin.clone(), 0);
    let of_origin = |word: &[&str], peer: Option<&NodeName>| {
        let told = steps.iter().filter(|step| step.node == origin && word.contains(&step.step.as_str()));
        told.filter(|step| peer.is_none() || step.detail.peer.as_ref() == peer)
            .map(|step| step.detail.us)
            .min()
    };
    let sent = ["sent", "sent again"];
    // Those that it was sent to, then those between.
    for relays in [false, true] {
        for step in steps {
            let node = &step.node;
            let begins: &[&str] = if relays { &["relayed"] } else { &["arrived"] };
            if shifts.contains_key(node) {
                continue;
            }
            let Some(began) = first(node, begins) else { continue };
            let bounds = match relays {
                false => Bounds {
                    begins_after: of_origin(&sent, Some(node)).or_else(|| of_origin(&sent, None)),
                    ends_before: of_origin(&["stored"], Some(node)).or_else(|| of_origin(&ENDS, None)),
                },
                true => Bounds {
                    begins_after: of_origin(&sent, None),
                    ends_before: arrival_behind(steps, &shifts, node),
                },
            };
            // What is told back is told when it is on the disk there; one that ended soon is told of by its end alone.
            let last = if relays { began } else { first(node, &["kept"]).unwrap_or(began) };
            shifts.insert(node.clone(), bounds.shift(began, last));
        }
    }
    shifts
}

/// When a message arrived, by the first node's clock, where this one had sent it on to.
fn arrival_behind(steps: &[Recorded], shifts: &BTreeMap<NodeName, i64>, relay: &NodeName) -> Option<u64> {
    let goal =
        steps.iter().find(|step| step.node == *relay && step.step == "relayed")?.detail.peer.clone()?;
    let arrived = steps.iter().filter(|step| step.node == goal && step.step == "arrived");
    let shift = shifts.get(&goal).copied().unwrap_or(0);
    arrived.map(|step| step.detail.us.saturating_add_signed(shift)).min()
}

impl Bounds {
    fn shift(&self, began: u64, last: u64) -> i64 {
        let late = self.begins_after.map_or(0, |after| after as i64 - began as i64);
        let early = self.ends_before.map_or(0, |before| before as i64 - last as i64);
        if late > 0 { late } else { early.min(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::records::trace::Detail;

    fn step(node: &str, step: &str, us: u64, peer: Option<&str>) -> Recorded {
        Recorded {
            from: "trishula/dc".into(),
            to: "trishula/x".into(),
            node: NodeName::new(node).unwrap(),
            step: step.into(),
            clock: us,
            detail: Detail { us, peer: peer.map(|peer| NodeName::new(peer).unwrap()), ..Detail::default() },
        }
    }

    /// From `dc` through `mid` to `far`, whose clocks are off by so much.
    fn journey(mid: i64, far: i64) -> Vec<Recorded> {
        let base = 1_000_000u64;
        let at = |us: u64, off: i64| (base + us).saturating_add_signed(off);
        vec![
            step("far", "acked", at(90, far), None),
            step("far", "written", at(80, far), None),
            step("far", "handed over", at(60, far), None),
            step("far", "kept", at(70, far), None),
            step("far", "arrived", at(50, far), Some("dc")),
            step("mid", "relayed", at(30, mid), Some("far")),
            step("dc", "acked", at(99, 0), None),
            step("dc", "stored", at(75, 0), Some("far")),
            step("dc", "kept", at(20, 0), None),
            step("dc", "sent", at(10, 0), Some("far")),
            step("dc", "taken", at(0, 0), None),
        ]
    }

    #[test]
    fn no_step_is_before_its_cause_however_far_the_clocks_are_off() {
        // covers Q05, T18
        let order = [
            "dc taken",
            "dc sent",
            "dc kept",
            "mid relayed",
            "far arrived",
            "far handed over",
            "far kept",
            "dc stored",
            "far written",
            "far acked",
            "dc acked",
        ];
        let (steps, shifts) = in_order(journey(0, 0));
        let names: Vec<String> = steps.iter().map(|step| format!("{} {}", step.node, step.step)).collect();
        assert_eq!((names.as_slice(), shifts.as_slice()), (order.map(str::to_owned).as_slice(), &[][..]));
        for (mid, far) in [(0, 5_000_000), (0, -5_000_000), (900_000, 70), (-3, -70), (-900_000, 900_000)] {
            let (steps, shifts) = in_order(journey(mid, far));
            let at = |wanted: &str| {
                steps.iter().position(|step| format!("{} {}", step.node, step.step) == wanted).unwrap()
            };
            for pair in [
                ["dc taken", "dc sent"],
                ["dc sent", "mid relayed"],
                ["mid relayed", "far arrived"],
                ["far arrived", "far kept"],
                ["far kept", "dc stored"],
                ["far written", "far acked"],
            ] {
                assert!(at(pair[0]) < at(pair[1]), "{pair:?} with {mid} and {far}");
            }
            assert!(!shifts.is_empty(), "{mid} and {far}");
        }
    }

    #[test]
    fn commits_queues_and_answers_are_measured_on_one_node() {
        // covers Q05
        let (steps, _) = in_order(journey(0, 0));
        let span = |wanted: &str| {
            let at = steps.iter().position(|step| format!("{} {}", step.node, step.step) == wanted).unwrap();
            span_before(&steps, at)
        };
        assert_eq!(span("dc kept"), Some(("commit", 20)));
        assert_eq!(span("far kept"), Some(("commit", 20)));
        assert_eq!(span("dc sent"), Some(("queue", 10)));
        assert_eq!(span("far handed over"), Some(("queue", 10)));
        assert_eq!(span("dc stored"), Some(("answer", 65)));
        assert_eq!(span("far acked"), Some(("answer", 30)));
        assert_eq!((span("dc taken"), span("mid relayed"), span("dc acked")), (None, None, None));
    }
}
