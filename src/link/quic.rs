//! A link over QUIC: one unidirectional stream a lane and direction, opened when first needed.
//!
//! A stream begins with one byte, the lane's index. The control lane begins with HELLO; nothing of the
//! other lanes is read before it came and was found good. So a link is up when both ends know each other.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::sync::SetOnce;

pub use super::Local;
use super::congestion;
use super::datagram;
use super::early::{self, Begun, Doorman};
use super::inbox::Inbox;
use super::twice::{self, Copier, Seen};
use super::{
    Backlog, CHUNK, CloseOrder, DRAIN_WITHIN, Error, Event, HELLO_WITHIN, Handle, Lane, Outlets, Peer, Role,
};
use crate::identity;
use crate::metrics;
use crate::rt::{clock, queue, tasks};
use crate::wire::close::LinkClose;
use crate::wire::frame::{Encoded, Frame, Hello, Reader};
use crate::wire::ids::{LinkId, NodeName};

mod settings;

pub use settings::{transport, transport_with};

/// Frames written with one call; their bytes share packets.
const BATCH: usize = 64;

/// Runs a link over an admitted connection until it ends, and reports its life. `expected` is the machine
/// that the peer's certificate names.
pub async fn run(local: &Local, connection: quinn::Connection, expected: Admitted, begun: Begun) {
    let dialled = begun.dialled();
    let new = || Handle::new(local.next_id(), "quic", connection.remote_address().to_string());
    let (mut writers, mut said, mut handshake) = (Writers::default(), None, None);
    let (handle, outlets) = match begun {
        Begun::Resumed(early) => {
            (writers, said) = (early.writers, Some(early.said));
            (early.handle, early.outlets)
        }
        Begun::Accepting(confirmed) => {
            handshake = Some(confirmed);
            new()
        }
        Begun::Dialled | Begun::Accepted => new(),
    };
    if let Some(word) = congestion::word(&connection) {
        handle.set_congestion(word);
    }
    let id = handle.id();
    let link = Link { local, connection: &connection, expected: &expected, dialled, writers };
    let (why, up) = link.run(handle, outlets, handshake, &mut said).await;
    let dropped = connection.close_reason().is_some_and(|why| identity::tls::was_dropped(&why));
    connection.close((why.code as u32).into(), why.why.as_bytes());
    if !up && dropped && !dialled {
        metrics::NOT_ADMITTED.with_label_values(&["dropped"]).inc();
    } else if !up && !dropped {
        tracing::warn!(peer = %expected.node, remote = %connection.remote_address(), why = why.why, "a link did not come up");
    }
    if up || said.is_some() {
        said.into_iter().for_each(early::Said::done);
        // Nobody listens any more only when the process stops.
        let _ = local.events.send(Event::Down { link: id, why: why.why }).await;
    }
}

/// Who a connection's certificate says the peer is.
#[derive(Debug, Clone)]
pub struct Admitted {
    /// Its machine.
    pub node: NodeName,
    /// What it is to us.
    pub role: Role,
    /// By which its certificate is checked again while the connection lasts.
    pub certificate: Certificate,
}

/// What of a certificate can end while a connection lasts.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// By which a revocation list names it.
    pub serial: identity::Serial,
    /// Its last moment.
    pub not_after: OffsetDateTime,
}

impl Certificate {
    /// Of a peer that was admitted.
    pub fn of(peer: &identity::PeerName) -> Certificate {
        Certificate { serial: peer.serial.clone(), not_after: peer.not_after }
    }

    /// Why the peer is not to be heard any longer; `None`: it may go on.
    pub fn ended(&self, local: &Local) -> Option<String> {
        if local.identity.trust().revocations().since(&self.serial).is_some() {
            return Some("the peer's certificate was revoked; it must join again with a new ticket".into());
        }
        let ended = OffsetDateTime::from(clock::wall()) > self.not_after;
        ended.then(|| "the peer's certificate has expired; renew it: trishula cert renew".into())
    }
}

/// Checks who is at the other end, after the handshake and again whatever TLS resumed.
pub fn admit(local: &Local, connection: &quinn::Connection) -> Result<identity::PeerName, Error> {
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>().ok())
        .map(|chain| *chain)
        .unwrap_or_default();
    local.identity.trust().admit(&certificates, clock::wall().into()).map_err(Error::NotAdmitted)
}

struct Link<'a> {
    local: &'a Local,
    connection: &'a quinn::Connection,
    expected: &'a Admitted,
    dialled: bool,
    /// Those that began before the handshake was over.
    writers: Writers,
}

