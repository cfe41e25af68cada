//! One QUIC stream, with the transport settings of our own links. A transfer beside it has a stream of its own on the
//! same connection.
use crate::load::{BULK, Load, MESSAGE, Outcome, Record, message, number};
use crate::place::Place;
use crate::tls::{HOST, Identity};
use anyhow::{Context, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedReceiver;
use trishula::identity::tls;
use trishula::link::quic::transport;

const ALPN: &[u8] = b"bench";
/// A stream's first byte.
const MESSAGES: u8 = 0;
const TRANSFER: u8 = 1;
/// Written at once.
const CHUNK: usize = 16 * 1024;

pub fn run(place: &Place, load: &Load, identity: &Identity) -> Result<Outcome> {
    let record = Record::default();
    let received = record.clone();
    let outcome = place.both(
        |up| async move {
            let endpoint = server(place.any_port(1), identity)?;
            up.send(endpoint.local_addr()?)?;
            let connection = endpoint.accept().await.context("nobody came")?.await?;
            // However it ends: the sender says what went wrong, if anything did.
            while let Ok(stream) = connection.accept_uni().await {
                tokio::spawn(read(stream, received.clone()));
            }
            Ok(())
        },
        |to| async move {
            let endpoint = quinn::Endpoint::client(place.any_port(0))?;
            let connection = endpoint.connect_with(client(identity)?, to, HOST)?.await?;
            let mut stream = connection.open_uni().await?;
            let carry = |mut queue: UnboundedReceiver<u64>| async move {
                stream.write_all(&[MESSAGES]).await?;
                while let Some(n) = queue.recv().await {
                    stream.write_all(&message(n)).await?;
                }
                std::future::pending().await
            };
            let transfer = async {
                let mut stream = connection.open_uni().await?;
                stream.write_all(&[TRANSFER]).await?;
                for _ in 0..BULK / CHUNK {
                    stream.write_all(&[1; CHUNK]).await?;
                }
                std::future::pending().await
            };
            load.through(&record, carry, transfer).await
        },
    )?;
    Ok(outcome.reliable())
}

async fn read(mut stream: quinn::RecvStream, record: Record) -> Result<()> {
    let mut kind = [0];
    stream.read_exact(&mut kind).await?;
    if kind[0] == MESSAGES {
        let mut bytes = [0; MESSAGE];
        loop {
            stream.read_exact(&mut bytes).await?;
            number(&bytes).into_iter().for_each(|n| record.arrived(n));
        }
    }
    while let Some(chunk) = stream.read_chunk(64 * 1024, true).await? {
        record.bulk(chunk.bytes.len());
    }
    Ok(())
}

pub fn server(at: SocketAddr, identity: &Identity) -> Result<quinn::Endpoint> {
    let tls = tls::quic_server(Arc::new(identity.server(ALPN)?))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Ok(quinn::Endpoint::server(config, at)?)
}

pub fn client(identity: &Identity) -> Result<quinn::ClientConfig> {
    let tls = tls::quic_client(Arc::new(identity.client(ALPN)?))?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}
