//! The core: a state machine that decides, and touches no socket, disk, clock or random source.
//!
//! It is told the time and what happened, by [`Mesh::handle`], and answers with what to do, by
//! [`Mesh::poll_output`]. The order of calls for a driver:
//!
//! 1. `handle(now, input)` with the next thing that happened;
//! 2. `poll_output()` until it answers `None`, doing each output; what comes of it is an input again;
//! 3. arm a timer for `next_timeout()`, and say [`Input::Tick`] when it fires.
//!
//! The same inputs in the same order give the same outputs: a whole cluster runs in one thread under a
//! simulated network and clock, and a seed replays it.
//!
//! | file | what is in it |
//! |---|---|
//! | [`io`] | inputs, outputs, events |
//! | [`topology`] | who links to whom, and the shortest way to everybody |
//! | [`directory`] | which agents there are, and where each one's home is |
//! | `elsewhere` | agents of other nodes, kept on disk |
//! | `links` | links coming up and going down, double connections, signs of life |
//! | `early` | messages that cross a connection before it is a link |
//! | `flooding` | announcements passed on, and caught up with on a new link |
//! | `sessions` | agents registered here, through which entrance |
//! | `durable` | messages that are kept until their end is known |
//! | `delivery` | live messages on their way, and what senders are told |
//! | `rooms` | named channels with history and presence |
//! | `calls` | questions from node to node |
//! | `snapshot` | the mesh as this node sees it, for `status` and `agents` |

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::wire::frame::{Frame, LinkState, MAX_HOPS};
use crate::wire::ids::{LinkId, NodeName};
use crate::wire::record::{Memory, Record};

mod calls;
mod created;
mod delivery;
pub mod directory;
mod durable;
mod early;
mod elsewhere;
mod flooding;
pub mod io;
mod links;
mod registering;
mod rooms;
mod sessions;
mod snapshot;
#[cfg(test)]
mod tests;
pub mod topology;
mod transients;

pub use durable::{DurableView, GoOn, Limits, NoTakeOver, TakeOver, Use};
pub use io::{AskFailed, Config, Event, Hop, Input, Output, Queried, Role, Step, Ticket, Time};
pub use rooms::{RoomLimits, RoomsView};
pub use snapshot::{LinkView, NodeView, Snapshot};

use calls::Calls;
use created::Created;
use directory::Directory;
use durable::Durable;
use links::Link;
use sessions::Sessions;
use topology::Topology;
use transients::Transients;

/// Between two comparisons of what each end of a link has.
const DIGEST_EVERY: Duration = Duration::from_secs(10);
/// An agent that was away for so long is forgotten, in milliseconds of the wall clock: 30 days.
const FORGET_AFTER_MS: u64 = 30 * 24 * 3600 * 1000;

/// One node's view of the mesh, and everything it decides.
#[derive(Debug)]
pub struct Mesh {
    config: Config,
    now: Time,
    links: BTreeMap<LinkId, Link>,
    /// The link that is used to each neighbour.
    neighbours: BTreeMap<NodeName, LinkId>,
    resuming: early::Resuming,
    topology: Topology,
    directory: Directory,
    sessions: Sessions,
    transients: Transients,
    created: Created,
    calls: Calls,
    rooms: rooms::Rooms,
    durable: Durable,
    noting: elsewhere::Noting,
    /// The wall clock in milliseconds, as it was told last, and when.
    wall: (Time, u64),
    revocations: Option<(u64, Bytes)>,
    stopping: bool,
    next_ticket: u64,
    next_heartbeat: Time,
    next_digest: Time,
    outputs: VecDeque<Output>,
}

impl Mesh {
    /// A node that has just started and knows what it had on disk; with the wall clock in milliseconds.
    pub fn new(config: Config, now: Time, wall_ms: u64, memory: Memory) -> Mesh {
        let Memory { agents: known, transient, elsewhere, messages, horizons, numbers, rooms } = memory;
        let own = LinkState {
            origin: config.node.clone(),
            incarnation: config.incarnation,
            version: 1,
            links: Vec::new(),
            holds_ca: config.holds_ca,
            addresses: config.addresses.clone(),
            serial: config.serial.clone(),
        };
        let mut mesh = Mesh {
            now,
            links: BTreeMap::new(),
            neighbours: BTreeMap::new(),
            resuming: early::Resuming::default(),
            topology: Topology::new(own),
            created: Created::known(known.iter()),
            directory: Directory::new(config.node.clone(), config.incarnation, known, elsewhere),
            sessions: Sessions::default(),
            transients: Transients::known(transient, now),
            calls: Calls::default(),
            rooms: rooms::Rooms::default(),
            durable: Durable::new(),
            noting: elsewhere::Noting::new(),
            wall: (now, wall_ms),
            revocations: None,
            stopping: false,
            next_ticket: 0,
            next_heartbeat: now.after(config.heartbeat),
            next_digest: now.after(DIGEST_EVERY),
            outputs: VecDeque::new(),
            config,
        };
        mesh.restore(messages, horizons, numbers);
        mesh.restore_rooms(rooms);
        mesh
    }

