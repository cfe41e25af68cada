//! What `trishula invite` prints and `trishula join` takes: where the mesh is, how to know it, and the right to join it once.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ca::Fingerprint;
use super::error::{self, stamp};
pub use super::secret::Secret;
use super::secret::{random, sha256};
use super::serial::hex;
use crate::wire::ids::NodeName;

/// How every ticket begins; the number of its version follows.
const PREFIX: &str = "trishula-ticket-";
const VERSION: u32 = 1;
const CHECKSUM: usize = 4;
/// Most addresses in a ticket.
pub const MAX_ADDRESSES: usize = 8;
/// Longest text that is looked at, in bytes.
const MAX_TEXT: usize = 4096;

/// Which invitation a ticket is for. Not secret.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct InviteId(pub [u8; 16]);

impl InviteId {
    /// A new one.
    pub fn random() -> Result<Self, error::Error> {
        random().map(Self)
    }
}

impl fmt::Display for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for InviteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A ticket. Whoever has its text can join in its name, so it is shown by [`Ticket::to_text`] only, never by `Debug`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// What the mesh is called.
    pub mesh: String,
    /// By which its CA is known.
    pub ca: Fingerprint,
    /// Where its nodes are: `host:port` or `ip:port`, one to eight.
    pub addresses: Vec<String>,
    /// Which invitation it is.
    pub invite: InviteId,
    /// What only the holder of the CA and the joiner know.
    pub secret: Secret,
    /// Its last second, Unix time.
    pub expires: i64,
    /// The name that the joiner will have.
    pub name: NodeName,
}

/// Why a text is no ticket to join with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// It is something else.
    #[error("this is not a ticket; one begins with {PREFIX}{VERSION}: and is printed by `trishula invite`")]
    NotATicket,
    /// It was made by a later version of this program.
    #[error(
        "this ticket is of version {0}, and this program knows only {VERSION}; update trishula on this machine"
    )]
    Newer(u32),
    /// A part is missing or changed.
    #[error("this ticket is damaged ({0}); copy it again, whole, or make a new one with `trishula invite`")]
    Damaged(&'static str),
    /// Too late.
    #[error("this ticket expired at {}; make a new one with `trishula invite`", stamp(*.0))]
    Expired(OffsetDateTime),
}

impl Ticket {
    /// The one line to be carried to the new machine. Secret.
    pub fn to_text(&self) -> Result<String, error::Error> {
        let mut bytes = postcard::to_stdvec(self).map_err(|e| error::Error::malformed("ticket", e))?;
        bytes.extend_from_slice(&checksum(&bytes));
        Ok(format!("{PREFIX}{VERSION}:{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Reads such a line, also when a terminal or a mail program has broken it into several.
    pub fn parse(text: &str, now: OffsetDateTime) -> Result<Self, TicketError> {
        if text.len() > MAX_TEXT {
            return Err(TicketError::NotATicket);
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).collect();
        let rest = text.strip_prefix(PREFIX).ok_or(TicketError::NotATicket)?;
        let (version, body) = rest.split_once(':').ok_or(TicketError::Damaged("its beginning is cut off"))?;
        match version.parse::<u32>() {
            Ok(VERSION) => {}
            Ok(newer) if newer > VERSION => return Err(TicketError::Newer(newer)),
            _ => return Err(TicketError::NotATicket),
        }
        let ticket = Self::from_body(body)?;
        let expires = OffsetDateTime::from_unix_timestamp(ticket.expires)
            .map_err(|_| TicketError::Damaged("its date is none"))?;
        if now > expires { Err(TicketError::Expired(expires)) } else { Ok(ticket) }
    }

    fn from_body(body: &str) -> Result<Self, TicketError> {
        let bytes = URL_SAFE_NO_PAD
            .decode(body)
            .map_err(|_| TicketError::Damaged("it has characters that none has, or its end is cut off"))?;
        let at = bytes.len().checked_sub(CHECKSUM).ok_or(TicketError::Damaged("its end is cut off"))?;
        let (bytes, sum) = bytes.split_at(at);
        if checksum(bytes) != sum {
            return Err(TicketError::Damaged("its checksum does not fit"));
        }
        match postcard::take_from_bytes::<Self>(bytes) {
            Ok((ticket, [])) if (1..=MAX_ADDRESSES).contains(&ticket.addresses.len()) => Ok(ticket),
            _ => Err(TicketError::Damaged("its contents are not a ticket's")),
        }
    }
}

/// Against slips of copying only; what protects a ticket from forgery is that its secret is known to the holder.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    let [a, b, c, d, ..] = sha256(bytes);
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use time::Duration;

    use super::*;
    use crate::identity::testing::{NOW, name};

    fn ticket() -> Ticket {
        Ticket {
            mesh: "trishula".into(),
            ca: Fingerprint([7; 32]),
            addresses: vec!["agni.example.com:8766".into(), "[2001:db8::1]:8766".into()],
            invite: InviteId::random().unwrap(),
            secret: Secret::random().unwrap(),
            expires: (NOW + Duration::hours(1)).unix_timestamp(),
            name: name("dc"),
        }
    }

    #[test]
    fn a_ticket_is_read_as_it_was_printed() {
        // covers Q07
        let ticket = ticket();
        let text = ticket.to_text().unwrap();
        assert!(text.starts_with("trishula-ticket-1:"));
        assert_eq!(Ticket::parse(&text, NOW).unwrap(), ticket);
        let broken = format!("  {}\r\n {}\n", &text[..60], &text[60..]);
        assert_eq!(Ticket::parse(&broken, NOW).unwrap(), ticket);
    }

    #[test]
    fn every_damage_is_noticed() {
        // covers Q07
        let text = ticket().to_text().unwrap();
        let start = text.find(':').unwrap() + 1;
        for at in start..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(matches!(Ticket::parse(&changed, NOW), Err(TicketError::Damaged(_))), "at {at}");
            assert!(matches!(Ticket::parse(&text[..at], NOW), Err(TicketError::Damaged(_))), "cut at {at}");
        }
    }

    #[test]
    fn each_error_is_the_right_one() {
        // covers Q07
        for text in ["", "hello", "trishula-ticket-x:AAAA", "trishula-ticket-0:AAAA", &"a".repeat(5000)] {
            assert_eq!(Ticket::parse(text, NOW), Err(TicketError::NotATicket), "{text}");
        }
        assert_eq!(Ticket::parse("trishula-ticket-2:AAAA", NOW), Err(TicketError::Newer(2)));
        let text = ticket().to_text().unwrap();
        let late = Ticket::parse(&text, NOW + Duration::hours(2)).unwrap_err();
        assert!(late.to_string().contains("expired at 2026-10-01T13:00:00Z"), "{late}");
        let nowhere = Ticket { addresses: vec![], ..ticket() }.to_text().unwrap();
        assert!(matches!(Ticket::parse(&nowhere, NOW), Err(TicketError::Damaged(_))));
    }

    #[test]
    fn a_ticket_never_shows_its_secret() {
        // covers B16
        let shown = format!("{:?}", ticket());
        assert!(shown.contains("secret: (secret)"), "{shown}");
    }
}
