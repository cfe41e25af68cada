//! Frames for the client.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Mcp;
use super::envelope::{Beside, Empty, Out, Type, iso};
use crate::dialect::MAX_FRAME;
use crate::dialect::step::{Note, Now, Steps};

/// Longest text of an error that is not ours, in bytes.
const MAX_TEXT: usize = 1024;
/// The event that older servers did not have. Their clients pass over events that they do not know.
const MISSED: &str = "subscription.missed";

/// An error's `error_code`.
pub(super) mod code {
    pub(in crate::dialect::mcp) const AUTH_FAILED: &str = "AUTH_FAILED";
    pub(in crate::dialect::mcp) const AUTH_REQUIRED: &str = "AUTH_REQUIRED";
    pub(in crate::dialect::mcp) const DECODE_ERROR: &str = "DECODE_ERROR";
    pub(in crate::dialect::mcp) const FORBIDDEN: &str = "FORBIDDEN";
    pub(in crate::dialect::mcp) const INTERNAL_ERROR: &str = "INTERNAL_ERROR";
    pub(in crate::dialect::mcp) const INVALID_CHANNEL: &str = "INVALID_CHANNEL";
    pub(in crate::dialect::mcp) const RATE_LIMIT_EXCEEDED: &str = "RATE_LIMIT_EXCEEDED";
    pub(in crate::dialect::mcp) const REQUEST_ERROR: &str = "REQUEST_ERROR";
    pub(in crate::dialect::mcp) const SERVER_ERROR: &str = "SERVER_ERROR";
    pub(in crate::dialect::mcp) const UNKNOWN_REQUEST: &str = "UNKNOWN_REQUEST";
}

#[derive(Serialize)]
struct Welcome<'a> {
    connection_id: &'a str,
    server: &'a str,
    message: &'a str,
    authenticated: bool,
    secure: bool,
    tls_mode: &'a str,
    rate_limit: u32,
}

/// `data` of an answer about a channel or a user.
#[derive(Serialize)]
pub(super) struct Status<'a> {
    pub(super) status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) user_id: Option<&'a str>,
}

/// `data` of [`MISSED`].
#[derive(Serialize)]
struct Missed<'a> {
    channel: &'a str,
    recovered: bool,
}

impl Mcp {
    /// Greets the client.
    pub(super) fn welcome(&mut self, now: Now, out: &mut Steps) {
        let (connection, settings) = (self.ids.next_id(), self.settings.clone());
        let service = settings.service;
        let data = Welcome {
            connection_id: &connection,
            server: &settings.server,
            message: service.message,
            authenticated: self.login.user().is_some(),
            secure: self.settings.secure,
            tls_mode: if self.settings.secure { "WSS" } else { "WS" },
            rate_limit: self.settings.rate,
        };
        let beside = Beside { message: Some(service.message), ..Beside::default() };
        let frame = Out { beside, ..self.blank(now, Type::Event, Some("session.created"), data) };
        out.to_client(frame.text());
    }

    /// Answers a request; `copies`: what of `data` stands beside it as well.
    pub(super) fn respond(
        &mut self,
        now: Now,
        to: Option<&str>,
        event: &str,
        data: impl Serialize,
        copies: Beside<'_>,
        out: &mut Steps,
    ) {
        let frame =
            Out { correlation_id: to, beside: copies, ..self.blank(now, Type::Response, Some(event), data) };
        let text = frame.text();
        if text.len() > MAX_FRAME {
            out.note(Note::TooLarge);
            let why = format!("The answer has {} bytes; at most {MAX_FRAME} can be sent", text.len());
            return self.error(now, to, code::SERVER_ERROR, &why, out);
        }
        out.to_client(text);
    }

    /// Answers with what became of a channel or a user.
    pub(super) fn respond_status(
        &mut self,
        now: Now,
        to: Option<&str>,
        event: &str,
        status: Status<'_>,
        out: &mut Steps,
    ) {
        let copies = Beside {
            status: Some(status.status),
            channel: status.channel,
            user_id: status.user_id,
            message: None,
        };
        self.respond(now, to, event, status, copies, out);
    }

    /// Sends an error.
    pub(super) fn error(&mut self, now: Now, to: Option<&str>, code: &str, message: &str, out: &mut Steps) {
        let end = (0..=MAX_TEXT.min(message.len())).rev().find(|at| message.is_char_boundary(*at));
        let message = &message[..end.unwrap_or(0)];
        let frame = Out {
            correlation_id: to,
            error_code: Some(code),
            error_message: Some(message),
            ..self.blank(now, Type::Error, None, Empty {})
        };
        out.to_client(frame.text());
    }

    /// Answers a ping.
    pub(super) fn pong(&mut self, now: Now, to: Option<&str>, out: &mut Steps) {
        let frame = Out { correlation_id: to, ..self.blank(now, Type::Pong, None, Empty {}) };
        out.to_client(frame.text());
    }

    /// Sends what was published, or was sent to this client alone.
    pub(super) fn event(&mut self, now: Now, told: Told<'_>, out: &mut Steps) {
        let text = event_text(&told);
        if text.len() > MAX_FRAME {
            out.note(Note::TooLarge);
            let room = told.room.unwrap_or("this connection");
            let why =
                format!("An event for {room} has {} bytes; at most {MAX_FRAME} can be sent", text.len());
            return self.error(now, None, code::SERVER_ERROR, &why, out);
        }
        let owes = self.owes_an_answer();
        self.held.event(now, text, owes, out);
    }

    /// Tells that events of a room may be missing here: in its place among those that came.
    pub(super) fn missed(&mut self, now: Now, channel: &str, out: &mut Steps) {
        let data = Missed { channel, recovered: false };
        let frame = Out { room: Some(channel), ..self.blank(now, Type::Event, Some(MISSED), data) };
        let owes = self.owes_an_answer();
        self.held.event(now, frame.text(), owes, out);
    }

    fn blank<'a, D: Serialize>(
        &mut self,
        now: Now,
        kind: Type,
        event: Option<&'a str>,
        data: D,
    ) -> Out<'a, D> {
        Out {
            id: self.ids.next_id(),
            correlation_id: None,
            kind,
            event,
            data,
            timestamp: iso(now.wall_ms),
            room: None,
            error_code: None,
            error_message: None,
            beside: Beside::default(),
        }
    }
}

/// An event for the client.
#[derive(Debug)]
pub(super) struct Told<'a> {
    pub(super) id: &'a str,
    pub(super) event: &'a str,
    pub(super) data: &'a RawValue,
    pub(super) wall_ms: u64,
    pub(super) room: Option<&'a str>,
}

/// The text of an event.
pub(super) fn event_text(told: &Told<'_>) -> Bytes {
    let frame = Out {
        id: told.id.to_owned(),
        correlation_id: None,
        kind: Type::Event,
        event: Some(told.event),
        data: told.data,
        timestamp: iso(told.wall_ms),
        room: told.room,
        error_code: None,
        error_message: None,
        beside: Beside::default(),
    };
    frame.text()
}
