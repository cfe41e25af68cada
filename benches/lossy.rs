//! What a lossy, slow way does to messages: ours beside a bare QUIC stream and a WebSocket over kernel TCP, in the same run:
//! `cargo bench --bench lossy [-- --quick] [-- --only WORD]`. `docs/benchmarks.md` says what each row means.
//!
//! Two network namespaces joined by the emulator of `tests/wan` stand for two machines 50 ms apart. Where it cannot
//! run (anywhere but on Linux, or without namespaces), the same rows are measured on loopback.
//!
//! | module | what it is for |
//! |---|---|
//! | `place` | the two machines: namespaces, or loopback |
//! | `load` | what is sent, and what is known of each message |
//! | `bare` | UDP datagrams: the floor |
//! | `quic` | one QUIC stream |
//! | `wss` | WebSocket over TLS over TCP |
//! | `mesh` | our own nodes and clients |
//! | `flap` | the first message after a link was down |
//! | `tls` | certificates of the bare ones |
//! | `report`, `plot`, `targets` | the table, the JSON file and the picture; what we hold ourselves to |
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

#[path = "lossy/bare.rs"]
mod bare;
#[path = "lossy/flap.rs"]
mod flap;
#[path = "lossy/load.rs"]
mod load;
#[path = "lossy/mesh.rs"]
mod mesh;
#[path = "lossy/place.rs"]
mod place;
#[path = "lossy/plot.rs"]
mod plot;
#[path = "lossy/quic.rs"]
mod quic;
#[path = "lossy/report.rs"]
mod report;
#[path = "lossy/targets.rs"]
mod targets;
#[path = "lossy/tls.rs"]
mod tls;
#[path = "lossy/wss.rs"]
mod wss;

use anyhow::{Result, bail};
use clap::Parser;
use load::{Beside, Load, Outcome};
use mesh::{Class, Mesh};
use place::Place;
use report::{Report, Row};
use std::time::Duration;
use tls::Identity;

/// One way; there and back it is the 50 ms of the table.
const DELAY: Duration = Duration::from_millis(25);
/// Where a bulk transfer, or all lanes, share the way.
const BOTTLENECK: f64 = 20e6;
const QUEUE: usize = 256 * 1024;

/// Messages on a lossy, slow way.
#[derive(Debug, Parser)]
struct Options {
    /// A smoke run of less than a minute; it compares nothing.
    #[arg(long)]
    quick: bool,
    /// Only sections (alone, bulk, lanes, flap) and rows (udp, quic, wss, mesh) that have this in their name.
    #[arg(long, value_name = "WORD")]
    only: Option<String>,
    /// On loopback, as where there is no emulator.
    #[arg(long)]
    loopback: bool,
    /// What `cargo bench` adds; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Udp,
    Quic,
    Wss(&'static str),
    Mesh(Class),
    /// The mesh with messages of priority 1, live.
    Urgent,
}

const WAYS: [Way; 7] = [
    Way::Udp,
    Way::Quic,
    Way::Wss("cubic"),
    Way::Wss("bbr"),
    Way::Mesh(Class::Live),
    Way::Mesh(Class::Durable),
    Way::Urgent,
];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Udp => "bare udp (floor)",
            Way::Quic => "quic, one stream",
            Way::Wss("cubic") => "wss, tcp cubic",
            Way::Wss(_) => "wss, tcp bbr",
            Way::Mesh(Class::Live) => "mesh, live",
            Way::Mesh(Class::Durable) => "mesh, durable",
            Way::Urgent => "mesh, priority 1",
        }
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    let mut names = WAYS.iter().map(|way| way.name()).chain(["alone", "bulk", "lanes", "flap"]);
    if let Some(only) = options.only.as_deref().filter(|only| !names.any(|name| name.contains(only))) {
        bail!("--only {only}: no section and no row has that in its name; see --help");
    }
    let place = Place::find(options.loopback)?;
    let mut bench = Bench { report: Report::new(&place, options.quick), place, options };
    bench.run()?;
    bench.report.print();
    for path in bench.report.write()? {
        println!("written to {}", path.display());
    }
    Ok(())
}

