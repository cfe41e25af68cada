//! Machines made by `trishula init --loopback`, started as processes, stopped by their pids.
#![allow(clippy::print_stderr, reason = "a test that fails shows the end of its processes' logs")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

// By its path, as other targets have this file by its path too.
#[path = "harness/udp_path.rs"]
pub mod udp_path;

/// Ten times what anything here should take, and more.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Before something is asked again: most questions are a process of their own, and those that are asked want the cores.
const AGAIN: Duration = Duration::from_millis(10);

/// What `init` makes when it is told no names.
const DEFAULT: [&str; 3] = ["dc", "agni", "rushabdev"];

/// The node's program.
pub const TRISHULA: &str = env!("CARGO_BIN_EXE_trishula");

/// The edge's program: built now, so that it is never stale; a build that fails is a test that fails.
pub fn edge_program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(TRISHULA).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        // Not the node's program: a build for other packages has other features, and would replace it under running tests.
        build.args(["build", "--quiet", "--locked", "--package", "trishula-edge", "--bins"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status().unwrap();
        assert!(status.success(), "trishula-edge does not build");
        folder.join("trishula-edge")
    })
}

/// A Python with the package `websockets`, as `tests/run.sh` makes it.
pub fn python() -> PathBuf {
    made_python("TRISHULA_TEST_PYTHON", "target/test-python/bin/python")
}

/// A Python of 3.13 or newer, which verifies certificates more strictly, with the packages of the older services besides.
pub fn strict_python() -> PathBuf {
    made_python("TRISHULA_TEST_PYTHON_STRICT", "target/test-python3.13/bin/python")
}

fn made_python(variable: &str, made: &str) -> PathBuf {
    let found = std::env::var_os(variable).map(PathBuf::from);
    let python = found.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join(made));
    assert!(
        python.exists(),
        "{} is missing: run tests/run.sh once, it installs what the tests need; or set {variable}",
        python.display()
    );
    python
}

/// Ports in a row that nobody uses now; each call looks further on.
pub fn free_ports(count: u16) -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test processes run side by side: each begins elsewhere.
    let offset = (std::process::id() % 120) as u16 * 100;
    for _ in 0..200 {
        // Below 32,768: from there on Linux gives ports to whoever connects, and one may be gone when it is to be bound again.
        let base = 20_000 + (offset + NEXT.fetch_add(count, Ordering::Relaxed)) % 12_000;
        let free = |port| {
            TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
        };
        if (base..base + count).all(free) {
            return base;
        }
    }
    panic!("no {count} free ports in a row");
}

/// Whether somebody listens on this port.
pub fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// Asks again and again, without a pause of its own, until it is so or patience ends.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still not: {what}");
        std::thread::sleep(AGAIN);
    }
    began.elapsed()
}

/// A process that ends with its handle.
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(program: &Path, arguments: &[&str], log: PathBuf) -> Process {
        Process::start_in(program, arguments, log, &[])
    }

    /// With these variables in its environment.
    pub fn start_in(
        program: &Path,
        arguments: &[&str],
        log: PathBuf,
        environment: &[(&str, &str)],
    ) -> Process {
        // One that is started again goes on with its log.
        let file = fs::File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        Process { child, log }
    }

    /// SIGKILL: no word to anybody.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A signal by its name, to this process only.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-s", name, &pid]).status().unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit code, when it ends by itself.
    pub fn wait(&mut self) -> Option<i32> {
        until("the process ends", || !self.runs());
        self.child.wait().unwrap().code()
    }

    /// Whether it is still there.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal("TERM");
        self.wait()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(15).collect();
            eprintln!("--- {}", self.log.display());
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// One machine: a folder, a node and an edge.
pub struct Machine {
    pub name: String,
    pub folder: PathBuf,
    pub edge_port: u16,
    pub node: Option<Process>,
    pub edge: Option<Process>,
}

fn carriers(status: &Value, role: &str) -> Vec<String> {
    let links = status["links"].as_array().into_iter().flatten().filter(|link| link["role"] == role);
    links.map(|link| link["carrier"].as_str().unwrap().to_owned()).collect()
}

