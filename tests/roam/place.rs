//! Machines in namespaces, each with the folder that `trishula init` makes for it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use trishula_wan::Star;

use crate::flow::{Flow, Route};
use crate::harness::{Machine, Process, TRISHULA, edge_program, get, until};

/// As `init` lays a machine of its own out.
pub const NODE_PORT: u16 = 8766;
/// See [`NODE_PORT`].
pub const EDGE_PORT: u16 = 443;
const METRICS_PORT: u16 = 9089;

/// Which addresses the machines use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Four,
    Six,
}

/// Machines of one mesh, one in each namespace.
pub struct World {
    // Before the folder, in which their logs lie, and before the namespaces.
    pub machines: Vec<Machine>,
    pub folder: tempfile::TempDir,
    pub star: Star,
    family: Family,
}

impl World {
    /// Makes namespaces and folders; nothing runs yet. The first machine holds the CA. Every machine can be dialled; the paths
    /// have no delay.
    pub fn init(names: &[&str], family: Family) -> World {
        World::within(Star::new(names.len()).unwrap(), names, family)
    }

    /// The same, where there may be more namespaces than machines.
    pub fn within(star: Star, names: &[&str], family: Family) -> World {
        let folder = tempfile::Builder::new().prefix("trishula").tempdir().unwrap();
        let mut world = World { machines: Vec::new(), folder, star, family };
        let given = names.iter().enumerate().map(|(n, name)| format!("{name}={}", world.node_address(n)));
        let output =
            Command::new(TRISHULA).args(["init", "--out"]).arg(world.folder.path()).args(given).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        names.iter().for_each(|name| world.add(name));
        world
    }

    /// One more machine, whose folder is there.
    pub fn add(&mut self, name: &str) {
        let folder = self.folder.path().join(name);
        // As on a machine of its own; only files are shared.
        for file in ["node.toml", "edge.toml"] {
            let text = fs::read_to_string(folder.join(file)).unwrap();
            let text = text.replace("/var/lib/trishula", "data").replace("/run/trishula/", "");
            fs::write(folder.join(file), text).unwrap();
        }
        self.machines.push(Machine::at(folder, EDGE_PORT));
    }

    pub fn wait_whole(&self) {
        for machine in &self.machines {
            let all = || machine.sees_whole(self.machines.len());
            until(&format!("{} sees the whole mesh", machine.name), all);
        }
    }

    pub fn address(&self, n: usize) -> IpAddr {
        match self.family {
            Family::Four => self.star.at(n).ipv4().into(),
            Family::Six => self.star.at(n).ipv6().into(),
        }
    }

    pub fn node_address(&self, n: usize) -> SocketAddr {
        (self.address(n), NODE_PORT).into()
    }

    pub fn start_node(&mut self, n: usize) {
        self.start_node_in(n, &[]);
    }

    /// With these variables in its environment.
    pub fn start_node_in(&mut self, n: usize, environment: &[(&str, &str)]) {
        let (star, machine) = (&self.star, &mut self.machines[n]);
        let start = || {
            machine.start_node_in(environment);
            Ok(())
        };
        star.at(n).enter(start).unwrap();
    }

    pub fn start_edge(&mut self, n: usize) {
        self.start_edge_in(n, &[]);
    }

    /// With these variables in its environment.
    pub fn start_edge_in(&mut self, n: usize, environment: &[(&str, &str)]) {
        let program = edge_program();
        let folder = &self.machines[n].folder;
        let config = folder.join("edge.toml").display().to_string();
        let start = || {
            let arguments = ["run", "--config", &config];
            Ok(Process::start_in(program, &arguments, folder.join("edge.log"), environment))
        };
        let edge = self.star.at(n).enter(start).unwrap();
        self.machines[n].edge = Some(edge);
    }

    /// Changes a node's configuration.
    pub fn configure(&self, n: usize, old: &str, new: &str) {
        let file = self.machines[n].folder.join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains(old), "{old} is not in {text}");
        fs::write(file, text.replace(old, new)).unwrap();
    }

    /// Takes the lines that begin so out of a node's configuration.
    pub fn strike_out(&self, n: usize, beginning: &str) {
        let file = self.machines[n].folder.join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.lines().any(|line| line.starts_with(beginning)), "{beginning} begins no line of {text}");
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with(beginning)).collect();
        fs::write(file, kept.join("\n") + "\n").unwrap();
    }

    /// The sum of a metric's lines that begin so.
    pub fn metric(&self, n: usize, name: &str) -> f64 {
        let text = self.star.at(n).enter(|| Ok(get(METRICS_PORT, "/metrics"))).unwrap();
        let values = text.lines().filter(|line| line.starts_with(name)).filter_map(|line| {
            let (_, value) = line.rsplit_once(' ')?;
            value.parse::<f64>().ok()
        });
        values.sum()
    }

    /// No machine ever had a link down without dialling, as they themselves count it.
    pub fn assert_always_dialled(&self) {
        for machine in &self.machines {
            let status = machine.status().unwrap();
            let down = &status["down"];
            assert_eq!(down["not_dialled"], 0, "{}: {down}", machine.name);
            assert!(down["idle_seconds"].as_u64().unwrap() < 10, "{}: {down}", machine.name);
        }
    }

    /// Runs flows of messages in both directions between the first two machines while the test does its part; ends when that
    /// has, and all that was sent has come, once and in order.
    pub fn flows_while(&self, pace: Duration, part: impl FnOnce() + Send) -> [Flow; 2] {
        let routes = [Route::new((0, "alice"), (1, "bob")), Route::new((1, "carol"), (0, "dave"))];
        self.flows_among(&routes, pace, part).try_into().ok().unwrap()
    }

    /// The same for any routes between machines: a flow for each.
    pub fn flows_among(&self, routes: &[Route], pace: Duration, part: impl FnOnce() + Send) -> Vec<Flow> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let mut flows = runtime.block_on(join_all(routes.iter().map(|route| Flow::on(self, route))));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let part = scope.spawn(|| {
                let _over = Over(&over);
                part();
            });
            let running = flows.iter_mut().map(|flow| flow.run(pace, &over));
            runtime.block_on(join_all(running));
            part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        });
        runtime.block_on(join_all(flows.iter_mut().map(Flow::nothing_more)));
        flows
    }
}

/// Also when the test's part panics: the flows must end.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
