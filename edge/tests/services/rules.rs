//! Who may do what: the presets' rules, the operator's, and those between services.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::serving::*;
use crate::support::*;

#[tokio::test]
async fn the_operators_rules_stand_over_the_presets() {
    // covers B05
    let rules = "[[service.room]]\npattern = \"pool:*\"\nread = [\"pools\"]\n\
                 [[service.room]]\npattern = \"workflow:w1\"\nadmin_only = true\n";
    let world = serving(&preset("mahavishnu", rules)).await;
    let denied = async |permissions: &[&str], channel: &str| {
        let mut client = greeted(&world, permissions).await;
        subscribe(&mut client, channel).await["error_code"] == "FORBIDDEN"
    };
    assert!(denied(&["pool:read"], "pool:p1").await && !denied(&["pools"], "pool:p1").await);
    assert!(
        !denied(&["workflow:read"], "workflow:w2").await && denied(&["workflow:read"], "workflow:w1").await
    );
    assert!(!denied(&["admin"], "workflow:w1").await && denied(&["read"], "admin:controls").await);
}

#[tokio::test]
async fn any_service_may_have_requests_and_the_operator_says_whose_they_are() {
    // covers B01, B05, B06
    let own = "[[service]]\nname = \"planner\"\ndialect = \"mcp\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
               [[service.request]]\nevent = \"get_plan\"\nneeds = [\"plan_id\"]\npermissions = [\"plan:read\"]\n";
    let preset = preset(
        "mahavishnu",
        "[[service.request]]\nevent = \"get_pool_status\"\npermissions = [\"pool:read\"]\n",
    );
    for (services, event, permission, unknown) in [
        (own, "get_plan", "plan:read", "get_pool_status"),
        (preset.as_str(), "get_pool_status", "pool:read", "get_plan"),
    ] {
        let world = serving(services).await;
        let ask = async |permissions: &[&str], event: &str, data: Value| {
            let mut client = greeted(&world, permissions).await;
            client.say(json!({"type": "request", "event": event, "data": data, "id": "q"})).await;
            client
        };
        let plan = json!({"plan_id": "p1"});
        let error = async |permissions: &[&str], event: &str, data: Value| {
            ask(permissions, event, data).await.hear().await["error_code"].clone()
        };
        assert_eq!(
            error(&["admin"], event, plan.clone()).await,
            "FORBIDDEN",
            "what opens rooms is no answer"
        );
        assert_eq!(error(&[permission], unknown, plan.clone()).await, "UNKNOWN_REQUEST");
        assert_eq!(
            error(&[permission], event, plan.clone()).await,
            "SERVER_ERROR",
            "nobody is there to answer"
        );
        if event == "get_plan" {
            assert_eq!(error(&[permission], event, json!({})).await, "REQUEST_ERROR");
        } else {
            assert_eq!(
                error(&[permission], "get_workflow_status", json!({})).await,
                "REQUEST_ERROR",
                "the preset's"
            );
        }
        let bearer = format!("Bearer {}", signed(SECRET, claims("service", &[])));
        let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
        let mut service = connect(&world, world.address(), "localhost", &headers).await.unwrap();
        service.say(json!({"type": "REGISTER"})).await;
        assert_eq!(service.hear().await["type"], "REGISTERED");
        let mut client = ask(&[permission], event, plan).await;
        let asked = service.hear().await;
        assert_eq!(asked["payload"]["event"], event, "{asked}");
        let answer = json!({"data": {"steps": 3}});
        service
            .say(json!({"type": "RESULT", "to": asked["from"], "reply_to": asked["id"], "payload": answer}))
            .await;
        assert_eq!(client.hear().await["data"], json!({"steps": 3}));
    }
}

#[tokio::test]
async fn without_a_token_all_is_allowed_as_it_was_unless_the_operator_says_otherwise() {
    // covers B02, B05
    let open = "require_auth = false";
    let nothing = "require_auth = false\nanonymous_permissions = []";
    let some = "require_auth = false\nanonymous_permissions = [\"pool:read\"]";
    for (more, pools, all) in [(open, true, true), (nothing, false, false), (some, true, false)] {
        let world = serving(&preset("mahavishnu", more)).await;
        let mut client = old(&world).await;
        let greeting = client.hear().await;
        assert_eq!(greeting["data"]["authenticated"], false, "{greeting}");
        assert_eq!(subscribe(&mut client, "pool:p1").await["error_code"] != "FORBIDDEN", pools, "{more}");
        assert_eq!(subscribe(&mut client, "global").await["error_code"] != "FORBIDDEN", all, "{more}");
        // Who shows a token has its permissions, and what all may do.
        let mut known = greeted(&world, &["worker:read"]).await;
        assert_eq!(subscribe(&mut known, "worker:w1").await["error_code"], Value::Null, "{more}");
        assert_eq!(subscribe(&mut known, "global").await["error_code"] != "FORBIDDEN", all, "{more}");
    }
    let own = "[[service]]\nname = \"own\"\ndialect = \"mcp\"\nroom = []\nlisten = [\"127.0.0.1:0\"]\nauth = false\n";
    let world = serving(own).await;
    let mut client = old(&world).await;
    client.hear().await;
    assert_eq!(
        subscribe(&mut client, "pool:p1").await["error_code"],
        "FORBIDDEN",
        "no preset, no permission"
    );
}

