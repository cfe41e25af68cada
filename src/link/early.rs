//! Links that come back with early data (0-RTT): messages leave with the first flight, before the handshake is over.
//!
//! | who | what |
//! |---|---|
//! | dialler | has the peer's ticket: says [`Event::Early`], and writes what is queued in the lanes of messages. HELLO and the control lane wait for the handshake |
//! | accepting end | knows from the resumed session who that is, and checks the certificate again. It says [`Event::Early`] when a stream comes before the handshake is over, and takes messages from it; every other frame waits until the peer has said HELLO, which counts only after the handshake |
//!
//! Early data can be recorded and sent again by anybody. So nothing is taken from it but messages that are recognised
//! when they come twice. If the peer has forgotten the session the early link ends, and another one begins on the same
//! connection: what was sent is sent again by whoever keeps it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::inbox::Inbox;
use super::quic::{self, Admitted, Writers};
use super::{CloseOrder, Event, Handle, Lane, Local, Outlets, Role};
use crate::identity::{self, tls};
use crate::metrics;
use crate::wire::frame::Frame;
use crate::wire::ids::{LinkId, NodeName};

/// Nodes that are remembered; a mesh has at most 256.
const MAX_KNOWN: usize = 512;
/// Tickets that are kept for when it is known that the way is open.
const KEPT_BACK: usize = 1;
/// A first round trip is not taken to be shorter than this: who is asked may be busy.
const LEAST_RTT: Duration = Duration::from_millis(10);

/// Whether a frame may be taken before the handshake is over.
pub(super) fn may_come(frame: &Frame) -> bool {
    matches!(frame, Frame::Forward(forward, _) if forward.is_safe_to_repeat())
}

/// What a process remembers of the nodes that it dials, for as long as it lives: tickets last no longer.
#[derive(Default)]
pub(super) struct Memory(Mutex<BTreeMap<Option<NodeName>, Known>>);

/// What to dial a node with.
#[derive(Clone)]
pub(super) struct Configs {
    /// Resumes where there is a ticket, and uses it up.
    pub(super) first: quinn::ClientConfig,
    /// A whole handshake, which uses none.
    pub(super) whole: quinn::ClientConfig,
    /// What the first one has.
    pub(super) tickets: Arc<tls::Tickets>,
}

impl Configs {
    /// Whether a ticket may be used for a flight that perhaps nobody gets.
    pub(super) fn can_spare(&self) -> bool {
        self.tickets.len() > KEPT_BACK
    }
}

/// One node. The configurations are kept, as the tickets are in them.
struct Known {
    epoch: tls::Epoch,
    configs: Configs,
    /// Who answered last, and how fast.
    peer: Option<(Admitted, Duration)>,
}

impl Memory {
    fn all(&self) -> MutexGuard<'_, BTreeMap<Option<NodeName>, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to dial with. A renewed certificate of ours, or another revocation list, is a new beginning.
    pub(super) fn configs(&self, local: &Local, name: Option<&NodeName>) -> Result<Configs, identity::Error> {
        let (name, epoch) = (name.cloned(), local.identity.epoch());
        let mut all = self.all();
        let known = all.get(&name).filter(|known| known.epoch == epoch);
        let mut transport = quic::transport_with(local.congestion);
        if let Some((_, rtt)) = known.and_then(|known| known.peer.as_ref()) {
            // Or a lost first packet costs a second.
            transport.initial_rtt((*rtt).max(LEAST_RTT));
        }
        let mut configs = match known {
            Some(known) => known.configs.clone(),
            None => {
                let (both, tickets) = local.identity.client_and_sparing(name.clone())?;
                let [first, whole] = both.map(|tls| tls::quic_client(tls).map(Arc::new));
                let [first, whole] = [first?, whole?].map(|tls| quinn::ClientConfig::new(tls));
                let configs = Configs { first, whole, tickets };
                if all.len() >= MAX_KNOWN {
                    all.clear();
                }
                all.insert(name, Known { epoch, configs: configs.clone(), peer: None });
                configs
            }
        };
        let transport = Arc::new(transport);
        configs.first.transport_config(transport.clone());
        configs.whole.transport_config(transport);
        Ok(configs)
    }

