//! Stores whose file itself is damaged: seen by a start, or only by the full check behind it.
#![cfg(target_os = "linux")]

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::disk::{is_well, refuses};
use super::faults::Fault;
use super::{accepted, command, goes_away, manual, open_when_it_can, run, said, word};
use crate::harness::{Machine, Mesh, until};
use crate::wss::{Door, Wss};

const PAGE: usize = 4096;
/// First byte of a page that is a leaf of an index (SQLite's file format, 1.6).
const INDEX_LEAF: u8 = 0x0a;
/// What an operator is told to do.
const HINT: &str = "trishula store salvage";

fn database(machine: &Machine) -> PathBuf {
    machine.folder.join("data/node.sqlite")
}

/// Pages of one kind in which this stands, behind the first page, which has the schema.
fn pages(bytes: &[u8], kind: u8, what: &[u8]) -> Vec<Range<usize>> {
    let pages = (PAGE..bytes.len()).step_by(PAGE).map(|at| at..at + PAGE);
    let has = |page: &Range<usize>| bytes[page.clone()].windows(what.len()).any(|window| window == what);
    pages.filter(|page| bytes[page.start] == kind && has(page)).collect()
}

/// Sends so many messages to an agent that is away.
async fn fill(sender: &mut Wss, count: usize, size: usize) {
    for n in 0..count {
        let payload = json!({"payload": format!("word-{n} {}", "x".repeat(size))});
        accepted(sender, &command("worker", &format!("m-{n}"), "accepted", payload)).await;
    }
}

/// What the worker is handed, in order, without a word of its own.
async fn handed(machine: &Machine, count: usize) -> Vec<String> {
    let mut worker = open_when_it_can(&Door::of(machine, "worker")).await;
    let mut got = Vec::new();
    while got.len() < count {
        got.push(worker.message().await["id"].as_str().unwrap().to_owned());
    }
    goes_away(worker).await;
    got
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(|n| format!("m-{n}")).collect()
}

async fn is_refused(sender: &mut Wss, id: &str) {
    sender.say(command("worker", id, "accepted", json!({}))).await.unwrap();
    let answer = sender.answer(id).await;
    assert_eq!(word(&answer), "unavailable", "{answer}");
    assert!(answer["payload"]["message"].as_str().unwrap().contains("damaged"), "{answer}");
}

/// Every way to look at the machine says that its store is damaged, and what to do.
fn is_damaged_everywhere(machine: &Machine) {
    let status = machine.status().unwrap();
    assert!(status["durable"]["store"]["damaged"].is_string(), "{status}");
    // It is no reason not to start: what can be read is served.
    for (command, says, code) in [(&["check"][..], HINT, 0), (&["store", "status"], "DAMAGED", 1)] {
        let output = machine.run(command);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.code() == Some(code) && said.contains(says), "{command:?}: {said}");
    }
}

/// Does what the operator is told: what can be saved takes the place of the damaged file.
fn salvage(machine: &mut Machine) -> Vec<Value> {
    let out = machine.folder.join("saved");
    let output = machine.run(&["store", "salvage", "--json", "--out", &out.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for rest in ["", "-wal", "-shm"] {
        let name = format!("node.sqlite{rest}");
        let damaged = machine.folder.join("data").join(&name);
        if damaged.exists() {
            fs::rename(damaged, machine.folder.join(name)).unwrap();
        }
    }
    fs::rename(out.join("node.sqlite"), database(machine)).unwrap();
    serde_json::from_slice(&output.stdout).unwrap()
}

// covers B26, T04
#[test]
fn damage_that_only_the_full_check_finds_ends_accepting_on_a_running_node() {
    let mut mesh = Mesh::start(&["agni"]);
    let agni = mesh.machine("agni");
    run(async {
        goes_away(Door::of(agni, "worker").must_open(manual()).await).await;
        goes_away(Door::of(agni, "leaver").must_open(manual()).await).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        fill(&mut sender, 4, 10).await;
        accepted(&mut sender, &command("leaver", "d-1", "accepted", json!({}))).await;
        let mut leaver = Door::of(agni, "leaver").must_open(manual()).await;
        leaver.say(json!({"type": "UNREGISTER", "id": "u"})).await.unwrap();
        leaver.until("it is unregistered", |frame| frame["type"] == "UNREGISTERED").await;
        until("its message is dead", || agni.status().unwrap()["durable"]["dead_letters"] == 1);
    });
    assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
    // The index of dead letters says something else than its table: pages and their links are whole.
    let mut bytes = fs::read(database(agni)).unwrap();
    let page = pages(&bytes, INDEX_LEAF, b"dead").pop().expect("the index of the dead letters");
    let at = bytes[page.clone()].windows(4).position(|window| window == b"dead").unwrap();
    bytes[page.start + at] = b'b';
    fs::write(database(agni), &bytes).unwrap();

    let fault = Fault::of(agni);
    fault.begins("check");
    fault.start(agni);
    until("agni is well", || is_well(agni));
    run(async {
        let store = |agni: &Machine| agni.status().unwrap()["durable"]["store"].clone();
        assert_eq!(store(agni)["full_check"], "running");
        let mut sender = open_when_it_can(&Door::of(agni, "sender")).await;
        for n in 4..6 {
            assert_eq!(
                said(&mut sender, command("worker", &format!("m-{n}"), "accepted", json!({}))).await,
                "accepted"
            );
        }
        fault.ends();
        // Nobody writes anything: it is said all the same.
        until("agni says that its store is damaged", || refuses(agni, HINT));
        assert_eq!(store(agni)["full_check"], "damaged");
        is_refused(&mut sender, "refused").await;
        is_damaged_everywhere(agni);
        let before = fs::read(database(agni)).unwrap();
        assert_eq!(handed(agni, 6).await, ids(0..6), "what it has is served");
        assert!(agni.node_log().contains("nothing is accepted any more"), "{}", agni.node_log());

        // The next start does not take it for whole.
        assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
        agni.start_node();
        until("agni says that its store is damaged", || refuses(agni, HINT));
        let mut sender = open_when_it_can(&Door::of(agni, "sender")).await;
        is_refused(&mut sender, "refused").await;
        assert_eq!(handed(agni, 6).await, ids(0..6));
        assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
        assert!(fs::read(database(agni)).unwrap() == before, "a damaged file is not written");

        let saved = salvage(agni);
        assert!(saved.iter().all(|table| table["whole"] == true), "{saved:?}");
        agni.start_node();
        until("agni is well", || is_well(agni));
        assert_eq!(handed(agni, 6).await, ids(0..6));
        let mut sender = open_when_it_can(&Door::of(agni, "sender")).await;
        accepted(&mut sender, &command("worker", "m-6", "accepted", json!({}))).await;
        assert_eq!(handed(agni, 7).await, ids(0..7));
        until("the full check is over", || store(agni)["full_check"] == "whole");
    });
    let checked = agni.run(&["check"]);
    assert!(!String::from_utf8_lossy(&checked.stdout).contains(HINT));
}
