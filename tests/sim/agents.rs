//! Clients at a node's entrance: each asks others at random and answers what it is asked. Every message is in
//! the book: when it was sent, how often it arrived, what its sender was told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use trishula::link::{Event, Handle};
use trishula::rt::{queue, tasks};
use trishula::wire::close::Code;
use trishula::wire::envelope::{Class, Head, Kind, Priority, Target};
use trishula::wire::frame::{Attach, Deliver, Frame};
use trishula::wire::ids::{AgentAddr, AgentName, MessageId, Namespace, NodeName, SessionNo};

use crate::net::SimNet;

/// What is known of one message.
#[derive(Debug, Clone)]
pub struct Entry {
    pub sent: Duration,
    /// Between which nodes, by the agents' names.
    pub nodes: [String; 2],
    pub kind: Kind,
    pub delivered: Vec<Duration>,
    pub refused: Vec<Code>,
}

/// Every message of a run, by id.
pub type Book = Arc<Mutex<BTreeMap<String, Entry>>>;

/// Between two commands of one agent.
const EVERY: Duration = Duration::from_millis(250);

/// The agents of one node.
pub fn names_at(node: &NodeName) -> [AgentAddr; 2] {
    ["a", "b"].map(|name| {
        let name = AgentName::new(&format!("{name}-{node}")).unwrap();
        AgentAddr::new(Namespace::new("trishula").unwrap(), name)
    })
}

/// What the agents of a node are to do.
pub struct Errand {
    pub node: NodeName,
    /// Everybody that they may ask.
    pub all: Vec<AgentAddr>,
    /// From when to when they ask.
    pub from: Duration,
    pub until: Duration,
    pub seed: u64,
    /// Makes ids of different lives of a node differ.
    pub life: u64,
}

struct Crowd {
    net: SimNet,
    book: Book,
    errand: Errand,
    agents: [AgentAddr; 2],
    random: StdRng,
    link: Option<Handle>,
    ready: u64,
    count: u64,
}

/// Lets the agents of a node live until the task is dropped.
pub fn live(net: SimNet, book: Book, errand: Errand, events: queue::Receiver<Event>) -> tasks::Task {
    let agents = names_at(&errand.node);
    let random = StdRng::seed_from_u64(errand.seed);
    let crowd = Crowd { net, book, errand, agents, random, link: None, ready: 0, count: 0 };
    tasks::spawn("sim.agents", crowd.run(events))
}

impl Crowd {
    async fn run(mut self, mut events: queue::Receiver<Event>) {
        // Not all at the same millisecond.
        let first = Duration::from_millis(self.random.random_range(0..250));
        let mut next = self.errand.from.max(self.net.elapsed()) + first;
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => self.event(event),
                    None => return,
                },
                () = self.net.wait_until(next) => {
                    next += EVERY;
                    if self.net.elapsed() < self.errand.until {
                        self.ask(0);
                        self.ask(1);
                    }
                }
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Up { handle, .. } => {
                self.link = Some(handle);
                for (n, agent) in (0..).zip(self.agents.clone()) {
                    let attach = Attach {
                        session: SessionNo(n),
                        agent,
                        capabilities: Vec::new(),
                        shared: false,
                        registered_ms: 1 + self.errand.life,
                        resumed: false,
                        window: 64,
                        transient: false,
                    };
                    self.send(Frame::Attach(attach));
                }
            }
            Event::Frame { frame, .. } => self.frame(frame),
            Event::Early { .. } => {}
            Event::Down { why, .. } => {
                self.net.note(format!("{} entrance down: {why}", self.errand.node));
                (self.link, self.ready) = (None, 0);
            }
        }
    }

    fn frame(&mut self, frame: Frame) {
        match frame {
            Frame::Attached(..) => self.ready += 1,
            Frame::Ping(number) => self.send(Frame::Pong(number, 0)),
            Frame::Deliver(deliver, payload) => self.delivered(deliver, payload),
            Frame::Told(_, receipt) => {
                let code = receipt.refusal.expect("nothing but refusals was asked for").code;
                self.net.note(format!("{} told {} {}", receipt.sender, receipt.id, code.as_str()));
                let mut book = self.book.lock().unwrap();
                book.get_mut(receipt.id.as_str()).expect("somebody sent it").refused.push(code);
            }
            Frame::Evict(session, refusal) => panic!("session {session} was ended: {refusal}"),
            _ => {}
        }
    }

    fn delivered(&mut self, deliver: Deliver, payload: Bytes) {
        let head = deliver.head;
        assert_eq!(payload, body(&head.id), "the payload arrives as it was sent");
        let to = &self.agents[deliver.to[0].session.0 as usize];
        assert_eq!(head.to, Target::Agent(to.clone()), "and where it belongs");
        self.net.note(format!("{to} got {}", head.id));
        {
            let mut book = self.book.lock().unwrap();
            let entry = book.get_mut(head.id.as_str()).expect("somebody sent it");
            entry.delivered.push(self.net.elapsed());
        }
        if head.kind == Kind::Command && self.link.is_some() {
            let session = deliver.to[0].session.0;
            let id = format!("{}-result", head.id);
            self.submit(session, Kind::Result, head.from, &id, Some(head.id), head.priority);
        }
    }

    fn ask(&mut self, session: u64) {
        if self.ready < 2 {
            return;
        }
        self.count += 1;
        let to = self.errand.all[self.random.random_range(0..self.errand.all.len())].clone();
        let priority = Priority::new(self.random.random_range(1..=5)).unwrap();
        let id = format!("{}-{}-{}-{}", self.errand.node, self.errand.life, session, self.count);
        self.submit(session, Kind::Command, to, &id, None, priority);
    }

    fn submit(
        &mut self,
        session: u64,
        kind: Kind,
        to: AgentAddr,
        id: &str,
        reply_to: Option<MessageId>,
        priority: Priority,
    ) {
        let from = self.agents[session as usize].clone();
        self.net.note(format!("{from} sends {id} to {to}"));
        let nodes = [&from, &to].map(|agent| agent.name.as_str()[2..].to_owned());
        let entry =
            Entry { sent: self.net.elapsed(), nodes, kind, delivered: Vec::new(), refused: Vec::new() };
        let twice = self.book.lock().unwrap().insert(id.to_owned(), entry);
        assert!(twice.is_none(), "{id} was answered before: delivered twice");
        let id = MessageId::new(id).unwrap();
        let payload = body(&id);
        let head =
            Head { priority, class: Class::Live, reply_to, ..Head::new(from, Target::Agent(to), id, kind) };
        self.send(Frame::Submit(SessionNo(session), head, payload));
    }

    fn send(&self, frame: Frame) {
        let link = self.link.as_ref().expect("the entrance is up");
        link.try_send(&frame).expect("a queue towards the node is full");
    }
}

/// A payload of 30 to 3,000 bytes that follows from the id.
fn body(id: &MessageId) -> Bytes {
    let sum = id.as_str().bytes().fold(7u64, |sum, byte| (sum * 31 + u64::from(byte)) % 99_991);
    Bytes::from(id.as_str().repeat(1 + sum as usize % 100))
}
