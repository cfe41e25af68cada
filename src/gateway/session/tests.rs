mod held;
mod links;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::gateway::auth::{KeySet, NewToken, Revoked, Rules, Trust, issue};
use crate::gateway::secret::Secret;
use crate::gateway::testing::{MemoryClient, Node, Rig, agent, connection, head, namespace, soon};
use crate::rt::tasks;
use crate::wire::envelope::State;
use crate::wire::frame::{Deliver, Frame, Handing};
use crate::wire::ids::{AgentName, SessionNo};

fn secret() -> Secret {
    Secret::new(&[b's'; 40], "test").unwrap()
}

fn token(name: &str, lives_ms: u64) -> String {
    let token = NewToken {
        sub: AgentName::new(name).unwrap(),
        aud: namespace(),
        permissions: Vec::new(),
        agents: Vec::new(),
        jti: "t".into(),
        iat: 0,
        exp: Some((clock::wall_ms() + lives_ms) / 1000),
    };
    issue(&secret(), &token).unwrap()
}

pub(super) fn opening(identity: Option<Identity>) -> Opening {
    let trust = Trust::new(&[secret()], KeySet::default(), Revoked::default());
    let verifier = Verifier::new(trust, namespace(), Rules::default());
    Opening {
        namespace: namespace(),
        identity,
        verifier: Some(Arc::new(verifier)),
        settings: Arc::new(Settings::default()),
    }
}

pub(super) fn known(name: &str) -> Option<Identity> {
    Some(Identity::certified(AgentName::new(name).unwrap(), namespace()))
}

/// A session that runs; its end comes out of the task.
pub(super) fn start(rig: &Rig, opening: Opening) -> (MemoryClient, tasks::Task) {
    let (carrier, client) = connection();
    let hub = rig.hub.clone();
    let task = tasks::spawn("test.session", async move {
        serve(carrier, opening, &hub).await;
    });
    (client, task)
}

