//! The program itself: what it says and how it exits when its configuration or its machine is at fault.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::process::{Command, Output};

use support::{Machine, list_pem};

const BAD_CONFIGURATION: i32 = 64;

fn edge(machine: &Machine, command: &str) -> Output {
    let mut edge = Command::new(env!("CARGO_BIN_EXE_trishula-edge"));
    edge.arg(command).arg("--config").arg(machine.path()).output().unwrap()
}

/// Exits with the code, and says all of the words, for `run` as for `check`.
fn fails(machine: &Machine, code: i32, says: &[&str]) {
    for command in ["check", "run"] {
        let output = edge(machine, command);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{command}: {text}");
        for word in says {
            assert!(text.contains(word), "{command}: {word:?} is missing in: {text}");
        }
        assert!(!text.contains(std::str::from_utf8(support::SECRET).unwrap()), "a secret is shown: {text}");
    }
}

#[test]
fn a_good_configuration_passes() {
    // covers T03
    let machine = Machine::new();
    machine.configure("");
    let output = edge(&machine, "check");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("service trishula on 127.0.0.1:0") && text.contains("agni"), "{text}");
}

#[test]
fn faults_of_the_configuration_exit_with_64() {
    // covers T03, B19
    let machine = Machine::new();
    fails(&machine, BAD_CONFIGURATION, &["edge.toml", "cannot be read", "--config"]);
    machine.configure("");
    let good = std::fs::read_to_string(machine.path()).unwrap();
    for (more, says) in [
        ("max_frmae = 5", vec!["edge.toml:10:1:", "max_frmae", "did you mean"]),
        ("max_frame = 5", vec!["edge.toml:10:1:", "service trishula: max_frame: 5 is not from 1024"]),
        ("max_frame = \"big\"", vec!["edge.toml:10:", "big"]),
    ] {
        std::fs::write(machine.path(), format!("{good}{more}\n")).unwrap();
        fails(&machine, BAD_CONFIGURATION, &says);
    }
}

