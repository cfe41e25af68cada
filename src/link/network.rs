//! How a stream of bytes is opened to another machine: by the system's TCP, or as a simulation has it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::race;
use super::wss::prepare;
use crate::rt::wake;

/// How long one address of a host may take.
const TCP_WITHIN: Duration = Duration::from_secs(2);
/// How long it may take to find out from which address it is reached.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// Addresses of a host that are tried.
const MAX_TRIED: usize = 4;

/// Bytes in both directions, in order, whatever carries them.
pub trait Bytes: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + fmt::Debug + Send + Unpin> Bytes for S {}

/// An open stream.
pub type ByteStream = Box<dyn Bytes>;

/// What is between this machine and others, for all that is not QUIC.
pub trait Network: fmt::Debug + Send + Sync {
    /// Opens a stream to this port of a host.
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<ByteStream>>;

    /// This machine's own address on the way to `host:port`; nothing is sent. `None`: there is no way, or it can't be told.
    fn address_towards<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Option<IpAddr>>;
}

/// The system's.
#[derive(Debug, Clone, Copy)]
pub struct System;

impl Network for System {
    fn connect<'a>(&'a self, host: &'a str, port: u16) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(async move {
            let tcp = connect_tcp(host, port).await?;
            prepare(&tcp);
            Ok(Box::new(tcp) as ByteStream)
        })
    }

    fn address_towards<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Option<IpAddr>> {
        Box::pin(async move {
            let found = async {
                let to = tokio::net::lookup_host(address).await.ok()?.next()?;
                wake::address_towards(to)
            };
            tokio::time::timeout(LOOK_WITHIN, found).await.ok().flatten()
        })
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut found = race::by_turns(tokio::net::lookup_host((host, port)).await?);
    found.truncate(MAX_TRIED);
    let connected = race::in_turn(found, |address: SocketAddr| async move {
        match tokio::time::timeout(TCP_WITHIN, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|e| io::Error::new(e.kind(), format!("{address}: {e}"))),
            Err(_) => Err(io::Error::other(format!("{address}: no answer within {TCP_WITHIN:?}"))),
        }
    });
    let none = || io::Error::other("the name has no address");
    connected.await.map_err(|last| last.unwrap_or_else(none))
}
