//! Frames and client frames: nanoseconds to write and to read one.
//!
//! `cargo bench --bench codec`, or quickly: `cargo bench --bench codec -- --quick`.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use bytes::{Bytes, BytesMut};
use trishula::wire::client::{DEFAULT_MAX_FRAME, Speaker, parse};
use trishula::wire::envelope::{Head, Kind, Target};
use trishula::wire::frame::{Deliver, Dest, Forward, Frame, Handing, Reader};
use trishula::wire::ids::{AgentAddr, Incarnation, MessageId, Namespace, NodeName, Sequence, SessionNo};

mod common;

use common::{Effort, title};

fn agent(name: &str) -> AgentAddr {
    AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap()
}

fn head() -> Head {
    Head::new(
        agent("dc"),
        Target::Agent(agent("agni.planner")),
        MessageId::new("e7a4f0d2-1b8c-4d0e-8a44-7f0f9c2d5b31").unwrap(),
        Kind::Command,
    )
}

fn frames(payload: usize) -> [(&'static str, Frame); 3] {
    let body = Bytes::from(vec![b'x'; payload]);
    let node = |name| NodeName::new(name).unwrap();
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(1_767_225_600_000),
        to: vec![Dest {
            agent: None,
            number: Sequence(123_456),
            after: Sequence(0),
            life: Incarnation(0),
            registered_ms: 0,
            node: node("agni"),
        }],
        hops_left: 16,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head: head(),
    };
    let deliver = Deliver { to: vec![Handing::live(SessionNo(7))], head: head(), confirm: None };
    [
        ("Submit", Frame::Submit(SessionNo(7), head(), body.clone())),
        ("Forward", Frame::Forward(forward, body.clone())),
        ("Deliver", Frame::Deliver(deliver, body)),
    ]
}

fn client_frame(payload: usize, stamped: bool) -> Bytes {
    let padding = "x".repeat(payload);
    let stamp = if stamped { r#""from":"dc","id":"m-1","timestamp":1767225600000,"# } else { "" };
    let text = format!(
        r#"{{"type":"COMMAND",{stamp}"to":"agni.planner","priority":3,"payload":{{"run":"uptime","pad":"{padding}"}}}}"#
    );
    Bytes::from(text)
}

fn main() {
    let effort = Effort::from_args();
    for payload in [256, 16 * 1024] {
        title(&format!("frames with a payload of {payload} bytes"));
        for (name, frame) in frames(payload) {
            let encoded = frame.encode();
            let mut whole = BytesMut::from(&encoded.head[..]);
            whole.extend_from_slice(&encoded.payload);
            let whole = whole.freeze();
            effort.measure(&format!("{name} encode"), whole.len(), || frame.encode());
            effort.measure(&format!("{name} decode"), whole.len(), || Frame::decode(&mut whole.clone()));
            let mut reader = Reader::default();
            effort.measure(&format!("{name} decode, in two chunks"), whole.len(), || {
                reader.push(whole.slice(..whole.len() / 2));
                let half = reader.next_frame();
                reader.push(whole.slice(whole.len() / 2..));
                (half, reader.next_frame())
            });
        }
    }
    let namespace = Namespace::new("trishula").unwrap();
    let dc = agent("dc");
    let speaker = Speaker {
        agent: Some(&dc),
        namespace: &namespace,
        receipts: None,
        copies: 1,
        max_frame: DEFAULT_MAX_FRAME,
    };
    let id = MessageId::new("e7a4f0d2-1b8c-4d0e-8a44-7f0f9c2d5b31").unwrap();
    for payload in [128, 16 * 1024] {
        title(&format!("client frames in JSON with {payload} bytes of text"));
        for (name, stamped) in
            [("parse, all fields there", true), ("parse, from, id and time inserted", false)]
        {
            let text = client_frame(payload, stamped);
            assert!(parse(&text, speaker, || (id.clone(), 1)).is_ok());
            effort.measure(name, text.len(), || parse(&text, speaker, || (id.clone(), 1)));
        }
    }
}
