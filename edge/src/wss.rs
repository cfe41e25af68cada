//! A WebSocket (RFC 6455) as a session's carrier.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use futures_util::{FutureExt, Sink, SinkExt, Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame};
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use trishula::gateway::carrier::{Carrier, Fault, Incoming, Lost};
use trishula::wire::close::{CloseCode, Code, Refusal};

use crate::deflate::Refused;

/// Small buffers are most of what makes an idle connection cheap.
const READ_BUFFER: usize = 4096;
/// What is queued beyond this is written without waiting for a flush.
const WRITE_BUFFER: usize = 16 * 1024;
/// Longest reason of a close frame: a control frame's 125 bytes without the code's two.
const MAX_REASON: usize = 123;

/// One client's WebSocket.
#[derive(Debug)]
pub struct Wss<S> {
    socket: WebSocketStream<S>,
    closing: Closing,
    form: Form,
    heard: Arc<Heard>,
}

/// Whether something may have come since the socket was read last. Whoever waits for several things at once is woken for each
/// of them; a delivery to a silent client need not go through TLS to find that there is nothing to read.
#[derive(Debug)]
struct Heard {
    may_have: AtomicBool,
    /// Who waits for it.
    task: AtomicWaker,
}

/// Which messages carry frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Text.
    Text,
    /// Text; binary ones are as good.
    Either,
    /// Binary ones, both ways.
    Binary,
}

