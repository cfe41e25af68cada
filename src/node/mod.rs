//! The one task that owns the mesh, and what executes its outputs.
//!
//! | file | what is in it |
//! |---|---|
//! | [`handle`] | what the rest of the program may ask the node task |
//! | [`status`] | the answers, as `--json` shows them |

pub mod handle;
pub mod status;

pub use handle::{CallError, Handle};
