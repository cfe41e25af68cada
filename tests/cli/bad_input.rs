//! The table of bad input, as far as the command line meets it: each says what, where, and what to do.

use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::Place;

const AGNI: &str = "mesh/agni/node.toml";

#[test]
fn an_unknown_key_has_its_place_and_the_key_that_was_meant() {
    // covers Q07
    let place = Place::with_mesh();
    place.replace(AGNI, "listen = ", "lisen = ");
    for command in ["check", "run", "status"] {
        let error = place.fails(64, &[command, "--config", AGNI]);
        assert!(
            error.contains("node.toml:")
                && error.contains("unknown key mesh.lisen (did you mean \"listen\"?)"),
            "{error}"
        );
    }
}

#[test]
fn a_bad_value_has_its_place_and_what_is_allowed() {
    // covers Q07, B19
    let place = Place::with_mesh();
    place.replace(AGNI, "level = \"info\"", "level = \"loud\"");
    let error = place.fails(64, &["check", "--config", AGNI]);
    assert!(error.contains("log.level: \"loud\" is not a log level; allowed are"), "{error}");

    let place = Place::with_mesh();
    place.replace(AGNI, "[log]", "[limits]\nmailbox_messages = 5\n\n[log]");
    let error = place.fails(64, &["check", "--config", AGNI]);
    let said = "limits.mailbox_messages: 5 is not from 10 to 1000000; give a whole number between";
    assert!(error.contains("node.toml:") && error.contains(said), "{error}");
}

#[test]
fn a_bad_variable_is_named() {
    // covers Q07, T21
    let place = Place::with_mesh();
    let with = |name: &str, value: &str| {
        let output = place.command(&["check", "--config", AGNI]).env(name, value).output().unwrap();
        super::fails(64, &output)
    };
    assert!(with("TRISHULA_MESH_LISTN", "x").contains("TRISHULA_MESH_LISTN"));
    assert!(with("TRISHULA_LOG_LEVEL", "loud").contains("TRISHULA_LOG_LEVEL"));
    let fine =
        place.command(&["check", "--config", AGNI]).env("TRISHULA_LOG_LEVEL", "debug").output().unwrap();
    assert!(fine.status.success());
}

#[test]
fn ways_through_edges_that_lead_nowhere_are_found_before_they_are_needed() {
    // covers Q01, Q06
    let place = Place::with_mesh();
    let check =
        |proxy: &str| place.command(&["check", "--config", AGNI]).env("HTTPS_PROXY", proxy).output().unwrap();
    assert!(check("http://192.0.2.1:3128").status.success());
    let said = String::from_utf8(check("socks5://192.0.2.1:1080").stdout).unwrap();
    assert!(said.contains("FAULT") && said.contains("HTTPS_PROXY is not a proxy's address"), "{said}");
    place.replace(AGNI, "[mesh]\n", "[mesh]\nfallback_ca = \"nowhere.pem\"\n");
    let said = finding(&place, "fallback");
    assert!(said["found"].as_str().unwrap().contains("[mesh] fallback_ca"), "{said}");
    place.replace(AGNI, "fallback_ca = \"nowhere.pem\"", "advertise_fallback = [\"agni.example.com:443\"]");
    let error = place.fails(64, &["check", "--config", AGNI]);
    assert!(error.contains("write wss://HOST:PORT/mesh"), "{error}");
}

#[test]
fn a_configuration_that_is_not_there_says_how_to_get_one() {
    // covers Q07
    let place = Place::new();
    for command in ["check", "run", "status"] {
        let error = place.fails(64, &[command, "--config", "nowhere.toml"]);
        assert!(error.contains("nowhere.toml") && error.contains("trishula init"), "{error}");
    }
}

#[test]
fn a_key_of_another_certificate_is_named() {
    // covers Q07, T24
    let place = Place::with_mesh();
    std::fs::copy(place.path("mesh/dc/identity/link.key"), place.path("mesh/agni/identity/link.key"))
        .unwrap();
    let found = place.run(&["check", "--config", AGNI]);
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains("link.key does not belong to"), "{said}");
    let checked = place.run(&["cert", "check", "--config", AGNI]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(place.fails(1, &["run", "--config", AGNI]).contains("link.key does not belong to"));
}

#[test]
fn another_machines_identity_is_noticed() {
    // covers T24
    let place = Place::with_mesh();
    place.replace(AGNI, "dir = \"identity\"", "dir = \"../dc/identity\"");
    let said = finding(&place, "identity");
    assert!(said["found"].as_str().unwrap().contains("node dc, but [node] name is agni"), "{said}");
}

#[test]
fn a_port_in_use_is_noticed_with_how_to_find_who_has_it() {
    // covers Q06
    let place = Place::with_mesh();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = std::fs::read_to_string(place.path(AGNI)).unwrap();
    let listen = text.lines().find(|line| line.starts_with("listen = ")).unwrap();
    place.replace(AGNI, listen, &format!("listen = \"{address}\""));
    let said = finding(&place, &format!("UDP {address}"));
    assert!(
        said["mend"].as_str().unwrap().contains(&format!("ss -ulpn 'sport = :{}'", address.port())),
        "{said}"
    );
    let error = place.fails(1, &["run", "--config", AGNI]);
    assert!(error.contains(&address.to_string()), "{error}");
}

