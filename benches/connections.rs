//! Many idle clients at one edge, beside a bare server, in the same run: `cargo bench --bench connections [-- --quick]`.
//!
//! 10,000 WebSocket clients connect by TLS, each an agent of its own with its own token, and are silent; then a thousand of
//! them get what is published in a room, and all of them a live broadcast. The *bare server* is one process with
//! tokio-tungstenite over tokio-rustls: what a connection costs in any case, and so the yardstick for ours.
//! `docs/benchmarks.md` says what each row means.
//!
//! | module | what it is for |
//! |---|---|
//! | `ours` | our own programs: a node and its edge |
//! | `bare` | the bare server |
//! | `server` | either of the two, while it runs |
//! | `crowd` | the process with the clients; `socket` connects one of them |
//! | `tls` | TLS of the bare server and of the clients |
//! | `process` | starting, asking, measuring and ending processes |
//! | `measure` | what is measured of a server |
//! | `report` | medians, the table and the JSON file |
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::expect_used)]

#[path = "connections/bare.rs"]
mod bare;
#[path = "connections/crowd.rs"]
mod crowd;
#[path = "connections/measure.rs"]
mod measure;
#[path = "connections/ours.rs"]
mod ours;
#[path = "connections/process.rs"]
mod process;
#[path = "connections/report.rs"]
mod report;
#[path = "connections/server.rs"]
mod server;
#[path = "connections/socket.rs"]
mod socket;
#[path = "connections/tls.rs"]
mod tls;

use anyhow::{Result, ensure};
use clap::Parser;
use measure::Figures;
use ours::{Machine, Programs};
use report::Report;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Many idle clients at one edge, beside a bare server.
#[derive(Debug, Parser)]
struct Options {
    /// A smoke run of some seconds with 200 connections; its figures are good for nothing else.
    #[arg(long)]
    quick: bool,
    /// Clients [default: 10,000].
    #[arg(long, value_name = "N")]
    connections: Option<usize>,
    /// How many of them get what is published in the room [default: 1,000, or a tenth if that is less].
    #[arg(long, value_name = "N")]
    subscribers: Option<usize>,
    /// Handshakes at once.
    #[arg(long, value_name = "N", default_value_t = 16)]
    at_once: usize,
    /// How long all are silent before memory is measured, in seconds [default: 25, so that each was pinged].
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
    /// Our edge once more, with clients that offer compression and are silent.
    #[arg(long)]
    deflate: bool,
    /// Rounds; the table shows the median of each figure.
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// A folder with the programs of another build, to compare; by default they are built.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// What `cargo bench` adds; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    /// This process is the bare server: its job comes on standard input.
    #[arg(long, hide = true)]
    bare: bool,
    /// This process is the clients: likewise.
    #[arg(long, hide = true)]
    crowd: bool,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Size {
    /// Clients.
    pub connections: usize,
    /// How many of them are in the room.
    pub subscribers: usize,
    /// Handshakes.
    pub at_once: usize,
    /// How long all are silent.
    pub idle: Duration,
    /// Broadcasts to the room.
    pub to_room: u64,
    /// Broadcasts to everybody.
    pub to_all: u64,
}

impl Size {
    fn of(options: &Options) -> Result<Size> {
        let wanted = options.connections.unwrap_or(if options.quick { 200 } else { 10_000 });
        let connections = process::connections_possible(wanted)?;
        if connections < wanted {
            println!("The limit on open files allows {connections} connections, not {wanted}.");
        }
        let subscribers = options.subscribers.unwrap_or((connections / 10).clamp(1, 1000));
        ensure!(connections > 0 && options.at_once > 0 && options.rounds > 0, "nothing is to be measured");
        ensure!(subscribers <= connections, "{subscribers} of {connections} can't subscribe");
        let idle = Duration::from_secs(options.idle.unwrap_or(if options.quick { 2 } else { 25 }).max(1));
        let (to_room, to_all) = if options.quick { (5, 3) } else { (500, 20) };
        Ok(Size { connections, subscribers, at_once: options.at_once, idle, to_room, to_all })
    }
}

fn main() -> Result<()> {
    let options = Options::parse();
    if options.bare {
        return bare::main();
    }
    if options.crowd {
        return crowd::main();
    }
    let size = Size::of(&options)?;
    let programs = match &options.programs {
        Some(folder) => Programs::in_folder(folder)?,
        None => Programs::build()?,
    };
    // On the disk that targets are on: what is published in a room is written.
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let mut report = Report::new(size, options.quick);
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        let folder = folder.path().join(round.to_string());
        let (bare, ours) = one_round(&programs, &folder, &size, round % 2 == 1)?;
        report.add(bare, ours);
        if options.deflate {
            let machine = Machine::write(&programs, &folder.join("deflate"), size.connections)?;
            let server = machine.start(&programs, size.connections)?;
            report.add_deflate(measure::run_deflate(&server, &machine.ca(), &size)?);
        }
    }
    report.print();
    let path = report.write()?;
    println!("\nwritten to {}", path.display());
    Ok(())
}

/// Both servers, one after the other, with the same certificate; every second round the other way round.
fn one_round(
    programs: &Programs,
    folder: &Path,
    size: &Size,
    ours_first: bool,
) -> Result<(Figures, Figures)> {
    let room = size.connections;
    let machine = Machine::write(programs, folder, room)?;
    let ca = machine.ca();
    let of_bare = || {
        let (certificate, key) = machine.certificate();
        measure::run(&bare::start(&certificate, &key, room)?, &ca, size)
    };
    let of_ours = || measure::run(&machine.start(programs, room)?, &ca, size);
    if ours_first {
        let ours = of_ours()?;
        return Ok((of_bare()?, ours));
    }
    Ok((of_bare()?, of_ours()?))
}
