//! A session of the client protocol (docs/protocol.md), as send, listen, request and ping use it: over the admin
//! socket of this machine's node, or over QUIC with an agent's certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use rand::RngExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::common::{SocketArg, now};
use crate::admin::client::Client;
use crate::admin::protocol::{Attached, Request};
use crate::config::address::HostPort;
use crate::identity::bundle::Bundle;
use crate::identity::revocation::Revocations;
use crate::identity::{Role, RoleKind, tls};
use crate::node::status::Status;
use crate::wire::close::CloseCode;
use crate::wire::ids::AgentName;

/// Largest frame that is read, in bytes: what the mesh carries at most.
const MAX_FRAME: usize = 16 << 20;
/// How long an address may take to connect.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// How long the node may take to register a session.
const REGISTER_WITHIN: Duration = Duration::from_secs(10);

/// By which way in.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct TalkArg {
    #[command(flatten)]
    pub socket: SocketArg,
    /// Come in by QUIC at this node instead of by the socket of this machine's
    #[arg(long, value_name = "HOST:PORT", requires = "identity")]
    pub node: Option<HostPort>,
    /// With this agent's identity (trishula cert issue)
    #[arg(long, value_name = "DIR", requires = "node")]
    pub identity: Option<PathBuf>,
}

/// As whom.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whom {
    /// `NODE.cli`, next to other commands of this machine.
    Tool,
    /// A name of this session only, forgotten at its end: what is sent to it comes here and nowhere else.
    Once,
    /// This one; `shared`: next to other sessions of it, instead of taking over.
    Agent {
        /// Its name.
        name: AgentName,
        /// See above.
        shared: bool,
    },
}

/// A frame, read as far as commands need it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Frame {
    /// COMMAND, RECEIPT …
    #[serde(rename = "type")]
    pub kind: String,
    /// `mesh` when the mesh itself speaks.
    #[serde(default)]
    pub from: String,
    /// The frame's own id.
    #[serde(default)]
    pub id: String,
    /// The frame that it answers.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// Anything.
    #[serde(default)]
    pub payload: Value,
}

/// The mesh refused something.
#[derive(Debug, thiserror::Error)]
#[error("{message} ({code}); {hint}")]
pub(crate) struct Refused {
    /// As in the table of errors.
    pub code: String,
    message: String,
    hint: String,
}

/// The connection ended. May be tried again.
#[derive(Debug, thiserror::Error)]
#[error("the node closed the session ({0})")]
pub(crate) struct Closed(pub String);

/// A session.
pub(crate) struct Talk {
    reader: Box<dyn AsyncRead + Unpin + Send>,
    writer: Box<dyn AsyncWrite + Unpin + Send>,
    /// `namespace/name` of this session.
    pub agent: String,
    once: bool,
    /// Closed at the end, so that the node need not wait for its silence.
    quic: Option<(quinn::Endpoint, quinn::Connection)>,
    /// What of a frame has come: reading may be interrupted between two pieces.
    read: Vec<u8>,
}

impl Frame {
    /// Whether it answers the frame of this id.
    pub fn answers(&self, id: &str) -> bool {
        self.reply_to.as_deref() == Some(id)
    }

    /// An ERROR of the mesh itself, as an error of ours.
    pub fn refusal(&self) -> Option<Refused> {
        let text = |key: &str| self.payload[key].as_str().unwrap_or_default().to_owned();
        let of_mesh = self.from == "mesh" && self.kind == "ERROR";
        of_mesh.then(|| Refused { code: text("code"), message: text("message"), hint: text("hint") })
    }
}

impl Talk {
    /// Connects and registers.
    pub async fn open(way: &TalkArg, whom: &Whom, capabilities: &[String]) -> anyhow::Result<Talk> {
        let mut talk = match (&way.node, &way.identity) {
            (Some(node), Some(identity)) => over_quic(node, identity).await?,
            _ => over_socket(&way.socket, whom).await?,
        };
        talk.once &= *whom == Whom::Once;
        let (name, shared) = match whom {
            Whom::Agent { name, shared } => (Some(name.as_str()), *shared),
            Whom::Tool => (None, true),
            Whom::Once => (None, false),
        };
        let register = json!({ "agent": name, "capabilities": capabilities, "shared": shared });
        talk.send(&json!({ "type": "REGISTER", "id": "register", "payload": register })).await?;
        let registered = tokio::time::timeout(REGISTER_WITHIN, talk.answer("register")).await;
        let registered = registered.map_err(|_| {
            anyhow!("the node did not register this session within {REGISTER_WITHIN:?}; see its log")
        })??;
        let word = |key: &str| registered.payload[key].as_str().unwrap_or_default().to_owned();
        talk.agent = format!("{}/{}", word("namespace"), word("agent"));
        Ok(talk)
    }