#[test]
fn a_data_folder_that_cannot_be_written_is_noticed() {
    // covers Q06
    let place = Place::with_mesh();
    // Also root cannot write into a file as if it were a folder.
    place.write("mesh/agni/data", "");
    let said = finding(&place, "data folder");
    assert!(
        said["found"].as_str().unwrap().contains("is not writable") && said["mend"].is_string(),
        "{said}"
    );
    let error = place.fails(1, &["run", "--config", AGNI]);
    assert!(error.contains("data"), "{error}");
}

#[test]
fn a_secret_that_others_may_read_is_noticed_with_the_command_that_mends_it() {
    // covers B16
    let place = Place::with_mesh();
    let secret = place.path("mesh/agni/secrets/trishula.secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let said = finding(&place, "secret mesh/agni/secrets/trishula.secret");
    assert_eq!(said["mend"], "chmod 600 mesh/agni/secrets/trishula.secret");
    let key = place.path("mesh/agni/identity/link.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
    let said = finding(&place, "identity");
    assert!(said["found"].as_str().unwrap().contains("chmod 600"), "{said}");
}

#[test]
fn a_name_that_is_no_name_is_wrong_usage() {
    // covers B19
    let place = Place::with_mesh();
    for arguments in [
        &["init", "Not A Name"][..],
        &["invite", "UP"],
        &["token", "issue", "broadcast"],
        &["status", "--node", "a_b"],
    ] {
        let error = place.fails(2, arguments);
        assert!(error.contains("is not a") && error.contains("letters"), "{arguments:?}: {error}");
    }
    let error = place.fails(2, &["init", "agni=nowhere"]);
    assert!(error.contains("HOST:PORT"), "{error}");
}

#[test]
fn a_state_that_a_message_never_reaches_is_wrong_usage() {
    // covers T07
    let place = Place::with_mesh();
    for (arguments, instead) in [
        (&["broadcast", "x", "--wait", "delivered"][..], "--wait accepted"),
        (&["akosha/broadcast", "x", "--wait", "acked"], "--wait accepted"),
        (&["broadcast", "x", "--class", "live", "--wait", "accepted"], "--wait none"),
        (&["agni", "x", "--class", "live", "--wait", "stored"], "--wait delivered"),
        (&["agni", "x", "--type", "HEARTBEAT", "--wait", "acked"], "--class durable"),
        (&["agni", "x", "--copies", "3"], "1..=2"),
    ] {
        let error = place.fails(2, &[&["send"], arguments, &["--config", AGNI]].concat());
        assert!(error.contains(instead), "{arguments:?}: {error}");
    }
}

#[test]
fn a_bad_ticket_says_what_is_wrong_with_it() {
    // covers Q07
    let place = Place::with_mesh();
    let made = place.json(&["invite", "laptop", "--json", "--config", "mesh/dc/node.toml"]);
    let ticket = made["ticket"].as_str().unwrap();
    let cut = &ticket[..ticket.len() - 3];
    for (text, why) in
        [("hello", "not a ticket"), (cut, "damaged"), ("trishula-ticket-9:AAAA", "update trishula")]
    {
        let error = place.fails(1, &["join", text, "--out", "laptop"]);
        assert!(error.contains(why), "{text}: {error}");
        assert!(!place.path("laptop").exists());
    }
}

#[test]
fn a_mesh_that_does_not_answer_is_said_for_each_address_and_the_keys_are_kept() {
    // covers Q07
    let place = Place::with_mesh();
    // Bound, and silent: nothing answers QUIC there.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let made =
        place.json(&["invite", "laptop", "--json", "--address", &address, "--config", "mesh/dc/node.toml"]);
    let join = ["join", made["ticket"].as_str().unwrap(), "--out", "laptop", "--loopback"];
    let error = place.fails(1, &join);
    assert!(error.contains(&address) && error.contains("UDP") && error.contains("--address"), "{error}");
    assert!(!place.path("laptop/node.toml").exists() && place.path("laptop/identity").exists());
}

#[test]
fn a_node_that_does_not_run_is_said_with_how_to_start_it() {
    // covers Q08
    let place = Place::with_mesh();
    for arguments in [&["status"][..], &["agents"], &["ping", "agni"], &["send", "agni", "x"]] {
        let error = place.fails(1, &[arguments, &["--config", AGNI]].concat());
        assert!(error.contains("trishula run") && error.contains("node.sock"), "{arguments:?}: {error}");
    }
}

fn finding(place: &Place, what: &str) -> serde_json::Value {
    let output = place.run(&["check", "--json", "--config", AGNI]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let found = said["findings"].as_array().unwrap().iter().find(|finding| {
        finding["what"].as_str().is_some_and(|name| name == what || Path::new(name).ends_with(what))
    });
    let found = found.unwrap_or_else(|| panic!("nothing about {what}: {said:#}"));
    assert_eq!(found["level"], "fault");
    found.clone()
}

#[test]
fn a_log_that_can_not_be_written_is_found_and_stops_the_start() {
    // covers B29
    let place = Place::with_mesh();
    place.replace(AGNI, "[log]", "[log]\nfile = \"nowhere/node.log\"");
    let says = ["[log] file: ", "nowhere/node.log cannot be written", "sudo install -d -o trishula"];
    let error = place.fails(64, &["run", "--config", AGNI]);
    let found = place.run(&["check", "--config", AGNI]);
    assert_eq!(found.status.code(), Some(1));
    let found = String::from_utf8(found.stdout).unwrap();
    for word in says {
        assert!(error.contains(word) && found.contains(word), "{word}: {error}\n{found}");
    }
}
