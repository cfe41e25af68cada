//! One frame of each kind for the golden vectors, and any frame of each kind for the properties.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use trishula::wire::close::{Code, Refusal};
use trishula::wire::envelope::{Class, Form, Head, Kind, Priority, State, Target};
use trishula::wire::frame::{
    Adjacency, AgentState, Agents, Attach, Call, Deliver, Forward, Frame, Hello, Known, LinkState, Method,
    Presence, Receipt, Reply,
};
use trishula::wire::ids::{
    AgentAddr, AgentName, Incarnation, MessageId, Namespace, NodeName, RoomName, Sequence, SessionNo,
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
        node: node("agni"),
        state: State::Dead,
        refusal: Some(refusal()),
        hops_left: 16,
    }
}

fn refusal() -> Refusal {
    Refusal::new(Code::RecipientOffline, "trishula/agni is not connected")
}

fn body() -> Bytes {
    Bytes::from_static(b"{\"type\":\"COMMAND\"}")
}

/// One of each kind, with values that a later release must read from this release's bytes.
pub fn golden() -> Vec<Frame> {
    let incarnation = Incarnation(1_767_225_600_000);
    let room = Target::Room(Namespace::new("trishula").unwrap(), RoomName::new("build/42").unwrap());
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
        Frame::Pong(300),
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
        Frame::Forward(
            Forward {
                origin: node("dc"),
                incarnation,
                number: Sequence(300),
                to: vec![node("agni"), node("rushabdev")],
                hops_left: 16,
                head: Head { to: room, ..head() },
            },
            body(),
        ),
        Frame::Receipt(receipt()),
        Frame::Attach(Attach {
            session: SessionNo(3),
            agent: agent("dc"),
            capabilities: vec!["shell".into()],
            shared: false,
            registered_ms: 1_767_225_600_000,
            resumed: true,
        }),
        Frame::Attached(SessionNo(3)),
        Frame::Detach(SessionNo(3), true),
        Frame::Evict(SessionNo(3), refusal()),
        Frame::Submit(SessionNo(3), head(), body()),
        Frame::Told(SessionNo(3), receipt()),
        Frame::Deliver(
            Deliver {
                sessions: vec![SessionNo(3), SessionNo(400)],
                head: Head { to: Target::Broadcast(Namespace::new("trishula").unwrap()), ..head() },
                confirm: Some(node("dc")),
            },
            body(),
        ),
        Frame::AskAgents(SessionNo(3), Sequence(1)),
        Frame::AgentList(SessionNo(3), Sequence(1), vec![(agent_state("agni.planner"), node("agni"))]),
    ]
}

fn any_node() -> impl Strategy<Value = NodeName> + Clone {
    "[a-z0-9][a-z0-9-]{0,62}".prop_filter_map("reserved", |name| NodeName::new(&name).ok())
}

fn any_namespace() -> impl Strategy<Value = Namespace> + Clone {
    "[a-z0-9][a-z0-9-]{0,62}".prop_filter_map("reserved", |name| Namespace::new(&name).ok())
}

fn any_agent() -> impl Strategy<Value = AgentAddr> + Clone {
    let name =
        "[A-Za-z0-9][A-Za-z0-9._-]{0,63}".prop_filter_map("reserved", |name| AgentName::new(&name).ok());
    (any_namespace(), name).prop_map(|(namespace, name)| AgentAddr::new(namespace, name))
}

fn any_id() -> impl Strategy<Value = MessageId> + Clone {
    "[A-Za-z0-9._:-]{1,128}".prop_map(|id| MessageId::new(&id).unwrap())
}

fn any_target() -> impl Strategy<Value = Target> + Clone {
    let room = "[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}".prop_map(|name| RoomName::new(&name).unwrap());
    prop_oneof![
        any_agent().prop_map(Target::Agent),
        any_namespace().prop_map(Target::Broadcast),
        (any_namespace(), room).prop_map(|(namespace, room)| Target::Room(namespace, room)),
    ]
}

