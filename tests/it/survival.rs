//! Nodes killed, links cut, processes stopped: the others go on.

use std::fs;
use std::time::Duration;

use trishula::client::{Client, Options};

use crate::harness::udp_path::UdpPath;
use crate::harness::{Mesh, PythonClient, python, until};
use crate::wss::{issue, native};

// covers T01, Q02
#[test]
fn a_node_is_killed_while_messages_flow_and_the_mesh_is_whole_again_after_its_restart() {
    let mut mesh = Mesh::start(&["dc", "agni", "rushabdev"]);
    let python = python();
    let mut responder = PythonClient::start(&python, "responder.py", mesh.machine("agni"), "worker", &[]);
    assert_eq!(responder.line(), "ready");
    let mut flow = PythonClient::start(&python, "flow.py", mesh.machine("dc"), "asker", &["worker"]);
    assert_eq!(flow.line(), "result 1");

    let incarnation = |mesh: &mut Mesh| {
        let status = mesh.machine("dc").status().unwrap();
        let nodes = status["nodes"].as_array().unwrap().clone();
        nodes.iter().find(|n| n["node"] == "rushabdev").unwrap()["incarnation"].as_u64().unwrap()
    };
    let before = incarnation(&mut mesh);
    mesh.machine("rushabdev").node.as_mut().unwrap().kill();
    until("dc sees that rushabdev is gone", || !mesh.machine("dc").reaches("rushabdev"));
    assert!(mesh.machine("dc").reaches("agni"));
    // The other two went on all the while: not one answer was missing.
    for _ in 0..200 {
        let line = flow.line();
        assert!(line.starts_with("result "), "dc and agni must not notice: {line}");
    }

    mesh.machine("rushabdev").start_node();
    mesh.wait_whole();
    assert!(
        incarnation(&mut mesh) > before,
        "a restart is a new incarnation, fsynced before the first frame"
    );
}

// covers T01, Q02
#[test]
fn a_link_is_cut_and_messages_go_through_the_third_node() {
    let mut mesh = Mesh::init(&["dc", "agni", "rushabdev"]);
    // agni and rushabdev find each other only through paths that can be cut; dc has direct ones.
    let port = |i: u16| format!("127.0.0.1:{}", mesh.base + 10 * i);
    let paths = [1, 2].map(|i| UdpPath::to(port(i).parse().unwrap()));
    for (i, name) in [(1, "agni"), (2, "rushabdev")] {
        let file = mesh.folder.path().join(name).join("node.toml");
        let other = 3 - i;
        let text = fs::read_to_string(&file).unwrap();
        let text = text
            .replace(
                &format!("advertise = [\"{}\"]", port(i)),
                &format!("advertise = [\"{}\"]", paths[usize::from(i) - 1].address),
            )
            .replace(
                &format!("addresses = [\"{}\"]", port(other)),
                &format!("addresses = [\"{}\"]", paths[usize::from(other) - 1].address),
            );
        assert!(text.contains(&paths[0].address.to_string()), "{text}");
        fs::write(&file, text).unwrap();
    }
    for machine in &mut mesh.machines {
        machine.start_node();
    }
    for machine in &mut mesh.machines {
        machine.start_edge();
    }
    mesh.wait_whole();
    let python = python();
    until("agni reaches rushabdev directly", || {
        mesh.machine("agni").next_hop("rushabdev").as_deref() == Some("rushabdev")
    });
    let mut responder =
        PythonClient::start(&python, "responder.py", mesh.machine("rushabdev"), "worker", &[]);
    assert_eq!(responder.line(), "ready");
    let mut flow = PythonClient::start(&python, "flow.py", mesh.machine("agni"), "asker", &["worker"]);
    assert_eq!(flow.line(), "result 1");

    paths.iter().for_each(|path| path.set_open(false));
    for (from, to) in [("agni", "rushabdev"), ("rushabdev", "agni")] {
        until(&format!("{from} goes through dc"), || {
            mesh.machine(from).next_hop(to).as_deref() == Some("dc")
        });
    }
    until("messages flow again", || flow.line().starts_with("result "));
    // Of the other there are lines from before and of the change itself; all that this one says is by the way round.
    let mut late = PythonClient::start(&python, "flow.py", mesh.machine("agni"), "late", &["worker"]);
    for _ in 0..50 {
        let line = late.line();
        assert!(line.starts_with("result "), "the way round must hold: {line}");
    }
    paths.iter().for_each(|path| path.set_open(true));
    until("agni goes directly again", || {
        mesh.machine("agni").next_hop("rushabdev").as_deref() == Some("rushabdev")
    });
    for _ in 0..50 {
        let line = late.line();
        assert!(line.starts_with("result "), "the direct way must hold: {line}");
    }
}

// covers T01, T09
#[test]
fn a_node_that_slept_serves_its_own_clients_again() {
    let mut mesh = Mesh::init(&["dc"]);
    let port = mesh.base;
    let dc = mesh.machine("dc");
    dc.start_node();
    until("dc takes clients", || dc.run(&["agents"]).status.success());
    let clients = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let quic = clients.block_on(async { native(&issue(dc, "worker"), &[port]) });
    let mut worker = clients.block_on(Client::connect(quic, Options::default())).unwrap();

    // Several times as long as anything may be silent.
    let dc = mesh.machine("dc");
    let process = dc.node.as_ref().unwrap();
    process.signal("STOP");
    std::thread::sleep(Duration::from_secs(4));
    process.signal("CONT");
    until("dc takes messages", || dc.run(&["send", "worker", "\"good morning\""]).status.success());
    let message = clients.block_on(worker.next()).unwrap();
    assert_eq!(message.read::<String>().unwrap(), "good morning");
    until("dc has noticed", || dc.node_log().contains("links are tried again at once why=\"clock\""));
}

// covers B12
#[test]
fn a_node_that_is_told_to_stop_says_goodbye_and_ends_with_0() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    for machine in &mut mesh.machines {
        machine.start_node();
    }
    mesh.wait_whole();
    assert_eq!(mesh.machine("agni").node.as_mut().unwrap().stop(), Some(0));
    // Said, not found out by silence, which takes five seconds: the first answers already show it.
    let took = until("dc knows", || !mesh.machine("dc").reaches("agni"));
    assert!(took.as_secs() < 4, "dc found out by silence only: {took:?}");
}