struct Bench {
    options: Options,
    place: Place,
    report: Report,
}

impl Bench {
    fn run(&mut self) -> Result<()> {
        let identity = Identity::generate()?;
        // Without the emulator nothing is lost, and nothing is narrow.
        let losses: [&[f64]; 3] = match (self.place.is_emulated(), self.options.quick) {
            (true, false) => [&[0.0, 1.0, 2.0, 5.0], &[0.0, 1.0, 2.0, 5.0], &[0.0, 1.0]],
            (true, true) => [&[2.0], &[0.0], &[0.0]],
            (false, _) => [&[0.0], &[], &[]],
        };
        for &loss in losses[0] {
            self.section("alone", loss, Beside::Nothing, &WAYS[..6], &identity)?;
        }
        for &loss in losses[1] {
            self.section("bulk", loss, Beside::Bulk, &WAYS, &identity)?;
        }
        for &loss in losses[2] {
            self.section("lanes", loss, Beside::AllLanes, &[Way::Udp, Way::Urgent], &identity)?;
        }
        if self.place.is_emulated() && self.chosen("flap") {
            self.flap(&identity)?;
        }
        Ok(())
    }

    /// All ways, one after the other, under the same conditions.
    fn section(
        &mut self,
        name: &'static str,
        loss: f64,
        beside: Beside,
        ways: &[Way],
        identity: &Identity,
    ) -> Result<()> {
        let mut floor = None;
        for &way in ways {
            // The floor is what the others are compared with: it is measured whatever is chosen.
            let wanted = self.chosen(name) || self.chosen(way.name());
            let any = self.chosen(name) || ways.iter().any(|way| self.chosen(way.name()));
            if !(wanted || any && way == Way::Udp) {
                continue;
            }
            eprintln!("{name}, {loss} % loss: {}", way.name());
            let load = Load::new(self.options.quick, beside);
            let outcome = self.measure(way, loss, &load, identity);
            let outcome = match outcome {
                Ok(outcome) => outcome,
                Err(why) => {
                    self.report.skip(format!("{name}, {loss} %, {}: {why:#}", way.name()));
                    continue;
                }
            };
            let floor = *floor.get_or_insert_with(|| outcome.quantile(0.5));
            self.report.add(Row::new(name, loss, way.name(), &outcome, floor + DELAY.as_secs_f64() * 1e3));
        }
        Ok(())
    }

    /// Every case has connections of its own, and so windows and round trips that know nothing of the case before.
    fn measure(&self, way: Way, loss: f64, load: &Load, identity: &Identity) -> Result<Outcome> {
        let narrow = (load.beside != Beside::Nothing).then_some((BOTTLENECK, QUEUE));
        let mesh = match way {
            Way::Mesh(_) | Way::Urgent => {
                self.place.shape(0.0, None);
                Some(Mesh::start(self.place.clone())?)
            }
            _ => None,
        };
        self.place.shape(loss, narrow);
        match (way, &mesh) {
            (Way::Mesh(class), Some(mesh)) => mesh.run(class, 3, load),
            (_, Some(mesh)) => mesh.run(Class::Live, 1, load),
            (Way::Udp, _) => bare::run(&self.place, load),
            (Way::Wss(congestion), _) => wss::run(&self.place, load, identity, congestion),
            _ => quic::run(&self.place, load, identity),
        }
    }

    fn flap(&mut self, identity: &Identity) -> Result<()> {
        self.place.shape(0.0, None);
        let mesh = Mesh::start(self.place.clone())?;
        let (rounds, down) = match self.options.quick {
            true => (1, Duration::from_secs(2)),
            false => (3, Duration::from_secs(5)),
        };
        self.report.flaps = flap::run(&self.place, &mesh.clients(), identity, rounds, down)?;
        Ok(())
    }

    fn chosen(&self, name: &str) -> bool {
        self.options.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}
