//! Our own programs: one node and its edge, as `trishula init` sets them up.
use crate::process::Process;
use crate::server::Server;
use anyhow::{Context, Result, bail, ensure};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

const TRISHULA: &str = env!("CARGO_BIN_EXE_trishula");
const MACHINE: &str = "agni";
/// It is there long before.
const WITHIN: Duration = Duration::from_secs(30);

/// Where the two programs lie.
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
        Programs::in_folder(Path::new(TRISHULA).parent().context("no folder of programs")?)
    }

    /// Of another build, to compare.
    pub fn in_folder(folder: &Path) -> Result<Programs> {
        let programs = Programs { trishula: folder.join("trishula"), edge: folder.join("trishula-edge") };
        for program in [&programs.trishula, &programs.edge] {
            ensure!(program.exists(), "{} is missing", program.display());
        }
        Ok(programs)
    }

    fn trishula(&self, args: &[&str], path: &Path) -> Result<Output> {
        let output = Command::new(&self.trishula).args(args).arg(path).output()?;
        ensure!(output.status.success(), "trishula {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output)
    }
}

/// A machine's folder: configuration and certificates.
pub struct Machine {
    folder: PathBuf,
    base: u16,
}

impl Machine {
    /// Writes it below a folder that is not there yet, with room for so many connections.
    pub fn write(programs: &Programs, folder: &Path, connections: usize) -> Result<Machine> {
        let base = free_ports()?;
        let port = base.to_string();
        programs.trishula(&["init", MACHINE, "--loopback", "--base-port", &port, "--out"], folder)?;
        let machine = Machine { folder: folder.join(MACHINE), base };
        // What else limits connections leaves this machine's own addresses alone.
        let path = machine.folder.join("edge.toml");
        let before = std::fs::read_to_string(&path)?;
        let room = format!("[[service]]\nmax_connections = {}\n", connections + 100);
        let after = before.replacen("[[service]]\n", &room, 1);
        ensure!(after != before, "{} has no [[service]]", path.display());
        std::fs::write(&path, after)?;
        Ok(machine)
    }

    /// Starts the two, and waits until they are joined.
    pub fn start(&self, programs: &Programs, connections: usize) -> Result<Server> {
        let start = |name: &'static str, program: &Path, file: &str| {
            let config = self.folder.join(file);
            let config = config.to_str().context("the folder's name is not UTF-8")?;
            let log = self.folder.join(format!("{name}.log"));
            Process::start(name, program, &["run", "--config", config], connections, &log)
        };
        let node = start("node", &programs.trishula, "node.toml")?;
        let entrance = start("edge", &programs.edge, "edge.toml")?;
        self.wait_joined(programs)?;
        let secret = Some(self.folder.join("secrets/trishula.secret"));
        Ok(Server { port: self.base + 2, secret, entrance, node: Some(node) })
    }

    fn wait_joined(&self, programs: &Programs) -> Result<()> {
        let began = Instant::now();
        let config = self.folder.join("node.toml");
        while began.elapsed() < WITHIN {
            let asked = programs.trishula(&["status", "--json", "--config"], &config);
            let status: serde_json::Value =
                asked.ok().and_then(|told| serde_json::from_slice(&told.stdout).ok()).unwrap_or_default();
            let links = status["links"].as_array().cloned().unwrap_or_default();
            if links.iter().any(|link| link["role"] == "edge") {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("{} did not come up within {WITHIN:?}", self.folder.display());
    }

    /// Who signed what clients see.
    pub fn ca(&self) -> PathBuf {
        self.folder.join("edge-identity/ca.pem")
    }

    /// What clients are shown, and its key.
    pub fn certificate(&self) -> (PathBuf, PathBuf) {
        (self.folder.join("edge-identity/public.pem"), self.folder.join("edge-identity/public.key"))
    }
}

fn free_ports() -> Result<u16> {
    let free =
        |port| TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok();
    // Below the ports from which clients connect.
    let mut bases = (21_000..32_000u16).step_by(100).filter(|base| (*base..*base + 10).all(free));
    bases.next().context("no ten free ports in a row")
}
