//! A client whose upgrade was granted: which service it means, what it speaks, its session, and what is said of its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use trishula::gateway::auth::Identity;
use trishula::gateway::carrier::Carrier;
use trishula::gateway::session::{self, Opening};
use trishula::wire::close::CloseCode;

use crate::dialect::carrier::{Seen, Translated, Watcher};
use crate::dialect::sniff::{self, Tongue};
use crate::dialect::{Dialect, Note};
use crate::door::{Seat, Turned};
use crate::front::known::{Hearing, Known};
use crate::front::measured::{Measured, Open};
use crate::listener::{Caller, Service};
use crate::msgpack::carrier::Packed;
use crate::shown::Form;
use crate::wss::Wss;

/// What a request says of the client that it is for.
#[derive(Debug)]
pub struct Entrant {
    /// Who it is, if its request has shown a token; or why it does not come in.
    pub entry: Result<(Option<Identity>, Seat), Turned>,
    /// Whether it offers our own protocol by name.
    pub ours: bool,
    /// The form of its frames; `None`: it offered subprotocols, and none that is served.
    pub form: Option<Form>,
}

/// Serves a client until its end; `asked`: the service that its request is for.
pub async fn serve<S>(
    mut wss: Wss<S>,
    from: SocketAddr,
    caller: &Caller,
    asked: &Arc<Service>,
    entrant: Entrant,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    if entrant.form.is_none() && asked.speech.tongue() == Some(Tongue::Trishula) {
        return session::turn_away(wss, CloseCode::UnsupportedSubprotocol).await;
    }
    let shown = matches!(&entrant.entry, Ok((Some(_), _)));
    // A token in the request is for the service that it asks, be it good or not.
    let told = shown || matches!(&entrant.entry, Err(Turned::Token(_)));
    let auto = asked.speech.tongue().is_none();
    let choice = caller.site.choice(asked).filter(|_| !entrant.ours && !told);
    let (mut service, mut first) = (asked.clone(), None);
    if let Some(serves) = choice {
        let tongue = match tokio::time::timeout(sniff::WITHIN, message(&mut wss)).await {
            Ok(Some(frame)) => {
                let tongue = serves.of(&frame);
                first = Some(frame);
                tongue
            }
            // Gone before it has said anything.
            Ok(None) => return,
            Err(_) => serves.of_silence(),
        };
        service = caller.site.speaking(asked, tongue);
    }
    let entry = match entrant.entry {
        // The one that has let it in, or has not, is not the one that it means.
        other if !Arc::ptr_eq(&service, asked) => {
            drop(other);
            service.door.admit(from, None::<fn() -> Result<Identity, _>>)
        }
        entry => entry,
    };
    let ours = entrant.ours || (shown && auto);
    let (begun, entry) = match caller.opening(&service) {
        Ok(opening) => (opening.clone(), entry),
        // Which service it means was not known before.
        Err(why) => (service.opening.clone(), entry.and_then(|_| Err(service.door.stranger(from, why)))),
    };
    // By a token, or else by a certificate.
    let identity = entry.as_ref().ok().and_then(|(identity, _)| identity.clone());
    let identity = identity.or_else(|| begun.identity.clone());
    let dialect = service.speech.dialect(&service.door, from, identity.as_ref(), ours);
    let opening = Opening { identity, ..begun };
    let plain = matches!(dialect, Dialect::Trishula) && first.is_none() && service.idle.is_zero();
    let old = !matches!(dialect, Dialect::Trishula | Dialect::Paced(_));
    let dialect = (!plain).then_some(dialect);
    let met = Met { from, service, opening, entry, dialect, first };
    match entrant.form {
        Some(Form::MessagePack) => {
            let max_frame = met.opening.settings.max_frame;
            met.serve(Packed::new(wss.all_binary(), max_frame)).await;
        }
        _ if old => met.serve(wss.taking_binary()).await,
        _ => met.serve(wss).await,
    }
}

/// A client of which all is known.
struct Met {
    from: SocketAddr,
    service: Arc<Service>,
    opening: Opening,
    entry: Result<(Option<Identity>, Seat), Turned>,
    /// `None`: our own protocol, as it is.
    dialect: Option<Dialect>,
    /// What it has said already.
    first: Option<Bytes>,
}

