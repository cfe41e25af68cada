//! A session of the client protocol (docs/protocol.md), as send, listen, request and ping use it: over the admin
//! socket of this machine's node, or over QUIC, or a node's edge, with an agent's certificate.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rand::RngExt;
use serde_json::Value;

use super::common::{SocketArg, now};
use crate::admin;
use crate::admin::protocol::{Attached, Request};
use crate::client::{self, Client, Connection, Message, Options, Outgoing, Quic, Through, Ways};
use crate::config::address::{HostPort, NotAnAddress};
use crate::identity::bundle::Bundle;
use crate::identity::revocation::Revocations;
use crate::identity::{ANY_NODE, RoleKind, tls};
use crate::node::status::Status;
use crate::rt::clock;
use crate::wire::client::MESH;
use crate::wire::envelope::Kind;
use crate::wire::ids::AgentName;
use crate::wire::url::{self, WSS, WssUrl};

/// How long the mesh may take to say that it has read everything.
const FLUSH_WITHIN: Duration = Duration::from_secs(2);

/// By which way in.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TalkArg {
    #[command(flatten)]
    pub socket: SocketArg,
    /// Come in at this node instead of by the socket of this machine's: by QUIC at HOST:PORT, or at wss://HOST:PORT/mesh of its
    /// edge where UDP is blocked. Several may be given, the best first: the first that answers is taken
    #[arg(long, value_name = "ADDRESS", requires = "identity")]
    pub node: Vec<Entry>,
    /// With this agent's identity (trishula cert issue)
    #[arg(long, value_name = "DIR", requires = "node")]
    pub identity: Option<PathBuf>,
}

/// Where a node takes agents in.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Entry {
    /// By QUIC.
    Quic(HostPort),
    /// Through its edge.
    Edge(WssUrl),
}

impl FromStr for Entry {
    type Err = String;

    fn from_str(given: &str) -> Result<Entry, String> {
        match given.starts_with(WSS) {
            true => given.parse().map(Entry::Edge).map_err(|why: url::NotAUrl| why.to_string()),
            false => given.parse().map(Entry::Quic).map_err(|why: NotAnAddress| why.to_string()),
        }
    }
}

/// As whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whom {
    /// `NODE.cli`, next to other commands of this machine.
    Tool,
    /// A name of this session only, forgotten at its end: what is sent to it comes here and nowhere else. Over QUIC
    /// the certificate's name.
    Once,
    /// This one; `shared`: next to other sessions of it, instead of taking over.
    Agent {
        /// Its name.
        name: AgentName,
        /// See above.
        shared: bool,
    },
}

/// A registered session.
pub(crate) struct Talk {
    /// To send, to ask and to listen with.
    pub client: Client,
    once: bool,
}

impl Talk {
    /// Connects and registers. `listens`: what the agent can; without it, what comes for the agent is left for a
    /// session that listens.
    pub async fn open(way: &TalkArg, whom: &Whom, listens: Option<&[String]>) -> anyhow::Result<Talk> {
        let shared = match whom {
            Whom::Agent { shared, .. } => *shared,
            Whom::Tool => true,
            Whom::Once => false,
        };
        let agent = match whom {
            Whom::Agent { name, .. } => Some(name.clone()),
            Whom::Tool | Whom::Once => None,
        };
        let (capabilities, manual) = (listens.unwrap_or_default().to_vec(), listens.is_none());
        let uncounted = *whom == Whom::Once;
        let options = Options { agent, capabilities, shared, manual, uncounted, copies: None };
        match &way.identity {
            Some(folder) => {
                let client = over_network(&way.node, folder, options).await?;
                Ok(Talk { client, once: false })
            }
            None => {
                let client = over_socket(&way.socket, whom, options).await?;
                Ok(Talk { client, once: *whom == Whom::Once })
            }
        }
    }

    /// `namespace/name` of this session.
    pub fn agent(&self) -> String {
        let registered = self.client.registered();
        format!("{}/{}", registered.namespace, registered.agent)
    }

