//! The real nginx and the real HAProxy, with the files of `deploy/`, before a real edge.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Machine, Mesh, PATIENCE, Process, free_ports, until};
use crate::wss::{Door, Wss};

/// Where the client is: on Linux all of 127.0.0.0/8 is this machine's.
const CLIENT: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);
/// Instead of the hour that the files of `deploy/` allow a connection to be silent, so that a test sees its end.
const SILENT: &str = "8s";
/// How long the client is idle: twice that, and more.
const IDLE: Duration = Duration::from_secs(17);

/// Two machines whose edges expect a proxy, ping each second, and show their logs.
fn machines(proxy: &str) -> Mesh {
    let mesh = Mesh::init(&["agni", "rushabdev"]);
    for machine in &mesh.machines {
        let path = machine.folder.join("edge.toml");
        let text = fs::read_to_string(&path).unwrap();
        let service = "[[service]]\n";
        assert!(text.contains(service));
        fs::write(&path, text.replace(service, &format!("{service}{proxy}\nping_interval_s = 1\n"))).unwrap();
    }
    mesh
}

/// Both nodes, and the edge of the first.
fn start(mesh: &mut Mesh) {
    mesh.machines.iter_mut().for_each(Machine::start_node);
    mesh.machines[0].start_edge();
    mesh.wait_whole();
}

/// A file of `deploy/` for this machine. Every word must be there: the file that is tested is the one that ships.
fn adapted(name: &str, changes: &[(&str, String)]) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name);
    let mut text = fs::read_to_string(path).unwrap();
    for (from, to) in changes {
        assert!(text.contains(from), "deploy/{name} has no {from:?}");
        text = text.replace(from, to);
    }
    text
}

