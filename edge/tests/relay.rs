//! `/mesh`: bytes of other nodes, to the node's socket and back, and to nothing else.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use futures_util::StreamExt;
use support::{Client, World, soon};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// An edge with a node that listens for relays.
async fn world(more: &str) -> (World, UnixListener) {
    let folder = tempfile::tempdir().unwrap();
    // It lasts as long as the process: the socket lies in it.
    let path = folder.keep().join("relay.sock");
    let world =
        World::start_with(&format!("[relay]\nsocket = {:?}\n{more}", path.display().to_string())).await;
    (world, UnixListener::bind(&path).unwrap())
}

/// What the node gets: the first line, and the connection behind it.
async fn taken(node: &UnixListener) -> (String, BufReader<UnixStream>) {
    let mut stream = BufReader::new(soon(node.accept()).await.unwrap().0);
    let mut line = String::new();
    soon(stream.read_line(&mut line)).await.unwrap();
    (line, stream)
}

async fn relayed(world: &World) -> Client {
    world.upgrade("/mesh", &[]).await.unwrap().0
}

async fn refused(world: &World, path: &str) -> (u16, String) {
    match world.upgrade(path, &[]).await {
        Err(WsError::Http(answer)) => {
            let after = answer.headers().get("retry-after").map(|v| v.to_str().unwrap().to_owned());
            (answer.status().as_u16(), after.unwrap_or_default())
        }
        other => panic!("{path} is not refused: {:?}", other.map(|_| ())),
    }
}

#[tokio::test]
async fn bytes_go_to_the_node_and_back_as_they_are_and_both_ends_hear_of_the_end() {
    // covers Q01
    let (world, node) = world("").await;
    let mut peer = relayed(&world).await;
    let (line, mut stream) = taken(&node).await;
    assert!(line.starts_with("PROXY TCP4 127.0.0.1 ") && line.ends_with("\r\n"), "{line}");
    for part in [&b"one"[..], &[0, 255, 13, 10], &vec![7; 100_000]] {
        peer.send(Message::binary(part.to_vec())).await;
        let mut got = vec![0; part.len()];
        soon(stream.read_exact(&mut got)).await.unwrap();
        assert_eq!(got, part);
        stream.write_all(part).await.unwrap();
        let mut back = Vec::new();
        while back.len() < part.len() {
            match soon(peer.socket.next()).await.unwrap().unwrap() {
                Message::Binary(bytes) => back.extend_from_slice(&bytes),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(back, part);
    }
    // The node's last word still arrives, and then the end.
    stream.write_all(b"bye").await.unwrap();
    drop(stream);
    assert_eq!(soon(peer.socket.next()).await.unwrap().unwrap(), Message::binary(&b"bye"[..]));
    assert!(matches!(soon(peer.socket.next()).await, Some(Ok(Message::Close(_))) | None));

    let peer = relayed(&world).await;
    let (_, mut stream) = taken(&node).await;
    drop(peer);
    assert_eq!(soon(stream.read(&mut [0; 10])).await.unwrap(), 0);
    // Text is not for relays.
    let mut peer = relayed(&world).await;
    let (_, mut stream) = taken(&node).await;
    peer.send(Message::text("{\"type\":\"REGISTER\"}")).await;
    assert_eq!(soon(stream.read(&mut [0; 10])).await.unwrap(), 0);
}

#[tokio::test]
async fn there_are_only_so_many_of_one_address_and_a_place_that_is_free_is_given_again() {
    // covers Q01, B09
    let (world, node) = world("max_relays = 8\n").await;
    let first = relayed(&world).await;
    let (_, _first_node) = taken(&node).await;
    let _second = relayed(&world).await;
    let (_, _second_node) = taken(&node).await;
    assert_eq!(refused(&world, "/mesh").await, (503, "1".into()), "a quarter of them is the most");
    drop(first);
    // The edge notices in its own time.
    let mut again = None;
    for _ in 0..1000 {
        again = world.upgrade("/mesh", &[]).await.ok();
        if again.is_some() {
            break;
        }
    }
    assert!(again.is_some());
    let _still_served = world.registered("dc").await;
}

#[tokio::test]
async fn without_a_node_or_where_it_is_off_nothing_is_relayed_and_no_other_path_leads_there() {
    // covers T24, Q01
    let (world, node) = world("").await;
    for path in ["/mesh/", "/mesh/x", "/Mesh", "/relay.sock", "//mesh"] {
        assert_eq!(refused(&world, path).await.0, 404, "{path}");
    }
    let (status, _, body) = world.get("GET /mesh HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!((status, &body["code"]), (426, &"bad_frame".into()));
    drop(node);
    assert_eq!(refused(&world, "/mesh").await, (503, "1".into()));
    let off = World::start_with("[relay]\nserve = false\n").await;
    assert_eq!(refused(&off, "/mesh").await.0, 404);
    let mut session = off.registered("dc").await;
    session.socket.close(None).await.unwrap();
}
