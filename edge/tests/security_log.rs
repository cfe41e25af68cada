//! What the program writes into its log of who comes to it with nothing good: each with its address, and not without end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use support::{Machine, PATIENCE};

/// A program that runs, and its log.
struct Program {
    child: Child,
    log: Receiver<String>,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(machine: &Machine) -> Program {
        let mut child = Command::new(env!("CARGO_BIN_EXE_trishula-edge"))
            .args(["run", "--config"])
            .arg(machine.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (say, log) = mpsc::channel();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| say.send(line)));
        let program = Program { child, log };
        program.says("listening");
        program
    }

    /// The next line with this in it.
    fn says(&self, word: &str) -> String {
        loop {
            let line = self.log.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("{word:?} is not in the log"));
            if line.contains(word) {
                return line;
            }
        }
    }
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A metric of the program, as soon as it is shown.
fn metric(at: SocketAddr, name: &str) -> u64 {
    let began = Instant::now();
    loop {
        let (mut stream, mut text) = (connect(at), String::new());
        let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        // While all places are taken nobody is heard.
        if asked.is_ok() && stream.read_to_string(&mut text).is_ok() && text.starts_with("HTTP/1.1 200 ") {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            return line.map_or(0, |value| value.trim().parse().unwrap());
        }
        assert!(began.elapsed() < PATIENCE, "no metrics: {text}");
    }
}

fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn who_brings_no_handshake_or_finds_no_place_is_in_the_log_with_its_address() {
    // covers B09, B27 10
    let (machine, at, metrics) = (Machine::new(), free_port(), free_port());
    machine.configure("");
    let text = std::fs::read_to_string(machine.path()).unwrap();
    let text =
        text.replace("[metrics]\nlisten = \"127.0.0.1:0\"", &format!("[metrics]\nlisten = \"{metrics}\""));
    let text = text.replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{at}\"]"));
    std::fs::write(machine.path(), text).unwrap();
    let program = Program::start(&machine);

    // One more than the port for metrics has places.
    let held: Vec<TcpStream> = (0..64).map(|_| connect(metrics)).collect();
    let mut more = connect(metrics);
    let address = more.local_addr().unwrap();
    let read = more.read(&mut [0; 1]);
    let closed = match &read {
        Ok(bytes) => *bytes == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    };
    assert!(closed, "{read:?}");
    let line = program.says("too many connections");
    assert!(line.contains(&address.to_string()) && line.contains("edge.metrics_connection"), "{line}");
    drop(held);
    let full = "trishula_listener_full_total{listener=\"edge.metrics_connection\"}";
    assert!(metric(metrics, full) >= 1);

    let mut addresses = Vec::new();
    for _ in 0..30 {
        let mut stranger = connect(at);
        addresses.push(stranger.local_addr().unwrap().to_string());
        // A record of a handshake that is none.
        stranger.write_all(b"\x16\x03\x01\x00\x04none").unwrap();
        let _ = stranger.read_to_end(&mut Vec::new());
    }
    let line = program.says("security event");
    assert!(line.contains(&addresses[0]) && line.contains("tls"), "{line}");
    // Counted when the connection is gone.
    let (began, refused) = (Instant::now(), "trishula_edge_refused_total{reason=\"tls\"}");
    while metric(metrics, refused) != 30 {
        assert!(began.elapsed() < PATIENCE, "{}", metric(metrics, refused));
    }
    let lines = program.log.try_iter().filter(|line| line.contains("security event")).count();
    assert!((5..15).contains(&lines), "{lines} lines of 30 attempts");
}
