//! The shape of the source, held by machine: who may import whom, what is pure, where clocks are read and tasks
//! are spawned, and how long files and functions may get. Every rule is also broken on purpose, in memory.
//!
//! Rules look at code only: strings, comments and what is under `#[cfg(test)]` are blanked first.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

#[path = "architecture/code.rs"]
mod code;

use code::{Code, TestModule};

/// Longest file, up to its tests.
const MAX_FILE: usize = 500;
/// Longest function, signature included.
const MAX_FUNCTION: usize = 70;
/// Longest `main.rs`.
const MAX_MAIN: usize = 40;

/// What a module of the library may import of the others; see ARCHITECTURE.md.
const MAY_USE: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("metrics", &[]),
    ("mesh", &["wire"]),
    ("identity", &["wire"]),
    ("rt", &["metrics"]),
    ("link", &["wire", "identity", "rt", "metrics"]),
    ("store", &["wire", "rt", "metrics"]),
    ("gateway", &["wire", "link", "identity", "rt", "metrics"]),
    ("node", &["wire", "mesh", "link", "store", "identity", "rt", "metrics"]),
    ("admin", &["wire", "node", "identity", "rt", "metrics"]),
    ("client", &["wire", "link", "rt"]),
    ("config", &["wire", "rt"]),
    (
        "daemon",
        &["wire", "link", "identity", "rt", "metrics", "store", "gateway", "node", "mesh", "admin", "config"],
    ),
    ("cli", &["wire", "identity", "rt", "store", "gateway", "node", "admin", "client", "config", "daemon"]),
];
/// What the edge may use of the library.
const EDGE_MAY_USE: &[&str] = &["wire", "link", "gateway", "identity", "rt", "metrics", "config"];
/// The only ones that see the whole configuration of a node.
const SEE_EVERYTHING: &[&str] = &["daemon", "cli", "config"];
/// What a gateway must not know of links: what carries them.
const CARRIERS: &[&str] = &["quic", "wss", "memory", "dial"];

struct Fault {
    path: String,
    line: usize,
    why: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.why)
    }
}

type Rule = fn(&str, &Code) -> Vec<Fault>;

const RULES: &[(&str, Rule)] = &[
    ("imports", imports),
    ("purity", purity),
    ("spawns", spawns),
    ("clocks", clocks),
    ("platform", platform),
    ("sizes", sizes),
    ("panics", panics),
    ("prints", prints),
];

fn fault(path: &str, line: usize, why: impl Into<String>) -> Fault {
    Fault { path: path.to_owned(), line, why: why.into() }
}

/// The top-level module that a file of the library belongs to; `None`: a root file, or not of the library.
fn module_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("src/")?;
    match rest.split_once('/') {
        Some((module, _)) => Some(module),
        None => rest.strip_suffix(".rs").filter(|name| !matches!(*name, "lib" | "main")),
    }
}

fn imports(path: &str, code: &Code) -> Vec<Fault> {
    let mut faults = Vec::new();
    let in_edge = path.starts_with("edge/");
    let Some(module) = module_of(path).or(in_edge.then_some("edge")) else { return faults };
    let allowed = match MAY_USE.iter().find(|(name, _)| *name == module) {
        _ if in_edge => EDGE_MAY_USE,
        Some((_, allowed)) => allowed,
        None => {
            return vec![fault(path, 1, format!("module {module} has no line in tests/architecture.rs"))];
        }
    };
    for (line, used) in code.paths(path) {
        let of_library = used[0] == "trishula" || (!in_edge && used[0] == "crate");
        let Some(target) = used.get(1).filter(|_| of_library) else { continue };
        let target = target.as_str();
        let known = in_edge || MAY_USE.iter().any(|(name, _)| *name == target);
        let enrols = path.starts_with("src/gateway/enrol") && target == "node";
        if known && target != module && !allowed.contains(&target) && !enrols {
            faults.push(fault(path, line, format!("{module} must not use {target}")));
        }
        let part = used.get(2).map_or("", String::as_str);
        if target == "config" && part == "node" && !SEE_EVERYTHING.contains(&module) {
            faults.push(fault(path, line, format!("{module} must not see the whole configuration")));
        }
        if module == "gateway" && target == "link" && CARRIERS.contains(&part) {
            faults.push(fault(path, line, format!("a gateway must not know the carrier {part}")));
        }
    }
    if module == "gateway" {
        for carrier in CARRIERS {
            let why = format!("a gateway must not know the carrier {carrier}");
            faults.extend(code.words(&format!("link::{carrier}")).map(|line| fault(path, line, why.clone())));
        }
    }
    faults
}

