//! Medians over the rounds, as a table and as `target/bench/endtoend.json`.
use crate::load::{Cpu, Round, Timed};
use crate::options::{Options, Settings};
use crate::way::Way;
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
pub struct Report {
    machine: String,
    quick: bool,
    settings: Settings,
    ways: Vec<WayRows>,
    hops: Vec<HopRows>,
}

/// One way: every figure of every round.
#[derive(Serialize)]
struct WayRows {
    name: &'static str,
    hops: [&'static str; 5],
    rounds: Vec<WayRow>,
}

#[derive(Serialize)]
struct WayRow {
    ping_pong: Row,
    paced: Row,
    full_per_second: f64,
    full_cpu_s_per_million: Option<f64>,
    full_cpu_by_process: Cpu,
}

#[derive(Serialize)]
struct HopRows {
    name: &'static str,
    rounds: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    p50_us: f64,
    p99_us: f64,
    cpu_s_per_million: Option<f64>,
    cpu_by_process: Cpu,
}

impl Row {
    fn new(timed: &Timed) -> Self {
        let us = |quantile| timed.latency.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_us: us(0.5),
            p99_us: us(0.99),
            cpu_s_per_million: total(&timed.cpu),
            cpu_by_process: timed.cpu.clone(),
        }
    }
}

impl Report {
    pub fn new(options: &Options) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        Self {
            machine: format!("{cores} cores, {}, {}", std::env::consts::OS, std::env::consts::ARCH),
            quick: options.quick,
            settings: options.settings.clone(),
            ways: Vec::new(),
            hops: Vec::new(),
        }
    }

    pub fn add_way(&mut self, way: &dyn Way, round: Round) {
        let row = WayRow {
            ping_pong: Row::new(&round.ping_pong),
            paced: Row::new(&round.paced),
            full_per_second: round.full_per_second,
            full_cpu_s_per_million: total(&round.full_cpu),
            full_cpu_by_process: round.full_cpu,
        };
        if let Some(rows) = self.ways.iter_mut().find(|rows| rows.name == way.name()) {
            rows.rounds.push(row);
        } else {
            self.ways.push(WayRows { name: way.name(), hops: way.hops(), rounds: vec![row] });
        }
    }

    pub fn add_hop(&mut self, name: &'static str, timed: Timed) {
        let row = Row::new(&timed);
        match self.hops.iter_mut().find(|rows| rows.name == name) {
            Some(rows) => rows.rounds.push(row),
            None => self.hops.push(HopRows { name, rounds: vec![row] }),
        }
    }

    pub fn print(&self) {
        let rounds = self.hops.first().map_or(0, |hop| hop.rounds.len());
        println!("\n{}; median of {rounds} rounds; CPU: seconds per million", self.machine);
        if self.quick {
            println!("A smoke run: far too short to compare anything.");
        }
        println!("\n{:32}{:>27}{:>27}{:>18}", "", "ping-pong, µs", "1,000/s one way, µs", "full rate");
        line("", ["p50", "p99", "CPU", "p50", "p99", "CPU", "msg/s", "CPU"].map(str::to_owned));
        for way in &self.ways {
            line(way.name, way.figures().map(number));
        }
        for hop in &self.hops {
            let figures = [hop.median(|r| Some(r.p50_us)), hop.median(|r| Some(r.p99_us))];
            let cpu = hop.median(|r| r.cpu_s_per_million);
            line(&format!("bare hop, {} echo", hop.name), [figures[0], figures[1], cpu].map(number));
        }
        println!();
        for way in &self.ways {
            if let Some(yardstick) = self.yardstick(way) {
                let pairs = way.figures().into_iter().zip(yardstick.figures());
                line("", pairs.map(|(ours, bare)| ratio(ours, bare)));
                println!("    = {} / {}", way.name, yardstick.name);
            }
        }
        for way in &self.ways {
            if let Some((p50, sum)) = way.figures()[0].zip(self.sum_of_hops(way)) {
                println!("{}: p50 {p50:.0} µs = {:.2} × its hops ({sum:.0} µs)", way.name, p50 / sum);
            }
        }
        for way in &self.ways {
            if let Some(row) = way.rounds.last() {
                println!("{}: CPU by process", way.name);
                by_process("ping-pong", &row.ping_pong.cpu_by_process);
                by_process("1,000/s", &row.paced.cpu_by_process);
                by_process("full rate", &row.full_cpu_by_process);
            }
        }
    }

    /// Writes everything to `target/bench/endtoend.json`.
    pub fn write(&self) -> Result<PathBuf> {
        let folder = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
            .join("bench");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("endtoend.json");
        std::fs::write(&path, serde_json::to_string_pretty(self)?)?;
        Ok(path)
    }

    /// What a way is compared with: an earlier one of the same hops, else the first of all.
    fn yardstick(&self, way: &WayRows) -> Option<&WayRows> {
        let earlier = || self.ways.iter().take_while(|other| other.name != way.name);
        earlier().find(|other| other.hops == way.hops).or_else(|| earlier().next())
    }

    /// The median round trips of its five hops, one after the other, in microseconds.
    fn sum_of_hops(&self, way: &WayRows) -> Option<f64> {
        way.hops
            .iter()
            .map(|name| self.hops.iter().find(|hop| hop.name == *name)?.median(|row| Some(row.p50_us)))
            .sum()
    }
}

impl WayRows {
    /// In the order of the table's columns.
    fn figures(&self) -> [Option<f64>; 8] {
        let of = |figure: fn(&WayRow) -> Option<f64>| median(self.rounds.iter().map(figure));
        [
            of(|r| Some(r.ping_pong.p50_us)),
            of(|r| Some(r.ping_pong.p99_us)),
            of(|r| r.ping_pong.cpu_s_per_million),
            of(|r| Some(r.paced.p50_us)),
            of(|r| Some(r.paced.p99_us)),
            of(|r| r.paced.cpu_s_per_million),
            of(|r| Some(r.full_per_second)),
            of(|r| r.full_cpu_s_per_million),
        ]
    }
}

impl HopRows {
    fn median(&self, figure: impl Fn(&Row) -> Option<f64>) -> Option<f64> {
        median(self.rounds.iter().map(figure))
    }
}

/// `None` as soon as one round has no such figure.
fn median(figures: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut figures = figures.collect::<Option<Vec<f64>>>()?;
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn total(cpu: &Cpu) -> Option<f64> {
    cpu.as_ref().map(|cpu| cpu.iter().map(|(_, seconds)| seconds).sum())
}

fn line(name: &str, cells: impl IntoIterator<Item = String>) {
    print!("{name:32}");
    for cell in cells {
        print!("{cell:>9}");
    }
    println!();
}

fn number(figure: Option<f64>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) => format!("{figure:.1}"),
    }
}

fn ratio(ours: Option<f64>, bare: Option<f64>) -> String {
    ours.zip(bare).map_or_else(|| "-".to_owned(), |(ours, bare)| format!("{:.2}×", ours / bare))
}

fn by_process(load: &str, cpu: &Cpu) {
    match cpu {
        None => println!("    {load:10} not measured"),
        Some(cpu) => {
            let cells: Vec<String> = cpu.iter().map(|(name, s)| format!("{name} {s:.1}")).collect();
            println!("    {load:10} {}", cells.join(", "));
        }
    }
}
