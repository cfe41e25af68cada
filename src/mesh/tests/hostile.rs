//! A peer that was admitted and does not keep to the rules: a node's own promises and the other links hold.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;

use super::cluster::{agent, node};
use crate::mesh::directory::{MAX_AGENTS, MAX_LIST_BYTES};
use crate::mesh::topology::MAX_NODES;
use crate::mesh::*;
use crate::wire::close::{Code, MAX_REFUSAL, Refusal};
use crate::wire::envelope::{Class, Head, Kind, State, Target};
use crate::wire::frame::*;
use crate::wire::ids::{AgentAddr, Incarnation, MessageId, Sequence, SessionNo};

const EVIL: LinkId = LinkId(1);
const HONEST: LinkId = LinkId(2);
const EDGE: LinkId = LinkId(3);
const OTHER_EDGE: LinkId = LinkId(4);

/// A node with two neighbours and two entrances; each has one session that is registered.
struct Victim(Mesh);

impl Victim {
    fn new() -> Victim {
        let mut victim =
            Victim(Mesh::new(Config::new(node("dc"), Incarnation(1)), Time(1), 0, Default::default()));
        for (link, peer, role) in [
            (EVIL, "evil", Role::Node),
            (HONEST, "agni", Role::Node),
            (EDGE, "dc", Role::Entrance),
            (OTHER_EDGE, "dc", Role::Entrance),
        ] {
            let (peer, incarnation) = (node(peer), Incarnation(1));
            victim.input(Input::LinkUp {
                link,
                peer,
                role,
                incarnation,
                dialled: false,
                fallback: false,
                rtt_us: 1,
            });
        }
        for (link, name) in [(EVIL, "evil"), (HONEST, "agni")] {
            victim.says(link, Frame::LinkState(link_state(name, &["dc"])));
        }
        victim.attach(EDGE, 1, "one");
        victim.attach(OTHER_EDGE, 2, "two");
        victim
    }

    /// Everything that follows from an input; what is to be written counts as written.
    fn input(&mut self, input: Input) -> Vec<Output> {
        self.0.handle(Time(2), input);
        let mut outputs = Vec::new();
        while let Some(output) = self.0.poll_output() {
            if let Output::Persist(ticket, _) = &output {
                self.0.handle(Time(2), Input::Persisted(*ticket));
            }
            outputs.push(output);
        }
        outputs
    }

    /// A peer says something; answers what is sent to whom.
    fn says(&mut self, link: LinkId, frame: Frame) -> Vec<(LinkId, Frame)> {
        let sent = |output| match output {
            Output::Send(link, frame) => Some((link, frame)),
            _ => None,
        };
        self.input(Input::Frame(link, frame)).into_iter().filter_map(sent).collect()
    }

    fn attach(&mut self, link: LinkId, session: u64, name: &str) -> Vec<(LinkId, Frame)> {
        self.says(link, Frame::Attach(attach(session, name)))
    }
}

fn attach(session: u64, name: &str) -> Attach {
    Attach {
        session: SessionNo(session),
        agent: agent(name),
        capabilities: Vec::new(),
        shared: true,
        registered_ms: 1,
        resumed: false,
        window: 64,
        transient: false,
    }
}

fn link_state(name: &str, peers: &[&str]) -> LinkState {
    LinkState {
        origin: node(name),
        incarnation: Incarnation(1),
        version: 1,
        links: peers.iter().map(|peer| Adjacency { peer: node(peer), rtt_us: 1 }).collect(),
        holds_ca: false,
        addresses: Vec::new(),
        serial: String::new(),
    }
}

fn state(agent: AgentAddr) -> AgentState {
    AgentState {
        agent,
        presence: Presence::Online,
        registered_ms: 1,
        shared: false,
        capabilities: Vec::new(),
    }
}

fn head(from: &str, to: &str) -> Head {
    Head {
        class: Class::Live,
        ..Head::new(agent(from), Target::Agent(agent(to)), MessageId::new("m-1").unwrap(), Kind::Status)
    }
}

fn receipt(to: &str, sender: &str, message: String) -> Receipt {
    Receipt {
        to: node(to),
        sender: agent(sender),
        id: MessageId::new("m-1").unwrap(),
        recipient: agent("x"),
        counts: None,
        node: node("evil"),
        state: State::Dead,
        refusal: Some(Refusal { code: Code::Internal, message }),
        asked: false,
        keeper: node("dc"),
        hops_left: 255,
    }
}

/// `many` new agents of the evil node.
fn more_agents(version: u64, many: usize, capabilities: Vec<String>) -> Frame {
    let names = (0..many).map(|n| agent(&format!("a-{version}-{n}")));
    let agents = names.map(|name| AgentState { capabilities: capabilities.clone(), ..state(name) }).collect();
    let (origin, incarnation, base) = (node("evil"), Incarnation(1), version.checked_sub(1));
    Frame::Agents(Agents { origin, incarnation, base: base.filter(|base| *base > 0), version, agents })
}

