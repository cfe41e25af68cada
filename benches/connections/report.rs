//! Medians over the rounds, as a table and as `target/bench/connections.json`.
use crate::Size;
use crate::measure::Figures;
use anyhow::Result;
use serde::Serialize;
use std::path::PathBuf;

#[derive(Serialize)]
pub struct Report {
    machine: String,
    quick: bool,
    size: Size,
    bare: Vec<Figures>,
    ours: Vec<Figures>,
    /// Ours with compression agreed, where that was asked for: silent.
    deflate: Vec<Figures>,
}

/// One line of the table.
struct Row {
    name: String,
    of: fn(&Figures, usize) -> Option<f64>,
    /// What the edge, and the node, should not exceed; and the edge its multiple of the bare server.
    aims: [Option<f64>; 3],
}

const EDGE: usize = 0;
const NODE: usize = 1;
/// So many of the first rows are of silent clients.
const SILENT: usize = 5;

impl Report {
    pub fn new(size: Size, quick: bool) -> Report {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let machine = format!("{cores} cores, {}, {}", std::env::consts::OS, std::env::consts::ARCH);
        Report { machine, quick, size, bare: Vec::new(), ours: Vec::new(), deflate: Vec::new() }
    }

    pub fn add(&mut self, bare: Figures, ours: Figures) {
        self.bare.push(bare);
        self.ours.push(ours);
    }

    pub fn add_deflate(&mut self, figures: Figures) {
        self.deflate.push(figures);
    }

    pub fn print(&self) {
        let Size { connections, at_once, .. } = self.size;
        println!(
            "\n{}; {connections} connections, {at_once} handshakes at once; median of {} rounds",
            self.machine,
            self.ours.len()
        );
        if self.quick {
            println!("A smoke run: far too small to compare anything.");
        }
        println!("\n{:42}{:>9}{:>9}{:>9}{:>12}", "", "edge", "node", "bare", "edge / bare");
        for row in self.rows() {
            let [edge, node] = [EDGE, NODE].map(|part| median(&self.ours, |it| (row.of)(it, part)));
            let bare = median(&self.bare, |it| (row.of)(it, EDGE));
            let ratio = edge.zip(bare).map(|(edge, bare)| edge / bare).filter(|ratio| ratio.is_finite());
            let shown = ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}×"));
            let name = &row.name;
            println!("{name:42}{:>9}{:>9}{:>9}{shown:>12}", number(edge), number(node), number(bare));
            let met = |what: &str, is: Option<f64>, aim: Option<f64>| {
                if let Some((is, aim)) = is.zip(aim) {
                    let word = if is <= aim { "met" } else { "not met" };
                    println!("    {what} at most {aim}: {is:.2}, {word}");
                }
            };
            met("edge", edge, row.aims[0]);
            met("node", node, row.aims[1]);
            met("edge / bare", ratio, row.aims[2]);
        }
        if !self.deflate.is_empty() {
            println!("compression agreed, and no message of more than 256 bytes yet:");
            for row in self.rows().iter().take(SILENT) {
                let of = [EDGE, NODE].map(|part| number(median(&self.deflate, |it| (row.of)(it, part))));
                println!("{:42}{:>9}{:>9}", row.name, of[EDGE], of[NODE]);
            }
        }
    }

    fn rows(&self) -> Vec<Row> {
        let Size { subscribers, connections, .. } = self.size;
        vec![
            row("resident before the first one, KiB", |it, part| it.parts[part].before_kib, [None; 3]),
            row(
                "resident a silent connection, KiB",
                |it, part| it.parts[part].connection_kib,
                [Some(40.0), Some(4.0), Some(1.3)],
            ),
            row("CPU a handshake, ms", |it, part| it.parts[part].handshake_ms, [Some(0.5), None, Some(1.3)]),
            row(
                "handshakes a second, clients' work included",
                |it, part| first(it.opened_per_second, part),
                [None; 3],
            ),
            row("CPU while all are silent, % of a core", |it, part| it.parts[part].idle_percent, [None; 3]),
            row(
                &format!("room of {subscribers}: CPU a delivery, µs"),
                |it, part| it.parts[part].room_us,
                [None, None, Some(1.3)],
            ),
            row("    the first has it after ms", |it, part| first(it.room.first_ms, part), [None; 3]),
            row("    p50, ms", |it, part| first(it.room.p50_ms, part), [None; 3]),
            row("    p99, ms", |it, part| first(it.room.p99_ms, part), [None, None, Some(1.3)]),
            row(
                &format!("live, to all {connections}: CPU a delivery, µs"),
                |it, part| it.parts[part].all_us,
                [None, None, Some(1.3)],
            ),
            row("    the first has it after ms", |it, part| first(it.all.first_ms, part), [None; 3]),
            row("    p50, ms", |it, part| first(it.all.p50_ms, part), [None; 3]),
            row("    p99, ms", |it, part| first(it.all.p99_ms, part), [None, None, Some(1.3)]),
        ]
    }

    /// Writes everything to `target/bench/connections.json`.
    pub fn write(&self) -> Result<PathBuf> {
        let folder = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from)
            .join("bench");
        std::fs::create_dir_all(&folder)?;
        let path = folder.join("connections.json");
        std::fs::write(&path, serde_json::to_string_pretty(self)?)?;
        Ok(path)
    }
}

fn row(name: &str, of: fn(&Figures, usize) -> Option<f64>, aims: [Option<f64>; 3]) -> Row {
    Row { name: name.to_owned(), of, aims }
}

/// What is measured from client to client has no share of the node's.
fn first(figure: f64, part: usize) -> Option<f64> {
    (part == EDGE).then_some(figure)
}

/// `None` as soon as one round has no such figure.
fn median(rounds: &[Figures], figure: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
    let mut figures = rounds.iter().map(figure).collect::<Option<Vec<f64>>>()?;
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn number(figure: Option<f64>) -> String {
    match figure {
        None => "-".to_owned(),
        Some(figure) if figure >= 100.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}
