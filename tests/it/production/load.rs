//! Class performance: 18 to 21. The rates and times are those of the older tests; how much worse fails, `within` says.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{Old, Site, Stage, active, run, within};

/// Does the same with each of so many clients at once; answers what each says.
async fn at_once<T, F>(count: usize, client: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let mut clients: JoinSet<T> = (0..count).map(client).collect();
    let mut said = Vec::new();
    while let Some(client) = clients.join_next().await {
        said.push(client.unwrap());
    }
    said
}

/// So many clients that were greeted, all at once.
async fn crowd(site: &Site, count: usize, permission: &'static str) -> Vec<Old> {
    let client = |n: usize| {
        let site = site.clone();
        async move { site.greeted(&format!("u{n}"), &[permission]).await }
    };
    at_once(count, client).await
}

// covers B30, B27 18
#[test]
fn a_hundred_clients_at_once_all_come_in() {
    let mut stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let began = Instant::now();
        let mut clients = crowd(&site, 100, "read").await;
        eprintln!("B27 18: 100 clients by TLS, logged in and greeted within {:?}", began.elapsed());
        assert_eq!(active(stage.machine("agni"), "mahavishnu"), 100, "all of them, not 95");
        for client in &mut clients {
            client.is_answered().await;
        }
    });
}

// covers B07, B30, B27 19
#[test]
fn a_hundred_broadcasts_of_one_machine_reach_fifty_subscribers_at_another_each_once_and_in_order() {
    const READERS: usize = 50;
    const EVENTS: u64 = 100;
    let stage = Stage::start(&["dc", "agni"], &["crackerjack"], "");
    let (here, there) = (stage.site("dc", "crackerjack"), stage.site("agni", "crackerjack"));
    run(async {
        let mut readers = Vec::new();
        for mut reader in crowd(&here, READERS, "crackerjack:read").await {
            reader.must_subscribe("test:perf").await;
            readers.push(reader);
        }
        let mut service = there.ours("service", &[], json!({})).await;
        let began = Instant::now();
        let mut reading = JoinSet::new();
        for mut reader in readers {
            reading.spawn(async move {
                for n in 0..EVENTS {
                    let event = reader.hear().await;
                    assert_eq!(
                        (&event["event"], &event["data"]),
                        (&json!("perf.test"), &json!({"n": n})),
                        "{event}"
                    );
                }
                reader.is_answered().await;
            });
        }
        for n in 0..EVENTS {
            let payload = json!({"event": "perf.test", "data": {"n": n}});
            service.say(json!({"type": "PUBLISH", "to": "room:test:perf", "payload": payload})).await;
        }
        while let Some(read) = reading.join_next().await {
            read.unwrap();
        }
        let took = began.elapsed();
        let rate = EVENTS as f64 / took.as_secs_f64();
        eprintln!(
            "B27 19: {EVENTS} events at {READERS} subscribers: {rate:.0} broadcasts/s (asked for: 100)"
        );
        within("B27 19: all of them had all after", took, Duration::from_secs(EVENTS) / 100);
    });
}

// covers B19, B30, B27 20
#[test]
fn a_thousand_bad_frames_are_each_answered_and_no_connection_ends() {
    const FRAMES: usize = 100;
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let clients = crowd(&site, 10, "read").await;
        let began = Instant::now();
        let mut sending = JoinSet::new();
        for mut client in clients {
            sending.spawn(async move {
                for index in 0..FRAMES {
                    client.say(json!({"type": "test", "index": index})).await;
                }
                for _ in 0..FRAMES {
                    let answer = client.hear().await;
                    assert_eq!(answer["error_code"], "DECODE_ERROR", "{answer}");
                }
                client.is_answered().await;
            });
        }
        while let Some(sent) = sending.join_next().await {
            sent.unwrap();
        }
        let took = began.elapsed();
        let rate = 10.0 * FRAMES as f64 / took.as_secs_f64();
        eprintln!("B27 20: 1000 frames sent and answered: {rate:.0}/s (asked for: 500)");
        within("B27 20: all were answered after", took, Duration::from_secs(2));
    });
}

/// How long each of so many pings took to its pong.
async fn pings(mut client: Old, count: usize) -> Vec<Duration> {
    let mut took = Vec::new();
    for n in 0..count {
        let id = format!("p-{n}");
        let began = Instant::now();
        // A number with a fraction: old servers dropped the connection for it.
        client.say(json!({"type": "ping", "id": id, "timestamp": 1_767_225_600.123_456})).await;
        let pong: Value = client.hear().await;
        took.push(began.elapsed());
        assert_eq!((&pong["type"], &pong["correlation_id"]), (&json!("pong"), &json!(id)), "{pong}");
    }
    took
}

// covers B30, B27 21
#[test]
fn twenty_clients_that_ping_at_once_have_their_pongs_soon() {
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let mut pinging = JoinSet::new();
        for client in crowd(&site, 20, "read").await {
            pinging.spawn(pings(client, 20));
        }
        let mut took = Vec::new();
        while let Some(of_one) = pinging.join_next().await {
            took.extend(of_one.unwrap());
        }
        took.sort_unstable();
        let at = |percent: usize| took[took.len() * percent / 100];
        eprintln!("B27 21: {} pongs, p50 {:?}", took.len(), at(50));
        within("B27 21: of the pongs 95 % came after at most", at(95), Duration::from_millis(100));
    });
}
