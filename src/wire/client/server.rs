//! Frames in which the mesh itself speaks.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::MESH;
use crate::wire::close::Refusal;

/// A frame that the mesh itself sends to a client: a complete envelope, so that a client needs one type.
#[derive(Debug, Serialize)]
pub struct ServerFrame<'a, P: Serialize> {
    /// ERROR, REGISTERED, RECEIPT …
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// Always [`MESH`].
    pub from: &'a str,
    /// The session's agent; empty before it has one.
    pub to: &'a str,
    /// Of this frame.
    pub id: &'a str,
    /// Milliseconds since the epoch.
    pub timestamp: u64,
    /// The frame that this one answers.
    pub reply_to: Option<&'a str>,
    /// What is particular to this kind.
    pub payload: P,
    /// Always 3.
    pub priority: u8,
}

/// Payload of an ERROR from the mesh.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorPayload {
    /// One of the closed table.
    pub code: String,
    /// What was wrong and where.
    pub message: String,
    /// What to do about it.
    pub hint: String,
    /// Whether the same frame may succeed later.
    pub retry: bool,
    /// The type of the refused frame, where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// Not before so many milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl From<&Refusal> for ErrorPayload {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code.as_str().into(),
            message: refusal.message.clone(),
            hint: refusal.code.hint().into(),
            retry: refusal.code.retry(),
            frame: None,
            retry_after_ms: None,
        }
    }
}
