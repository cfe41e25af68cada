//! A link over a Unix socket: between a node and the edge on the same machine. Measured against QUIC on
//! loopback it saves about three tenths of a round trip and of the CPU (docs/benchmarks.md).
//!
//! The socket's permissions say who may connect; there is no TLS. All lanes share the one stream, but what
//! is written next is chosen by lane: control, then urgent, then the ordered ones in turn, then bulk. So an urgent frame
//! waits for no more than the write under way.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::inbox::Inbox;
use super::{
    Backlog, CHUNK, CloseOrder, DRAIN_WITHIN, Error, Event, HELLO_WITHIN, Handle, Lane, Local, Outlets, Peer,
    Role, check_version,
};
use crate::rt::{accept, queue, tasks};
use crate::wire::close::LinkClose;
use crate::wire::frame::{Encoded, Frame, Hello, Reader};
use crate::wire::ids::LinkId;

/// Links at once.
const MAX_LINKS: usize = 64;
/// A payload over this is written from where it is, not gathered.
const GATHER: usize = 8 * 1024;

/// Runs a link over a connected socket until it ends, and reports its life. `role` is what the peer is: who
/// dials is an entrance, who accepts is a node.
pub async fn run(local: &Local, stream: UnixStream, role: Role) {
    let (handle, outlets) = Handle::new(local.next_id(), "unix", "this machine".into());
    let id = handle.id();
    let (order, up) = link(local, stream, role, handle, outlets).await;
    if up {
        // Nobody listens any more only when the process stops.
        let _ = local.events.send(Event::Down { link: id, why: order.why }).await;
    } else {
        tracing::warn!(why = order.why, "a link over the Unix socket did not come up");
    }
}

/// Accepts entrances on a socket until the task is dropped.
pub fn serve(listener: UnixListener, local: Arc<Local>) -> tasks::Task {
    tasks::spawn("link.unix", async move {
        accept::each(listener, "link.unix.one", MAX_LINKS, |stream| {
            let local = local.clone();
            async move { run(&local, stream, Role::Entrance).await }
        })
        .await;
    })
}

async fn link(
    local: &Local,
    stream: UnixStream,
    role: Role,
    handle: Handle,
    mut outlets: Outlets,
) -> (CloseOrder, bool) {
    let (mut read, mut write) = stream.into_split();
    let mut reader = Reader::default();
    let greeting = async {
        write.write_all(&Frame::Hello(local.hello.clone()).encode().head).await.map_err(|e| lost(&e))?;
        match next_frame(&mut read, &mut reader, &mut BytesMut::new()).await.map_err(|e| protocol(&e))? {
            Some(Frame::Hello(hello)) => check_version(&hello).map(|()| hello),
            Some(_) => Err(CloseOrder::protocol("the first frame is not HELLO")),
            None => Err(CloseOrder::broken("the peer closed the connection")),
        }
    };
    let hello = match tokio::time::timeout(HELLO_WITHIN, greeting).await {
        Ok(Ok(hello)) => hello,
        Ok(Err(order)) => return (order, false),
        Err(_) => return (CloseOrder::no_hello(), false),
    };
    let (link, backlog) = (handle.id(), handle.backlog(role));
    let up = Event::Up { link, peer: peer(hello, role), dialled: role == Role::Node, handle };
    if local.events.send(up).await.is_err() {
        return (CloseOrder::stopping(), false);
    }
    let (ended, mut ends) = queue::bounded("link.failures", 2);
    let (events, failed) = (local.events.clone(), ended.clone());
    let reading = tasks::spawn("link.reader", async move {
        let order = read_frames(read, reader, (link, backlog), &events).await;
        let _ = failed.try_send(order);
    });
    let mut lanes = Lanes { queues: std::mem::take(&mut outlets.lanes), turn: 0 };
    let writing = tasks::spawn("link.writer", async move {
        if let Err(e) = write_frames(&mut write, &mut lanes).await {
            let _ = ended.try_send(lost(&e));
        }
    });
    let order = tokio::select! {
        biased;
        order = outlets.close.recv() => order.unwrap_or_else(CloseOrder::stopping),
        order = ends.recv() => order.unwrap_or_else(CloseOrder::stopping),
    };
    if order.code == LinkClose::Stopping {
        // The writer ends by itself once every handle is dropped and all that waited is written.
        let _ = tokio::time::timeout(DRAIN_WITHIN, writing.join()).await;
    }
    drop(reading);
    (order, true)
}

