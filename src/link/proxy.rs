//! Through an HTTP proxy to the outside, where a network lets nothing else out: `CONNECT` (RFC 9110 section 9.3.6), as
//! the environment says.
//!
//! `HTTPS_PROXY` names the proxy, `http://[USER:PASSWORD@]HOST[:PORT]`; `NO_PROXY` the hosts that are reached without
//! it. The lower-case names win over the others, as with curl.

use std::fmt;
use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire::url::{authority, split_authority};

/// A proxy's port when none is said, as with curl.
const DEFAULT_PORT: u16 = 1080;
/// Longest answer to a CONNECT that is read.
const MAX_ANSWER: usize = 8 * 1024;
/// Most of a proxy's words that are repeated.
const MAX_SHOWN: usize = 120;

/// What the environment says of proxies.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    proxy: Option<Proxy>,
    /// What is reached without one.
    except: Vec<String>,
}

/// One proxy.
#[derive(Clone)]
pub struct Proxy {
    host: String,
    port: u16,
    /// `USER:PASSWORD` in base64.
    credentials: Option<String>,
}

/// The password is nobody's business.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

/// Why a way through a proxy is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment.
    #[error(
        "HTTPS_PROXY is not a proxy's address: {0}; write http://HOST:PORT or http://USER:PASSWORD@HOST:PORT"
    )]
    NotAProxy(&'static str),
    /// It could not be reached.
    #[error("the proxy {proxy} (HTTPS_PROXY): {why}")]
    Unreachable {
        /// Which.
        proxy: String,
        /// What the system said.
        why: std::io::Error,
    },
    /// It said no.
    #[error("the proxy {proxy} (HTTPS_PROXY) refused to connect to {to}: {status}{hint}", hint = hint(.status))]
    Refused {
        /// Which.
        proxy: String,
        /// Where to.
        to: String,
        /// Its status line.
        status: String,
    },
}

fn hint(status: &str) -> &'static str {
    match status.split(' ').nth(1) {
        Some("407") => "; it wants a user and a password: HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
        Some("403") => "; it does not allow that host or port: ask who runs it, or try port 443",
        _ => "",
    }
}

impl Proxies {
    /// As this process's environment says.
    ///
    /// # Errors
    ///
    /// `HTTPS_PROXY` is there and names no proxy that we can speak to.
    pub fn from_env() -> Result<Proxies, Error> {
        let either = |lower: &str, upper: &str| {
            let value = |name| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
            value(lower).or_else(|| value(upper))
        };
        let proxy = either("https_proxy", "HTTPS_PROXY");
        let except = either("no_proxy", "NO_PROXY").unwrap_or_default();
        Proxies::new(proxy.as_deref(), &except)
    }

    fn new(proxy: Option<&str>, except: &str) -> Result<Proxies, Error> {
        let except = except.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
        Ok(Proxies {
            proxy: proxy.map(parse).transpose()?,
            except: except.map(str::to_ascii_lowercase).collect(),
        })
    }

    /// The proxy for a host; `None`: it is reached directly.
    pub fn for_host(&self, host: &str, port: u16) -> Option<&Proxy> {
        let host = host.to_ascii_lowercase();
        let host = host.trim_end_matches('.');
        let without = self.except.iter().any(|entry| excepts(entry, host, port));
        self.proxy.as_ref().filter(|_| !without)
    }
}

/// `*`, a host, the end of one, an address or a network of them; each may end in a port.
fn excepts(entry: &str, host: &str, port: u16) -> bool {
    if entry == "*" {
        return true;
    }
    let (entry, of_port) = match entry.rsplit_once(':').map(|(front, port)| (front, port.parse::<u16>())) {
        // The colons of an IPv6 address are none before a port.
        Some((front, Ok(port))) if !front.contains(':') || front.ends_with(']') => (front, Some(port)),
        _ => (entry, None),
    };
    if of_port.is_some_and(|of| of != port) {
        return false;
    }
    let entry = entry.trim_start_matches('[').trim_end_matches(']');
    if let Ok(host) = host.parse::<IpAddr>() {
        let (network, bits) = entry.split_once('/').map_or((entry, None), |(n, b)| (n, Some(b)));
        let Ok(network) = network.parse::<IpAddr>() else { return false };
        return match bits.map(str::parse::<u32>) {
            None => network == host,
            Some(bits) => bits.is_ok_and(|bits| is_in(host, network, bits)),
        };
    }
    let entry = entry.trim_start_matches("*.").trim_start_matches('.').trim_end_matches('.');
    host.strip_suffix(entry)
        .is_some_and(|front| !entry.is_empty() && (front.is_empty() || front.ends_with('.')))
}

fn is_in(host: IpAddr, network: IpAddr, bits: u32) -> bool {
    let (host, network, all) = match (host, network) {
        (IpAddr::V4(host), IpAddr::V4(network)) => {
            (u128::from(host.to_bits()), u128::from(network.to_bits()), 32)
        }
        (IpAddr::V6(host), IpAddr::V6(network)) => (host.to_bits(), network.to_bits(), 128),
        _ => return false,
    };
    bits <= all && (host ^ network).checked_shr(all - bits).unwrap_or(0) == 0
}

