//! Nodes whose links have the other congestion control, as their configuration says.

use std::fs;

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use trishula::client::{Client, Options, Outgoing};

use crate::harness::{Machine, Mesh, PATIENCE, until};
use crate::wss::{issue, native};

/// Large messages, with small ones between them.
const LARGE: usize = 12;
const SMALL: usize = 3;
/// Of a large one: six MiB in all.
const BYTES: usize = 512 * 1024;

const BBR: &str = "[mesh]\ncongestion = \"bbr\"\n";

/// By what the connection of the machine's one link to a node sends.
fn congestion(machine: &Machine) -> Option<Value> {
    let status = machine.status()?;
    let mut links = status["links"].as_array()?.iter();
    let link = links.find(|link| link["role"] == "node" && link["carrier"] == "quic")?;
    Some(link["congestion"].clone())
}

/// The message with this number: no two are alike.
fn payload(n: usize) -> Value {
    let length = if n.is_multiple_of(SMALL + 1) { BYTES } else { 10 };
    let filling: String = (0..length).map(|i| char::from(b'a' + ((i + n * 7) % 26) as u8)).collect();
    json!({"n": n, "filling": filling})
}

/// Everything is sent at once, and comes whole and in order.
fn send_all(runtime: &Runtime, from: &Client, to: &mut Client) {
    runtime.block_on(async {
        let all = async {
            for n in 0..LARGE * (SMALL + 1) {
                let sent = from.send(from.sender().numbered(Outgoing::command("reader", payload(n)))).await;
                sent.unwrap();
            }
        };
        let read = async {
            for n in 0..LARGE * (SMALL + 1) {
                let next = tokio::time::timeout(PATIENCE, to.next()).await.expect("a message in time");
                let message = next.unwrap();
                assert!(message.read::<Value>().unwrap() == payload(n), "message {n} is another, or damaged");
                to.ack(&message).await.unwrap();
            }
        };
        tokio::join!(all, read);
    });
}

// covers T25, T26
#[test]
fn nodes_that_are_told_to_use_bbr_do_and_bulk_and_small_messages_come_whole_and_in_order() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    for machine in &mut mesh.machines {
        let file = machine.folder.join("node.toml");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("[mesh]\n", BBR)).unwrap();
        machine.start_node();
    }
    mesh.wait_whole();
    for machine in &mesh.machines {
        until("the link is one by QUIC", || congestion(machine).is_some());
        assert_eq!(congestion(machine), Some(json!("bbr")), "{}", machine.name);
    }

    let runtime = Runtime::new().unwrap();
    let open = |name: &str, port: u16| {
        let identity = issue(&mesh.machines[0], name);
        runtime
            .block_on(async { Client::connect(native(&identity, &[port]), Options::default()).await })
            .unwrap()
    };
    let (writer, mut reader) = (open("writer", mesh.base), open("reader", mesh.base + 10));
    let known = || String::from_utf8_lossy(&mesh.machines[0].run(&["agents"]).stdout).contains("reader");
    until("dc knows the reader", known);
    send_all(&runtime, &writer, &mut reader);
    assert_eq!(congestion(&mesh.machines[0]), Some(json!("bbr")));

    // Each end says for itself: a node with nothing in its configuration has the usual one.
    let agni = mesh.machine("agni");
    agni.node.as_mut().unwrap().kill();
    let file = agni.folder.join("node.toml");
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(BBR), "{text}");
    fs::write(&file, text.replace(BBR, "[mesh]\n")).unwrap();
    agni.start_node();
    until("agni has the usual one", || congestion(&mesh.machines[1]) == Some(json!("cubic")));
    until("dc has its own", || congestion(&mesh.machines[0]) == Some(json!("bbr")));
}
