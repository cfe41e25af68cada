//! Segmentation offload: many packets with one system call, where the kernel does that.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use quinn::AsyncUdpSocket;
use quinn::udp::Transmit;
use trishula::link::segments::Segments;
use trishula::metrics;

use crate::ends::{PATIENCE, frame, id_of, message, over_sockets, up};

const MESSAGES: usize = 200;
const SIZE: usize = 16 * 1024;

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// What the kernel says to several packets in one call.
fn many_at_once(socket: &UdpSocket) -> std::io::Result<usize> {
    trishula_wan::send_in_segments(socket, 1200)?;
    socket.send_to(&[0; 5000], socket.local_addr()?)
}

#[tokio::test]
async fn a_kernel_that_refuses_segments_costs_no_message() {
    // covers Q03
    let refusing = socket();
    assert_eq!(many_at_once(&refusing).expect("this kernel has segmentation offload: Linux 4.18"), 5000);
    trishula_wan::refuse_segments(&refusing).unwrap();
    let refused = many_at_once(&refusing).expect_err("it refuses");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused}");

    // The same on the sockets of a link; quinn finds out by trying.
    let sockets = [socket(), socket()];
    sockets.iter().for_each(|socket| trishula_wan::refuse_segments(socket).unwrap());
    let sockets = sockets.map(|socket| Segments::on(socket).unwrap() as Arc<dyn AsyncUdpSocket>);
    assert!(sockets.iter().all(|socket| socket.max_transmit_segments() > 1), "it would send many at once");
    let began = Instant::now();
    let mut joined = over_sockets(sockets.clone()).await;
    let ((_, from), _) = (up(&mut joined.a).await, up(&mut joined.b).await);
    let sending = async {
        for n in 0..MESSAGES {
            from.send(&message("alice", "bob", n, 3, Bytes::from(vec![1; SIZE]))).await.unwrap();
        }
    };
    let receiving = async {
        for n in 0..MESSAGES {
            assert_eq!(id_of(&frame(&mut joined.b).await), format!("m-{n}"), "lost, doubled or reordered");
        }
    };
    tokio::join!(sending, receiving);
    eprintln!("refused, {MESSAGES} messages of {SIZE} bytes took {:?}", began.elapsed());
    assert_eq!(sockets[0].max_transmit_segments(), 1, "it tried, and was refused");
}

#[tokio::test]
async fn what_is_refused_in_one_piece_is_sent_in_many() {
    // covers Q03
    let (from, to) = (socket(), socket());
    trishula_wan::refuse_segments(&from).unwrap();
    to.set_read_timeout(Some(PATIENCE)).unwrap();
    let sending = Segments::on(from).unwrap();
    let contents: Vec<u8> = (0..5).flat_map(|n| [n; 1200]).collect();
    let destination = to.local_addr().unwrap();
    let transmit =
        Transmit { destination, ecn: None, contents: &contents, segment_size: Some(1200), src_ip: None };
    let refused = metrics::UDP_SEGMENTS_REFUSED.get();
    // The second was prepared before the first was refused.
    for _ in 0..2 {
        // The socket is known to take something once its runtime has looked.
        while let Err(why) = sending.try_send(&transmit) {
            assert_eq!(why.kind(), ErrorKind::WouldBlock);
            tokio::task::yield_now().await;
        }
        for n in 0..5 {
            let mut packet = [0; 2000];
            assert_eq!(to.recv(&mut packet).unwrap(), 1200);
            assert_eq!(packet[..1200], [n; 1200]);
        }
    }
    assert!(metrics::UDP_SEGMENTS_REFUSED.get() > refused);
}
