//! Pages of origins that may not connect: told by a status or by a close, as the service refuses.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::TcpListener;

use serde_json::{Value, json};
use support::*;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use trishula::metrics;
use trishula::rt::clock;

const LISTED: &str = "http = { origins = [\"https://example.com\"] }";
const EVIL: &[(&str, &str)] = &[("origin", "https://evil.example.net")];
const GOOD: &[(&str, &str)] = &[("origin", "https://example.com")];

fn service(lines: &str, at: &str, more: &str) -> String {
    format!("[[service]]\n{lines}\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n{LISTED}\n{more}\n")
}

fn refused() -> u64 {
    metrics::EDGE_REFUSED.with_label_values(&["origin"]).get()
}

/// A status, or the frames before the close and its code.
async fn told(world: &World, path: &str) -> Result<(Vec<Value>, u16), u16> {
    let token = token("dc");
    let path = format!("{path}?token={token}");
    match world.upgrade(&path, EVIL).await {
        Err(WsError::Http(answer)) => Err(answer.status().as_u16()),
        Err(e) => panic!("{e}"),
        Ok((mut client, _)) => {
            let mut frames = Vec::new();
            loop {
                match soon(futures_util::StreamExt::next(&mut client.socket)).await {
                    Some(Ok(Message::Text(text))) => frames.push(serde_json::from_str(&text).unwrap()),
                    Some(Ok(Message::Close(Some(close)))) => return Ok((frames, close.code.into())),
                    other => panic!("{other:?}"),
                }
            }
        }
    }
}

#[tokio::test]
async fn a_page_that_may_not_connect_is_told_as_its_service_refuses() {
    // covers B02, B10, B17
    let at = "127.0.0.1:0";
    let before = refused();
    let ours = "name = \"trishula\"";
    let world = World::serving(&service(ours, at, "refuse = \"http\"")).await;
    assert_eq!(told(&world, "/ws").await, Err(403));
    let world = World::serving(&service(ours, at, "refuse = \"close\"\necho = true")).await;
    assert_eq!(told(&world, "/ws").await, Ok((Vec::new(), 4403)));
    assert_eq!(told(&world, "/echo").await, Err(403), "nothing of the echo's is a frame of ours");
    let world = World::serving(&service("preset = \"mahavishnu\"", at, "")).await;
    let (frames, code) = told(&world, "/").await.unwrap();
    assert_eq!((frames.len(), code), (1, 1008), "{frames:?}");
    assert_eq!(frames[0]["error_code"], "FORBIDDEN", "{frames:?}");
    let world = World::serving(&service("preset = \"session-buddy\"", at, "")).await;
    assert_eq!(told(&world, "/").await, Ok((Vec::new(), 4001)));
    // The other test here counts as well.
    assert!(refused() >= before + 5, "{before} and {}", refused());
    // Others come in.
    let mut client = world.upgrade("/", GOOD).await.unwrap().0;
    let exp = clock::wall_ms() / 1000 + 600;
    client.say(json!({"token": signed(SECRET, json!({"user_id": "u1", "exp": exp}))})).await;
    assert_eq!(client.hear().await["type"], "connected");
}

#[tokio::test]
async fn on_a_port_of_several_no_first_frame_lets_it_in() {
    // covers B01, B10
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let open = "[[service]]\npreset = \"session-buddy\"\nauth = false\n";
    let open = format!("{open}listen = [\"{at}\"]\n");
    let world = World::serving(&(service("name = \"trishula\"", &at, "refuse = \"http\"") + &open)).await;
    let mut page = world.upgrade("/", EVIL).await.unwrap().0;
    assert_eq!(page.closed().await.0, 4403, "by a close, as its first frame would have told the service");
}

#[tokio::test]
async fn the_service_that_its_first_frame_means_is_asked_as_well() {
    // covers B01, B10
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let ours = format!("[[service]]\nname = \"trishula\"\nlisten = [\"{at}\"]\nsecret_file = \"secret\"\n");
    let world = World::serving(&(ours + &service("preset = \"session-buddy\"", &at, ""))).await;
    let exp = clock::wall_ms() / 1000 + 600;
    let login = json!({"token": signed(SECRET, json!({"user_id": "u1", "exp": exp}))});
    let mut page = world.upgrade("/", EVIL).await.unwrap().0;
    page.say(login.clone()).await;
    assert_eq!(page.closed().await.0, 4001);
    let mut page = world.upgrade("/", GOOD).await.unwrap().0;
    page.say(login).await;
    assert_eq!(page.hear().await["type"], "connected");
}
