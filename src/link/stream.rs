//! A link over one stream of bytes, whatever carries that: a Unix socket, or TLS within a WebSocket.
//!
//! All lanes share the stream, and what is written next is chosen by lane: control, then urgent, then the ordered
//! ones in turn, then bulk. Frames travel in one of two ways:
//!
//! * [`Framing::Whole`]: one behind the other, gathered into writes of up to 64 KiB; a large payload is written from
//!   where it is. An urgent frame waits for the write under way, and for the whole of a frame that was begun. On a
//!   Unix socket that is nothing.
//! * [`Framing::Cut`]: in pieces, each behind its lane's number (one byte) and its length (two, big-endian), gathered
//!   into writes of up to [`PIECE`]. Each lane's pieces put together are that lane's frames. An urgent frame waits for
//!   one such write, and for what the system has taken and not sent yet.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::inbox::Inbox;
use super::lanes::{Lanes, Pieces};
use super::quic::Admitted;
use super::{
    Backlog, CHUNK, CloseOrder, DRAIN_WITHIN, Error, Event, HELLO_WITHIN, Handle, Lane, Local, Outlets, Peer,
    Role, check_version,
};
use crate::identity::tls;
use crate::rt::{queue, tasks};
use crate::wire::close::LinkClose;
use crate::wire::frame::{Frame, Hello, Reader};
use crate::wire::ids::LinkId;

/// Most bytes of one write with [`Framing::Cut`], lengths included: what fits into one TLS record (RFC 8446 section
/// 5.1: 2^14 bytes).
pub const PIECE: usize = 16 * 1024;
/// A payload over this is written from where it is, not gathered.
const GATHER: usize = 8 * 1024;
/// Lanes that a peer may use; a newer one may have more of them than we do.
const MAX_LANES: usize = 64;
/// How often a peer's certificate is looked at while the link lasts.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How frames travel on the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// One behind the other.
    Whole,
    /// In pieces, so that a large one delays no other.
    Cut,
}

/// Why the peer is believed.
#[derive(Debug, Clone)]
pub enum Trusted {
    /// It could open the socket, whose permissions are the check.
    Socket(Role),
    /// It showed a certificate, which is looked at again while the link lasts.
    Certificate(Admitted),
}

impl Trusted {
    fn role(&self) -> Role {
        match self {
            Trusted::Socket(role) => *role,
            Trusted::Certificate(admitted) => admitted.role,
        }
    }
}

/// What a link over a stream is.
#[derive(Debug, Clone)]
pub struct Carried {
    /// The carrier's name.
    pub carrier: &'static str,
    /// The peer's address, for people.
    pub remote: String,
    /// Why the peer is believed.
    pub peer: Trusted,
    /// Whether we dialled.
    pub dialled: bool,
    /// How frames travel.
    pub framing: Framing,
}

/// Runs a link over both halves of a stream until it ends, and reports its life. `false`: the peer took the connection and
/// said no HELLO, or this end closed the link: the peer may hang.
pub async fn run<R, W>(local: &Local, halves: (R, W), carried: Carried) -> bool
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let (handle, outlets) = Handle::new(local.next_id(), carried.carrier, carried.remote.clone());
    let _open = Open::new(local);
    let id = handle.id();
    let (order, up, ours) = link(local, halves, &carried, handle, outlets).await;
    if up {
        // Nobody listens any more only when the process stops.
        let _ = local.events.send(Event::Down { link: id, why: order.why }).await;
    } else {
        let (carrier, remote) = (carried.carrier, carried.remote);
        tracing::warn!(carrier, remote, why = order.why, "a link did not come up");
    }
    up && !ours
}

/// Counts a link for as long as it runs, however it ends.
struct Open<'a>(&'a Local);

impl Open<'_> {
    fn new(local: &Local) -> Open<'_> {
        local.streams.fetch_add(1, Ordering::Relaxed);
        Open(local)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers why it ended, whether it was ever up, and whether this end closed it.
