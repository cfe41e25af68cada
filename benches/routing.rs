//! What the core needs for one decision, at 3, 10 and 100 nodes.
//!
//! `cargo bench --bench routing`, or quickly: `cargo bench --bench routing -- --quick`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::Bytes;
use trishula::mesh::topology::Topology;
use trishula::mesh::{Config, Input, Mesh, Output, Role, Time};
use trishula::wire::envelope::{Class, Head, Kind, Target};
use trishula::wire::frame::{
    Adjacency, AgentState, Agents, Attach, Dest, Forward, Frame, LinkState, Presence,
};
use trishula::wire::ids::{AgentAddr, Incarnation, LinkId, MessageId, Namespace, NodeName, SessionNo};

mod common;

use common::{Effort, title};

/// Agents at each node.
const AGENTS: usize = 20;
const ENTRANCE: LinkId = LinkId(1_000_000);

fn node(n: usize) -> NodeName {
    NodeName::new(&format!("n{n}")).unwrap()
}

fn agent(n: usize, at: usize) -> AgentAddr {
    AgentAddr::parse(&format!("agent-{n}.n{at}"), &Namespace::new("trishula").unwrap()).unwrap()
}

/// Every node links to up to eight others, near and far.
fn peers(n: usize, nodes: usize) -> Vec<usize> {
    let steps = [1, 2, nodes / 4, nodes / 3];
    let near = steps.iter().filter(|step| **step > 0);
    let mut peers: Vec<usize> =
        near.flat_map(|step| [(n + step) % nodes, (n + nodes - step) % nodes]).collect();
    peers.sort_unstable();
    peers.dedup();
    peers.retain(|peer| *peer != n);
    peers
}

fn link_state(n: usize, nodes: usize, version: u64) -> LinkState {
    let rtt = |peer: usize| 1_000 + ((n + peer) * 7_919 % 40_000) as u32 + (version % 2) as u32;
    let links = peers(n, nodes).into_iter().map(|peer| Adjacency { peer: node(peer), rtt_us: rtt(peer) });
    LinkState {
        origin: node(n),
        incarnation: Incarnation(1),
        version,
        links: links.collect(),
        holds_ca: n == 0,
        addresses: Vec::new(),
        serial: String::new(),
    }
}

fn agents(n: usize) -> Agents {
    let state = |i| AgentState {
        agent: agent(i, n),
        presence: Presence::Online,
        registered_ms: 1,
        shared: false,
        capabilities: Vec::new(),
    };
    let agents = (0..AGENTS).map(state).collect();
    Agents { origin: node(n), incarnation: Incarnation(1), base: None, version: 2, agents }
}

/// All that there is to do; answers how many frames are to be sent.
fn drain(mesh: &mut Mesh) -> usize {
    let outputs = std::iter::from_fn(|| mesh.poll_output());
    outputs.filter(|output| matches!(output, Output::Send(..))).count()
}

/// Node 0 with its links, everybody's announcements, and one session of its own.
fn mesh(nodes: usize) -> Mesh {
    let mut mesh = Mesh::new(Config::new(node(0), Incarnation(1)), Time(0), 0, Default::default());
    for (id, peer) in (1..).zip(peers(0, nodes)) {
        let up = Input::LinkUp {
            link: LinkId(id),
            peer: node(peer),
            role: Role::Node,
            incarnation: Incarnation(1),
            dialled: true,
            fallback: false,
            rtt_us: 20_000,
        };
        mesh.handle(Time(1), up);
    }
    for n in 1..nodes {
        mesh.handle(Time(2), Input::Frame(LinkId(1), Frame::LinkState(link_state(n, nodes, 1))));
        mesh.handle(Time(2), Input::Frame(LinkId(1), Frame::Agents(agents(n))));
    }
    let entrance = Input::LinkUp {
        link: ENTRANCE,
        peer: node(0),
        role: Role::Entrance,
        incarnation: Incarnation(1),
        dialled: false,
        fallback: false,
        rtt_us: 0,
    };
    mesh.handle(Time(3), entrance);
    let attach = Attach {
        session: SessionNo(1),
        agent: agent(0, 0),
        capabilities: Vec::new(),
        shared: false,
        registered_ms: 1,
        resumed: false,
        window: 64,
        transient: false,
    };
    mesh.handle(Time(3), Input::Frame(ENTRANCE, Frame::Attach(attach)));
    while let Some(output) = mesh.poll_output() {
        if let Output::Persist(ticket, _) = output {
            mesh.handle(Time(4), Input::Persisted(ticket));
        }
    }
    assert_eq!(mesh.snapshot().nodes.iter().filter(|view| view.reachable).count(), nodes);
    mesh
}

