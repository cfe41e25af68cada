//! What senders are told.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_became_of_a_message_is_a_receipt_or_an_error() {
    // covers T07, Q04
    let seat = manual().await;
    let why = |code| Some(Refusal::new(code, "why"));
    for (state, asked, refusal, told, word) in [
        (State::Accepted, true, None, "RECEIPT", "accepted"),
        (State::Stored, true, None, "RECEIPT", "stored"),
        (State::Delivered, true, None, "RECEIPT", "delivered"),
        (State::Acked, true, None, "RECEIPT", "acked"),
        (State::Nacked, true, why(Code::Forbidden), "RECEIPT", "nacked"),
        (State::Expired, true, why(Code::Expired), "RECEIPT", "expired"),
        (State::Dead, true, why(Code::TooOld), "RECEIPT", "dead"),
        (State::Refused, true, why(Code::MailboxFull), "ERROR", "mailbox_full"),
        (State::Refused, false, why(Code::LoopStopped), "ERROR", "loop_stopped"),
        (State::Expired, false, why(Code::Expired), "ERROR", "expired"),
        (State::Dead, false, None, "ERROR", "internal"),
        // Nobody asked, and nothing failed.
        (State::Acked, false, None, "", ""),
    ] {
        let failed = matches!(state, State::Nacked | State::Expired | State::Dead);
        let receipt = Receipt {
            to: NodeName::new("agni").unwrap(),
            sender: agent("dc"),
            id: MessageId::new("m-1").unwrap(),
            recipient: agent("agni"),
            counts: None,
            node: NodeName::new("agni").unwrap(),
            state,
            refusal,
            asked,
            keeper: NodeName::new("agni").unwrap(),
            hops_left: 1,
        };
        seat.node.tell(Frame::Told(seat.session, receipt)).await;
        seat.passed().await;
        if told.is_empty() {
            seat.client.say(r#"{"type":"HEARTBEAT"}"#);
            assert_eq!(seat.client.hear().await["type"], "HEARTBEAT");
            continue;
        }
        let frame = seat.client.hear().await;
        assert_eq!((&frame["type"], &frame["reply_to"]), (&json!(told), &json!("m-1")), "{state:?}");
        let payload = &frame["payload"];
        assert_eq!(if told == "ERROR" { &payload["code"] } else { &payload["state"] }, word);
        let reason = if failed && told == "RECEIPT" { json!("why") } else { Value::Null };
        assert_eq!(payload["reason"], reason, "{state:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_session_s_wish_is_for_what_can_fulfil_it() {
    // covers T07
    for (wish, durable, live) in [
        ("acked", Some(State::Acked), Some(State::Delivered)),
        ("stored", Some(State::Stored), None),
        ("none", None, None),
    ] {
        let mut seat = seated(json!({"type": "REGISTER", "receipts": wish})).await;
        seat.client.say(r#"{"type":"STATUS","to":"agni"}"#);
        let Frame::Submit(_, head, _) = seat.node.next().await else { panic!("no Submit") };
        assert_eq!((head.class, head.receipt), (Class::Durable, durable));
        seat.client.say(r#"{"type":"ACK","to":"agni","reply_to":"m-1"}"#);
        let Frame::Submit(_, head, _) = seat.node.next().await else { panic!("no Submit") };
        assert_eq!((head.class, head.receipt), (Class::Live, live));
        seat.client.say(r#"{"type":"STATUS","to":"broadcast"}"#);
        let Frame::Submit(_, head, _) = seat.node.next().await else { panic!("no Submit") };
        assert_eq!(head.receipt, None);
    }
}
