//! Machines that join later, and that are thrown out.

use std::fs;
use std::process::{Command, Stdio};

use trishula::identity::Role;
use trishula::identity::bundle::{Bundle, Parts};
use trishula::identity::ca::Authority;
use trishula::identity::info::describe;
use trishula::identity::profile::Request;
use trishula::wire::ids::NodeName;

use crate::harness::{Machine, Mesh, PythonClient, TRISHULA, python, until};

// covers Q07, T24
#[test]
fn a_fourth_machine_joins_by_ticket_while_the_holder_only_dials_out_and_is_revoked() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    let dc = mesh.machine("dc");
    let configuration = fs::read_to_string(dc.folder.join("node.toml")).unwrap();
    assert!(configuration.contains("advertise = []"), "the holder cannot be dialled: {configuration}");
    let invited = dc.run(&["invite", "fourth"]);
    assert!(invited.status.success(), "{}", String::from_utf8_lossy(&invited.stderr));
    let ticket = String::from_utf8(invited.stdout).unwrap();
    let ticket = ticket.lines().find(|line| line.starts_with("trishula-ticket-1:")).unwrap().to_owned();

    let folder = mesh.folder.path().join("fourth");
    let joined = join(&ticket, &folder);
    assert!(joined.status.success(), "{}", String::from_utf8_lossy(&joined.stderr));
    let other = join(&ticket, &mesh.folder.path().join("fifth"));
    assert!(!other.status.success(), "a ticket is good once");

    let edge_port = port_of_edge(&folder);
    let mut fourth = Machine::at(folder, edge_port);
    fourth.start_node();
    fourth.start_edge();
    mesh.machines.push(fourth);
    mesh.wait_whole();
    let python = python();
    let mut responder = PythonClient::start(&python, "responder.py", mesh.machine("agni"), "worker", &[]);
    assert_eq!(responder.line(), "ready");
    let mut flow = PythonClient::start(&python, "flow.py", mesh.machine("fourth"), "newcomer", &["worker"]);
    assert_eq!(flow.line(), "result 1", "a client of the new machine's edge, with the mesh's own secret");

    let revoked = mesh.machine("dc").run(&["cert", "revoke", "fourth", "--reason", "test"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let took = until("nothing of the fourth gets through", || !flow.line().starts_with("result "));
    assert!(took.as_secs() < 10, "it took {took:?}");
    for _ in 0..20 {
        let line = flow.line();
        assert!(!line.starts_with("result "), "a message of a revoked machine got through: {line}");
    }
    let fourth = mesh.machines.pop().unwrap();
    until("the log says why", || mesh.machine("agni").node_log().contains("fourth was revoked"));
    // The others have forgotten it, and are whole without it.
    mesh.wait_whole();
    drop(fourth);

    let twice = join(&ticket, &mesh.folder.path().join("again"));
    assert!(!twice.status.success());
}

fn join(ticket: &str, folder: &std::path::Path) -> std::process::Output {
    Command::new(TRISHULA)
        .args(["join", ticket, "--loopback", "--out"])
        .arg(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn port_of_edge(folder: &std::path::Path) -> u16 {
    let text = fs::read_to_string(folder.join("edge.toml")).unwrap();
    let at = text.find("listen = [\"127.0.0.1:").unwrap() + "listen = [\"127.0.0.1:".len();
    let digits: String = text[at..].chars().take_while(char::is_ascii_digit).collect();
    digits.parse().unwrap()
}

// covers T24
#[test]
fn a_certificate_in_the_last_third_of_its_life_is_renewed_without_being_asked() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    let folder = mesh.machine("agni").folder.join("identity");
    let now = time::OffsetDateTime::now_utc();
    let ca = Authority::load(&mesh.machine("dc").folder.join("ca")).unwrap();
    // It began an hour ago, as every one does, and has two minutes left.
    let life = Some(time::Duration::minutes(62));
    let request = Request { life, ..Request::link(Role::Node(NodeName::new("agni").unwrap())) };
    let short = ca.issue(&request, now).unwrap();
    Bundle::write(&folder, &Parts { link: Some(short.pair()), ..Parts::default() }).unwrap();
    for machine in &mut mesh.machines {
        machine.start_node();
    }
    // Only the certificate is read: certificate and key are two files, and are being replaced.
    until("the certificate was renewed", || {
        let pem = fs::read(folder.join("link.pem")).unwrap();
        let shown = describe(&pem, None, time::OffsetDateTime::now_utc()).unwrap();
        shown.serial != short.serial && shown.days_left > 80
    });
    mesh.wait_whole();
}

// covers T24, Q07
#[test]
fn a_node_and_its_edge_renew_their_certificates_by_the_holder_and_go_on() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let serial = |mesh: &mut Mesh, file: &str| {
        let file = mesh.machine("agni").folder.join(file).display().to_string();
        let shown = Command::new(TRISHULA).args(["cert", "show", &file, "--json"]).output().unwrap();
        String::from_utf8(shown.stdout).unwrap()
    };
    let before = [serial(&mut mesh, "identity/link.pem"), serial(&mut mesh, "edge-identity/link.pem")];
    let renewed = mesh.machine("agni").run(&["cert", "renew"]);
    assert!(renewed.status.success(), "{}", String::from_utf8_lossy(&renewed.stderr));
    assert_ne!(before[0], serial(&mut mesh, "identity/link.pem"));
    assert_ne!(before[1], serial(&mut mesh, "edge-identity/link.pem"));

    // The new one holds: after a restart the mesh is whole again.
    mesh.machine("agni").node.as_mut().unwrap().stop();
    mesh.machine("agni").start_node();
    mesh.wait_whole();
}