async fn link<R, W>(
    local: &Local,
    (read, mut write): (R, W),
    carried: &Carried,
    handle: Handle,
    mut outlets: Outlets,
) -> (CloseOrder, bool, bool)
where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let mut frames = Frames::new(read, carried.framing);
    let greeting = async {
        say_hello(&mut write, carried.framing, &local.hello).await.map_err(|e| lost(&e))?;
        match frames.next().await.map_err(|e| protocol(&e))? {
            Some(Frame::Hello(hello)) => peer(hello, &carried.peer),
            Some(_) => Err(CloseOrder::protocol("the first frame is not HELLO")),
            None => Err(CloseOrder::broken("the peer closed the connection")),
        }
    };
    let peer = match tokio::time::timeout(HELLO_WITHIN, greeting).await {
        Ok(Ok(peer)) => peer,
        Ok(Err(order)) => return (order, false, false),
        Err(_) => return (CloseOrder::no_hello(), false, false),
    };
    let (link, backlog) = (handle.id(), handle.backlog(carried.peer.role()));
    let up = Event::Up { link, peer, dialled: carried.dialled, handle };
    if local.events.send(up).await.is_err() {
        return (CloseOrder::stopping(), false, false);
    }
    let (ended, mut ends) = queue::bounded("link.failures", 2);
    let (events, failed) = (local.events.clone(), ended.clone());
    let reading = tasks::spawn("link.reader", async move {
        let order = read_frames(frames, (link, backlog), &events).await;
        let _ = failed.try_send(order);
    });
    let lanes = Lanes::new(std::mem::take(&mut outlets.lanes));
    let framing = carried.framing;
    let writing = tasks::spawn("link.writer", async move {
        let written = match framing {
            Framing::Whole => write_whole(&mut write, lanes).await,
            Framing::Cut => write_cut(&mut write, Pieces::new(lanes)).await,
        };
        if let Err(e) = written {
            let _ = ended.try_send(lost(&e));
        }
    });
    let (order, ours) = tokio::select! {
        biased;
        order = outlets.close.recv() => (order.unwrap_or_else(CloseOrder::stopping), true),
        order = ends.recv() => (order.unwrap_or_else(CloseOrder::stopping), false),
        order = certificate_ended(local, &carried.peer) => (order, true),
    };
    if order.code == LinkClose::Stopping {
        // The writer ends by itself once every handle is dropped and all that waited is written.
        let _ = tokio::time::timeout(DRAIN_WITHIN, writing.join()).await;
    }
    drop(reading);
    (order, true, ours)
}

/// Waits until the peer's certificate has expired or is revoked; for ever where it showed none.
async fn certificate_ended(local: &Local, peer: &Trusted) -> CloseOrder {
    let Trusted::Certificate(admitted) = peer else { return std::future::pending().await };
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if let Some(why) = admitted.certificate.ended(local) {
            return CloseOrder { code: LinkClose::Revoked, why };
        }
    }
}

fn peer(hello: Hello, trusted: &Trusted) -> Result<Peer, CloseOrder> {
    check_version(&hello)?;
    let serial = match trusted {
        Trusted::Socket(_) => String::new(),
        Trusted::Certificate(admitted) if admitted.node == hello.node => {
            admitted.certificate.serial.to_string()
        }
        Trusted::Certificate(admitted) => {
            let why = format!("HELLO says {}, the certificate says {}", hello.node, admitted.node);
            return Err(CloseOrder { code: LinkClose::NotAdmitted, why });
        }
    };
    Ok(Peer {
        node: hello.node,
        role: trusted.role(),
        incarnation: hello.incarnation,
        features: hello.features,
        software: hello.software,
        serial,
    })
}

async fn say_hello(
    write: &mut (impl AsyncWrite + Unpin),
    framing: Framing,
    hello: &Hello,
) -> std::io::Result<()> {
    let hello = Frame::Hello(hello.clone()).encode().head;
    let mut bytes = BytesMut::new();
    match framing {
        Framing::Whole => bytes.extend_from_slice(&hello),
        Framing::Cut => {
            for part in hello.chunks(PIECE) {
                super::lanes::put_piece(&mut bytes, Lane::Control.index(), part);
            }
        }
    }
    write.write_all(&bytes).await?;
    write.flush().await
}

