//! How far the clocks of the neighbours are off: for the metrics, and a word in the log.

use std::collections::{BTreeMap, BTreeSet};

use crate::metrics;
use crate::wire::ids::NodeName;

/// A clock that is off by more than this is said in the log, in milliseconds.
const WARN_MS: f64 = 5000.0;
/// It is right again when it is off by less than this.
const RIGHT_MS: f64 = 4000.0;

/// The neighbours that were shown, and those whose clocks were warned of.
#[derive(Debug, Default)]
pub(super) struct Skews {
    shown: BTreeSet<NodeName>,
    warned: BTreeSet<NodeName>,
}

impl Skews {
    /// Shows what is measured now. A spell is said once: answers the nodes with which one began.
    pub(super) fn show(&mut self, skews: Vec<(NodeName, f64)>) -> Vec<NodeName> {
        let now: BTreeMap<NodeName, f64> = skews.into_iter().collect();
        for gone in self.shown.iter().filter(|node| !now.contains_key(*node)) {
            // One that was not shown needs no removal.
            let _ = metrics::CLOCK_SKEW.remove_label_values(&[gone.as_str()]);
        }
        let mut began = Vec::new();
        for (node, ms) in &now {
            metrics::CLOCK_SKEW.with_label_values(&[node.as_str()]).set(ms.round() as i64);
            if ms.abs() > WARN_MS && self.warned.insert(node.clone()) {
                let seconds = ms / 1000.0;
                tracing::warn!(
                    peer = %node,
                    seconds,
                    "the clock of this node is far off ours: times to live run wrongly while machines sleep, and traces need guessing; set both by NTP"
                );
                began.push(node.clone());
            } else if ms.abs() < RIGHT_MS {
                self.warned.remove(node);
            }
        }
        self.shown = now.into_keys().collect();
        began
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_far_off_is_said_once_until_it_was_right_again() {
        // covers T18
        let node = || NodeName::new("skewed").unwrap();
        let mut skews = Skews::default();
        let mut began = |ms: f64| !skews.show(vec![(node(), ms)]).is_empty();
        let said: Vec<bool> =
            [10.0, -5100.0, -5200.0, -4500.0, -5100.0, 100.0, 6000.0].map(&mut began).to_vec();
        assert_eq!(said, [false, true, false, false, false, false, true]);
        assert_eq!(metrics::CLOCK_SKEW.with_label_values(&["skewed"]).get(), 6000);
        skews.show(Vec::new());
        assert!(!metrics::render().contains("peer=\"skewed\""));
    }
}
