//! Where readers stand, and what they are told.

use super::*;
use crate::wire::ids::{Incarnation, Namespace, RoomName};

fn key() -> RoomKey {
    RoomKey::new(Namespace::new("trishula").unwrap(), RoomName::new("deploys").unwrap())
}

fn node() -> NodeName {
    NodeName::new("dc").unwrap()
}

fn at(n: u64) -> Position {
    Position { incarnation: Incarnation(1), n }
}

fn vector(n: u64) -> Vector {
    Vector { at: [(node(), at(n))].into(), cut: false }
}

fn wish() -> Wish {
    Wish { room: key(), id: None, cursor: None, history: 0, presence: false, most: None }
}

/// The next SUBSCRIBE to the node.
fn asked(readers: &mut Readers) -> RoomSubscribe {
    match readers.poll() {
        Some(Deed::Send(frame @ Frame::RoomSubscribe(_))) => {
            readers.left(&frame);
            let Frame::RoomSubscribe(subscribe) = frame else { unreachable!() };
            subscribe
        }
        other => panic!("{other:?}"),
    }
}

fn joined(readers: &mut Readers, asked: &RoomSubscribe, cursor: u64, now: u64, missed: &[u64]) {
    let text = Bytes::from("{\"n\":1}".repeat(missed.len()));
    let joined = RoomJoined {
        session: asked.session,
        number: asked.number,
        room: key(),
        refusal: None,
        cursor: vector(cursor),
        recovered: true,
        members: Vec::new(),
        messages: missed.iter().map(|n| (node(), at(*n), 7)).collect(),
        now: vector(now),
    };
    readers.frame(Frame::RoomJoined(joined, text));
}

fn live(readers: &mut Readers, n: u64) {
    let message = RoomMessage { room: key(), origin: node(), at: at(n), after: at(n - 1), known: false };
    readers.frame(Frame::RoomMessage(message, Bytes::from_static(b"{\"n\":1}")));
}

/// What sessions were told: whether by SUBSCRIBED, and where each text stands.
fn told(readers: &mut Readers) -> Vec<(u64, bool, Vec<u64>)> {
    let mut all = Vec::new();
    while let Some(deed) = readers.poll() {
        let Deed::Tell(no, news) = deed else { panic!("{deed:?}") };
        let places = news.texts.iter().map(|text| {
            let frame: serde_json::Value = serde_json::from_slice(text).unwrap();
            Vector::from_cursor(frame["cursor"].as_str().unwrap()).unwrap().get(&node()).n
        });
        all.push((no.0, news.say.is_some(), places.collect()));
    }
    all
}

