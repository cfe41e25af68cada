//! `trishula cert renew`

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::days;
use crate::admin::client::{self, Client};
use crate::admin::protocol::{Called, Renewed, Request};
use crate::cli::common::{SocketArg, block_on, desk_of, now};
use crate::cli::{layout, print};
use crate::daemon::authority::CaDesk;
use crate::identity::bundle::{
    Bundle, LINK_CERTIFICATE, LINK_KEY, Leaf, PUBLIC_CERTIFICATE, PUBLIC_KEY, Parts,
};
use crate::identity::csr::Key;
use crate::identity::renewal::RenewRequest;
use crate::identity::{PeerName, Role};
use crate::wire::frame::Method;

/// How long the holder of the CA may take.
const WITHIN_MS: u64 = 15_000;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula cert renew                            this machine's, by its running node
  trishula cert renew --identity ./planner       an agent's, through the node of this machine
  sudo trishula cert renew                       on the holder of the CA it works without a running node too

Nodes renew their own certificates in the last third of their life; this does it now. The key is replaced too.
A certificate that has ended or was revoked can't be renewed: join again with a ticket (trishula invite NAME --again).")]
pub(crate) struct Args {
    /// This identity's folder instead of the machine's own
    #[arg(long, value_name = "DIR")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    socket: SocketArg,
}

/// Who signs.
enum Signer {
    Node(Client),
    Desk(Box<CaDesk>),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        block_on(async {
            let mut signer = self.signer().await?;
            if let Some(folder) = &self.identity {
                return signer.renew_all(folder).await;
            }
            let config = self.socket.config.load()?;
            let (node, edge) = (config.identity.dir.clone(), config.identity.edge_dir.clone());
            match &mut signer {
                // It replaces its own while it runs, and those of its edge's link.
                Signer::Node(client) => {
                    let asked = client.ask::<Renewed>(&Request::Renew);
                    let renewed = print::progress("waiting for the holder of the CA", asked).await?;
                    print::line(&format!("renewed {}: good for {} days", node.display(), renewed.days_left))?;
                }
                Signer::Desk(_) => {
                    signer.renew_all(&node).await?;
                }
            }
            let edge = edge.unwrap_or_else(|| node.with_file_name(layout::EDGE_IDENTITY));
            if edge.is_dir() { signer.renew_public(&edge).await } else { Ok(()) }
        })
    }

    async fn signer(&self) -> anyhow::Result<Signer> {
        match Client::connect(&self.socket.path()?).await {
            Ok(client) => Ok(Signer::Node(client)),
            Err(error @ client::Error::NotRunning(_)) => match desk_of(&self.socket.config.load()?)? {
                Some(desk) => Ok(Signer::Desk(Box::new(desk))),
                None => Err(error.into()),
            },
            Err(error) => Err(error.into()),
        }
    }
}

impl Signer {
    async fn renew_all(&mut self, folder: &Path) -> anyhow::Result<()> {
        let leaf = Leaf::read(&folder.join(LINK_CERTIFICATE), &folder.join(LINK_KEY), false)?;
        let (chain, key) = self.sign(&leaf, &Bundle::pending_key(folder, LINK_KEY)?).await?;
        let parts = Parts { link: Some((&chain, &key)), ..Parts::default() };
        write(folder, &parts, &chain, LINK_CERTIFICATE)?;
        self.renew_public(folder).await
    }

    /// A public certificate of the mesh's CA; one from elsewhere is renewed by whoever made it.
    async fn renew_public(&mut self, folder: &Path) -> anyhow::Result<()> {
        let path = folder.join(PUBLIC_CERTIFICATE);
        if !path.exists() {
            return Ok(());
        }
        let leaf = Leaf::read(&path, &folder.join(PUBLIC_KEY), true)?;
        match PeerName::from_certificate(leaf.certificate()?) {
            Ok(PeerName { role: Role::Edge(_), .. }) => {}
            _ => return print::line(&format!("{} is not of the mesh's CA, and left alone", path.display())),
        }
        let (chain, key) = self.sign(&leaf, &Bundle::pending_key(folder, PUBLIC_KEY)?).await?;
        write(folder, &Parts { public: Some((&chain, &key)), ..Parts::default() }, &chain, PUBLIC_CERTIFICATE)
    }

    /// The new chain and its key, PEM.
    async fn sign(&mut self, leaf: &Leaf, key: &Key) -> anyhow::Result<(String, String)> {
        let body = postcard::to_stdvec(&RenewRequest::create(leaf, key)?)?;
        let chain = match self {
            Signer::Desk(desk) => desk.answer_renew(&body, now()).map_err(anyhow::Error::msg)?,
            Signer::Node(client) => {
                let body = STANDARD.encode(body);
                let request = Request::Call { to: None, method: Method::Renew, body, within_ms: WITHIN_MS };
                let asked = client.ask::<Called>(&request);
                let called = print::progress("waiting for the holder of the CA", asked).await?;
                STANDARD.decode(called.body).context("the holder's answer is not base64")?
            }
        };
        Ok((String::from_utf8(chain).context("the holder's answer is not a certificate")?, key.to_pem()))
    }
}

fn write(folder: &Path, parts: &Parts<'_>, chain: &str, file: &str) -> anyhow::Result<()> {
    let place = folder.join(file);
    let (_, key) = parts.link.or(parts.public).unwrap_or_default();
    // Nothing is replaced by something that does not work.
    let leaf = Leaf::from_pem(chain.as_bytes(), key.as_bytes(), "the holder's answer", "the new key")?;
    let name = PeerName::from_certificate(leaf.certificate()?)?;
    if days(name.not_after) < 0 {
        bail!("the new certificate has ended already; compare the clocks of both machines");
    }
    Bundle::write(folder, parts)?;
    print::line(&format!("renewed {}: good for {} days", place.display(), days(name.not_after)))
}
