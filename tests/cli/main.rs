//! The command line as its users see it: the real binary, in a fresh folder.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod help;
mod mesh_files;
mod running;
mod store;

use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};

/// The first of forty ports that nobody uses now; tests and their processes run side by side, so each begins elsewhere.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % 50) as u16 * 160;
    for _ in 0..200 {
        let base = 10_000 + (offset + NEXT.fetch_add(40, Ordering::Relaxed)) % 8_000;
        let free = |port| {
            TcpListener::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port)).is_ok()
        };
        if (base..base + 40).all(free) {
            return base;
        }
    }
    panic!("no forty free ports in a row");
}

/// A folder of its own, and the program in it.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        Place { folder: tempfile::tempdir().unwrap() }
    }

    /// One with a mesh on loopback in it: dc, agni, rushabdev.
    fn with_mesh() -> Place {
        let place = Place::new();
        place.ok(&["init", "--loopback", "--base-port", &free_ports().to_string(), "--out", "mesh"]);
        place
    }

    fn path(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_trishula"));
        command.current_dir(self.folder.path()).args(arguments).stdin(Stdio::null());
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TRISHULA_")) {
            command.env_remove(name);
        }
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs it, and what it prints.
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "trishula {arguments:?}: {:?}\n{stderr}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs it; what it prints is JSON.
    fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.ok(arguments)).unwrap()
    }

    /// Runs it; it must fail with this code, print nothing, and say why.
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        fails(code, &self.run(arguments))
    }

    fn write(&self, path: &str, text: &str) {
        std::fs::write(self.path(path), text).unwrap();
    }

    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path(path)).unwrap();
        assert!(text.contains(from), "{path} has no {from:?}:\n{text}");
        self.write(path, &text.replace(from, to));
    }
}

fn fails(code: i32, output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    stderr
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}
