//! A WebSocket client that shows its frames: with one compressor and one inflater for its whole life, as most have.

use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush};

use crate::harness::{Machine, PATIENCE};
use crate::wss::Door;

pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
const MASK: [u8; 4] = [7, 77, 177, 217];
/// What offers everything, as browsers do.
pub const OFFER: &str = "permessage-deflate; client_max_window_bits";

/// What came behind a request.
pub struct Answer {
    pub status: u16,
    pub extensions: Option<String>,
}

pub struct Client {
    io: TlsStream<TcpStream>,
    pub answer: Answer,
    inflate: Inflate,
    deflate: Deflate,
}

/// One frame as it travelled.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    pub first: u8,
    pub payload: Vec<u8>,
}

impl Client {
    /// Asks for an upgrade.
    pub async fn ask(machine: &Machine, path: &str, offers: &[&str], token: Option<&str>) -> Client {
        let mut io = Door::of(machine, "raw").tls().await.unwrap();
        let mut request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        );
        for offer in offers {
            request += &format!("Sec-WebSocket-Extensions: {offer}\r\n");
        }
        if let Some(token) = token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        io.write_all(format!("{request}\r\n").as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(timeout(PATIENCE, io.read_u8()).await.unwrap().unwrap());
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let extensions =
            head.lines().find_map(|line| line.strip_prefix("sec-websocket-extensions: ")).map(str::to_owned);
        // A window of 9 bits is read by an inflater of any, and fits whatever was agreed.
        let (inflate, deflate) = (Inflate::new(false, 15), Deflate::new(6, false, 9));
        Client { io, answer: Answer { status, extensions }, inflate, deflate }
    }

    /// The same where it must be granted, with compression.
    pub async fn open(machine: &Machine, path: &str) -> Client {
        let client = Client::ask(machine, path, &[OFFER], Some(&machine.token("raw"))).await;
        assert_eq!(client.answer.status, 101);
        assert!(client.answer.extensions.is_some());
        client
    }

    pub async fn send(&mut self, first: u8, payload: &[u8]) {
        let mut out = vec![first];
        match payload.len() {
            short @ 0..=125 => out.push(0x80 | short as u8),
            middle @ 126..=0xffff => {
                out.push(0x80 | 126);
                out.extend((middle as u16).to_be_bytes());
            }
            long => {
                out.push(0x80 | 127);
                out.extend((long as u64).to_be_bytes());
            }
        }
        out.extend(MASK);
        out.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ MASK[i & 3]));
        // It may be refused while it is under way.
        let _ = self.io.write_all(&out).await;
        let _ = self.io.flush().await;
    }

    /// A message's data as it travels.
    pub fn pack(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plain.len() + plain.len() / 8 + 64];
        let before = self.deflate.total_out();
        self.deflate.compress(plain, &mut out, DeflateFlush::SyncFlush).unwrap();
        out.truncate((self.deflate.total_out() - before) as usize - 4);
        out
    }

    /// Sends a text, compressed.
    pub async fn say(&mut self, text: &str) {
        let packed = self.pack(text.as_bytes());
        self.send(FIN | RSV1 | TEXT, &packed).await;
    }

    /// The next frame.
    pub async fn frame(&mut self) -> Option<Frame> {
        timeout(PATIENCE, self.read()).await.expect("a frame comes")
    }

    async fn read(&mut self) -> Option<Frame> {
        let first = self.io.read_u8().await.ok()?;
        let length = match self.io.read_u8().await.ok()? {
            126 => usize::from(self.io.read_u16().await.ok()?),
            127 => self.io.read_u64().await.ok()? as usize,
            short => {
                assert!(short < 126, "a server masks nothing");
                usize::from(short)
            }
        };
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.ok()?;
        Some(Frame { first, payload })
    }

    /// The next message: the first byte of its first frame, the bytes on the wire, and what they say.
    pub async fn message(&mut self) -> (u8, usize, Vec<u8>) {
        loop {
            let begin = self.frame().await.expect("a message comes");
            if matches!(begin.first & 0x0f, 9 | 10) {
                continue;
            }
            let (first, mut payload, mut fin) = (begin.first, begin.payload, begin.first & FIN != 0);
            while !fin {
                let more = self.frame().await.expect("the message goes on");
                assert_eq!(more.first & 0x7f, 0, "a continuation, and no bit of an extension on it");
                fin = more.first & FIN != 0;
                payload.extend(more.payload);
            }
            let wire = payload.len();
            if first & RSV1 != 0 {
                payload = self.unpack(payload);
            }
            return (first, wire, payload);
        }
    }

    /// The next frame of the protocol that is so.
    pub async fn until(&mut self, is: impl Fn(&Value) -> bool) -> (u8, usize, Value) {
        loop {
            let (first, wire, text) = self.message().await;
            assert_eq!(first & 0x0f, TEXT, "{}", String::from_utf8_lossy(&text));
            let frame = serde_json::from_slice(&text).unwrap();
            if is(&frame) {
                return (first, wire, frame);
            }
        }
    }

    /// The code that it is closed with.
    pub async fn closed(&mut self) -> u16 {
        loop {
            let frame = self.frame().await.expect("a close frame comes before the end");
            if frame.first == FIN | CLOSE {
                return u16::from_be_bytes(frame.payload[..2].try_into().unwrap());
            }
        }
    }

    fn unpack(&mut self, mut packed: Vec<u8>) -> Vec<u8> {
        packed.extend([0, 0, 0xff, 0xff]);
        let (mut plain, mut packed) = (Vec::new(), &packed[..]);
        let mut room = vec![0; 1 << 16];
        loop {
            let (took, gave) = (self.inflate.total_in(), self.inflate.total_out());
            self.inflate.decompress(packed, &mut room, InflateFlush::SyncFlush).unwrap();
            packed = &packed[(self.inflate.total_in() - took) as usize..];
            let gave = (self.inflate.total_out() - gave) as usize;
            plain.extend_from_slice(&room[..gave]);
            if gave < room.len() && packed.is_empty() {
                return plain;
            }
        }
    }
}

/// What the edge counts under a name with these labels.
pub fn counted(machine: &Machine, name: &str) -> u64 {
    let text = machine.edge_metrics();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).trim().parse().unwrap()
}

/// How much an edge has in memory, in KiB.
pub fn resident(machine: &Machine) -> u64 {
    let pid = machine.edge.as_ref().unwrap().pid();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How long one thing may take that goes through both cores of a busy machine.
pub const LONG: Duration = Duration::from_secs(120);
