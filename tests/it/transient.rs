//! Connections of older clients are agents of their own, and nothing is left of them, however they end.

use std::collections::BTreeSet;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Machine, PATIENCE, free_ports, until};
use crate::services::{serving, token};
use crate::wss::Door;

const CLIENTS: usize = 3;

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// A client of the envelope that has shown its token.
async fn old_client(machine: &Machine, port: u16, user: &str, seconds: i64) -> Socket {
    let stream = Door::of(machine, user).at(port).tls().await.expect("the edge takes a client");
    let (mut socket, _) =
        tokio_tungstenite::client_async(format!("wss://localhost:{port}/"), stream).await.unwrap();
    let data = json!({"token": token(user, &["pool:read"], seconds)});
    say(&mut socket, json!({"type": "request", "event": "auth", "id": "a", "data": data})).await;
    assert_eq!(hear(&mut socket).await.unwrap()["data"]["status"], "authenticated");
    assert_eq!(hear(&mut socket).await.unwrap()["event"], "session.created");
    socket
}

async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next frame; `None`: it was closed.
async fn hear(socket: &mut Socket) -> Option<Value> {
    loop {
        match timeout(PATIENCE, socket.next()).await.expect("the edge says something")?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Binary(bytes) => return serde_json::from_slice(&bytes).ok(),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

/// The agents of a user's connections that the node knows; `None`: it does not answer now.
fn known(machine: &Machine, user: &str, online: bool) -> Option<BTreeSet<String>> {
    let output = machine.run(&["agents", "--json"]);
    let rows: Vec<Value> =
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())?;
    let below = format!("mahavishnu/{user}.");
    let rows = rows.iter().filter(|row| !online || row["online"] == true);
    let names = rows.map(|row| row["agent"].as_str().unwrap().to_owned());
    Some(names.filter(|name| name.starts_with(&below)).collect())
}

fn connect(clients: &Runtime, machine: &Machine, port: u16, user: &str, seconds: i64) -> Vec<Socket> {
    let all = (0..CLIENTS).map(|_| clients.block_on(old_client(machine, port, user, seconds))).collect();
    until("they are registered", || known(machine, user, true).is_some_and(|names| names.len() == CLIENTS));
    all
}

fn none_left(machine: &Machine, user: &str) {
    until("nothing is left of them", || known(machine, user, false).is_some_and(|names| names.is_empty()));
}

// covers T05, T09, B19
#[test]
fn nothing_is_left_of_the_connections_of_older_clients_and_a_restart_of_the_node_costs_none() {
    let port = free_ports(1);
    let mut mesh = serving(&[("preset = \"mahavishnu\"", port)]);
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();

    // A token ends, and the edge closes.
    let mut short = connect(&clients, &mesh.machines[0], port, "short", 15);
    for socket in &mut short {
        // It is told why first.
        while clients.block_on(hear(socket)).is_some() {}
    }
    none_left(&mesh.machines[0], "short");

    // The node is killed and started again: they stay who they are, and are served.
    let mut sockets = connect(&clients, &mesh.machines[0], port, "u1", 600);
    let names = known(&mesh.machines[0], "u1", true);
    mesh.machine("agni").node.as_mut().unwrap().kill();
    mesh.machine("agni").start_node();
    until("they are back", || known(&mesh.machines[0], "u1", true).is_some_and(|now| Some(now) == names));
    for socket in &mut sockets {
        let data = json!({"channel": "pool:p1"});
        clients
            .block_on(say(socket, json!({"type": "request", "event": "subscribe", "id": "s", "data": data})));
        assert_eq!(clients.block_on(hear(socket)).unwrap()["data"]["status"], "subscribed");
    }

    // The edge is stopped. (One that is killed is waited for a minute: `src/mesh/tests/transient.rs`.)
    let machine = mesh.machine("agni");
    assert!(machine.edge.as_mut().unwrap().stop().is_some());
    none_left(machine, "u1");
}
