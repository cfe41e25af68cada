//! Durable messages: kept, recognised, in order, and their senders are told.

use std::time::Duration;

use bytes::Bytes;

use super::cluster::*;
use crate::mesh::DurableView;
use crate::wire::close::Code;
use crate::wire::envelope::{Class, Head, Priority, State, Target};
use crate::wire::frame::{Deliver, Frame, Handing, Settlement};
use crate::wire::ids::MessageId;

pub(super) const TRIO: [&str; 3] = ["agni", "dc", "rushabdev"];

pub(super) fn durable(from: &Client, to: &str, id: &str) -> Head {
    Head { class: Class::Durable, receipt: Some(State::Acked), ..head(from, to, id) }
}

impl Cluster {
    pub(super) fn post(&mut self, from: &Client, to: &str, id: &str) {
        self.submit(from, durable(from, to, id));
        self.run(Duration::from_millis(100));
    }

    pub(super) fn handings(&self, client: &Client) -> Vec<(String, Handing)> {
        let frames = self.got(client).into_iter();
        let deliveries = frames.filter_map(|frame| match frame {
            Frame::Deliver(Deliver { to, head, .. }, _) => {
                let own = to.iter().find(|handing| handing.session == client.session)?;
                Some((head.id.to_string(), *own))
            }
            _ => None,
        });
        deliveries.filter(|(_, handing)| handing.tag != 0).collect()
    }

    pub(super) fn settle(&mut self, client: &Client, id: &str, settlement: Settlement) {
        let (_, handing) = self.handings(client).into_iter().rfind(|(known, _)| known == id).unwrap();
        self.frame(client, Frame::Settle(client.session, vec![(handing.tag, settlement)]));
        self.run(Duration::from_millis(100));
    }

    pub(super) fn states(&self, client: &Client, id: &str) -> Vec<State> {
        let told = self.told(client).into_iter().filter(|receipt| receipt.id.as_str() == id);
        told.map(|receipt| receipt.state).collect()
    }

    pub(super) fn view(&self, name: &str) -> DurableView {
        self.mesh(name).durable_view()
    }

    /// A recipient that is known at a node, and away.
    pub(super) fn away(&mut self, name: &str, agent: &str) {
        let client = self.register(name, agent);
        self.detach(&client, false);
        self.run(seconds(1));
    }
}

#[test]
fn a_message_is_stored_delivered_and_acknowledged_and_its_sender_told_of_each() {
    // covers T07, Q04
    for home in ["agni", "dc"] {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        let bob = cluster.register(home, "bob");
        cluster.post(&alice, "bob", "m-1");
        assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
        assert!(!cluster.handings(&bob)[0].1.redelivered);
        cluster.settle(&bob, "m-1", Settlement::Written);
        cluster.settle(&bob, "m-1", Settlement::Acked);
        let all = [State::Accepted, State::Stored, State::Delivered, State::Acked];
        assert_eq!(cluster.states(&alice, "m-1"), all);
        let empty = DurableView { marks: 1, flows: cluster.view(home).flows, ..DurableView::default() };
        assert_eq!(cluster.view(home), empty);
        assert_eq!(cluster.view("dc").marks, 1);
    }
}

#[test]
fn nothing_is_called_accepted_before_it_is_on_disk() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.disk("dc", Disk::Hangs);
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.handings(&bob).len(), 1, "the message itself does not wait for the disk");
    assert_eq!(cluster.states(&alice, "m-1"), []);
    cluster.release("dc");
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);

    cluster.disk("dc", Disk::Works);
    cluster.disk("agni", Disk::Hangs);
    cluster.post(&alice, "bob", "m-2");
    assert_eq!(
        cluster.states(&alice, "m-2"),
        [State::Accepted],
        "not stored before it is on the home's disk"
    );
    cluster.settle(&bob, "m-2", Settlement::Acked);
    assert_eq!(cluster.states(&alice, "m-2"), [State::Accepted], "and not acknowledged either");
    cluster.release("agni");
    cluster.disk("agni", Disk::Works);
    cluster.run(seconds(6));
    assert_eq!(cluster.states(&alice, "m-2").last(), Some(&State::Acked));
}

