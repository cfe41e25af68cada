//! Why something is refused or closed: closed tables, the same words on every carrier.

use serde::{Deserialize, Serialize};

use super::ids::NodeName;

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident = $word:literal, retry $retry:literal, hint $hint:literal;)*) => {
        /// Why a frame, a message or a session was refused: the `code` of an `ERROR` from the mesh.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$name,)*];

            /// The word on the client's wire.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$name => $word,)* }
            }

            /// Whether the same frame may succeed later.
            pub fn retry(self) -> bool {
                match self { $(Code::$name => $retry,)* }
            }

            /// What to do about it.
            pub fn hint(self) -> &'static str {
                match self { $(Code::$name => $hint,)* }
            }
        }
    };
}

// Encoded by their place in this list: new ones go to the end.
refusals! {
    /// Not a frame: not JSON, not an object, a field of the wrong type.
    BadFrame = "bad_frame", retry false, hint "send one JSON object per message, with the fields of docs/protocol.md";
    /// A `type` that the protocol does not have.
    UnknownType = "unknown_type", retry false, hint "use COMMAND, STATUS, RESULT, ERROR, HEARTBEAT, ACK or a control frame of docs/protocol.md";
    /// An agent, namespace, room or id that is not one.
    BadName = "bad_name", retry false, hint "see the grammar of names in docs/protocol.md";
    /// Over the largest size.
    TooLarge = "too_large", retry false, hint "send less, or in pieces";
    /// Nested too deeply.
    TooDeep = "too_deep", retry false, hint "nest at most 64 levels";
    /// No token yet.
    Unauthenticated = "unauthenticated", retry false, hint "send {\"type\":\"auth\",\"token\":\"...\"} first, or an Authorization: Bearer header";
    /// A token that is not one of ours.
    TokenInvalid = "token_invalid", retry false, hint "get a token from your operator, who makes one with: trishula token issue NAME";
    /// A token whose time is over.
    TokenExpired = "token_expired", retry false, hint "get a new token from your operator, who makes one with: trishula token issue NAME";
    /// Not allowed to this identity.
    Forbidden = "forbidden", retry false, hint "ask for a token that permits it";
    /// A `from` that is not the session's own agent.
    FromMismatch = "from_mismatch", retry false, hint "leave `from` out, or REGISTER as that agent";
    /// Needs a registration first.
    NotRegistered = "not_registered", retry false, hint "send REGISTER with an agent name";
    /// No agent of this name was ever registered.
    UnknownRecipient = "unknown_recipient", retry true, hint "AGENTS lists who is known; one that registered a moment ago may not be known everywhere yet";
    /// The agent is known, and not connected, and the message is a live one: it is not kept.
    RecipientOffline = "recipient_offline", retry true, hint "send again when AGENTS shows it online, or with class: durable";
    /// No way leads to the recipient's node at the moment.
    NoRoute = "no_route", retry true, hint "send again in a few seconds; its operator sees why with: trishula status";
    /// The recipient's mailbox is full.
    MailboxFull = "mailbox_full", retry true, hint "wait until the recipient has read";
    /// A resend older than the window in which it could be recognised.
    TooOld = "too_old", retry false, hint "send it as a new message with a new id";
    /// Its time to live was over on arrival.
    Expired = "expired", retry false, hint "send it with a longer ttl_ms";
    /// Went through too many nodes.
    HopLimit = "hop_limit", retry true, hint "send again in a few seconds; its operator sees why with: trishula status";
    /// Too many in too little time.
    RateLimited = "rate_limited", retry true, hint "send slower";
    /// In the protocol, and not served by this release, or not by the node.
    Unsupported = "unsupported", retry false, hint "docs/protocol.md marks it as reserved, or the node is older than the edge: a later release serves it";
    /// Not possible at this moment.
    Unavailable = "unavailable", retry true, hint "send again in a second";
    /// A fault of ours.
    Internal = "internal", retry true, hint "see the node's log; please report it";
    /// A newer session of the same agent took over.
    TakenOver = "taken_over", retry false, hint "use one session an agent, or REGISTER with shared: true";
    /// Does not read what it is sent.
    Slow = "slow", retry true, hint "read faster, or ask for a smaller window";
    /// Answers the answer of an answer, too many times over: two agents that answer each other for ever.
    LoopStopped = "loop_stopped", retry false, hint "answer without reply_to, or break the loop between the two agents";
    /// Settled already, taken back, or never delivered to this session.
    NotInHand = "not_in_hand", retry false, hint "it was settled before, or the connection broke since: a message that was taken back comes again, marked redelivered";
    /// The recipient said no.
    Nacked = "nacked", retry false, hint "the reason is the recipient's own";
    /// A numbered message that came before and has ended, so long ago that how is not known any more.
    Duplicate = "duplicate", retry false, hint "nothing, if it was sent before; a new message has a new number, and a new count an epoch greater than every earlier one";
}

/// A code with the words for this case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message} ({word})", word = .code.as_str())]
pub struct Refusal {
    /// Which.
    pub code: Code,
    /// What was wrong and where, in one sentence.
    pub message: String,
}

