//! Dead letters: messages that died and are kept for the operator. The field names are what `--json` prints, and stay.

use std::time::Duration;

use rand::RngExt;
use serde::{Deserialize, Serialize};
use tokio::time::timeout_at;

use super::Records;
use super::rows::Reason;
use crate::rt::clock;
use crate::store::{DeadLetter, MOST};
use crate::wire::client::renamed;
use crate::wire::envelope::{Form, Head, MessageKey, Target};
use crate::wire::ids::{AgentAddr, MessageId, NodeName};
use crate::wire::record::Place;

/// Letters that are retried or dropped at one go.
const BATCH: usize = 64;
/// How long the disk may take for them.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// Which dead letter: by its id, and by its two ends where that is not enough.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// What its sender called it.
    pub id: MessageId,
    /// Its sender.
    pub from: Option<AgentAddr>,
    /// Its recipient.
    pub to: Option<AgentAddr>,
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// One.
    One(Name),
    /// The next ones, some at a time.
    Next {
        /// Behind this one; `None`: from the first.
        after: Option<u64>,
        /// That died before then: what died since was not meant. `None`: before now.
        before_ms: Option<u64>,
    },
}

/// Dead letters of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letters {
    /// Which.
    pub node: NodeName,
    /// By the order in which they were taken.
    pub letters: Vec<Letter>,
    /// Where the list goes on; absent: that is all.
    pub next: Option<u64>,
}

/// A message that died.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Letter {
    /// What its sender called it.
    pub id: MessageId,
    /// Its sender.
    pub from: String,
    /// Its recipient.
    pub to: String,
    /// COMMAND, RESULT …
    pub kind: String,
    /// 1 to 5.
    pub priority: u8,
    /// Why it died.
    pub reason: Option<Reason>,
    /// Bytes of its text.
    pub bytes: u64,
    /// When it died, in milliseconds since the epoch.
    pub died_ms: u64,
    /// How long ago that is.
    pub age_seconds: u64,
    /// The dead message that it had the content of.
    pub retry_of: Option<MessageId>,
}

/// One of them with its text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// Where it lies.
    pub node: NodeName,
    /// All but the text.
    pub letter: Letter,
    /// As its sender wrote it.
    pub message: serde_json::Value,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Where.
    pub node: NodeName,
    /// To which.
    pub letters: Vec<Outcome>,
    /// Where it goes on, and to which letters; absent: that was all.
    pub next: Option<Which>,
}

/// What was done to one dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What its sender called it.
    pub id: MessageId,
    /// Its sender.
    pub from: String,
    /// Its recipient.
    pub to: String,
    /// What it is called now that it was sent again.
    pub new_id: Option<MessageId>,
    /// Whether the dead letter is gone.
    pub dropped: bool,
    /// Why something was not done.
    pub trouble: Option<String>,
}

impl Letter {
    fn of(letter: DeadLetter) -> Letter {
        Letter {
            id: letter.key.id,
            from: letter.key.from.to_string(),
            to: letter.key.to.to_string(),
            kind: letter.head.kind.to_string(),
            priority: letter.head.priority.get(),
            reason: letter.reason.map(Reason::from),
            bytes: letter.bytes,
            died_ms: letter.at_ms,
            age_seconds: clock::wall_ms().saturating_sub(letter.at_ms) / 1000,
            retry_of: letter.head.retry_of,
        }
    }
}

impl Outcome {
    fn of(key: &MessageKey) -> Outcome {
        Outcome {
            id: key.id.clone(),
            from: key.from.to_string(),
            to: key.to.to_string(),
            new_id: None,
            dropped: false,
            trouble: None,
        }
    }
}

impl Records {
    pub(super) async fn dead(&self, limit: usize, after: Option<u64>) -> Result<Letters, String> {
        let limit = limit.clamp(1, MOST);
        let letters = self.reader.dead(limit, after).await.map_err(|e| e.to_string())?;
        let next = letters.last().filter(|_| letters.len() == limit).map(|letter| letter.cursor);
        Ok(Letters { node: self.me.clone(), letters: letters.into_iter().map(Letter::of).collect(), next })
    }

    pub(super) async fn open_dead(&self, name: &Name) -> Result<Opened, String> {
        let key = self.dead_key(name).await?;
        let found = self.reader.dead_letter(key).await.map_err(|e| e.to_string())?;
        let (letter, text) = found.ok_or_else(|| not_here(&self.me, name))?;
        let as_text = || String::from_utf8_lossy(&text).into_owned().into();
        let message = serde_json::from_slice(&text).unwrap_or_else(|_| as_text());
        Ok(Opened { node: self.me.clone(), letter: Letter::of(letter), message })
    }

    /// Sends letters again, each as a new message; one that is on disk as such is not a dead letter any more.
    pub(super) async fn retry(&self, which: Which) -> Result<Done, String> {
        let (keys, next) = self.chosen(which).await?;
        let mut posted = Vec::new();
        let mut done = Vec::new();
        for key in keys {
            match self.send_again(&key).await {
                Ok(new_id) => posted.push((key, new_id)),
                Err(why) => done.push(Outcome { trouble: Some(why), ..Outcome::of(&key) }),
            }
        }
        let new_key = |(key, id): &(MessageKey, MessageId)| MessageKey { id: id.clone(), ..key.clone() };
        let lost = self.wait(posted.iter().map(new_key).collect(), true).await;
        let (lost, kept): (Vec<_>, Vec<_>) = posted.into_iter().partition(|one| lost.contains(&new_key(one)));
        for (key, _) in lost {
            let why = "the new message is not on the disk, so the dead letter stays; see: trishula status";
            done.push(Outcome { trouble: Some(why.into()), ..Outcome::of(&key) });
        }
        let left = self.forget(kept.iter().map(|(key, _)| key.clone()).collect()).await?;
        for (key, new_id) in kept {
            let new_id = Some(new_id);
            let outcome = Outcome { new_id, ..forgotten(&key, &left) };
            done.push(outcome);
        }
        Ok(Done { node: self.me.clone(), letters: done, next })
    }

