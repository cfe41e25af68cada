//! Joiners, a holder of the CA, and nodes between them that would read or change what they say.

use rustls::pki_types::pem::PemObject;
use time::Duration;

use super::*;
use crate::identity::bundle::Leaf;
use crate::identity::invites::Invitation;
use crate::identity::testing::{NOW, name};

struct Mesh {
    ca: Authority,
    invites: Invites,
    ticket: Ticket,
    folder: tempfile::TempDir,
}

fn mesh() -> Mesh {
    let folder = tempfile::tempdir().unwrap();
    let ca = Authority::create("trishula", NOW).unwrap();
    let mut invites = Invites::open(&folder.path().join("invites.json")).unwrap();
    let invitation = Invitation {
        name: name("dc"),
        expires: NOW + Duration::hours(1),
        addresses: vec!["agni.example.com:8766".into()],
        public: Some(public_names()),
    };
    let ticket = invites.create(&ca, invitation, NOW).unwrap();
    Mesh { ca, invites, ticket, folder }
}

fn public_names() -> PublicNames {
    PublicNames { dns: vec!["dc.example.com".into()], ips: vec!["192.0.2.1".parse().unwrap()] }
}

fn welcome() -> Welcome<'static> {
    Welcome {
        peers: vec![(name("agni"), "agni.example.com:8766".into())],
        revoked: None,
        secrets: b"the mesh's own secrets",
    }
}

#[test]
fn a_ticket_makes_a_machine_a_member() {
    // covers Q07
    let Mesh { ca, mut invites, ticket, folder: _folder } = mesh();
    let keys: Vec<Key> = (0..3).map(|_| Key::generate().unwrap()).collect();
    let wants =
        Wants { node: Some(&keys[0]), edge: Some(&keys[1]), public: Some((&keys[2], public_names())) };
    let list = ca.revoke(&[], None, NOW).unwrap();
    let request = JoinRequest::new(&ticket, &wants).unwrap();
    let welcome = Welcome { revoked: Some(&list), ..welcome() };
    let reply = ca.enrol(&request, &mut invites, &welcome, NOW).unwrap();
    let joined = reply.open(&ticket, &request, NOW).unwrap();
    let chains = [joined.node, joined.edge, joined.public];
    for (key, chain) in keys.iter().zip(&chains) {
        let chain = chain.as_ref().unwrap();
        Leaf::from_pem(chain.as_bytes(), key.to_pem().as_bytes(), "chain", "key").unwrap();
    }
    let role = |chain: &Option<String>| {
        let der = CertificateDer::from_pem_slice(chain.as_ref().unwrap().as_bytes()).unwrap();
        PeerName::from_certificate(&der).unwrap().role.to_string()
    };
    assert_eq!(chains.iter().map(role).collect::<Vec<_>>(), ["node dc", "edge dc", "edge dc"]);
    assert_eq!((joined.secrets.as_slice(), joined.peers), (&b"the mesh's own secrets"[..], welcome.peers));
    assert_eq!((joined.ca_pem.as_str(), joined.revoked), (ca.certificate_pem(), Some(list)));
    let sent = postcard::to_stdvec(&reply).unwrap();
    assert!(!sent.windows(6).any(|w| w == b"mesh's"), "a relaying node reads no secret");
}

#[test]
fn the_same_request_gets_the_same_answer_and_no_other_any() {
    // covers Q07
    let Mesh { ca, mut invites, ticket, folder } = mesh();
    let (key, other) = (Key::generate().unwrap(), Key::generate().unwrap());
    let wants = Wants { node: Some(&key), ..Wants::default() };
    let request = JoinRequest::new(&ticket, &wants).unwrap();
    let first = ca.enrol(&request, &mut invites, &welcome(), NOW).unwrap();
    assert_eq!(ca.enrol(&request, &mut invites, &welcome(), NOW).unwrap(), first);

    // After a crash of both: the holder reads its file, the joiner has its key, but signs a new CSR with it.
    let mut invites = Invites::open(&folder.path().join("invites.json")).unwrap();
    let again = JoinRequest::new(&ticket, &wants).unwrap();
    assert_ne!(again, request);
    let reply = ca.enrol(&again, &mut invites, &welcome(), NOW).unwrap();
    assert_eq!(reply, first);
    assert!(reply.open(&ticket, &again, NOW).is_ok());

    for wants in [
        Wants { node: Some(&other), ..Wants::default() },
        Wants { node: Some(&key), edge: Some(&other), ..Wants::default() },
        Wants { edge: Some(&key), ..Wants::default() },
    ] {
        let request = JoinRequest::new(&ticket, &wants).unwrap();
        let refused = ca.enrol(&request, &mut invites, &welcome(), NOW);
        assert!(matches!(refused, Err(EnrolError::Used(_))), "{refused:?}");
    }
    let late = ca.enrol(&request, &mut invites, &welcome(), NOW + Duration::hours(2));
    assert!(matches!(late, Err(EnrolError::Expired(_))), "{late:?}");
}

