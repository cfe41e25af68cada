//! What several commands share.

use std::fmt;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::{CannotAsk, print};
use crate::admin::client::Client;
use crate::admin::protocol::Request;
use crate::config::node::{NodeConfig, default_path};
use crate::daemon::authority::{CaDesk, Neighbours};
use crate::rt::{clock, platform};
use crate::wire::ids::{AgentAddr, DEFAULT_NAMESPACE, MessageId, Namespace};

/// Which configuration.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArg {
    /// The node's configuration [default: /etc/trishula/node.toml]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl ConfigArg {
    /// As given, or where it is by default.
    pub fn path(&self) -> PathBuf {
        self.config.clone().unwrap_or_else(default_path)
    }

    /// Reads it, with the environment over it.
    pub fn load(&self) -> anyhow::Result<NodeConfig> {
        self.load_with(Vec::new())
    }

    /// Reads it, with the environment and these flags over it.
    pub fn load_with(&self, flags: Vec<(String, toml::Value)>) -> anyhow::Result<NodeConfig> {
        Ok(NodeConfig::load(&self.path(), std::env::vars(), flags)?)
    }
}

/// Which running node.
#[derive(Debug, Clone, Args)]
pub(crate) struct SocketArg {
    #[command(flatten)]
    pub config: ConfigArg,
    /// The running node's admin socket [default: the configuration's]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl SocketArg {
    /// As given, or the configuration's; without a configuration, where it is by default.
    pub fn path(&self) -> anyhow::Result<PathBuf> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None if self.config.config.is_none() && !self.config.path().exists() => {
                Ok(platform::default_socket())
            }
            None => Ok(self.config.load()?.admin.socket),
        }
    }

    /// Connects to the node.
    pub async fn connect(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.path()?).await?)
    }
}

/// The CA's desk, on the machine that holds it; for commands that work while the node does not run.
pub(crate) fn desk_of(config: &NodeConfig) -> anyhow::Result<Option<CaDesk>> {
    let Some(ca_dir) = &config.identity.ca_dir else { return Ok(None) };
    Ok(Some(CaDesk::open(ca_dir, &config.node.data_dir, Arc::default(), Neighbours::of(config))?))
}

/// The wall clock, as certificates want it.
pub(crate) fn now() -> OffsetDateTime {
    clock::wall().into()
}

/// Runs a command that waits for something.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("the system gives no runtime")?.block_on(work)
}

/// Reads `90s`, `15m`, `1h`, `7d`, `250ms`.
pub(crate) fn duration(given: &str) -> Result<Duration, String> {
    let split = given.find(|c: char| !c.is_ascii_digit()).unwrap_or(given.len());
    let (number, unit) = given.split_at(split);
    let wrong =
        || format!("{given:?} is not a duration; write a number with ms, s, m, h or d, such as 30s or 1h");
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        "d" => number.checked_mul(86_400_000),
        _ => None,
    };
    match milliseconds {
        Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err(wrong()),
    }
}

/// Which message is asked about, and how the answer is wanted.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// What its sender calls it
    #[arg(value_name = "ID")]
    pub id: MessageId,
    /// Only of this sender: NAME or NAMESPACE/NAME
    #[arg(long, value_name = "AGENT", value_parser = agent)]
    pub from: Option<AgentAddr>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Which {
    /// Asks the node of this machine, which asks the others.
    pub fn ask<T: DeserializeOwned>(&self, request: &Request) -> anyhow::Result<T> {
        block_on(async {
            let asked =
                async { self.socket.connect().await?.ask(request).await.map_err(anyhow::Error::from) };
            print::progress("asking the nodes", asked).await.map_err(|e| e.context(CannotAsk))
        })
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.from {
            Some(from) => write!(f, "{} of {from}", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}

/// `3d 4h`, `12 s`: two units at most.
pub(crate) fn human_seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {minutes}m"),
        (days, hours, _) => format!("{days}d {hours}h"),
    }
}

/// `512 B`, `3.4 KiB`, `12.0 MiB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut size = bytes as f64 / 1024.0;
    if size < 1.0 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    while size >= 1024.0 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }
    format!("{size:.1} {}", UNITS[unit])
}

/// Now, in milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    clock::wall_ms()
}

/// A moment in milliseconds since the epoch, for people: `2026-01-31 12:00:00.250Z`.
pub(crate) fn moment(ms: u64) -> String {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000);
    let Ok(at) = at else { return format!("{ms} ms") };
    let (date, time) = (at.date(), at.time());
    format!("{date} {:02}:{:02}:{:02}.{:03}Z", time.hour(), time.minute(), time.second(), time.millisecond())
}

/// Reads `NAME` or `NAMESPACE/NAME`.
pub(crate) fn agent(given: &str) -> Result<AgentAddr, String> {
    let home = Namespace::new(DEFAULT_NAMESPACE).map_err(|e| e.to_string())?;
    AgentAddr::parse(given, &home).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        // covers B19
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("7d"), Ok(Duration::from_secs(7 * 86_400)));
        for bad in ["", "5", "s", "0s", "1w", "-1s", "99999999999999999999d", "99999999999999999d"] {
            assert!(duration(bad).is_err_and(|why| why.contains("30s")), "{bad}");
        }
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(3 << 19), "1.5 MiB");
        assert_eq!(moment(1_767_225_600_250), "2026-01-01 00:00:00.250Z");
        assert_eq!(human_seconds(59), "59s");
        assert_eq!(human_seconds(3 * 86_400 + 4 * 3600 + 5), "3d 4h");
    }
}
