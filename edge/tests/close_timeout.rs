//! `close_timeout`: how long a client may take with its half of a close.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::Value;
use support::*;
use tokio_tungstenite::tungstenite::Message;

/// Open WebSockets, as the edge tells them.
async fn open(world: &World) -> u64 {
    let health = world.get("GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.2;
    let Value::Number(number) = &health["metrics"]["active_connections"] else { panic!("{health}") };
    number.as_u64().unwrap()
}

/// How long after the close of a session that another takes over its connection is let go, whose client answers nothing.
async fn let_go(close_timeout: u64) -> Duration {
    let world = World::start_with(&format!("close_timeout = {close_timeout}")).await;
    let mut deaf = world.registered("dc").await;
    let began = Instant::now();
    let _newer = world.registered("dc").await;
    // The close frame comes at once. It is read, and as this end neither reads on nor ends its side, not answered.
    let close = soon(deaf.socket.next()).await;
    assert!(
        matches!(&close, Some(Ok(Message::Close(Some(frame)))) if u16::from(frame.code) == 4409),
        "{close:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(close_timeout), "the close itself does not wait");
    assert_eq!(open(&world).await, 2, "it is held for the client's half");
    while open(&world).await == 2 {
        assert!(began.elapsed() < Duration::from_secs(10 * close_timeout), "it is held for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let took = began.elapsed();
    assert_eq!(open(&world).await, 1);
    drop(deaf);
    took
}

#[tokio::test]
async fn a_client_that_does_not_answer_the_close_is_let_go_after_it() {
    // covers B02, B09
    let (short, long) = tokio::join!(let_go(2), let_go(6));
    assert!(short >= Duration::from_secs(2), "{short:?}");
    assert!(long >= Duration::from_secs(6), "{long:?}");
    assert!(short < long, "{short:?} and {long:?}");
}

#[tokio::test]
async fn a_client_that_answers_the_close_is_let_go_at_once() {
    // covers B02
    let world = World::start_with("close_timeout = 60").await;
    let mut polite = world.registered("dc").await;
    let _newer = world.registered("dc").await;
    assert_eq!(polite.closed().await.0, 4409);
    // Its library answers as it goes.
    while soon(polite.socket.next()).await.is_some_and(|read| read.is_ok()) {}
    drop(polite);
    let began = Instant::now();
    while open(&world).await != 1 {
        assert!(began.elapsed() < PATIENCE, "it is held though it has gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
