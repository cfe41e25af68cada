//! What durable messages promise, through the real programs: clients that know docs/protocol.md, and processes that are
//! killed.

mod absent;
mod broken;
mod copies;
mod cut_off;
mod damage;
mod disk;
mod faults;
mod letters;
mod numbers;
mod quotas;
mod takeover;
mod traced;

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Mesh, until};
use crate::wss::{Door, Wss};

/// Runs a client's side of a test.
fn run<T>(clients: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(clients)
}

fn manual() -> Value {
    json!({"ack": "manual"})
}

/// A COMMAND that asks for a receipt, with more fields.
fn command(to: &str, id: &str, receipt: &str, more: Value) -> Value {
    let mut frame = json!({"type": "COMMAND", "to": to, "id": id, "receipt": receipt, "payload": {"id": id}});
    for (field, value) in more.as_object().unwrap() {
        frame[field] = value.clone();
    }
    frame
}

/// Says it, and hears the first word of the mesh's about it: the state, or the code.
async fn said(wss: &mut Wss, frame: Value) -> String {
    let id = frame["id"].as_str().unwrap().to_owned();
    wss.say(frame).await.unwrap();
    word(&wss.answer(&id).await)
}

/// The state of a receipt, or the code of an error.
fn word(answer: &Value) -> String {
    let payload = &answer["payload"];
    payload["state"].as_str().or(payload["code"].as_str()).unwrap().to_owned()
}

/// Hears of a message until the mesh says this of it.
async fn told(wss: &mut Wss, id: &str, what: &str) -> Value {
    let is = |frame: &Value| frame["from"] == "mesh" && frame["reply_to"] == id && word(frame) == what;
    wss.until(&format!("{id} is {what}"), is).await
}

/// Sends until the message is taken: news of an agent take their time to each node.
async fn accepted(wss: &mut Wss, frame: &Value) {
    let began = Instant::now();
    loop {
        match said(wss, frame.clone()).await.as_str() {
            "accepted" => return,
            // A short time to live may be over as soon as it is taken.
            "expired" if frame["ttl_ms"].is_u64() => return,
            "unknown_recipient" | "unavailable" if began.elapsed() < crate::harness::PATIENCE => {}
            other => panic!("{frame} is {other}"),
        }
    }
}

async fn goes_away(wss: Wss) {
    // Without a word: as a process that was killed.
    drop(wss);
}

// covers T04, T09
#[test]
fn a_message_of_two_copies_outlives_the_disk_of_the_node_that_took_it() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    run(async {
        let at_agni = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        goes_away(at_agni).await;
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        accepted(&mut sender, &command("worker", "far", "accepted", json!({"copies": 2}))).await;
        // One that lives where the message is taken: the second copy is the only one elsewhere.
        goes_away(Door::of(mesh.machine("dc"), "neighbour").must_open(manual()).await).await;
        accepted(&mut sender, &command("neighbour", "near", "accepted", json!({"copies": 2}))).await;
    });
    let dc = mesh.machine("dc");
    dc.node.as_mut().unwrap().kill();
    fs::remove_dir_all(dc.folder.join("data")).unwrap();
    run(async {
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        let message = worker.message().await;
        assert_eq!(message["id"], "far");
        worker.ack(&message).await.unwrap();
    });
    mesh.machine("dc").start_node();
    mesh.wait_whole();
    run(async {
        let mut neighbour = Door::of(mesh.machine("dc"), "neighbour").must_open(manual()).await;
        let message = neighbour.message().await;
        assert_eq!(message["id"], "near");
        neighbour.ack(&message).await.unwrap();
    });
}

