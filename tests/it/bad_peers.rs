//! Peers that are not of the mesh: no frame of theirs gets through, and the log says why.

use std::fs;
use std::path::Path;

use crate::harness::{Mesh, Process, TRISHULA, until};

// covers T24, B17
#[test]
fn a_node_of_another_mesh_is_not_admitted_and_the_log_says_why() {
    let mut ours = Mesh::init(&["dc", "agni"]);
    let mut theirs = Mesh::init(&["evil", "other"]);
    let address = format!("127.0.0.1:{}", ours.base + 10);
    let file = theirs.folder.path().join("evil/node.toml");
    let mut text = fs::read_to_string(&file).unwrap();
    text.push_str(&format!("\n[[mesh.peers]]\nname = \"agni\"\naddresses = [\"{address}\"]\n"));
    fs::write(&file, text).unwrap();

    for machine in &mut ours.machines {
        machine.start_node();
    }
    theirs.machine("evil").start_node();
    ours.wait_whole();
    until("the stranger was turned away, with a reason", || {
        let (ours, theirs) = (ours.machine("agni").node_log(), theirs.machine("evil").node_log());
        (theirs.contains("not of one mesh") || theirs.contains("not of this mesh"))
            && ours.contains("did not come up")
    });
    let status = ours.machine("agni").status().unwrap();
    let nodes: Vec<&str> =
        status["nodes"].as_array().unwrap().iter().filter_map(|n| n["node"].as_str()).collect();
    assert_eq!(nodes, ["agni", "dc"], "nothing that the stranger says is believed");
}

// covers T24, B14
#[test]
fn a_native_agent_whose_certificate_is_revoked_while_it_is_connected_is_cut_off() {
    let mut mesh = Mesh::init(&["dc", "agni"]);
    for machine in &mut mesh.machines {
        machine.start_node();
    }
    mesh.wait_whole();
    let identity = mesh.folder.path().join("robot");
    let identity = identity.display().to_string();
    let issued = mesh.machine("dc").run(&["cert", "issue", "--agent", "robot", "--out", &identity]);
    assert!(issued.status.success(), "{}", String::from_utf8_lossy(&issued.stderr));
    let node = format!("127.0.0.1:{}", mesh.base + 10);
    let log = mesh.folder.path().join("robot.log");
    let arguments = ["listen", "--node", &node, "--identity", &identity];
    let _robot = Process::start(Path::new(TRISHULA), &arguments, log);
    let online = |mesh: &mut Mesh| {
        let agents = mesh.machine("dc").run(&["agents", "--json"]).stdout;
        let agents: serde_json::Value = serde_json::from_slice(&agents).unwrap();
        let robot = agents.as_array().unwrap().iter().find(|row| row["agent"] == "trishula/robot");
        robot.is_some_and(|robot| robot["online"] == true)
    };
    until("the agent is there", || online(&mut mesh));

    let revoked = mesh.machine("dc").run(&["cert", "revoke", "trishula/robot"]);
    assert!(revoked.status.success(), "{}", String::from_utf8_lossy(&revoked.stderr));
    let took = until("the agent is cut off", || !online(&mut mesh));
    assert!(took.as_secs() < 10, "it took {took:?}");
    until("it was turned away when it came again", || {
        mesh.machine("agni").node_log().contains("robot was revoked")
    });
    assert!(!online(&mut mesh));
}
