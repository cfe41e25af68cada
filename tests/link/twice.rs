//! Urgent messages that are sent twice, over a way of 10 ms whose packets can be lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::Connection;
use tokio::net::UdpSocket;
use trishula::identity::tls;
use trishula::link::early::Begun;
use trishula::link::{Handle, Lane, Local, quic};
use trishula::metrics;
use trishula::rt::tasks;
use trishula::wire::envelope::{Class, Head, Priority};
use trishula::wire::frame::{Dest, Forward, Frame, Hello, MAX_HOPS};
use trishula::wire::ids::Incarnation;

use crate::ends::{self, Bare, Heard, PATIENCE, bare, endpoint, frame, hello, local, message, node, up};

/// How long a packet is on the way.
const DELAY: Duration = Duration::from_millis(10);

/// A durable message from node to node.
fn forward(number: usize, priority: Priority, payload: usize) -> Frame {
    let payload = Bytes::from(vec![7; payload]);
    let Frame::Deliver(deliver, payload) = message("a", "b", number, priority.get(), payload) else {
        unreachable!()
    };
    let forward = Forward {
        origin: node("agni"),
        incarnation: Incarnation(7),
        to: vec![Dest::live(node("dc"))],
        hops_left: MAX_HOPS,
        redelivered: false,
        unseen: false,
        age_ms: 0,
        head: Head { class: Class::Durable, ..deliver.head },
    };
    Frame::Forward(forward, payload)
}

fn urgent(number: usize) -> Frame {
    forward(number, Priority::URGENT, 100)
}

fn id(frame: &Frame) -> String {
    match frame {
        Frame::Forward(forward, _) => forward.head.id.to_string(),
        other => panic!("{} is no message", other.name()),
    }
}

fn counted(what: &str) -> u64 {
    metrics::DATAGRAMS.with_label_values(&[what]).get()
}

/// As it is put into a datagram: the lane, which frame of its stream it is, and the frame.
fn copy(number: u32, frame: &Frame) -> Bytes {
    let (mut bytes, encoded) = (BytesMut::new(), frame.encode());
    bytes.put_u8(Lane::Urgent.index() as u8);
    bytes.put_u32(number);
    bytes.extend_from_slice(&encoded.head);
    bytes.extend_from_slice(&encoded.payload);
    bytes.freeze()
}

/// A way between a dialler and a listener.
struct Way {
    address: SocketAddr,
    /// So many of the packets that the dialler sends next are lost.
    lose: Arc<AtomicUsize>,
    _tasks: Vec<tasks::Task>,
}

async fn way(to: SocketAddr) -> Way {
    let (front, back) =
        (UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let (front, back, lose) = (Arc::new(front), Arc::new(back), Arc::<AtomicUsize>::default());
    let address = front.local_addr().unwrap();
    let (carried, lost) = ((front.clone(), back.clone()), lose.clone());
    let carry = async move {
        let (front, back) = carried;
        let (mut dialler, mut group) = (address, tasks::Group::default());
        let (mut there, mut back_again) = (vec![0; 65_536], vec![0; 65_536]);
        loop {
            let (socket, bytes, target) = tokio::select! {
                Ok((length, from)) = front.recv_from(&mut there) => {
                    dialler = from;
                    if lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                        continue;
                    }
                    (back.clone(), there[..length].to_vec(), to)
                }
                Ok((length, _)) = back.recv_from(&mut back_again) => {
                    (front.clone(), back_again[..length].to_vec(), dialler)
                }
                else => return,
            };
            group.spawn("test.packet", async move {
                tokio::time::sleep(DELAY).await;
                let _ = socket.send_to(&bytes, target).await;
            });
        }
    };
    Way { address, lose, _tasks: vec![tasks::spawn("test.way", carry)] }
}

async fn dial(from: &Local, endpoint: &quinn::Endpoint, to: SocketAddr) -> Connection {
    let tls = tls::quic_client(from.identity.client(None).unwrap()).unwrap();
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(quic::transport()));
    endpoint.connect_with(config, to, "node.trishula").unwrap().await.unwrap()
}

/// A link over such a way: the dialler's handle and what the other end hears.
struct Slow {
    way: Way,
    handle: Handle,
    heard: Heard,
    _rest: (Heard, Handle, Vec<quinn::Endpoint>, Vec<tasks::Task>),
}

