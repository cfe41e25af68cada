//! Who comes in on the node's one UDP port: told apart by ALPN, then by what the certificate says.

use std::sync::Arc;
use std::time::Duration;

use crate::gateway::hub::HubHandle;
use crate::gateway::{enrol, native};
use crate::identity::{self, Role, tls};
use crate::link::early::{self, Begun};
use crate::link::quic::{self, Admitted, Certificate, Local};
use crate::link::{self};
use crate::metrics;
use crate::node;
use crate::rt::tasks;
use crate::wire::close::LinkClose;

/// Connections at once; one more is refused and may try again.
const MAX_CONNECTIONS: usize = 4096;

/// How soon a revocation ends a native agent's connection at the latest.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the task needs.
pub struct Accept {
    /// The port.
    pub endpoint: quinn::Endpoint,
    /// For links.
    pub local: Arc<Local>,
    /// For native agents; `None`: they are not served.
    pub hub: Option<HubHandle>,
    /// For machines that join.
    pub node: node::Handle,
}

impl Accept {
    /// Starts the task.
    pub fn start(self) -> tasks::Task {
        tasks::spawn("daemon.accept", async move {
            let this = Arc::new(self);
            let mut connections = tasks::Group::default();
            while let Some(incoming) = this.endpoint.accept().await {
                if connections.len() >= MAX_CONNECTIONS {
                    metrics::NOT_ADMITTED.with_label_values(&["full"]).inc();
                    incoming.refuse();
                    continue;
                }
                let this = this.clone();
                connections.spawn("daemon.connection", async move { this.connection(incoming).await });
            }
        })
    }

    async fn connection(&self, incoming: quinn::Incoming) {
        let remote = incoming.remote_address();
        let handshake = async {
            let mut connecting = incoming.accept()?;
            let data = connecting.handshake_data().await?;
            let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().ok();
            let protocol = data.and_then(|data| data.protocol).unwrap_or_default();
            Ok::<_, quinn::ConnectionError>((early::accept(connecting).await?, protocol))
        };
        match handshake.await {
            // A joiner has no certificate: its handshake is over.
            Ok(((connection, _), protocol)) if protocol == tls::ALPN_JOIN => {
                enrol::serve(connection, self.node.clone()).await;
            }
            Ok(((connection, begun), _)) => self.admit(connection, begun).await,
            Err(e) if tls::was_dropped(&e) => {
                metrics::NOT_ADMITTED.with_label_values(&["dropped"]).inc();
                tracing::debug!(%remote, "a connection was dropped by its peer before it was up");
            }
            Err(e) => {
                metrics::NOT_ADMITTED.with_label_values(&["handshake"]).inc();
                tracing::warn!(%remote, why = tls::explain(&e), "a connection did not come up");
            }
        }
    }

    async fn admit(&self, connection: quinn::Connection, begun: Begun) {
        let remote = connection.remote_address();
        let peer = match quic::admit(&self.local, &connection) {
            Ok(peer) => peer,
            Err(e) => {
                metrics::NOT_ADMITTED.with_label_values(&[reason(&e)]).inc();
                tracing::warn!(%remote, why = %e, "a peer was not admitted; no frame of it was read");
                return connection.close((LinkClose::NotAdmitted as u32).into(), e.to_string().as_bytes());
            }
        };
        let certificate = Certificate::of(&peer);
        match peer.role {
            Role::Node(node) => {
                let peer = Admitted { node, role: link::Role::Node, certificate };
                quic::run(&self.local, connection, peer, begun).await;
            }
            Role::Edge(node) => {
                let peer = Admitted { node, role: link::Role::Entrance, certificate };
                quic::run(&self.local, connection, peer, begun).await;
            }
            // What an agent says is not safe to repeat: not before the handshake is over.
            Role::Agent(_) if early::over(&connection, begun).await.is_err() => {}
            Role::Agent(agent) => match &self.hub {
                Some(hub) => tokio::select! {
                    () = native::serve_quic(connection.clone(), agent, hub) => {}
                    why = until_ended(&self.local, &certificate) => {
                        connection.close((LinkClose::Revoked as u32).into(), why.as_bytes());
                    }
                },
                None => {
                    let why = "native agents are not served here; set [gateway] native = true";
                    connection.close((LinkClose::NotAdmitted as u32).into(), why.as_bytes());
                }
            },
        }
    }
}

/// Waits until a native agent's certificate is revoked or expired, and says which.
pub(super) async fn until_ended(local: &Local, certificate: &Certificate) -> String {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(why) = certificate.ended(local) {
            return why;
        }
    }
}

/// For the metrics.
pub(super) fn reason(error: &link::Error) -> &'static str {
    use identity::Refusal;
    match error {
        link::Error::NotAdmitted(refusal) => match refusal {
            Refusal::NoCertificate => "no_certificate",
            Refusal::Stranger => "stranger",
            Refusal::Expired { .. } | Refusal::NotYetValid { .. } => "expired",
            Refusal::Revoked { .. } => "revoked",
            _ => "invalid",
        },
        link::Error::Handshake(_) => "handshake",
        _ => "invalid",
    }
}
