//! Nodes that come in through this machine's edge, and the way out to other machines' edges: for when UDP is blocked.

use std::sync::Arc;

use tokio::net::UnixListener;
use tokio_rustls::TlsAcceptor;

use super::accept::reason;
use crate::config::node::NodeConfig;
use crate::identity::{self, tls};
use crate::link::proxy::Proxies;
use crate::link::quic::Local;
use crate::link::wss::{self, Outward};
use crate::metrics;
use crate::rt::{accept, clock, platform, tasks};

/// Relayed connections at once: one for each node of the largest mesh.
const MAX_RELAYED: usize = 256;
/// Bytes of ours that the socket holds before the edge has read them.
const UNREAD: usize = 32 * 1024;

/// TLS for both directions, and what the environment says of proxies.
pub(super) fn tls(
    config: &NodeConfig,
    identity: &tls::Identity,
) -> Result<(Arc<Outward>, TlsAcceptor), identity::Error> {
    let outer = tls::outer_client(config.mesh.fallback_ca.as_deref(), clock::for_tls())?;
    let proxies = Proxies::from_env();
    if let Err(why) = &proxies {
        tracing::warn!(%why, "the way out through other machines' edges is closed");
    }
    Ok((Arc::new(Outward { tls: outer, proxies }), TlsAcceptor::from(identity.relay_server()?)))
}

/// What is wrong with the way out.
pub(super) fn trouble(config: &NodeConfig) -> Option<String> {
    let outer = tls::outer_client(config.mesh.fallback_ca.as_deref(), clock::for_tls());
    let outer = outer.err().map(|why| format!("[mesh] fallback_ca: {why}"));
    outer.or_else(|| Proxies::from_env().err().map(|why| why.to_string()))
}

/// Takes what the edge relays. Whoever may open the socket gets no further than TLS: only nodes of this mesh do.
pub(super) fn serve(listener: UnixListener, local: Arc<Local>, acceptor: TlsAcceptor) -> tasks::Task {
    tasks::spawn("daemon.relay", async move {
        accept::each(listener, "daemon.relayed", MAX_RELAYED, |stream| {
            let (local, acceptor) = (local.clone(), acceptor.clone());
            async move {
                if let Err(why) = platform::keep_unread_short(&stream, UNREAD) {
                    tracing::debug!(%why, "the system refused a setting");
                }
                if let Err(wss::Refused { remote, why }) = wss::accept(&local, &acceptor, stream).await {
                    metrics::NOT_ADMITTED.with_label_values(&[reason(&why)]).inc();
                    tracing::warn!(remote, %why, "a relayed peer was not admitted; no frame of it was read");
                }
            }
        })
        .await;
    })
}
