//! Who asks behind proxies that speak HTTP: `X-Forwarded-For`, or `Forwarded` (RFC 7239).
//!
//! Each proxy adds whom it heard at the end of the list. So the list is read from its end, for as long as the speaker is one
//! that is trusted: what stands before that, anybody can have written.

use std::net::{IpAddr, SocketAddr};

use hyper::header::{FORWARDED, HeaderMap, HeaderName};
use serde::Deserialize;

use super::net::{self, Net};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// In which header the trusted proxies tell. Only one: a proxy replaces or adds to the one that it knows, and passes on the
/// other as the client wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeaderKind {
    /// `X-Forwarded-For`: nginx, HAProxy and most others.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The client's address, for a request that came from `peer`.
pub fn client(peer: IpAddr, headers: &HeaderMap, kind: HeaderKind, trusted: &[Net]) -> IpAddr {
    let mut client = peer.to_canonical();
    let name = match kind {
        HeaderKind::XForwardedFor => X_FORWARDED_FOR,
        HeaderKind::Forwarded => FORWARDED,
    };
    // Several header lines are one list in their order (RFC 9110 section 5.3).
    let lines: Vec<&[u8]> = headers.get_all(name).iter().map(|line| line.as_bytes()).collect();
    let elements = lines.iter().rev().flat_map(|line| elements(line, kind).into_iter().rev());
    for element in elements {
        if !net::any(trusted, client) {
            break;
        }
        let said = std::str::from_utf8(element).ok().and_then(|element| match kind {
            HeaderKind::XForwardedFor => address(element.trim()),
            HeaderKind::Forwarded => address(for_of(element)?),
        });
        // `unknown`, a hidden name or nonsense: whoever said so is the last one known.
        let Some(said) = said else { break };
        client = said;
    }
    client
}

/// Between commas. Those in quotes are none, where there are quotes at all: only in `Forwarded`, and only if they end. What a
/// client leaves open must not swallow what a proxy adds.
fn elements(line: &[u8], kind: HeaderKind) -> Vec<&[u8]> {
    let (mut quoted, mut escaped) = (false, false);
    let mut commas = Vec::new();
    for (at, byte) in line.iter().enumerate() {
        match *byte {
            b',' if !quoted => commas.push(at),
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => {}
        }
    }
    if quoted || kind == HeaderKind::XForwardedFor {
        commas = line.iter().enumerate().filter(|(_, byte)| **byte == b',').map(|(at, _)| at).collect();
    }
    let ends = commas.iter().copied().chain([line.len()]);
    let begins = [0].into_iter().chain(commas.iter().map(|at| at + 1));
    let elements = begins.zip(ends).map(|(begin, end)| &line[begin..end]);
    elements.filter(|element| !element.trim_ascii().is_empty()).collect()
}

/// The value of `for` in one element of `Forwarded`, out of its quotes.
fn for_of(element: &str) -> Option<&str> {
    let value = element.split(';').find_map(|pair| {
        let (name, value) = pair.trim().split_once('=')?;
        name.eq_ignore_ascii_case("for").then_some(value)
    })?;
    match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"'),
        None => Some(value),
    }
}

/// `192.0.2.7`, `192.0.2.7:4711`, `2001:db8::7`, `[2001:db8::7]` or `[2001:db8::7]:4711`.
fn address(text: &str) -> Option<IpAddr> {
    let bare =
        text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).filter(|text| text.contains(':'));
    let ip = bare.unwrap_or(text).parse().ok();
    ip.or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
        .map(|ip: IpAddr| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    fn nets(texts: &[&str]) -> Vec<Net> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn told(peer: &str, kind: HeaderKind, lines: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for line in lines {
            let name = if kind == HeaderKind::Forwarded { FORWARDED } else { X_FORWARDED_FOR };
            headers.append(name, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        client(peer.parse().unwrap(), &headers, kind, &nets(trusted)).to_string()
    }

    #[test]
    fn the_last_hop_that_is_not_ours_is_the_client() {
        // covers B13
        let ours = &["127.0.0.1", "198.51.100.0/24"][..];
        let told = |peer, lines: &[&str]| told(peer, HeaderKind::XForwardedFor, lines, ours);
        assert_eq!(told("127.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(told("::ffff:127.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(told("127.0.0.1", &["192.0.2.7, 198.51.100.1"]), "192.0.2.7");
        // What a client writes itself stands before what our proxy adds.
        assert_eq!(told("127.0.0.1", &["203.0.113.9, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(told("127.0.0.1", &["198.51.100.77, 192.0.2.7"]), "192.0.2.7");
        // Several lines are one list.
        assert_eq!(told("127.0.0.1", &["203.0.113.9", "192.0.2.7", "198.51.100.1"]), "192.0.2.7");
        assert_eq!(told("127.0.0.1", &["192.0.2.7:4711"]), "192.0.2.7");
        assert_eq!(told("127.0.0.1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(told("127.0.0.1", &["2001:db8::7"]), "2001:db8::7");
        assert_eq!(told("127.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(told("127.0.0.1", &[", ,192.0.2.7, "]), "192.0.2.7");
        assert_eq!(told("127.0.0.1", &[]), "127.0.0.1");
        // There are no quotes in it: what a client leaves open swallows nothing.
        assert_eq!(told("127.0.0.1", &["\", 192.0.2.7"]), "192.0.2.7");
        assert_eq!(told("127.0.0.1", &["\"203.0.113.9, \", 192.0.2.7, 198.51.100.1"]), "192.0.2.7");
    }

    #[test]
    fn nobody_else_is_believed_and_nonsense_ends_the_list() {
        // covers B13, B19
        let ours = &["127.0.0.1", "198.51.100.0/24"][..];
        let told = |peer, lines: &[&str]| told(peer, HeaderKind::XForwardedFor, lines, ours);
        assert_eq!(told("203.0.113.1", &["192.0.2.7"]), "203.0.113.1");
        assert_eq!(told("127.0.0.1", &["192.0.2.7, unknown, 198.51.100.1"]), "198.51.100.1");
        for nonsense in [
            "unknown",
            "_hidden",
            "192.0.2.7 192.0.2.8",
            "192.0.2.007",
            "[192.0.2.7]",
            "999.1.1.1",
            "\"192.0.2.7",
            "ä",
        ] {
            assert_eq!(told("127.0.0.1", &[nonsense]), "127.0.0.1", "{nonsense}");
        }
    }

    #[test]
    fn the_standard_header() {
        // covers B13
        let ours = &["127.0.0.1", "198.51.100.0/24"][..];
        let told = |lines: &[&str]| told("127.0.0.1", HeaderKind::Forwarded, lines, ours);
        assert_eq!(told(&["for=192.0.2.7"]), "192.0.2.7");
        assert_eq!(told(&["For=\"[2001:db8::7]:4711\";proto=https;by=203.0.113.43"]), "2001:db8::7");
        assert_eq!(told(&["for=203.0.113.9, proto=https;for=192.0.2.7, for=198.51.100.1"]), "192.0.2.7");
        assert_eq!(told(&["for=\"x\\\", for=203.0.113.9, \", for=192.0.2.7"]), "192.0.2.7");
        assert_eq!(told(&["for=_gazonk"]), "127.0.0.1");
        assert_eq!(told(&["proto=https"]), "127.0.0.1");
        assert_eq!(told(&["for=\"192.0.2.7"]), "127.0.0.1");
        // Quotes that don't end are none.
        assert_eq!(told(&["for=\"x, for=192.0.2.7"]), "192.0.2.7");
        assert_eq!(told(&["\", for=192.0.2.7, for=198.51.100.1"]), "192.0.2.7");
    }
}
