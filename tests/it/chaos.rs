//! Three nodes and three edges under load, while any of them is killed, stopped and started again: what was accepted
//! arrives, once, in order.
//!
//! `CHAOS_SECONDS` says for how long (20), `CHAOS_SEED` repeats the blows of a run, and with `CHAOS_KEEP` the logs stay.
#![allow(clippy::print_stderr, reason = "seed and totals of a run are its result")]

mod checker;
mod faults;
mod log;
mod recipients;
mod senders;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use checker::Verdict;
use faults::Faults;
use log::Log;
use recipients::Recipient;
use senders::Sender;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::harness::Mesh;
use crate::wss::{Door, issue, native};

/// After the chaos everything has arrived long before.
const QUIET_WITHIN: Duration = Duration::from_secs(120);
/// Nothing came for so long: nothing more will.
const QUIET: Duration = Duration::from_secs(3);
/// Between two looks at the logs.
const LOOK: Duration = Duration::from_millis(500);

/// What the clients are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Send.
    Load,
    /// Send nothing new.
    Drain,
    End,
}

/// Recipients: name, whether it comes back to the same node, and whether it acknowledges by itself. At WebSockets …
const WSS: [(&str, bool, bool); 4] = [
    ("auto", true, false),
    ("manual", true, true),
    ("auto-wanders", false, false),
    ("manual-wanders", false, true),
];
/// … and native ones.
const NATIVE: [(&str, bool, bool); 2] = [("native", true, false), ("native-wanders", false, true)];

// covers T01, T04, T09, Q02
#[test]
fn what_was_accepted_arrives_once_and_in_order_whatever_is_killed() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("CHAOS_SEED").unwrap_or(since_1970.as_micros() as u64 % 1_000_000);
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(20));
    eprintln!("CHAOS_SEED={seed}, for {time:?}");

    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    if std::env::var_os("CHAOS_KEEP").is_some() {
        mesh.folder.disable_cleanup(true);
        eprintln!("logs stay in {}", mesh.folder.path().display());
    }
    let logs = mesh.folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let (stage, stages) = watch::channel(Stage::Load);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    start_clients(&mesh, &runtime, &logs, &stages);

    let mut faults = Faults::new(seed);
    faults.run(&mut mesh, time);
    stage.send(Stage::Drain).unwrap();
    mesh.wait_whole();
    let verdict = wait_quiet(&logs);
    stage.send(Stage::End).unwrap();
    runtime.shutdown_timeout(Duration::from_secs(5));

    let Verdict { sent, accepted, refused, resent, got, redelivered, in_order, .. } = verdict;
    eprintln!(
        "CHAOS_SEED={seed}: {:?}; {sent} messages sent, {resent} sent again, {accepted} accepted, {refused} refused, \
         {got} deliveries, {redelivered} marked, {in_order} pairs in order",
        faults.done
    );
    assert!(verdict.is_clean(), "CHAOS_SEED={seed}: {verdict:#?}");
    assert!(accepted > 100 && in_order > 50, "too little went on to mean anything");
    let faults::Done { kills, stops, restarts } = faults.done;
    assert!(kills > 0 && stops > 0 && restarts > 0, "{kills} kills, {stops} stops, {restarts} restarts");
    assert!(
        redelivered > 0 && resent > 0,
        "nothing was hit by them: {redelivered} marked, {resent} sent again"
    );
    for machine in &mesh.machines {
        let panicked =
            |file| std::fs::read_to_string(machine.folder.join(file)).unwrap().contains("panicked");
        assert!(!panicked("node.log") && !panicked("edge.log"), "{} panicked", machine.name);
    }
}

fn start_clients(mesh: &Mesh, runtime: &Runtime, logs: &Path, stages: &watch::Receiver<Stage>) {
    let _inside = runtime.enter();
    let ports = [0, 10, 20].map(|offset| mesh.base + offset);
    let doors =
        |agent: &str| mesh.machines.iter().map(|machine| Door::of(machine, agent)).collect::<Vec<_>>();
    let identity = |agent: &str| -> PathBuf { issue(&mesh.machines[0], agent) };
    let all: Vec<String> = WSS.iter().chain(&NATIVE).map(|(name, ..)| (*name).to_owned()).collect();

    for (at, (name, settled, manual)) in WSS.into_iter().enumerate() {
        let recipient = Recipient::new(Log::create(logs, name), stages.clone(), settled, manual);
        let doors = if settled { vec![doors(name).swap_remove(at)] } else { doors(name) };
        runtime.spawn(recipients::over_wss(recipient, doors));
    }
    for (name, settled, manual) in NATIVE {
        let recipient = Recipient::new(Log::create(logs, name), stages.clone(), settled, manual);
        let ports = if settled { &ports[2..] } else { &ports[..] };
        runtime.spawn(recipients::over_quic(recipient, native(&identity(name), ports)));
    }
    for at in 0..3 {
        let name = format!("sender-{at}");
        let sender = Sender::new(Log::create(logs, &name), all.clone(), stages.clone());
        runtime.spawn(senders::over_wss(sender, doors(&name), at));
    }
    for at in 0..2 {
        let name = format!("native-sender-{at}");
        let sender = Sender::new(Log::create(logs, &name), all.clone(), stages.clone());
        let mut ports = ports;
        ports.rotate_left(at + 1);
        runtime.spawn(senders::over_quic(sender, native(&identity(&name), &ports)));
    }
}

/// Waits until nothing is open and nothing more comes, or time is up; then what is wrong is wrong.
fn wait_quiet(logs: &Path) -> Verdict {
    let began = Instant::now();
    let (mut got, mut since) = (0, Instant::now());
    loop {
        let verdict = checker::check(logs);
        if verdict.got != got {
            (got, since) = (verdict.got, Instant::now());
        }
        let open = verdict.lost.len() + verdict.waiting.len();
        if (open == 0 && since.elapsed() > QUIET) || began.elapsed() > QUIET_WITHIN {
            eprintln!("quiet after {:?}", began.elapsed());
            return verdict;
        }
        std::thread::sleep(LOOK);
    }
}
