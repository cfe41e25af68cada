//! Rooms, with clients that know no more of them than section 10 of docs/protocol.md.

mod behind;
mod old;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::time::timeout;

use crate::harness::udp_path::UdpPath;
use crate::harness::{Machine, Mesh, PATIENCE, until};
use crate::wss::{Door, Wss};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// The next frame of a type; others are passed over.
async fn next(wss: &mut Wss, kind: &str) -> Value {
    let heard = timeout(PATIENCE, async {
        loop {
            let frame = wss.hear().await.expect("the socket is open");
            if frame["type"] == kind {
                return frame;
            }
        }
    });
    heard.await.unwrap_or_else(|_| panic!("no {kind} came"))
}

async fn subscribe(wss: &mut Wss, room: &str, payload: Value) -> Value {
    let frame = json!({"type": "SUBSCRIBE", "to": format!("room:{room}"), "id": "s", "payload": payload});
    wss.say(frame).await.unwrap();
    next(wss, "SUBSCRIBED").await
}

async fn publish(wss: &mut Wss, room: &str, id: &str) {
    let frame = json!({"type": "PUBLISH", "to": format!("room:{room}"), "id": id, "receipt": "accepted", "payload": {"n": id}});
    wss.say(frame).await.unwrap();
    let receipt = next(wss, "RECEIPT").await;
    assert_eq!((&receipt["payload"]["state"], &receipt["reply_to"]), (&json!("accepted"), &json!(id)));
}

// covers B07
#[test]
fn a_room_at_one_edge_is_subscribed_to_published_in_and_asked_about() {
    let mut mesh = Mesh::start(&["dc"]);
    let machine = mesh.machine("dc");
    let (reader, writer) = (Door::of(machine, "reader"), Door::of(machine, "writer"));
    runtime().block_on(async {
        let mut reader = reader.must_open(json!({})).await;
        let mut writer = writer.must_open(json!({})).await;
        let said = subscribe(&mut reader, "deploys", json!({"presence": true})).await;
        assert_eq!(said["reply_to"], "s");
        assert_eq!(said["payload"]["room"], "deploys");
        assert_eq!(said["payload"]["recovered"], true);
        assert_eq!(said["payload"]["members"], json!(["reader"]));
        publish(&mut writer, "deploys", "p-1").await;
        publish(&mut writer, "deploys", "p-1").await;
        publish(&mut writer, "deploys", "p-2").await;
        let first = next(&mut reader, "STATUS").await;
        assert_eq!(
            (&first["id"], &first["from"], &first["to"]),
            (&json!("p-1"), &json!("writer"), &json!("room:deploys"))
        );
        let second = next(&mut reader, "STATUS").await;
        assert_eq!(second["id"], "p-2", "the one that was sent twice came once");
        let said = subscribe(&mut writer, "deploys", json!({"cursor": first["cursor"]})).await;
        assert_eq!((&said["payload"]["missed"], &said["payload"]["recovered"]), (&json!(1), &json!(true)));
        assert_eq!(next(&mut writer, "STATUS").await["id"], "p-2");
        let joined = next(&mut reader, "PRESENCE").await;
        assert_eq!(joined["payload"], json!({"room": "deploys", "event": "joined", "agent": "writer"}));
        writer
            .say(json!({"type": "HISTORY", "to": "room:deploys", "id": "h", "payload": {"limit": 1}}))
            .await
            .unwrap();
        let history = next(&mut writer, "HISTORY").await;
        assert_eq!(history["payload"]["messages"][0]["id"], "p-2");
        assert_eq!((&history["payload"]["complete"], &history["reply_to"]), (&json!(false), &json!("h")));
        let older = json!({"limit": 5, "before": history["payload"]["cursor"]});
        writer.say(json!({"type": "HISTORY", "to": "room:deploys", "payload": older})).await.unwrap();
        let history = next(&mut writer, "HISTORY").await;
        assert_eq!(history["payload"]["messages"].as_array().unwrap().len(), 1);
        assert_eq!(
            (&history["payload"]["messages"][0]["id"], &history["payload"]["complete"]),
            (&json!("p-1"), &json!(true))
        );
        writer.say(json!({"type": "UNSUBSCRIBE", "to": "room:deploys"})).await.unwrap();
        assert_eq!(next(&mut writer, "UNSUBSCRIBED").await["payload"], json!({"room": "deploys"}));
        let left = next(&mut reader, "PRESENCE").await;
        assert_eq!(left["payload"], json!({"room": "deploys", "event": "left", "agent": "writer"}));
        writer.say(json!({"type": "PRESENCE", "to": "room:deploys"})).await.unwrap();
        let members = next(&mut writer, "PRESENCE").await;
        assert_eq!(members["payload"], json!({"room": "deploys", "members": ["reader"], "complete": true}));
    });
}