fn head(from: AgentAddr, to: Target) -> Head {
    let id = MessageId::new("e7a4f0d2-1b8c-4d0e-8a44-7f0f9c2d5b31").unwrap();
    // What is durable goes by the table of items, and is recognised when it comes again.
    Head { class: Class::Live, ..Head::new(from, to, id, Kind::Command) }
}

fn decisions(effort: &Effort, nodes: usize) {
    title(&format!("{nodes} nodes with {AGENTS} agents each: one input and its outputs"));
    let mut mesh = mesh(nodes);
    let body = Bytes::from(vec![b'x'; 256]);
    let far = nodes / 2;
    let to_far = head(agent(0, 0), Target::Agent(agent(7, far)));
    effort.measure("submit to an agent of another node", 0, || {
        let frame = Frame::Submit(SessionNo(1), to_far.clone(), body.clone());
        mesh.handle(Time(5), Input::Frame(ENTRANCE, frame));
        assert_eq!(drain(&mut mesh), 1, "taken, and sent");
    });
    let everybody = Target::Broadcast(Namespace::new("trishula").unwrap());
    let to_all = head(agent(0, 0), everybody);
    effort.measure("submit to everybody", 0, || {
        let frame = Frame::Submit(SessionNo(1), to_all.clone(), body.clone());
        mesh.handle(Time(5), Input::Frame(ENTRANCE, frame));
        drain(&mut mesh)
    });
    let transit = Forward {
        origin: node(1),
        incarnation: Incarnation(1),
        to: vec![Dest::live(node(far))],
        hops_left: 16,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head: head(agent(0, 1), Target::Agent(agent(7, far))),
    };
    effort.measure("pass on a message of another node", 0, || {
        let frame = Frame::Forward(transit.clone(), body.clone());
        mesh.handle(Time(5), Input::Frame(LinkId(1), frame));
        assert_eq!(drain(&mut mesh), 1);
    });
    let mut arriving = transit.clone();
    (arriving.to, arriving.head.to) = (vec![Dest::live(node(0))], Target::Agent(agent(0, 0)));
    effort.measure("deliver a message of another node", 0, || {
        let frame = Frame::Forward(arriving.clone(), body.clone());
        mesh.handle(Time(5), Input::Frame(LinkId(1), frame));
        assert_eq!(drain(&mut mesh), 1, "sent to the entrance");
    });
    let mut version = 1;
    effort.measure("learn a node's links, routes and flood", 0, || {
        version += 1;
        let news = Frame::LinkState(link_state(far, nodes, version));
        mesh.handle(Time(5), Input::Frame(LinkId(1), news));
        drain(&mut mesh)
    });
}

fn refresh(effort: &Effort, nodes: usize) {
    let mut topology = Topology::new(link_state(0, nodes, 1));
    for n in 1..nodes {
        topology.learn(link_state(n, nodes, 1));
    }
    topology.refresh();
    let news: Vec<LinkState> = (0..2).map(|version| link_state(nodes / 2, nodes, version)).collect();
    let mut version = 1;
    effort.measure(&format!("shortest ways among {nodes} nodes"), 0, || {
        version += 1;
        let mut news = news[(version % 2) as usize].clone();
        news.version = version;
        assert!(topology.learn(news));
        topology.refresh()
    });
}

fn main() {
    let effort = Effort::from_args();
    for nodes in [3, 10, 100] {
        decisions(&effort, nodes);
    }
    title("routes alone");
    for nodes in [3, 10, 100, 256] {
        refresh(&effort, nodes);
    }
}
