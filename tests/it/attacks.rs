//! Attacks on a real edge before a real node, while somebody else uses it: each refusal is a security event in the edge's log,
//! with the address that it came from, and counted.

use std::collections::HashMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use trishula::rt::clock;
use zlib_rs::{Deflate, DeflateFlush};

use crate::harness::{PATIENCE, free_ports};
use crate::production::{Old, SOON, Site, Stage, run, secret, signed, token};

const SERVICE: &str = "mahavishnu";
/// How long the edge waits for a handshake, and for a request.
const HANDSHAKE_MS: u64 = 1000;
/// How long a client may take with its token.
const TOKEN_WITHIN: Duration = Duration::from_secs(10);
/// Between two pings of the neighbour: under the rate of the service.
const PACE: Duration = Duration::from_millis(15);
/// What the neighbour would notice.
const DISTURBED: Duration = Duration::from_secs(2);

/// An edge, a client of it that is never kept waiting, and what must be in the log.
struct Town {
    stage: Stage,
    site: Site,
    relay: Site,
    /// Another namespace at the same edge.
    others: Site,
    /// Signs tokens of the service by its public key.
    signer: KeyPair,
    neighbour: Neighbour,
    told: Vec<(SocketAddr, &'static str)>,
}

impl Town {
    fn start() -> Town {
        let relay = free_ports(1);
        let more = format!(
            "handshake_timeout_ms = {HANDSHAKE_MS}\njwks_file = \"jwks.json\"\n\n\
             [[service]]\nname = \"relay\"\ndialect = \"relay\"\nlisten = [\"127.0.0.1:{relay}\"]\nsecret_file = \"{SERVICE}.secret\"\n"
        );
        let mut stage = Stage::prepare(&["agni"], &["crackerjack", SERVICE], &more);
        let signer = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let machine = stage.machine("agni");
        fs::write(machine.folder.join("jwks.json"), published(&signer)).unwrap();
        machine.start_node();
        machine.start_edge();
        stage.mesh.wait_whole();
        let site = stage.site("agni", SERVICE);
        let others = stage.site("agni", "crackerjack");
        let door = site.door.clone().through(relay, Ipv4Addr::LOCALHOST);
        let relay = Site { service: "relay", port: relay, door };
        let neighbour = Neighbour::of(&site);
        Town { stage, site, relay, others, signer, neighbour, told: Vec::new() }
    }

    fn log(&mut self) -> String {
        self.stage.machine("agni").edge.as_ref().unwrap().log()
    }

