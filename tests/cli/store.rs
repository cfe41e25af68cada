use super::Place;

/// A store as the release before wrote it, with the node's data folder beside a mesh.
fn with_store() -> (Place, &'static str) {
    let place = Place::with_mesh();
    place.replace("mesh/dc/node.toml", "data_dir = ", "data_dir = \"store\" # ");
    std::fs::create_dir(place.path("mesh/dc/store")).unwrap();
    std::fs::write(place.path("mesh/dc/store/node.sqlite"), include_bytes!("../store/schema-1.sqlite"))
        .unwrap();
    (place, "mesh/dc/node.toml")
}

#[test]
fn a_store_goes_up_and_down_and_shows_how_it_is() {
    // covers B26
    let (place, config) = with_store();
    let status = place.json(&["store", "status", "--config", config, "--json"]);
    assert_eq!((&status["schema"], &status["in_use"]), (&1.into(), &false.into()));
    assert!(place.ok(&["store", "up", "--config", config]).contains("from version 1 to 5"));
    assert!(place.ok(&["store", "up", "--config", config]).contains("version 5 already"));
    let shown = place.ok(&["store", "status", "--data", "mesh/dc/store"]);
    assert!(
        shown.contains("schema 5") && shown.contains("nothing found") && shown.contains("mailbox"),
        "{shown}"
    );
    assert!(place.ok(&["store", "down", "--data", "mesh/dc/store"]).contains("from version 5 to 4"));
    assert!(place.fails(1, &["store", "up", "9", "--data", "mesh/dc/store"]).contains("1 to 5"));
    assert!(place.fails(1, &["store", "status", "--data", "nowhere"]).contains("no store here"));
    assert!(place.fails(64, &["store", "status", "--config", "nowhere"]).contains("cannot be read"));
}

#[test]
fn a_damaged_store_is_said_and_saved() {
    // covers B26
    let (place, _) = with_store();
    let path = place.path("mesh/dc/store/node.sqlite");
    let mut bytes = std::fs::read(&path).unwrap();
    let end = bytes.len();
    bytes[end - 4096..].fill(0xa5);
    std::fs::write(&path, bytes).unwrap();
    let output = place.run(&["store", "status", "--data", "mesh/dc/store"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && shown.contains("DAMAGED"), "{shown}");
    assert!(place.fails(1, &["store", "down", "--data", "mesh/dc/store"]).contains("trishula store salvage"));
    let shown = place.ok(&["store", "salvage", "--data", "mesh/dc/store", "--out", "new"]);
    assert!(shown.contains("NOT ALL OF IT"), "{shown}");
    assert!(place.ok(&["store", "status", "--data", "new"]).contains("nothing found"));
}
