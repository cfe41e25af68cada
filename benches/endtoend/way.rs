//! The seam: a way from client to client that can be measured.
use crate::child::Child;
use anyhow::Result;
use rustls::pki_types::CertificateDer;

/// One way from a WebSocket client to another. `chain` is the bare one; ours is a second (`ours::ours`).
///
/// Only `name`, `hops` and `start` are needed; the rest says how a client talks to it, and is as good as nothing for
/// the bare chain.
pub trait Way {
    /// The name of its row.
    fn name(&self) -> &'static str;

    /// Its five hops, in order, for the row "chain / sum of its hops".
    fn hops(&self) -> [&'static str; 5];

    /// Starts its processes and returns once both clients may connect. Dropping the result ends them.
    fn start(&self) -> Result<Running>;

    /// What a client sends first. When there is something, exactly one text frame is awaited as its answer.
    fn greeting(&self, _me: &Endpoint) -> Option<String> {
        None
    }

    /// The text frame that carries `body` (valid JSON, 256 bytes) as message `n` to `to`.
    fn wrap(&self, _to: &Endpoint, _n: u64, body: String) -> String {
        body
    }

    /// The body carried by a text frame, or `None` for a frame that carries none (a receipt, say).
    fn unwrap<'t>(&self, text: &'t str) -> Option<&'t str> {
        Some(text)
    }

    /// Whether a text frame refuses a message that its reader has sent.
    fn refuses(&self, _text: &str) -> bool {
        false
    }
}

/// A way that has been started.
pub struct Running {
    /// Where the first client connects.
    pub a: Endpoint,
    /// Where the second client connects.
    pub b: Endpoint,
    /// Who signed the certificates that the two will see.
    pub ca: CertificateDer<'static>,
    /// The processes whose CPU time counts.
    pub processes: Vec<Child>,
    /// Whatever must live as long (a temporary folder, say).
    #[allow(dead_code, reason = "held, not read")]
    pub guards: Vec<Box<dyn std::any::Any>>,
}

/// Where one client connects, and as whom.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `wss://HOST:PORT/PATH`
    pub url: String,
    /// The address that others send to.
    #[allow(dead_code, reason = "the bare chain has one place to go")]
    pub agent: String,
    /// Goes into `Authorization: Bearer`.
    pub token: Option<String>,
}