    /// Writes one frame.
    pub async fn send(&mut self, frame: &Value) -> anyhow::Result<()> {
        let body = serde_json::to_vec(frame)?;
        let length = u32::try_from(body.len()).context("the message is too large")?;
        let written = async {
            self.writer.write_all(&length.to_be_bytes()).await?;
            self.writer.write_all(&body).await?;
            self.writer.flush().await
        };
        written.await.map_err(|e| Closed(e.to_string()).into())
    }

    /// The next frame, as its sender wrote it. May be dropped while it waits; nothing is lost by that.
    pub async fn next_raw(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(length) = self.read.first_chunk::<4>() {
                let length = u32::from_be_bytes(*length) as usize;
                if length > MAX_FRAME {
                    bail!("the node sent a frame of {length} bytes; use its own version of trishula");
                }
                if self.read.len() >= 4 + length {
                    let frame = self.read[4..4 + length].to_vec();
                    self.read.drain(..4 + length);
                    return String::from_utf8(frame).context("the node sent a frame that is not UTF-8");
                }
            }
            match self.reader.read_buf(&mut self.read).await {
                Ok(0) => return Err(Closed("end of the stream".into()).into()),
                Ok(_) => {}
                Err(error) => return Err(Closed(why(&error)).into()),
            }
        }
    }

    /// The next frame.
    pub async fn next(&mut self) -> anyhow::Result<Frame> {
        parse(&self.next_raw().await?)
    }

    /// The mesh's answer to the frame of this id; others that come before it are passed over.
    pub async fn answer(&mut self, id: &str) -> anyhow::Result<Frame> {
        loop {
            let frame = self.next().await?;
            match frame.refusal() {
                Some(refused) if frame.answers(id) || frame.reply_to.is_none() => return Err(refused.into()),
                _ if frame.from == "mesh" && frame.answers(id) => return Ok(frame),
                _ => {}
            }
        }
    }

    /// Ends the session: everything sent before was read by the node, and a name of this session only is forgotten.
    pub async fn close(mut self) -> anyhow::Result<()> {
        let kind = if self.once { "UNREGISTER" } else { "HEARTBEAT" };
        self.send(&json!({ "type": kind, "id": "end" })).await?;
        // Everything that matters has been answered; a node that says no more is as good as one that does.
        let _ = tokio::time::timeout(Duration::from_secs(2), self.answer("end")).await;
        // The other end may have closed by then.
        let _ = self.writer.shutdown().await;
        if let Some((endpoint, connection)) = self.quic {
            connection.close(0u32.into(), b"done");
            endpoint.wait_idle().await;
        }
        Ok(())
    }
}

/// Reads a frame's text.
pub(crate) fn parse(text: &str) -> anyhow::Result<Frame> {
    serde_json::from_str(text)
        .context("the node sent a frame that can't be read; use its own version of trishula")
}

/// An id that nobody has used.
pub(crate) fn fresh_id() -> String {
    format!("cli-{:016x}", rand::rng().random::<u64>())
}

/// A payload as it was typed: JSON, or else a text.
pub(crate) fn payload(given: &str) -> Value {
    serde_json::from_str(given).unwrap_or_else(|_| Value::String(given.to_owned()))
}

/// The same; `-` is read from stdin.
pub(crate) fn payload_or_stdin(given: &str) -> anyhow::Result<Value> {
    match given {
        "-" => Ok(payload(
            std::io::read_to_string(std::io::stdin().lock()).context("stdin can't be read")?.trim_end(),
        )),
        text => Ok(payload(text)),
    }
}

async fn over_socket(socket: &SocketArg, whom: &Whom) -> anyhow::Result<Talk> {
    let mut client: Client = socket.connect().await?;
    let agent = match whom {
        Whom::Tool => None,
        Whom::Agent { name, .. } => Some(name.clone()),
        Whom::Once => {
            let status: Status = client.ask(&Request::Status { node: None }).await?;
            // Within the 64 bytes that a name may have.
            let node: String = status.node.as_str().chars().take(48).collect();
            Some(AgentName::new(&format!("{node}.cli.{:08x}", rand::rng().random::<u32>()))?)
        }
    };
    let attached: Attached = client.ask(&Request::Attach { agent }).await?;
    let (reader, writer) = client.into_stream().into_split();
    Ok(Talk {
        reader: Box::new(reader),
        writer: Box::new(writer),
        agent: attached.agent,
        once: true,
        quic: None,
        read: Vec::new(),
    })
}

