//! The PROXY protocol, versions 1 and 2, as HAProxy's `proxy-protocol.txt` has it: before its first byte a proxy says where the
//! connection that it passes on came from.
//!
//! A listener either expects it or does not: guessing would let anybody claim any address. What is not understood ends the
//! connection.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Begins version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Begins version 1.
const WORD: &[u8] = b"PROXY ";
/// Longest line of version 1, its CRLF included.
const LONGEST_LINE: usize = 107;
/// Most bytes behind the fixed part of version 2: addresses, and what else a proxy tells. The format has room for 65,535; what
/// proxies send is some hundred.
const MOST_MORE: usize = 4096;
/// Addresses of version 2: two of IPv4 and two ports, or two of IPv6.
const INET: usize = 12;
const INET6: usize = 36;

/// What stood before a connection's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// The client's own address.
    From(SocketAddr),
    /// The proxy speaks for itself, as in its health checks, or does not know; the connection's own address counts.
    Local,
}

/// Why it can't be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not what the specification has.
    #[error("no PROXY protocol header: {0}")]
    Malformed(&'static str),
    /// The connection broke.
    #[error("the connection ended amid the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
}

/// Reads the header from the beginning of a connection, and not a byte behind it.
///
/// # Errors
///
/// When there is none.
pub async fn read(socket: &mut TcpStream) -> Result<Header, Error> {
    // Shorter than the shortest of both versions.
    let mut start = [0u8; SIGNATURE.len()];
    socket.read_exact(&mut start).await?;
    if &start == SIGNATURE {
        let mut fixed = [0u8; 4];
        socket.read_exact(&mut fixed).await?;
        let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if length > MOST_MORE {
            return Err(Error::Malformed("its length is more than any proxy needs"));
        }
        let mut more = vec![0u8; length];
        socket.read_exact(&mut more).await?;
        return version_2(fixed[0], fixed[1], &more).map_err(Error::Malformed);
    }
    if !start.starts_with(WORD) {
        return Err(Error::Malformed("it begins with neither \"PROXY \" nor the signature of version 2"));
    }
    let mut line = start.to_vec();
    // What is there is looked at first and then taken up to the line's end.
    while !line.ends_with(b"\n") {
        let mut seen = [0u8; LONGEST_LINE];
        let room = LONGEST_LINE - line.len();
        if room == 0 {
            return Err(Error::Malformed("its line has no end"));
        }
        let count = socket.peek(&mut seen[..room]).await?;
        if count == 0 {
            return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let take = seen[..count].iter().position(|byte| *byte == b'\n').map_or(count, |at| at + 1);
        socket.read_exact(&mut seen[..take]).await?;
        line.extend_from_slice(&seen[..take]);
    }
    version_1(&line).map_err(Error::Malformed)
}

/// One line: `PROXY TCP4 SOURCE DESTINATION PORT PORT`.
fn version_1(line: &[u8]) -> Result<Header, &'static str> {
    let line = line.strip_suffix(b"\r\n").ok_or("its line does not end with CRLF")?;
    let line =
        std::str::from_utf8(line).ok().filter(|line| line.is_ascii()).ok_or("its line is not ASCII")?;
    let words: Vec<&str> = line.split(' ').collect();
    match words[..] {
        // What follows the word is to be passed over.
        ["PROXY", "UNKNOWN", ..] => Ok(Header::Local),
        ["PROXY", family @ ("TCP4" | "TCP6"), source, destination, from_port, to_port] => {
            let ip = |text: &str| match family {
                "TCP4" => text.parse().map(IpAddr::V4).ok(),
                _ => text.parse().map(IpAddr::V6).ok(),
            };
            let (Some(source), Some(_)) = (ip(source), ip(destination)) else {
                return Err("an address is not one of its family");
            };
            let (Some(port), Some(_)) = (port(from_port), port(to_port)) else {
                return Err("a port is not a number from 0 to 65535");
            };
            Ok(Header::From(SocketAddr::new(source, port)))
        }
        _ => Err("its line is not: PROXY TCP4|TCP6 SOURCE DESTINATION PORT PORT"),
    }
}

/// Without leading zeros, signs or spaces, as the specification has it.
fn port(text: &str) -> Option<u16> {
    let canonical = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then(|| text.parse().ok()).flatten()
}