    /// This node answered.
    pub(super) fn answered(&self, name: Option<&NodeName>, peer: &Admitted, rtt: Duration) {
        if let Some(known) = self.all().get_mut(&name.cloned()) {
            known.peer = Some((peer.clone(), rtt));
        }
    }

    /// What was kept of this node is of no use.
    pub(super) fn forget(&self, name: Option<&NodeName>) {
        self.all().remove(&name.cloned());
    }

    /// Who will answer, if his certificate still holds.
    fn expected(&self, local: &Local, name: &NodeName) -> Option<Admitted> {
        let (peer, _) = self.all().get(&Some(name.clone()))?.peer.clone()?;
        peer.certificate.ended(local).is_none().then_some(peer)
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memory")
    }
}

/// How a connection began that is to be a link.
pub enum Begun {
    /// We dialled, and the handshake is over.
    Dialled,
    /// The peer dialled, and the handshake is over.
    Accepted,
    /// The peer dialled and resumed a session: this ends with the handshake.
    Accepting(quinn::ZeroRttAccepted),
    /// We dialled, and what was sent early was accepted.
    Resumed(Box<Resumed>),
}

impl Begun {
    pub(super) fn dialled(&self) -> bool {
        matches!(self, Begun::Dialled | Begun::Resumed(_))
    }
}

/// A link whose lanes of messages are open already.
pub struct Resumed {
    pub(super) handle: Handle,
    pub(super) outlets: Outlets,
    pub(super) writers: Writers,
    pub(super) said: Said,
}

/// [`Event::Early`] was said of a link: unless somebody else says how it ended, this does.
pub(super) struct Said {
    link: LinkId,
    events: Option<Inbox>,
}

impl Said {
    /// Says it.
    pub(super) async fn say(local: &Local, peer: &NodeName, dialled: bool, handle: &Handle) -> Said {
        let (link, peer, handle) = (handle.id(), peer.clone(), handle.clone());
        // Nobody listens any more only when the process stops.
        let _ = local.events.send(Event::Early { link, peer, dialled, handle }).await;
        Said { link, events: Some(local.events.clone()) }
    }

    /// Its end is somebody else's to say.
    pub(super) fn done(mut self) {
        self.events = None;
    }
}

impl Drop for Said {
    fn drop(&mut self) {
        if let Some(events) = self.events.take() {
            let why = "the connection was not resumed".to_owned();
            // Where nothing fits, who listens finds out by itself: such a link may last for seconds only.
            events.try_send(Event::Down { link: self.link, why });
        }
    }
}

/// A connection that is being made with early data.
pub(super) struct Attempt {
    connection: quinn::Connection,
    accepted: quinn::ZeroRttAccepted,
    expected: Admitted,
    offered: Offered,
}

/// Counts what became of early data: unless the peer has said it, that the try was dropped, as another one came through
/// or nobody answered.
struct Offered(bool);

impl Offered {
    fn new() -> Offered {
        count("offered");
        Offered(true)
    }

    fn answered(mut self, accepted: bool) {
        self.0 = false;
        count(if accepted { "accepted" } else { "rejected" });
    }
}

impl Drop for Offered {
    fn drop(&mut self) {
        if self.0 {
            count("dropped");
        }
    }
}

/// Whether early data would be sent to this node if there were a ticket.
pub(super) fn may_begin(local: &Local, name: Option<&NodeName>) -> bool {
    expected(local, name).is_some()
}

fn expected(local: &Local, name: Option<&NodeName>) -> Option<Admitted> {
    name.filter(|_| local.has_early_data()).and_then(|name| local.known.expected(local, name))
}

/// Begins with early data if there is a ticket for this node, and who listens to the links of this process takes part.
/// `Err`: the handshake first.
pub(super) fn begin(
    local: &Local,
    name: Option<&NodeName>,
    connecting: quinn::Connecting,
) -> Result<Attempt, quinn::Connecting> {
    let Some(expected) = expected(local, name) else { return Err(connecting) };
    let (connection, accepted) = connecting.into_0rtt()?;
    Ok(Attempt { connection, accepted, expected, offered: Offered::new() })
}

