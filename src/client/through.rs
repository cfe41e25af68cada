//! A node that is reached through its edge, where UDP is blocked.

use std::path::Path;
use std::sync::Arc;

use super::Error;
use super::connect::{Connect, Connection};
use crate::link::wss::{self, Outward};
use crate::wire::url::WssUrl;

/// A node reached over a WebSocket to its edge, which passes bytes on that it can't read: TLS of the mesh's own is within,
/// with a client certificate of the mesh. Put it behind [`Quic`](super::Quic) in [`Ways`](super::Ways): QUIC has no
/// head-of-line blocking, and is gone back to when it works again. `HTTPS_PROXY` and `NO_PROXY` are honoured.
#[derive(Debug, Clone)]
pub struct Through {
    outward: Arc<Outward>,
    config: Arc<rustls::ClientConfig>,
    url: WssUrl,
}

impl Through {
    /// By `config` with the certificate, and with whom to believe; `cas` (a PEM file): who must have signed what the edge
    /// shows for its host name, where anybody will do without.
    ///
    /// # Errors
    ///
    /// [`Error::Unreachable`]: the file holds no certificate.
    pub fn new(config: Arc<rustls::ClientConfig>, url: WssUrl, cas: Option<&Path>) -> Result<Through, Error> {
        let outward = Outward::from_env(cas).map_err(|why| Error::Unreachable(why.to_string()))?;
        Ok(Through { outward: Arc::new(outward), config, url })
    }
}

impl Connect for Through {
    async fn connect(&mut self) -> Result<Connection, Error> {
        let opened = wss::open(&self.outward, &self.url, self.config.clone(), wss::ANY_NODE).await;
        let (stream, _) = opened.map_err(|why| Error::Unreachable(why.to_string()))?;
        Ok(Connection::over(stream))
    }
}
