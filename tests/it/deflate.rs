//! Compressed WebSocket messages (RFC 7692) and the echo, at a real edge over TLS.
#![allow(clippy::print_stderr, reason = "figures that are reported")]

mod client;

use std::fs;

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::harness::{Mesh, PythonClient, python, until};
use client::{BINARY, Client, FIN, LONG, OFFER, RSV1, TEXT, counted, resident};

/// An echo for the largest messages. One that takes long to arrive is no silence.
const LARGE: &str = "echo = true\nmax_frame = 16777216\nping_interval_s = 600";

/// A machine, with these lines in its service.
fn machine(lines: &str, node: bool) -> Mesh {
    let mut mesh = Mesh::init(&["agni"]);
    let file = mesh.folder.path().join("agni/edge.toml");
    let text = fs::read_to_string(&file).unwrap();
    let (before, after) = text.split_once("\n[metrics]").unwrap();
    fs::write(&file, format!("{before}\n{lines}\n[metrics]{after}")).unwrap();
    let agni = mesh.machine("agni");
    if node {
        agni.start_node();
    }
    agni.start_edge();
    let listens = |port| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
    let port = agni.edge_port;
    until("the edge listens", || listens(port));
    if node {
        mesh.wait_whole();
    }
    mesh
}

fn run(test: impl Future<Output = ()>) {
    Runtime::new().unwrap().block_on(async { tokio::time::timeout(LONG, test).await.expect("in time") });
}

// covers T16
#[test]
fn what_is_agreed_is_what_the_answer_says() {
    let mut mesh = machine("", false);
    let agni = mesh.machine("agni");
    run(async {
        for (offers, says) in [
            (&[][..], None),
            (&["permessage-deflate"], Some("permessage-deflate; client_no_context_takeover")),
            (&[OFFER], Some("permessage-deflate; client_max_window_bits=12")),
            (
                &[
                    "permessage-deflate; server_max_window_bits=8",
                    "x-other, permessage-deflate; server_max_window_bits=9; server_no_context_takeover",
                ],
                Some(
                    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
                ),
            ),
            (&["permessage-deflate; client_max_window_bits=99"], None),
            (&["permessage-deflate; x=\"", ";;;,,,\"", "permessage-deflate=1"], None),
        ] {
            let client = Client::ask(agni, "/", offers, None).await;
            assert_eq!(client.answer.status, 101, "{offers:?}: it goes on without");
            assert_eq!(client.answer.extensions.as_deref(), says, "{offers:?}");
        }
    });
    // Switched off for a service.
    let mut mesh = machine("[service.deflate]\nenabled = false", false);
    let agni = mesh.machine("agni");
    run(async { assert_eq!(Client::ask(agni, "/", &[OFFER], None).await.answer.extensions, None) });
}

