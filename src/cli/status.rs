//! `trishula status`: how this node and the mesh stand.

use super::common::{SocketArg, block_on, human_bytes, human_seconds, now_ms};
use super::print;
use crate::admin::protocol::Request;
use crate::node::status::{DurableStatus, EarlyStatus, LimitStatus, LinkStatus, NodeStatus, RESUME, Status};
use crate::wire::ids::NodeName;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula status
  trishula status --node agni           as agni sees it, asked through the mesh
  trishula status --json | jq .whole    for scripts: is every node in reach?")]
pub(crate) struct Args {
    /// Ask this node instead, through the mesh
    #[arg(long, value_name = "NAME")]
    node: Option<NodeName>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let status: Status = block_on(async {
            let mut node = self.socket.connect().await?;
            let what = format!("waiting for {}", self.node.as_ref().map_or("the node", NodeName::as_str));
            Ok(print::progress(&what, node.ask(&Request::Status { node: self.node.clone() })).await?)
        })?;
        if self.json { print::json(&status) } else { show(&status) }
    }
}

fn show(status: &Status) -> anyhow::Result<()> {
    let whole = if status.whole { "the mesh is whole" } else { "THE MESH IS NOT WHOLE" };
    print::line(&format!(
        "{} ({}, up {}): {whole}; {} agents connected, {} known",
        status.node,
        status.software,
        human_seconds(status.uptime_seconds),
        status.agents_online,
        status.agents_known
    ))?;
    if let Some(days) = status.certificate_days_left.filter(|days| *days < 30) {
        print::line(&format!("The certificate ends in {days} days; renew it with: trishula cert renew"))?;
    }
    print::line("")?;
    let rows: Vec<_> = status.nodes.iter().map(|node| node_row(node, &status.node)).collect();
    print::table(&["node", "reach", "way", "round trip", "agents", ""], &rows)?;
    if !status.links.is_empty() {
        print::line("")?;
        let rows: Vec<_> = status.links.iter().map(link_row).collect();
        print::table(
            &["link", "role", "by", "address", "dialled", "round trip", "clock", "up", "sessions"],
            &rows,
        )?;
    }
    if let Some(down) = status.down.filter(|down| down.not_dialled > 0) {
        print::line(&format!(
            "A FAULT IN THE PROGRAM: a link was down and not dialled {} times; it was dialled anew. Please report it with the log",
            down.not_dialled
        ))?;
    }
    if let Some((udp, mend)) = status.udp.as_ref().and_then(|udp| Some((udp, udp.mend.as_ref()?))) {
        print::line(&format!(
            "UDP has room for {} in and {} out, {} would be good; to mend: {mend}, then start the node again",
            human_bytes(udp.receive as u64),
            human_bytes(udp.send as u64),
            human_bytes(udp.wanted as u64)
        ))?;
    }
    if let Some(early) = status.early.filter(|early| early.offered + early.received > 0) {
        print::line(&early_line(&early))?;
    }
    if let Some(durable) = &status.durable {
        print::line("")?;
        show_durable(durable)?;
    }
    Ok(())
}

fn early_line(early: &EarlyStatus) -> String {
    let EarlyStatus { offered, accepted, rejected, dropped, received, messages, repeated } = early;
    format!(
        "Links begun again with early data: {offered} by us ({accepted} accepted, {rejected} rejected, {dropped} without an answer), {received} by others; {messages} messages came so, {repeated} of them again"
    )
}

fn show_durable(durable: &DurableStatus) -> anyhow::Result<()> {
    if let Some(seen) = durable.rolled_back {
        print::line(&format!(
            "STANDS STILL: the store is an old copy, the mesh has seen life {seen} of this node; say how to go on: {RESUME}"
        ))?;
    }
    print::line(&format!(
        "Messages: {} in mailboxes ({} in hand), {} on their way{}, {} handed over, {} copies; {}",
        durable.mailbox,
        durable.in_hand,
        durable.outbox,
        match durable.no_room {
            0 => String::new(),
            waiting => format!(" ({waiting} for which their recipients' nodes have no room now)"),
        },
        durable.handed,
        durable.copies,
        human_bytes(durable.bytes as u64)
    ))?;
    print::line(&format!(
        "Ended: {} of which senders are still to be told, {} marks, {} dead letters{}",
        durable.untold,
        durable.marks,
        durable.dead_letters,
        if durable.dead_letters > 0 { ": trishula dlq list" } else { "" }
    ))?;
    if !durable.limits.is_empty() {
        let limits: Vec<String> = durable.limits.iter().map(limit).collect();
        print::line(&format!("Limits: {}", limits.join(", ")))?;
    }
    let Some(store) = &durable.store else { return Ok(()) };
    match store.trouble() {
        None if store.is_slow() => print::line(&format!(
            "Store: writes, but SLOWLY: a commit took {:.0} ms in the last two minutes, senders wait for their receipts as long; is the disk overloaded, or failing (dmesg)? {} waiting",
            store.slowest_commit_ms, store.waiting
        ))?,
        None => print::line(&format!(
            "Store: writes, slowest commit {:.1} ms, {} waiting",
            store.slowest_commit_ms, store.waiting
        ))?,
        Some(why) => {
            let since = now_ms().saturating_sub(store.since_ms) / 1000;
            print::line(&format!(
                "STORE: REFUSES TO WRITE for {} ({why}); {} waiting",
                human_seconds(since),
                store.waiting
            ))?;
        }
    }
    if store.full_check.as_deref() == Some("failed") {
        print::line(
            "Store: its full check did not come to an end, see the node's log; or run: trishula store status --full",
        )?;
    }
    if store.quarantined > 0 {
        print::line(&format!(
            "Store: {} damaged messages were put aside; of {} no other node is known to hold a copy: trishula store status",
            store.quarantined, store.quarantined_alone
        ))?;
    }
    Ok(())
}

/// Of nine tenths on it is said loud.
fn limit(limit: &LimitStatus) -> String {
    let near =
        if limit.used.saturating_mul(10) >= limit.most.saturating_mul(9) { "NEARLY REACHED: " } else { "" };
    let of = limit.agent.as_ref().map_or_else(String::new, |agent| format!(" ({agent})"));
    format!("{near}{} {} of {}{of}", limit.key, limit.used, limit.most)
}

fn node_row(node: &NodeStatus, own: &NodeName) -> Vec<String> {
    let way = match &node.next_hop {
        _ if node.node == *own => "this node".into(),
        Some(hop) if *hop == node.node => "direct".into(),
        Some(hop) => format!("by {hop}"),
        None => "none: is it running? is its address right?".into(),
    };
    let reach = if node.reachable { "yes" } else { "NO" };
    let ca = if node.holds_ca { "holds the CA" } else { "" };
    vec![
        node.node.to_string(),
        reach.into(),
        way,
        milliseconds(node.rtt_ms),
        node.agents_online.to_string(),
        ca.into(),
    ]
}

fn link_row(link: &LinkStatus) -> Vec<String> {
    let dialled = if link.dialled { "by us" } else { "by them" };
    vec![
        link.peer.to_string(),
        link.role.clone(),
        link.carrier.clone(),
        link.remote.clone(),
        dialled.into(),
        milliseconds(link.rtt_ms),
        link.skew_ms.map_or_else(|| "–".into(), |ms| format!("{ms:+.0} ms")),
        human_seconds(link.up_seconds),
        link.sessions.to_string(),
    ]
}

fn milliseconds(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |ms| format!("{ms:.2} ms"))
}
