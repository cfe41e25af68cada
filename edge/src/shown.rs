//! What an upgrade request shows of its client: the subprotocols that it offers, and a token.

use hyper::Request;
use hyper::header::{self, HeaderMap};
use trishula::gateway::auth::Identity;
use trishula::gateway::session::Opening;
use trishula::rt::clock;
use trishula::wire::close::{Code, Refusal};

use crate::msgpack;

/// The subprotocol of JSON frames.
pub const SUBPROTOCOL_JSON: &str = "trishula.v2+json";
/// Begins the offer of a subprotocol that is a token.
const BEARER: &str = "bearer.";

/// The form of a session's frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// JSON in text messages.
    Json,
    /// MessagePack in binary ones.
    MessagePack,
}

/// What a client offers in `Sec-WebSocket-Protocol`.
#[derive(Debug, Default)]
pub struct Offered<'a> {
    /// The first that is served: clients name the one they like best first (RFC 6455 section 4.1).
    pub form: Option<Form>,
    /// Something that is not served.
    pub other: bool,
    /// A token: browsers have no other place for it.
    pub token: Option<&'a str>,
}

impl<'a> Offered<'a> {
    /// Reads all of its lines.
    pub fn read(headers: &'a HeaderMap) -> Offered<'a> {
        let mut offered = Offered::default();
        for value in headers.get_all(header::SEC_WEBSOCKET_PROTOCOL) {
            for offer in value.to_str().unwrap_or_default().split(',').map(str::trim) {
                match offer.strip_prefix(BEARER) {
                    Some(token) => offered.token = offered.token.or(Some(token)),
                    None if offer == SUBPROTOCOL_JSON => offered.form = offered.form.or(Some(Form::Json)),
                    None if offer == msgpack::SUBPROTOCOL => {
                        offered.form = offered.form.or(Some(Form::MessagePack));
                    }
                    None => offered.other = true,
                }
            }
        }
        offered
    }
}

/// A token that a request shows.
pub struct Shown<'a>(Result<&'a str, Refusal>);

/// The token of a request, where any is read: by header, then by subprotocol, then by query.
pub fn token<'a, T>(request: &'a Request<T>, opening: &Opening) -> Option<Shown<'a>> {
    opening.verifier.as_ref()?;
    if let Some(value) = request.headers().get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(|value| {
            let (scheme, token) = value.trim().split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        return Some(Shown(token.ok_or_else(|| {
            Refusal::new(Code::TokenInvalid, "the Authorization header is not `Bearer TOKEN`")
        })));
    }
    if let Some(token) = Offered::read(request.headers()).token {
        return Some(Shown(Ok(token)));
    }
    let query = request.uri().query().unwrap_or_default();
    query.split('&').find_map(|pair| pair.strip_prefix("token=")).map(|token| Shown(Ok(token)))
}

impl Shown<'_> {
    /// Whom it names. A token that is there must be good.
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn identity(self, opening: &Opening) -> Result<Identity, Refusal> {
        let unread = || Refusal::new(Code::TokenInvalid, "no token is read here");
        opening.verifier.as_ref().ok_or_else(unread)?.verify(self.0?, clock::wall_ms())
    }
}
