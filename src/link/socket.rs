//! The UDP socket beneath QUIC: room for bursts, asked for and read back, and another socket when the machine has woken up.
//!
//! A burst that finds no room in the receive buffer is lost without a word, and the congestion control takes that for a full
//! path. Systems give little room unless their administrator allows more.
//!
//! A socket that slept, or whose address is gone, is not trusted: on some systems it is dead for ever. The new one has the
//! same port, and links move over to it without a new handshake (RFC 9000, 9).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::segments::Segments;
use crate::metrics;
use crate::rt::{platform, tasks, wake};

/// Bytes that are asked for, each way, unless told otherwise: a tenth of a second at 320 Mbit/s.
pub const WANTED: usize = 4 << 20;
/// With less there is nothing to be had.
const LEAST: usize = 64 << 10;

/// What the system gives a socket, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffers {
    /// Asked for, each way.
    pub wanted: usize,
    /// For what came and was not read yet.
    pub receive: usize,
    /// For what was sent and has not left yet.
    pub send: usize,
}

impl Buffers {
    /// Asks for so much, and reads back what there is.
    ///
    /// # Errors
    ///
    /// The system does not say.
    pub fn ask(socket: &UdpSocket, wanted: usize) -> io::Result<Buffers> {
        let socket = SockRef::from(socket);
        settle(wanted, |size| socket.set_recv_buffer_size(size));
        settle(wanted, |size| socket.set_send_buffer_size(size));
        let usable = |size: usize| if platform::BUFFERS_READ_DOUBLE { size / 2 } else { size };
        let (receive, send) = (usable(socket.recv_buffer_size()?), usable(socket.send_buffer_size()?));
        Ok(Buffers { wanted, receive, send })
    }

    /// The command that lets the system give what was asked for; `None`: it does.
    pub fn mend(&self) -> Option<String> {
        let (receive, send) = (self.receive < self.wanted, self.send < self.wanted);
        (receive || send).then(|| platform::allow_buffers(self.wanted, receive, send))
    }

    /// Of this process's port; `None`: it has none.
    pub fn of_process() -> Option<Buffers> {
        let bytes = |what| usize::try_from(metrics::UDP_BUFFER.with_label_values(&[what]).get()).unwrap_or(0);
        let buffers = Buffers { wanted: bytes("wanted"), receive: bytes("receive"), send: bytes("send") };
        (buffers.wanted > 0).then_some(buffers)
    }

    fn show(&self) {
        for (what, bytes) in [("wanted", self.wanted), ("receive", self.receive), ("send", self.send)] {
            metrics::UDP_BUFFER.with_label_values(&[what]).set(i64::try_from(bytes).unwrap_or(i64::MAX));
        }
    }
}

/// Linux gives as much as it may; others refuse what is more.
fn settle(wanted: usize, set: impl Fn(usize) -> io::Result<()>) {
    let mut size = wanted;
    while set(size).is_err() && size > LEAST {
        size /= 2;
    }
}

/// A process's UDP port, whose socket can be replaced.
#[derive(Debug)]
pub struct Port {
    endpoint: quinn::Endpoint,
    /// Beneath the endpoint.
    segments: Arc<Segments>,
    /// The same socket as is there now.
    socket: Mutex<UdpSocket>,
    wanted: usize,
}

