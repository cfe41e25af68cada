//! Kills, stops and restarts processes by a seed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::harness::{Mesh, Process};

/// Between two looks at what is to be done.
const STEP: Duration = Duration::from_millis(20);
/// Processes that are down or stopped at once.
const AT_ONCE: usize = 3;

/// How often what was done.
#[derive(Debug, Default)]
pub struct Done {
    pub kills: usize,
    pub stops: usize,
    pub restarts: usize,
}

/// A process that does not run now.
struct Fault {
    machine: usize,
    is_node: bool,
    is_stopped: bool,
    until: Instant,
}

pub struct Faults {
    random: StdRng,
    current: Vec<Fault>,
    pub done: Done,
    began: Instant,
}

impl Faults {
    pub fn new(seed: u64) -> Faults {
        let random = StdRng::seed_from_u64(seed);
        Faults { random, current: Vec::new(), done: Done::default(), began: Instant::now() }
    }

    /// For so long; then everything runs again.
    pub fn run(&mut self, mesh: &mut Mesh, time: Duration) {
        while self.began.elapsed() < time {
            self.undo(mesh, false);
            if self.current.len() < AT_ONCE && self.random.random_range(0..100) < 12 {
                self.strike(mesh);
            }
            // The pace of the chaos, not a wait for anything.
            std::thread::sleep(STEP);
        }
        self.undo(mesh, true);
    }

    fn strike(&mut self, mesh: &mut Mesh) {
        let machine = self.random.random_range(0..mesh.machines.len());
        let is_node = self.random.random_bool(0.5);
        let how = self.random.random_range(0..10);
        let most = if self.random.random_bool(0.2) { 5_000 } else { 1_200 };
        let hold = Duration::from_millis(self.random.random_range(50..most));
        if self.current.iter().any(|fault| fault.machine == machine && fault.is_node == is_node) {
            return;
        }
        let name = format!("{} {}", mesh.machines[machine].name, if is_node { "node" } else { "edge" });
        let process = process(mesh, machine, is_node);
        assert!(process.runs(), "{name} ended by itself");
        let word = match how {
            0..5 => {
                process.kill();
                self.done.kills += 1;
                "killed"
            }
            5..8 => {
                process.signal("STOP");
                self.done.stops += 1;
                "stopped"
            }
            _ => {
                process.signal("TERM");
                self.done.restarts += 1;
                "told to end"
            }
        };
        eprintln!("{:>7} ms: {name} {word} for {} ms", self.began.elapsed().as_millis(), hold.as_millis());
        let is_stopped = word == "stopped";
        self.current.push(Fault { machine, is_node, is_stopped, until: Instant::now() + hold });
    }

    fn undo(&mut self, mesh: &mut Mesh, all: bool) {
        let now = Instant::now();
        for fault in self.current.extract_if(.., |fault| all || fault.until <= now) {
            let process = process(mesh, fault.machine, fault.is_node);
            if fault.is_stopped {
                process.signal("CONT");
                continue;
            }
            // One that was told to end and still does is killed at last, and its ports are free.
            process.kill();
            let machine = &mut mesh.machines[fault.machine];
            if fault.is_node { machine.start_node() } else { machine.start_edge() }
        }
    }
}

fn process(mesh: &mut Mesh, machine: usize, is_node: bool) -> &mut Process {
    let machine = &mut mesh.machines[machine];
    if is_node { machine.node.as_mut().unwrap() } else { machine.edge.as_mut().unwrap() }
}
