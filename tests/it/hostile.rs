//! Whoever means harm at a node's doors: without a certificate, with a stolen one, or on the machine itself. It gets a
//! closed connection; the node goes on.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use trishula::identity::bundle::Bundle;
use trishula::identity::ca::Fingerprint;
use trishula::identity::revocation::Revocations;
use trishula::identity::{RoleKind, tls};
use trishula::link::quic;
use trishula::wire::close::{Code, LinkClose, Refusal};
use trishula::wire::envelope::{Class, Head, Kind, Target};
use trishula::wire::frame::{Attach, Frame, Hello, MAX_HEAD, OLDEST_VERSION, Reader, VERSION};
use trishula::wire::ids::{AgentAddr, Incarnation, MessageId, Namespace, NodeName, SessionNo};

use crate::harness::{Mesh, PATIENCE, until};

/// Only dc runs; agni's identities are in wrong hands.
fn victim() -> Mesh {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    mesh.machine("dc").start_node();
    until("dc answers", || mesh.machine("dc").status().is_some());
    mesh
}

/// It answers, and nothing in it has fallen over.
fn is_well(mesh: &mut Mesh) {
    let dc = mesh.machine("dc");
    assert!(dc.status().is_some(), "{}", dc.node_log());
    assert!(!dc.node_log().contains("panicked"), "{}", dc.node_log());
}

fn name(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn agent(name: &str) -> AgentAddr {
    AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap()
}

fn hello(node: &str) -> Hello {
    Hello {
        version: VERSION,
        oldest: OLDEST_VERSION,
        node: name(node),
        incarnation: Incarnation(1),
        features: Vec::new(),
        software: "hostile".into(),
    }
}

fn encoded(frame: &Frame) -> Vec<u8> {
    let encoded = frame.encode();
    [&encoded.head[..], &encoded.payload[..]].concat()
}

/// The start of a control lane that says HELLO.
fn greeting(node: &str) -> Vec<u8> {
    [&[0u8][..], &encoded(&Frame::Hello(hello(node)))].concat()
}

fn clock() -> tls::Clock {
    Arc::new(rustls::time_provider::DefaultTimeProvider)
}

/// TLS with an identity that lies in a folder.
fn as_member(folder: &Path, kind: RoleKind) -> Arc<rustls::ClientConfig> {
    let bundle = Bundle::load(folder, kind, SystemTime::now().into()).unwrap();
    let identity = tls::Identity::new(&bundle, Arc::new(Revocations::new(None)), clock()).unwrap();
    identity.client(Some(name("dc"))).unwrap()
}

/// TLS without a certificate, for one of a node's two protocols.
fn as_nobody(folder: &Path, protocol: &[u8]) -> Arc<rustls::ClientConfig> {
    let bundle = Bundle::load(folder, RoleKind::Node, SystemTime::now().into()).unwrap();
    let config = tls::join_client(Fingerprint::of(&bundle.ca), clock()).unwrap();
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![protocol.to_vec()];
    Arc::new(config)
}

async fn connect(
    mesh: &Mesh,
    tls: &Arc<rustls::ClientConfig>,
) -> Result<quinn::Connection, quinn::ConnectionError> {
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls::quic_client(tls.clone()).unwrap()));
    config.transport_config(Arc::new(quic::transport()));
    let to = format!("127.0.0.1:{}", mesh.base).parse().unwrap();
    endpoint.connect_with(config, to, "dc.trishula").unwrap().await
}

