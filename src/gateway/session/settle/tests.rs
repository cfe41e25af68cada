use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use crate::gateway::session::tests::{known, opening, start};
use crate::gateway::testing::{MemoryClient, Node, Rig, agent, head};
use crate::rt::tasks;
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Class, Head, State, Target};
use crate::wire::frame::{Deliver, Frame, Handing, Receipt, Settlement};
use crate::wire::ids::{MessageId, NodeName, Sequence, SessionNo};

use Settlement::{Acked, Nacked, Requeued, Written};

mod receipts;

/// A registered session.
struct Seated {
    rig: Rig,
    node: Node,
    client: MemoryClient,
    session: SessionNo,
    _task: tasks::Task,
}

async fn seated(register: Value) -> Seated {
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(&register.to_string());
    let session = node.grant().await.session;
    assert_eq!(client.hear().await["type"], "REGISTERED");
    Seated { rig, node, client, session, _task }
}

async fn auto() -> Seated {
    seated(json!({"type": "REGISTER"})).await
}

async fn manual() -> Seated {
    seated(json!({"type": "REGISTER", "ack": "manual"})).await
}

fn handing(session: SessionNo, tag: u64) -> Handing {
    Handing { session, tag, redelivered: false }
}

async fn hand_to(node: &Node, to: Vec<Handing>, head: Head) {
    let payload = Bytes::from(format!("{{\"type\":\"STATUS\",\"id\":\"{}\"}}", head.id));
    node.tell(Frame::Deliver(Deliver { to, head, confirm: None }, payload)).await;
}

impl Seated {
    async fn hand(&self, tag: u64, id: &str) {
        hand_to(&self.node, vec![handing(self.session, tag)], head("agni", "dc", id, 3)).await;
    }

    async fn settled(&mut self) -> Vec<(u64, Settlement)> {
        match self.node.next().await {
            Frame::Settle(session, settled) if session == self.session => settled,
            other => panic!("{other:?} instead of Settle"),
        }
    }