    /// Waits until the node has read what was sent. What it refuses at once, it has refused by then: of the message
    /// with this id, that is an error.
    pub async fn flush(&mut self, id: &str) -> anyhow::Result<()> {
        let read = Outgoing::new(Kind::Heartbeat, MESH, Value::Null);
        let flushed = read.id.clone();
        self.client.send(read).await?;
        let wait = async {
            loop {
                let message = self.next().await?;
                if let Some(refused) = refusal(&message).filter(|_| answers(&message, id)) {
                    return Err(refused.into());
                }
                if answers(&message, &flushed) {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(FLUSH_WITHIN, wait)
            .await
            .map_err(|_| anyhow!("the node does not answer; see its log"))?
    }

    /// The next message; that there will be none is an error.
    pub async fn next(&mut self) -> anyhow::Result<Message> {
        self.client.next().await.context("the node ended the session")
    }

    /// Ends the session: everything sent before was written, and a name of this session only is forgotten.
    pub async fn close(self) {
        if self.once {
            let forget = Outgoing { kind: "UNREGISTER", ..Outgoing::new(Kind::Status, MESH, Value::Null) };
            // A session that has ended already is forgotten by the node in its own time.
            let _ = self.client.send(forget).await;
        }
        self.client.close().await;
    }
}

/// Whether a message answers the one of this id.
pub(crate) fn answers(message: &Message, id: &str) -> bool {
    message.reply_to.as_deref() == Some(id)
}

/// An ERROR of the mesh itself, as an error of ours.
pub(crate) fn refusal(message: &Message) -> Option<client::Error> {
    if !message.is_from_mesh() || !message.is(Kind::Error) {
        return None;
    }
    Some(match message.read::<crate::wire::client::ErrorPayload>() {
        Ok(payload) => payload.into(),
        Err(malformed) => malformed,
    })
}

/// A payload as it was typed: JSON, or else a text.
pub(crate) fn payload(given: &str) -> Value {
    serde_json::from_str(given).unwrap_or_else(|_| Value::String(given.to_owned()))
}

/// The same; `-` is read from stdin.
pub(crate) fn payload_or_stdin(given: &str) -> anyhow::Result<Value> {
    match given {
        "-" => {
            let text = std::io::read_to_string(std::io::stdin().lock()).context("stdin can't be read")?;
            Ok(payload(text.trim_end()))
        }
        text => Ok(payload(text)),
    }
}

async fn over_socket(socket: &SocketArg, whom: &Whom, options: Options) -> anyhow::Result<Client> {
    let path = socket.path()?;
    // First of all by hand: what does not work now is the user's to mend, and said in the words of the socket.
    let mut node = admin::client::Client::connect(&path).await?;
    let agent = match whom {
        Whom::Tool => None,
        Whom::Agent { name, .. } => Some(name.clone()),
        Whom::Once => {
            let status: Status = node.ask(&Request::Status { node: None }).await?;
            // Within the 64 bytes that a name may have.
            let node: String = status.node.as_str().chars().take(48).collect();
            Some(AgentName::new(&format!("{node}.cli.{:08x}", rand::rng().random::<u32>()))?)
        }
    };
    let how = move || {
        let (path, agent) = (path.clone(), agent.clone());
        async move {
            let unreachable = |error: admin::client::Error| client::Error::Unreachable(error.to_string());
            let mut node = admin::client::Client::connect(&path).await.map_err(unreachable)?;
            node.ask::<Attached>(&Request::Attach { agent }).await.map_err(unreachable)?;
            Ok(Connection::over(node.into_stream()))
        }
    };
    Ok(Client::connect(how, options).await?)
}

async fn over_network(entries: &[Entry], folder: &Path, options: Options) -> anyhow::Result<Client> {
    let bundle = Bundle::load(folder, RoleKind::Agent, now())?;
    let revocations = Arc::new(Revocations::new(bundle.revoked.clone()));
    let identity = tls::Identity::new(&bundle, revocations, clock::for_tls())?;
    let mut ways = Ways::default();
    for entry in entries {
        ways = match entry {
            Entry::Quic(node) => ways.or(by_quic(node, &identity)?),
            Entry::Edge(url) => ways.or(Through::new(identity.relay_client(None)?, url.clone(), None)?),
        };
    }
    let blocked = !entries.iter().any(|entry| matches!(entry, Entry::Edge(_)));
    Client::connect(ways, options).await.map_err(|error| match error {
        client::Error::Disconnected => anyhow!(
            "the node let this agent in and threw it out again: its certificate may be revoked; see the node's log, and: trishula cert check --identity {}",
            folder.display()
        ),
        client::Error::Unreachable(why) if blocked => anyhow!(
            "{why}; is a node running there, and UDP open on the way? Where it is not: --node wss://HOST:PORT/mesh, by the node's edge"
        ),
        client::Error::Unreachable(why) => anyhow!("{why}; are a node and its edge running there?"),
        other => other.into(),
    })
}

/// The name is looked up at each dial: it may get another address, or be unknown while there is no network.
fn by_quic(node: &HostPort, identity: &tls::Identity) -> anyhow::Result<Quic> {
    let config = quinn::ClientConfig::new(Arc::new(tls::quic_client(identity.client(None)?)?));
    Quic::new(config, ANY_NODE, vec![node.to_string()]).context("no UDP socket to dial from")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_no_json_is_a_string() {
        // covers T04
        assert_eq!(payload("{\"a\":1}"), serde_json::json!({ "a": 1 }));
        assert_eq!(payload("5"), serde_json::json!(5));
        assert_eq!(payload("hello there"), serde_json::json!("hello there"));
        assert_eq!(payload(""), serde_json::json!(""));
    }
}
