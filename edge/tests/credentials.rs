//! The secret of a service from the credential store, as systemd hands it to the program: a folder, named by the environment.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use support::{Machine, SECRET, signed, soon};
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use trishula::rt::clock;

/// A program that ends with its handle.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// With this folder of credentials, or none.
fn program(machine: &Machine, command: &str, folder: Option<&Path>) -> Command {
    let mut program = Command::new(env!("CARGO_BIN_EXE_trishula-edge"));
    program.arg(command).arg("--config").arg(machine.path()).env_remove("CREDENTIALS_DIRECTORY");
    program.envs(folder.map(|folder| ("CREDENTIALS_DIRECTORY", folder)));
    program
}

fn check(machine: &Machine, folder: Option<&Path>) -> Output {
    program(machine, "check", folder).output().unwrap()
}

/// A machine whose service names its secret as a credential; `more` goes to the service's end.
fn machine(at: SocketAddr, more: &str) -> Machine {
    let machine = Machine::new();
    let text = format!(
        "[identity]\ndir = \"id\"\n[uplink]\nnodes = [\"unix:nowhere.sock\"]\n[metrics]\nlisten = \"127.0.0.1:0\"\n\
         [[service]]\nname = \"trishula\"\nlisten = [\"{at}\"]\necho = true\nsecret_credential = \"the.secret\"\n{more}\n"
    );
    std::fs::write(machine.path(), text).unwrap();
    // Nothing else holds it.
    std::fs::remove_file(machine.folder.path().join("secret")).unwrap();
    machine
}

/// The status of an upgrade with a token of this secret.
async fn status(machine: &Machine, at: SocketAddr, secret: &[u8]) -> u16 {
    let claims = serde_json::json!({"sub": "dc", "exp": clock::wall_ms() / 1000 + 600});
    let mut request = "wss://localhost/echo".into_client_request().unwrap();
    let bearer = format!("Bearer {}", signed(secret, claims));
    request.headers_mut().insert("authorization", bearer.parse().unwrap());
    match soon(tokio_tungstenite::client_async(request, machine.tls(at).await)).await {
        Ok((_, answer)) => answer.status().as_u16(),
        Err(WsError::Http(answer)) => answer.status().as_u16(),
        Err(e) => panic!("{e}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_secret_comes_from_the_credential_store() {
    // covers B16
    let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let machine = machine(at, "");
    let store = tempfile::tempdir().unwrap();
    std::fs::write(store.path().join("the.secret"), SECRET).unwrap();
    let mut child = program(&machine, "run", Some(store.path())).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
    let running = Running(child);
    let mut said = String::new();
    while !said.contains("listening") {
        said = log.next().expect("it listens").unwrap();
        assert!(!said.contains(std::str::from_utf8(SECRET).unwrap()), "{said}");
    }
    // Whoever reads no more of a pipe stops who writes into it.
    std::thread::spawn(move || log.for_each(drop));
    assert_eq!(status(&machine, at, SECRET).await, 101);
    assert_eq!(status(&machine, at, b"another secret of the tests, long enough to be one").await, 401);
    drop(running);
    let output = check(&machine, Some(store.path()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_wrong_with_a_credential_is_said() {
    // covers B16, B29
    let store = tempfile::tempdir().unwrap();
    let at = SocketAddr::from(([127, 0, 0, 1], 0));
    let fails = |machine: &Machine, folder: Option<&Path>, says: &[&str]| {
        let output = check(machine, folder);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{text}");
        for word in says {
            assert!(text.contains(word), "{word:?} is missing in: {text}");
        }
    };
    let plain = machine(at, "");
    let unit = "LoadCredential=the.secret:";
    fails(&plain, None, &["service trishula: secret_credential", "$CREDENTIALS_DIRECTORY is not set", unit]);
    fails(&plain, Some(store.path()), &["there is no credential the.secret in", unit]);
    std::fs::write(store.path().join("the.secret"), "changeme").unwrap();
    fails(&plain, Some(store.path()), &["service trishula", "published default"]);
    std::fs::write(store.path().join("the.secret"), SECRET).unwrap();
    fails(&machine(at, "secret_env = \"X\""), Some(store.path()), &["give one of the three"]);
    fails(
        &machine(at, "key_credential = \"../id/public.key\""),
        Some(store.path()),
        &["no credential's name"],
    );
    // The key of a certificate as well.
    let keyed = machine(at, "cert = \"its.pem\"\nkey_credential = \"the.key\"");
    let in_folder = |path: &str| keyed.folder.path().join(path);
    std::fs::copy(in_folder("id/public.pem"), in_folder("its.pem")).unwrap();
    fails(&keyed, Some(store.path()), &["key_credential", "there is no credential the.key in"]);
    std::fs::copy(in_folder("id/public.key"), store.path().join("the.key")).unwrap();
    let output = check(&keyed, Some(store.path()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
