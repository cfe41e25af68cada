//! What simulated streams of bytes do: the runs with blocked UDP are worth as much as these are like TCP.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trishula::rt::tasks;

use crate::net::{SimNet, SimStream, Weather};
use crate::scenario::{address, in_virtual_time};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// What may be under way and unread, and what the system takes beyond that.
const HELD: usize = (64 + 16) * 1024;

struct Scene {
    net: SimNet,
    /// What is lost, in percent.
    lost: Arc<AtomicU64>,
    ours: SimStream,
    theirs: SimStream,
    _courier: tasks::Task,
}

/// A stream from one machine to another, both of which are up.
async fn opened(seed: u64) -> Scene {
    let lost = Arc::new(AtomicU64::new(0));
    let percent = lost.clone();
    let share =
        move |_: Duration, _: SocketAddr, _: SocketAddr| percent.load(Ordering::Relaxed) as f64 / 100.0;
    let (net, courier) = SimNet::start(seed, Weather::calm((5_000, 30_000), Box::new(share)));
    (0..2).for_each(|m| drop(net.bind(address(m))));
    let refused = net.connect(address(0), address(1)).await;
    assert_eq!(refused.err().map(|why| why.kind()), Some(ErrorKind::ConnectionRefused), "nobody listens");
    let mut taken = net.listen(address(1));
    let ours = net.connect(address(0), address(1)).await.unwrap();
    let (theirs, from) = taken.recv().await.unwrap();
    assert_eq!(from, address(0));
    Scene { net, lost, ours, theirs, _courier: courier }
}

fn within<T>(seed: u64, what: impl Future<Output = T>) -> T {
    in_virtual_time(seed, async { tokio::time::timeout(PATIENCE, what).await.expect("it ends") })
}

#[test]
fn bytes_come_whole_and_in_order_whatever_is_lost_meanwhile() {
    // covers T06
    for (seed, percent) in [(1, 0), (2, 2), (3, 5), (4, 20)] {
        within(seed, async {
            let mut scene = opened(seed).await;
            scene.lost.store(percent, Ordering::Relaxed);
            let bytes: Vec<u8> =
                (0..60_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let given = bytes.clone();
            let writes = async move {
                scene.ours.write_all(&given).await.unwrap();
                scene.ours.shutdown().await.unwrap();
                scene.ours
            };
            let mut got = Vec::new();
            let (_ours, read) = tokio::join!(writes, scene.theirs.read_to_end(&mut got));
            assert_eq!(read.unwrap(), bytes.len());
            assert_eq!(got, bytes, "{percent} % lost");
        });
    }
}

#[test]
fn who_does_not_read_holds_up_who_writes() {
    // covers T06
    within(1, async {
        let mut scene = opened(1).await;
        let mut written = 0;
        let full = Duration::from_secs(2);
        while let Ok(count) = tokio::time::timeout(full, scene.ours.write(&[7; 10_000])).await {
            written += count.unwrap();
        }
        assert_eq!(written, HELD);
        let mut got = vec![0; written];
        scene.theirs.read_exact(&mut got).await.unwrap();
        scene.ours.write_all(&[8; 10_000]).await.unwrap();
    });
}

#[test]
fn a_cut_is_waited_for_and_not_for_ever() {
    // covers T06
    within(1, async {
        let mut scene = opened(1).await;
        scene.lost.store(100, Ordering::Relaxed);
        scene.ours.write_all(b"first").await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        scene.lost.store(0, Ordering::Relaxed);
        let mut got = [0; 5];
        scene.theirs.read_exact(&mut got).await.unwrap();
        assert!((5..8).contains(&scene.net.elapsed().as_secs()), "{:?}", scene.net.elapsed());
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.lost.store(100, Ordering::Relaxed);
        scene.ours.write_all(b"second").await.unwrap();
        let why = scene.ours.read(&mut got).await.unwrap_err();
        assert_eq!(why.kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn a_machine_without_power_is_silent_and_its_next_life_says_so() {
    // covers T06
    within(1, async {
        let Scene { net, mut ours, theirs, _courier, .. } = opened(1).await;
        net.unplug(address(1));
        drop(theirs);
        let mut got = [0; 5];
        let heard = tokio::time::timeout(Duration::from_secs(10), ours.read(&mut got)).await;
        assert!(heard.is_err(), "nobody said goodbye: {heard:?}");
        ours.write_all(b"hello").await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(2), ours.read(&mut got)).await;
        assert!(heard.is_err(), "{heard:?}");
        drop(net.bind(address(1)));
        assert_eq!(ours.read(&mut got).await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_stream_does_not_follow_its_machine_to_another_network() {
    // covers T06
    within(1, async {
        let mut scene = opened(1).await;
        scene.net.moves(address(0), SocketAddr::from(([10, 9, 9, 9], 5_000)));
        scene.ours.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        assert_eq!(scene.ours.read(&mut got).await.unwrap_err().kind(), ErrorKind::TimedOut);
        let heard = tokio::time::timeout(Duration::from_secs(10), scene.theirs.read(&mut got)).await;
        assert!(heard.is_err(), "{heard:?}");
    });
}
