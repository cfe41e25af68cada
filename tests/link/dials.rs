//! Whom to keep a link to: addresses that are dead keep nobody from those that are not.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use tokio::sync::watch;
use trishula::link::dial::{self, Target};
use trishula::link::early;
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