// covers T05, T09
#[test]
fn each_message_goes_to_one_of_a_pool_and_those_of_a_killed_worker_to_the_others() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        let door = Door::of(mesh.machine("agni"), "pool");
        let shared = json!({"ack": "manual", "shared": true, "window": 5});
        let mut workers = Vec::new();
        for _ in 0..3 {
            workers.push(door.must_open(shared.clone()).await);
        }
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        for n in 0..15 {
            accepted(&mut sender, &command("pool", &format!("m-{n}"), "accepted", json!({}))).await;
        }
        // Their windows are full, and there is none left.
        let mut hands = Vec::new();
        for worker in &mut workers {
            let mut hand = Vec::new();
            for _ in 0..5 {
                hand.push(worker.message().await);
            }
            hands.push(hand);
        }
        let id = |message: &Value| message["id"].as_str().unwrap().to_owned();
        let mut all: Vec<String> = hands.iter().flatten().map(id).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 15, "each to exactly one: {all:?}");
        assert!(hands.iter().flatten().all(|message| message.get("redelivered").is_none()));

        let mut lost: Vec<String> = hands.pop().unwrap().iter().map(id).collect();
        goes_away(workers.pop().unwrap()).await;
        let mut again = Vec::new();
        for (worker, hand) in workers.iter_mut().zip(&hands) {
            for message in hand {
                worker.ack(message).await.unwrap();
            }
        }
        let (first, second) = workers.split_at_mut(1);
        while again.len() < lost.len() {
            let message = tokio::select! {
                message = first[0].message() => message,
                message = second[0].message() => message,
            };
            assert_eq!(message["redelivered"], true, "{message}");
            again.push(id(&message));
        }
        again.sort();
        lost.sort();
        assert_eq!(again, lost);
    });
}

// covers Q04
#[test]
fn a_message_expires_and_one_is_held_back_until_its_time() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        let door = Door::of(mesh.machine("agni"), "worker");
        goes_away(door.must_open(manual()).await).await;
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        accepted(&mut sender, &command("worker", "short", "acked", json!({"ttl_ms": 500}))).await;
        told(&mut sender, "short", "expired").await;

        let began = Instant::now();
        accepted(&mut sender, &command("worker", "later", "accepted", json!({"not_before_ms": 2000}))).await;
        accepted(&mut sender, &command("worker", "now", "accepted", json!({}))).await;
        let mut worker = door.must_open(manual()).await;
        assert_eq!(worker.message().await["id"], "now", "neither the expired one nor the later one");
        assert_eq!(worker.message().await["id"], "later");
        let took = began.elapsed();
        // By the wall clock of another process, in whole milliseconds.
        assert!(took > Duration::from_millis(1995) && took < Duration::from_secs(20), "{took:?}");
    });
}

// covers T05
#[test]
fn a_newer_session_takes_over_what_the_older_one_had_in_hand() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        let mut old = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        accepted(&mut sender, &command("worker", "in-hand", "acked", json!({}))).await;
        assert_eq!(old.message().await["id"], "in-hand");

        let mut new = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        while old.hear().await.is_some() {}
        assert_eq!(old.closed, Some(4409));
        let again = new.message().await;
        assert_eq!((&again["id"], &again["redelivered"]), (&json!("in-hand"), &json!(true)));

        // And the same with an entrance and a home elsewhere.
        let mut newest = Door::of(mesh.machine("dc"), "worker").must_open(manual()).await;
        while new.hear().await.is_some() {}
        assert_eq!(new.closed, Some(4409));
        let again = newest.message().await;
        assert_eq!((&again["id"], &again["redelivered"]), (&json!("in-hand"), &json!(true)));
        newest.ack(&again).await.unwrap();
        told(&mut sender, "in-hand", "acked").await;
    });
}

// covers T04, B19
#[test]
fn a_message_to_an_agent_that_was_never_seen_is_refused_unless_it_is_to_be_created() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        assert_eq!(
            said(&mut sender, command("nobody", "m-1", "accepted", json!({}))).await,
            "unknown_recipient"
        );
        let create = command("nobody", "m-2", "acked", json!({"create": true}));
        assert_eq!(said(&mut sender, create).await, "accepted");
        // It lives elsewhere when it comes.
        let mut nobody = Door::of(mesh.machine("agni"), "nobody").must_open(manual()).await;
        let message = nobody.message().await;
        assert_eq!(message["id"], "m-2");
        nobody.ack(&message).await.unwrap();
        told(&mut sender, "m-2", "acked").await;
    });
}

