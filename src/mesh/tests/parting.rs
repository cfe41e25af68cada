//! Sessions whose entrance takes them to another node in good order.

use super::cluster::*;
use super::durable::TRIO;
use crate::wire::frame::{Attach, Frame, Settlement};

impl Cluster {
    /// Its entrance says that a session goes.
    fn part(&mut self, client: &Client) {
        let attach = Attach {
            session: client.session,
            agent: client.agent.clone(),
            capabilities: Vec::new(),
            shared: false,
            registered_ms: 0,
            resumed: true,
            window: 0,
            transient: false,
        };
        self.frame(client, Frame::Attach(attach));
        self.run(seconds(1));
    }

    /// With which time of its registration the node answered last.
    fn registered_ms(&self, client: &Client) -> u64 {
        let answers = self.got(client).into_iter().filter_map(|frame| match frame {
            Frame::Attached(_, registered_ms) => Some(*registered_ms),
            _ => None,
        });
        answers.last().expect("an answer")
    }
}

// covers T09, Q02, Q04
#[test]
fn a_session_that_parts_gets_no_more_and_is_answered_when_all_is_settled() {
    let mut cluster = Cluster::meshed(&TRIO);
    let alice = cluster.register("dc", "alice");
    let bob = cluster.register("agni", "bob");
    cluster.post(&alice, "bob", "m-1");
    cluster.post(&alice, "bob", "m-2");
    let answers = |cluster: &Cluster| {
        let got = cluster.got(&bob).into_iter();
        got.filter(|frame| matches!(frame, Frame::Attached(..))).count()
    };
    let before = answers(&cluster);
    cluster.part(&bob);
    cluster.post(&alice, "bob", "m-3");
    cluster.settle(&bob, "m-1", Settlement::Acked);
    assert_eq!((cluster.handings(&bob).len(), answers(&cluster)), (2, before), "m-2 is in its hands");
    cluster.settle(&bob, "m-2", Settlement::Acked);
    assert_eq!((cluster.handings(&bob).len(), answers(&cluster)), (2, before + 1));
    // What waited comes at the other node, once and unmarked; nothing else comes.
    let registered_ms = Some(cluster.registered_ms(&bob) + 1);
    let there = cluster.attach("dc", "bob", As { registered_ms, resumed: true, ..PLAIN });
    cluster.run(seconds(5));
    let handings = cluster.handings(&there);
    assert_eq!(handings.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>(), ["m-3"]);
    assert_eq!(cluster.handings(&bob).len(), 2);
}
