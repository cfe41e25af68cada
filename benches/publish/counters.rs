//! What the publisher's node and edge say of themselves.
use crate::programs::TwoMachines;
use anyhow::Result;
use std::collections::BTreeMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sums by name.
#[derive(Debug, Default)]
pub struct Counters(BTreeMap<String, f64>);

impl Counters {
    /// What the publisher's node and edge have used, and how often and how long the node has committed.
    pub async fn of(machines: &TwoMachines) -> Result<Counters> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", machines.health_port(0))).await?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let mut counters = Counters::default();
        for name in ["trishula_store_commit_seconds", "trishula_node_turn_seconds"] {
            for part in ["sum", "count"] {
                let key = format!("{name}_{part}");
                let line = text.lines().find(|line| line.starts_with(&key)).unwrap_or_default();
                let value = line.rsplit(' ').next().and_then(|value| value.parse().ok()).unwrap_or(0.0);
                counters.0.insert(key, value);
            }
        }
        for child in &machines.processes {
            counters.0.insert(child.name.to_owned(), child.cpu_seconds().unwrap_or(0.0));
        }
        Ok(counters)
    }

    /// What was spent between two readings.
    pub fn add(&mut self, after: &Counters, before: &Counters) {
        for (name, value) in &after.0 {
            *self.0.entry(name.clone()).or_default() += value - before.0.get(name).copied().unwrap_or(0.0);
        }
    }

    pub fn show(&self, messages: usize) {
        let of = |name: &str| self.0.get(name).copied().unwrap_or(0.0);
        let commits = of("trishula_store_commit_seconds_count").max(1.0);
        println!(
            "ours spends: {:.2} commits a message of {:.0} µs each; CPU a message: node {:.1} µs, edge {:.1} µs; the node's turns: {:.1} µs a message",
            commits / messages as f64,
            of("trishula_store_commit_seconds_sum") / commits * 1e6,
            of("node-a") / messages as f64 * 1e6,
            of("edge-a") / messages as f64 * 1e6,
            of("trishula_node_turn_seconds_sum") / messages as f64 * 1e6,
        );
    }
}