fn installed(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.into_iter().map(|place| place.join(program)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{program} is missing: tests/run.sh says how to install it"))
}

async fn get(door: &Door, path: &str) -> Option<(String, Value)> {
    let mut stream = door.tls().await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    // Chunked, where a proxy makes it so.
    let body = body.find('{').zip(body.rfind('}')).map_or("", |(from, to)| &body[from..=to]);
    Some((head.to_owned(), serde_json::from_str(body).unwrap_or(Value::Null)))
}

async fn eventually(door: &Door, path: &str, status: &str) -> Value {
    let began = Instant::now();
    loop {
        let answer = get(door, path).await;
        if let Some((head, body)) = &answer
            && head.contains(status)
        {
            return body.clone();
        }
        assert!(began.elapsed() < PATIENCE, "{path}: {answer:?}");
    }
}

/// Sends itself a message until it hears it: while the node is away it is told `unavailable`.
async fn hears_itself(client: &mut Wss, id: &str) {
    says_to_itself("dc", client, id).await;
}

async fn says_to_itself(agent: &str, client: &mut Wss, id: &str) {
    for attempt in 0.. {
        let id = format!("{id}-{attempt}");
        let said = json!({"type": "STATUS", "to": agent, "id": id, "class": "live", "payload": 1});
        client.say(said).await.expect("the socket is still there");
        let answer =
            client.until(&id, |frame| frame["id"] == id.as_str() || frame["reply_to"] == id.as_str()).await;
        if answer["type"] == "STATUS" {
            return;
        }
    }
}

/// What every proxy has to let through, at a port of it.
async fn lets_through(mesh: &mut Mesh, port: u16) {
    let door = Door::of(&mesh.machines[0], "dc").through(port, CLIENT);
    let health = eventually(&door, "/health", " 200 ").await;
    assert_eq!(health["status"], "healthy");
    let mut client = Guest::at(&["agni"], ("dc", door.clone()), &mut []).await.wss;
    hears_itself(&mut client, "first").await;
    let edge_log = mesh.machines[0].folder.join("edge.log");
    let log = fs::read_to_string(&edge_log).unwrap();
    let said = log.lines().rfind(|line| line.contains("a client has connected")).unwrap();
    assert!(said.contains("from=127.0.0.9:"), "{said}");
    // Idle for longer than the proxy bears of silence: the edge's pings are not silence.
    let idle = tokio::time::timeout(IDLE, client.hear()).await;
    assert!(idle.is_err(), "{idle:?}, closed with {:?}", client.closed);
    hears_itself(&mut client, "paused").await;
    // The node behind the edge is killed and comes back: the client keeps its socket.
    let machine = &mut mesh.machines[0];
    machine.node.as_mut().unwrap().kill();
    machine.start_node();
    until("the node is back", || machine.sees_whole(2));
    hears_itself(&mut client, "restarted").await;
    // The edge goes, and says so through the proxy; meanwhile nobody is answered with a status, and then all is well again.
    machine.edge.as_mut().unwrap().signal("TERM");
    while client.hear().await.is_some() {}
    assert_eq!(client.closed, Some(1012));
    drop(client);
    assert_eq!(machine.edge.as_mut().unwrap().wait(), Some(0));
    let meanwhile = get(&door, "/health").await;
    assert!(meanwhile.is_none(), "a status ends the reconnecting of old clients: {meanwhile:?}");
    mesh.machines[0].start_edge();
    eventually(&door, "/ready", " 200 ").await;
    let mut client = door.must_open(json!({})).await;
    hears_itself(&mut client, "anew").await;
}

/// A client of its own name.
struct Guest {
    name: &'static str,
    door: Door,
    wss: Wss,
    said: u32,
}

impl Guest {
    /// Connects until one of these nodes has it: a proxy may not know yet who is there, or who has gone. The `others` are not silent
    /// meanwhile, or their proxy would close them.
    async fn at(nodes: &[&str], (name, door): (&'static str, Door), others: &mut [Guest]) -> Guest {
        let began = Instant::now();
        loop {
            let wss = door.open(json!({})).await;
            if let Some(wss) = wss.filter(|wss| nodes.contains(&wss.node.as_str())) {
                return Guest { name, door, wss, said: 0 };
            }
            assert!(began.elapsed() < PATIENCE, "{name} finds no edge of {nodes:?}");
            for other in &mut *others {
                other.is_served().await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn is_served(&mut self) {
        self.said += 1;
        says_to_itself(self.name, &mut self.wss, &format!("{}-{}", self.name, self.said)).await;
    }
}

/// Several edges behind one proxy act as one: the one with the fewest connections gets the next, and who loses his goes on at
/// another. The edge of the first machine runs, and that of the second does not; so they are left.
async fn spreads_over_edges(mesh: &mut Mesh, port: u16) {
    let [first, second] = ["agni", "rushabdev"];
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let doors = names.map(|name| (name, Door::of(&mesh.machines[0], name).through(port, CLIENT)));
    let mut doors = doors.into_iter();
    let mut guests = Vec::new();
    for door in doors.by_ref().take(4) {
        let guest = Guest::at(&[first], door, &mut guests).await;
        guests.push(guest);
    }
    // That has four; so the next four come to the second. A proxy may try it with one each time that it forgives a failure only
    // (nginx until one of those has ended).
    mesh.machines[1].start_edge();
    for door in doors {
        let guest = Guest::at(&[second], door, &mut guests).await;
        guests.push(guest);
    }
    for guest in &mut guests {
        guest.is_served().await;
    }
    // One edge goes: its clients are told, come again, and are at the other; those of the other notice nothing.
    let edge = mesh.machines[0].edge.as_mut().unwrap();
    edge.signal("TERM");
    let mut moving = guests;
    let mut guests = moving.split_off(4);
    for guest in &mut moving {
        while guest.wss.hear().await.is_some() {}
        assert_eq!(guest.wss.closed, Some(1012), "{}", guest.name);
    }
    for guest in moving {
        let moved = Guest::at(&[second], (guest.name, guest.door), &mut guests).await;
        guests.push(moved);
    }
    assert_eq!(edge.wait(), Some(0));
    for guest in &mut guests {
        guest.is_served().await;
        assert_eq!(guest.wss.node, second);
    }
    drop(guests);
    assert_eq!(mesh.machines[1].edge.take().unwrap().stop(), Some(0));
    mesh.machines[0].start_edge();
    mesh.wait_whole();
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_lets_everything_through() {
    // covers B13, B12, Q02
    let mut mesh = machines("proxy = { trusted = [\"127.0.0.1\"] }");
    let folder = mesh.folder.path().to_owned();
    let [edge, other] = [0, 1].map(|n| mesh.machines[n].edge_port);
    let id = mesh.machines[0].folder.join("edge-identity");
    let base = free_ports(2);
    let port = base.to_string();
    let file = |path: &str| id.join(path).display().to_string();
    let site = adapted(
        "nginx.conf",
        &[
            ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
            ("listen 80;", format!("listen 127.0.0.1:{};", base + 1)),
            (
                "server 192.0.2.10:8765 max_fails=1 fail_timeout=2s;",
                format!("server 127.0.0.1:{edge} max_fails=1 fail_timeout=2s;"),
            ),
            (
                "server 192.0.2.11:8765 max_fails=1 fail_timeout=2s;",
                format!("server 127.0.0.1:{other} max_fails=1 fail_timeout=2s;"),
            ),
            ("/etc/letsencrypt/live/example.com/fullchain.pem", file("public.pem")),
            ("/etc/letsencrypt/live/example.com/privkey.pem", file("public.key")),
            ("/etc/nginx/trishula-ca.pem", file("ca.pem")),
            ("example.com", "localhost".into()),
            ("proxy_read_timeout 1h", format!("proxy_read_timeout {SILENT}")),
            ("proxy_send_timeout 1h", format!("proxy_send_timeout {SILENT}")),
        ],
    );
    let here = folder.display();
    fs::write(folder.join("site.conf"), site).unwrap();
    fs::write(
        folder.join("nginx.conf"),
        format!(
            "daemon off;\nmaster_process off;\npid {here}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\n\
             access_log off;\nclient_body_temp_path {here}/b;\nproxy_temp_path {here}/p;\nfastcgi_temp_path {here}/f;\n\
             uwsgi_temp_path {here}/u;\nscgi_temp_path {here}/s;\ninclude {here}/site.conf;\n}}\n"
        ),
    )
    .unwrap();
    start(&mut mesh);
    let arguments = ["-p".into(), here.to_string(), "-c".into(), format!("{here}/nginx.conf")];
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let _nginx = Process::start(&installed("nginx"), &arguments, folder.join("nginx.log"));
    lets_through(&mut mesh, base).await;
    spreads_over_edges(&mut mesh, base).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn haproxy_lets_everything_through() {
    // covers B13, B12, B20, Q02
    let mut mesh = machines("proxy = { protocol = true, trusted = [\"127.0.0.1\"] }");
    let folder = mesh.folder.path().to_owned();
    let [edge, other] = [0, 1].map(|n| mesh.machines[n].edge_port);
    let id = mesh.machines[0].folder.join("edge-identity");
    let base = free_ports(2);
    let both = ["public.pem", "public.key"].map(|name| fs::read_to_string(id.join(name)).unwrap()).concat();
    fs::write(folder.join("both.pem"), both).unwrap();
    let text = adapted(
        "haproxy.cfg",
        &[
            ("bind :443", format!("bind 127.0.0.1:{base}")),
            ("bind :8443", format!("bind 127.0.0.1:{}", base + 1)),
            ("/etc/haproxy/example.com.pem", folder.join("both.pem").display().to_string()),
            ("/etc/haproxy/trishula-ca.pem", id.join("ca.pem").display().to_string()),
            ("server agni 192.0.2.10:8765", format!("server agni 127.0.0.1:{edge}")),
            ("server rushabdev 192.0.2.11:8765", format!("server rushabdev 127.0.0.1:{other}")),
            ("example.com", "localhost".into()),
            // What a test may open.
            ("maxconn 20000", "maxconn 200".into()),
            ("timeout client 1h", format!("timeout client {SILENT}")),
            ("timeout server 1h", format!("timeout server {SILENT}")),
            ("timeout tunnel 1h", format!("timeout tunnel {SILENT}")),
        ],
    );
    fs::write(folder.join("haproxy.cfg"), text).unwrap();
    start(&mut mesh);
    let config = folder.join("haproxy.cfg").display().to_string();
    let _haproxy = Process::start(&installed("haproxy"), &["-f", &config], folder.join("haproxy.log"));
    // TLS to the edge, and TLS that HAProxy ends.
    for port in [base, base + 1] {
        lets_through(&mut mesh, port).await;
        spreads_over_edges(&mut mesh, port).await;
    }
}
