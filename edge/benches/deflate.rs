//! Compressed messages: microseconds and bytes to send one, against a compressor that a connection would keep.
//!
//! `cargo bench -p trishula-edge --bench deflate`, or quickly: `… -- --quick`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use trishula_edge::deflate::{DeflateIo, Settings, Shared};
use zlib_rs::{Deflate, DeflateConfig, DeflateFlush};

/// Counts what is written.
#[derive(Default)]
struct Counter(u64);

impl AsyncWrite for Counter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0 += bytes.len() as u64;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Messages as agents send them: the same keys, other values.
fn messages(size: usize, count: u32) -> Vec<Vec<u8>> {
    let message = |i: u32| {
        let id = i.wrapping_mul(2_654_435_761);
        let mut text = format!(
            "{{\"type\":\"STATUS\",\"from\":\"dc.worker-{}\",\"to\":\"agni\",\"id\":\"s-{i}-{id:x}\",\"payload\":{{",
            i % 7
        );
        for k in 0.. {
            if text.len() >= size {
                break;
            }
            text += &format!("\"metric_{k}\":{},", (i + k).wrapping_mul(2_246_822_519) % 100_000);
        }
        format!("{}}}}}", text.trim_end_matches(',')).into_bytes()
    };
    (0..count).map(message).collect()
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x81];
    match payload.len() {
        short @ 0..=125 => out.push(short as u8),
        middle @ 126..=0xffff => {
            out.push(126);
            out.extend((middle as u16).to_be_bytes());
        }
        long => {
            out.push(127);
            out.extend((long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
    out
}

/// Through the filter, as it is in the edge.
async fn ours(frames: &[Vec<u8>], settings: &Settings) -> u64 {
    let shared = Shared::new(settings, 1 << 20).unwrap();
    let (agreed, _) = shared.agree(["permessage-deflate; client_max_window_bits"].into_iter()).unwrap();
    let mut io = DeflateIo::agreed(Counter::default(), &agreed, &shared, &[]);
    for frame in frames {
        io.write_all(frame).await.unwrap();
    }
    io.into_inner().0
}

/// What a connection of its own would do with a compressor that it keeps.
fn kept(messages: &[Vec<u8>], bits: u8) -> u64 {
    let config = DeflateConfig { level: 1, window_bits: -i32::from(bits), ..DeflateConfig::default() };
    let mut deflate = Deflate::new_with_config(config);
    let mut out = vec![0; 1 << 18];
    for message in messages {
        deflate.compress(message, &mut out, DeflateFlush::SyncFlush).unwrap();
    }
    deflate.total_out()
}

fn main() {
    let quick = std::env::args().any(|argument| argument == "--quick");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    println!("us a message, and bytes on the wire of a hundred:");
    for (size, count) in [(300, 20_000), (2_000, 10_000), (60_000, 500)] {
        let count = if quick { count / 50 } else { count };
        let messages = messages(size, count);
        let frames: Vec<Vec<u8>> = messages.iter().map(|message| framed(message)).collect();
        let plain: usize = messages.iter().map(Vec::len).sum();
        let row = |name: &str, began: Instant, wire: u64| {
            let each = began.elapsed().as_secs_f64() * 1e6 / f64::from(count);
            println!("{size:>6} B  {name:<34} {each:>7.1}  {:>4.0}", wire as f64 * 100.0 / plain as f64);
        };
        for (name, bits, context_takeover) in [
            ("ours, windows of 4 KiB", 12, true),
            ("ours, windows of 32 KiB", 15, true),
            ("ours, no context takeover", 12, false),
        ] {
            let settings = Settings { window_bits: bits, context_takeover, ..Settings::default() };
            let began = Instant::now();
            row(name, began, runtime.block_on(ours(&frames, &settings)));
        }
        let began = Instant::now();
        row("a compressor of its own, 4 KiB", began, kept(&messages, 12));
    }
}
