//! What each sender gave away and was told, and what each recipient got; and what must hold of it. It knows nothing of
//! how the mesh does it.

use std::collections::BTreeMap;
use std::time::Duration;

use trishula::wire::close::Code;
use trishula::wire::envelope::State;
use trishula::wire::ids::MessageId;

use crate::udp::Troubles;

/// Places in the lists of the town and of the ledger.
pub type AgentNo = usize;
pub type MachineNo = usize;
pub type MessageNo = usize;

/// What retransmissions and waits may add to a time to live.
const SLACK: Duration = Duration::from_secs(15);
/// How long two machines that could not reach each other may need until they do again: the wait between two dials, a
/// handshake with losses, and the routes.
const HEALED: Duration = Duration::from_secs(15);

#[derive(Debug, Clone)]
pub struct Told {
    pub at: Duration,
    pub state: State,
    pub code: Option<Code>,
    pub machine: MachineNo,
    /// Through which of the sender's sessions.
    pub session: usize,
}

#[derive(Debug, Clone)]
pub struct Got {
    pub turn: u64,
    pub machine: MachineNo,
    pub redelivered: bool,
}

#[derive(Debug, Clone)]
pub struct Submit {
    pub at: Duration,
    pub machine: MachineNo,
    pub turn: u64,
}

/// One message; its id is `d` and its place in [`Ledger::messages`].
#[derive(Debug, Clone)]
pub struct Message {
    pub from: AgentNo,
    pub to: AgentNo,
    pub id: MessageId,
    pub priority: u8,
    pub ttl: Option<Duration>,
    pub not_before: Option<Duration>,
    pub copies: u8,
    /// Whether its sender asked to be told its end.
    pub asks: bool,
    pub submits: Vec<Submit>,
    pub accepted: Option<Duration>,
    /// The turn of the last submission by the time it was told accepted.
    pub accepted_turn: u64,
    pub told: Vec<Told>,
    pub got: Vec<Got>,
    /// When an entrance was given it first, whether or not its session was still there.
    pub handed: Option<u64>,
    /// How the recipient settled it last.
    pub settled: Option<State>,
    pub requeued: bool,
    /// What it was told may have been lost with a session of its sender: that one may send it again to hear it.
    pub may_ask: bool,
}

impl Message {
    pub fn end(&self) -> Option<&Told> {
        self.told.iter().rev().find(|told| told.state.is_end() && told.state != State::Refused)
    }

    /// Whether its sender keeps it no more: a node has it, or does not want it for good.
    pub fn is_off_its_hands(&self) -> bool {
        self.accepted.is_some() || self.told.last().is_some_and(|told| told.code.is_some_and(|c| !c.retry()))
    }
}

/// Machines that can't reach the others: those whose bit is set, for a while.
#[derive(Debug, Clone, Copy)]
pub struct Apart {
    pub side: u32,
    /// What the others say still comes.
    pub one_way: bool,
    pub from: Duration,
    pub until: Duration,
}

impl Apart {
    pub fn parts(&self, a: MachineNo, b: MachineNo) -> bool {
        self.side >> a & 1 != self.side >> b & 1
    }

    /// Whether nothing comes from one to the other.
    pub fn cuts(&self, from: MachineNo, to: MachineNo) -> bool {
        self.parts(from, to) && (!self.one_way || self.side >> from & 1 == 1)
    }
}

#[derive(Debug, Default)]
pub struct Ledger {
    pub messages: Vec<Message>,
    /// Rises with everything that is sent, handed out or delivered.
    pub turn: u64,
    /// When a recipient's home changed: from where, to where.
    pub moves: BTreeMap<AgentNo, Vec<(Duration, MachineNo, MachineNo)>>,
    /// When who could not reach whom.
    pub apart: Vec<Apart>,
    /// Where UDP was blocked: that excuses nothing, as a way remains.
    pub udp: Troubles,
    /// When machines lost their power.
    pub crashes: Vec<Duration>,
    pub broken: Option<String>,
    /// How often each thing happened.
    pub counts: BTreeMap<&'static str, u64>,
}

impl Ledger {
    pub fn number_of(id: &MessageId) -> Option<MessageNo> {
        id.as_str().strip_prefix('d')?.parse().ok()
    }

