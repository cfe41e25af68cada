//! Old clients over a real WebSocket on a real socket, through their dialect, an ordinary session and a hub, to a node in miniature.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;
use trishula::gateway::auth::{Identity, KeySet, Revoked, Rules, Trust, Verifier};
use trishula::gateway::hub::{self, HubHandle};
use trishula::gateway::secret::Secret;
use trishula::gateway::session::{self, Opening};
use trishula::rt::{clock, queue, tasks};
use trishula::wire::ids::{LinkId, Namespace};
use trishula_edge::dialect::carrier::Translated;
use trishula_edge::dialect::ids::Random;
use trishula_edge::dialect::mcp::Mcp;
use trishula_edge::dialect::pace::{PerSecond, Unlimited};
use trishula_edge::dialect::relay::{Entry, Relay};
use trishula_edge::dialect::services::Service;
use trishula_edge::dialect::session_buddy::SessionBuddy;
use trishula_edge::dialect::sniff::{Choice, Sniffer};
use trishula_edge::dialect::{Auth, Dialect, Now, Settings};
use trishula_edge::wss::Wss;

use support::{FakeNode, SECRET, soon, token};

/// An edge's inside: a hub with a node behind it.
struct Rig {
    hub: HubHandle,
    _node: FakeNode,
    _hub: tasks::Task,
}

/// A client's end.
struct Old {
    socket: WebSocketStream<TcpStream>,
    _session: tasks::Task,
}

fn namespace() -> Namespace {
    Namespace::new("trishula").unwrap()
}

fn settings(service: &str) -> Settings {
    Settings { namespace: "trishula".into(), ..Settings::new(Service::preset(service).unwrap()) }
}

fn now() -> Now {
    Now { micros: clock::micros(), wall_ms: clock::wall_ms() }
}

fn mcp(settings: Settings) -> Dialect {
    let pace = Box::new(PerSecond::new(settings.rate).unwrap());
    Dialect::Mcp(Box::new(Mcp::new(Arc::new(settings), None, Box::new(Random), pace, now())))
}

fn relay(auth: Auth) -> Dialect {
    Dialect::Relay(Box::new(Relay::new(entry(auth), false, Box::new(Random), Box::new(Unlimited), now())))
}

fn entry(auth: Auth) -> Entry {
    Entry { namespace: namespace(), auth, auth_within: Duration::from_secs(10), max_frame: 1 << 20 }
}

/// Both ends of a connection over loopback, with little room in the system for what is on its way.
async fn connected() -> (TcpStream, TcpStream) {
    let small = || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(16 * 1024).unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        socket
    };
    let listening = small();
    listening.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    // What is accepted has the listener's buffers.
    let listener = listening.listen(1).unwrap();
    let (theirs, ours) = tokio::join!(small().connect(listener.local_addr().unwrap()), listener.accept());
    let (theirs, (ours, _)) = (theirs.unwrap(), ours.unwrap());
    for end in [&ours, &theirs] {
        end.set_nodelay(true).unwrap();
    }
    (ours, theirs)
}

/// Lets time pass for everybody here; real sockets know only the real one.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

impl Rig {
    async fn new() -> Rig {
        let (events, inbox) = queue::bounded("test.events", 16);
        let (hub, task) = hub::start(inbox);
        let node = FakeNode::start(LinkId(1), events).await;
        Rig { hub, _node: node, _hub: task }
    }

    /// A client that has to show a token, unless `anybody` may come.
    async fn client(&self, dialect: Dialect, anybody: bool) -> Old {
        let (ours, theirs) = connected().await;
        let session = self.serve(ours, dialect, anybody).await;
        let socket = WebSocketStream::from_raw_socket(theirs, Role::Client, None).await;
        Old { socket, _session: session }
    }

