//! The 23 production tests of the older servers (B27), each with what it was meant to show: real nodes and edges, TLS that is
//! verified, and clients that speak the envelope. Which test stands for which, docs/requirements.md says. And the older servers'
//! environment files, with which the same programs start.
//!
//! What the older tests wanted within a second fails here only after ten, as machines that test have other things to do; what was
//! measured is printed. With `PRODUCTION_BOUNDS=real`, as `tests/run.sh --long` has it, the times are those that were asked for.
#![allow(clippy::print_stderr, reason = "what was measured is a result")]

mod across;
mod environment;
mod lifecycle;
mod load;
mod login;
mod restart;
mod tls;

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::rt::clock;

use crate::harness::{Machine, Mesh, free_ports};
use crate::wss::Door;

/// How long a client waits for anything.
pub const SOON: Duration = Duration::from_secs(10);

/// Prints what was measured beside what the older tests allowed, and fails beyond that; ten times that where bounds need not be
/// real.
fn within(what: &str, took: Duration, asked: Duration) {
    let bounds = std::env::var("PRODUCTION_BOUNDS").ok();
    let allowed = match bounds.as_deref() {
        None => 10 * asked,
        Some("real") => asked,
        Some(other) => panic!("PRODUCTION_BOUNDS is {other:?}; `real` is the only word for it"),
    };
    eprintln!("{what}: {took:?} (asked for: {asked:?}, allowed: {allowed:?})");
    assert!(took <= allowed, "{what}: {took:?}, {allowed:?} are allowed");
}

/// Runs the clients of a test.
pub fn run<T>(clients: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(clients)
}

/// Machines whose edges serve some of the older services as well, by preset, on ports of their own.
pub struct Stage {
    pub mesh: Mesh,
    presets: Vec<&'static str>,
    ports: u16,
}