#[test]
fn only_what_somebody_is_told_of_is_waited_for() {
    // covers Q04, T14
    let asked = [
        (None, vec![false], vec![false, false]),
        (Some(State::Accepted), vec![true], vec![false, false]),
        (Some(State::Stored), vec![true], vec![true, false]),
        (Some(State::Acked), vec![true], vec![true, true]),
    ];
    for (receipt, at_its_node, at_its_home) in asked {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("dc", "alice");
        let bob = cluster.register("agni", "bob");
        cluster.disk("dc", Disk::Hangs);
        cluster.disk("agni", Disk::Hangs);
        cluster.submit(&alice, Head { receipt, ..durable(&alice, "bob", "m-1") });
        cluster.run(Duration::from_millis(100));
        cluster.settle(&bob, "m-1", Settlement::Acked);
        assert_eq!(cluster.waited_for("dc"), at_its_node, "{receipt:?}");
        assert_eq!(cluster.waited_for("agni"), at_its_home, "{receipt:?}");
        cluster.release("agni");
        cluster.run(Duration::from_millis(100));
        let later = cluster.waited_for("dc");
        assert!(later.len() > 1 && later[1..].iter().all(|waited| !waited), "{receipt:?}: {later:?}");
    }
    // Its sender hears of every bad end, and of a second copy.
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.disk("agni", Disk::Hangs);
    cluster.submit(&alice, Head { receipt: None, ..durable(&alice, "bob", "m-1") });
    cluster.run(Duration::from_millis(100));
    cluster.settle(&bob, "m-1", Settlement::Nacked("no".into()));
    cluster.submit(&alice, Head { receipt: None, copies: 2, ..durable(&alice, "bob", "m-2") });
    cluster.run(Duration::from_millis(100));
    assert_eq!(cluster.waited_for("agni"), [false, true, true]);
}

#[test]
fn a_message_waits_for_a_recipient_that_is_away() {
    // covers T05, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
    let again = cluster.register("agni", "bob");
    assert_eq!(cluster.handings(&again).len(), 1);
    assert!(!cluster.handings(&again)[0].1.redelivered, "nobody can have got it before");
}

#[test]
fn what_a_session_had_in_its_hands_comes_again_and_is_marked() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    cluster.settle(&bob, "m-1", Settlement::Written);
    cluster.entrance_gone(&bob);
    let again = cluster.register("agni", "bob");
    assert!(cluster.handings(&again)[0].1.redelivered);
}

#[test]
fn waiting_messages_move_with_their_recipient_to_another_node() {
    // covers T05, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    let moved = cluster.register("rushabdev", "bob");
    cluster.run(seconds(1));
    assert_eq!(cluster.handings(&moved).len(), 1);
    cluster.settle(&moved, "m-1", Settlement::Acked);
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked));
    let view = cluster.view("agni");
    assert_eq!((view.mailbox, view.outbox, view.handed), (0, 0, 0));
}

#[test]
fn a_message_sent_again_is_recognised_wherever_it_enters() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    cluster.post(&alice, "bob", "m-1");
    let there = cluster.register("rushabdev", "alice");
    cluster.post(&there, "bob", "m-1");
    assert_eq!(cluster.handings(&bob).len(), 1);
    assert_eq!(cluster.states(&there, "m-1"), [State::Accepted, State::Stored]);
    cluster.settle(&bob, "m-1", Settlement::Acked);
    assert_eq!(cluster.states(&there, "m-1").last(), Some(&State::Acked));
    cluster.post(&there, "bob", "m-1");
    assert_eq!(cluster.handings(&bob).len(), 1, "by its mark");
}

#[test]
fn a_link_that_loses_frames_loses_doubles_and_reorders_nothing() {
    // covers Q04, Q05
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.lost =
        |frame| matches!(frame, Frame::Forward(forward, _) if forward.head.id.as_str().ends_with('3'));
    for n in 0..20 {
        cluster.post(&alice, "bob", &format!("m-{n}"));
    }
    cluster.lost = |_| false;
    cluster.run(seconds(12));
    let got: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    let sent: Vec<String> = (0..20).map(|n| format!("m-{n}")).collect();
    assert_eq!(got, sent);
}

