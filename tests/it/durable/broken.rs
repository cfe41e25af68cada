//! Stores whose file itself is damaged: seen by a start, or only by the full check behind it.
#![cfg(target_os = "linux")]

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::disk::{is_well, refuses};
use super::faults::Fault;
use super::{accepted, command, goes_away, manual, open_when_it_can, run, said, told, word};
use crate::harness::{Machine, Mesh, answers, until};
use crate::wss::{Door, Wss};

const PAGE: usize = 4096;
/// First bytes of pages: leaves of tables and of indexes (SQLite's file format, 1.6).
const TABLE_LEAF: u8 = 0x0d;
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

/// Whether the node, which may just be starting, says so in every way.
fn says_damaged(machine: &Machine) -> bool {
    is_up(machine) && refuses(machine, HINT)
}

fn says_well(machine: &Machine) -> bool {
    is_up(machine) && is_well(machine)
}

fn is_up(machine: &Machine) -> bool {
    machine.status().is_some() && answers(machine.edge_port - 1)
}

/// Sends so many messages to an agent that is away.
async fn fill(sender: &mut Wss, count: usize, size: usize) {
    for n in 0..count {
        let payload = json!({"payload": format!("word-{n} {}", "x".repeat(size))});
        accepted(sender, &command("worker", &format!("m-{n}"), "accepted", payload)).await;
    }
}

/// A session writes too, that its agent is there: nobody gets a new one, and is told why.
async fn is_not_registered(machine: &Machine) {
    let came = Door::of(machine, "worker").open(manual()).await;
    assert!(came.is_none(), "{} can't remember that the worker is there", machine.name);
    until("the worker is told why", || {
        let log = fs::read_to_string(machine.folder.join("edge.log")).unwrap();
        log.lines().any(|line| line.contains("could not be registered") && line.contains(HINT))
    });
}

/// Where a message stands can be asked all the same.
fn is_shown(machine: &Machine, id: &str) -> bool {
    let output = machine.run(&["show", id]);
    output.status.success() && String::from_utf8_lossy(&output.stdout).contains("mailbox")
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
    sender.say(command("absent", id, "accepted", json!({}))).await.unwrap();
    let answer = sender.answer(id).await;
    assert_eq!(word(&answer), "unavailable", "{answer}");
    assert!(answer["payload"]["message"].as_str().unwrap().contains("damaged"), "{answer}");
}

/// Every way to look at the machine says that its store is damaged, and what to do.
fn is_damaged_everywhere(machine: &Machine) {
    let status = machine.status().unwrap();
    assert!(status["durable"]["store"]["damaged"].is_string(), "{status}");
    // It is no reason not to start: where messages stand can be asked.
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
        goes_away(Door::of(agni, "absent").must_open(manual()).await).await;
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
    until("agni is well", || says_well(agni));
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
        let mut worker = open_when_it_can(&Door::of(agni, "worker")).await;
        for n in 0..6 {
            assert_eq!(worker.message().await["id"], format!("m-{n}"));
        }
        fault.ends();
        // Nobody writes anything: it is said all the same.
        until("agni says that its store is damaged", || says_damaged(agni));
        assert_eq!(store(agni)["full_check"], "damaged");
        is_refused(&mut sender, "refused").await;
        is_damaged_everywhere(agni);
        let before = fs::read(database(agni)).unwrap();
        // What needs no disk goes on.
        let live = json!({"type": "STATUS", "class": "live", "to": "worker", "id": "live", "payload": 1});
        sender.say(live).await.unwrap();
        worker.until("a live message", |frame| frame["id"] == "live").await;
        goes_away(worker).await;
        assert!(is_shown(agni, "m-5"));
        assert!(agni.node_log().contains("nothing is accepted any more"), "{}", agni.node_log());

        // The next start does not take it for whole.
        assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
        agni.start_node();
        until("agni says that its store is damaged", || says_damaged(agni));
        until("agni's edge is attached again", || agni.sees_whole(1));
        is_not_registered(agni).await;
        assert!(is_shown(agni, "m-5"));
        assert_eq!(agni.status().unwrap()["durable"]["mailbox"], 6);
        assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
        assert!(fs::read(database(agni)).unwrap() == before, "a damaged file is not written");

        let saved = salvage(agni);
        assert!(saved.iter().all(|table| table["whole"] == true), "{saved:?}");
        agni.start_node();
        until("agni is well", || says_well(agni));
        assert_eq!(handed(agni, 6).await, ids(0..6));
        let mut sender = open_when_it_can(&Door::of(agni, "sender")).await;
        accepted(&mut sender, &command("worker", "m-6", "accepted", json!({}))).await;
        assert_eq!(handed(agni, 7).await, ids(0..7));
        until("the full check is over", || store(agni)["full_check"] == "whole");
    });
    let checked = agni.run(&["check"]);
    assert!(!String::from_utf8_lossy(&checked.stdout).contains(HINT));
}

