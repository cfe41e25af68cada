//! The configuration, read again while the edge runs: by SIGHUP, when the file changes, and by `trishula-edge reload`.
//!
//! It is taken as a whole or not at all. Connections that are open keep what they began with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;
use hyper::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::{oneshot, watch};
use trishula::metrics;
use trishula::rt::signals::Hangups;
use trishula::rt::{logging, queue};
use trishula::wire::ids::Namespace;

use super::renewed::Renewed;
use crate::config::EdgeConfig;
use crate::http::{Answer, refuse, with_type};
use crate::listener::Service;
use crate::prepare;
use crate::stamp::{Stamp, stamp};

/// Where `trishula-edge reload` asks, on the port of the metrics.
pub const PATH: &str = "/reload";
/// What it must send along: no page in a browser on this machine can, without being asked first.
pub const HEADER: HeaderName = HeaderName::from_static("trishula-reload");
/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Questions that may wait.
const MAX_ASKED: usize = 4;
/// What a service's door goes by.
const AT_THE_DOOR: &[&str] = &[
    "max_connections",
    "max_connections_per_address",
    "message_rate_limit_per_address",
    "auth_failures_per_minute",
    "refuse",
];
const RESTART: &str = "restart the edge for it: systemctl restart trishula-edge";

/// Where the configuration comes from, besides the environment.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file.
    pub path: PathBuf,
    /// Flags: dotted keys and values.
    pub overrides: Vec<(String, toml::Value)>,
    /// What was in the file just before it was read: a change meanwhile is read again.
    keys: Keys,
    seen: Stamp,
}

impl Source {
    /// To be made before the configuration is loaded.
    pub fn new(path: PathBuf, overrides: Vec<(String, toml::Value)>) -> Source {
        let seen = stamp(&path);
        // A file that can't be read stops the start.
        let keys = keys_of(&path).unwrap_or_default();
        Source { path, overrides, keys, seen }
    }
}

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
pub enum Report {
    /// No key is different; what they name was read again.
    Unchanged,
    /// These keys are, and count from now on.
    Changed {
        /// One a line: where, what it was, what it is.
        changes: Vec<String>,
    },
    /// Some of what is different can't be while it runs; nothing was changed.
    Refused {
        /// One a line: where, and why not.
        reasons: Vec<String>,
    },
    /// It can't be read, or does not hold; nothing was changed.
    Bad {
        /// What is wrong, where, what to do.
        why: String,
    },
}

/// Asks a running edge.
#[derive(Debug, Clone)]
pub struct Asker(queue::Sender<oneshot::Sender<Report>>);

/// Takes what was asked.
pub type Asked = queue::Receiver<oneshot::Sender<Report>>;

/// The two ends.
pub fn channel() -> (Asker, Asked) {
    let (asker, asked) = queue::bounded("edge.reload", MAX_ASKED);
    (Asker(asker), asked)
}

/// A service whose configuration may be replaced.
#[derive(Debug)]
pub struct Live {
    /// Which.
    pub namespace: Namespace,
    /// What new connections go by.
    pub service: watch::Sender<Arc<Service>>,
}

/// What is running, and where its configuration comes from.
pub struct Reloader {
    source: Source,
    services: Vec<Live>,
    renewed: Renewed,
    current: Keys,
}

impl Reloader {
    /// Of an edge that was started with what is in the source now.
    pub fn new(source: Source, services: Vec<Live>, renewed: Renewed) -> Reloader {
        let current = source.keys.clone();
        Reloader { source, services, renewed, current }
    }

    /// Follows signals, questions and the file, for ever.
    pub async fn run(mut self, mut hangups: Hangups, mut asked: Asked) {
        let mut seen = self.source.seen;
        loop {
            let answer = tokio::select! {
                () = hangups.next() => None,
                Some(answer) = asked.recv() => Some(answer),
                () = tokio::time::sleep(LOOK_EVERY) => {
                    let now = stamp(&self.source.path);
                    // A file that is being replaced is not there for a moment.
                    if now.is_none() || now == seen {
                        continue;
                    }
                    seen = now;
                    self.reload();
                    continue;
                }
            };
            seen = stamp(&self.source.path);
            // Whoever moved the log's file says so by this; what follows is in the new one.
            logging::reopen();
            self.renewed.look(true);
            let report = self.reload();
            if let Some(answer) = answer {
                // Whoever asked may be gone.
                let _ = answer.send(report);
            }
        }
    }

