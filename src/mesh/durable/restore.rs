//! What was on disk at the start.

use super::table::Item;
use super::{Durable, LONGEST_MS};
use crate::mesh::{Mesh, Time};
use crate::wire::envelope::State;
use crate::wire::record::{Kept, Numbers, Place, Upstream};

impl Mesh {
    /// Takes up again what an earlier life of this node kept; `wall_ms` is the time now.
    pub(in crate::mesh) fn restore(
        &mut self,
        messages: Vec<Kept>,
        horizons: Vec<(crate::wire::ids::AgentAddr, u64)>,
        numbers: Vec<Numbers>,
    ) {
        self.durable.started = self.now;
        self.stand_still_again();
        // A clock that was set back while this node was off would make what waits wait longer.
        let latest_ms = messages.iter().map(|kept| kept.taken_ms).max().unwrap_or(0);
        self.wall.1 = self.wall.1.max(latest_ms);
        for (sender, sent_ms) in horizons {
            self.durable.table.set_horizon(sender, sent_ms);
        }
        self.durable.table.numbers.restore(numbers);
        let mut items = Vec::new();
        for kept in messages {
            let (no, place, told) = (kept.order, kept.place, kept.told);
            self.durable.depths.note(&kept.key.to, &kept.head);
            let unseen = self.still_unseen(&kept);
            let mut item = restored(kept);
            let doubtful = unseen && self.config.past.is_some();
            item.redelivered = !unseen || doubtful;
            if doubtful {
                self.durable.doubtful.insert(no);
            }
            let own = item.is_of_this_node() && !item.is_of_a_broadcast();
            let silent = item.state == State::Acked && item.head.receipt != Some(State::Acked);
            let untold = own && !told && !silent;
            let is_end = matches!(place, Place::Ended | Place::Dead);
            item.ending = is_end;
            self.durable.table.insert(no, item);
            if is_end {
                if untold {
                    self.durable.table.drop_payload(no);
                    self.durable.table.set_untold(no, true);
                    self.bound_untold(no);
                } else {
                    let gone = self.durable.table.leave_mark(no, self.config.limits.marks_of_sender);
                    self.erase(gone);
                }
                continue;
            }
            if matches!(place, Place::Handed | Place::Copy) {
                self.now_theirs(no);
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
        let Some(item) = self.durable.table.get(no) else { return };
        if item.place == Place::Mailbox {
            let waits = item.not_before_ms <= now_ms;
            self.durable.mailboxes.add(no, item, waits);
            let here = self.config.node.clone();
            if waits
                && self.hold_back(no, &here)
                && let Some(item) = self.durable.table.get(no)
            {
                self.durable.mailboxes.waits(no, item, false);
            }
        }
        self.place(no);
        if self.durable.table.get(no).is_some_and(|item| !item.second) {
            self.durable.seconds.insert(no);
        }
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
    let unsure = match kept.place {
        Place::Mailbox | Place::Outbox => true,
        // It was kept for another node, and then its sender gave it to this one too.
        Place::Copy => kept.state < State::Stored,
        _ => false,
    };
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
        // Whether a second machine has it is asked again.
        second: kept.head.copies < 2 || kept.upstream != Upstream::Sender || !unsure,
        second_by_ms: u64::MAX,
        ending: false,
        other: kept.other,
        unseen_since: kept.unseen_since,
        redelivered: false,
        peer: None,
        homeless: None,
        to_made: false,
        // Another node may have had it meanwhile, and handed it over.
        alone: false,
        restored: true,
        moving: false,
        writes: 0,
        placed: true,
        sent: None,
        hand: None,
        told: told_before(&kept.upstream, wish, kept.state),
        told_at: Time::default(),
        give_up_ms: 0,
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