    /// What the session has told its node by now.
    async fn told(&mut self) -> Vec<Frame> {
        self.client.say(r#"{"type":"AGENTS"}"#);
        let mut frames = Vec::new();
        loop {
            match self.node.next().await {
                Frame::AskAgents(session, number) => {
                    self.node.tell(Frame::AgentList(session, number, Vec::new())).await;
                    break;
                }
                frame => frames.push(frame),
            }
        }
        assert_eq!(self.client.hear().await["type"], "AGENTS");
        while let Some(encoded) = self.node.outlets.lanes.iter_mut().find_map(|lane| lane.try_recv().ok()) {
            let mut bytes = [encoded.head, encoded.payload].concat().into();
            frames.push(Frame::decode(&mut bytes).unwrap().unwrap());
        }
        frames
    }

    /// Waits until the hub has passed on what it was told.
    async fn passed(&self) {
        while self.rig.events.depth() > 0 {
            tokio::task::yield_now().await;
        }
        self.rig.hub.snapshot().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_told_after_the_flush_and_in_one_frame() {
    // covers T07
    let mut seat = manual().await;
    seat.client.block(true);
    for tag in 1..=3 {
        seat.hand(tag, &format!("m-{tag}")).await;
    }
    seat.passed().await;
    assert!(seat.node.outlets.lanes.iter_mut().all(|lane| lane.try_recv().is_err()));
    seat.client.block(false);
    assert_eq!(seat.settled().await, [(1, Written), (2, Written), (3, Written)]);
    seat.client.pinged(0).await;
    assert_eq!(seat.client.0.lock().unwrap().pings, 0, "who acknowledges by itself is not pinged for it");
}

#[tokio::test(start_paused = true)]
async fn a_pong_acknowledges_what_was_written_before_its_ping() {
    // covers T07
    let mut seat = auto().await;
    seat.hand(1, "m-1").await;
    assert_eq!(seat.settled().await, [(1, Written)]);
    seat.client.pinged(1).await;
    seat.hand(2, "m-2").await;
    assert_eq!(seat.settled().await, [(2, Written)]);
    assert_eq!(seat.client.0.lock().unwrap().pings, 1, "one ping at a time");
    for id in ["m-1", "m-2"] {
        assert_eq!(seat.client.hear().await["id"], id);
    }
    seat.client.pong();
    assert_eq!(seat.settled().await, [(1, Acked)], "the second came behind the ping");
    seat.client.pinged(2).await;
    // A pong that was not asked for, or answers an earlier ping, says nothing of it.
    seat.client.put(crate::gateway::carrier::Incoming::Pong(1));
    seat.client.put(crate::gateway::carrier::Incoming::Alive);
    assert_eq!(seat.told().await, []);
    seat.client.pong();
    assert_eq!(seat.settled().await, [(2, Acked)]);
    // Live messages need no acknowledgement.
    crate::gateway::session::tests::deliver(&seat.node, seat.session, "live", 3).await;
    assert_eq!(seat.client.hear().await["id"], "live");
    assert_eq!(seat.client.0.lock().unwrap().pings, 2);
}

#[tokio::test(start_paused = true)]
async fn the_ping_for_life_acknowledges_too_and_a_client_that_only_speaks_stays() {
    // covers T05, T07
    let mut seat = seated(json!({"type": "REGISTER", "heartbeat_ms": 5000})).await;
    seat.hand(1, "m-1").await;
    assert_eq!(seat.settled().await, [(1, Written)]);
    seat.client.hear().await;
    // The first ping stays without its pong; the next one is due after a heartbeat of silence.
    let before = tokio::time::Instant::now();
    seat.client.pinged(2).await;
    assert_eq!(before.elapsed().as_secs(), 5);
    seat.client.pong();
    assert_eq!(seat.settled().await, [(1, Acked)]);
    assert_eq!(seat.told().await, []);
}

#[tokio::test(start_paused = true)]
async fn an_ack_settles_what_is_in_hand_and_travels_on_unless_a_receipt_says_it() {
    // covers T07
    let mut seat = manual().await;
    seat.hand(1, "m-1").await;
    let asked = Head { receipt: Some(State::Acked), ..head("agni", "dc", "m-2", 3) };
    hand_to(&seat.node, vec![handing(seat.session, 2)], asked).await;
    assert_eq!(seat.client.hear().await["id"], "m-1");
    assert_eq!(seat.client.hear().await["id"], "m-2");
    assert_eq!(seat.settled().await, [(1, Written), (2, Written)]);
    // Of another sender: not what is in hand.
    seat.client.say(r#"{"type":"ACK","to":"x","reply_to":"m-1"}"#);
    seat.client.say(r#"{"type":"ACK","to":"agni","reply_to":"m-2"}"#);
    seat.client.say(r#"{"type":"ACK","to":"agni","reply_to":"m-1"}"#);
    // The second time it is not in hand any more.
    seat.client.say(r#"{"type":"ACK","to":"agni","reply_to":"m-2"}"#);
    let (mut acked, mut travelled) = (Vec::new(), Vec::new());
    for frame in seat.told().await {
        match frame {
            Frame::Settle(_, settled) => acked.extend(settled),
            Frame::Submit(_, head, _) => travelled.push((head.to, head.reply_to.unwrap().to_string())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(acked, [(2, Acked), (1, Acked)]);
    travelled.sort();
    let to = |name: &str, id: &str| (Target::Agent(agent(name)), id.to_owned());
    assert_eq!(travelled, [to("agni", "m-1"), to("agni", "m-2"), to("x", "m-1")]);
}

#[tokio::test(start_paused = true)]
async fn a_nack_says_why_and_whether_it_is_to_come_again() {
    // covers T07
    let mut seat = auto().await;
    seat.hand(1, "m-1").await;
    seat.hand(2, "m-2").await;
    seat.client.hear().await;
    seat.client.hear().await;
    let mut settled = seat.settled().await;
    while settled.len() < 2 {
        settled.extend(seat.settled().await);
    }
    assert_eq!(settled, [(1, Written), (2, Written)]);
    seat.client.say(r#"{"type":"NACK","to":"agni","reply_to":"m-1","payload":{"reason":"disk full"}}"#);
    assert_eq!(seat.settled().await, [(1, Nacked("disk full".into()))]);
    seat.client.say(r#"{"type":"nack","to":"agni","reply_to":"m-2","reason":"busy","requeue":true}"#);
    assert_eq!(seat.settled().await, [(2, Requeued("busy".into()))]);
    for to in ["agni", "broadcast"] {
        seat.client.say(&json!({"type": "NACK", "id": "n-1", "to": to, "reply_to": "m-1"}).to_string());
        let error = seat.client.hear().await;
        assert_eq!((&error["payload"]["code"], &error["reply_to"]), (&json!("not_in_hand"), &json!("n-1")));
        assert_eq!(error["payload"]["frame"], "NACK");
    }
    // Its pong comes too late to acknowledge what was refused.
    seat.client.pong();
    assert_eq!(seat.told().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_bytes_has_no_pong_and_waits_for_acks() {
    // covers T07
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.0.lock().unwrap().no_ping = true;
    client.say(r#"{"type":"REGISTER","id":"r-1","window":7}"#);
    let attach = node.grant().await;
    assert_eq!(attach.window, 7);
    assert_eq!(client.hear().await["payload"]["window"], 7);
    hand_to(&node, vec![handing(attach.session, 1)], head("agni", "dc", "m-1", 3)).await;
    client.hear().await;
    assert_eq!(node.next().await, Frame::Settle(attach.session, vec![(1, Written)]));
    assert_eq!(client.0.lock().unwrap().pings, 0);
    client.say(r#"{"type":"ACK","to":"agni","reply_to":"m-1"}"#);
    assert_eq!(node.next().await, Frame::Settle(attach.session, vec![(1, Acked)]));
}

#[tokio::test(start_paused = true)]
async fn what_only_the_server_may_say_stands_at_the_front_for_that_recipient_alone() {
    // covers T04, T07
    let mut seat = auto().await;
    let (other, _task) = start(&seat.rig, opening(known("agni")));
    let other_session = seat.node.grant().await.session;
    let again = Handing { redelivered: true, ..handing(seat.session, 1) };
    let everybody = Target::Broadcast(crate::gateway::testing::namespace());
    let message = Head { to: everybody, ..head("x", "dc", "m-1", 3) };
    hand_to(&seat.node, vec![again, handing(other_session, 1)], message.clone()).await;
    let text = seat.client.hear_text().await;
    assert_eq!(text, r#"{"redelivered":true,"type":"STATUS","id":"m-1"}"#);
    assert_eq!(other.hear_text().await, r#"{"type":"STATUS","id":"m-1"}"#);
    let retried = Head { retry_of: Some(MessageId::new("m-0").unwrap()), ..message };
    hand_to(&seat.node, vec![again], retried).await;
    let text = seat.client.hear_text().await;
    assert_eq!(text, r#"{"redelivered":true,"retry_of":"m-0","type":"STATUS","id":"m-1"}"#);
}

#[tokio::test(start_paused = true)]
async fn what_an_earlier_link_handed_out_is_neither_written_nor_settled_on_a_new_one() {
    // covers T07, T09
    let mut seat = auto().await;
    seat.hand(1, "m-1").await;
    assert_eq!(seat.settled().await, [(1, Written)]);
    assert_eq!(seat.client.hear().await["id"], "m-1");
    // Two more wait for a client that does not read, and a live one.
    seat.client.block(true);
    seat.hand(2, "m-2").await;
    hand_to(&seat.node, vec![handing(seat.session, 3)], head("agni", "dc", "m-3", 1)).await;
    crate::gateway::session::tests::deliver(&seat.node, seat.session, "live", 3).await;
    seat.passed().await;
    let mut renewed = seat.rig.link(2, "agni").await;
    // What it has is to be settled first; this client does not do that in time.
    let Frame::Attach(hold) = seat.node.next().await else { panic!("no Attach") };
    assert_eq!(hold.window, 0);
    let attach = renewed.grant().await;
    assert!(attach.resumed);
    // A straggler of the old link, and what the new one hands out again.
    seat.hand(4, "m-4").await;
    for (tag, id) in [(11, "m-1"), (12, "m-2")] {
        let again = Handing { redelivered: true, ..handing(seat.session, tag) };
        hand_to(&renewed, vec![again], head("agni", "dc", id, 3)).await;
    }
    while seat.rig.events.depth() > 0 {
        tokio::task::yield_now().await;
    }
    // The pong of the old link's ping comes late, too.
    seat.client.pong();
    seat.client.block(false);
    let heard = [seat.client.hear().await, seat.client.hear().await, seat.client.hear().await];
    assert_eq!(heard.each_ref().map(|frame| frame["id"].as_str().unwrap()), ["live", "m-1", "m-2"]);
    assert_eq!(heard.each_ref().map(|frame| frame["redelivered"] == true), [false, true, true]);
    assert_eq!(renewed.next().await, Frame::Settle(seat.session, vec![(11, Written), (12, Written)]));
    seat.client.pinged(2).await;
    seat.client.pong();
    assert_eq!(renewed.next().await, Frame::Settle(seat.session, vec![(11, Acked), (12, Acked)]));
    assert_eq!(seat.client.waiting(), 0);
    assert!(seat.node.outlets.lanes.iter_mut().all(|lane| lane.try_recv().is_err()));
}

#[tokio::test(start_paused = true)]
async fn large_messages_in_hand_do_not_make_a_client_slow() {
    // covers T07, B08
    let mut seat = manual().await;
    seat.client.block(true);
    let payload = Bytes::from(format!("{{\"id\":\"{}\"}}", "x".repeat(1 << 20)));
    for tag in 1..=64 {
        let to = vec![handing(seat.session, tag)];
        let head = head("agni", "dc", &format!("m-{tag}"), if tag % 2 == 0 { 3 } else { 1 });
        seat.node.tell(Frame::Deliver(Deliver { to, head, confirm: None }, payload.clone())).await;
    }
    seat.passed().await;
    seat.client.block(false);
    assert_eq!(seat.settled().await.len(), 64);
}

#[tokio::test(start_paused = true)]
async fn what_the_client_says_while_the_link_is_renewed_waits_for_the_new_one() {
    // covers T09
    let mut seat = manual().await;
    seat.hand(1, "m-1").await;
    assert_eq!(seat.settled().await, [(1, Written)]);
    assert_eq!(seat.client.hear().await["id"], "m-1");
    seat.client.say(r#"{"type":"AGENTS","id":"g-1"}"#);
    assert!(matches!(seat.node.next().await, Frame::AskAgents(..)));
    let mut renewed = seat.rig.link(2, "agni").await;
    let error = seat.client.hear().await;
    assert_eq!((&error["payload"]["code"], &error["reply_to"]), (&json!("unavailable"), &json!("g-1")));
    seat.client.say(r#"{"type":"STATUS","to":"agni","id":"m-1"}"#);
    renewed.grant().await;
    let Frame::Submit(_, head, _) = renewed.next().await else { panic!("no Submit") };
    assert_eq!(head.id.as_str(), "m-1");
    // The node has it back.
    seat.client.say(r#"{"type":"NACK","to":"agni","reply_to":"m-1"}"#);
    assert_eq!(seat.client.hear().await["payload"]["code"], "not_in_hand");
    assert_eq!(seat.client.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_overtakes_the_registration_is_settled_when_that_comes() {
    // covers T07
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    let Frame::Attach(attach) = node.next().await else { panic!("no Attach") };
    hand_to(&node, vec![handing(attach.session, 1)], head("agni", "dc", "m-1", 3)).await;
    assert_eq!(client.hear().await["id"], "m-1");
    assert!(node.outlets.lanes.iter_mut().all(|lane| lane.try_recv().is_err()));
    node.tell(Frame::Attached(attach.session, attach.registered_ms)).await;
    assert_eq!(node.next().await, Frame::Settle(attach.session, vec![(1, Written)]));
}

#[tokio::test(start_paused = true)]
async fn another_agent_does_not_settle_what_the_first_one_had() {
    // covers T05, T07
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let mut identity = known("dc");
    identity.as_mut().unwrap().may_register = vec![crate::gateway::auth::Pattern::Name("dc-2".into())];
    let (client, _task) = start(&rig, opening(identity));
    client.say(r#"{"type":"REGISTER","ack":"manual"}"#);
    let session = node.grant().await.session;
    hand_to(&node, vec![handing(session, 1)], head("agni", "dc", "m-1", 3)).await;
    for kind in ["REGISTERED", "STATUS"] {
        assert_eq!(client.hear().await["type"], kind);
    }
    assert!(matches!(node.next().await, Frame::Settle(..)));
    client.say(r#"{"type":"REGISTER","agent":"dc-2","ack":"manual"}"#);
    assert_eq!(node.next().await, Frame::Detach(session, false));
    // Under way to the agent that the session was.
    hand_to(&node, vec![handing(session, 2)], head("agni", "dc", "m-2", 3)).await;
    node.grant().await;
    assert_eq!(client.hear().await["payload"]["agent"], "dc-2");
    client.say(r#"{"type":"NACK","to":"agni","reply_to":"m-1"}"#);
    assert_eq!(client.hear().await["payload"]["code"], "not_in_hand");
    client.say(r#"{"type":"UNREGISTER"}"#);
    client.say(r#"{"type":"NACK","to":"agni","reply_to":"m-1"}"#);
    assert_eq!(client.hear().await["type"], "UNREGISTERED");
    assert_eq!(client.hear().await["payload"]["code"], "not_registered");
    assert_eq!(node.next().await, Frame::Detach(session, true));
}

#[tokio::test(start_paused = true)]
async fn a_full_control_lane_is_tried_again() {
    // covers T07
    let mut seat = manual().await;
    let control = crate::link::Lane::Control.index();
    let mut pings = 0;
    // Until a pong finds no room.
    while seat.node.outlets.lanes[control].len() == pings {
        seat.node.tell(Frame::Ping(1)).await;
        seat.passed().await;
        pings += 1;
        if seat.node.outlets.lanes[control].len() < pings {
            break;
        }
    }
    seat.hand(1, "m-1").await;
    assert_eq!(seat.client.hear().await["id"], "m-1");
    seat.client.say(r#"{"type":"ACK","to":"agni","reply_to":"m-1"}"#);
    seat.client.say(r#"{"type":"HEARTBEAT"}"#);
    assert_eq!(seat.client.hear().await["type"], "HEARTBEAT");
    for _ in 0..pings - 1 {
        assert!(matches!(seat.node.next().await, Frame::Pong(1, 1..)));
    }
    let before = tokio::time::Instant::now();
    let frame = loop {
        match seat.node.next().await {
            // The ACK itself, which travels on.
            Frame::Submit(..) => {}
            other => break other,
        }
    };
    assert_eq!(frame, Frame::Settle(seat.session, vec![(1, Written), (1, Acked)]));
    assert!(before.elapsed() <= Duration::from_millis(100), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_query_is_answered_by_the_node() {
    // covers T07
    let mut seat = manual().await;
    seat.client.say(r#"{"type":"QUERY","id":"q-1","from":"dc","message":"m-1"}"#);
    seat.client.say(r#"{"type":"QUERY","id":"q-2","payload":{"message":"m-2","from":"agni"}}"#);
    let id = |id: &str| MessageId::new(id).unwrap();
    let Frame::Query(session, first, from, message) = seat.node.next().await else { panic!("no Query") };
    assert_eq!((session, from, message), (seat.session, agent("dc"), id("m-1")));
    let Frame::Query(_, second, from, message) = seat.node.next().await else { panic!("no Query") };
    assert_eq!((from, message), (agent("agni"), id("m-2")));
    let forbidden = r#"{"code":"forbidden","message":"m-2 is not yours","hint":"","retry":false}"#;
    for (number, answer) in [(second, forbidden), (first, r#"{"message":"m-1","state":"acked"}"#)] {
        seat.node.tell(Frame::Answer(session, number, Bytes::from_static(answer.as_bytes()))).await;
    }
    // Nobody asked this.
    seat.node.tell(Frame::Answer(session, Sequence(99), Bytes::from_static(b"{}"))).await;
    let error = seat.client.hear().await;
    assert_eq!((&error["type"], &error["reply_to"]), (&json!("ERROR"), &json!("q-2")));
    assert_eq!(
        (&error["payload"]["code"], &error["payload"]["frame"]),
        (&json!("forbidden"), &json!("QUERY"))
    );
    let state = seat.client.hear().await;
    assert_eq!((&state["type"], &state["reply_to"]), (&json!("STATE"), &json!("q-1")));
    assert_eq!(state["payload"], json!({"message": "m-1", "state": "acked"}));
    // So many may be asked at once, and no more.
    for _ in 0..65 {
        seat.client.say(r#"{"type":"QUERY","message":"m-1"}"#);
    }
    assert_eq!(seat.client.hear().await["payload"]["code"], "rate_limited");
    seat.node.down().await;
    for _ in 0..64 {
        assert_eq!(seat.client.hear().await["payload"]["code"], "unavailable");
    }
}