    /// Serves a connection whose upgrade was granted.
    async fn serve<S>(&self, io: S, dialect: Dialect, anybody: bool) -> tasks::Task
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let secret = Secret::new(SECRET, "test").unwrap();
        let rules = Rules { own_names: true, ..Rules::default() };
        let trust = Trust::new(&[secret], KeySet::default(), Revoked::default());
        let opening = Opening {
            namespace: namespace(),
            identity: anybody.then(|| Identity::anybody(namespace())),
            verifier: Some(Arc::new(Verifier::new(trust, namespace(), rules))),
            settings: Arc::default(),
        };
        let carrier = Wss::new(io, Bytes::new(), 1 << 20).await.taking_binary();
        let (carrier, hub) = (Translated::new(carrier, dialect), self.hub.clone());
        tasks::spawn("test.session", async move {
            session::serve(carrier, opening, &hub).await;
        })
    }

    /// A client of the envelope that has shown its token and was greeted.
    async fn greeted(&self, name: &str) -> Old {
        let mut client = self.client(mcp(settings("mahavishnu")), false).await;
        client
            .say(json!({"type": "request", "event": "auth", "data": {"token": token(name)}, "id": "a"}))
            .await;
        let answer = client.hear().await;
        assert_eq!(
            (&answer["type"], &answer["status"]),
            (&json!("response"), &json!("authenticated")),
            "{answer}"
        );
        assert_eq!(client.hear().await["event"], "session.created");
        client
    }
}

impl Old {
    async fn say(&mut self, frame: Value) {
        self.text(&frame.to_string()).await;
    }

    async fn text(&mut self, text: &str) {
        soon(self.socket.send(Message::text(text))).await.unwrap();
    }

    async fn hear_text(&mut self) -> String {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected, and this came: {other:?}"),
            }
        }
    }

    async fn hear(&mut self) -> Value {
        serde_json::from_str(&self.hear_text().await).unwrap()
    }

    async fn closed(&mut self) -> (u16, String) {
        match soon(self.socket.next()).await {
            Some(Ok(Message::Close(Some(frame)))) => (frame.code.into(), frame.reason.to_string()),
            other => panic!("a close was expected, and this came: {other:?}"),
        }
    }
}

#[tokio::test]
async fn an_envelope_client_logs_in_and_asks_the_service() {
    // covers B06, B27 01
    let rig = Rig::new().await;
    let mut client = rig.greeted("u1").await;
    let ask = json!({"type": "request", "event": "get_pool_status", "data": {"pool_id": "p1"}, "id": "q1"});
    client.say(ask.clone()).await;
    let answer = client.hear().await;
    assert_eq!((&answer["error_code"], &answer["correlation_id"]), (&json!("SERVER_ERROR"), &json!("q1")));

    let mut service = rig.client(Dialect::Trishula, false).await;
    service.say(json!({"type": "auth", "token": token("service")})).await;
    assert_eq!(service.hear().await["type"], "AUTHENTICATED");
    service.say(json!({"type": "register"})).await;
    assert_eq!(service.hear().await["type"], "REGISTERED");
    client.say(ask).await;
    let command = service.hear().await;
    assert_eq!(command["payload"], json!({"event": "get_pool_status", "data": {"pool_id": "p1"}}));
    assert!(command["from"].as_str().unwrap().starts_with("u1."), "{command}");
    let result = json!({"type": "RESULT", "to": command["from"], "reply_to": command["id"],
        "payload": {"data": {"pool_id": "p1", "status": "idle"}}});
    service.say(result).await;
    let answer = client.hear().await;
    assert_eq!(answer["type"], "response", "{answer}");
    assert_eq!(answer["data"], json!({"pool_id": "p1", "status": "idle"}));
}

#[tokio::test]
async fn json_in_a_binary_message_is_json() {
    // covers B06
    let rig = Rig::new().await;
    let mut client = rig.greeted("u1").await;
    let ping = Bytes::from_static(b"{\"type\":\"ping\",\"id\":\"b\"}");
    soon(client.socket.send(Message::Binary(ping))).await.unwrap();
    assert_eq!(client.hear().await["correlation_id"], "b");
}

