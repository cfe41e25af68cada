//! REGISTER: how an agent wants to be served.

use serde::{Deserialize, Serialize};

use super::{copies_of, present};
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::State;
use crate::wire::ids::AgentName;

/// Most capabilities an agent may name, and the longest of them in bytes.
pub const MAX_CAPABILITIES: usize = 64;
/// See [`MAX_CAPABILITIES`].
pub const MAX_CAPABILITY: usize = 64;
/// Payload of REGISTER.
#[derive(Debug, Clone, PartialEq)]
pub struct Register {
    /// As whom; the token's own name when absent.
    pub agent: Option<AgentName>,
    /// What the agent can.
    pub capabilities: Vec<String>,
    /// Who acknowledges; `None`: as the carrier can.
    pub ack: Option<AckMode>,
    /// Messages under way to this session at most.
    pub window: u16,
    /// Joins the agent's other sessions instead of taking over.
    pub shared: bool,
    /// The agent is forgotten when its last session ends, whoever ends it and however.
    pub transient: bool,
    /// The last state to be told of when a message does not say.
    pub receipts: String,
    /// On how many machines a durable message must be before it is accepted when it does not say: 1 or 2.
    pub copies: u8,
    /// Milliseconds between signs of life.
    pub heartbeat_ms: u32,
}

impl Default for Register {
    fn default() -> Self {
        Self {
            agent: None,
            capabilities: Vec::new(),
            ack: None,
            window: 64,
            shared: false,
            transient: false,
            receipts: "none".into(),
            copies: 1,
            heartbeat_ms: 30_000,
        }
    }
}

/// Who acknowledges what a session is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// Its library, by pong.
    Auto,
    /// The client, by ACK and NACK.
    Manual,
}

/// REGISTER as it is written; its names and bounds are not checked yet.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct RawRegister {
    agent: Option<String>,
    capabilities: Vec<String>,
    #[serde(deserialize_with = "present")]
    ack: Option<AckMode>,
    window: u16,
    shared: bool,
    transient: bool,
    receipts: String,
    copies: Option<u8>,
    heartbeat_ms: u32,
}

impl Default for RawRegister {
    fn default() -> Self {
        let Register { capabilities, ack, window, receipts, heartbeat_ms, .. } = Register::default();
        let (shared, transient) = (false, false);
        Self {
            agent: None,
            capabilities,
            ack,
            window,
            shared,
            transient,
            receipts,
            copies: None,
            heartbeat_ms,
        }
    }
}

impl RawRegister {
    /// Checks names and bounds.
    pub(super) fn check(self) -> Result<Register, Refusal> {
        let bad = |message: String| Refusal::new(Code::BadFrame, message);
        if self.capabilities.len() > MAX_CAPABILITIES {
            return Err(bad(format!(
                "capabilities: {} given, at most {MAX_CAPABILITIES}",
                self.capabilities.len()
            )));
        }
        if let Some(long) = self.capabilities.iter().find(|c| c.len() > MAX_CAPABILITY || c.is_empty()) {
            let shown: String = long.chars().take(20).collect();
            return Err(bad(format!("capabilities: {shown:?} must have 1 to {MAX_CAPABILITY} bytes")));
        }
        if !(1..=1024).contains(&self.window) {
            return Err(bad(format!("window: {} is not from 1 to 1024", self.window)));
        }
        if !(1_000..=600_000).contains(&self.heartbeat_ms) {
            return Err(bad(format!("heartbeat_ms: {} is not from 1000 to 600000", self.heartbeat_ms)));
        }
        State::parse_wish(&self.receipts)
            .map_err(|why| bad(format!("receipts: {:?} {why}", self.receipts)))?;
        let agent = self.agent.as_deref().map(AgentName::new).transpose();
        Ok(Register {
            agent: agent.map_err(|e| Refusal::new(Code::BadName, format!("agent: {e}")))?,
            capabilities: self.capabilities,
            ack: self.ack,
            window: self.window,
            shared: self.shared,
            transient: self.transient,
            receipts: self.receipts,
            copies: copies_of(self.copies)?.unwrap_or(1),
            heartbeat_ms: self.heartbeat_ms,
        })
    }
}

impl Register {
    /// The last state to be told of when a message does not say.
    pub fn receipt_wish(&self) -> Option<State> {
        State::parse_wish(&self.receipts).ok().flatten()
    }
}