    /// This node's name.
    pub fn node(&self) -> &NodeName {
        &self.config.node
    }

    /// Takes what happened. Never fails: what makes no sense is reported as [`Event::Ignored`].
    pub fn handle(&mut self, now: Time, input: Input) {
        if now.since(self.now) > self.config.heartbeat * 2 {
            self.stood_still(now);
        }
        self.now = now;
        match input {
            Input::LinkUp { link, peer, role, incarnation, dialled, fallback, rtt_us } => {
                self.link_up(link, Link::new(peer, role, incarnation, (dialled, fallback), rtt_us, now));
            }
            Input::LinkEarly { link, peer, dialled } => self.link_early(link, peer, dialled),
            Input::LinkDown(link) => self.link_down(link),
            Input::Frame(link, frame) => self.frame(link, frame),
            Input::Unsent(link, frame) => self.unsent(link, frame),
            Input::Persisted(ticket) => {
                self.persisted(ticket);
                self.durable_persisted(ticket, None);
                self.rooms_persisted(ticket, None);
                self.elsewhere_persisted(ticket, false);
            }
            Input::PersistFailed(ticket, why) => {
                self.persist_failed(ticket, &why);
                self.durable_persisted(ticket, Some(&why));
                self.rooms_persisted(ticket, Some(&why));
                self.elsewhere_persisted(ticket, true);
            }
            Input::Ask { number, to, method, body, within } => self.ask(number, to, method, body, within),
            Input::Answer(call, result) => self.answer(call, result),
            Input::Revocations(number, der, serials) => self.set_revocations(number, der, serials),
            Input::Post(number, head, payload) => self.post(number, *head, payload),
            Input::GoOn(how) => self.go_on(how),
            Input::TakeOver(node) => self.take_over_now(&node),
            Input::DropDead(key) => self.drop_dead(key),
            Input::Stop(come_back_ms) => self.stop(come_back_ms),
            Input::Tick(wall_ms) => self.tick(wall_ms),
        }
        self.refresh_routes();
    }

