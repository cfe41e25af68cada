//! The program `trishula-edge`; everything is in the library.

fn main() -> std::process::ExitCode {
    trishula_edge::cli::main()
}
