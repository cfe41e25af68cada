//! What the head of a request must keep to, whatever carries it: so many headers, and one host (RFC 9112 section 3.2).

use std::net::SocketAddr;

use hyper::header::{COOKIE, HOST, HeaderMap};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, Version};

use crate::door::Door;
use crate::http::{self, Answer, REQUEST, refuse};

/// Lines of headers that a request may have.
pub(crate) const MAX_HEADERS: usize = 64;

/// Looks at a request before anything is done for it. What is refused is counted and logged at the door.
pub(crate) fn check<B>(
    request: &Request<B>,
    from: SocketAddr,
    door: Option<&Door>,
) -> Result<(), Box<Answer>> {
    let (status, why, hint) = if lines(request.headers()) > MAX_HEADERS {
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        (status, "the request has more than 64 headers", "send fewer headers")
    } else {
        let Err(why) = host(request) else { return Ok(()) };
        let hint = "send exactly one Host, with the name and port that are asked, such as example.com:8765";
        (StatusCode::BAD_REQUEST, why, hint)
    };
    if let Some(door) = door {
        door.log_some(from, REQUEST, why);
    }
    Err(Box::new(refuse(status, "bad_frame", why, hint)))
}

/// A request for what is not here, as those make who look for a hole: it is counted and logged at the door.
pub(crate) fn misplaced(answer: StatusCode, from: SocketAddr, door: Option<&Door>) {
    let why = match answer {
        StatusCode::NOT_FOUND => "there is nothing at the path that it asks for",
        StatusCode::METHOD_NOT_ALLOWED => "its method is not served",
        _ => return,
    };
    if let Some(door) = door {
        door.log_some(from, REQUEST, why);
    }
}

/// HTTP/2 may split a cookie into many lines (RFC 9113 section 8.2.3): they count as one.
fn lines(headers: &HeaderMap) -> usize {
    headers.len() - headers.get_all(COOKIE).iter().skip(1).count()
}

/// Two readers of a request with two hosts, such as a proxy and we, may each take another one.
fn host<B>(request: &Request<B>) -> Result<(), &'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let Some(host) = hosts.next() else {
        let needed = request.version() == Version::HTTP_11;
        return if needed { Err("the request has no Host") } else { Ok(()) };
    };
    if hosts.next().is_some() {
        return Err("the request has more than one Host");
    }
    let text = host.to_str().map_err(|_| "the request's Host is no host")?;
    // Empty where what is asked for has none.
    if !text.is_empty() && (text.contains('@') || text.parse::<Authority>().is_err()) {
        return Err("the request's Host is no host");
    }
    match request.uri().host() {
        Some(authority)
            if request.version() == Version::HTTP_2
                && !authority.eq_ignore_ascii_case(http::without_port(text)) =>
        {
            Err("the request's Host is another than its :authority")
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(version: Version, target: &str, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = Request::builder().version(version).uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let from = SocketAddr::from(([192, 0, 2, 1], 1));
        check(&request.body(()).unwrap(), from, None).err().map(|answer| answer.status().as_u16())
    }

    #[test]
    fn one_host_and_one_only() {
        // covers B09, B10
        let (one, two) = (Version::HTTP_11, Version::HTTP_2);
        for host in ["x", "example.com:8765", "[2001:db8::1]:80", "192.0.2.1", "a_b", ""] {
            assert_eq!(status(one, "/", &[("host", host)]), None, "{host}");
        }
        for host in ["a b", "user@example.com", "example.com/x", "[::1", "a\"b", "\u{e9}"] {
            assert_eq!(status(one, "/", &[("host", host)]), Some(400), "{host}");
        }
        assert_eq!(status(one, "/", &[]), Some(400));
        assert_eq!(status(one, "http://x/", &[]), Some(400), "the target does not stand for it");
        assert_eq!(status(Version::HTTP_10, "/health", &[]), None);
        for version in [Version::HTTP_10, one, two] {
            assert_eq!(status(version, "/", &[("host", "x"), ("host", "x")]), Some(400), "{version:?}");
        }
        assert_eq!(status(two, "https://example.com/", &[]), None);
        assert_eq!(status(two, "https://example.com/", &[("host", "EXAMPLE.com:443")]), None);
        assert_eq!(status(two, "https://example.com/", &[("host", "example.net")]), Some(400));
    }

    #[test]
    fn so_many_headers_and_a_cookie_in_pieces() {
        // covers B09
        let mut headers = vec![("host", "x")];
        headers.extend([("x-a", "1"); MAX_HEADERS - 1]);
        assert_eq!(status(Version::HTTP_2, "https://x/", &headers), None);
        headers.pop();
        headers.extend([("cookie", "a=b"); 70]);
        assert_eq!(status(Version::HTTP_2, "https://x/", &headers), None);
        headers.push(("x-a", "1"));
        assert_eq!(status(Version::HTTP_2, "https://x/", &headers), Some(431));
    }
}
