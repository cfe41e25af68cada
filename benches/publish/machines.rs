//! The real programs on loopback, with their data on the disk that is measured, and what they say of themselves.
use crate::child::Child;
use crate::way::Endpoint;
use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::collections::BTreeMap;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TRISHULA: &str = env!("CARGO_BIN_EXE_trishula");
const MACHINES: [&str; 2] = ["agni", "rushabdev"];
/// The mesh is whole long before.
const WITHIN: Duration = Duration::from_secs(30);

/// Two machines: the first is the publisher's.
pub struct Machines {
    folder: PathBuf,
    base: u16,
    pub ca: CertificateDer<'static>,
    processes: Vec<Child>,
}

impl Machines {
    pub fn start(folder: &Path) -> Result<Machines> {
        let edge = edge_program()?;
        let base = free_ports()?;
        trishula(&["init", "--loopback", "--base-port", &base.to_string(), "--out"], folder, &MACHINES)?;
        let mut processes = Vec::new();
        for (program, file, names) in [
            (Path::new(TRISHULA), "node.toml", ["node-a", "node-b"]),
            (&edge, "edge.toml", ["edge-a", "edge-b"]),
        ] {
            for (machine, name) in MACHINES.into_iter().zip(names) {
                let config = folder.join(machine).join(file);
                let log = std::fs::File::create(folder.join(format!("{name}.log")))?;
                let mut command = Command::new(program);
                command.arg("run").arg("--config").arg(config).stdout(log.try_clone()?).stderr(log);
                processes.push(Child::start(name, &mut command)?);
            }
        }
        for machine in MACHINES {
            wait_whole(&folder.join(machine))?;
        }
        let ca = CertificateDer::from_pem_file(folder.join("agni/edge-identity/ca.pem"))?;
        Ok(Machines { folder: folder.to_owned(), base, ca, processes })
    }

    /// Where a client of one of the two connects, and as whom.
    pub fn endpoint(&self, machine: u16, agent: &str) -> Result<Endpoint> {
        let secret = self.folder.join(MACHINES[usize::from(machine)]).join("secrets/trishula.secret");
        let token = trishula(&["token", "issue", agent, "--secret-file"], &secret, &[])?;
        let token = String::from_utf8(token.stdout)?.trim().to_owned();
        let url = format!("wss://localhost:{}/", self.base + 10 * machine + 2);
        Ok(Endpoint { url, agent: agent.to_owned(), token: Some(token) })
    }

    /// What the publisher's node and edge have used, and how often and how long the node has committed.
    pub async fn counters(&self) -> Result<Counters> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.base + 1)).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let mut counters = Counters::default();
        for name in ["trishula_store_commit_seconds", "trishula_node_turn_seconds"] {
            for part in ["sum", "count"] {
                let key = format!("{name}_{part}");
                let line = text.lines().find(|line| line.starts_with(&key)).unwrap_or_default();
                let value = line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0);
                counters.0.insert(key, value);
            }
        }
        for child in &self.processes {
            counters.0.insert(child.name.to_owned(), child.cpu_seconds().unwrap_or(0.0));
        }
        Ok(counters)
    }
}

/// Sums by name.
#[derive(Debug, Default)]
pub struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// What was spent between two readings.
    pub fn add(&mut self, after: &Counters, before: &Counters) {
        for (name, value) in &after.0 {
            *self.0.entry(name.clone()).or_default() += value - before.0.get(name).copied().unwrap_or(0.0);
        }
    }

    pub fn show(&self, messages: usize) {
        let of = |name: &str| self.0.get(name).copied().unwrap_or(0.0);
        let commits = of("trishula_store_commit_seconds_count").max(1.0);
        println!(
            "ours spends: {:.1} messages a commit of {:.0} µs; CPU a message: node {:.1} µs, edge {:.1} µs; the node's turns: {:.1} µs a message",
            messages as f64 / commits,
            of("trishula_store_commit_seconds_sum") / commits * 1e6,
            of("node-a") / messages as f64 * 1e6,
            of("edge-a") / messages as f64 * 1e6,
            of("trishula_node_turn_seconds_sum") / messages as f64 * 1e6,
        );
    }
}

/// Built first, so that it is never stale.
fn edge_program() -> Result<PathBuf> {
    let build = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("running cargo")?;
    ensure!(build.success(), "trishula-edge does not build");
    Ok(Path::new(TRISHULA).with_file_name("trishula-edge"))
}

fn trishula(before: &[&str], path: &Path, after: &[&str]) -> Result<Output> {
    let output = Command::new(TRISHULA).args(before).arg(path).args(after).output()?;
    ensure!(output.status.success(), "trishula {before:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output)
}

fn wait_whole(machine: &Path) -> Result<()> {
    let began = Instant::now();
    let config = machine.join("node.toml");
    while began.elapsed() < WITHIN {
        let status = Command::new(TRISHULA).args(["status", "--json", "--config"]).arg(&config).output()?;
        let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap_or_default();
        let links = status["links"].as_array().cloned().unwrap_or_default();
        let both = status["nodes"].as_array().is_some_and(|nodes| nodes.len() == MACHINES.len());
        if both && status["whole"] == true && links.iter().any(|link| link["role"] == "edge") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{} did not come up within {WITHIN:?}", machine.display());
}

fn free_ports() -> Result<u16> {
    let free =
        |port| TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
    let mut bases = (21_000..60_000u16).step_by(100).filter(|base| (*base..*base + 20).all(free));
    bases.next().context("no twenty free ports in a row")
}
