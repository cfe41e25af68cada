//! The one task that owns the mesh, and what executes its outputs.
//!
//! | file | what is in it |
//! |---|---|
//! | [`task`] | the loop: one inbox, then send, then persist, then answer |
//! | `calls` | answers that somebody waits for |
//! | [`handle`] | what the rest of the program may ask the node task |
//! | [`status`] | the answers, as `--json` shows them |
//! | [`records`] | where messages stand, dead letters, traces: what the disks know |

mod calls;
pub mod handle;
pub mod records;
pub mod status;
pub mod task;

pub use handle::{CallError, Handle};
pub use task::{Addresses, Disk, Question, Settings, Started, start};