#[test]
fn a_nodes_list_of_agents_stays_one_that_can_be_passed_on() {
    // covers T24, B19
    let mut victim = Victim::new();
    let half = MAX_AGENTS / 2;
    assert!(!victim.says(EVIL, more_agents(1, half, Vec::new())).is_empty(), "what it may have is passed on");
    let bytes = vec!["x".repeat(MAX_LIST_BYTES)];
    assert!(victim.says(EVIL, more_agents(2, 1, bytes)).is_empty(), "not more bytes");
    assert!(victim.says(EVIL, more_agents(2, half + 1, Vec::new())).is_empty(), "not more agents");
    assert!(!victim.says(EVIL, more_agents(2, half, Vec::new())).is_empty());
    assert_eq!(victim.0.snapshot().agents_known, MAX_AGENTS + 2);
}

#[test]
fn lists_of_nodes_that_nobody_knows_are_bounded() {
    // covers T24, B19
    let mut victim = Victim::new();
    for n in 0..2 * MAX_NODES {
        let origin = node(&format!("ghost-{n}"));
        let agents = vec![state(agent(&format!("ghost-{n}")))];
        let news = Agents { origin, incarnation: Incarnation(1), base: None, version: 1, agents };
        victim.says(EVIL, Frame::Agents(news));
    }
    assert!(victim.0.snapshot().agents_known <= MAX_NODES + 2);
}

#[test]
fn an_announcement_that_no_node_could_make_is_not_taken() {
    // covers T24, B19
    let mut victim = Victim::new();
    // Each of two long lists would be looked through for each entry of the other.
    let many = vec!["liar"; 20_000];
    for (name, links) in [("friend", many.clone()), ("liar", vec!["friend"; 20_000])] {
        assert_eq!(victim.says(EVIL, Frame::LinkState(link_state(name, &links))).len(), 0);
    }
    let long = LinkState { addresses: vec!["a".repeat(70); 1000], ..link_state("liar", &[]) };
    assert_eq!(victim.says(EVIL, Frame::LinkState(long)).len(), 0);
    let long = LinkState { serial: "a".repeat(100_000), ..link_state("liar", &[]) };
    assert_eq!(victim.says(EVIL, Frame::LinkState(long)).len(), 0);
    let known: BTreeSet<String> = victim.0.snapshot().nodes.iter().map(|n| n.node.to_string()).collect();
    assert_eq!(known, ["agni", "dc", "evil"].map(String::from).into());
}

#[test]
fn nobody_else_speaks_for_this_node() {
    // covers T24
    let mut victim = Victim::new();
    let own = LinkState { incarnation: Incarnation(u64::MAX), ..link_state("dc", &["evil"]) };
    assert_eq!(victim.says(EVIL, Frame::LinkState(own)).len(), 0);
    let agents = Agents {
        origin: node("dc"),
        incarnation: Incarnation(u64::MAX),
        base: None,
        version: u64::MAX,
        agents: Vec::new(),
    };
    assert_eq!(victim.says(EVIL, Frame::Agents(agents)).len(), 0);
    assert_eq!(victim.0.snapshot().agents_online, 2);
}

#[test]
fn a_message_for_more_nodes_than_there_are_makes_one_refusal() {
    // covers T06, B19
    let mut victim = Victim::new();
    let forward = |to: Vec<NodeName>, hops_left: u8| Forward {
        origin: node("evil"),
        incarnation: Incarnation(1),
        to: to.into_iter().map(Dest::live).collect(),
        redelivered: false,
        unseen: false,
        age_ms: 0,
        hops_left,
        head: head("x", "one"),
    };
    let ghosts = (0..10_000).map(|n| node(&format!("ghost-{n}"))).collect();
    let sent = victim.says(EVIL, Frame::Forward(forward(ghosts, 16), Bytes::new()));
    assert!(matches!(&sent[..], [(EVIL, Frame::Receipt(_))]), "{} frames", sent.len());
    let sent = victim.says(EVIL, Frame::Forward(forward(vec![node("agni")], 255), Bytes::new()));
    let [(HONEST, Frame::Forward(on, _))] = &sent[..] else { panic!("{sent:?}") };
    assert!(on.hops_left < MAX_HOPS, "it can't be sent round for longer than any other");
}

