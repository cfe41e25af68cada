//! Messages to try the store with.

use bytes::Bytes;

use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Head, Kind, MessageKey, State, Target};
use crate::wire::frame::{AgentState, Presence};
use crate::wire::ids::{AgentAddr, AgentName, MessageId, Namespace, NodeName};
use crate::wire::record::{Change, Kept, Place, Upstream};

/// An agent of the usual namespace.
pub fn address(name: &str) -> AgentAddr {
    AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(name).unwrap())
}

/// An agent that is registered and away.
pub fn agent(name: &str) -> AgentState {
    AgentState {
        agent: address(name),
        presence: Presence::Away,
        registered_ms: 7,
        shared: false,
        capabilities: vec!["plan".into()],
    }
}

/// The n-th message of `dc` for `agni`.
pub fn key(n: u64) -> MessageKey {
    MessageKey { from: address("dc"), id: MessageId::new(&format!("m-{n}")).unwrap(), to: address("agni") }
}

/// The same with all that is kept of it.
pub fn kept(n: u64, place: Place, payload: &'static [u8]) -> Kept {
    let key = key(n);
    let head = Head {
        receipt: Some(State::Acked),
        ttl_ms: Some(60_000),
        copies: 2,
        sent_ms: 1_767_225_600_000 + n,
        depth: 1,
        taken: (1_767_225_600_000 + n) << 16,
        ..Head::new(key.from.clone(), Target::Agent(key.to.clone()), key.id.clone(), Kind::Command)
    };
    let dead = place == Place::Dead;
    Kept {
        key,
        order: n,
        place,
        upstream: Upstream::Sender,
        head,
        payload: Bytes::from_static(payload),
        state: if dead { State::Dead } else { State::Accepted },
        reason: dead.then(|| Refusal::new(Code::NoRoute, "no way")),
        taken_ms: 1_767_225_600_000 + n,
        unseen_since: 3,
        other: Some(NodeName::new("rushabdev").unwrap()),
        told: false,
    }
}

/// A message that moved on.
pub fn change(place: Place, state: State) -> Change {
    let reason = (place == Place::Dead).then(|| Refusal::new(Code::NoRoute, "no way"));
    Change { place, state, reason, at_ms: 1_767_225_700_000, other: None, told: state.is_end() }
}