/// Waits until these are the room's members for this client's node.
async fn members(wss: &mut Wss, expected: &[&str]) {
    let asked = async {
        loop {
            wss.say(json!({"type": "PRESENCE", "to": "room:deploys"})).await.unwrap();
            if next(wss, "PRESENCE").await["payload"]["members"] == json!(expected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(20), asked).await.unwrap_or_else(|_| panic!("{expected:?} are not there"));
}

/// Everything of a room that a reader gets, until it has heard of a publish.
async fn ids_until(wss: &mut Wss, last: &str) -> (Vec<String>, Vec<String>) {
    let (mut ids, mut cursors) = (Vec::new(), Vec::new());
    while ids.last().is_none_or(|id| id != last) {
        let frame = next(wss, "STATUS").await;
        ids.push(frame["id"].as_str().unwrap().to_owned());
        cursors.push(frame["cursor"].as_str().unwrap().to_owned());
    }
    (ids, cursors)
}

/// Publishes until some node accepts it: with the same id, as what was on its way to a node that died has no answer.
async fn publish_at_last(wss: &mut Wss, id: &str) -> String {
    let frame =
        json!({"type": "PUBLISH", "to": "room:deploys", "id": id, "receipt": "accepted", "payload": 1});
    loop {
        wss.say(frame.clone()).await.expect("the socket is kept");
        let answer = timeout(Duration::from_millis(500), wss.answer(id)).await;
        match answer {
            Ok(answer) if answer["type"] == "RECEIPT" => {
                return answer["payload"]["node"].as_str().unwrap().to_owned();
            }
            Ok(answer) => assert_eq!(answer["payload"]["retry"], true, "{answer}"),
            Err(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn names(prefix: &str, range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| format!("{prefix}-{n}")).collect()
}

// covers B07
#[test]
fn a_publish_at_one_edge_reaches_readers_at_others_and_history_is_at_every_node() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    let doors: Vec<Door> =
        ["dc", "agni", "rushabdev"].map(|name| Door::of(mesh.machine(name), &format!("at-{name}"))).into();
    runtime().block_on(async {
        let mut dc = doors[0].must_open(json!({})).await;
        let mut agni = doors[1].must_open(json!({})).await;
        subscribe(&mut dc, "deploys", json!({})).await;
        // Who reads at another node is heard of once the nodes are linked.
        members(&mut agni, &["at-dc"]).await;
        let said = subscribe(&mut agni, "deploys", json!({"presence": true})).await;
        assert_eq!(said["payload"]["members"], json!(["at-agni", "at-dc"]), "{said}");
        for id in names("a", 0..5) {
            publish(&mut dc, "deploys", &id).await;
        }
        let (ids, cursors) = ids_until(&mut agni, "a-4").await;
        assert_eq!(ids, names("a", 0..5));
        // One that was never there resumes where another one stood, at a node that has not kept the room so far.
        let mut late = doors[2].must_open(json!({})).await;
        let said = subscribe(&mut late, "deploys", json!({"cursor": cursors[1]})).await;
        assert_eq!(
            (&said["payload"]["recovered"], &said["payload"]["missed"]),
            (&json!(true), &json!(3)),
            "{said}"
        );
        assert_eq!(ids_until(&mut late, "a-4").await.0, names("a", 2..5));
        let joined = next(&mut agni, "PRESENCE").await;
        assert_eq!(
            (&joined["payload"]["event"], &joined["payload"]["agent"]),
            (&json!("joined"), &json!("at-rushabdev"))
        );
        late.say(json!({"type": "HISTORY", "to": "room:deploys", "id": "h"})).await.unwrap();
        let history = next(&mut late, "HISTORY").await;
        assert_eq!(history["payload"]["messages"].as_array().unwrap().len(), 5);
    });
}

// covers B07, Q02, B27 23
#[test]
fn clients_of_a_node_that_is_killed_and_started_again_notice_nothing() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let clients = runtime();
    let open =
        |machine: &Machine, agent: &str| clients.block_on(Door::of(machine, agent).must_open(json!({})));
    let mut reader = open(mesh.machine("dc"), "reader");
    let mut here = open(mesh.machine("dc"), "here");
    let mut there = open(mesh.machine("agni"), "there");
    clients.block_on(async {
        subscribe(&mut reader, "deploys", json!({})).await;
        publish_at_last(&mut there, "a-0").await;
        publish_at_last(&mut here, "b-0").await;
    });
    mesh.machine("dc").node.as_mut().unwrap().kill();
    clients.block_on(async {
        for id in names("a", 1..5) {
            publish_at_last(&mut there, &id).await;
        }
    });
    mesh.machine("dc").start_node();
    clients.block_on(async {
        // Its own node goes on as well.
        publish_at_last(&mut here, "b-1").await;
        publish_at_last(&mut there, "a-5").await;
        let mut got = Vec::new();
        while !["a-5", "b-1"].iter().all(|id| got.contains(&(*id).to_owned())) {
            let frame = reader.hear().await.expect("the reader keeps its socket");
            assert_ne!(frame["type"], "SUBSCRIBED", "it is not told, as nothing is missing");
            if frame["type"] == "STATUS" {
                got.push(frame["id"].as_str().unwrap().to_owned());
            }
        }
        let of = |prefix: &str| got.iter().filter(|id| id.starts_with(prefix)).cloned().collect::<Vec<_>>();
        assert_eq!((of("a"), of("b")), (names("a", 0..6), names("b", 0..2)), "each once, in order: {got:?}");
    });
}

// covers B07, Q02, B27 23
#[test]
fn readers_of_an_edge_that_is_killed_resume_by_cursor_at_another() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let clients = runtime();
    let here = Door::of(mesh.machine("dc"), "reader");
    let there = Door::of(mesh.machine("agni"), "reader");
    let writer = Door::of(mesh.machine("agni"), "writer");
    let mut writer = clients.block_on(writer.must_open(json!({})));
    let cursor = clients.block_on(async {
        let mut reader = here.must_open(json!({})).await;
        subscribe(&mut reader, "deploys", json!({})).await;
        for id in names("a", 0..3) {
            publish(&mut writer, "deploys", &id).await;
        }
        ids_until(&mut reader, "a-2").await.1.remove(1)
    });
    mesh.machine("dc").edge.as_mut().unwrap().kill();
    clients.block_on(async {
        for id in names("a", 3..6) {
            publish(&mut writer, "deploys", &id).await;
        }
        let mut reader = there.must_open(json!({})).await;
        let said = subscribe(&mut reader, "deploys", json!({"cursor": cursor})).await;
        assert_eq!(said["payload"]["recovered"], true, "{said}");
        assert_eq!(ids_until(&mut reader, "a-5").await.0, names("a", 2..6));
    });
    mesh.machine("dc").start_edge();
    clients.block_on(async {
        let mut reader = None;
        while reader.is_none() {
            reader = here.open(json!({})).await;
        }
        let mut reader = reader.unwrap();
        let said = subscribe(&mut reader, "deploys", json!({"cursor": cursor})).await;
        assert_eq!(said["payload"]["recovered"], true, "{said}");
        assert_eq!(ids_until(&mut reader, "a-5").await.0, names("a", 2..6));
    });
}

// covers B07
#[test]
fn two_sides_of_a_cut_go_on_and_both_have_everything_when_it_heals() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    let port = |i: usize| format!("127.0.0.1:{}", mesh.base + 10 * i as u16);
    let paths = [0, 1].map(|i| UdpPath::to(port(i).parse().unwrap()));
    for (i, name) in ["dc", "agni"].into_iter().enumerate() {
        let file = mesh.folder.path().join(name).join("node.toml");
        let mut text = fs::read_to_string(&file).unwrap();
        for (key, of) in [("advertise", i), ("addresses", 1 - i)] {
            let through = format!("{key} = [\"{}\"]", paths[of].address);
            text = text.replace(&format!("{key} = [\"{}\"]", port(of)), &through);
            assert!(text.contains(&through), "{text}");
        }
        fs::write(&file, text).unwrap();
    }
    for machine in &mut mesh.machines {
        machine.start_node();
        machine.start_edge();
    }
    mesh.wait_whole();
    let clients = runtime();
    let open =
        |machine: &Machine, agent: &str| clients.block_on(Door::of(machine, agent).must_open(json!({})));
    let mut readers = ["dc", "agni"].map(|name| open(mesh.machine(name), &format!("reader-{name}")));
    let mut writers = ["dc", "agni"].map(|name| open(mesh.machine(name), &format!("writer-{name}")));
    clients.block_on(async {
        for reader in &mut readers {
            subscribe(reader, "deploys", json!({})).await;
        }
        for (writer, side) in writers.iter_mut().zip(["a", "b"]) {
            publish_at_last(writer, &format!("{side}-0")).await;
        }
    });
    paths.iter().for_each(|path| path.set_open(false));
    until("dc is cut off", || !mesh.machine("dc").reaches("agni") && !mesh.machine("agni").reaches("dc"));
    clients.block_on(async {
        for (writer, side) in writers.iter_mut().zip(["a", "b"]) {
            for id in names(side, 1..4) {
                assert!(["dc", "agni"].contains(&&*publish_at_last(writer, &id).await));
            }
        }
    });
    paths.iter().for_each(|path| path.set_open(true));
    mesh.wait_whole();
    clients.block_on(async {
        for reader in &mut readers {
            let mut got: Vec<String> = Vec::new();
            while got.len() < 8 {
                let frame = reader.hear().await.expect("the reader keeps its socket");
                assert_ne!(frame["type"], "SUBSCRIBED", "nothing is missing");
                if frame["type"] == "STATUS" {
                    got.push(frame["id"].as_str().unwrap().to_owned());
                }
            }
            for side in ["a", "b"] {
                let of: Vec<String> = got.iter().filter(|id| id.starts_with(side)).cloned().collect();
                assert_eq!(of, names(side, 0..4), "each once, in order: {got:?}");
            }
        }
    });
}

// covers B07
#[test]
fn the_command_line_publishes_and_subscribes() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let dc = mesh.machine("dc");
    for n in 1..=2 {
        let done = dc.run(&["publish", "deploys", &format!("{{\"step\":{n}}}"), "--id", &format!("p-{n}")]);
        let (out, error) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success() && out.contains("accepted in deploys at node dc"), "{out} {error}");
    }
    let agni = mesh.machine("agni");
    let read = agni.run(&["subscribe", "deploys", "--history", "5", "--count", "2"]);
    let out = String::from_utf8_lossy(&read.stdout).into_owned();
    assert_eq!(out, "dc.cli STATUS (p-1): {\"step\":1}\ndc.cli STATUS (p-2): {\"step\":2}\n");
    let read = agni.run(&["subscribe", "deploys", "--history", "2", "--count", "1", "--json"]);
    let frame: Value = serde_json::from_slice(&read.stdout).unwrap();
    let cursor = frame["cursor"].as_str().unwrap();
    let read = agni.run(&["subscribe", "deploys", "--cursor", cursor, "--count", "1"]);
    assert_eq!(String::from_utf8_lossy(&read.stdout), "dc.cli STATUS (p-2): {\"step\":2}\n");
    let read = agni.run(&["subscribe", "deploys", "--cursor", "nonsense"]);
    assert!(!read.status.success());
    assert!(String::from_utf8_lossy(&read.stderr).contains("cursor"), "it says what is wrong");
}

