//! What clients write down: one file each, one line an event with its time, written before the client does anything about it.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

/// One event, by the client whose file it stands in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Line {
    /// A recipient that always comes back to the same node, or one that does not.
    Recipient { settled: bool },
    /// A client is registered (again), at this node; native clients do not say where.
    Connected { node: String },
    /// The `n`th message to this recipient goes out, once more or for the first time, over the sender's `connection`th
    /// connection.
    Sent { id: String, to: String, n: u64, priority: u8, connection: u64 },
    /// The mesh says that it has it: where it got how far, heard over which connection.
    Told { id: String, state: String, node: String, connection: u64 },
    /// The mesh says that it does not want it, now or for good.
    Refused { id: String, code: String, retry: bool },
    /// A message has come, and is not acknowledged yet.
    Got { from: String, id: String, redelivered: bool },
}

/// By the wall clock, in milliseconds since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis() as u64
}

/// A client's file.
#[derive(Debug)]
pub struct Log(File);

impl Log {
    pub fn create(folder: &Path, agent: &str) -> Log {
        let path = folder.join(format!("{agent}.log"));
        Log(File::options().create(true).append(true).open(path).unwrap())
    }

    /// In one write: whoever reads meanwhile sees whole lines, but for the last.
    pub fn write(&mut self, line: &Line) {
        let text = format!("{} {}\n", now_ms(), serde_json::to_string(line).unwrap());
        self.0.write_all(text.as_bytes()).unwrap();
    }
}

/// All that the clients of a folder wrote, by client.
pub fn read(folder: &Path) -> Vec<(String, Vec<Line>)> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines = whole
            .lines()
            .map(|line| serde_json::from_str(line.split_once(' ').unwrap().1).unwrap())
            .collect();
        (path.file_stem().unwrap().to_string_lossy().into_owned(), lines)
    };
    files.iter().map(read).collect()
}