/// What a client of our protocol is answered that wants to be this agent; with a token of this user, if it has one.
async fn becomes(world: &World, user: Option<&str>, agent: &str) -> Value {
    let bearer = user.map(|user| format!("Bearer {}", signed(SECRET, claims(user, &[]))));
    let mut headers = vec![("sec-websocket-protocol", "trishula.v2+json")];
    headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
    let mut client = connect(world, world.address(), "localhost", &headers).await.unwrap();
    client.say(json!({"type": "REGISTER", "id": "r", "payload": {"agent": agent}})).await;
    let answer = client.hear().await;
    if answer["type"] == "REGISTERED" {
        answer["payload"]["agent"].clone()
    } else {
        answer["payload"]["code"].clone()
    }
}

#[tokio::test]
async fn nobody_is_the_service_without_a_token() {
    // covers B05, B27 04
    let narrow = preset("akosha", "auth = false\nanonymous_permissions = [\"akosha:read\"]");
    let open = preset("mahavishnu", "auth = false");
    let buddy = preset("session-buddy", "auth = false");
    for services in [&narrow, &open, &buddy] {
        let world = serving(services).await;
        for agent in ["service", "u1", "u1.5f0c2a91", "anonymous", "anonymous.service", "anonymous.5f0c2a911"]
        {
            assert_eq!(becomes(&world, None, agent).await, "forbidden", "{agent}");
        }
        assert_eq!(becomes(&world, None, "anonymous.5f0c2a91").await, "anonymous.5f0c2a91");
        assert_eq!(becomes(&world, Some("service"), "service").await, "service");
        let mut old = old(&world).await;
        assert_ne!(old.hear().await["data"]["authenticated"], true);
    }
    // One of several dialects: the relay's clients say who they are.
    let several = narrow.replace("preset = \"akosha\"", "preset = \"akosha\"\ndialect = \"auto\"");
    let world = serving(&several).await;
    assert_eq!(becomes(&world, None, "service").await, "forbidden");
    assert_eq!(becomes(&world, None, "mac").await, "mac");
    // Where no token is read and all is open there is nothing to be protected.
    let bare = "[[service]]\nname = \"own\"\ndialect = \"mcp\"\nlisten = [\"127.0.0.1:0\"]\nauth = false\n";
    let world = serving(&format!("{bare}anonymous_permissions = [\"*\"]\n")).await;
    assert_eq!(becomes(&world, None, "service").await, "service");
    let world = serving(&format!("{bare}anonymous_permissions = [\"own:read\"]\n")).await;
    assert_eq!(becomes(&world, None, "service").await, "forbidden");
}

#[tokio::test]
async fn no_user_has_a_name_below_anothers() {
    // covers B03, B05
    let world = serving(&preset("mahavishnu", "")).await;
    for other in ["john.doe", "john.doe.3b312198", "john.1", "john.3B312198"] {
        assert_eq!(becomes(&world, Some("john"), other).await, "forbidden", "{other}");
    }
    assert_eq!(becomes(&world, Some("john"), "john.3b312198").await, "john.3b312198");
    assert_eq!(becomes(&world, Some("john.doe"), "john.doe").await, "forbidden");
    let named = "john-doe-30f69670bba25e88";
    assert_eq!(becomes(&world, Some("john.doe"), named).await, named);
}

#[tokio::test]
async fn an_agent_of_another_service_comes_in_only_where_a_rule_lets_it() {
    // covers B15, B27 13
    let services = |rule: &str| {
        let akosha =
            "[[service]]\npreset = \"akosha\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"other\"\n";
        preset("crackerjack", "") + akosha + rule
    };
    let foreign = |permissions: &[&str]| signed(OTHER, claims("indexer", permissions));
    let answer = async |world: &World, token: &str| {
        let mut client = old(world).await;
        client.say(auth(token)).await;
        (client.hear().await, client)
    };
    let walls = serving(&services("")).await;
    assert_eq!(answer(&walls, &foreign(&["service:communicate"])).await.0["error_code"], "AUTH_FAILED");

    let rule = "[[rule]]\nfrom = \"akosha\"\nto = \"crackerjack\"\npermissions = [\"service:communicate\"]\n\
                grants = [\"crackerjack:read\"]\n";
    let world = serving(&services(rule)).await;
    assert_eq!(answer(&world, &foreign(&["akosha:read"])).await.0["error_code"], "AUTH_FAILED");
    let (said, mut guest) = answer(&world, &foreign(&["service:communicate", "admin"])).await;
    assert_eq!(said["data"]["user_id"], "akosha.indexer", "{said}");
    assert_eq!(guest.hear().await["event"], "session.created");
    assert_ne!(subscribe(&mut guest, "test:r1").await["error_code"], "FORBIDDEN", "the rule grants it");
    assert_eq!(
        subscribe(&mut guest, "global").await["error_code"],
        "FORBIDDEN",
        "admin there is nothing here"
    );
    // The other way there is no rule.
    let mut wrong = connect(&world, world.edge.addresses()[1], "localhost", &[]).await.unwrap();
    wrong.say(auth(&signed(SECRET, claims("u1", &["service:communicate"])))).await;
    assert_eq!(wrong.hear().await["error_code"], "AUTH_FAILED");

    // The service here answers it, as it does its own clients.
    let bearer = format!("Bearer {}", signed(SECRET, claims("service", &[])));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let mut service = connect(&world, world.address(), "localhost", &headers).await.unwrap();
    service.say(json!({"type": "REGISTER"})).await;
    assert_eq!(service.hear().await["type"], "REGISTERED");
    guest
        .say(json!({"type": "request", "event": "get_test_status", "data": {"run_id": "r"}, "id": "q"}))
        .await;
    let asked = service.hear().await;
    assert!(asked["from"].as_str().unwrap().starts_with("akosha.indexer."), "{asked}");
    service
        .say(json!({"type": "RESULT", "to": asked["from"], "reply_to": asked["id"], "payload": {"data": {"run_id": "r"}}}))
        .await;
    assert_eq!(guest.hear().await["data"], json!({"run_id": "r"}));
}

