//! How many connections there may be: of a service, of an address, and in all.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Error as WsError;

use crate::serving::*;
use crate::support::*;

#[tokio::test]
async fn a_full_service_is_nothing_to_others_of_its_port() {
    // covers B01, B09
    let at = free_port();
    let world = serving(&format!(
        "[[service]]\npreset = \"trishula\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\nmax_connections = 1\n\
         refuse = \"http\"\n\
         [[service]]\npreset = \"session-buddy\"\nlisten = [\"{at}\"]\nsecret_file = \"other\"\n"
    ))
    .await;
    let hello = json!({"token": signed(OTHER, claims("u1", &[]))});
    let mut first = old(&world).await;
    first.say(hello.clone()).await;
    assert_eq!(first.hear().await["type"], "connected");
    // It has room of its own service only, so there is some at the other.
    let mut ours = old(&world).await;
    ours.say(json!({"type": "auth", "token": token("dc")})).await;
    assert_eq!(ours.hear().await["type"], "AUTHENTICATED");
    // That one is full now, which is nothing to clients of this.
    let mut second = old(&world).await;
    second.say(hello).await;
    assert_eq!(second.hear().await["type"], "connected");
    let mut more = old(&world).await;
    more.say(json!({"type": "auth", "token": token("dc")})).await;
    assert_eq!(more.closed().await.0, 1013);
    let named = connect(&world, at, "localhost", &[("sec-websocket-protocol", "trishula.v2+json")]).await;
    match named {
        Err(WsError::Http(answer)) => assert_eq!(answer.status(), 503, "who asks by name means it"),
        _ => panic!("it was let in"),
    }
}

#[tokio::test]
async fn connections_in_all_are_limited_and_each_port_tells_who_finds_no_room() {
    // covers B09
    let ports = [free_port(), free_port()];
    let services = ports.iter().zip(["trishula", "dhruva"]).map(|(at, name)| {
        format!("[[service]]\npreset = \"{name}\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n")
    });
    let world = serving(&format!("[edge]\nmax_connections = 3\n{}", services.collect::<String>())).await;
    let bearer = format!("Bearer {}", token("dc"));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let ours = async || connect(&world, ports[0], "localhost", &headers).await;
    let theirs = async || {
        let mut client = connect(&world, ports[1], "localhost", &[]).await.unwrap();
        client.say(auth(&signed(SECRET, claims("u1", &[])))).await;
        (client.hear().await, client)
    };
    let mut held = vec![ours().await.unwrap()];
    for _ in 0..2 {
        let (heard, client) = theirs().await;
        assert_eq!(heard["status"], "authenticated", "{heard}");
        held.push(client);
    }
    // Both services have room, and the edge has none: it says so at once, on each port in its way, as often as it is asked.
    let before = counted("trishula_edge_refused_total", "\"all_full\"");
    for _ in 0..2 {
        match ours().await {
            Err(WsError::Http(answer)) => assert_eq!(answer.status(), 503),
            other => panic!("{:?}", other.map(|_| "let in")),
        }
        let mut full = connect(&world, ports[1], "localhost", &[]).await.unwrap();
        assert_eq!(full.hear().await["error_message"], "Server at maximum capacity");
        assert_eq!(full.closed().await.0, 1013);
    }
    assert_eq!(counted("trishula_edge_refused_total", "\"all_full\""), before + 4);
    // A seat that comes free on one port is one on the other.
    drop(held.remove(0));
    for turn in 0.. {
        let (heard, client) = theirs().await;
        if heard["status"] == "authenticated" {
            held.push(client);
            break;
        }
        assert!(turn < 100, "no room came free: {heard}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ours().await.is_err());
}

#[tokio::test]
async fn who_finds_no_room_is_told_after_the_upgrade_or_by_a_status() {
    // covers B09, B19
    let world = serving(&preset("mahavishnu", "max_connections = 1")).await;
    let first = greeted(&world, &[]).await;
    let before = counted("trishula_edge_refused_total", "\"full\"");
    let mut second = old(&world).await;
    let told = second.hear().await;
    assert_eq!(
        (&told["type"], &told["error_message"]),
        (&json!("error"), &json!("Server at maximum capacity"))
    );
    assert_eq!(second.closed().await.0, 1013);
    assert!(counted("trishula_edge_refused_total", "\"full\"") > before);
    drop(first);
    until_let_in(&world).await;

    let world = serving(&preset("trishula", "max_connections = 1")).await;
    let _first = world.registered("dc").await;
    match world.upgrade("/ws", &[]).await {
        Err(WsError::Http(answer)) => {
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["retry-after"]),
                (503, &"1".parse().unwrap())
            );
        }
        other => panic!("{:?}", other.map(|_| "let in")),
    }
}

/// Room is free again a moment after a client is gone.
async fn until_let_in(world: &World) {
    for _ in 0..100 {
        let mut client = old(world).await;
        client.say(auth(&signed(SECRET, claims("u1", &[])))).await;
        if client.hear().await["type"] == "response" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("no room came free");
}

#[tokio::test]
async fn one_address_gets_no_more_connections_than_its_share() {
    // covers B09
    let world = serving(&preset("trishula", "max_connections_per_address = 2")).await;
    let (_one, _two) = (world.registered("a").await, world.registered("b").await);
    match world.upgrade("/ws", &[]).await {
        Err(WsError::Http(answer)) => assert_eq!(answer.status().as_u16(), 429),
        other => panic!("{:?}", other.map(|_| "let in")),
    }
}
