//! An edge with services, and clients of theirs.

use std::net::{SocketAddr, TcpListener};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::rt::clock;

use crate::support::*;

/// The secret of another service.
pub const OTHER: &[u8] = b"another secret of the tests, long enough to be one";

/// An edge with these services, and a node behind it.
pub async fn serving(services: &str) -> World {
    let machine = Machine::new();
    std::fs::write(machine.folder.path().join("other"), OTHER).unwrap();
    let config = machine.configure_services(services);
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    world
}

/// A preset on a port of the system's choice.
pub fn preset(name: &str, more: &str) -> String {
    format!(
        "[[service]]\npreset = \"{name}\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n{more}\n"
    )
}

/// A port that is free now.
pub fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// As old clients connect: path `/`, and nothing else.
pub async fn old(world: &World) -> Client {
    connect(world, world.address(), "localhost", &[]).await.unwrap()
}

pub async fn connect(
    world: &World,
    at: SocketAddr,
    host: &str,
    headers: &[(&'static str, &str)],
) -> Result<Client, WsError> {
    let mut request = format!("wss://{host}/").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = world.machine.tls_as(host, at).await;
    let (socket, _) = soon(tokio_tungstenite::client_async(request, stream)).await?;
    Ok(Client { socket })
}

pub fn claims(user: &str, permissions: &[&str]) -> Value {
    json!({"user_id": user, "permissions": permissions, "exp": clock::wall_ms() / 1000 + 600})
}

pub fn auth(token: &str) -> Value {
    json!({"type": "request", "event": "auth", "data": {"token": token}, "id": "a"})
}

/// A client of the envelope that has shown its token and was greeted.
pub async fn greeted(world: &World, permissions: &[&str]) -> Client {
    let mut client = old(world).await;
    client.say(auth(&signed(SECRET, claims("u1", permissions)))).await;
    let answer = client.hear().await;
    assert_eq!(
        (&answer["type"], &answer["status"]),
        (&json!("response"), &json!("authenticated")),
        "{answer}"
    );
    assert_eq!(client.hear().await["event"], "session.created");
    client
}

pub async fn subscribe(client: &mut Client, channel: &str) -> Value {
    client
        .say(json!({"type": "request", "event": "subscribe", "data": {"channel": channel}, "id": "s"}))
        .await;
    client.hear().await
}

/// What a counter shows.
pub fn counted(name: &str, label: &str) -> u64 {
    let text = trishula::metrics::render();
    let line = text.lines().find(|line| line.starts_with(name) && line.contains(label));
    line.and_then(|line| line.rsplit(' ').next()).map_or(0, |value| value.parse().unwrap())
}
