//! What is measured of a server: memory and handshakes of many clients, their silence, and broadcasts to them.
use crate::Size;
use crate::crowd::{Crowd, Heard, To};
use crate::process::Usage;
use crate::server::Server;
use anyhow::Result;
use serde::Serialize;
use std::path::Path;
use std::time::Duration;

/// Broadcasts before those that count.
const WARM_UP: u64 = 5;

/// Of one server in one round.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Figures {
    pub opened_per_second: f64,
    /// From its sender to those who have subscribed, and to everybody.
    pub room: Heard,
    pub all: Heard,
    /// Of the process at which clients are, and of the one behind it.
    pub parts: [Part; 2],
}

/// Of one process; `None` where that is not measured.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Part {
    /// Resident memory before the first client.
    pub before_kib: Option<f64>,
    /// For each of them, once they were silent for a while.
    pub connection_kib: Option<f64>,
    pub handshake_ms: Option<f64>,
    /// CPU while they are silent, in hundredths of a core.
    pub idle_percent: Option<f64>,
    /// CPU for each that gets a broadcast.
    pub room_us: Option<f64>,
    pub all_us: Option<f64>,
}

/// One server, from its first client to its end.
pub fn run(server: &Server, ca: &Path, size: &Size) -> Result<Figures> {
    let mut crowd = Crowd::start(server, ca, size, false)?;
    let mut figures = silent(server, &mut crowd, size)?;
    crowd.subscribe(size.subscribers)?;
    let (room, room_cpu) = broadcast(&mut crowd, server, To::Room, size.to_room, size.subscribers)?;
    let (all, all_cpu) = broadcast(&mut crowd, server, To::All, size.to_all, size.connections)?;
    (figures.room, figures.all) = (room, all);
    for (part, of) in figures.parts.iter_mut().enumerate() {
        (of.room_us, of.all_us) = (room_cpu[part], all_cpu[part]);
    }
    crowd.check()?;
    Ok(figures)
}

/// The same with clients that offer compression, as far as they are silent.
pub fn run_deflate(server: &Server, ca: &Path, size: &Size) -> Result<Figures> {
    silent(server, &mut Crowd::start(server, ca, size, true)?, size)
}

/// All connect, and say nothing.
fn silent(server: &Server, crowd: &mut Crowd, size: &Size) -> Result<Figures> {
    let before = server.usage();
    let took = crowd.open(size.connections)?;
    let opened = server.usage();
    std::thread::sleep(size.idle);
    let idle = server.usage();
    crowd.check()?;
    let connections = size.connections as f64;
    let mut figures = Figures { opened_per_second: connections / took, ..Figures::default() };
    let cpu = |since: [Option<Usage>; 2], until: [Option<Usage>; 2], part: usize| {
        since[part].zip(until[part]).map(|(since, until)| until.cpu_s - since.cpu_s)
    };
    for (part, of) in figures.parts.iter_mut().enumerate() {
        let grown = before[part].zip(idle[part]).map(|(from, to)| to.resident_kib - from.resident_kib);
        of.before_kib = before[part].map(|usage| usage.resident_kib);
        of.connection_kib = grown.map(|kib| kib / connections);
        of.handshake_ms = cpu(before, opened, part).map(|s| s * 1e3 / connections);
        of.idle_percent = cpu(opened, idle, part).map(|s| s * 100.0 / size.idle.as_secs_f64());
    }
    Ok(figures)
}

/// Also the CPU of both processes for each that got it, in microseconds.
fn broadcast(
    crowd: &mut Crowd,
    server: &Server,
    to: To,
    times: u64,
    receivers: usize,
) -> Result<(Heard, [Option<f64>; 2])> {
    crowd.publish(to, WARM_UP.min(times), receivers)?;
    let before = server.usage();
    let heard = crowd.publish(to, times, receivers)?;
    // What is still to be told of the last one.
    std::thread::sleep(Duration::from_millis(20));
    let after = server.usage();
    let deliveries = times as f64 * receivers as f64;
    let cpu = |part: usize| {
        let used: Option<(Usage, Usage)> = before[part].zip(after[part]);
        used.map(|(before, after)| (after.cpu_s - before.cpu_s) * 1e6 / deliveries)
    };
    Ok((heard, [cpu(0), cpu(1)]))
}
