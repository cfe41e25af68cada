//! What must hold: after each step as far as it can be seen then, and when everything is whole and quiet again.

use std::collections::BTreeMap;

use trishula::mesh::DurableView;
use trishula::wire::close::Code;
use trishula::wire::envelope::{Class, MessageKey, Priority, State};
use trishula::wire::record::Place;

use crate::clock::{MS, SECOND, Us};
use crate::model::{AgentNo, Excuse, MachineNo, Message, MessageNo, Part, Told};
use crate::world::World;

/// What clocks and delays may add or take away.
const SLACK: Us = 15 * SECOND;

impl World {
    /// Whether every machine's clocks ran evenly all the time.
    fn clocks_are_even(&self) -> bool {
        !["clocks jumped", "machines asleep"].iter().any(|what| self.trace.counts.contains_key(what))
    }

    /// A recipient has just got a message.
    pub fn check_delivery(&mut self, number: MessageNo, agent: AgentNo) {
        let (now, even) = (self.now, self.clocks_are_even());
        let why = wrong_with_delivery(&self.model.messages[number], agent, now, even);
        if let Some(why) = why {
            self.fail(|| format!("m{number} to a{agent} {why}"));
        }
    }

    /// A sender has just been told of a message.
    pub fn check_told(&mut self, number: MessageNo, recipient: AgentNo) {
        let (now, even) = (self.now, self.clocks_are_even());
        let why = wrong_with_told(&self.model.messages[number], recipient, now, even);
        if let Some(why) = why {
            self.fail(|| format!("m{number} to a{recipient}: {why}"));
        }
    }

    /// What is still open, when nothing should be for long.
    pub fn outstanding(&self) -> Vec<String> {
        let mut open = Vec::new();
        // Of receipts for senders that are away nodes keep so many.
        let mut dropped = self.trace.counts.get("receipts dropped").copied().unwrap_or(0);
        for (number, message) in self.model.messages.iter().enumerate() {
            if message.is_durable() && self.agents[message.from].pending.contains(&number) {
                open.push(format!("m{number} is neither accepted nor refused"));
            }
            if message.accepted.is_none() || !message.is_durable() {
                continue;
            }
            for to in message.recipients() {
                if let Some(why) = self.open_end(message, to) {
                    if dropped > 0 && message.has_ended_on_a_disk(to) {
                        dropped -= 1;
                        continue;
                    }
                    open.push(format!("m{number} from a{} to a{to}: {why}", message.from));
                }
            }
        }
        open
    }

    fn open_end(&self, message: &Message, to: AgentNo) -> Option<String> {
        let none = Part::default();
        let part = message.parts.get(&to).unwrap_or(&none);
        let ended = part.last_end().is_some() || message.died(to);
        if part.excuses.contains(&Excuse::Lost) || ended {
            return None;
        }
        // Each recipient of a broadcast is accepted or refused for itself.
        // What an operator sends again may be refused there as well: its sender is told.
        let refused = message.partly_refused || message.retry_of.is_some();
        if refused && part.settled.is_none() && self.was_given_back(message, to) {
            return None;
        }
        // What became of a broadcast is not told for each recipient, and can be asked for.
        if message.to.is_none() && part.on_disk.iter().any(|(_, _, state)| state.is_end()) {
            return None;
        }
        // The last submission's time to live counts: a resend brings all of it again.
        let last = message.submits.last().map_or(message.first_sent, |submit| submit.at);
        // One that was not taken again has none anew.
        let is_expired = part.on_disk.iter().any(|(.., state)| *state == State::Expired)
            && part.told.last().is_some_and(|told| told.state == State::Refused);
        let over = is_expired || message.ttl_ms.is_some_and(|ttl| last + ttl * MS + SLACK < self.now);
        if part.settled.is_none() && !over {
            return Some(format!("accepted, and it has no end: {part:?}"));
        }
        // A good end is told to a sender that asked for it, any other one always.
        let good = part.settled.is_some_and(|(_, state)| state == State::Acked);
        let told = message.to.is_some() && (message.wish == Some(State::Acked) || !good);
        // A node whose record was lost can't tell what became of it.
        if told && !part.end_sent && part.excuses.is_empty() {
            return Some(format!("its sender was told no end: {part:?}"));
        }
        None
    }

    /// Whether a message was never settled anywhere, and is no more: its recipient's home refused it before it was accepted. That
    /// may be its next one, where it moved while the disk of the first was slow.
    fn was_given_back(&self, message: &Message, to: AgentNo) -> bool {
        let on_its_way = |(_, place, state): &(_, Place, State)| {
            matches!(place, Place::Outbox | Place::Mailbox) && *state <= State::Stored
        };
        let (from, id) = (self.agents[message.from].addr.clone(), message.id.clone());
        let key = MessageKey { from, id, to: self.agents[to].addr.clone() };
        let kept = self.machines.iter().any(|machine| machine.disk.platter.messages.contains_key(&key));
        !kept && message.parts.get(&to).is_none_or(|part| part.on_disk.iter().all(on_its_way))
    }

