//! A client whose upgrade was granted: which service it means, what it speaks, its session, and what is said of its end.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use hyper::header::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::Message;
use trishula::gateway::auth::Identity;
use trishula::gateway::carrier::Carrier;
use trishula::gateway::session::{self, Opening};
use trishula::metrics::IntCounter;
use trishula::wire::close::CloseCode;

use crate::dialect::carrier::{Seen, Translated, Watcher};
use crate::dialect::sniff::{self, Tongue};
use crate::dialect::{Dialect, Note};
use crate::door::{Seat, Turned};
use crate::front::known::{Gate, Hearing, Known, Refusals};
use crate::front::measured::{Measured, Open};
use crate::listener::{Caller, Service};
use crate::msgpack::carrier::Packed;
use crate::shown::Form;
use crate::wss::Wss;

/// Who it is, if its request has shown a token; or why it does not come in.
pub type Admitted = Result<(Option<Identity>, Seat), Turned>;

/// What a request says of the client that it is for.
#[derive(Debug)]
pub struct Entrant {
    /// Whether the service that was asked lets it in.
    pub entry: Admitted,
    /// The `Origin` lines of its request: the service that its first frame means may have others listed.
    pub origins: HeaderMap,
    /// Whether it offers our own protocol by name.
    pub ours: bool,
    /// The form of its frames; `None`: it offered subprotocols, and none that is served.
    pub form: Option<Form>,
}

/// What remains of a connection: a session, or a refusal. It lasts hours, and so has room for nothing else.
pub type Session = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Finds out whom a client means and what it speaks, and so how it is served until its end; `None`: it is gone. `asked`: the
/// service that its request is for.
pub async fn meet<S>(
    mut wss: Wss<S>,
    from: SocketAddr,
    caller: &Caller,
    asked: &Arc<Service>,
    entrant: Entrant,
) -> Option<Session>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    if entrant.form.is_none() && asked.speech.tongue() == Some(Tongue::Trishula) {
        return Some(Box::pin(session::turn_away(wss, CloseCode::UnsupportedSubprotocol)));
    }
    let shown = matches!(&entrant.entry, Ok((Some(_), _)));
    // A token in the request is for the service that it asks, be it good or not; and a page that may not connect says nothing that
    // is heard, whichever service it means.
    let told = shown || matches!(&entrant.entry, Err(Turned::Token(_) | Turned::Origin));
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
            Ok(None) => return None,
            Err(_) => serves.of_silence(),
        };
        service = caller.site.speaking(asked, tongue);
    }
    let entry = match entrant.entry {
        entry if !Arc::ptr_eq(&service, asked) => admit_again(entry, from, &service, &entrant.origins),
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
    Some(match entrant.form {
        Some(Form::MessagePack) => {
            let max_frame = met.opening.settings.max_frame;
            met.served(Packed::new(wss.all_binary(), max_frame))
        }
        _ if old => met.served(wss.taking_binary()),
        _ => met.served(wss),
    })
}

/// The one that has let it in, or has not, is not the one that it means: that one decides anew.
fn admit_again(entry: Admitted, from: SocketAddr, meant: &Service, origins: &HeaderMap) -> Admitted {
    match entry {
        // All of them are full, which is counted already.
        Err(Turned::AllFull) => return entry,
        other => drop(other),
    }
    match meant.page.rules.http.admits(origins) {
        Ok(()) => meant.door.admit(from, None::<fn() -> Result<Identity, _>>),
        Err(origin) => Err(meant.door.foreign(from, &origin)),
    }
}

/// A client of which all is known.
struct Met {
    from: SocketAddr,
    service: Arc<Service>,
    opening: Opening,
    entry: Admitted,
    /// `None`: our own protocol, as it is.
    dialect: Option<Dialect>,
    /// What it has said already.
    first: Option<Bytes>,
}

impl Met {
    fn served<C: Carrier + 'static>(self, carrier: C) -> Session {
        let Met { from, service, opening, entry, dialect, first } = self;
        let open = service.series.open();
        // The older dialects note by themselves what comes to nothing.
        let refused =
            matches!(dialect, None | Some(Dialect::Paced(_))).then(|| refusals(service.clone(), from));
        let counter = service.series.connections(service.tls.is_some());
        let waits = opening.identity.is_none() && opening.verifier.is_some();
        // Otherwise its token is still to come.
        if entry.is_ok() && !waits {
            counter.inc();
        }
        let login = Login::new(&opening, waits.then_some(counter));
        let carrier = Measured::new(carrier, service.series.clone(), login.known.clone(), entry.is_ok());
        let (seat, dialect) = match (entry, dialect) {
            (Err(turned), None) => return Box::pin(refuse(carrier, turned, open, login.known)),
            (Err(turned), Some(dialect)) => {
                let mut carrier = Translated::new(carrier, dialect);
                return Box::pin(async move {
                    // Some never come back that are told in no way of theirs.
                    carrier.shown().await;
                    refuse(carrier, turned, open, login.known).await;
                });
            }
            (Ok((_, seat)), None) => {
                let held = Held { from, service, login, refused, open, _seat: seat };
                return Box::pin(hold(carrier, opening, held));
            }
            (Ok((_, seat)), Some(dialect)) => (seat, dialect),
        };
        let watcher = watcher(service.clone(), from, login.clone());
        let carrier = Translated::new(carrier, dialect).watched(watcher).closing_after(service.idle);
        let carrier = match first {
            Some(frame) => carrier.having_read(&frame),
            None => carrier,
        };
        Box::pin(hold(carrier, opening, Held { from, service, login, refused, open, _seat: seat }))
    }
}

