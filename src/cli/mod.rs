//! The command line: one file a command; `print` alone writes to the terminal.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage, 64 bad configuration.

mod agents;
mod cert;
mod check;
mod common;
mod dlq;
mod findings;
mod init;
mod invite;
mod join;
mod layout;
mod listen;
mod ping;
mod print;
mod publish;
mod request;
mod run;
mod send;
mod show;
mod status;
mod store;
mod subscribe;
mod takeover;
mod talk;
mod token;
mod trace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The program's exit codes; 0 is success, and 2 (wrong usage) is clap's.
const FAILED: u8 = 1;
const BAD_CONFIGURATION: u8 = 64;
/// Of commands whose 1 is an answer.
const CANNOT_ASK: u8 = 2;

#[derive(Debug, Parser)]
#[command(
    name = "trishula",
    version,
    about = "A message mesh for a handful of machines and the agents that live on them",
    after_help = EXAMPLES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  trishula init                             make a mesh of three machines, one folder each
  trishula run --config /etc/trishula/node.toml
  trishula status                           is the mesh whole?
  trishula request agni.planner '{\"job\":\"report\"}'

Exit codes: 0 done, 1 failed, 2 wrong usage, 64 bad configuration.
Configuration: flags win over TRISHULA_<SECTION>_<KEY> in the environment, and that over the file.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this machine's node until it is told to stop
    Run(run::Args),
    /// Make a new mesh: its CA, and a folder with all that each machine needs
    Init(init::Args),
    /// Make a ticket with which one more machine may join
    Invite(invite::Args),
    /// Join a mesh with a ticket
    Join(join::Args),
    /// Show, check, renew, revoke and issue certificates
    #[command(subcommand)]
    Cert(cert::Command),
    /// Check everything that `run` needs, without running
    Check(check::Args),
    /// Tokens with which clients come in at an edge
    Token(token::Args),
    /// Send one message
    Send(send::Args),
    /// Show messages as they come in
    Listen(listen::Args),
    /// Publish one message in a room
    Publish(publish::Args),
    /// Show what is published in a room, as it comes
    Subscribe(subscribe::Args),
    /// Send a COMMAND, wait for its RESULT and print it
    Request(request::Args),
    /// Measure the way to an agent or a node
    Ping(ping::Args),
    /// Show how this node and the mesh stand
    Status(status::Args),
    /// Show the agents that the mesh knows
    Agents(agents::Args),
    /// Look at this machine's store, change its version, save what a damaged one has
    #[command(subcommand)]
    Store(store::Command),
    /// Show where a message stands
    Show(show::Args),
    /// Show the way that a message took, with times
    Trace(trace::Args),
    /// Messages that died: list, show, retry, drop
    #[command(subcommand)]
    Dlq(dlq::Command),
    /// Go on with the messages of a node that stays away
    Takeover(takeover::Args),
}

/// It did not work, and why was said already.
#[derive(Debug, thiserror::Error)]
#[error("see above")]
pub(crate) struct Said;

/// The node can't be asked, where that is another thing than a negative answer.
#[derive(Debug, thiserror::Error)]
#[error("the node of this machine can't be asked")]
pub(crate) struct CannotAsk;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return wrong_usage(&error),
    };
    match cli.command.run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<print::ReaderGone>() => ExitCode::SUCCESS,
        Err(error) if error.is::<Said>() => ExitCode::from(FAILED),
        Err(error) => match error.downcast::<clap::Error>() {
            Ok(usage) => wrong_usage(&usage),
            Err(error) => {
                print::error(&error);
                ExitCode::from(code_of(&error))
            }
        },
    }
}

/// Help goes to stdout and an error to stderr; a reader that has gone needs neither.
fn wrong_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(FAILED))
}

impl Command {
    fn run(self) -> anyhow::Result<()> {
        match self {
            Command::Run(args) => args.run(),
            Command::Init(args) => args.run(),
            Command::Invite(args) => args.run(),
            Command::Join(args) => args.run(),
            Command::Cert(command) => command.run(),
            Command::Check(args) => args.run(),
            Command::Token(args) => args.run(),
            Command::Send(args) => args.run(),
            Command::Listen(args) => args.run(),
            Command::Publish(args) => args.run(),
            Command::Subscribe(args) => args.run(),
            Command::Request(args) => args.run(),
            Command::Ping(args) => args.run(),
            Command::Status(args) => args.run(),
            Command::Agents(args) => args.run(),
            Command::Store(command) => command.run(),
            Command::Show(args) => args.run(),
            Command::Trace(args) => args.run(),
            Command::Dlq(command) => command.run(),
            Command::Takeover(args) => args.run(),
        }
    }
}

fn code_of(error: &anyhow::Error) -> u8 {
    let bad = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<crate::config::Error>() || cause.is::<crate::rt::logging::Error>()
    };
    let bad = error.chain().any(bad);
    match error.is::<CannotAsk>() {
        _ if bad => BAD_CONFIGURATION,
        true => CANNOT_ASK,
        false => FAILED,
    }
}
