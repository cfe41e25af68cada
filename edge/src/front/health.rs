//! `/health` and `/ready`, field by field as docs/protocol.md has it.

use std::sync::atomic::Ordering;

use hyper::StatusCode;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use trishula::gateway::hub::Snapshot;
use trishula::rt::clock;
use trishula::wire::ids::Namespace;

use crate::http::Page;

/// Where health is told.
pub const HEALTH: &str = "/health";
/// Where it is told whether clients are to be sent here.
pub const READY: &str = "/ready";
/// Agents that are named.
const MAX_NAMED: usize = 1000;

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    server: &'a str,
    timestamp: String,
    uptime: f64,
    connected_agents: Vec<&'a str>,
    checks: Checks,
    metrics: Numbers,
}

/// Those of the old servers as well: whoever looks for a key finds it.
#[derive(Serialize)]
struct Checks {
    websocket: &'static str,
    node: &'static str,
    redis: &'static str,
    pools: &'static str,
    metrics: &'static str,
}

#[derive(Serialize)]
struct Numbers {
    active_connections: u64,
    total_connections: u64,
    uptime_seconds: u64,
}

/// The status, and the JSON of the answer: 503 without a node, or while the process stops.
pub async fn health(page: &Page) -> (StatusCode, String) {
    told(page, ["healthy", "unhealthy"]).await
}

/// The same in words that say whether clients are to be sent here.
pub async fn ready(page: &Page) -> (StatusCode, String) {
    told(page, ["ready", "unready"]).await
}

async fn told(page: &Page, words: [&'static str; 2]) -> (StatusCode, String) {
    let snapshot = page.hub.snapshot().await;
    let stopping = snapshot.is_err() || *page.stop.borrow();
    let snapshot: Snapshot = snapshot.unwrap_or_default();
    let passing = |ok: bool| if ok { "passing" } else { "failing" };
    let well = snapshot.node.is_some() && !stopping;
    let uptime = clock::micros().saturating_sub(page.started);
    let timestamp = OffsetDateTime::from(clock::wall());
    let timestamp = timestamp.replace_nanosecond(0).unwrap_or(timestamp).format(&Rfc3339).unwrap_or_default();
    let ours = |namespace: &Namespace| page.namespace.as_ref().is_none_or(|own| own == namespace);
    let agents = snapshot.agents.iter().filter(|agent| ours(&agent.namespace));
    let body = Health {
        status: if well { words[0] } else { words[1] },
        server: &page.server,
        timestamp,
        uptime: uptime as f64 / 1e6,
        connected_agents: agents.map(|agent| agent.name.as_str()).take(MAX_NAMED).collect(),
        checks: Checks {
            websocket: passing(!stopping),
            node: passing(snapshot.node.is_some()),
            redis: "disabled",
            pools: "disabled",
            metrics: "passing",
        },
        metrics: Numbers {
            active_connections: page.counts.active.load(Ordering::Relaxed),
            total_connections: page.counts.total.load(Ordering::Relaxed),
            uptime_seconds: uptime / 1_000_000,
        },
    };
    let status = if well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, serde_json::to_string(&body).unwrap_or_default())
}
