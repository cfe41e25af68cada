//! One frame of each kind for the golden vectors.

use bytes::Bytes;
use trishula::wire::close::{Code, Refusal};
use trishula::wire::envelope::{Class, Form, Head, Kind, MessageKey, Numbered, Priority, State, Target};
use trishula::wire::frame::{
    Adjacency, AgentState, Agents, Attach, Call, Confirm, Deliver, Dest, Forward, Frame, Handing, Heard,
    Hello, Inquire, Known, LinkState, Method, Outcome, Presence, Receipt, Release, Remembers, Reply,
    Settlement, Withdraw,
};
use trishula::wire::ids::{
    AgentAddr, Incarnation, MessageId, Namespace, NodeName, RoomName, Sequence, SessionNo,
};

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn agent(name: &str) -> AgentAddr {
    AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap()
}

fn head() -> Head {
    Head {
        from: agent("dc"),
        to: Target::Agent(agent("akosha/indexer")),
        id: MessageId::new("c-1").unwrap(),
        kind: Kind::Command,
        priority: Priority::URGENT,
        class: Class::Durable,
        reply_to: Some(MessageId::new("c-0").unwrap()),
        receipt: Some(State::Delivered),
        ttl_ms: Some(60_000),
        not_before_ms: None,
        copies: 1,
        create: true,
        form: Form::Json,
        sent_ms: 1_767_225_600_000,
        depth: 3,
        retry_of: Some(MessageId::new("c-9").unwrap()),
        taken: 1_767_225_600_000 << 16 | 5,
        number: Some(Numbered { epoch: 1_767_225_600_000, n: 300 }),
    }
}

fn agent_state(name: &str) -> AgentState {
    AgentState {
        agent: agent(name),
        presence: Presence::Online,
        registered_ms: 1_767_225_600_000,
        shared: true,
        capabilities: vec!["shell".into(), "git".into()],
    }
}

fn receipt() -> Receipt {
    Receipt {
        to: node("dc"),
        sender: agent("dc"),
        id: MessageId::new("c-1").unwrap(),
        recipient: agent("agni"),
        counts: Some((3, 1)),
        node: node("agni"),
        state: State::Dead,
        refusal: Some(refusal()),
        asked: true,
        keeper: NodeName::new("agni").unwrap(),
        hops_left: 16,
    }
}

fn key() -> MessageKey {
    MessageKey { from: agent("dc"), id: MessageId::new("c-1").unwrap(), to: agent("agni") }
}

fn forward() -> Forward {
    let dest = Dest {
        node: node("agni"),
        agent: Some(agent("agni.planner")),
        number: Sequence(300),
        after: Sequence(299),
        life: Incarnation(1_767_225_600_001),
        registered_ms: 1_767_225_599_000,
    };
    let room = Target::Room(Namespace::new("trishula").unwrap(), RoomName::new("build/42").unwrap());
    Forward {
        origin: node("dc"),
        incarnation: Incarnation(1_767_225_600_000),
        to: vec![dest, Dest::live(node("rushabdev"))],
        hops_left: 16,
        redelivered: true,
        unseen: false,
        age_ms: 1_500,
        head: Head { to: room, ..head() },
    }
}

fn confirm(incarnation: Incarnation) -> Confirm {
    let reports = vec![
        (Sequence(300), Outcome::Reached(State::Stored, None)),
        (Sequence(301), Outcome::Reached(State::Nacked, Some(refusal()))),
        (Sequence(302), Outcome::Held),
        (Sequence(303), Outcome::Unknown),
        (Sequence(304), Outcome::Elsewhere),
        (Sequence(305), Outcome::PassedOn(node("rushabdev"))),
    ];
    Confirm { to: node("dc"), incarnation, node: node("agni"), reports, hops_left: 16 }
}

fn inquire(incarnation: Incarnation) -> Inquire {
    let asked = vec![(Sequence(300), key())];
    Inquire { to: node("agni"), from: node("dc"), incarnation, asked, hops_left: 16 }
}

fn settled() -> Vec<(u64, Settlement)> {
    vec![
        (300, Settlement::Written),
        (301, Settlement::Acked),
        (302, Settlement::Nacked("disk full".into())),
        (303, Settlement::Requeued("busy".into())),
    ]
}

fn refusal() -> Refusal {
    Refusal::new(Code::RecipientOffline, "trishula/agni is not connected")
}

