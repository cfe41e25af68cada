//! Many seeds, on all processors; what they came to together.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::{SECOND, Us};
use crate::faults::FAULTS;
use crate::{bounds, extras, scenario};

/// Steps that a replay shows, unless it is asked for those about something.
const LAST: usize = 300;

/// Virtual time of a whole run.
const AT_LEAST: Us = 60 * SECOND;

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Totals {
    pub seeds: u64,
    pub virtual_hours: f64,
    pub steps: u64,
    /// How long it took at most, once all was whole, until every message had its end.
    pub slowest: (Us, u64),
    pub counts: BTreeMap<&'static str, u64>,
    /// Seeds that went wrong, with why.
    pub broken: Vec<(u64, String)>,
}

/// One seed; a panic of the core counts as going wrong.
fn one(seed: u64, totals: &Mutex<Totals>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| scenario::run(seed, false)));
    let mut totals = totals.lock().unwrap();
    totals.seeds += 1;
    match outcome {
        Ok(outcome) => {
            totals.virtual_hours += outcome.world.now as f64 / SECOND as f64 / 3600.0;
            totals.steps += outcome.world.steps;
            totals.slowest = totals.slowest.max((outcome.took, seed));
            for (what, count) in outcome.world.trace.counts {
                *totals.counts.entry(what).or_default() += count;
            }
            let short = (outcome.world.now < AT_LEAST)
                .then(|| format!("it was over after {} s", outcome.world.now / SECOND));
            totals.broken.extend(outcome.broken.or(short).map(|why| (seed, why)));
        }
        Err(_) => totals.broken.push((seed, "it panicked".into())),
    }
}

/// The seeds of a list: what a line begins with.
fn listed(list: &str) -> Vec<u64> {
    let lines = list.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()?.parse().ok()).collect()
}

/// Runs seeds on all processors until they are through or some are broken.
pub fn many(seeds: std::ops::Range<u64>, most_broken: usize) -> Totals {
    let next = AtomicU64::new(seeds.start);
    let totals = Mutex::new(Totals::default());
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || totals.lock().unwrap().broken.len() >= most_broken {
                        break;
                    }
                    one(seed, &totals);
                }
            });
        }
    });
    totals.into_inner().unwrap()
}

/// The line by which a seed is run again.
pub fn replay_line(seed: u64) -> String {
    format!("SEED={seed} cargo test --test history replay -- --nocapture")
}

fn assert_whole(totals: &Totals) {
    let lines: Vec<String> =
        totals.broken.iter().map(|(seed, why)| format!("{}\n    {why}", replay_line(*seed))).collect();
    assert!(lines.is_empty(), "{} of {} seeds broke:\n{}", lines.len(), totals.seeds, lines.join("\n"));
}

fn show(totals: &Totals, took: std::time::Duration) {
    let counts: Vec<String> = totals.counts.iter().map(|(what, count)| format!("{what} {count}")).collect();
    eprintln!(
        "{} seeds, {:.1} virtual hours, {} steps in {:.1} s; at rest {} s after the last fault (seed {}): {}",
        totals.seeds,
        totals.virtual_hours,
        totals.steps,
        took.as_secs_f64(),
        totals.slowest.0 / SECOND,
        totals.slowest.1,
        counts.join(", ")
    );
}

/// What must have happened in a thousand seeds, and how often at least; each kind of fault besides.
const COVERAGE: &[(&str, u64)] = &[
    ("told accepted", 10_000),
    ("told stored", 1_000),
    ("told delivered", 1_000),
    ("told acked", 10_000),
    ("told nacked", 500),
    ("told expired", 500),
    ("told dead", 500),
    ("told refused", 2_000),
    ("deliveries marked", 500),
    ("deliveries at another home", 200),
    ("requeued", 5_000),
    ("resends", 10_000),
    ("sent again", 2_000),
    ("recognised", 2_000),
    ("relayed", 2_000),
    ("taken back", 500),
    ("second copies that went on", 50),
    ("homes moved", 500),
    ("sessions closed by their node", 300),
    ("crashes that lost writes", 30),
    ("writes refused", 2_000),
    ("frames that found no room", 2_000),
    ("messages that came early", 500),
    ("recordings sent again", 200),
    ("early data rejected", 500),
];
/// Each kind of fault.
const EACH_FAULT: u64 = 100;

/// A run that met too little shows nothing.
fn assert_covered(totals: &Totals) {
    let faults = FAULTS.iter().map(|name| (*name, EACH_FAULT));
    for (what, least) in COVERAGE.iter().chain(extras::COUNTED).chain(bounds::COUNTED).copied().chain(faults)
    {
        let (count, least) = (totals.counts.get(what).copied().unwrap_or(0), least * totals.seeds / 1_000);
        assert!(
            count >= least,
            "{what}: {count} times in {} seeds; at least {least} are wanted",
            totals.seeds
        );
    }
}

fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |given| given.parse().expect("a number"))
}

#[test]
fn seeds_of_the_past_are_whole() {
    let totals = Mutex::new(Totals::default());
    listed(include_str!("regressions.txt")).into_iter().for_each(|seed| one(seed, &totals));
    assert_whole(&totals.into_inner().unwrap());
}

#[test]
fn no_history_breaks_a_promise() {
    // covers T06, T18, Q02, Q03, Q04
    let began = std::time::Instant::now();
    let first = number_from("FIRST", 1);
    let totals = many(first..first + number_from("SEEDS", 1_000), number_from("BROKEN", 5) as usize);
    show(&totals, began.elapsed());
    assert_whole(&totals);
    assert_covered(&totals);
}

#[test]
fn a_seed_is_the_same_history_each_time() {
    for seed in [3, 1_234] {
        let (a, b) = (scenario::run(seed, false).world, scenario::run(seed, true).world);
        assert_eq!((a.trace.digest, a.steps, a.now), (b.trace.digest, b.steps, b.now), "seed {seed}");
        assert!(a.steps > 1_000);
    }
}

#[test]
fn replay() {
    let Ok(seed) = std::env::var("SEED") else { return };
    let outcome = scenario::run(seed.parse().expect("SEED is a number"), true);
    let about = std::env::var("ABOUT").ok();
    let lines: Vec<String> = match &about {
        Some(what) => outcome.world.trace.about(what),
        None => outcome.world.trace.lines().collect(),
    };
    let shown = if about.is_some() { lines.len() } else { LAST };
    for line in &lines[lines.len().saturating_sub(shown)..] {
        eprintln!("{line}");
    }
    match outcome.broken {
        Some(why) => panic!("seed {seed}: {why}"),
        None => eprintln!("seed {seed} is whole after {} steps", outcome.world.steps),
    }
}
