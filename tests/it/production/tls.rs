//! Class TLS: 6 to 9.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use trishula::identity::ca::Authority;
use trishula::identity::profile::Request;
use trishula::identity::{Role, tls};
use trishula::rt::clock;
use trishula::wire::ids::NodeName;

use super::{SOON, Stage, run};
use crate::harness::{Machine, edge_program, until};

fn now() -> OffsetDateTime {
    clock::wall().into()
}

fn authority() -> Authority {
    Authority::create("production", now() - Duration::days(800)).unwrap()
}

/// A certificate and its key for this host, made so many days ago and good for so many in all.
fn issued(authority: &Authority, host: &str, made: i64, life: i64) -> (String, String) {
    let role = Role::Edge(NodeName::new("agni").unwrap());
    let life = Some(Duration::days(life));
    let request = Request { life, ..Request::public(role, vec![host.into()], Vec::new()) };
    let issued = authority.issue(&request, now() - Duration::days(made)).unwrap();
    let (certificate, key) = issued.pair();
    (certificate.to_owned(), key.to_owned())
}

fn self_signed(host: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Puts both where a service of the machine looks, as those do who renew: each at once, the key first.
fn put(folder: &Path, service: &str, (certificate, key): (String, String)) {
    for (end, text) in [("key", key), ("pem", certificate)] {
        let path = folder.join(format!("{service}.{end}"));
        let beside = folder.join("new");
        fs::write(&beside, text).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&beside, path).unwrap();
    }
}

