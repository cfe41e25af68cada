//! Live telemetry in datagrams, seen from a peer that is no more than a QUIC connection.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use trishula::link::{Event, Handle};
use trishula::metrics;
use trishula::wire::envelope::{Class, Kind, Priority};
use trishula::wire::frame::{Dest, Forward, Frame, Hello, MAX_HOPS};
use trishula::wire::ids::Incarnation;

use crate::ends::{Bare, PATIENCE, bare, frame, hello, joined, message, next, node, up};

/// A message from node to node.
fn forward(number: usize, kind: Kind, class: Class, payload: usize) -> Frame {
    // A state of low importance; else the default.
    let priority = if kind == Kind::Status { 4 } else { 3 };
    let Frame::Deliver(deliver, payload) = message("a", "b", number, priority, Bytes::from(vec![7; payload]))
    else {
        unreachable!()
    };
    let forward = Forward {
        origin: node("agni"),
        incarnation: Incarnation(7),
        to: vec![Dest::live(node("dc"))],
        hops_left: MAX_HOPS,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head: trishula::wire::envelope::Head { kind, class, ..deliver.head },
    };
    Frame::Forward(forward, payload)
}

fn telemetry(number: usize, payload: usize) -> Frame {
    forward(number, Kind::Status, Class::Live, payload)
}

fn number_of(frame: &Frame) -> String {
    match frame {
        Frame::Forward(forward, _) => forward.head.id.to_string(),
        other => panic!("{} is no message", other.name()),
    }
}

/// A link to a peer that says these features.
async fn linked(features: &[&str]) -> (Bare, quinn::SendStream, Handle) {
    let mut bare = bare().await;
    let features = features.iter().map(|feature| (*feature).to_owned()).collect();
    let control = bare.lane(0, &[Frame::Hello(Hello { features, ..hello("dc") })]).await;
    let (_, handle) = up(&mut bare.heard).await;
    (bare, control, handle)
}

async fn datagram(bare: &Bare) -> Option<Bytes> {
    tokio::time::timeout(Duration::from_millis(500), bare.peer.read_datagram()).await.ok()?.ok()
}

/// As it is put into a datagram.
fn bytes_of(flow: u8, number: u32, frame: &Frame) -> Bytes {
    let (mut bytes, encoded) = (BytesMut::new(), frame.encode());
    bytes.put_u8(flow);
    bytes.put_u32(number);
    bytes.extend_from_slice(&encoded.head);
    bytes.extend_from_slice(&encoded.payload);
    bytes.freeze()
}

/// Which of our lanes are open, besides control.
async fn lanes(bare: &Bare) -> usize {
    let mut open = 0;
    while let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(500), bare.peer.accept_uni()).await {
        open += 1;
    }
    open - 1
}

// covers T01, T02
#[tokio::test]
async fn what_may_be_lost_and_is_small_goes_in_datagrams_and_nothing_else_does() {
    let (bare, _control, handle) = linked(&["datagrams"]).await;
    // The link may be up a moment before it knows how large a datagram may be.
    let first = async {
        loop {
            handle.try_send(&telemetry(1, 100)).unwrap();
            if let Some(first) = datagram(&bare).await {
                return first;
            }
        }
    };
    let first = tokio::time::timeout(PATIENCE, first).await.unwrap();
    assert_eq!(first[5..], bytes_of(0, 0, &telemetry(1, 100))[5..]);
    handle.try_send(&forward(2, Kind::Heartbeat, Class::Live, 100)).unwrap();
    let second = datagram(&bare).await.expect("a datagram");
    assert_eq!(second[0], first[0], "one flow");
    let number = |datagram: &Bytes| u32::from_be_bytes(datagram[1..5].try_into().unwrap());
    assert_eq!(number(&second), number(&first) + 1);
    let before = lanes(&bare).await;
    let mut asked = telemetry(6, 100);
    if let Frame::Forward(forward, _) = &mut asked {
        forward.head.receipt = Some(trishula::wire::envelope::State::Delivered);
    }
    let mut urgent = telemetry(7, 100);
    if let Frame::Forward(forward, _) = &mut urgent {
        forward.head.priority = Priority::URGENT;
    }
    let mut ordinary = telemetry(8, 100);
    if let Frame::Forward(forward, _) = &mut ordinary {
        forward.head.priority = Priority::DEFAULT;
    }
    for reliable in [
        ordinary,
        telemetry(3, 60_000),
        forward(4, Kind::Status, Class::Durable, 100),
        forward(5, Kind::Ack, Class::Live, 100),
        forward(5, Kind::Command, Class::Live, 100),
        asked,
        urgent,
    ] {
        handle.try_send(&reliable).unwrap();
        assert!(datagram(&bare).await.is_none(), "{}", number_of(&reliable));
    }
    assert!(lanes(&bare).await + before >= 1, "they are in lanes");
}

