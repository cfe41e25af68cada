//! What an operator allows, through the sockets of clients: whoever reaches a limit is told which and why, and nobody else
//! notices anything.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use super::{accepted, command, goes_away, manual, run, said, told, word};
use crate::harness::{Machine, Mesh, PATIENCE, until};
use crate::wss::{Door, Wss};

/// One machine with these lines in `[limits]`.
fn limited(limits: &str) -> Mesh {
    let mut mesh = Mesh::init(&["agni"]);
    let agni = mesh.machine("agni");
    let config = fs::read_to_string(agni.config()).unwrap();
    fs::write(agni.config(), format!("{config}\n[limits]\n{limits}\n")).unwrap();
    agni.start_node();
    agni.start_edge();
    mesh.wait_whole();
    mesh
}

/// Registers an agent, which then goes away.
async fn away(machine: &Machine, agent: &str) {
    goes_away(Door::of(machine, agent).must_open(manual()).await).await;
}

/// Sends it, and hears the refusal: its code and its sentence.
async fn refused(wss: &mut Wss, frame: Value) -> (String, String) {
    let id = frame["id"].as_str().unwrap().to_owned();
    wss.say(frame).await.unwrap();
    let answer = wss.answer(&id).await;
    assert_eq!(answer["type"], "ERROR", "{answer}");
    (word(&answer), answer["payload"]["message"].as_str().unwrap().to_owned())
}

fn to_worker(n: usize, more: Value) -> Value {
    command("worker", &format!("m-{n}"), "accepted", more)
}

// covers Q04, Q06
#[test]
fn a_full_mailbox_refuses_its_senders_until_there_is_room_and_other_mailboxes_take_theirs() {
    let mut mesh = limited("mailbox_messages = 10");
    run(async {
        let agni = mesh.machine("agni");
        away(agni, "worker").await;
        away(agni, "other").await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        for n in 1..=10 {
            accepted(&mut sender, &to_worker(n, json!({}))).await;
        }
        let (code, why) = refused(&mut sender, to_worker(11, json!({}))).await;
        assert!(code == "mailbox_full" && why.contains("10 messages wait"), "{code}: {why}");
        let mut stranger = Door::of(agni, "stranger").must_open(json!({})).await;
        assert_eq!(refused(&mut stranger, to_worker(1, json!({}))).await.0, "mailbox_full");
        accepted(&mut sender, &command("other", "o-1", "accepted", json!({}))).await;
        let limits = agni.status().unwrap()["durable"]["limits"].clone();
        let row = limits.as_array().unwrap().iter().find(|row| row["key"] == "mailbox_messages").cloned();
        let row = row.unwrap();
        assert!(row.to_string().contains("10") && row.to_string().contains("worker"), "{row}");

        let mut worker = Door::of(agni, "worker").must_open(manual()).await;
        for n in 1..=10 {
            let message = worker.message().await;
            assert_eq!(message["id"], format!("m-{n}"), "what was refused is not there");
            worker.ack(&message).await.unwrap();
        }
        // The same message as before: it was never accepted.
        let began = Instant::now();
        loop {
            match said(&mut sender, to_worker(11, json!({}))).await.as_str() {
                "accepted" => break,
                "mailbox_full" if began.elapsed() < PATIENCE => {}
                other => panic!("{other}"),
            }
        }
        assert_eq!(worker.message().await["id"], "m-11");
    });
}

// covers T07, Q04
#[test]
fn of_more_receipts_than_are_kept_for_an_absent_sender_the_oldest_go_and_can_still_be_asked_for() {
    let mut mesh = limited("receipts_of_sender = 10");
    run(async {
        let agni = mesh.machine("agni");
        away(agni, "worker").await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        for n in 1..=12 {
            let frame = command("worker", &format!("m-{n}"), "acked", json!({}));
            accepted(&mut sender, &frame).await;
            told(&mut sender, &format!("m-{n}"), "stored").await;
        }
        goes_away(sender).await;
        let is_away = || {
            let agents = agni.run(&["agents", "--json"]).stdout;
            let agents: Value = serde_json::from_slice(&agents).unwrap();
            let row = agents.as_array().unwrap().iter().find(|row| row["agent"] == "trishula/sender");
            row.is_some_and(|row| row["online"] == false)
        };
        until("the node knows that the sender is away", is_away);
        let mut worker = Door::of(agni, "worker").must_open(manual()).await;
        for _ in 1..=12 {
            let message = worker.message().await;
            worker.ack(&message).await.unwrap();
        }
        let durable = || agni.status().unwrap()["durable"].clone();
        until("all are done with", || durable()["mailbox"] == 0);
        assert_eq!(durable()["untold"], 10);

        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        let mut ids = Vec::new();
        while ids.len() < 10 {
            // The states before it may be told as well.
            let acked = |frame: &Value| frame["type"] == "RECEIPT" && word(frame) == "acked";
            let receipt = sender.until("a receipt", acked).await;
            ids.push(receipt["reply_to"].as_str().unwrap().to_owned());
        }
        assert_eq!(ids, (3..=12).map(|n| format!("m-{n}")).collect::<Vec<_>>());
        sender.say(json!({"type": "QUERY", "id": "q", "payload": {"message": "m-1"}})).await.unwrap();
        let state = sender.answer("q").await;
        assert_eq!((&state["type"], &state["payload"]["state"]), (&json!("STATE"), &json!("acked")));
    });
}

