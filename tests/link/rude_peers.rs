//! Peers with a good certificate that do not keep to the protocol: the link does not come up, or ends with a
//! reason that says what was wrong.

use bytes::Bytes;
use trishula::link::Event;
use trishula::wire::close::LinkClose;
use trishula::wire::frame::{Frame, Hello, VERSION};

use crate::ends::{bare, frame, hello, id_of, message, next, node, up};

const CONTROL: u8 = 0;
const ORDERED: u8 = 5;

async fn refused(hello: Hello) -> (u64, String) {
    let mut bare = bare().await;
    let _stream = bare.lane(CONTROL, &[Frame::Hello(hello)]).await;
    let closed = bare.closed().await;
    assert!(bare.heard.try_recv().is_err(), "a link that did not come up is no event");
    closed
}

// covers T01
#[tokio::test]
async fn a_peer_of_another_version_is_told_which_ones_we_speak() {
    let (code, why) = refused(Hello { version: 99, oldest: 98, ..hello("dc") }).await;
    assert_eq!(code, LinkClose::Version as u64);
    assert!(why.contains("98 to 99") && why.contains("update the older"), "{why}");
    let (code, _) = refused(Hello { version: VERSION - 1, oldest: 1, ..hello("dc") }).await;
    assert_eq!(code, LinkClose::Version as u64);
}

// covers T01
#[tokio::test]
async fn a_newer_peer_that_still_speaks_our_version_is_welcome() {
    let mut bare = bare().await;
    let newer = Hello { version: VERSION + 7, features: vec!["tomorrow".into()], ..hello("dc") };
    let _stream = bare.lane(CONTROL, &[Frame::Hello(newer), Frame::Unknown(200), Frame::Ping(4)]).await;
    let (peer, _handle) = up(&mut bare.heard).await;
    assert_eq!(peer.features, ["tomorrow"]);
    assert_eq!(frame(&mut bare.heard).await, Frame::Unknown(200), "skipped by its lengths");
    assert_eq!(frame(&mut bare.heard).await, Frame::Ping(4));
}

// covers T24, B17
#[tokio::test]
async fn a_name_that_is_not_in_the_certificate_is_refused() {
    let (code, why) = refused(Hello { node: node("rushabdev"), ..hello("dc") }).await;
    assert_eq!(code, LinkClose::NotAdmitted as u64);
    assert!(why.contains("rushabdev") && why.contains("dc"), "{why}");
}

// covers B19
#[tokio::test]
async fn what_comes_before_hello_is_refused_on_the_control_lane_and_waits_on_others() {
    let rude = bare().await;
    let _stream = rude.lane(CONTROL, &[Frame::Ping(1)]).await;
    let (code, why) = rude.closed().await;
    assert_eq!(code, LinkClose::Protocol as u64);
    assert!(why.contains("HELLO"), "{why}");

    let mut early = bare().await;
    let messages = [0, 1].map(|n| message("a", "b", n, 3, Bytes::from_static(b"{}")));
    // Two round trips: whatever our end does with what came, it has done by then.
    for frames in [&messages[..], &[]] {
        let mut lane = early.lane(ORDERED, frames).await;
        lane.finish().unwrap();
        lane.stopped().await.unwrap();
    }
    assert!(early.heard.try_recv().is_err(), "a frame was handed on before it was known whose it is");
    let _control = early.lane(CONTROL, &[Frame::Hello(hello("dc"))]).await;
    let (peer, _handle) = up(&mut early.heard).await;
    assert_eq!(peer.node.as_str(), "dc");
    for n in 0..2 {
        assert_eq!(id_of(&frame(&mut early.heard).await), format!("m-{n}"));
    }
}

// covers B19
#[tokio::test]
async fn a_malformed_frame_ends_the_link_with_what_was_wrong() {
    let mut rude = bare().await;
    let _control = rude.lane(CONTROL, &[Frame::Hello(hello("dc"))]).await;
    let (_, _handle) = up(&mut rude.heard).await;
    let mut lane = rude.lane(ORDERED, &[]).await;
    // A head of 5 MiB is announced; 4 MiB are allowed.
    lane.write_all(&[24, 0x80, 0x80, 0xc0, 0x02]).await.unwrap();
    let (code, why) = rude.closed().await;
    assert_eq!(code, LinkClose::Protocol as u64);
    assert!(why.contains("over the limit"), "{why}");
    let event = next(&mut rude.heard).await;
    let Event::Down { why, .. } = event else { panic!("{event:?}") };
    assert!(why.contains("over the limit"), "{why}");
}
