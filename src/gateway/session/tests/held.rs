//! Rooms that sessions had, and that the node of another link can't give now.

use super::*;
use crate::wire::frame::{RoomJoined, RoomMessage, RoomSubscribe};
use crate::wire::ids::{Incarnation, RoomName};
use crate::wire::room::{Position, RoomKey, Vector};

#[tokio::test(start_paused = true)]
async fn a_room_that_another_node_can_not_give_now_is_held_and_asked_for_until_it_can() {
    // covers B07, Q02
    let rig = Rig::new();
    let mut first = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(&json!({"type": "REGISTER", "id": "r"}).to_string());
    first.grant().await;
    assert_eq!(client.hear().await["type"], "REGISTERED");
    client.say(&json!({"type": "SUBSCRIBE", "to": "room:deploys", "id": "s"}).to_string());
    answer_subscribe(&mut first, None).await;
    assert_eq!(client.hear().await["type"], "SUBSCRIBED");
    first.down().await;
    let mut second = rig.link(2, "dc").await;
    second.grant().await;
    let unavailable = || Some(Refusal::new(Code::Unavailable, "the node keeps as many rooms as it may"));
    let mut asked_at = Vec::new();
    for _ in 0..6 {
        answer_subscribe(&mut second, unavailable()).await;
        asked_at.push(clock::micros() / 1_000_000);
    }
    let waits: Vec<u64> = asked_at.windows(2).map(|two| two[1] - two[0]).collect();
    assert_eq!(waits, [1, 2, 4, 8, 8], "seconds between one and the next");
    let subscribed = answer_subscribe(&mut second, None).await;
    assert_eq!(subscribed.cursor, Some(Vector::default()), "from where it was");
    let message = RoomMessage {
        room: subscribed_room(),
        origin: NodeName::new("dc").unwrap(),
        at: Position { incarnation: Incarnation(1), n: 1 },
        after: Position::default(),
        known: false,
    };
    second.tell(Frame::RoomMessage(message, Bytes::from_static(b"{\"type\":\"STATUS\"}"))).await;
    assert_eq!(client.hear().await["type"], "STATUS", "and it was told of nothing in between");
}

fn subscribed_room() -> RoomKey {
    RoomKey::new(Namespace::new("trishula").unwrap(), RoomName::new("deploys").unwrap())
}

/// Grants the next SUBSCRIBE, or refuses it.
async fn answer_subscribe(node: &mut Node, refusal: Option<Refusal>) -> RoomSubscribe {
    let Frame::RoomSubscribe(asked) = node.next().await else { panic!("no SUBSCRIBE") };
    let joined = RoomJoined {
        session: asked.session,
        number: asked.number,
        room: subscribed_room(),
        refusal,
        cursor: Vector::default(),
        recovered: true,
        members: Vec::new(),
        messages: Vec::new(),
        now: Vector::default(),
    };
    node.tell(Frame::RoomJoined(joined, Bytes::new())).await;
    asked
}