impl Port {
    /// Takes a port, with buffers of so many bytes where the system gives them; says so where it does not.
    ///
    /// # Errors
    ///
    /// The port is taken, or not allowed.
    pub fn open(
        address: SocketAddr,
        wanted: usize,
        endpoint: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<Port> {
        let socket = UdpSocket::bind(address)?;
        let buffers = Buffers::ask(&socket, wanted)?;
        buffers.show();
        let Buffers { receive, send, .. } = buffers;
        if let Some(mend) = buffers.mend() {
            tracing::warn!(
                wanted,
                receive,
                send,
                mend,
                "the system gives UDP less room than is good: bursts will be lost"
            );
        }
        let kept = socket.try_clone()?;
        let (segments, runtime) = (Segments::on(socket)?, Arc::new(quinn::TokioRuntime));
        let endpoint =
            quinn::Endpoint::new_with_abstract_socket(endpoint, server, segments.clone(), runtime)?;
        Ok(Port { endpoint, segments, socket: Mutex::new(kept), wanted })
    }

    /// Any port, to dial from: for IPv6 and IPv4 where the machine has both.
    ///
    /// # Errors
    ///
    /// The system gives none.
    pub fn any() -> io::Result<Port> {
        let open = |address| Port::open(address, WANTED, quinn::EndpointConfig::default(), None);
        open((Ipv6Addr::UNSPECIFIED, 0).into()).or_else(|_| open((Ipv4Addr::UNSPECIFIED, 0).into()))
    }

    /// What speaks QUIC there.
    pub fn endpoint(&self) -> &quinn::Endpoint {
        &self.endpoint
    }

    /// From now on replaces the socket whenever the machine has woken up or is on another network.
    pub fn follow_wakes(self) -> tasks::Task {
        tasks::spawn("link.socket", async move {
            let mut wakes = wake::subscribe();
            while wakes.next().await {
                let result = self.replace();
                let outcome = if result.is_ok() { "replaced" } else { "kept" };
                metrics::UDP_REBINDS.with_label_values(&[outcome]).inc();
                match result {
                    Ok(()) => tracing::info!("the UDP socket was replaced"),
                    // Links that are dead are noticed as ever, and dialled again.
                    Err(why) => tracing::warn!(%why, "the UDP socket could not be replaced: it is used on"),
                }
            }
        })
    }

    /// Another socket on the same port; links go on over it.
    ///
    /// # Errors
    ///
    /// The system gives none: the old one is used on.
    pub fn replace(&self) -> io::Result<()> {
        let mut kept = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        let address = kept.local_addr()?;
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // Both have the port for a moment: were the old one closed first, somebody else could take it.
        SockRef::from(&*kept).set_reuse_port(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        // From now on nobody else may take it beside us.
        socket.set_reuse_port(false)?;
        let socket = UdpSocket::from(socket);
        Buffers::ask(&socket, self.wanted)?.show();
        let new = socket.try_clone()?;
        // The old one lives on as long as somebody holds a connection that ended over it, and would go on taking its share of
        // what comes: from now on it hears nobody.
        kept.connect(nobody(address))?;
        self.segments.replace(socket)?;
        *kept = new;
        Ok(())
    }
}

/// Where nobody sends from: the discard port of this machine (RFC 863), which is reached also without a network.
fn nobody(local: SocketAddr) -> SocketAddr {
    let loopback: IpAddr =
        if local.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
    (loopback, 9).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_told_with_the_command_that_mends_it() {
        // covers Q06
        let got = |receive, send| Buffers { wanted: 4096, receive, send };
        assert_eq!(got(4096, 8192).mend(), None);
        for (buffers, says) in [(got(4095, 4096), 4096), (got(4096, 0), 4096), (got(1, 1), 4096)] {
            let mend = buffers.mend().unwrap();
            assert!(mend.starts_with("sudo sysctl -w ") && mend.contains(&says.to_string()), "{mend}");
        }
        assert_ne!(got(1, 4096).mend(), got(1, 1).mend().filter(|_| !cfg!(target_os = "macos")));
    }

    #[test]
    fn a_socket_gets_what_the_system_gives_and_no_more_is_believed() {
        // covers Q06
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let little = Buffers::ask(&socket, LEAST).unwrap();
        assert!(little.receive >= LEAST && little.send >= LEAST && little.mend().is_none(), "{little:?}");
        // More than any system gives unasked.
        let much = Buffers::ask(&socket, 1 << 30).unwrap();
        assert!(much.receive >= little.receive && much.receive < much.wanted, "{much:?}");
        assert!(much.mend().unwrap().contains(&(1usize << 30).to_string()) || cfg!(target_os = "macos"));
    }

    #[tokio::test]
    async fn a_port_is_kept_while_its_socket_is_replaced_and_nobody_else_gets_it() {
        // covers Q03
        let open = |address| Port::open(address, LEAST, quinn::EndpointConfig::default(), None);
        for any in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let port = open(any.parse().unwrap()).unwrap();
            let address = port.endpoint().local_addr().unwrap();
            for _ in 0..3 {
                port.replace().unwrap();
                assert_eq!(port.endpoint().local_addr().unwrap(), address);
                assert_eq!(open(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
            }
        }
    }

    #[tokio::test]
    async fn a_replaced_socket_gets_nothing_though_somebody_holds_it() {
        // covers Q03
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let at = loopback.parse().unwrap();
            let port = Port::open(at, LEAST, quinn::EndpointConfig::default(), None).unwrap();
            let old = port.socket.lock().unwrap().try_clone().unwrap();
            port.replace().unwrap();
            let to = port.endpoint().local_addr().unwrap();
            // Where the system chooses one of the two, it does so by the sender's port: some of many would go astray.
            for _ in 0..100 {
                UdpSocket::bind(at).unwrap().send_to(b"x", to).unwrap();
            }
            let heard = old.recv(&mut [0; 8]);
            assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::WouldBlock, "{loopback}");
        }
    }
}