// covers T16
#[test]
fn messages_are_compressed_both_ways_above_the_threshold_and_refer_to_those_before() {
    let mut mesh = machine("[service.deflate]\nmin_size = 600", true);
    let agni = mesh.machine("agni");
    let text = "a sentence that nobody has said before in this test, not even in part; ".repeat(6);
    let message = |id: &str, text: &str| json!({"type": "COMMAND", "to": "raw", "id": id, "payload": {"text": text, "more": (0..60).collect::<Vec<_>>()}});
    run(async {
        let mut client = Client::open(agni, "/").await;
        client.say(&json!({"type": "REGISTER", "id": "r"}).to_string()).await;
        let (first, _, _) = client.until(|f| f["type"] == "REGISTERED").await;
        assert_eq!(first & RSV1, 0, "smaller than the threshold");
        let mut sizes = Vec::new();
        for id in ["m-1", "m-2"] {
            client.say(&message(id, &text).to_string()).await;
            let (first, wire, frame) = client.until(|f| f["from"] == "raw").await;
            assert_eq!((first, &frame["id"]), (FIN | RSV1 | TEXT, &Value::from(id)));
            assert_eq!(frame["payload"], message(id, &text)["payload"]);
            sizes.push(wire);
        }
        assert!(sizes[1] * 2 < sizes[0], "the second refers to the first: {sizes:?}");
        let count = |way, form| {
            counted(agni, &format!("trishula_deflate_bytes_total{{direction=\"{way}\",form=\"{form}\"}}"))
        };
        assert_eq!(count("out", "wire"), sizes.iter().sum::<usize>() as u64);
        assert!(count("out", "plain") > 800 && count("in", "wire") < count("in", "plain"));
        assert_eq!(counted(agni, "trishula_deflate_connections"), 1);

        // One that has not asked for it sees none of it.
        let token = agni.token("plain");
        let mut plain = Client::ask(agni, "/", &[], Some(&token)).await;
        plain.send(FIN | TEXT, message("p", &text).to_string().replace("raw", "plain").as_bytes()).await;
        let (first, _, frame) = plain.until(|f| f["from"] == "plain").await;
        assert_eq!((first, &frame["id"]), (FIN | TEXT, &Value::from("p")));
        assert_eq!(counted(agni, "trishula_deflate_connections"), 1);
    });
    until("it is counted as gone", || counted(agni, "trishula_deflate_connections") == 0);
}

// covers T16, B30
#[test]
fn a_bomb_ends_its_own_connection_and_is_counted() {
    let mut mesh = machine("echo = true\n[service.deflate]\nmax_ratio = 1032", false);
    let agni = mesh.machine("agni");
    let refused =
        |agni, reason| counted(agni, &format!("trishula_deflate_refused_total{{reason=\"{reason}\"}}"));
    run(async {
        let mut other = Client::open(agni, "/echo").await;
        let mut bomb = Client::open(agni, "/echo").await;
        let before = resident(agni);
        // 200 MiB in 200 KiB.
        let packed = bomb.pack(&vec![0; 200 << 20]);
        bomb.send(FIN | RSV1 | BINARY, &packed).await;
        assert_eq!(bomb.closed().await, 1009);
        assert_eq!(refused(agni, "too_large"), 1);
        let grown = resident(agni).saturating_sub(before);
        assert!(grown < 8 * 1024, "it was not inflated first: {grown} KiB more");

        // At a session's door as well, where nobody has said a word yet.
        let mut session = Client::open(agni, "/").await;
        session.send(FIN | RSV1 | TEXT, &packed).await;
        assert_eq!(session.closed().await, 1009);
        assert_eq!(refused(agni, "too_large"), 2);

        let mut garbage = Client::open(agni, "/echo").await;
        garbage.send(FIN | RSV1 | TEXT, b"\xff\xff\xff\xff").await;
        assert_eq!(garbage.closed().await, 1002);
        assert_eq!(refused(agni, "garbage"), 1);

        let mut control = Client::open(agni, "/echo").await;
        control.send(FIN | RSV1 | 9, b"a compressed ping").await;
        assert_eq!(control.closed().await, 1002);

        let token = agni.token("raw");
        let mut unasked = Client::ask(agni, "/echo", &[], Some(&token)).await;
        unasked.say("compressed, though nobody agreed").await;
        assert_eq!(unasked.closed().await, 1002);

        other.say(&"the others feel nothing; ".repeat(20)).await;
        let (first, _, text) = other.message().await;
        assert_eq!((first, text), (FIN | RSV1 | TEXT, "the others feel nothing; ".repeat(20).into_bytes()));
    });
    let mut mesh = machine(LARGE, false);
    let agni = mesh.machine("agni");
    run(async {
        let mut client = Client::open(agni, "/echo").await;
        let pixels = vec![b' '; 900_000];
        let packed = client.pack(&pixels);
        assert!(pixels.len() / packed.len() > 200);
        client.send(FIN | RSV1 | BINARY, &packed).await;
        assert!(client.message().await.2 == pixels, "what fits without compression does with it");
        let packed = client.pack(&vec![0; 2_000_000]);
        client.send(FIN | RSV1 | BINARY, &packed).await;
        assert_eq!(client.closed().await, 1009, "within the limit, but nobody writes so");
        assert_eq!(refused(agni, "ratio"), 1);
    });
}

