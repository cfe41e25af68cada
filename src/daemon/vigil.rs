//! What must always hold of links: a node that there is an address of has a link, or is being dialled. Never neither.
//!
//! It is looked at once a second, for each such node. Time is counted in looks, so that a machine that slept has not broken
//! it. Should it break all the same, that is counted, said in the log, and mended: the dialler is started anew.

use std::time::Duration;

use crate::link::dial::Pulse;
use crate::metrics;

/// Between two looks.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in a row without a link and without a step of its dialler. One step, an attempt at one address or the wait for the
/// next, takes five seconds at most.
const TOO_LONG: u32 = 10;

/// Watches over one node.
#[derive(Debug, Default)]
pub struct Vigil {
    steps: u64,
    quiet: u32,
}

impl Vigil {
    /// One look: whether there is a link, and what the dialler has done since the last. `true`: it does nothing, and is to be
    /// started anew.
    pub fn look(&mut self, linked: bool, pulse: &Pulse) -> bool {
        let steps = pulse.steps();
        let idle = !linked && steps == self.steps;
        self.steps = steps;
        self.quiet = if idle { self.quiet + 1 } else { 0 };
        let broken = self.quiet >= TOO_LONG;
        if broken {
            self.quiet = 0;
            metrics::NOT_DIALLED.inc();
        }
        broken
    }

    /// For so many looks nothing happened though there is no link.
    pub fn quiet(&self) -> u32 {
        self.quiet
    }
}

/// For the metrics: nodes without a link, and the longest that nothing was done for one of them.
pub fn show(down: usize, quiet: u32) {
    metrics::DOWN.set(i64::try_from(down).unwrap_or(i64::MAX));
    metrics::DOWN_IDLE_SECONDS.set(i64::from(quiet) * LOOK_EVERY.as_secs().cast_signed());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_down_and_not_dialled_is_noticed_and_who_is_dialled_or_linked_is_not() {
        // covers Q03
        let (mut vigil, pulse) = (Vigil::default(), Pulse::default());
        let before = metrics::NOT_DIALLED.get();
        for look in 0..100 {
            // A step every five seconds, as the slowest dialler does.
            if look % 5 == 0 {
                pulse.step();
            }
            assert!(!vigil.look(false, &pulse) && vigil.quiet() < 6, "look {look}");
        }
        assert!((0..100).all(|_| !vigil.look(true, &pulse)), "a link needs no dialler");
        assert_eq!(vigil.quiet(), 0);
        assert_eq!((1..=20).filter(|_| vigil.look(false, &pulse)).count(), 2);
        assert_eq!(metrics::NOT_DIALLED.get(), before + 2);
    }
}
