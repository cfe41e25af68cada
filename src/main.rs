//! `trishula`: the node, and the command line for everything around it.

use std::process::ExitCode;

fn main() -> ExitCode {
    trishula::cli::main()
}