/// One machine whose services show these certificates; nothing runs yet.
fn showing(certificates: Vec<(&'static str, (String, String))>) -> Stage {
    let presets: Vec<&str> = certificates.iter().map(|(preset, _)| *preset).collect();
    let stage = Stage::prepare(&["agni"], &presets, "");
    let folder = &stage.mesh.machines[0].folder;
    let path = folder.join("edge.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    for (preset, pair) in certificates {
        let line = format!("secret_file = \"{preset}.secret\"\n");
        let files = format!("{line}cert_file = \"{preset}.pem\"\nkey_file = \"{preset}.key\"\n");
        text = text.replace(&line, &files);
        put(folder, preset, pair);
    }
    fs::write(path, text).unwrap();
    stage
}

fn start(stage: &mut Stage) {
    let machine = stage.machine("agni");
    machine.start_node();
    machine.start_edge();
    stage.mesh.wait_whole();
}

/// What a client that trusts this CA and no other makes of the edge at a port: nothing, or why it goes.
async fn verified(ca: &Authority, port: u16, host: &'static str) -> Option<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let tcp = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from(host).unwrap();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let outcome = timeout(SOON, connected).await.expect("the handshake took too long");
    outcome.err().map(|why| format!("{why:?}"))
}

// covers B10, B27 06, B27 07
#[test]
fn a_client_that_verifies_takes_a_good_certificate_and_no_expired_foreign_or_self_signed_one() {
    let (ca, foreign) = (authority(), authority());
    let mut stage = showing(vec![
        ("mahavishnu", issued(&ca, "localhost", 10, 90)),
        ("crackerjack", issued(&ca, "localhost", 10, 5)),
        ("akosha", issued(&ca, "elsewhere.example.com", 10, 90)),
        ("dhruva", issued(&foreign, "localhost", 10, 90)),
        ("fastblocks", self_signed("localhost")),
    ]);
    start(&mut stage);
    run(async {
        let verified = async |preset, host| verified(&ca, stage.port("agni", preset), host).await;
        assert_eq!(verified("mahavishnu", "localhost").await, None);
        assert_eq!(verified("akosha", "elsewhere.example.com").await, None);
        for (preset, why) in [
            ("crackerjack", "Expired"),
            ("akosha", "NotValidForName"),
            ("dhruva", "UnknownIssuer"),
            ("fastblocks", "UnknownIssuer"),
        ] {
            let said = verified(preset, "localhost").await.unwrap_or_else(|| panic!("{preset} was believed"));
            assert!(said.contains("InvalidCertificate") && said.contains(why), "{preset}: {said}");
        }
    });
}

fn check(machine: &Machine, more: &[&str]) -> Output {
    let config = machine.folder.join("edge.toml");
    let mut check = std::process::Command::new(edge_program());
    check.args(["check", "--running", "--config"]).arg(config).args(more).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// As the edge's metrics have it.
fn days_left(machine: &Machine, service: &str) -> i64 {
    let series = format!("trishula_certificate_days_left{{certificate=\"{service}\"}} ");
    let metrics = machine.edge_metrics();
    let value = metrics.lines().find_map(|line| line.strip_prefix(&series));
    value.unwrap_or_else(|| panic!("no {series}in {metrics}")).parse().unwrap()
}

// covers B11, T24, B27 08
#[test]
fn the_end_of_a_certificate_is_warned_of_fails_the_check_and_is_a_metric() {
    let ca = authority();
    let mut stage = showing(vec![
        ("mahavishnu", issued(&ca, "localhost", 1, 91)),
        ("akosha", issued(&ca, "localhost", 1, 11)),
        ("crackerjack", issued(&ca, "localhost", 10, 5)),
    ]);
    start(&mut stage);
    let machine = stage.machine("agni");
    // An hour of each has gone when it is made, as clocks differ.
    assert_eq!(["mahavishnu", "akosha", "crackerjack"].map(|name| days_left(machine, name)), [89, 9, -6]);
    let log = machine.edge.as_ref().unwrap().log();
    let said =
        |words: &str, service: &str| log.lines().any(|line| line.contains(words) && line.contains(service));
    assert!(said("the certificate ends soon", "akosha.pem"), "{log}");
    assert!(said("the certificate has ended", "crackerjack.pem"), "{log}");
    assert!(!said("the certificate ends soon", "mahavishnu.pem"), "{log}");
    let failed = check(machine, &[]);
    assert_eq!(failed.status.code(), Some(64), "{}", text(&failed));
    for words in ["service crackerjack", "crackerjack.pem ended 6 days ago", "renew"] {
        assert!(text(&failed).contains(words), "{}", text(&failed));
    }

    // Renewed beneath the running edge.
    put(&machine.folder, "crackerjack", issued(&ca, "localhost", 1, 61));
    until("the edge has the new one", || days_left(machine, "crackerjack") == 59);
    let port = stage.port("agni", "crackerjack");
    assert_eq!(run(verified(&ca, port, "localhost")), None);
    let machine = stage.machine("agni");
    let passed = check(machine, &[]);
    assert!(passed.status.success(), "{}", text(&passed));
    let line = |service: &str| text(&passed).lines().find(|line| line.contains(service)).unwrap().to_owned();
    assert!(line("service akosha").contains("WARNING: its certificate ends in 9 days"), "{}", text(&passed));
    assert!(line("service mahavishnu").contains("good for 89 days"), "{}", text(&passed));
    let shown: Value = serde_json::from_slice(&check(machine, &["--json"]).stdout).unwrap();
    let services = shown["services"].as_array().unwrap();
    let akosha = services.iter().find(|service| service["name"] == "akosha").unwrap();
    assert_eq!(akosha["certificate_days_left"], json!(9));
}

/// A ClientHello that offers one suite, and no newer version than this one: what libraries of today will not even say.
fn hello(version: u16, suite: u16) -> Vec<u8> {
    // Groups x25519 and P-256; points uncompressed; ECDSA with P-256 and SHA-256, RSA-PSS, RSA PKCS#1.
    let groups = [0, 10, 0, 6, 0, 4, 0, 29, 0, 23];
    let points = [0, 11, 0, 2, 1, 0];
    let signatures = [0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1];
    let extensions = [&groups[..], &points, &signatures].concat();
    let mut body = version.to_be_bytes().to_vec();
    body.extend([7; 32]);
    // No session; one suite; no compression.
    body.extend([0, 0, 2]);
    body.extend(suite.to_be_bytes());
    body.extend([1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut record = vec![22, 3, 1];
    record.extend((body.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((body.len() as u16).to_be_bytes());
    record.extend(body);
    record
}

/// Type of the record that answers it, and its last byte of the first two: of an alert, what it says.
fn answered(port: u16, hello: &[u8]) -> (u8, u8) {
    let mut tcp = TcpStream::connect(("127.0.0.1", port)).unwrap();
    tcp.set_read_timeout(Some(SOON)).unwrap();
    tcp.write_all(hello).unwrap();
    let mut answer = [0; 7];
    tcp.read_exact(&mut answer).unwrap();
    (answer[0], answer[6])
}

// covers B10, B27 09
#[test]
fn suites_of_old_that_hold_are_taken_and_rc4_cbc_and_tls_1_1_are_not() {
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    let stage = Stage::start(&["agni"], &["mahavishnu"], "");
    let port = stage.port("agni", "mahavishnu");
    // ECDHE-ECDSA-AES128-GCM-SHA256: what is refused below is refused for its suite or its version, not for its form.
    assert_eq!(answered(port, &hello(0x0303, 0xc02b)).0, HANDSHAKE);
    for (what, version, suite, alert) in [
        ("ECDHE-ECDSA-RC4-SHA", 0x0303, 0xc007, 40),
        ("RC4-SHA", 0x0303, 0x0005, 40),
        ("ECDHE-ECDSA-AES128-SHA", 0x0303, 0xc009, 40),
        ("ECDHE-ECDSA-AES128-SHA256", 0x0303, 0xc023, 40),
        ("TLS 1.1", 0x0302, 0xc009, 70),
        ("TLS 1.1 with a suite of 1.2", 0x0302, 0xc02b, 70),
        ("TLS 1.0", 0x0301, 0xc009, 70),
    ] {
        assert_eq!(answered(port, &hello(version, suite)), (ALERT, alert), "{what}");
    }
}