async fn read_frames<R: AsyncRead + Unpin>(
    mut frames: Frames<R>,
    (link, backlog): (LinkId, Backlog),
    events: &Inbox,
) -> CloseOrder {
    loop {
        match frames.next().await {
            Ok(Some(frame)) => {
                backlog.passes().await;
                if events.send(Event::frame(link, frame)).await.is_err() {
                    return CloseOrder::stopping();
                }
            }
            Ok(None) => return CloseOrder::broken("the peer closed the connection"),
            Err(e) => return protocol(&e),
        }
    }
}

/// The frames of a stream, in the order in which they are whole.
struct Frames<R> {
    read: R,
    buffer: BytesMut,
    /// One for all lanes, or one for each.
    readers: Vec<Reader>,
    framing: Framing,
    /// The lane of the piece that was read last.
    lane: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    fn new(read: R, framing: Framing) -> Frames<R> {
        let readers = if framing == Framing::Cut { MAX_LANES } else { 1 };
        let readers = (0..readers).map(|_| Reader::default()).collect();
        Frames { read, buffer: BytesMut::with_capacity(CHUNK), readers, framing, lane: 0 }
    }

    /// `None`: the stream has ended.
    async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(reader) = self.readers.get_mut(self.lane)
                && let Some(frame) = reader.next_frame()?
            {
                return Ok(Some(frame));
            }
            if self.framing == Framing::Cut && self.take_piece()? {
                continue;
            }
            if self.buffer.capacity() - self.buffer.len() < CHUNK / 4 {
                self.buffer.reserve(CHUNK);
            }
            match self.read.read_buf(&mut self.buffer).await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                // Without TLS's own word of the end: nothing is cut off by it that the frames' lengths do not show.
                Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(e) => return Err(Error::Stream(tls::explain_io(&e))),
            }
            if self.framing == Framing::Whole
                && let Some(reader) = self.readers.first_mut()
            {
                reader.push(self.buffer.split().freeze());
            }
        }
    }

    /// Gives its lane's reader the next piece, if all of it is there.
    fn take_piece(&mut self) -> Result<bool, Error> {
        let Some(&[lane, high, low]) = self.buffer.first_chunk::<3>() else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        if self.buffer.len() < 3 + length {
            return Ok(false);
        }
        let lane = usize::from(lane);
        let reader = self.readers.get_mut(lane).ok_or_else(|| {
            Error::Stream(format!("a piece of lane {lane} came; there are at most {MAX_LANES}"))
        })?;
        self.buffer.advance(3);
        reader.push(self.buffer.split_to(length).freeze());
        self.lane = lane;
        Ok(true)
    }
}

/// Gathers what waits into one write, until every handle of the link is dropped.
async fn write_whole(write: &mut (impl AsyncWrite + Unpin), mut lanes: Lanes) -> std::io::Result<()> {
    let mut gathered = BytesMut::with_capacity(CHUNK);
    while let Some(first) = lanes.next().await {
        let mut next = Some(first);
        while let Some((_, frame)) = next.take() {
            gathered.extend_from_slice(&frame.head);
            if frame.payload.len() > GATHER {
                write.write_all(&gathered).await?;
                gathered.clear();
                write.write_all(&frame.payload).await?;
            } else {
                gathered.extend_from_slice(&frame.payload);
            }
            if gathered.len() < CHUNK {
                next = lanes.next_now();
            }
        }
        write.write_all(&gathered).await?;
        gathered.clear();
    }
    write.shutdown().await
}

/// Writes what waits in pieces, until every handle of the link is dropped. Each write leaves before the next one is
/// chosen: what is urgent by then goes first.
async fn write_cut(write: &mut (impl AsyncWrite + Unpin), mut pieces: Pieces) -> std::io::Result<()> {
    let mut gathered = BytesMut::with_capacity(PIECE);
    while pieces.gather(&mut gathered, PIECE).await {
        write.write_all(&gathered).await?;
        gathered.clear();
        write.flush().await?;
    }
    write.shutdown().await
}

fn lost(why: &std::io::Error) -> CloseOrder {
    CloseOrder::broken(&tls::explain_io(why))
}

fn protocol(why: &Error) -> CloseOrder {
    match why {
        Error::Stream(why) => CloseOrder::broken(why),
        other => CloseOrder::protocol(&other.to_string()),
    }
}