impl Link<'_> {
    /// Answers why it ended, and whether it was ever up.
    async fn run(
        mut self,
        handle: Handle,
        mut outlets: Outlets,
        handshake: Option<quinn::ZeroRttAccepted>,
        said: &mut Option<early::Said>,
    ) -> (CloseOrder, bool) {
        // Control writer first: HELLO must be the first thing on the control lane.
        let mut control = match self.say_hello().await {
            Ok(control) => control,
            Err(e) => return (CloseOrder::broken(&e.to_string()), false),
        };
        let (mut readers, mut failures) =
            Readers::new(handle.id(), handle.backlog(self.expected.role), self.local.events.clone());
        let mut doorman = Doorman::new(self.local, self.expected, &handle);
        let hello = self.await_hello(&mut readers, &mut doorman, handshake);
        let hello = tokio::time::timeout(HELLO_WITHIN, hello).await;
        *said = said.take().or(doorman.said);
        let peer = match hello {
            Ok(Ok(peer)) => peer,
            Ok(Err(order)) => return (order, false),
            Err(_) => return (CloseOrder::no_hello(), false),
        };
        let reads =
            |what| peer.role == Role::Node && peer.features.iter().any(|feature| feature.as_str() == what);
        let datagrams = outlets.datagrams.take().filter(|_| reads(datagram::FEATURE));
        let copies = outlets.copies.take().filter(|_| reads(twice::FEATURE));
        let up = Event::Up { link: handle.id(), peer, dialled: self.dialled, handle: handle.clone() };
        if self.local.events.send(up).await.is_err() {
            return (CloseOrder::stopping(), false);
        }
        readers.go();
        if let Some(waiting) = datagrams {
            readers.datagrams(self.connection, waiting);
        }
        let _copies = copies.map(|copies| tasks::spawn("link.copies", copies.send(self.connection.clone())));
        let lanes = std::mem::take(&mut outlets.lanes);
        let mut writers = std::mem::take(&mut self.writers);
        writers.add(Writers::start(self.connection, &mut control, (lanes, 0), &outlets.copier));
        let order = loop {
            tokio::select! {
                biased;
                Some(order) = outlets.close.recv() => break order,
                Some(order) = failures.recv() => break order,
                why = self.connection.closed() => break CloseOrder::broken(&identity::tls::explain(&why)),
                stream = self.connection.accept_uni() => match stream {
                    Ok(stream) => readers.start(stream),
                    Err(why) => break CloseOrder::broken(&identity::tls::explain(&why)),
                },
                () = tokio::time::sleep(Duration::from_secs(1)) => {
                    self.look_where(&handle);
                    handle.set_rtt_us(u32::try_from(self.connection.rtt().as_micros()).unwrap_or(u32::MAX));
                    if let Some(why) = self.expected.certificate.ended(self.local) {
                        break CloseOrder { code: LinkClose::Revoked, why };
                    }
                }
            }
        };
        if order.code == LinkClose::Stopping {
            drop(handle);
            writers.drain().await;
        }
        (order, true)
    }

    /// Whether the peer is on another network: QUIC has found its new address and goes on there (RFC 9000 section 9).
    fn look_where(&self, handle: &Handle) {
        let remote = self.connection.remote_address().to_string();
        if handle.moved_to(remote.clone()) {
            metrics::LINKS_MOVED.inc();
            tracing::info!(peer = %self.expected.node, remote, "the peer of a link has another address");
        }
    }

    async fn say_hello(&self) -> Result<Option<quinn::SendStream>, Error> {
        let mut stream = open(self.connection, Lane::Control).await?;
        let mut hello = self.local.hello.clone();
        hello.features.extend([datagram::FEATURE, twice::FEATURE].map(str::to_owned));
        let hello = Frame::Hello(hello).encode();
        write(&mut stream, &mut vec![hello.head]).await?;
        Ok(Some(stream))
    }

    /// Accepts streams until the one with the control lane said who is there. Streams of other lanes that
    /// come before wait in their readers.
    async fn await_hello(
        &self,
        readers: &mut Readers,
        doorman: &mut Doorman<'_>,
        handshake: Option<quinn::ZeroRttAccepted>,
    ) -> Result<Peer, CloseOrder> {
        loop {
            let stream = self.connection.accept_uni().await;
            let mut stream = stream.map_err(|why| CloseOrder::broken(&identity::tls::explain(&why)))?;
            let mut lane = [0u8; 1];
            stream.read_exact(&mut lane).await.map_err(|e| CloseOrder::broken(&e.to_string()))?;
            if usize::from(lane[0]) != Lane::Control.index() {
                let early = doorman.lets_in(&stream).await;
                readers.go_on(stream, lane[0], Reader::default(), early);
                continue;
            }
            let mut reader = Reader::default();
            let first =
                next_frame(&mut stream, &mut reader).await.map_err(|e| CloseOrder::broken(&e.to_string()))?;
            let Some(Frame::Hello(hello)) = first else {
                return Err(CloseOrder::protocol("the first frame of the control lane is not HELLO"));
            };
            let peer = self.check_hello(hello)?;
            early::confirmed(self.connection, handshake).await?;
            readers.go_on(stream, lane[0], reader, false);
            return Ok(peer);
        }
    }

    fn check_hello(&self, hello: Hello) -> Result<Peer, CloseOrder> {
        super::check_version(&hello)?;
        if hello.node != self.expected.node {
            let why = format!("HELLO says {}, the certificate says {}", hello.node, self.expected.node);
            return Err(CloseOrder { code: LinkClose::NotAdmitted, why });
        }
        Ok(Peer {
            node: hello.node,
            role: self.expected.role,
            incarnation: hello.incarnation,
            features: hello.features,
            software: hello.software,
            serial: self.expected.certificate.serial.to_string(),
        })
    }
}

