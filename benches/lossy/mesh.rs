//! Our own nodes, one on each machine, as `trishula init` sets them up, and native clients at their sockets.
use crate::load::{BULK, Beside, FLOWS, Load, MESSAGE, Outcome, Record};
use crate::place::Place;
use anyhow::{Context, Result, bail, ensure};
use futures_util::future::{join_all, try_join_all};
use serde::Deserialize;
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::sleep;
use trishula::admin;
use trishula::admin::protocol::{Attached, Request};
use trishula::client::{self, Client, Connection, Options, Outgoing};
use trishula::wire::envelope::{Kind, State};
use trishula::wire::ids::AgentName;

const TRISHULA: &str = env!("CARGO_BIN_EXE_trishula");
const MACHINES: [&str; 2] = ["agni", "rushabdev"];
/// Anything here takes less.
const WITHIN: Duration = Duration::from_secs(30);
/// Nodes that dial each other at once have two connections, and after so long the one that they keep.
const SETTLED: Duration = Duration::from_millis(2500);
/// Agents by whose names these many flows fall on every one of the 16 lanes.
const CROWD: usize = 32;
/// What each of them keeps under way, and how large.
const UNDER_WAY: usize = 4;
const LARGE: usize = 16 * 1024;
/// A message of the transfer.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    Live,
    Durable,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Live => "live",
            Class::Durable => "durable",
        }
    }
}

/// Two nodes that run. Dropping it ends them.
pub struct Mesh {
    place: Place,
    folder: tempfile::TempDir,
    nodes: Vec<Child>,
}

impl Mesh {
    /// Sets them up, and waits until they know each other.
    pub fn start(place: Place) -> Result<Mesh> {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
        let addresses = [0, 1].map(|machine| Ok(SocketAddr::new(place.address(machine), free_port()?)));
        let addresses = addresses.into_iter().collect::<Result<Vec<SocketAddr>>>()?;
        let given = MACHINES.iter().zip(&addresses).map(|(name, address)| format!("{name}={address}"));
        let made = Command::new(TRISHULA).arg("init").arg("--out").arg(folder.path()).args(given).output()?;
        ensure!(made.status.success(), "trishula init: {}", String::from_utf8_lossy(&made.stderr));
        let mut mesh = Mesh { place, folder, nodes: Vec::new() };
        for (machine, address) in addresses.iter().enumerate() {
            let node = mesh.start_node(machine, *address)?;
            mesh.nodes.push(node);
        }
        let began = Instant::now();
        while !(mesh.is_whole(0) && mesh.is_whole(1)) {
            ensure!(began.elapsed() < WITHIN, "the two nodes did not find each other within {WITHIN:?}");
            std::thread::sleep(Duration::from_millis(50));
        }
        std::thread::sleep(SETTLED);
        Ok(mesh)
    }

    fn start_node(&self, machine: usize, address: SocketAddr) -> Result<Child> {
        let folder = self.folder.path().join(MACHINES[machine]);
        let mut node = Command::new(TRISHULA);
        node.arg("run").arg("--config").arg(folder.join("node.toml"));
        let at = |name: &str| folder.join(name).display().to_string();
        // `init` writes what is right for a machine of its own; here two share the files of one.
        for (key, value) in [
            ("mesh.listen", format!("0.0.0.0:{}", address.port())),
            ("node.data_dir", at("data")),
            ("admin.socket", at("node.sock")),
            ("admin.http", format!("127.0.0.1:{}", free_port()?)),
            ("gateway.edge_socket", at("edge.sock")),
            ("gateway.relay_socket", at("relay.sock")),
            ("log.level", "error".into()),
        ] {
            node.arg("--set").arg(format!("{key}={value}"));
        }
        self.place.start(machine, &node).context("starting a node")
    }

    fn socket(&self, machine: usize) -> PathBuf {
        self.folder.path().join(MACHINES[machine]).join("node.sock")
    }

    fn is_whole(&self, machine: usize) -> bool {
        let mut status = Command::new(TRISHULA);
        status.args(["status", "--json", "--socket"]).arg(self.socket(machine));
        let Ok(output) = status.output() else { return false };
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        status["whole"] == true
            && status["nodes"].as_array().is_some_and(|nodes| nodes.len() == MACHINES.len())
    }

    /// How clients reach the two.
    pub fn clients(&self) -> Clients {
        Clients { sockets: [self.socket(0), self.socket(1)] }
    }