fn parse(given: &str) -> Result<Proxy, Error> {
    let given = given.trim();
    let rest = match given.split_once("://") {
        Some(("http", rest)) => rest,
        Some(_) => return Err(Error::NotAProxy("only proxies of http:// are spoken to")),
        None => given,
    };
    let rest = rest.split('/').next().unwrap_or_default();
    let (user, host) = rest.rsplit_once('@').map_or((None, rest), |(user, host)| (Some(user), host));
    let (host, port) = split_authority(host, DEFAULT_PORT).map_err(Error::NotAProxy)?;
    let credentials = user.map(|user| {
        let (user, password) = user.split_once(':').unwrap_or((user, ""));
        STANDARD.encode([&decoded(user)[..], b":", &decoded(password)].concat())
    });
    Ok(Proxy { host, port, credentials })
}

/// Percent-encoding undone (RFC 3986 section 2.1): a password may have any character.
fn decoded(text: &str) -> Vec<u8> {
    let (mut out, bytes) = (Vec::with_capacity(text.len()), text.as_bytes());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = text.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex.filter(|_| byte == b'%') {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

impl Proxy {
    /// A connection through the proxy; what follows on it is between the two ends.
    ///
    /// # Errors
    ///
    /// The proxy can't be reached, or refuses.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, Error> {
        let unreachable = |why| Error::Unreachable { proxy: self.to_string(), why };
        let mut stream = TcpStream::connect((&*self.host, self.port)).await.map_err(unreachable)?;
        let to = authority(host, port);
        let mut request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str(&format!("Proxy-Authorization: Basic {credentials}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
        let head = read_head(&mut stream).await.map_err(unreachable)?;
        let status: String = head.lines().next().unwrap_or_default().chars().take(MAX_SHOWN).collect();
        let granted = status.split(' ').nth(1).is_some_and(|code| code.len() == 3 && code.starts_with('2'));
        if !status.starts_with("HTTP/1.") || !granted {
            return Err(Error::Refused { proxy: self.to_string(), to, status });
        }
        Ok(stream)
    }
}

/// Up to the empty line, and not a byte more: what follows is no longer the proxy's.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_ANSWER {
            return Err(std::io::Error::other("its answer is too long"));
        }
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            // A proxy that closes has said all it says.
            Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof && !head.is_empty() => break,
            Err(e) => return Err(e),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxy(given: &str) -> Result<(String, Option<String>), String> {
        let proxies = Proxies::new(Some(given), "").map_err(|e| e.to_string())?;
        let proxy = proxies.for_host("agni.example.com", 443).unwrap();
        Ok((proxy.to_string(), proxy.credentials.clone()))
    }

    #[test]
    fn a_proxy_is_read_as_curl_reads_it() {
        // covers Q01
        assert_eq!(proxy("http://192.0.2.1:3128/"), Ok(("192.0.2.1:3128".into(), None)));
        assert_eq!(proxy("proxy.example.com"), Ok(("proxy.example.com:1080".into(), None)));
        assert_eq!(proxy("http://[2001:db8::1]:8080"), Ok(("[2001:db8::1]:8080".into(), None)));
        let with_password = proxy("http://user:p%40ss%3Aword@192.0.2.1:3128").unwrap();
        assert_eq!(with_password.1, Some(STANDARD.encode("user:p@ss:word")));
        for bad in
            ["socks5://192.0.2.1:1080", "https://192.0.2.1", "http://", "http://192.0.2.1:0", "http://a b"]
        {
            let why = proxy(bad).unwrap_err();
            assert!(why.contains("HTTPS_PROXY") && why.contains("http://HOST:PORT"), "{bad}: {why}");
        }
        let shown = format!("{:?}", Proxies::new(Some("http://user:secret@192.0.2.1:3128"), "").unwrap());
        assert!(shown.contains("192.0.2.1:3128") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn some_hosts_are_reached_without_it() {
        // covers Q01
        let except = "localhost, .example.com,192.0.2.0/24,[2001:db8::1],agni.example.org:8765";
        let proxies = Proxies::new(Some("http://192.0.2.1:3128"), except).unwrap();
        let through = |host, port| proxies.for_host(host, port).is_some();
        for direct in ["localhost", "example.com", "AGNI.example.com.", "192.0.2.77", "2001:db8::1"] {
            assert!(!through(direct, 443), "{direct}");
        }
        for proxied in ["badexample.com", "example.org", "192.0.3.1", "2001:db8::2", "agni.example.org"] {
            assert!(through(proxied, 443), "{proxied}");
        }
        assert!(!through("agni.example.org", 8765));
        assert!(Proxies::new(Some("http://192.0.2.1"), "*").unwrap().for_host("a", 1).is_none());
        assert!(Proxies::new(None, "").unwrap().for_host("a", 1).is_none());
    }
}
