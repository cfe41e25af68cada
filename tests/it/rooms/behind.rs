//! Readers that are behind: they were away for longer than a room's history holds, or do not read at all.

use std::fs;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use super::{ids_until, names, next, publish, runtime, subscribe};
use crate::harness::{Mesh, PATIENCE, until};
use crate::production::{Old, Site, Stage};
use crate::wss::Door;

const SERVICE: &str = "mahavishnu";
const ROOM: &str = "pool:p1";
/// What a history may hold: the bound, and the eighth more before it is cut.
const HISTORY: std::ops::RangeInclusive<u64> = 1000..=1125;
/// More than that.
const MORE: u64 = 1500;

/// What is published while one reader reads nothing: some MB, and more messages than may wait for a session.
const FLOOD: [usize; 2] = [20, 100];
const SIZE: usize = 6000;
/// The others have what was accepted within this. It takes milliseconds where the machine has nothing else to do.
const PROMPT: Duration = Duration::from_secs(5);

/// The next frame, however long a node takes to start.
async fn patiently(client: &mut Old) -> Value {
    let heard = timeout(PATIENCE, async {
        loop {
            match client.socket.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a frame was expected, and this came: {other:?}"),
            }
        }
    });
    heard.await.expect("nothing came")
}

/// Everything of the room up to this number, each behind the one before it; answers the first.
async fn read_to(client: &mut Old, last: u64) -> u64 {
    let (mut first, mut before) = (None, None);
    while before != Some(last) {
        let frame = patiently(client).await;
        // In the envelope, or around it.
        let n = frame["data"]["n"].as_u64().or(frame["payload"]["data"]["n"].as_u64());
        let n = n.unwrap_or_else(|| panic!("an event was expected, and this came: {frame}"));
        assert!(before.is_none_or(|before| n == before + 1), "{n} behind {before:?}");
        first.get_or_insert(n);
        before = Some(n);
    }
    first.unwrap()
}

/// Publishes these, and waits until the mesh has the last.
async fn feed(service: &mut Old, numbers: std::ops::RangeInclusive<u64>) {
    let last = *numbers.end();
    for n in numbers {
        let payload = json!({"event": "pool.scaled", "data": {"n": n}});
        let mut frame = json!({"type": "PUBLISH", "to": format!("room:{ROOM}"), "id": format!("e-{n}"), "payload": payload});
        if n == last {
            frame["receipt"] = json!("accepted");
        }
        service.say(frame).await;
    }
    assert_eq!(service.next("RECEIPT").await["payload"]["state"], "accepted");
}

/// A reader of our own protocol, and what it was told.
async fn reader(site: &Site, agent: &str, payload: Value) -> (Old, Value) {
    let mut reader = site.ours(agent, &["pool:read"], json!({})).await;
    reader.say(json!({"type": "SUBSCRIBE", "to": format!("room:{ROOM}"), "payload": payload})).await;
    let said = reader.next("SUBSCRIBED").await;
    (reader, said["payload"].clone())
}

// covers B06, B07, B08, Q02
#[test]
fn who_comes_back_after_more_than_the_history_holds_is_told_so() {
    let mut stage = Stage::start(&["dc", "agni"], &[SERVICE], "message_rate_limit = 0\n");
    let (here, there) = (stage.site("dc", SERVICE), stage.site("agni", SERVICE));
    let clients = runtime();
    let (mut service, mut old, mut stays, cursor) = clients.block_on(async {
        let mut service = there.ours("service", &[], json!({})).await;
        let mut old = here.greeted("u1", &["pool:read"]).await;
        old.must_subscribe(ROOM).await;
        let (mut stays, said) = reader(&here, "stays", json!({})).await;
        assert_eq!(said["recovered"], true, "{said}");
        let (mut goes, _) = reader(&here, "goes", json!({})).await;
        feed(&mut service, 0..=0).await;
        assert_eq!((read_to(&mut old, 0).await, read_to(&mut stays, 0).await), (0, 0));
        let cursor = goes.next("STATUS").await["cursor"].clone();
        goes.leave().await;
        (service, old, stays, cursor)
    });
    // The edge has no other node, and all its clients are away with it.
    stage.machine("dc").node.as_mut().unwrap().kill();
    clients.block_on(feed(&mut service, 1..=MORE));
    stage.machine("dc").start_node();
    clients.block_on(async {
        let in_the_envelope = async {
            let told = patiently(&mut old).await;
            assert_eq!(
                (&told["type"], &told["event"]),
                (&json!("event"), &json!("subscription.missed")),
                "{told}"
            );
            assert_eq!(told["data"], json!({"channel": ROOM, "recovered": false}), "{told}");
            read_to(&mut old, MORE).await
        };
        let in_our_own = async {
            let told = patiently(&mut stays).await;
            assert_eq!((&told["type"], &told["reply_to"]), (&json!("SUBSCRIBED"), &Value::Null), "{told}");
            assert_eq!(told["payload"]["recovered"], false, "{told}");
            read_to(&mut stays, MORE).await
        };
        let (envelope, own) = tokio::join!(in_the_envelope, in_our_own);
        for first in [envelope, own] {
            assert!(HISTORY.contains(&(MORE + 1 - first)), "all that is left, and it begins at {first}");
        }
        let wish = json!({"cursor": cursor});
        let (mut goes, said) = reader(&here, "goes", wish).await;
        assert_eq!(said["recovered"], false, "{said}");
        let first = read_to(&mut goes, MORE).await;
        assert_eq!(said["missed"], MORE + 1 - first, "{said}");
        assert!(HISTORY.contains(&(MORE + 1 - first)), "{first}");
        feed(&mut service, MORE + 1..=MORE + 1).await;
        for client in [&mut old, &mut stays, &mut goes] {
            assert_eq!(read_to(client, MORE + 1).await, MORE + 1, "it goes on, and nothing is told again");
        }
    });
}

