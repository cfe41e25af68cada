mod sleep;

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::DuplexStream;

use super::*;
use crate::gateway::native::serve_stream;
use crate::gateway::testing::{Node, Rig, agent, soon};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::Kind;
use crate::wire::envelope::{Head, State};
use crate::wire::frame::{Attach, Deliver, Frame, Handing, Receipt as Told, Settlement};

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
    let delivered = client.send_and_wait(Outgoing::command("agni", json!(1)), State::Delivered, WITHIN).await;
    let agni = || "agni".to_owned();
    assert_eq!(
        delivered.unwrap(),
        Receipt { state: State::Delivered, recipient: agni(), node: agni(), counts: None }
    );
    let standing = client.query("m-1", None, WITHIN).await.unwrap();
    assert_eq!((standing.message.as_str(), standing.state.as_str()), ("m-1", "stored"));
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
    node.tell(Frame::Deliver(Deliver { to: vec![Handing::live(session)], head, confirm: None }, payload))
        .await;
    assert_eq!(soon(client.next()).await.unwrap().payload.get(), "\"hello\"");
    node.tell(Frame::Evict(session, Refusal::new(Code::TakenOver, "newer"))).await;
    // Told by the code of the connection's close alone, and for good.
    assert!(soon(client.next()).await.is_none());
}

#[tokio::test]
async fn a_native_agent_dials_each_address_of_both_families_and_waits_for_none_that_is_silent() {
    // covers T01, Q01
    let rig = Rig::new();
    let (_endpoint, _accepting, there) = over_quic(&rig);
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut addresses = vec![silent.local_addr().unwrap().to_string()];
    addresses.extend(there.addresses);
    let mut quic = Quic::new(there.config, there.server_name, addresses).unwrap();
    // From a socket that is IPv6's as well, wherever there is one.
    let local = quic.endpoint.local_addr().unwrap();
    assert_eq!(local.is_ipv6(), std::net::UdpSocket::bind("[::]:0").is_ok());
    // Ten times its head start, and less than an address may take.
    let connected = tokio::time::timeout(Duration::from_millis(2_500), quic.connect()).await;
    assert!(connected.expect("the second address was not waited for").is_ok());
}

/// A client whose node is in the test's hands.
struct Served {
    _rig: Rig,
    node: Node,
    client: Client,
    attach: Attach,
    _session: tasks::Task,
}

async fn served(options: Options) -> Served {
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (io, _session) = dial(&rig, "dc");
    let (client, attach) = tokio::join!(Client::over(io, options), node.grant());
    Served { client: client.unwrap(), _rig: rig, node, attach, _session }
}

impl Served {
    async fn hand(&self, tag: u64, text: Value, redelivered: bool) {
        hand(&self.node, Handing { session: self.attach.session, tag, redelivered }, text).await;
    }