// covers T16
#[test]
#[cfg(target_os = "linux")]
fn two_hundred_idle_connections_keep_their_windows_and_nothing_else() {
    const MANY: usize = 200;
    let mut mesh = machine("echo = true", false);
    let agni = mesh.machine("agni");
    run(async {
        let text = (0..3000).map(|i| format!("{i} ")).collect::<String>();
        let token = agni.token("raw");
        // Once, for what the process keeps whoever comes.
        let mut first = Client::open(agni, "/echo").await;
        first.say(&text).await;
        first.message().await;
        let mut per_connection = Vec::new();
        let mut open = Vec::new();
        for offers in [&[][..], &[OFFER]] {
            let before = resident(agni);
            for _ in 0..MANY {
                let mut client = Client::ask(agni, "/echo", offers, Some(&token)).await;
                if offers.is_empty() {
                    client.send(FIN | TEXT, text.as_bytes()).await;
                } else {
                    client.say(&text).await;
                }
                assert_eq!(client.message().await.2, text.as_bytes());
                open.push(client);
            }
            per_connection.push((resident(agni) - before) as f64 / MANY as f64);
        }
        eprintln!(
            "KiB resident a connection: plain {:.1}, compressed {:.1}",
            per_connection[0], per_connection[1]
        );
        // Two windows of 4 KiB, what holds them, and what the allocator adds.
        assert!(per_connection[1] - per_connection[0] < 12.0, "{per_connection:?}");
        // And with the 14 KB that tungstenite holds each way since.
        assert!(per_connection[1] < 96.0, "{per_connection:?}");
        assert_eq!(counted(agni, "trishula_deflate_connections"), MANY as u64 + 1);
    });
}

// covers T16
#[test]
fn python_websockets_compresses_unasked_and_is_understood() {
    let mut mesh = machine("", true);
    let agni = mesh.machine("agni");
    let mut client = PythonClient::start(&python(), "deflated.py", agni, "worker", &[]);
    assert_eq!(client.line(), "permessage-deflate");
    assert_eq!(client.line(), "the message came back whole");
    let count = |way, form| {
        counted(agni, &format!("trishula_deflate_bytes_total{{direction=\"{way}\",form=\"{form}\"}}"))
    };
    for way in ["in", "out"] {
        let (wire, plain) = (count(way, "wire"), count(way, "plain"));
        assert!(plain > 10_000 && wire * 3 < plain, "{way}: {plain} bytes travelled as {wire}");
    }
}

