//! Where a node can be reached when UDP is blocked: `wss://HOST[:PORT][/PATH]`.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// How such an address begins.
pub const WSS: &str = "wss://";
/// What follows the host when nothing is said.
const DEFAULT_PORT: u16 = 443;
/// The path on which an edge relays to its node.
pub const RELAY_PATH: &str = "/mesh";
/// Longest address, in bytes.
const MAX_LENGTH: usize = 512;

/// An edge that relays to its node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct WssUrl {
    host: String,
    port: u16,
    path: String,
}

/// Why a text is no such address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not an address of an edge: {why}; write wss://HOST:PORT/mesh, such as wss://agni.example.com:443/mesh"
)]
pub struct NotAUrl {
    given: String,
    why: &'static str,
}

impl WssUrl {
    /// The name or the IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The TCP port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`, with brackets round an IPv6 address: as in an HTTP request.
    pub fn authority(&self) -> String {
        authority(&self.host, self.port)
    }
}

/// `HOST:PORT`, with brackets round an IPv6 address.
pub fn authority(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Splits `HOST`, `HOST:PORT` and `[IPv6]:PORT`; the host is checked, and its brackets are taken off.
///
/// # Errors
///
/// What is wrong with it, in words.
pub fn split_authority(given: &str, default_port: u16) -> Result<(String, u16), &'static str> {
    let (host, port) = match given.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("the ']' behind the IPv6 address is missing")?;
            // Whether it is a real one is seen when it is dialled.
            let digit = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
            if !host.contains(':') || !host.bytes().all(digit) {
                return Err("what stands in brackets is no IPv6 address");
            }
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':').unwrap_or("")) };
            (host, port)
        }
        None => match given.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (given, None),
        },
    };
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let is_name = host.len() <= 253 && host.trim_end_matches('.').split('.').all(label);
    if !host.contains(':') && !is_name {
        return Err("the host is neither a name nor an IP address");
    }
    let port = match port.map(str::parse::<u16>) {
        None => default_port,
        Some(Ok(port)) if port > 0 => port,
        Some(_) => return Err("the port is not a number from 1 to 65535"),
    };
    Ok((host.to_owned(), port))
}

impl FromStr for WssUrl {
    type Err = NotAUrl;

    fn from_str(given: &str) -> Result<WssUrl, NotAUrl> {
        let refuse = |why| NotAUrl { given: given.chars().take(120).collect(), why };
        if given.len() > MAX_LENGTH {
            return Err(refuse("it is too long"));
        }
        let rest = given.strip_prefix(WSS).ok_or(refuse("it does not begin with wss://"))?;
        let (host, path) = rest.find('/').map_or((rest, RELAY_PATH), |at| rest.split_at(at));
        if !path.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'#' | b'?' | b'"' | b'<' | b'>')) {
            return Err(refuse("the path has a character that is not allowed there"));
        }
        if host.contains('@') {
            return Err(refuse("no user and no password belong there"));
        }
        let (host, port) = split_authority(host, DEFAULT_PORT).map_err(refuse)?;
        Ok(WssUrl { host, port, path: path.to_owned() })
    }
}

impl TryFrom<String> for WssUrl {
    type Error = NotAUrl;

    fn try_from(given: String) -> Result<WssUrl, NotAUrl> {
        given.parse()
    }
}

impl fmt::Display for WssUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{WSS}{}{}", self.authority(), self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_edges_are_read_as_people_write_them() {
        // covers B19
        for (given, means) in [
            ("wss://agni.example.com:443/mesh", "wss://agni.example.com:443/mesh"),
            ("wss://agni.example.com", "wss://agni.example.com:443/mesh"),
            ("wss://192.0.2.7:8765/a/b", "wss://192.0.2.7:8765/a/b"),
            ("wss://[2001:db8::7]/mesh", "wss://[2001:db8::7]:443/mesh"),
            ("wss://[2001:db8::7]:8765", "wss://[2001:db8::7]:8765/mesh"),
        ] {
            let url: WssUrl = given.parse().unwrap();
            assert_eq!(url.to_string(), means);
            assert_eq!(url.to_string().parse(), Ok(url));
        }
        for (bad, why) in [
            ("https://agni.example.com/mesh", "wss://"),
            ("agni.example.com:443", "wss://"),
            ("wss://", "neither a name"),
            ("wss://agni:0/mesh", "from 1 to 65535"),
            ("wss://agni:70000", "from 1 to 65535"),
            ("wss://[2001:db8::7", "']'"),
            ("wss://[agni]:1/", "no IPv6"),
            ("wss://[2001:db8::7]443", "from 1 to 65535"),
            ("wss://user:word@agni/mesh", "no user"),
            ("wss://agni/me sh", "path"),
            ("wss://agni/mesh?x=1", "path"),
            ("wss://agni/\r\nX: y", "path"),
        ] {
            let error = bad.parse::<WssUrl>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("write wss://"), "{bad}: {error}");
        }
        assert!(format!("wss://{}", "a.".repeat(600)).parse::<WssUrl>().is_err());
    }
}