pub(super) async fn deliver(node: &Node, session: SessionNo, id: &str, priority: u8) {
    let head = head("agni", "dc", id, priority);
    let payload = Bytes::from(format!("{{\"type\":\"STATUS\",\"id\":\"{id}\"}}"));
    node.tell(Frame::Deliver(Deliver { to: vec![Handing::live(session)], head, confirm: None }, payload))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_registered_as_its_token_says() {
    // covers T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    let attach = node.grant().await;
    assert_eq!((attach.agent, attach.resumed), (agent("dc"), false));
    // And is told nothing of it: what comes first is what is for it.
    deliver(&node, attach.session, "m-1", 3).await;
    assert_eq!(client.hear().await["id"], "m-1");
}

#[tokio::test(start_paused = true)]
async fn a_message_before_register_waits_for_the_registration() {
    // covers T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(r#"{"type":"STATUS","to":"agni","id":"m-1"}"#);
    client.say(r#"{"type":"STATUS","to":"agni","id":"m-2","payload":{"a":1}}"#);
    let Frame::Attach(attach) = node.next().await else { panic!("no Attach") };
    node.tell(Frame::Attached(attach.session, attach.registered_ms)).await;
    for id in ["m-1", "m-2"] {
        let Frame::Submit(session, head, payload) = node.next().await else { panic!("no Submit") };
        assert_eq!((session, head.id.as_str()), (attach.session, id));
        assert!(payload.starts_with(b"{\"from\":\"dc\",\"timestamp\":"), "{payload:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_answer_is_unavailable() {
    // covers T05, T09
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(r#"{"type":"REGISTER","id":"r-1"}"#);
    let _ = node.next().await;
    let error = client.hear().await;
    assert_eq!((&error["reply_to"], &error["payload"]["code"]), (&json!("r-1"), &json!("unavailable")));
    assert_eq!(error["payload"]["frame"], "REGISTER");
}

#[tokio::test(start_paused = true)]
async fn unregister_amid_a_registration_does_not_freeze_the_session() {
    // covers T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _one) = start(&rig, opening(known("dc")));
    let before = tokio::time::Instant::now();
    // The first frame: the session registers by default, and the node has not answered.
    client.say(r#"{"type":"UNREGISTER","id":"u-1"}"#);
    client.say(r#"{"type":"HEARTBEAT","id":"h-1"}"#);
    for (kind, id) in [("UNREGISTERED", "u-1"), ("HEARTBEAT", "h-1")] {
        let answer = client.hear().await;
        assert_eq!((&answer["type"], &answer["reply_to"]), (&json!(kind), &json!(id)));
    }
    assert_eq!(before.elapsed(), Duration::ZERO, "nothing is waited for");
    let session = node.grant().await.session;
    assert_eq!(node.next().await, Frame::Detach(session, true));
    // The answer that comes too late makes nobody of it an agent again.
    client.say(r#"{"type":"STATUS","to":"agni"}"#);
    assert_eq!(client.hear().await["payload"]["code"], "not_registered");
    // Behind a REGISTER that the node has not answered it waits its turn.
    let (client, _two) = start(&rig, opening(known("dc")));
    client.say(r#"{"type":"REGISTER"}"#);
    client.say(r#"{"type":"UNREGISTER"}"#);
    client.say(r#"{"type":"HEARTBEAT"}"#);
    node.grant().await;
    for kind in ["REGISTERED", "UNREGISTERED", "HEARTBEAT"] {
        assert_eq!(client.hear().await["type"], kind);
    }
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn no_token_in_time_and_no_sign_of_life_have_their_own_codes() {
    // covers T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (late, _one) = start(&rig, opening(None));
    assert_eq!(late.closed().await.0, 4408);
    let (silent, _two) = start(&rig, opening(known("dc")));
    silent.say(r#"{"type":"REGISTER","heartbeat_ms":5000}"#);
    node.grant().await;
    assert_eq!(silent.hear().await["payload"]["heartbeat_ms"], 5000);
    silent.pinged(1).await;
    silent.put(Incoming::Alive);
    silent.pinged(2).await;
    let before = tokio::time::Instant::now();
    assert_eq!(silent.closed().await.0, 4014);
    // Three heartbeats after the last sign of life, one of which had passed before the ping.
    assert_eq!(before.elapsed().as_secs(), 10);
    assert!(matches!(node.next().await, Frame::Detach(_, false)));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_runs_out_ends_the_session_and_a_fresh_one_saves_it() {
    // covers T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(None));
    client.say(&json!({"type": "auth", "token": token("dc", 60_000)}).to_string());
    assert_eq!(client.hear().await["type"], "AUTHENTICATED");
    node.grant().await;
    client.say(&json!({"type": "AUTH", "id": "a-2", "token": token("agni", 60_000)}).to_string());
    assert_eq!(client.hear().await["payload"]["code"], "forbidden");
    client.say(&json!({"type": "AUTH", "id": "a-3", "token": "x"}).to_string());
    assert_eq!(client.hear().await["payload"]["code"], "token_invalid");
    client.say(&json!({"type": "AUTH", "token": token("dc", 600_000)}).to_string());
    assert_eq!(client.hear().await["type"], "AUTHENTICATED");
    let keep_alive = client.clone();
    let _alive = tasks::spawn("test.alive", async move {
        loop {
            tokio::time::sleep(Duration::from_secs(10)).await;
            keep_alive.put(Incoming::Alive);
        }
    });
    let before = tokio::time::Instant::now();
    assert_eq!(client.hear().await["payload"]["code"], "token_expired");
    assert!((595..=601).contains(&before.elapsed().as_secs()), "{:?}", before.elapsed());
    assert_eq!(client.closed().await.0, 4401);
}

#[tokio::test(start_paused = true)]
async fn a_slow_client_is_closed_and_only_it() {
    // covers T05, Q04
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (slow, _one) = start(&rig, opening(known("dc")));
    let slow_session = node.grant().await.session;
    let (well, _two) = start(&rig, opening(known("agni")));
    let well_session = node.grant().await.session;
    slow.block(true);
    for n in 0..crate::gateway::hub::SESSION_QUEUE + 2 {
        let head = head("x", "dc", &format!("m-{n}"), 3);
        let to = vec![Handing::live(slow_session), Handing::live(well_session)];
        let payload = Bytes::from(format!("{{\"id\":{n}}}"));
        node.tell(Frame::Deliver(Deliver { to, head, confirm: None }, payload)).await;
        // In step, so that only the blocked one falls behind.
        assert_eq!(well.hear().await["id"], n);
    }
    assert!(matches!(node.next().await, Frame::Detach(no, false) if no == slow_session));
    slow.block(false);
    assert_eq!(slow.closed().await.0, 4008);
    deliver(&node, well_session, "last", 3).await;
    assert_eq!(well.hear().await["id"], "last");
}

#[tokio::test(start_paused = true)]
async fn large_messages_that_a_client_does_not_read_are_bounded_by_their_bytes() {
    // covers B08, B09
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (slow, _one) = start(&rig, opening(known("dc")));
    let slow_session = node.grant().await.session;
    let (well, _two) = start(&rig, opening(known("agni")));
    let well_session = node.grant().await.session;
    slow.block(true);
    let payload = Bytes::from(format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20)));
    let fit = crate::gateway::hub::SESSION_BYTES / payload.len();
    for n in 0..fit + 1 {
        let head = head("x", "dc", &format!("m-{n}"), if n % 2 == 0 { 3 } else { 1 });
        let to = vec![Handing::live(slow_session), Handing::live(well_session)];
        node.tell(Frame::Deliver(Deliver { to, head, confirm: None }, payload.clone())).await;
        well.hear().await;
    }
    assert!(matches!(node.next().await, Frame::Detach(no, false) if no == slow_session));
    slow.block(false);
    assert_eq!(slow.closed().await.0, 4008);
    // What was read gives its room back.
    for n in 0..2 * fit {
        let head = head("x", "agni", &format!("n-{n}"), 3);
        let deliver = Deliver { to: vec![Handing::live(well_session)], head, confirm: None };
        node.tell(Frame::Deliver(deliver, payload.clone())).await;
        assert!(well.hear().await["id"].is_string());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_queued_goes_out_urgent_first_and_with_one_flush() {
    // covers Q03
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(r#"{"type":"REGISTER"}"#);
    let session = node.grant().await.session;
    client.hear().await;
    client.block(true);
    for n in 0..20 {
        deliver(&node, session, &format!("m-{n}"), 3).await;
    }
    deliver(&node, session, "urgent", 1).await;
    // The hub answers in order: what was told before has passed it.
    rig.hub.snapshot().await.unwrap();
    while rig.events.depth() > 0 {
        tokio::task::yield_now().await;
    }
    rig.hub.snapshot().await.unwrap();
    let before = client.0.lock().unwrap().flushes;
    client.block(false);
    assert_eq!(client.hear().await["id"], "urgent");
    for n in 0..20 {
        assert_eq!(client.hear().await["id"], format!("m-{n}"));
    }
    assert_eq!(client.0.lock().unwrap().flushes, before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_lane_stops_reading_that_client_and_nothing_is_lost() {
    // covers Q04
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(r#"{"type":"REGISTER"}"#);
    let session = node.grant().await.session;
    client.hear().await;
    const COUNT: usize = 5000;
    for n in 0..COUNT {
        client.say(&format!("{{\"type\":\"STATUS\",\"to\":\"agni\",\"id\":\"m-{n}\"}}"));
    }
    // While its messages wait, the session still gets its own.
    deliver(&node, session, "for-me", 3).await;
    assert_eq!(client.hear().await["id"], "for-me");
    for n in 0..COUNT {
        let Frame::Submit(_, head, _) = node.next().await else { panic!("no Submit") };
        assert_eq!(head.id.as_str(), format!("m-{n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_of_the_largest_size_passes_a_link_with_all_that_the_server_puts_in() {
    // covers T04, B09
    // The most that an edge's `max_frame` may be.
    const LARGEST: usize = 16 << 20;
    let name = "a".repeat(crate::wire::ids::MAX_AGENT_NAME);
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let settings = Arc::new(Settings { max_frame: LARGEST, ..Settings::default() });
    let (client, _task) = start(&rig, Opening { settings, ..opening(known(&name)) });
    node.grant().await;
    let (open, close) = (r#"{"type":"STATUS","to":"dc","payload":""#, "\"}");
    let text = format!("{open}{}{close}", "x".repeat(LARGEST - open.len() - close.len()));
    assert_eq!(text.len(), LARGEST);
    client.say(&text);
    let Frame::Submit(_, head, payload) = node.next().await else { panic!("no Submit") };
    let put_in = format!("{{\"from\":\"{name}\",\"id\":\"{}\",\"timestamp\":", head.id);
    assert!(payload.starts_with(put_in.as_bytes()), "{:?}", payload.slice(..200));
    assert!(payload.len() > LARGEST && payload.ends_with(&text.as_bytes()[1..]));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_is_confirmed_after_it_was_written() {
    // covers T07
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    let session = node.grant().await.session;
    let confirm = Some(NodeName::new("rushabdev").unwrap());
    let head = head("agni", "dc", "m-1", 3);
    client.block(true);
    let frame = Frame::Deliver(
        Deliver { to: vec![Handing::live(session)], head, confirm },
        Bytes::from_static(b"{}"),
    );
    node.tell(frame).await;
    rig.hub.snapshot().await.unwrap();
    assert!(node.outlets.lanes.iter_mut().all(|lane| lane.try_recv().is_err()));
    client.block(false);
    client.hear().await;
    let Frame::Receipt(receipt) = node.next().await else { panic!("no Receipt") };
    assert_eq!((receipt.to.as_str(), receipt.node.as_str()), ("rushabdev", "agni"));
    assert_eq!((receipt.state, receipt.recipient), (State::Delivered, agent("dc")));
}

#[tokio::test(start_paused = true)]
async fn an_evicted_session_says_no_more_to_its_node() {
    // covers T05
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, task) = start(&rig, opening(known("dc")));
    let session = node.grant().await.session;
    node.tell(Frame::Evict(session, Refusal::new(Code::TakenOver, "a newer session"))).await;
    assert_eq!(client.closed().await, (4409, "a newer session".to_owned()));
    assert_eq!(client.waiting(), 0, "an envelope-only client is told by the close alone");
    soon(task.join()).await;
    rig.hub.snapshot().await.unwrap();
    assert!(node.outlets.lanes[0].try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn pings_of_the_node_are_answered() {
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    node.tell(Frame::Ping(7)).await;
    assert!(matches!(node.next().await, Frame::Pong(7, 1..)));
}

#[tokio::test]
async fn what_a_client_said_before_it_closed_counts_although_it_reads_nothing_more() {
    // covers T05
    use tokio::io::AsyncWriteExt;
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (mut client, ours) = tokio::net::UnixStream::pair().unwrap();
    let hub = rig.hub.clone();
    let _session = tasks::spawn("test.session", async move {
        crate::gateway::native::serve_local(ours, agent("dc"), &hub).await;
    });
    let session = node.grant().await.session;
    // Its last word and its end are there before the session has had a turn, and with them something to write to it.
    let mut bytes = bytes::BytesMut::new();
    crate::wire::stream::put(&mut bytes, br#"{"type":"UNREGISTER"}"#);
    let head = head("agni", "dc", "m-1", 3);
    let deliver = Deliver { to: vec![Handing::live(session)], head, confirm: None };
    rig.events
        .try_send(link::Event::Frame {
            link: node.link,
            frame: Frame::Deliver(deliver, Bytes::from_static(b"{\"type\":\"STATUS\",\"id\":\"m-1\"}")),
        })
        .unwrap();
    client.write_all(&bytes).await.unwrap();
    drop(client);
    assert_eq!(node.next().await, Frame::Detach(session, true));
}

#[tokio::test(start_paused = true)]
async fn rooms_of_a_node_that_serves_none_are_refused_at_once() {
    // covers B07
    let rig = Rig::new();
    let mut old = rig.link_with(1, "agni", &[]).await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(&json!({"type": "REGISTER", "id": "r"}).to_string());
    old.grant().await;
    let registered = client.hear().await;
    assert!(!registered["payload"]["features"].as_array().unwrap().contains(&json!("rooms")), "{registered}");
    for word in ["SUBSCRIBE", "HISTORY", "PRESENCE", "PUBLISH"] {
        client.say(&json!({"type": word, "to": "room:deploys", "id": word}).to_string());
        let error = client.hear().await;
        assert_eq!(
            (&error["reply_to"], &error["payload"]["code"]),
            (&json!(word), &json!("unsupported")),
            "{error}"
        );
        assert!(error["payload"]["message"].as_str().unwrap().contains("agni"), "{error}");
    }
    client.say(&json!({"type": "UNSUBSCRIBE", "to": "room:deploys"}).to_string());
    assert_eq!(client.hear().await["type"], "UNSUBSCRIBED");
    client.say(&json!({"type": "AGENTS"}).to_string());
    let next = old.next().await;
    assert!(matches!(next, Frame::AskAgents(..)), "{} instead of AskAgents", next.name());
    old.down().await;
    // Of a link that breaks before the answer, to be followed by one to such a node.
    assert_eq!(client.hear().await["payload"]["code"], "unavailable");
    let mut new = rig.link(2, "dc").await;
    new.grant().await;
    // On a paused clock: when nobody can do anything more, so the session has heard of it.
    tokio::time::sleep(Duration::from_millis(1)).await;
    client.say(&json!({"type": "SUBSCRIBE", "to": "room:deploys", "id": "s"}).to_string());
    assert!(matches!(new.next().await, Frame::RoomSubscribe(_)));
    new.down().await;
    let mut old = rig.link_with(3, "agni", &[]).await;
    old.grant().await;
    let error = client.hear().await;
    assert_eq!(
        (&error["reply_to"], &error["payload"]["code"]),
        (&json!("s"), &json!("unsupported")),
        "{error}"
    );
}
