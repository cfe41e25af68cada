//! Rooms that a client has asked for and does not have yet.
//!
//! The client of old asks for a room once, by an event that nobody answers, and from then on believes that it has it. So a wish
//! that the mesh can't fulfil now is held and put again until it is fulfilled, refused for good, or taken back. Who asked by a
//! request is told in time that it was not fulfilled yet, and gets the room all the same.

use std::collections::BTreeMap;
use std::time::Duration;

use trishula::wire::room::MAX_SUBSCRIPTIONS;

use super::Mcp;
use super::answers::Joined;
use super::envelope::{Empty, Envelope};
use super::pending::{ANSWER_WITHIN, Asked, What};
use super::requests::{Form, question};
use super::say::code;
use crate::access::Action;
use crate::dialect::ours::{Refused, Said, Say};
use crate::dialect::step::{Note, Now, Steps};

/// Requests that wait for rooms at once.
const MAX_WAITING: usize = 64;
/// How long until a wish is put again, the first time; twice as long each time after that, up to the other.
const AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(4));
/// Due at no time.
const NEVER: u64 = u64::MAX;

/// One room that is wished for.
#[derive(Debug)]
struct Join {
    /// The SUBSCRIBE without an answer. `None`: it is to be put again.
    under_way: Option<String>,
    /// When.
    again: u64,
    /// How long it waits the next time.
    wait: Duration,
    /// Who asked: one at the most who waits for no answer, and those who wait by requests, see [`MAX_WAITING`].
    asked: Vec<Asked>,
}

/// All of them, by channel.
#[derive(Debug, Default)]
pub(super) struct Joins(BTreeMap<String, Join>);

impl Joins {
    /// When something is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        let asked = |join: &Join| join.asked.iter().map(|asked| asked.due).min().unwrap_or(NEVER);
        let again = |join: &Join| if join.under_way.is_none() { join.again } else { NEVER };
        let all = self.0.values().map(|join| asked(join).min(again(join))).min();
        all.filter(|at| *at != NEVER)
    }

    /// Whether a client waits for an answer about one.
    pub(super) fn owes_an_answer(&self) -> bool {
        self.0.values().flat_map(|join| &join.asked).any(|asked| !asked.quiet)
    }

    fn waiting(&self) -> usize {
        self.0.values().flat_map(|join| &join.asked).filter(|asked| !asked.quiet).count()
    }

    /// The channel whose SUBSCRIBE this was.
    fn channel_of(&self, id: &str) -> Option<String> {
        let mut all = self.0.iter();
        all.find(|(_, join)| join.under_way.as_deref() == Some(id)).map(|(channel, _)| channel.clone())
    }

    /// A request whose time is over. Its wish stays, and with it one of those who hear of a refusal, which is enough: all
    /// that wait in vain are of one client.
    fn overdue(&mut self, now: Now) -> Option<Asked> {
        let (join, at) = self.0.values_mut().find_map(|join| {
            let at = join.asked.iter().position(|asked| asked.due <= now.micros)?;
            Some((join, at))
        })?;
        let told = join.asked.remove(at);
        if !join.asked.iter().any(|asked| asked.quiet) {
            join.asked.push(Asked { quiet: true, due: NEVER, answer_to: None, ..told.clone() });
        }
        Some(told)
    }

    /// A wish that is to be put again now.
    fn due(&self, now: Now) -> Option<String> {
        let mut all = self.0.iter();
        let due = |join: &Join| join.under_way.is_none() && join.again <= now.micros;
        all.find(|(_, join)| due(join)).map(|(channel, _)| channel.clone())
    }
}

