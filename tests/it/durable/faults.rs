//! Disks that begin to fail under a running node: `faults.c` comes between it and the system's calls (Linux).
#![cfg(target_os = "linux")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::disk::{is_well, refuses};
use super::{accepted, command, goes_away, manual, open_when_it_can, run, said, told, word};
use crate::harness::{Machine, Mesh, PATIENCE, Process, TRISHULA, until};
use crate::wss::Door;

/// A node whose disk fails as long as a file says so.
pub(super) struct Fault {
    library: PathBuf,
    flag: PathBuf,
    opens: PathBuf,
}

impl Fault {
    /// Compiles the library and starts the machine's node with it.
    fn under(machine: &mut Machine) -> Fault {
        let fault = Fault::of(machine);
        fault.start(machine);
        fault
    }

    /// Compiles the library.
    pub(super) fn of(machine: &Machine) -> Fault {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/durable/faults.c");
        let library = machine.folder.join("faults.so");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(compile.status().expect("a C compiler").success());
        Fault { library, flag: machine.folder.join("fault"), opens: machine.folder.join("opens") }
    }

    /// Starts the machine's node with it.
    pub(super) fn start(&self, machine: &mut Machine) {
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let environment = [
            set("LD_PRELOAD", &self.library),
            set("TRISHULA_TEST_FAULT", &self.flag),
            set("TRISHULA_TEST_OPENS", &self.opens),
        ];
        let config = machine.config();
        let mut arguments: Vec<&str> = environment.iter().map(String::as_str).collect();
        arguments.extend([TRISHULA, "run", "--config", &config]);
        machine.node = Some(Process::start(Path::new("env"), &arguments, machine.folder.join("node.log")));
    }

    pub(super) fn begins(&self, kind: &str) {
        let made = self.flag.with_extension("new");
        fs::write(&made, kind).unwrap();
        fs::rename(made, &self.flag).unwrap();
    }

    pub(super) fn ends(&self) {
        fs::remove_file(&self.flag).unwrap();
    }

    /// How often the database was opened for writing.
    fn opens(&self) -> usize {
        fs::read_to_string(&self.opens).unwrap().lines().count()
    }
}

/// From the first refusal to the last message: `kind` is the fault, `why` what the operator is told of it.
fn a_disk_fails_and_recovers(kind: &str, why: &str) {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    let fault = Fault::under(mesh.machine("agni"));
    mesh.machine("dc").start_node();
    mesh.machines.iter_mut().for_each(Machine::start_edge);
    mesh.wait_whole();
    run(async {
        let agni = mesh.machine("agni");
        goes_away(Door::of(agni, "worker").must_open(manual()).await).await;
        let mut busy = Door::of(agni, "busy").must_open(manual()).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        for n in 0..5 {
            accepted(&mut sender, &command("worker", &format!("m-{n}"), "accepted", json!({}))).await;
        }
        accepted(&mut sender, &command("busy", "in-hand", "acked", json!({}))).await;
        let in_hand = busy.message().await;
        let before = fault.opens();

        fault.begins(kind);
        for n in 0..3 {
            let asked = Instant::now();
            let id = format!("refused-{n}");
            sender.say(command("worker", &id, "accepted", json!({}))).await.unwrap();
            let answer = sender.answer(&id).await;
            assert_eq!(word(&answer), "unavailable", "{answer}");
            assert!(answer["payload"]["message"].as_str().unwrap().contains("disk"), "{answer}");
            assert!(asked.elapsed() < Duration::from_secs(10), "at once: {:?}", asked.elapsed());
        }
        until("agni says that its disk refuses", || refuses(agni, why));
        // What needs no disk goes on, and an acknowledgement waits for the disk.
        let live = json!({"type": "STATUS", "class": "live", "to": "busy", "id": "live", "payload": 1});
        sender.say(live).await.unwrap();
        assert_eq!(busy.message().await["id"], "live");
        busy.ack(&in_hand).await.unwrap();
        let mut far = Door::of(mesh.machine("dc"), "far").must_open(json!({})).await;
        accepted(&mut far, &command("worker", "far", "stored", json!({}))).await;
        let agni = mesh.machine("agni");
        assert!(refuses(agni, why), "it has not recovered meanwhile");

        fault.ends();
        until("agni writes again", || is_well(agni));
        assert!(fault.opens() > before, "the file was opened again");
        told(&mut sender, "in-hand", "acked").await;
        // What the disk refused is written again first: until it is, nobody else's is accepted.
        told(&mut far, "far", "stored").await;
        for n in 0..3 {
            let frame = command("worker", &format!("refused-{n}"), "accepted", json!({}));
            assert_eq!(said(&mut sender, frame).await, "accepted", "the same again, as the protocol says");
        }

        // What was accepted is really on the disk.
        agni.node.as_mut().unwrap().kill();
        agni.start_node();
        let mut worker = open_when_it_can(&Door::of(agni, "worker")).await;
        let mut got = Vec::new();
        while got.len() < 9 {
            let message = worker.message().await;
            got.push(message["id"].as_str().unwrap().to_owned());
            worker.ack(&message).await.unwrap();
        }
        got.sort();
        let expected = ["far", "m-0", "m-1", "m-2", "m-3", "m-4", "refused-0", "refused-1", "refused-2"];
        assert_eq!(got, expected);
        let began = Instant::now();
        while agni.status().is_none_or(|status| status["durable"]["mailbox"] != 0) {
            assert!(began.elapsed() < PATIENCE, "nothing came twice, and nothing waits");
        }
    });
    let log = mesh.machine("agni").node_log();
    assert!(!log.contains("panicked") && log.contains("the store writes again"), "{log}");
}

