//! What goes into a dialect and what comes out of it.

use std::time::Duration;

use bytes::Bytes;
use trishula::wire::close::CloseCode;

/// The time, as whoever drives a dialect tells it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// By a clock that never goes back, for intervals.
    pub micros: u64,
    /// By the wall clock, milliseconds since the epoch: for what a client is shown.
    pub wall_ms: u64,
}

impl Now {
    /// When `wait` will be over, in [`Now::micros`].
    pub fn after(self, wait: Duration) -> u64 {
        self.micros.saturating_add(u64::try_from(wait.as_micros()).unwrap_or(u64::MAX))
    }
}

/// Where ids come from: UUIDs of version 4 (RFC 9562), as clients expect them.
pub trait Ids: Send {
    /// One that was never given before.
    fn next_id(&mut self) -> String;
}

/// How fast a client may be.
pub trait Pace: Send {
    /// Takes one frame of so many bytes at this time, in [`Now::micros`].
    ///
    /// # Errors
    ///
    /// It is one too many; with the time after which the next one may come.
    fn take(&mut self, micros: u64, bytes: usize) -> Result<(), Duration>;
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A frame of our protocol for the session.
    ToSession(Bytes),
    /// A frame of the dialect for the client.
    ToClient(Bytes),
    /// The connection ends so. Nothing follows.
    Close(CloseCode, String),
    /// Something for counts and the log.
    Note(Note),
}

/// What a dialect has seen that an operator may want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Note {
    /// A frame that could not be read.
    DecodeError,
    /// A token was refused.
    AuthFailed,
    /// No token came.
    AuthRequired,
    /// A token was refused that was to replace the one that the client is in with; it stays.
    RefreshFailed,
    /// Something the client may not do.
    Forbidden,
    /// A request that the service does not have, or without its arguments.
    BadRequest,
    /// What is to be a name of a room, an agent or a message, and can't be one.
    BadName,
    /// A frame over the rate.
    RateLimited,
    /// A frame that has no effect in this dialect.
    Ignored,
    /// A message to this client alone of an agent that is not its service; it is dropped. The client has no part in it.
    NotOfService,
    /// Something for the client that does not fit into a frame of its.
    TooLarge,
    /// A request that nobody answered in time.
    Unanswered,
    /// A room that the mesh could not give now; it is asked for again.
    Held,
    /// More under way than is kept.
    Full,
    /// So many bad frames in a row that the connection ends.
    BadFrames,
}

impl Note {
    /// Whether it is worth a line with the client's address.
    pub fn is_odd(self) -> bool {
        self.is_login()
            || matches!(self, Note::DecodeError | Note::Forbidden | Note::BadName | Note::RateLimited)
            || matches!(self, Note::RefreshFailed | Note::Full | Note::BadFrames)
    }

    /// Whether it is a login that came to nothing, with which the connection ends.
    pub fn is_login(self) -> bool {
        matches!(self, Note::AuthFailed | Note::AuthRequired)
    }

    /// The word for metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Note::DecodeError => "decode_error",
            Note::AuthFailed | Note::RefreshFailed => "auth_failed",
            Note::AuthRequired => "auth_required",
            Note::Forbidden => "forbidden",
            Note::BadRequest => "bad_request",
            Note::BadName => "bad_name",
            Note::RateLimited => "rate_limit",
            Note::Ignored => "ignored",
            Note::NotOfService => "not_of_service",
            Note::TooLarge => "too_large",
            Note::Unanswered => "unanswered",
            Note::Held => "held",
            Note::Full => "full",
            Note::BadFrames => "bad_frames",
        }
    }
}

/// What is to be done, in order.
#[derive(Debug, Default)]
pub struct Steps(Vec<Step>);

impl Steps {
    /// Nothing yet.
    pub fn new() -> Steps {
        Steps::default()
    }

    /// Appends a frame for the session.
    pub fn to_session(&mut self, frame: Bytes) {
        self.0.push(Step::ToSession(frame));
    }

    /// Appends a frame for the client.
    pub fn to_client(&mut self, frame: Bytes) {
        self.0.push(Step::ToClient(frame));
    }

    /// Appends the end.
    pub fn close(&mut self, code: CloseCode, reason: impl Into<String>) {
        self.0.push(Step::Close(code, reason.into()));
    }

    /// Appends a note.
    pub fn note(&mut self, note: Note) {
        self.0.push(Step::Note(note));
    }

    /// Takes all that there is.
    pub fn take(&mut self) -> impl Iterator<Item = Step> + '_ {
        self.0.drain(..)
    }
}
