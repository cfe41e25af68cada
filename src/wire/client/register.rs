//! REGISTER: how an agent wants to be served.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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

/// What REGISTER has in its payload.
const FIELDS: [&str; 9] =
    ["agent", "capabilities", "ack", "window", "shared", "transient", "receipts", "copies", "heartbeat_ms"];

/// Beside a payload none of them is read: who writes one there is told, or would be served in another way than it asked for.
pub(super) fn check_beside(text: &str) -> Result<(), Refusal> {
    let bad = |message: String| Err(Refusal::new(Code::BadFrame, message));
    let Ok(fields) = serde_json::from_str::<BTreeMap<String, &RawValue>>(text) else {
        return bad("the frame can't be read".into());
    };
    let given = |field: &&str| fields.get(*field).is_some_and(|value| value.get() != "null");
    match FIELDS.into_iter().find(given) {
        None => Ok(()),
        Some(field) => {
            bad(format!("{field}: stands beside the payload of REGISTER; put it into the payload"))
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::wire::client::{ClientFrame, DEFAULT_MAX_FRAME, Speaker, parse};
    use crate::wire::ids::{MessageId, Namespace};

    fn read(text: &str) -> Result<Register, Refusal> {
        let namespace = Namespace::new("trishula").unwrap();
        let speaker = Speaker {
            agent: None,
            namespace: &namespace,
            max_frame: DEFAULT_MAX_FRAME,
            receipts: None,
            copies: 1,
        };
        let text = Bytes::copy_from_slice(text.as_bytes());
        match parse(&text, speaker, || (MessageId::new("m-1").unwrap(), 1)) {
            Ok(parsed) => match parsed.frame {
                ClientFrame::Register(register) => Ok(register),
                other => panic!("{other:?}"),
            },
            Err(refused) => Err(refused.refusal),
        }
    }

    #[test]
    fn what_stands_beside_the_payload_is_refused_and_not_passed_over() {
        // covers T04, B20
        for (field, value) in [
            ("agent", "\"dc\""),
            ("capabilities", "[]"),
            ("ack", "\"manual\""),
            ("window", "7"),
            ("shared", "true"),
            ("receipts", "\"acked\""),
            ("copies", "2"),
            ("heartbeat_ms", "2000"),
        ] {
            let beside = format!(r#"{{"type":"REGISTER","{field}":{value},"payload":{{}}}}"#);
            let refusal = read(&beside).unwrap_err();
            assert_eq!(refusal.code, Code::BadFrame, "{beside}");
            assert!(refusal.message.starts_with(&format!("{field}: ")), "{}", refusal.message);
            for good in [
                format!(r#"{{"type":"REGISTER","{field}":{value}}}"#),
                format!(r#"{{"type":"REGISTER","{field}":{value},"payload":null}}"#),
                format!(r#"{{"type":"REGISTER","payload":{{"{field}":{value}}}}}"#),
                format!(r#"{{"type":"REGISTER","{field}":null,"id":"r-1","payload":{{"{field}":{value}}}}}"#),
            ] {
                read(&good).unwrap_or_else(|refusal| panic!("{good}: {refusal:?}"));
            }
        }
        assert_eq!(read(r#"{"type":"REGISTER","ack":"manual","window":7}"#).unwrap().window, 7);
    }
}
