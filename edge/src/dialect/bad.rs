//! Clients that send one bad frame after the other. Each is answered as the dialect has it; past a limit the connection ends.

use trishula::wire::close::CloseCode;

use super::step::{Note, Steps};

/// So many bad frames in a row, with none that could be read between them, end a connection. Clients of old that are wrong here
/// and there are borne with: their servers never closed for it.
pub const MAX_IN_A_ROW: u32 = 1_000;
/// The close's reason.
pub const REASON: &str = "Too many bad messages";

/// Bad frames of one client since the last good one.
#[derive(Debug, Default)]
pub struct BadFrames(u32);

impl BadFrames {
    /// A frame could be read.
    pub fn good(&mut self) {
        self.0 = 0;
    }

    /// One could not. How the connection ends, if that was one too many, which is noted.
    pub fn bad(&mut self, out: &mut Steps) -> Option<(CloseCode, &'static str)> {
        self.0 += 1;
        if self.0 < MAX_IN_A_ROW {
            return None;
        }
        out.note(Note::BadFrames);
        Some((CloseCode::PolicyViolation, REASON))
    }
}
