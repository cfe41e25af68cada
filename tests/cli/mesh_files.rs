use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::{Place, mode};

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn init_makes_a_folder_for_each_machine_with_nothing_open() {
    // covers Q07, T24, B16, T01
    let place = Place::new();
    let said = place.ok(&["init", "--out", "mesh"]);
    assert!(said.contains("trishula status") && said.contains("examples"), "{said}");
    for machine in ["dc", "agni", "rushabdev"] {
        for file in [
            "node.toml",
            "edge.toml",
            "identity/ca.pem",
            "identity/link.pem",
            "identity/link.key",
            "edge-identity/link.pem",
            "edge-identity/public.pem",
            "edge-identity/public.key",
            "secrets/trishula.secret",
        ] {
            assert!(place.path(&format!("mesh/{machine}/{file}")).exists(), "{machine}/{file}");
        }
        assert_eq!(place.path(&format!("mesh/{machine}/ca")).exists(), machine == "dc");
    }
    let mut secrets = BTreeSet::new();
    for file in files(&place.path("mesh")) {
        let text = std::fs::read_to_string(&file).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap();
        let secret = text.contains("PRIVATE KEY") || name.ends_with(".secret") || name == "issued.json";
        assert_eq!(mode(&file), if secret { 0o600 } else { 0o644 }, "{}", file.display());
        if name == "trishula.secret" {
            assert_eq!(text.len(), 64);
            secrets.insert(text.clone());
        }
        assert!(!said.contains(text.trim()) || text.len() > 4096, "{} was printed", file.display());
    }
    assert_eq!(secrets.len(), 1, "one secret for all");
    let node = std::fs::read_to_string(place.path("mesh/dc/node.toml")).unwrap();
    assert!(node.contains("advertise = []") && node.contains("agni.example.com:8766"), "{node}");
    assert!(node.contains("fallback = [\"wss://agni.example.com:443/mesh\"]"), "{node}");
    assert!(!node.contains("advertise_fallback"), "nobody can dial dc: {node}");
    let node = std::fs::read_to_string(place.path("mesh/agni/node.toml")).unwrap();
    assert!(node.contains("advertise_fallback = [\"wss://agni.example.com:443/mesh\"]"), "{node}");
}

#[test]
fn init_takes_names_addresses_a_holder_and_further_names_of_an_edge() {
    // covers Q07
    let place = Place::new();
    let arguments = [
        "init",
        "--json",
        "--mesh",
        "home",
        "--holder",
        "b",
        "--edge-name",
        "b=wss.example.com",
        "a",
        "b=192.0.2.7:443,b.example.com:8766",
    ];
    let made = place.json(&arguments);
    assert_eq!((&made["mesh"], &made["holder"]), (&"home".into(), &"b".into()));
    assert_eq!(made["machines"][0]["dials_out_only"], true);
    assert_eq!(made["machines"][1]["listen"], "[::]:443");
    assert!(place.path("trishula-mesh/b/ca/ca.key").exists() && !place.path("trishula-mesh/a/ca").exists());
    let shown = place.json(&["cert", "show", "--json", "trishula-mesh/b/edge-identity/public.pem"]);
    let info = &shown[0];
    assert_eq!(info["role"]["edge"], "b");
    assert_eq!(info["dns"], serde_json::json!(["localhost", "b.example.com", "wss.example.com"]));
    assert_eq!(info["ips"], serde_json::json!(["127.0.0.1", "::1", "192.0.2.7"]));
    assert!(info["days_left"].as_i64().unwrap() > 390);
    for (arguments, why) in [
        (&["init", "--out", "x", "a", "a=b.example.com:1"][..], "named twice"),
        (&["init", "--out", "x", "--holder", "c", "a"], "--holder c is none of"),
        (&["init", "--out", "x", "--edge-name", "c=d.example.com", "a"], "c is none of"),
        (&["init", "--out", "x", "--mesh", "A B", "a"], "mesh name"),
    ] {
        let error = place.fails(1, arguments);
        assert!(error.contains(why), "{arguments:?}: {error}");
        assert!(!place.path("x").exists(), "{arguments:?} left something");
    }
}

#[test]
fn a_mesh_is_not_overwritten() {
    // covers Q07
    let place = Place::with_mesh();
    let before = std::fs::read(place.path("mesh/dc/ca/ca.key")).unwrap();
    let error = place.fails(1, &["init", "--loopback", "--out", "mesh"]);
    assert!(error.contains("not overwritten") && error.contains("mv "), "{error}");
    assert_eq!(std::fs::read(place.path("mesh/dc/ca/ca.key")).unwrap(), before);
}

