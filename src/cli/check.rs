//! `trishula check`: everything that `run` needs, without running.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use super::cert::days;
use super::common::{ConfigArg, block_on, human_bytes, now};
use super::findings::{Findings, Level, shell};
use super::layout;
use crate::admin::client::Client;
use crate::admin::protocol::Request;
use crate::config::node::NodeConfig;
use crate::daemon;
use crate::identity::bundle::Bundle;
use crate::identity::ca::Authority;
use crate::identity::{Role, RoleKind};
use crate::node::status::{RESUME, Status};
use crate::store::maintenance;

/// A node that takes longer to say how it is has its own finding in `trishula status`.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula check
  trishula check --config ./trishula-mesh/agni/node.toml
  trishula check --json | jq '.findings[] | select(.level != \"ok\")'

Exit codes: 0 all is well, 1 something would keep the node from running, 64 the configuration itself is bad.")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let path = self.config.path();
        let config = self.config.load()?;
        let mut findings = Findings::default();
        findings.ok("configuration", path.display().to_string());
        log(&config, &mut findings);
        identity(&config, &mut findings);
        authority(&config, &mut findings);
        data_folder(&config.node.data_dir, &mut findings);
        store(&config.node.data_dir, &mut findings);
        fallback(&config, &mut findings);
        udp_buffers(&config, &mut findings);
        // What the node itself has taken is not taken by somebody else.
        if std::os::unix::net::UnixStream::connect(&config.admin.socket).is_ok() {
            findings.ok("ports", "in use by this node, which is running");
            running(&config, &mut findings);
        } else {
            ports(&config, &mut findings);
        }
        secrets(&path, &mut findings);
        findings.tell(self.json, false)
    }
}

fn log(config: &NodeConfig, findings: &mut Findings) {
    let Some(file) = &config.log.file else { return };
    match config.log.check() {
        Ok(()) => findings.ok("log", format!("{} can be written and rotated", file.display())),
        // The message itself says what to do.
        Err(error) => findings.bad(Level::Fault, "log", error, ""),
    }
}

fn identity(config: &NodeConfig, findings: &mut Findings) {
    let dir = &config.identity.dir;
    let bundle = match Bundle::load(dir, RoleKind::Node, now()) {
        Ok(bundle) => bundle,
        // The message itself says what to do.
        Err(error) => return findings.bad(Level::Fault, "identity", error, ""),
    };
    if bundle.name.role != Role::Node(config.node.name.clone()) {
        let found = format!(
            "the certificate in {} is of {}, but [node] name is {}",
            dir.display(),
            bundle.name,
            config.node.name
        );
        return findings.bad(
            Level::Fault,
            "identity",
            found,
            "set [identity] dir and [node] name to the same machine's",
        );
    }
    let left = days(bundle.name.not_after);
    match left {
        30.. => findings.ok("identity", format!("{}, certificate good for {left} days", bundle.name)),
        _ => findings.bad(
            Level::Warning,
            "identity",
            format!("{}, certificate good for only {left} days", bundle.name),
            "trishula cert renew",
        ),
    }
}

fn authority(config: &NodeConfig, findings: &mut Findings) {
    let Some(ca_dir) = &config.identity.ca_dir else { return };
    match Authority::load(ca_dir) {
        Ok(authority) => findings
            .ok("CA", format!("the key of mesh {:?} is here; keep a copy elsewhere", authority.mesh_name())),
        Err(error) => findings.bad(Level::Fault, "CA", error, ""),
    }
}

/// Whether the node would get out when UDP is blocked.
fn fallback(config: &NodeConfig, findings: &mut Findings) {
    let ways: usize = config.mesh.peers.iter().map(|peer| peer.fallback.len()).sum();
    match daemon::trouble_with_fallback(config) {
        // The message itself says what to do.
        Some(why) => findings.bad(Level::Fault, "fallback", why, ""),
        None if ways > 0 => findings.ok("fallback", format!("{ways} configured, for when UDP is blocked")),
        None => {
            findings.ok("fallback", "none configured; what other nodes advertise is used when UDP is blocked")
        }
    }
}

/// Whether the system lets bursts wait until the node reads them.
fn udp_buffers(config: &NodeConfig, findings: &mut Findings) {
    let what = "UDP buffers";
    let buffers = match daemon::udp_buffers(config) {
        Ok(buffers) => buffers,
        // Why there is no socket says the finding of the port.
        Err(error) => return findings.bad(Level::Warning, what, error, ""),
    };
    let room = |bytes: usize| human_bytes(bytes as u64);
    let found = format!("room for {} in and {} out", room(buffers.receive), room(buffers.send));
    match buffers.mend() {
        None => findings.ok(what, found),
        Some(mend) => {
            let found = format!("{found}, {} would be good: bursts will be lost", room(buffers.wanted));
            findings.bad(Level::Warning, what, found, mend);
        }
    }
}

