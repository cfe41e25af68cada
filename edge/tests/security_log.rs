//! What the program writes into its log of who comes to it with nothing good: each with its address, and not without end.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConnection, StreamOwned};
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
    /// On these ports: for clients, and for metrics.
    fn on(machine: &Machine, at: SocketAddr, metrics: SocketAddr) -> Program {
        Program::with("", machine, at, metrics)
    }

    /// The same; `more` goes to the service's end.
    fn with(more: &str, machine: &Machine, at: SocketAddr, metrics: SocketAddr) -> Program {
        machine.configure(more);
        let text = std::fs::read_to_string(machine.path()).unwrap();
        let metrics = format!("[metrics]\nlisten = \"{metrics}\"");
        let text = text.replace("[metrics]\nlisten = \"127.0.0.1:0\"", &metrics);
        let text = text.replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{at}\"]"));
        std::fs::write(machine.path(), text).unwrap();
        Program::start(machine)
    }

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
    let program = Program::on(&machine, at, metrics);

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

#[test]
fn refused_upgrades_and_tokens_are_all_counted_and_do_not_fill_the_log() {
    // covers B09, B17
    const MANY: usize = 200;
    let (machine, at, metrics) = (Machine::new(), free_port(), free_port());
    let program = Program::on(&machine, at, metrics);
    let last = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let plain = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(MANY - 1) + last;
    let token = |close: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade{close}\r\nUpgrade: websocket\r\nAuthorization: Bearer x\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let tokens = token("").repeat(MANY - 1) + &token(", close");
    for (what, said, events) in [("handshake", plain, vec!["handshake"]), ("token", tokens, vec!["token"])] {
        let (mut client, address) = tls(&machine, at, &[]);
        client.write_all(said.as_bytes()).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
        let of =
            |event: &&str| metric(metrics, &format!("trishula_edge_refused_total{{reason=\"{event}\"}}"));
        let began = Instant::now();
        while events.iter().map(of).sum::<u64>() < MANY as u64 {
            assert!(began.elapsed() < PATIENCE, "{what}");
        }
        let line = program.says("security event");
        assert!(line.contains(&address) && line.contains("security") && line.contains(what), "{line}");
        let lines = program.log.try_iter().filter(|line| line.contains(&address)).count();
        assert!(lines < 40, "{lines} lines of {MANY} {what}");
    }
}

