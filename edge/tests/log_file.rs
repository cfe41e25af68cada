//! The log in a file, as the program writes it: rotated, moved by somebody else, and on a disk that refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use support::{Machine, PATIENCE};

const EDGE: &str = env!("CARGO_BIN_EXE_trishula-edge");
const MIB: usize = 1 << 20;

/// A machine whose edge logs into `edge.log`, which has this in it already.
struct Place {
    machine: Machine,
    at: SocketAddr,
    metrics: SocketAddr,
}

impl Place {
    fn new(log: &str, before: &str) -> Place {
        let place = Place { machine: Machine::new(), at: free_port(), metrics: free_port() };
        place.configure(log);
        fs::write(place.log(""), before).unwrap();
        place
    }

    fn configure(&self, log: &str) {
        self.machine.configure(&format!("[log]\nfile = \"edge.log\"\n{log}"));
        let text = fs::read_to_string(self.machine.path()).unwrap();
        let text = text.replace(
            "[metrics]\nlisten = \"127.0.0.1:0\"",
            &format!("[metrics]\nlisten = \"{}\"", self.metrics),
        );
        let text = text.replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{}\"]", self.at));
        fs::write(self.machine.path(), text).unwrap();
    }

    /// The file of the log with this behind its name.
    fn log(&self, more: &str) -> PathBuf {
        self.machine.folder.path().join(format!("edge.log{more}"))
    }

    fn said(&self, more: &str) -> String {
        fs::read_to_string(self.log(more)).unwrap_or_default()
    }

    fn start(&self) -> Edge {
        let mut command = Command::new(EDGE);
        Edge::start(command.args(["run", "--config"]).arg(self.machine.path()))
    }

    fn command(&self, command: &str) -> Output {
        Command::new(EDGE).args([command, "--config"]).arg(self.machine.path()).output().unwrap()
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// The program, which ends with its handle.
struct Edge(Option<Child>);

impl Edge {
    fn start(command: &mut Command) -> Edge {
        Edge(Some(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    fn signal(&self, name: &str) {
        let pid = self.0.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Stops it as systemd does; answers what it wrote to standard error.
    fn stop(mut self) -> String {
        self.signal("TERM");
        let output = self.0.take().unwrap().wait_with_output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        text
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < PATIENCE, "still not: {what}");
        std::thread::yield_now();
    }
}

fn metric(at: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is missing: {text}")).parse().unwrap()
}

#[test]
fn a_full_log_is_renamed_and_only_so_many_stay() {
    // covers B29
    let place = Place::new("max_mib = 1\nkeep = 2", "");
    for life in 0..4 {
        // Nothing more fits.
        let mut log = fs::File::options().append(true).open(place.log("")).unwrap();
        log.write_all(&[b'x'; MIB]).unwrap();
        log.write_all(b"\n").unwrap();
        let edge = place.start();
        // Not what the life before has said.
        until("it listens", || place.said("").len() < MIB && place.said("").contains("listening"));
        assert_eq!(edge.stop(), "", "life {life}: nothing on standard error");
        // Written before the process has ended.
        assert!(place.said("").contains("stopping"), "life {life}: {}", place.said(""));
        assert!(place.said("").len() < MIB, "life {life}");
    }
    for more in ["", ".1", ".2"] {
        let said = place.said(more);
        for word in ["listening", "stopping"] {
            assert_eq!(said.matches(word).count(), 1, "{word} in edge.log{more}");
        }
    }
    assert!(!place.log(".3").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_grows_is_rotated_between_two_lines() {
    // covers B29, T21
    let line = format!("{{\"before\":\"{}\"}}\n", "x".repeat(1000));
    let before = line.repeat((MIB - (20 << 10)) / line.len());
    let place = Place::new("max_mib = 1\nkeep = 1\nformat = \"json\"\nlevel = \"trace\"", &before);
    let edge = place.start();
    until("it listens", || ["", ".1"].iter().any(|more| place.said(more).contains("listening")));
    let began = Instant::now();
    while !place.log(".1").exists() {
        drop(place.machine.tls(place.at).await);
        assert!(began.elapsed() < PATIENCE, "it grew to {}", place.said("").len());
    }
    assert_eq!(edge.stop(), "");
    assert!(place.said(".1").len() <= MIB);
    let all = format!("{}{}", place.said(".1"), place.said(""));
    assert!(all.contains("listening") && all.contains("stopping"));
    for line in all.lines() {
        let whole = serde_json::from_str::<serde_json::Value>(line);
        assert!(whole.is_ok_and(|line| line.is_object()), "{line}");
    }
}

#[test]
fn a_log_that_was_moved_is_opened_anew_by_a_hangup() {
    // covers B29
    let place = Place::new("", "");
    let edge = place.start();
    until("it listens", || place.said("").contains("listening"));
    fs::rename(place.log(""), place.log(".moved")).unwrap();
    edge.signal("HUP");
    until("the file is there again", || place.log("").exists());
    place.configure("level = \"debug\"");
    // The file's own change may be seen first.
    assert!(place.command("reload").status.success());
    until("it goes on there", || place.said("").contains("the configuration was read again"));
    assert!(place.said(".moved").contains("listening") && !place.said(".moved").contains("read again"));
    // What the log is can't change while it runs.
    place.configure("keep = 7");
    let output = place.command("reload");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("log.keep: the default -> 7: the log is opened at the start"), "{said}");
    assert_eq!(edge.stop(), "");
}

#[test]
fn what_the_disk_refuses_is_counted_and_goes_to_standard_error() {
    // covers B29
    let place = Place::new("max_mib = 4", &format!("{}\n", "x".repeat(2 * MIB)));
    // No file may get larger, as on a disk without room; the edge starts all the same.
    let limited = "trap '' XFSZ; ulimit -f 0; exec \"$0\" run --config \"$1\"";
    let mut command = Command::new("sh");
    let edge = Edge::start(command.args(["-c", limited, EDGE]).arg(place.machine.path()));
    until("it serves metrics", || TcpStream::connect(place.metrics).is_ok());
    until("the refusal is counted", || metric(place.metrics, "trishula_log_refused_total") >= 1);
    let said = edge.stop();
    assert!(said.contains("[log] file: ") && said.contains("what it refuses is here"), "{said}");
    assert!(said.contains("listening") && said.contains("stopping"), "{said}");
    assert_eq!(said.matches("what it refuses").count(), 1, "{said}");
    assert_eq!(place.said("").len(), 2 * MIB + 1);
}

#[test]
fn a_log_that_can_not_be_written_stops_the_start() {
    // covers B29
    let place = Place::new("", "");
    let good = fs::read_to_string(place.machine.path()).unwrap();
    fs::create_dir(place.machine.folder.path().join("folder")).unwrap();
    for (log, says) in [
        (
            "file = \"nowhere/edge.log\"",
            vec!["[log] file", "nowhere/edge.log", "sudo install -d -o trishula"],
        ),
        ("file = \"folder\"", vec!["[log] file", "it is not a regular file", "leave `file` out"]),
        (
            "file = \"secret/edge.log\"",
            vec!["[log] file", "secret/edge.log cannot be written", "name another"],
        ),
        ("max_mib = 0", vec!["log.max_mib: 0 is not from 1 to 65536"]),
        ("keep = -1", vec!["log.keep: -1 is not from 0 to 1000"]),
    ] {
        fs::write(place.machine.path(), good.replace("file = \"edge.log\"", log)).unwrap();
        for command in ["check", "run"] {
            let output = place.command(command);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(64), "{command} with {log}: {said}");
            for word in &says {
                assert!(said.contains(word), "{command} with {log}: {word:?} is missing in: {said}");
            }
        }
    }
    // A check leaves no file that another user's edge could not write.
    fs::write(place.machine.path(), good).unwrap();
    fs::remove_file(place.log("")).unwrap();
    let output = place.command("check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!place.log("").exists());
}
