//! Who comes in through this machine's edge, and the way out to other machines' edges: for when UDP is blocked.

use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use super::accept::{reason, until_ended};
use crate::config::node::NodeConfig;
use crate::gateway::hub::HubHandle;
use crate::gateway::native;
use crate::identity::{self, Role, tls};
use crate::link;
use crate::link::proxy::Proxies;
use crate::link::quic::{Certificate, Local};
use crate::link::wss::{self, Outward};
use crate::metrics;
use crate::rt::{accept, clock, platform, tasks};

/// Relayed connections at once: of nodes, edges and native agents.
const MAX_RELAYED: usize = 1024;
/// Bytes of ours that the socket holds before the edge has read them.
const UNREAD: usize = 32 * 1024;

/// TLS for both directions, and what the environment says of proxies.
pub(super) fn tls(
    config: &NodeConfig,
    identity: &tls::Identity,
) -> Result<(Arc<Outward>, TlsAcceptor), identity::Error> {
    let outward = Outward::from_env(config.mesh.fallback_ca.as_deref())?;
    Ok((Arc::new(outward), TlsAcceptor::from(identity.relay_server()?)))
}

/// What is wrong with the way out.
pub(super) fn trouble(config: &NodeConfig) -> Option<String> {
    let outer = tls::outer_client(config.mesh.fallback_ca.as_deref(), clock::for_tls());
    let outer = outer.err().map(|why| format!("[mesh] fallback_ca: {why}"));
    outer.or_else(|| Proxies::from_env().err().map(|why| why.to_string()))
}

/// What the task needs.
pub(super) struct Relayed {
    /// For links.
    pub local: Arc<Local>,
    /// TLS of the mesh's own.
    pub acceptor: TlsAcceptor,
    /// For native agents; `None`: they are not served.
    pub hub: Option<HubHandle>,
}

impl Relayed {
    /// Takes what the edge relays. Whoever may open the socket gets no further than TLS: only who is of this mesh does.
    pub(super) fn serve(self, listener: UnixListener) -> tasks::Task {
        tasks::spawn("daemon.relay", async move {
            let this = Arc::new(self);
            accept::each(listener, "daemon.relayed", MAX_RELAYED, |stream| {
                let this = this.clone();
                async move {
                    if let Err(why) = platform::keep_unread_short(&stream, UNREAD) {
                        tracing::debug!(%why, "the system refused a setting");
                    }
                    if let Err(wss::Refused { remote, why }) = this.take(stream).await {
                        metrics::NOT_ADMITTED.with_label_values(&[reason(&why)]).inc();
                        tracing::warn!(
                            remote,
                            %why,
                            "a relayed peer was not admitted; no frame of it was read"
                        );
                    }
                }
            })
            .await;
        })
    }

    async fn take(&self, stream: UnixStream) -> Result<(), wss::Refused> {
        let accepted = wss::accept(&self.local, &self.acceptor, stream).await?;
        match accepted.peer.role.clone() {
            Role::Node(node) => accepted.run(&self.local, node, link::Role::Node).await,
            Role::Edge(node) => accepted.run(&self.local, node, link::Role::Entrance).await,
            Role::Agent(agent) => {
                let Some(hub) = &self.hub else {
                    let hint = "native agents are not served here; set [gateway] native = true";
                    tracing::warn!(%agent, remote = accepted.remote, hint, "a native agent was turned away");
                    return Ok(());
                };
                let certificate = Certificate::of(&accepted.peer);
                tokio::select! {
                    _ = native::serve_stream(wss::CARRIER, accepted.stream, agent.clone(), hub) => {}
                    why = until_ended(&self.local, &certificate) => {
                        tracing::warn!(%agent, remote = accepted.remote, why, "a native agent was put out");
                    }
                }
            }
        }
        Ok(())
    }
}
