//! A lid that was closed for hours: the wall clock is ahead when the machine wakes up (`ahead.c` comes between it and the
//! programs).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;
use trishula::client::{Client, Outgoing};
use trishula::wire::envelope::State;
use trishula_wan::{Shape, inside};

use crate::flow::{client, knows};
use crate::harness::{Machine, PATIENCE, TRISHULA, until};
use crate::place::{Family, World};
use crate::wss::{hear, registered};

/// How long the machine slept by the wall clock, and really.
const HOURS: Duration = Duration::from_secs(8 * 3600);
const SLEEP: Duration = Duration::from_secs(5);
/// Lives that end within those hours, and after them.
const SHORTER: Duration = Duration::from_secs(3600);
const LONGER: Duration = Duration::from_secs(24 * 3600);
/// For so long a message that must not come would be waited for.
const NOTHING: Duration = Duration::from_secs(1);

/// The wall clock of the programs that were started with its environment.
struct WallClock {
    library: String,
    file: PathBuf,
}

impl WallClock {
    /// Compiles the library; the time is right.
    fn within(folder: &Path) -> WallClock {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/roam/ahead.c");
        let (library, file) = (folder.join("ahead.so"), folder.join("ahead"));
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(source).arg("-ldl");
        assert!(compile.status().expect("a C compiler").success());
        fs::write(&file, 0i64.to_ne_bytes()).unwrap();
        WallClock { library: library.display().to_string(), file }
    }

    fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", &self.library), ("TRISHULA_TEST_AHEAD", self.file.to_str().unwrap())]
    }

    fn is_ahead(&self, by: Duration) {
        use std::os::unix::fs::FileExt;
        let seconds = i64::try_from(by.as_secs()).unwrap();
        // In place: the programs have this very file.
        let file = fs::File::options().write(true).open(&self.file).unwrap();
        file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
    }
}

#[test]
fn a_machine_wakes_hours_later_and_what_has_run_out_meanwhile_has_run_out() {
    // covers Q03, T09
    inside("clock::a_machine_wakes_hours_later_and_what_has_run_out_meanwhile_has_run_out", || {
        let mut world = World::init(&["dc", "agni"], Family::Four);
        world.star.set_both(0, 1, &Shape::delayed(Duration::from_millis(25)));
        // Its operator gives out tokens for longer than the hour that `init` allows.
        let path = world.machines[0].folder.join("edge.toml");
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains("token_expiry_s = 3600"), "{text}");
        fs::write(&path, text.replace("token_expiry_s = 3600", "token_expiry_s = 0")).unwrap();
        let clock = WallClock::within(world.folder.path());
        (0..2).for_each(|n| world.start_node_in(n, &clock.environment()));
        world.start_edge_in(0, &clock.environment());
        world.wait_whole();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(sleeps(&world, &clock));
        assert!(world.metric(0, "trishula_wakes_total{why=\"clock\"}") >= 1.0);
        world.assert_always_dialled();
    });
}

async fn sleeps(world: &World, clock: &WallClock) {
    let [laptop, server] = [&world.machines[0], &world.machines[1]];
    let (alice, carol) = (client(laptop, "alice").await, client(server, "carol").await);
    let bob = client(laptop, "bob").await;
    knows(&carol, "bob").await;
    bob.close().await;
    let tokens = [("erin", SHORTER), ("frank", LONGER)].map(|(agent, life)| token(laptop, agent, life));
    let mut erin = registered(world, (0, 0), &tokens[0]).await.expect("the edge takes a client");
    let mut frank = registered(world, (0, 0), &tokens[1]).await.expect("the edge takes a client");

    // Some lie at the laptop while it sleeps, others on the server.
    let here = [sent(&alice, SHORTER).await, sent(&alice, LONGER).await];
    let programs = [&laptop.node, &laptop.edge].map(|one| one.as_ref().unwrap());
    programs.iter().for_each(|program| program.signal("STOP"));
    // What is on its way lies before the sleeper's socket, and has the time left that it left with.
    until("the server has noticed", || !server.reaches("dc"));
    let there = [sent(&carol, SHORTER).await, sent(&carol, LONGER).await];
    // The sleep itself.
    tokio::time::sleep(SLEEP).await;
    clock.is_ahead(HOURS);
    // Whoever was awake has seen the hours pass.
    until("the server has", || world.metric(1, "trishula_wakes_total{why=\"clock\"}") >= 1.0);
    programs.iter().for_each(|program| program.signal("CONT"));
    let woke = Instant::now();
    until("both see each other again", || laptop.reaches("agni") && server.reaches("dc"));
    eprintln!("linked {:?} after waking {HOURS:?} later", woke.elapsed());

    let mut bob = client(laptop, "bob").await;
    let mut got = Vec::new();
    for _ in 0..2 {
        let message = timeout(PATIENCE, bob.next()).await.expect("a message in time").unwrap();
        got.push((message.id.clone(), message.read::<u64>().unwrap()));
    }
    got.sort();
    let mut expected = [&here[1], &there[1]].map(|id| (id.clone(), LONGER.as_secs()));
    expected.sort();
    assert_eq!(got, expected, "what has time left comes");
    // Asking for the next one acknowledges.
    if let Ok(Some(message)) = timeout(NOTHING, bob.next()).await {
        panic!("{} seconds had it to live, and it came", message.read::<u64>().unwrap());
    }
    for (sender, ids) in [(&alice, &here), (&carol, &there)] {
        stands(sender, &ids[0], "expired").await;
        stands(sender, &ids[1], "acked").await;
    }

    // The token that has run out ends its connection, and opens none.
    let told = hear(&mut erin).await.expect("it is told why");
    assert_eq!(told["payload"]["code"], "token_expired", "{told}");
    assert!(hear(&mut erin).await.is_none());
    assert!(registered(world, (0, 0), &tokens[0]).await.is_none());
    carol.send(Outgoing::command("frank", json!("good morning"))).await.unwrap();
    let message = hear(&mut frank).await.expect("whose token is good keeps his socket");
    assert_eq!(message["payload"], "good morning", "{message}");
    let erin = registered(world, (0, 0), &token(laptop, "erin", LONGER)).await;
    erin.expect("a good token opens a connection");
}

/// A message for bob, taken by the sender's node; its id.
async fn sent(sender: &Client, life: Duration) -> String {
    let ttl_ms = Some(u64::try_from(life.as_millis()).unwrap());
    let message = Outgoing { ttl_ms, ..Outgoing::command("bob", json!(life.as_secs())) };
    let id = message.id.clone();
    sender.send_and_wait(message, State::Accepted, PATIENCE).await.unwrap();
    id
}

/// Waits until the mesh says that of a message.
async fn stands(sender: &Client, id: &str, state: &str) {
    let mut said = String::new();
    let reached = async {
        while said != state {
            said = sender.query(id, None, PATIENCE).await.unwrap().state;
        }
    };
    let reached = timeout(PATIENCE, reached).await;
    assert!(reached.is_ok(), "{id} should be {state}, and is {said}");
}

fn token(machine: &Machine, agent: &str, life: Duration) -> String {
    let (secret, life) = (machine.folder.join("secrets/trishula.secret"), format!("{}s", life.as_secs()));
    let mut issue = Command::new(TRISHULA);
    issue.args(["token", "issue", agent, "--ttl", &life, "--secret-file"]).arg(secret);
    let output = issue.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