    /// The next settlements; an ACK that travels on is no matter here.
    async fn settled(&mut self) -> Vec<(u64, Settlement)> {
        loop {
            match self.node.next().await {
                Frame::Settle(_, settled) => return settled,
                Frame::Submit(..) => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

async fn hand(node: &Node, handing: Handing, text: Value) {
    let head = crate::gateway::testing::head("agni", "dc", text["id"].as_str().unwrap(), 3);
    node.tell(Frame::Deliver(Deliver { to: vec![handing], head, confirm: None }, text.to_string().into()))
        .await;
}

fn status(id: &str) -> Value {
    json!({"type": "STATUS", "from": "agni", "to": "dc", "id": id, "payload": id})
}

fn told(
    node: &Node,
    session: crate::wire::ids::SessionNo,
    head: &Head,
    state: State,
) -> impl Future<Output = ()> {
    let failed = state > State::Acked;
    let name = crate::wire::ids::NodeName::new("agni").unwrap();
    let receipt = Told {
        to: name.clone(),
        sender: agent("dc"),
        id: head.id.clone(),
        recipient: agent("agni"),
        counts: None,
        node: name,
        state,
        refusal: failed.then(|| Refusal::new(Code::Expired, "too late")),
        asked: true,
        keeper: crate::wire::ids::NodeName::new("agni").unwrap(),
        hops_left: 1,
    };
    node.tell(Frame::Told(session, receipt))
}

use Settlement::{Acked, Nacked, Requeued, Written};

#[tokio::test(start_paused = true)]
async fn asking_for_the_next_message_acknowledges_the_one_before() {
    // covers T07
    let mut served = served(Options::default()).await;
    for tag in 1..=3 {
        served.hand(tag, status(&format!("m-{tag}")), false).await;
        assert_eq!(served.settled().await, [(tag, Written)]);
    }
    assert_eq!(soon(served.client.next()).await.unwrap().id, "m-1");
    assert_eq!(soon(served.client.next()).await.unwrap().id, "m-2");
    assert_eq!(served.settled().await, [(1, Acked)]);
    // An impatient program loses nothing.
    assert_eq!(soon(served.client.next()).await.unwrap().id, "m-3");
    assert!(tokio::time::timeout(WITHIN, served.client.next()).await.is_err());
    assert_eq!(served.settled().await, [(2, Acked), (3, Acked)]);
    // What it had acknowledged is not shown again.
    served.hand(4, status("m-2"), true).await;
    assert_eq!(served.settled().await, [(4, Written)]);
    assert_eq!(served.settled().await, [(4, Acked)]);
    served.hand(5, status("m-5"), false).await;
    assert_eq!(soon(served.client.next()).await.unwrap().id, "m-5");
    assert_eq!(served.settled().await, [(5, Written)]);
    // To close in good order is to have done with the last one.
    let Served { client, mut node, _session, _rig, .. } = served;
    client.close().await;
    loop {
        match node.next().await {
            Frame::Settle(_, settled) => break assert_eq!(settled, [(5, Acked)]),
            Frame::Submit(_, head, payload) => {
                assert_eq!(head.kind, Kind::Ack);
                let ack: Value = serde_json::from_slice(&payload).unwrap();
                let expected = (&json!("agni"), &json!("m-5"), &json!({"auto": true}));
                assert_eq!((&ack["to"], &ack["reply_to"], &ack["payload"]), expected);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_manual_client_acknowledges_and_refuses_by_itself() {
    // covers T07
    let mut served = served(Options { manual: true, ..Options::default() }).await;
    let mut messages = Vec::new();
    for tag in 1..=3 {
        served.hand(tag, status(&format!("m-{tag}")), false).await;
        assert_eq!(served.settled().await, [(tag, Written)]);
        messages.push(soon(served.client.next()).await.unwrap());
    }
    served.client.nack(&messages[1], "disk full", false).await.unwrap();
    assert_eq!(served.settled().await, [(2, Nacked("disk full".into()))]);
    served.client.nack(&messages[2], "busy", true).await.unwrap();
    assert_eq!(served.settled().await, [(3, Requeued("busy".into()))]);
    served.client.ack(&messages[0]).await.unwrap();
    assert_eq!(served.settled().await, [(1, Acked)]);
}

#[tokio::test(start_paused = true)]
async fn what_a_client_can_not_take_is_given_back_and_automatic_acks_are_not_shown() {
    // covers T07
    let mut served = served(Options::default()).await;
    let session = served.attach.session;
    let ack = |id: &str, payload| json!({"type": "ACK", "from": "agni", "to": "dc", "id": id, "reply_to": "c-1", "payload": payload});
    hand(&served.node, Handing::live(session), ack("a-0", json!({"auto": true}))).await;
    for n in 1..=INBOX {
        hand(&served.node, Handing::live(session), ack(&format!("a-{n}"), json!(n))).await;
        tokio::task::yield_now().await;
    }
    served.hand(1, status("m-1"), false).await;
    assert_eq!(served.settled().await, [(1, Written)]);
    let requeued = [(1, Requeued("the client has too much to read".into()))];
    assert_eq!(served.settled().await, requeued);
    for n in 1..=INBOX {
        assert_eq!(soon(served.client.next()).await.unwrap().id, format!("a-{n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_acknowledged_when_it_is_given_and_nobody_hears_of_an_ack_in_vain() {
    // covers T07
    let mut served = served(Options { manual: true, ..Options::default() }).await;
    let session = served.attach.session;
    let Served { client, node, .. } = &mut served;
    let answers = async {
        let Frame::Submit(_, head, _) = node.next().await else { panic!("no Submit") };
        let answer = json!({"type": "RESULT", "from": "agni", "to": "dc", "id": "r-1", "reply_to": head.id, "payload": 7});
        hand(node, Handing { session, tag: 1, redelivered: false }, answer).await;
    };
    let (result, ()) = tokio::join!(client.request("agni", json!(1), WITHIN), answers);
    assert_eq!(result.unwrap().payload.get(), "7");
    let (mut settled, mut ack) = (Vec::new(), None);
    while settled.len() < 2 || ack.is_none() {
        match served.node.next().await {
            Frame::Settle(_, more) => settled.extend(more),
            Frame::Submit(_, head, _) => ack = Some(head),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(settled, [(1, Written), (1, Acked)]);
    // Who asked is gone; the client's program has nothing to do with that.
    told(&served.node, session, &ack.unwrap(), State::Refused).await;
    served.hand(2, status("m-1"), false).await;
    assert_eq!(soon(served.client.next()).await.unwrap().id, "m-1");
}

#[tokio::test(start_paused = true)]
async fn a_state_is_waited_for_through_those_before_it_and_an_end_is_an_error() {
    // covers T07, Q04
    let mut served = served(Options::default()).await;
    let Served { client, node, attach, .. } = &mut served;
    for (wish, states) in [
        (State::Accepted, vec![State::Accepted]),
        (State::Delivered, vec![State::Accepted, State::Stored, State::Delivered]),
        // The one that is waited for was lost; the next one says as much.
        (State::Stored, vec![State::Accepted, State::Acked]),
        (State::Acked, vec![State::Accepted, State::Expired]),
        (State::Acked, vec![State::Refused]),
    ] {
        let last = *states.last().unwrap();
        let waits = client.send_and_wait(Outgoing::command("agni", json!(1)), wish, WITHIN);
        let answers = async {
            let Frame::Submit(_, head, _) = node.next().await else { panic!("no Submit") };
            assert_eq!(head.receipt, Some(wish));
            for state in states {
                told(node, attach.session, &head, state).await;
            }
        };
        let (got, ()) = tokio::join!(waits, answers);
        match last {
            State::Expired => {
                let error = got.unwrap_err();
                assert!(
                    matches!(&error, Error::Undelivered { state, reason } if state == "expired" && reason == "too late")
                );
            }
            State::Refused => {
                assert!(matches!(got.unwrap_err(), Error::Refused { code, .. } if code == "expired"))
            }
            _ => assert_eq!(got.unwrap().state, last),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_no_receipt_is_sent_again_over_the_next_connection() {
    // covers T07, T09
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (sessions, mut made) = queue::bounded("test.sessions", 8);
    let hub = rig.hub.clone();
    let connect = move || {
        let (hub, sessions) = (hub.clone(), sessions.clone());
        async move {
            let (ours, theirs) = tokio::io::duplex(4096);
            let session = tasks::spawn("test.session", async move {
                serve_stream("unix", theirs, agent("dc"), &hub).await;
            });
            sessions.send(session).await.unwrap();
            Ok(Connection::over(ours))
        }
    };
    let (client, _) = tokio::join!(Client::connect(connect, Options::default()), node.grant());
    let client = client.unwrap();
    let session = made.recv().await.unwrap();
    let sender = client.sender();
    let (answer, receipts) = oneshot::channel();
    let _waits = tasks::spawn("test.waits", async move {
        let both = tokio::join!(
            sender.send_and_wait(
                Outgoing::command("agni", json!(1)),
                State::Accepted,
                Duration::from_secs(60)
            ),
            sender.send_and_wait(Outgoing::command("agni", json!(2)), State::Stored, Duration::from_secs(60)),
        );
        let _ = answer.send(both);
    });
    let mut first = Vec::new();
    for _ in 0..2 {
        let Frame::Submit(_, head, _) = node.next().await else { panic!("no Submit") };
        first.push(head.id);
    }
    drop(session);
    assert!(matches!(node.next().await, Frame::Detach(..)));
    let attach = node.grant().await;
    let _session = soon(made.recv()).await.unwrap();
    for (id, state) in first.iter().zip([State::Accepted, State::Stored]) {
        let Frame::Submit(_, head, _) = node.next().await else { panic!("no Submit") };
        assert_eq!(head.id, *id, "the same name, in the same order");
        told(&node, attach.session, &head, state).await;
    }
    let (accepted, stored) = soon(receipts).await.unwrap();
    assert_eq!((accepted.unwrap().state, stored.unwrap().state), (State::Accepted, State::Stored));
}