    /// When everything is whole and quiet: whatever is left over is wrong.
    pub fn check_rest(&mut self) {
        if let Some(open) = self.outstanding().into_iter().next() {
            return self.fail(|| open);
        }
        if let Some(why) = self.death_without_cause().or_else(|| self.wrong_order()) {
            return self.fail(|| why);
        }
        if let Some(why) = self.views_differ().or_else(|| self.way_astray()) {
            return self.fail(|| why);
        }
        for agent in 0..self.agents.len() {
            if self.session_to_write(agent).is_none() {
                return self.fail(|| format!("a{agent} is not connected"));
            }
        }
        for m in 0..self.machines.len() {
            if let Some(why) = self.queues_of(m) {
                return self.fail(|| format!("n{m} has not become empty: {why}"));
            }
        }
    }

    /// Whether any node still has something in its queues.
    pub fn anything_queued(&self) -> bool {
        (0..self.machines.len()).any(|m| self.queues_of(m).is_some())
    }

    /// What a node still has in its queues: marks and flows may stay, by their bounds.
    fn queues_of(&self, m: MachineNo) -> Option<String> {
        let view = self.machines[m].mesh.as_ref()?.durable_view();
        let left = DurableView { marks: 0, flows: 0, ..view };
        let ended = [Place::Ended, Place::Dead];
        let kept =
            self.machines[m].disk.platter.messages.values().filter(|kept| !ended.contains(&kept.place));
        let kept: Vec<String> = kept.map(|kept| format!("{} to {}", kept.key.id, kept.key.to)).collect();
        (left != DurableView::default() || !kept.is_empty()).then(|| format!("{left:?}, on disk {kept:?}"))
    }

    fn views_differ(&self) -> Option<String> {
        let mut first = None;
        for (m, machine) in self.machines.iter().enumerate() {
            let Some(mesh) = &machine.mesh else { return Some(format!("n{m} is off")) };
            let nodes = mesh.snapshot().nodes;
            let reached = nodes.iter().filter(|node| node.reachable).count();
            if reached != self.machines.len() {
                return Some(format!("n{m} reaches {reached} of {} nodes", self.machines.len()));
            }
            let agents: Vec<String> = mesh
                .agents_seen(None)
                .into_iter()
                .map(|(node, state)| {
                    format!("{} at {node} {:?} {}", state.agent, state.presence, state.registered_ms)
                })
                .collect();
            let first = first.get_or_insert_with(|| agents.clone());
            if *first != agents {
                return Some(format!("n0 knows {first:?}, and n{m} {agents:?}"));
            }
        }
        None
    }

    /// A message that was told dead, where nothing was done to it that it may die of.
    fn death_without_cause(&self) -> Option<String> {
        let few_marks = self.bounds.limits.is_some();
        for (number, message) in self.model.messages.iter().enumerate().filter(|(_, m)| m.is_durable()) {
            for (to, part) in &message.parts {
                let Some(end) = part.last_end().filter(|end| end.state == State::Dead) else { continue };
                let cause = match end.code {
                    Some(Code::UnknownRecipient) => self.model.unknown.contains(to),
                    Some(Code::TooOld) => few_marks,
                    _ => false,
                };
                if !cause && part.excuses.is_empty() {
                    return Some(format!(
                        "m{number} to a{to} died of {:?} without a cause: {part:?}",
                        end.code
                    ));
                }
            }
        }
        None
    }

    /// Order of first delivery, per sender, recipient, priority and class, as accepted by one node.
    fn wrong_order(&self) -> Option<String> {
        let mut flows: BTreeMap<(AgentNo, AgentNo, Priority, MachineNo, bool), Vec<MessageNo>> =
            BTreeMap::new();
        for (number, message) in self.model.messages.iter().enumerate() {
            let Some(node) = taken_by(message) else { continue };
            for to in message.recipients() {
                let exempt =
                    self.agents[to].shared || message.parts.get(&to).is_none_or(|p| p.got.is_empty());
                if !exempt {
                    let flow = (message.from, to, message.priority, node, message.to.is_none());
                    flows.entry(flow).or_default().push(number);
                }
            }
        }
        for ((from, to, priority, node, _), numbers) in flows {
            for (at, a) in numbers.iter().enumerate() {
                for b in &numbers[at + 1..] {
                    let (a, b) = if self.is_before(*a, *b) { (*a, *b) } else { (*b, *a) };
                    if self.is_before(a, b) && self.overtook(a, b, to) {
                        let of = format!("a{from} to a{to} at priority {}", priority.get());
                        return Some(format!("of {of}, taken by n{node}, m{b} came before m{a}"));
                    }
                }
            }
        }
        None
    }

