//! The store beside what it stands on, in the same run and on the same disk: `cargo bench --bench store [-- --quick]`.
//!
//! | row | what it does |
//! |---|---|
//! | ours | `Record::Keep` into an open store, n in flight: from handing one over to hearing that it is on disk |
//! | bare group commit | the same rows into the same tables by a plain loop of rusqlite, n a transaction: the yardstick |
//! | bare table | the same, but only heads and payloads: what keys, history and checksums cost |
//! | append log | the same bytes at the end of a file, and one fdatasync after n of them |
//! | one fsync | 4 KiB written over, and an fdatasync |
//!
//! The ways take turns, a short slice each, and ratios are of neighbouring slices: the disk's mood changes by the second.
//! `docs/benchmarks.md` has figures.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hdrhistogram::Histogram;
use rusqlite::{Connection, params};
use trishula::store::{self, Job, Opened};
use trishula::wire::envelope::{Head, Kind, MessageKey, State, Target};
use trishula::wire::ids::{AgentAddr, MessageId, Namespace};
use trishula::wire::record::{Change, Kept, Place, Record, Upstream};

const PAYLOAD: usize = 1024;
/// Written before anything is measured, so that every log is one that is written over (it grows only once).
const WARM_UP: usize = 8192;
const IN_FLIGHT: [usize; 4] = [1, 16, 64, 256];

/// Messages of a slice: some ten groups, and enough for a median of one in flight.
fn slice_of(in_flight: usize) -> usize {
    (in_flight * 12).clamp(128, 3072)
}

/// Of one way in one slice.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

fn figures(histogram: &Histogram<u64>, messages: usize, took: Duration) -> Figures {
    let at = |share| histogram.value_at_quantile(share) as f64 / 1e3;
    Figures { per_second: messages as f64 / took.as_secs_f64(), p50_us: at(0.5), p99_us: at(0.99) }
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).unwrap()
}

fn nanos(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}

fn main() {
    let quick = std::env::args().any(|arg| arg == "--quick");
    let slices = if quick { 3 } else { 60 };
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    println!(
        "payload {PAYLOAD} bytes; {slices} slices, medians; latencies from handing over to being on disk"
    );
    for in_flight in IN_FLIGHT {
        let place = folder.path().join(in_flight.to_string());
        show(in_flight, &measure(&place, in_flight, slices));
        std::fs::remove_dir_all(place).unwrap();
    }
    lives(folder.path(), if quick { 500 } else { 20_000 });
}

/// A name, and what it does with some messages, n in flight.
type Way<'a> = (&'static str, Box<dyn FnMut(usize) -> Figures + 'a>);

fn measure(folder: &Path, in_flight: usize, slices: usize) -> Vec<(&'static str, Vec<Figures>)> {
    let within = |name: &str| {
        std::fs::create_dir_all(folder.join(name)).unwrap();
        folder.join(name)
    };
    let mut opened = store::open(&within("ours"), 1).unwrap();
    let mut next = 0;
    let mut some = move |n: usize| -> Vec<Record> {
        next += n as u64;
        (next - n as u64..next).map(|n| Record::Keep(Box::new(message(n)))).collect()
    };
    drive(&mut opened, 64, some(WARM_UP));
    let rows = Rows::of(&folder.join("ours"));
    let (mut bare, mut table) = (rows.table(&within("bare"), true), rows.table(&within("table"), false));
    let mut log = AppendLog::new(&within("log"));
    let page = one_page(&within("fsync"));
    let mut ways: Vec<Way<'_>> = vec![
        ("ours", Box::new(|n| drive(&mut opened, in_flight, some(n)))),
        ("bare group commit", Box::new(|n| bare.write(in_flight, n))),
        ("bare table", Box::new(|n| table.write(in_flight, n))),
        ("append log", Box::new(|n| log.write(&rows, in_flight, n))),
        ("one fsync", Box::new(|_| one_fsync(&page, 16))),
    ];
    let mut measured: Vec<(&str, Vec<Figures>)> = ways.iter().map(|(name, _)| (*name, Vec::new())).collect();
    for slice in 0..slices {
        let mut order: Vec<usize> = (0..ways.len()).collect();
        if slice % 2 == 1 {
            order.reverse();
        }
        for way in order {
            let figures = (ways[way].1)(slice_of(in_flight));
            measured[way].1.push(figures);
        }
    }
    drop(ways);
    close(opened);
    measured
}