    pub(super) async fn drop_letters(&self, which: Which) -> Result<Done, String> {
        let (keys, next) = self.chosen(which).await?;
        let left = self.forget(keys.clone()).await?;
        let letters = keys.iter().map(|key| forgotten(key, &left)).collect();
        Ok(Done { node: self.me.clone(), letters, next })
    }

    /// The letters that are meant now, and those that are still to come.
    async fn chosen(&self, which: Which) -> Result<(Vec<MessageKey>, Option<Which>), String> {
        match which {
            Which::One(name) => Ok((vec![self.dead_key(&name).await?], None)),
            Which::Next { after, before_ms } => {
                let before_ms = before_ms.unwrap_or_else(clock::wall_ms);
                let letters = self.reader.dead(BATCH, after).await.map_err(|e| e.to_string())?;
                let more = letters.last().filter(|_| letters.len() == BATCH).map(|letter| letter.cursor);
                let next = more.map(|after| Which::Next { after: Some(after), before_ms: Some(before_ms) });
                let meant = letters.into_iter().filter(|letter| letter.at_ms <= before_ms);
                Ok((meant.map(|letter| letter.key).collect(), next))
            }
        }
    }

    /// The one letter of that name.
    async fn dead_key(&self, name: &Name) -> Result<MessageKey, String> {
        let found = self.reader.find(name.from.clone(), name.id.clone()).await.map_err(|e| e.to_string())?;
        let keys = found.into_iter().filter(|found| found.kept.place == Place::Dead);
        let keys = keys.map(|found| found.kept.key);
        let mut keys: Vec<MessageKey> =
            keys.filter(|key| name.to.as_ref().is_none_or(|to| *to == key.to)).collect();
        match (keys.pop(), keys.len()) {
            (Some(key), 0) => Ok(key),
            (Some(key), more) => Err(format!(
                "{} names {} dead letters of node {}, such as that of {} to {}; say which with --from and --to",
                name.id,
                more + 1,
                self.me,
                key.from,
                key.to
            )),
            (None, _) => Err(not_here(&self.me, name)),
        }
    }

    /// As a new message, with a new id.
    async fn send_again(&self, key: &MessageKey) -> Result<MessageId, String> {
        let found = self.reader.dead_letter(key.clone()).await.map_err(|e| e.to_string())?;
        let (letter, text) = found.ok_or("it is no dead letter any more")?;
        if letter.head.form != Form::Json {
            return Err("only messages in JSON can be sent again by this release".into());
        }
        let new_id = new_id()?;
        let renamed = renamed(&text, &new_id)?;
        let head = Head {
            to: Target::Agent(key.to.clone()),
            id: new_id.clone(),
            // Its sender knows nothing of the new one: it is asked for with `trishula show`.
            receipt: None,
            ttl_ms: renamed.ttl_ms,
            not_before_ms: None,
            sent_ms: clock::wall_ms(),
            retry_of: Some(key.id.clone()),
            number: None,
            ..letter.head
        };
        let posted = self.node.post(head, renamed.text).await.map_err(|e| e.to_string())?;
        posted.map_err(|refusal| format!("{refusal}; {}", refusal.code.hint()))?;
        Ok(new_id)
    }

    /// Answers those that are dead letters still.
    async fn forget(&self, keys: Vec<MessageKey>) -> Result<Vec<MessageKey>, String> {
        for key in &keys {
            self.node.drop_dead(key.clone()).await.map_err(|e| e.to_string())?;
        }
        Ok(self.wait(keys, false).await)
    }

    /// Waits until the disk has taken in each of these messages, or has no dead letter of that name. Answers those of
    /// which that is not so in time.
    async fn wait(&self, mut keys: Vec<MessageKey>, kept: bool) -> Vec<MessageKey> {
        let mut health = self.health.clone();
        let deadline = clock::now() + WRITTEN_WITHIN;
        loop {
            // Every commit changes it: what comes while the disk is asked is not missed.
            health.borrow_and_update();
            let mut left = Vec::new();
            for key in keys {
                let is_so = match self.reader.find(Some(key.from.clone()), key.id.clone()).await {
                    Ok(found) => {
                        let found = found.into_iter().find(|found| found.kept.key == key);
                        let place = found.map(|found| found.kept.place);
                        if kept { place.is_some() } else { place != Some(Place::Dead) }
                    }
                    Err(_) => false,
                };
                if !is_so {
                    left.push(key);
                }
            }
            keys = left;
            if keys.is_empty() {
                return keys;
            }
            let written = timeout_at(deadline, health.changed()).await;
            if !matches!(written, Ok(Ok(()))) {
                return keys;
            }
        }
    }
}

fn forgotten(key: &MessageKey, left: &[MessageKey]) -> Outcome {
    let dropped = !left.contains(key);
    let why =
        "it is still there: the disk has not written that it is gone; see: trishula status, and try again";
    Outcome { dropped, trouble: (!dropped).then(|| why.into()), ..Outcome::of(key) }
}

fn not_here(node: &NodeName, name: &Name) -> String {
    format!(
        "node {node} has no dead letter {}; see what it has with: trishula dlq list --node {node}",
        name.id
    )
}

/// 128 random bits: nobody has used it.
fn new_id() -> Result<MessageId, String> {
    MessageId::new(&format!("{:032x}", rand::rng().random::<u128>())).map_err(|e| e.to_string())
}