    fn is_before(&self, a: MessageNo, b: MessageNo) -> bool {
        let b = self.model.messages[b].submits.first().map_or(0, |submit| submit.turn);
        self.model.messages[a].accepted_turn < b
    }

    fn overtook(&self, a: MessageNo, b: MessageNo, to: AgentNo) -> bool {
        let (first, second) = (&self.model.messages[a], &self.model.messages[b]);
        let (Some(x), Some(y)) = (first.parts.get(&to), second.parts.get(&to)) else { return false };
        let (Some(x_got), Some(y_got)) = (x.got.first(), y.got.first()) else { return false };
        let in_hand = |part: &Part| part.handed.map_or(0, |(_, turn)| turn);
        if x_got.turn < y_got.turn || in_hand(x) < in_hand(y) {
            return false;
        }
        // What the contract exempts.
        let given_back = |message: &Message| {
            let mut told = message.parts.values().flat_map(|part| &part.told);
            message.partly_refused || message.refused || told.any(|told| told.state == State::Refused)
        };
        // One that was given back was not accepted the first time: for some recipients, or with a second copy left.
        let begun_anew =
            |message: &Message| (message.copies > 1 || message.to.is_none()) && given_back(message);
        let second_holder = self.long_outage && (first.copies > 1 || second.copies > 1)
            || begun_anew(first)
            || begun_anew(second)
            // The first one had lost it with its power, and nobody was told yet that it was accepted.
            || second.copies > 1 && y_got.redelivered;
        // By one node's clock its time was over, and it made room for the next; by its own node's clock, that slept, it was not.
        let over = first.ttl_ms.is_some() && x.on_disk.iter().any(|(.., state)| *state == State::Expired);
        let hurt = over || !x.excuses.is_empty() || !y.excuses.is_empty();
        let since = first.submits.first().map_or(0, |submit| submit.at);
        !second_holder && !hurt && !self.model.moved_in_the_dark(to, since)
    }
}

impl Message {
    fn has_ended_on_a_disk(&self, to: AgentNo) -> bool {
        self.parts.get(&to).is_some_and(|part| part.on_disk.iter().any(|(_, _, state)| state.is_end()))
    }
}

/// The one node that a message was given to, if its order is promised at all.
fn taken_by(message: &Message) -> Option<MachineNo> {
    let node = message.submits.first()?.machine;
    let one = message.submits.iter().all(|submit| submit.machine == node);
    (one && message.is_durable()
        && message.accepted.is_some()
        && message.not_before_ms.is_none()
        && message.retry_of.is_none())
    .then_some(node)
}

fn wrong_with_delivery(message: &Message, agent: AgentNo, now: Us, even: bool) -> Option<String> {
    let part = &message.parts[&agent];
    let (last, again) = (part.got.last()?, part.got.len() > 1);
    let marks_lost = part.excuses.contains(&Excuse::Unmarked);
    if message.class == Class::Live {
        // A broadcast passes nodes one after the other, and a recipient that moves meanwhile may meet it twice.
        let one = message.submits.len() < 2 && message.to.is_some();
        return (again && one).then(|| "is live, and came twice".into());
    }
    // The second attempt is marked. That by a new entrance may come before the first one, which was on its way to the old
    // one when the recipient moved: then the other one carries the mark.
    let earlier = &part.got[..part.got.len() - 1];
    let late = earlier.iter().all(|got| got.redelivered && got.gate != last.gate);
    if again && !last.redelivered && !late && !marks_lost {
        return Some(format!("came again without a mark: {:?}", part.got));
    }
    // What the disk refused may be on its way already: its sender may send it again.
    // Where a recipient unregisters, one node may have it on its way, and another one refuse it. So too where that one
    // does not remember for how long it has come.
    let for_good = |told: &Told| {
        told.code.is_some_and(|c| !c.retry() && c != Code::UnknownRecipient && c != Code::TooOld)
    };
    if message.refused
        && message.accepted.is_none()
        && !part.told.is_empty()
        && part.told.iter().all(for_good)
    {
        return Some("was refused, and came all the same".into());
    }
    let first = message.submits.first()?.at;
    let last_submit = message.submits.last()?.at;
    if let Some(wait) = message.not_before_ms.filter(|_| even)
        && now + 100 * MS < first + wait * MS
    {
        return Some(format!("came {} ms after it was sent, and not before {wait} ms", (now - first) / MS));
    }
    if again {
        return None;
    }
    if let Some(ttl) = message.ttl_ms.filter(|_| even)
        && now > last_submit + ttl * MS + SLACK
    {
        return Some(format!("came {} ms after it was sent, with {ttl} to live", (now - last_submit) / MS));
    }
    // One that is sent again after its end may have to begin anew, where that end is not known; and each of two nodes
    // that took it counts its time from when that was.
    let two_nodes = message.submits.iter().any(|submit| submit.machine != message.submits[0].machine);
    // A recipient that unregisters at one node while another one, which can't hear of it, has the message too, and that
    // comes back there: what it gets then carries the mark.
    // Likewise one that its home had no room for, where the second machine hears of that only when the mark is gone.
    let no_room = |code: Code| code == Code::UnknownRecipient || message.copies > 1 && code.retry();
    let left = |told: &Told| told.code.is_some_and(no_room) && last.redelivered;
    let over = |told: &Told| {
        matches!(told.state, State::Expired | State::Dead)
            && told.at + 5 * SECOND < now
            && last_submit < told.at
            // That says that nobody remembers whether it came, and not that it does not come.
            && told.code != Some(Code::TooOld)
            && !(told.state == State::Expired && (two_nodes || !even))
            && !left(told)
    };
    if !marks_lost && part.told.iter().any(over) {
        return Some(format!("came after its end was told: {:?}", part.told));
    }
    None
}

