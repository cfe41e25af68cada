//! Any frame of each kind for the properties.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use trishula::wire::close::{Code, Refusal};
use trishula::wire::envelope::{Class, Form, Head, Kind, MessageKey, Numbered, Priority, State, Target};
use trishula::wire::frame::{
    Adjacency, AgentState, Agents, Attach, Call, Confirm, Deliver, Dest, Forward, Frame, Handing, Heard,
    Hello, Inquire, Known, LinkState, Method, Outcome, Presence, Receipt, Release, Remembers, Reply,
    Settlement, Withdraw,
};
use trishula::wire::ids::{
    AgentAddr, AgentName, Incarnation, MessageId, Namespace, NodeName, RoomName, Sequence, SessionNo,
};

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
        State::Refused,
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
    let number = option::of((1u64.., 1u64..).prop_map(|(epoch, n)| Numbered { epoch, n }));
    let stamps = (any::<u64>(), any::<u16>(), option::of(any_id()), any::<u64>(), number);
    (ends, words, numbers, stamps).prop_map(|((from, to, id, reply_to, receipt), words, numbers, stamps)| {
        let (sent_ms, depth, retry_of, taken, number) = stamps;
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
            sent_ms,
            depth,
            retry_of,
            taken,
            number,
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
    (names, any_state(), option::of(any_refusal()), any::<(bool, Option<(u32, u32)>, u8)>()).prop_map(
        |((to, sender, id, recipient, node), state, refusal, (asked, counts, hops_left))| Receipt {
            keeper: node.clone(),
            to,
            sender,
            id,
            recipient,
            counts,
            node,
            state,
            refusal,
            asked,
            hops_left,
        },
    )
}

fn any_key() -> impl Strategy<Value = MessageKey> + Clone {
    (any_agent(), any_id(), any_agent()).prop_map(|(from, id, to)| MessageKey { from, id, to })
}

fn any_forward() -> impl Strategy<Value = Forward> + Clone {
    let dest = (any_node(), option::of(any_agent()), any_number(), any_number(), any_life(), any::<u64>())
        .prop_map(|(node, agent, number, after, life, registered_ms)| Dest {
            node,
            agent,
            number,
            after,
            life,
            registered_ms,
        });
    (any_node(), any_life(), vec(dest, 0..4), any::<(u8, bool, bool, u64)>(), any_head()).prop_map(
        |(origin, incarnation, to, (hops_left, redelivered, unseen, age_ms), head)| Forward {
            origin,
            incarnation,
            to,
            hops_left,
            redelivered,
            unseen,
            age_ms,
            head,
        },
    )
}

fn any_outcome() -> impl Strategy<Value = Outcome> + Clone {
    prop_oneof![
        (any_state(), option::of(any_refusal())).prop_map(|(state, why)| Outcome::Reached(state, why)),
        Just(Outcome::Held),
        Just(Outcome::Unknown),
        Just(Outcome::Elsewhere),
        any_node().prop_map(Outcome::PassedOn),
    ]
}

fn any_settlement() -> impl Strategy<Value = Settlement> + Clone {
    prop_oneof![
        Just(Settlement::Written),
        Just(Settlement::Acked),
        "\\PC{0,40}".prop_map(Settlement::Nacked),
        "\\PC{0,40}".prop_map(Settlement::Requeued),
    ]
}

/// What nodes say to each other of messages that were sent.
fn any_custody() -> impl Strategy<Value = Frame> {
    let confirm = (any_node(), any_life(), any_node(), vec((any_number(), any_outcome()), 0..5), any::<u8>())
        .prop_map(|(to, incarnation, node, reports, hops_left)| {
            Frame::Confirm(Confirm { to, incarnation, node, reports, hops_left })
        });
    let inquire = (any_node(), any_node(), any_life(), vec((any_number(), any_key()), 0..4), any::<u8>())
        .prop_map(|(to, from, incarnation, asked, hops_left)| {
            Frame::Inquire(Inquire { to, from, incarnation, asked, hops_left })
        });
    let heard = (any_node(), any_key(), any_state(), any::<u8>())
        .prop_map(|(to, message, state, hops_left)| Frame::Heard(Heard { to, message, state, hops_left }));
    let release = (any_node(), vec((any_key(), any_state(), option::of(any_refusal())), 0..4), any::<u8>())
        .prop_map(|(to, messages, hops_left)| Frame::Release(Release { to, messages, hops_left }));
    let hold = (any_forward(), any_body()).prop_map(|(forward, body)| Frame::Hold(forward, body));
    let withdraw = (any_node(), any_node(), any_life(), vec((any_number(), any_key()), 0..4), any::<u8>())
        .prop_map(|(to, from, incarnation, messages, hops_left)| {
            Frame::Withdraw(Withdraw { to, from, incarnation, messages, hops_left })
        });
    prop_oneof![confirm, inquire, hold, release, withdraw, heard]
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
        (any::<u64>(), any::<u64>()).prop_map(|(stamp, wall_ms)| Frame::Pong(stamp, wall_ms)),
        any::<u64>().prop_map(Frame::Goodbye),
        link_state,
        agents,
        (any_node(), any_life(), any_life())
            .prop_map(|(origin, incarnation, since)| Remembers { origin, incarnation, since })
            .prop_map(Frame::Remembers),
        vec(known, 0..5).prop_map(Frame::Digest),
        (any::<u64>(), any_body()).prop_map(|(number, der)| Frame::Revocations(number, der)),
    ]
}