#[test]
fn what_is_passed_on_does_not_grow_beyond_a_frame() {
    // covers B19
    let mut victim = Victim::new();
    let long = "x".repeat(MAX_HEAD - 200);
    for (to, link) in [("dc", EDGE), ("agni", HONEST)] {
        let sent = victim.says(OTHER_EDGE, Frame::Receipt(receipt(to, "one", long.clone())));
        let [(at, frame)] = &sent[..] else { panic!("{} frames", sent.len()) };
        assert_eq!(*at, link);
        assert!(frame.encode().len() < MAX_REFUSAL + 200);
    }
    let route = vec![node("x"); 100_000];
    let call = Call {
        from: node("evil"),
        incarnation: Incarnation(1),
        number: Sequence(1),
        to: node("agni"),
        method: Method::Ping,
        route: route.clone(),
    };
    let sent = victim.says(EVIL, Frame::Call(call, Bytes::new()));
    assert!(matches!(&sent[..], [(EVIL, Frame::Reply(reply, _))] if !reply.ok), "too many hops");
    assert!(sent[0].1.encode().len() < 2000);
    let reply = Reply {
        to: node("agni"),
        incarnation: Incarnation(1),
        number: Sequence(1),
        from: node("evil"),
        ok: true,
        route,
        hops_left: 255,
    };
    let sent = victim.says(EVIL, Frame::Reply(reply, Bytes::new()));
    assert!(matches!(&sent[..], [(HONEST, Frame::Reply(reply, _))] if reply.hops_left < MAX_HOPS));
    assert!(sent[0].1.encode().len() < 2000);
}

#[test]
fn an_entrance_speaks_for_its_own_sessions_only() {
    // covers T06, T24
    let mut victim = Victim::new();
    // Not attached, another entrance's number, and another agent than the session's.
    for (session, from) in [(9, "one"), (2, "two"), (1, "two")] {
        let frame = Frame::Submit(SessionNo(session), head(from, "two"), Bytes::new());
        let sent = victim.says(EDGE, frame);
        let [(EDGE, Frame::Told(_, receipt))] = &sent[..] else { panic!("{sent:?}") };
        let code = receipt.refusal.as_ref().map(|refusal| refusal.code);
        assert!(matches!(code, Some(Code::NotRegistered | Code::FromMismatch)), "{code:?}");
    }
    let deliver = Deliver { to: vec![Handing::live(SessionNo(2))], head: head("one", "two"), confirm: None };
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(1),
        to: vec![Dest::live(node("dc"))],
        redelivered: false,
        unseen: false,
        age_ms: 0,
        hops_left: 16,
        head: head("one", "two"),
    };
    for frame in [
        Frame::Deliver(deliver, Bytes::new()),
        Frame::Forward(forward, Bytes::new()),
        Frame::LinkState(link_state("ghost", &["dc"])),
        Frame::Digest(Vec::new()),
        Frame::Goodbye(1),
        Frame::Told(SessionNo(2), receipt("dc", "two", String::new())),
        Frame::Evict(SessionNo(2), Refusal::new(Code::Slow, "")),
        Frame::Attached(SessionNo(2), 0),
        Frame::Unknown(200),
    ] {
        let name = frame.name();
        let outputs = victim.input(Input::Frame(EDGE, frame));
        let ignored = matches!(&outputs[..], [Output::Event(Event::Ignored(EDGE, _))]);
        assert!(ignored, "{name}: {outputs:?}");
    }
    // Nor does it end a session of another entrance.
    victim.says(EDGE, Frame::Detach(SessionNo(2), true));
    assert_eq!(victim.0.snapshot().agents_online, 2);
}

#[test]
fn an_entrance_has_its_bounds_too() {
    // covers B09, B19
    let mut victim = Victim::new();
    let long = Attach { capabilities: vec!["x".repeat(100_000)], ..attach(3, "three") };
    let many = Attach { capabilities: vec!["x".into(); 65], ..attach(3, "three") };
    for attach in [long, many] {
        let sent = victim.says(EDGE, Frame::Attach(attach));
        assert!(matches!(&sent[..], [(EDGE, Frame::Evict(SessionNo(3), _))]), "{} frames", sent.len());
    }
    let shares = |n: u64| Frame::Attach(attach(n, &format!("agent-{}", n % 1000)));
    let refused = (10..70_000u64).find(|n| {
        let sent = victim.says(EDGE, shares(*n));
        sent.iter().any(|(_, frame)| matches!(frame, Frame::Evict(..)))
    });
    assert_eq!(refused, Some(65_536 + 9), "one session was there before");
    let sent = victim.attach(OTHER_EDGE, 3, "three");
    let attached = |(link, frame): &(LinkId, Frame)| {
        *link == OTHER_EDGE && matches!(frame, Frame::Attached(SessionNo(3), _))
    };
    assert!(sent.iter().any(attached), "others have room");
}

#[test]
fn a_call_that_nobody_answers_is_not_kept() {
    // covers B19
    let mut victim = Victim::new();
    for number in 0..2_000 {
        let within = Duration::from_secs(1);
        let to = Some(node("evil"));
        let ask =
            Input::Ask { number: Sequence(number), to, method: Method::Ping, body: Bytes::new(), within };
        victim.input(ask);
    }
    victim.0.handle(Time(3_000_000), Input::Tick(1));
    let mut answered = 0;
    while let Some(output) = victim.0.poll_output() {
        answered += usize::from(matches!(output, Output::Answered(..)));
    }
    assert_eq!(answered, 1024, "those over the bound were refused at once");
}