/// Head and body of what this port answers to a GET.
pub fn get(port: u16, path: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

impl Machine {
    pub fn at(folder: PathBuf, edge_port: u16) -> Machine {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        Machine { name, folder, edge_port, node: None, edge: None }
    }

    pub fn config(&self) -> String {
        self.folder.join("node.toml").display().to_string()
    }

    pub fn start_node(&mut self) {
        self.start_node_in(&[]);
    }

    /// With these variables in its environment.
    pub fn start_node_in(&mut self, environment: &[(&str, &str)]) {
        let config = self.config();
        let log = self.folder.join("node.log");
        let arguments = ["run", "--config", &config];
        self.node = Some(Process::start_in(Path::new(TRISHULA), &arguments, log, environment));
    }

    pub fn start_edge(&mut self) {
        self.start_edge_with(&[]);
    }

    /// With these flags.
    pub fn start_edge_with(&mut self, flags: &[&str]) {
        let config = self.folder.join("edge.toml").display().to_string();
        let log = self.folder.join("edge.log");
        let arguments = [&["run", "--config", &config][..], flags].concat();
        self.edge = Some(Process::start(edge_program(), &arguments, log));
    }

    /// With these variables in its environment.
    pub fn start_edge_in(&mut self, environment: &[(&str, &str)]) {
        let config = self.folder.join("edge.toml").display().to_string();
        let log = self.folder.join("edge.log");
        let arguments = ["run", "--config", &config];
        self.edge = Some(Process::start_in(edge_program(), &arguments, log, environment));
    }

    pub fn node_log(&self) -> String {
        fs::read_to_string(self.folder.join("node.log")).unwrap_or_default()
    }

    /// `trishula COMMAND --config <this machine's> …`
    pub fn run(&self, command: &[&str]) -> Output {
        let mut arguments: Vec<String> = command.iter().map(|s| (*s).to_owned()).collect();
        arguments.extend(["--config".into(), self.config()]);
        Command::new(TRISHULA).args(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// `status --json`, when the node answers.
    pub fn status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    /// `GET /metrics` of the edge.
    pub fn edge_metrics(&self) -> String {
        get(self.edge_port + 2, "/metrics")
    }

    /// `GET /health` of the node: the status code and what it says.
    pub fn health(&self) -> (u16, Value) {
        // As `init --loopback` lays them out: UDP, the node's HTTP, the edge.
        let answer = get(self.edge_port - 1, "/health");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    /// Whether this node sees exactly so many nodes, all in reach, and has an edge if it should.
    pub fn sees_whole(&self, nodes: usize) -> bool {
        let Some(status) = self.status() else { return false };
        let edge = self.edge.is_none() || !carriers(&status, "edge").is_empty();
        status["whole"] == true && status["nodes"].as_array().unwrap().len() == nodes && edge
    }

    /// What carries its links to those of this role, each; none while the node does not answer.
    pub fn carriers(&self, role: &str) -> Vec<String> {
        carriers(&self.status().unwrap_or_default(), role)
    }

    pub fn reaches(&self, node: &str) -> bool {
        let Some(status) = self.status() else { return false };
        status["nodes"].as_array().unwrap().iter().any(|n| n["node"] == node && n["reachable"] == true)
    }

    /// The neighbour that leads to a node now.
    pub fn next_hop(&self, node: &str) -> Option<String> {
        let status = self.status()?;
        let nodes = status["nodes"].as_array().unwrap();
        let row = nodes.iter().find(|n| n["node"] == node)?;
        row["next_hop"].as_str().map(str::to_owned)
    }

    pub fn token(&self, agent: &str) -> String {
        let secret = self.folder.join("secrets/trishula.secret").display().to_string();
        let output = Command::new(TRISHULA)
            .args(["token", "issue", agent, "--secret-file", &secret])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn url(&self) -> String {
        format!("wss://localhost:{}/", self.edge_port)
    }

    pub fn ca(&self) -> String {
        self.folder.join("edge-identity/ca.pem").display().to_string()
    }
}

/// Machines of one mesh, in one temporary folder.
pub struct Mesh {
    // Before the folder: their logs lie in it, and are shown when a test fails.
    pub machines: Vec<Machine>,
    pub folder: tempfile::TempDir,
    pub base: u16,
}

impl Mesh {
    /// Makes the folders; nothing runs yet. The first machine holds the CA and dials out only.
    pub fn init(names: &[&str]) -> Mesh {
        let folder = tempfile::Builder::new().prefix("trishula").tempdir().unwrap();
        let base = free_ports(10 * names.len() as u16);
        let output = Command::new(TRISHULA)
            .args(["init", "--loopback", "--base-port", &base.to_string(), "--out"])
            .arg(folder.path())
            // The default machines are made when none is named: there, dc can't be dialled.
            .args(if names == DEFAULT { &[] } else { names })
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let machine =
            |(i, name): (usize, &&str)| Machine::at(folder.path().join(name), base + 10 * i as u16 + 2);
        let machines = names.iter().enumerate().map(machine).collect();
        Mesh { folder, machines, base }
    }

    /// Starts every node and edge, and waits until each sees all.
    pub fn start(names: &[&str]) -> Mesh {
        let mut mesh = Mesh::init(names);
        for machine in &mut mesh.machines {
            machine.start_node();
        }
        for machine in &mut mesh.machines {
            machine.start_edge();
        }
        mesh.wait_whole();
        mesh
    }

    pub fn wait_whole(&self) {
        let all = self.machines.len();
        for machine in &self.machines {
            until(&format!("{} sees the whole mesh", machine.name), || machine.sees_whole(all));
        }
    }

    pub fn machine(&mut self, name: &str) -> &mut Machine {
        self.machines.iter_mut().find(|machine| machine.name == name).unwrap()
    }
}

/// A Python client at an edge, driven line by line: what it prints is what it saw.
pub struct PythonClient {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl PythonClient {
    /// Runs a script of `tests/it/python` with url, CA and token.
    pub fn start(python: &Path, script: &str, machine: &Machine, agent: &str, more: &[&str]) -> PythonClient {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(script);
        let mut child = Command::new(python)
            .arg(script)
            .args([machine.url(), machine.ca(), machine.token(agent)])
            .args(more)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        PythonClient { child, lines }
    }

    /// The next line it prints; an empty one when it has ended.
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }
}

impl Drop for PythonClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines of a process as they come: nobody waits for one for ever.
pub struct Lines(Receiver<String>);

impl Lines {
    pub fn of(output: impl Read + Send + 'static) -> Lines {
        let (lines, receiver) = channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Lines(receiver)
    }

    /// The next one, if it comes so soon.
    pub fn within(&self, time: Duration) -> Result<String, RecvTimeoutError> {
        self.0.recv_timeout(time)
    }
}
