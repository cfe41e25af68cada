//! One network namespace: being in it, and starting programs in it.

use std::fs::File;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crate::sys::{self, Tun};

/// What the device is called, in each of them.
const DEVICE: &str = "wan0";

/// A network namespace. It lives while this handle, a thread or a program of it does.
#[derive(Debug, Clone)]
pub struct Namespace {
    number: u8,
    file: Arc<File>,
}

impl Namespace {
    /// A new one, with its device. `number`: its addresses end in one more.
    pub(crate) fn new(number: u8, mtu: u16) -> io::Result<(Namespace, Tun)> {
        let made = thread::spawn(|| {
            let file = sys::new_namespace()
                .map_err(|e| io::Error::new(e.kind(), format!("a network namespace can't be made: {e}")))?;
            let tun = Tun::open(DEVICE)
                .map_err(|e| io::Error::new(e.kind(), format!("/dev/net/tun gives no device: {e}")))?;
            io::Result::Ok((file, tun))
        });
        let (file, tun) = made.join().map_err(|_| io::Error::other("making a namespace panicked"))??;
        let namespace = Namespace { number, file: Arc::new(file) };
        namespace.ip(&format!(
            "link set lo up\nlink set {DEVICE} mtu {mtu} txqueuelen 10000 up\n\
             addr add {four}/32 dev {DEVICE}\naddr add {six}/128 dev {DEVICE} nodad\n\
             route add default dev {DEVICE}\nroute add ::/0 dev {DEVICE}\n",
            four = namespace.ipv4(),
            six = namespace.ipv6(),
        ))?;
        Ok((namespace, tun))
    }

    /// Its first IPv4 address: 192.0.2.1 for the first namespace.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number + 1)
    }

    /// Its first IPv6 address: 2001:db8::1 for the first namespace.
    pub fn ipv6(&self) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(self.number) + 1)
    }

    /// Does something in it, on a thread of its own: sockets made there belong to it for ever, wherever they are used.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                sys::enter(&self.file)?;
                work()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread in it that goes on by itself.
    pub fn thread<T: Send + 'static>(
        &self,
        name: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<JoinHandle<io::Result<T>>> {
        let file = self.file.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            sys::enter(&file)?;
            Ok(work())
        })
    }

    /// Starts a program in it.
    pub fn start(&self, command: &mut Command) -> io::Result<Child> {
        self.enter(|| command.spawn())
    }

    /// By which `nsenter --net=` finds it, while this process lives.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd())
    }

    pub(crate) fn add_address(&self, address: IpAddr) -> io::Result<()> {
        match address {
            IpAddr::V4(four) => self.ip(&format!("addr add {four}/32 dev {DEVICE}\n")),
            IpAddr::V6(six) => self.ip(&format!("addr add {six}/128 dev {DEVICE} nodad\n")),
        }
    }

    pub(crate) fn remove_address(&self, address: IpAddr) -> io::Result<()> {
        let length = if address.is_ipv4() { 32 } else { 128 };
        self.ip(&format!("addr del {address}/{length} dev {DEVICE}\n"))
    }

    /// Lines for `ip -batch`; each is done in this namespace.
    fn ip(&self, lines: &str) -> io::Result<()> {
        let mut ip = Command::new("ip");
        ip.args(["-batch", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut ip = self
            .start(&mut ip)
            .map_err(|e| io::Error::new(e.kind(), format!("ip (Debian: apt-get install iproute2): {e}")))?;
        if let Some(mut stdin) = ip.stdin.take() {
            stdin.write_all(lines.as_bytes())?;
        }
        let output = ip.wait_with_output()?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let why = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                let asked = lines.trim().replace('\n', "; ");
                Err(io::Error::other(format!("ip: {why}; it was asked for: {asked}")))
            }
        }
    }
}