// covers B07, B08
#[test]
fn a_reader_that_reads_nothing_holds_up_no_other() {
    let mut mesh = Mesh::init(&["dc"]);
    let machine = mesh.machine("dc");
    let path = machine.folder.join("edge.toml");
    // Time for the slow one to hear why, once it reads.
    let text = fs::read_to_string(&path).unwrap();
    let text = text.replacen("[[service]]\n", "[[service]]\nclose_timeout_s = 60\n", 1);
    assert!(text.contains("close_timeout_s"), "{text}");
    fs::write(path, text).unwrap();
    machine.start_node();
    machine.start_edge();
    mesh.wait_whole();
    let machine = &mesh.machines[0];
    let [windows, of_each] = FLOOD;
    runtime().block_on(async {
        let mut writer = Door::of(machine, "writer").must_open(json!({})).await;
        let mut readers = Vec::new();
        for agent in ["one", "slow", "two"] {
            let mut reader = Door::of(machine, agent).must_open(json!({})).await;
            subscribe(&mut reader, "deploys", json!({})).await;
            readers.push(reader);
        }
        let [mut one, mut slow, mut two] = <[_; 3]>::try_from(readers).unwrap();
        let text = "x".repeat(SIZE);
        for window in 0..windows {
            let ids = names("p", window * of_each..(window + 1) * of_each);
            let last = ids.last().unwrap();
            for id in &ids {
                let mut frame = json!({"type": "PUBLISH", "to": "room:deploys", "id": id, "payload": text});
                if id == last {
                    frame["receipt"] = json!("accepted");
                }
                writer.say(frame).await.unwrap();
            }
            let answer = writer.answer(last).await;
            assert_eq!(answer["payload"]["state"], "accepted", "{answer}");
            let accepted = Instant::now();
            let (first, second) = tokio::join!(ids_until(&mut one, last), ids_until(&mut two, last));
            assert!(accepted.elapsed() < PROMPT, "{:?} until both had {last}", accepted.elapsed());
            assert_eq!((first.0, second.0), (ids.clone(), ids), "everything, in order");
        }
        // It reads at last: what was on its way to it, and why there is no more.
        let (mut got, mut cursor) = (Vec::new(), Value::Null);
        while let Some(frame) = timeout(PATIENCE, slow.hear()).await.expect("its end") {
            got.push(frame["id"].as_str().unwrap().to_owned());
            cursor = frame["cursor"].clone();
        }
        assert_eq!(slow.closed, Some(4008), "behind {} messages", got.len());
        assert!(!got.is_empty() && got.len() < windows * of_each, "{}", got.len());
        assert_eq!(got, names("p", 0..got.len()));
        // It may come back where it was. There is less left by now than it has missed.
        let mut slow = Door::of(machine, "slow").must_open(json!({})).await;
        let said = subscribe(&mut slow, "deploys", json!({"cursor": cursor})).await;
        assert_eq!(said["payload"]["recovered"], false, "{said}");
        publish(&mut writer, "deploys", "last").await;
        let left = ids_until(&mut slow, "last").await.0;
        assert_eq!(left.len() as u64, said["payload"]["missed"].as_u64().unwrap() + 1);
        for reader in [&mut one, &mut two] {
            assert_eq!(next(reader, "STATUS").await["id"], "last");
        }
    });
    let closed = "trishula_sessions_closed_total{code=\"4008\",gateway=\"wss\"} 1\n";
    until("one session counts as closed for it", || machine.edge_metrics().contains(closed));
}