fn any_state() -> impl Strategy<Value = State> + Clone {
    prop::sample::select(vec![
        State::Accepted,
        State::Stored,
        State::Delivered,
        State::Acked,
        State::Nacked,
        State::Expired,
        State::Dead,
    ])
}

fn any_refusal() -> impl Strategy<Value = Refusal> + Clone {
    (prop::sample::select(Code::ALL), "\\PC{0,60}").prop_map(|(code, why)| Refusal::new(code, why))
}

fn any_head() -> impl Strategy<Value = Head> + Clone {
    let ends = (any_agent(), any_target(), any_id(), option::of(any_id()), option::of(any_state()));
    let words = (
        prop::sample::select(&Kind::ALL[..]),
        (1u8..=5).prop_map(|n| Priority::new(n).unwrap()),
        prop::sample::select(vec![Class::Durable, Class::Live]),
        prop::sample::select(vec![Form::Json, Form::MsgPack]),
    );
    let numbers = (any::<Option<u64>>(), any::<Option<u64>>(), any::<u8>(), any::<bool>());
    (ends, words, numbers).prop_map(|((from, to, id, reply_to, receipt), words, numbers)| {
        let ((kind, priority, class, form), (ttl_ms, not_before_ms, copies, create)) = (words, numbers);
        Head {
            from,
            to,
            id,
            kind,
            priority,
            class,
            reply_to,
            receipt,
            ttl_ms,
            not_before_ms,
            copies,
            create,
            form,
        }
    })
}

fn any_agent_state() -> impl Strategy<Value = AgentState> + Clone {
    let presence = prop::sample::select(vec![Presence::Online, Presence::Away, Presence::Gone]);
    (any_agent(), presence, any::<u64>(), any::<bool>(), vec("\\PC{0,20}", 0..4)).prop_map(
        |(agent, presence, registered_ms, shared, capabilities)| AgentState {
            agent,
            presence,
            registered_ms,
            shared,
            capabilities,
        },
    )
}

fn any_receipt() -> impl Strategy<Value = Receipt> + Clone {
    let names = (any_node(), any_agent(), any_id(), any_agent(), any_node());
    (names, any_state(), option::of(any_refusal()), any::<u8>()).prop_map(
        |((to, sender, id, recipient, node), state, refusal, hops_left)| Receipt {
            to,
            sender,
            id,
            recipient,
            node,
            state,
            refusal,
            hops_left,
        },
    )
}

fn any_body() -> impl Strategy<Value = Bytes> + Clone {
    vec(any::<u8>(), 0..600).prop_map(Bytes::from)
}

fn any_life() -> impl Strategy<Value = Incarnation> + Clone {
    any::<u64>().prop_map(Incarnation)
}

fn any_session() -> impl Strategy<Value = SessionNo> + Clone {
    any::<u64>().prop_map(SessionNo)
}

fn any_number() -> impl Strategy<Value = Sequence> + Clone {
    any::<u64>().prop_map(Sequence)
}

