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
    assert!(place.ok(&["store", "up", "--config", config]).contains("from version 1 to 6"));
    assert!(place.ok(&["store", "up", "--config", config]).contains("version 6 already"));
    let shown = place.ok(&["store", "status", "--data", "mesh/dc/store"]);
    assert!(
        shown.contains("schema 6") && shown.contains("nothing found") && shown.contains("mailbox"),
        "{shown}"
    );
    assert!(place.ok(&["store", "down", "--data", "mesh/dc/store"]).contains("from version 6 to 5"));
    assert!(place.fails(1, &["store", "up", "9", "--data", "mesh/dc/store"]).contains("1 to 6"));
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

const ROWS: i64 = 300;

/// A store of this release with many messages, and its file's path.
fn with_messages() -> (Place, std::path::PathBuf) {
    let (place, _) = with_store();
    place.ok(&["store", "up", "--data", "mesh/dc/store"]);
    let path = place.path("mesh/dc/store/node.sqlite");
    let connection = rusqlite::Connection::open(&path).unwrap();
    let before: i64 =
        connection.query_row("SELECT coalesce(max(n), 0) FROM message", [], |row| row.get(0)).unwrap();
    for n in before + 1..=ROWS {
        connection
            .execute(
                "INSERT INTO message VALUES (?1, 'm-' || ?1, 'trishula/a', 'trishula/b', ?1, 'mailbox', 1000, x'01', x'02', zeroblob(1000))",
                [n],
            )
            .unwrap();
    }
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    (place, path)
}

/// What the store says of itself, which is damaged.
fn is_damaged(place: &Place) -> String {
    let output = place.run(&["store", "status", "--data", "mesh/dc/store"]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.code() == Some(1) && shown.contains("DAMAGED"), "{shown}");
    assert!(!shown.contains("older release"), "{shown}");
    shown
}

/// Saves it into a new store; how many messages that has, and what was said.
fn saved(place: &Place) -> (i64, String) {
    let output = place.run(&["store", "salvage", "--data", "mesh/dc/store", "--out", "new"]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(place.ok(&["store", "status", "--data", "new"]).contains("nothing found"));
    let connection = rusqlite::Connection::open(place.path("new/node.sqlite")).unwrap();
    let count = connection.query_row("SELECT count(*) FROM message", [], |row| row.get(0)).unwrap();
    let left: Vec<_> =
        std::fs::read_dir(place.path("new")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("salvage")), "{left:?}");
    (count, said.into_owned())
}

#[test]
fn of_a_store_whose_end_is_cut_off_the_rest_is_saved() {
    // covers B26
    let (place, path) = with_messages();
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 20 * 1024]).unwrap();
    is_damaged(&place);
    let (rows, said) = saved(&place);
    assert!((ROWS - 30..ROWS).contains(&rows), "{rows}: {said}");
    assert!(said.contains("NOT ALL OF IT") && said.contains("5 of its "), "{said}");
}

#[test]
fn a_store_whose_header_is_overwritten_is_saved() {
    // covers B26
    for log in [false, true] {
        let (place, path) = with_messages();
        let mut bytes = std::fs::read(&path).unwrap();
        if log {
            // As a node leaves it that was killed: the latest row is in the log alone.
            let connection = rusqlite::Connection::open(&path).unwrap();
            connection
                .set_db_config(rusqlite::config::DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)
                .unwrap();
            connection.execute("UPDATE message SET n = n + 1000 WHERE n = 1", []).unwrap();
        }
        bytes[..100].fill(0xa5);
        std::fs::write(&path, bytes).unwrap();
        // SQLite does without where the log has the first page.
        if !log {
            is_damaged(&place);
        }
        let (rows, said) = saved(&place);
        assert_eq!(rows, ROWS, "{said}");
        let connection = rusqlite::Connection::open(place.path("new/node.sqlite")).unwrap();
        let last: i64 = connection.query_row("SELECT max(n) FROM message", [], |row| row.get(0)).unwrap();
        assert_eq!(last, if log { 1001 } else { ROWS });
    }
}

#[test]
fn of_a_store_that_has_nothing_any_more_is_said_what_to_do() {
    // covers B26
    for contents in [&[][..], &[0xa5; 9000]] {
        let (place, config) = with_store();
        std::fs::write(place.path("mesh/dc/store/node.sqlite"), contents).unwrap();
        is_damaged(&place);
        let said = place.fails(1, &["store", "salvage", "--data", "mesh/dc/store", "--out", "new"]);
        assert!(said.contains("nothing can be saved") && said.contains("away"), "{said}");
        assert!(!said.contains("newer release") && !said.contains("trishula store salvage"), "{said}");
        assert!(!place.path("new/node.sqlite").exists());
        if contents.is_empty() {
            let checked = place.run(&["check", "--config", config]);
            let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
            assert!(checked.contains("damaged") && checked.contains("the file is empty"), "{checked}");
        }
    }
}
