//! What a client does when its machine has slept.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::watch;

use super::*;
use crate::rt::{clock, wake};

/// What comes of dialling.
#[derive(Clone, Copy)]
enum Dial {
    Works,
    Fails,
    Hangs,
}

/// Dials a hub, over paths that can die without a word.
struct Paths {
    dial: Mutex<Dial>,
    dials: AtomicUsize,
    /// So many of them, from the first on.
    dead: watch::Sender<usize>,
    tasks: Mutex<Vec<tasks::Task>>,
}

impl Paths {
    fn to(rig: &Rig) -> (Arc<Paths>, impl Connect + use<>) {
        let paths = Arc::new(Paths {
            dial: Mutex::new(Dial::Works),
            dials: AtomicUsize::new(0),
            dead: watch::channel(0).0,
            tasks: Mutex::default(),
        });
        let (hub, dialled) = (rig.hub.clone(), paths.clone());
        let how = move || {
            let (hub, paths) = (hub.clone(), dialled.clone());
            async move {
                let number = paths.dials.fetch_add(1, Ordering::SeqCst);
                let dial = *paths.dial.lock().unwrap();
                match dial {
                    Dial::Works => {}
                    Dial::Fails => return Err(Error::Unreachable("the test said so".into())),
                    Dial::Hangs => std::future::pending().await,
                }
                let (ours, mut outer) = tokio::io::duplex(4096);
                let (mut inner, theirs) = tokio::io::duplex(4096);
                let session = tasks::spawn("test.session", async move {
                    serve_stream("unix", theirs, agent("dc"), &hub).await;
                });
                let mut dead = paths.dead.subscribe();
                let died = async move {
                    let _ = dead.wait_for(|dead| *dead > number).await;
                };
                let path = tasks::spawn("test.path", async move {
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut outer, &mut inner) => {}
                        // Neither end is told.
                        () = died => std::future::pending().await,
                    }
                });
                paths.tasks.lock().unwrap().extend([session, path]);
                Ok(Connection::over(ours))
            }
        };
        (paths, how)
    }

    fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    /// From now on this comes of dialling.
    fn set(&self, dial: Dial) {
        *self.dial.lock().unwrap() = dial;
    }

    /// Those that are there are dead from now on.
    fn die(&self) {
        self.dead.send_replace(self.dials());
    }

    /// Those that are there end, and both ends are told.
    fn end(&self) {
        self.tasks.lock().unwrap().clear();
    }

    async fn until_dialled(&self, times: usize) {
        let dialled = async {
            while self.dials() < times {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(dialled).await;
    }
}

/// A client that is connected over paths to a node that serves it.
struct Stage {
    client: Client,
    paths: Arc<Paths>,
    _node: tasks::Task,
    _rig: Rig,
    _alone: tokio::sync::MutexGuard<'static, ()>,
}

impl Stage {
    async fn new() -> Stage {
        let _alone = wake::ALONE.lock().await;
        let _rig = Rig::new();
        let _node = _rig.link(1, "agni").await.serve();
        let (paths, connect) = Paths::to(&_rig);
        let client = Client::connect(connect, Options::default()).await.unwrap();
        Stage { client, paths, _node, _rig, _alone }
    }
}

/// That what the client sends to itself comes back, and how long after this moment.
async fn echo(client: &mut Client, since: tokio::time::Instant) -> Duration {
    let say = async {
        while let Err(why) = client.send(Outgoing::command("dc", json!("hello"))).await {
            // It went to a connection that had ended, before the client has seen that.
            assert!(matches!(why, Error::Disconnected), "{why}");
        }
    };
    soon(say).await;
    assert_eq!(soon(client.next()).await.unwrap().payload.get(), "\"hello\"");
    clock::since(since)
}

fn wakes() -> tokio::time::Instant {
    wake::woke("clock");
    clock::now()
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_in_a_sleep_is_left_and_what_was_asked_is_asked_again() {
    // covers T07, T09
    let _alone = wake::ALONE.lock().await;
    let rig = Rig::new();
    let mut node = rig.link(1, "agni").await;
    let (paths, connect) = Paths::to(&rig);
    let (client, _) = tokio::join!(Client::connect(connect, Options::default()), node.grant());
    let sender = client.as_ref().unwrap().sender();
    let (answer, answers) = oneshot::channel();
    let _waits = tasks::spawn("test.waits", async move {
        let asked = Outgoing::command("agni", json!(1));
        let _ = answer.send(sender.send_and_wait(asked, State::Accepted, Duration::from_secs(600)).await);
    });
    let Frame::Submit(_, first, _) = node.next().await else { panic!("no Submit") };
    paths.die();
    let woke = wakes();
    let attach = node.grant().await;
    assert!(clock::since(woke) < Duration::from_millis(1_500), "{:?}", clock::since(woke));
    let Frame::Submit(_, again, _) = node.next().await else { panic!("no Submit") };
    assert_eq!(again.id, first.id);
    told(&node, attach.session, &again, State::Accepted).await;
    assert_eq!(soon(answers).await.unwrap().unwrap().state, State::Accepted);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lives_after_a_sleep_is_kept() {
    // covers T09
    let mut stage = Stage::new().await;
    let (paths, client) = (&stage.paths, &mut stage.client);
    echo(client, clock::now()).await;
    let woke = wakes();
    assert!(tokio::time::timeout(Duration::from_secs(20), client.next()).await.is_err());
    echo(client, woke).await;
    assert_eq!(paths.dials(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dead_connection_that_takes_no_more_bytes_keeps_nobody() {
    // covers T09
    let mut stage = Stage::new().await;
    let (paths, client) = (&stage.paths, &mut stage.client);
    paths.die();
    let sender = client.sender();
    let (told, tells) = oneshot::channel();
    let _sends = tasks::spawn("test.sends", async move {
        let _ = told.send(sender.send(Outgoing::command("dc", json!("x".repeat(100_000)))).await);
    });
    // It is stuck now.
    assert!(tokio::time::timeout(Duration::from_secs(2), client.next()).await.is_err());
    let woke = wakes();
    assert!(matches!(soon(tells).await.unwrap(), Err(Error::Disconnected)));
    let took = echo(client, woke).await;
    assert!(took < Duration::from_millis(1_500), "{took:?}");
    stage.client.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_node_had_forgotten_is_made_again_at_once() {
    // covers T09
    let mut stage = Stage::new().await;
    let (paths, client) = (&stage.paths, &mut stage.client);
    paths.set(Dial::Fails);
    paths.end();
    paths.until_dialled(10).await;
    paths.set(Dial::Works);
    // The wait before this one was long, and the next would be as well.
    echo(client, clock::now()).await;
    paths.die();
    let woke = wakes();
    // It answers that it knows of nothing: here, by the end of the stream.
    assert!(tokio::time::timeout(Duration::from_millis(50), client.next()).await.is_err());
    let dials = paths.dials();
    paths.end();
    paths.until_dialled(dials + 1).await;
    let took = echo(client, woke).await;
    assert!(took < Duration::from_millis(150), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_to_dial_again_does_so_at_once_after_a_sleep() {
    // covers T09
    let mut stage = Stage::new().await;
    let (paths, client) = (&stage.paths, &mut stage.client);
    paths.set(Dial::Fails);
    paths.end();
    // By then it waits for a quarter of a minute at least.
    paths.until_dialled(10).await;
    paths.set(Dial::Works);
    let took = echo(client, wakes()).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_a_sleep_came_between_is_begun_anew() {
    // covers T09
    let mut stage = Stage::new().await;
    let (paths, client) = (&stage.paths, &mut stage.client);
    paths.set(Dial::Hangs);
    paths.end();
    paths.until_dialled(2).await;
    paths.set(Dial::Works);
    let took = echo(client, wakes()).await;
    assert!(took < Duration::from_millis(100), "{took:?}");
    assert_eq!(paths.dials(), 3);
}
