//! What the node says of itself when it is asked.

use std::time::Duration;

use super::{LinkInfo, Node};
use crate::link;
use crate::link::socket::Buffers;
use crate::mesh::{DurableView, Limits, LinkView, NodeView, Time, Use};
use crate::metrics;
use crate::node::status::{
    AgentRow, DownStatus, DurableStatus, EarlyStatus, LimitStatus, LinkStatus, NodeStatus, Status,
    StoreStatus, UdpStatus,
};
use crate::rt::clock;
use crate::store;
use crate::wire::frame::{AgentState, Presence};
use crate::wire::ids::{AgentAddr, Namespace, NodeName};
use crate::wire::record::Place;

/// Between two counts for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(1);

impl Node {
    pub(super) fn status(&self) -> Status {
        let view = self.mesh.snapshot();
        Status {
            node: self.settings.mesh.node.clone(),
            incarnation: self.settings.mesh.incarnation,
            software: self.settings.software.clone(),
            uptime_seconds: clock::since(self.began).as_secs(),
            whole: view.nodes.iter().all(|node| node.reachable),
            nodes: view.nodes.into_iter().map(node_status).collect(),
            links: view.links.into_iter().filter_map(|link| self.link_status(link)).collect(),
            agents_online: view.agents_online,
            agents_known: view.agents_known,
            revocation_list: view.revocation_list,
            certificate_days_left: self.certificate_days,
            durable: Some(self.durable_status()),
            early: Some(early_status()),
            down: Some(down_status()),
            udp: udp_status(),
        }
    }

    fn durable_status(&self) -> DurableStatus {
        let view = self.mesh.durable_view();
        let health = self.settings.health.as_ref().map(|health| health.borrow().clone());
        DurableStatus {
            rolled_back: self.mesh.rolled_back(),
            mailbox: view.mailbox,
            in_hand: view.in_hand,
            outbox: view.outbox,
            handed: view.handed,
            copies: view.copies,
            untold: view.untold,
            held: view.held,
            no_room: view.no_room,
            unwritten: view.unwritten,
            marks: view.marks,
            bytes: view.bytes,
            dead_letters: health.as_ref().map_or(0, dead_letters),
            limits: limits(&self.settings.mesh.limits, self.mesh.limits_in_use()),
            store: health.as_ref().map(store_status),
        }
    }

    /// For the metrics. Counting looks at every message that is kept: not at each turn.
    pub(super) fn show_often(&mut self) {
        let now = Time(clock::micros());
        if now < self.next_count {
            return;
        }
        self.next_count = now.after(COUNT_EVERY);
        self.skews.show(self.mesh.skews());
        let rooms = self.mesh.rooms_view();
        metrics::ROOMS.set(rooms.rooms as i64);
        metrics::ROOMS_FORGOTTEN.set(rooms.forgotten as i64);
        metrics::ROOM_WAITING_BYTES.set(rooms.waiting_bytes as i64);
        metrics::ROOM_MESSAGES.set(rooms.messages as i64);
        metrics::ROOM_BYTES.set(rooms.bytes as i64);
        let view = self.mesh.durable_view();
        let DurableView { mailbox, in_hand, outbox, handed, copies, untold, held, marks, bytes, .. } = view;
        let dead = self.settings.health.as_ref().map_or(0, |health| dead_letters(&health.borrow()));
        for (place, count) in [
            ("mailbox", mailbox),
            ("in_hand", in_hand),
            ("outbox", outbox),
            ("no_room", view.no_room),
            ("handed", handed),
            ("copy", copies),
            ("untold", untold),
            ("held", held),
            ("dead", dead as usize),
        ] {
            metrics::MESSAGES_KEPT.with_label_values(&[place]).set(count as i64);
        }
        metrics::MARKS.set(marks as i64);
        metrics::ANSWERS_REMEMBERED.set(view.answers as i64);
        metrics::KEPT_BYTES.set(bytes as i64);
    }

    fn link_status(&self, view: LinkView) -> Option<LinkStatus> {
        let info = self.links.get(&view.link)?;
        let now = Time(clock::micros());
        Some(LinkStatus {
            peer: view.peer,
            role: role_word(info).to_owned(),
            carrier: info.handle.carrier().to_owned(),
            congestion: info.handle.congestion().map(str::to_owned),
            remote: info.handle.remote(),
            dialled: view.dialled,
            rtt_ms: (view.rtt_us > 0).then(|| f64::from(view.rtt_us) / 1e3),
            skew_ms: view.skew_ms,
            up_seconds: now.since(view.up_since).as_secs(),
            sessions: view.sessions,
        })
    }

