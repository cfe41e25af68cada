//! The opening handshake of a WebSocket: over HTTP/1.1 (RFC 6455 section 4.2), and over HTTP/2 (RFC 8441 section 5).

use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use trishula::wire::close::{Code, Refusal};

use crate::http::{Answer, busy, refuse};

/// Whether it asks for a WebSocket over HTTP/2 (RFC 8441).
pub(crate) fn is_connect(request: &Request<Incoming>) -> bool {
    let protocol = request.extensions().get::<hyper::ext::Protocol>();
    request.method() == Method::CONNECT && protocol.is_some_and(|protocol| protocol.as_str() == "websocket")
}

/// Whether one of a header's comma-separated words is this one.
pub(crate) fn says(headers: &HeaderMap, name: header::HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(word))
}

/// The answer to a request for a WebSocket (RFC 6455 section 4.2; over HTTP/2, RFC 8441 section 5).
pub(crate) fn switch(request: &Request<Incoming>, stopping: bool) -> Result<Answer, Box<Answer>> {
    let headers = request.headers();
    let connects = is_connect(request);
    let upgrades = request.version() == Version::HTTP_11
        && says(headers, header::CONNECTION, "upgrade")
        && says(headers, header::UPGRADE, "websocket");
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    if !version || !(connects || upgrades) {
        let mut answer = refuse(
            StatusCode::UPGRADE_REQUIRED,
            "bad_frame",
            "this is a WebSocket endpoint (RFC 6455, version 13)",
            "connect with a WebSocket client: wss://HOST/ws",
        );
        answer.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
        if request.version() < Version::HTTP_2 {
            answer.headers_mut().insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
        return Err(Box::new(answer));
    }
    if upgrades && !request.body().is_end_stream() {
        let why = "the request has a body: what follows it could be taken for frames";
        return Err(Box::new(refuse(StatusCode::BAD_REQUEST, "bad_frame", why, "use a WebSocket library")));
    }
    let mut answer = Response::new(Full::default());
    if upgrades {
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key.as_bytes()));
        let Some(key) = key else {
            let why = "Sec-WebSocket-Key is missing or not 16 bytes in base64";
            return Err(Box::new(refuse(
                StatusCode::BAD_REQUEST,
                "bad_frame",
                why,
                "use a WebSocket library",
            )));
        };
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let out = answer.headers_mut();
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) {
            out.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        }
    }
    if stopping {
        return Err(Box::new(busy(&Refusal::new(Code::Unavailable, "the server is stopping"))));
    }
    Ok(answer)
}

/// Whether it is base64 of 16 bytes: 22 characters and the padding.
fn is_key(key: &[u8]) -> bool {
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(digit)
}
