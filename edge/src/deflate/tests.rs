//! Both ways against a peer that keeps one compressor and one inflater for its whole life, as most libraries do.

use std::sync::Arc;

use bytes::BytesMut;
use zlib_rs::{Deflate, DeflateFlush, Inflate, InflateFlush, Status};

use super::frame::{self, CONTINUATION, FIN, Head, RSV1};
use super::inbound::Inbound;
use super::outbound::Outbound;
use super::{Agreed, Refused, Settings, Shared};

const LIMIT: usize = 1 << 20;
const MASK: [u8; 4] = [0x11, 0x22, 0x33, 0x44];

fn shared(settings: Settings) -> Arc<Shared> {
    Shared::new(&settings, LIMIT).unwrap()
}

fn agreed(takeover: bool, bits: u8) -> Agreed {
    Agreed { server_takeover: takeover, client_takeover: takeover, server_bits: bits, client_bits: bits }
}

/// A peer's compressor: without the tail.
struct Packer(Deflate);

impl Packer {
    fn new(bits: u8) -> Packer {
        Packer(Deflate::new(6, false, bits))
    }

    fn pack(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut out = vec![0; plain.len() + plain.len() / 100 + 64];
        let before = self.0.total_out();
        assert_eq!(self.0.compress(plain, &mut out, DeflateFlush::SyncFlush), Ok(Status::Ok));
        out.truncate((self.0.total_out() - before) as usize);
        assert!(out.ends_with(&[0, 0, 0xff, 0xff]));
        out.truncate(out.len() - 4);
        out
    }
}

fn framed(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::put(&mut out, first, payload.len() as u64, true);
    let at = out.len();
    out.extend_from_slice(payload);
    out[at - 4..at].copy_from_slice(&MASK);
    out[at..].iter_mut().enumerate().for_each(|(i, byte)| *byte ^= MASK[i & 3]);
    out.to_vec()
}

/// What tungstenite would read: first bytes and payloads.
fn frames(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let Some(head) = Head::read(bytes) {
        let (payload, rest) = bytes[head.length..].split_at(head.payload as usize);
        let mut plain = payload.to_vec();
        frame::unmask(payload, head.mask.unwrap_or_default(), 0, &mut plain);
        found.push((head.first, plain));
        bytes = rest;
    }
    assert!(bytes.is_empty());
    found
}

/// All that comes out, the input fed in pieces.
fn cooked(inbound: &mut Inbound, bytes: &[u8], piece: usize) -> Result<Vec<u8>, Refused> {
    let mut out = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        inbound.feed(piece);
        loop {
            inbound.cook()?;
            if !inbound.read(1000, |bytes| out.extend_from_slice(bytes)) {
                break;
            }
        }
    }
    Ok(out)
}

fn message(frames: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let (last, begin) = frames.split_last().unwrap();
    assert!(last.0 & FIN != 0 && begin.iter().all(|(first, _)| first & FIN == 0));
    // Only the first frame says what the message is, and that it is compressed (RFC 7692 section 6.1).
    assert!(frames[1..].iter().all(|(first, _)| first & !FIN == CONTINUATION));
    frames.iter().flat_map(|(_, payload)| payload.clone()).collect()
}

/// Bytes that nothing makes smaller (splitmix64).
pub(super) fn noise(n: u64) -> Vec<u8> {
    let byte = |i: u64| {
        let mut z = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) as u8
    };
    (1..=n).map(byte).collect()
}

fn texts() -> Vec<Vec<u8>> {
    let lines: String = (0..9000).map(|i| format!("line {i} of {}\n", i * 7919)).collect();
    let mut all = vec![Vec::new(), b"x".to_vec(), lines.into_bytes(), noise(200_000)];
    all.extend((0..20).map(|i| format!("{{\"id\":\"c-{i}\",\"type\":\"COMMAND\"}}").into_bytes()));
    let again: String = (0..60).map(|i| format!("the same words again, {} ", i * i)).collect();
    all.extend((0..3).map(|_| again.clone().into_bytes()));
    all.push([vec![b'z'; 70_000], noise(200_000), vec![b'z'; 70_000]].concat());
    all
}

// covers T16
#[test]
fn what_a_peer_compresses_is_read_in_any_pieces_and_windows() {
    for (takeover, bits, piece) in [(true, 15, 4096), (true, 9, 1), (false, 12, 333), (true, 8, 4096)] {
        let mut inbound = Inbound::new(shared(Settings::default()), &agreed(takeover, bits));
        let mut packer = Packer::new(bits.max(9));
        for text in texts() {
            let packed = packer.pack(&text);
            if !takeover {
                packer = Packer::new(bits);
            }
            let out = cooked(&mut inbound, &framed(FIN | RSV1 | 1, &packed), piece).unwrap();
            let frames = frames(&out);
            assert_eq!(frames[0].0 & 0x7f, 1);
            assert!(message(&frames) == text, "{} bytes", text.len());
        }
    }
}

