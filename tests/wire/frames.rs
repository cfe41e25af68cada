//! Properties of the codec of frames.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use trishula::wire::frame::{Attach, Encoded, Error, Frame, MAX_HEAD, MAX_PAYLOAD, Reader};

use crate::any::any_frame;
use crate::samples::golden;

fn config() -> ProptestConfig {
    ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() }
}

fn whole(encoded: &Encoded) -> Bytes {
    let mut bytes = BytesMut::from(&encoded.head[..]);
    bytes.extend_from_slice(&encoded.payload);
    bytes.freeze()
}

fn leb128(out: &mut BytesMut, mut number: usize) {
    while number >= 0x80 {
        out.put_u8((number as u8 & 0x7f) | 0x80);
        number >>= 7;
    }
    out.put_u8(number as u8);
}

/// A frame as the format says, written here a second time and without the codec.
fn raw(kind: u8, head: &[u8], payload: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(kind);
    leb128(&mut out, head.len());
    out.put_slice(head);
    leb128(&mut out, payload.len());
    out.put_slice(payload);
    out.freeze()
}

fn sample(name: &str) -> Frame {
    golden().into_iter().find(|frame| frame.name() == name).unwrap()
}

fn read_all(reader: &mut Reader) -> Result<Vec<Frame>, Error> {
    let mut frames = Vec::new();
    while let Some(frame) = reader.next_frame()? {
        frames.push(frame);
    }
    Ok(frames)
}