/// Whether two nodes have taken a message that is not numbered, and each brought it to an end: by its time, because its
/// recipient was unregistered where one of them knew it to be, or because it was sent again after its end.
fn two_takers(message: &Message, a: &Told, b: &Told) -> bool {
    let by_time = a.state == State::Expired || b.state == State::Expired;
    let left = |told: &Told| told.state == State::Dead && told.code == Some(Code::UnknownRecipient);
    by_time || left(a) || left(b) || message.submits.last().is_some_and(|submit| submit.at > a.at)
}

/// Whether a message was sent again after it had ended as its recipient's home had no room for it, or where its mark had to
/// go as its sender has so many of them: nobody knows any more that it came before.
fn is_begun_anew(message: &Message, before: &Told, now: &Told) -> bool {
    // Who says that it is not known any more whether it came before says nothing of how it ended.
    if now.code == Some(Code::TooOld) || before.code == Some(Code::TooOld) {
        return true;
    }
    let again = message.submits.last().is_some_and(|submit| submit.at > before.at);
    let given_back = before.state == State::Dead && before.code.is_some_and(|code| code.retry());
    again && given_back
}

fn wrong_with_told(message: &Message, recipient: AgentNo, now: Us, even: bool) -> Option<String> {
    let part = &message.parts[&recipient];
    let last = part.told.last()?;
    if message.class == Class::Live || last.state == State::Refused {
        return None;
    }
    let marks_lost = !part.excuses.is_empty();
    let earlier = &part.told[..part.told.len() - 1];
    if marks_lost {
        return None;
    }
    if last.state.is_end()
        && let Some(other) = earlier.iter().find(|told| told.state.is_end() && told.state < State::Refused)
        && other.state != last.state
        && !is_begun_anew(message, other, last)
        && (other.origin == last.origin || !two_takers(message, other, last))
    {
        return Some(format!("two ends: {:?}", part.told));
    }
    // Each time it is sent again its sender is told again from the beginning, and also by a node that lost its power before
    // it had written what it told.
    let by = |told: &Told| (told.keeper, told.origin, told.session, told.crashes);
    let same = |told: &&Told| by(told) == by(last);
    let of_node: Vec<State> = part.told.iter().filter(same).map(|told| told.state).collect();
    let back = of_node.windows(2).filter(|pair| pair[1] < pair[0] && pair[0] != State::Refused).count();
    if back >= message.submits.len() {
        return Some(format!("what is told goes backwards: {:?}", part.told));
    }
    let settled = part.settled.map(|(_, state)| state);
    match last.state {
        State::Acked | State::Nacked if settled != Some(last.state) => {
            Some(format!("told {:?}, and its recipient did {settled:?}", last.state))
        }
        State::Dead if last.code.is_none() => Some("dead without a reason".into()),
        State::Expired => {
            let first = message.submits.first()?.at;
            let early = |ttl: u64| even && now + 2 * SECOND < first + ttl * MS;
            match message.ttl_ms {
                None => Some("expired, and it had no time to live".into()),
                Some(ttl) if early(ttl) => Some(format!("expired after {} ms of {ttl}", (now - first) / MS)),
                Some(_) => None,
            }
        }
        _ => None,
    }
}
