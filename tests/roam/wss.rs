//! A client of an edge, by WebSocket.

use std::net::TcpStream;
use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::identity::tls;

use crate::harness::PATIENCE;
use crate::place::{EDGE_PORT, World};

pub type Socket = WebSocketStream<TlsStream<tokio::net::TcpStream>>;

/// A client on one machine, at the edge of the other; `None`: the edge refuses it.
pub async fn registered(world: &World, at_and_to: (usize, usize), token: &str) -> Option<Socket> {
    registered_at(world, at_and_to, EDGE_PORT, token).await
}

/// The same at any of its ports.
pub async fn registered_at(
    world: &World,
    at_and_to: (usize, usize),
    port: u16,
    token: &str,
) -> Option<Socket> {
    timeout(PATIENCE, open(world, at_and_to, port, token)).await.expect("the edge answers")
}

pub async fn say(socket: &mut Socket, frame: Value) {
    socket.send(Message::text(frame.to_string())).await.unwrap();
}

/// The next frame; pings are answered on the way. `None`: the socket is closed.
pub async fn hear(socket: &mut Socket) -> Option<Value> {
    timeout(PATIENCE, heard(socket)).await.expect("a frame in time")
}

/// The same, however long it takes.
pub async fn heard(socket: &mut Socket) -> Option<Value> {
    loop {
        match socket.next().await?.ok()? {
            Message::Text(text) => return serde_json::from_str(&text).ok(),
            Message::Close(_) => return None,
            _ => {}
        }
    }
}

async fn open(world: &World, (at, to): (usize, usize), port: u16, token: &str) -> Option<Socket> {
    let (machine, address) = (&world.machines[to], world.address(to));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(machine.ca()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = world.star.at(at).enter(|| TcpStream::connect((address, port))).ok()?;
    tcp.set_nonblocking(true).unwrap();
    let tcp = tokio::net::TcpStream::from_std(tcp).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    let mut request = format!("wss://localhost:{port}/").into_client_request().unwrap();
    let token = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", token);
    let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await.ok()?;
    say(&mut socket, json!({"type": "REGISTER", "id": "register"})).await;
    (hear(&mut socket).await?["type"] == "REGISTERED").then_some(socket)
}
