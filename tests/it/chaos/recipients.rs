//! Recipients: they write down each message before they acknowledge it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;
use trishula::client::{Client, Options, Quic};

use super::Stage;
use super::log::{Line, Log};
use super::senders::counted;
use crate::wss::{Door, Wss};

/// After a failed attempt to connect.
const PAUSE: Duration = Duration::from_millis(100);
/// So many messages, and a recipient drops its connection, with whatever is under way.
const LEAVES_AFTER: usize = 150;
/// Who acknowledges by itself wants every so-manieth later.
const PUTS_OFF: usize = 40;

pub struct Recipient {
    pub log: Log,
    pub stage: watch::Receiver<Stage>,
    pub manual: bool,
}

impl Recipient {
    pub fn new(mut log: Log, stage: watch::Receiver<Stage>, settled: bool, manual: bool) -> Recipient {
        log.write(&Line::Recipient { settled });
        Recipient { log, stage, manual }
    }

    fn got(&mut self, from: &str, id: &str, redelivered: bool) {
        self.log.write(&Line::Got { from: from.to_owned(), id: id.to_owned(), redelivered });
    }

    fn is_over(&self) -> bool {
        *self.stage.borrow() == Stage::End
    }
}

/// Over WebSocket: always at the one door, or at the next one after each connection.
pub async fn over_wss(mut recipient: Recipient, doors: Vec<Door>) {
    let mut stage = recipient.stage.clone();
    let mut door = 0;
    let ack = if recipient.manual { "manual" } else { "auto" };
    while !recipient.is_over() {
        door += 1;
        let Some(mut wss) = doors[door % doors.len()].open(json!({"ack": ack})).await else {
            sleep(PAUSE).await;
            continue;
        };
        recipient.log.write(&Line::Connected { node: wss.node.clone() });
        for count in 1..=LEAVES_AFTER {
            let frame = tokio::select! {
                frame = wss.hear() => frame,
                _ = stage.wait_for(|stage| *stage == Stage::End) => None,
            };
            let Some(frame) = frame else { break };
            if frame["from"] != "mesh" && settle(&mut recipient, &mut wss, &frame, count).await.is_none() {
                break;
            }
        }
    }
}

async fn settle(recipient: &mut Recipient, wss: &mut Wss, frame: &Value, count: usize) -> Option<()> {
    let text = |field: &str| frame[field].as_str().unwrap();
    let redelivered = frame["redelivered"] == true;
    recipient.got(text("from"), text("id"), redelivered);
    if !recipient.manual {
        return Some(());
    }
    if count.is_multiple_of(PUTS_OFF) && !redelivered {
        let payload = json!({"reason": "later", "requeue": true});
        let nack = json!({"type": "NACK", "to": frame["from"], "reply_to": frame["id"], "payload": payload});
        return wss.say(nack).await;
    }
    wss.ack(frame).await
}

/// With the library's client.
pub async fn over_quic(mut recipient: Recipient, quic: Quic) {
    let mut stage = recipient.stage.clone();
    let count = Default::default();
    while !recipient.is_over() {
        let options = Options { manual: recipient.manual, ..Options::default() };
        let Ok(mut client) = Client::connect(counted(&quic, &count), options).await else {
            sleep(PAUSE).await;
            continue;
        };
        loop {
            let message = tokio::select! {
                message = client.next() => message,
                _ = stage.wait_for(|stage| *stage == Stage::End) => None,
            };
            let Some(message) = message.filter(|message| !message.is_from_mesh()) else { break };
            recipient.got(&message.from, &message.id, message.redelivered);
            if recipient.manual && client.ack(&message).await.is_err() {
                break;
            }
        }
    }
}