/// Opens a stream for each text, and tells how the connection ended; `None`: it did not.
async fn says(connection: &quinn::Connection, texts: &[Vec<u8>]) -> Option<quinn::ConnectionError> {
    let mut streams = Vec::new();
    for text in texts {
        let Ok(mut stream) = connection.open_uni().await else { break };
        // It may be closed before all is said.
        let _ = stream.write_all(text).await;
        streams.push(stream);
    }
    tokio::time::timeout(PATIENCE, connection.closed()).await.ok()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

// covers B19
#[test]
fn garbage_on_the_udp_port_changes_nothing() {
    let mut mesh = victim();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = format!("127.0.0.1:{}", mesh.base);
    // Long headers of QUIC version 1 and of another one, short headers, and anything; of many lengths.
    let first = [0xc0u8, 0xc3, 0xe0, 0xff, 0x40, 0x00, b'G', 0x16];
    for n in 0..20_000usize {
        let mut packet = vec![(n * 31) as u8; n % 1500];
        if let Some(byte) = packet.first_mut() {
            *byte = first[n % first.len()];
        }
        if packet.len() > 5 && n % 3 == 0 {
            packet[1..5].copy_from_slice(&[0, 0, 0, 1]);
        }
        let _ = socket.send_to(&packet, &to);
    }
    mesh.machine("agni").start_node();
    mesh.wait_whole();
    is_well(&mut mesh);
}

// covers T24, B17
#[test]
fn without_a_certificate_nothing_is_read() {
    let mut mesh = victim();
    let tls = as_nobody(&mesh.machine("agni").folder.join("identity"), tls::ALPN_LINK);
    let closed = runtime().block_on(async {
        let connection = connect(&mesh, &tls).await.unwrap();
        says(&connection, &[greeting("agni")]).await
    });
    let Some(quinn::ConnectionError::ApplicationClosed(close)) = closed else { panic!("{closed:?}") };
    assert_eq!(close.error_code, (LinkClose::NotAdmitted as u32).into());
    assert!(mesh.machine("dc").node_log().contains("a peer was not admitted"));
    is_well(&mut mesh);
}

// covers T24, B09, B19
#[test]
fn joiners_that_ask_nonsense_or_nothing_are_left_and_the_next_ones_served() {
    let mut mesh = victim();
    let tls = as_nobody(&mesh.machine("agni").folder.join("identity"), tls::ALPN_JOIN);
    let question = |length: u32, body: &[u8]| [&length.to_be_bytes()[..], body].concat();
    runtime().block_on(async {
        let mut ended = Vec::new();
        for text in [
            question(u32::MAX, b"x"),
            question(64 * 1024 + 1, &[0; 64 * 1024 + 1]),
            question(5, b"{\"a\":"),
            question(0, b""),
            question(60_000, &[b'['; 60_000]),
        ] {
            let connection = connect(&mesh, &tls).await.unwrap();
            let (mut send, mut receive) = connection.open_bi().await.unwrap();
            let _ = send.write_all(&text).await;
            let answer = tokio::time::timeout(PATIENCE, receive.read_to_end(1 << 20)).await.unwrap();
            // A refusal in words, or no answer; never a reply.
            assert!(answer.is_err() || answer.is_ok_and(|answer| answer.get(4) != Some(&0)));
            connection.close(0u32.into(), b"");
            ended.push(connection);
        }
        let mut silent = Vec::new();
        for _ in 0..8 {
            let connection = connect(&mesh, &tls).await.unwrap();
            silent.push(connection);
        }
        for connection in silent {
            let closed = tokio::time::timeout(PATIENCE, connection.closed()).await;
            assert!(matches!(closed, Ok(quinn::ConnectionError::ApplicationClosed(_))), "{closed:?}");
        }
    });
    is_well(&mut mesh);
}

// covers T24, B17, B19
#[test]
fn a_member_that_breaks_the_protocol_loses_its_link_and_the_log_says_why() {
    let mut mesh = victim();
    let folder = mesh.machine("agni").folder.clone();
    let node = as_member(&folder.join("identity"), RoleKind::Node);
    let edge = as_member(&folder.join("edge-identity"), RoleKind::Edge);
    let after_hello = |bytes: &[u8]| vec![[&greeting("agni")[..], bytes].concat()];
    let refusal = Refusal { code: Code::Internal, message: "x".repeat(MAX_HEAD) };
    let other_version = Hello { version: 90, oldest: 80, ..hello("agni") };
    let cases: Vec<(&str, Vec<Vec<u8>>, LinkClose, &str)> = vec![
        (
            "no HELLO",
            vec![[&[0u8][..], &encoded(&Frame::Ping(1))].concat()],
            LinkClose::Protocol,
            "is not HELLO",
        ),
        (
            "another's name",
            vec![greeting("dc")],
            LinkClose::NotAdmitted,
            "HELLO says dc, the certificate says agni",
        ),
        (
            "another version",
            vec![[&[0u8][..], &encoded(&Frame::Hello(other_version))].concat()],
            LinkClose::Version,
            "speaks versions 80 to 90",
        ),
        (
            "an endless length",
            after_hello(&[2, 0xff, 0xff, 0xff, 0xff, 0xff]),
            LinkClose::Protocol,
            "malformed",
        ),
        (
            "a giant head",
            after_hello(&encoded(&Frame::Evict(SessionNo(1), refusal))),
            LinkClose::Protocol,
            "over the limit",
        ),
        ("a head of another shape", after_hello(&[8, 3, 1, 2, 3, 0]), LinkClose::Protocol, "malformed head"),
        ("a payload where none is", after_hello(&[2, 1, 1, 1, 9]), LinkClose::Protocol, "must have none"),
        (
            "garbage in every lane",
            (0..60).map(|lane| vec![lane; 1000]).chain([greeting("agni")]).collect(),
            LinkClose::Protocol,
            "",
        ),
    ];
    runtime().block_on(async {
        for (role, tls) in [("node", &node), ("edge", &edge)] {
            for (what, texts, code, _) in &cases {
                let connection = connect(&mesh, tls).await.unwrap();
                let closed = says(&connection, texts).await;
                let Some(quinn::ConnectionError::ApplicationClosed(close)) = closed else {
                    panic!("{role}, {what}: {closed:?}")
                };
                let got = (close.error_code, String::from_utf8_lossy(&close.reason).into_owned());
                let ours = matches!(close.error_code.into_inner(), 0..=7);
                assert!(
                    ours && (*what == "garbage in every lane" || got.0 == (*code as u32).into()),
                    "{role}, {what}: {got:?}"
                );
            }
        }
    });
    let log = mesh.machine("dc").node_log();
    for (what, _, _, says) in &cases {
        assert!(log.contains(says), "{what}: {says:?} is not in {log}");
    }
    assert!(log.lines().all(|line| line.len() < 2000), "what a peer sends is not written out");
    is_well(&mut mesh);
}

/// A link over the socket on which a machine's edge comes in.
struct EvilEdge {
    socket: UnixStream,
    reader: Reader,
}

impl EvilEdge {
    fn attached(mesh: &mut Mesh, agent_name: &str) -> EvilEdge {
        let socket = UnixStream::connect(mesh.machine("dc").folder.join("edge.sock")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut edge = EvilEdge { socket, reader: Reader::default() };
        edge.say(&Frame::Hello(hello("dc")));
        edge.say(&Frame::Attach(Attach {
            session: SessionNo(1),
            agent: agent(agent_name),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: 1,
            resumed: false,
            window: 64,
            transient: false,
        }));
        while !matches!(edge.hear(), Frame::Attached(SessionNo(1), _)) {}
        edge
    }

    fn say(&mut self, frame: &Frame) {
        self.socket.write_all(&encoded(frame)).unwrap();
    }

    fn hear(&mut self) -> Frame {
        loop {
            if let Some(frame) = self.reader.next_frame().unwrap() {
                return frame;
            }
            let mut bytes = vec![0; 64 * 1024];
            let count = self.socket.read(&mut bytes).unwrap();
            assert!(count > 0, "the node closed the link");
            bytes.truncate(count);
            self.reader.push(Bytes::from(bytes));
        }
    }
}

fn submit(session: u64, from: &str, to: &str, n: usize) -> Frame {
    let head = Head {
        class: Class::Live,
        ..Head::new(
            agent(from),
            Target::Agent(agent(to)),
            MessageId::new(&format!("m-{n}")).unwrap(),
            Kind::Status,
        )
    };
    Frame::Submit(SessionNo(session), head, Bytes::from_static(b"{}"))
}

// covers B08, B09
#[test]
fn an_entrance_that_floods_is_told_of_every_message_even_when_it_reads_late() {
    const MANY: usize = 40_000;
    let mut mesh = victim();
    let mut edge = EvilEdge::attached(&mut mesh, "flooder");
    let (mut writer, written) = (edge.socket.try_clone().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = written.clone();
    let flood = std::thread::spawn(move || {
        for n in 0..MANY {
            writer.write_all(&encoded(&submit(1, "flooder", "nobody", n))).unwrap();
            counted.store(n, Ordering::Relaxed);
        }
    });
    until("it has much to hear", || written.load(Ordering::Relaxed) >= 8_000);
    let mut told = 0;
    while told < MANY {
        if let Frame::Told(_, receipt) = edge.hear() {
            assert_eq!(receipt.refusal.unwrap().code, Code::UnknownRecipient);
            told += 1;
        }
    }
    flood.join().unwrap();
    is_well(&mut mesh);
}

// covers B08, B09
#[test]
fn an_entrance_that_never_reads_stops_nobody_else() {
    let mut mesh = victim();
    let mut deaf = EvilEdge::attached(&mut mesh, "deaf");
    let mut well = EvilEdge::attached(&mut mesh, "well");
    // Until the node does not read it any more.
    deaf.socket.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
    let flood: Vec<u8> = (0..100).flat_map(|n| encoded(&submit(1, "deaf", "nobody", n))).collect();
    for _ in 0..1_000 {
        if deaf.socket.write_all(&flood).is_err() {
            break;
        }
    }
    for n in 0..100 {
        well.say(&submit(1, "well", "well", n));
        loop {
            match well.hear() {
                Frame::Deliver(deliver, _) => break assert_eq!(deliver.head.id.as_str(), format!("m-{n}")),
                Frame::Ping(stamp) => well.say(&Frame::Pong(stamp, 0)),
                Frame::Told(_, receipt) => panic!("{receipt:?}"),
                _ => {}
            }
        }
    }
    is_well(&mut mesh);
}

// covers T06, T08
#[test]
fn an_entrance_does_not_speak_for_the_clients_of_another() {
    let mut mesh = victim();
    let mut honest = EvilEdge::attached(&mut mesh, "honest");
    let mut evil = EvilEdge::attached(&mut mesh, "evil");
    for (session, from) in [(1, "honest"), (7, "honest"), (7, "evil")] {
        evil.say(&submit(session, from, "honest", 1));
        let receipt = loop {
            if let Frame::Told(_, receipt) = evil.hear() {
                break receipt;
            }
        };
        let code = receipt.refusal.unwrap().code;
        assert!(matches!(code, Code::FromMismatch | Code::NotRegistered), "{code:?}");
    }
    evil.say(&Frame::Evict(SessionNo(1), Refusal::new(Code::Slow, "go")));
    evil.say(&Frame::Goodbye(1));
    evil.say(&submit(1, "evil", "honest", 99));
    // The only thing that it hears.
    loop {
        match honest.hear() {
            Frame::Deliver(deliver, _) => {
                assert_eq!((deliver.head.id.as_str(), deliver.head.from), ("m-99", agent("evil")));
                break;
            }
            Frame::Ping(_) | Frame::Hello(_) => {}
            other => panic!("{other:?}"),
        }
    }
    is_well(&mut mesh);
}

// covers B19
#[test]
fn garbage_on_the_sockets_of_the_machine_is_answered_or_left() {
    let mut mesh = victim();
    for socket in ["node.sock", "edge.sock"] {
        let path = mesh.machine("dc").folder.join(socket);
        let length = |length: u32, body: &[u8]| [&length.to_be_bytes()[..], body].concat();
        let deep = [b'['; 100_000];
        for garbage in [
            vec![0xff; 5000],
            length(u32::MAX, b""),
            length(1 << 20, b"half"),
            length(5, b"{\"op\""),
            length(deep.len() as u32, &deep),
            length(14, b"{\"op\":\"fly\"}  "),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            Vec::new(),
        ] {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let _ = stream.write_all(&garbage);
            let _ = stream.shutdown(std::net::Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(answer.len() < 10_000);
        }
        // More at once than there are places; when they go, there is room again.
        let many: Vec<_> = (0..200).map(|_| UnixStream::connect(&path).unwrap()).collect();
        drop(many);
        until("there is room again", || mesh.machine("dc").status().is_some());
    }
    let edge = EvilEdge::attached(&mut mesh, "later");
    drop(edge);
    is_well(&mut mesh);
}