async fn slow() -> Slow {
    let ((a, mut of_a), (b, mut heard)) = (local("agni"), local("dc"));
    let endpoints = vec![endpoint(&a), endpoint(&b)];
    let way = way(endpoints[1].local_addr().unwrap()).await;
    let accepted = async { endpoints[1].accept().await.unwrap().await.unwrap() };
    let (dialled, accepted) = tokio::join!(dial(&a, &endpoints[0], way.address), accepted);
    let (peer_of_a, peer_of_b) = (ends::admitted(&a, &dialled), ends::admitted(&b, &accepted));
    let tasks = vec![
        tasks::spawn("test.a", async move { quic::run(&a, dialled, peer_of_a, Begun::Dialled).await }),
        tasks::spawn("test.b", async move { quic::run(&b, accepted, peer_of_b, Begun::Accepted).await }),
    ];
    let (_, handle) = up(&mut of_a).await;
    let (_, back) = up(&mut heard).await;
    Slow { way, handle, heard, _rest: (of_a, back, endpoints, tasks) }
}

impl Slow {
    /// Sends one, and waits until it is there.
    async fn pass(&mut self, number: usize) {
        self.handle.send(&urgent(number)).await.unwrap();
        assert_eq!(id(&frame(&mut self.heard).await), format!("m-{number}"));
    }
}

/// A link to a peer that sends copies.
async fn reading() -> (Bare, quinn::SendStream) {
    let mut bare = bare().await;
    let features = ["datagrams", "copies"].map(str::to_owned).to_vec();
    let control = bare.lane(0, &[Frame::Hello(Hello { features, ..hello("dc") })]).await;
    up(&mut bare.heard).await;
    (bare, control)
}

// covers T02
#[tokio::test(flavor = "multi_thread")]
async fn an_urgent_message_whose_packet_is_lost_comes_as_a_copy_and_once() {
    let mut slow = slow().await;
    // The link may be up a moment before it is known that copies are read.
    let mut passed = 0;
    let copied = async {
        while counted("copy_late") == 0 {
            slow.pass(passed).await;
            passed += 1;
        }
    };
    tokio::time::timeout(PATIENCE, copied).await.expect("copies of what came");
    let first = counted("copy_first");
    let by_copy = async {
        while counted("copy_first") == first {
            tokio::time::sleep(3 * DELAY).await;
            slow.way.lose.store(1, Ordering::SeqCst);
            slow.pass(passed).await;
            slow.way.lose.store(0, Ordering::SeqCst);
            passed += 1;
        }
    };
    tokio::time::timeout(PATIENCE, by_copy).await.expect("a copy that came first");
    for number in passed..passed + 50 {
        slow.pass(number).await;
    }
}

// covers T02
#[tokio::test(flavor = "multi_thread")]
async fn a_way_that_is_full_carries_no_copies() {
    let mut slow = slow().await;
    let handle = slow.handle.clone();
    let fill = tasks::spawn("test.fill", async move {
        while handle.send(&forward(0, Priority::BULK, 64 << 10)).await.is_ok() {}
    });
    let handle = slow.handle.clone();
    let hurry = tasks::spawn("test.hurry", async move {
        while handle.send(&urgent(1)).await.is_ok() {
            tokio::time::sleep(DELAY / 2).await;
        }
    });
    let spared = async {
        while counted("copy_spared") < 10 {
            frame(&mut slow.heard).await;
        }
    };
    tokio::time::timeout(PATIENCE, spared).await.expect("copies are left out");
    drop((fill, hurry));
}

// covers T02
#[tokio::test]
async fn what_came_as_a_copy_is_not_taken_from_the_stream_again() {
    let (mut bare, _control) = reading().await;
    for (number, message) in [(1, 1), (0, 0), (1, 1)] {
        bare.peer.send_datagram(copy(number, &urgent(message))).unwrap();
    }
    // Later ones are not there before the link's end was told of these.
    let mut came = vec![id(&frame(&mut bare.heard).await), id(&frame(&mut bare.heard).await)];
    let lane = Lane::Urgent.index() as u8;
    let _stream = bare.lane(lane, &[urgent(0), urgent(1), urgent(2)]).await;
    came.push(id(&frame(&mut bare.heard).await));
    assert_eq!(came, ["m-1", "m-0", "m-2"]);
    bare.peer.send_datagram(copy(2, &urgent(2))).unwrap();
    bare.peer.send_datagram(copy(3, &urgent(3))).unwrap();
    assert_eq!(id(&frame(&mut bare.heard).await), "m-3");
}

// covers T02, B19
#[tokio::test]
async fn only_urgent_messages_may_be_copies() {
    for rude in [forward(1, Priority::DEFAULT, 10), Frame::Goodbye(0)] {
        let (bare, _control) = reading().await;
        bare.peer.send_datagram(copy(0, &rude)).unwrap();
        let (_, why) = bare.closed().await;
        assert!(why.contains("a datagram is no message"), "{why}");
    }
}
