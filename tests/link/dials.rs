//! Whom to keep a link to: addresses that are dead keep nobody from those that are not.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use tokio::sync::watch;
use trishula::link::dial::{self, Target};
use trishula::link::early::{self, Begun};
use trishula::link::{Event, quic};
use trishula::rt::tasks;

use crate::ends::{admitted, endpoint, local, next, node};

/// Ten times the head start of an address, and less than it may take.
const SOON: Duration = Duration::from_millis(2_500);

// covers Q01
#[tokio::test]
async fn a_node_whose_first_address_is_silent_is_reached_by_the_next() {
    let ((ours, mut heard), (theirs, _theirs_heard)) = (local("agni"), local("dc"));
    let (to, from) = (endpoint(&ours), endpoint(&theirs));
    let there = to.local_addr().unwrap().to_string();
    let _accept = tasks::spawn("test.accept", async move {
        let mut links = tasks::Group::default();
        while let Some(incoming) = to.accept().await {
            let Ok((connection, begun)) = early::accept(incoming.accept().unwrap()).await else { continue };
            let (ours, expected) = (ours.clone(), admitted(&ours, &connection));
            links.spawn("test.link", async move { quic::run(&ours, connection, expected, begun).await });
        }
    });
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addresses = vec![silent.local_addr().unwrap().to_string(), there];
    let target = Target { name: Some(node("agni")), addresses };
    let (_links, connected) = watch::channel(BTreeSet::new());
    let _dialler = dial::keep(theirs, from, target, connected);
    let up = async { while !matches!(next(&mut heard).await, Event::Up { .. }) {} };
    tokio::time::timeout(SOON, up).await.expect("the second address was not waited for");
}

// covers T02, Q01
#[tokio::test]
async fn an_address_that_is_another_nodes_by_now_costs_no_early_data() {
    let (ours, mut heard) = local("agni");
    let (other, _other_heard) = local("rushabdev");
    let (theirs, _theirs_heard) = local("dc");
    [&ours, &theirs].iter().for_each(|local| local.allow_early_data());
    let (to, elsewhere, from) = (endpoint(&ours), endpoint(&other), endpoint(&theirs));
    let addresses = [&elsewhere, &to].map(|endpoint| endpoint.local_addr().unwrap().to_string()).to_vec();
    let _refuse = tasks::spawn("test.refuse", async move {
        while let Some(incoming) = elsewhere.accept().await {
            let _refused = incoming.await;
        }
    });
    let (resumed, mut began) = tokio::sync::mpsc::unbounded_channel();
    let _accept = tasks::spawn("test.accept", async move {
        let mut links = tasks::Group::default();
        while let Some(incoming) = to.accept().await {
            let Ok((connection, begun)) = early::accept(incoming.accept().unwrap()).await else { continue };
            resumed.send((connection.clone(), matches!(begun, Begun::Accepting(_)))).unwrap();
            let (ours, expected) = (ours.clone(), admitted(&ours, &connection));
            links.spawn("test.link", async move { quic::run(&ours, connection, expected, begun).await });
        }
    });
    let target = Target { name: Some(node("agni")), addresses };
    let (_links, connected) = watch::channel(BTreeSet::new());
    let _dialler = dial::keep(theirs, from, target, connected);
    for (time, expected) in [false, true, true].into_iter().enumerate() {
        while !matches!(next(&mut heard).await, Event::Up { .. }) {}
        let (connection, resumed) = began.recv().await.unwrap();
        assert_eq!(resumed, expected, "connection {time}");
        connection.close(0u32.into(), b"again");
    }
}