    /// The next thing to do; `None`: nothing until the next input.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            self.go_on_in_order();
            self.send_reports();
            self.show_left_rooms();
            self.announce_rooms();
        }
        self.outputs.pop_front()
    }

    /// When [`Input::Tick`] is due at the latest.
    pub fn next_timeout(&self) -> Time {
        let first = self.next_heartbeat.min(self.next_digest).min(self.next_durable()).min(self.next_rooms());
        self.calls.next_deadline().map_or(first, |deadline| first.min(deadline))
    }

    fn frame(&mut self, link: LinkId, frame: Frame) {
        let Some(from) = self.links.get_mut(&link) else { return self.early_frame(link, frame) };
        from.speaks(self.now);
        let role = from.role;
        match (role, frame) {
            (_, Frame::Ping(number)) => self.send(link, Frame::Pong(number, self.wall_ms())),
            (_, Frame::Pong(number, wall_ms)) => self.pong(link, number, wall_ms),
            (_, Frame::Revocations(number, der)) => self.offered_revocations(number, der),
            (_, Frame::Receipt(receipt)) => self.receipt(receipt),
            (Role::Node, Frame::Goodbye(_)) => self.goodbye(link),
            (Role::Node, Frame::LinkState(news)) => self.link_state(link, news),
            (Role::Node, Frame::Agents(news)) => self.agents(link, news),
            (Role::Node, Frame::Remembers(since)) => self.directory.note_memory(since),
            (Role::Node, Frame::Digest(known)) => self.digest(link, &known),
            (Role::Node, Frame::Call(call, body)) => self.call(call, body),
            (Role::Node, Frame::Reply(reply, body)) => self.reply(reply, body),
            (Role::Node, Frame::Forward(forward, payload)) => self.forward(forward, payload),
            (Role::Node, Frame::Confirm(confirm)) => self.confirm(confirm),
            (Role::Node, Frame::Inquire(inquire)) => self.inquire(inquire),
            (Role::Node, Frame::Hold(forward, payload)) => self.hold(forward, payload),
            (Role::Node, Frame::Release(release)) => self.release(release),
            (Role::Node, Frame::Withdraw(withdraw)) => self.withdraw(withdraw),
            (Role::Node, Frame::Heard(heard)) => self.heard(heard),
            (Role::Node, Frame::RoomList(news)) => self.room_list(link, news),
            (Role::Node, Frame::RoomDigest(known)) => self.room_digest(link, &known),
            (Role::Node, Frame::RoomEntry(entry, payload)) => self.room_entry(entry, payload),
            (Role::Node, Frame::RoomState(state)) => self.room_state(state),
            (Role::Entrance, Frame::RoomSubscribe(wish)) => self.subscribe(link, wish),
            (Role::Entrance, Frame::RoomUnsubscribe(session, room)) => self.unsubscribe(link, session, room),
            (Role::Entrance, Frame::RoomAsk(ask)) => self.ask_room(link, ask),
            (Role::Entrance, Frame::RoomMost(session, most)) => self.room_most((link, session), most),
            (Role::Entrance, Frame::Query(session, number, from, id)) => {
                self.query(link, session, number, from, id);
            }
            (Role::Entrance, Frame::Settle(session, settled)) => self.settled(link, session, settled),
            (Role::Entrance, Frame::Attach(attach)) => self.attach(link, attach),
            (Role::Entrance, Frame::Detach(session, forget)) => self.detach(link, session, forget),
            (Role::Entrance, Frame::Submit(session, head, payload)) => {
                self.submit(link, session, head, payload);
            }
            (Role::Entrance, Frame::AskAgents(session, number)) => self.list_agents(link, session, number),
            (_, frame) => self.event(Event::Ignored(link, frame.name())),
        }
    }

    fn tick(&mut self, wall_ms: u64) {
        // The later of the two clocks counts: the monotonic one stands still while a machine sleeps, and the other one
        // may be set back.
        self.wall = (self.now, self.wall_ms().max(wall_ms));
        if self.now >= self.next_heartbeat {
            let late = self.now.since(self.next_heartbeat) >= self.config.heartbeat;
            self.next_heartbeat = self.now.after(self.config.heartbeat);
            self.heartbeat(late);
            self.forget_resuming();
            self.forget_old_agents(wall_ms);
            self.forget_those_who_left();
            self.forget_transients();
            self.look_after_others();
        }
        if self.now >= self.next_digest {
            self.next_digest = self.now.after(DIGEST_EVERY);
            self.send_digests();
            self.forget_created();
        }
        self.expire_calls();
        self.durable_tick();
        self.rooms_tick();
    }

    fn stop(&mut self, come_back_ms: u64) {
        self.stopping = true;
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.send(link, Frame::Goodbye(come_back_ms));
        }
    }

    fn send(&mut self, link: LinkId, frame: Frame) {
        self.outputs.push_back(Output::Send(link, frame));
    }

    fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    fn persist(&mut self, record: Record) -> Ticket {
        self.next_ticket += 1;
        let ticket = Ticket(self.next_ticket);
        self.outputs.push_back(Output::Persist(ticket, record));
        ticket
    }

    /// Passes a frame on towards the node that it is for, if it may go through one node more; `frame` makes it, with the
    /// nodes that are left.
    fn pass_on(&mut self, to: &NodeName, hops_left: u8, frame: impl FnOnce(u8) -> Frame) {
        // What a peer says is not believed beyond the limit.
        if let Some(left) = hops_left.min(MAX_HOPS).checked_sub(1)
            && let Some(link) = self.way_to(to)
        {
            self.send(link, frame(left));
        }
    }

    /// The link that leads towards a node, if any does.
    fn way_to(&self, node: &NodeName) -> Option<LinkId> {
        let next = &self.topology.route(node)?.next;
        self.neighbours.get(next).copied()
    }

    fn refresh_routes(&mut self) {
        if !self.topology.is_dirty() {
            return;
        }
        let (gained, lost) = self.topology.refresh();
        for node in &gained {
            self.event(Event::Reachable(node.clone()));
        }
        if !gained.is_empty() {
            self.found_a_node();
        }
        for node in &lost {
            self.event(Event::Unreachable(node.clone()));
        }
        self.reroute();
        self.room_routes(&gained, &lost);
    }
}