/// Tries it with a file in the folder, or, as it may be made later, in the nearest one above it that is there.
fn data_folder(folder: &Path, findings: &mut Findings) {
    let Some(there) = folder.ancestors().find(|path| path.exists() || path.is_symlink()) else { return };
    let probe = there.join(format!(".trishula-check-{}", std::process::id()));
    // Often root's, in a folder of somebody else's: what stands there by this name is not followed.
    let _ = fs::remove_file(&probe);
    let tried = File::create_new(&probe).and_then(|mut file| file.write_all(b"check"));
    // Nothing is left behind; if it can't be removed, it was not written either.
    let _ = fs::remove_file(&probe);
    match tried {
        Ok(()) if there == folder => findings.ok("data folder", format!("{} is writable", folder.display())),
        Ok(()) => findings.ok("data folder", format!("{} will be made", folder.display())),
        Err(error) => {
            let shown = shell(folder);
            let mend = match error.kind() {
                ErrorKind::NotADirectory => {
                    let file = shell(there);
                    format!("mv {file} {file}.old, or set [node] data_dir to a folder")
                }
                _ => format!(
                    "sudo mkdir -p {shown} && sudo chown trishula: {shown}, or set [node] data_dir to a folder that this user may write to"
                ),
            };
            findings.bad(
                Level::Fault,
                "data folder",
                format!("{} is not writable: {error}", folder.display()),
                mend,
            );
        }
    }
}

/// Damage that a node has found in its store, this life of it or the last one. No fault that should keep it from starting:
/// where messages stand can be asked.
fn store(folder: &Path, findings: &mut Findings) {
    if maintenance::noted_damage(folder).is_none() {
        return;
    }
    // Another file may have taken its place since.
    if let Ok(maintenance::Survey { damage: Some(damage), .. }) = maintenance::survey(folder, true) {
        let mend = format!(
            "stop the node and see what can be saved with: trishula store salvage --data {}",
            shell(folder)
        );
        let found =
            format!("{}: the store is damaged and is not written any more ({damage})", folder.display());
        findings.bad(Level::Warning, "store", found, mend);
    }
}

/// What the node itself says, where nothing beside it tells: that it stands still.
fn running(config: &NodeConfig, findings: &mut Findings) {
    let asked = block_on(async {
        let asked = async {
            let mut node = Client::connect(&config.admin.socket).await?;
            node.ask::<Status>(&Request::Status { node: None }).await
        };
        Ok(tokio::time::timeout(ANSWERS_WITHIN, asked).await?)
    });
    // One that can't be asked says so itself: trishula status.
    let Ok(Ok(Status { durable: Some(durable), .. })) = asked else { return };
    if let Some(seen) = durable.rolled_back {
        let found = format!(
            "it stands still and takes nothing: its store is an old copy, the mesh has seen life {seen} of this node"
        );
        findings.bad(Level::Fault, "node", found, RESUME);
    }
}

fn ports(config: &NodeConfig, findings: &mut Findings) {
    let (mesh, http) = (config.mesh.listen, config.admin.http);
    port("mesh", "UDP", mesh, UdpSocket::bind(mesh).err(), findings);
    port("admin", "TCP", http, TcpListener::bind(http).err(), findings);
}

fn port(
    section: &str,
    protocol: &str,
    address: SocketAddr,
    error: Option<std::io::Error>,
    findings: &mut Findings,
) {
    let what = format!("{protocol} {address}");
    let key = if section == "mesh" { "[mesh] listen" } else { "[admin] http" };
    let Some(error) = error else { return findings.ok(what, "free") };
    let flag = if protocol == "UDP" { "-ulpn" } else { "-tlpn" };
    let mend = match error.kind() {
        ErrorKind::AddrInUse => format!(
            "see who has it with: sudo ss {flag} 'sport = :{}', or set {key} to another port",
            address.port()
        ),
        ErrorKind::PermissionDenied => format!(
            "ports below 1024 need a right: sudo setcap cap_net_bind_service+ep $(which trishula), or set {key} to a higher port"
        ),
        ErrorKind::AddrNotAvailable => format!(
            "this machine has no such address; see them with: ip address, and set {key} to one of them"
        ),
        _ => format!("set {key} to another address"),
    };
    let found = if error.kind() == ErrorKind::AddrInUse {
        "in use by another program".to_owned()
    } else {
        error.to_string()
    };
    findings.bad(Level::Fault, what, found, mend);
}

/// Every file beside the configuration that holds a secret must be its owner's alone.
fn secrets(config: &Path, findings: &mut Findings) {
    let folder = config.parent().unwrap_or(Path::new("")).join(layout::SECRETS);
    let Ok(entries) = fs::read_dir(&folder) else { return };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs::metadata(&path) else { continue };
        let mode = metadata.permissions().mode() & 0o7777;
        let what = format!("secret {}", path.display());
        match mode & 0o077 {
            0 => findings.ok(what, "for its owner only"),
            _ => findings.bad(
                Level::Fault,
                what,
                format!("mode {mode:04o} lets others open it"),
                format!("chmod 600 {}", shell(&path)),
            ),
        }
    }
}