fn peer(hello: Hello, role: Role) -> Peer {
    Peer {
        node: hello.node,
        role,
        incarnation: hello.incarnation,
        features: hello.features,
        software: hello.software,
        serial: String::new(),
    }
}

async fn read_frames(
    mut read: OwnedReadHalf,
    mut reader: Reader,
    (link, backlog): (LinkId, Backlog),
    events: &Inbox,
) -> CloseOrder {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        match next_frame(&mut read, &mut reader, &mut buffer).await {
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

async fn next_frame(
    read: &mut OwnedReadHalf,
    reader: &mut Reader,
    buffer: &mut BytesMut,
) -> Result<Option<Frame>, Error> {
    loop {
        if let Some(frame) = reader.next_frame()? {
            return Ok(Some(frame));
        }
        if buffer.capacity() < CHUNK / 4 {
            buffer.reserve(CHUNK);
        }
        if read.read_buf(buffer).await.map_err(|e| Error::Stream(e.to_string()))? == 0 {
            return Ok(None);
        }
        reader.push(buffer.split().freeze());
    }
}

/// The lanes' queues, and which ordered lane is next.
struct Lanes {
    queues: Vec<queue::Receiver<Encoded>>,
    turn: usize,
}

impl Lanes {
    /// The next frame by lane; waits when there is none, `None` when there will never be one.
    async fn next(&mut self) -> Option<Encoded> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The next frame if there is one now.
    fn next_now(&mut self) -> Option<Encoded> {
        let order = self.order();
        order.into_iter().find_map(|lane| {
            let frame = self.queues.get_mut(lane)?.try_recv().ok();
            self.took(lane, frame.is_some());
            frame
        })
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Encoded>> {
        let mut open = false;
        for lane in self.order() {
            let Some(queue) = self.queues.get_mut(lane) else { continue };
            match queue.poll_recv(cx) {
                Poll::Ready(Some(frame)) => {
                    self.took(lane, true);
                    return Poll::Ready(Some(frame));
                }
                Poll::Ready(None) => {}
                Poll::Pending => open = true,
            }
        }
        if open { Poll::Pending } else { Poll::Ready(None) }
    }

    /// Control, urgent, then the ordered lanes from the one whose turn it is, then bulk.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let (first, bulk, turn) = (Lane::Ordered(0).index(), Lane::Bulk.index(), self.turn);
        let ordered = bulk - first;
        (0..first).chain((0..ordered).map(move |n| first + (turn + n) % ordered)).chain([bulk])
    }

    fn took(&mut self, lane: usize, took: bool) {
        let (first, bulk) = (Lane::Ordered(0).index(), Lane::Bulk.index());
        if took && (first..bulk).contains(&lane) {
            self.turn = lane - first + 1;
        }
    }
}

/// Gathers what waits into one write, until every handle of the link is dropped.
async fn write_frames(write: &mut OwnedWriteHalf, lanes: &mut Lanes) -> std::io::Result<()> {
    let mut gathered = BytesMut::with_capacity(CHUNK);
    while let Some(first) = lanes.next().await {
        let mut next = Some(first);
        while let Some(frame) = next.take() {
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

fn lost(why: &std::io::Error) -> CloseOrder {
    CloseOrder::broken(&why.to_string())
}

fn protocol(why: &Error) -> CloseOrder {
    match why {
        Error::Stream(why) => CloseOrder::broken(why),
        other => CloseOrder::protocol(&other.to_string()),
    }
}
