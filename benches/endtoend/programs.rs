//! The real programs of two machines on loopback, as `trishula init` sets them up.
use crate::child::Child;
use crate::way::Endpoint;
use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const TRISHULA: &str = env!("CARGO_BIN_EXE_trishula");
/// Two machines: whose client is at which.
const MACHINES: [&str; 2] = ["agni", "rushabdev"];
/// The mesh is whole long before.
const WITHIN: Duration = Duration::from_secs(30);

/// Where the two programs lie.
#[derive(Debug, Clone)]
pub struct Programs {
    trishula: PathBuf,
    edge: PathBuf,
}

impl Programs {
    /// Of this build. The edge's is built first, so that it is never stale.
    pub fn build() -> Result<Programs> {
        let build = Command::new(env!("CARGO"))
            .args(["build", "--release", "--locked", "--workspace", "--bins"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status()
            .context("running cargo")?;
        ensure!(build.success(), "trishula-edge does not build");
        let folder = Path::new(TRISHULA).parent().context("no folder of programs")?;
        Programs::in_folder(folder)
    }

    /// Of another build, to compare.
    pub fn in_folder(folder: &Path) -> Result<Programs> {
        let programs = Programs { trishula: folder.join("trishula"), edge: folder.join("trishula-edge") };
        for program in [&programs.trishula, &programs.edge] {
            ensure!(program.exists(), "{} is missing", program.display());
        }
        Ok(programs)
    }

    fn trishula(&self, before: &[&str], path: &Path, after: &[&str]) -> Result<Output> {
        let output = Command::new(&self.trishula).args(before).arg(path).args(after).output()?;
        ensure!(output.status.success(), "trishula {before:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }
}

/// Two machines that run, a node and an edge each. Dropping it ends them.
pub struct TwoMachines {
    programs: Programs,
    folder: PathBuf,
    base: u16,
    /// Who signed what clients see.
    pub ca: CertificateDer<'static>,
    /// `node-a`, `node-b`, `edge-a`, `edge-b`.
    pub processes: Vec<Child>,
}

impl TwoMachines {
    /// Sets them up in a folder that is not there yet, and waits until the mesh is whole.
    pub fn start(programs: &Programs, folder: &Path) -> Result<TwoMachines> {
        let base = free_ports()?;
        programs.trishula(
            &["init", "--loopback", "--base-port", &base.to_string(), "--out"],
            folder,
            &MACHINES,
        )?;
        let mut processes = Vec::new();
        for (program, file, names) in [
            (&programs.trishula, "node.toml", ["node-a", "node-b"]),
            (&programs.edge, "edge.toml", ["edge-a", "edge-b"]),
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
            wait_whole(programs, &folder.join(machine))?;
        }
        let ca = CertificateDer::from_pem_file(folder.join("agni/edge-identity/ca.pem"))?;
        Ok(TwoMachines { programs: programs.clone(), folder: folder.to_owned(), base, ca, processes })
    }

    /// Where a client of one of the two connects, and as whom.
    pub fn endpoint(&self, machine: u16, agent: &str) -> Result<Endpoint> {
        let secret = self.folder.join(MACHINES[usize::from(machine)]).join("secrets/trishula.secret");
        let token = self.programs.trishula(&["token", "issue", agent, "--secret-file"], &secret, &[])?;
        let token = String::from_utf8(token.stdout)?.trim().to_owned();
        let url = format!("wss://localhost:{}/", self.base + 10 * machine + 2);
        Ok(Endpoint { url, agent: agent.to_owned(), token: Some(token) })
    }

    /// Where a machine's node tells its metrics.
    #[allow(dead_code, reason = "not every bench reads them")]
    pub fn health_port(&self, machine: u16) -> u16 {
        self.base + 10 * machine + 1
    }
}

fn wait_whole(programs: &Programs, machine: &Path) -> Result<()> {
    let began = Instant::now();
    let config = machine.join("node.toml");
    while began.elapsed() < WITHIN {
        let status =
            Command::new(&programs.trishula).args(["status", "--json", "--config"]).arg(&config).output()?;
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