    /// Messages of this class and priority from the first machine to agents of the second.
    pub fn run(&self, class: Class, priority: u8, load: &Load) -> Result<Outcome> {
        let (clients, record) = (self.clients(), Record::default());
        let (there, received) = (clients.clone(), record.clone());
        let outcome = self.place.both(
            move |up| async move {
                let names = (0..CROWD.max(FLOWS)).map(flow).chain(["bulk".into()]);
                let agents = try_join_all(names.map(|name| there.connect(1, name))).await?;
                up.send(())?;
                join_all(agents.into_iter().map(|agent| receive(agent, &received))).await;
                bail!("a node ended its sessions")
            },
            |()| async move {
                let sender = clients.connect(0, "sender".into()).await?;
                let crowd = clients.connect(0, "crowd".into()).await?;
                knows(&sender, CROWD.max(FLOWS) + 1).await?;
                let carry = |queue| carry(&sender, queue, class, priority);
                load.through(&record, carry, beside(&crowd, load.beside)).await
            },
        )?;
        // What is live may be dropped, and then has no time that could be told.
        Ok(if class == Class::Durable { outcome.reliable() } else { outcome })
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            // The end of its standard input ends it.
            drop(node.stdin.take());
            let _ = node.wait();
        }
    }
}

/// How clients reach the two nodes: by their admin sockets, so that nothing but the link between the nodes is measured.
#[derive(Debug, Clone)]
pub struct Clients {
    sockets: [PathBuf; 2],
}

impl Clients {
    pub async fn connect(&self, machine: usize, agent: String) -> Result<Client> {
        let name = AgentName::new(&agent)?;
        let (path, attach): (Arc<Path>, _) = (Arc::from(&*self.sockets[machine]), name.clone());
        let how = move || {
            let (path, agent) = (path.clone(), attach.clone());
            async move {
                let failed = |e: admin::client::Error| client::Error::Unreachable(e.to_string());
                let mut node = admin::client::Client::connect(&path).await.map_err(failed)?;
                node.ask::<Attached>(&Request::Attach { agent: Some(agent) }).await.map_err(failed)?;
                Ok(Connection::over(node.into_stream()))
            }
        };
        let options = Options { agent: Some(name), ..Options::default() };
        Ok(Client::connect(how, options).await?)
    }
}

/// Waits until the client's node knows so many agents that are connected elsewhere.
pub async fn knows(client: &Client, agents: usize) -> Result<()> {
    let here = &client.registered().node;
    let began = Instant::now();
    loop {
        let known = client.agents(WITHIN).await?;
        if known.iter().filter(|agent| agent.online && agent.node != *here).count() >= agents {
            return Ok(());
        }
        ensure!(began.elapsed() < WITHIN, "the recipients are not known within {WITHIN:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[derive(Deserialize)]
struct Body {
    /// Absent: part of what is beside.
    n: Option<u64>,
}

/// What an agent gets, until its session ends. A client acknowledges a message when it asks for the next one.
async fn receive(mut agent: Client, record: &Record) {
    while let Some(message) = agent.next().await {
        let Ok(body) = message.read::<Body>() else { continue };
        match body.n {
            Some(n) => record.arrived(n),
            None => record.bulk(message.frame.len()),
        }
    }
}

async fn carry(sender: &Client, mut queue: UnboundedReceiver<u64>, class: Class, priority: u8) -> Result<()> {
    let pad = "x".repeat(MESSAGE);
    while let Some(n) = queue.recv().await {
        let payload = json!({"n": n, "pad": pad});
        sender.send(outgoing(&flow(n as usize % FLOWS), payload, class, priority)).await?;
    }
    Ok(())
}

/// What shares the way, for as long as it is let.
async fn beside(crowd: &Client, beside: Beside) -> Result<()> {
    let body = |bytes: usize| json!({"pad": "x".repeat(bytes)});
    match beside {
        Beside::Nothing => {}
        Beside::Bulk => {
            for _ in 0..BULK / PIECE {
                crowd.send(outgoing("bulk", body(PIECE), Class::Durable, 5)).await?;
            }
        }
        Beside::AllLanes => {
            let keep = |n: usize| async move {
                loop {
                    let message = outgoing(&flow(n % CROWD), body(LARGE), Class::Durable, 3);
                    crowd.send_and_wait(message, State::Stored, WITHIN).await?;
                }
            };
            let _: Vec<()> =
                try_join_all((0..CROWD * UNDER_WAY).map(keep)).await.map_err(|e: client::Error| e)?;
        }
    }
    Ok(())
}

pub fn outgoing(to: &str, payload: serde_json::Value, class: Class, priority: u8) -> Outgoing {
    Outgoing {
        class: Some(class.name()),
        priority: Some(priority),
        ..Outgoing::new(Kind::Status, to, payload)
    }
}

fn flow(n: usize) -> String {
    format!("lane-{n}")
}

fn free_port() -> Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
