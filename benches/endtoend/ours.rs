//! Trishula itself as a [`Way`]: the real programs, as `trishula init` sets them up.
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::child::Child;
use crate::way::{Endpoint, Running, Way};

const TRISHULA: &str = env!("CARGO_BIN_EXE_trishula");
/// Two machines: whose client is at which.
const MACHINES: [&str; 2] = ["agni", "rushabdev"];
/// The mesh is whole long before.
const WITHIN: Duration = Duration::from_secs(30);

/// Our own way; builds the edge's program first, so that it is never stale.
pub fn ours() -> Result<Option<Box<dyn Way>>> {
    let build = Command::new(env!("CARGO"))
        .args(["build", "--release", "--locked", "--workspace", "--bins"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .context("running cargo")?;
    ensure!(build.success(), "trishula-edge does not build");
    let edge = Path::new(TRISHULA).with_file_name("trishula-edge");
    ensure!(edge.exists(), "{} is missing", edge.display());
    Ok(Some(Box::new(Ours { edge })))
}

struct Ours {
    edge: PathBuf,
}

impl Way for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn hops(&self) -> [&'static str; 5] {
        ["WSS", "Unix", "QUIC", "Unix", "WSS"]
    }

    fn start(&self) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let base = free_ports()?;
        trishula(
            &["init", "--loopback", "--base-port", &base.to_string(), "--out"],
            folder.path(),
            &MACHINES,
        )?;
        let mut processes = Vec::new();
        for (machine, name) in MACHINES.into_iter().zip(["node-a", "node-b"]) {
            let config = folder.path().join(machine).join("node.toml");
            processes
                .push(Child::start(name, Command::new(TRISHULA).arg("run").arg("--config").arg(config))?);
        }
        for (machine, name) in MACHINES.into_iter().zip(["edge-a", "edge-b"]) {
            let config = folder.path().join(machine).join("edge.toml");
            processes
                .push(Child::start(name, Command::new(&self.edge).arg("run").arg("--config").arg(config))?);
        }
        for machine in MACHINES {
            wait_whole(&folder.path().join(machine))?;
        }
        let endpoint = |i: u16, agent: &str| -> Result<Endpoint> {
            let secret = folder.path().join(MACHINES[usize::from(i)]).join("secrets/trishula.secret");
            let token = trishula(&["token", "issue", agent, "--secret-file"], &secret, &[])?;
            let token = String::from_utf8(token.stdout)?.trim().to_owned();
            let url = format!("wss://localhost:{}/", base + 10 * i + 2);
            Ok(Endpoint { url, agent: agent.to_owned(), token: Some(token) })
        };
        let ca = CertificateDer::from_pem_file(folder.path().join("agni/edge-identity/ca.pem"))?;
        Ok(Running {
            a: endpoint(0, "a")?,
            b: endpoint(1, "b")?,
            ca,
            processes,
            guards: vec![Box::new(folder)],
        })
    }

    fn greeting(&self, _me: &Endpoint) -> Option<String> {
        Some(r#"{"type":"REGISTER","id":"r"}"#.to_owned())
    }

    fn wrap(&self, to: &Endpoint, n: u64, body: String) -> String {
        let to = &to.agent;
        // The bare chain keeps nothing: what keeping costs is shown by the bench `publish`.
        format!(r#"{{"type":"STATUS","to":"{to}","id":"m{n}","class":"live","payload":{body}}}"#)
    }

    fn unwrap<'t>(&self, text: &'t str) -> Option<&'t str> {
        #[derive(Deserialize)]
        struct Frame<'a> {
            #[serde(rename = "type")]
            kind: &'a str,
            #[serde(borrow)]
            payload: &'a RawValue,
        }
        let frame: Frame<'t> = serde_json::from_str(text).ok()?;
        (frame.kind == "STATUS").then(|| frame.payload.get())
    }
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
    let bases = (21_000..60_000u16).step_by(100);
    let mut bases = bases.filter(|base| (*base..*base + 20).all(free));
    bases.next().context("no twenty free ports in a row")
}
