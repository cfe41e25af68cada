//! An old store brought back under a running mesh.

use std::fs;
use std::path::Path;

use crate::harness::{Mesh, until};

fn copy(from: &Path, to: &Path) {
    fs::remove_dir_all(to).ok();
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

// covers B26, Q04
#[test]
fn a_node_whose_store_is_an_old_copy_stands_still_and_says_what_to_do() {
    let mut mesh = Mesh::start(&["dc", "agni"]);
    let folder = mesh.folder.path().join("agni");
    let (data, backup) = (folder.join("data"), folder.join("backup"));
    assert!(data.join("node.sqlite").exists(), "{}", data.display());

    mesh.machine("agni").node.as_mut().unwrap().stop();
    copy(&data, &backup);
    mesh.machine("agni").start_node();
    mesh.wait_whole();
    mesh.machine("agni").node.as_mut().unwrap().stop();
    copy(&backup, &data);
    mesh.machine("agni").start_node();

    let stands_still = |mesh: &mut Mesh| {
        mesh.machine("agni").status().is_some_and(|status| !status["durable"]["rolled_back"].is_null())
    };
    until("agni hears from dc that its store is old", || stands_still(&mut mesh));
    let shown = mesh.machine("agni").run(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("STANDS STILL") && shown.contains("trishula store resume"), "{shown}");
    let sent = mesh.machine("agni").run(&["send", "agni.cli", "hello", "--timeout", "5s"]);
    assert!(!sent.status.success(), "nothing is accepted meanwhile");
    let (code, health) = mesh.machine("agni").health();
    assert_eq!(
        (code, &health["status"], &health["checks"]["store"]),
        (503, &"unhealthy".into(), &"failing".into())
    );
    assert!(health["store_error"].as_str().unwrap().contains("trishula store resume"), "{health}");
    let checked = mesh.machine("agni").run(&["check"]);
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    let finding = said.lines().find(|line| line.contains("stands still")).unwrap_or_default();
    assert!(finding.starts_with("FAULT") && finding.contains("trishula store resume"), "{said}");
    assert!(!checked.status.success());

    let resumed = mesh.machine("agni").run(&["store", "resume", "--redeliver"]);
    assert!(resumed.status.success(), "{}", String::from_utf8_lossy(&resumed.stderr));
    assert!(!stands_still(&mut mesh));
    assert_ne!(mesh.machine("agni").health().0, 503);
    let said = mesh.machine("agni").run(&["check"]).stdout;
    assert!(!String::from_utf8_lossy(&said).contains("stands still"));
    let again = mesh.machine("agni").run(&["store", "resume", "--bury"]);
    assert!(!again.status.success(), "there is nothing to decide any more");
    let sent = mesh.machine("agni").run(&["send", "agni.cli", "hello", "--timeout", "5s"]);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
}