async fn over_quic(node: &HostPort, folder: &Path) -> anyhow::Result<Talk> {
    let bundle = Bundle::load(folder, RoleKind::Agent, now())?;
    let Role::Agent(agent) = bundle.name.role.clone() else {
        bail!("{} is no agent's identity", folder.display())
    };
    let clock = Arc::new(rustls::time_provider::DefaultTimeProvider);
    let revocations = Arc::new(Revocations::new(bundle.revoked.clone()));
    let identity = tls::Identity::new(&bundle, revocations, clock)?;
    let config = quinn::ClientConfig::new(Arc::new(tls::quic_client(identity.client(None)?)?));
    let (endpoint, connection) =
        connect(node, config).await.with_context(|| format!("no session at {node}"))?;
    let (send, receive) = connection.open_bi().await.map_err(|e| anyhow!(tls::explain(&e)))?;
    // An agent with a certificate keeps its name; it is never of one session only.
    let agent = agent.to_string();
    Ok(Talk {
        reader: Box::new(receive),
        writer: Box::new(send),
        agent,
        once: false,
        quic: Some((endpoint, connection)),
        read: Vec::new(),
    })
}

async fn connect(
    node: &HostPort,
    config: quinn::ClientConfig,
) -> anyhow::Result<(quinn::Endpoint, quinn::Connection)> {
    let mut last = anyhow!("the name has no address");
    for remote in tokio::net::lookup_host(node.to_string()).await.context("the name is not known")? {
        let local: SocketAddr = match remote {
            SocketAddr::V4(_) => (std::net::Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (std::net::Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let endpoint = quinn::Endpoint::client(local)?;
        let connecting = endpoint.connect_with(config.clone(), remote, "node.trishula")?;
        match tokio::time::timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(connection)) => return Ok((endpoint, connection)),
            Ok(Err(error)) => last = anyhow!(tls::explain(&error)),
            Err(_) => {
                last = anyhow!(
                    "no answer within {CONNECT_WITHIN:?}; is UDP open on the way, and a node running there?"
                )
            }
        }
    }
    Err(last)
}

/// In words; the codes with which sessions are closed travel as QUIC application codes.
fn why(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<quinn::ReadError>());
    match inner {
        Some(quinn::ReadError::ConnectionLost(quinn::ConnectionError::ApplicationClosed(close)))
            if close.error_code.into_inner() == u64::from(CloseCode::TakenOver.number()) =>
        {
            "a newer session of the same agent took over".into()
        }
        Some(quinn::ReadError::ConnectionLost(lost)) => tls::explain(lost),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn over(stream: tokio::io::DuplexStream) -> Talk {
        let (reader, writer) = tokio::io::split(stream);
        let (reader, writer) = (Box::new(reader), Box::new(writer));
        Talk { reader, writer, agent: String::new(), once: false, quic: None, read: Vec::new() }
    }

    #[tokio::test]
    async fn frames_come_whole_whatever_pieces_they_travel_in() {
        // covers T05
        let (ours, mut theirs) = tokio::io::duplex(1024);
        let mut talk = over(ours);
        let frames = [
            json!({ "type": "COMMAND", "from": "dc", "id": "1" }),
            json!({ "type": "RESULT", "from": "dc", "id": "2" }),
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            let text = frame.to_string();
            bytes.extend((text.len() as u32).to_be_bytes());
            bytes.extend(text.bytes());
        }
        for piece in bytes.chunks(7) {
            theirs.write_all(piece).await.unwrap();
        }
        drop(theirs);
        assert_eq!(talk.next().await.unwrap().id, "1");
        assert_eq!(talk.next().await.unwrap().kind, "RESULT");
        assert!(talk.next().await.unwrap_err().is::<Closed>());
    }

    #[tokio::test]
    async fn an_answer_is_told_from_what_others_send() {
        // covers T07
        let (ours, theirs) = tokio::io::duplex(4096);
        let (mut talk, mut mesh) = (over(ours), over(theirs));
        mesh.send(&json!({ "type": "COMMAND", "from": "dc", "id": "x", "reply_to": "a" })).await.unwrap();
        mesh.send(&json!({ "type": "RECEIPT", "from": "mesh", "reply_to": "a", "payload": { "state": "delivered" } })).await.unwrap();
        assert_eq!(talk.answer("a").await.unwrap().payload["state"], "delivered");
        let payload = json!({ "code": "unknown_recipient", "message": "nobody", "hint": "look" });
        mesh.send(&json!({ "type": "ERROR", "from": "mesh", "reply_to": "b", "payload": payload }))
            .await
            .unwrap();
        let refused = talk.answer("b").await.unwrap_err();
        assert_eq!(refused.to_string(), "nobody (unknown_recipient); look");
    }

    #[test]
    fn a_text_that_is_no_json_is_a_string() {
        // covers T04
        assert_eq!(payload("{\"a\":1}"), json!({ "a": 1 }));
        assert_eq!(payload("5"), json!(5));
        assert_eq!(payload("hello there"), json!("hello there"));
        assert_eq!(payload(""), json!(""));
    }
}