fn any_announcement() -> impl Strategy<Value = Frame> {
    let hello = (any::<[u16; 2]>(), any_node(), any_life(), vec("[a-z_]{0,9}", 0..4), "\\PC{0,30}").prop_map(
        |([version, oldest], node, incarnation, features, software)| {
            Frame::Hello(Hello { version, oldest, node, incarnation, features, software })
        },
    );
    let links = vec((any_node(), any::<u32>()).prop_map(|(peer, rtt_us)| Adjacency { peer, rtt_us }), 0..5);
    let link_state = (
        any_node(),
        any_life(),
        any::<u64>(),
        links,
        any::<bool>(),
        vec("\\PC{0,30}", 0..3),
        "[0-9a-f]{0,32}",
    )
        .prop_map(|(origin, incarnation, version, links, holds_ca, addresses, serial)| {
            Frame::LinkState(LinkState { origin, incarnation, version, links, holds_ca, addresses, serial })
        });
    let agents = (any_node(), any_life(), any::<Option<u64>>(), any::<u64>(), vec(any_agent_state(), 0..4))
        .prop_map(|(origin, incarnation, base, version, agents)| {
            Frame::Agents(Agents { origin, incarnation, base, version, agents })
        });
    let known = (any_node(), any_life(), any::<[u64; 2]>()).prop_map(|(origin, incarnation, versions)| {
        let [links_version, agents_version] = versions;
        Known { origin, incarnation, links_version, agents_version }
    });
    prop_oneof![
        hello,
        any::<u64>().prop_map(Frame::Ping),
        any::<u64>().prop_map(Frame::Pong),
        any::<u64>().prop_map(Frame::Goodbye),
        link_state,
        agents,
        vec(known, 0..5).prop_map(Frame::Digest),
        (any::<u64>(), any_body()).prop_map(|(number, der)| Frame::Revocations(number, der)),
    ]
}

fn any_call() -> impl Strategy<Value = Frame> {
    let method = prop::sample::select(vec![Method::Ping, Method::Status, Method::Enrol, Method::Renew]);
    let ends = (any_node(), any_life(), any_number(), any_node(), vec(any_node(), 0..4));
    let call = (ends.clone(), method, any_body()).prop_map(
        |((from, incarnation, number, to, route), method, body)| {
            Frame::Call(Call { from, incarnation, number, to, method, route }, body)
        },
    );
    let reply = (ends, any::<(bool, u8)>(), any_body()).prop_map(
        |((to, incarnation, number, from, route), (ok, hops_left), body)| {
            Frame::Reply(Reply { to, incarnation, number, from, ok, route, hops_left }, body)
        },
    );
    prop_oneof![call, reply]
}

fn any_message() -> impl Strategy<Value = Frame> {
    let forward =
        (any_node(), any_life(), any_number(), vec(any_node(), 0..4), any::<u8>(), any_head(), any_body())
            .prop_map(|(origin, incarnation, number, to, hops_left, head, body)| {
                Frame::Forward(Forward { origin, incarnation, number, to, hops_left, head }, body)
            });
    let deliver = (vec(any_session(), 0..5), any_head(), option::of(any_node()), any_body()).prop_map(
        |(sessions, head, confirm, body)| Frame::Deliver(Deliver { sessions, head, confirm }, body),
    );
    prop_oneof![
        forward,
        deliver,
        any_receipt().prop_map(Frame::Receipt),
        (any_session(), any_head(), any_body()).prop_map(|(no, head, body)| Frame::Submit(no, head, body)),
        (any_session(), any_receipt()).prop_map(|(no, receipt)| Frame::Told(no, receipt)),
    ]
}

fn any_session_frame() -> impl Strategy<Value = Frame> {
    let attach = (any_session(), any_agent(), vec("\\PC{0,20}", 0..4), any::<(bool, u64, bool)>()).prop_map(
        |(session, agent, capabilities, (shared, registered_ms, resumed))| {
            Frame::Attach(Attach { session, agent, capabilities, shared, registered_ms, resumed })
        },
    );
    let list = vec((any_agent_state(), any_node()), 0..4);
    prop_oneof![
        attach,
        any_session().prop_map(Frame::Attached),
        (any_session(), any::<bool>()).prop_map(|(no, forget)| Frame::Detach(no, forget)),
        (any_session(), any_refusal()).prop_map(|(no, refusal)| Frame::Evict(no, refusal)),
        (any_session(), any_number()).prop_map(|(no, number)| Frame::AskAgents(no, number)),
        (any_session(), any_number(), list).prop_map(|(no, number, list)| Frame::AgentList(no, number, list)),
    ]
}

/// Any frame of any kind.
pub fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![any_announcement(), any_call(), any_message(), any_session_frame()]
}