/// How far a close is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// The close frame is queued.
    Flush,
    /// It is written: our side ends.
    Shutdown,
    /// What the client still sends is read and dropped. A socket closed with something unread in it is
    /// reset, and a reset may overtake the close frame.
    Drain,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wss<S> {
    /// Takes a connection whose upgrade was just granted; `read` is what came behind the request.
    pub async fn new(io: S, read: Bytes, max_frame: usize) -> Wss<S> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .write_buffer_size(WRITE_BUFFER)
            .max_message_size(Some(max_frame))
            .max_frame_size(Some(max_frame));
        let socket = if read.is_empty() {
            WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await
        } else {
            WebSocketStream::from_partially_read(io, read.to_vec(), Role::Server, Some(config)).await
        };
        let heard = Arc::new(Heard { may_have: AtomicBool::new(true), task: AtomicWaker::new() });
        Wss { socket, closing: Closing::Flush, form: Form::Text, heard }
    }

    /// The same for clients of an older dialect, which may send their JSON in binary messages as well.
    pub fn taking_binary(self) -> Wss<S> {
        Wss { form: Form::Either, ..self }
    }

    /// The same for clients whose frames are binary messages, in both directions.
    pub fn all_binary(self) -> Wss<S> {
        Wss { form: Form::Binary, ..self }
    }

    /// The next message as it came: for whoever reads no frames of ours in it.
    pub async fn message(&mut self) -> Result<Message, Fault> {
        match self.socket.next().await {
            Some(read) => read.map_err(fault),
            None => Err(Fault::Lost("the connection ended".into())),
        }
    }

    /// The same, if it is there already.
    pub fn message_now(&mut self) -> Option<Result<Message, Fault>> {
        self.message().now_or_never()
    }

    /// Takes a message as it is, when there is room for it. It need not leave before a flush.
    pub async fn queue(&mut self, message: Message) -> Result<(), Lost> {
        self.socket.feed(message).await.map_err(lost)
    }

    /// Writes out what was taken.
    pub async fn flush(&mut self) -> Result<(), Lost> {
        self.socket.flush().await.map_err(lost)
    }

    fn push(&mut self, message: Message) -> Result<(), Lost> {
        Pin::new(&mut self.socket).start_send(message).map_err(lost)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Carrier for Wss<S> {
    fn name(&self) -> &'static str {
        "wss"
    }

    fn has_ping(&self) -> bool {
        true
    }

    fn tells_close(&self) -> bool {
        true
    }

    fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        // In this order: what comes between the two wakes the task.
        self.heard.task.register(cx.waker());
        if !self.heard.may_have.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(self.heard.clone());
        let read = ready!(Pin::new(&mut self.socket).poll_next(&mut Context::from_waker(&waker)));
        // There may be more behind it.
        self.heard.may_have.store(true, Ordering::Release);
        Poll::Ready(match read {
            Some(Ok(Message::Text(text))) if self.form != Form::Binary => Incoming::Frame(text.into()),
            Some(Ok(Message::Binary(bytes))) if self.form != Form::Text => Incoming::Frame(bytes),
            Some(Ok(Message::Text(_))) => no_frame("a text message on a MessagePack session"),
            Some(Ok(Message::Binary(_))) => no_frame("a binary message on a JSON session"),
            Some(Ok(Message::Pong(number))) => match <[u8; 8]>::try_from(&number[..]) {
                Ok(number) => Incoming::Pong(u64::from_be_bytes(number)),
                // A pong that nobody asked for shows that the client lives, and nothing else.
                Err(_) => Incoming::Alive,
            },
            Some(Ok(Message::Ping(_) | Message::Frame(_))) => Incoming::Alive,
            Some(Ok(Message::Close(frame))) => {
                let reason = frame.map(|frame| format!("the client closed: {} {}", frame.code, frame.reason));
                Incoming::Closed(reason.unwrap_or_else(|| "the client closed".into()))
            }
            Some(Err(e)) => Incoming::Failed(fault(e)),
            None => Incoming::Failed(Fault::Lost("the connection ended".into())),
        })
    }

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Pin::new(&mut self.socket).poll_ready(cx).map_err(lost)
    }

    fn send(&mut self, frame: Bytes) -> Result<(), Lost> {
        // The text was checked where it entered the mesh; a `Message::Text` would be checked once more.
        let data = if self.form == Form::Binary { Data::Binary } else { Data::Text };
        self.push(Message::Frame(Frame::message(frame, OpCode::Data(data), true)))
    }

    fn ping(&mut self, number: u64) -> Result<(), Lost> {
        self.push(Message::Ping(Bytes::copy_from_slice(&number.to_be_bytes())))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Pin::new(&mut self.socket).poll_flush(cx).map_err(lost)
    }

    fn start_close(&mut self, code: CloseCode, reason: &str) {
        let end = (0..=MAX_REASON.min(reason.len())).rev().find(|at| reason.is_char_boundary(*at));
        let reason = &reason[..end.unwrap_or(0)];
        let frame = CloseFrame { code: code.number().into(), reason: reason.into() };
        // A connection that takes no close frame has ended already, or answers the client's own.
        let _ = self.push(Message::Close(Some(frame)));
    }

    fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.closing {
                Closing::Flush => {
                    // Whether it could be written or not, nothing more can be done for it.
                    let _ = ready!(Pin::new(&mut self.socket).poll_flush(cx));
                    self.closing = Closing::Shutdown;
                }
                Closing::Shutdown => {
                    if ready!(Pin::new(self.socket.get_mut()).poll_shutdown(cx)).is_err() {
                        return Poll::Ready(());
                    }
                    self.closing = Closing::Drain;
                }
                Closing::Drain => {
                    let mut room = [0u8; 1024];
                    let mut buffer = ReadBuf::new(&mut room);
                    match ready!(Pin::new(self.socket.get_mut()).poll_read(cx, &mut buffer)) {
                        Ok(()) if !buffer.filled().is_empty() => {}
                        _ => return Poll::Ready(()),
                    }
                }
            }
        }
    }
}

impl Wake for Heard {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.may_have.store(true, Ordering::Release);
        self.task.wake();
    }
}

fn no_frame(why: &str) -> Incoming {
    Incoming::NoFrame(Refusal::new(Code::BadFrame, why))
}

fn lost(e: WsError) -> Lost {
    Lost(e.to_string())
}

fn fault(e: WsError) -> Fault {
    match e {
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            Fault::TooLarge(format!("the frame has {size} bytes; at most {max_size} are taken"))
        }
        WsError::Capacity(e) => Fault::TooLarge(e.to_string()),
        WsError::Utf8(_) => Fault::NotUtf8,
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Fault::Lost("the connection broke".into())
        }
        WsError::Protocol(e) => Fault::Protocol(e.to_string()),
        WsError::Io(e) => match e.get_ref().and_then(|e| e.downcast_ref::<Refused>()) {
            Some(refused @ (Refused::TooLarge(_) | Refused::Ratio(_))) => {
                Fault::TooLarge(refused.to_string())
            }
            Some(refused) => Fault::Protocol(refused.to_string()),
            None => Fault::Lost(e.to_string()),
        },
        e => Fault::Lost(e.to_string()),
    }
}