impl Attempt {
    /// Sends what there is, and waits until the handshake is over.
    pub(super) async fn settle(
        self,
        local: &Local,
    ) -> Result<(quinn::Connection, Begun), quinn::ConnectionError> {
        let Attempt { connection, accepted, expected, offered } = self;
        let remote = connection.remote_address().to_string();
        let (handle, mut outlets) = Handle::new(local.next_id(), "quic", remote);
        let said = Said::say(local, &expected.node, true, &handle).await;
        let lanes = outlets.lanes.split_off(Lane::Control.index() + 1);
        let first = Lane::Control.index() + 1;
        let writers = Writers::start(&connection, &mut None, (lanes, first), &outlets.copier);
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            Some(order) = outlets.close.recv() => {
                connection.close((order.code as u32).into(), order.why.as_bytes());
                return Err(connection.closed().await);
            }
        };
        if let Some(why) = connection.close_reason() {
            return Err(why);
        }
        offered.answered(accepted);
        tracing::debug!(peer = %expected.node, accepted, "a connection began with early data");
        if !accepted {
            return Ok((connection, Begun::Dialled));
        }
        Ok((connection, Begun::Resumed(Box::new(Resumed { handle, outlets, writers, said }))))
    }
}

/// Takes a connection as far as it must be before it is known who is there: to the end of the handshake, unless the peer
/// has resumed a session in which it showed its certificate.
pub async fn accept(
    connecting: quinn::Connecting,
) -> Result<(quinn::Connection, Begun), quinn::ConnectionError> {
    let (connection, handshake) = match connecting.into_0rtt() {
        Ok(both) => both,
        Err(connecting) => return Ok((connecting.await?, Begun::Accepted)),
    };
    if connection.peer_identity().is_some() {
        return Ok((connection, Begun::Accepting(handshake)));
    }
    over(&connection, Begun::Accepting(handshake)).await?;
    Ok((connection, Begun::Accepted))
}

/// Waits until the handshake is over.
pub async fn over(connection: &quinn::Connection, begun: Begun) -> Result<(), quinn::ConnectionError> {
    if let Begun::Accepting(handshake) = begun {
        handshake.await;
    }
    connection.close_reason().map_or(Ok(()), Err)
}

/// What an accepting end takes from streams that come before the handshake is over.
pub(super) struct Doorman<'a> {
    local: &'a Local,
    peer: &'a Admitted,
    handle: &'a Handle,
    pub(super) said: Option<Said>,
}

impl<'a> Doorman<'a> {
    pub(super) fn new(local: &'a Local, peer: &'a Admitted, handle: &'a Handle) -> Doorman<'a> {
        Doorman { local, peer, handle, said: None }
    }

    /// Whether messages may be taken from this stream at once. The first one is announced.
    pub(super) async fn lets_in(&mut self, stream: &quinn::RecvStream) -> bool {
        let early = stream.is_0rtt() && self.peer.role == Role::Node && self.local.has_early_data();
        if early && self.said.is_none() {
            count("received");
            self.said = Some(Said::say(self.local, &self.peer.node, false, self.handle).await);
        }
        early
    }
}

/// Waits for the handshake of a connection whose peer has said HELLO: in early data that could be a recording.
pub(super) async fn confirmed(
    connection: &quinn::Connection,
    handshake: Option<quinn::ZeroRttAccepted>,
) -> Result<(), CloseOrder> {
    let Some(handshake) = handshake else { return Ok(()) };
    let over = over(connection, Begun::Accepting(handshake)).await;
    over.map_err(|why| CloseOrder::broken(&tls::explain(&why)))
}

/// A message that came early.
pub(super) fn count_message() {
    metrics::EARLY_MESSAGES.with_label_values(&["received"]).inc();
}

fn count(outcome: &str) {
    metrics::EARLY_DATA.with_label_values(&[outcome]).inc();
}
