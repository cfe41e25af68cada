//! An old server behind the mesh: `docs/examples/feed_rooms.py` at one edge, a client of the old service at another.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::harness::{Machine, Mesh, free_ports, python, strict_python, until};
use crate::services::{Script, add_services, token, url};

const SERVICE: &str = "preset = \"mahavishnu\"";

/// The adapter, as its documentation says.
fn adapter(machine: &Machine, port: u16) -> Script {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/feed_rooms.py");
    let mut command = Command::new(python());
    command.arg(script).args([url(port), machine.ca()]).env("TRISHULA_TOKEN", token("service", &[], 600));
    Script::run(&mut command)
}

/// What the adapter says when it is joined, behind what it says about attempts that failed.
fn joins(adapter: &mut Script, node: &str) {
    let joined = format!("registered as mahavishnu/service at node {node}");
    loop {
        let line = adapter.line();
        if line == joined {
            return;
        }
        assert!(line.contains("; again in "), "the adapter says {line:?}");
    }
}

fn scaled(workers: u32) -> String {
    let data = json!({"pool_id": "p1", "worker_count": workers});
    json!({"room": "pool:p1", "event": "pool.scaled", "data": data}).to_string()
}

// covers B06, B07, B27 14
#[test]
fn an_old_server_feeds_its_rooms_and_answers_requests_through_the_example() {
    let ports = free_ports(2);
    let mut mesh = Mesh::init(&["agni", "rushabdev"]);
    for (machine, port) in mesh.machines.iter_mut().zip(ports..) {
        add_services(machine, &[(SERVICE, port)]);
        machine.start_node();
        machine.start_edge();
    }
    mesh.wait_whole();
    // Its frames by hand, and the real client.
    for python in &[python(), strict_python()] {
        let (client_url, ca) = (url(ports + 1), mesh.machine("rushabdev").ca());
        let arguments = [client_url.as_str(), &ca, &token("u1", &["pool:read"], 600)];
        let mut client = Script::start(python, "fed_client.py", &arguments);
        client.says("nobody");
        let mut adapter = adapter(mesh.machine("agni"), ports);
        joins(&mut adapter, "agni");
        client.tell("served");
        client.says("subscribed");
        adapter.tell("no event");
        assert!(adapter.line().starts_with("not an event"));
        adapter.tell(&scaled(1));
        client.says("scaled to 1");
        // What happens while its edge is away is told when that is back, once and in order.
        let machine = mesh.machine("agni");
        assert!(machine.edge.as_mut().unwrap().stop().is_some());
        (2..5).for_each(|workers| adapter.tell(&scaled(workers)));
        machine.start_edge();
        until("the edge is back", || machine.sees_whole(2));
        joins(&mut adapter, "agni");
        (2..5).for_each(|workers| client.says(&format!("scaled to {workers}")));
    }
}
