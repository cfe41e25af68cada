//! `trishula trace`: the way that a message took.

use super::common::{Which, moment};
use super::show::note_not_asked;
use super::{Said, print};
use crate::admin::protocol::Request;
use crate::node::records::trace::{Journey, Step, Traced};
use crate::wire::ids::MessageId;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula trace c-1                        every step on every node, with times from the first one
  trishula trace c-1 --from agni.planner    where two senders have used the same id
  trishula trace c-1 --json | jq '.journeys[].steps[] | select(.after == \"commit\")'

Each node in reach is asked for its records; they are kept for a week. What a node could not record in time is missing, and
is said with the times between which that was. Where the clocks of two nodes differ, the times of
one are moved so that nothing arrives before it was sent.
Exit codes: 0 found, 1 no node has a record of it, 2 the node of this machine can't be asked.")]
pub(crate) struct Args {
    #[command(flatten)]
    which: Which,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let Which { from, id, json, .. } = self.which.clone();
        let traced: Traced = self.which.ask(&Request::Trace { from, id })?;
        if json {
            print::json(&traced)?;
        } else {
            traced.journeys.iter().try_for_each(|journey| show(&traced.id, journey))?;
        }
        note_not_asked(&traced.not_asked);
        for gone in &traced.gone {
            let since = moment(gone.before_ms);
            print::note(&format!(
                "node {} has records since {since} only: older ones may have gone",
                gone.node
            ));
        }
        for missing in &traced.missing {
            let (from, to) = (moment(missing.span.from_ms), moment(missing.span.to_ms));
            print::note(&format!(
                "node {} could not record everything between {from} and {to}: steps of that time may be missing",
                missing.node
            ));
        }
        if traced.journeys.is_empty() {
            print::note(&format!("no node that was asked has a record of a message {}", self.which));
            return Err(Said.into());
        }
        Ok(())
    }
}

fn show(id: &MessageId, journey: &Journey) -> anyhow::Result<()> {
    let retries = match journey.retries {
        0 => String::new(),
        n => format!(", {n} times sent or handed over again"),
    };
    print::line(&format!(
        "{id} of {} to {}: taken {}, {} steps in {:.2} ms{retries}",
        journey.from,
        journey.to,
        moment(journey.began_ms),
        journey.steps.len(),
        journey.took_ms
    ))?;
    for shift in &journey.shifts {
        let way = if shift.ms > 0.0 { "behind" } else { "ahead" };
        print::line(&format!(
            "the clock of {} is {:.2} ms {way}: its times are moved",
            shift.node,
            shift.ms.abs()
        ))?;
    }
    print::line("")?;
    let rows: Vec<_> = journey.steps.iter().map(row).collect();
    print::table(&["after", "node", "step", "with", "by", "took"], &rows)?;
    print::line("")
}

fn row(step: &Step) -> Vec<String> {
    let role = step.role.as_deref().filter(|role| *role != "node");
    let with = match (&step.peer, role) {
        (_, Some(role)) => role.to_owned(),
        (Some(peer), None) => peer.to_string(),
        (None, None) => String::new(),
    };
    let by = match (&step.carrier, step.link) {
        (Some(carrier), Some(link)) => format!("{carrier}, link {link}"),
        (None, Some(link)) => format!("link {link}"),
        (carrier, None) => carrier.clone().unwrap_or_default(),
    };
    let took = match (&step.after, step.after_ms) {
        (Some(what), Some(ms)) => format!("{what} {ms:.2} ms"),
        _ => String::new(),
    };
    vec![format!("{:.2} ms", step.offset_ms), step.node.to_string(), step.step.clone(), with, by, took]
}
