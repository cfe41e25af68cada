//! How much a client may say, how often it may be wrong, and how long it may be silent.

use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Error as WsError;

use crate::serving::*;
use crate::support::*;

#[tokio::test]
async fn an_address_with_too_many_bad_tokens_is_not_heard_for_a_while() {
    // covers B09, B17
    let world = serving(&preset("trishula", "auth_failures_per_minute = 3")).await;
    let bad = [("authorization", "Bearer nonsense")];
    let status = async |headers: &[(&'static str, &str)]| match world.upgrade("/ws", headers).await {
        Err(WsError::Http(answer)) => answer.status().as_u16(),
        other => panic!("{:?}", other.map(|_| "let in")),
    };
    let before = counted("trishula_edge_refused_total", "\"token\"");
    for _ in 0..2 {
        assert_eq!(status(&bad).await, 401);
    }
    // By the first frame it counts as well.
    for _ in 0..2 {
        let mut client = world.upgrade("/ws", &[]).await.unwrap().0;
        client.say(json!({"type": "auth", "token": "nonsense"})).await;
        assert_eq!(client.closed().await.0, 4401);
    }
    let good = format!("Bearer {}", token("dc"));
    for _ in 0..100 {
        // The last one is counted when its session has ended.
        match world.upgrade("/ws", &[("authorization", &good)]).await {
            Err(WsError::Http(answer)) => {
                assert_eq!(answer.status().as_u16(), 429);
                assert!(answer.headers().contains_key("retry-after"));
                assert!(counted("trishula_edge_refused_total", "\"token\"") >= before + 4);
                return;
            }
            Ok(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(e) => panic!("{e}"),
        }
    }
    panic!("it is still heard");
}

#[tokio::test]
async fn over_the_rate_the_envelope_is_told_and_stays_and_so_is_ours() {
    // covers B09, B19
    let world = serving(&preset("mahavishnu", "message_rate_limit = 4")).await;
    let mut client = greeted(&world, &[]).await;
    for n in 0..20 {
        client.say(json!({"type": "ping", "id": n.to_string()})).await;
    }
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(client.hear().await);
    }
    let refused = answers.iter().filter(|answer| answer["error_code"] == "RATE_LIMIT_EXCEEDED").count();
    assert!((10..=14).contains(&refused), "{refused}");
    let world = serving(&preset("trishula", "message_rate_limit = 4")).await;
    let mut client = world.registered("dc").await;
    for n in 0..20 {
        client.say(json!({"type": "HEARTBEAT", "id": format!("h{n}")})).await;
    }
    let (mut beats, mut refused) = (0, Vec::new());
    for _ in 0..20 {
        let answer = client.hear().await;
        match answer["type"] == "ERROR" {
            true => refused.push(answer),
            false => beats += 1,
        }
    }
    assert!((4..=8).contains(&beats), "{beats}");
    assert_eq!(refused[0]["payload"]["code"], "rate_limited");
    assert!(refused[0]["payload"]["retry_after_ms"].as_u64().unwrap() > 0, "{}", refused[0]);
    assert!(refused[0]["reply_to"].as_str().unwrap().starts_with('h'));
}

#[tokio::test]
async fn frames_of_one_address_count_together() {
    // covers B09
    let world = serving(&preset("mahavishnu", "message_rate_limit_per_address = 4")).await;
    let (mut one, mut other) = (greeted(&world, &[]).await, greeted(&world, &[]).await);
    let mut refused = 0;
    for _ in 0..6 {
        for client in [&mut one, &mut other] {
            client.say(json!({"type": "ping"})).await;
            refused += usize::from(client.hear().await["type"] == "error");
        }
    }
    assert!(refused >= 4, "{refused}");
}

#[tokio::test]
async fn who_says_nothing_and_hears_nothing_for_long_is_closed() {
    // covers B09
    let world = serving(&preset("trishula", "connection_timeout = 1")).await;
    let mut client = world.registered("dc").await;
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        client.say(json!({"type": "HEARTBEAT"})).await;
        assert_eq!(client.hear().await["type"], "HEARTBEAT");
    }
    assert_eq!(client.closed().await, (1001, "idle".into()));
}

#[tokio::test]
async fn one_that_comes_and_goes_in_rooms_without_end_waits_and_others_do_not() {
    // covers B09, B19
    const FRAMES: usize = 1_600;
    let world = serving(&preset("trishula", "")).await;
    let (mut greedy, mut other) = (world.registered("dc").await, world.registered("agni").await);
    let begun = std::time::Instant::now();
    let storm = async {
        for n in 0..FRAMES / 2 {
            let room = format!("room:r{}", n % 200);
            greedy.say(json!({"type": "SUBSCRIBE", "to": room})).await;
            greedy.say(json!({"type": "UNSUBSCRIBE", "to": room})).await;
        }
        for _ in 0..FRAMES {
            let answer = greedy.hear().await;
            // A SUBSCRIBE that an UNSUBSCRIBE overtakes is told so.
            let overtaken = answer["payload"]["code"] == "unavailable";
            assert!(
                overtaken || ["SUBSCRIBED", "UNSUBSCRIBED"].contains(&answer["type"].as_str().unwrap()),
                "{answer}"
            );
        }
        begun.elapsed()
    };
    let beside = async {
        for n in 0..20 {
            other.say(json!({"type": "STATUS", "to": "agni", "id": format!("m-{n}"), "payload": n})).await;
            assert_eq!(other.hear().await["payload"], n);
        }
        begun.elapsed()
    };
    let (stormy, calm) = tokio::join!(storm, beside);
    // 512 at once, and 500 a second.
    assert!(stormy >= Duration::from_millis(2_000), "{stormy:?}");
    assert!(calm < stormy, "{calm:?} of {stormy:?}");
}