#[tokio::test]
async fn connections_with_one_token_do_not_throw_each_other_out() {
    // covers B06
    let rig = Rig::new().await;
    let (mut one, mut other) = (rig.greeted("u1").await, rig.greeted("u1").await);
    for client in [&mut one, &mut other] {
        client.say(json!({"type": "ping", "id": "p"})).await;
        assert_eq!(client.hear().await["type"], "pong");
    }
}

#[tokio::test]
async fn a_bad_token_gets_a_frame_and_then_the_close() {
    // covers B06, B27 03
    let rig = Rig::new().await;
    let mut client = rig.client(mcp(settings("mahavishnu")), false).await;
    client.say(json!({"type": "request", "event": "auth", "data": {"token": "no"}, "id": "a"})).await;
    let answer = client.hear().await;
    assert_eq!((&answer["error_code"], &answer["correlation_id"]), (&json!("AUTH_FAILED"), &json!("a")));
    assert_eq!(client.closed().await, (1008, "Authentication failed".into()));
}

#[tokio::test]
async fn a_client_that_needs_no_token_is_greeted_in_time_and_a_room_is_answered() {
    // covers B06
    let rig = Rig::new().await;
    let settings = Settings { auth: Auth::Optional, ..settings("mahavishnu") };
    let began = clock::now();
    let mut client = rig.client(mcp(settings), true).await;
    assert_eq!(client.hear().await["event"], "session.created");
    assert!(clock::since(began) >= Duration::from_millis(250));
    client
        .say(json!({"type": "request", "event": "subscribe", "data": {"channel": "pool:p"}, "id": "s"}))
        .await;
    assert_eq!(client.hear().await["error_code"], "FORBIDDEN");
}

#[tokio::test]
async fn a_token_that_comes_late_where_none_is_needed_is_taken() {
    // covers B06
    let rig = Rig::new().await;
    let settings = Settings { auth: Auth::Optional, ..settings("mahavishnu") };
    let mut client = rig.client(mcp(settings), true).await;
    assert_eq!(client.hear().await["event"], "session.created");
    pass(Duration::from_secs(5)).await;
    client.say(json!({"type": "request", "event": "auth", "data": {"token": token("u1")}, "id": "a"})).await;
    assert_eq!(client.hear().await["data"], json!({"status": "authenticated", "user_id": "u1"}));
    let refresh =
        json!({"type": "request", "event": "refresh_token", "data": {"token": token("u1")}, "id": "r"});
    client.say(refresh).await;
    assert_eq!(client.hear().await["data"], json!({"status": "refreshed", "user_id": "u1"}));
    let foreign =
        json!({"type": "request", "event": "refresh_token", "data": {"token": token("u2")}, "id": "r"});
    client.say(foreign).await;
    assert_eq!(client.hear().await["error_code"], "AUTH_FAILED", "a token of somebody else is no refresh");
    client.say(json!({"type": "ping"})).await;
    assert_eq!(client.hear().await["type"], "pong");
}

#[tokio::test]
async fn one_that_must_show_a_token_and_does_not_is_told_before_it_is_closed() {
    // covers B06, B19
    let rig = Rig::new().await;
    let mut client = rig.client(mcp(settings("akosha")), false).await;
    // Not before ten seconds are over; five of them are left for the test itself.
    pass(Duration::from_secs(5)).await;
    let early = tokio::time::timeout(Duration::from_millis(100), client.socket.next()).await;
    assert!(early.is_err(), "{early:?}");
    pass(Duration::from_secs(5)).await;
    assert_eq!(client.hear().await["error_code"], "AUTH_REQUIRED");
    assert_eq!(client.closed().await, (1008, "Authentication required".into()));
}

