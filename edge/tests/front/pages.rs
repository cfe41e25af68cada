//! Pages and their headers, health and readiness, and who may see them.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Error as WsError;

use crate::clients::{get, plain};
use crate::support::{Machine, World, token};

#[tokio::test]
async fn pages_carry_security_headers_and_ready_says_whether_to_come() {
    // covers B10, B20, T20
    let mut world = World::start().await;
    let _dc = world.registered("dc").await;
    for path in ["/health", "/ready", "/nowhere", "/ws"] {
        let (_, head, _) = world.get(&get(path)).await;
        for header in [
            "strict-transport-security: max-age=31536000",
            "x-frame-options: deny",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{path}: {header} is missing in {head}");
        }
    }
    let (status, _, ready) = world.get(&get("/ready")).await;
    assert_eq!((status, &ready["status"]), (200, &json!("ready")));
    for key in ["status", "server", "timestamp", "uptime", "connected_agents"] {
        assert!(!ready[key].is_null(), "{key}: {ready}");
    }
    assert_eq!(ready["checks"]["redis"], "disabled");
    assert_eq!(ready["checks"]["metrics"], "passing");
    // As HAProxy asks, and as `curl -I` does.
    for request in
        ["GET /health HTTP/1.0\r\n\r\n", "HEAD /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"]
    {
        let (status, head, _) = world.get(request).await;
        assert_eq!(status, 200, "{head}");
    }
    world.disconnect(1).await;
    let (status, _, ready) = world.get(&get("/ready")).await;
    assert_eq!(
        (status, &ready["status"], &ready["checks"]["node"]),
        (503, &json!("unready"), &json!("failing"))
    );
}

#[tokio::test]
async fn health_is_told_over_a_websocket_too() {
    // covers T20
    let world = World::start().await;
    let (mut client, _) = world.upgrade("/health", &[]).await.unwrap();
    let health = client.hear().await;
    assert_eq!(health["status"], "healthy");
    for key in ["timestamp", "connected_agents", "uptime"] {
        assert!(!health[key].is_null(), "{health}");
    }
    assert_eq!(client.closed().await.0, 1000);
}

#[tokio::test]
async fn this_machine_asks_for_health_without_tls_and_for_nothing_else() {
    // covers B10, B20
    let world = World::start().await;
    // What the check scripts of old send: curl, and HAProxy's httpchk.
    let curl = "GET /health HTTP/1.1\r\nHost: localhost:8765\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nConnection: close\r\n\r\n";
    for request in [curl, "GET /health HTTP/1.0\r\n\r\n"] {
        let answer = plain(world.address(), request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 ") && !head.to_ascii_lowercase().contains("strict-transport"), "{head}");
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!(body["status"], "healthy");
    }
    let upgrade = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert!(plain(world.address(), upgrade).await.starts_with("HTTP/1.1 403 "));
    assert!(plain(world.address(), &get("/metrics")).await.starts_with("HTTP/1.1 403 "));
    let silent = World::start_with("http = { plain_health = false }").await;
    assert!(!plain(silent.address(), curl).await.contains("healthy"));
    // TLS goes on beside it.
    assert_eq!(silent.get(&get("/health")).await.0, 200);
}

#[tokio::test]
async fn pages_of_other_origins_may_not_connect() {
    // covers B10, B17
    let world = World::start_with("http = { origins = [\"https://*.example.com\"] }").await;
    let bearer = format!("Bearer {}", token("dc"));
    let with = |origin: &'static str| [("authorization", bearer.as_str()), ("origin", origin)];
    assert!(world.upgrade("/ws", &with("https://app.example.com")).await.is_ok());
    assert!(world.upgrade("/ws", &[("authorization", &bearer)]).await.is_ok(), "no browser");
    let Err(WsError::Http(answer)) = world.upgrade("/ws", &with("https://evil.example.net")).await else {
        panic!("not refused")
    };
    assert_eq!(answer.status(), 403);
    let metrics = plain(world.edge.metrics_address().unwrap(), &get("/metrics")).await;
    let counted =
        metrics.lines().find_map(|l| l.strip_prefix("trishula_edge_refused_total{reason=\"origin\"} "));
    assert_eq!(counted, Some("1"), "{metrics}");
}

#[tokio::test]
async fn metrics_only_for_whom_the_operator_lets_in() {
    // covers B18
    let machine = Machine::new();
    machine.configure("");
    let text = std::fs::read_to_string(machine.path()).unwrap();
    let text = text.replace("[metrics]\n", "[metrics]\nallow = [\"192.0.2.0/24\"]\n");
    std::fs::write(machine.path(), text).unwrap();
    let world = World::start_loaded(machine);
    assert_eq!(plain(world.edge.metrics_address().unwrap(), &get("/metrics")).await, "");
    let open = World::start_alone("");
    let address = open.edge.metrics_address().unwrap();
    assert!(
        plain(address, &get("/metrics")).await.contains("trishula_edge_refused_total{reason=\"address\"}")
    );
    // Only the command reloads, and a page in a browser can't send its header.
    assert!(plain(address, &get("/reload")).await.contains(" 405 "));
    let post = "POST /reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(plain(address, post).await.contains(" 405 "));
}
