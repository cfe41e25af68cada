//! TLS: which of it is spoken, and with which certificate of the edge's.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use trishula::identity;
use trishula::identity::profile::Request as Ask;
use trishula::rt::clock;
use trishula::wire::ids::NodeName;

use crate::clients::{builder, connect, get, plain, roots, websocket};
use crate::support::{Machine, World, soon, token};

#[tokio::test]
async fn a_service_without_tls() {
    // covers B02
    let world = World::start_with("tls = false").await;
    let answer = plain(world.address(), &get("/health")).await;
    assert!(
        answer.contains(" 200 ") && !answer.to_ascii_lowercase().contains("strict-transport"),
        "{answer}"
    );
    let tcp = TcpStream::connect(world.address()).await.unwrap();
    let address = format!("ws://localhost/ws?token={}", token("dc"));
    let (mut socket, _) = soon(tokio_tungstenite::client_async(address, tcp)).await.unwrap();
    socket.send(Message::text(r#"{"type":"REGISTER"}"#)).await.unwrap();
    let Some(Ok(Message::Text(text))) = soon(socket.next()).await else { panic!("no answer") };
    assert!(text.contains("REGISTERED"), "{text}");
}

#[tokio::test]
async fn tls_is_1_2_or_1_3_with_strong_suites() {
    // covers B10, B27 09
    let world = World::start().await;
    let pem = world.machine.ca.certificate_pem().to_owned();
    for (versions, expected) in [
        (&[&rustls::version::TLS12][..], rustls::ProtocolVersion::TLSv1_2),
        (&[&rustls::version::TLS13][..], rustls::ProtocolVersion::TLSv1_3),
    ] {
        let config = builder(versions).with_root_certificates(roots(&pem)).with_no_client_auth();
        let stream = connect(world.address(), config).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
    }
    // What rustls can't even say, OpenSSL says.
    let openssl = |args: &'static [&'static str]| {
        let at = world.address().to_string();
        tokio::task::spawn_blocking(move || {
            let mut client = Command::new("openssl");
            client.args(["s_client", "-connect", &at, "-servername", "localhost"]).args(args);
            let output =
                client.stdin(std::process::Stdio::null()).output().expect("tests/run.sh: openssl is missing");
            String::from_utf8_lossy(&output.stdout).into_owned()
        })
    };
    let agreed = |text: &str, cipher: &str| text.contains(&format!("Cipher is {cipher}"));
    for cipher in
        ["ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"]
    {
        let text = match cipher {
            "ECDHE-ECDSA-AES128-GCM-SHA256" => {
                openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"])
            }
            "ECDHE-ECDSA-AES256-GCM-SHA384" => {
                openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"])
            }
            _ => openssl(&["-tls1_2", "-cipher", "ECDHE-ECDSA-CHACHA20-POLY1305"]),
        };
        let text = soon(text).await.unwrap();
        assert!(agreed(&text, cipher), "{cipher}: {text}");
    }
    for refused in [
        &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"][..],
        &["-tls1", "-cipher", "ALL:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA384:@SECLEVEL=0"],
        &["-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA:aNULL:eNULL:@SECLEVEL=0"],
    ] {
        let text = soon(openssl(refused)).await.unwrap();
        assert!(agreed(&text, "(NONE)"), "{refused:?}: {text}");
    }
}

#[tokio::test]
async fn a_certificate_is_made_for_development() {
    // covers B02
    let world = World::start_with("auto_cert = true").await;
    let ca = world.machine.folder.path().join("auto-cert/trishula/ca.pem");
    let pem = std::fs::read_to_string(ca).unwrap();
    let config = builder(rustls::ALL_VERSIONS).with_root_certificates(roots(&pem)).with_no_client_auth();
    let stream = connect(world.address(), config).await.unwrap();
    let mut dc = websocket(stream, &format!("/ws?token={}", token("dc"))).await.unwrap();
    dc.say(json!({"type": "REGISTER"})).await;
    assert_eq!(dc.hear().await["type"], "REGISTERED");
}

fn put_certificate(machine: &Machine) -> CertificateDer<'static> {
    let role = identity::Role::Edge(NodeName::new("agni").unwrap());
    let ask = Ask::public(role, vec!["localhost".into()], Vec::new());
    let issued = machine.ca.issue(&ask, clock::wall().into()).unwrap();
    let put = |name: &str, text: &str| {
        let path = machine.folder.path().join("id").join(name);
        identity::files::write(Path::new(&path), text.as_bytes(), identity::files::Access::Private).unwrap();
    };
    put("public.key", &issued.key_pem);
    put("public.pem", &issued.chain_pem);
    CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_and_nobody_is_dropped() {
    // covers B11, T24
    let world = World::start().await;
    let mut dc = world.registered("dc").await;
    let new = put_certificate(&world.machine);
    let shown = async {
        loop {
            let stream = world.tls().await;
            if stream.get_ref().1.peer_certificates().unwrap()[0] == new {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon(shown).await;
    dc.say(json!({"type": "STATUS", "to": "dc", "payload": 1})).await;
    assert_eq!(dc.hear().await["payload"], 1);
}
