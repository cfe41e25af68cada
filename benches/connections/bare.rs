//! The bare server: tokio-tungstenite over tokio-rustls, one task a connection, and nothing that it keeps or knows. What a
//! connection has to cost, and so the yardstick.
use crate::process::{Process, lines, say};
use crate::server::Server;
use crate::tls;
use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, mpsc};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config};

/// The flag by which this program is the server.
pub const FLAG: &str = "--bare";
/// What a client says to be sent what others send; it is answered, and nothing else is.
pub const SUBSCRIBE: &str = "subscribe";
/// A text that begins so goes to everybody, any other one to those who have subscribed.
pub const TO_ALL: &str = "all ";
/// Texts that may wait for a connection.
const WAITING: usize = 64;

#[derive(Serialize, Deserialize)]
struct Job {
    certificate: PathBuf,
    key: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Ready {
    port: u16,
}

/// Starts one with this certificate.
pub fn start(certificate: &Path, key: &Path, connections: usize) -> Result<Server> {
    let job = Job { certificate: certificate.to_owned(), key: key.to_owned() };
    let mut process = Process::role("bare server", FLAG, connections, &job)?;
    let Ready { port } = process.hear()?;
    Ok(Server { port, secret: None, entrance: process, node: None })
}

/// The server's process.
pub fn main() -> Result<()> {
    let asked = lines();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(listen(asked))
}

async fn listen(mut asked: mpsc::UnboundedReceiver<String>) -> Result<()> {
    let job: Job = serde_json::from_str(&asked.recv().await.context("no job")?)?;
    let acceptor = TlsAcceptor::from(tls::server(&job.certificate, &job.key)?);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    say(&Ready { port: listener.local_addr()?.port() })?;
    let rooms = Rooms { all: broadcast::channel(WAITING).0, subscribed: broadcast::channel(WAITING).0 };
    loop {
        let (tcp, _) = listener.accept().await?;
        let (acceptor, rooms) = (acceptor.clone(), rooms.clone());
        tokio::spawn(async move {
            // Boxed, so that what is needed for this only is given back with it.
            match Box::pin(enter(tcp, acceptor)).await {
                // Its end is seen by its client.
                Ok(socket) => drop(serve(socket, rooms).await),
                Err(error) => eprintln!("bare server: {error:#}"),
            }
        });
    }
}

type Socket = WebSocketStream<TlsStream<TcpStream>>;

#[derive(Clone)]
struct Rooms {
    all: broadcast::Sender<Utf8Bytes>,
    subscribed: broadcast::Sender<Utf8Bytes>,
}

async fn enter(tcp: TcpStream, acceptor: TlsAcceptor) -> Result<Socket> {
    tcp.set_nodelay(true)?;
    let tls = acceptor.accept(tcp).await?;
    let config = WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(16 * 1024);
    Ok(accept_async_with_config(tls, Some(config)).await?)
}

async fn serve(mut socket: Socket, rooms: Rooms) -> Result<()> {
    let mut all = rooms.all.subscribe();
    let mut subscribed: Option<broadcast::Receiver<Utf8Bytes>> = None;
    loop {
        let said = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(_)) => continue,
                _ => bail!("the client is gone"),
            },
            text = all.recv() => {
                socket.send(Message::Text(text?)).await?;
                continue;
            }
            text = next(&mut subscribed) => {
                socket.send(Message::Text(text?)).await?;
                continue;
            }
        };
        if said == SUBSCRIBE {
            subscribed = Some(rooms.subscribed.subscribe());
            socket.send(Message::text("subscribed")).await?;
        } else if said.starts_with(TO_ALL) {
            // Nobody may be there to be told.
            let _ = rooms.all.send(said);
        } else {
            let _ = rooms.subscribed.send(said);
        }
    }
}

async fn next(
    room: &mut Option<broadcast::Receiver<Utf8Bytes>>,
) -> Result<Utf8Bytes, broadcast::error::RecvError> {
    match room {
        Some(room) => room.recv().await,
        None => std::future::pending().await,
    }
}
