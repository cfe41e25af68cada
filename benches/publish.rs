//! Durable publish through the real programs, beside what it stands on, in the same run and on the same disk:
//! `cargo bench --bench publish [-- --quick]`. `--only 64` or `--only forwarding` measures one of the loads, and
//! `--programs FOLDER` another build of the programs.
//!
//! | row | what it does |
//! |---|---|
//! | ours | a WebSocket client submits to absent agents at its own node, n unanswered: from handing one to the socket to reading its receipt `accepted` |
//! | bare group commit | rows of the same sizes by a plain loop of rusqlite, WAL, `synchronous=FULL`, n a transaction: the yardstick |
//! | fsync, appended | 1 KiB at the end of a file, and an fdatasync: the file grows, and the file system notes that |
//! | fsync, over | the same over what is there, as a warm log is written |
//! | copies: 2 | as ours with one in flight, accepted on two nodes (of this one machine and disk) |
//! | forwarding | client → edge → node → node → edge → client, one way, one at a time: live, durable, and durable with a receipt `accepted`, in an order and with pauses by chance |
//!
//! The ways take turns, a slice each, and ratios are of neighbouring slices: the disk's mood changes by the second.
//!
//! | module | what it is for |
//! |---|---|
//! | `bare` | what it stands on |
//! | `programs` | the real programs, as `trishula init` sets them up |
//! | `counters` | what they say of themselves |
//! | `clients` | the loads |
#![allow(clippy::print_stdout, clippy::expect_used)]

#[path = "publish/bare.rs"]
mod bare;
#[path = "endtoend/child.rs"]
#[allow(dead_code)]
mod child;
#[path = "publish/clients.rs"]
mod clients;
#[path = "publish/counters.rs"]
mod counters;
#[path = "endtoend/lean.rs"]
#[allow(dead_code)]
mod lean;
#[path = "endtoend/net.rs"]
#[allow(dead_code)]
mod net;
#[path = "endtoend/options.rs"]
#[allow(dead_code)]
mod options;
#[path = "endtoend/programs.rs"]
mod programs;
#[path = "endtoend/way.rs"]
#[allow(dead_code)]
mod way;

