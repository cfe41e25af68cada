//! What each namespace has of all that a node keeps: the messages of one are not to take the room of all others.

use std::collections::BTreeMap;

use super::taking::keeping_back;
use crate::mesh::Mesh;
use crate::wire::close::{Code, Refusal};
use crate::wire::ids::Namespace;

/// By the namespace of their senders; no empty ones.
#[derive(Debug, Default)]
pub(super) struct Shares {
    /// Messages, and bytes of their payloads.
    of: BTreeMap<Namespace, (usize, usize)>,
}

impl Shares {
    pub(super) fn takes(&mut self, namespace: &Namespace, messages: usize, bytes: usize) {
        let of = self.of.entry(namespace.clone()).or_default();
        *of = (of.0 + messages, of.1 + bytes);
    }

    pub(super) fn gives(&mut self, namespace: &Namespace, messages: usize, bytes: usize) {
        if let Some(of) = self.of.get_mut(namespace) {
            *of = (of.0.saturating_sub(messages), of.1.saturating_sub(bytes));
            if *of == (0, 0) {
                self.of.remove(namespace);
            }
        }
    }

    fn of(&self, namespace: &Namespace) -> (usize, usize) {
        self.of.get(namespace).copied().unwrap_or_default()
    }
}

impl Mesh {
    /// Whether a namespace may give this node one message more to keep. Where it is the only one, it may fill what clients may.
    pub(super) fn check_share(&self, namespace: &Namespace, bytes: usize) -> Result<(), Refusal> {
        if !self.directory.has_others(namespace) {
            return Ok(());
        }
        let limits = &self.config.limits;
        let part = |all: usize| keeping_back(all).saturating_mul(limits.namespace_percent) / 100;
        let (messages, used) = self.durable.table.shares.of(namespace);
        if messages < part(limits.node_messages) && used + bytes <= part(limits.node_bytes) {
            return Ok(());
        }
        let message = format!(
            "node {} keeps {messages} messages of {} MiB of namespace {namespace}, as many as of one among others; its operator sets that by [limits] namespace_percent",
            self.config.node,
            used >> 20
        );
        Err(Refusal::new(Code::Unavailable, message))
    }
}