impl Met {
    async fn serve<C: Carrier>(self, carrier: C) {
        let Met { from, service, opening, entry, dialect, first } = self;
        let mut open = service.series.open(service.tls.is_some());
        if let Err(turned) = &entry {
            open.closed(Some(turned.close()));
        }
        let login = Login::new(&opening);
        let carrier = Measured::new(carrier, service.series.clone(), login.known.clone());
        match (entry, dialect) {
            (Err(turned), None) => {
                session::close(carrier, turned.close(), &turned.refusal().message).await;
            }
            (Err(turned), Some(dialect)) => {
                let carrier = Translated::new(carrier, dialect);
                session::close(carrier, turned.close(), &turned.refusal().message).await;
            }
            (Ok(_seat), None) => hold(carrier, from, &service, opening, &login, &mut open).await,
            (Ok(_seat), Some(dialect)) => {
                let watcher = watcher(service.clone(), from, login.clone());
                let carrier = Translated::new(carrier, dialect).watched(watcher);
                let carrier = carrier.closing_after(service.idle);
                let carrier = match first {
                    Some(frame) => carrier.having_read(&frame),
                    None => carrier,
                };
                hold(carrier, from, &service, opening, &login, &mut open).await;
            }
        }
    }
}

/// What is known of a client's login.
#[derive(Debug, Clone)]
struct Login {
    known: Known,
    /// Whether its dialect has told of a failed one already.
    noted: Arc<AtomicBool>,
}

impl Login {
    fn new(opening: &Opening) -> Login {
        let already = opening.identity.as_ref().is_some_and(|identity| identity.agent.is_some());
        Login { known: Known::new(already), noted: Arc::default() }
    }

    /// It was refused. Who was in had a good token: that it has ended, or was taken back, is no attempt to come in.
    fn failed(&self, service: &Service, from: SocketAddr) {
        if !self.known.is_known() {
            service.door.failed(from);
        }
    }
}

/// The session.
async fn hold<C: Carrier>(
    carrier: C,
    from: SocketAddr,
    service: &Service,
    opening: Opening,
    login: &Login,
    open: &mut Open,
) {
    let carrier = Hearing::new(carrier, login.known.clone(), opening.verifier.is_some());
    let ended = session::serve(carrier, opening, &service.hub).await;
    open.closed(ended.code);
    let Some(mut event) = ended.code.and_then(event) else { return };
    if ended.code == Some(CloseCode::Unauthorized) {
        if login.noted.load(Ordering::Relaxed) {
            return;
        }
        login.failed(service, from);
        if login.known.is_known() {
            event = "token_ended";
        }
    }
    service.door.log(from, event, &ended.reason);
}

/// The first message with content; `None`: the connection is over.
async fn message<S>(wss: &mut Wss<S>) -> Option<Bytes>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    loop {
        match wss.message().await {
            Ok(Message::Text(text)) => return Some(text.into()),
            Ok(Message::Binary(bytes)) => return Some(bytes),
            // Pings are answered by the library.
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
            Ok(Message::Close(_)) | Err(_) => return None,
        }
    }
}

/// The end of a connection as a security event: a login that failed, or a client that breaks the rules.
pub fn event(code: CloseCode) -> Option<&'static str> {
    Some(match code {
        CloseCode::Protocol => "protocol",
        CloseCode::InvalidData => "not_utf8",
        CloseCode::TooBig => "too_big",
        CloseCode::TooManyErrors => "bad_frames",
        CloseCode::Unauthorized | CloseCode::OldUnauthorized => "token",
        CloseCode::Forbidden => "forbidden",
        CloseCode::AuthTimeout => "auth_timeout",
        CloseCode::RateLimited => "rate",
        CloseCode::PolicyViolation => "policy",
        _ => return None,
    })
}

/// Logs with the address what a dialect sees: of a kind of thing the first time, and each close that is odd.
fn watcher(service: Arc<Service>, from: SocketAddr, login: Login) -> Watcher {
    let mut told = Vec::new();
    Box::new(move |seen| {
        if seen == Seen::Note(Note::AuthFailed) {
            login.noted.store(true, Ordering::Relaxed);
            login.failed(&service, from);
        }
        let event = match &seen {
            Seen::Note(note) if note.is_odd() => note.as_str(),
            // That a login failed was told by a note.
            Seen::Closed(_) if login.noted.load(Ordering::Relaxed) => return,
            Seen::Closed(code) => match event(*code) {
                Some(event) => event,
                None => return,
            },
            Seen::Note(_) => return,
        };
        if !told.contains(&seen) {
            service.door.log(from, event, "a client of an older dialect");
            told.push(seen);
        }
    })
}