    pub(super) fn agents(&self, namespace: Option<&Namespace>) -> Vec<AgentRow> {
        let row = |(node, state): (NodeName, AgentState)| AgentRow {
            agent: state.agent.to_string(),
            online: state.presence == Presence::Online,
            node,
            capabilities: state.capabilities,
            registered_ms: state.registered_ms,
        };
        self.mesh.agents_seen(namespace).into_iter().map(row).collect()
    }
}

fn limits(limits: &Limits, now: Use) -> Vec<LimitStatus> {
    let status = |key: &str, used: usize, most: usize, agent: Option<&AgentAddr>| LimitStatus {
        key: key.into(),
        used: used as u64,
        most: most as u64,
        agent: agent.map(ToString::to_string),
    };
    let fullest = now.fullest.as_ref();
    let (messages, bytes) = fullest.map_or((0, 0), |(_, messages, bytes)| (*messages, *bytes));
    let agent = fullest.map(|(agent, ..)| agent);
    vec![
        status("node_messages", now.messages, limits.node_messages, None),
        status("node_mib", now.bytes >> 20, limits.node_bytes >> 20, None),
        status("mailbox_messages", messages, limits.mailbox_messages, agent),
        status("mailbox_mib", bytes >> 20, limits.mailbox_bytes >> 20, agent),
        status("receipts_of_sender", now.receipts, limits.receipts_of_sender, None),
    ]
}

fn early_status() -> EarlyStatus {
    let links = |outcome| metrics::EARLY_DATA.with_label_values(&[outcome]).get();
    let messages = |what| metrics::EARLY_MESSAGES.with_label_values(&[what]).get();
    EarlyStatus {
        offered: links("offered"),
        accepted: links("accepted"),
        rejected: links("rejected"),
        dropped: links("dropped"),
        received: links("received"),
        messages: messages("received"),
        repeated: messages("repeated"),
    }
}

fn down_status() -> DownStatus {
    let count = |gauge: &prometheus::IntGauge| u64::try_from(gauge.get()).unwrap_or(0);
    DownStatus {
        links: count(&metrics::DOWN),
        idle_seconds: count(&metrics::DOWN_IDLE_SECONDS),
        not_dialled: metrics::NOT_DIALLED.get(),
    }
}

fn udp_status() -> Option<UdpStatus> {
    let buffers = Buffers::of_process()?;
    let Buffers { wanted, receive, send } = buffers;
    Some(UdpStatus { wanted, receive, send, mend: buffers.mend() })
}

fn dead_letters(health: &store::Health) -> u64 {
    let dead = health.places.iter().filter(|(place, _)| *place == Place::Dead);
    dead.map(|(_, count)| count.messages).sum()
}

fn store_status(health: &store::Health) -> StoreStatus {
    StoreStatus {
        writable: health.writable,
        since_ms: health.since_ms,
        error: health.error.clone(),
        damaged: health.damaged.clone(),
        slowest_commit_ms: health.slowest_seconds * 1e3,
        waiting: health.waiting,
        quarantined: health.quarantined,
        quarantined_alone: health.quarantined_alone,
        full_check: match &health.checked {
            Some(checked) => Some(checked.word().to_owned()),
            None => health.damaged.is_none().then(|| "running".to_owned()),
        },
    }
}

fn node_status(view: NodeView) -> NodeStatus {
    NodeStatus {
        node: view.node,
        incarnation: Some(view.incarnation),
        reachable: view.reachable,
        next_hop: view.next_hop,
        rtt_ms: view.rtt_us.map(|us| us as f64 / 1e3),
        agents_online: view.agents_online,
        holds_ca: view.holds_ca,
    }
}

pub(super) fn role_word(info: &LinkInfo) -> &'static str {
    match (info.peer.role, info.handle.carrier()) {
        (link::Role::Node, _) => "node",
        (link::Role::Entrance, "memory") => "gateway",
        (link::Role::Entrance, _) => "edge",
    }
}