fn body() -> Bytes {
    Bytes::from_static(b"{\"type\":\"COMMAND\"}")
}

/// One of each kind, with values that a later release must read from this release's bytes.
pub fn golden() -> Vec<Frame> {
    messages_and_links().into_iter().chain(crate::rooms::golden()).collect()
}

fn messages_and_links() -> Vec<Frame> {
    let incarnation = Incarnation(1_767_225_600_000);
    let handed = Handing { session: SessionNo(400), tag: 300, redelivered: true };
    vec![
        Frame::Hello(Hello {
            version: 2,
            oldest: 2,
            node: node("dc"),
            incarnation,
            features: vec!["rooms".into()],
            software: "trishula 0.1.0".into(),
        }),
        Frame::Ping(7),
        Frame::Pong(300, 1_767_225_600_000),
        Frame::Goodbye(1000),
        Frame::LinkState(LinkState {
            origin: node("agni"),
            incarnation,
            version: 12,
            links: vec![Adjacency { peer: node("dc"), rtt_us: 20_000 }],
            holds_ca: true,
            addresses: vec!["agni.example:8766".into()],
            serial: "0a1b2c".into(),
        }),
        Frame::Agents(Agents {
            origin: node("agni"),
            incarnation,
            base: Some(3),
            version: 4,
            agents: vec![agent_state("agni.planner")],
        }),
        Frame::Remembers(Remembers { origin: node("agni"), incarnation, since: Incarnation(7) }),
        Frame::Digest(vec![Known {
            origin: node("agni"),
            incarnation,
            links_version: 12,
            agents_version: 4,
        }]),
        Frame::Revocations(5, Bytes::from_static(&[0x30, 0x03, 0x02, 0x01, 0x05])),
        Frame::Call(
            Call {
                from: node("dc"),
                incarnation,
                number: Sequence(9),
                to: node("rushabdev"),
                method: Method::Ping,
                route: vec![node("dc"), node("agni")],
            },
            body(),
        ),
        Frame::Reply(
            Reply {
                to: node("dc"),
                incarnation,
                number: Sequence(9),
                from: node("rushabdev"),
                ok: true,
                route: vec![node("dc"), node("agni"), node("rushabdev")],
                hops_left: 15,
            },
            body(),
        ),
        Frame::Forward(forward(), body()),
        Frame::Receipt(receipt()),
        Frame::Confirm(confirm(incarnation)),
        Frame::Inquire(inquire(incarnation)),
        Frame::Hold(forward(), body()),
        Frame::Release(Release {
            to: node("agni"),
            messages: vec![(key(), State::Acked, None), (key(), State::Dead, Some(refusal()))],
            hops_left: 16,
        }),
        Frame::Withdraw(Withdraw {
            to: node("agni"),
            from: node("dc"),
            incarnation,
            messages: vec![(Sequence(7), key())],
            hops_left: 16,
        }),
        Frame::Heard(Heard { to: node("agni"), message: key(), state: State::Expired, hops_left: 16 }),
        Frame::Attach(Attach {
            session: SessionNo(3),
            agent: agent("dc"),
            capabilities: vec!["shell".into()],
            shared: false,
            registered_ms: 1_767_225_600_000,
            resumed: true,
            window: 64,
            transient: false,
        }),
        Frame::Attached(SessionNo(3), 1_767_225_600_000),
        Frame::Detach(SessionNo(3), true),
        Frame::Evict(SessionNo(3), refusal()),
        Frame::Submit(SessionNo(3), head(), body()),
        Frame::Told(SessionNo(3), receipt()),
        Frame::Deliver(
            Deliver {
                to: vec![Handing::live(SessionNo(3)), handed],
                head: Head { to: Target::Broadcast(Namespace::new("trishula").unwrap()), ..head() },
                confirm: Some(node("dc")),
            },
            body(),
        ),
        Frame::Settle(SessionNo(3), settled()),
        Frame::Query(SessionNo(3), Sequence(1), agent("dc"), MessageId::new("c-1").unwrap()),
        Frame::Answer(SessionNo(3), Sequence(1), Bytes::from_static(b"{\"state\":\"unknown\"}")),
        Frame::AskAgents(SessionNo(3), Sequence(1)),
        Frame::AgentList(SessionNo(3), Sequence(1), vec![(agent_state("agni.planner"), node("agni"))]),
    ]
}
