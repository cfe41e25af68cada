//! Frames in which the server itself speaks.

use bytes::Bytes;
use rand::RngExt;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Session;
use crate::gateway::carrier::Carrier;
use crate::metrics;
use crate::rt::clock;
use crate::wire::client::{ErrorPayload, MESH, ServerFrame};
use crate::wire::close::Refusal;
use crate::wire::frame::AgentState;
use crate::wire::ids::{AgentAddr, MessageId, Namespace, NodeName};

/// Bytes that the frame around a list may need.
const AROUND: usize = 1024;

impl<C: Carrier> Session<C> {
    /// Queues a frame of the server's own.
    pub(super) fn say<P: Serialize>(&mut self, kind: &str, reply_to: Option<&MessageId>, payload: P) {
        let id = uuid();
        let frame = ServerFrame {
            kind,
            from: MESH,
            to: self.agent.as_ref().map_or("", |agent| agent.name.as_str()),
            id: id.as_str(),
            timestamp: clock::wall_ms(),
            reply_to: reply_to.map(MessageId::as_str),
            payload,
            priority: 3,
        };
        match serde_json::to_vec(&frame) {
            Ok(text) => self.out.push_back(Bytes::from(text)),
            Err(e) => {
                tracing::error!(kind, error = %e, "a frame of ours can't be written; please report this")
            }
        }
    }

    /// Queues an ERROR.
    pub(super) fn error(&mut self, reply_to: Option<&MessageId>, frame: Option<String>, refusal: &Refusal) {
        metrics::CLIENT_ERRORS.with_label_values(&[refusal.code.as_str()]).inc();
        let payload = ErrorPayload { frame, ..ErrorPayload::from(refusal) };
        self.say("ERROR", reply_to, payload);
    }

    /// An address as this session's client writes it.
    pub(super) fn shown(&self, agent: &AgentAddr) -> String {
        shown(agent, &self.namespace)
    }
}

/// An agent's name in its own namespace, else the whole address.
pub(super) fn shown(agent: &AgentAddr, home: &Namespace) -> String {
    if agent.namespace == *home { agent.name.to_string() } else { agent.to_string() }
}

/// Payload of AGENTS.
#[derive(Serialize)]
pub(super) struct AgentsPayload {
    agents: Vec<Box<RawValue>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
}

#[derive(Serialize)]
struct AgentEntry<'a> {
    agent: &'a str,
    online: bool,
    node: &'a str,
    capabilities: &'a [String],
}

impl AgentsPayload {
    /// As many agents, by name, as fit into a frame of `limit` bytes.
    pub(super) fn new(mut list: Vec<(AgentState, NodeName)>, limit: usize) -> AgentsPayload {
        list.sort_by(|a, b| a.0.agent.cmp(&b.0.agent));
        let total = list.len();
        let mut left = limit.saturating_sub(AROUND);
        let rows = list.iter().map_while(|(state, node)| {
            let entry = AgentEntry {
                agent: state.agent.name.as_str(),
                online: state.presence == crate::wire::frame::Presence::Online,
                node: node.as_str(),
                capabilities: &state.capabilities,
            };
            let row = serde_json::value::to_raw_value(&entry).ok()?;
            left = left.checked_sub(row.get().len() + 1)?;
            Some(row)
        });
        let agents: Vec<_> = rows.collect();
        AgentsPayload { truncated: agents.len() < total, agents }
    }
}

/// A UUID of version 4 (RFC 9562 section 5.4): names that no two makers choose alike.
pub(crate) fn uuid() -> MessageId {
    let random: u128 = rand::rng().random();
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let text = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
    // Hexadecimal digits and '-' are always an id.
    MessageId::new(&text).unwrap_or_else(|_| unreachable!("a UUID is an id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Presence;
    use crate::wire::ids::AgentName;

    #[test]
    fn ids_have_the_form_of_a_version_4_uuid() {
        // covers T04
        let (one, other) = (uuid(), uuid());
        assert_ne!(one, other);
        let text = one.as_str();
        assert_eq!(text.len(), 36);
        assert_eq!(&text[14..15], "4");
        assert!("89ab".contains(&text[19..20]), "{text}");
    }

    #[test]
    fn a_list_that_does_not_fit_says_so() {
        // covers T05
        let home = Namespace::new("trishula").unwrap();
        let node = NodeName::new("dc").unwrap();
        let list: Vec<_> = (0..100)
            .rev()
            .map(|n| {
                let name = AgentName::new(&format!("agent-{n:03}")).unwrap();
                let agent = AgentAddr::new(home.clone(), name);
                let state = AgentState {
                    agent,
                    presence: Presence::Online,
                    registered_ms: 0,
                    shared: false,
                    capabilities: vec![],
                };
                (state, node.clone())
            })
            .collect();
        let whole = AgentsPayload::new(list.clone(), 1 << 20);
        assert!(!whole.truncated && whole.agents.len() == 100);
        assert!(whole.agents[0].get().contains("agent-000"));
        let cut = AgentsPayload::new(list, AROUND + 1000);
        assert!(cut.truncated && !cut.agents.is_empty() && cut.agents.len() < 20);
    }
}
