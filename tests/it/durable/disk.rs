//! Disks that are full, or can't be written: the node process runs in a mount namespace of its own, with its data on a
//! small disk (`unshare`: Linux only).

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{accepted, command, goes_away, manual, open_when_it_can, run, said, told, word};
use crate::harness::{Machine, Mesh, PATIENCE, Process, TRISHULA, until};
use crate::wss::Door;

/// So much fits beside what a node needs to start.
const SMALL: &str = "size=4m";

/// Starts the machine's node behind a mount of its own. `exec`, all the way: the process is the node.
fn start_behind(machine: &mut Machine, mount: &str) {
    let data = machine.folder.join("data").display().to_string();
    let script = format!("{mount} && exec \"$0\" run --config \"$2\"");
    let (config, log) = (machine.config(), machine.folder.join("node.log"));
    let arguments = ["-rm", "sh", "-c", &script, TRISHULA, &data, &config];
    machine.node = Some(Process::start(Path::new("unshare"), &arguments, log));
}

/// A file as the node sees it.
fn inside(machine: &Machine, name: &str) -> PathBuf {
    let pid = machine.node.as_ref().unwrap().pid();
    let data = machine.folder.join("data").join(name);
    Path::new(&format!("/proc/{pid}/root")).join(data.strip_prefix("/").unwrap())
}

/// Whether every way to ask the node says that its disk refuses, and why.
pub(super) fn refuses(machine: &Machine, why: &str) -> bool {
    let said = machine.run(&["status"]);
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    let Some(status) = machine.status() else { return false };
    let store = &status["durable"]["store"];
    let (code, health) = machine.health();
    let failing = health["checks"]["store"] == "failing" && health["status"] == "unhealthy";
    said.contains("STORE: REFUSES TO WRITE")
        && said.contains(why)
        && store["writable"] == false
        && store["error"].as_str().is_some_and(|error| error.contains(why))
        && code == 503
        && failing
        && health["store_error"].as_str().is_some_and(|error| error.contains(why))
}

/// Whether every way to ask the node says that its disk writes.
pub(super) fn is_well(machine: &Machine) -> bool {
    let said = machine.run(&["status"]);
    let (code, health) = machine.health();
    let Some(status) = machine.status() else { return false };
    String::from_utf8_lossy(&said.stdout).contains("Store: writes")
        && code == 200
        // A warning: the disk under these tests was slow.
        && health["checks"]["store"] != "failing"
        && status["durable"]["store"]["writable"] == true
}

// covers B19, T04
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn a_full_disk_refuses_at_once_loses_nothing_and_mends_itself() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    fs::create_dir(mesh.machine("agni").folder.join("data")).unwrap();
    start_behind(mesh.machine("agni"), &format!("mount -t tmpfs -o {SMALL} tmpfs \"$1\""));
    mesh.machine("dc").start_node();
    mesh.machines.iter_mut().for_each(Machine::start_edge);
    mesh.wait_whole();
    run(async {
        let worker = Door::of(mesh.machine("agni"), "worker");
        goes_away(worker.must_open(manual()).await).await;
        let mut sender = Door::of(mesh.machine("agni"), "sender").must_open(json!({})).await;
        let mut reader = Door::of(mesh.machine("agni"), "reader").must_open(json!({})).await;
        let mut accepted = Vec::new();
        for n in 0..10 {
            assert_eq!(
                said(&mut sender, command("worker", &format!("m-{n}"), "accepted", json!({}))).await,
                "accepted"
            );
            accepted.push(format!("m-{n}"));
        }
        // Until nothing more fits: then not even a message.
        fs::write(inside(mesh.machine("agni"), "filler"), vec![1; 8 << 20]).unwrap_err();
        let (mut n, mut refused) = (10, Vec::new());
        let filled = Instant::now();
        while refused.len() < 3 {
            assert!(filled.elapsed() < PATIENCE, "it goes on accepting on a full disk");
            let id = format!("m-{n}");
            let asked = Instant::now();
            let filler = json!({"payload": "x".repeat(30_000)});
            sender.say(command("worker", &id, "accepted", filler)).await.unwrap();
            let answer = sender.answer(&id).await;
            match word(&answer).as_str() {
                "accepted" => accepted.push(id),
                "unavailable" => {
                    assert!(answer.to_string().contains("the disk is full"), "{answer}");
                    let took = asked.elapsed();
                    assert!(took < Duration::from_secs(10), "at once: {took:?}");
                    refused.push(id);
                }
                other => panic!("{id} is {other}"),
            }
            n += 1;
        }
        let agni = mesh.machine("agni");
        until("agni says that its disk is full", || refuses(agni, "the disk is full"));
        sender
            .say(json!({"type": "STATUS", "class": "live", "to": "reader", "id": "live", "payload": 1}))
            .await
            .unwrap();
        assert_eq!(reader.message().await["id"], "live", "what needs no disk goes on");
        // What is taken elsewhere waits there.
        let mut far = Door::of(mesh.machine("dc"), "far").must_open(json!({})).await;
        assert_eq!(said(&mut far, command("worker", "far", "stored", json!({}))).await, "accepted");

        fs::remove_file(inside(mesh.machine("agni"), "filler")).unwrap();
        let freed = Instant::now();
        for id in &refused {
            while said(&mut sender, command("worker", id, "accepted", json!({}))).await != "accepted" {
                assert!(freed.elapsed() < PATIENCE, "it does not come back by itself");
            }
            accepted.push(id.clone());
        }
        told(&mut far, "far", "stored").await;
        let agni = mesh.machine("agni");
        until("agni says that it writes again", || is_well(agni));
        accepted.push("far".into());
        let mut worker = worker.must_open(manual()).await;
        let mut got = Vec::new();
        while got.len() < accepted.len() {
            let message = worker.message().await;
            got.push(message["id"].as_str().unwrap().to_owned());
            worker.ack(&message).await.unwrap();
        }
        accepted.sort();
        got.sort();
        assert_eq!(got, accepted);
    });
    let log = mesh.machine("agni").node_log();
    assert!(!log.contains("panicked"), "{log}");
}