/// One task for each stream of the peer's.
struct Readers {
    each: StreamReader,
    tasks: tasks::Group,
}

impl Readers {
    /// With the queue in which one of them says that the link can't go on.
    fn new(link: LinkId, backlog: Backlog, events: Inbox) -> (Readers, queue::Receiver<CloseOrder>) {
        let (failed, failures) = queue::bounded("link.failures", Lane::COUNT);
        let (ready, urgent) = <(Arc<_>, Arc<_>)>::default();
        let each = StreamReader { link, backlog, events, failed, ready, urgent };
        (Readers { each, tasks: tasks::Group::default() }, failures)
    }

    /// The peer is known: what it sends may be read.
    fn go(&self) {
        // Said here only, and once.
        let _ = self.each.ready.set(());
    }

    /// What may be lost, both ways.
    fn datagrams(&mut self, connection: &quinn::Connection, waiting: datagram::Waiting) {
        let StreamReader { link, events, failed, urgent, .. } = self.each.clone();
        self.tasks.spawn("link.datagrams", waiting.send(connection.clone()));
        self.tasks
            .spawn("link.datagrams", datagram::read(connection.clone(), (link, events), urgent, failed));
    }

    /// Reads a new stream. Its lane's byte is read by its own task, so that it delays nobody.
    fn start(&mut self, mut stream: quinn::RecvStream) {
        let reader = self.each.clone();
        self.tasks.spawn("link.reader", async move {
            // The connection itself says better why a stream ended.
            let mut lane = [0u8; 1];
            if stream.read_exact(&mut lane).await.is_ok() {
                reader.run(stream, lane[0], Reader::default(), false).await;
            }
        });
    }

    /// Goes on reading a stream behind its lane's byte, and behind what `frames` has; `early`: its messages don't wait.
    fn go_on(&mut self, stream: quinn::RecvStream, lane: u8, frames: Reader, early: bool) {
        self.tasks.spawn("link.reader", self.each.clone().run(stream, lane, frames, early));
    }
}

/// Reads one stream.
#[derive(Clone)]
struct StreamReader {
    link: LinkId,
    backlog: Backlog,
    events: Inbox,
    failed: queue::Sender<CloseOrder>,
    /// Waited for in the order in which the streams came; a watch would wake them in any.
    ready: Arc<SetOnce<()>>,
    /// What came of the urgent lane, some of it in datagrams.
    urgent: Arc<Seen>,
}

impl StreamReader {
    async fn run(self, mut stream: quinn::RecvStream, lane: u8, mut frames: Reader, early: bool) {
        let urgent = usize::from(lane) == Lane::Urgent.index();
        if !early {
            self.ready.wait().await;
        }
        loop {
            match next_frame(&mut stream, &mut frames).await {
                Ok(Some(frame)) => {
                    if early {
                        self.admit_early(&frame).await;
                    }
                    self.backlog.passes().await;
                    let taken = if urgent {
                        self.urgent.stream(self.link, frame, &self.events).await
                    } else {
                        self.events.send(Event::frame(self.link, frame)).await.is_ok()
                    };
                    if !taken {
                        return;
                    }
                }
                // The connection itself says better why it ended.
                Ok(None) | Err(Error::Stream(_)) => return,
                Err(e) => {
                    let _ = self.failed.try_send(CloseOrder::protocol(&e.to_string()));
                    return;
                }
            }
        }
    }