#[test]
fn addresses_of_the_node_that_are_none_exit_with_64() {
    // covers T03, B19
    let machine = Machine::new();
    machine.configure("");
    let good = std::fs::read_to_string(machine.path()).unwrap();
    for (address, says) in [
        ("192.0.2.7", "the port is missing"),
        ("192.0.2.7:0", "the port must not be 0"),
        ("agni.example.com:99999", "the port is not a number from 1 to 65535"),
        ("https://agni.example.com:8766", "unix:PATH"),
        ("2001:db8::7:8766", "brackets"),
        ("", "HOST:PORT, such as agni.example.com:8766"),
        ("unix:", "such as \\\"unix:/run/trishula/edge.sock\\\""),
        ("wss://agni.example.com:x/mesh", "such as wss://agni.example.com:443/mesh"),
    ] {
        let nodes = format!("[uplink]\nnodes = [\"127.0.0.1:8766\", \"{address}\"]\n{good}");
        std::fs::write(machine.path(), nodes).unwrap();
        let says = says.replace("\\\"", "\"");
        fails(&machine, BAD_CONFIGURATION, &["edge.toml:2:1: uplink.nodes: ", address, &says]);
    }
    let nodes = "nodes = [\"unix:edge.sock\", \"[2001:db8::7]:8766\", \"localhost:8766\", \"wss://agni.example.com/mesh\"]";
    std::fs::write(machine.path(), format!("[uplink]\n{nodes}\n{good}")).unwrap();
    let output = edge(&machine, "check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn faults_of_secrets_and_certificates_exit_with_64() {
    // covers T05, T24
    let machine = Machine::new();
    machine.configure("");
    let secret = machine.folder.path().join("secret");
    std::fs::write(&secret, "dev-secret-change-in-production").unwrap();
    fails(&machine, BAD_CONFIGURATION, &["service trishula", "published default", "/dev/urandom"]);
    std::fs::remove_file(&secret).unwrap();
    fails(&machine, BAD_CONFIGURATION, &["service trishula", "secret", "/dev/urandom"]);
    let machine = Machine::new();
    machine.configure("");
    let id = machine.folder.path().join("id");
    std::fs::copy(id.join("link.key"), id.join("public.key")).unwrap();
    fails(&machine, BAD_CONFIGURATION, &["service trishula", "public.pem", "public.key"]);
    let machine = Machine::new();
    machine.configure("");
    std::fs::remove_file(machine.folder.path().join("id/link.pem")).unwrap();
    fails(&machine, BAD_CONFIGURATION, &["identity", "link.pem", "trishula join"]);
}

#[test]
fn faults_of_revocation_lists_exit_with_64() {
    // covers B14, B29
    let machine = Machine::new();
    let now = time::OffsetDateTime::from(trishula::rt::clock::wall());
    let list = |machine: &Machine, at| list_pem(&machine.ca.revoke(&[], None, at).unwrap());
    let path = machine.folder.path().join("revoked.pem");
    machine.configure("ca_file = \"id/ca.pem\"\ncrl_file = \"revoked.pem\"");
    fails(&machine, BAD_CONFIGURATION, &["service trishula", "revoked.pem", "crl_file"]);
    let ended = list(&machine, now - time::Duration::days(3651));
    for (text, says) in [
        ("no list\n".to_owned(), "has no list (X509 CRL, PEM) of the CA"),
        (ended, "has ended at"),
        (list(&Machine::new(), now), "has no list (X509 CRL, PEM) of the CA"),
    ] {
        std::fs::write(&path, text).unwrap();
        fails(&machine, BAD_CONFIGURATION, &["service trishula", "revoked.pem", says]);
    }
    std::fs::write(&path, list(&machine, now)).unwrap();
    let output = edge(&machine, "check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::write(
        machine.path(),
        std::fs::read_to_string(machine.path()).unwrap().replace("ca_file = \"id/ca.pem\"", ""),
    )
    .unwrap();
    fails(&machine, BAD_CONFIGURATION, &["service trishula: crl_file: needs ca_file"]);
}

#[test]
fn rules_between_services_without_keys_exit_with_64() {
    // covers B15, B29
    let machine = Machine::new();
    machine.configure("");
    let good = std::fs::read_to_string(machine.path()).unwrap();
    let open = "[[service]]\nname = \"open\"\nlisten = [\"127.0.0.1:0\"]\nauth = false\n";
    for (from, to) in [("open", "trishula"), ("trishula", "open")] {
        let rule = format!("[[rule]]\nfrom = \"{from}\"\nto = \"{to}\"\npermissions = [\"p\"]\n");
        std::fs::write(machine.path(), format!("{good}{open}{rule}")).unwrap();
        let place = format!("rule {from} to {to}");
        fails(&machine, BAD_CONFIGURATION, &["edge.toml", &place, "service open has nothing", "secret_file"]);
    }
    let rule = "[[rule]]\nfrom = \"open\"\nto = \"trishula\"\npermissions = [\"p\"]\n";
    std::fs::write(machine.path(), format!("{good}{open}secret_file = \"secret\"\n{rule}")).unwrap();
    let output = edge(&machine, "check");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_port_in_use_is_named() {
    // covers T03
    let machine = Machine::new();
    machine.configure("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let text = std::fs::read_to_string(machine.path()).unwrap();
    let text = text.replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{address}\"]"));
    std::fs::write(machine.path(), text).unwrap();
    fails(&machine, 1, &[&address, "in use: by this edge if it runs already", "another program", "ss -ltnp"]);
    // An edge with this configuration may be running.
    let mut check = Command::new(env!("CARGO_BIN_EXE_trishula-edge"));
    let output = check.args(["check", "--running", "--config"]).arg(machine.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_port_of_the_edge_itself_is_no_fault() {
    // covers T03
    let machine = Machine::new();
    machine.configure("");
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let [port, metrics, redirect, elsewhere] = [free(), free(), free(), free()];
    let text = std::fs::read_to_string(machine.path()).unwrap();
    let text =
        text.replace("[metrics]\nlisten = \"127.0.0.1:0\"", &format!("[metrics]\nlisten = \"{metrics}\""));
    let text = text.replace("listen = [\"127.0.0.1:0\"]", &format!("listen = [\"{port}\"]"));
    let text = format!("[redirect]\nlisten = [\"{redirect}\"]\n{text}");
    std::fs::write(machine.path(), &text).unwrap();
    let _running = Running::start(&machine);
    let output = edge(&machine, "check");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let note = format!("note: this edge is running, and has {port}, {metrics}, {redirect}");
    assert!(said.contains(&note), "{said}");
    // Another program has what the edge is to have besides, or another edge has what is to be this one's.
    let _taken = std::net::TcpListener::bind(&elsewhere).unwrap();
    let more = text.replace(&format!("[\"{port}\"]"), &format!("[\"{port}\", \"{elsewhere}\"]"));
    let other = format!("[edge]\nname = \"other\"\n{text}");
    for (text, at) in [(&more, &elsewhere), (&other, &port)] {
        std::fs::write(machine.path(), text).unwrap();
        let output = edge(&machine, "check");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("{at} is in use")), "{said}");
    }
}

/// A program that runs until the test ends.
struct Running(std::process::Child);

impl Running {
    fn start(machine: &Machine) -> Running {
        use std::io::{BufRead, BufReader};
        let mut edge = Command::new(env!("CARGO_BIN_EXE_trishula-edge"));
        edge.args(["run", "--config"]).arg(machine.path()).stderr(std::process::Stdio::piped());
        let mut running = Running(edge.spawn().unwrap());
        let mut log = BufReader::new(running.0.stderr.take().unwrap()).lines();
        assert!(log.any(|line| line.unwrap().contains("listening")));
        // Somebody must read on, or it can't write.
        std::thread::spawn(move || log.map_while(Result::ok).for_each(drop));
        running
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn wrong_usage_exits_with_2_and_help_has_examples() {
    let run = |args: &[&str]| Command::new(env!("CARGO_BIN_EXE_trishula-edge")).args(args).output().unwrap();
    assert_eq!(run(&["fly"]).status.code(), Some(2));
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("trishula-edge check --config"));
}

#[test]
fn a_stop_by_signal_exits_with_0() {
    // covers T05
    use std::io::{BufRead, BufReader};
    let machine = Machine::new();
    machine.configure("");
    let mut edge = Command::new(env!("CARGO_BIN_EXE_trishula-edge"))
        .args(["run", "--config"])
        .arg(machine.path())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(edge.stderr.take().unwrap()).lines();
    // It handles signals before it says that it listens.
    assert!(log.any(|line| line.unwrap().contains("listening")));
    let kill = Command::new("kill").arg(edge.id().to_string()).status().unwrap();
    assert!(kill.success());
    let rest: Vec<String> = log.map_while(Result::ok).collect();
    assert_eq!(edge.wait().unwrap().code(), Some(0), "{rest:?}");
}
