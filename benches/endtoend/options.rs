//! The command line, and the settings every relay is started with.
use clap::{Args, Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// End to end beside a bare chain.
#[derive(Debug, Parser)]
pub struct Options {
    /// A smoke run of about ten seconds; its figures are good for nothing else.
    #[arg(long)]
    pub quick: bool,
    /// What carries the hop between edge and node in the bare chain.
    #[arg(long, value_enum, default_value_t = HopChoice::Both)]
    pub hop: HopChoice,
    /// Rounds; the table shows the median of each figure.
    #[arg(long)]
    pub rounds: Option<usize>,
    /// Everything on core 0 (by `taskset`): steadier, since no sleeping core has to be woken.
    #[arg(long)]
    pub one_core: bool,
    /// A folder with the programs of another build, to compare; by default they are built.
    #[arg(long, value_name = "FOLDER")]
    pub programs: Option<PathBuf>,
    #[command(flatten)]
    pub settings: Settings,
    /// What `cargo bench` adds; means nothing here.
    #[arg(long, hide = true)]
    bench: bool,
    /// This process is a relay: its job comes on standard input.
    #[arg(long, hide = true)]
    pub relay: bool,
}

/// Which hops between edge and node to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HopChoice {
    Quic,
    Unix,
    Both,
}

impl HopChoice {
    pub fn chosen(self) -> Vec<Hop> {
        match self {
            Self::Quic => vec![Hop::Quic],
            Self::Unix => vec![Hop::Unix],
            Self::Both => vec![Hop::Quic, Hop::Unix],
        }
    }
}

/// What carries the hop between edge and node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    Quic,
    Unix,
}

/// What to turn in the relays, to see what it changes. The defaults are the yardstick.
#[derive(Debug, Clone, Args, Serialize, Deserialize)]
pub struct Settings {
    /// Threads of each relay process.
    #[arg(long, default_value_t = 1)]
    pub threads: usize,
    /// Largest UDP payload, in bytes: tried at once up to 1452, found by discovery above; 0 leaves quinn's default
    /// (discovery from 1200 up to 1452).
    #[arg(long, default_value_t = 0)]
    pub mtu: u16,
    /// Ask the peer to acknowledge only after so many packets; 0 leaves quinn's default (every second).
    #[arg(long, default_value_t = 0)]
    pub ack_threshold: u32,
    /// With `--ack-threshold`: the longest the peer may keep an acknowledgement, in milliseconds.
    #[arg(long, default_value_t = 5)]
    pub ack_delay_ms: u64,
    /// One datagram a system call.
    #[arg(long)]
    pub no_gso: bool,
    /// UDP and Unix sockets that wake for reading only (see `lean`).
    #[arg(long)]
    pub lean: bool,
    /// Write and flush every message by itself, whatever else is queued.
    #[arg(long)]
    pub flush_each: bool,
}

/// How much of everything.
#[derive(Debug, Clone)]
pub struct Size {
    pub rounds: usize,
    pub warm_up: u64,
    pub round_trips: u64,
    pub paced_for: Duration,
    pub full: u64,
}

impl Size {
    pub fn of(options: &Options) -> Self {
        let (rounds, warm_up, round_trips, paced_for, full) = if options.quick {
            (1, 200, 1_000, Duration::from_millis(2_000), 20_000)
        } else {
            (3, 500, 5_000, Duration::from_secs(10), 100_000)
        };
        Self { rounds: options.rounds.unwrap_or(rounds), warm_up, round_trips, paced_for, full }
    }
}
