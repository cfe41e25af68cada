//! Processes: started with a job on standard input, measured, and always ended.
use anyhow::{Context, Result, bail};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

/// A child process, killed by its id when dropped.
pub struct Child {
    pub name: &'static str,
    process: std::process::Child,
}

impl Child {
    /// Any program, as it is given.
    pub fn start(name: &'static str, command: &mut Command) -> Result<Self> {
        let process = command.spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name, process })
    }

    /// This program again as a relay: writes it its job, and waits for the line by which it says where it listens.
    pub fn relay<R: DeserializeOwned>(name: &'static str, job: &impl Serialize) -> Result<(Self, R)> {
        let process = Command::new(std::env::current_exe()?)
            .arg("--relay")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let mut child = Self { name, process };
        // Standard input stays open: its end tells the relay that its driver is gone, however that came about.
        let stdin = child.process.stdin.as_mut().context("no standard input")?;
        writeln!(stdin, "{}", serde_json::to_string(job)?)?;
        let stdout = child.process.stdout.take().context("no standard output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        if line.is_empty() {
            bail!("{name} did not start");
        }
        let ready = serde_json::from_str(&line).with_context(|| format!("{name} said {line:?}"))?;
        Ok((child, ready))
    }

    /// CPU seconds, user and system, since its start. `None` where that is not measured (anywhere but on Linux).
    pub fn cpu_seconds(&self) -> Option<f64> {
        cpu_seconds(self.process.id())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Reads the job; from then on the end of standard input ends this process.
pub fn read_job<T: DeserializeOwned>() -> Result<T> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    Ok(serde_json::from_str(&line)?)
}

/// `/proc/PID/task/*/schedstat` counts nanoseconds but forgets threads that ended; `/proc/PID/stat` forgets none but
/// counts in hundredths of a second. Both only ever lack something, so the larger is nearer.
fn cpu_seconds(pid: u32) -> Option<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = stat.rsplit_once(')')?.1;
    let field = |n: usize| after_name.split_whitespace().nth(n)?.parse::<f64>().ok();
    let coarse = (field(11)? + field(12)?) / TICKS_PER_SECOND;
    let mut fine = 0.0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
        let line = std::fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
        fine += line.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9;
    }
    Some(fine.max(coarse))
}
