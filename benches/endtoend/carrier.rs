//! What carries messages: WebSocket, QUIC stream, Unix socket; and the pump that joins two of them.
//!
//! A batch is whatever is there without waiting. It is written whole and flushed once, so that a relay under load
//! makes few large writes, and an idle one passes a single message on at once.
use crate::lean::LeanUnix;
use crate::net::ServerSocket;
use crate::options::Settings;
use anyhow::{Result, bail};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, Stream, StreamExt};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

/// A batch ends here even when more is waiting.
const BATCH: usize = 256;
const READ_BYTES: usize = 64 * 1024;

/// Where messages come from.
pub enum Source {
    Wss(SplitStream<ServerSocket>),
    Quic(quinn::RecvStream, Splitter),
    Unix(Box<dyn AsyncRead + Send + Unpin>, Splitter),
}

/// Where messages go.
pub enum Sink {
    Wss(SplitSink<ServerSocket, Message>),
    Quic(quinn::SendStream, BytesMut),
    Unix(Box<dyn AsyncWrite + Send + Unpin>, BytesMut),
}

pub fn wss(socket: ServerSocket) -> (Source, Sink) {
    let (sink, stream) = socket.split();
    (Source::Wss(stream), Sink::Wss(sink))
}

pub fn quic(tx: quinn::SendStream, rx: quinn::RecvStream) -> (Source, Sink) {
    (Source::Quic(rx, Splitter::default()), Sink::Quic(tx, BytesMut::new()))
}

pub fn unix(socket: tokio::net::UnixStream, settings: &Settings) -> Result<(Source, Sink)> {
    let (rx, tx): (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) = if settings.lean {
        let lean = LeanUnix::new(socket)?;
        (Box::new(lean.clone()), Box::new(lean))
    } else {
        let (rx, tx) = socket.into_split();
        (Box::new(rx), Box::new(tx))
    };
    Ok((Source::Unix(rx, Splitter::default()), Sink::Unix(tx, BytesMut::new())))
}

/// Carries everything from one to the other, until the source ends.
pub async fn pump(mut from: Source, mut to: Sink, flush_each: bool) -> Result<()> {
    let mut batch = Vec::with_capacity(BATCH);
    while from.read(&mut batch).await? {
        if flush_each {
            for message in batch.drain(..) {
                to.write(std::iter::once(message)).await?;
            }
        } else {
            to.write(batch.drain(..)).await?;
        }
    }
    Ok(())
}

impl Source {
    /// Waits for at least one message and takes what else is there. `false`: there will be no more.
    pub async fn read(&mut self, batch: &mut Vec<Bytes>) -> Result<bool> {
        while batch.is_empty() {
            match self {
                Self::Wss(stream) => {
                    return std::future::poll_fn(|cx| poll_texts(stream, cx, batch)).await;
                }
                Self::Quic(rx, splitter) => {
                    let mut chunks: [Bytes; 64] = [const { Bytes::new() }; 64];
                    let Some(n) = rx.read_chunks(&mut chunks).await? else { return Ok(false) };
                    for chunk in &chunks[..n] {
                        splitter.rest.extend_from_slice(chunk);
                    }
                    splitter.split(batch)?;
                }
                Self::Unix(rx, splitter) => {
                    splitter.rest.reserve(READ_BYTES);
                    if rx.read_buf(&mut splitter.rest).await? == 0 {
                        return Ok(false);
                    }
                    splitter.split(batch)?;
                }
            }
        }
        Ok(true)
    }
}

fn poll_texts(
    stream: &mut (impl Stream<Item = tungstenite::Result<Message>> + Unpin),
    cx: &mut Context<'_>,
    batch: &mut Vec<Bytes>,
) -> Poll<Result<bool>> {
    while batch.len() < BATCH {
        match Pin::new(&mut *stream).poll_next(cx) {
            Poll::Ready(Some(Ok(Message::Text(text)))) => batch.push(text.into()),
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error.into())),
            Poll::Ready(None) => return Poll::Ready(Ok(!batch.is_empty())),
            Poll::Pending if batch.is_empty() => return Poll::Pending,
            Poll::Pending => break,
        }
    }
    Poll::Ready(Ok(true))
}

impl Sink {
    /// Writes all, then flushes once.
    pub async fn write(&mut self, batch: impl Iterator<Item = Bytes>) -> Result<()> {
        match self {
            Self::Wss(sink) => {
                for message in batch {
                    sink.feed(Message::Text(Utf8Bytes::try_from(message)?)).await?;
                }
                sink.flush().await?;
            }
            Self::Quic(tx, buffer) => {
                put_frames(buffer, batch);
                tx.write_chunk(buffer.split().freeze()).await?;
            }
            Self::Unix(tx, buffer) => {
                put_frames(buffer, batch);
                tx.write_all_buf(buffer).await?;
            }
        }
        Ok(())
    }
}

fn put_frames(buffer: &mut BytesMut, batch: impl Iterator<Item = Bytes>) {
    for message in batch {
        buffer.reserve(4 + message.len());
        buffer.put_u32(message.len() as u32);
        buffer.put_slice(&message);
    }
}

/// Cuts a stream of bytes into frames: length in four bytes, then so many.
#[derive(Default)]
pub struct Splitter {
    rest: BytesMut,
}

impl Splitter {
    fn split(&mut self, batch: &mut Vec<Bytes>) -> Result<()> {
        while let Some((head, _)) = self.rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*head) as usize;
            if length > 1 << 20 {
                bail!("a frame of {length} bytes");
            }
            if self.rest.len() < 4 + length {
                break;
            }
            self.rest.advance(4);
            batch.push(self.rest.split_to(length).freeze());
        }
        Ok(())
    }
}
