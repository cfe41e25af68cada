//! Early data (0-RTT) from a peer whose handshake never ends, as that of a recording: whatever it says, only durable
//! messages are taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use tokio::net::UdpSocket;
use trishula::identity::tls;
use trishula::link::{self, Event, Local, early, quic};
use trishula::rt::tasks;
use trishula::wire::envelope::{Class, Head, Kind, Target};
use trishula::wire::frame::{Dest, Forward, Frame, MAX_HOPS, Reader};
use trishula::wire::ids::{AgentAddr, AgentName, Incarnation, MessageId, Namespace, Sequence};

use crate::ends::{admitted, endpoint, frame, hello, local, next, node, up};

const CONTROL: u8 = 0;
const ORDERED: u8 = 5;

/// Everything passes.
const OPEN: u8 = 0;
/// Until the other end answers, only a first flight does.
const FIRST_FLIGHT: u8 = 1;
/// It has answered: nothing passes but what was sent before.
const ANSWERED: u8 = 2;

/// A way to an endpoint on which a handshake can be kept from ending.
async fn way_to(to: SocketAddr) -> (SocketAddr, Arc<AtomicU8>, tasks::Task) {
    let [front, back] = [(), ()].map(|()| UdpSocket::bind("127.0.0.1:0"));
    let (front, back) = (front.await.unwrap(), back.await.unwrap());
    let (address, state) = (front.local_addr().unwrap(), Arc::new(AtomicU8::new(OPEN)));
    let shared = state.clone();
    let task = tasks::spawn("test.way", async move {
        let (mut there, mut here, mut client) = ([0; 65_536], [0; 65_536], None);
        loop {
            tokio::select! {
                got = front.recv_from(&mut there) => {
                    let (length, from) = got.unwrap();
                    client = Some(from);
                    // A long header of type 0-RTT (RFC 9000, 17.2).
                    let early = there[0] & 0xb0 == 0x90;
                    if early || shared.load(Ordering::Relaxed) != ANSWERED {
                        back.send_to(&there[..length], to).await.unwrap();
                    }
                }
                got = back.recv_from(&mut here) => {
                    let (length, _) = got.unwrap();
                    // A long header: of a handshake, not of the connection before.
                    if here[0] & 0x80 != 0 && shared.load(Ordering::Relaxed) == FIRST_FLIGHT {
                        shared.store(ANSWERED, Ordering::Relaxed);
                    }
                    front.send_to(&here[..length], client.unwrap()).await.unwrap();
                }
            }
        }
    });
    (address, state, task)
}

/// A node that accepts, as the daemon does.
fn accept(ours: Arc<Local>, endpoint: quinn::Endpoint) -> tasks::Task {
    tasks::spawn("test.accept", async move {
        let mut links = tasks::Group::default();
        while let Some(incoming) = endpoint.accept().await {
            let (connection, begun) = early::accept(incoming.accept().unwrap()).await.unwrap();
            let (ours, expected) = (ours.clone(), admitted(&ours, &connection));
            links.spawn("test.link", async move { quic::run(&ours, connection, expected, begun).await });
        }
    })
}

async fn lane(connection: &quinn::Connection, index: u8, frames: &[Frame]) -> quinn::SendStream {
    let mut stream = connection.open_uni().await.unwrap();
    stream.write_all(&[index]).await.unwrap();
    for frame in frames {
        let encoded = frame.encode();
        stream.write_all(&encoded.head).await.unwrap();
        stream.write_all(&encoded.payload).await.unwrap();
    }
    stream
}

fn forward(class: Class, id: &str) -> Frame {
    let agent = |name| AgentAddr::new(Namespace::new("trishula").unwrap(), AgentName::new(name).unwrap());
    let (target, id) = (Target::Agent(agent("b")), MessageId::new(id).unwrap());
    let head = Head { class, ..Head::new(agent("a"), target, id, Kind::Status) };
    let to = Dest { number: Sequence(1), ..Dest::live(node("agni")) };
    let forward = Forward {
        origin: node("dc"),
        incarnation: Incarnation(7),
        to: vec![to],
        hops_left: MAX_HOPS,
        redelivered: false,
        unseen: true,
        age_ms: 0,
        head,
    };
    Frame::Forward(forward, Bytes::from_static(b"{}"))
}

// covers T02, T24
#[tokio::test]
async fn before_the_handshake_is_over_nothing_counts_but_durable_messages() {
    let ((ours, mut heard), (theirs, _)) = (local("agni"), local("dc"));
    ours.allow_early_data();
    let (to, from) = (endpoint(&ours), endpoint(&theirs));
    let (address, way, _way) = way_to(to.local_addr().unwrap()).await;
    let _accept = accept(ours.clone(), to);
    let tls = tls::quic_client(theirs.identity.client(None).unwrap()).unwrap();
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let dial = || from.connect_with(config.clone(), address, "node.trishula").unwrap();

    // The first time, all is as always; when something has come behind the tickets, they are there.
    let first = dial().await.unwrap();
    let _control = lane(&first, CONTROL, &[Frame::Hello(hello("dc"))]).await;
    let (peer, handle) = up(&mut heard).await;
    assert_eq!((peer.node, peer.role), (node("dc"), link::Role::Node));
    handle.send(&Frame::Ping(1)).await.unwrap();
    let (mut stream, mut reader) = (first.accept_uni().await.unwrap(), Reader::default());
    stream.read_exact(&mut [0]).await.unwrap();
    while !matches!(reader.next_frame().unwrap(), Some(Frame::Ping(1))) {
        if let Some(chunk) = stream.read_chunk(4096, true).await.unwrap() {
            reader.push(chunk.bytes);
        }
    }
    first.close(0u32.into(), b"");
    assert!(matches!(next(&mut heard).await, Event::Down { .. }));

    way.store(FIRST_FLIGHT, Ordering::Relaxed);
    let (again, _) = dial().into_0rtt().map_err(|_| "no ticket").unwrap();
    let messages =
        [forward(Class::Durable, "m-1"), forward(Class::Live, "m-2"), forward(Class::Durable, "m-3")];
    let _ordered = lane(&again, ORDERED, &messages).await;
    let _control = lane(&again, CONTROL, &[Frame::Hello(hello("dc")), Frame::Goodbye(0)]).await;
    let Event::Early { link, peer, dialled, .. } = next(&mut heard).await else { panic!("it is announced") };
    assert_eq!((peer, dialled), (node("dc"), false));
    assert_eq!(frame(&mut heard).await, messages[0]);
    // HELLO came too, and a message that may not come twice; neither counts until the end.
    match next(&mut heard).await {
        Event::Down { link: ended, .. } => assert_eq!(ended, link),
        other => panic!("{other:?} before the handshake is over"),
    }
}
