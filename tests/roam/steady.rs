//! A bad path that is good enough.

use std::thread::sleep;
use std::time::Duration;

use trishula_wan::{Shape, inside};

use crate::flow::PACE;
use crate::place::{Family, World};

const TIME: Duration = Duration::from_secs(15);
const TIME_LONG: Duration = Duration::from_secs(60);

#[test]
fn at_five_percent_loss_no_link_is_given_up() {
    // covers Q02, Q03
    inside("steady::at_five_percent_loss_no_link_is_given_up", || {
        let mut world = World::init(&["dc", "agni"], Family::Four);
        world.star.set_both(0, 1, &Shape::delayed(Duration::from_millis(25)).losing(0.05));
        (0..2).for_each(|n| world.start_node(n));
        world.wait_whole();
        let silent = |n: usize| world.metric(n, "trishula_links_closed_total{reason=\"silent\"}") as u64;
        let long = std::env::var_os("ROAM_LONG").is_some();
        let time = if long { TIME_LONG } else { TIME };
        // Without a message first, when nothing but heartbeats shows that the link lives; then with messages.
        sleep(time / 2);
        let quiet = silent(0) + silent(1);
        let flows = world.flows_while(PACE, || sleep(time / 2));
        let busy = silent(0) + silent(1) - quiet;
        let lost = [(0, 1), (1, 0)].map(|(from, to)| world.star.counters(from, to).lost);
        eprintln!(
            "{time:?} at 5 % loss, {lost:?} packets lost: {quiet} links given up in quiet, {busy} under load"
        );
        for flow in &flows {
            eprintln!("{} messages, longest silence {:?}", flow.came.len(), flow.longest_gap(flow.came[0]));
        }
        assert_eq!(quiet + busy, 0);
        world.assert_always_dialled();
    });
}