    fn reload(&mut self) -> Report {
        let report = self.attempt();
        let outcome = match &report {
            Report::Unchanged => "unchanged",
            Report::Changed { changes } => {
                tracing::info!(changes = changes.join("; "), "the configuration was read again");
                "changed"
            }
            Report::Refused { reasons } => {
                tracing::error!(reasons = reasons.join("; "), "the configuration stays as it was");
                "refused"
            }
            Report::Bad { why } => {
                tracing::error!(why, "the configuration stays as it was");
                "refused"
            }
        };
        metrics::CONFIG_RELOADS.with_label_values(&[outcome]).inc();
        report
    }

    fn attempt(&mut self) -> Report {
        let bad = |why: String| Report::Bad { why };
        let loaded = EdgeConfig::load(&self.source.path, std::env::vars(), self.source.overrides.clone());
        let config = match loaded {
            Ok(config) => config,
            Err(e) => return bad(e.to_string()),
        };
        let keys = match keys_of(&self.source.path) {
            Ok(keys) => keys,
            Err(why) => return bad(why),
        };
        let changed = changed(&self.current, &keys);
        let fixed: Vec<String> = changed.iter().filter_map(|change| change.refusal()).collect();
        if !fixed.is_empty() {
            return Report::Refused { reasons: fixed };
        }
        // All of them: by a rule, one's tokens are checked by another's keys. And even if no key is another: what is in the files
        // that they name may be, and whoever asked is to be told if it is no use.
        let prepared = match prepare::services(&config) {
            Ok(prepared) => prepared,
            Err(e) => return bad(e.to_string()),
        };
        for warning in config.warnings() {
            tracing::warn!(warning, "configuration");
        }
        for prepared in prepared {
            let Some(live) = self.services.iter().find(|live| live.namespace == prepared.section.name) else {
                continue;
            };
            self.renewed.add(&prepared);
            live.service
                .send_modify(|service| *service = Arc::new(service.renewed(prepared, &config.edge.name)));
        }
        logging::set_filter(&config.log.level);
        self.current = keys;
        if changed.is_empty() {
            return Report::Unchanged;
        }
        Report::Changed { changes: changed.iter().map(Change::line).collect() }
    }
}

/// Dotted keys, and what they are set to; those of a service begin with `service NAME: `.
type Keys = BTreeMap<String, String>;

fn keys_of(path: &std::path::Path) -> Result<Keys, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let table: toml::Table = text.parse().map_err(|e| format!("{}: {e}", path.display()))?;
    let mut keys = Keys::new();
    for (name, value) in table {
        match value {
            toml::Value::Array(services) if name == "service" => {
                for (n, service) in services.into_iter().enumerate() {
                    let called = service.get("name").and_then(|name| name.as_str().map(str::to_owned));
                    let called = called.unwrap_or_else(|| (n + 1).to_string());
                    flatten(&format!("service {called}: "), "", service, &mut keys);
                }
            }
            value => flatten("", &name, value, &mut keys),
        }
    }
    Ok(keys)
}

fn flatten(prefix: &str, key: &str, value: toml::Value, keys: &mut Keys) {
    match value {
        toml::Value::Table(table) => {
            for (name, value) in table {
                let name = if key.is_empty() { name } else { format!("{key}.{name}") };
                flatten(prefix, &name, value, keys);
            }
        }
        value => drop(keys.insert(format!("{prefix}{key}"), value.to_string())),
    }
}

/// One key that is different.
#[derive(Debug)]
struct Change {
    key: String,
    was: Option<String>,
    is: Option<String>,
}

fn changed(was: &Keys, is: &Keys) -> Vec<Change> {
    let mut all: Vec<&String> = was.keys().chain(is.keys()).collect();
    all.sort_unstable();
    all.dedup();
    let changes = all.into_iter().filter(|key| was.get(*key) != is.get(*key));
    changes
        .map(|key| Change { key: key.clone(), was: was.get(key).cloned(), is: is.get(key).cloned() })
        .collect()
}