fn purity(path: &str, code: &Code) -> Vec<Fault> {
    const IMPURE: &[&str] = &[
        "Instant",
        "SystemTime",
        "tokio",
        "quinn",
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "std::io",
        "rand",
        "tracing",
        "async",
        "await",
        "println!",
        "eprintln!",
        "print!",
        "dbg!",
    ];
    let pure = module_of(path).filter(|module| matches!(*module, "wire" | "mesh"));
    let Some(module) = pure else { return Vec::new() };
    // Their order differs from run to run: a seed would replay nothing.
    let unordered: &[&str] = if module == "mesh" { &["HashMap", "HashSet"] } else { &[] };
    let words = IMPURE.iter().chain(unordered);
    let hits = words.flat_map(|word| code.words(word).map(move |line| (line, *word)));
    hits.map(|(line, word)| fault(path, line, format!("{module} is pure: no {word}"))).collect()
}

fn only_in(path: &str, code: &Code, homes: &[&str], words: &[&str], why: &str) -> Vec<Fault> {
    if homes.contains(&path) {
        return Vec::new();
    }
    let hits = words.iter().flat_map(|word| code.words(word).map(move |line| (line, *word)));
    hits.map(|(line, word)| fault(path, line, format!("{word} {why}"))).collect()
}

fn spawns(path: &str, code: &Code) -> Vec<Fault> {
    let words = ["tokio::spawn", "task::spawn", "spawn_local", "JoinSet"];
    only_in(path, code, &["src/rt/tasks.rs"], &words, "is for rt::tasks alone: a task must be supervised")
}

fn clocks(path: &str, code: &Code) -> Vec<Fault> {
    let words = ["Instant::now", "SystemTime::now", "now_utc", "now_local", "UtcDateTime::now", ".elapsed("];
    only_in(path, code, &["src/rt/clock.rs"], &words, "reads a clock: rt::clock alone does")
}

fn platform(path: &str, code: &Code) -> Vec<Fault> {
    let words = ["target_os", "target_family", "target_vendor"];
    only_in(path, code, &["src/rt/platform.rs"], &words, "is asked in rt::platform alone")
}

fn prints(path: &str, code: &Code) -> Vec<Fault> {
    let words = ["println!", "print!", "eprintln!", "eprint!", "dbg!", "io::stdout"];
    // Two programs, each with one place.
    let homes = ["src/cli/print.rs", "edge/src/print.rs"];
    only_in(path, code, &homes, &words, "writes to the terminal: cli::print alone does")
}

fn sizes(path: &str, code: &Code) -> Vec<Fault> {
    let mut faults = Vec::new();
    let lines = code.line_count();
    let limit = if path.ends_with("/main.rs") { MAX_MAIN } else { MAX_FILE };
    if lines > limit {
        let why = format!("{lines} lines, at most {limit}: look for the second idea inside");
        faults.push(fault(path, limit + 1, why));
    }
    for (line, name, length) in code.functions() {
        if length > MAX_FUNCTION {
            let why = format!("function {name} has {length} lines, at most {MAX_FUNCTION}");
            faults.push(fault(path, line, why));
        }
    }
    faults
}

/// `expect` may stand under an attribute that allows it, with its reason as its text; `unwrap` never.
fn panics(path: &str, code: &Code) -> Vec<Fault> {
    let mut faults = Vec::new();
    for word in [".unwrap(", ".unwrap_err("] {
        faults.extend(code.words(word).map(|line| fault(path, line, format!("{word}) outside tests"))));
    }
    for line in code.words(".expect(").chain(code.words(".expect_err(")) {
        if !code.allows_expect_near(line) {
            faults.push(fault(path, line, ".expect( without #[allow(clippy::expect_used)]"));
        }
    }
    faults
}

fn check(path: &str, text: &str) -> Vec<Fault> {
    let code = Code::read(text);
    RULES.iter().flat_map(|(_, rule)| rule(path, &code)).collect()
}