fn show(in_flight: usize, table: &[(&str, Vec<Figures>)]) {
    println!("\n{in_flight} in flight, slices of {} messages", slice_of(in_flight));
    println!(
        "{:<20} {:>10} {:>10} {:>10}   ours / it (quarter, three quarters)",
        "", "msg/s", "p50 µs", "p99 µs"
    );
    let ours = &table[0].1;
    for (name, all) in table {
        let of = |share, figure: fn(&Figures) -> f64| quantile(share, all.iter().map(figure));
        let ratio = |share, figure: fn(&Figures) -> f64| {
            quantile(share, ours.iter().zip(all).map(|(ours, it)| figure(ours) / figure(it)))
        };
        let rate = |share| ratio(share, |f| f.per_second);
        println!(
            "{name:<20} {:>10.0} {:>10.0} {:>10.0}   rate {:.2} ({:.2}, {:.2})  p50 {:.2}",
            of(0.5, |f| f.per_second),
            of(0.5, |f| f.p50_us),
            of(0.5, |f| f.p99_us),
            rate(0.5),
            rate(0.25),
            rate(0.75),
            ratio(0.5, |f| f.p50_us),
        );
    }
}

fn quantile(share: f64, of: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = of.collect();
    all.sort_by(f64::total_cmp);
    all[(share * (all.len() - 1) as f64) as usize]
}

/// A message with an id as clients make them: random.
fn message(n: u64) -> Kept {
    let agent = |name| AgentAddr::parse(name, &Namespace::new("trishula").unwrap()).unwrap();
    let (from, to) = (agent("dc.writer"), agent("agni.planner"));
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id = MessageId::new(&format!("{:016x}-{n:08x}", mixed ^ (mixed >> 29))).unwrap();
    let head = Head {
        receipt: Some(State::Accepted),
        sent_ms: 1_767_225_600_000 + n,
        taken: (1_767_225_600_000 + n) << 16,
        ..Head::new(from.clone(), Target::Agent(to.clone()), id.clone(), Kind::Command)
    };
    let payload: Vec<u8> = (0..PAYLOAD as u64).map(|at| (mixed >> (at % 57)) as u8 ^ at as u8).collect();
    Kept {
        key: MessageKey { from, id, to },
        order: n,
        place: Place::Mailbox,
        upstream: Upstream::Sender,
        head,
        payload: Bytes::from(payload),
        state: State::Accepted,
        reason: None,
        taken_ms: 1_767_225_600_000 + n,
        unseen_since: 0,
        other: None,
        told: false,
    }
}

/// As the node does it: one thread that hands over and hears what came of it.
fn drive(opened: &mut Opened, in_flight: usize, records: Vec<Record>) -> Figures {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let messages = records.len();
    let (mut histogram, mut began) = (histogram(), Vec::with_capacity(messages));
    let start = Instant::now();
    runtime.block_on(async {
        let (mut records, mut under_way) = (records.into_iter(), 0);
        loop {
            while under_way < in_flight
                && let Some(record) = records.next()
            {
                let number = began.len() as u64;
                began.push(Instant::now());
                opened.jobs.try_send(Job { number, record }).unwrap();
                under_way += 1;
            }
            if under_way == 0 {
                return;
            }
            let done = opened.done.recv().await.unwrap();
            assert_eq!(done.error, None);
            under_way -= done.numbers.len();
            for number in done.numbers {
                histogram.record(nanos(began[number as usize])).unwrap();
            }
        }
    });
    figures(&histogram, messages, start.elapsed())
}

fn close(opened: Opened) {
    let Opened { jobs, mut done, .. } = opened;
    drop(jobs);
    while done.blocking_recv().is_some() {}
}

/// What the store wrote, to write it again by hand.
struct Rows {
    tables: Vec<String>,
    rows: Vec<Row>,
}

type Row = (String, String, String, i64, String, i64, Vec<u8>, Vec<u8>, Vec<u8>);

impl Rows {
    fn of(folder: &Path) -> Rows {
        let connection = Connection::open(folder.join("node.sqlite")).unwrap();
        let mut tables = connection
            .prepare("SELECT sql FROM sqlite_schema WHERE tbl_name = 'message' ORDER BY type DESC")
            .unwrap();
        let tables = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
        let mut rows = connection
            .prepare("SELECT id, sender, recipient, ord, place, bytes, head, passage, payload FROM message ORDER BY n")
            .unwrap();
        let rows = rows
            .query_map([], |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                    row.get(6)?,
                    row.get(7)?,
                    row.get(8)?,
                ))
            })
            .unwrap();
        let rows = rows.map(Result::unwrap).collect();
        Rows { tables, rows }
    }

    /// One for a plain loop of rusqlite. `whole`: as the store has it, else heads and payloads alone.
    fn table(&self, folder: &Path, whole: bool) -> Table<'_> {
        let connection = Connection::open(folder.join("bare.sqlite")).unwrap();
        connection.pragma_update(None, "journal_mode", "WAL").unwrap();
        connection.pragma_update(None, "synchronous", "FULL").unwrap();
        if whole {
            self.tables.iter().for_each(|sql| connection.execute_batch(sql).unwrap());
        } else {
            let sql = "CREATE TABLE message (n INTEGER PRIMARY KEY, head BLOB, payload BLOB)";
            connection.execute_batch(sql).unwrap();
        }
        let mut table = Table { rows: &self.rows, connection, whole };
        table.write(64, WARM_UP);
        table
    }
}

