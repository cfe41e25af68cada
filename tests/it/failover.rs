//! An edge whose node is gone: it goes to another node, and its clients keep their sockets.
#![allow(clippy::print_stderr, reason = "how long it took is a result")]

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;
use trishula::gateway::session::LOGGED_END;

use crate::harness::{Mesh, until};
use crate::wss::{Door, Wss};

pub mod flows;
mod native;

use flows::Flows;

/// Between two attempts of a client that was told to come back.
const PACE: Duration = Duration::from_millis(20);
/// A client that hears nothing for so long sends again.
const NO_ANSWER: Duration = Duration::from_millis(200);
const CLIENTS: usize = 20;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Sends until a node accepts it, with the same id; answers which one. What was on its way to a node that died has no
/// answer, and what comes before there is another is refused for now.
async fn accepted(wss: &mut Wss, id: &str) -> Value {
    loop {
        let payload = json!({"n": 1});
        let frame =
            json!({"type": "COMMAND", "to": "worker", "id": id, "receipt": "accepted", "payload": payload});
        wss.say(frame).await.expect("the socket is kept");
        let answer = match tokio::time::timeout(NO_ANSWER, wss.answer(id)).await {
            Ok(answer) if answer["type"] == "RECEIPT" => return answer["payload"]["node"].clone(),
            Ok(answer) => answer,
            Err(_) => continue,
        };
        assert_eq!(answer["payload"]["retry"], true, "{answer}");
        tokio::time::sleep(PACE).await;
    }
}

/// Two machines that run; the edge of dc knows agni's node as well.
fn two_machines() -> Mesh {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    let agni = format!("127.0.0.1:{}", mesh.base + 10);
    let file = mesh.machine("dc").folder.join("edge.toml");
    let text = fs::read_to_string(&file).unwrap();
    let own = text.lines().find(|line| line.starts_with("nodes = [")).unwrap();
    let both = own.replace(']', &format!(", \"{agni}\"]"));
    let text: String = text
        .replace(own, &both)
        .lines()
        .filter(|line| !line.starts_with("node = "))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(&file, text).unwrap();
    for machine in &mut mesh.machines {
        machine.start_node();
        machine.start_edge();
    }
    mesh.wait_whole();
    mesh
}

/// No client of dc's edge lost its socket.
fn assert_sockets_kept(mesh: &mut Mesh) {
    let log = fs::read_to_string(mesh.machine("dc").folder.join("edge.log")).unwrap();
    assert!(!log.contains(LOGGED_END), "{log}");
}

// covers T09, Q02
#[test]
fn an_edge_whose_node_is_killed_goes_to_another_and_its_clients_keep_their_sockets() {
    let mut mesh = two_machines();
    let clients = runtime();
    let mut worker = clients.block_on(Door::of(mesh.machine("agni"), "worker").must_open(json!({})));
    let door = |n: usize| Door::of(&mesh.machines[0], &format!("asker-{n}"));
    let mut askers: Vec<Wss> = (0..CLIENTS).map(|n| clients.block_on(door(n).must_open(json!({})))).collect();
    assert_eq!(clients.block_on(accepted(&mut askers[0], "m-0")), "dc");

    let since = Instant::now();
    mesh.machine("dc").node.as_mut().unwrap().kill();
    for (n, asker) in askers.iter_mut().enumerate() {
        assert_eq!(clients.block_on(accepted(asker, &format!("m-{}", n + 1))), "agni");
        if n == 0 {
            eprintln!("accepted again {:?} after the node was killed", since.elapsed());
        }
    }
    clients.block_on(async {
        // Each was accepted before the next was sent, and asker-0 sent the first two.
        for n in 0..=CLIENTS {
            let message = worker.message().await;
            assert_eq!(message["redelivered"], Value::Null, "{message}");
            let from = format!("asker-{}", n.saturating_sub(1));
            assert_eq!(
                (&message["id"], &message["from"]),
                (&json!(format!("m-{n}")), &json!(from)),
                "{message}"
            );
        }
    });
    assert_sockets_kept(&mut mesh);
}

// covers T09, Q02
#[test]
fn an_edge_goes_back_to_its_own_node_and_nothing_is_lost_doubled_or_reordered() {
    let mut mesh = two_machines();
    let flows = Flows::start(&mesh.machines[0], &mesh.machines[1], CLIENTS);
    flows.accepted_by("dc");
    mesh.machine("dc").node.as_mut().unwrap().kill();
    eprintln!("accepted by the other node after {:?}", flows.accepted_by("agni"));
    // From here on every home can be reached: order is promised.
    flows.feed(true);
    mesh.machine("dc").start_node();
    eprintln!("accepted by its own node {:?} after that was started again", flows.accepted_by("dc"));
    until("the edge is at its own node", || mesh.machines[0].sees_whole(2));
    for _ in 0..20 {
        flows.accepted_by("dc");
    }
    assert_sockets_kept(&mut mesh);
    let (askers, worked) = flows.end();
    for (n, ((sent, heard), worked)) in askers.iter().zip(&worked).enumerate() {
        let fed = heard.iter().map(|(number, _)| *number).max().unwrap();
        flows::assert_exact(&format!("from asker-{n}"), *sent, worked);
        flows::assert_exact(&format!("to asker-{n}"), fed, heard);
    }
}

// covers T09, Q02
#[test]
fn an_edge_whose_node_hangs_goes_to_another_and_comes_back_when_it_goes_on() {
    let mut mesh = two_machines();
    let flows = Flows::start(&mesh.machines[0], &mesh.machines[1], CLIENTS);
    flows.accepted_by("dc");
    flows.feed(true);
    mesh.machine("dc").node.as_ref().unwrap().signal("STOP");
    eprintln!("accepted by the other node {:?} after its own hung", flows.accepted_by("agni"));
    mesh.machine("dc").node.as_ref().unwrap().signal("CONT");
    eprintln!("accepted by its own node {:?} after that went on", flows.accepted_by("dc"));
    for _ in 0..20 {
        flows.accepted_by("dc");
    }
    assert_sockets_kept(&mut mesh);
    let (askers, worked) = flows.end();
    for (n, ((sent, heard), worked)) in askers.iter().zip(&worked).enumerate() {
        let fed = heard.iter().map(|(number, _)| *number).max().unwrap();
        flows::assert_none_lost_or_doubled_unmarked(&format!("from asker-{n}"), *sent, worked);
        flows::assert_none_lost_or_doubled_unmarked(&format!("to asker-{n}"), fed, heard);
    }
}
