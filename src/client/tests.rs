use std::time::Duration;

use serde_json::json;
use tokio::io::DuplexStream;

use super::*;
use crate::gateway::native::serve_stream;
use crate::gateway::testing::{Rig, agent, soon};
use crate::wire::envelope::Kind;

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
    let asked = tasks::spawn("test.asks", async move {
        let error = sender.request("nobody", json!(1), Duration::from_secs(60)).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected), "{error}");
    });
    // The question has left when its sender has gone on to another.
    client.send(Outgoing::command("nobody", json!(1))).await.unwrap();
    tokio::task::yield_now().await;
    drop(session);
    soon(asked.join()).await;
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
    let connected = tasks::spawn("test.client", async move {
        let mut client = Client::over(io, Options::default()).await.unwrap();
        // The error before the close is all that this carrier can tell.
        assert!(client.next().await.unwrap().is_from_mesh());
        assert!(client.next().await.is_none());
    });
    let session = node.grant().await.session;
    let refusal = crate::wire::close::Refusal::new(crate::wire::close::Code::TakenOver, "newer");
    node.tell(crate::wire::frame::Frame::Evict(session, refusal)).await;
    soon(connected.join()).await;
}
