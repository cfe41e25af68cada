//! End to end beside a bare chain, in the same run: `cargo bench --bench endtoend [-- --quick]`.
//!
//! A message goes client → edge → node → node → edge → client. The *bare chain* is four processes of that shape
//! (WSS, QUIC, QUIC, QUIC, WSS; one thread each; no accounts, no JSON, no store): what the shape itself costs, and so
//! the yardstick for ours. The *bare hops* are one echo server each. `docs/benchmarks.md` says what each row means.
//!
//! | module | what it is for |
//! |---|---|
//! | `options` | the command line, and the settings every relay is started with |
//! | `way` | the seam: what can be measured from client to client; `ours` and `chain` are two of it |
//! | `programs` | our own programs on two machines, for this bench and for `publish` |
//! | `load` | the two clients and the three kinds of load |
//! | `hops` | the bare hops: echo round trips |
//! | `relay` | what the relay processes run |
//! | `carrier` | sources, sinks and the pump between them; `net` makes their connections |
//! | `lean` | sockets that wake their process less often, as a setting to compare |
//! | `child` | starting, measuring and ending processes |
//! | `report` | medians, the table and the JSON file |
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

#[path = "endtoend/carrier.rs"]
mod carrier;
#[path = "endtoend/chain.rs"]
mod chain;
#[path = "endtoend/child.rs"]
mod child;
#[path = "endtoend/hops.rs"]
mod hops;
#[path = "endtoend/lean.rs"]
mod lean;
#[path = "endtoend/load.rs"]
mod load;
#[path = "endtoend/net.rs"]
mod net;
#[path = "endtoend/options.rs"]
mod options;
#[path = "endtoend/ours.rs"]
mod ours;
#[path = "endtoend/programs.rs"]
mod programs;
#[path = "endtoend/relay.rs"]
mod relay;
#[path = "endtoend/report.rs"]
mod report;
#[path = "endtoend/way.rs"]
mod way;

use anyhow::{Context, Result, bail};
use clap::Parser;
use options::{Options, Size};
use report::Report;
use std::os::unix::process::CommandExt;
use std::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use way::Way;

fn main() -> Result<()> {
    let options = Options::parse();
    if options.relay {
        return relay::main();
    }
    if options.one_core {
        let this = std::env::args().skip(1).filter(|arg| arg != "--one-core");
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", "0"]).arg(std::env::current_exe()?).args(this);
        return Err(pinned.exec()).context("taskset");
    }
    let driver = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    driver.block_on(async {
        let (mut interrupted, mut ended) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // Leaving this block by any branch drops, and so kills, every child.
        tokio::select! {
            done = measure(&options) => done,
            _ = interrupted.recv() => bail!("interrupted"),
            _ = ended.recv() => bail!("terminated"),
        }
    })
}

/// Every way and every hop once a round, in turning order, so that a noisy minute does not fall on one of them alone.
async fn measure(options: &Options) -> Result<()> {
    let identity = net::Identity::generate()?;
    let size = Size::of(options);
    let mut ways: Vec<Box<dyn Way>> = Vec::new();
    for hop in options.hop.chosen() {
        ways.push(Box::new(chain::BareChain::new(hop, identity.clone(), options.settings.clone())));
    }
    let programs = match &options.programs {
        Some(folder) => programs::Programs::in_folder(folder)?,
        None => programs::Programs::build()?,
    };
    ways.push(ours::ours(programs));

    let mut report = Report::new(options);
    for round in 0..size.rounds {
        let mut order: Vec<&dyn Way> = ways.iter().map(AsRef::as_ref).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for way in order {
            eprintln!("round {} of {}: {}", round + 1, size.rounds, way.name());
            report.add_way(way, load::run(way, &size).await?);
        }
        eprintln!("round {} of {}: bare hops", round + 1, size.rounds);
        for hop in hops::ALL {
            report.add_hop(hop, hops::run(hop, &identity, &options.settings, &size).await?);
        }
    }
    report.print();
    let path = report.write()?;
    println!("\nwritten to {}", path.display());
    Ok(())
}
