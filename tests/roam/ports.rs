//! The ports of an edge as it is laid out: 443 and 8765, one service on both.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::json;
use trishula_wan::inside;

use crate::harness::PATIENCE;
use crate::place::{EDGE_PORT, Family, World};
use crate::wss::{Socket, hear, registered_at, say};

/// The port of the old mesh.
const OLD_PORT: u16 = 8765;

/// Waits until this client's node knows so many agents.
async fn knows(client: &mut Socket, agents: usize) {
    let began = Instant::now();
    loop {
        say(client, json!({"type": "AGENTS"})).await;
        let answer = hear(client).await.expect("an answer");
        if answer["payload"]["agents"].as_array().is_some_and(|list| list.len() == agents) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "{answer}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn a_service_is_served_on_443_and_8765_and_frames_go_both_ways() {
    // covers T03
    inside("ports::a_service_is_served_on_443_and_8765_and_frames_go_both_ways", || {
        let mut world = World::init(&["dc", "agni"], Family::Four);
        // dc listens where `init` says; agni where deploy/edge.toml says that an edge does which is told nothing.
        let file = world.machines[1].folder.join("edge.toml");
        let text = fs::read_to_string(&file).unwrap();
        let kept: Vec<&str> = text.lines().filter(|line| !line.starts_with("listen = [")).collect();
        assert_eq!(kept.len() + 1, text.lines().count(), "{text}");
        fs::write(&file, kept.join("\n") + "\n").unwrap();
        for n in 0..2 {
            world.start_node(n);
            world.start_edge(n);
        }
        world.wait_whole();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let places = [(0, EDGE_PORT), (0, OLD_PORT), (1, EDGE_PORT), (1, OLD_PORT)];
            let mut clients = Vec::new();
            for (n, (to, port)) in places.into_iter().enumerate() {
                let token = world.machines[to].token(&format!("agent-{n}"));
                // Each from the other machine.
                let client = registered_at(&world, (1 - to, to), port, &token).await;
                clients.push(client.unwrap_or_else(|| panic!("machine {to} does not serve port {port}")));
            }
            for client in &mut clients {
                knows(client, places.len()).await;
            }
            for (from, to) in (0..places.len()).flat_map(|from| (0..places.len()).map(move |to| (from, to))) {
                let (id, address) = (format!("m-{from}-{to}"), format!("agent-{to}"));
                say(&mut clients[from], json!({"type": "COMMAND", "to": address, "id": id})).await;
                let heard = hear(&mut clients[to]).await.expect("a message");
                assert_eq!(heard["id"], id, "{heard}");
                assert_eq!(heard["from"], format!("agent-{from}"), "{heard}");
            }
        });
    });
}