// covers T01, T02
#[tokio::test]
async fn a_peer_that_does_not_read_datagrams_is_sent_none() {
    let (bare, _control, handle) = linked(&[]).await;
    handle.try_send(&telemetry(1, 100)).unwrap();
    assert!(datagram(&bare).await.is_none());
    assert_eq!(lanes(&bare).await, 1);
    // And over what is no QUIC there are none.
    for carrier in ["wss", "unix"] {
        let mut link = joined(carrier).await;
        let (_, to_b) = up(&mut link.a).await;
        let _to_a = up(&mut link.b).await;
        for n in 0..20 {
            to_b.send(&telemetry(n, 100)).await.unwrap();
            assert_eq!(number_of(&frame(&mut link.b).await), format!("m-{n}"), "{carrier}");
        }
    }
}

// covers T01, T02
#[tokio::test]
async fn a_datagram_that_was_overtaken_is_dropped_and_flows_do_not_matter_to_each_other() {
    let (mut bare, _control, _handle) = linked(&["datagrams"]).await;
    for (flow, number, id) in [(1, 2, 0), (1, 1, 1), (2, 1, 2), (1, 2, 3), (1, 3, 4)] {
        bare.peer.send_datagram(bytes_of(flow, number, &telemetry(id, 10))).unwrap();
    }
    for expected in ["m-0", "m-2", "m-4"] {
        assert_eq!(number_of(&frame(&mut bare.heard).await), expected);
    }
}

// covers B19
#[tokio::test]
async fn a_datagram_with_what_must_not_be_lost_ends_the_link() {
    for rude in [
        bytes_of(0, 1, &Frame::Goodbye(0)),
        bytes_of(0, 1, &forward(1, Kind::Command, Class::Durable, 10)),
        Bytes::from_static(b"abc"),
        bytes_of(0, 1, &telemetry(1, 10)).slice(..40),
    ] {
        let (mut bare, _control, _handle) = linked(&["datagrams"]).await;
        bare.peer.send_datagram(rude).unwrap();
        let (_, why) = bare.closed().await;
        assert!(why.contains("a datagram is no message that may come in one"), "{why}");
        assert!(matches!(next(&mut bare.heard).await, Event::Down { .. }));
    }
}

// covers T01, T26
#[tokio::test]
async fn a_flood_of_telemetry_is_dropped_and_holds_up_nothing() {
    let mut link = joined("quic").await;
    let (_, to_b) = up(&mut link.a).await;
    let _to_a = up(&mut link.b).await;
    to_b.send(&telemetry(0, 500)).await.unwrap();
    frame(&mut link.b).await;
    let dropped = || metrics::DATAGRAMS.with_label_values(&["dropped"]).get();
    let before = dropped();
    for n in 1..=5_000 {
        to_b.try_send(&telemetry(n, 500)).expect("what may be lost is never refused");
    }
    to_b.send(&message("a", "b", 9_999, 1, Bytes::from_static(b"now"))).await.unwrap();
    let mut came = 0;
    while let Frame::Forward(..) = frame(&mut link.b).await {
        came += 1;
    }
    assert!(came < 200, "{came} of them were before the urgent one");
    assert!(dropped() > before);
}
