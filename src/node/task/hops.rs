//! Steps of messages, on their way to `trishula trace`.

use std::borrow::Cow;

use super::{Node, role_word};
use crate::mesh::Hop;
use crate::node::records::trace::Detail;
use crate::rt::clock;
use crate::store::trace;
use crate::wire::ids::{LinkId, NodeName};

/// Steps that are noted before they are handed on; a turn has rarely more.
const NOTED: usize = 1024;

/// A step of this turn.
pub(super) struct Noted {
    /// When it happened, in microseconds of the wall clock.
    us: u64,
    hop: Box<Hop>,
    way: Option<Way>,
}

/// What a step's link was: it may be gone when the turn is over.
struct Way {
    /// Not known of one that has sent early data only.
    peer: Option<NodeName>,
    role: &'static str,
    carrier: &'static str,
}

impl Node {
    /// Notes a step. It is handed on when the turn is over and its messages are on their way.
    pub(super) fn note(&mut self, hop: Box<Hop>) {
        if self.settings.trace.is_none() {
            return;
        }
        let way = hop.link.and_then(|link| self.way_of(link));
        self.hops.push(Noted { us: clock::wall_us(), hop, way });
        if self.hops.len() >= NOTED {
            self.record_hops();
        }
    }

    /// Hands over what was noted.
    pub(super) fn record_hops(&mut self) {
        for noted in std::mem::take(&mut self.hops) {
            self.record(noted);
        }
    }

    /// A link that is gone by the time that it is asked for is named by its number alone.
    fn way_of(&self, link: LinkId) -> Option<Way> {
        if let Some(info) = self.links.get(&link) {
            let peer = Some(info.peer.node.clone());
            return Some(Way { peer, role: role_word(info), carrier: info.handle.carrier() });
        }
        // Only nodes send early data.
        self.early.get(&link).map(|handle| Way { peer: None, role: "node", carrier: handle.carrier() })
    }

    /// Hands a step to the recorder, which drops what finds no room: no message waits for its trace.
    fn record(&mut self, noted: Noted) {
        let Noted { us, hop, way } = noted;
        let Some(recorder) = &self.settings.trace else { return };
        // A hybrid logical clock: behind no step that this node has recorded, nor behind the message's own beginning.
        self.hop_clock = (self.hop_clock + 1).max((us / 1000) << 16).max(hop.taken);
        let detail = Detail {
            us,
            role: way.as_ref().map(|way| way.role.to_owned()),
            carrier: way.as_ref().map(|way| way.carrier.to_owned()),
            peer: hop.node.or_else(|| way.and_then(|way| way.peer)),
            link: hop.link.map(|link| link.0),
        };
        recorder.record(trace::Hop {
            at_ms: us / 1000,
            clock: self.hop_clock,
            to: hop.key.to.to_string(),
            from: hop.key.from,
            id: hop.key.id,
            node: self.settings.mesh.node.clone(),
            what: Cow::Borrowed(hop.step.as_str()),
            detail: detail.to_text(),
        });
    }
}
