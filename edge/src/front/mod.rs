//! What stands between a connection and its session: proxies before us, TLS, the plain side, pages, reload and stop.
//!
//! | file | what is in it |
//! |---|---|
//! | [`net`] | addresses and networks, as configured |
//! | [`proxy`] | who is believed about where a connection comes from |
//! | [`proxy_protocol`] | the PROXY protocol, versions 1 and 2 |
//! | [`forwarded`] | `X-Forwarded-For` and `Forwarded` |
//! | [`entry`] | how a connection comes in |
//! | [`stream`] | a connection, with TLS or without |
//! | [`secured`] | the TLS of a service, from files that change |
//! | [`certified`] | whom certificates of clients name |
//! | [`auto_cert`] | a certificate for development |
//! | [`head`] | what the head of a request must keep to |
//! | [`handshake`] | the opening handshake of a WebSocket |
//! | [`h2`] | WebSockets over HTTP/2 (RFC 8441) |
//! | [`pinned`] | what the library of HTTP needs to give a connection back |
//! | [`resets`] | streams that HTTP/2 refuses of its own |
//! | [`headers`] | what browsers are told, and whose pages may connect |
//! | [`health`] | `/health` and `/ready` |
//! | [`redirect`] | plain HTTP is sent to TLS |
//! | [`known`] | whether a client has authenticated |
//! | `refusing` | what the mesh itself refuses by a frame |
//! | [`measured`] | metrics of clients and their frames |
//! | [`glance`] | a frame's type, for those |
//! | [`reload`] | the configuration, read again while it runs |
//! | [`asking`] | the command's side of that |
//! | [`renewed`] | certificates, CAs of clients, secrets and keys, read again when their files change |

use std::sync::Arc;

pub mod asking;
pub mod auto_cert;
pub mod certified;
pub mod entry;
pub mod expiry;
pub mod forwarded;
pub mod glance;
pub mod h2;
pub mod handshake;
pub mod head;
pub mod headers;
pub mod health;
pub mod known;
pub mod measured;
pub mod net;
pub mod pinned;
pub mod proxy;
pub mod proxy_protocol;
pub mod redirect;
mod refusing;
pub mod reload;
pub mod renewed;
pub mod resets;
pub mod secured;
pub mod stream;

/// What the pages of a service go by.
#[derive(Debug, Default)]
pub struct Rules {
    /// Who is believed about addresses.
    pub proxy: proxy::Settings,
    /// Whose pages may connect, and what browsers are told.
    pub http: headers::Settings,
    /// Whether it is served with TLS.
    pub tls: bool,
}

impl Rules {
    /// Of a service.
    pub fn new(proxy: &proxy::Settings, http: &headers::Settings, tls: bool) -> Arc<Rules> {
        Arc::new(Rules { proxy: proxy.clone(), http: http.clone(), tls })
    }
}
