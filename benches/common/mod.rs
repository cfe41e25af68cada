//! What the small benches share: repeated batches, their median, one table.

use std::hint::black_box;
use std::time::{Duration, Instant};

/// How long a bench may take; `--quick` is for tests that it runs at all.
pub struct Effort {
    batches: usize,
    batch: Duration,
}

impl Effort {
    /// From the command line: `cargo bench --bench codec -- --quick`.
    pub fn from_args() -> Effort {
        if std::env::args().any(|arg| arg == "--quick") {
            Effort { batches: 11, batch: Duration::from_millis(2) }
        } else {
            Effort { batches: 101, batch: Duration::from_millis(20) }
        }
    }

    /// Runs an operation in batches and prints a line: nanoseconds a call, median and best and 90th
    /// percentile of the batches. `bytes`: what one call moves; 0: nothing worth a rate.
    pub fn measure<T>(&self, name: &str, bytes: usize, mut operation: impl FnMut() -> T) {
        let calls = self.calls_a_batch(&mut operation);
        let mut nanos: Vec<f64> = (0..self.batches)
            .map(|_| {
                let began = Instant::now();
                for _ in 0..calls {
                    black_box(operation());
                }
                began.elapsed().as_nanos() as f64 / calls as f64
            })
            .collect();
        nanos.sort_by(f64::total_cmp);
        let at = |share: f64| nanos[(share * (nanos.len() - 1) as f64) as usize];
        let p50 = at(0.5);
        let rate = if bytes == 0 { String::new() } else { format!("{:9.0}", bytes as f64 / p50 * 1e3) };
        println!("{name:<44} {p50:>11.0} {:>11.0} {:>11.0} {rate:>9}", at(0.0), at(0.9));
    }

    fn calls_a_batch<T>(&self, operation: &mut impl FnMut() -> T) -> u32 {
        let mut calls = 1u32;
        loop {
            let began = Instant::now();
            for _ in 0..calls {
                black_box(operation());
            }
            if began.elapsed() * 2 >= self.batch || calls >= 1 << 24 {
                return calls;
            }
            calls *= 2;
        }
    }
}

/// The table's head.
pub fn title(what: &str) {
    println!("\n{what}");
    println!("{:<44} {:>11} {:>11} {:>11} {:>9}", "", "p50 ns/op", "best", "p90", "MB/s");
}
