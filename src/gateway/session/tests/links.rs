//! Links that break, and that are renewed.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_the_node_has_said_nothing_of_when_its_link_breaks_is_told_and_nothing_else() {
    // covers T06, T09
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    let session = node.grant().await.session;
    for (id, more) in [
        ("told", r#""receipt":"acked""#),
        ("open", r#""receipt":"acked""#),
        ("live", r#""receipt":"delivered","class":"live""#),
        ("last", r#""receipt":"accepted""#),
        ("unasked", r#""class":"durable""#),
    ] {
        client.say(&format!(r#"{{"type":"COMMAND","to":"agni","id":"{id}",{more}}}"#));
        assert!(matches!(node.next().await, Frame::Submit(_, head, _) if head.id.as_str() == id));
    }
    let receipt = Receipt {
        to: NodeName::new("agni").unwrap(),
        sender: agent("dc"),
        id: MessageId::new("told").unwrap(),
        recipient: agent("agni"),
        counts: None,
        node: NodeName::new("agni").unwrap(),
        state: State::Accepted,
        refusal: None,
        asked: true,
        keeper: NodeName::new("agni").unwrap(),
        hops_left: 1,
    };
    node.tell(Frame::Told(session, receipt)).await;
    assert_eq!(client.hear().await["payload"]["state"], "accepted");
    node.down().await;
    for id in ["open", "last"] {
        let error = client.hear().await;
        assert_eq!((&error["reply_to"], &error["payload"]["code"]), (&json!(id), &json!("unavailable")));
        assert_eq!(error["payload"]["retry"], true);
    }
    // Sent again, it may be told again.
    let mut node = rig.link(2, "agni").await;
    node.grant().await;
    client.say(r#"{"type":"COMMAND","to":"agni","id":"open","receipt":"acked"}"#);
    assert!(matches!(node.next().await, Frame::Submit(_, head, _) if head.id.as_str() == "open"));
    node.down().await;
    assert_eq!(client.hear().await["reply_to"], "open");
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_made_again_when_the_link_is_renewed() {
    // covers T09
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (client, _task) = start(&rig, opening(known("dc")));
    client.say(r#"{"type":"REGISTER","capabilities":["git"]}"#);
    let first = node.grant().await;
    assert_eq!(client.hear().await["type"], "REGISTERED");
    node.down().await;
    let mut node = rig.link(2, "agni").await;
    let again = node.grant().await;
    assert!(again.resumed);
    assert_eq!((again.registered_ms, again.capabilities), (first.registered_ms, vec!["git".to_owned()]));
    client.say(r#"{"type":"STATUS","to":"agni","id":"m-1"}"#);
    // Whether the client's frame or the node's answer was first decides between an error and a message.
    let answered = tokio::select! {
        frame = node.next() => matches!(frame, Frame::Submit(..)),
        error = client.hear() => error["payload"]["code"] == "unavailable",
    };
    assert!(answered);
}

#[tokio::test(start_paused = true)]
async fn a_second_link_to_the_same_node_replaces_the_first_and_one_to_another_waits() {
    // covers T09
    let rig = Rig::new();
    let mut first = rig.link(1, "agni").await;
    let (_client, _task) = start(&rig, opening(known("dc")));
    first.grant().await;
    let mut spare = rig.link(2, "rushabdev").await;
    let mut renewed = rig.link(3, "agni").await;
    assert!(renewed.grant().await.resumed);
    assert_eq!(rig.hub.snapshot().await.unwrap().node.unwrap().as_str(), "agni");
    renewed.down().await;
    // The newest of those that are up.
    let attach = spare.grant().await;
    assert!(attach.resumed);
}
