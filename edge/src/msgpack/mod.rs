//! Frames of our protocol as MessagePack, for clients that chose the subprotocol `trishula.v2+msgpack`
//! (docs/protocol.md, MessagePack). They are turned into JSON where they enter and back where they leave, so the session
//! between, and everybody else, knows nothing of it.
//!
//! JSON has no bytes. A `bin` travels as a string in base64, and the frame says in its field `bin` where, as JSON Pointers
//! (RFC 6901); a recipient that speaks MessagePack gets bytes again.
//!
//! | file | what is in it |
//! |---|---|
//! | [`decode`] | MessagePack → JSON; what it refuses |
//! | [`encode`] | JSON → MessagePack |
//! | [`carrier`] | both, around a session's WebSocket |

pub mod carrier;
pub mod decode;
pub mod encode;
#[cfg(test)]
mod tests;

/// The subprotocol.
pub const SUBPROTOCOL: &str = "trishula.v2+msgpack";
/// The field that says where base64 stands for bytes.
const BIN: &str = "bin";
/// So many of them in a frame at most.
const MAX_BIN: usize = 1024;

/// One more step of a JSON Pointer (RFC 6901 section 3).
fn push_step(path: &mut String, step: &str) {
    path.push('/');
    for character in step.chars() {
        match character {
            '~' => path.push_str("~0"),
            '/' => path.push_str("~1"),
            other => path.push(other),
        }
    }
}