struct Table<'a> {
    rows: &'a [Row],
    connection: Connection,
    whole: bool,
}

impl Table<'_> {
    /// Begin, insert, commit.
    fn write(&mut self, batch: usize, messages: usize) -> Figures {
        groups(&self.rows[..messages], batch, |group| {
            let transaction = self.connection.unchecked_transaction().unwrap();
            for (id, sender, recipient, ord, place, bytes, head, passage, payload) in group {
                if self.whole {
                    let sql = "INSERT INTO message (id, sender, recipient, ord, place, bytes, head, passage, payload)
                               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
                    let values = params![id, sender, recipient, ord, place, bytes, head, passage, payload];
                    transaction.prepare_cached(sql).unwrap().execute(values).unwrap();
                } else {
                    let sql = "INSERT INTO message (head, payload) VALUES (?1, ?2)";
                    transaction.prepare_cached(sql).unwrap().execute(params![head, payload]).unwrap();
                }
            }
            transaction.commit().unwrap();
        })
    }
}

fn groups(rows: &[Row], batch: usize, mut write: impl FnMut(&[Row])) -> Figures {
    let mut histogram = histogram();
    let start = Instant::now();
    for group in rows.chunks(batch) {
        let began = Instant::now();
        write(group);
        let took = nanos(began);
        group.iter().for_each(|_| histogram.record(took).unwrap());
    }
    figures(&histogram, rows.len(), start.elapsed())
}

struct AppendLog {
    file: File,
    buffer: Vec<u8>,
}

impl AppendLog {
    fn new(folder: &Path) -> AppendLog {
        let file = OpenOptions::new().append(true).create(true).open(folder.join("log")).unwrap();
        AppendLog { file, buffer: Vec::new() }
    }

    fn write(&mut self, rows: &Rows, batch: usize, messages: usize) -> Figures {
        groups(&rows.rows[..messages], batch, |group| {
            self.buffer.clear();
            for (id, sender, recipient, _, _, _, head, passage, payload) in group {
                for part in [id.as_bytes(), sender.as_bytes(), recipient.as_bytes(), head, passage, payload] {
                    self.buffer.extend_from_slice(part);
                }
            }
            self.file.write_all(&self.buffer).unwrap();
            self.file.sync_data().unwrap();
        })
    }
}

fn one_page(folder: &Path) -> File {
    let file = File::create(folder.join("fsync")).unwrap();
    file.write_all_at(&[7; 256 * 4096], 0).unwrap();
    file.sync_all().unwrap();
    file
}

fn one_fsync(file: &File, times: u64) -> Figures {
    let mut histogram = histogram();
    let start = Instant::now();
    for n in 0..times {
        let began = Instant::now();
        file.write_all_at(&[n as u8; 4096], n % 256 * 4096).unwrap();
        file.sync_data().unwrap();
        histogram.record(nanos(began)).unwrap();
    }
    figures(&histogram, times as usize, start.elapsed())
}

/// Whole lives: kept, delivered, ended, erased; four records a message.
fn lives(folder: &Path, messages: usize) {
    let folder = folder.join("lives");
    let mut opened = store::open(&folder, 1).unwrap();
    let change = |place, state| Change {
        place,
        state,
        reason: None,
        at_ms: 1_767_225_700_000,
        other: None,
        told: false,
    };
    let records: Vec<Record> = (0..messages as u64)
        .map(message)
        .flat_map(|kept| {
            let key = kept.key.clone();
            [
                Record::Keep(Box::new(kept)),
                Record::Change(key.clone(), change(Place::Mailbox, State::Delivered)),
                Record::Change(key.clone(), change(Place::Ended, State::Acked)),
                Record::Erase(key),
            ]
        })
        .collect();
    let figures = drive(&mut opened, 256, records);
    println!(
        "\nwhole lives (kept, delivered, ended, erased), 256 records in flight: {:.0} messages/s, a record p50 {:.0} µs, p99 {:.0} µs",
        figures.per_second / 4.0,
        figures.p50_us,
        figures.p99_us
    );
    close(opened);
}
