//! Clients of older dialects that send nothing but nonsense: answered for long, and then closed, counted and logged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use serde_json::json;
use support::*;
use tokio_tungstenite::tungstenite::Message;
use trishula::metrics;
use trishula::rt::clock;
use trishula_edge::dialect::bad;

fn refused() -> u64 {
    metrics::EDGE_REFUSED.with_label_values(&["bad_frames"]).get()
}

fn noted() -> u64 {
    metrics::DIALECT_NOTES.with_label_values(&["bad_frames"]).get()
}

#[tokio::test]
async fn a_thousand_bad_frames_in_a_row_are_the_end_and_no_fewer() {
    // covers B17, B19
    let service = "[[service]]\npreset = \"mahavishnu\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
                   message_rate_limit = 0\n";
    let world = World::serving(service).await;
    let exp = clock::wall_ms() / 1000 + 600;
    let bearer =
        format!("Bearer {}", signed(SECRET, json!({"user_id": "u1", "permissions": [], "exp": exp})));
    let mut client = world.upgrade("/", &[("authorization", &bearer)]).await.unwrap().0;
    assert_eq!(client.hear().await["event"], "session.created");
    for round in 0..2 {
        for _ in 0..999 {
            client.send(Message::text("{")).await;
            assert_eq!(client.hear().await["error_code"], "DECODE_ERROR");
        }
        if round == 0 {
            client.say(json!({"type": "ping"})).await;
            assert_eq!(client.hear().await["type"], "pong");
        }
    }
    assert_eq!((refused(), noted()), (0, 0));
    client.send(Message::text("{")).await;
    assert_eq!(client.closed().await, (1008, bad::REASON.to_owned()));
    assert_eq!((refused(), noted()), (1, 1));
}
