//! What is new to a reader that subscribes without saying from where.

use std::collections::BTreeMap;

use super::disk::{key, with_rooms};
use super::*;
use crate::gateway::readers::{Deed, Readers, Wish};
use crate::mesh::Time;
use crate::mesh::rooms::READY_WITHIN;
use crate::wire::frame::{RoomEntry, RoomList, RoomReach, RoomSays, RoomState, RoomThere};

/// Another node has a room, and how far it is with what it took itself.
pub(super) fn keeps(mesh: &mut Mesh, name: &str) {
    let there = RoomThere { room: key(), kept: true, members: Vec::new(), parted: Vec::new() };
    let (incarnation, rooms) = (Incarnation(1), vec![there]);
    let news = RoomList { origin: node(name), incarnation, base: None, version: 1, rooms };
    mesh.room_list(LinkId(101), news);
}

pub(super) fn says(mesh: &mut Mesh, name: &str, top: u64) {
    let reach = RoomReach { origin: node(name), floor: Position::default(), top: at(top) };
    let state = RoomState {
        to: mesh.config.node.clone(),
        from: node(name),
        incarnation: Incarnation(1),
        hops_left: 1,
        room: key(),
        says: RoomSays::Answer,
        has: vec![reach],
    };
    mesh.room_state(state);
}

/// A message that another node took comes.
pub(super) fn comes(mesh: &mut Mesh, name: &str, n: u64) {
    let RoomMessage { origin, from, id, taken, .. } = message(name, n, n, &format!("{name}-{n}"));
    let (to, by) = (vec![mesh.config.node.clone()], origin.clone());
    let after = if n == 1 { Position::default() } else { at(n - 1) };
    let entry = RoomEntry { to, by, hops_left: 1, room: key(), origin, at: at(n), after, from, id, taken };
    mesh.take_entry(entry, Bytes::from_static(b"{\"n\":1}"));
}

/// Time passes, and what is due is done.
pub(super) fn passes(mesh: &mut Mesh, time: std::time::Duration) {
    let until = mesh.now.after(time);
    while mesh.now < until {
        mesh.now = mesh.now.after(std::time::Duration::from_millis(50));
        mesh.rooms_tick();
    }
}

/// The places that a session is given, by its entrance's own account.
pub(super) fn given(readers: &mut Readers, told: Vec<Frame>) -> Vec<Vector> {
    told.into_iter().for_each(|frame| readers.frame(frame));
    let mut given = Vec::new();
    while let Some(deed) = readers.poll() {
        let Deed::Tell(_, news) = deed else { panic!("{deed:?}") };
        given.extend(news.texts.iter().map(|text| {
            let frame: serde_json::Value = serde_json::from_slice(text).unwrap();
            Vector::from_cursor(frame["cursor"].as_str().unwrap()).unwrap()
        }));
    }
    given
}

#[test]
fn history_that_a_new_keeper_has_yet_to_fetch_is_not_new_to_a_reader_without_a_cursor() {
    // covers B07
    let mut mesh = with_rooms(BTreeMap::new());
    reach(&mut mesh, &["agni"]);
    keeps(&mut mesh, "agni");
    let reader = session(&mut mesh, 1, "a");
    let mut readers = Readers::default();
    let wish = Wish { room: key(), id: None, cursor: None, history: 0, presence: false, most: None };
    readers.subscribe(reader, wish, true);
    let Some(Deed::Send(Frame::RoomSubscribe(subscribe))) = readers.poll() else { panic!("it subscribes") };
    mesh.subscribe(LinkId(1), subscribe);
    says(&mut mesh, "agni", 3);
    assert!(told(&mut mesh).is_empty(), "it waits for what agni has");
    // That takes long.
    passes(&mut mesh, 2 * READY_WITHIN);
    let frames = told(&mut mesh);
    let joined = answer(&frames);
    assert!(joined.recovered && joined.messages.is_empty());
    assert_eq!((&joined.cursor, &joined.now), (&vector(&[("agni", 3)]), &Vector::default()));
    assert!(given(&mut readers, frames).is_empty());
    (1..=3).for_each(|n| comes(&mut mesh, "agni", n));
    let frames = told(&mut mesh);
    assert_eq!(given(&mut readers, frames), [], "what was there before it came");
    comes(&mut mesh, "agni", 4);
    let frames = told(&mut mesh);
    assert_eq!(given(&mut readers, frames), [vector(&[("agni", 4)])], "what is new");
}

#[test]
fn who_wants_only_what_is_new_waits_until_it_is_known_what_is_old() {
    // covers B07
    let mut mesh = with_rooms(BTreeMap::new());
    reach(&mut mesh, &["agni", "rushabdev"]);
    keeps(&mut mesh, "agni");
    keeps(&mut mesh, "rushabdev");
    let sessions = [1, 2, 3].map(|no| session(&mut mesh, no, &format!("a{no}")));
    mesh.subscribe(LinkId(1), plain(sessions[0]));
    mesh.subscribe(LinkId(1), RoomSubscribe { history: 9, ..plain(sessions[1]) });
    says(&mut mesh, "agni", 3);
    (1..=3).for_each(|n| comes(&mut mesh, "agni", n));
    passes(&mut mesh, 2 * READY_WITHIN);
    let frames = told(&mut mesh);
    assert_eq!(answer(&frames).session, sessions[1], "who wants what there is gets it after a second");
    assert_eq!(answer(&frames).messages.len(), 3);
    // Also in a room that has long been kept here, as after its node was out of reach.
    mesh.subscribe(LinkId(1), plain(sessions[2]));
    assert!(told(&mut mesh).is_empty());
    says(&mut mesh, "rushabdev", 7);
    let frames = told(&mut mesh);
    let joined: Vec<&RoomJoined> = frames
        .iter()
        .filter_map(|frame| if let Frame::RoomJoined(joined, _) = frame { Some(joined) } else { None })
        .collect();
    assert_eq!(joined.iter().map(|joined| joined.session).collect::<Vec<_>>(), [sessions[0], sessions[2]]);
    for joined in joined {
        assert_eq!(joined.cursor, vector(&[("agni", 3), ("rushabdev", 7)]));
        assert_eq!(joined.now, vector(&[("agni", 3)]));
    }
}

#[test]
fn a_keeper_that_never_says_what_it_has_holds_nobody_up_for_long() {
    // covers B07
    let mut mesh = with_rooms(BTreeMap::new());
    reach(&mut mesh, &["agni"]);
    keeps(&mut mesh, "agni");
    let reader = session(&mut mesh, 1, "a");
    mesh.subscribe(LinkId(1), plain(reader));
    passes(&mut mesh, std::time::Duration::from_secs(2));
    assert!(told(&mut mesh).is_empty());
    passes(&mut mesh, std::time::Duration::from_secs(2));
    assert_eq!(answer(&told(&mut mesh)).cursor, Vector::default());
    // One that is out of reach, not at all.
    let mut mesh = with_rooms(BTreeMap::new());
    keeps(&mut mesh, "agni");
    let reader = session(&mut mesh, 1, "a");
    assert_eq!(mesh.now, Time(0));
    mesh.subscribe(LinkId(1), plain(reader));
    assert_eq!(answer(&told(&mut mesh)).cursor, Vector::default());
}
