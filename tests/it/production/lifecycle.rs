//! Classes lifecycle, degradation and upgrade, as far as nothing is kept: 10 to 12, 15 to 17, 22.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Old, SOON, Site, Stage, active, run, within};
use crate::harness::until;

/// `GET /health` over TLS, at the port of a service.
async fn health(site: &Site) -> String {
    let mut stream = site.door.tls().await.expect("the edge takes a client");
    let request = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    // Servers end TLS as they like.
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8(answer).unwrap()
}

// covers B20, B27 10, B27 22
#[test]
fn a_first_start_with_nothing_but_its_configuration_listens_is_healthy_serves_and_stops() {
    let mut stage = Stage::prepare(&["agni"], &["mahavishnu"], "");
    let data = stage.machine("agni").folder.join("data");
    assert!(!data.exists(), "nothing is there yet");
    let machine = stage.machine("agni");
    machine.start_node();
    machine.start_edge();
    stage.mesh.wait_whole();
    assert!(data.exists());
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let answer = health(&site).await;
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("\"healthy\""), "{answer}");
        site.greeted("u1", &["read"]).await.is_answered().await;
    });
    let machine = stage.machine("agni");
    assert_eq!(machine.edge.as_mut().unwrap().stop(), Some(0));
    assert_eq!(machine.node.as_mut().unwrap().stop(), Some(0));
}

// covers B12, B31, B27 11, B27 16
#[test]
fn a_stop_closes_every_client_with_1012_and_the_same_port_serves_again() {
    let mut stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let mut clients = Vec::new();
        for n in 0..5 {
            clients.push(site.greeted(&format!("u{n}"), &["read"]).await);
        }
        stage.machine("agni").edge.as_ref().unwrap().signal("TERM");
        for client in &mut clients {
            assert_eq!(client.closed().await, 1012);
        }
    });
    let machine = stage.machine("agni");
    assert_eq!(machine.edge.as_mut().unwrap().wait(), Some(0));
    let began = Instant::now();
    machine.start_edge();
    until("the edge is back", || machine.sees_whole(1));
    run(async { site.greeted("u1", &["read"]).await.is_answered().await });
    eprintln!("B27 16: stopped, and a client was greeted at the same port after {:?}", began.elapsed());
}

/// How long it takes until a connection to the port is refused by the system; one that is let in or hangs is a failure.
async fn refused(port: u16) -> Duration {
    let began = Instant::now();
    let connected = tokio::net::TcpStream::connect(("127.0.0.1", port));
    let outcome = tokio::time::timeout(SOON, connected).await.expect("it hangs");
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    began.elapsed()
}

// covers B31, B27 15
#[test]
fn who_connects_to_an_edge_that_stops_or_is_killed_is_refused_at_once() {
    let mut stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        // It does not take the goodbye, so that the edge waits for it.
        let _deaf = site.greeted("u1", &["read"]).await;
        let edge = stage.machine("agni").edge.as_mut().unwrap();
        edge.signal("TERM");
        let began = Instant::now();
        while tokio::net::TcpStream::connect(("127.0.0.1", site.port)).await.is_ok() {
            assert!(began.elapsed() < SOON, "it still takes connections");
        }
        let took = refused(site.port).await;
        assert!(edge.runs(), "it is refused while the edge still waits for others");
        eprintln!("B27 15: while it stops, refused after {took:?}");
    });
    let machine = stage.machine("agni");
    assert_eq!(machine.edge.as_mut().unwrap().wait(), Some(0));
    machine.start_edge();
    until("the edge is back", || machine.sees_whole(1));
    machine.edge.as_mut().unwrap().kill();
    let took = run(refused(site.port));
    eprintln!("B27 15: after a kill, refused after {took:?}");
}

// covers B21, B27 12
#[test]
fn ten_clients_are_counted_and_none_once_they_have_left() {
    let mut stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    let machine = stage.machine("agni");
    assert_eq!(active(machine, "mahavishnu"), 0);
    run(async {
        let mut clients = Vec::new();
        for n in 0..10 {
            clients.push(site.greeted(&format!("u{n}"), &["read"]).await);
        }
        assert_eq!(active(machine, "mahavishnu"), 10);
        for client in clients {
            client.leave().await;
        }
    });
    let took = until("all are counted as gone", || active(machine, "mahavishnu") == 0);
    within("B27 12: 10 clients counted as gone after", took, Duration::from_millis(100));
}

/// As a process that is killed with its socket full: a reset, and no word.
fn resets(client: Old) {
    let tcp = socket2::SockRef::from(client.socket.get_ref().get_ref().0);
    tcp.set_linger(Some(Duration::ZERO)).unwrap();
}

/// In the middle of a message of 4 KiB.
async fn breaks_off(mut client: Old) {
    let stream = client.socket.get_mut();
    stream.write_all(&[0x81, 0xfe, 0x10, 0x00, 1, 2, 3, 4, 5]).await.unwrap();
    stream.flush().await.unwrap();
}

// covers B08, B31, B27 17
#[test]
fn three_of_five_clients_go_each_in_a_bad_way_and_the_others_notice_nothing() {
    let mut stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    let machine = stage.machine("agni");
    run(async {
        let mut clients = Vec::new();
        for n in 0..5 {
            let mut client = site.greeted(&format!("u{n}"), &["pool:read"]).await;
            client.must_subscribe("pool:p1").await;
            clients.push(client);
        }
        clients.pop().unwrap().leave().await;
        resets(clients.pop().unwrap());
        breaks_off(clients.pop().unwrap()).await;
        // Said while they go, and once more when they are gone.
        for gone in [false, true] {
            if gone {
                until("the three are counted as gone", || active(machine, "mahavishnu") == 2);
            }
            let mut service = site.ours("service", &[], json!({})).await;
            let payload = json!({"event": "pool.scaled", "data": {"gone": gone}});
            service.say(json!({"type": "PUBLISH", "to": "room:pool:p1", "payload": payload})).await;
            for client in &mut clients {
                let event = client.hear().await;
                assert_eq!(event["data"], json!({"gone": gone}), "{event}");
                client.say(json!({"type": "ping"})).await;
                assert_eq!(client.hear().await["type"], "pong");
            }
            service.leave().await;
        }
    });
}