#[tokio::test]
async fn a_hundred_bad_frames_are_answered_and_the_connection_stays() {
    // covers B06, B27 20
    let rig = Rig::new().await;
    let mut client = rig.greeted("u1").await;
    for index in 0..100 {
        client.say(json!({"type": "test", "index": index})).await;
    }
    for _ in 0..100 {
        assert_eq!(client.hear().await["error_code"], "DECODE_ERROR");
    }
    client.say(json!({"type": "ping", "id": "p"})).await;
    assert_eq!(client.hear().await["type"], "pong");
}

#[tokio::test]
async fn a_client_that_takes_no_answers_is_not_read() {
    // covers B06, B19
    let rig = Rig::new().await;
    let settings = Settings { auth: Auth::Optional, rate: 1_000_000, ..settings("mahavishnu") };
    let mut client = rig.client(mcp(settings), true).await;
    assert_eq!(client.hear().await["event"], "session.created");
    let ping = json!({"type": "ping", "id": "x".repeat(500)}).to_string();
    let mut sent = 0;
    // What lies in the sockets between, both ways, and 256 answers of 700 bytes.
    while tokio::time::timeout(Duration::from_secs(1), client.socket.send(Message::text(&*ping)))
        .await
        .is_ok()
    {
        sent += 1;
        assert!(sent < 2000, "it is read for ever");
    }
    for _ in 0..sent {
        assert_eq!(client.hear().await["type"], "pong");
    }
}