impl Stage {
    /// All of it runs.
    pub fn start(machines: &[&str], presets: &[&'static str], more: &str) -> Stage {
        let mut stage = Stage::prepare(machines, presets, more);
        for machine in &mut stage.mesh.machines {
            machine.start_node();
            machine.start_edge();
        }
        stage.mesh.wait_whole();
        stage
    }

    /// Nothing runs yet. `more` goes to the end of each edge's configuration.
    pub fn prepare(machines: &[&str], presets: &[&'static str], more: &str) -> Stage {
        let mesh = Mesh::init(machines);
        let ports = free_ports((machines.len() * presets.len()) as u16);
        let stage = Stage { mesh, presets: presets.to_vec(), ports };
        for machine in &stage.mesh.machines {
            let path = machine.folder.join("edge.toml");
            let mut text = fs::read_to_string(&path).unwrap();
            for preset in presets {
                fs::write(machine.folder.join(format!("{preset}.secret")), secret(preset)).unwrap();
                let port = stage.port(&machine.name, preset);
                text += &format!(
                    "\n[[service]]\npreset = \"{preset}\"\nlisten = [\"127.0.0.1:{port}\"]\n\
                     secret_file = \"{preset}.secret\"\n"
                );
            }
            fs::write(path, text + more).unwrap();
        }
        stage
    }

    pub fn port(&self, machine: &str, preset: &str) -> u16 {
        let machine = self.mesh.machines.iter().position(|other| other.name == machine).unwrap();
        let preset = self.presets.iter().position(|other| *other == preset).unwrap();
        self.ports + (machine * self.presets.len() + preset) as u16
    }

    pub fn site(&self, machine: &str, preset: &'static str) -> Site {
        let port = self.port(machine, preset);
        let machine = self.mesh.machines.iter().find(|other| other.name == machine).unwrap();
        // Its token is not used: those of this site are of another secret.
        let door = Door::of(machine, "nobody").through(port, Ipv4Addr::LOCALHOST);
        Site { service: preset, port, door }
    }

    pub fn machine(&mut self, name: &str) -> &mut Machine {
        self.mesh.machine(name)
    }
}

pub fn secret(service: &str) -> String {
    format!("the secret of {service} in the tests, long enough to be one")
}

/// A token of a service, good for so many seconds.
pub fn token(service: &str, user: &str, permissions: &[&str], seconds: i64) -> String {
    let exp = (clock::wall_ms() / 1000).checked_add_signed(seconds).unwrap();
    signed(&secret(service), &json!({"user_id": user, "permissions": permissions, "exp": exp}))
}

pub fn signed(secret: &str, claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

/// Open WebSockets of a service, as its edge counts them.
fn active(machine: &Machine, service: &str) -> u64 {
    let series = format!("websocket_connections_active{{server=\"{service}\",service=\"{service}\"}} ");
    let text = machine.edge_metrics();
    let value = text.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("no {series}in {text}")).parse().unwrap()
}

/// One of the older services at one edge.
#[derive(Clone)]
pub struct Site {
    pub service: &'static str,
    pub port: u16,
    pub door: Door,
}

impl Site {
    /// Connects as old clients do: path `/`, and nothing else.
    pub async fn connect(&self) -> Old {
        self.try_connect(&[]).await.expect("the edge takes a client")
    }

    /// One that has shown a token for this user, and was greeted.
    pub async fn greeted(&self, user: &str, permissions: &[&str]) -> Old {
        let mut client = self.connect().await;
        client.log_in(&token(self.service, user, permissions, 600)).await;
        client
    }

    /// A client of our own protocol at the same port, registered: the service itself, for one, is such a client.
    pub async fn ours(&self, user: &str, permissions: &[&str], register: Value) -> Old {
        let bearer = format!("Bearer {}", token(self.service, user, permissions, 600));
        let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
        let mut client = self.try_connect(&headers).await.expect("the edge takes a client");
        client.say(json!({"type": "REGISTER", "id": "register", "payload": register})).await;
        let answer = client.hear().await;
        assert_eq!(answer["type"], "REGISTERED", "{answer}");
        client
    }

    /// `None`: nobody answers here now.
    pub async fn try_connect(&self, headers: &[(&'static str, &str)]) -> Option<Old> {
        let connected = timeout(SOON, async {
            let stream = self.door.tls().await?;
            let mut request = format!("wss://localhost:{}/", self.port).into_client_request().unwrap();
            for (name, value) in headers {
                request.headers_mut().insert(*name, value.parse().unwrap());
            }
            let (socket, _) = tokio_tungstenite::client_async(request, stream).await.ok()?;
            Some(Old { socket, asked: 0 })
        });
        connected.await.ok()?
    }
}

/// One connection of a client of old.
pub struct Old {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    asked: u64,
}

impl Old {
    pub async fn say(&mut self, frame: Value) {
        let said = self.socket.send(Message::text(frame.to_string()));
        timeout(SOON, said).await.expect("it took too long").unwrap();
    }

    /// The next frame.
    pub async fn hear(&mut self) -> Value {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("nothing came in time") {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected, and this came: {other:?}"),
            }
        }
    }

    /// The code of the close; frames before it are dropped.
    pub async fn closed(&mut self) -> u16 {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("no close came in time") {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("a close was expected, and this came: {other:?}"),
            }
        }
    }

    /// Says goodbye, and waits until the other side has as well.
    pub async fn leave(mut self) {
        self.socket.close(None).await.unwrap();
        while timeout(SOON, self.socket.next()).await.expect("no end came in time").is_some_and(|r| r.is_ok())
        {
        }
    }

    /// A request of the envelope, and its answer.
    pub async fn ask(&mut self, event: &str, data: Value) -> Value {
        self.asked += 1;
        let id = format!("q-{}", self.asked);
        self.say(json!({"type": "request", "event": event, "data": data, "id": id})).await;
        loop {
            let heard = self.hear().await;
            if heard["correlation_id"] == id {
                return heard;
            }
        }
    }

    /// The answer to the token comes first, then the greeting.
    pub async fn log_in(&mut self, token: &str) {
        let answer = self.ask("auth", json!({"token": token})).await;
        assert_eq!(answer["data"]["status"], "authenticated", "{answer}");
        assert_eq!(self.hear().await["event"], "session.created");
    }

    pub async fn subscribe(&mut self, channel: &str) -> Value {
        self.ask("subscribe", json!({"channel": channel})).await
    }

    pub async fn must_subscribe(&mut self, channel: &str) {
        let answer = self.subscribe(channel).await;
        assert_eq!(answer["data"], json!({"status": "subscribed", "channel": channel}), "{answer}");
    }

    /// Whether it still is answered.
    pub async fn is_answered(&mut self) {
        self.say(json!({"type": "ping", "id": "still"})).await;
        let answer = self.hear().await;
        assert_eq!(
            (&answer["type"], &answer["correlation_id"]),
            (&json!("pong"), &json!("still")),
            "{answer}"
        );
    }

    /// The next frame of a type, of our own protocol; others are passed over.
    pub async fn next(&mut self, kind: &str) -> Value {
        loop {
            let frame = self.hear().await;
            assert!(frame["type"] != "ERROR" || kind == "ERROR", "{frame}");
            if frame["type"] == kind {
                return frame;
            }
        }
    }
}
