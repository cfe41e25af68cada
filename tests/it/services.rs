//! The older services behind a real edge and node, with their own clients.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::RecvTimeoutError;

use serde_json::json;
use trishula::rt::clock;

use crate::harness::{
    Lines, Machine, Mesh, PATIENCE, answers, edge_program, free_ports, python, strict_python, until,
};

pub const SECRET: &str = "a secret of the tests, long enough to be one";

/// One machine whose edge serves these presets as well, on ports of its own.
pub fn serving(presets: &[(&str, u16)]) -> Mesh {
    let mut mesh = Mesh::init(&["agni"]);
    let machine = &mut mesh.machines[0];
    add_services(machine, presets);
    machine.start_node();
    machine.start_edge();
    mesh.wait_whole();
    mesh
}

/// Adds services to the configuration of a machine's edge.
pub fn add_services(machine: &Machine, presets: &[(&str, u16)]) {
    fs::write(machine.folder.join("services.secret"), SECRET).unwrap();
    let path = machine.folder.join("edge.toml");
    let mut text = fs::read_to_string(&path).unwrap();
    for (lines, port) in presets {
        text += &format!(
            "\n[[service]]\n{lines}\nlisten = [\"127.0.0.1:{port}\"]\nsecret_file = \"services.secret\"\n"
        );
    }
    fs::write(path, text).unwrap();
}

pub fn token(user: &str, permissions: &[&str], seconds: i64) -> String {
    let exp = (clock::wall_ms() / 1000).checked_add_signed(seconds).unwrap();
    let claims = json!({"user_id": user, "permissions": permissions, "iat": 1, "exp": exp});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key).unwrap()
}

pub fn url(port: u16) -> String {
    format!("wss://localhost:{port}")
}

/// A script that is spoken with line by line.
pub struct Script {
    child: Child,
    says: Lines,
    hears: ChildStdin,
}

impl Script {
    pub fn start(python: &Path, script: &str, arguments: &[&str]) -> Script {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/python").join(script);
        Script::run(Command::new(python).arg(script).args(arguments))
    }

    pub fn run(command: &mut Command) -> Script {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (says, hears) = (Lines::of(child.stdout.take().unwrap()), child.stdin.take().unwrap());
        Script { child, says, hears }
    }

    pub fn says(&mut self, word: &str) {
        assert_eq!(self.line(), word);
    }

    /// The next line; an empty one when the script has ended.
    pub fn line(&mut self) -> String {
        match self.says.within(PATIENCE) {
            Ok(line) => line.trim_end().to_owned(),
            Err(RecvTimeoutError::Disconnected) => String::new(),
            Err(RecvTimeoutError::Timeout) => panic!("it has said nothing for {PATIENCE:?}"),
        }
    }

    pub fn tell(&mut self, word: &str) {
        writeln!(self.hears, "{word}").unwrap();
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn service(machine: &Machine, port: u16) -> Script {
    let token = token("service", &[], 600);
    let mut service = Script::start(&python(), "old_service.py", &[&url(port), &machine.ca(), &token]);
    service.says("ready");
    service
}

// covers B01, B03, B04, B06, B27 01, B27 02, B27 03, B27 04, B27 05, B27 06, B27 16
#[test]
fn the_real_client_of_the_envelope_lives_through_a_restart_of_its_edge() {
    let port = free_ports(1);
    let mut mesh = serving(&[("preset = \"mahavishnu\"", port)]);
    let machine = &mut mesh.machines[0];
    let (good, expired) = (token("u1", &["pool:read"], 600), token("u1", &[], -5));
    let arguments = [&url(port), &machine.ca(), &good, "nonsense", &expired];
    let mut client = Script::start(&strict_python(), "old_client.py", &arguments);
    client.says("nobody");
    let first = service(machine, port);
    client.tell("served");
    client.says("answered");
    drop(first);
    assert!(machine.edge.as_mut().unwrap().stop().is_some());
    machine.start_edge();
    until("the edge is back", || machine.sees_whole(1) && answers(port));
    let _second = service(machine, port);
    client.tell("restarted");
    client.says("back");
    let log = machine.edge.as_ref().unwrap().log();
    assert!(!log.contains(&good) && !log.contains(SECRET), "nothing secret is in the log");
}

// covers B01, B06, T04
#[test]
fn clients_of_the_old_relay_and_of_session_buddy_are_served_as_they_are() {
    let ports = free_ports(2);
    let mesh = serving(&[
        ("name = \"relay\"\ndialect = \"relay\"", ports),
        ("preset = \"session-buddy\"", ports + 1),
    ]);
    let ca = mesh.machines[0].ca();
    let (mac, agni, buddy) = (token("mac", &[], 600), token("agni", &[], 600), token("u1", &[], 600));
    let (relay_url, buddy_url) = (url(ports), url(ports + 1));
    let arguments = [&relay_url, &buddy_url, &ca, &mac, &agni, &buddy].map(String::as_str);
    let mut client = Script::start(&python(), "old_relay.py", &arguments);
    client.says("relay");
    client.says("buddy");
    let log = mesh.machines[0].edge.as_ref().unwrap().log();
    let refused = log.lines().any(|line| line.contains("security") && line.contains("from=127.0.0.1:"));
    assert!(refused, "a refused token is a security event with its address: {log}");
}

// covers B02, B16
#[test]
fn an_old_environment_is_enough_but_for_its_placeholder_of_a_secret() {
    let mut mesh = Mesh::init(&["agni"]);
    let machine = &mut mesh.machines[0];
    let port = free_ports(1);
    let path = machine.folder.join("edge.toml");
    let text = fs::read_to_string(&path).unwrap() + "\n[[service]]\npreset = \"mahavishnu\"\n";
    fs::write(&path, text).unwrap();
    let old = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge/tests/old_env/mahavishnu.env");
    let old = fs::read_to_string(old).unwrap();
    let variables = old.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let (certificate, key) =
        (machine.folder.join("edge-identity/public.pem"), machine.folder.join("edge-identity/public.key"));
    let check = |secret: &str| {
        let output = Command::new(edge_program())
            .args(["check", "--config"])
            .arg(&path)
            .envs(variables.clone())
            .env("MAHAVISHNU_HOST", "127.0.0.1")
            .env("MAHAVISHNU_PORT", port.to_string())
            .env("MAHAVISHNU_CERT_FILE", &certificate)
            .env("MAHAVISHNU_KEY_FILE", &key)
            .env("MAHAVISHNU_JWT_SECRET", secret)
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr),
        )
    };
    for (secret, says) in [
        ("your-generated-secret-key-here", "published default"),
        ("dev-secret-change-in-production", "published default"),
        ("short but not published", "at least 32 are needed"),
    ] {
        let (code, said) = check(secret);
        assert!(code == Some(64) && said.contains(says) && said.contains("/dev/urandom"), "{code:?}: {said}");
        assert!(!said.contains(secret), "a secret is never shown: {said}");
    }
    let (code, said) = check(SECRET);
    assert!(code == Some(0) && said.contains(&format!("service mahavishnu on 127.0.0.1:{port}")), "{said}");
    assert!(said.contains("MAHAVISHNU_REDIS_HOST is not used"), "{said}");
}
