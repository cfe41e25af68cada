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

fn value<'a>(variables: &'a [(String, String)], name: &str) -> &'a str {
    &variables.iter().find(|(variable, _)| variable == name).unwrap().1
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

/// Where the public certificate of a machine is, and its key.
fn certificate(stage: &Stage) -> [String; 2] {
    let folder = stage.mesh.machines[0].folder.join("edge-identity");
    ["public.pem", "public.key"].map(|file| folder.join(file).display().to_string())
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

/// Shows a client's token as its service has it, and waits for the greeting.
async fn log_in(site: &Site, client: &mut Old, token: &str) {
    if site.service != "session-buddy" {
        return client.log_in(token).await;
    }
    client.say(json!({"token": token})).await;
    let greeting = client.hear().await;
    assert_eq!(
        (&greeting["type"], &greeting["authenticated"]),
        (&json!("connected"), &json!(true)),
        "{greeting}"
    );
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

// covers B02, B03, B16
#[test]
fn the_old_production_file_starts_the_edge_and_its_secret_signs_tokens() {
    let mut stage = Stage::prepare(&["agni"], &["mahavishnu"], "");
    let port = stage.port("agni", "mahavishnu").to_string();
    let [public, key] = certificate(&stage);
    let secret = "what an operator put in place of the placeholder";
    let variables = environment(
        "mahavishnu.env",
        &[
            ("MAHAVISHNU_HOST", "127.0.0.1"),
            ("MAHAVISHNU_PORT", &port),
            ("MAHAVISHNU_CERT_FILE", &public),
            ("MAHAVISHNU_KEY_FILE", &key),
            ("MAHAVISHNU_JWT_SECRET", secret),
        ],
    );
    start(&mut stage, &variables);
    let site = stage.site("agni", "mahavishnu");
    run(async {
        let mut client = site.connect().await;
        client.log_in(&token_of(secret, "u1", &["pool:read"])).await;
        client.must_subscribe("pool:p1").await;
        let mut service = feeding(&site, secret).await;
        let data = json!({"worker_count": 3});
        let event = fed(&mut service, &mut client, "pool:p1", "pool.scaled", &data).await;
        assert_eq!((&event["event"], &event["data"]), (&json!("pool.scaled"), &data));
        // The secret of the file with the services is not asked any more, and a token is good for the hour that it says.
        let now = trishula::rt::clock::wall_ms() / 1000;
        let old = json!({"user_id": "u1", "permissions": [], "iat": now - 3700, "exp": now + 600});
        for bad in [token_of(&super::secret("mahavishnu"), "u1", &[]), signed(secret, &old)] {
            let mut client = site.connect().await;
            let answer = client.ask("auth", json!({"token": bad})).await;
            assert_eq!(answer["error_code"], "AUTH_FAILED", "{answer}");
        }
    });
    let log = stage.mesh.machines[0].edge.as_ref().unwrap().log();
    assert!(!log.contains(secret), "a secret is never shown: {log}");
    assert!(log.lines().all(|line| line.starts_with('{')), "MAHAVISHNU_LOG_FORMAT=json: {log}");
    assert!(!log.contains("everybody may do everything"), "{log}");
}

// covers B01, B02, B03
#[test]
fn the_old_file_of_all_services_starts_the_edge_and_each_secret_is_its_services_own() {
    let mut stage = Stage::prepare(&["agni"], &SEVEN, "");
    let [public, key] = certificate(&stage);
    let changes = [("MAHAVISHNU_CERT_FILE", public.as_str()), ("MAHAVISHNU_KEY_FILE", key.as_str())];
    let variables = environment("services.env", &changes);
    start(&mut stage, &variables);
    let sites = SEVEN.map(|service| stage.site("agni", service));
    let secret = |service: &str| {
        let name = service.trim_end_matches("-mcp").to_uppercase().replace('-', "_");
        value(&variables, &format!("{name}_JWT_SECRET"))
    };
    run(async {
        for (n, site) in sites.iter().enumerate() {
            let own = secret(site.service);
            let mut client = site.connect().await;
            log_in(site, &mut client, &token_of(own, "u1", &["admin"])).await;
            let mut stranger = site.connect().await;
            let other = token_of(secret(SEVEN[(n + 1) % SEVEN.len()]), "u1", &["admin"]);
            if site.service == "session-buddy" {
                stranger.say(json!({"token": other})).await;
                assert_eq!(stranger.closed().await, 4001);
            } else {
                let answer = stranger.ask("auth", json!({"token": other})).await;
                assert_eq!(answer["error_code"], "AUTH_FAILED", "{}: {answer}", site.service);
            }
        }
    });
}