async fn refuse<C: Carrier>(carrier: C, turned: Turned, mut open: Open, known: Known) {
    open.turned(&turned);
    session::close(carrier, turned.close(), &turned.refusal().message).await;
    open.told(known.closed_with());
}

/// What is known of a client's login.
#[derive(Debug, Clone)]
struct Login {
    known: Known,
    /// What its dialect has told of a failed one already.
    noted: Arc<OnceLock<Note>>,
}

impl Login {
    /// `counter`: counts its client once a token is good.
    fn new(opening: &Opening, counter: Option<IntCounter>) -> Login {
        let already = opening.identity.as_ref().is_some_and(|identity| identity.agent.is_some());
        Login { known: Known::new(already, counter), noted: Arc::default() }
    }

    /// It was refused. Who was in had a good token: that it has ended, or was taken back, is no attempt to come in.
    fn failed(&self, service: &Service, from: SocketAddr) {
        if !self.known.is_known() && !self.known.has_failed() {
            service.door.failed(from);
        }
    }
}

/// What goes with a session.
struct Held {
    from: SocketAddr,
    service: Arc<Service>,
    login: Login,
    refused: Option<Refusals>,
    open: Open,
    _seat: Seat,
}

/// The session.
async fn hold<C: Carrier>(carrier: C, opening: Opening, mut held: Held) {
    let (known, refused) = (held.login.known.clone(), held.refused.take());
    // The older dialects note by themselves what comes to nothing.
    let gate = Gate { door: held.service.door.clone(), from: held.from, counts: refused.is_some() };
    let carrier = Hearing::new(carrier, known, opening.verifier.is_some().then_some(gate), refused);
    let ended = session::serve(carrier, opening, &held.service.hub).await;
    let Held { from, service, login, open, .. } = &mut held;
    open.closed(ended.code, login.noted.get().copied());
    open.told(login.known.closed_with());
    // An end of its dialect's own was told by the watcher, and so was what its dialect noted of its login.
    let told = login.known.was_ended() || login.noted.get().is_some();
    let Some(mut event) = ended.code.filter(|_| !told).and_then(event) else { return };
    if ended.code == Some(CloseCode::Unauthorized) {
        login.failed(service, *from);
        if login.known.is_known() {
            event = "token_ended";
        }
    }
    service.door.log(*from, event, &ended.reason);
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

/// Logs with the address what is refused of our own protocol and no client should ask for: of a kind of thing the first time.
fn refusals(service: Arc<Service>, from: SocketAddr) -> Refusals {
    let mut told = Vec::new();
    Box::new(move |what| {
        if matches!(what, "forbidden" | "bad_name" | "decode_error") && !told.contains(&what) {
            service.door.log_some(from, what, "a frame was refused");
            told.push(what);
        }
    })
}

/// Logs with the address what a dialect sees: of a kind of thing the first time, and each close that is odd.
fn watcher(service: Arc<Service>, from: SocketAddr, login: Login) -> Watcher {
    let mut told = Vec::new();
    Box::new(move |seen| {
        if let Seen::Note(note) = &seen
            && note.is_login()
        {
            // There is one at most: the connection ends with it.
            let _ = login.noted.set(*note);
            // Who shows none has guessed none.
            if *note == Note::AuthFailed {
                login.failed(&service, from);
            }
        }
        if seen == Seen::Note(Note::RefreshFailed) {
            login.known.refresh_failed();
            return service.door.refresh_failed(from);
        }
        let event = match &seen {
            Seen::Note(note) if note.is_odd() => note.as_str(),
            // That a login failed was told by a note, and so were bad frames.
            Seen::Closed(_) if login.noted.get().is_some() => return,
            Seen::Closed(_) if told.contains(&Seen::Note(Note::BadFrames)) => return,
            Seen::Closed(code) => match event(*code) {
                Some(event) => event,
                None => return,
            },
            Seen::Note(_) => return,
        };
        if !told.contains(&seen) {
            service.door.log_refusal(from, event, "a client of an older dialect");
            told.push(seen);
        }
    })
}
