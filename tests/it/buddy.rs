//! The server of the package session-buddy, unchanged: what it tells a client, two edges tell it as well.
#![allow(clippy::print_stderr, reason = "a test that fails shows what the old server has said")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use crate::harness::{Machine, Mesh, free_ports, strict_python, until};
use crate::services::{SECRET, Script, add_services, token, url};

/// How the package is told to want tokens, and of which secret.
const OF_TOKENS: [(&str, &str); 2] =
    [("SESSION_BUDDY_AUTH_ENABLED", "true"), ("SESSION_BUDDY_JWT_SECRET", SECRET)];

/// The old server, and the adapter that feeds its metrics into the mesh: `server | feed_rooms.py`.
struct Old {
    server: Child,
    adapter: Child,
    hears: ChildStdin,
    log: PathBuf,
}

impl Old {
    /// Serves at a port, and feeds the edge of a machine at another.
    fn start(python: &Path, port: u16, machine: &Machine, edge: u16) -> Old {
        let log = machine.folder.join("session-buddy.log");
        let file = File::create(&log).unwrap();
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut server = Command::new(python)
            .arg(here.join("tests/it/python/buddy_server.py"))
            .arg(port.to_string())
            .arg(&machine.folder)
            .envs(OF_TOKENS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file.try_clone().unwrap())
            .spawn()
            .unwrap();
        let (hears, says) = (server.stdin.take().unwrap(), server.stdout.take().unwrap());
        let adapter = Command::new(python)
            .arg(here.join("docs/examples/feed_rooms.py"))
            .args([url(edge), machine.ca()])
            .env("TRISHULA_TOKEN", token("service", &[], 600))
            .stdin(says)
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let mut old = Old { server, adapter, hears, log };
        until("the old server listens", || {
            assert!(old.server.try_wait().unwrap().is_none(), "the old server has ended");
            fs::read_to_string(&old.log).unwrap().contains("listening")
        });
        old
    }

    /// A skill was used once more.
    fn used(&mut self, skill: &str) {
        writeln!(self.hears, "{skill}").unwrap();
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        for child in [&mut self.server, &mut self.adapter] {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), fs::read_to_string(&self.log).unwrap_or_default());
        }
    }
}

// covers B01, B03, B04, B06, B07, B31
#[test]
fn clients_of_session_buddy_are_told_by_two_edges_what_its_own_server_tells_them() {
    let python = strict_python();
    let ports = free_ports(3);
    let (near, far, old) = (ports, ports + 1, ports + 2);
    let mut mesh = Mesh::init(&["agni", "rushabdev"]);
    for (machine, port) in mesh.machines.iter_mut().zip([near, far]) {
        add_services(machine, &[("preset = \"session-buddy\"", port)]);
        machine.start_node();
        machine.start_edge();
    }
    mesh.wait_whole();
    let mut server = Old::start(&python, old, mesh.machine("agni"), near);
    let mut client = Script::run(
        Command::new(&python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/buddy_client.py"))
            .arg(format!("ws://127.0.0.1:{old}"))
            .args([url(near), mesh.machine("agni").ca(), url(far), mesh.machine("rushabdev").ca()])
            .envs(OF_TOKENS),
    );
    client.says("refused");
    client.says("the same");
    client.says("reading");
    server.used("review");
    client.says("of another node");
    let machine = mesh.machine("rushabdev");
    machine.edge.as_mut().unwrap().kill();
    server.used("review");
    client.says("lost");
    machine.start_edge();
    server.used("review");
    client.says("back");
    client.says("over");
}
