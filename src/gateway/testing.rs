//! What the tests of entrances and of the client share: the node's end of a link, and a client's connection in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde_json::Value;

use super::carrier::{Carrier, Incoming, Lost};
use super::hub::{self, HubHandle};
use crate::link::{Event, Handle, Outlets, Peer, Role};
use crate::rt::{queue, tasks};
use crate::wire::close::CloseCode;
use crate::wire::envelope::{Head, Kind, Priority, Target};
use crate::wire::frame::{Deliver, Frame, Handing, ROOMS};
use crate::wire::ids::{AgentAddr, Incarnation, LinkId, MessageId, Namespace, NodeName, SessionNo};

/// Everything waits for an event, and for no longer than this; on a paused clock it costs nothing.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(3600), future).await.expect("it never happened")
}

pub fn namespace() -> Namespace {
    Namespace::new("trishula").unwrap()
}

pub fn agent(name: &str) -> AgentAddr {
    AgentAddr::parse(name, &namespace()).unwrap()
}

/// A durable STATUS.
pub fn head(from: &str, to: &str, id: &str, priority: u8) -> Head {
    Head {
        priority: Priority::new(priority).unwrap(),
        ..Head::new(agent(from), Target::Agent(agent(to)), MessageId::new(id).unwrap(), Kind::Status)
    }
}

/// A hub with the other end of its link in the test's hands.
pub struct Rig {
    pub hub: HubHandle,
    pub events: queue::Sender<Event>,
    _task: tasks::Task,
}

impl Rig {
    pub fn new() -> Rig {
        let (events, inbox) = queue::bounded("test.events", 16);
        let (hub, task) = hub::start(inbox);
        Rig { hub, events, _task: task }
    }

    /// A link to a node; several may be up.
    pub async fn link(&self, id: u64, node: &str) -> Node {
        self.link_with(id, node, &[ROOMS]).await
    }

    /// The same to a node that can do these things.
    pub async fn link_with(&self, id: u64, node: &str, features: &[&str]) -> Node {
        let (handle, outlets) = Handle::new(LinkId(id), "memory", "test".into());
        let peer = Peer {
            node: NodeName::new(node).unwrap(),
            role: Role::Node,
            incarnation: Incarnation(id),
            features: features.iter().map(|feature| (*feature).to_owned()).collect(),
            software: "test".into(),
            serial: String::new(),
        };
        let link = LinkId(id);
        self.events.send(Event::Up { link, peer, dialled: true, handle }).await.unwrap();
        Node { link, outlets, events: self.events.clone() }
    }
}

/// The node's end of a link.
pub struct Node {
    pub link: LinkId,
    pub outlets: Outlets,
    pub events: queue::Sender<Event>,
}

impl Node {
    /// The next frame of the entrance's, the control lane's first.
    pub async fn next(&mut self) -> Frame {
        let lanes = &mut self.outlets.lanes;
        let encoded = std::future::poll_fn(|cx| {
            for lane in lanes.iter_mut() {
                if let Poll::Ready(Some(encoded)) = lane.poll_recv(cx) {
                    return Poll::Ready(encoded);
                }
            }
            Poll::Pending
        });
        let encoded = soon(encoded).await;
        let mut bytes = BytesMut::from(&encoded.head[..]);
        bytes.extend_from_slice(&encoded.payload);
        Frame::decode(&mut bytes.freeze()).unwrap().unwrap()
    }

    pub async fn tell(&self, frame: Frame) {
        self.events.send(Event::Frame { link: self.link, frame }).await.unwrap();
    }

    /// Takes a registration and grants it.
    pub async fn grant(&mut self) -> crate::wire::frame::Attach {
        let Frame::Attach(attach) = self.next().await else { panic!("no Attach") };
        self.tell(Frame::Attached(attach.session, attach.registered_ms)).await;
        attach
    }

    /// Ends the link, as its carrier would.
    pub async fn down(self) {
        let Node { link, outlets, events } = self;
        drop(outlets);
        events.send(Event::Down { link, why: "test".into() }).await.unwrap();
    }

    /// Grants every registration and delivers every message to its recipient, from now on.
    pub fn serve(mut self) -> tasks::Task {
        tasks::spawn("test.node", async move {
            let mut agents: HashMap<AgentAddr, SessionNo> = HashMap::new();
            loop {
                match self.next().await {
                    Frame::Attach(attach) => {
                        agents.insert(attach.agent, attach.session);
                        self.tell(Frame::Attached(attach.session, attach.registered_ms)).await;
                    }
                    Frame::Detach(session, _) => agents.retain(|_, own| *own != session),
                    Frame::Submit(_, head, payload) => {
                        let Target::Agent(to) = &head.to else { continue };
                        let to = agents.get(to).map(|session| Handing::live(*session)).into_iter().collect();
                        let confirm = head.receipt.map(|_| NodeName::new("agni").unwrap());
                        self.tell(Frame::Deliver(Deliver { to, head, confirm }, payload)).await;
                    }
                    Frame::Receipt(receipt) => {
                        let session = agents[&receipt.sender];
                        self.tell(Frame::Told(session, receipt)).await;
                    }
                    Frame::Query(session, number, from, id) => {
                        let state =
                            format!("{{\"message\":\"{id}\",\"state\":\"stored\",\"from\":\"{from}\"}}");
                        self.tell(Frame::Answer(session, number, state.into())).await;
                    }
                    Frame::AskAgents(session, number) => {
                        self.tell(Frame::AgentList(session, number, Vec::new())).await;
                    }
                    _ => {}
                }
            }
        })
    }
}

