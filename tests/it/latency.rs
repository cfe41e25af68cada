//! How long messages take, as the metrics at their sender's edge say: by the states that he asked to be told of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Machine, Mesh, until};
use crate::wss::{Door, Wss};

const STATES: [&str; 4] = ["accepted", "stored", "delivered", "acked"];
/// How long a recipient takes that is not in a hurry.
const WORK: Duration = Duration::from_millis(300);

/// Of each state how many times there are, or the sum of them in seconds.
fn times(machine: &Machine, what: &str) -> BTreeMap<String, f64> {
    let name = format!("trishula_message_latency_seconds_{what}{{state=\"");
    let text = machine.edge_metrics();
    let rows = text.lines().filter_map(|line| line.strip_prefix(&name)?.split_once("\"} "));
    rows.map(|(state, value)| (state.to_owned(), value.parse().unwrap())).collect()
}

/// What a sender was told.
fn tally(heard: &[String]) -> BTreeMap<String, f64> {
    let of = |state: &str| heard.iter().filter(|heard| *heard == state).count() as f64;
    STATES.map(|state| (state.to_owned(), of(state))).into()
}

/// Says it, and waits until the mesh has said this of it. News of an agent take their time to each node.
async fn wait_for(wss: &mut Wss, mut frame: Value, wish: &str, last: &str, heard: &mut Vec<String>) {
    frame["receipt"] = json!(wish);
    let id = frame["id"].as_str().unwrap().to_owned();
    wss.say(frame.clone()).await.unwrap();
    loop {
        let answer = wss.answer(&id).await;
        let Some(state) = answer["payload"]["state"].as_str() else {
            assert_eq!(answer["payload"]["code"], "unknown_recipient", "{answer}");
            wss.say(frame.clone()).await.unwrap();
            continue;
        };
        heard.push(state.to_owned());
        if state == last {
            return;
        }
    }
}

fn command(to: &str, id: String) -> Value {
    json!({"type": "COMMAND", "to": to, "id": id, "payload": 1})
}

/// Waits for every state, and for the one of what is live or for many.
async fn ask_for_all(sender: &mut Wss, heard: &mut Vec<String>) {
    for (n, wish) in STATES.iter().cycle().take(20).enumerate() {
        wait_for(sender, command("worker", format!("m-{n}")), wish, wish, heard).await;
    }
    let mut live = command("worker", "live".into());
    live["class"] = json!("live");
    wait_for(sender, live, "delivered", "delivered", heard).await;
    let publish = json!({"type": "PUBLISH", "to": "room:deploys", "id": "p-1", "payload": 1});
    wait_for(sender, publish, "acked", "accepted", heard).await;
    // Refused, and so not fast.
    let mut nobody = command("nobody", "n-1".into());
    nobody["receipt"] = json!("acked");
    sender.say(nobody).await.unwrap();
    assert_eq!(sender.answer("n-1").await["payload"]["code"], "unknown_recipient");
}

// covers T22, T07
#[test]
fn every_receipt_that_a_sender_waits_for_counts_with_its_time() {
    let mesh = Mesh::start(&["dc", "agni"]);
    let [dc, agni] = &mesh.machines[..] else { panic!("two machines") };
    assert_eq!(times(dc, "count"), tally(&[]), "all there before the first message");
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut heard = Vec::new();
    let mut sender = clients.block_on(async {
        let mut worker = Door::of(agni, "worker").must_open(json!({})).await;
        let mut sender = Door::of(dc, "sender").must_open(json!({})).await;
        // Its library answers pings, and acknowledges by that.
        let working = async { while worker.hear().await.is_some() {} };
        tokio::select! {
            () = working => panic!("the worker keeps its socket"),
            () = ask_for_all(&mut sender, &mut heard) => {}
        }
        sender
    });
    for (state, count) in STATES.iter().zip([21.0, 15.0, 11.0, 5.0]) {
        assert_eq!(tally(&heard)[*state], count, "{heard:?}");
    }
    assert_eq!(times(dc, "count"), tally(&heard), "each that it heard of, and no other");
    assert_eq!(times(agni, "count"), tally(&[]), "nobody here has sent anything");

    // The time to `acked` is the recipient's as well; that to the states before is not.
    let before = times(dc, "sum");
    clients.block_on(async {
        let mut slow = Door::of(agni, "slow").must_open(json!({"ack": "manual"})).await;
        let working = async {
            let message = slow.message().await;
            tokio::time::sleep(WORK).await;
            slow.ack(&message).await.unwrap();
        };
        tokio::join!(
            working,
            wait_for(&mut sender, command("slow", "w-1".into()), "acked", "acked", &mut heard)
        );
    });
    until("it counts", || times(dc, "count") == tally(&heard));
    let after = times(dc, "sum");
    let took = |state: &str| after[state] - before[state];
    assert!(took("acked") >= WORK.as_secs_f64(), "{before:?} {after:?}");
    for state in &STATES[..3] {
        assert!(took(state) > 0.0 && took(state) < took("acked"), "{before:?} {after:?}");
    }
}
