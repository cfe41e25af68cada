//! `HTTPS_PROXY`: a small proxy that knows CONNECT, and says what it saw.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::{Pair, flows_while};
use crate::harness::until;

/// What the proxy answers.
#[derive(Clone, Copy)]
enum Rule {
    Open,
    /// These credentials, in base64.
    Password(&'static str),
    Closed,
}

struct Proxy {
    address: SocketAddr,
    /// The first lines of the requests that it granted.
    granted: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    fn start(rule: Rule) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let granted = Arc::new(Mutex::new(Vec::new()));
        let seen = granted.clone();
        // Ends with the test process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let seen = seen.clone();
                std::thread::spawn(move || serve(client, rule, &seen));
            }
        });
        Proxy { address, granted }
    }

    fn granted(&self) -> Vec<String> {
        self.granted.lock().unwrap().clone()
    }
}

fn serve(mut client: TcpStream, rule: Rule, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let first = head.lines().next().unwrap().to_owned();
    let to = first.strip_prefix("CONNECT ")?.split(' ').next()?.to_owned();
    assert!(head.contains(&format!("\r\nHost: {to}\r\n")), "{head}");
    let refusal = match rule {
        Rule::Open => None,
        Rule::Password(word) if head.contains(&format!("\r\nProxy-Authorization: Basic {word}\r\n")) => None,
        Rule::Password(_) => Some("407 Proxy Authentication Required"),
        Rule::Closed => Some("403 Not For You"),
    };
    if let Some(refusal) = refusal {
        return client.write_all(format!("HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n").as_bytes()).ok();
    }
    let server = TcpStream::connect(&to).ok()?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n").ok()?;
    seen.lock().unwrap().push(first);
    let (client_again, server_again) = (client.try_clone().ok()?, server.try_clone().ok()?);
    let up = std::thread::spawn(move || copy(client, server));
    copy(server_again, client_again);
    up.join().ok()
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Write);
}

/// dc goes out through the proxy, with UDP blocked.
fn start_behind(pair: &mut Pair, proxy: &str, no_proxy: &str) {
    pair.path.set_open(false);
    for machine in &mut pair.mesh.machines {
        if machine.name == "dc" {
            machine.start_node_in(&[("HTTPS_PROXY", proxy), ("NO_PROXY", no_proxy)]);
        } else {
            machine.start_node();
        }
        machine.start_edge();
    }
}

// covers Q01
#[test]
fn a_proxy_is_gone_through_with_and_without_a_password() {
    for (rule, user) in [(Rule::Open, ""), (Rule::Password("dXNlcjpwQHNz"), "user:p%40ss@")] {
        let proxy = Proxy::start(rule);
        let mut pair = Pair::new();
        start_behind(&mut pair, &format!("http://{user}{}", proxy.address), "");
        pair.mesh.wait_whole();
        assert_eq!(pair.carrier().as_deref(), Some("wss"));
        let edge = pair.mesh.base + 12;
        assert_eq!(proxy.granted()[0], format!("CONNECT localhost:{edge} HTTP/1.1"));
        flows_while(&mut pair, |_, _| {});
        let status = pair.mesh.machine("dc").status().unwrap();
        let links = status["links"].as_array().unwrap();
        let shown = links.iter().find(|link| link["carrier"] == "wss").unwrap()["remote"].as_str().unwrap();
        assert_eq!(shown, format!("localhost:{edge} through {}", proxy.address));
        assert!(!pair.mesh.machine("dc").node_log().contains("p@ss"), "a password in the log");
    }
}

// covers Q01
#[test]
fn a_proxy_that_refuses_is_quoted_and_one_that_is_not_for_the_host_is_left_out() {
    for (rule, says) in [
        (Rule::Closed, "403 Not For You; it does not allow that host or port"),
        (Rule::Password("eA=="), "407 Proxy Authentication Required; it wants a user and a password"),
    ] {
        let proxy = Proxy::start(rule);
        let mut pair = Pair::new();
        start_behind(&mut pair, &format!("http://{}", proxy.address), "");
        until("the log says what the proxy said", || {
            let log = pair.mesh.machine("dc").node_log();
            log.contains(&format!(
                "the proxy {} (HTTPS_PROXY) refused to connect to localhost",
                proxy.address
            )) && log.contains(says)
        });
        assert!(!pair.mesh.machine("dc").reaches("agni"));
    }
    let proxy = Proxy::start(Rule::Closed);
    let mut pair = Pair::new();
    start_behind(&mut pair, &format!("http://{}", proxy.address), "localhost");
    pair.mesh.wait_whole();
    assert_eq!(pair.carrier().as_deref(), Some("wss"));
    let mut pair = Pair::new();
    start_behind(&mut pair, "socks5://127.0.0.1:1", "");
    until("the log says which proxies are spoken to", || {
        pair.mesh.machine("dc").node_log().contains("only proxies of http:// are spoken to")
    });
}
