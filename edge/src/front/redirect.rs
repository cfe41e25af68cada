//! `[redirect]`: plain HTTP, as on port 80, sends everybody to the same page with TLS. Nothing else is served there.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HOST, HeaderValue, LOCATION};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use trishula::rt::accept;

/// Connections at once.
const CONNECTIONS: usize = 256;
/// How long a client may take to ask.
const WITHIN: Duration = Duration::from_secs(5);
/// Longest address that is repeated, in bytes.
const MAX_TARGET: usize = 4096;

/// `[redirect]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Where it listens, such as `0.0.0.0:80`; empty: nowhere.
    pub listen: Vec<SocketAddr>,
    /// The port with TLS that everybody is sent to.
    pub to_port: u16,
}

impl Default for Settings {
    fn default() -> Self {
        Self { listen: Vec::new(), to_port: 443 }
    }
}

/// Answers for ever.
pub async fn serve(listener: TcpListener, to_port: u16) {
    accept::each(listener, "edge.redirect", CONNECTIONS, |socket| connection(socket, to_port)).await;
}

async fn connection(socket: TcpStream, to_port: u16) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(&request, to_port))
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(WITHIN)
        .keep_alive(false)
        .max_headers(64)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(socket), service);
    match tokio::time::timeout(2 * WITHIN, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection for the redirect ended"),
        Err(_) => tracing::debug!("a connection for the redirect has lasted long enough"),
    }
}

fn answer<B>(request: &Request<B>, to_port: u16) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::new()));
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let location = host
        .and_then(name)
        .filter(|_| target.len() <= MAX_TARGET && target.starts_with('/'))
        .and_then(|host| {
            let port = if to_port == 443 { String::new() } else { format!(":{to_port}") };
            HeaderValue::from_str(&format!("https://{host}{port}{target}")).ok()
        });
    match location {
        Some(location) => {
            // The method stays what it was.
            *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
            answer.headers_mut().insert(LOCATION, location);
        }
        None => *answer.status_mut() = StatusCode::BAD_REQUEST,
    }
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

/// The name or address in `Host`, without its port. What is neither is not repeated.
fn name(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let end = rest.find(']')?;
            rest[..end].parse::<std::net::Ipv6Addr>().ok()?;
            (&host[..end + 2], &rest[end + 1..])
        }
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let good = |name: &str| {
        !name.is_empty()
            && name.len() <= 253
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let port_is_one =
        port.is_empty() || port.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok());
    (port_is_one && (name.starts_with('[') || good(name))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent_to(host: &str, target: &str, to_port: u16) -> Option<String> {
        let request = Request::builder().uri(target).header(HOST, host).body(()).unwrap();
        let answer = answer(&request, to_port);
        let location = answer.headers().get(LOCATION).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(answer.status().as_u16(), if location.is_some() { 308 } else { 400 });
        location
    }

    #[test]
    fn everybody_is_sent_to_the_same_page_with_tls() {
        // covers B10
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(sent_to("example.com", "/a?b=c", 443), some("https://example.com/a?b=c"));
        assert_eq!(sent_to("example.com:80", "/", 8765), some("https://example.com:8765/"));
        assert_eq!(sent_to("[2001:db8::1]:80", "/", 443), some("https://[2001:db8::1]/"));
        assert_eq!(sent_to("192.0.2.1", "/health", 443), some("https://192.0.2.1/health"));
        for host in ["", "a b", "example.com/x", "user@example.com", "example.com:x", "[::1", "[x]", "a\"b"] {
            assert_eq!(sent_to(host, "/", 443), None, "{host}");
        }
    }
}