#[test]
fn all_readers_share_a_text_and_one_that_is_ahead_gets_nothing_twice() {
    // covers B07, B08
    let mut readers = Readers::default();
    for no in [1, 2] {
        readers.subscribe(SessionNo(no), wish(), true);
        let asked = asked(&mut readers);
        joined(&mut readers, &asked, 3, 3, &[]);
        assert_eq!(told(&mut readers), [(no, true, vec![])]);
    }
    let cursor = Some(vector(5));
    readers.subscribe(SessionNo(3), Wish { cursor, ..wish() }, true);
    let asked = asked(&mut readers);
    joined(&mut readers, &asked, 5, 3, &[]);
    assert_eq!(told(&mut readers), [(3, true, vec![])]);
    live(&mut readers, 4);
    let texts: Vec<Bytes> = std::iter::from_fn(|| readers.poll())
        .map(|deed| match deed {
            Deed::Tell(_, mut news) => news.texts.remove(0),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(texts.len(), 2, "the third one has it from another node");
    assert_eq!(texts[0].as_ptr(), texts[1].as_ptr(), "one text for all");
    live(&mut readers, 4);
    live(&mut readers, 5);
    live(&mut readers, 6);
    let expected = [(1, 5), (2, 5), (1, 6), (2, 6), (3, 6)].map(|(no, n)| (no, false, vec![n]));
    assert_eq!(told(&mut readers), expected);
}

#[test]
fn another_link_is_asked_from_where_each_reader_is_and_it_is_not_told() {
    // covers B07, Q02
    let mut readers = Readers::default();
    readers.subscribe(SessionNo(1), wish(), true);
    let first = asked(&mut readers);
    joined(&mut readers, &first, 3, 3, &[]);
    live(&mut readers, 4);
    told(&mut readers);
    readers.part();
    live(&mut readers, 5);
    assert!(told(&mut readers).is_empty(), "of the link before");
    readers.registered(SessionNo(1));
    let again = asked(&mut readers);
    assert_eq!(again.cursor, Some(vector(4)));
    joined(&mut readers, &first, 3, 9, &[5, 6]);
    assert!(told(&mut readers).is_empty(), "an answer to what was asked before");
    joined(&mut readers, &again, 4, 6, &[5, 6]);
    assert_eq!(told(&mut readers), [(1, false, vec![5, 6])]);
}

#[test]
fn what_was_lost_on_the_way_from_the_node_is_asked_for() {
    // covers B07
    let mut readers = Readers::default();
    readers.subscribe(SessionNo(1), wish(), true);
    let first = asked(&mut readers);
    joined(&mut readers, &first, 3, 3, &[]);
    told(&mut readers);
    live(&mut readers, 5);
    let again = asked(&mut readers);
    assert_eq!(again.cursor, Some(vector(3)), "4 did not come");
    live(&mut readers, 6);
    assert!(readers.poll().is_none(), "it is asked once");
    joined(&mut readers, &again, 3, 6, &[4, 5, 6]);
    assert_eq!(told(&mut readers), [(1, false, vec![4, 5, 6])]);
    readers.frame(Frame::RoomAgain(key()));
    assert_eq!(asked(&mut readers).cursor, Some(vector(6)));
}

#[test]
fn a_session_has_so_many_rooms_and_leaves_all_of_them() {
    // covers B07, B19
    let mut readers = Readers::default();
    for n in 0..=MAX_SUBSCRIPTIONS {
        let name = RoomName::new(&format!("r{n}")).unwrap();
        let room = RoomKey { name, ..key() };
        readers.subscribe(SessionNo(1), Wish { room, ..wish() }, false);
    }
    assert_eq!(readers.count(), MAX_SUBSCRIPTIONS);
    let refused = readers.poll();
    let Some(Deed::Tell(_, RoomNews { say: Some((_, RoomSay::Refused(refusal))), .. })) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal.code, Code::RateLimited);
    readers.leave(SessionNo(1));
    assert_eq!((readers.count(), readers.rooms.len()), (0, 0));
}

#[test]
fn a_second_subscribe_before_the_answer_takes_nothing_from_the_first() {
    // covers B07, B19
    let mut readers = Readers::default();
    let first = Wish { id: MessageId::new("a").ok(), cursor: Some(vector(1)), ..wish() };
    readers.subscribe(SessionNo(1), first, true);
    let again = asked;
    let asked = asked(&mut readers);
    let second = Wish { id: MessageId::new("b").ok(), presence: true, ..wish() };
    readers.subscribe(SessionNo(1), second.clone(), true);
    let Some(Deed::Tell(_, RoomNews { say: Some((id, RoomSay::Refused(refusal))), .. })) = readers.poll()
    else {
        panic!("it is refused")
    };
    assert_eq!((id, refusal.code), (second.id.clone(), Code::RateLimited));
    joined(&mut readers, &asked, 1, 3, &[2, 3]);
    let Some(Deed::Tell(_, news)) = readers.poll() else { panic!("the first one is answered") };
    assert!(
        matches!(&news.say, Some((Some(id), RoomSay::Joined(said))) if id.as_str() == "a" && said.missed == 2)
    );
    assert_eq!(news.texts.len(), 2);
    readers.subscribe(SessionNo(1), second, true);
    assert_eq!(again(&mut readers).cursor, Some(vector(3)), "now it may");
}

#[test]
fn an_answer_on_its_way_counts_when_the_node_asked_us_to_subscribe_again() {
    // covers B07
    let mut readers = Readers::default();
    readers.subscribe(SessionNo(1), Wish { cursor: Some(vector(1)), ..wish() }, true);
    let first = asked(&mut readers);
    readers.frame(Frame::RoomAgain(key()));
    let second = asked(&mut readers);
    readers.frame(Frame::RoomAgain(key()));
    let third = asked(&mut readers);
    joined(&mut readers, &second, 1, 3, &[2, 3]);
    assert_eq!(told(&mut readers), [(1, true, vec![2, 3])]);
    joined(&mut readers, &third, 1, 3, &[2, 3]);
    joined(&mut readers, &first, 1, 3, &[2, 3]);
    assert!(told(&mut readers).is_empty(), "once");
    // What another link was asked is nothing to this one.
    readers.part();
    readers.registered(SessionNo(1));
    asked(&mut readers);
    joined(&mut readers, &third, 3, 9, &[4]);
    assert!(told(&mut readers).is_empty());
}

#[test]
fn a_subscribe_that_waits_to_leave_is_not_asked_for_again() {
    // covers B07
    let mut readers = Readers::default();
    readers.subscribe(SessionNo(1), wish(), true);
    let Some(Deed::Send(waiting)) = readers.poll() else { panic!("it subscribes") };
    for _ in 0..1000 {
        readers.frame(Frame::RoomAgain(key()));
    }
    assert!(readers.poll().is_none(), "however often the node says so, one frame waits");
    readers.left(&waiting);
    readers.frame(Frame::RoomAgain(key()));
    let again = asked(&mut readers);
    joined(&mut readers, &again, 3, 3, &[]);
    assert_eq!(told(&mut readers), [(1, true, vec![])]);
}

#[test]
fn a_subscribe_that_is_left_before_its_answer_is_answered_all_the_same() {
    // covers B07
    let mut readers = Readers::default();
    let session = SessionNo(1);
    let [join, leave] = ["join", "leave"].map(|id| MessageId::new(id).unwrap());
    readers.subscribe(session, Wish { id: Some(join.clone()), ..wish() }, true);
    asked(&mut readers);
    readers.unsubscribe(session, &key(), Some(leave.clone()));
    let mut said = Vec::new();
    while let Some(deed) = readers.poll() {
        if let Deed::Tell(_, news) = deed {
            said.extend(news.say.into_iter().map(|(id, say)| (id, matches!(say, RoomSay::Refused(_)))));
        }
    }
    assert_eq!(said, [(Some(join), true), (Some(leave), false)]);
}
