//! What every carrier must do; a new one is one more name in the list.

use bytes::Bytes;
use trishula::link::Event;
use trishula::wire::close::LinkClose;
use trishula::wire::frame::Frame;

use crate::ends::{frame, id_of, joined, kept_in_memory, message, next, up};

const CARRIERS: [&str; 4] = ["quic", "wss", "unix", "memory"];

// covers T01, T02
#[tokio::test]
async fn frames_arrive_whole_and_a_flow_keeps_its_order() {
    for carrier in CARRIERS {
        let mut link = joined(carrier).await;
        let (_, to_b) = up(&mut link.a).await;
        let (peer, _to_a) = up(&mut link.b).await;
        assert_eq!(peer.node.as_str(), "agni", "{carrier}: the end that dialled says who it is");
        assert_eq!(to_b.carrier(), carrier);
        // Sizes that lie within a chunk, that span two, and that are more than a write gathers.
        let payload = |n: usize| Bytes::from(vec![n as u8; [10, 5_000, 70_000, 300_000][n % 4]]);
        let sender = async {
            for n in 0..60 {
                to_b.send(&message("a", "b", n, 3, payload(n))).await.unwrap();
            }
        };
        let receiver = async {
            for n in 0..60 {
                let got = frame(&mut link.b).await;
                assert_eq!(id_of(&got), format!("m-{n}"), "{carrier}");
                let Frame::Deliver(_, got) = got else { unreachable!() };
                assert_eq!(got, payload(n), "{carrier}: the payload of {n}");
            }
        };
        tokio::join!(sender, receiver);
    }
}

// covers T02
#[tokio::test]
async fn both_ends_hear_of_the_end_and_why() {
    for carrier in CARRIERS {
        let mut link = joined(carrier).await;
        let (_, to_b) = up(&mut link.a).await;
        let (_, _to_a) = up(&mut link.b).await;
        to_b.close(LinkClose::Silent, "nothing was heard");
        for heard in [&mut link.a, &mut link.b] {
            let event = next(heard).await;
            let Event::Down { why, .. } = event else { panic!("{carrier}: {event:?}") };
            assert!(!why.is_empty(), "{carrier}");
        }
        to_b.closed().await;
        assert!(to_b.send(&Frame::Ping(1)).await.is_err(), "{carrier}: a closed link takes nothing");
    }
}

// covers Q01
#[tokio::test]
async fn a_frame_leaves_at_once_and_what_is_urgent_overtakes_what_is_large() {
    for carrier in ["quic", "wss"] {
        let mut link = joined(carrier).await;
        let (_, to_b) = up(&mut link.a).await;
        let (_, to_a) = up(&mut link.b).await;
        // One at a time: none may wait for the next one to push it.
        for n in 0..20 {
            to_b.send(&Frame::Ping(n)).await.unwrap();
            assert_eq!(frame(&mut link.b).await, Frame::Ping(n), "{carrier}");
            to_a.send(&Frame::Pong(n, 0)).await.unwrap();
            assert_eq!(frame(&mut link.a).await, Frame::Pong(n, 0), "{carrier}");
        }
        let large = Bytes::from(vec![1; 12 << 20]);
        to_b.send(&message("a", "b", 1, 3, large)).await.unwrap();
        to_b.send(&message("a", "b", 2, 1, Bytes::from_static(b"{}"))).await.unwrap();
        assert_eq!(id_of(&frame(&mut link.b).await), "m-2", "{carrier}: the urgent one first");
        assert_eq!(id_of(&frame(&mut link.b).await), "m-1", "{carrier}");
    }
}

// covers T02, T09
#[tokio::test]
async fn a_link_within_a_process_comes_back_until_the_process_stops() {
    let mut link = kept_in_memory();
    for code in [LinkClose::Silent, LinkClose::Duplicate, LinkClose::Stopping] {
        let (_, to_b) = up(&mut link.a).await;
        let (_, _to_a) = up(&mut link.b).await;
        to_b.send(&Frame::Ping(7)).await.unwrap();
        assert!(matches!(frame(&mut link.b).await, Frame::Ping(7)));
        to_b.close(code, "for the test");
        for heard in [&mut link.a, &mut link.b] {
            let event = next(heard).await;
            assert!(matches!(&event, Event::Down { link, .. } if *link == to_b.id()), "{event:?}");
        }
    }
    assert!(link.a.recv().await.is_none() && link.b.recv().await.is_none(), "it stopped, and came back");
}
