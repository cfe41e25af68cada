//! The table, and the same as JSON and as a picture.
use crate::flap::Flap;
use crate::load::Outcome;
use crate::place::Place;
use crate::plot;
use crate::targets;
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    place: &'static str,
    /// Whether our own threads and nodes went before others of the machine.
    realtime: bool,
    quick: bool,
    pub rows: Vec<Row>,
    pub flaps: Vec<Flap>,
    skipped: Vec<String>,
}

/// One carrier under one condition; milliseconds one way.
#[derive(Debug, Serialize)]
pub struct Row {
    pub section: &'static str,
    /// Each way, in percent.
    pub loss: f64,
    pub name: &'static str,
    pub messages: usize,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    /// Percent that took more than half a round trip longer than the floor.
    pub late: f64,
    /// Percent that had not arrived at the end.
    pub missing: f64,
    pub bulk_mbit: Option<f64>,
}

impl Row {
    /// `late`: from so many milliseconds on a message was.
    pub fn new(section: &'static str, loss: f64, name: &'static str, outcome: &Outcome, late: f64) -> Row {
        Row {
            section,
            loss,
            name,
            messages: outcome.messages(),
            p50: outcome.quantile(0.5),
            p90: outcome.quantile(0.9),
            p99: outcome.quantile(0.99),
            p999: outcome.quantile(0.999),
            late: outcome.late(late),
            missing: outcome.missing_percent(),
            bulk_mbit: outcome.bulk_mbit,
        }
    }
}

impl Report {
    pub fn new(place: &Place, quick: bool) -> Report {
        let realtime = place.is_punctual();
        let place = if place.is_emulated() { "emulator, 25 ms each way" } else { "loopback" };
        Report { place, realtime, quick, rows: Vec::new(), flaps: Vec::new(), skipped: Vec::new() }
    }

    pub fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// What could not be measured, and why.
    pub fn skip(&mut self, why: String) {
        eprintln!("not measured: {why}");
        self.skipped.push(why);
    }

    pub fn print(&self) {
        let realtime = if self.realtime { "before others (SCHED_FIFO)" } else { "as others" };
        println!(
            "{}; threads and nodes scheduled {realtime}; 200 messages/s of 1 KiB over 16 flows",
            self.place
        );
        println!(
            "one way, ms; late: more than half a round trip over the floor; missing: not there at the end"
        );
        let mut before = None;
        for row in &self.rows {
            if before.replace((row.section, row.loss)) != Some((row.section, row.loss)) {
                println!("\n{}, {} % loss each way", title(row.section), row.loss);
                let columns = ["p50", "p90", "p99", "p99.9", "late %", "missing %", "beside Mbit/s"];
                println!("{:<20}{}", "", columns.map(|name| format!("{name:>14}")).concat());
            }
            let cells = [row.p50, row.p90, row.p99, row.p999, row.late, row.missing];
            let cells = cells.map(|cell| format!("{cell:>14.1}")).concat();
            let bulk = row.bulk_mbit.map_or("-".into(), |rate| format!("{rate:.1}"));
            println!("{:<20}{cells}{bulk:>14}", row.name);
        }
        if !self.flaps.is_empty() {
            println!("\nfirst message after the link was down and is up, ms: median (all)");
            for Flap { name, ms } in &self.flaps {
                let mut sorted = ms.clone();
                sorted.sort_by(f64::total_cmp);
                let all: Vec<String> = ms.iter().map(|ms| format!("{ms:.1}")).collect();
                println!("{name:<30}{:>9.1} ({})", sorted[(sorted.len() - 1) / 2], all.join(", "));
            }
        }
        for line in targets::lines(&self.rows) {
            println!("{line}");
        }
        for why in &self.skipped {
            println!("not measured: {why}");
        }
    }

    /// `target/bench/lossy.json` and `lossy.svg`.
    pub fn write(&self) -> Result<[PathBuf; 2]> {
        let folder = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
            .join("bench");
        std::fs::create_dir_all(&folder)?;
        let paths = [folder.join("lossy.json"), folder.join("lossy.svg")];
        std::fs::write(&paths[0], serde_json::to_string_pretty(self)?)?;
        std::fs::write(&paths[1], plot::svg(&self.rows))?;
        Ok(paths)
    }
}

/// What a section is called for people.
pub fn title(section: &str) -> &'static str {
    match section {
        "alone" => "alone",
        "bulk" => "beside a 10 MB transfer, 20 Mbit/s, queue of 256 KiB",
        _ => "priority 1 beside priority 3 on all lanes, 20 Mbit/s, queue of 256 KiB",
    }
}
