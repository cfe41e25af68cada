//! What the programs write into their logs, and where.

use std::fs;

use crate::harness::{Mesh, until};

// covers B29
#[test]
fn a_node_logs_into_its_file_and_renames_one_that_is_full() {
    let mut mesh = Mesh::init(&["dc"]);
    let machine = mesh.machine("dc");
    // Counts from the folder of the configuration.
    let log = machine.folder.join("logs/node.log");
    fs::create_dir(log.parent().unwrap()).unwrap();
    fs::write(&log, vec![b'\n'; 1 << 20]).unwrap();
    let file = ("TRISHULA_LOG_FILE", "logs/node.log");
    machine.start_node_in(&[file, ("TRISHULA_LOG_MAX_MIB", "1"), ("TRISHULA_LOG_KEEP", "1")]);
    until("the node answers", || machine.status().is_some());
    assert_eq!(machine.node.as_mut().unwrap().stop(), Some(0));
    let said = fs::read_to_string(&log).unwrap();
    assert!(said.contains("stopping"), "written before the process has ended: {said}");
    assert_eq!(fs::metadata(log.with_extension("log.1")).unwrap().len(), 1 << 20);
    assert_eq!(machine.node_log(), "", "nothing on standard error");
}
