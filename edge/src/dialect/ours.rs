//! Frames of our own protocol (docs/protocol.md), as a client writes and reads them.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use trishula::wire::client::{MESH, Timestamp};

/// The agent that answers for a service; its address is `NAMESPACE/service`.
pub const SERVICE_AGENT: &str = "service";

/// A frame for the session.
#[derive(Debug, Serialize)]
pub(super) struct Say<'a, P: Serialize> {
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<&'a str>,
    pub(super) payload: P,
}

impl<'a, P: Serialize> Say<'a, P> {
    /// A control frame.
    pub(super) fn control(kind: &'a str, id: &'a str, payload: P) -> Say<'a, P> {
        Say { kind, to: None, id: Some(id), class: None, receipt: None, payload }
    }

    /// A frame for a room.
    pub(super) fn room(kind: &'a str, room: &str, id: &'a str, payload: P) -> Say<'a, P> {
        Say { to: Some(format!("room:{room}")), ..Say::control(kind, id, payload) }
    }

    pub(super) fn text(&self) -> Bytes {
        text(self)
    }
}

/// The JSON text of something that always has one.
pub(super) fn text(of: &impl Serialize) -> Bytes {
    // Strings, numbers and raw text: there is nothing that serde could refuse.
    serde_json::to_vec(of).map(Bytes::from).unwrap_or_default()
}

/// A frame of the session's.
#[derive(Debug, Deserialize)]
pub(super) struct Said<'a> {
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) from: String,
    #[serde(default)]
    pub(super) to: String,
    #[serde(default)]
    pub(super) id: String,
    #[serde(default)]
    pub(super) reply_to: Option<String>,
    #[serde(default)]
    pub(super) timestamp: Timestamp,
    #[serde(default, borrow)]
    pub(super) payload: Option<&'a RawValue>,
}

impl<'a> Said<'a> {
    /// `None`: nothing that a session says.
    pub(super) fn read(frame: &'a [u8]) -> Option<Said<'a>> {
        serde_json::from_slice(frame).ok()
    }

    /// Whether the mesh itself speaks.
    pub(super) fn of_mesh(&self) -> bool {
        self.from == MESH
    }

    /// The room that it was published in.
    pub(super) fn room(&self) -> Option<&str> {
        self.to.split_once("room:").map(|(_, room)| room)
    }

    /// Whether the agent that answers for the service of this namespace speaks.
    pub(super) fn of_service(&self, namespace: &str) -> bool {
        let name = match self.from.split_once('/') {
            Some((given, name)) if given == namespace => name,
            Some(_) => return false,
            None => self.from.as_str(),
        };
        name == SERVICE_AGENT
    }

    /// Its payload as this; the default when it is of another form.
    pub(super) fn payload<T: Deserialize<'a> + Default>(&self) -> T {
        // A list of the values in order would pass for an object.
        self.object().and_then(|payload| serde_json::from_str(payload.get()).ok()).unwrap_or_default()
    }

    /// The payload, if it is an object.
    pub(super) fn object(&self) -> Option<&'a RawValue> {
        self.payload.filter(|payload| payload.get().starts_with('{'))
    }
}

/// Payload of ERROR.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refused {
    pub(super) code: String,
    pub(super) message: String,
    pub(super) retry_after_ms: Option<u64>,
}

/// Payload of AUTHENTICATED.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Authenticated {
    pub(super) agent: Option<String>,
    pub(super) user: Option<String>,
    pub(super) permissions: Vec<String>,
}

/// What a service publishes and answers: a name and an object.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Body<'a> {
    #[serde(default)]
    pub(super) event: Option<String>,
    #[serde(default, borrow)]
    pub(super) data: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) error_code: Option<String>,
    #[serde(default)]
    pub(super) error_message: Option<String>,
}

/// The value of a key of an object, as it lies there; the last one if it is there twice.
pub(super) fn field<'a>(object: &'a RawValue, name: &str) -> Option<&'a RawValue> {
    struct Find<'n>(&'n str);
    impl<'de> serde::de::Visitor<'de> for Find<'_> {
        type Value = Option<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = None;
            while let Some(key) = map.next_key::<std::borrow::Cow<'_, str>>()? {
                let value = map.next_value::<&'de RawValue>()?;
                if key == self.0 {
                    found = Some(value);
                }
            }
            Ok(found)
        }
    }
    let mut reader = serde_json::Deserializer::from_str(object.get());
    serde::Deserializer::deserialize_map(&mut reader, Find(name)).ok().flatten()
}

/// The same where it is a string.
pub(super) fn string_field(object: &RawValue, name: &str) -> Option<String> {
    field(object, name).and_then(|value| serde_json::from_str(value.get()).ok())
}