/// `command` and `family` are the two bytes behind the signature; `more` is what the length says.
fn version_2(command: u8, family: u8, more: &[u8]) -> Result<Header, &'static str> {
    if command >> 4 != 2 {
        return Err("its version is not 2");
    }
    match command & 0x0f {
        0 => return Ok(Header::Local),
        1 => {}
        _ => return Err("its command is neither LOCAL nor PROXY"),
    }
    if family >> 4 > 3 || family & 0x0f > 2 {
        return Err("its address family or transport is unknown");
    }
    match family {
        0x11 => {
            let [a, b, c, d, _, _, _, _, high, low, _, _] = *first::<INET>(more)?;
            Ok(Header::From(SocketAddr::from((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])))))
        }
        0x21 => {
            let addresses = first::<INET6>(more)?;
            let ip = Ipv6Addr::from(*first::<16>(addresses)?);
            let port = u16::from_be_bytes([addresses[32], addresses[33]]);
            Ok(Header::From(SocketAddr::from((ip, port))))
        }
        // Unix sockets, datagrams, or nothing said: there is no address in it that could be ours.
        _ => Ok(Header::Local),
    }
}

fn first<const N: usize>(bytes: &[u8]) -> Result<&[u8; N], &'static str> {
    bytes.first_chunk::<N>().ok_or("it is shorter than its addresses")
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What is read of these bytes, and what is left behind it.
    async fn reads(bytes: &[u8]) -> (Result<Header, Error>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(bytes).await.unwrap();
        drop(client);
        let header = read(&mut server).await;
        let mut rest = Vec::new();
        let _ = server.read_to_end(&mut rest).await;
        (header, rest)
    }

    fn second(command: u8, family: u8, more: &[u8]) -> Vec<u8> {
        let length = u16::try_from(more.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, more].concat()
    }

    const SOME_V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 0x01, 0xbb];

    #[tokio::test]
    async fn good_headers_say_where_a_client_is_and_leave_what_follows() {
        // covers B13
        let mut v6 = [0u8; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..34].copy_from_slice(&12345u16.to_be_bytes());
        let with_more = [&SOME_V4[..], &[4, 0, 1, 0]].concat();
        let from = |text: &str| Header::From(text.parse().unwrap());
        for (bytes, header) in [
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\n".to_vec(), from("192.0.2.7:12345")),
            (b"PROXY TCP6 2001:db8::7 ::1 0 443\r\n".to_vec(), from("[2001:db8::7]:0")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Header::Local),
            (b"PROXY UNKNOWN 1 2 3 4\r\n".to_vec(), Header::Local),
            (second(0x21, 0x11, &SOME_V4), from("192.0.2.7:12345")),
            (second(0x21, 0x11, &with_more), from("192.0.2.7:12345")),
            (second(0x21, 0x21, &v6), from("[2001:db8::7]:12345")),
            (second(0x20, 0x00, &[]), Header::Local),
            (second(0x20, 0x11, &SOME_V4), Header::Local),
            (second(0x21, 0x00, &[]), Header::Local),
            (second(0x21, 0x31, &[0; 216]), Header::Local),
        ] {
            let (read, rest) = reads(&[&bytes[..], b"\x16\x03\x01 and more\n"].concat()).await;
            assert_eq!(read.unwrap(), header, "{bytes:?}");
            assert_eq!(rest, b"\x16\x03\x01 and more\n", "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn anything_else_ends_the_connection() {
        // covers B13, B19
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
        let mut huge = second(0x21, 0x11, &SOME_V4);
        huge[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
        for bytes in [
            b"".to_vec(),
            b"PROXY".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 012 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 +12 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 65536 443\r\n".to_vec(),
            b"PROXY TCP4 2001:db8::7 198.51.100.1 1 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.07 198.51.100.1 1 443\r\n".to_vec(),
            b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 443\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.7 198.51.100.1 1 443\r\n".to_vec(),
            b"proxy TCP4 192.0.2.7 198.51.100.1 1 443\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1 443\xff\r\n".to_vec(),
            b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
            long.into_bytes(),
            second(0x11, 0x11, &SOME_V4),
            second(0x22, 0x11, &SOME_V4),
            second(0x21, 0x41, &SOME_V4),
            second(0x21, 0x13, &SOME_V4),
            second(0x21, 0x11, &SOME_V4[..11]),
            second(0x21, 0x21, &[0; 35]),
            second(0x21, 0x11, &vec![0; MOST_MORE + 1]),
            second(0x21, 0x11, &SOME_V4)[..20].to_vec(),
            huge,
        ] {
            let (read, _) = reads(&bytes).await;
            assert!(read.is_err(), "{}: {read:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[tokio::test]
    async fn a_header_may_come_in_pieces() {
        // covers B13
        for bytes in [
            b"PROXY TCP4 192.0.2.7 198.51.100.1 12345 443\r\nrest".to_vec(),
            [&second(0x21, 0x11, &SOME_V4)[..], b"rest"].concat(),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            client.set_nodelay(true).unwrap();
            let (mut server, _) = listener.accept().await.unwrap();
            let say = async {
                for byte in &bytes {
                    client.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
            };
            let (read, ()) = tokio::join!(read(&mut server), say);
            assert_eq!(read.unwrap(), Header::From("192.0.2.7:12345".parse().unwrap()));
            let mut rest = Vec::new();
            server.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"rest");
        }
    }
}
