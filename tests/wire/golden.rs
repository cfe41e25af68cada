//! The bytes that release 0.1 writes: every later release must still read them.

use std::collections::BTreeMap;
use std::fmt::Write;

use bytes::Bytes;
use serde::Serialize;
use trishula::wire::close::Code;
use trishula::wire::envelope::{Class, Form, Kind, State};
use trishula::wire::frame::{Frame, Method, Presence};

use crate::samples::golden;

const FILE: &str = "tests/vectors/wire-0.1.txt";

fn hex(frame: &Frame) -> String {
    let encoded = frame.encode();
    encoded.head.iter().chain(&encoded.payload).fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

fn unhex(text: &str) -> Bytes {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// Name and bytes of each line; lines that begin with `#` are for people.
fn vectors() -> BTreeMap<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/wire-0.1.txt");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines.map(|line| line.split_once(' ').unwrap()).map(|(name, hex)| (name.into(), hex.into())).collect()
}

fn number(word: impl Serialize) -> String {
    let bytes = postcard::to_allocvec(&word).unwrap();
    assert_eq!(bytes.len(), 1, "the list has outgrown one byte");
    format!("{:02x}", bytes[0])
}

/// Words that stand in heads as numbers: their places in their lists.
fn words() -> Vec<(String, String)> {
    let mut words: Vec<(String, String)> =
        Code::ALL.iter().map(|code| (format!("code.{}", code.as_str()), number(code))).collect();
    words.extend(Kind::ALL.iter().map(|kind| (format!("kind.{kind}"), number(kind))));
    let states = [
        State::Accepted,
        State::Stored,
        State::Delivered,
        State::Acked,
        State::Nacked,
        State::Expired,
        State::Dead,
        State::Refused,
    ];
    words.extend(states.iter().map(|state| (format!("state.{}", state.as_str()), number(state))));
    let others = [
        ("class.durable", number(Class::Durable)),
        ("class.live", number(Class::Live)),
        ("form.json", number(Form::Json)),
        ("form.msgpack", number(Form::MsgPack)),
        ("presence.online", number(Presence::Online)),
        ("presence.away", number(Presence::Away)),
        ("presence.gone", number(Presence::Gone)),
        ("method.ping", number(Method::Ping)),
        ("method.status", number(Method::Status)),
        ("method.enrol", number(Method::Enrol)),
        ("method.renew", number(Method::Renew)),
        ("method.records", number(Method::Records)),
    ];
    words.extend(others.map(|(name, number)| (name.to_owned(), number)));
    words
}

/// Every line as this build writes it.
fn written() -> Vec<(String, String)> {
    let frames = golden();
    frames.iter().map(|frame| (frame.name().to_owned(), hex(frame))).chain(words()).collect()
}

#[test]
fn the_frames_of_release_0_1_are_read() {
    // covers T01
    let vectors = vectors();
    let missing = written().into_iter().filter(|(name, _)| !vectors.contains_key(name));
    let missing: Vec<String> = missing.map(|(name, hex)| format!("{name} {hex}")).collect();
    assert!(missing.is_empty(), "{FILE} lacks these lines:\n{}", missing.join("\n"));
    assert_eq!(vectors.len(), written().len(), "{FILE} has vectors that no sample explains");
    for frame in golden() {
        let mut bytes = unhex(&vectors[frame.name()]);
        assert_eq!(Frame::decode(&mut bytes), Ok(Some(frame.clone())), "{FILE}: {}", frame.name());
        assert!(bytes.is_empty(), "{}", frame.name());
    }
}

#[test]
fn what_is_written_now_is_what_release_0_1_wrote() {
    // A peer of 0.1 that negotiated nothing newer is still written to in this form; and a word's number is
    // never used for another word.
    let vectors = vectors();
    for (name, hex) in written() {
        assert_eq!(hex, vectors[&name], "{name}");
    }
}