/// What is between a test and a session in memory.
#[derive(Default)]
pub struct Wire {
    to_session: VecDeque<Incoming>,
    from_session: VecDeque<Bytes>,
    taken: VecDeque<Bytes>,
    pub pings: u32,
    /// The number of the last ping.
    pub pinged: u64,
    pub flushes: u32,
    pub closed: Option<(CloseCode, String)>,
    /// Whether the client reads.
    pub blocked: bool,
    /// Whether the connection has no ping, like a stream of bytes.
    pub no_ping: bool,
    session: Option<Waker>,
    test: Option<Waker>,
}

/// A session's end of a connection in memory.
pub struct MemoryCarrier(Arc<Mutex<Wire>>);

/// The test's end.
#[derive(Clone)]
pub struct MemoryClient(pub Arc<Mutex<Wire>>);

pub fn connection() -> (MemoryCarrier, MemoryClient) {
    let wire = Arc::new(Mutex::new(Wire::default()));
    (MemoryCarrier(wire.clone()), MemoryClient(wire))
}

impl MemoryClient {
    pub fn say(&self, text: &str) {
        self.put(Incoming::Frame(Bytes::copy_from_slice(text.as_bytes())));
    }

    pub fn put(&self, incoming: Incoming) {
        let mut wire = self.0.lock().unwrap();
        wire.to_session.push_back(incoming);
        wire.session.take().into_iter().for_each(Waker::wake);
    }

    /// Reads on, or stops reading.
    pub fn block(&self, blocked: bool) {
        let mut wire = self.0.lock().unwrap();
        wire.blocked = blocked;
        wire.session.take().into_iter().for_each(Waker::wake);
    }

    async fn until<T>(&self, mut found: impl FnMut(&mut Wire) -> Option<T>) -> T {
        let found = std::future::poll_fn(|cx| {
            let mut wire = self.0.lock().unwrap();
            match found(&mut wire) {
                Some(found) => Poll::Ready(found),
                None => {
                    wire.test = Some(cx.waker().clone());
                    Poll::Pending
                }
            }
        });
        soon(found).await
    }

    /// The next frame that was flushed to the client.
    pub async fn hear(&self) -> Value {
        serde_json::from_slice(&self.hear_text().await).unwrap()
    }

    /// The same as it is written.
    pub async fn hear_text(&self) -> Bytes {
        self.until(|wire| wire.from_session.pop_front()).await
    }

    /// Frames that wait to be read.
    pub fn waiting(&self) -> usize {
        self.0.lock().unwrap().from_session.len()
    }

    pub async fn closed(&self) -> (u16, String) {
        let (code, reason) = self.until(|wire| wire.closed.clone()).await;
        (code.number(), reason)
    }

    /// Answers the last ping.
    pub fn pong(&self) {
        let number = self.0.lock().unwrap().pinged;
        self.put(Incoming::Pong(number));
    }

    pub async fn pinged(&self, times: u32) {
        self.until(|wire| (wire.pings >= times).then_some(())).await;
    }
}

impl MemoryCarrier {
    fn with<T>(&self, cx: &Context<'_>, act: impl FnOnce(&mut Wire) -> Option<T>) -> Poll<T> {
        let mut wire = self.0.lock().unwrap();
        let done = act(&mut wire);
        wire.session = Some(cx.waker().clone());
        wire.test.take().into_iter().for_each(Waker::wake);
        done.map_or(Poll::Pending, Poll::Ready)
    }
}

impl Carrier for MemoryCarrier {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn has_ping(&self) -> bool {
        !self.0.lock().unwrap().no_ping
    }

    fn tells_close(&self) -> bool {
        true
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        self.with(cx, |wire| wire.to_session.pop_front())
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.with(cx, |wire| (!wire.blocked).then_some(Ok(())))
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        self.0.lock().unwrap().taken.push_back(frame);
        Ok(())
    }

    fn ping(&mut self, number: u64) -> Result<(), Lost> {
        let mut wire = self.0.lock().unwrap();
        (wire.pings, wire.pinged) = (wire.pings + 1, number);
        wire.test.take().into_iter().for_each(Waker::wake);
        Ok(())
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        self.with(cx, |wire| {
            if wire.blocked {
                return None;
            }
            wire.flushes += 1;
            let taken = std::mem::take(&mut wire.taken);
            wire.from_session.extend(taken);
            Some(Ok(()))
        })
    }

    fn start_close(&mut self, code: CloseCode, reason: &str) {
        let mut wire = self.0.lock().unwrap();
        let taken = std::mem::take(&mut wire.taken);
        wire.from_session.extend(taken);
        wire.closed = Some((code, reason.to_owned()));
        wire.test.take().into_iter().for_each(Waker::wake);
    }

    fn poll_closed(&mut self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}
