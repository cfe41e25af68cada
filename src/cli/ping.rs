//! `trishula ping`

use std::time::Duration;

use anyhow::bail;
use serde::Serialize;
use serde_json::Value;

use super::common::{SocketArg, block_on, duration};
use super::talk::{Talk, TalkArg, Whom};
use super::{Said, print};
use crate::admin::client::Client;
use crate::admin::protocol::{Pong, Request};
use crate::client::Outgoing;
use crate::node::status::{AgentRow, Status};
use crate::rt::clock;
use crate::wire::envelope::{Kind, Priority, State};
use crate::wire::ids::{AgentAddr, DEFAULT_NAMESPACE, Namespace, NodeName};

/// Between two pings.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula ping agni                  the node agni: there and back, and the way taken
  trishula ping build/runner          an agent: until it is written to a socket of it
  trishula ping agni --agent          the agent agni, where a node has the same name
  trishula ping agni -c 20 --json | jq .median_ms

A node answers by itself. An agent is sent a HEARTBEAT, and the time is until its node's receipt that it was delivered;
its own library is not asked. Exit code 1 if any ping was lost.")]
pub(crate) struct Args {
    /// A node, or an agent: NAME or NAMESPACE/NAME
    #[arg(value_name = "NAME")]
    name: String,
    /// It is an agent, also if there is a node of that name
    #[arg(long)]
    agent: bool,
    /// How many
    #[arg(short = 'c', long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// How long each may take
    #[arg(long, value_name = "DURATION", default_value = "3s", value_parser = duration)]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    socket: SocketArg,
}

#[derive(Debug, Serialize)]
struct One {
    took_ms: f64,
    /// The nodes there and back; to an agent, there.
    route: Vec<NodeName>,
}

#[derive(Debug, Serialize)]
struct Outcome {
    name: String,
    kind: &'static str,
    sent: u32,
    lost: u32,
    min_ms: Option<f64>,
    median_ms: Option<f64>,
    max_ms: Option<f64>,
    pings: Vec<One>,
}

enum Goal {
    Node(NodeName),
    /// With the way to its node.
    Agent(AgentAddr, Vec<NodeName>),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        block_on(self.ping())
    }

    async fn ping(&self) -> anyhow::Result<()> {
        let mut node = self.socket.connect().await?;
        let goal = self.goal(&mut node).await?;
        let talk = match goal {
            Goal::Node(_) => None,
            Goal::Agent(..) => {
                let way = TalkArg { socket: self.socket.clone(), node: Vec::new(), identity: None };
                Some(Talk::open(&way, &Whom::Once, None).await?)
            }
        };
        let mut pings = Vec::new();
        for n in 1..=self.count {
            let one = match (&goal, &talk) {
                (Goal::Agent(agent, route), Some(talk)) => self.ask_agent(talk, agent, route).await,
                (Goal::Node(name), _) => self.ask_node(&mut node, name).await,
                _ => bail!("no session"),
            };
            match one {
                Ok(one) => {
                    self.say(&format!("{} ({n}): {:.2} ms by {}", self.name, one.took_ms, way(&one.route)))?;
                    pings.push(one);
                }
                Err(error) => self.say(&format!("{} ({n}): {}", self.name, print::explain(&error)))?,
            }
            if n < self.count {
                tokio::time::sleep(PAUSE).await;
            }
        }
        if let Some(talk) = talk {
            talk.close().await;
        }
        self.sum_up(&goal, pings)
    }

    /// What is meant by the name.
    async fn goal(&self, node: &mut Client) -> anyhow::Result<Goal> {
        let status: Status = node.ask(&Request::Status { node: None }).await?;
        let name = NodeName::new(&self.name).ok().filter(|_| !self.agent);
        if let Some(name) = name.filter(|name| status.nodes.iter().any(|known| known.node == *name)) {
            return Ok(Goal::Node(name));
        }
        let agent = AgentAddr::parse(&self.name, &Namespace::new(DEFAULT_NAMESPACE)?)?;
        let rows: Vec<AgentRow> =
            node.ask(&Request::Agents { namespace: Some(agent.namespace.clone()) }).await?;
        let Some(row) = rows.iter().find(|row| row.agent == agent.to_string()) else {
            bail!(
                "neither a node nor an agent {:?} is known; see them with: trishula status, trishula agents",
                self.name
            );
        };
        let mut route = vec![status.node.clone()];
        if row.node != status.node {
            let request = Request::Ping { node: row.node.clone(), within_ms: self.within_ms() };
            let there: Vec<NodeName> = node.ask::<Pong>(&request).await?.route;
            let end = there.iter().position(|hop| *hop == row.node).unwrap_or(0);
            route = there.into_iter().take(end + 1).collect();
        }
        Ok(Goal::Agent(agent, route))
    }

    async fn ask_node(&self, node: &mut Client, name: &NodeName) -> anyhow::Result<One> {
        let request = Request::Ping { node: name.clone(), within_ms: self.within_ms() };
        let pong: Pong = print::progress(format!("waiting for {name}"), node.ask(&request)).await?;
        Ok(One { took_ms: pong.took_ms, route: pong.route })
    }

    async fn ask_agent(&self, talk: &Talk, agent: &AgentAddr, route: &[NodeName]) -> anyhow::Result<One> {
        let began = clock::micros();
        let ping = Outgoing {
            priority: Some(Priority::URGENT.get()),
            ..Outgoing::new(Kind::Heartbeat, &agent.to_string(), Value::Null)
        };
        print::progress(
            format!("waiting for {agent}"),
            talk.client.send_and_wait(ping, State::Delivered, self.timeout),
        )
        .await?;
        Ok(One { took_ms: (clock::micros() - began) as f64 / 1000.0, route: route.to_vec() })
    }

    fn sum_up(&self, goal: &Goal, pings: Vec<One>) -> anyhow::Result<()> {
        let mut times: Vec<f64> = pings.iter().map(|one| one.took_ms).collect();
        times.sort_by(f64::total_cmp);
        let outcome = Outcome {
            name: self.name.clone(),
            kind: if matches!(goal, Goal::Node(_)) { "node" } else { "agent" },
            sent: self.count,
            lost: self.count - u32::try_from(pings.len()).unwrap_or(self.count),
            min_ms: times.first().copied(),
            median_ms: times.get(times.len() / 2).copied(),
            max_ms: times.last().copied(),
            pings,
        };
        if self.json {
            print::json(&outcome)?;
        } else if let (Some(min), Some(median), Some(max)) =
            (outcome.min_ms, outcome.median_ms, outcome.max_ms)
        {
            print::line(&format!(
                "{} sent, {} lost; least {min:.2}, median {median:.2}, most {max:.2} ms",
                outcome.sent, outcome.lost
            ))?;
        } else {
            print::line(&format!("{} sent, all lost", outcome.sent))?;
        }
        if outcome.lost == 0 { Ok(()) } else { Err(Said.into()) }
    }

    fn say(&self, text: &str) -> anyhow::Result<()> {
        if self.json { Ok(()) } else { print::line(text) }
    }

    fn within_ms(&self) -> u64 {
        u64::try_from(self.timeout.as_millis()).unwrap_or(u64::MAX)
    }
}

fn way(route: &[NodeName]) -> String {
    let names: Vec<&str> = route.iter().map(NodeName::as_str).collect();
    names.join(" → ")
}
