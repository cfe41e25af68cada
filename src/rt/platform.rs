//! What differs between Linux and macOS: the only file that asks which of them it is.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use tokio::net::{TcpStream, UnixStream};

/// Where configurations and identities lie unless told otherwise.
pub fn default_config_dir() -> PathBuf {
    base("/etc/trishula", "")
}

/// Where a node keeps what it must not forget.
pub fn default_data_dir() -> PathBuf {
    base("/var/lib/trishula", "data")
}

/// Where a node listens for its command line.
pub fn default_socket() -> PathBuf {
    base("/run/trishula/node.sock", "node.sock")
}

/// Where a node listens for the edge of its machine.
pub fn default_edge_socket() -> PathBuf {
    base("/run/trishula/edge.sock", "edge.sock")
}

/// Where a node listens for what the edge of its machine relays from other nodes.
pub fn default_relay_socket() -> PathBuf {
    base("/run/trishula/relay.sock", "relay.sock")
}

#[cfg(not(target_os = "macos"))]
fn base(system: &str, _in_library: &str) -> PathBuf {
    PathBuf::from(system)
}

/// On a Mac everything is in the user's own library, as programs that one user runs do it.
#[cfg(target_os = "macos")]
fn base(_system: &str, in_library: &str) -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/var/root"), PathBuf::from);
    home.join("Library/Application Support/trishula").join(in_library)
}

/// Whether a plain fsync stops at the disk's own cache: on a Mac only F_FULLFSYNC reaches the medium.
pub const FSYNC_NEEDS_FULLFSYNC: bool = cfg!(target_os = "macos");

/// Sends to a socket in Linux's abstract namespace (unix(7)), which systemd may use for notifications.
#[cfg(target_os = "linux")]
pub fn send_to_abstract(socket: &UnixDatagram, bytes: &[u8], name: &str) -> io::Result<usize> {
    use std::os::linux::net::SocketAddrExt;
    socket.send_to_addr(bytes, &std::os::unix::net::SocketAddr::from_abstract_name(name)?)
}

/// Other systems have no such namespace, and no systemd.
#[cfg(not(target_os = "linux"))]
pub fn send_to_abstract(_: &UnixDatagram, _: &[u8], _: &str) -> io::Result<usize> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Has the system take no more from us than so many bytes beyond what it can send now (`TCP_NOTSENT_LOWAT`, tcp(7)): what
/// it has taken can't be overtaken by what is urgent.
#[cfg(target_os = "linux")]
pub fn keep_unsent_short(socket: &TcpStream, bytes: u32) -> io::Result<()> {
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(bytes)
}

/// macOS has the option too, but our libraries don't know it there: its small first send buffer has to do.
#[cfg(not(target_os = "linux"))]
pub fn keep_unsent_short(_: &TcpStream, _: u32) -> io::Result<()> {
    Ok(())
}

/// Whether the system says twice what a socket's buffer may hold, as it counts what it needs for itself (socket(7)).
pub const BUFFERS_READ_DOUBLE: bool = cfg!(target_os = "linux");

/// The command that has the system give buffers of so many bytes to sockets that ask for them.
#[cfg(not(target_os = "macos"))]
pub fn allow_buffers(bytes: usize, receive: bool, send: bool) -> String {
    let keys = [("net.core.rmem_max", receive), ("net.core.wmem_max", send)];
    let short = keys.iter().filter(|(_, short)| *short).map(|(key, _)| format!(" {key}={bytes}"));
    format!("sudo sysctl -w{}", short.collect::<String>())
}

/// A Mac has one bound for both, which also counts what the system needs for itself.
#[cfg(target_os = "macos")]
pub fn allow_buffers(bytes: usize, _receive: bool, _send: bool) -> String {
    format!("sudo sysctl -w kern.ipc.maxsockbuf={}", 2 * bytes)
}

/// The same for a Unix socket: how much it holds that nobody has read yet.
pub fn keep_unread_short(socket: &UnixStream, bytes: usize) -> io::Result<()> {
    socket2::SockRef::from(socket).set_send_buffer_size(bytes)
}