#[test]
fn a_time_to_live_that_is_over_ends_a_message_once() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.submit(&alice, Head { ttl_ms: Some(2_000), ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(5));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored, State::Expired]);
    let again = cluster.register("agni", "bob");
    assert!(cluster.handings(&again).is_empty());
}

#[test]
fn a_delayed_message_comes_when_it_is_due() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.submit(&alice, Head { not_before_ms: Some(10_000), ..durable(&alice, "bob", "m-1") });
    cluster.post(&alice, "bob", "m-2");
    assert_eq!(cluster.handings(&bob).len(), 1, "the other one does not wait for it");
    cluster.run(seconds(9));
    assert_eq!(cluster.handings(&bob).len(), 1);
    cluster.run(seconds(2));
    assert_eq!(cluster.handings(&bob).len(), 2);
}

#[test]
fn a_window_bounds_what_a_session_has_and_urgent_messages_have_their_own() {
    // covers Q06
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    for n in 0..70 {
        cluster.submit(&alice, durable(&alice, "bob", &format!("m-{n}")));
    }
    let urgent = Head { priority: Priority::URGENT, ..durable(&alice, "bob", "now") };
    cluster.submit(&alice, urgent);
    cluster.run(seconds(1));
    let got: Vec<String> = cluster.handings(&bob).into_iter().map(|(id, _)| id).collect();
    assert_eq!(got.len(), 65);
    assert!(got.contains(&"now".to_owned()));
    cluster.settle(&bob, "m-0", Settlement::Acked);
    assert_eq!(cluster.handings(&bob).len(), 66);
}

#[test]
fn a_broadcast_goes_once_over_each_link_and_ends_once_for_each_recipient() {
    // covers T06, Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let places = [("agni", "b"), ("agni", "c"), ("rushabdev", "d"), ("dc", "e")];
    let others = places.map(|(node, name)| cluster.register(node, name));
    cluster.forget();
    let to = Target::Broadcast(alice.agent.namespace.clone());
    cluster.submit(&alice, Head { to, receipt: None, ..durable(&alice, "b", "m-1") });
    cluster.run(seconds(1));
    for other in &others {
        assert_eq!(cluster.handings(other).len(), 1, "{}", other.agent);
        cluster.settle(other, "m-1", Settlement::Acked);
    }
    assert!(cluster.handings(&alice).is_empty());
    assert_eq!(cluster.forwards().values().copied().collect::<Vec<_>>(), [1, 1]);
    assert_eq!(cluster.view("dc").marks, 4);
}

#[test]
fn a_node_takes_up_after_a_restart_what_it_had_on_disk() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    cluster.run(seconds(1));
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted]);
    cluster.restart("dc");
    cluster.connect("dc", "agni");
    cluster.run(seconds(3));
    let again = cluster.register("agni", "bob");
    cluster.run(seconds(1));
    assert_eq!(cluster.handings(&again).len(), 1);
    cluster.settle(&again, "m-1", Settlement::Acked);
    let alice = cluster.register("dc", "alice");
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked), "told when it is back");
}

#[test]
fn two_copies_are_on_two_disks_before_a_message_is_accepted() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("dc", "bob");
    for other in ["agni", "rushabdev"] {
        cluster.disk(other, Disk::Hangs);
    }
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), []);
    for other in ["agni", "rushabdev"] {
        cluster.release(other);
        cluster.disk(other, Disk::Works);
    }
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
    cluster.settle(&bob, "m-1", Settlement::Acked);
    cluster.run(seconds(1));
    assert_eq!(cluster.view("agni").copies + cluster.view("rushabdev").copies, 0);
}