    /// Waits with a frame that may not be taken before the peer has said HELLO.
    async fn admit_early(&self, frame: &Frame) {
        if !early::may_come(frame) {
            self.ready.wait().await;
        } else if !self.ready.initialized() {
            early::count_message();
        }
    }
}

/// One task for each lane that writes what is queued.
#[derive(Default)]
pub(super) struct Writers {
    tasks: Vec<tasks::Task>,
}

impl Writers {
    /// The first queue is that of the lane with the index beside them.
    pub(super) fn start(
        connection: &quinn::Connection,
        control: &mut Option<quinn::SendStream>,
        (lanes, first): (Vec<queue::Receiver<Encoded>>, usize),
        copier: &Copier,
    ) -> Writers {
        let start = |(index, queue): (usize, queue::Receiver<Encoded>)| {
            let (connection, stream) = (connection.clone(), if index == 0 { control.take() } else { None });
            let copier = (index == Lane::Urgent.index()).then(|| copier.clone());
            tasks::spawn("link.writer", async move {
                if let Err(e) = write_lane(connection, index, stream, queue, copier).await {
                    // The connection's own end is reported by whoever runs the link.
                    tracing::debug!(lane = index, why = %e, "a lane stopped writing");
                }
            })
        };
        Writers { tasks: (first..).zip(lanes).map(start).collect() }
    }

    fn add(&mut self, others: Writers) {
        self.tasks.extend(others.tasks);
    }

    /// Lets the writers finish what is queued, for a bounded time.
    async fn drain(&mut self) {
        let all = async {
            for task in self.tasks.drain(..) {
                task.join().await;
            }
        };
        // What did not leave in time is as lost as on a link that breaks.
        let _ = tokio::time::timeout(DRAIN_WITHIN, all).await;
    }
}

async fn write_lane(
    connection: quinn::Connection,
    index: usize,
    mut stream: Option<quinn::SendStream>,
    mut queue: queue::Receiver<Encoded>,
    mut copier: Option<Copier>,
) -> Result<(), Error> {
    let mut batch = Vec::with_capacity(BATCH);
    let mut chunks = Vec::with_capacity(2 * BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let copied = copier.as_ref().map(|_| batch.clone());
        for frame in batch.drain(..) {
            chunks.push(frame.head);
            if !frame.payload.is_empty() {
                chunks.push(frame.payload);
            }
        }
        let stream = match &mut stream {
            Some(stream) => stream,
            none => none.insert(open_index(&connection, index).await?),
        };
        write(stream, &mut chunks).await?;
        if let Some((copier, frames)) = copier.as_mut().zip(copied) {
            copier.wrote(frames);
        }
    }
    if let Some(mut stream) = stream {
        // Finished already only if the peer reset it.
        let _ = stream.finish();
        let _ = stream.stopped().await;
    }
    Ok(())
}

async fn open(connection: &quinn::Connection, lane: Lane) -> Result<quinn::SendStream, Error> {
    open_index(connection, lane.index()).await
}

async fn open_index(connection: &quinn::Connection, index: usize) -> Result<quinn::SendStream, Error> {
    let mut stream = connection.open_uni().await.map_err(|e| Error::Stream(e.to_string()))?;
    // In quinn's own scheduling too: the next packet takes what is most urgent.
    let _ = stream.set_priority(Lane::priority(index));
    stream.write_all(&[index as u8]).await.map_err(|e| Error::Stream(e.to_string()))?;
    Ok(stream)
}

async fn write(stream: &mut quinn::SendStream, chunks: &mut Vec<Bytes>) -> Result<(), Error> {
    let result = stream.write_all_chunks(chunks).await.map_err(|e| Error::Stream(e.to_string()));
    chunks.clear();
    result
}

async fn next_frame(stream: &mut quinn::RecvStream, reader: &mut Reader) -> Result<Option<Frame>, Error> {
    loop {
        if let Some(frame) = reader.next_frame()? {
            return Ok(Some(frame));
        }
        match stream.read_chunk(CHUNK, true).await.map_err(|e| Error::Stream(e.to_string()))? {
            Some(chunk) => reader.push(chunk.bytes),
            None => return Ok(None),
        }
    }
}
