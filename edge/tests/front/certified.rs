//! Clients that show a certificate.

use rustls::ClientConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use trishula::identity;
use trishula::identity::profile::Request as Ask;
use trishula::rt::clock;
use trishula::wire::ids::{AgentAddr, AgentName, Namespace};

use crate::clients::{builder, connect, get, roots, websocket};
use crate::support::{Machine, World, soon};

/// Puts a certificate for an agent of a namespace beside the configuration, and makes a client's TLS of it.
fn certified(machine: &Machine, namespace: &str, agent: &str) -> ClientConfig {
    let address = AgentAddr::new(Namespace::new(namespace).unwrap(), AgentName::new(agent).unwrap());
    let issued = machine.ca.issue(&Ask::link(identity::Role::Agent(address)), clock::wall().into()).unwrap();
    let chain = CertificateDer::pem_slice_iter(issued.chain_pem.as_bytes()).map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(machine.ca.certificate_pem()))
        .with_client_auth_cert(chain, key)
        .unwrap()
}

#[tokio::test]
async fn a_certificate_in_place_of_a_token() {
    // covers B14
    let more = "ca_file = \"id/ca.pem\"\nclient_identity = { agents = [\"worker-*\"] }";
    let world = World::start_with(more).await;
    let stream = connect(world.address(), certified(&world.machine, "trishula", "indexer")).await.unwrap();
    let mut indexer = websocket(stream, "/ws").await.unwrap();
    indexer.say(json!({"type": "REGISTER"})).await;
    let answer = indexer.hear().await;
    assert_eq!((&answer["type"], &answer["payload"]["agent"]), (&json!("REGISTERED"), &json!("indexer")));
    indexer.say(json!({"type": "REGISTER", "agent": "worker-1"})).await;
    assert_eq!(indexer.hear().await["payload"]["agent"], "worker-1");
    indexer.say(json!({"type": "REGISTER", "agent": "dc"})).await;
    assert_eq!(indexer.hear().await["payload"]["code"], "forbidden");
    // Who shows none still needs a token, and who shows one of another namespace is not let in at all.
    let mut nobody = world.upgrade("/ws", &[]).await.unwrap().0;
    nobody.say(json!({"type": "REGISTER"})).await;
    assert_eq!(nobody.hear().await["payload"]["code"], "unauthenticated");
    let stream = connect(world.address(), certified(&world.machine, "other", "indexer")).await.unwrap();
    assert!(websocket(stream, "/ws").await.is_err());
    let stranger = certified(&Machine::new(), "trishula", "indexer");
    let mut config = certified(&world.machine, "trishula", "x");
    config.client_auth_cert_resolver = stranger.client_auth_cert_resolver;
    let refused = match connect(world.address(), config).await {
        Ok(stream) => websocket(stream, "/ws").await.is_err(),
        Err(_) => true,
    };
    assert!(refused, "a certificate of another CA");
}

#[tokio::test]
async fn a_certificate_is_a_token_in_older_dialects_as_well() {
    // covers B14
    let machine = Machine::new();
    let config = machine.configure_services(
        "[[service]]\npreset = \"mahavishnu\"\nlisten = [\"127.0.0.1:0\"]\nsecret_file = \"secret\"\n\
         ca_file = \"id/ca.pem\"\nclient_identity = { permissions = [\"pool:read\"] }\n",
    );
    let mut world = World::start_on(machine, config);
    world.connect(1).await;
    let stream = connect(world.address(), certified(&world.machine, "mahavishnu", "indexer")).await.unwrap();
    let mut client = websocket(stream, "/").await.unwrap();
    let greeting = client.hear().await;
    assert_eq!(
        (&greeting["event"], &greeting["data"]["authenticated"]),
        (&json!("session.created"), &json!(true))
    );
    client
        .say(json!({"type": "request", "event": "subscribe", "data": {"channel": "pool:p"}, "id": "s"}))
        .await;
    assert_eq!(client.hear().await["status"], "subscribed");
}

#[tokio::test]
async fn only_clients_with_a_certificate() {
    // covers B14
    let world = World::start_with("ca_file = \"id/ca.pem\"\nverify_client = true").await;
    let config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    // In TLS 1.3 a client hears of it after its own handshake.
    let refused = match connect(world.address(), config).await {
        Ok(mut stream) => {
            let _ = stream.write_all(get("/health").as_bytes()).await;
            let mut answer = Vec::new();
            let _ = soon(stream.read_to_end(&mut answer)).await;
            answer.is_empty()
        }
        Err(_) => true,
    };
    assert!(refused);
    let stream = connect(world.address(), certified(&world.machine, "trishula", "indexer")).await.unwrap();
    let mut indexer = websocket(stream, "/ws").await.unwrap();
    indexer.say(json!({"type": "REGISTER"})).await;
    assert_eq!(indexer.hear().await["payload"]["agent"], "indexer");
}
