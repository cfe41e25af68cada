//! ERROR frames in which the mesh itself speaks to a client of our own protocol: what one says, and the one that is said here.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use trishula::rt::clock;
use trishula::wire::client::{ErrorPayload, MESH, ServerFrame};
use trishula::wire::close::{Code, Refusal};
use trishula::wire::ids::MessageId;

use crate::dialect::Ids;
use crate::dialect::ids::Random;

/// A frame that refuses something.
#[derive(Deserialize)]
pub(super) struct Spoken<'a> {
    #[serde(borrow, default)]
    from: Option<Cow<'a, str>>,
    /// Where a frame of an older dialect has its code.
    #[serde(borrow, default)]
    pub(super) error_code: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
}

/// What the mesh itself refuses.
#[derive(Deserialize)]
pub(super) struct About<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
    #[serde(borrow, default)]
    frame: Option<Cow<'a, str>>,
}

impl<'a> Spoken<'a> {
    /// `None`: it is none.
    pub(super) fn read(frame: &'a [u8]) -> Option<Spoken<'a>> {
        serde_json::from_slice(frame).ok()
    }

    /// Whether an agent speaks. Its ERROR is a message like any other, whatever it says.
    pub(super) fn of_agent(&self) -> bool {
        self.from.as_deref().is_some_and(|from| from != MESH)
    }

    /// What the mesh itself says by it. `None`: somebody else speaks.
    pub(super) fn of_mesh(&self) -> Option<About<'a>> {
        (self.from.as_deref() == Some(MESH)).then_some(())?;
        serde_json::from_str(self.payload?.get()).ok()
    }
}

impl About<'_> {
    /// Whether a token is no good.
    pub(super) fn refuses_token(&self) -> bool {
        self.frame.as_deref() == Some("AUTH") && self.code.starts_with("token_")
    }

    /// The word of docs/protocol.md for it, or that of the older servers' own metrics.
    pub(super) fn word(&self) -> Option<&'static str> {
        Some(match Code::ALL.iter().find(|known| known.as_str() == self.code)? {
            Code::BadFrame | Code::UnknownType => "decode_error",
            Code::RateLimited => "rate_limit",
            known => known.as_str(),
        })
    }
}

#[derive(Default, Deserialize)]
struct Named {
    #[serde(default)]
    id: Value,
}

/// The answer to an AUTH whose token is not looked at for so long.
pub(super) fn not_now(auth: &[u8], refusal: &Refusal, wait: Duration) -> Bytes {
    let named: Named = serde_json::from_slice(auth).unwrap_or_default();
    let reply_to = named.id.as_str().filter(|id| MessageId::new(id).is_ok());
    let retry_after_ms = Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1));
    let payload = ErrorPayload { frame: Some("AUTH".into()), retry_after_ms, ..ErrorPayload::from(refusal) };
    text(&ServerFrame {
        kind: "ERROR",
        from: MESH,
        to: "",
        id: &Random.next_id(),
        timestamp: clock::wall_ms(),
        reply_to,
        payload,
        priority: 3,
    })
}

fn text(frame: &impl Serialize) -> Bytes {
    // Strings and numbers: there is nothing that serde could refuse.
    serde_json::to_vec(frame).map(Bytes::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_mesh_itself_refuses_a_token() {
        // covers B09, B14
        let payload = r#""payload":{"code":"token_expired","frame":"AUTH"}}"#;
        let refuses = |head: &str| {
            let frame = format!("{{\"type\":\"ERROR\",{head}{payload}");
            let read = Spoken::read(frame.as_bytes()).and_then(|spoken| spoken.of_mesh());
            read.is_some_and(|about| about.refuses_token())
        };
        assert!(refuses(r#""from":"mesh","to":"bob","#) && refuses(r#""from":"m\u0065sh","#));
        for head in ["", r#""from":"mallory","#, r#""from":"mesh","from":"mallory","#, r#""from":null,"#] {
            assert!(!refuses(head), "{head}");
        }
        // Another frame that was refused, or another reason.
        for payload in [r#"{"code":"token_expired"}"#, r#"{"code":"forbidden","frame":"AUTH"}"#, "1"] {
            let frame = format!(r#"{{"type":"ERROR","from":"mesh","payload":{payload}}}"#);
            let read = Spoken::read(frame.as_bytes()).and_then(|spoken| spoken.of_mesh());
            assert!(!read.is_some_and(|about| about.refuses_token()), "{frame}");
        }
    }
}
