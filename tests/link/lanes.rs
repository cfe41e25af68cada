//! Lanes that never wait for each other.

use std::time::Duration;

use bytes::Bytes;
use trishula::link::{Handle, LARGE, Lane};
use trishula::wire::envelope::Priority;
use trishula::wire::frame::{Dest, Forward, Frame, MAX_HOPS};
use trishula::wire::ids::{Incarnation, Sequence};

use crate::ends::{frame, id_of, message, node, to_two_queues, up};

/// One frame for each lane below the urgent one.
fn one_each(payload: &Bytes) -> Vec<Frame> {
    let first = Lane::Ordered(0).index();
    let mut of_lanes = vec![None; Lane::COUNT - first];
    for n in 0..1000 {
        let frame = message(&format!("a{n}"), "b", n, 3, payload.clone());
        let lane = Lane::for_frame(&frame).index();
        of_lanes[lane - first] = Some(frame);
    }
    of_lanes[Lane::Bulk.index() - first] = Some(message("a", "b", 0, 5, payload.clone()));
    of_lanes.into_iter().map(|frame| frame.expect("a flow of every lane")).collect()
}

/// Fills these lanes until nothing of them goes out any more.
async fn fill(to: &Handle, frames: &[Frame]) {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut quiet = 0;
    while quiet < 20 {
        let before: usize = frames
            .iter()
            .map(|frame| std::iter::repeat_with(|| to.try_send(frame)).take_while(Result::is_ok).count())
            .sum();
        quiet = if before == 0 { quiet + 1 } else { 0 };
        pace.tick().await;
    }
}

// covers T01, T26
#[tokio::test]
async fn an_urgent_frame_passes_when_all_other_lanes_are_full() {
    let (mut link, _not_read) = to_two_queues().await;
    let (_, to_b) = up(&mut link.a).await;
    let (_, _to_a) = up(&mut link.b).await;
    fill(&to_b, &one_each(&Bytes::from(vec![7; 100_000]))).await;
    for n in 0..100 {
        to_b.send(&message("a", "b", n, 1, Bytes::from_static(b"now"))).await.unwrap();
        assert_eq!(id_of(&frame(&mut link.b).await), format!("m-{n}"));
    }
}

// covers T01
#[test]
fn large_payloads_leave_their_flow_between_nodes_only() {
    let lane = |priority: u8, payload: usize| {
        let payload = Bytes::from(vec![7; payload]);
        let Frame::Deliver(deliver, payload) = message("a", "b", 0, priority, payload) else {
            unreachable!()
        };
        let to = Dest {
            node: node("dc"),
            agent: None,
            number: Sequence(1),
            after: Sequence(0),
            life: Incarnation(0),
            registered_ms: 0,
        };
        let forward = Forward {
            origin: node("agni"),
            incarnation: Incarnation(1),
            to: vec![to],
            hops_left: MAX_HOPS,
            redelivered: false,
            unseen: false,
            age_ms: 0,
            head: deliver.head.clone(),
        };
        let delivered = Lane::for_frame(&Frame::Deliver(deliver, payload.clone()));
        (Lane::for_frame(&Frame::Forward(forward, payload)), delivered)
    };
    let (forwarded, delivered) = lane(3, LARGE);
    assert!(matches!(forwarded, Lane::Ordered(_)) && forwarded == delivered);
    assert_eq!(lane(3, LARGE + 1), (Lane::Bulk, delivered));
    assert_eq!(lane(Priority::URGENT.get(), LARGE + 1), (Lane::Urgent, Lane::Urgent));
    assert_eq!(lane(Priority::BULK.get(), 1), (Lane::Bulk, Lane::Bulk));
}