#[test]
fn pages_of_foreign_origins_are_all_counted_and_do_not_fill_the_log() {
    // covers B09, B17
    const MANY: u64 = 200;
    let (machine, at, metrics) = (Machine::new(), free_port(), free_port());
    let program = Program::with("http = { origins = [\"https://one.example\"] }", &machine, at, metrics);
    let page = |close: &str| {
        format!(
            "GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade{close}\r\nUpgrade: websocket\r\nOrigin: https://evil.example\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let (mut client, address) = tls(&machine, at, &[]);
    client.write_all((page("").repeat(MANY as usize - 1) + &page(", close")).as_bytes()).unwrap();
    let _ = client.read_to_end(&mut Vec::new());
    let (began, shown) = (Instant::now(), "trishula_edge_refused_total{reason=\"origin\"}");
    while metric(metrics, shown) < MANY {
        assert!(began.elapsed() < PATIENCE, "{}", metric(metrics, shown));
    }
    let line = program.says("security event");
    assert!(line.contains(&address) && line.contains("https://evil.example"), "{line}");
    let lines = program.log.try_iter().filter(|line| line.contains(&address)).count();
    assert!(lines < 40, "{lines} lines of {MANY}");
}

/// A connection by HTTP/2, and its address.
fn h2(machine: &Machine, at: SocketAddr) -> (StreamOwned<ClientConnection, TcpStream>, String) {
    tls(machine, at, &[b"h2"])
}

fn tls(
    machine: &Machine,
    at: SocketAddr,
    protocols: &[&[u8]],
) -> (StreamOwned<ClientConnection, TcpStream>, String) {
    let mut config = (*machine.client_config()).clone();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from("localhost").unwrap();
    let tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let tcp = connect(at);
    let address = tcp.local_addr().unwrap().to_string();
    (StreamOwned::new(tls, tcp), address)
}

/// One frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// `GET https://x/`, by the tables of RFC 7541, appendix A.
const GET: &[u8] = b"\x82\x87\x84\x41\x01x";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
/// The end of the stream, and of its headers.
const WHOLE: u8 = 5;

#[test]
fn what_http_2_refuses_is_counted_and_in_the_log_with_its_address() {
    // covers B09, B10, B21
    let (machine, at, metrics) = (Machine::new(), free_port(), free_port());
    let program = Program::on(&machine, at, metrics);
    let settings = frame(4, 0, 0, b"");
    let many = [GET, &b"\0\x01a\x011".repeat(65)].concat();
    // Each a thousand bytes.
    let huge = [GET, &[&b"\0\x01a\x7f\xe9\x06"[..], &[b'x'; 1000]].concat().repeat(40)].concat();
    let (first, rest) = huge.split_at(16_000);
    let (second, third) = rest.split_at(16_000);
    let huge =
        [frame(HEADERS, 1, 1, first), frame(CONTINUATION, 0, 1, second), frame(CONTINUATION, 4, 1, third)];
    // So small a window that no answer with a body ends its stream.
    let no_window = frame(4, 0, 0, b"\0\x04\0\0\0\0");
    let streams = (0..140).flat_map(|n| frame(HEADERS, WHOLE, 2 * n + 1, GET)).collect();
    let mut counted = 0;
    for (what, said, refused, says) in [
        ("65 headers", frame(HEADERS, WHOLE, 1, &many), 1, "more than 64 headers"),
        ("too large", huge.concat(), 1, "431"),
        ("no scheme", frame(HEADERS, WHOLE, 1, b"\x82\x84"), 1, "PROTOCOL_ERROR"),
        ("data of no stream", frame(0, 0, 0, b"x"), 1, "http2 error"),
        ("12 streams too many", [no_window, streams].concat(), 12, "REFUSED_STREAM"),
    ] {
        let (mut client, address) = h2(&machine, at);
        client.write_all(&[PREFACE, &settings, &said].concat()).unwrap();
        let line = program.says("security event");
        assert!(line.contains(&address) && line.contains("request"), "{what}: {line}");
        assert!(line.contains(says), "{what}: {line}");
        counted += refused;
        let (began, shown) = (Instant::now(), "trishula_edge_refused_total{reason=\"request\"}");
        while metric(metrics, shown) != counted {
            assert!(began.elapsed() < PATIENCE, "{what}: {} and not {counted}", metric(metrics, shown));
        }
    }
}

#[test]
fn requests_that_nobody_should_send_are_refused_and_in_the_log() {
    // covers B09, B10, B20, B21
    let (machine, at, metrics) = (Machine::new(), free_port(), free_port());
    let program = Program::on(&machine, at, metrics);
    let ask = |to: SocketAddr, request: &str| {
        let (mut client, mut answer) = (connect(to), String::new());
        client.write_all(request.as_bytes()).unwrap();
        client.read_to_string(&mut answer).unwrap();
        (answer, client.local_addr().unwrap().to_string())
    };
    for (hosts, says) in [
        ("", "no Host"),
        ("Host: x\r\nHost: x\r\n", "more than one Host"),
        ("Host: x\r\nhOST: y\r\n", "more than one Host"),
        ("Host: a b\r\n", "is no host"),
    ] {
        let request = format!("GET /health HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        let (answer, address) = ask(at, &request);
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains(says), "{hosts:?}: {answer}");
        let line = program.says("security event");
        assert!(line.contains(&address) && line.contains("request") && line.contains(says), "{line}");
        assert!(ask(metrics, &request).0.starts_with("HTTP/1.1 400 "), "the port for metrics");
    }
    for (what, status, says) in
        [("GET /.env", " 404 ", "nothing at the path"), ("POST /ws", " 405 ", "its method is not served")]
    {
        let (mut client, address) = tls(&machine, at, &[]);
        let mut answer = Vec::new();
        client
            .write_all(format!("{what} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
            .unwrap();
        // An end without close_notify: the answer has said that it is one.
        let _ = client.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.contains(status), "{what}: {answer}");
        let line = program.says("security event");
        assert!(line.contains(&address) && line.contains("request") && line.contains(says), "{line}");
    }
    assert_eq!(metric(metrics, "trishula_edge_refused_total{reason=\"request\"}"), 6);
    // HAProxy's check, and the older servers' scripts.
    for request in
        ["GET /health HTTP/1.0\r\n\r\n", "GET /health HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n"]
    {
        let (answer, _) = ask(at, request);
        // There is no node.
        assert!(answer.contains(" 503 ") && answer.contains("unhealthy"), "{answer}");
    }
}