impl Mcp {
    /// A client wants a room that it may read.
    pub(super) fn wish(
        &mut self,
        now: Now,
        envelope: &Envelope<'_>,
        channel: String,
        form: Form,
        out: &mut Steps,
    ) {
        let quiet = form == Form::Event;
        let is_new = !self.joins.0.contains_key(&channel);
        let full = if is_new { self.joins.0.len() >= MAX_SUBSCRIPTIONS } else { false };
        if full || (!quiet && self.joins.waiting() >= MAX_WAITING) {
            return self.too_many(now, envelope, out);
        }
        let mut asked = question(now, envelope, What::Join, Some(channel.clone()), form);
        if quiet {
            asked.due = NEVER;
        }
        let fresh = || Join { under_way: None, again: now.micros, wait: AGAIN.0, asked: Vec::new() };
        let join = self.joins.0.entry(channel.clone()).or_insert_with(fresh);
        if !quiet || !join.asked.iter().any(|asked| asked.quiet) {
            join.asked.push(asked);
        }
        if is_new {
            self.put(now, channel, out);
        }
    }

    /// Asks the session for it.
    fn put(&mut self, now: Now, channel: String, out: &mut Steps) {
        let id = self.ids.next_id();
        let frame = Say::room("SUBSCRIBE", &channel, &id, Empty {}).text();
        let taken = self.login.pass(self.ids.as_mut(), frame, out);
        let Some(join) = self.joins.0.get_mut(&channel) else { return };
        join.under_way = taken.then_some(id);
        if !taken {
            join.hold(now);
        }
    }

    /// A client does not want it any more. Whoever still waits for it is told.
    pub(super) fn unwish(&mut self, now: Now, channel: &str, out: &mut Steps) {
        let Some(join) = self.joins.0.remove(channel) else { return };
        if let Some(id) = join.under_way.filter(|_| !self.pending.is_full()) {
            // The session refuses it when it hears of the wish to leave, which is nothing to tell.
            let due = now.after(ANSWER_WITHIN);
            self.pending.insert(id, Asked::no_matter(due));
        }
        for asked in join.asked.into_iter().filter(|asked| !asked.quiet) {
            let why = format!("An unsubscribe from {channel} came before it was subscribed to");
            self.error(now, asked.answer_to.as_deref(), code::SERVER_ERROR, &why, out);
        }
    }

    /// Whether this was the answer to a wish; it has been dealt with then.
    pub(super) fn wish_answered(&mut self, now: Now, said: &Said<'_>, out: &mut Steps) -> bool {
        let Some(channel) = said.reply_to.as_deref().and_then(|id| self.joins.channel_of(id)) else {
            return false;
        };
        let refused: Option<Refused> = (said.kind == "ERROR").then(|| said.payload());
        if refused.as_ref().is_some_and(|refused| matches!(refused.code.as_str(), "unavailable" | "internal"))
        {
            if let Some(join) = self.joins.0.get_mut(&channel) {
                out.note(Note::Held);
                join.hold(now);
            }
            return true;
        }
        let Some(join) = self.joins.0.remove(&channel) else { return true };
        match refused {
            None => join.asked.iter().for_each(|asked| self.answered(now, asked, said, out)),
            Some(refused) => {
                for asked in join.asked {
                    self.refused(now, Some(asked), &refused, out);
                }
            }
        }
        if said.kind == "SUBSCRIBED" {
            self.joined(now, &said.payload::<Joined>(), out);
        }
        true
    }

    /// Does what is due about wishes.
    pub(super) fn wishes_due(&mut self, now: Now, out: &mut Steps) {
        while let Some(asked) = self.joins.overdue(now) {
            self.unanswered(now, asked, out);
        }
        while let Some(channel) = self.joins.due(now) {
            // A token that has replaced the first may allow less.
            if self.settings.may(self.login.user(), Action::Read, &channel) {
                self.put(now, channel, out);
            } else if let Some(join) = self.joins.0.remove(&channel) {
                let refused = Refused { code: "forbidden".into(), ..Refused::default() };
                for asked in join.asked {
                    self.refused(now, Some(asked), &refused, out);
                }
            }
        }
    }
}

impl Join {
    fn hold(&mut self, now: Now) {
        self.under_way = None;
        self.again = now.after(self.wait);
        self.wait = (self.wait * 2).min(AGAIN.1);
    }
}
