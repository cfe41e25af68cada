//! `trishula-edge run|check|reload`. Exit codes: 0 done, 1 failed, 2 wrong usage, 64 bad configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use serde_json::json;
use trishula::rt::{logging, signals};

use crate::config::EdgeConfig;
use crate::front::expiry;
use crate::front::reload::{Report, Source};
use crate::prepare::Prepared;
use crate::{config, front, prepare, print, run, taken};

const FAILED: u8 = 1;
const BAD_CONFIGURATION: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  trishula-edge check --config /etc/trishula/edge.toml
  trishula-edge run   --config /etc/trishula/edge.toml
  trishula-edge run   --log-level debug
  trishula-edge reload

Exit codes: 0 done, 1 failed, 2 wrong usage, 64 bad configuration.
Configuration: flags win over TRISHULA_<SECTION>_<KEY> in the environment, and that over the file.";

#[derive(Debug, Parser)]
#[command(
    name = "trishula-edge",
    version,
    about = "The WebSocket front of a Trishula node",
    after_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve clients until told to stop (SIGTERM, Ctrl-C)
    Run(RunArgs),
    /// Say whether `run` would start: configuration, log, secrets, certificates, ports. A certificate that has ended fails it, one
    /// that ends within 30 days is a warning
    Check(CheckArgs),
    /// Have the running edge read its configuration again, and say what changed; certificates and secrets as well
    Reload(ReloadArgs),
}

#[derive(Debug, Args)]
struct RunArgs {
    /// The configuration
    #[arg(long, value_name = "PATH", default_value_os_t = config::default_path())]
    config: PathBuf,
    /// Overrides `log.level`
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// The configuration
    #[arg(long, value_name = "PATH", default_value_os_t = config::default_path())]
    config: PathBuf,
    /// Do not try the ports: an edge with this configuration is running
    #[arg(long)]
    running: bool,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ReloadArgs {
    /// The configuration that the edge runs with: its `metrics.listen` is asked
    #[arg(long, value_name = "PATH", default_value_os_t = config::default_path())]
    config: PathBuf,
    /// The result as one JSON object
    #[arg(long)]
    json: bool,
}

/// Why the program failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Config(#[from] trishula::config::Error),
    #[error("{0}")]
    Log(#[from] logging::Error),
    #[error("{0}")]
    Start(#[from] prepare::Error),
    #[error("{}", .0.join("\n  "))]
    Ended(Vec<String>),
    #[error("the runtime could not be started: {0}")]
    Runtime(std::io::Error),
    #[error("{0}")]
    Reload(#[from] front::asking::Error),
    #[error("nothing was changed:\n  {}", .0.join("\n  "))]
    NotLive(Vec<String>),
    #[error("nothing was changed: {0}")]
    NotTaken(String),
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Config(_) | Failure::Log(_) | Failure::Ended(_) | Failure::NotTaken(_) => {
                BAD_CONFIGURATION
            }
            Failure::Start(e) if e.is_configuration() => BAD_CONFIGURATION,
            Failure::Start(_) | Failure::Runtime(_) | Failure::Reload(_) | Failure::NotLive(_) => FAILED,
        }
    }
}

/// The program.
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run_command(&args),
        Command::Check(args) => check_command(&args),
        Command::Reload(args) => reload_command(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            print::error(&failure);
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run_command(args: &RunArgs) -> Result<(), Failure> {
    let level =
        args.log_level.iter().map(|level| ("log.level".to_owned(), toml::Value::from(level.as_str())));
    let overrides: Vec<_> = level.collect();
    let source = Source::new(args.config.clone(), overrides.clone());
    let config = EdgeConfig::load(&args.config, std::env::vars(), overrides)?;
    let _log = config.log.start()?;
    runtime(config.edge.threads)?
        .block_on(async { Ok(run::run(&config, source, signals::stop_requested()).await?) })
}

fn reload_command(args: &ReloadArgs) -> Result<(), Failure> {
    let config = EdgeConfig::load(&args.config, std::env::vars(), Vec::new())?;
    let report = runtime(1)?.block_on(front::asking::reload(config.metrics.listen))?;
    if args.json {
        print::line(&serde_json::to_string(&report).unwrap_or_default());
    }
    match report {
        Report::Refused { reasons } => return Err(Failure::NotLive(reasons)),
        Report::Bad { why } => return Err(Failure::NotTaken(why)),
        _ if args.json => {}
        Report::Unchanged => {
            print::line("nothing has changed; certificates, secrets and keys were read again")
        }
        Report::Changed { changes } => {
            print::line("changed, for new connections:");
            changes.iter().for_each(|change| print::line(&format!("  {change}")));
        }
    }
    Ok(())
}

fn check_command(args: &CheckArgs) -> Result<(), Failure> {
    let mut config = EdgeConfig::load(&args.config, std::env::vars(), Vec::new())?;
    config.log.check()?;
    let services = prepare::services(&config)?;
    let bundle = prepare::bundle(&config)?;
    prepare::outward(&config)?;
    let ended: Vec<String> = services.iter().filter_map(ended).collect();
    if !ended.is_empty() {
        return Err(Failure::Ended(ended));
    }
    if !args.running {
        let own = runtime(1)?.block_on(taken::try_ports(&config))?;
        if !own.is_empty() {
            let own: Vec<String> = own.iter().map(ToString::to_string).collect();
            config.notes.push(format!("this edge is running, and has {}", own.join(", ")));
        }
    }
    if args.json {
        let services: Vec<_> = services
            .iter()
            .map(|s| json!({ "name": s.section.name, "listen": s.section.listen, "certificate_days_left": days_left(s) }))
            .collect();
        let warnings: Vec<String> = config.warnings().collect();
        let identity = bundle.name.to_string();
        print::line(
            &json!({ "good": true, "identity": identity, "services": services, "notes": config.notes, "warnings": warnings })
                .to_string(),
        );
        return Ok(());
    }
    print::line(&format!("{}: good; identity {}", args.config.display(), bundle.name));
    for note in &config.notes {
        print::line(&format!("  note: {note}"));
    }
    for warning in config.warnings() {
        print::line(&format!("  WARNING: {warning}"));
    }
    for service in services {
        let section = &service.section;
        let listen: Vec<String> = section.listen.iter().map(ToString::to_string).collect();
        let certificate = match days_left(&service) {
            Some(days) if days < expiry::WARNING_DAYS => {
                format!("; WARNING: its certificate ends in {days} days: {}", expiry::REMEDY)
            }
            Some(days) => format!("; certificate good for {days} days"),
            None => String::new(),
        };
        print::line(&format!("  service {} on {}{certificate}", section.name, listen.join(", ")));
    }
    Ok(())
}

fn days_left(service: &Prepared) -> Option<i64> {
    expiry::days_left(service.tls.as_ref()?.certificate())
}

/// Says of a certificate that has ended which it is, and what to do. `run` serves with it all the same: not every client
/// verifies it, and other services have theirs.
fn ended(service: &Prepared) -> Option<String> {
    let days = days_left(service).filter(|days| *days < 0)?;
    let path = service.tls.as_ref()?.certificate().paths().0.display();
    let name = &service.section.name;
    Some(format!("service {name}: the certificate in {path} ended {} days ago: {}", -days, expiry::REMEDY))
}

/// One thread is measured best on small machines: fewer hand-overs beat more parallelism.
fn runtime(threads: usize) -> Result<tokio::runtime::Runtime, Failure> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads);
    }
    builder.enable_all().build().map_err(Failure::Runtime)
}