#[tokio::test]
async fn relay_clients_get_each_others_text_as_it_was_written() {
    // covers T04, T11, B06
    let rig = Rig::new().await;
    let mut mac = rig.client(relay(Auth::Optional), true).await;
    let mut agni = rig.client(relay(Auth::Required), false).await;
    agni.text("agni").await;
    agni.text(&token("agni")).await;
    // Its own message to itself shows that it is registered.
    agni.text(r#"{"id":"self","from":"agni","to":"agni","type":"task"}"#).await;
    assert_eq!(agni.hear().await["id"], "self");
    mac.text("mac").await;
    let texts = [
        r#"{"id": "20260210T051100Z_mac_agni_x", "from": "mac",  "to": "agni", "type": "task", "priority": "urgent", "created_at": "2026-02-10T05:11:00Z"}"#,
        r#"{"type":"COMMAND", "from":"mac", "to":"agni", "id":"6f1c", "timestamp":1767225600000, "payload":{"a":1.0}, "priority":1}"#,
    ];
    for text in texts {
        mac.text(text).await;
        assert_eq!(agni.hear_text().await, text);
    }
    mac.text(r#"{"id":"m-3","from":"agni","to":"agni","type":"task"}"#).await;
    let refused = mac.hear().await;
    assert_eq!((&refused["reply_to"], &refused["payload"]["code"]), (&json!("m-3"), &json!("from_mismatch")));
}

#[tokio::test]
async fn a_relay_client_with_a_wrong_token_is_closed_without_a_frame() {
    // covers B06
    let rig = Rig::new().await;
    let mut client = rig.client(relay(Auth::Required), false).await;
    client.text("agni").await;
    client.text(&token("mac")).await;
    assert_eq!(client.closed().await, (1008, "Invalid token".into()));
}

#[tokio::test]
async fn session_buddys_clients_log_in_by_a_bare_token() {
    // covers B06
    let rig = Rig::new().await;
    let buddy = |settings| {
        let (ids, pace) = (Box::new(Random), Box::new(Unlimited));
        Dialect::SessionBuddy(Box::new(SessionBuddy::new(Arc::new(settings), None, ids, pace, now())))
    };
    let mut client = rig.client(buddy(settings("session-buddy")), false).await;
    client.say(json!({"token": token("u1")})).await;
    let connected = client.hear().await;
    assert_eq!((&connected["type"], &connected["authenticated"]), (&json!("connected"), &json!(true)));
    client.say(json!({"type": "ping"})).await;
    assert_eq!(client.hear_text().await, r#"{"type":"pong"}"#);
    let mut other = rig.client(buddy(settings("session-buddy")), false).await;
    other.say(json!({"token": "no"})).await;
    assert_eq!(other.closed().await, (4001, "Authentication failed".into()));
}

#[tokio::test]
async fn a_shared_port_serves_all_of_them() {
    // covers B01, B06
    let rig = Rig::new().await;
    let shared = || {
        let choice = Choice {
            trishula: true,
            mcp: Some(Arc::new(settings("mahavishnu"))),
            session_buddy: Some(Arc::new(settings("session-buddy"))),
            relay: Some(entry(Auth::Required)),
        };
        let sniffer = Sniffer::new(choice, Box::new(Random), Box::new(Unlimited), now());
        Dialect::Undecided(Box::new(sniffer))
    };
    let mut ours = rig.client(shared(), false).await;
    ours.say(json!({"type": "auth", "token": token("dc")})).await;
    assert_eq!(ours.hear().await["type"], "AUTHENTICATED");
    let mut envelope = rig.client(shared(), false).await;
    envelope.say(json!({"type": "request", "event": "auth", "data": {"token": token("u1")}})).await;
    assert_eq!(envelope.hear().await["event"], "auth");
    let mut buddy = rig.client(shared(), false).await;
    buddy.say(json!({"token": token("u2")})).await;
    assert_eq!(buddy.hear().await["type"], "connected");
    let mut relay = rig.client(shared(), false).await;
    relay.text("agni").await;
    relay.text(&token("agni")).await;
    relay.text(r#"{"id":"self","to":"agni"}"#).await;
    assert_eq!(relay.hear().await["id"], "self");
}

/// Answers one request, and tells the client of something.
async fn answer_one(mut service: Old) -> Old {
    let command = service.hear().await;
    let event = json!({"event": "pool.scaled", "data": {"pool_id": "p1", "worker_count": 3}});
    let result = json!({"data": {"pool_id": "p1", "status": "idle"}});
    service
        .say(json!({"type": "RESULT", "to": command["from"], "reply_to": command["id"], "payload": result}))
        .await;
    service.say(json!({"type": "STATUS", "to": command["from"], "payload": event})).await;
    service
}

#[tokio::test]
async fn the_real_client_of_old_works_unchanged() {
    // covers B06
    let python = strict_python();
    let rig = Rig::new().await;
    let mut service = rig.client(Dialect::Trishula, false).await;
    service.say(json!({"type": "auth", "token": token("service")})).await;
    assert_eq!(service.hear().await["type"], "AUTHENTICATED");
    service.say(json!({"type": "register"})).await;
    assert_eq!(service.hear().await["type"], "REGISTERED");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/old_clients/envelope.py");
    let child = tokio::process::Command::new(python)
        .args([script, &url, &token("u1"), "no-token"])
        .kill_on_drop(true)
        .output();
    let accepting = async {
        let mut sessions = Vec::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // The client waits for the answer to its upgrade before it says anything.
            let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
            sessions.push(rig.serve(socket.into_inner(), mcp(settings("mahavishnu")), false).await);
        }
    };
    let answering = async {
        let _service = answer_one(service).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        output = soon_enough(child) => {
            let output = output.unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(said.ends_with("ok\n"), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
        }
        () = accepting => {}
        () = answering => {}
    }
}

/// A Python of 3.13 or newer with the package mcp-common, as `tests/run.sh` makes it.
fn strict_python() -> PathBuf {
    let named = std::env::var_os("TRISHULA_TEST_PYTHON_STRICT").map(PathBuf::from);
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test-python3.13/bin/python");
    let python = named.unwrap_or(made);
    assert!(
        python.exists(),
        "{} is missing: run tests/run.sh once, it installs what the tests need; or set TRISHULA_TEST_PYTHON_STRICT",
        python.display()
    );
    python
}

/// A Python takes its time to begin.
async fn soon_enough<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("it took too long")
}
