//! Peers that are not of the mesh: no frame of theirs gets through, and the log says why.

use std::fs;

use crate::harness::{Mesh, until};

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