#[test]
fn the_second_copy_is_delivered_when_the_first_machine_stays_away() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.submit(&alice, Head { copies: 2, ..durable(&alice, "bob", "m-1") });
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-1"), [State::Accepted, State::Stored]);
    cluster.cut("agni", "dc");
    cluster.cut("agni", "rushabdev");
    let moved = cluster.register("rushabdev", "bob");
    cluster.run(seconds(90));
    assert_eq!(cluster.handings(&moved).len(), 1);
    assert!(cluster.handings(&moved)[0].1.redelivered, "the first machine may have delivered it");
    cluster.settle(&moved, "m-1", Settlement::Acked);
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Acked));
    cluster.connect("agni", "dc");
    cluster.connect("agni", "rushabdev");
    cluster.run(seconds(40));
    assert_eq!(cluster.handings(&moved).len(), 1);
    assert_eq!((cluster.view("agni").mailbox, cluster.view("agni").outbox), (0, 0));
}

#[test]
fn an_unknown_recipient_is_refused_unless_a_mailbox_is_asked_for() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.post(&alice, "nobody", "m-1");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Refused]);
    assert_eq!(cluster.refusals(&alice), [Code::UnknownRecipient]);
    cluster.submit(&alice, Head { create: true, ..durable(&alice, "nobody", "m-2") });
    cluster.run(seconds(1));
    assert_eq!(cluster.states(&alice, "m-2"), [State::Accepted, State::Stored]);
    let nobody = cluster.register("agni", "nobody");
    cluster.run(seconds(1));
    assert_eq!(cluster.handings(&nobody).len(), 1);
}

#[test]
fn a_disk_that_refuses_ends_acceptance_and_nothing_else() {
    // covers Q04
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    cluster.away("agni", "bob");
    cluster.disk("dc", Disk::Fails);
    cluster.cut("dc", "agni");
    cluster.cut("dc", "rushabdev");
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.states(&alice, "m-1"), [State::Refused]);
    assert_eq!(cluster.refusals(&alice), [Code::Unavailable]);
    cluster.disk("dc", Disk::Works);
    cluster.post(&alice, "bob", "m-1");
    assert_eq!(cluster.states(&alice, "m-1").last(), Some(&State::Accepted));
}

#[test]
fn a_loop_of_answers_is_stopped_with_a_reason() {
    // covers Q05
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.submit(&alice, durable(&alice, "bob", "m-0"));
    for n in 1..2_000 {
        let (from, to) = if n % 2 == 1 { (&bob, "alice") } else { (&alice, "bob") };
        let reply_to = Some(MessageId::new(&format!("m-{}", n - 1)).unwrap());
        cluster.run(Duration::from_millis(30));
        cluster.settle(from, &format!("m-{}", n - 1), Settlement::Acked);
        cluster.submit(from, Head { reply_to, ..durable(from, to, &format!("m-{n}")) });
        if cluster.refusals(from).contains(&Code::LoopStopped) {
            assert!((1_000..1_010).contains(&n), "{n}");
            return;
        }
        cluster.forget_but_last();
    }
    panic!("the loop goes on");
}

#[test]
fn the_bytes_in_a_sessions_hands_are_bounded_too() {
    // covers B08, Q06
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    for n in 0..4 {
        let head = durable(&alice, "bob", &format!("m-{n}"));
        cluster.frame(&alice, Frame::Submit(alice.session, head, Bytes::from(vec![b'x'; 3 << 20])));
        cluster.run(seconds(1));
    }
    assert_eq!(cluster.handings(&bob).len(), 2, "of 8 MiB");
    cluster.settle(&bob, "m-0", Settlement::Acked);
    assert_eq!(cluster.handings(&bob).len(), 3);
}

#[test]
fn what_waited_in_a_store_is_marked_until_another_node_knows_its_latest_life() {
    // covers B26, Q04
    for (meets_others, marked) in [(false, true), (true, false)] {
        let mut cluster = Cluster::meshed(&TRIO);
        let alice = cluster.register("agni", "alice");
        cluster.away("dc", "bob");
        cluster.post(&alice, "bob", "m-1");
        cluster.restart("dc");
        if meets_others {
            cluster.connect("dc", "agni");
            cluster.run(seconds(3));
        }
        let bob = cluster.register("dc", "bob");
        cluster.run(seconds(1));
        assert_eq!(cluster.handings(&bob)[0].1.redelivered, marked);
    }
}