// covers B19, T04, T10
#[test]
fn after_an_error_of_fsync_nothing_is_accepted_until_the_file_was_opened_again() {
    a_disk_fails_and_recovers("sync", "the disk reports a fault");
}

// covers B19, T04, T10
#[test]
fn a_disk_that_becomes_read_only_under_a_running_node_refuses_at_once_and_recovers() {
    a_disk_fails_and_recovers("readonly", "can't be written");
}

/// What the library adds to each fsync, less what clocks may differ.
const SLOW: Duration = Duration::from_millis(1990);

// covers B19, T04
#[test]
fn while_fsync_is_slow_nothing_is_accepted_before_its_end_and_the_operator_is_told() {
    let mut mesh = Mesh::init(&["agni"]);
    let fault = Fault::under(mesh.machine("agni"));
    let agni = mesh.machine("agni");
    agni.start_edge();
    until("agni is whole", || agni.sees_whole(1));
    run(async {
        goes_away(Door::of(agni, "worker").must_open(manual()).await).await;
        let mut busy = Door::of(agni, "busy").must_open(manual()).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        accepted(&mut sender, &command("worker", "m-0", "accepted", json!({}))).await;
        let shown = |agni: &Machine| String::from_utf8_lossy(&agni.run(&["status"]).stdout).into_owned();

        fault.begins("slow");
        for n in 1..4 {
            let asked = Instant::now();
            assert_eq!(
                said(&mut sender, command("worker", &format!("m-{n}"), "accepted", json!({}))).await,
                "accepted"
            );
            assert!(asked.elapsed() > SLOW, "before the fsync was over: {:?}", asked.elapsed());
        }
        // Many share one fsync, and what needs no disk does not wait for it.
        let asked = Instant::now();
        for n in 4..54 {
            sender.say(command("worker", &format!("m-{n}"), "accepted", json!({}))).await.unwrap();
        }
        let live = json!({"type": "STATUS", "class": "live", "to": "busy", "id": "live", "payload": 1});
        sender.say(live).await.unwrap();
        assert_eq!(busy.message().await["id"], "live");
        assert!(asked.elapsed() < SLOW, "a live message waited for the disk: {:?}", asked.elapsed());
        for n in 4..54 {
            let answer = sender.answer(&format!("m-{n}")).await;
            assert_eq!(word(&answer), "accepted");
            assert!(asked.elapsed() > SLOW, "before the fsync was over: {:?}", asked.elapsed());
        }
        assert!(asked.elapsed() < 10 * SLOW, "one by one: {:?}", asked.elapsed());
        let status = agni.status().unwrap();
        let slowest = status["durable"]["store"]["slowest_commit_ms"].as_f64().unwrap();
        assert!(slowest > SLOW.as_secs_f64() * 1e3 && slowest < 20_000.0, "{slowest}");
        assert!(shown(agni).contains("Store: writes, but SLOWLY"), "{}", shown(agni));
        let (code, health) = agni.health();
        assert_eq!((code, &health["checks"]["store"]), (200, &json!("warning")), "{health}");
        assert_eq!(health["status"], "degraded");
        assert!(agni.node_log().contains("the disk was slow to write"), "{}", agni.node_log());

        // Killed amid an fsync: of what was not accepted nothing was promised, and what was is there.
        sender.say(command("worker", "open", "accepted", json!({}))).await.unwrap();
        agni.node.as_mut().unwrap().kill();
        fault.ends();
        agni.start_node();
        let mut worker = open_when_it_can(&Door::of(agni, "worker")).await;
        for n in 0..54 {
            let message = worker.message().await;
            assert_eq!(message["id"], format!("m-{n}"), "each once, in order");
            worker.ack(&message).await.unwrap();
        }
        until("agni is well", || is_well(agni));
    });
}
