//! What happens because time passes: messages expire, are due, and are looked after in rounds.

use super::ROUND;
use super::table::No;
use crate::mesh::Mesh;
use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::State;
use crate::wire::ids::{AgentAddr, NodeName};
use crate::wire::record::Place;

/// Marks that are dropped in one round.
const MARKS_A_ROUND: usize = 2_000;
/// A message whose time is over, and which another node may have, is looked at again after this, in milliseconds.
const ASK_AGAIN_MS: u64 = 1_000;
/// One whose recipient is nowhere known is looked at again after this, in milliseconds.
const LOOK_AGAIN_MS: u64 = 10_000;
/// So long after its time a message whose fate nobody tells counts as expired, in milliseconds: a day.
const GIVE_UP_MS: u64 = 24 * 3600 * 1000;

impl Mesh {
    pub(in crate::mesh) fn durable_tick(&mut self) {
        let now_ms = self.wall_ms();
        for no in self.durable.table.due(now_ms) {
            self.look_at_time(no);
        }
        if self.durable.pump_at.is_some_and(|when| when <= self.now) {
            self.durable.pump_at = None;
            let nodes: Vec<NodeName> = self.durable.peers.keys().cloned().collect();
            self.pump_peers(nodes);
        }
        if self.now < self.durable.next_round {
            return;
        }
        self.durable.next_round = self.now.after(ROUND);
        self.look_into_the_dark();
        self.write_again();
        self.ask_for_seconds();
        self.ask_new_lives();
        self.tell_elsewhere();
        self.give_up_unknown_senders();
        self.forget_heard();
        self.drop_long_held();
        self.place_again();
        self.round_of_peers();
        let gone = self.durable.table.drop_old_marks(now_ms, MARKS_A_ROUND);
        self.erase(gone);
        self.durable.brakes.forget_idle(self.now);
    }

    fn place_again(&mut self) {
        let again: Vec<No> = std::mem::take(&mut self.durable.unplaced).into_iter().collect();
        for no in &again {
            self.place(*no);
        }
        self.pump_all(&again);
    }

    /// Looks whether an item is due, or its time is over.
    pub(super) fn look_at_time(&mut self, no: No) {
        let now_ms = self.wall_ms();
        let Some(item) = self.durable.table.get(no) else { return };
        if item.state.is_end() {
            return self.give_up_untold(no);
        }
        if item.ending {
            return;
        }
        if !item.second && item.is_of_this_node() && now_ms >= item.second_by_ms && !self.check_second(no) {
            return;
        }
        let Some(item) = self.durable.table.get(no) else { return };
        let waits = item.homeless.is_some() && item.place == Place::Outbox && item.peer.is_none();
        let (homeless, may_make, to) =
            (self.is_homeless(item), item.may_make_recipient(), item.key.to.clone());
        if homeless && may_make && item.expires_ms > now_ms {
            self.durable.table.look_again(no, now_ms + LOOK_AGAIN_MS);
            // Where there is no room for it now, there may be later.
            let _ = self.create_agent(&to);
            return;
        }
        if homeless {
            let message = format!("{} was unregistered", to);
            return self.end(no, State::Dead, Some(Refusal::new(Code::UnknownRecipient, message)));
        }
        let over = item.expires_ms <= now_ms;
        if waits {
            // The wall clock may have been set.
            self.durable.table.look_again(no, now_ms + LOOK_AGAIN_MS);
        }
        if over {
            return self.time_is_over(no, now_ms);
        }
        let Some(item) = self.durable.table.get(no) else { return };
        let due = item.not_before_ms <= now_ms && !self.is_held_back(no);
        if item.place == Place::Mailbox && item.hand.is_none() && due {
            let agent: AgentAddr = item.key.to.clone();
            self.durable.mailboxes.waits(no, item, true);
            self.pump_mailbox(&agent);
        }
    }

    fn time_is_over(&mut self, no: No, now_ms: u64) {
        let Some(item) = self.durable.table.get(no) else { return };
        let long_over = now_ms > item.expires_ms.saturating_add(GIVE_UP_MS);
        match item.place {
            // Its recipient may be at it: it has the time that it takes.
            Place::Mailbox if item.hand.is_some() => {}
            Place::Mailbox => self.end(no, State::Expired, None),
            Place::Outbox if self.nobody_has_it(no) || long_over => self.end(no, State::Expired, None),
            // Whether it has arrived, only the other node knows: it is asked by being sent it once more.
            Place::Outbox => self.durable.table.look_again(no, now_ms + ASK_AGAIN_MS),
            Place::Copy | Place::Handed if long_over => self.ended_elsewhere(no, State::Expired, None),
            Place::Copy | Place::Handed => self.durable.table.look_again(no, now_ms + GIVE_UP_MS + 1),
            Place::Dead | Place::Ended => {}
        }
    }

    /// Whether no other node can have got it from this one.
    fn nobody_has_it(&self, no: No) -> bool {
        // An earlier life may have sent it: it is sent once more, to be asked about.
        self.durable.table.get(no).is_some_and(|item| item.sent.is_none() && !item.restored)
    }
}
