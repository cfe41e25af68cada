//! Messages from one agent to another, numbered from 1: each must come once and in order.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;
use trishula::admin;
use trishula::admin::protocol::{Attached, Request};
use trishula::client::{self, Client, Connection, Options, Outgoing};
use trishula::wire::ids::AgentName;

use crate::harness::{Machine, PATIENCE};
use crate::place::World;
use crate::wss::{Socket, heard, registered};

/// Between two messages, unless told otherwise.
pub const PACE: Duration = Duration::from_millis(10);
/// A message that took so long had to wait for something.
const OLD: Duration = Duration::from_millis(500);
/// Messages of a flow, at least.
const ENOUGH: usize = 50;
/// For so long a message that came twice would be waited for.
const DOUBLED: Duration = Duration::from_millis(300);

/// From an agent at one machine, given by its number, to an agent at another one.
#[derive(Debug, Clone, Copy)]
pub struct Route {
    from: (usize, &'static str),
    to: (usize, &'static str),
    priority: Option<u8>,
    by_edge: bool,
}

/// One sender, one recipient.
pub struct Flow {
    sender: Client,
    recipient: Recipient,
    to: &'static str,
    priority: Option<u8>,
    /// When each was sent, counted from the beginning …
    sent: Vec<Instant>,
    /// … and came.
    pub came: Vec<Instant>,
}

enum Recipient {
    AtNode(Client),
    AtEdge(Box<Socket>),
}

#[derive(Deserialize)]
struct Body {
    n: usize,
    last: bool,
}

/// A client at a machine's admin socket, so that nothing but the link between the nodes is lossy or slow. It comes back when
/// its node does.
pub async fn client(machine: &Machine, agent: &str) -> Client {
    let name = AgentName::new(agent).unwrap();
    let (path, attach): (PathBuf, _) = (machine.folder.join("node.sock"), name.clone());
    let path: Arc<Path> = path.into();
    let how = move || {
        let (path, agent) = (path.clone(), attach.clone());
        async move {
            let failed = |e: admin::client::Error| client::Error::Unreachable(e.to_string());
            let mut node = admin::client::Client::connect(&path).await.map_err(failed)?;
            node.ask::<Attached>(&Request::Attach { agent: Some(agent) }).await.map_err(failed)?;
            Ok(Connection::over(node.into_stream()))
        }
    };
    Client::connect(how, Options { agent: Some(name), ..Options::default() }).await.unwrap()
}

/// For a message of a flow: the longest sleep comes before it.
const LONGEST: Duration = PATIENCE.saturating_add(Duration::from_secs(60));

/// Waits until the sender's node knows that the recipient is there.
pub async fn knows(sender: &Client, agent: &str) {
    let known = async {
        while !sender
            .agents(PATIENCE)
            .await
            .unwrap()
            .iter()
            .any(|row| row.agent.ends_with(agent) && row.online)
        {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, known).await.unwrap_or_else(|_| panic!("{agent} is not known"));
}

impl Route {
    pub const fn new(from: (usize, &'static str), to: (usize, &'static str)) -> Route {
        Route { from, to, priority: None, by_edge: false }
    }

    /// With messages of priority 1.
    pub const fn urgent(self) -> Route {
        Route { priority: Some(1), ..self }
    }

    /// To a client of the recipient's machine that is there by WebSocket, at its edge.
    pub const fn by_edge(self) -> Route {
        Route { by_edge: true, ..self }
    }
}

impl Recipient {
    async fn next(&mut self) -> Body {
        match self {
            Recipient::AtNode(client) => client.next().await.unwrap().read().unwrap(),
            Recipient::AtEdge(socket) => {
                let message = heard(socket).await.expect("the edge keeps the socket");
                serde_json::from_value(message["payload"].clone()).unwrap()
            }
        }
    }
}

impl Flow {
    pub async fn on(world: &World, route: &Route) -> Flow {
        let (from, to) = (&world.machines[route.from.0], &world.machines[route.to.0]);
        let recipient = if route.by_edge {
            let socket = registered(world, (route.to.0, route.to.0), &to.token(route.to.1)).await;
            Recipient::AtEdge(Box::new(socket.expect("the edge takes a client")))
        } else {
            Recipient::AtNode(client(to, route.to.1).await)
        };
        let sender = client(from, route.from.1).await;
        knows(&sender, route.to.1).await;
        let (sent, came) = (Vec::new(), Vec::new());
        Flow { sender, recipient, to: route.to.1, priority: route.priority, sent, came }
    }

    /// Sends and receives until it is over, then until all has come.
    pub async fn run(&mut self, pace: Duration, over: &AtomicBool) {
        let (sender, to, priority, sent) = (self.sender.sender(), self.to, self.priority, &mut self.sent);
        let sending = async {
            let mut pace = tokio::time::interval(pace);
            let mut last = false;
            while !last {
                pace.tick().await;
                sent.push(Instant::now());
                last = sent.len() >= ENOUGH && over.load(Ordering::Relaxed);
                let body = json!({"n": sent.len(), "last": last, "pad": "x".repeat(200)});
                sender.send(Outgoing { priority, ..Outgoing::command(to, body) }).await.unwrap();
            }
        };
        let (recipient, came) = (&mut self.recipient, &mut self.came);
        let receiving = async {
            loop {
                let body = timeout(LONGEST, recipient.next()).await.expect("a message in time");
                assert_eq!(body.n, came.len() + 1, "lost, doubled or reordered for {to}");
                came.push(Instant::now());
                if body.last {
                    return;
                }
            }
        };
        tokio::join!(sending, receiving);
    }

    /// When all has come: that no message comes once more.
    pub async fn nothing_more(&mut self) {
        if let Ok(body) = timeout(DOUBLED, self.recipient.next()).await {
            panic!("{} came once more for {}", body.n, self.to);
        }
    }

    /// When the first one came after a moment.
    pub fn first_after(&self, moment: Instant) -> Duration {
        let came = self.came.iter().find(|came| **came > moment);
        came.map_or(Duration::MAX, |came| *came - moment)
    }

    /// Until when messages came that were old already.
    pub fn caught_up(&self, since: Instant) -> Duration {
        let mut old = self.sent.iter().zip(&self.came).filter(|(sent, came)| **came - **sent > OLD);
        old.next_back().map_or(Duration::ZERO, |(_, came)| came.saturating_duration_since(since))
    }

    /// The longest time between two arrivals since a moment.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let after = self.came.iter().copied().filter(|came| *came > since);
        let times: Vec<Instant> = std::iter::once(since).chain(after).collect();
        times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How many were sent between two moments.
    pub fn sent_between(&self, since: Instant, until: Instant) -> usize {
        self.sent.iter().filter(|sent| (since..until).contains(*sent)).count()
    }

    /// How long those took that were sent between two moments: the median, and the longest.
    pub fn took(&self, since: Instant, until: Instant) -> [Duration; 2] {
        let both = self.sent.iter().zip(&self.came).filter(|(sent, _)| (since..until).contains(*sent));
        let mut times: Vec<Duration> = both.map(|(sent, came)| *came - *sent).collect();
        times.sort();
        [times.get(times.len() / 2), times.last()].map(|time| time.copied().unwrap_or_default())
    }
}
