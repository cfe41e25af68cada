//! The environment files of the older servers, as they were: the edge starts with each of them, and serves old clients.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::{Old, SOON, Site, Stage, run, signed};

/// The presets of all.
const SEVEN: [&str; 7] =
    ["session-buddy", "mahavishnu", "crackerjack", "akosha", "dhruva", "excalidraw-mcp", "fastblocks"];

/// A file of `edge/tests/old_env`. What is changed of it must be there: the file that is tested is the old one.
fn environment(name: &str, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("edge/tests/old_env").join(name);
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('='));
    let mut variables: Vec<(String, String)> =
        lines.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (changed, value) in changes {
        let variable = variables.iter_mut().find(|(variable, _)| variable == changed);
        variable.unwrap_or_else(|| panic!("{name} has no {changed}")).1 = (*value).to_owned();
    }
    variables
}

/// Starts the node, and the edge with these variables.
fn start(stage: &mut Stage, variables: &[(String, String)]) {
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let machine = stage.machine("agni");
    machine.start_node();
    machine.start_edge_in(&variables);
    stage.mesh.wait_whole();
}

/// A token of a service, signed with this secret.
fn token_of(secret: &str, user: &str, permissions: &[&str]) -> String {
    let exp = trishula::rt::clock::wall_ms() / 1000 + 600;
    signed(secret, &json!({"user_id": user, "permissions": permissions, "exp": exp}))
}

/// The agent of the service, with a token of this secret.
async fn feeding(site: &Site, secret: &str) -> Old {
    let bearer = format!("Bearer {}", token_of(secret, "service", &[]));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let mut service = site.try_connect(&headers).await.expect("the edge takes the service");
    service.say(json!({"type": "REGISTER", "id": "register"})).await;
    assert_eq!(service.hear().await["type"], "REGISTERED");
    service
}

/// What the service publishes in a room, once somebody is in it, and what the client gets.
async fn fed(service: &mut Old, client: &mut Old, room: &str, event: &str, data: &Value) -> Value {
    let began = Instant::now();
    loop {
        service.say(json!({"type": "PRESENCE", "to": format!("room:{room}"), "id": "members"})).await;
        let told = service.next("PRESENCE").await;
        if told["payload"]["members"].as_array().is_some_and(|members| !members.is_empty()) {
            break;
        }
        assert!(began.elapsed() < SOON, "nobody is in {room}: {told}");
    }
    let payload = json!({"event": event, "data": data});
    service.say(json!({"type": "PUBLISH", "to": format!("room:{room}"), "payload": payload})).await;
    client.hear().await
}

// covers B01, B02, B05
#[test]
fn where_the_old_file_says_that_nobody_needs_a_token_everybody_is_served_and_the_log_warns() {
    let mut stage = Stage::prepare(&["agni"], &SEVEN, "");
    start(&mut stage, &environment("open.env", &[]));
    let sites = SEVEN.map(|service| stage.site("agni", service));
    run(async {
        for site in &sites {
            let mut client = site.connect().await;
            let greeting = client.hear().await;
            let room = if site.service == "session-buddy" {
                assert_eq!(greeting["type"], "connected", "{greeting}");
                "metrics"
            } else {
                assert_eq!(greeting["event"], "session.created", "{}: {greeting}", site.service);
                assert_eq!(greeting["data"]["authenticated"], false, "{greeting}");
                // No table of a service opens it but to admins.
                client.must_subscribe("global").await;
                "global"
            };
            let mut service = feeding(site, &super::secret(site.service)).await;
            let data = json!({"top_skills": [], "anomalies": []});
            let event = fed(&mut service, &mut client, room, "metrics_update", &data).await;
            assert_eq!(event["data"], data, "{}: {event}", site.service);
        }
    });
    let log = stage.mesh.machines[0].edge.as_ref().unwrap().log();
    for service in SEVEN {
        let says = format!("service {service}: nobody needs a token, and everybody may do everything");
        let warned = log.lines().any(|line| line.contains("WARN") && line.contains(&says));
        assert!(warned, "{says}: {log}");
    }
}
