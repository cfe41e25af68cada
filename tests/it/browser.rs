//! A real Chromium that runs one page's script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::PATIENCE;

/// What the page does: one COMMAND over the browser's own WebSocket, and what comes back is posted to where the page is from.
/// If it is told of something to fetch `first`, it does: with credentials, as a WebSocket has them, or the browser would take
/// a connection of its own for it. The answer is of another origin and not to be read; that the connection is there is enough.
const PAGE: &str = r#"<!doctype html><script>
const { url, token, way, command, first } = SAID;
const done = (what) => fetch("/result", { method: "POST", body: JSON.stringify(what) });
const address = way === "query" ? `${url}?token=${token}` : url;
const offered = way === "subprotocol" ? ["trishula.v2+json", `bearer.${token}`] : [];
const open = () => {
  const ws = new WebSocket(address, offered);
  ws.onopen = () => {
    if (way === "message") ws.send(JSON.stringify({ type: "auth", token }));
    ws.send(command);
  };
  ws.onmessage = (event) => {
    const frame = JSON.parse(event.data);
    if (frame.type !== "AUTHENTICATED") done(frame);
  };
  ws.onclose = (event) => done({ type: "CLOSED", code: event.code, reason: event.reason });
};
if (first) fetch(first, { mode: "no-cors", credentials: "include", cache: "no-store" }).finally(open);
else open();
</script>"#;

/// Shows it to a headless Chromium that believes this certificate, and answers what the page posts.
pub fn run(certificate: &Path, said: &Value) -> Value {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let profile = tempfile::tempdir().unwrap();
    let mut chromium = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"])
        .arg(format!("--ignore-certificate-errors-spki-list={}", key_of(certificate)))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("http://{}/", listener.local_addr().unwrap()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("chromium does not start ({e}): use tests/run.sh"));
    let page = PAGE.replace("SAID", &said.to_string());
    let posted = serve(&listener, &page);
    let _ = chromium.kill();
    let _ = chromium.wait();
    posted.expect("the page posts what came")
}

/// Answers requests until one posts something.
fn serve(listener: &TcpListener, page: &str) -> Option<Value> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match listener.accept() {
            Ok((socket, _)) => {
                if let Some(posted) = answer(socket, page) {
                    return Some(posted);
                }
            }
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    None
}

fn answer(mut socket: TcpStream, page: &str) -> Option<Value> {
    socket.set_nonblocking(false).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let mut reader = BufReader::new(socket.try_clone().ok()?);
    let (mut request, mut length) = (String::new(), 0);
    reader.read_line(&mut request).ok()?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
    let shown = if request.starts_with("GET / ") { page } else { "" };
    let _ = write!(socket, "{head}Content-Length: {}\r\n\r\n{shown}", shown.len());
    if request.starts_with("POST") { serde_json::from_slice(&body).ok() } else { None }
}

/// SHA-256 of a certificate's public key, in base64, as Chromium wants it.
fn key_of(certificate: &Path) -> String {
    let pipeline = "openssl x509 -in \"$0\" -pubkey -noout | openssl pkey -pubin -outform der \
                    | openssl dgst -sha256 -binary | openssl base64 -A";
    let output = Command::new("sh").arg("-c").arg(pipeline).arg(certificate).output().unwrap();
    let key = String::from_utf8(output.stdout).unwrap();
    assert_eq!(key.len(), 44, "{key}");
    key
}
