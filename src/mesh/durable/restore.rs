//! What was on disk at the start.

use super::table::Item;
use super::{Durable, LONGEST_MS};
use crate::mesh::{Mesh, Time};
use crate::wire::envelope::State;
use crate::wire::record::{Kept, Place, Upstream};

impl Mesh {
    /// Takes up again what an earlier life of this node kept; `wall_ms` is the time now.
    pub(in crate::mesh) fn restore(
        &mut self,
        messages: Vec<Kept>,
        horizons: Vec<(crate::wire::ids::AgentAddr, u64)>,
    ) {
        self.durable.started = self.now;
        for (sender, sent_ms) in horizons {
            self.durable.table.set_horizon(sender, sent_ms);
        }
        let mut items = Vec::new();
        for kept in messages {
            let (no, place, told, other) = (kept.order, kept.place, kept.told, kept.other.clone());
            let unseen = self.still_unseen(&kept);
            let mut item = restored(kept);
            let doubtful = unseen && self.config.previous.is_some();
            item.redelivered = !unseen || doubtful;
            if doubtful {
                self.durable.doubtful.insert(no);
            }
            let untold = item.is_of_this_node() && !told && item.state != State::Acked
                || item.is_of_this_node() && !told && item.head.receipt == Some(State::Acked);
            let is_end = matches!(place, Place::Ended | Place::Dead);
            item.ending = is_end;
            self.durable.table.insert(no, item);
            if is_end {
                if untold {
                    self.durable.table.set_untold(no, true);
                } else {
                    let gone = self.durable.table.leave_mark(no);
                    self.erase(gone);
                }
                continue;
            }
            if let (Place::Handed | Place::Copy, Some(other)) = (place, other) {
                self.durable.peers.entry(other).or_default().theirs.insert(no);
            }
            items.push(no);
        }
        for no in items {
            self.take_up(no);
        }
    }

    /// Puts one in its place; what is on disk already is not written again.
    fn take_up(&mut self, no: super::No) {
        let now_ms = self.wall_ms();
        let Some(item) = self.durable.table.get_mut(no) else { return };
        if item.place == Place::Mailbox {
            let waits = item.not_before_ms <= now_ms;
            self.durable.mailboxes.add(no, item, waits);
        }
        self.place(no);
    }

    /// Whether its recipient can't have got it: it was away when the message came, and has not been back since.
    fn still_unseen(&self, kept: &Kept) -> bool {
        kept.unseen_since > 0
            && self.directory.own(&kept.key.to).is_some_and(|state| state.registered_ms == kept.unseen_since)
    }
}

fn restored(kept: Kept) -> Item {
    let not_before = kept.head.not_before_ms.unwrap_or(0);
    let wish = kept.head.receipt;
    Item {
        key: kept.key,
        upstream: vec![kept.upstream.clone()],
        place: kept.place,
        state: kept.state,
        reason: kept.reason,
        taken_ms: kept.taken_ms,
        sent_ms: kept.head.sent_about_ms(kept.taken_ms),
        expires_ms: kept.taken_ms.saturating_add(kept.head.ttl_ms.unwrap_or(LONGEST_MS).min(LONGEST_MS)),
        not_before_ms: if not_before > 0 { kept.taken_ms.saturating_add(not_before) } else { 0 },
        on_disk: true,
        // Of a message that has a home elsewhere the home is the second machine; of others the copy was asked for before.
        second: true,
        second_by_ms: 0,
        ending: false,
        other: kept.other,
        unseen_since: kept.unseen_since,
        redelivered: false,
        peer: None,
        homeless_ms: 0,
        was_home: kept.place == Place::Mailbox,
        moving: false,
        placed: true,
        sent: None,
        hand: None,
        told: told_before(&kept.upstream, wish, kept.state),
        told_at: Time::default(),
        requeues: 0,
        head: kept.head,
        payload: kept.payload,
    }
}

/// What its sender was told before is not known: it is told again only what is new.
fn told_before(upstream: &Upstream, wish: Option<State>, state: State) -> Option<State> {
    // Of an end only the end.
    let before = if state.is_end() { State::Delivered } else { state };
    (*upstream == Upstream::Sender && wish.is_some()).then_some(before)
}

impl Durable {
    /// As it begins.
    pub(in crate::mesh) fn new() -> Durable {
        Durable::default()
    }
}