impl Change {
    fn line(&self) -> String {
        let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "the default".into());
        format!("{}: {} -> {}", self.key, shown(&self.was), shown(&self.is))
    }

    /// Why it can't change while the edge runs; `None`: it can.
    fn refusal(&self) -> Option<String> {
        let why = match self.key.split_once(": ") {
            Some((_, "name" | "preset" | "host" | "port")) => {
                "services come and go with their ports, which are taken at the start"
            }
            Some((_, "listen")) => "ports are taken at the start, while there is a right to those below 1024",
            Some((_, key)) if AT_THE_DOOR.contains(&key) => {
                "who has come in and how often is counted from the start"
            }
            Some(_) => return None,
            None => match self.key.as_str() {
                "edge.name" | "log.level" => return None,
                key if key.starts_with("rule") => return None,
                key if key.starts_with("log.") => "the log is opened at the start",
                key if key.starts_with("metrics.") || key.starts_with("redirect.") => {
                    "ports are taken at the start"
                }
                key if key.starts_with("edge.") => "counts for the whole process from its start",
                _ => "the link to the node is up with it, and every client's session hangs on that",
            },
        };
        Some(format!("{}: {why}; {RESTART}", self.line()))
    }
}

/// Answers `POST /reload`.
pub async fn answer<B>(request: &Request<B>, asker: &Option<Asker>) -> Answer {
    if request.method() != Method::POST || !request.headers().contains_key(HEADER) {
        let why = "this is for `trishula-edge reload`";
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", why, "use the command");
    }
    let (answer, report) = oneshot::channel();
    let asked = asker.as_ref().is_some_and(|asker| asker.0.try_send(answer).is_ok());
    match report.await {
        Ok(report) if asked => {
            let status = match &report {
                Report::Unchanged | Report::Changed { .. } => StatusCode::OK,
                Report::Refused { .. } => StatusCode::CONFLICT,
                Report::Bad { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            };
            with_type(status, "application/json", serde_json::to_vec(&report).unwrap_or_default())
        }
        _ => refuse(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "nobody reloads just now", "try again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Keys {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edge.toml");
        std::fs::write(&path, text).unwrap();
        keys_of(&path).unwrap()
    }

    #[test]
    fn what_differs_is_named_and_what_can_not_change_says_why() {
        // covers B29
        let was = keys(
            "[log]\nlevel=\"info\"\n[[service]]\nname=\"a\"\nmax_frame=2048\n[service.deflate]\nlevel=1\n[[service]]\nname=\"b\"\n",
        );
        let live = keys(
            "[log]\nlevel=\"debug\"\n[[service]]\nname=\"b\"\n[[service]]\nname=\"a\"\n[service.deflate]\nlevel=3\n",
        );
        let changes = changed(&was, &live);
        let lines: Vec<String> = changes.iter().map(Change::line).collect();
        assert_eq!(
            lines,
            [
                "log.level: \"info\" -> \"debug\"",
                "service a: deflate.level: 1 -> 3",
                "service a: max_frame: 2048 -> the default",
            ]
        );
        assert!(changes.iter().all(|change| change.refusal().is_none()));
        for (text, key) in [
            (
                "[[service]]\nname=\"a\"\nmax_frame=2048\n[service.deflate]\nlevel=1\n[log]\nlevel=\"info\"\n",
                "service b: name",
            ),
            ("[edge]\nthreads=2\n", "edge.threads"),
            ("[uplink]\nnode=\"x\"\n", "uplink.node"),
            ("[metrics]\nlisten=\"127.0.0.1:1\"\n", "metrics.listen"),
            ("[[service]]\nname=\"a\"\nlisten=[\"127.0.0.1:1\"]\n", "service a: listen"),
            ("[[service]]\nname=\"c\"\n", "service c: name"),
        ] {
            let refused: Vec<String> =
                changed(&was, &keys(text)).iter().filter_map(Change::refusal).collect();
            assert!(
                refused.iter().any(|why| why.starts_with(key) && why.contains("restart")),
                "{key}: {refused:?}"
            );
        }
    }
}
