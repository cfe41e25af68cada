//! The way of a message that went wrong twice: sent again, and handed over again.

use serde_json::{Value, json};

use super::{accepted, command, goes_away, manual, run, told};
use crate::harness::{Machine, Mesh, until};
use crate::records::in_a_row;
use crate::wss::Door;

/// A link is given up after three of these: long enough that a message leaves for a relay that has just stopped.
const HEARTBEAT: [(&str, &str); 1] = [("TRISHULA_MESH_HEARTBEAT_MS", "1000")];

/// The message `c-1` from agni's edge to rushabdev's: its relay stands still when it leaves, and its recipient's connection
/// breaks when it has come.
async fn relayed_retried_redelivered(mesh: &mut Mesh) {
    let mut worker = Door::of(mesh.machine("rushabdev"), "worker").must_open(manual()).await;
    let mut planner = Door::of(mesh.machine("agni"), "planner").must_open(json!({})).await;
    accepted(&mut planner, &command("worker", "c-0", "stored", json!({}))).await;
    told(&mut planner, "c-0", "stored").await;
    let before = worker.message().await;
    worker.ack(&before).await.unwrap();

    mesh.machine("dc").node.as_ref().unwrap().signal("STOP");
    planner.say(command("worker", "c-1", "acked", json!({}))).await.unwrap();
    told(&mut planner, "c-1", "accepted").await;
    until("agni has given dc up", || !mesh.machine("agni").reaches("rushabdev"));
    mesh.machine("dc").node.as_ref().unwrap().signal("CONT");
    told(&mut planner, "c-1", "stored").await;
    assert_eq!(worker.message().await["id"], "c-1");

    goes_away(worker).await;
    let mut worker = Door::of(mesh.machine("rushabdev"), "worker").must_open(manual()).await;
    let again = worker.message().await;
    assert_eq!((&again["id"], &again["redelivered"]), (&json!("c-1"), &json!(true)));
    worker.ack(&again).await.unwrap();
    told(&mut planner, "c-1", "acked").await;
}

/// As the machine's command line prints it.
fn trace(machine: &Machine, more: &[&str]) -> String {
    let output = machine.run(&[&["trace", "c-1", "--from", "planner"], more].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

// covers Q05
#[test]
#[expect(clippy::print_stderr, reason = "for who runs it to read")]
fn a_trace_shows_each_step_of_a_message_that_was_relayed_retried_and_redelivered() {
    let mut mesh = in_a_row(&HEARTBEAT);
    assert_eq!(mesh.machine("agni").next_hop("rushabdev").as_deref(), Some("dc"));
    run(relayed_retried_redelivered(&mut mesh));

    mesh.wait_whole();
    let agni = mesh.machine("agni");
    let traced: Value = serde_json::from_str(&trace(agni, &["--json"])).unwrap();
    assert_eq!((&traced["not_asked"], &traced["gone"]), (&json!([]), &json!([])));
    let journey = &traced["journeys"][0];
    let steps = journey["steps"].as_array().unwrap();
    let at = |node: &str, word: &str| {
        let found = steps.iter().position(|step| step["node"] == node && step["step"] == word);
        found.unwrap_or_else(|| panic!("{node} {word} is not in {steps:#?}"))
    };
    // The first hand-over may bear the mark as well, as a node was out of reach before.
    let last = steps.iter().rposition(|step| step["step"] == "handed over again");
    // The first copy may have waited in the relay's socket and gone on as well; what came second is recognised.
    let way = [
        at("agni", "taken"),
        at("agni", "sent"),
        at("rushabdev", "arrived"),
        at("rushabdev", "taken back"),
        last.unwrap(),
        at("rushabdev", "acked"),
        at("agni", "acked"),
    ];
    assert!(way.is_sorted(), "{way:?} {steps:#?}");
    assert!(at("agni", "sent") < at("agni", "sent again"), "{steps:#?}");
    assert!(at("dc", "relayed") < at("rushabdev", "arrived"), "{steps:#?}");
    assert!(at("rushabdev", "written") < at("rushabdev", "taken back"), "{steps:#?}");
    assert!(at("rushabdev", "kept") < at("agni", "stored"), "{steps:#?}");

    let again = |step: &&Value| matches!(step["step"].as_str(), Some("sent again" | "handed over again"));
    let retries = steps.iter().filter(again).count();
    assert!(retries >= 2 && journey["retries"] == retries, "{}: {steps:#?}", journey["retries"]);
    let offsets: Vec<f64> = steps.iter().map(|step| step["offset_ms"].as_f64().unwrap()).collect();
    assert!(offsets[0] == 0.0 && offsets.is_sorted(), "{offsets:?}");
    assert!(offsets[at("agni", "sent again")] > 1000.0, "the relay stood still for so long: {offsets:?}");

    let resent = &steps[at("agni", "sent again")];
    assert_eq!((&resent["peer"], &resent["carrier"]), (&json!("rushabdev"), &json!("quic")));
    assert_ne!(resent["link"], steps[at("agni", "sent")]["link"], "over the link that came back");
    assert_eq!(steps[at("dc", "relayed")]["carrier"], "quic");
    assert_eq!(steps[at("rushabdev", "handed over again")]["role"], "edge");
    let took = |node: &str, word: &str, what: &str| {
        let step = &steps[at(node, word)];
        assert!(step["after"] == what && step["after_ms"].as_f64() >= Some(0.0), "{what}: {step}");
    };
    for node in ["agni", "rushabdev"] {
        took(node, "kept", "commit");
    }
    took("agni", "sent", "queue");
    took("rushabdev", "handed over again", "queue");
    took("agni", "stored", "answer");
    took("rushabdev", "acked", "answer");

    let shown = trace(agni, &[]);
    eprintln!("{shown}");
    assert!(shown.contains(&format!(", {retries} times sent or handed over again")), "{shown}");
    for word in ["sent again", "relayed", "taken back", "handed over again", "stored", "commit ", "queue "] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
}