// covers B02, B07
#[test]
fn a_room_takes_as_many_agents_as_its_service_says() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    for machine in &mut mesh.machines {
        let path = machine.folder.join("edge.toml");
        let text = fs::read_to_string(&path).unwrap();
        let text = text.replacen("[[service]]\n", "[[service]]\nmax_users_per_room = 2\n", 1);
        assert!(text.contains("max_users_per_room"), "{text}");
        fs::write(path, text).unwrap();
        machine.start_node();
        machine.start_edge();
    }
    mesh.wait_whole();
    let doors = [("dc", "one"), ("agni", "two"), ("dc", "three")]
        .map(|(machine, agent)| Door::of(mesh.machine(machine), agent));
    runtime().block_on(async {
        let mut one = doors[0].must_open(json!({})).await;
        let mut two = doors[1].must_open(json!({})).await;
        let mut three = doors[2].must_open(json!({})).await;
        subscribe(&mut one, "deploys", json!({"presence": true})).await;
        subscribe(&mut two, "deploys", json!({})).await;
        let joined = next(&mut one, "PRESENCE").await;
        assert_eq!(joined["payload"]["agent"], "two", "dc has heard of it");
        let wish = json!({"type": "SUBSCRIBE", "to": "room:deploys", "id": "s-3"});
        three.say(wish.clone()).await.unwrap();
        let refused = next(&mut three, "ERROR").await;
        assert_eq!(
            (&refused["reply_to"], &refused["payload"]["code"]),
            (&json!("s-3"), &json!("unavailable"))
        );
        subscribe(&mut one, "deploys", json!({"history": 1})).await;
        subscribe(&mut three, "builds", json!({})).await;
        two.say(json!({"type": "UNSUBSCRIBE", "to": "room:deploys"})).await.unwrap();
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            three.say(wish.clone()).await.unwrap();
            let answer = timeout(PATIENCE, three.answer("s-3")).await.unwrap();
            if answer["type"] == "SUBSCRIBED" {
                break;
            }
            assert_eq!(answer["payload"]["code"], "unavailable", "{answer}");
            assert!(tokio::time::Instant::now() < until, "two has left, and there is room");
        }
    });
}