#[test]
fn what_init_made_passes_its_own_checks_wherever_it_is_moved() {
    // covers Q06, T24
    let place = Place::with_mesh();
    std::fs::rename(place.path("mesh/agni"), place.path("elsewhere")).unwrap();
    let checked = place.json(&["check", "--json", "--config", "elsewhere/node.toml"]);
    assert_eq!(checked["ok"], true, "{checked:#}");
    let looked: Vec<&str> =
        checked["findings"].as_array().unwrap().iter().map(|f| f["what"].as_str().unwrap()).collect();
    assert!(looked.contains(&"identity") && looked.contains(&"data folder"), "{looked:?}");
    assert!(!place.path("elsewhere/data").exists(), "a check makes nothing");
    let shown = place.json(&["cert", "show", "--json", "--config", "elsewhere/node.toml"]);
    let roles: Vec<_> = shown.as_array().unwrap().iter().map(|one| one["role"].to_string()).collect();
    assert_eq!(roles, [r#"{"node":"agni"}"#, "null", r#"{"edge":"agni"}"#, r#"{"edge":"agni"}"#, "null"]);
    place.ok(&["cert", "check", "--config", "elsewhere/node.toml"]);
}

#[test]
fn machines_on_loopback_have_ports_of_their_own() {
    // covers T01
    let place = Place::new();
    let made =
        place.json(&["init", "--loopback", "--json", "--base-port", "21500", "--out", "m", "a", "b", "c=-"]);
    let mut ports = BTreeSet::new();
    for machine in made["machines"].as_array().unwrap() {
        for key in ["listen", "http", "edge_metrics"] {
            assert!(ports.insert(machine[key].to_string()), "{machine:#}");
        }
        for listen in machine["edge_listen"].as_array().unwrap() {
            assert!(ports.insert(listen.to_string()), "{machine:#}");
        }
    }
    assert_eq!(made["machines"][0]["listen"], "127.0.0.1:21500");
    assert_eq!(made["machines"][1]["edge_listen"][0], "127.0.0.1:21512");
    assert_eq!(made["machines"][0]["dials_out_only"], false);
    assert_eq!(made["machines"][2]["dials_out_only"], true);
    let c = std::fs::read_to_string(place.path("m/c/node.toml")).unwrap();
    assert!(c.contains("127.0.0.1:21500") && c.contains("127.0.0.1:21510") && c.contains("node.sock"), "{c}");
}

#[test]
fn a_token_is_printed_alone_and_says_what_was_asked_for() {
    // covers T05, B03
    use base64::Engine;
    let place = Place::with_mesh();
    let arguments = [
        "token",
        "issue",
        "planner",
        "--config",
        "mesh/dc/node.toml",
        "--ttl",
        "2h",
        "--permission",
        "admin",
        "--agents",
        "worker-*",
    ];
    let token = place.ok(&arguments);
    assert_eq!(token.lines().count(), 1);
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!((&claims["sub"], &claims["aud"]), (&"planner".into(), &"trishula".into()));
    assert_eq!(claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(), 7200);
    assert_eq!(claims["permissions"], serde_json::json!(["admin"]));
    assert_eq!(claims["agents"], serde_json::json!(["worker-*"]));
    place.write("short.secret", "changeme");
    let error = place.fails(1, &["token", "issue", "planner", "--secret-file", "short.secret"]);
    assert!(!error.contains("changeme") && error.contains("/dev/urandom"), "{error}");
}

#[test]
fn while_the_node_does_not_run_its_holder_still_invites_issues_renews_and_revokes() {
    // covers Q07, T24, B16
    let place = Place::with_mesh();
    let config = ["--config", "mesh/dc/node.toml"];
    let with = |arguments: &[&'static str]| [arguments, &config[..]].concat();
    let ticket = place.json(&with(&["invite", "laptop", "--json"]));
    assert!(ticket["ticket"].as_str().unwrap().starts_with("trishula-ticket-1:"));
    assert_eq!(ticket["addresses"].as_array().unwrap().len(), 2);
    let error = place.fails(1, &with(&["invite", "agni"]));
    assert!(error.contains("cert revoke agni"), "{error}");

    place.ok(&with(&["invite", "server", "--offline", "server", "--address", "192.0.2.9:8766"]));
    place.ok(&["cert", "check", "--identity", "server/identity"]);
    assert_eq!(mode(&place.path("server/secrets/trishula.secret")), 0o600);

    place.ok(&with(&["cert", "issue", "--agent", "build/runner", "--out", "runner"]));
    let shown = place.json(&["cert", "show", "--json", "--identity", "runner"]);
    assert_eq!(shown[0]["role"]["agent"]["name"], "runner");

    let serial = |file: &str| place.json(&["cert", "show", "--json", file])[0]["serial"].clone();
    let before = (serial("mesh/dc/identity/link.pem"), serial("mesh/dc/edge-identity/public.pem"));
    place.ok(&with(&["cert", "renew"]));
    let after = (serial("mesh/dc/identity/link.pem"), serial("mesh/dc/edge-identity/public.pem"));
    assert!(before.0 != after.0 && before.1 != after.1);
    place.ok(&with(&["check"]));

    let names = |rows: serde_json::Value| -> BTreeSet<String> {
        rows.as_array().unwrap().iter().map(|row| row["role"].to_string()).collect()
    };
    assert!(
        names(place.json(&with(&["cert", "revoke", "--list", "--json"]))).contains(r#"{"node":"server"}"#)
    );
    let revoked = place.json(&with(&["cert", "revoke", "server", "--reason", "stolen", "--json"]));
    assert_eq!((&revoked["number"], &revoked["entries"]), (&1.into(), &3.into()));
    assert!(
        !names(place.json(&with(&["cert", "revoke", "--list", "--json"]))).contains(r#"{"node":"server"}"#)
    );
    assert!(place.fails(1, &with(&["cert", "revoke", "nobody"])).contains("no certificate of \"nobody\""));
    assert!(place.fails(1, &with(&["cert", "revoke", "dc"])).contains("holds the CA"));

    let elsewhere = ["--config", "mesh/agni/node.toml"];
    for arguments in [&["cert", "revoke", "dc"][..], &["invite", "x"], &["cert", "renew"]] {
        let error = place.fails(1, &[arguments, &elsewhere].concat());
        assert!(error.contains("trishula run"), "{arguments:?}: {error}");
    }
}