use anyhow::Result;
use bare::{Fsync, GroupCommit};
use clap::Parser;
use clients::{CLASSES, Forwarder, Publisher};
use counters::Counters;
use hdrhistogram::Histogram;
use programs::{Programs, TwoMachines};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Durable publish beside what it stands on.
#[derive(Debug, Parser)]
struct Options {
    /// A smoke run of seconds; it compares nothing.
    #[arg(long)]
    quick: bool,
    /// One load: the number in flight, or `forwarding`.
    #[arg(long, value_name = "LOAD")]
    only: Option<String>,
    /// Slices of each load.
    #[arg(long)]
    slices: Option<usize>,
    /// A folder with the programs of another build, to compare; by default they are built.
    #[arg(long, value_name = "FOLDER")]
    programs: Option<PathBuf>,
    /// What `cargo bench` adds; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Bytes of a message's payload, before it is wrapped.
const PAYLOAD: usize = 1024;
const IN_FLIGHT: [usize; 3] = [1, 64, 256];
/// Written before anything is measured: logs that are written over do not grow.
const WARM_UP: usize = 8192;
/// Forwarded messages of each class in a slice.
const OF_EACH: usize = 100;

/// Of one way in one slice, or the medians of all of them.
#[derive(Debug, Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

impl Figures {
    fn of(histogram: &Histogram<u64>, took: Duration) -> Figures {
        let at = |share| histogram.value_at_quantile(share) as f64 / 1e3;
        Figures { per_second: histogram.len() as f64 / took.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// In nanoseconds, to three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

/// Messages of a slice: some ten groups, and enough for a median of one in flight.
fn slice_of(in_flight: usize) -> usize {
    (in_flight * 12).clamp(128, 3072)
}

fn main() -> Result<()> {
    let options = Options::parse();
    let slices = options.slices.unwrap_or(if options.quick { 2 } else { 20 });
    let programs = match &options.programs {
        Some(folder) => Programs::in_folder(folder)?,
        None => Programs::build()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let machines = TwoMachines::start(&programs, &folder.path().join("mesh"))?;
    let chosen = |load: &str| options.only.as_ref().is_none_or(|only| only == load);
    println!("payload {PAYLOAD} bytes; {slices} slices, medians; from submitting to reading `accepted`");
    runtime.block_on(async {
        let mut publisher = Publisher::connect(&machines, "publisher").await?;
        publisher.publish(64, if options.quick { 512 } else { WARM_UP }, 1).await?;
        for in_flight in IN_FLIGHT {
            if chosen(&in_flight.to_string()) {
                measure(&machines, &mut publisher, folder.path(), in_flight, slices).await?;
            }
        }
        if chosen("forwarding") {
            forwards(&machines, slices).await?;
        }
        Ok(())
    })
}

/// Names and slices; the first is ours.
type Table = Vec<(&'static str, Vec<Figures>)>;

async fn measure(
    machines: &TwoMachines,
    publisher: &mut Publisher,
    folder: &Path,
    in_flight: usize,
    slices: usize,
) -> Result<()> {
    let messages = slice_of(in_flight);
    let mut bare = GroupCommit::new(&folder.join(format!("bare-{in_flight}.sqlite")))?;
    bare.write(64, WARM_UP)?;
    let mut appended = Fsync::appended(&folder.join(format!("appended-{in_flight}")))?;
    let mut over = Fsync::over(&folder.join(format!("over-{in_flight}")))?;
    let names = ["ours", "bare group commit", "fsync, appended", "fsync, over"];
    let mut table: Table = names.map(|name| (name, Vec::new())).into();
    if in_flight == 1 {
        table.push(("copies: 2", vec![]));
    }
    let mut spent = Counters::default();
    for slice in 0..slices {
        let mut order: Vec<usize> = (0..table.len()).collect();
        if slice % 2 == 1 {
            order.reverse();
        }
        for way in order {
            let figures = match way {
                0 => {
                    let before = Counters::of(machines).await?;
                    let figures = publisher.publish(in_flight, messages, 1).await?;
                    spent.add(&Counters::of(machines).await?, &before);
                    figures
                }
                1 => bare.write(in_flight, messages)?,
                2 => appended.write(32)?,
                3 => over.write(32)?,
                _ => publisher.publish(1, messages, 2).await?,
            };
            table[way].1.push(figures);
        }
    }
    show(in_flight, &table);
    spent.show(slices * messages);
    Ok(())
}

async fn forwards(machines: &TwoMachines, slices: usize) -> Result<()> {
    let mut forwarder = Forwarder::connect(machines).await?;
    forwarder.forward(OF_EACH).await?;
    let mut table: Table = CLASSES.map(|class| (class.name(), Vec::new())).into();
    for _ in 0..slices {
        for ((_, all), figures) in table.iter_mut().zip(forwarder.forward(OF_EACH).await?) {
            all.push(figures);
        }
    }
    println!("\nforwarding, one way, one at a time, slices of {OF_EACH} of each");
    println!("{:<22} {:>10} {:>10}   p50 / live (quartiles)", "", "p50 µs", "p99 µs");
    for (name, all) in &table {
        let of = |figure: fn(&Figures) -> f64| median(all.iter().map(figure));
        let ratios = || all.iter().zip(&table[0].1).map(|(it, live)| it.p50_us / live.p50_us);
        println!(
            "{name:<22} {:>10.0} {:>10.0}   {:.2} ({:.2}, {:.2})",
            of(|f| f.p50_us),
            of(|f| f.p99_us),
            median(ratios()),
            quantile(ratios(), 0.25),
            quantile(ratios(), 0.75),
        );
    }
    println!("target: durable at most 1.10 x live");
    Ok(())
}

fn show(in_flight: usize, table: &Table) {
    println!("\n{in_flight} in flight, slices of {} messages", slice_of(in_flight));
    println!("{:<20} {:>10} {:>10} {:>10}   ours / it", "", "msg/s", "p50 µs", "p99 µs");
    let ours = &table[0].1;
    for (name, all) in table {
        let of = |figure: fn(&Figures) -> f64| median(all.iter().map(figure));
        let ratio = |figure: fn(&Figures) -> f64| {
            let ratios = || ours.iter().zip(all).map(|(ours, it)| figure(ours) / figure(it));
            let (low, high) = (quantile(ratios(), 0.25), quantile(ratios(), 0.75));
            format!("{:.2} ({low:.2}, {high:.2})", median(ratios()))
        };
        println!(
            "{name:<20} {:>10.0} {:>10.0} {:>10.0}   rate {}  p50 {}",
            of(|f| f.per_second),
            of(|f| f.p50_us),
            of(|f| f.p99_us),
            ratio(|f| f.per_second),
            ratio(|f| f.p50_us),
        );
    }
    if let Some((_, copies)) = table.get(4) {
        for (name, fsyncs) in &table[2..4] {
            let ratio = median(copies.iter().zip(fsyncs).map(|(copies, fsync)| copies.p50_us / fsync.p50_us));
            println!("copies: 2 / {name}: p50 {ratio:.2}   target 2.5 at most");
        }
        println!("target: p50 of ours at most 1.5 x one fsync");
    } else {
        println!("target: rate at least 0.70 x bare group commit");
    }
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    quantile(of, 0.5)
}

fn quantile(of: impl Iterator<Item = f64>, share: f64) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[((all.len() - 1) as f64 * share) as usize]
}
