//! The system calls that the standard library lacks.
//!
//! `rustix` has them; two of them it calls unsafe, for reasons that are looked at where they are used.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{self, Setter};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// `_IOW('T', 202, int)` of linux/if_tun.h.
const TUNSETIFF: ioctl::Opcode = ioctl::opcode::write::<i32>(b'T', 202);
/// Of the same file: IP packets, with nothing before them.
const IFF_TUN_NO_PI: i16 = 0x0001 | 0x1000;

/// `struct ifreq`, of which TUNSETIFF reads name and flags.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: i16,
    rest: [u8; 22],
}

/// A TUN device; it goes when this does.
#[derive(Debug)]
pub struct Tun(File);

/// Puts this thread into a network namespace of its own, for good, and returns that.
pub fn new_namespace() -> io::Result<File> {
    // SAFETY: unsafe for the sake of CLONE_FILES, which is not among the flags.
    #[allow(unsafe_code)]
    unsafe {
        rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)?;
    }
    File::open("/proc/thread-self/ns/net")
}

/// Puts this thread into a network namespace, for good.
pub fn enter(namespace: &File) -> io::Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

impl Tun {
    /// In the namespace of this thread.
    pub fn open(name: &str) -> io::Result<Tun> {
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/net/tun")?;
        let mut request = Request { name: [0; 16], flags: IFF_TUN_NO_PI, rest: [0; 22] };
        // The last byte stays zero.
        request.name.iter_mut().take(15).zip(name.bytes()).for_each(|(to, from)| *to = from);
        // SAFETY: TUNSETIFF takes a pointer to a `struct ifreq`, of 40 bytes, whose layout `Request` has. The number only
        // says int.
        #[allow(unsafe_code)]
        unsafe {
            ioctl::ioctl(&file, Setter::<TUNSETIFF, Request>::new(request))?;
        }
        Ok(Tun(file))
    }

    /// The next packet, if there is one.
    pub fn read(&self, packet: &mut [u8]) -> Option<usize> {
        (&self.0).read(packet).ok().filter(|length| *length > 0)
    }

    /// A device whose queue is full, or that is down, drops, as a real one would.
    pub fn write(&self, packet: &[u8]) {
        let _ = (&self.0).write(packet);
    }

    /// Waits until there is a packet, to the nanosecond at most so long.
    pub fn wait(&self, at_most: Duration) {
        let timeout =
            Timespec { tv_sec: at_most.as_secs().cast_signed(), tv_nsec: at_most.subsec_nanos().into() };
        // Interrupted or not: whoever calls looks again.
        let _: Result<usize, Errno> = poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout));
    }
}

/// Has this thread woken at the very moment that it asked for, and before others where that is allowed.
pub fn be_punctual() {
    // By default the kernel rounds up by 50 µs.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let this = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--pid", "10", &this]).stdout(Stdio::null()).stderr(Stdio::null());
    // Refused in a user namespace: then a busy machine shows in the delays.
    let _ = chrt.status();
}

/// Sets the congestion control of a TCP socket (`TCP_CONGESTION`); an error says that the kernel lacks it.
pub fn set_congestion(socket: impl AsFd, name: &str) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_congestion(socket, name)?)
}

/// Of asm-generic/socket.h and linux/udp.h.
const SOL_SOCKET: i32 = 1;
const SO_NO_CHECK: i32 = 11;
const SOL_UDP: i32 = 17;
const UDP_SEGMENT: i32 = 103;

/// Has the kernel refuse to cut what this IPv4 socket sends into segments (`UDP_SEGMENT`), as it does where a device or IPsec
/// can't take them: it does not for packets without checksums.
pub fn refuse_segments(socket: &impl AsFd) -> io::Result<()> {
    set_option(socket, (SOL_SOCKET, SO_NO_CHECK), 1)
}

/// Has the kernel cut what this UDP socket sends into segments of so many bytes.
pub fn send_in_segments(socket: &impl AsFd, bytes: u16) -> io::Result<()> {
    set_option(socket, (SOL_UDP, UDP_SEGMENT), i32::from(bytes))
}

fn set_option(socket: &impl AsFd, (level, name): (i32, i32), value: i32) -> io::Result<()> {
    // SAFETY: as in setsockopt(2).
    #[allow(unsafe_code)]
    unsafe extern "C" {
        fn setsockopt(fd: i32, level: i32, name: i32, value: *const i32, length: u32) -> i32;
    }
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open while it is borrowed, and the value outlives the call, which reads four bytes.
    #[allow(unsafe_code)]
    let result = unsafe { setsockopt(fd, level, name, &raw const value, 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