    /// Waits until the log has a security event of this kind from each of these.
    async fn all_told(&mut self, what: &str, from: &[SocketAddr], event: &'static str) {
        let began = Instant::now();
        loop {
            let log = self.log();
            let seen = events(&log);
            let Some(missing) =
                from.iter().find(|from| !seen.contains_key(&(from.to_string(), event.to_owned())))
            else {
                break self.told.extend(from.iter().map(|from| (*from, event)));
            };
            assert!(began.elapsed() < PATIENCE, "{what}: no {event:?} from {missing} in {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn told(&mut self, what: &str, from: SocketAddr, event: &'static str) {
        self.all_told(what, &[from], event).await;
    }

    /// The attacks are over: each was told once and counted, the neighbour felt nothing, and a new client comes in.
    fn stands(mut self) {
        let log = self.log();
        let seen = events(&log);
        let metrics = self.stage.machine("agni").edge_metrics();
        for (from, event) in &self.told {
            assert_eq!(seen[&(from.to_string(), (*event).to_owned())], 1, "{event} of {from}");
            let so_many = self.told.iter().filter(|(_, other)| other == event).count();
            let line = format!("trishula_edge_refused_total{{reason=\"{event}\"}} ");
            let counted = metrics.lines().find_map(|text| text.strip_prefix(&line)?.parse::<usize>().ok());
            assert!(counted.is_some_and(|counted| counted >= so_many), "{event}: {counted:?} of {so_many}");
        }
        let slowest = self.neighbour.leaves();
        assert!(slowest < DISTURBED, "the neighbour was kept waiting for {slowest:?}");
        run(async { self.site.greeted("another", &["pool:read"]).await.is_answered().await });
        assert!(self.stage.machine("agni").edge.as_mut().unwrap().runs());
        assert!(!log.contains("panicked"), "{log}");
        assert!(!log.contains(&secret(SERVICE)), "a secret is in the log");
    }
}

/// Address and kind of the security events in a log, and how many there are of each.
fn events(log: &str) -> HashMap<(String, String), usize> {
    let field = |line: &str, before: &str, end: char| {
        let (_, rest) = line.split_once(before)?;
        Some(rest.split(end).next().unwrap_or(rest).to_owned())
    };
    let mut seen = HashMap::new();
    for line in log.lines().filter(|line| line.contains("WARN") && line.contains("security event")) {
        if let Some(found) = field(line, " from=", ' ').zip(field(line, " event=\"", '"')) {
            *seen.entry(found).or_insert(0) += 1;
        }
    }
    seen
}

/// Somebody who uses the edge meanwhile, on a thread of its own.
struct Neighbour {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Duration>>,
}

impl Neighbour {
    fn of(site: &Site) -> Neighbour {
        let (site, over) = (site.clone(), Arc::new(AtomicBool::new(false)));
        let (ends, (is_in, comes_in)) = (over.clone(), channel());
        let thread = std::thread::spawn(move || {
            run(async {
                let mut client = site.greeted("neighbour", &["pool:read"]).await;
                is_in.send(()).unwrap();
                let mut slowest = Duration::ZERO;
                while !ends.load(Ordering::Relaxed) {
                    let began = Instant::now();
                    client.is_answered().await;
                    slowest = slowest.max(began.elapsed());
                    tokio::time::sleep(PACE).await;
                }
                slowest
            })
        });
        comes_in.recv().expect("the neighbour comes in");
        Neighbour { over, thread: Some(thread) }
    }

    /// The longest that it has waited for an answer.
    fn leaves(&mut self) -> Duration {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the neighbour felt it")
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn address(client: &Old) -> SocketAddr {
    client.socket.get_ref().get_ref().0.local_addr().unwrap()
}

/// A P-256 key as `jwks_file` has it.
fn published(signer: &KeyPair) -> String {
    // Uncompressed: 4, x, y.
    let raw = signer.public_key_raw();
    let [x, y] = [&raw[1..33], &raw[33..]].map(|part| URL_SAFE_NO_PAD.encode(part));
    json!({"keys": [{"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "ec", "use": "sig"}]}).to_string()
}

// covers B09, B17, B19
#[test]
fn half_open_sockets_by_the_thousand_are_in_the_log_each_with_its_address() {
    let mut town = Town::start();
    run(async {
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, town.site.port));
        let mut sockets = Vec::new();
        for n in 0..1000 {
            // What finds no room waits in the system's queue, and then is not even taken.
            let connected = timeout(Duration::from_millis(500), TcpStream::connect(at)).await;
            let Ok(Ok(mut socket)) = connected else { break };
            if n % 2 == 0 {
                // The head of a TLS record, and six of its bytes.
                let _ = socket.write_all(b"\x16\x03\x01\x02\x00\x01").await;
            }
            sockets.push(socket);
        }
        assert!(sockets.len() > 500, "{}", sockets.len());
        let all: Vec<SocketAddr> = sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
        town.all_told("half open", &all, "handshake_timeout").await;
    });
    town.stands();
}

// covers B09, B17, B19
#[test]
fn bad_handshakes_and_bombs_of_headers_are_in_the_log_with_their_addresses() {
    let mut town = Town::start();
    run(async {
        let mut stranger = TcpStream::connect((Ipv4Addr::LOCALHOST, town.site.port)).await.unwrap();
        let from = stranger.local_addr().unwrap();
        // A record of a handshake that is none.
        stranger.write_all(b"\x16\x03\x01\x00\x04none").await.unwrap();
        let _ = timeout(SOON, stranger.read_to_end(&mut Vec::new())).await.expect("it is closed");
        town.told("no TLS", from, "tls").await;
        for (what, head) in [
            (
                "a huge header",
                format!("GET / HTTP/1.1\r\nHost: x\r\nX-Bomb: {}\r\n\r\n", "a".repeat(200_000)),
            ),
            ("a thousand headers", format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X-B: a\r\n".repeat(1000))),
            ("a request that never ends", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ".to_owned()),
            ("silence", String::new()),
            ("garbage", "\u{0}\u{1}garbage\r\n\r\n".to_owned()),
        ] {
            let mut stream = town.site.door.tls().await.expect("the edge takes a client");
            let from = stream.get_ref().0.local_addr().unwrap();
            // It may be refused before it has said all.
            let _ = stream.write_all(head.as_bytes()).await;
            let mut rest = Vec::new();
            let _ = timeout(SOON, stream.read_to_end(&mut rest)).await.expect(what);
            assert!(!rest.starts_with(b"HTTP/1.1 101"), "{what}");
            town.told(what, from, "request").await;
        }
    });
    town.stands();
}

/// A part of a message.
fn part(bytes: Vec<u8>, code: Data, last: bool) -> Message {
    Message::Frame(Frame::message(bytes, OpCode::Data(code), last))
}

/// So many bytes, all the same, as a message of permessage-deflate.
fn bomb(bytes: usize) -> Message {
    let mut packed = vec![0; bytes / 100];
    let mut deflate = Deflate::new(9, false, 15);
    deflate.compress(&vec![b'a'; bytes], &mut packed, DeflateFlush::SyncFlush).unwrap();
    // The last four bytes of a flush do not travel (RFC 7692 section 7.2.1).
    packed.truncate(deflate.total_out() as usize - 4);
    let mut frame = Frame::message(packed, OpCode::Data(Data::Text), true);
    frame.header_mut().rsv1 = true;
    Message::Frame(frame)
}

/// Sends messages that cost a client its connection; answers where it was.
async fn closed_for(mut client: Old, messages: Vec<Message>, code: u16) -> SocketAddr {
    let from = address(&client);
    for message in messages {
        // It may be closed before it has sent all.
        let _ = timeout(SOON, client.socket.send(message)).await.expect("it took too long");
    }
    assert_eq!(client.closed().await, code);
    from
}

// covers B09, B17, B19
#[test]
fn frames_that_break_the_rules_are_in_the_log_with_their_address() {
    let mut town = Town::start();
    run(async {
        let flood = std::iter::once(part(b"{\"type\":".to_vec(), Data::Text, false));
        let flood = flood.chain((0..20).map(|_| part(vec![b' '; 64 * 1024], Data::Continue, false)));
        for (what, messages, code, event) in [
            ("no UTF-8", vec![part(b"\xff\xfe".to_vec(), Data::Text, true)], 1007, "not_utf8"),
            ("a flood of fragments", flood.collect(), 1009, "too_big"),
            ("a fragment of nothing", vec![part(b"x".to_vec(), Data::Continue, true)], 1002, "protocol"),
        ] {
            let client = town.site.greeted("u1", &["pool:read"]).await;
            let from = closed_for(client, messages, code).await;
            town.told(what, from, event).await;
        }
        let offer = [("sec-websocket-extensions", "permessage-deflate")];
        let client = town.site.try_connect(&offer).await.expect("the edge takes a client");
        let from = closed_for(client, vec![bomb(64 << 20)], 1009).await;
        town.told("a compression bomb", from, "too_big").await;

        // One message in ten thousand pieces is one message, and no attack.
        let mut client = town.site.greeted("u1", &["pool:read"]).await;
        client.socket.feed(part(b"{\"type\":\"ping\",\"id\":\"".to_vec(), Data::Text, false)).await.unwrap();
        for _ in 0..10_000 {
            client.socket.feed(part(Vec::new(), Data::Continue, false)).await.unwrap();
        }
        client.socket.send(part(b"pieces\"}".to_vec(), Data::Continue, true)).await.unwrap();
        assert_eq!(client.hear().await["correlation_id"], "pieces");
        // Deep JSON, and more subscriptions than may be: neither costs a client its connection.
        client.socket.send(Message::text("[".repeat(100_000))).await.unwrap();
        assert_eq!(client.hear().await["error_code"], "DECODE_ERROR");
        town.told("deep JSON", address(&client), "decode_error").await;
        client.is_answered().await;
        let (from, mut limited) = (address(&client), 0);
        let (mut says, mut hears) = client.socket.split();
        let storm = async {
            for n in 0..600 {
                let data = json!({"channel": format!("pool:{n}")});
                let ask = json!({"type": "request", "event": "subscribe", "data": data, "id": n.to_string()});
                says.feed(Message::text(ask.to_string())).await.unwrap();
            }
            says.flush().await.unwrap();
        };
        let answers = async {
            let mut left = 600;
            while left > 0 {
                let Some(Ok(message)) = hears.next().await else { panic!("{left} answers are missing") };
                let Message::Text(text) = message else { continue };
                limited += usize::from(text.contains("RATE_LIMIT_EXCEEDED"));
                left -= 1;
            }
        };
        // Somebody of another namespace begins anew meanwhile, and feels nothing.
        let (others, began) = (town.others.clone(), Instant::now());
        let beside = async {
            let mut other = others.ours("newcomer", &["admin"], json!({})).await;
            other.say(json!({"type": "SUBSCRIBE", "to": "room:deploys", "id": "s"})).await;
            assert_eq!(other.next("SUBSCRIBED").await["reply_to"], "s");
            other.say(json!({"type": "COMMAND", "to": "newcomer", "id": "m", "receipt": "stored", "payload": 1})).await;
            while other.next("RECEIPT").await["payload"]["state"] != "stored" {}
            began.elapsed()
        };
        let all = timeout(PATIENCE, async { tokio::join!(storm, answers, beside) }).await;
        let (.., took) = all.expect("each has its answer");
        assert!(took < 3 * DISTURBED, "the neighbour of another namespace took {took:?} for three things");
        assert!(limited > 100, "{limited}");
        town.told("a storm of subscriptions", from, "rate_limit").await;
    });
    town.stands();
}

// covers B03, B09, B17
#[test]
fn forged_tokens_and_silence_are_in_the_log_with_their_address() {
    let mut town = Town::start();
    let claims = json!({"user_id": "u1", "permissions": ["admin"], "exp": clock::wall_ms() / 1000 + 600});
    let good = token(SERVICE, "u1", &["admin"], 600);
    let (head, body) = good.rsplit_once('.').unwrap().0.split_once('.').unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
    let by = |algorithm, kid: &str, key: &EncodingKey| {
        let header = Header { kid: Some(kid.into()), ..Header::new(algorithm) };
        jsonwebtoken::encode(&header, &claims, key).unwrap()
    };
    let as_secret = |bytes: &[u8]| by(Algorithm::HS256, "ec", &EncodingKey::from_secret(bytes));
    let signs = EncodingKey::from_ec_der(&town.signer.serialize_der());
    let nobody = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let forged = [
        ("alg none", format!("{none}.{body}.")),
        ("no signature", format!("{head}.{body}.")),
        ("another secret", signed(&secret("akosha"), &claims)),
        ("expired", token(SERVICE, "u1", &["admin"], -1)),
        ("public key as a secret", as_secret(town.signer.public_key_raw())),
        ("its DER", as_secret(&town.signer.subject_public_key_info())),
        ("its PEM", as_secret(town.signer.public_key_pem().as_bytes())),
        ("its JWK Set", as_secret(published(&town.signer).as_bytes())),
        ("kid as a path", by(Algorithm::HS256, "../../../dev/null", &EncodingKey::from_secret(b""))),
        ("kid as a file", by(Algorithm::ES256, "jwks.json", &signs)),
        ("kid of another", by(Algorithm::ES256, "ec", &EncodingKey::from_ec_der(&nobody.serialize_der()))),
    ];
    run(async {
        // Its own key opens: what is refused below is refused for what is said of it.
        town.site.connect().await.log_in(&by(Algorithm::ES256, "ec", &signs)).await;
        let began = Instant::now();
        let mut silent = town.site.connect().await;
        for (what, forged) in &forged {
            let mut client = town.site.connect().await;
            let from = address(&client);
            assert_eq!(
                client.ask("auth", json!({"token": forged})).await["error_code"],
                "AUTH_FAILED",
                "{what}"
            );
            assert_eq!(client.closed().await, 1008, "{what}");
            town.told(what, from, "auth_failed").await;
            let bearer = format!("Bearer {forged}");
            let client = town.site.try_connect(&[("authorization", &bearer)]).await;
            let from = closed_for(client.expect("it is told by a close"), Vec::new(), 1008).await;
            town.told(what, from, "token").await;
        }
        let frame = timeout(2 * TOKEN_WITHIN, silent.socket.next()).await.expect("it is told in time");
        let Some(Ok(Message::Text(text))) = frame else { panic!("{frame:?}") };
        let took = began.elapsed();
        assert!(took >= TOKEN_WITHIN, "{took:?}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["error_code"], "AUTH_REQUIRED");
        let from = closed_for(silent, Vec::new(), 1008).await;
        town.told("silence", from, "auth_required").await;
    });
    let log = town.log();
    for (what, forged) in &forged {
        assert!(!log.contains(forged.as_str()), "{what}: a token is in the log");
    }
    town.stands();
}

// covers B05, B17, B19
#[test]
fn names_that_try_to_escape_are_in_the_log_with_their_address() {
    let mut town = Town::start();
    run(async {
        let mut client = town.site.greeted("escape", &["pool:read"]).await;
        for channel in ["../../etc/passwd", "pool:\u{0}", "pool:p\r\nx", "*"] {
            let answer = client.subscribe(channel).await;
            assert_eq!(answer["error_code"], "INVALID_CHANNEL", "{channel:?}: {answer}");
        }
        town.told("channels", address(&client), "bad_name").await;
        let answer = client.subscribe("admin:../../controls").await;
        assert_eq!(answer["error_code"], "FORBIDDEN", "{answer}");
        town.told("a channel above", address(&client), "forbidden").await;

        for name in ["../../etc/passwd", "mesh", "broadcast", "a/b", "a\u{7f}b"] {
            let client = town.relay.connect().await;
            let from = closed_for(client, vec![Message::text(name)], 1008).await;
            town.told(name, from, "auth_failed").await;
        }
        let mut relay = town.relay.connect().await;
        let token = token(SERVICE, "agni", &[], 600);
        for text in ["agni", token.as_str(), r#"{"id":"m-1","to":"../../agni","type":"task"}"#] {
            relay.socket.send(Message::text(text)).await.unwrap();
        }
        let error = relay.hear().await;
        assert_eq!((&error["reply_to"], &error["payload"]["code"]), (&json!("m-1"), &json!("bad_name")));
        town.told("a recipient", address(&relay), "bad_name").await;

        // Our own clients are told of each, and closed when they do not stop.
        let mut ours = town.site.ours("u2", &["pool:read"], json!({})).await;
        let from = address(&ours);
        ours.say(json!({"type": "PUBLISH", "to": "room:admin:controls", "payload": 1})).await;
        assert_eq!(ours.next("ERROR").await["payload"]["code"], "forbidden");
        town.told("a room of others", from, "forbidden").await;
        ours.say(json!({"type": "HEARTBEAT"})).await;
        ours.next("HEARTBEAT").await;
        for n in 0..32 {
            let frame = match n % 4 {
                0 => json!({"type": "STATUS", "to": "../agni"}),
                1 => json!({"type": "PUBLISH", "to": "room:../../etc/passwd", "payload": 1}),
                2 => json!({"type": "STATUS", "to": "agni", "id": "../../m"}),
                _ => json!({"type": "REGISTER", "payload": {"agent": "../agni"}}),
            };
            ours.say(frame).await;
            let error = ours.next("ERROR").await;
            assert_eq!(error["payload"]["code"], "bad_name", "{error}");
        }
        assert_eq!(ours.closed().await, 4400);
        town.told("names", from, "bad_name").await;
        town.told("one after the other", from, "bad_frames").await;
    });
    town.stands();
}
