//! A peer that comes back by a session that TLS would resume: its certificate is looked at again all the same.
//! No session is forgotten here, so nothing but that look refuses anybody.

use std::net::UdpSocket;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::ServerSessionMemoryCache;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use time::{Duration, OffsetDateTime};
use trishula::identity::bundle::{Bundle, Leaf};
use trishula::identity::ca::Authority;
use trishula::identity::profile::{LINK_LIFE, Request};
use trishula::identity::revocation::Revocations;
use trishula::identity::tls::{self, Clock, Identity};
use trishula::identity::{PeerName, Refusal, Role};
use trishula::link::early::{self, Begun};
use trishula::link::quic::{self, Certificate};
use trishula::link::segments::Segments;
use trishula::link::{self, Local};
use trishula::rt::{clock, queue};

use crate::ends::{Heard, PATIENCE, endpoint, hello, node};

/// The accepting end's TLS has a clock that stands: it finds certificates in date that are no longer.
#[derive(Debug)]
struct Stands(OffsetDateTime);

impl TimeProvider for Stands {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.unix_timestamp()).ok()?;
        Some(UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds)))
    }
}

/// One mesh, and an accepting end that forgets no session, whatever becomes of trust.
struct Bench {
    ca: Authority,
    now: OffsetDateTime,
    ours: Arc<Local>,
    port: quinn::Endpoint,
    _heard: Heard,
}

/// What the accepting end finds when a peer is there.
struct Met {
    /// By a session, before anything of the handshake was verified.
    resumed: bool,
    admitted: Result<PeerName, link::Error>,
}

impl Bench {
    /// TLS's clock stands halfway between the end of what was issued a life ago and of what is issued now.
    fn new() -> Bench {
        let now = OffsetDateTime::from(clock::wall());
        let ca = Authority::create("test", now - 2 * LINK_LIFE).unwrap();
        let stands = Arc::new(Stands(now - LINK_LIFE / 2));
        let ours = member(&ca, "agni", (now - LINK_LIFE / 2 - Duration::HOUR, stands));
        let (ours, heard) = ours;
        let mut config = rustls::ServerConfig::clone(&ours.identity.server().unwrap().config);
        config.session_storage = ServerSessionMemoryCache::new(64);
        let tls = tls::quic_server(Arc::new(config)).unwrap();
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(Arc::new(quic::transport()));
        let socket = Segments::on(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let (config, runtime) = (quinn::EndpointConfig::default(), Arc::new(quinn::TokioRuntime));
        let port = quinn::Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime).unwrap();
        Bench { ca, now, ours, port, _heard: heard }
    }

    /// A peer whose certificate was issued so long ago, with a ticket of ours.
    async fn peer(&self, age: Duration) -> Peer {
        let (theirs, heard) = member(&self.ca, "dc", (self.now - age, Arc::new(DefaultTimeProvider)));
        let tls = tls::quic_client(theirs.identity.client(None).unwrap()).unwrap();
        let dial = quinn::ClientConfig::new(Arc::new(tls));
        let peer = Peer { from: endpoint(&theirs), dial, _theirs: (theirs, heard) };
        let dialled = async { peer.connecting(self).await.unwrap() };
        let accepted = async { self.port.accept().await.unwrap().await.unwrap() };
        let (dialled, accepted) = tokio::join!(dialled, accepted);
        // What the other end sent behind the tickets is here: so are they.
        let mut stream = accepted.open_uni().await.unwrap();
        stream.write_all(b"x").await.unwrap();
        let heard = dialled.accept_uni().await.unwrap().read_chunk(1, true).await.unwrap();
        assert!(heard.is_some());
        dialled.close(0u32.into(), b"");
        peer
    }

    /// The peer comes back, and is met as the daemon meets it.
    async fn meet_again(&self, peer: &Peer) -> Met {
        let (_again, accepted) = peer.connecting(self).into_0rtt().map_err(|_| "no ticket").unwrap();
        let mut connecting = self.port.accept().await.unwrap().accept().unwrap();
        connecting.handshake_data().await.unwrap();
        let (connection, begun) = early::accept(connecting).await.unwrap();
        let resumed = matches!(begun, Begun::Accepting(_));
        let admitted = quic::admit(&self.ours, &connection);
        early::over(&connection, begun).await.unwrap();
        assert!(accepted.await, "TLS has nothing against it");
        Met { resumed, admitted }
    }
}

/// Who dials.
struct Peer {
    from: quinn::Endpoint,
    dial: quinn::ClientConfig,
    _theirs: (Arc<Local>, Heard),
}

impl Peer {
    fn connecting(&self, bench: &Bench) -> quinn::Connecting {
        let to = bench.port.local_addr().unwrap();
        self.from.connect_with(self.dial.clone(), to, "node.trishula").unwrap()
    }
}

/// A machine with a certificate of this moment, whose TLS goes by this clock.
fn member(ca: &Authority, name: &str, (issued, clock): (OffsetDateTime, Clock)) -> (Arc<Local>, Heard) {
    let issued = ca.issue(&Request::link(Role::Node(node(name))), issued).unwrap();
    let link = Leaf::from_pem(issued.chain_pem.as_bytes(), issued.key_pem.as_bytes(), "leaf", "key").unwrap();
    let bundle = Bundle {
        folder: PathBuf::new(),
        name: PeerName::from_certificate(link.certificate().unwrap()).unwrap(),
        ca: ca.certificate().clone(),
        link,
        public: None,
        revoked: None,
    };
    let identity = Identity::new(&bundle, Arc::new(Revocations::new(None)), clock).unwrap();
    let (events, heard) = queue::bounded("test.link", 64);
    (Local::new(hello(name), identity, events), heard)
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

// covers T24, T02
#[tokio::test]
async fn a_certificate_that_was_revoked_is_refused_though_its_session_is_resumed() {
    let bench = Bench::new();
    let peer = in_time(bench.peer(LINK_LIFE / 2)).await;
    let met = in_time(bench.meet_again(&peer)).await;
    assert!(met.resumed);
    let name = met.admitted.expect("nothing is wrong with it yet");
    assert_eq!(name.role, Role::Node(node("dc")));
    assert_eq!(Certificate::of(&name).ended(&bench.ours), None);

    let list = bench.ca.revoke(std::slice::from_ref(&name.serial), None, bench.now).unwrap();
    assert!(bench.ours.identity.trust().revocations().offer(list));
    let met = in_time(bench.meet_again(&peer)).await;
    assert!(met.resumed, "its session was not forgotten");
    let refused = met.admitted;
    assert!(matches!(refused, Err(link::Error::NotAdmitted(Refusal::Revoked { .. }))), "{refused:?}");
    // Who was admitted before that is told within a second.
    let why = Certificate::of(&name).ended(&bench.ours).unwrap();
    assert!(why.contains("revoked"), "{why}");
}

// covers T24, T02
#[tokio::test]
async fn a_certificate_that_has_expired_is_refused_though_its_session_is_resumed() {
    let bench = Bench::new();
    let in_date = in_time(bench.peer(LINK_LIFE - Duration::DAY)).await;
    let met = in_time(bench.meet_again(&in_date)).await;
    assert!(met.resumed && met.admitted.is_ok(), "{:?}", met.admitted);

    let expired = in_time(bench.peer(LINK_LIFE + Duration::DAY)).await;
    let met = in_time(bench.meet_again(&expired)).await;
    assert!(met.resumed, "for TLS it is in date, and its session goes on");
    let refused = met.admitted;
    assert!(matches!(refused, Err(link::Error::NotAdmitted(Refusal::Expired { .. }))), "{refused:?}");
}