// covers B19, T04
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn what_a_connected_recipient_has_and_a_full_disk_has_not_is_told_at_once_and_recognised_when_it_comes_again()
{
    let mut mesh = Mesh::init(&["agni"]);
    fs::create_dir(mesh.machine("agni").folder.join("data")).unwrap();
    start_behind(mesh.machine("agni"), &format!("mount -t tmpfs -o {SMALL} tmpfs \"$1\""));
    mesh.machine("agni").start_edge();
    mesh.wait_whole();
    run(async {
        let agni = mesh.machine("agni");
        let mut worker = Door::of(agni, "worker").must_open(manual()).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        assert_eq!(said(&mut sender, command("worker", "m-0", "accepted", json!({}))).await, "accepted");
        fs::write(inside(agni, "filler"), vec![1; 8 << 20]).unwrap_err();
        let large = json!({"payload": "x".repeat(30_000)});
        let mut n = 0;
        let refused = loop {
            n += 1;
            assert!(n < 60, "it goes on accepting on a full disk");
            let id = format!("m-{n}");
            sender.say(command("worker", &id, "accepted", large.clone())).await.unwrap();
            let answer = sender.answer(&id).await;
            match word(&answer).as_str() {
                "accepted" => {}
                "unavailable" => break answer["payload"]["message"].as_str().unwrap().to_owned(),
                other => panic!("{id} is {other}"),
            }
        };
        assert!(refused.contains("may have arrived") && refused.contains("the disk is full"), "{refused}");
        until("agni says that its disk is full", || refuses(agni, "the disk is full"));

        fs::remove_file(inside(agni, "filler")).unwrap();
        let freed = Instant::now();
        let again = command("worker", &format!("m-{n}"), "accepted", large);
        while said(&mut sender, again.clone()).await != "accepted" {
            assert!(freed.elapsed() < PATIENCE, "it does not come back by itself");
        }
        assert_eq!(said(&mut sender, command("worker", "last", "accepted", json!({}))).await, "accepted");
        for id in (0..=n).map(|n| format!("m-{n}")).chain(["last".into()]) {
            let message = worker.message().await;
            assert_eq!(message["id"], id.as_str(), "each of them once");
            worker.ack(&message).await.unwrap();
        }
        until("agni says that it writes again", || is_well(agni));
    });
    let log = mesh.machine("agni").node_log();
    let words = |words: &str| log.matches(words).count();
    assert_eq!(
        (words("the store can't write"), words("the store writes again after_seconds")),
        (1, 1),
        "{log}"
    );
}

// covers B19, T04
#[test]
#[cfg_attr(not(target_os = "linux"), ignore = "needs mount namespaces: Linux")]
fn a_node_whose_disk_is_read_only_does_not_start_and_nothing_accepted_is_lost() {
    let mut mesh = Mesh::start(&["agni"]);
    let agni = mesh.machine("agni");
    run(async {
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        let create = json!({"create": true});
        assert_eq!(said(&mut sender, command("worker", "m-0", "accepted", create)).await, "accepted");

        agni.node.as_mut().unwrap().kill();
        start_behind(agni, "mount --bind -o ro \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"");
        let status = agni.node.as_mut().unwrap().wait();
        let log = agni.node_log();
        let data = agni.folder.join("data").display().to_string();
        let why = log.lines().find(|line| line.contains("the data folder can't be used")).unwrap_or_default();
        assert!(status.is_some_and(|code| code != 0), "it ends by itself: {status:?}: {log}");
        for what in
            [&data, "Read-only file system", "give the user of this process write access", "[node] data_dir"]
        {
            assert!(why.contains(what), "{what}: {log}");
        }
        assert!(!log.contains("panicked"), "{log}");
        let asked = Instant::now();
        assert_eq!(said(&mut sender, command("worker", "m-1", "accepted", json!({}))).await, "unavailable");
        assert!(asked.elapsed() < Duration::from_secs(10), "at once: {:?}", asked.elapsed());

        // The disk is writable again.
        agni.start_node();
        let mut worker = open_when_it_can(&Door::of(agni, "worker")).await;
        assert_eq!(worker.message().await["id"], "m-0");
        accepted(&mut sender, &command("worker", "m-1", "accepted", json!({}))).await;
        assert_eq!(worker.message().await["id"], "m-1");
        assert!(agni.node.as_mut().unwrap().runs());
    });
}
