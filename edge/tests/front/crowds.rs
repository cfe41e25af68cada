//! Too many at once, and a stop with many clients.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as WsError;
use trishula::rt::clock;

use crate::clients::{connect, no_certificate};
use crate::support::{World, soon, token};

#[tokio::test]
async fn the_echo_has_the_limits_of_its_service() {
    // covers B09
    let bearer = format!("Bearer {}", token("dc"));
    let headers = &[("authorization", bearer.as_str())][..];
    let world = World::start_with("echo = true\nmax_connections = 1\nmessage_rate_limit = 2").await;
    let mut client = world.upgrade("/echo", headers).await.unwrap().0;
    client.say(json!(1)).await;
    assert_eq!(client.hear().await, 1);
    match world.upgrade("/echo", headers).await {
        Err(WsError::Http(answer)) => assert_eq!(answer.status(), 503),
        _ => panic!("there was no room"),
    }
    for n in 0..4 {
        client.say(json!(n)).await;
    }
    assert_eq!(client.closed().await.0, 4029);
    let world = World::start_with("echo = true\nconnection_timeout_s = 1").await;
    let mut silent = world.upgrade("/echo", headers).await.unwrap().0;
    assert_eq!(silent.closed().await, (1001, "idle".into()));
}

#[tokio::test]
async fn an_address_has_only_so_many_connections_that_are_not_in_yet() {
    // covers B09, B19
    const AT_LEAST: usize = 64;
    // This machine itself has a limit only where the operator says so.
    let world = World::start_with("max_connections_per_address = 3\nhandshake_timeout_ms = 600000").await;
    let mut client = world.registered("dc").await;
    let mut half_open = Vec::new();
    for _ in 0..AT_LEAST {
        let mut socket = TcpStream::connect(world.address()).await.unwrap();
        // The beginning of a TLS record.
        socket.write_all(&[0x16, 3, 1]).await.unwrap();
        half_open.push(socket);
    }
    let mut more = TcpStream::connect(world.address()).await.unwrap();
    assert!(matches!(soon(more.read(&mut [0])).await, Ok(0) | Err(_)), "it is not even listened to");
    client.say(json!({"type": "REGISTER"})).await;
    assert_eq!(client.hear().await["type"], "REGISTERED", "who is in stays in");
    drop(half_open.pop());
    let at = clock::now();
    while connect(world.address(), no_certificate(&world.machine)).await.is_err() {
        assert!(clock::since(at) < Duration::from_secs(20), "there is a place again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let trusting = "max_connections_per_address = 3\nproxy = { trusted = [\"127.0.0.1\"] }";
    let world = World::start_with(trusting).await;
    let mut half_open = Vec::new();
    for _ in 0..=AT_LEAST {
        half_open.push(TcpStream::connect(world.address()).await.unwrap());
    }
    drop(world.tls().await);
}

#[tokio::test]
async fn many_clients_of_a_stop_come_back_one_after_the_other() {
    // covers B12, B27 11
    let world = World::start().await;
    let mut clients = Vec::new();
    for n in 0..60 {
        clients.push(world.registered(&format!("agent-{n}")).await);
    }
    let stop = world.edge.stop(Duration::from_secs(5));
    let told = async {
        let mut told = Vec::new();
        for client in &mut clients {
            let (code, reason) = client.closed().await;
            assert_eq!(code, 1012);
            told.push(reason.strip_prefix("retry_after_ms=").unwrap().parse::<u64>().unwrap());
        }
        told
    };
    let (mut told, ()) = tokio::join!(told, soon(stop));
    told.sort_unstable();
    println!("told to come back after: {told:?} ms");
    assert!(told[0] >= 500 && told[59] <= 3000);
    // By chance all over the 2.5 s: no half second without anybody, none with half of them.
    for slot in 0..5 {
        let (from, to) = (500 + slot * 500, 1000 + slot * 500);
        let here = told.iter().filter(|ms| (from..to + u64::from(slot == 4)).contains(ms)).count();
        assert!((1..30).contains(&here), "{here} of 60 from {from} to {to} ms: {told:?}");
    }
}
