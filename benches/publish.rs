//! Durable publish through the real programs, beside what it stands on, in the same run and on the same disk:
//! `cargo bench --bench publish [-- --quick]`.
//!
//! | row | what it does |
//! |---|---|
//! | ours | a WebSocket client submits to absent agents at its own node, n unanswered: from handing one to the socket to reading its receipt `accepted` |
//! | bare group commit | rows of the same sizes by a plain loop of rusqlite, WAL, `synchronous=FULL`, n a transaction: the yardstick |
//! | fsync, appended | 1 KiB at the end of a file, and an fdatasync: the file grows, and the file system notes that |
//! | fsync, over | the same over what is there, as a warm log is written |
//! | copies: 2 | as ours with one in flight, accepted on two nodes (of this one machine and disk) |
//! | forwarding | client → edge → node → node → edge → client, one way, durable and live messages in turn |
//!
//! The ways take turns, a slice each, and ratios are of neighbouring slices: the disk's mood changes by the second.
//!
//! | module | what it is for |
//! |---|---|
//! | `bare` | what it stands on |
//! | `machines` | the real programs, as `trishula init` sets them up |
//! | `clients` | the loads |
#![allow(clippy::print_stdout, clippy::expect_used)]

#[path = "publish/bare.rs"]
mod bare;
#[path = "endtoend/child.rs"]
#[allow(dead_code)]
mod child;
#[path = "publish/clients.rs"]
mod clients;
#[path = "endtoend/lean.rs"]
#[allow(dead_code)]
mod lean;
#[path = "publish/machines.rs"]
mod machines;
#[path = "endtoend/net.rs"]
#[allow(dead_code)]
mod net;
#[path = "endtoend/options.rs"]
#[allow(dead_code)]
mod options;
#[path = "endtoend/way.rs"]
#[allow(dead_code)]
mod way;

use anyhow::Result;
use bare::{Fsync, GroupCommit};
use clients::{Publisher, forwarding};
use hdrhistogram::Histogram;
use machines::{Counters, Machines};
use std::path::Path;
use std::time::Duration;

/// Bytes of a message's payload, before it is wrapped.
const PAYLOAD: usize = 1024;
const IN_FLIGHT: [usize; 3] = [1, 64, 256];
/// Written before anything is measured: logs that are written over do not grow.
const WARM_UP: usize = 8192;

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
    let quick = std::env::args().any(|arg| arg == "--quick");
    let slices = if quick { 2 } else { 20 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR"))?;
    let machines = Machines::start(&folder.path().join("mesh"))?;
    println!("payload {PAYLOAD} bytes; {slices} slices, medians; from submitting to reading `accepted`");
    runtime.block_on(async {
        let mut publisher = Publisher::connect(&machines, "publisher").await?;
        publisher.publish(64, if quick { 512 } else { WARM_UP }, 1).await?;
        for in_flight in IN_FLIGHT {
            measure(&machines, &mut publisher, folder.path(), in_flight, slices).await?;
        }
        forwards(&machines, if quick { 200 } else { 4_000 }).await
    })
}

/// Names and slices; the first is ours.
type Table = Vec<(&'static str, Vec<Figures>)>;

async fn measure(
    machines: &Machines,
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
                    let before = machines.counters().await?;
                    let figures = publisher.publish(in_flight, messages, 1).await?;
                    spent.add(&machines.counters().await?, &before);
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

async fn forwards(machines: &Machines, messages: u64) -> Result<()> {
    let (live, durable) = forwarding(machines, messages).await?;
    println!("\nforwarding, one way, {messages} of each in turn, 2 ms apart");
    println!("{:<20} {:>10} {:>10}", "", "p50 µs", "p99 µs");
    for (name, figures) in [("live", live), ("durable", durable)] {
        println!("{name:<20} {:>10.0} {:>10.0}", figures.p50_us, figures.p99_us);
    }
    println!("durable / live       p50 {:.2}   target 1.10 at most", durable.p50_us / live.p50_us);
    Ok(())
}

fn show(in_flight: usize, table: &Table) {
    println!("\n{in_flight} in flight, slices of {} messages", slice_of(in_flight));
    println!("{:<20} {:>10} {:>10} {:>10}   ours / it", "", "msg/s", "p50 µs", "p99 µs");
    let ours = &table[0].1;
    for (name, all) in table {
        let of = |figure: fn(&Figures) -> f64| median(all.iter().map(figure));
        let ratio = |figure: fn(&Figures) -> f64| {
            median(ours.iter().zip(all).map(|(ours, it)| figure(ours) / figure(it)))
        };
        println!(
            "{name:<20} {:>10.0} {:>10.0} {:>10.0}   rate {:.2}  p50 {:.2}",
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
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[(all.len() - 1) / 2]
}
