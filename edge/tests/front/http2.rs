//! HTTP/2: pages and WebSockets of one connection.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::clients::{builder, connect, roots, websocket};
use crate::support::{World, soon, token};

#[tokio::test]
async fn websockets_over_http_2() {
    // covers B10
    let mut world = World::start().await;
    let mut config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(world.address(), config.clone()).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let page = Request::get("https://localhost/health").body(Empty::<&[u8]>::new()).unwrap();
    let answer = soon(send.send_request(page)).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(answer.headers().contains_key("strict-transport-security"));
    let body = soon(answer.into_body().collect()).await.unwrap().to_bytes();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["status"], "healthy");
    // Two agents on one connection, and their messages.
    let mut sockets = Vec::new();
    for agent in ["dc", "agni"] {
        let mut request = Request::builder()
            .method(Method::CONNECT)
            .uri("https://localhost/ws")
            .header("sec-websocket-version", "13")
            .header("authorization", format!("Bearer {}", token(agent)))
            .body(Empty::<&[u8]>::new())
            .unwrap();
        request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
        let answer = soon(send.send_request(request)).await.unwrap();
        assert_eq!(answer.status(), 200);
        assert!(!answer.headers().contains_key("sec-websocket-accept"));
        let io = TokioIo::new(soon(hyper::upgrade::on(answer)).await.unwrap());
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
        socket.send(Message::text(r#"{"type":"REGISTER"}"#)).await.unwrap();
        let Some(Ok(Message::Text(text))) = soon(socket.next()).await else { panic!("no answer") };
        assert!(text.contains("REGISTERED"), "{text}");
        sockets.push(socket);
    }
    let said = json!({"type": "STATUS", "to": "agni", "payload": "x".repeat(200_000)}).to_string();
    sockets[0].send(Message::text(said)).await.unwrap();
    let heard = loop {
        match soon(sockets[1].next()).await {
            Some(Ok(Message::Text(text))) => break text,
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(serde_json::from_str::<Value>(&heard).unwrap()["from"], "dc");
    // A wrong token is refused on its stream, and the connection goes on.
    let mut request = Request::builder()
        .method(Method::CONNECT)
        .uri("https://localhost/ws?token=nonsense")
        .header("sec-websocket-version", "13")
        .body(Empty::<&[u8]>::new())
        .unwrap();
    request.extensions_mut().insert(hyper::ext::Protocol::from_static("websocket"));
    assert_eq!(soon(send.send_request(request)).await.unwrap().status(), 401);
    // Whoever offers only HTTP/1.1, as browsers do for a WebSocket, gets it.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = connect(world.address(), config).await.unwrap();
    let mut third = websocket(stream, &format!("/ws?token={}", token("third"))).await.unwrap();
    third.say(json!({"type": "REGISTER"})).await;
    assert_eq!(third.hear().await["type"], "REGISTERED");
    // A stop tells each stream, and ends the connection.
    let edge = std::mem::replace(&mut world.edge, World::start_alone("").edge);
    let stop = tokio::spawn(async move { edge.stop(Duration::from_secs(5)).await });
    for socket in &mut sockets {
        let code = loop {
            match soon(socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => break u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(code, 1012);
    }
    drop((sockets, send));
    soon(stop).await.unwrap();
    let _ = soon(connection).await.unwrap();
}

#[tokio::test]
async fn a_service_may_be_without_http_2() {
    // covers B10
    let world = World::start_with("http = { http2 = false }").await;
    let mut config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = connect(world.address(), config).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[tokio::test]
async fn the_head_of_a_request_keeps_to_the_same_limits() {
    // covers B09, B10
    let world = World::start().await;
    let mut config = builder(rustls::ALL_VERSIONS)
        .with_root_certificates(roots(world.machine.ca.certificate_pem()))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(world.address(), config).await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    for (headers, name, status) in
        [(64, "x-a", 200), (65, "x-a", 431), (65, "cookie", 200), (1, "host", 400), (2, "host", 400)]
    {
        let mut page = Request::get("https://localhost/health");
        for _ in 0..headers {
            page = page.header(name, "a=b");
        }
        let page = page.body(Empty::<&[u8]>::new()).unwrap();
        let answer = soon(send.send_request(page)).await.unwrap();
        assert_eq!(answer.status(), status, "{headers} of {name}");
        assert!(answer.headers().contains_key("strict-transport-security"));
    }
    drop(send);
    let _ = soon(connection).await.unwrap();
}
