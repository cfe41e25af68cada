use time::Duration;

use super::*;
use crate::identity::Role;
use crate::identity::csr::Key;
use crate::identity::enrol::{JoinReply, Wants};
use crate::identity::ticket::Ticket;

const NOW: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

fn name(text: &str) -> NodeName {
    NodeName::new(text).unwrap()
}

fn desk(folder: &Path) -> CaDesk {
    CaDesk::create(folder, "trishula", b"secret", NOW).unwrap();
    let neighbours =
        Neighbours { own: Some(name("dc")), peers: vec![(name("agni"), "192.0.2.1:8766".into())] };
    CaDesk::open(folder, folder, Arc::default(), neighbours).unwrap()
}

fn invitation(who: &str) -> Invitation {
    let addresses = vec!["192.0.2.1:8766".into()];
    Invitation { name: name(who), expires: NOW + Duration::HOUR, addresses, public: None }
}

#[test]
fn a_machine_that_joins_gets_certificates_peers_and_the_secret_and_can_be_taken_back_by_name() {
    // covers Q07, T24
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(folder.path());
    let ticket = Ticket::parse(&desk.invite(invitation("new"), false, NOW).unwrap(), NOW).unwrap();
    let (node, edge) = (Key::generate().unwrap(), Key::generate().unwrap());
    let wants = Wants { node: Some(&node), edge: Some(&edge), public: None };
    let request = JoinRequest::new(&ticket, &wants).unwrap();
    let body = postcard::to_stdvec(&request).unwrap();
    let reply = desk.answer_enrol(&body, NOW).unwrap();
    let reply: JoinReply = postcard::from_bytes(&reply).unwrap();
    let joined = reply.open(&ticket, &request, NOW).unwrap();
    assert_eq!(joined.secrets, b"secret");
    assert_eq!(joined.peers[0].0, name("agni"));

    assert!(matches!(desk.invite(invitation("new"), false, NOW), Err(Error::NameTaken(_))));
    assert!(desk.invite(invitation("new"), true, NOW).is_ok());
    let list = desk.revoke(&Whom::Name("new".into()), "lost", NOW).unwrap();
    assert_eq!((list.number(), list.entries().len()), (1, 2));
    assert!(desk.in_force(NOW).unwrap().is_empty());
    // Taken by the node, not by the desk: a list that is in force already closes no link.
    assert!(desk.revocations().current().is_none());
    let other = desk.issue(&Request::link(Role::Node(name("other"))), NOW).unwrap();
    let second = desk.revoke(&Whom::Name("other".into()), "", NOW).unwrap();
    assert_eq!((second.number(), second.entries().len()), (2, 3));
    assert!(second.contains(&other.serial));
    // Another process sees the same.
    let again = CaDesk::open(folder.path(), folder.path(), Arc::default(), Neighbours::default()).unwrap();
    assert_eq!(again.revocations().current().unwrap().number(), 2);
    assert!(matches!(desk.revoke(&Whom::Name("new".into()), "", NOW), Err(Error::NobodyOf(_))));
    assert!(desk.answer_enrol(b"x", NOW).unwrap_err().contains("same version"));
}

#[test]
fn the_holder_does_not_revoke_itself() {
    // covers T24
    let folder = tempfile::tempdir().unwrap();
    let mut desk = desk(folder.path());
    let own = desk.issue(&Request::link(Role::Node(name("dc"))), NOW).unwrap();
    for whom in [Whom::Name("dc".into()), Whom::Serial(own.serial)] {
        assert!(matches!(desk.revoke(&whom, "", NOW), Err(Error::Self_(_))));
    }
    let unknown = Serial::random().unwrap();
    assert!(desk.revoke(&Whom::Serial(unknown.clone()), "", NOW).unwrap().contains(&unknown));
    assert_eq!(unknown.to_string().parse(), Ok(Whom::Serial(unknown)));
    assert_eq!("agni".parse(), Ok(Whom::Name("agni".into())));
    assert_eq!("abcdef".parse(), Ok(Whom::Name("abcdef".into())));
}

#[test]
fn a_mesh_is_not_made_twice() {
    // covers Q07
    let folder = tempfile::tempdir().unwrap();
    desk(folder.path());
    let error = CaDesk::create(folder.path(), "trishula", b"s", NOW).unwrap_err().to_string();
    assert!(error.contains("trishula invite"), "{error}");
    assert_eq!(fresh_secret().len(), 64);
    assert_ne!(fresh_secret(), fresh_secret());
}
