//! `HOST:PORT` as people write it.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, de};

/// Where something can be reached: a name or an IP address, and a port. Not resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(into = "String")]
pub struct HostPort {
    host: String,
    port: u16,
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is not an address: {why}; write HOST:PORT, such as agni.example.com:8766, 192.0.2.7:8766 or [2001:db8::7]:8766"
)]
pub struct NotAnAddress {
    given: String,
    why: &'static str,
}

impl HostPort {
    /// Puts the two together; the host must be one.
    pub fn new(host: &str, port: u16) -> Result<HostPort, NotAnAddress> {
        let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        shown.parse()
    }

    /// The name or the IP address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port; never 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for HostPort {
    type Err = NotAnAddress;

    fn from_str(given: &str) -> Result<HostPort, NotAnAddress> {
        let refuse = |why| Err(NotAnAddress { given: given.chars().take(120).collect(), why });
        if let Ok(address) = given.parse::<SocketAddr>() {
            return match address.port() {
                0 => refuse("the port must not be 0"),
                port => Ok(HostPort { host: address.ip().to_string(), port }),
            };
        }
        let Some((host, port)) = given.rsplit_once(':') else { return refuse("the port is missing") };
        if host.contains([':', '[', ']']) {
            return refuse("an IPv6 address must be valid and stand in brackets");
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        };
        if host.len() > 253 || !host.trim_end_matches('.').split('.').all(label) {
            return refuse("the host is neither a name nor an IP address");
        }
        match port.parse::<u16>() {
            Ok(0) | Err(_) => refuse("the port is not a number from 1 to 65535"),
            Ok(port) => Ok(HostPort { host: host.to_owned(), port }),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl From<HostPort> for String {
    fn from(address: HostPort) -> String {
        address.to_string()
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<HostPort, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

/// For serde: an address of this machine to listen on, `IP:PORT`; port 0 lets the system choose.
pub fn listen<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    let given = String::deserialize(from)?;
    parse_listen(&given).map_err(de::Error::custom)
}

/// Reads an address to listen on.
pub fn parse_listen(given: &str) -> Result<SocketAddr, String> {
    given.parse().map_err(|_| {
        format!(
            "{given:?} is not an address to listen on; write IP:PORT, such as [::]:8766 (every address of this machine) or 127.0.0.1:9089"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        // covers B19
        for good in
            ["agni.example.com:8766", "192.0.2.7:443", "[2001:db8::7]:8766", "localhost:1", "a_b.local:9"]
        {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("agni.example.com", "port is missing"),
            ("agni.example.com:0", "not a number"),
            ("192.0.2.7:0", "must not be 0"),
            ("agni:99999", "not a number"),
            ("2001:db8::7", "brackets"),
            ("a b:1", "neither a name"),
            (":1", "neither a name"),
        ] {
            let error = bad.parse::<HostPort>().unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("HOST:PORT"), "{bad}: {error}");
        }
        assert_eq!(HostPort::new("2001:db8::7", 1).unwrap().to_string(), "[2001:db8::7]:1");
        assert!(parse_listen("8766").unwrap_err().contains("[::]:8766"));
    }
}
