//! WebSocket over TLS over kernel TCP. A transfer beside the messages goes through the same socket, in pieces.
use crate::load::{BULK, Load, MESSAGE, Outcome, Record, message, number};
use crate::place::Place;
use crate::tls::{HOST, Identity};
use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc::UnboundedReceiver};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, accept_async, client_async};

const ALPN: &[u8] = b"http/1.1";
/// Pieces of a transfer: messages come between them.
const PIECE: usize = 16 * 1024;

pub fn run(place: &Place, load: &Load, identity: &Identity, congestion: &str) -> Result<Outcome> {
    let record = Record::default();
    let received = record.clone();
    let outcome = place.both(
        |up| async move {
            let listener = TcpListener::bind(place.any_port(1)).await?;
            up.send(listener.local_addr()?)?;
            let mut socket = accept(&listener, identity).await?;
            // However it ends: the sender says what went wrong, if anything did.
            while let Some(Ok(message)) = socket.next().await {
                let Message::Binary(bytes) = message else { continue };
                match number(&bytes).filter(|_| bytes.len() == MESSAGE) {
                    Some(n) => received.arrived(n),
                    None => received.bulk(bytes.len()),
                }
            }
            Ok(())
        },
        |to| async move {
            let socket = Mutex::new(connect(to, identity, Some(congestion)).await?);
            let carry = |mut queue: UnboundedReceiver<u64>| {
                let socket = &socket;
                async move {
                    while let Some(n) = queue.recv().await {
                        socket.lock().await.send(Message::binary(message(n).to_vec())).await?;
                    }
                    Ok(())
                }
            };
            let transfer = async {
                for _ in 0..BULK / PIECE {
                    socket.lock().await.send(Message::binary(vec![1; PIECE])).await?;
                }
                Ok(())
            };
            load.through(&record, carry, transfer).await
        },
    )?;
    Ok(outcome.reliable())
}

pub async fn accept(
    listener: &TcpListener,
    identity: &Identity,
) -> Result<WebSocketStream<server::TlsStream<TcpStream>>> {
    let tls = TlsAcceptor::from(Arc::new(identity.server(ALPN)?));
    let (tcp, _) = listener.accept().await?;
    tcp.set_nodelay(true)?;
    Ok(accept_async(tls.accept(tcp).await?).await?)
}

pub async fn connect(
    to: SocketAddr,
    identity: &Identity,
    congestion: Option<&str>,
) -> Result<WebSocketStream<client::TlsStream<TcpStream>>> {
    let tls = TlsConnector::from(Arc::new(identity.client(ALPN)?));
    let tcp = TcpStream::connect(to).await?;
    tcp.set_nodelay(true)?;
    if let Some(name) = congestion {
        trishula_wan::set_congestion(&tcp, name)
            .with_context(|| format!("this kernel has no congestion control {name} (modprobe tcp_{name})"))?;
    }
    let tls = tls.connect(ServerName::try_from(HOST)?, tcp).await?;
    Ok(client_async(format!("wss://{HOST}/"), tls).await?.0)
}