    /// The first thing that is wrong counts.
    pub fn fail(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    pub fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub fn next_turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Its recipient has got it.
    pub fn got(&mut self, number: MessageNo, now: Duration, machine: MachineNo, redelivered: bool) {
        let turn = self.next_turn();
        self.count(if redelivered { "deliveries marked" } else { "deliveries" });
        let sent_at = self.messages[number].submits.last().map_or(machine, |submit| submit.machine);
        if self.udp.block(now, sent_at, machine) {
            self.count("delivered across blocked UDP");
        }
        self.messages[number].got.push(Got { turn, machine, redelivered });
        if let Some(why) = wrong_with_delivery(&self.messages[number], now) {
            self.fail(format!("d{number} {why}: {:?}", self.messages[number]));
        }
    }

    /// Its sender is told of it.
    pub fn told(&mut self, number: MessageNo, told: Told) {
        self.count(told.state.as_str());
        let first = told.state != State::Refused && self.messages[number].accepted.is_none();
        if first && self.udp.is_blocked(told.at) {
            self.count("accepted while UDP was blocked");
        }
        let message = &mut self.messages[number];
        if first {
            message.accepted = Some(told.at);
            message.accepted_turn = message.submits.last().map_or(0, |submit| submit.turn);
        }
        message.told.push(told);
        if let Some(why) = wrong_with_told(message, &self.crashes) {
            self.fail(format!("d{number} {why}: {:?}", self.messages[number]));
        }
    }

    /// What is still open, when nothing should be for long.
    pub fn open(&self) -> Vec<String> {
        let open = |(number, message): (usize, &Message)| {
            let why = if !message.is_off_its_hands() {
                "is neither accepted nor refused"
            } else if message.accepted.is_none() {
                return None;
            } else if message.asks && message.end().is_none() {
                "was accepted, and its sender was told no end"
            } else if message.end().is_none() && message.settled.is_none() && message.ttl.is_none() {
                "was accepted, and has no end"
            } else {
                return None;
            };
            Some(format!("d{number} {why}: {message:?}"))
        };
        self.messages.iter().enumerate().filter_map(open).collect()
    }

    /// Order of first delivery, per sender, recipient and priority, as accepted by one node.
    pub fn wrong_order(&self) -> Option<String> {
        let mut flows: BTreeMap<(AgentNo, AgentNo, u8, MachineNo), Vec<MessageNo>> = BTreeMap::new();
        for (number, message) in self.messages.iter().enumerate() {
            if let Some(machine) = taken_by(message) {
                flows.entry((message.from, message.to, message.priority, machine)).or_default().push(number);
            }
        }
        for numbers in flows.values() {
            for a in numbers {
                for b in numbers {
                    if self.is_before(*a, *b) && self.overtook(*a, *b) {
                        let (first, second) = (&self.messages[*a], &self.messages[*b]);
                        return Some(format!("d{b} came before d{a}: {second:?} {first:?}"));
                    }
                }
            }
        }
        None
    }

    fn is_before(&self, a: MessageNo, b: MessageNo) -> bool {
        self.messages[a].accepted_turn < self.messages[b].submits[0].turn
    }

    fn overtook(&self, a: MessageNo, b: MessageNo) -> bool {
        let (a, b) = (&self.messages[a], &self.messages[b]);
        let (Some(first), Some(second)) = (a.got.first(), b.got.first()) else { return false };
        // No order is promised by a second holder: one that steps in for a node which lost its power.
        let since = a.submits[0].at;
        let second_holder = (a.copies > 1 || b.copies > 1) && self.crashes.iter().any(|at| *at > since);
        let overtook = first.turn > second.turn && a.handed > b.handed;
        overtook && !second_holder && !self.moved_in_the_dark(a.to, since)
    }

    /// Whether the recipient moved while the home that it left could not be reached, and that was not over by `since`:
    /// what waits there may come later than what was sent after it.
    fn moved_in_the_dark(&self, agent: AgentNo, since: Duration) -> bool {
        self.moves.get(&agent).into_iter().flatten().any(|(at, from, to)| {
            self.apart.iter().any(|apart| {
                let until = apart.until + HEALED;
                let meanwhile = apart.from <= *at + HEALED && *at <= until;
                apart.parts(*from, *to) && meanwhile && since <= until
            })
        })
    }
}

/// The one node that a message was given to, if its order is promised at all.
fn taken_by(message: &Message) -> Option<MachineNo> {
    let machine = message.submits.first()?.machine;
    let one = message.submits.iter().all(|submit| submit.machine == machine);
    (one && message.accepted.is_some() && message.not_before.is_none() && !message.got.is_empty())
        .then_some(machine)
}

fn wrong_with_delivery(message: &Message, now: Duration) -> Option<&'static str> {
    let (last, earlier) = message.got.split_last()?;
    // That of a new home may come before the first one, which was on its way when the recipient moved: then the other
    // one carries the mark.
    let late = earlier.iter().all(|got| got.redelivered && got.machine != last.machine);
    if !earlier.is_empty() && !last.redelivered && !late {
        return Some("came again without a mark");
    }
    let (first, again) = (message.submits.first()?.at, message.submits.last()?.at);
    if message.not_before.is_some_and(|wait| now + Duration::from_millis(50) < first + wait) {
        return Some("came before its time");
    }
    if earlier.is_empty() && message.ttl.is_some_and(|ttl| now > again + ttl + SLACK) {
        return Some("came after its time to live");
    }
    let over = |told: &Told| matches!(told.state, State::Expired | State::Dead) && told.at > again;
    if message.told.iter().any(|told| over(told) && told.at + SLACK < now) {
        return Some("came after its end was told");
    }
    None
}

fn wrong_with_told(message: &Message, crashes: &[Duration]) -> Option<&'static str> {
    let (last, earlier) = message.told.split_last()?;
    if last.state == State::Refused {
        return last.code.is_none().then_some("was refused without a reason");
    }
    let ends = earlier.iter().filter(|told| told.state.is_end() && told.state != State::Refused);
    // Two nodes that took it may each see its time end, or not; and a resend after the end begins anew where it is
    // not known.
    let two = |other: &Told| other.machine != last.machine && message.ttl.is_some();
    if last.state.is_end() && ends.clone().any(|told| told.state != last.state && !two(told)) {
        return Some("was told two ends");
    }
    // Each time it is sent again its sender is told again from the beginning.
    let of_one = earlier.iter().filter(|told| (told.machine, told.session) == (last.machine, last.session));
    let later = of_one.filter(|told| told.state > last.state && told.state != State::Refused);
    // … and a node that lost its power may have lost with it that its sender was told.
    let back = |told: &Told| !crashes.iter().any(|at| (told.at..last.at).contains(at));
    if message.submits.len() < 2 && later.clone().any(back) {
        return Some("was told of backwards");
    }
    match last.state {
        State::Acked | State::Nacked if message.settled != Some(last.state) => {
            Some("was told settled as its recipient did not")
        }
        State::Dead if last.code.is_none() => Some("died without a reason"),
        State::Expired => {
            let first = message.submits.first()?.at;
            let early = |ttl: Duration| last.at + Duration::from_millis(50) < first + ttl;
            message.ttl.is_none_or(early).then_some("expired before its time")
        }
        _ => None,
    }
}