/// Kind, head and payload of an encoded frame.
fn parts(encoded: &Encoded) -> (u8, Vec<u8>) {
    let bytes = &encoded.head;
    let (mut length, mut at) = (0usize, 1);
    loop {
        length |= usize::from(bytes[at] & 0x7f) << (7 * (at - 1));
        at += 1;
        if bytes[at - 1] & 0x80 == 0 {
            return (bytes[0], bytes[at..at + length].to_vec());
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn what_is_written_is_read_again(frame in any_frame(), rest in vec(any::<u8>(), 0..9)) {
        // covers T04, T06
        let mut bytes = BytesMut::from(&whole(&frame.encode())[..]);
        bytes.extend_from_slice(&rest);
        let mut bytes = bytes.freeze();
        prop_assert_eq!(Frame::decode(&mut bytes), Ok(Some(frame)));
        prop_assert_eq!(&bytes[..], &rest[..]);
    }

    #[test]
    fn a_stream_is_cut_into_its_frames_however_it_arrives(
        frames in vec(any_frame(), 1..6),
        cuts in vec(1usize..400, 1..30),
    ) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            stream.extend_from_slice(&whole(&frame.encode()));
        }
        let (mut stream, mut reader, mut read) = (stream.freeze(), Reader::default(), Vec::new());
        let mut sizes = cuts.iter().cycle();
        while !stream.is_empty() {
            let size = stream.len().min(*sizes.next().unwrap());
            reader.push(stream.split_to(size));
            // Some readers look after each chunk, some after several.
            if size % 3 != 0 {
                read.extend(read_all(&mut reader).unwrap());
            }
        }
        read.extend(read_all(&mut reader).unwrap());
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn a_frame_that_is_cut_off_is_waited_for(frame in any_frame()) {
        let bytes = whole(&frame.encode());
        for length in 0..bytes.len() {
            let mut cut = bytes.slice(..length);
            prop_assert_eq!(Frame::decode(&mut cut), Ok(None), "cut to {} of {}", length, bytes.len());
            prop_assert_eq!(cut.len(), length, "nothing is taken");
        }
    }

    #[test]
    fn nothing_that_a_peer_sends_panics(chunks in vec(vec(any::<u8>(), 0..300), 0..8)) {
        // covers B19
        let mut reader = Reader::default();
        for chunk in chunks {
            reader.push(chunk.into());
            if read_all(&mut reader).is_err() {
                break;
            }
        }
    }

    #[test]
    fn a_frame_with_a_wrong_byte_is_another_frame_an_error_or_waited_for(
        frame in any_frame(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        // covers B19
        let mut bytes = BytesMut::from(&whole(&frame.encode())[..]);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = Frame::decode(&mut bytes.freeze());
    }

    #[test]
    fn a_head_of_any_bytes_does_no_harm(kind in any::<u8>(), head in vec(any::<u8>(), 0..200)) {
        // covers B19
        let _ = Frame::decode(&mut raw(kind, &head, &[]));
    }

    #[test]
    fn fields_that_a_newer_peer_added_at_the_end_are_ignored(frame in any_frame(), more in vec(any::<u8>(), 1..40)) {
        let encoded = frame.encode();
        let (kind, mut head) = parts(&encoded);
        head.extend_from_slice(&more);
        let mut bytes = raw(kind, &head, &encoded.payload);
        prop_assert_eq!(Frame::decode(&mut bytes), Ok(Some(frame)));
    }

    #[test]
    fn a_frame_of_the_future_is_skipped_by_its_lengths(
        before in any_frame(),
        after in any_frame(),
        head in vec(any::<u8>(), 0..300),
        payload in vec(any::<u8>(), 0..300),
        which in any::<prop::sample::Index>(),
    ) {
        let known: BTreeSet<u8> = golden().iter().map(|frame| frame.encode().head[0]).collect();
        let unknown: Vec<u8> = (0..=u8::MAX).filter(|kind| !known.contains(kind)).collect();
        let kind = unknown[which.index(unknown.len())];
        let mut stream = BytesMut::from(&whole(&before.encode())[..]);
        stream.extend_from_slice(&raw(kind, &head, &payload));
        stream.extend_from_slice(&whole(&after.encode()));
        let mut reader = Reader::default();
        reader.push(stream.freeze());
        prop_assert_eq!(read_all(&mut reader), Ok(vec![before, Frame::Unknown(kind), after]));
    }
}

#[test]
fn a_registration_of_an_entrance_that_knows_no_transient_agents_is_read() {
    // covers T01
    let Frame::Attach(attach) = sample("Attach") else { panic!("no Attach") };
    for transient in [false, true] {
        let (kind, head) = parts(&Frame::Attach(Attach { transient, ..attach.clone() }).encode());
        assert_eq!(head.last(), Some(&u8::from(transient)), "it stands last, where older nodes read no more");
        let mut older = raw(kind, &head[..head.len() - 1], &[]);
        let read = Frame::Attach(Attach { transient: false, ..attach.clone() });
        assert_eq!(Frame::decode(&mut older), Ok(Some(read)));
    }
}

#[test]
fn every_kind_is_among_the_samples() {
    let sampled: BTreeSet<u8> = golden().iter().map(|frame| frame.encode().head[0]).collect();
    // An unknown kind takes any head and any payload; a known one refuses one of the two.
    let takes = |kind, head, payload| Frame::decode(&mut raw(kind, head, payload)).is_ok();
    let known: BTreeSet<u8> =
        (0..=u8::MAX).filter(|kind| !takes(*kind, &[], &[1]) || !takes(*kind, &[0xff; 40], &[])).collect();
    assert_eq!(sampled, known, "a new kind needs a sample, a strategy and a golden vector");
    let names: BTreeSet<&str> = golden().iter().map(Frame::name).collect();
    assert_eq!(names.len(), sampled.len());
}

#[test]
fn a_payload_is_never_copied() {
    let payload = Bytes::from(vec![7u8; 4096]);
    for frame in golden() {
        let frame = match frame {
            Frame::Forward(head, _) => Frame::Forward(head, payload.clone()),
            Frame::Submit(session, head, _) => Frame::Submit(session, head, payload.clone()),
            Frame::Deliver(head, _) => Frame::Deliver(head, payload.clone()),
            Frame::Hold(head, _) => Frame::Hold(head, payload.clone()),
            Frame::Answer(session, number, _) => Frame::Answer(session, number, payload.clone()),
            _ => continue,
        };
        let encoded = frame.encode();
        assert_eq!(encoded.payload.as_ptr(), payload.as_ptr(), "encoding {} copies", frame.name());

        let chunk = whole(&encoded);
        let (start, end) = (chunk.as_ptr() as usize, chunk.as_ptr() as usize + chunk.len());
        let mut reader = Reader::default();
        reader.push(chunk);
        let read = reader.next_frame().unwrap().unwrap();
        let (Frame::Forward(_, body)
        | Frame::Submit(_, _, body)
        | Frame::Deliver(_, body)
        | Frame::Hold(_, body)
        | Frame::Answer(_, _, body)) = &read
        else {
            panic!("{} came back as {}", frame.name(), read.name());
        };
        let at = body.as_ptr() as usize;
        assert!(start <= at && at + body.len() <= end, "decoding {} copies", frame.name());
        assert_eq!(*body, payload);
    }
}

#[test]
fn lengths_over_the_limit_are_refused_before_the_bytes_come() {
    // covers B19
    let mut head_too_long = BytesMut::from(&[24u8][..]);
    leb128(&mut head_too_long, MAX_HEAD + 1);
    let error = Frame::decode(&mut head_too_long.freeze());
    assert_eq!(error, Err(Error::TooLarge { what: "head", length: MAX_HEAD + 1, limit: MAX_HEAD }));

    let (kind, head) = parts(&sample("Forward").encode());
    let mut payload_too_long = BytesMut::from(&raw(kind, &head, &[])[..]);
    payload_too_long.truncate(payload_too_long.len() - 1);
    leb128(&mut payload_too_long, MAX_PAYLOAD + 1);
    let error = Frame::decode(&mut payload_too_long.freeze());
    assert_eq!(error, Err(Error::TooLarge { what: "payload", length: MAX_PAYLOAD + 1, limit: MAX_PAYLOAD }));

    let endless = Bytes::from_static(&[24, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80]);
    assert_eq!(Frame::decode(&mut endless.clone()), Err(Error::BadLength));
}

#[test]
fn the_largest_payload_passes() {
    let Frame::Submit(session, head, _) = sample("Submit") else { panic!("no Submit") };
    let frame = Frame::Submit(session, head, Bytes::from(vec![1u8; MAX_PAYLOAD]));
    assert_eq!(Frame::decode(&mut whole(&frame.encode())), Ok(Some(frame)));
}

#[test]
fn a_payload_where_none_belongs_and_a_broken_head_are_errors_that_name_the_kind() {
    // covers B19
    let error = Frame::decode(&mut raw(2, &[1], &[9])).unwrap_err();
    assert_eq!(error, Error::UnexpectedPayload { kind: 2, length: 1 });
    let error = Frame::decode(&mut raw(1, &[2], &[])).unwrap_err();
    assert!(matches!(error, Error::BadHead { kind: 1, .. }), "{error}");
    // A name inside a head is checked like any other: "No" is no node name.
    let error = Frame::decode(&mut raw(1, &[2, 2, 2, b'N', b'o', 1, 0, 0], &[])).unwrap_err();
    assert!(error.to_string().contains("kind 1"), "{error}");
}
