//! Both directions, by the tables of the MessagePack specification, and what is refused.

use serde_json::{Value, json};
use trishula::wire::close::Code;

use super::decode::to_json;
use super::encode::from_json;

const MAX: usize = 1 << 20;

fn read(frame: &[u8]) -> String {
    String::from_utf8(to_json(frame, MAX).unwrap().to_vec()).unwrap()
}

fn written(text: &str) -> Vec<u8> {
    from_json(text.as_bytes()).unwrap().to_vec()
}

/// `{"v": …}` with this value.
fn with(value: &[u8]) -> Vec<u8> {
    [&[0x81, 0xa1, b'v'][..], value].concat()
}

fn refused(frame: &[u8]) -> (Code, String) {
    let refusal = to_json(frame, MAX).unwrap_err();
    (refusal.code, refusal.message)
}

#[test]
fn each_format_is_read() {
    // covers T16
    let long = "x".repeat(300);
    let str16 = [&[0xda, 0x01, 0x2c][..], long.as_bytes()].concat();
    for (value, text) in [
        (&[0xc0][..], "null"),
        (&[0xc2], "false"),
        (&[0xc3], "true"),
        (&[0x7f], "127"),
        (&[0xe0], "-32"),
        (&[0xcc, 0xff], "255"),
        (&[0xcd, 0xff, 0xff], "65535"),
        (&[0xce, 0xff, 0xff, 0xff, 0xff], "4294967295"),
        (&[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "18446744073709551615"),
        (&[0xd0, 0x80], "-128"),
        (&[0xd1, 0x80, 0x00], "-32768"),
        (&[0xd2, 0x80, 0x00, 0x00, 0x00], "-2147483648"),
        (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], "-9223372036854775808"),
        (&[0xca, 0x3f, 0x00, 0x00, 0x00], "0.5"),
        (&[0xcb, 0x3f, 0xf0, 0, 0, 0, 0, 0, 0], "1.0"),
        (&[0xa2, b'"', 0x0a], r#""\"\n""#),
        (&[0xd9, 0x02, 0xc3, 0xa9], "\"é\""),
        (&str16, &format!("\"{long}\"")),
        (&[0xdb, 0, 0, 0, 1, b'a'], "\"a\""),
        (&[0x92, 0x01, 0x90], "[1,[]]"),
        (&[0xdc, 0x00, 0x01, 0xc0], "[null]"),
        (&[0xdd, 0, 0, 0, 1, 0xc0], "[null]"),
        (&[0x81, 0xa1, b'a', 0x80], r#"{"a":{}}"#),
        (&[0xde, 0x00, 0x01, 0xa1, b'a', 0x01], r#"{"a":1}"#),
        (&[0xdf, 0, 0, 0, 1, 0xa1, b'a', 0x01], r#"{"a":1}"#),
    ] {
        assert_eq!(read(&with(value)), format!("{{\"v\":{text}}}"));
    }
}

#[test]
fn what_is_written_is_shortest_and_reads_back_the_same() {
    // covers T16
    for (text, value) in [
        ("0", &[0x00][..]),
        ("127", &[0x7f]),
        ("128", &[0xcc, 0x80]),
        ("-1", &[0xff]),
        ("-33", &[0xd0, 0xdf]),
        ("70000", &[0xce, 0x00, 0x01, 0x11, 0x70]),
        ("1.5", &[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]),
        ("1e2", &[0xcb, 0x40, 0x59, 0, 0, 0, 0, 0, 0]),
        // One more than any integer has room for.
        ("18446744073709551616", &[0xcb, 0x43, 0xf0, 0, 0, 0, 0, 0, 0]),
        // What no float has room for is text; what is nearest to 0 is 0.
        ("1e400", b"\xa51e400"),
        ("-1E+400", b"\xa7-1E+400"),
        ("1.7976931348623157e308", &[0xcb, 0x7f, 0xef, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("1e-400", &[0xcb, 0, 0, 0, 0, 0, 0, 0, 0]),
        (" null ", &[0xc0]),
        ("[true, false]", &[0x92, 0xc3, 0xc2]),
        ("\"\\u00e9\"", &[0xa2, 0xc3, 0xa9]),
        // Half a pair, and a whole one.
        ("\"\\ud800\\\\ud800\"", &[0xa9, 0xef, 0xbf, 0xbd, b'\\', b'u', b'd', b'8', b'0', b'0']),
        ("\"\\ud83d\\ude00\\udc00\"", &[0xa7, 0xf0, 0x9f, 0x98, 0x80, 0xef, 0xbf, 0xbd]),
    ] {
        assert_eq!(written(&format!("{{\"v\":{text}}}")), with(value), "{text}");
    }
    let many: Vec<Value> = (0..70_000).map(|n| json!({"n": n, "s": "x".repeat(n % 40)})).collect();
    let frame = json!({"type": "STATUS", "payload": {"many": many, "deep": [[[[{"a": [1.25, null]}]]]]}});
    let back: Value =
        serde_json::from_slice(&to_json(&written(&frame.to_string()), 8 << 20).unwrap()).unwrap();
    assert_eq!(back, frame);
    for text in ["{", "{\"a\"}", "[1,]", "{} {}", "{\"a\":nul}", ""] {
        assert!(from_json(text.as_bytes()).is_none(), "{text}");
    }
}

#[test]
fn bytes_are_base64_for_json_and_bytes_again_for_messagepack() {
    // covers T16
    // {"type":"STATUS","payload":{"a/b":<00 01>,"s":"AAE="}}
    let mut frame = vec![0x82, 0xa4];
    frame.extend(b"type\xa6STATUS\xa7payload\x82\xa3a/b\xc4\x02\x00\x01\xa1s\xa4AAE=");
    let text = read(&frame);
    assert_eq!(text, r#"{"type":"STATUS","payload":{"a/b":"AAE=","s":"AAE="},"bin":["/payload/a~1b"]}"#);
    assert_eq!(written(&text), frame, "and only what was");

    // Within the answer to HISTORY each message has its own.
    let history = format!(r#"{{"type":"HISTORY","payload":{{"messages":[{{"id":"m"}},{text}]}}}}"#);
    let packed = written(&history);
    assert!(packed.windows(frame.len()).any(|window| window == frame), "{packed:02x?}");

    // Somebody's own field of that name, and what is no base64, stay what they are.
    for own in [r#"{"payload":"AAE=","bin":5}"#, r#"{"payload":"!","bin2":["/payload"]}"#] {
        let back: Value = serde_json::from_str(&read_lenient(&written(own))).unwrap();
        assert_eq!(back, serde_json::from_str::<Value>(own).unwrap());
    }
    let odd = written(r#"{"payload":"!","bin":["/payload","/nowhere",""]}"#);
    assert_eq!(odd, [&[0x81, 0xa7][..], b"payload\xa1!"].concat());
}

/// Reads what a client would not be allowed to send.
fn read_lenient(frame: &[u8]) -> String {
    let mut frame = frame.to_vec();
    if let Some(at) = frame.windows(4).position(|window| window == b"\xa3bin") {
        frame[at + 1] = b'B';
    }
    read(&frame).replace("\"Bin\"", "\"bin\"")
}

#[test]
fn the_answer_to_history_may_hold_the_deepest_frames() {
    // covers T16, B07
    let deep = format!("{}{}", "[".repeat(63), "]".repeat(63));
    let frame = format!(r#"{{"payload":{deep}}}"#);
    assert!(from_json(frame.as_bytes()).is_some());
    let history = format!(r#"{{"type":"HISTORY","payload":{{"messages":[{frame}]}}}}"#);
    assert!(from_json(history.as_bytes()).is_some());
    // Pointers that are longer than any that is of use are not followed.
    let long = "k".repeat(300_000);
    let odd = format!(r#"{{"payload":{{"{long}":["AAE="]}},"bin":["/payload/{long}/0"]}}"#);
    assert!(written(&odd).ends_with(b"/0"), "the field stays, and the string");
    let long = "k".repeat(1_000);
    let far = format!(r#"{{"payload":{{"{long}":["AAE="]}},"bin":["/payload/{long}/0"]}}"#);
    assert!(written(&far).ends_with(&[0x91, 0xc4, 0x02, 0, 1]));
}

#[test]
fn what_json_does_not_have_is_refused_with_where_it_is() {
    // covers T16, B19
    let many = [&[0x81, 0xa7][..], b"payload", &[0xdc, 0x04, 0x01], &[0xc4, 0x00].repeat(1025)].concat();
    for (frame, says) in [
        (vec![], "ends within a value that begins at byte 0"),
        (vec![0x90], "is not a MessagePack map"),
        (with(&[0xc0, 0xc0]), "1 bytes follow the map"),
        (with(&[0xd9, 0x05, b'a']), "ends within a value that begins at byte 5"),
        (with(&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0]), "NaN at byte 3"),
        (with(&[0xca, 0x7f, 0x80, 0, 0]), "inf at byte 3"),
        (with(&[0xd6, 0xff, 0, 0, 0, 0]), "an extension type, at byte 3"),
        (with(&[0xc1]), "at byte 3"),
        (with(&[0xa1, 0xff]), "the str at byte 4 is not UTF-8"),
        (vec![0x81, 0x01, 0x01], "the key at byte 1 is no str"),
        (vec![0x81, 0xa3, b'b', b'i', b'n', 0x90], "bin: is a field that the server writes"),
        ([&[0x81, 0xa2][..], b"id\xc4\x01a"].concat(), "id: is bin"),
        (many, "more than 1024 values are bin"),
        // Lengths that nobody has.
        (with(&[0xdd, 0xff, 0xff, 0xff, 0xff]), "ends within a value"),
        (with(&[0xdf, 0xff, 0xff, 0xff, 0xff]), "ends within a value"),
        (with(&[0xc6, 0xff, 0xff, 0xff, 0xff]), "ends within a value"),
    ] {
        let (code, message) = refused(&frame);
        assert!(code == Code::BadFrame && message.contains(says), "{message} where it should say {says}");
    }
    // A key that each of many pointers would repeat.
    let key = [&[0x81, 0xda, 0xff, 0xff][..], &[b'k'; 65_535]].concat();
    let (code, _) = refused(&[&key[..], &[0xdc, 0x04, 0x00], &[0xc4, 0x00].repeat(1024)].concat());
    assert_eq!(code, Code::TooLarge);
    let deep = [&with(&[])[..], &[0x91; 64], &[0x90]].concat();
    assert_eq!(refused(&deep).0, Code::TooDeep);
    let text = [&[0xda, 0x04, 0x00][..], &[b'x'; 1024]].concat();
    let (code, message) =
        to_json(&with(&text), 1000).map_err(|refusal| (refusal.code, refusal.message)).unwrap_err();
    // As bytes it would fit.
    let bin = [&[0xc5, 0x03, 0x84][..], &[0xff; 900]].concat();
    assert_eq!(to_json(&with(&bin), 1000).unwrap_err().code, Code::TooLarge);
    assert!(code == Code::TooLarge && message.contains("more than 1000 bytes as JSON"), "{message}");
}

#[test]
fn no_bytes_at_all_are_more_than_an_error() {
    // covers B19
    // Every frame of up to three bytes, and each byte of a good one changed in each way.
    for n in 0..1u32 << 24 {
        if n % 97 == 0 {
            let _ = to_json(&n.to_be_bytes()[1..], 64);
        }
    }
    let good = written(r#"{"type":"STATUS","to":"agni","payload":{"a":[1,-2,3.5,"x",null,true]}}"#);
    for at in 0..good.len() {
        for byte in 0..=255 {
            let mut frame = good.clone();
            frame[at] = byte;
            if let Ok(text) = to_json(&frame, MAX) {
                let parsed: Result<Value, _> = serde_json::from_slice(&text);
                assert!(parsed.is_ok(), "{frame:02x?} became {}", String::from_utf8_lossy(&text));
            }
        }
    }
}
