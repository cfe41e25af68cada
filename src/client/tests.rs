use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::DuplexStream;

use super::*;
use crate::gateway::native::serve_stream;
use crate::gateway::testing::{Rig, agent, soon};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::Kind;
use crate::wire::frame::{Deliver, Frame};

const WITHIN: Duration = Duration::from_secs(5);

/// A connection to the hub as an agent; the session lives as long as the task.
fn dial(rig: &Rig, name: &str) -> (DuplexStream, tasks::Task) {
    let (ours, theirs) = tokio::io::duplex(4096);
    let (hub, agent) = (rig.hub.clone(), agent(name));
    let session = tasks::spawn("test.session", async move {
        serve_stream("unix", theirs, agent, &hub).await;
    });
    (ours, session)
}

fn named(name: &str) -> Options {
    Options { agent: Some(AgentName::new(name).unwrap()), ..Options::default() }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_answered_and_a_receipt_comes() {
    // covers T04, T07
    let rig = Rig::new();
    let _node = rig.link(1, "agni").await.serve();
    let (io, _one) = dial(&rig, "agni");
    let mut server = Client::over(io, Options::default()).await.unwrap();
    assert_eq!(server.registered().agent, "agni");
    let sender = server.sender();
    let _answering = tasks::spawn("test.server", async move {
        while let Some(message) = server.next().await {
            let doubled = message.read::<u64>().unwrap() * 2;
            sender.send(Outgoing::result(&message, json!(doubled))).await.unwrap();
        }
    });
    let (io, session) = dial(&rig, "dc");
    let client = Client::over(io, named("dc")).await.unwrap();
    let result = client.request("agni", json!(21), WITHIN).await.unwrap();
    assert!(result.is(Kind::Result));
    assert_eq!(result.payload.get(), "42");
    let receipt = client.confirmed(Outgoing::command("agni", json!(1)), WITHIN).await.unwrap();
    assert_eq!(receipt.kind, "RECEIPT");
    assert!(client.agents(WITHIN).await.unwrap().is_empty());
    let error = client.request("nobody", json!(1), WITHIN).await.unwrap_err();
    assert!(matches!(error, Error::TimedOut(_)), "{error}");
    client.close().await;
    soon(session.join()).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_message_is_a_typed_error() {
    // covers B19
    let rig = Rig::new();
    let _node = rig.link(1, "agni").await.serve();
    let (io, _session) = dial(&rig, "dc");
    let client = Client::over(io, Options::default()).await.unwrap();
    let error = client.request("not a name", json!(1), WITHIN).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { code, .. } if code == "bad_name"), "{error}");
    let (io, _session) = dial(&rig, "dc");
    let error = Client::over(io, named("agni")).await.unwrap_err();
    assert!(matches!(&error, Error::Refused { code, .. } if code == "forbidden"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_is_made_again_and_what_was_asked_fails() {
    // covers T09
    let rig = Rig::new();
    let _node = rig.link(1, "agni").await.serve();
    let (sessions, mut made) = queue::bounded("test.sessions", 8);
    let (hub, mut dials) = (rig.hub.clone(), 0);
    let connect = move || {
        dials += 1;
        let (hub, sessions) = (hub.clone(), sessions.clone());
        async move {
            if dials == 2 {
                return Err(Error::Unreachable("the test said so".into()));
            }
            let (ours, theirs) = tokio::io::duplex(4096);
            let session = tasks::spawn("test.session", async move {
                serve_stream("unix", theirs, agent("dc"), &hub).await;
            });
            sessions.send(session).await.unwrap();
            Ok(Connection::over(ours))
        }
    };
    let mut client = Client::connect(connect, Options::default()).await.unwrap();
    let session = made.recv().await.unwrap();
    let sender = client.sender();
    let (told, tells) = oneshot::channel();
    let _asks = tasks::spawn("test.asks", async move {
        let _ = told.send(sender.request("nobody", json!(1), Duration::from_secs(60)).await);
    });
    // The question has left when its sender has gone on to another.
    client.send(Outgoing::command("nobody", json!(1))).await.unwrap();
    tokio::task::yield_now().await;
    drop(session);
    let error = soon(tells).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Disconnected), "{error}");
    let _session = soon(made.recv()).await.unwrap();
    client.send(Outgoing::command("dc", json!("hello"))).await.unwrap();
    assert_eq!(soon(client.next()).await.unwrap().payload.get(), "\"hello\"");
}

#[tokio::test(start_paused = true)]
async fn who_was_taken_over_does_not_come_back() {
    // covers T05, T09
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (io, _session) = dial(&rig, "dc");
    let (client, attach) = tokio::join!(Client::over(io, Options::default()), node.grant());
    let mut client = client.unwrap();
    node.tell(Frame::Evict(attach.session, Refusal::new(Code::TakenOver, "newer"))).await;
    // The error before the close is all that this carrier can tell.
    assert!(soon(client.next()).await.unwrap().is_from_mesh());
    assert!(soon(client.next()).await.is_none());
}

/// A node's side of QUIC on a port of its own, and a way to it for one agent.
fn over_quic(rig: &Rig) -> (quinn::Endpoint, tasks::Task, Quic) {
    use crate::identity::bundle::{Bundle, Parts};
    use crate::identity::ca::Authority;
    use crate::identity::profile::Request;
    use crate::identity::revocation::Revocations;
    use crate::identity::{Role, RoleKind, tls};
    use crate::rt::clock;

    let (now, folder) = (clock::wall().into(), tempfile::tempdir().unwrap());
    let ca = Authority::create("test", now).unwrap();
    let identity = |role: Role, kind: RoleKind| {
        let leaf = ca.issue(&Request::link(role), now).unwrap();
        let folder = folder.path().join(kind.to_string());
        let parts = Parts { ca_pem: Some(ca.certificate_pem()), link: Some(leaf.pair()), ..Parts::default() };
        Bundle::write(&folder, &parts).unwrap();
        let bundle = Bundle::load(&folder, kind, now).unwrap();
        let (clock, revoked) = (crate::identity::testing::clock_at(now), Revocations::new(None));
        tls::Identity::new(&bundle, Arc::new(revoked), clock).unwrap()
    };
    let name = crate::identity::testing::name("agni");
    let server = identity(Role::Node(name.clone()), RoleKind::Node).server().unwrap();
    let server = Arc::new(tls::quic_server(server.config).unwrap());
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = quinn::Endpoint::server(quinn::ServerConfig::with_crypto(server), any).unwrap();
    let address = endpoint.local_addr().unwrap().to_string();
    let (hub, accepting) = (rig.hub.clone(), endpoint.clone());
    let node = tasks::spawn("test.quic", async move {
        let mut sessions = tasks::Group::default();
        while let Some(incoming) = accepting.accept().await {
            let hub = hub.clone();
            sessions.spawn("test.session", async move {
                let connection = incoming.await.unwrap();
                crate::gateway::native::serve_quic(connection, agent("dc"), &hub).await;
            });
        }
    });
    let client = identity(Role::Agent(agent("dc")), RoleKind::Agent).client(Some(name.clone())).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls::quic_client(client).unwrap()));
    let server_name = Role::Node(name).dns_name().unwrap();
    let dialling = quinn::Endpoint::client(any).unwrap();
    (endpoint, node, Quic { endpoint: dialling, config, server_name, addresses: vec![address] })
}

#[tokio::test]
async fn a_native_agent_comes_in_over_quic_and_its_close_code_travels() {
    // covers T01, T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (_endpoint, _accepting, quic) = over_quic(&rig);
    let (client, attach) = tokio::join!(Client::connect(quic, named("dc")), node.grant());
    let mut client = client.unwrap();
    client.send(Outgoing::command("dc", json!("hello"))).await.unwrap();
    let Frame::Submit(session, head, payload) = node.next().await else { panic!("no Submit") };
    assert_eq!(session, attach.session);
    node.tell(Frame::Deliver(Deliver { sessions: vec![session], head, confirm: None }, payload)).await;
    assert_eq!(soon(client.next()).await.unwrap().payload.get(), "\"hello\"");
    node.tell(Frame::Evict(session, Refusal::new(Code::TakenOver, "newer"))).await;
    // Told by the code of the connection's close alone, and for good.
    assert!(soon(client.next()).await.is_none());
}
