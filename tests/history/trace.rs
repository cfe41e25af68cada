//! The last steps of a run, for whoever replays it.

use std::collections::{BTreeMap, VecDeque};

use crate::clock::Us;

const KEEP: usize = 300_000;

#[derive(Debug, Default)]
pub struct Trace {
    on: bool,
    steps: VecDeque<(Us, String)>,
    /// How often each thing happened.
    pub counts: BTreeMap<&'static str, u64>,
    /// Changes with everything that happens: two runs with the same one are the same.
    pub digest: u64,
}

impl Trace {
    pub fn new(on: bool) -> Trace {
        Trace { on, ..Trace::default() }
    }

    pub fn note(&mut self, now: Us, text: impl FnOnce() -> String) {
        if !self.on {
            return;
        }
        if self.steps.len() >= KEEP {
            self.steps.pop_front();
        }
        self.steps.push_back((now, text()));
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn stir(&mut self, value: u64) {
        self.digest = crate::rng::mix(self.digest.rotate_left(7) ^ value);
    }

    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.steps.iter().map(|(at, text)| format!("{:>12.6} {text}", *at as f64 / 1e6))
    }

    /// Only the steps that speak of one of several things, and what was done to the world.
    pub fn about(&self, what: &str) -> Vec<String> {
        let told = |line: &String| {
            what.split(',').any(|word| line.contains(word))
                || line.contains("FAULT")
                || line.contains("BROKEN")
        };
        self.lines().filter(told).collect()
    }
}
