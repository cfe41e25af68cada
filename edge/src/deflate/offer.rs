//! The handshake (RFC 7692 section 7.1): the first offer of a client that can be kept.

use super::{Settings, WINDOW_BITS};

/// The extension's name.
const NAME: &str = "permessage-deflate";
/// The window that a side has when nothing is said of it.
const DEFAULT_BITS: u8 = 15;

/// What both sides keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreed {
    /// Whether our messages may refer to those before.
    pub server_takeover: bool,
    /// Whether the client's may.
    pub client_takeover: bool,
    /// Our window, 9 to 15.
    pub server_bits: u8,
    /// The client's, 8 to 15.
    pub client_bits: u8,
}

/// One offer as it was made.
#[derive(Debug, Default)]
struct Offer {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_bits: Option<u8>,
    /// `Some(None)`: the client understands it, and names none.
    client_bits: Option<Option<u8>>,
}

/// The first offer in `headers` (values of `Sec-WebSocket-Extensions`) that can be kept, and the answer to it. Offers of
/// other extensions, and those that are not as the RFC has them, are passed over: the connection goes on without.
pub fn agree<'a>(headers: impl Iterator<Item = &'a str>, own: &Settings) -> Option<(Agreed, String)> {
    let offers = headers.flat_map(|header| split(header, ','));
    offers.filter_map(parse).find_map(|offer| accept(&offer, own))
}

fn accept(offer: &Offer, own: &Settings) -> Option<(Agreed, String)> {
    // A window of 8 bits that we may not exceed: zlib would.
    if offer.server_bits.is_some_and(|bits| !WINDOW_BITS.contains(&bits)) {
        return None;
    }
    let server_takeover = own.context_takeover && !offer.server_no_takeover;
    // Who can't be told a smaller window is asked to begin anew with each message, or 32 KiB of it would be kept.
    let too_wide = offer.client_bits.is_none() && own.window_bits < DEFAULT_BITS;
    let client_takeover = own.context_takeover && !offer.client_no_takeover && !too_wide;
    let server_bits = offer.server_bits.unwrap_or(DEFAULT_BITS).min(own.window_bits);
    let client_bits =
        offer.client_bits.map_or(DEFAULT_BITS, |named| named.unwrap_or(DEFAULT_BITS).min(own.window_bits));
    let mut answer = NAME.to_owned();
    if !server_takeover {
        answer += "; server_no_context_takeover";
    }
    if !client_takeover {
        answer += "; client_no_context_takeover";
    }
    if offer.server_bits.is_some() {
        answer += &format!("; server_max_window_bits={server_bits}");
    }
    if offer.client_bits.is_some() && client_bits < DEFAULT_BITS {
        answer += &format!("; client_max_window_bits={client_bits}");
    }
    Some((Agreed { server_takeover, client_takeover, server_bits, client_bits }, answer))
}

/// `None`: of another extension, or with a parameter that is unknown, twice there, or has a value it can't have.
fn parse(offer: &str) -> Option<Offer> {
    let mut parts = split(offer, ';');
    if parts.next()? != NAME {
        return None;
    }
    let mut found = Offer::default();
    for part in parts {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) => (key.trim(), Some(unquoted(value.trim()))),
            None => (part, None),
        };
        match (key, value) {
            ("server_no_context_takeover", None) if !found.server_no_takeover => {
                found.server_no_takeover = true;
            }
            ("client_no_context_takeover", None) if !found.client_no_takeover => {
                found.client_no_takeover = true;
            }
            ("server_max_window_bits", Some(value)) if found.server_bits.is_none() => {
                found.server_bits = Some(bits(value)?);
            }
            ("client_max_window_bits", None) if found.client_bits.is_none() => found.client_bits = Some(None),
            ("client_max_window_bits", Some(value)) if found.client_bits.is_none() => {
                found.client_bits = Some(Some(bits(value)?));
            }
            _ => return None,
        }
    }
    Some(found)
}

/// 8 to 15, without a sign or leading zeros.
fn bits(value: &str) -> Option<u8> {
    if !value.bytes().all(|byte| byte.is_ascii_digit()) || value.starts_with('0') {
        return None;
    }
    value.parse().ok().filter(|bits| (8..=15).contains(bits))
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

/// At a separator, but not within quotes; each part trimmed.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    let parts = text.split(move |c: char| {
        quoted ^= c == '"';
        !quoted && c == separator
    });
    parts.map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offers: &[&str], own: &Settings) -> Option<String> {
        agree(offers.iter().copied(), own).map(|(_, answer)| answer)
    }

    #[test]
    fn what_is_agreed_follows_from_the_offer() {
        // covers T16
        let own = Settings::default();
        for (offers, says) in [
            (vec![], None),
            (vec!["permessage-deflate"], Some("permessage-deflate; client_no_context_takeover")),
            (
                vec!["permessage-deflate; client_max_window_bits"],
                Some("permessage-deflate; client_max_window_bits=12"),
            ),
            (
                vec!["permessage-deflate; client_max_window_bits=\"9\""],
                Some("permessage-deflate; client_max_window_bits=9"),
            ),
            (
                vec!["permessage-deflate;client_max_window_bits=8"],
                Some("permessage-deflate; client_max_window_bits=8"),
            ),
            (
                vec!["permessage-deflate; server_max_window_bits=10; client_max_window_bits"],
                Some("permessage-deflate; server_max_window_bits=10; client_max_window_bits=12"),
            ),
            (
                vec!["permessage-deflate; server_max_window_bits=15; client_max_window_bits=15"],
                Some("permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"),
            ),
            (
                vec![
                    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits",
                ],
                Some(
                    "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=12",
                ),
            ),
        ] {
            assert_eq!(answer(&offers, &own).as_deref(), says, "{offers:?}");
        }
    }

    #[test]
    fn what_is_malformed_or_unknown_is_passed_over_and_the_next_offer_counts() {
        // covers T16
        let own = Settings::default();
        let good = "permessage-deflate; client_max_window_bits=11";
        for bad in [
            "permessage-deflate; client_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits=08",
            "permessage-deflate; client_max_window_bits=+9",
            "permessage-deflate; client_max_window_bits=",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=8",
            "permessage-deflate; server_no_context_takeover=1",
            "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
            "permessage-deflate; client_max_window_bits; client_max_window_bits=10",
            "permessage-deflate; level=9",
            "permessage-deflate;",
            "permessage-bzip2",
            "x-webkit-deflate-frame",
            "x; y=\"a, permessage-deflate, b\"",
            "",
        ] {
            assert_eq!(answer(&[bad], &own), None, "{bad}");
            let both = format!("{bad}, {good}");
            assert_eq!(answer(&[&both], &own).as_deref(), Some(good), "{both}");
            assert_eq!(answer(&[bad, good], &own).as_deref(), Some(good), "{bad} in a header of its own");
        }
    }

    #[test]
    fn the_operator_has_the_last_word() {
        // covers T16
        let none = Settings { context_takeover: false, ..Settings::default() };
        assert_eq!(
            answer(&["permessage-deflate; client_max_window_bits"], &none).as_deref(),
            Some(
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; client_max_window_bits=12"
            )
        );
        let wide = Settings { window_bits: 15, ..Settings::default() };
        assert_eq!(answer(&["permessage-deflate"], &wide).as_deref(), Some("permessage-deflate"));
        let (agreed, _) = agree(["permessage-deflate"].into_iter(), &wide).unwrap();
        assert!(agreed.client_takeover && agreed.client_bits == 15);
    }
}