// covers T16
#[test]
fn fragments_with_a_ping_between_and_plain_messages_pass() {
    let mut inbound = Inbound::new(shared(Settings::default()), &agreed(true, 12));
    let mut packer = Packer::new(12);
    let text = b"fragments of a message, fragments of a message".repeat(20);
    let packed = packer.pack(&text);
    let mut bytes = framed(RSV1 | 2, &packed[..5]);
    bytes.extend(framed(FIN | 9, b"ping"));
    bytes.extend(framed(CONTINUATION, &[]));
    bytes.extend(framed(FIN | CONTINUATION, &packed[5..]));
    bytes.extend(framed(FIN | 1, b"plain"));
    bytes.extend(framed(FIN | RSV1 | 2, &packer.pack(&text)));
    let out = frames(&cooked(&mut inbound, &bytes, 7).unwrap());
    let read: Vec<_> = out.iter().map(|(first, payload)| (*first, &payload[..])).collect();
    assert_eq!(read, [(FIN | 9, &b"ping"[..]), (FIN | 2, &text), (FIN | 1, b"plain"), (FIN | 2, &text)]);
}

// covers T16
#[test]
fn a_last_block_within_a_message_ends_nothing() {
    // RFC 7692 section 7.2.3.4, and the same without the byte behind it.
    for data in
        [&[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00][..], &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00]]
    {
        let mut inbound = Inbound::new(shared(Settings::default()), &agreed(true, 15));
        for _ in 0..2 {
            let out = cooked(&mut inbound, &framed(FIN | RSV1 | 1, data), 3).unwrap();
            assert_eq!(message(&frames(&out)), b"Hello");
        }
        // What follows it within the message refers to what was before.
        let text = b"words that stand on both sides of a last block";
        let mut two = vec![0; 200];
        let mut last = Deflate::new(6, false, 15);
        assert_eq!(last.compress(text, &mut two, DeflateFlush::Finish), Ok(Status::StreamEnd));
        two.truncate(last.total_out() as usize);
        let mut behind = Packer::new(15);
        behind.0.set_dictionary(text).unwrap();
        two.extend(behind.pack(text));
        assert!(two.len() < text.len() + 20);
        let both = cooked(&mut inbound, &framed(FIN | RSV1 | 1, &two), 5).unwrap();
        assert_eq!(message(&frames(&both)), [&text[..], &text[..]].concat());
        let hello = framed(FIN | RSV1 | 1, data);
        assert_eq!(message(&frames(&cooked(&mut inbound, &hello, 9).unwrap())), b"Hello");
        // Section 7.2.3.2: refers to the message before.
        let again = framed(FIN | RSV1 | 1, &[0xf2, 0x00, 0x11, 0x00, 0x00]);
        assert_eq!(message(&frames(&cooked(&mut inbound, &again, 9).unwrap())), b"Hello");
    }
}

// covers T16
#[test]
fn what_breaks_the_rules_goes_on_to_be_refused_above() {
    for first in [FIN | RSV1 | 9, FIN | 0x20 | 1, FIN | RSV1 | 0x10 | 1, FIN | RSV1 | 3] {
        let mut inbound = Inbound::new(shared(Settings::default()), &agreed(true, 15));
        let out = frames(&cooked(&mut inbound, &framed(first, b"abc"), 99).unwrap());
        assert_eq!(out, [(first, b"abc".to_vec())], "{first:x}: as it came");
    }
    let mut inbound = Inbound::new(shared(Settings::default()), &agreed(true, 15));
    let within = [framed(RSV1 | 1, &[]), framed(FIN | 1, b"new")].concat();
    assert_eq!(cooked(&mut inbound, &within, 99), Err(Refused::Interleaved));
    for garbage in [&b"\xff\xff\xff"[..], &Packer::new(15).pack(&b"cut off within a block".repeat(9))[..9]] {
        let mut inbound = Inbound::new(shared(Settings::default()), &agreed(true, 15));
        let came = framed(FIN | RSV1 | 1, garbage);
        assert_eq!(cooked(&mut inbound, &came, 99), Err(Refused::Garbage));
    }
}

// covers T16, B30
#[test]
fn a_bomb_is_refused_while_it_inflates() {
    let bomb = |plain: usize| framed(FIN | RSV1 | 1, &Packer::new(15).pack(&vec![b'0'; plain]));
    let try_it = |came: &[u8], settings: Settings| {
        let mut inbound = Inbound::new(shared(settings), &agreed(true, 15));
        cooked(&mut inbound, came, 4096).map(|out| out.len())
    };
    let lax = Settings { max_ratio: 1032, ..Settings::default() };
    assert_eq!(try_it(&bomb(200 << 20), lax.clone()), Err(Refused::TooLarge(LIMIT as u64)));
    assert!(try_it(&bomb(LIMIT), lax.clone()).is_ok());
    assert!(try_it(&bomb(LIMIT), Settings::default()).is_ok(), "small ones may be as good as they are");
    let large = |plain: usize| {
        let shared = Shared::new(&Settings::default(), 16 << 20).unwrap();
        let mut inbound = Inbound::new(shared, &agreed(true, 15));
        cooked(&mut inbound, &bomb(plain), 4096).map(|out| out.len())
    };
    assert!(large(1 << 20).is_ok());
    assert_eq!(large((1 << 20) + 1), Err(Refused::Ratio(200)));
    assert_eq!(large(15 << 20), Err(Refused::Ratio(200)));
    // Fragments without end that inflate to nothing.
    let nothing =
        [framed(RSV1 | 1, &[]), framed(CONTINUATION, &[0, 0, 0, 0xff, 0xff]).repeat(250_000)].concat();
    assert_eq!(try_it(&nothing, lax.clone()), Err(Refused::TooLarge(LIMIT as u64)));
    // It is not even waited for.
    let mut head = BytesMut::new();
    frame::put(&mut head, FIN | RSV1 | 1, u64::MAX >> 1, true);
    assert_eq!(try_it(&head, lax), Err(Refused::TooLarge(LIMIT as u64)));
}