// covers T04, T09, B27 23
#[test]
fn what_waits_for_an_absent_agent_waits_through_a_kill_of_its_home() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        goes_away(Door::of(mesh.machine("agni"), "worker").must_open(manual()).await).await;
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        for n in 0..20 {
            accepted(&mut sender, &command("worker", &format!("m-{n}"), "stored", json!({}))).await;
            told(&mut sender, &format!("m-{n}"), "stored").await;
        }
        mesh.machine("agni").node.as_mut().unwrap().kill();
        // These wait where they are.
        for n in 20..30 {
            accepted(&mut sender, &command("worker", &format!("m-{n}"), "acked", json!({}))).await;
        }
        mesh.machine("agni").start_node();
        let mut worker = open_when_it_can(&Door::of(mesh.machine("agni"), "worker")).await;
        for n in 0..30 {
            let message = worker.message().await;
            assert_eq!(message["id"], format!("m-{n}"), "in order, across the kill");
            worker.ack(&message).await.unwrap();
        }
        told(&mut sender, "m-29", "acked").await;
    });
}

// covers T04, T09
#[test]
fn what_a_session_got_is_marked_also_when_it_outlives_two_lives_of_its_node() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        let mut worker = Door::of(mesh.machine("agni"), "worker").must_open(manual()).await;
        let mut sender = Door::of(mesh.machine("dc"), "sender").must_open(json!({})).await;
        // The edge stands still while the node starts anew and gets the message: nobody is there for it.
        let agni = mesh.machine("agni");
        agni.edge.as_ref().unwrap().signal("STOP");
        agni.node.as_mut().unwrap().kill();
        agni.start_node();
        // What is sent before may have come to an earlier life of the node.
        until("agni is in the mesh again", || agni.reaches("dc"));
        accepted(&mut sender, &command("worker", "m-1", "stored", json!({}))).await;
        told(&mut sender, "m-1", "stored").await;
        mesh.machine("agni").edge.as_ref().unwrap().signal("CONT");
        let first = worker.message().await;
        assert_eq!((&first["id"], first.get("redelivered")), (&json!("m-1"), None));

        let agni = mesh.machine("agni");
        agni.node.as_mut().unwrap().kill();
        agni.start_node();
        let again = worker.message().await;
        assert_eq!((&again["id"], &again["redelivered"]), (&json!("m-1"), &json!(true)));
    });
}

/// A session at an edge whose node is coming up.
async fn open_when_it_can(door: &Door) -> Wss {
    let began = Instant::now();
    loop {
        if let Some(wss) = door.open(manual()).await {
            return wss;
        }
        assert!(began.elapsed() < crate::harness::PATIENCE, "the edge has no node");
    }
}

// covers B19
#[test]
fn two_programs_that_answer_each_others_every_message_are_stopped() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    run(async {
        let mut one = Door::of(mesh.machine("dc"), "one").must_open(json!({})).await;
        let mut other = Door::of(mesh.machine("agni"), "other").must_open(json!({})).await;
        accepted(&mut one, &command("other", "a-0", "accepted", json!({}))).await;
        let answers = async |wss: &mut Wss, name: &str| {
            for n in 0..5_000u64 {
                let frame = wss.until("the next answer", |frame| frame["type"] != "RECEIPT").await;
                if frame["type"] == "ERROR" {
                    return (n, word(&frame));
                }
                let answer = json!({"type": "RESULT", "to": frame["from"], "id": format!("{name}-{n}"),
                    "reply_to": frame["id"], "payload": "and you?"});
                wss.say(answer).await.unwrap();
            }
            (5_000, "nobody stopped them".into())
        };
        let (rounds, why) = tokio::select! {
            stopped = answers(&mut one, "one") => stopped,
            stopped = answers(&mut other, "other") => stopped,
        };
        assert_eq!(why, "loop_stopped", "after {rounds}");
        assert!(rounds > 100 && rounds < 1_000, "the limit is a thousand answers: {rounds} each");
    });
    until("both nodes are well", || mesh.machines.iter().all(|machine| machine.status().is_some()));
}
