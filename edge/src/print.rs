//! The one place of this program that writes to the terminal.

use std::io::Write;

/// A line of a command's result.
pub fn line(text: &str) {
    // A reader that has gone needs no more lines.
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Why the program ends.
pub fn error(why: &dyn std::fmt::Display) {
    // Nothing can be done where even the error has nowhere to go.
    let _ = writeln!(std::io::stderr(), "trishula-edge: {why}");
}