#[tokio::test]
async fn a_token_may_call_its_user_as_people_are_called() {
    // covers B03, B05
    let world = serving(&preset("mahavishnu", "")).await;
    let token = |user: &str| auth(&signed(SECRET, claims(user, &["workflow:read"])));
    let mut clients = Vec::new();
    for user in ["alice@example.com", "alice@example.com", "Alice Example"] {
        let mut client = old(&world).await;
        client.say(token(user)).await;
        let answer = client.hear().await;
        assert_eq!(answer["data"], json!({"status": "authenticated", "user_id": user}), "{answer}");
        assert_eq!(client.hear().await["event"], "session.created");
        assert_eq!(subscribe(&mut client, "workflow:a plan (2026)").await["status"], "subscribed");
        clients.push(client);
    }
    let refreshed = json!({"type": "request", "event": "refresh_token", "id": "r",
        "data": {"token": signed(SECRET, claims("alice@example.com", &["workflow:read"]))}});
    clients[0].say(refreshed).await;
    assert_eq!(
        clients[0].hear().await["data"],
        json!({"status": "refreshed", "user_id": "alice@example.com"})
    );
    // Two of one user, and one of another whose name looks alike: agents of their own each.
    let bearer = format!("Bearer {}", signed(SECRET, claims("service", &[])));
    let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
    let mut service = connect(&world, world.address(), "localhost", &headers).await.unwrap();
    service.say(json!({"type": "REGISTER"})).await;
    assert_eq!(service.hear().await["type"], "REGISTERED");
    let (mut agents, mut users) = (BTreeSet::new(), BTreeSet::new());
    for client in &mut clients {
        client
            .say(json!({"type": "request", "event": "get_pool_status", "data": {"pool_id": "p"}, "id": "q"}))
            .await;
        let from = service.hear().await["from"].as_str().unwrap().to_owned();
        users.insert(from.rsplit_once('.').unwrap().0.to_owned());
        agents.insert(from);
    }
    assert_eq!((agents.len(), users.len()), (3, 2), "{agents:?}");
    assert!(users.contains("alice-example-com-ff8d9819fc0e12bf"), "{users:?}");
}

#[tokio::test]
async fn our_own_clients_have_the_rules_of_their_service_as_well() {
    // covers B05
    let world = serving(&preset("mahavishnu", "")).await;
    let refused = async |user: &str, permissions: &[&str], frame: Value| {
        let bearer = format!("Bearer {}", signed(SECRET, claims(user, permissions)));
        let headers = [("authorization", bearer.as_str()), ("sec-websocket-protocol", "trishula.v2+json")];
        let mut client = connect(&world, world.address(), "localhost", &headers).await.unwrap();
        client.say(json!({"type": "REGISTER"})).await;
        assert_eq!(client.hear().await["type"], "REGISTERED");
        client.say(frame).await;
        client.say(json!({"type": "HEARTBEAT"})).await;
        client.hear().await["payload"]["code"] == "forbidden"
    };
    let subscribe = |room: &str| json!({"type": "SUBSCRIBE", "to": format!("room:{room}"), "id": "s"});
    let publish =
        |room: &str| json!({"type": "PUBLISH", "to": format!("room:{room}"), "payload": 1, "id": "p"});
    assert!(refused("a", &["workflow:read"], subscribe("pool:p1")).await);
    assert!(!refused("b", &["pool:read"], subscribe("pool:p1")).await);
    assert!(refused("c", &["pool:read"], publish("pool:p1")).await, "clients only read");
    assert!(refused("d", &[], json!({"type": "HISTORY", "to": "room:pool:p1"})).await);
    assert!(refused("e", &[], json!({"type": "PRESENCE", "to": "room:global"})).await);
    assert!(!refused("f", &["admin"], publish("global")).await);
    assert!(!refused("service", &[], publish("pool:p1")).await, "the service feeds its rooms");
}
