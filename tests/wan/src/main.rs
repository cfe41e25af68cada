//! The emulator for the command line: makes the namespaces, and obeys the lines that it reads until there are no more.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it is a program of its own")]

use std::io::{self, BufRead};
use std::process::ExitCode;

use clap::Parser;
use trishula_wan::control::{Answer, HELP, milliseconds, obey};
use trishula_wan::{Shape, Star, become_root};

const EXAMPLE: &str = "\
Example:
  trishula-wan --namespaces 3 --delay-ms 25 --loss 1
  and, in another terminal, with what it printed for each namespace:
  nsenter --net=/proc/4711/fd/3 ping 192.0.2.2";

/// Network namespaces joined by emulated wide-area links
///
/// Prints for each how to start a program in it, then obeys lines on standard input; they all end with it.
#[derive(Debug, Parser)]
#[command(name = "trishula-wan", after_help = EXAMPLE, after_long_help = format!("{EXAMPLE}\n\n{HELP}"))]
struct Args {
    /// How many
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=200))]
    namespaces: u8,
    /// Delay one way, in milliseconds
    #[arg(long, default_value_t = 0.0, value_parser = number)]
    delay_ms: f64,
    /// So much more or less delay, by chance
    #[arg(long, default_value_t = 0.0, value_parser = number)]
    jitter_ms: f64,
    /// Loss each way, in percent
    #[arg(long, default_value_t = 0.0, value_parser = number)]
    loss: f64,
    /// Packets lost at once, on average
    #[arg(long, default_value_t = 1.0, value_parser = number)]
    burst: f64,
    /// Rate each way; 0: no limit
    #[arg(long, default_value_t = 0.0, value_parser = number)]
    rate_mbit: f64,
    /// Drop-tail queue before the rate
    #[arg(long, default_value_t = 256, value_name = "KIB")]
    queue_kib: u32,
    /// Of each device
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..))]
    mtu: u16,
    /// The same loses the same packets
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match become_root().and_then(|()| run(&args)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("trishula-wan: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> io::Result<()> {
    let star = Star::with(args.namespaces.into(), args.mtu, args.seed.into())?;
    star.set_all(&args.shape());
    for n in 0..star.count() {
        let here = star.at(n);
        println!("{n} {} {} nsenter --net={}", here.ipv4(), here.ipv6(), here.path());
    }
    println!("READY");
    for line in io::stdin().lock().lines() {
        match obey(&star, &line?) {
            Ok(Answer::Say(said)) if said.is_empty() => {}
            Ok(Answer::Say(said)) => println!("{said}"),
            Ok(Answer::Quit) => break,
            Err(why) => eprintln!("trishula-wan: {why}"),
        }
    }
    Ok(())
}

impl Args {
    fn shape(&self) -> Shape {
        let shape = Shape::delayed(milliseconds(self.delay_ms)).jittered(milliseconds(self.jitter_ms));
        let shape = match self.burst > 1.0 {
            true => shape.losing_bursts(self.loss / 100.0, self.burst),
            false => shape.losing(self.loss / 100.0),
        };
        match self.rate_mbit > 0.0 {
            true => shape.limited(self.rate_mbit * 1e6, self.queue_kib as usize * 1024),
            false => shape,
        }
    }
}

fn number(given: &str) -> Result<f64, String> {
    let number = given.parse::<f64>().ok().filter(|number| (0.0..1e6).contains(number));
    number.ok_or_else(|| "a number from 0 to 1e6 is expected".to_owned())
}