/// Longest message of a refusal, in bytes: it may quote what was refused, and goes into frames and logs.
pub const MAX_REFUSAL: usize = 512;

impl Refusal {
    /// Puts the two together; what is too long is cut off.
    pub fn new(code: Code, message: impl Into<String>) -> Refusal {
        let mut message = message.into();
        if message.len() > MAX_REFUSAL {
            let mark = "…";
            let end =
                (0..=MAX_REFUSAL - mark.len()).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
            message.truncate(end);
            message.push_str(mark);
        }
        Refusal { code, message }
    }

    /// The protocol has it, and this release does not serve it.
    pub fn unserved(what: &str) -> Refusal {
        Refusal::new(Code::Unsupported, format!("{what} is not served by this release"))
    }

    /// The protocol and the entrance have it, and the node behind that does not.
    pub fn unserved_by(node: &NodeName, what: &str) -> Refusal {
        Refusal::new(Code::Unsupported, format!("node {node} does not serve {what}"))
    }
}

/// WebSocket close codes (RFC 6455 section 7.4) and ours: 4000 to 4399 come back with back-off, 4400 to
/// 4999 do not come back unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum CloseCode {
    /// Done.
    Normal = 1000,
    /// Nothing was said for long; come back when there is something to say.
    GoingAway = 1001,
    /// Broke RFC 6455.
    Protocol = 1002,
    /// Text that is not UTF-8.
    InvalidData = 1007,
    /// Refused; only in older dialects.
    PolicyViolation = 1008,
    /// A message over the largest size.
    TooBig = 1009,
    /// A fault of ours.
    Internal = 1011,
    /// The server restarts; the reason says when to come back.
    Restart = 1012,
    /// The server is full.
    TryAgainLater = 1013,
    /// No token, or one that is refused; only in the dialect of session-buddy.
    OldUnauthorized = 4001,
    /// Did not read what it was sent.
    Slow = 4008,
    /// Gave no sign of life.
    HeartbeatMissed = 4014,
    /// Kept on over its rate.
    RateLimited = 4029,
    /// Too many bad frames in a row.
    TooManyErrors = 4400,
    /// Token missing, invalid or expired.
    Unauthorized = 4401,
    /// Not allowed.
    Forbidden = 4403,
    /// No token in time.
    AuthTimeout = 4408,
    /// A newer session of the agent took over.
    TakenOver = 4409,
    /// Asks for a subprotocol that is not served.
    UnsupportedSubprotocol = 4426,
}

impl CloseCode {
    /// The number on the wire.
    pub fn number(self) -> u16 {
        self as u16
    }

    /// The close that goes with a refusal of a whole session.
    pub fn for_refusal(code: Code) -> CloseCode {
        match code {
            Code::Unauthenticated | Code::TokenInvalid | Code::TokenExpired => CloseCode::Unauthorized,
            Code::Forbidden => CloseCode::Forbidden,
            Code::TakenOver => CloseCode::TakenOver,
            Code::Slow => CloseCode::Slow,
            Code::RateLimited => CloseCode::RateLimited,
            Code::TooLarge => CloseCode::TooBig,
            Code::Unavailable | Code::NoRoute => CloseCode::TryAgainLater,
            _ => CloseCode::Internal,
        }
    }
}

/// Application close codes of a QUIC link (RFC 9000 section 19.19).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum LinkClose {
    /// The process stops.
    Stopping = 0,
    /// No certificate, or one that is not admitted.
    NotAdmitted = 1,
    /// Broke the protocol of frames.
    Protocol = 2,
    /// No version in common.
    Version = 3,
    /// A second connection of the same two; the other one is kept.
    Duplicate = 4,
    /// Superseded by a newer start of the same node.
    Superseded = 5,
    /// Revoked while connected.
    Revoked = 6,
    /// No sign of life.
    Silent = 7,
}

impl LinkClose {
    /// In one word, for metrics.
    pub fn word(self) -> &'static str {
        match self {
            LinkClose::Stopping => "stopping",
            LinkClose::NotAdmitted => "not_admitted",
            LinkClose::Protocol => "protocol",
            LinkClose::Version => "version",
            LinkClose::Duplicate => "duplicate",
            LinkClose::Superseded => "superseded",
            LinkClose::Revoked => "revoked",
            LinkClose::Silent => "silent",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_quotes_only_the_beginning_of_what_it_refuses() {
        // covers B19
        let quoted = Refusal::new(Code::BadFrame, format!("receipt: {:?}", "ä\u{1}".repeat(100_000)));
        assert!(quoted.message.len() <= MAX_REFUSAL && quoted.message.ends_with('…'), "{quoted}");
    }

    #[test]
    fn every_code_says_what_to_do() {
        // covers B19
        for code in Code::ALL {
            assert!(!code.hint().is_empty() && !code.as_str().contains(' '), "{code:?}");
        }
        assert_eq!(CloseCode::for_refusal(Code::TakenOver).number(), 4409);
    }
}
