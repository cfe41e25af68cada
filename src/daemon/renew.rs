//! This machine's certificates, renewed in the last third of their life: the node's own, and that of its
//! edge's link. The holder of the CA signs; the way to it may lead through other nodes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::oneshot;

use crate::config::node::NodeConfig;
use crate::identity::bundle::{Bundle, LINK_KEY, Parts};
use crate::identity::renewal::{self, RenewRequest};
use crate::identity::{self, RoleKind, tls};
use crate::metrics;
use crate::node;
use crate::rt::{clock, queue, tasks};
use crate::wire::frame::Method;

/// Between two looks at the certificates at most.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// After a failure.
const TRY_AGAIN: Duration = Duration::from_secs(60);
/// How long the holder may take.
const WITHIN: Duration = Duration::from_secs(20);

/// Why a certificate was not renewed; the old one is still in use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, or what is in it.
    #[error(transparent)]
    Identity(#[from] identity::Error),
    /// The holder did not answer well.
    #[error(transparent)]
    Call(#[from] node::CallError),
    /// A message that could not be written.
    #[error("the request can't be written: {0}")]
    Encode(#[from] postcard::Error),
    /// The answer is no text.
    #[error("the holder's answer is not a certificate")]
    NotPem,
    /// The task is gone.
    #[error("this node is stopping")]
    Stopping,
}

/// Days that the renewed certificate has.
type Renewed = Result<i64, Error>;

/// The task's work.
pub(super) struct Renewer {
    folders: Vec<(PathBuf, RoleKind)>,
    identity: tls::Identity,
    node: node::Handle,
    requests: queue::Receiver<oneshot::Sender<Renewed>>,
    requests_in: queue::Sender<oneshot::Sender<Renewed>>,
}

/// To ask for a renewal now; cheap to clone.
#[derive(Clone)]
pub(super) struct Handle(queue::Sender<oneshot::Sender<Renewed>>);

impl Handle {
    /// Renews this machine's certificates, due or not.
    pub(super) async fn renew_now(&self) -> Renewed {
        let (answer, wait) = oneshot::channel();
        self.0.send(answer).await.map_err(|_| Error::Stopping)?;
        wait.await.map_err(|_| Error::Stopping)?
    }
}

impl Renewer {
    pub(super) fn new(config: &NodeConfig, identity: tls::Identity, node: node::Handle) -> Renewer {
        let (requests_in, requests) = queue::bounded("daemon.renew", 4);
        let mut folders = vec![(config.identity.dir.clone(), RoleKind::Node)];
        folders.extend(config.identity.edge_dir.clone().map(|folder| (folder, RoleKind::Edge)));
        Renewer { folders, identity, node, requests, requests_in }
    }

    pub(super) fn handle(&self) -> Handle {
        Handle(self.requests_in.clone())
    }

    pub(super) fn start(self) -> tasks::Task {
        tasks::spawn("daemon.renew", self.run())
    }

    async fn run(mut self) {
        loop {
            let wait = self.look().await;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                Some(answer) = self.requests.recv() => {
                    // Whoever asked may have gone.
                    let _ = answer.send(self.renew_all().await);
                }
            }
        }
    }

    /// Renews what is due; answers when to look again.
    async fn look(&self) -> Duration {
        let mut wait = LOOK_EVERY;
        for (folder, role) in &self.folders {
            let now = OffsetDateTime::from(clock::wall());
            let leaf = match Bundle::load(folder, *role, now) {
                Ok(bundle) => bundle.name,
                Err(why) => {
                    tracing::error!(folder = %folder.display(), %why, "this machine's identity does not hold");
                    continue;
                }
            };
            let days = (leaf.not_after - now).whole_days();
            metrics::CERTIFICATE_DAYS.with_label_values(&[certificate(*role)]).set(days);
            if *role == RoleKind::Node {
                // The node task is gone only when the process stops.
                let _ = self.node.set_certificate_days(days).await;
            }
            if renewal::due(leaf.not_before, leaf.not_after, now) {
                match self.renew(folder, *role).await {
                    Ok(days) => tracing::info!(certificate = certificate(*role), days, "certificate renewed"),
                    Err(why) => {
                        tracing::warn!(certificate = certificate(*role), days, %why, "a certificate is due and was not renewed; trying again in a minute");
                        wait = wait.min(TRY_AGAIN);
                    }
                }
            }
            let left = Duration::try_from(leaf.not_after - now).unwrap_or(Duration::ZERO);
            wait = wait.min((left / 10).max(Duration::from_secs(1)));
        }
        wait
    }

    async fn renew_all(&self) -> Renewed {
        let mut least = i64::MAX;
        for (folder, role) in &self.folders {
            least = least.min(self.renew(folder, *role).await?);
        }
        Ok(least)
    }

    async fn renew(&self, folder: &Path, role: RoleKind) -> Renewed {
        let now = OffsetDateTime::from(clock::wall());
        let current = Bundle::load(folder, role, now)?;
        let key = Bundle::pending_key(folder, LINK_KEY)?;
        let request = postcard::to_stdvec(&RenewRequest::create(&current.link, &key)?)?;
        let answer = self.node.call(None, Method::Renew, Bytes::from(request), WITHIN).await?;
        let chain = std::str::from_utf8(&answer.body).map_err(|_| Error::NotPem)?;
        let key = key.to_pem();
        Bundle::write(folder, &Parts { link: Some((chain, &key)), ..Parts::default() })?;
        let renewed = Bundle::load(folder, role, now)?;
        if role == RoleKind::Node {
            self.identity.replace_link(&renewed.link);
        }
        Ok((renewed.name.not_after - now).whole_days())
    }
}

fn certificate(role: RoleKind) -> &'static str {
    match role {
        RoleKind::Node => "node",
        RoleKind::Edge => "edge",
        RoleKind::Agent => "agent",
    }
}