#[test]
fn a_relaying_node_can_change_nothing() {
    // covers Q07
    let Mesh { ca, mut invites, ticket, folder: _folder } = mesh();
    let key = Key::generate().unwrap();
    let request = JoinRequest::new(&ticket, &Wants { node: Some(&key), ..Wants::default() }).unwrap();
    for at in 0..request.asked.len() {
        let mut changed = request.clone();
        changed.asked[at] ^= 1;
        assert!(ca.enrol(&changed, &mut invites, &welcome(), NOW).is_err(), "byte {at}");
    }
    let mut changed = request.clone();
    changed.tag[0] ^= 1;
    assert!(matches!(ca.enrol(&changed, &mut invites, &welcome(), NOW), Err(EnrolError::Tampered(_))));

    let reply = ca.enrol(&request, &mut invites, &welcome(), NOW).unwrap();
    for at in 0..reply.answered.len() {
        let mut changed = reply.clone();
        changed.answered[at] ^= 1;
        let opened = changed.open(&ticket, &request, NOW);
        assert!(matches!(opened, Err(EnrolError::Tampered(_))), "byte {at}: {opened:?}");
    }
}

#[test]
fn who_knows_the_ticket_still_gets_no_more_than_it_says() {
    // covers Q07
    let Mesh { ca, mut invites, ticket, folder: _folder } = mesh();
    let key = Key::generate().unwrap();
    let wants = Wants { node: Some(&key), ..Wants::default() };
    let other_name = Ticket { name: name("agni"), ..ticket.clone() };
    let request = JoinRequest::new(&other_name, &wants).unwrap();
    let refused = ca.enrol(&request, &mut invites, &welcome(), NOW);
    assert!(matches!(refused, Err(EnrolError::WrongName { .. })), "{refused:?}");
    let other_secret = Ticket { secret: Secret::random().unwrap(), ..ticket.clone() };
    let request = JoinRequest::new(&other_secret, &wants).unwrap();
    let refused = ca.enrol(&request, &mut invites, &welcome(), NOW);
    assert!(matches!(refused, Err(EnrolError::Tampered(_))), "{refused:?}");
    let no_invite = Ticket { invite: InviteId::random().unwrap(), ..ticket.clone() };
    let request = JoinRequest::new(&no_invite, &wants).unwrap();
    let refused = ca.enrol(&request, &mut invites, &welcome(), NOW);
    assert!(matches!(refused, Err(EnrolError::Unknown(_))), "{refused:?}");

    let mesh_name = PublicNames { dns: vec!["agni.node.trishula".into()], ips: vec![] };
    let greedy = Wants { public: Some((&key, mesh_name)), ..Wants::default() };
    let request = JoinRequest::new(&ticket, &greedy).unwrap();
    assert!(ca.enrol(&request, &mut invites, &welcome(), NOW).is_err());

    let nothing = JoinRequest::new(&ticket, &Wants::default()).unwrap();
    assert!(ca.enrol(&nothing, &mut invites, &welcome(), NOW).is_err());
    let other_host = PublicNames { dns: vec!["example.org".into()], ips: vec![] };
    let greedy = Wants { public: Some((&key, other_host)), ..Wants::default() };
    let request = JoinRequest::new(&ticket, &greedy).unwrap();
    let refused = ca.enrol(&request, &mut invites, &welcome(), NOW);
    assert!(matches!(refused, Err(EnrolError::NameNotInvited(_))), "{refused:?}");

    // None of these has used the invitation up; and a reply of another CA is not believed.
    let request = JoinRequest::new(&ticket, &wants).unwrap();
    let reply = ca.enrol(&request, &mut invites, &welcome(), NOW).unwrap();
    let other_ca = Ticket { ca: Fingerprint([0; 32]), ..ticket };
    assert!(matches!(reply.open(&other_ca, &request, NOW), Err(EnrolError::Misfit(_))));
}