// covers T16
#[test]
fn the_echo_answers_what_came_to_whom_it_knows() {
    let mut mesh = machine(&format!("{LARGE}\n[service.deflate]\nmax_ratio = 1032"), false);
    let agni = mesh.machine("agni");
    run(async {
        assert_eq!(Client::ask(agni, "/echo", &[], None).await.answer.status, 401);
        assert_eq!(Client::ask(agni, "/echo", &[], Some("nonsense")).await.answer.status, 401);
        let mut client = Client::open(agni, "/echo").await;
        client.send(FIN | TEXT, "schön".as_bytes()).await;
        assert_eq!(client.message().await, (FIN | TEXT, 6, "schön".as_bytes().to_vec()));
        client.send(FIN | BINARY, &[0, 1, 255]).await;
        assert_eq!(client.message().await, (FIN | BINARY, 3, vec![0, 1, 255]));
        client.send(FIN | 9, b"are you there").await;
        let pong = client.frame().await.unwrap();
        assert_eq!((pong.first, &pong.payload[..]), (FIN | 10, &b"are you there"[..]));
        // The largest message, in 65,536 fragments, compressed as one.
        let large: Vec<u8> = (0..16u32 << 20).map(|i| (i / 1000) as u8).collect();
        let packed = client.pack(&large);
        let piece = packed.len().div_ceil(65_536);
        let pieces: Vec<&[u8]> = packed.chunks(piece).collect();
        client.send(RSV1 | BINARY, pieces[0]).await;
        for piece in &pieces[1..] {
            client.send(0, piece).await;
        }
        client.send(FIN, &[]).await;
        let (first, _, came) = client.message().await;
        assert_eq!(first & !FIN, RSV1 | BINARY);
        assert!(came == large, "16 MiB come back");
        // And not compressed.
        client.send(BINARY, &[]).await;
        for _ in 0..65_534 {
            client.send(0, b"0123456789abcdef").await;
        }
        client.send(FIN, b"end").await;
        assert_eq!(client.message().await.2.len(), 65_534 * 16 + 3);
        client.send(FIN | BINARY, &vec![0; (16 << 20) + 1]).await;
        assert_eq!(client.closed().await, 1009);
        let mut leaving = Client::open(agni, "/echo").await;
        leaving.send(FIN | 8, &1000u16.to_be_bytes()).await;
        assert_eq!(leaving.closed().await, 1000);
        let mut staying = Client::open(agni, "/echo").await;
        agni.edge.as_ref().unwrap().signal("TERM");
        assert_eq!(staying.closed().await, 1012);
    });
    // Off unless it is configured.
    let mut mesh = machine("", false);
    let agni = mesh.machine("agni");
    let token = agni.token("raw");
    run(async { assert_eq!(Client::ask(agni, "/echo", &[], Some(&token)).await.answer.status, 404) });
}

// covers T16, B03
#[test]
fn the_echo_ends_with_its_token_and_with_a_client_that_is_gone() {
    let mut mesh = machine("echo = true\nping_interval_s = 3", false);
    let agni = mesh.machine("agni");
    let secret = agni.folder.join("secrets/trishula.secret");
    let short =
        agni.run(&["token", "issue", "raw", "--ttl", "2s", "--secret-file", &secret.display().to_string()]);
    let short = String::from_utf8(short.stdout).unwrap().trim().to_owned();
    run(async {
        let token = agni.token("raw");
        let mut silent = Client::ask(agni, "/echo", &[OFFER], Some(&token)).await;
        let mut ending = Client::ask(agni, "/echo", &[OFFER], Some(&short)).await;
        assert_eq!(ending.answer.status, 101);
        assert_eq!(ending.closed().await, 4401);
        assert_eq!(silent.closed().await, 4014, "it answers no ping");
    });
}

/// Autobahn's fuzzing client; all of its cases when `AUTOBAHN` is `all`, which takes minutes.
// covers T16
#[test]
fn autobahn_finds_nothing() {
    let mut mesh = machine(&format!("{LARGE}\n[service.deflate]\nmin_size = 0"), false);
    let agni = mesh.machine("agni");
    let all = std::env::var("AUTOBAHN").is_ok_and(|cases| cases == "all");
    let few = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*"];
    let compressed = (1..=5).map(|n| format!("12.{n}.1")).chain((1..=7).map(|n| format!("13.{n}.1")));
    let compressed: Vec<String> = compressed.collect();
    let few: Vec<&str> = few.into_iter().chain(compressed.iter().map(String::as_str)).collect();
    let cases = if all { &[][..] } else { &few };
    let mut client = PythonClient::start(&python(), "autobahn.py", agni, "raw", cases);
    let report: Value = serde_json::from_str(&client.line()).unwrap();
    eprintln!("{report}");
    assert_eq!(report["cases"], report["passed"], "{report}");
    let number = |of: &Value| of.as_u64().unwrap_or(0);
    let (twelve, thirteen) = if all { (90, 126) } else { (5, 7) };
    assert_eq!((number(&report["12"]["OK"]), number(&report["13"]["OK"])), (twelve, thirteen));
    assert_eq!(number(&report["cases"]), if all { 517 } else { number(&report["cases"]) });
    assert_eq!(report["ended"].get("UNIMPLEMENTED"), None);
}
