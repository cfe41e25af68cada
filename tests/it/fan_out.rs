//! What the metrics say of one message for many: where it is sent, and where it is delivered.

use serde_json::{Value, json};

use crate::harness::{Machine, Mesh, until};
use crate::wss::{Door, Wss};

const READERS: usize = 20;

/// A metric of an edge's one service.
fn metric(machine: &Machine, name: &str, channel: &str) -> f64 {
    let line = format!("{name}{{channel=\"{channel}\",server=\"trishula\",service=\"trishula\"}} ");
    let metrics = machine.edge_metrics();
    let value = metrics.lines().find_map(|text| text.strip_prefix(&line));
    value.map_or(0.0, |value| value.parse().unwrap())
}

async fn answered(wss: &mut Wss, frame: Value, with: &str) {
    wss.say(frame).await.unwrap();
    wss.until(with, |frame| frame["type"] == with).await;
}

// covers B21, B22
#[test]
fn the_edge_that_delivers_counts_each_reader_and_the_time_to_the_last_one() {
    let mesh = Mesh::start(&["dc", "agni"]);
    let [dc, agni] = &mesh.machines[..] else { panic!("two machines") };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let mut readers = Vec::new();
        for n in 0..READERS {
            let mut reader = Door::of(agni, &format!("reader-{n}")).must_open(json!({})).await;
            answered(&mut reader, json!({"type": "SUBSCRIBE", "to": "room:deploys"}), "SUBSCRIBED").await;
            readers.push(reader);
        }
        // In another room: gets none of it.
        let mut other = Door::of(agni, "other").must_open(json!({})).await;
        answered(&mut other, json!({"type": "SUBSCRIBE", "to": "room:builds"}), "SUBSCRIBED").await;
        let mut writer = Door::of(dc, "writer").must_open(json!({})).await;
        for n in 1..=3 {
            let publish =
                json!({"type": "PUBLISH", "to": "room:deploys", "id": format!("p-{n}"), "receipt": "accepted"});
            answered(&mut writer, publish, "RECEIPT").await;
        }
        for reader in &mut readers {
            for n in 1..=3 {
                assert_eq!(reader.message().await["id"], format!("p-{n}"));
            }
        }
        let everybody = json!({"type": "STATUS", "to": "broadcast", "id": "b-1", "class": "live"});
        writer.say(everybody).await.unwrap();
        for reader in readers.iter_mut().chain([&mut other]) {
            assert_eq!(reader.message().await["id"], "b-1");
        }
    });
    let all = READERS as f64;
    let (sent, delivered) = ("websocket_broadcast_total", "websocket_broadcast_deliveries_total");
    let [count, sum] = ["count", "sum"].map(|what| format!("websocket_broadcast_duration_seconds_{what}"));
    for (channel, messages, clients) in [("deploys", 3.0, all), ("broadcast", 1.0, all + 1.0)] {
        assert_eq!(metric(agni, delivered, channel), messages * clients, "{channel}");
        assert_eq!(metric(agni, &count, channel), messages, "{channel}: once for all readers");
        let took = metric(agni, &sum, channel);
        assert!(took > 0.0 && took < 10.0, "{channel} took {took} s");
        assert_eq!(metric(agni, sent, channel), 0.0, "{channel}: nobody here has sent it");
        // Its sender may not have been looked at since.
        until("it counts as sent", || metric(dc, sent, channel) == messages);
        assert_eq!((metric(dc, delivered, channel), metric(dc, &count, channel)), (0.0, 0.0), "{channel}");
    }
    assert_eq!(metric(agni, delivered, "builds"), 0.0);
}
