//! Steps of messages, on their way to `trishula trace`.

use std::borrow::Cow;

use super::{Node, role_word};
use crate::mesh::Hop;
use crate::node::records::trace::Detail;
use crate::rt::clock;
use crate::store::trace;

/// Steps that are noted before they are handed on; a turn has rarely more.
const NOTED: usize = 1024;

impl Node {
    /// Notes a step. It is handed on when the turn is over and its messages are on their way.
    pub(super) fn note(&mut self, hop: Box<Hop>) {
        if self.settings.trace.is_none() {
            return;
        }
        self.hops.push((clock::wall_us(), hop));
        if self.hops.len() >= NOTED {
            self.record_hops();
        }
    }

    /// Hands over what was noted.
    pub(super) fn record_hops(&mut self) {
        for (us, hop) in std::mem::take(&mut self.hops) {
            self.record(us, &hop);
        }
    }

    /// Hands a step to the recorder, which drops what finds no room: no message waits for its trace.
    fn record(&mut self, us: u64, hop: &Hop) {
        let Some(recorder) = &self.settings.trace else { return };
        // A hybrid logical clock: behind no step that this node has recorded, nor behind the message's own beginning.
        self.hop_clock = (self.hop_clock + 1).max((us / 1000) << 16).max(hop.taken);
        // A link that is gone by the time that it is asked for is named by its number alone.
        let info = hop.link.and_then(|link| self.links.get(&link));
        let detail = Detail {
            us,
            peer: hop.node.clone().or_else(|| info.map(|info| info.peer.node.clone())),
            link: hop.link.map(|link| link.0),
            role: info.map(|info| role_word(info).to_owned()),
            carrier: info.map(|info| info.handle.carrier().to_owned()),
        };
        recorder.record(trace::Hop {
            at_ms: us / 1000,
            clock: self.hop_clock,
            from: hop.key.from.clone(),
            id: hop.key.id.clone(),
            to: hop.key.to.to_string(),
            node: self.settings.mesh.node.clone(),
            what: Cow::Borrowed(hop.step.as_str()),
            detail: detail.to_text(),
        });
    }
}