// covers Q05, Q06
#[test]
fn a_sender_that_floods_one_recipient_is_braked_and_other_pairs_are_not() {
    let mut mesh = limited("pair_per_second = 1\npair_burst = 5");
    run(async {
        let agni = mesh.machine("agni");
        let mut worker = Door::of(agni, "worker").must_open(json!({})).await;
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        const SENT: usize = 60;
        for n in 0..SENT {
            sender.say(to_worker(n, json!({}))).await.unwrap();
        }
        let mut taken = Vec::new();
        let mut braked = 0;
        while taken.len() + braked < SENT {
            let answer = sender.until("an answer", |frame| frame["from"] == "mesh").await;
            match word(&answer).as_str() {
                "accepted" => taken.push(answer["reply_to"].clone()),
                "rate_limited" => {
                    let why = answer["payload"]["message"].as_str().unwrap();
                    assert!(why.contains("more than 1 messages a second"), "{why}");
                    braked += 1;
                }
                other => panic!("{other}: {answer}"),
            }
        }
        assert!(taken.len() >= 5 && braked > 0, "{} taken, {braked} braked", taken.len());
        for id in &taken {
            assert_eq!(worker.message().await["id"], *id, "what was taken comes, and nothing else");
        }
        let mut other = Door::of(agni, "other").must_open(json!({})).await;
        accepted(&mut other, &to_worker(1, json!({}))).await;
        accepted(&mut sender, &command("other", "o-1", "accepted", json!({}))).await;
        let began = Instant::now();
        while said(&mut sender, to_worker(SENT, json!({}))).await != "accepted" {
            assert!(began.elapsed() < PATIENCE, "a second later one more may pass");
        }
    });
}

// covers T06, Q06
#[test]
fn a_broadcast_to_more_agents_than_is_allowed_is_refused_whole() {
    let mut mesh = limited("broadcast_recipients = 2");
    run(async {
        let agni = mesh.machine("agni");
        let mut sender = Door::of(agni, "sender").must_open(json!({})).await;
        let mut others = Vec::new();
        for name in ["one", "two", "three"] {
            others.push(Door::of(agni, name).must_open(json!({})).await);
        }
        let to_all = |id: &str| command("broadcast", id, "accepted", json!({}));
        let (code, why) = refused(&mut sender, to_all("b-1")).await;
        assert!(code == "rate_limited" && why.contains("more than 2 agents"), "{code}: {why}");
        accepted(&mut sender, &command("three", "m-1", "accepted", json!({}))).await;
        assert_eq!(others[2].message().await["id"], "m-1", "nobody got the broadcast");

        others[2].say(json!({"type": "UNREGISTER", "id": "u"})).await.unwrap();
        others[2].until("it is unregistered", |frame| frame["type"] == "UNREGISTERED").await;
        let began = Instant::now();
        while said(&mut sender, to_all("b-2")).await != "accepted" {
            assert!(began.elapsed() < PATIENCE, "two agents are left");
        }
        for other in &mut others[..2] {
            assert_eq!(other.message().await["id"], "b-2");
        }
    });
}

// covers B19, Q06
#[test]
fn answers_to_answers_end_at_the_depth_that_is_allowed_and_new_messages_pass() {
    let mut mesh = limited("reply_depth = 2");
    run(async {
        let agni = mesh.machine("agni");
        let mut one = Door::of(agni, "one").must_open(json!({})).await;
        let mut other = Door::of(agni, "other").must_open(json!({})).await;
        let answer = |to: &str, id: &str, reply_to: &str| json!({"type": "RESULT", "to": to, "id": id, "reply_to": reply_to, "receipt": "accepted"});
        accepted(&mut one, &command("other", "a-0", "accepted", json!({}))).await;
        accepted(&mut other, &answer("one", "a-1", "a-0")).await;
        accepted(&mut one, &answer("other", "a-2", "a-1")).await;
        let (code, why) = refused(&mut other, answer("one", "a-3", "a-2")).await;
        assert!(code == "loop_stopped" && why.contains("are in a loop"), "{code}: {why}");
        accepted(&mut other, &command("one", "b-0", "accepted", json!({}))).await;
    });
}

// covers B19, Q05, Q06
#[test]
fn rings_and_live_answers_and_answers_to_everybody_end_at_the_depth_that_is_allowed() {
    let mut mesh = limited("reply_depth = 6");
    run(async {
        let agni = mesh.machine("agni");
        for (names, class, everybody) in [
            (&["ring-a", "ring-b", "ring-c"][..], "durable", false),
            (&["live-a", "live-b"][..], "live", false),
            (&["all-a", "all-b"][..], "durable", true),
            (&["now-a", "now-b"][..], "live", true),
        ] {
            let mut clients = Vec::new();
            for name in names {
                clients.push(Door::of(agni, name).must_open(json!({})).await);
            }
            let mut answered = Value::Null;
            for n in 0..8 {
                let (at, next) = (n % names.len(), (n + 1) % names.len());
                let id = format!("{}-{n}", names[at]);
                let to = if everybody { "broadcast" } else { names[next] };
                let frame =
                    json!({"type": "RESULT", "to": to, "id": id, "reply_to": answered, "class": class});
                clients[at].say(frame).await.unwrap();
                if n == 7 {
                    assert_eq!(word(&clients[at].answer(&id).await), "loop_stopped", "{names:?}");
                    break;
                }
                clients[next].until(&id, |frame| frame["id"] == id.as_str()).await;
                answered = id.into();
            }
        }
    });
}
