//! Processes: started with room for file descriptors, told what to do line by line, measured, and always ended.
use anyhow::{Context, Result, bail, ensure};
use serde::{Serialize, de::DeserializeOwned};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

/// Descriptors that a process needs besides those of its connections.
const BESIDES: usize = 256;

/// How many connections one process can hold here, up to so many: the hard limit on descriptors says.
pub fn connections_possible(wanted: usize) -> Result<usize> {
    let can = |descriptors: usize| {
        let asked = Command::new("sh")
            .args(["-c", "ulimit -n \"$0\"", &descriptors.to_string()])
            .stderr(Stdio::null())
            .status();
        asked.is_ok_and(|status| status.success())
    };
    if can(wanted + BESIDES) {
        return Ok(wanted);
    }
    let hard = Command::new("sh").args(["-c", "ulimit -H -n"]).output().context("running sh")?;
    let hard = String::from_utf8_lossy(&hard.stdout).trim().parse::<usize>().unwrap_or(0);
    ensure!(hard > BESIDES, "the limit on open files is {hard}; raise it with `ulimit -H -n`");
    Ok(wanted.min(hard - BESIDES))
}

/// Runs a program in so many descriptors, with its words in a file, says its id, and kills it when the input ends: so it ends
/// with its driver, however that came about.
const KEEPER: &str = r#"
trap '' INT
ulimit -n "$0" || exit 1
log=$1
shift
"$@" </dev/null >"$log" 2>&1 &
echo $!
cat >/dev/null
kill -9 $!
"#;

/// A process that is ended when this is dropped.
pub struct Process {
    pub name: &'static str,
    /// Itself, or its keeper.
    child: std::process::Child,
    /// Its own.
    id: u32,
    talk: Option<(ChildStdin, BufReader<ChildStdout>)>,
}

impl Process {
    /// A program that is told everything by its arguments.
    pub fn start(
        name: &'static str,
        program: &Path,
        args: &[&str],
        connections: usize,
        log: &Path,
    ) -> Result<Process> {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, &(connections + BESIDES).to_string()]).arg(log).arg(program).args(args);
        let mut keeper = Process::talking(name, &mut command)?;
        keeper.id = keeper.hear()?;
        Ok(keeper)
    }

    /// This program again in another role, with its job; it is told more by [`Process::ask`]. The end of its input ends it.
    pub fn role(name: &'static str, flag: &str, connections: usize, job: &impl Serialize) -> Result<Process> {
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n \"$0\" && exec \"$@\"", &(connections + BESIDES).to_string()])
            .arg(std::env::current_exe()?)
            .arg(flag);
        let mut process = Process::talking(name, &mut command)?;
        process.tell(job)?;
        Ok(process)
    }

    fn talking(name: &'static str, command: &mut Command) -> Result<Process> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {name}"))?;
        let input = child.stdin.take().context("no standard input")?;
        let output = BufReader::new(child.stdout.take().context("no standard output")?);
        let id = child.id();
        Ok(Process { name, child, id, talk: Some((input, output)) })
    }

    /// Sends one line and waits for the answer, which is one too.
    pub fn ask<A: DeserializeOwned>(&mut self, what: &impl Serialize) -> Result<A> {
        self.tell(what)?;
        self.hear()
    }

    fn tell(&mut self, what: &impl Serialize) -> Result<()> {
        let (input, _) = self.talk.as_mut().context("it is not to be talked to")?;
        writeln!(input, "{}", serde_json::to_string(what)?).with_context(|| format!("{} is gone", self.name))
    }

    /// The next line that it says.
    pub fn hear<A: DeserializeOwned>(&mut self) -> Result<A> {
        let (_, output) = self.talk.as_mut().context("it is not to be talked to")?;
        let mut line = String::new();
        output.read_line(&mut line)?;
        if line.is_empty() {
            bail!("{} has ended", self.name);
        }
        serde_json::from_str(&line).with_context(|| format!("{} said {line:?}", self.name))
    }

    /// What it has used since its start, and holds now. `None` where that is not told (anywhere but on Linux).
    pub fn usage(&self) -> Option<Usage> {
        Some(Usage { cpu_s: cpu_seconds(self.id)?, resident_kib: resident_kib(self.id)? })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        self.talk = None;
        let _ = self.child.wait();
    }
}

/// What a process has used, and holds.
#[derive(Debug, Clone, Copy)]
pub struct Usage {
    /// User and system.
    pub cpu_s: f64,
    /// Resident memory.
    pub resident_kib: f64,
}

fn resident_kib(pid: u32) -> Option<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find(|line| line.starts_with("Rss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
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

/// What a role reads of its driver: the job, and then what it is asked, each from one line. The end of the input ends this
/// process.
pub fn lines() -> tokio::sync::mpsc::UnboundedReceiver<String> {
    let (lines, heard) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
        std::process::exit(0);
    });
    heard
}

/// Answers the driver.
pub fn say(what: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}