// covers T16
#[test]
fn what_we_compress_is_read_by_any_peer() {
    for (takeover, bits, piece) in [(true, 15, 1 << 20), (true, 9, 4096), (false, 12, 100_000), (true, 12, 7)]
    {
        let settings = Settings { min_size: 1, ..Settings::default() };
        let mut outbound = Outbound::new(shared(settings), &agreed(takeover, bits));
        let mut peer = Inflate::new(false, bits);
        for text in texts() {
            let mut came = BytesMut::new();
            frame::put(&mut came, FIN | 2, text.len() as u64, false);
            came.extend_from_slice(&text);
            let mut out = BytesMut::new();
            for mut piece in came.chunks(piece) {
                while !piece.is_empty() {
                    let mut some = BytesMut::new();
                    let took = outbound.take(piece, &mut some);
                    assert!(took > 0);
                    piece = &piece[took..];
                    out.extend_from_slice(&some);
                }
            }
            let frames = frames(&out);
            let packed = message(&frames);
            if frames[0].0 & RSV1 == 0 {
                assert!(packed == text, "as it is");
                continue;
            }
            assert!(packed.len() < text.len());
            let mut read = vec![0; text.len() + 1];
            let before = peer.total_out();
            let whole = [&packed[..], &[0, 0, 0xff, 0xff]].concat();
            peer.decompress(&whole, &mut read, InflateFlush::SyncFlush).unwrap();
            read.truncate((peer.total_out() - before) as usize);
            assert!(read == text, "{} bytes at {bits} bits", text.len());
            if !takeover {
                peer = Inflate::new(false, bits);
            }
        }
    }
}

// covers T16
#[test]
fn small_messages_and_control_frames_go_as_they_are() {
    let settings = Settings { min_size: 100, ..Settings::default() };
    let mut outbound = Outbound::new(shared(settings), &agreed(true, 15));
    let mut out = BytesMut::new();
    for (first, payload) in
        [(FIN | 1, 99), (FIN | 9, 120), (FIN | 8, 120), (1, 400), (FIN, 400), (FIN | 1, 100)]
    {
        let mut came = BytesMut::new();
        frame::put(&mut came, first, payload, false);
        came.resize(came.len() + payload as usize, b'a');
        assert_eq!(outbound.take(&came, &mut out), came.len());
    }
    let firsts: Vec<u8> = frames(&out).iter().map(|(first, _)| *first).collect();
    assert_eq!(firsts, [FIN | 1, FIN | 9, FIN | 8, 1, FIN, FIN | RSV1 | 1]);
}

// covers T16
#[test]
fn the_largest_message_in_tiny_fragments_is_whole_both_ways() {
    let large: Vec<u8> = (0..16u32 << 20).map(|i| (i / 1000) as u8).collect();
    let lax = Settings { max_ratio: 1032, ..Settings::default() };
    let shared = Shared::new(&lax, large.len()).unwrap();
    let packed = Packer::new(9).pack(&large);
    let mut came = framed(RSV1 | 2, &packed[..2]);
    packed[2..].chunks(2).for_each(|piece| came.extend(framed(CONTINUATION, piece)));
    came.extend(framed(FIN | CONTINUATION, &[]));
    let mut inbound = Inbound::new(shared.clone(), &agreed(true, 12));
    let read = message(&frames(&cooked(&mut inbound, &came, 4096).unwrap()));
    assert_eq!(read.len(), large.len());
    assert!(read == large);

    let mut plain = BytesMut::new();
    frame::put(&mut plain, FIN | 2, large.len() as u64, false);
    plain.extend_from_slice(&large);
    let mut outbound = Outbound::new(shared, &agreed(true, 12));
    let (mut plain, mut out) = (&plain[..], BytesMut::new());
    while !plain.is_empty() {
        let mut some = BytesMut::new();
        plain = &plain[outbound.take(plain, &mut some)..];
        out.extend_from_slice(&some);
    }
    let packed = [&message(&frames(&out))[..], &[0, 0, 0xff, 0xff]].concat();
    let mut read = vec![0; large.len() + 1];
    let mut peer = Inflate::new(false, 12);
    peer.decompress(&packed, &mut read, InflateFlush::SyncFlush).unwrap();
    assert_eq!(peer.total_out(), large.len() as u64);
    assert!(read[..large.len()] == large);
}
