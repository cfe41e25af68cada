//! A star steered by lines of text.

use std::time::Duration;

use crate::shape::{GilbertElliott, Loss, Rate, Shape};
use crate::star::Star;

/// What a line may say.
pub const HELP: &str = "Lines:
  delay|jitter MS [WAY]          one way, in milliseconds
  loss PERCENT [WAY]             by chance
  burst PERCENT PACKETS [WAY]    in bursts of so many packets on average
  rate MBIT QUEUE_KIB [WAY]      0: no limit
  largest BYTES [WAY]            whole IP packets; larger ones disappear; 0: all pass
  cut [WAY]    mend [WAY]        nothing passes any more; it does again
  udp block|pass N               UDP from and to namespace N
  address add|remove N ADDRESS   of namespace N
  stats                          what became of the packets
  quit
WAY: FROM TO, such as 0 1: that direction only; without it, all of them.";

/// What is to be said to whoever wrote a line, and whether it was the last one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Go on, with this to print.
    Say(String),
    /// It asked to end.
    Quit,
}

/// Does what a line says; the error says what is wrong with it.
pub fn obey(star: &Star, line: &str) -> Result<Answer, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let nothing = Answer::Say(String::new());
    match words.as_slice() {
        [] => Ok(nothing),
        ["quit"] => Ok(Answer::Quit),
        ["help"] => Ok(Answer::Say(HELP.to_owned())),
        ["stats"] => Ok(Answer::Say(stats(star))),
        ["udp", what, namespace] => {
            let blocks = match *what {
                "block" => true,
                "pass" => false,
                other => return Err(format!("udp {other}: block or pass")),
            };
            star.block_udp(number_of(star, namespace)?, blocks);
            Ok(nothing)
        }
        ["address", what, namespace, address] => {
            let namespace = number_of(star, namespace)?;
            let address = address.parse().map_err(|e| format!("{address}: {e}"))?;
            let done = match *what {
                "add" => star.add_address(namespace, address),
                "remove" => star.remove_address(namespace, address),
                other => return Err(format!("address {other}: add or remove")),
            };
            done.map(|()| nothing).map_err(|e| e.to_string())
        }
        [what, rest @ ..] => shape(star, what, rest).map(|()| nothing),
    }
}

fn shape(star: &Star, what: &str, words: &[&str]) -> Result<(), String> {
    let numbers = match what {
        "cut" | "mend" => 0,
        "delay" | "jitter" | "loss" | "largest" => 1,
        "burst" | "rate" => 2,
        _ => return Err(format!("{what}: not known; these are:\n{HELP}")),
    };
    let usage = || format!("{what} takes {numbers} numbers, and FROM TO if it is for one direction");
    let (given, way) = words.split_at_checked(numbers).ok_or_else(usage)?;
    let given = given.iter().map(|word| positive(word)).collect::<Result<Vec<f64>, String>>()?;
    let change = |shape: &mut Shape| match (what, given.as_slice()) {
        ("delay", [ms]) => shape.delay = milliseconds(*ms),
        ("jitter", [ms]) => shape.jitter = milliseconds(*ms),
        ("loss", [percent]) => shape.loss = Loss::Random(percent / 100.0),
        ("burst", [percent, packets]) => {
            shape.loss = Loss::Bursts(GilbertElliott::of(percent / 100.0, *packets));
        }
        ("rate", [mbit, kib]) => {
            let rate = Rate { bits_per_second: mbit * 1e6, queue_bytes: (kib * 1024.0) as usize };
            shape.rate = (*mbit > 0.0).then_some(rate);
        }
        ("largest", [bytes]) => shape.largest = (*bytes > 0.0).then_some(*bytes as usize),
        _ => shape.cut = what == "cut",
    };
    match way {
        [] => star.ways().for_each(|(from, to)| star.change(from, to, change)),
        [from, to] => star.change(number_of(star, from)?, number_of(star, to)?, change),
        _ => return Err(usage()),
    }
    Ok(())
}

/// Of a non-negative number of milliseconds.
pub fn milliseconds(number: f64) -> Duration {
    Duration::from_secs_f64(number / 1e3)
}

fn positive(word: &str) -> Result<f64, String> {
    let number = word.parse::<f64>().ok().filter(|number| (0.0..1e9).contains(number));
    number.ok_or_else(|| format!("{word}: a number from 0 to 1e9 is expected"))
}

fn number_of(star: &Star, word: &str) -> Result<usize, String> {
    let number = word.parse().ok().filter(|number| *number < star.count());
    number.ok_or_else(|| format!("{word}: no namespace; there are 0 to {}", star.count() - 1))
}

fn stats(star: &Star) -> String {
    let lines = star.ways().map(|(from, to)| format!("{from} -> {to} {:?}", star.counters(from, to)));
    lines.collect::<Vec<_>>().join("\n")
}