/// Every source file of the library and the edge: path from the root of the repository, text.
fn sources() -> Vec<(String, String)> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<(String, String)>) {
        let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(root, &path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "edge/src"] {
        walk(root, &root.join(folder), &mut found);
    }
    assert!(found.len() > 40, "the sources were not found: {}", found.len());
    found
}

/// Files and folders that a `#[cfg(test)] mod name;` somewhere declares.
fn test_files(sources: &[(String, String)]) -> BTreeSet<String> {
    let declared = |(path, text): &(String, String)| {
        let stem = path.strip_suffix(".rs").unwrap_or(path);
        let folder = match stem.rsplit_once('/') {
            Some((folder, "mod" | "lib" | "main")) => folder.to_owned(),
            _ => stem.to_owned(),
        };
        let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let modules = Code::read(text).test_modules.into_iter().map(|module| match module {
            TestModule::Usual(name) => format!("{folder}/{name}"),
            TestModule::Beside(name) => format!("{beside}/{name}"),
        });
        modules.collect::<Vec<_>>()
    };
    sources.iter().flat_map(declared).collect()
}

#[test]
fn the_source_keeps_to_the_architecture() {
    let sources = sources();
    let tests = test_files(&sources);
    let is_test = |path: &str| {
        tests.iter().any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")))
    };
    let code = sources.iter().filter(|(path, _)| !is_test(path));
    let faults: Vec<String> =
        code.flat_map(|(path, text)| check(path, text)).map(|fault| fault.to_string()).collect();
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// A broken rule: where it is planted, what, and the line and words of the report.
struct Planted {
    path: &'static str,
    text: String,
    line: usize,
    says: &'static str,
}

fn planted(path: &'static str, text: impl Into<String>, line: usize, says: &'static str) -> Planted {
    Planted { path, text: text.into(), line, says }
}

fn long_function(lines: usize) -> String {
    format!("\nfn long() {{\n{}}}\n", "    work();\n".repeat(lines - 2))
}

#[test]
fn every_rule_finds_what_breaks_it() {
    let cases = [
        planted("src/wire/x.rs", "\nuse crate::mesh::Mesh;\n", 2, "wire must not use mesh"),
        planted("src/mesh/x.rs", "use crate::rt::clock;", 1, "mesh must not use rt"),
        planted("src/mesh/mod.rs", "use super::identity;", 1, "mesh must not use identity"),
        planted("src/mesh/a/b.rs", "fn f() {\n super::super::super::store::x() }", 2, "must not use store"),
        planted("src/link/quic.rs", "use crate::{wire::ids, mesh::Mesh};", 1, "link must not use mesh"),
        planted("src/rt/x.rs", "use crate::wire::ids;", 1, "rt must not use wire"),
        planted("src/identity/x.rs", "use crate::rt::clock;", 1, "identity must not use rt"),
        planted("src/store/x.rs", "\n\nuse crate::link;", 3, "store must not use link"),
        planted("src/gateway/x.rs", "use crate::{\n    store,\n    wire,\n};", 2, "must not use store"),
        planted("src/gateway/x.rs", "use crate::node::Handle;", 1, "gateway must not use node"),
        planted("src/gateway/x.rs", "use crate::link::{Handle, quic};", 1, "the carrier quic"),
        planted("src/gateway/x.rs", "use crate::link;\nfn f() { link::dial::keep() }", 2, "the carrier dial"),
        planted("src/node/x.rs", "use crate::gateway::hub;", 1, "node must not use gateway"),
        planted("src/admin/x.rs", "use crate::config::node::Config;", 1, "the whole configuration"),
        planted("src/novel/x.rs", "use crate::wire;", 1, "module novel has no line"),
        planted("edge/src/x.rs", "use trishula::mesh::Mesh;", 1, "edge must not use mesh"),
        planted("edge/src/x.rs", "use trishula::client::Client;", 1, "edge must not use client"),
        planted("edge/src/x.rs", "use trishula::config::node;", 1, "the whole configuration"),
        planted("src/mesh/x.rs", "\nlet t = std::time::Instant::now();", 2, "mesh is pure: no Instant"),
        planted("src/mesh/x.rs", "use std::collections::{BTreeMap, HashMap};", 1, "no HashMap"),
        planted("src/mesh/x.rs", "let seen: HashSet<u8>;", 1, "mesh is pure: no HashSet"),
        planted("src/wire/x.rs", "use tokio::sync::mpsc;", 1, "wire is pure: no tokio"),
        planted("src/wire/x.rs", "let n: u8 = rand::random();", 1, "wire is pure: no rand"),
        planted("src/mesh/x.rs", "std::fs::read(p);", 1, "mesh is pure: no std::fs"),
        planted("src/mesh/x.rs", "async fn f() {}", 1, "mesh is pure: no async"),
        planted("src/wire/x.rs", "println!(\"x\");", 1, "wire is pure: no println!"),
        planted(
            "src/link/x.rs",
            "fn f() {\n    tokio::spawn(work());\n}",
            2,
            "tokio::spawn is for rt::tasks",
        ),
        planted("edge/src/x.rs", "tokio::task::spawn(work());", 1, "task::spawn is for rt::tasks"),
        planted("src/node/x.rs", "let t = tokio::time::Instant::now();", 1, "Instant::now reads a clock"),
        planted("src/node/x.rs", "began.elapsed()", 1, "reads a clock"),
        planted("src/identity/x.rs", "OffsetDateTime::now_utc()", 1, "now_utc reads a clock"),
        planted("src/rt/x.rs", "#[cfg(target_os = \"macos\")]\nfn f() {}", 1, "target_os is asked"),
        planted("src/link/x.rs", "\n".repeat(501), 501, "501 lines, at most 500"),
        planted("src/main.rs", "\n".repeat(41), 41, "41 lines, at most 40"),
        planted("src/link/x.rs", long_function(71), 2, "function long has 71 lines"),
        planted("src/link/x.rs", "let x = y\n    .unwrap();", 2, ".unwrap() outside tests"),
        planted("src/link/x.rs", "y.expect(\"no reason\");", 1, ".expect( without"),
        planted("src/daemon.rs", "println!(\"x\");", 1, "println! writes to the terminal"),
        planted("src/mesh/x.rs", "#[cfg(test)]\nmod tests;\nuse tokio::net;", 3, "mesh is pure: no tokio"),
    ];
    for case in cases {
        let found: Vec<String> = check(case.path, &case.text).iter().map(Fault::to_string).collect();
        let expected = format!("{}:{}: ", case.path, case.line);
        let hit = found.iter().any(|fault| fault.starts_with(&expected) && fault.contains(case.says));
        assert!(hit, "{:?} in {} gave {found:?}", case.text, case.path);
    }
}

#[test]
fn what_is_allowed_is_let_through() {
    let fine = [
        ("src/mesh/x.rs", "use crate::wire::ids;\n// HashMap, tokio::spawn: words in a comment\n".to_owned()),
        ("src/wire/x.rs", "let s = \"Instant::now() tokio\"; let r = r#\"HashMap \"rand\" \"#;".to_owned()),
        ("src/wire/x.rs", "let operand = brand(x); let c = '\"'; fn f<'a>(x: &'a str) {}".to_owned()),
        (
            "src/mesh/x.rs",
            "fn a() {}\n#[cfg(test)]\nmod tests { use tokio::x; fn f() { g.unwrap() } }".to_owned(),
        ),
        ("src/link/x.rs", format!("{}#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(490), "\n".repeat(99))),
        ("src/link/x.rs", long_function(70)),
        ("src/link/x.rs", "#[allow(clippy::expect_used)]\nlet x = y.expect(\"a constant\");".to_owned()),
        ("src/link/x.rs", "x.unwrap_or_default(); y.unwrap_or(1)".to_owned()),
        ("src/gateway/enrol.rs", "use crate::node::Handle;".to_owned()),
        ("src/rt/tasks.rs", "tokio::spawn(work)".to_owned()),
        ("src/rt/clock.rs", "Instant::now()".to_owned()),
        ("src/cli/print.rs", "println!()".to_owned()),
        ("src/daemon.rs", "use crate::config::node::Config;".to_owned()),
        ("edge/src/x.rs", "use trishula::gateway::hub; use crate::socket;".to_owned()),
    ];
    for (path, text) in fine {
        let found: Vec<String> = check(path, &text).iter().map(Fault::to_string).collect();
        assert!(found.is_empty(), "{path}: {text:?} gave {found:?}");
    }
}
