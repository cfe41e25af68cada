//! What HTTP/2 refuses before we hear of it: too many streams, pseudo-headers that are none, headers that are too large. It only
//! tells the client, so the frames that leave are glanced at.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes before each frame's payload (RFC 9113 section 4.1).
const HEAD: usize = 9;
/// The code in a RST_STREAM.
const CODE: usize = 4;
/// Types of frames.
const HEADERS: u8 = 1;
/// See [`HEADERS`].
const RST_STREAM: u8 = 3;
/// The flag of a frame that is a stream's last.
const END_STREAM: u8 = 1;
/// Our own answers all have a body, or go on as a WebSocket: one that ends with its headers is the 431 that HTTP/2 gives.
const TOO_LARGE: &str = "a stream of HTTP/2 was refused: 431, its headers are too large";

/// A connection of which we hear when a stream is refused over it.
pub struct Watched<S, F> {
    inner: S,
    refused: F,
    glance: Glance,
}

impl<S, F: FnMut(&'static str)> Watched<S, F> {
    /// Calls `refused` for each stream that is, with why.
    pub fn new(inner: S, refused: F) -> Self {
        Self { inner, refused, glance: Glance::default() }
    }
}

/// Where in the frames we are. It takes a bounded time: payloads are passed over.
#[derive(Debug, Default)]
struct Glance {
    seen: [u8; HEAD + CODE],
    have: usize,
    skip: usize,
}

impl Glance {
    fn at(&mut self, mut bytes: &[u8], mut refused: impl FnMut(&'static str)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            (self.skip, bytes) = (self.skip - skipped, &bytes[skipped..]);
            let wanted = if self.have >= HEAD { HEAD + CODE } else { HEAD };
            let taken = (wanted - self.have).min(bytes.len());
            self.seen[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            (self.have, bytes) = (self.have + taken, &bytes[taken..]);
            if self.have < wanted {
                return;
            }
            let [a, b, c, kind, flags, ..] = self.seen;
            if wanted > HEAD {
                let [.., a, b, c, d] = self.seen;
                why(u32::from_be_bytes([a, b, c, d])).into_iter().for_each(&mut refused);
                self.have = 0;
            } else if kind != RST_STREAM {
                if kind == HEADERS && flags & END_STREAM != 0 {
                    refused(TOO_LARGE);
                }
                self.skip = u32::from_be_bytes([0, a, b, c]) as usize;
                self.have = 0;
            }
        }
    }
}

/// What a code (RFC 9113 section 7) says that was wrong. The others stand for the end of a stream, not for a refusal; what comes for
/// a stream that is over may just have crossed its end.
fn why(code: u32) -> Option<&'static str> {
    Some(match code {
        1 => "a stream of HTTP/2 was refused: PROTOCOL_ERROR",
        2 => "a stream of HTTP/2 was refused: INTERNAL_ERROR",
        3 => "a stream of HTTP/2 was refused: FLOW_CONTROL_ERROR",
        6 => "a stream of HTTP/2 was refused: FRAME_SIZE_ERROR",
        7 => "a stream of HTTP/2 was refused: REFUSED_STREAM, too many at once",
        9 => "a stream of HTTP/2 was refused: COMPRESSION_ERROR",
        11 => "a stream of HTTP/2 was refused: ENHANCE_YOUR_CALM",
        _ => return None,
    })
}

impl<S: AsyncRead + Unpin, F: Unpin> AsyncRead for Watched<S, F> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_read(cx, room)
    }
}

impl<S: AsyncWrite + Unpin, F: FnMut(&'static str) + Unpin> AsyncWrite for Watched<S, F> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = written {
            this.glance.at(&bytes[..count], &mut this.refused);
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.inner).poll_write_vectored(cx, pieces);
        if let Poll::Ready(Ok(mut left)) = written {
            for piece in pieces {
                let count = left.min(piece.len());
                this.glance.at(&piece[..count], &mut this.refused);
                left -= count;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets_are_seen_however_the_frames_are_cut() {
        // covers B21
        let mut frames = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        frames.extend([0, 0, 20, 0, 0, 0, 0, 0, 1]);
        // In a payload it is none.
        frames.extend([0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0]);
        frames.extend([0, 0, 2, 1, 4, 0, 0, 0, 1, 0, 0]);
        frames.extend([0, 0, 2, 1, 5, 0, 0, 0, 1, 0, 0]);
        for code in [7, 8, 0, 5, 1] {
            frames.extend([0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, code]);
        }
        for cut in 1..frames.len() {
            let (mut glance, mut seen) = (Glance::default(), Vec::new());
            frames.chunks(cut).for_each(|part| glance.at(part, |why| seen.push(why)));
            assert_eq!(seen.len(), 3, "{cut}");
            assert!(seen[0].contains("431") && seen[1].contains("REFUSED_STREAM"), "{seen:?}");
            assert!(seen[2].contains("PROTOCOL_ERROR"), "{seen:?}");
        }
    }
}