// covers B26, T04, T09
#[test]
fn a_node_whose_file_is_damaged_at_its_start_accepts_nothing_and_is_made_whole_by_what_is_saved() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let agni = mesh.machine("agni");
    run(async {
        goes_away(Door::of(agni, "worker").must_open(manual()).await).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        fill(&mut sender, 30, 1000).await;
    });
    assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
    let mut bytes = fs::read(database(agni)).unwrap();
    let page = pages(&bytes, TABLE_LEAF, b"word-15 ").pop().expect("a message in a table");
    let is_hurt = |n: &usize| {
        let word = format!("word-{n} ");
        bytes[page.clone()].windows(word.len()).any(|window| window == word.as_bytes())
    };
    let (hurt, whole): (Vec<usize>, Vec<usize>) = (0..30).partition(is_hurt);
    assert!(!hurt.is_empty() && whole.len() > 20, "{hurt:?}");
    bytes[page].fill(0xa5);
    fs::write(database(agni), &bytes).unwrap();

    agni.start_node();
    until("agni says that its store is damaged", || says_damaged(agni));
    is_damaged_everywhere(agni);
    run(async {
        let agni = mesh.machine("agni");
        until("agni's edge is attached again", || agni.sees_whole(2));
        is_not_registered(agni).await;
        let sent = agni.run(&["send", "worker", "hello", "--wait", "accepted", "--timeout", "5s"]);
        assert!(!sent.status.success(), "nothing is accepted");
        // Both sides of the damage are there.
        assert_eq!(agni.status().unwrap()["durable"]["mailbox"], whole.len());
        until("dc reaches agni", || mesh.machine("dc").reaches("agni"));
        let mut far = Door::of(mesh.machine("dc"), "far").must_open(json!({})).await;
        accepted(&mut far, &command("worker", "far", "stored", json!({}))).await;
        let agni = mesh.machine("agni");
        assert!(says_damaged(agni));
        assert_eq!(agni.node.as_mut().unwrap().stop(), Some(0));
        assert!(fs::read(database(agni)).unwrap() == bytes, "a damaged file is not written");

        let saved = salvage(agni);
        assert!(saved.iter().any(|table| table["whole"] == false), "{saved:?}");
        agni.start_node();
        // What happened in the life that could not write is not in the store, and dc has seen that life.
        let rolled_back =
            |agni: &Machine| agni.status().is_some_and(|status| !status["durable"]["rolled_back"].is_null());
        until("agni hears of the life that is not in its store", || rolled_back(agni));
        let resumed = agni.run(&["store", "resume", "--redeliver"]);
        assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
        until("agni is well", || says_well(agni));
        told(&mut far, "far", "stored").await;
        let mut worker = open_when_it_can(&Door::of(mesh.machine("agni"), "worker")).await;
        let mut got = Vec::new();
        while got.len() < whole.len() + 1 {
            let message = worker.message().await;
            if message["id"] != "far" {
                assert_eq!(message["redelivered"], true, "as the operator has said: {message}");
            }
            got.push(message["id"].as_str().unwrap().to_owned());
            worker.ack(&message).await.unwrap();
        }
        // Two senders have no order between them.
        got.retain(|id| id != "far");
        assert_eq!(got, ids(whole.clone()));
    });
    until("nothing waits at agni", || {
        let status = mesh.machine("agni").status();
        status.is_some_and(|status| status["durable"]["mailbox"] == 0)
    });
}
