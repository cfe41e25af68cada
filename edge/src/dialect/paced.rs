//! Our own protocol, at a limited rate: everything passes as it is, and what is too much is refused. Who keeps on is closed.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use trishula::wire::client::{ErrorPayload, MESH, ServerFrame};
use trishula::wire::close::{CloseCode, Code, Refusal};

use super::ours;
use super::step::{Ids, Note, Now, Pace, Steps};

/// Who is over the rate for so long, with no pause of [`PAUSE`], is closed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pause after which all is forgiven.
const PAUSE: Duration = Duration::from_secs(2);
/// And who sends so many frames too many meanwhile is closed at once.
const MAX_REFUSED: u32 = 10_000;

/// One client.
pub struct Paced {
    ids: Box<dyn Ids>,
    pace: Box<dyn Pace>,
    over: Option<Over>,
}

/// A time during which a client was over its rate, in [`Now::micros`].
#[derive(Debug, Clone, Copy)]
struct Over {
    since: u64,
    last: u64,
    refused: u32,
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    id: serde_json::Value,
}

impl Paced {
    /// A new connection.
    pub fn new(ids: Box<dyn Ids>, pace: Box<dyn Pace>) -> Paced {
        Paced { ids, pace, over: None }
    }

    /// A frame of the client's.
    pub fn client(&mut self, now: Now, frame: &Bytes, out: &mut Steps) {
        match self.pace.take(now.micros, frame.len()) {
            Ok(()) => out.to_session(frame.clone()),
            Err(wait) => self.refuse(now, frame, wait, out),
        }
    }

    fn refuse(&mut self, now: Now, frame: &[u8], wait: Duration, out: &mut Steps) {
        out.note(Note::RateLimited);
        let fresh = Over { since: now.micros, last: now.micros, refused: 0 };
        let micros = |wait: Duration| u64::try_from(wait.as_micros()).unwrap_or(u64::MAX);
        let over = self.over.filter(|over| now.micros - over.last < micros(PAUSE)).unwrap_or(fresh);
        let over = Over { last: now.micros, refused: over.refused + 1, ..over };
        self.over = Some(over);
        if now.micros - over.since >= micros(PATIENCE) || over.refused > MAX_REFUSED {
            return out.close(CloseCode::RateLimited, "over the rate again and again");
        }
        let refusal = Refusal::new(Code::RateLimited, "more frames or bytes than this connection may send");
        let retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) + 1);
        let payload = ErrorPayload { retry_after_ms, ..ErrorPayload::from(&refusal) };
        let named: Named = serde_json::from_slice(frame).unwrap_or_default();
        let error = ServerFrame {
            kind: "ERROR",
            from: MESH,
            to: "",
            id: &self.ids.next_id(),
            timestamp: now.wall_ms,
            reply_to: named.id.as_str(),
            payload,
            priority: 3,
        };
        out.to_client(ours::text(&error));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::Step;
    use super::super::pace::PerSecond;
    use super::super::vectors::{BEGIN, Counting};
    use super::*;

    fn say(paced: &mut Paced, now: Now, frame: &str) -> Vec<Step> {
        let mut out = Steps::new();
        paced.client(now, &Bytes::from(frame.to_owned()), &mut out);
        out.take().collect()
    }

    fn later(now: Now, ms: u64) -> Now {
        Now { micros: now.micros + ms * 1000, wall_ms: now.wall_ms + ms }
    }

    #[test]
    fn what_is_too_much_is_refused_with_the_time_to_wait_and_the_rest_passes() {
        // covers B09, B19
        let mut paced = Paced::new(Box::new(Counting(0)), Box::new(PerSecond::new(10).unwrap()));
        for _ in 0..15 {
            let steps = say(&mut paced, BEGIN, "{\"type\":\"HEARTBEAT\"}");
            assert!(matches!(&steps[..], [Step::ToSession(_)]), "{steps:?}");
        }
        let steps = say(&mut paced, BEGIN, "{\"type\":\"STATUS\",\"id\":\"m-1\"}");
        let [Step::Note(Note::RateLimited), Step::ToClient(error)] = &steps[..] else { panic!("{steps:?}") };
        let error: Value = serde_json::from_slice(error).unwrap();
        assert_eq!((&error["reply_to"], &error["payload"]["code"]), (&"m-1".into(), &"rate_limited".into()));
        let wait = error["payload"]["retry_after_ms"].as_u64().unwrap();
        assert!((99..=101).contains(&wait), "{error}");
        let steps = say(&mut paced, later(BEGIN, wait), "{\"type\":\"HEARTBEAT\"}");
        assert!(matches!(&steps[..], [Step::ToSession(_)]), "{steps:?}");
    }

    #[test]
    fn who_goes_on_is_closed_and_who_pauses_is_not() {
        // covers B09
        let mut paced = Paced::new(Box::new(Counting(0)), Box::new(PerSecond::new(1).unwrap()));
        let mut now = BEGIN;
        for _ in 0..20 {
            let steps: Vec<Step> = (0..3).flat_map(|_| say(&mut paced, now, "{}")).collect();
            assert!(!steps.iter().any(|step| matches!(step, Step::Close(..))), "with pauses it stays");
            now = later(now, 2_500);
        }
        let mut closed = None;
        for ms in 0..8 {
            let steps = say(&mut paced, later(now, ms * 500), "{}");
            let again = say(&mut paced, later(now, ms * 500), "{}");
            closed = closed.or_else(|| steps.into_iter().chain(again).find(|s| matches!(s, Step::Close(..))));
        }
        assert!(closed.is_none(), "not before its time");
        let steps = say(&mut paced, later(now, 5_200), "{}");
        let last = say(&mut paced, later(now, 5_200), "{}");
        let closes = |step: &Step| matches!(step, Step::Close(CloseCode::RateLimited, _));
        assert!(steps.iter().chain(&last).any(closes), "{steps:?} {last:?}");
    }
}
