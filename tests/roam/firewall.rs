//! A machine whose own firewall lets no UDP through: nftables, as hotels and companies have it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use trishula_wan::{Namespace, Shape, inside};

use crate::flow::PACE;
use crate::harness::until;
use crate::place::{Family, World};

/// How a firewall keeps UDP out: what comes and what leaves vanishes; whoever sends is told; the program that sends is told
/// by the system (EPERM), before there is a packet.
const BLOCKS: [(&str, &str); 3] = [
    ("prerouting drops", "type filter hook prerouting priority 0; meta l4proto udp drop;"),
    (
        "input rejects",
        "type filter hook input priority 0; meta l4proto udp reject with icmpx type port-unreachable;",
    ),
    ("output drops", "type filter hook output priority 0; meta l4proto udp drop;"),
];

/// Has nft read this in a namespace.
fn nft(place: &Namespace, rules: &str) {
    let mut child =
        place.start(Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped())).expect("nft runs");
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft refuses {rules}");
}

#[test]
fn a_firewall_that_lets_no_udp_through_is_gone_round_and_quic_comes_back() {
    // covers Q01, Q02
    inside("firewall::a_firewall_that_lets_no_udp_through_is_gone_round_and_quic_comes_back", || {
        let mut world = World::init(&["dc", "agni"], Family::Four);
        world.star.set_all(&Shape::delayed(Duration::from_millis(10)));
        (0..2).for_each(|n| world.start_node(n));
        (0..2).for_each(|n| world.start_edge(n));
        world.wait_whole();
        let is_on = |what: &str| until(what, || world.machines[0].carriers("node") == [what]);
        for (how, chain) in BLOCKS {
            is_on("quic");
            let place = world.star.at(0);
            let [mut cut, mut opened] = [Instant::now(); 2];
            let mut back = Duration::ZERO;
            let flows = world.flows_while(PACE, || {
                sleep(Duration::from_millis(500));
                cut = Instant::now();
                nft(place, &format!("table inet block {{\nchain block {{\n{chain}\n}}\n}}\n"));
                is_on("wss");
                sleep(Duration::from_secs(2));
                opened = Instant::now();
                nft(place, "delete table inet block\n");
                back = is_on("quic");
            });
            let silent = |since| flows.each_ref().map(|flow| flow.longest_gap(since));
            eprintln!(
                "{how}: silent for {:?} when UDP was blocked, for {:?} on the way back, on QUIC {back:?} later",
                silent(cut),
                silent(opened)
            );
        }
        world.assert_always_dialled();
    });
}
