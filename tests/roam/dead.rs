//! A path that dies without a word.

use std::thread::sleep;
use std::time::{Duration, Instant};

use trishula_wan::{Shape, inside};

use crate::harness::{PATIENCE, until};
use crate::place::{Family, World};

/// One way.
const DELAY: Duration = Duration::from_millis(10);
/// Until a new link counts as quiet and good: at first three seconds of silence are borne, and less and less later.
pub const QUIET: Duration = Duration::from_secs(16);
const TIMES: usize = 3;
/// Ten times what is promised.
const GENEROUS: Duration = Duration::from_secs(5);

const SILENT: &str = "trishula_links_closed_total{reason=\"silent\"}";

#[test]
fn a_quiet_link_whose_path_dies_is_given_up_at_both_ends() {
    // covers Q02
    inside("dead::a_quiet_link_whose_path_dies_is_given_up_at_both_ends", || {
        let mut world = World::init(&["dc", "agni"], Family::Four);
        world.star.set_both(0, 1, &Shape::delayed(DELAY));
        (0..2).for_each(|n| world.start_node(n));
        for _ in 0..TIMES {
            world.wait_whole();
            sleep(QUIET);
            let before = [0, 1].map(|n| world.metric(n, SILENT));
            let cut = Instant::now();
            world.star.link(0, 1, false);
            let mut noticed = [None; 2];
            while noticed.contains(&None) {
                assert!(cut.elapsed() < PATIENCE, "given up at {noticed:?}");
                for n in (0..2).filter(|n| noticed[*n].is_none()).collect::<Vec<_>>() {
                    noticed[n] = (world.metric(n, SILENT) > before[n]).then(|| cut.elapsed());
                }
                // As closely as the figure is read, without taking the processor from the nodes.
                sleep(Duration::from_millis(5));
            }
            let noticed = noticed.map(Option::unwrap);
            eprintln!("a quiet path was cut: given up {noticed:?} later");
            assert!(noticed.iter().all(|time| *time < GENEROUS), "{noticed:?}");
            world.star.link(0, 1, true);
            until("there is a link again", || {
                world.machines[0].reaches("agni") && world.machines[1].reaches("dc")
            });
        }
        world.assert_always_dialled();
    });
}
