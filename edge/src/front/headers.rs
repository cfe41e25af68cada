//! What every answer of a page carries for browsers, and whose pages may connect.

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;

/// `http` of a service.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Origins of pages that may connect, such as `https://example.com`, `https://*.example.com` or `null`; empty: all may.
    pub origins: Vec<String>,
    /// For so long browsers are to use nothing but TLS for this host, in seconds; 0: they are not told. Only with TLS.
    pub hsts_max_age_s: u64,
    /// Whether `/health` and `/ready` answer this machine without TLS on a port with TLS.
    pub plain_health: bool,
    /// Whether HTTP/2 is spoken, WebSockets over it included (RFC 8441).
    pub http2: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { origins: Vec::new(), hsts_max_age_s: 365 * 24 * 3600, plain_health: true, http2: true }
    }
}

impl Settings {
    /// The key at fault, and why.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        for origin in &self.origins {
            let good = origin == "null"
                || origin.split_once("://").is_some_and(|(scheme, host)| {
                    // A star is a name of its own, and the first.
                    let rest = host.strip_prefix("*.").unwrap_or(host);
                    !scheme.is_empty() && !rest.is_empty() && !rest.contains(['/', '*'])
                });
            if !good {
                let why = format!(
                    "{origin:?} is no origin, such as \"https://example.com\" or \"https://*.example.com\""
                );
                return Err(("http.origins", why));
            }
        }
        Ok(())
    }

    /// Whether a page of this origin may connect. A request without one is no browser's.
    pub fn admits(&self, headers: &HeaderMap) -> Result<(), String> {
        let Some(origin) = headers.get(header::ORIGIN).filter(|_| !self.origins.is_empty()) else {
            return Ok(());
        };
        let origin = String::from_utf8_lossy(origin.as_bytes());
        let several = headers.get_all(header::ORIGIN).iter().count() > 1;
        match self.origins.iter().any(|allowed| covers(allowed, &origin)) && !several {
            true => Ok(()),
            // The whole is compared, but not written into a log.
            false => Err(origin.chars().take(256).collect()),
        }
    }
}

/// `*.` stands for one or more names before the rest.
fn covers(allowed: &str, origin: &str) -> bool {
    let (allowed, origin) = (allowed.to_ascii_lowercase(), origin.to_ascii_lowercase());
    match allowed.split_once("://*.") {
        None => allowed == origin,
        Some((scheme, rest)) => origin
            .strip_prefix(scheme)
            .and_then(|host| host.strip_prefix("://"))
            .and_then(|host| host.strip_suffix(rest))
            .and_then(|names| names.strip_suffix('.'))
            .is_some_and(|names| !names.is_empty() && !names.contains(['/', ':', '@'])),
    }
}

const NOSNIFF: (HeaderName, HeaderValue) =
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
const NO_FRAMES: (HeaderName, HeaderValue) = (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
const NO_REFERRER: (HeaderName, HeaderValue) =
    (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
const NOTHING: (HeaderName, HeaderValue) =
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));

/// Adds them. `secure`: the answer goes over TLS.
pub fn secure(headers: &mut HeaderMap, settings: &Settings, secure: bool) {
    for (name, value) in [NOSNIFF, NO_FRAMES, NO_REFERRER, NOTHING] {
        headers.insert(name, value);
    }
    if secure
        && settings.hsts_max_age_s > 0
        && let Ok(value) = HeaderValue::from_str(&format!("max-age={}", settings.hsts_max_age_s))
    {
        headers.insert(header::STRICT_TRANSPORT_SECURITY, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(origins: &[&str]) -> Settings {
        let origins = origins.iter().map(|origin| (*origin).to_owned()).collect();
        Settings { origins, ..Settings::default() }
    }

    fn admits(settings: &Settings, origins: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for origin in origins {
            headers.append(header::ORIGIN, origin.parse().unwrap());
        }
        settings.admits(&headers).is_ok()
    }

    #[test]
    fn only_pages_of_listed_origins_may_connect() {
        // covers B10, B19
        let listed = settings(&["https://example.com", "https://*.example.com", "http://localhost:3000"]);
        assert_eq!(listed.check(), Ok(()));
        for (origin, admitted) in [
            ("https://example.com", true),
            ("HTTPS://Example.com", true),
            ("https://a.b.example.com", true),
            ("http://localhost:3000", true),
            ("http://example.com", false),
            ("https://example.com:8443", false),
            ("https://example.com.example.net", false),
            ("https://evilexample.com", false),
            ("https://.example.com", false),
            ("https://evil.example.net/.example.com", false),
            ("https://evil:x@y.example.com", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(admits(&listed, &[origin]), admitted, "{origin}");
        }
        assert!(admits(&listed, &[]), "a client that is no browser sends none");
        assert!(!admits(&listed, &["https://example.com", "https://evil.example.net"]), "two are nobody's");
        assert!(
            admits(&settings(&[]), &["https://evil.example.net"]) && admits(&settings(&["null"]), &["null"])
        );
        for bad in [
            "example.com",
            "https://example.com/path",
            "https://",
            "https://a.*.example.com",
            "https://*example.com",
            "https://*",
            "https://*.",
            "*",
        ] {
            assert!(settings(&[bad]).check().is_err(), "{bad}");
        }
        assert!(settings(&["https://é.example"]).check().is_ok(), "a name may begin with any character");
    }

    #[test]
    fn all_of_a_long_origin_is_compared() {
        // covers B19
        let listed = settings(&["https://*.example.com"]);
        let beginning = format!("https://{}.example.com", "a".repeat(256 - "https://.example.com".len()));
        assert_eq!(beginning.len(), 256);
        assert!(admits(&listed, &[&beginning]));
        let longer = format!("{beginning}.example.net");
        assert!(!admits(&listed, &[&longer]), "its first 256 characters are not who it is");
        let mut headers = HeaderMap::new();
        headers.append(header::ORIGIN, HeaderValue::from_str(&longer).unwrap());
        assert_eq!(listed.admits(&headers).unwrap_err(), beginning, "only so much is told");
    }
}