fn any_call() -> impl Strategy<Value = Frame> {
    let method = prop::sample::select(vec![
        Method::Ping,
        Method::Status,
        Method::Enrol,
        Method::Renew,
        Method::Records,
    ]);
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
    let forward = (any_forward(), any_body()).prop_map(|(forward, body)| Frame::Forward(forward, body));
    let handing = (any_session(), any::<u64>(), any::<bool>())
        .prop_map(|(session, tag, redelivered)| Handing { session, tag, redelivered });
    let deliver = (vec(handing, 0..5), any_head(), option::of(any_node()), any_body())
        .prop_map(|(to, head, confirm, body)| Frame::Deliver(Deliver { to, head, confirm }, body));
    prop_oneof![
        forward,
        deliver,
        any_receipt().prop_map(Frame::Receipt),
        (any_session(), any_head(), any_body()).prop_map(|(no, head, body)| Frame::Submit(no, head, body)),
        (any_session(), any_receipt()).prop_map(|(no, receipt)| Frame::Told(no, receipt)),
    ]
}

fn any_session_frame() -> impl Strategy<Value = Frame> {
    let attach = (any_session(), any_agent(), vec("\\PC{0,20}", 0..4), any::<(bool, u64, bool, u16, bool)>())
        .prop_map(|(session, agent, capabilities, more)| {
            let (shared, registered_ms, resumed, window, transient) = more;
            Frame::Attach(Attach {
                session,
                agent,
                capabilities,
                shared,
                registered_ms,
                resumed,
                window,
                transient,
            })
        });
    let settle = (any_session(), vec((any::<u64>(), any_settlement()), 0..6));
    let query = (any_session(), any_number(), any_agent(), any_id());
    let list = vec((any_agent_state(), any_node()), 0..4);
    prop_oneof![
        attach,
        (any_session(), any::<u64>()).prop_map(|(session, ms)| Frame::Attached(session, ms)),
        (any_session(), any::<bool>()).prop_map(|(no, forget)| Frame::Detach(no, forget)),
        (any_session(), any_refusal()).prop_map(|(no, refusal)| Frame::Evict(no, refusal)),
        settle.prop_map(|(no, settled)| Frame::Settle(no, settled)),
        query.prop_map(|(no, number, from, id)| Frame::Query(no, number, from, id)),
        (any_session(), any_number(), any_body()).prop_map(|(no, n, body)| Frame::Answer(no, n, body)),
        (any_session(), any_number()).prop_map(|(no, number)| Frame::AskAgents(no, number)),
        (any_session(), any_number(), list).prop_map(|(no, number, list)| Frame::AgentList(no, number, list)),
    ]
}

/// Any frame of any kind.
pub fn any_frame() -> impl Strategy<Value = Frame> {
    let rooms = crate::rooms::any_frame();
    prop_oneof![any_announcement(), any_call(), any_message(), any_custody(), any_session_frame(), rooms]
}
