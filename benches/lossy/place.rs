//! The two machines: network namespaces with the emulator between them, or loopback.
use anyhow::{Context, Result};
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use trishula_wan::{Shape, Star};

use crate::DELAY;

/// Something that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);
/// Below the emulator, above everybody else on the machine.
const PRIORITY: &str = "5";
/// Runs its arguments until its standard input ends.
const GUARD: &str = r#""$@" & program=$!; read -r _; kill -9 "$program""#;

#[derive(Debug, Clone)]
pub struct Place {
    star: Option<Arc<Star>>,
    /// Whether our own processes may go before others.
    punctual: bool,
}

impl Place {
    /// Namespaces, as root or as root of a user namespace, where that can be; else loopback, with one line that says why.
    pub fn find(loopback: bool) -> Result<Place> {
        let star = match loopback {
            true => None,
            false => match trishula_wan::become_root() {
                Ok(()) => Some(Arc::new(Star::new(2)?)),
                Err(why) => {
                    println!("the emulator can't run here ({why}): loopback only, nothing is lost or slow");
                    None
                }
            },
        };
        let mut chrt = Command::new("chrt");
        chrt.args(["--fifo", PRIORITY, "true"]).stdout(Stdio::null()).stderr(Stdio::null());
        let punctual = chrt.status().is_ok_and(|status| status.success());
        Ok(Place { star, punctual })
    }

    pub fn is_emulated(&self) -> bool {
        self.star.is_some()
    }

    pub fn is_punctual(&self) -> bool {
        self.punctual
    }

    /// The same both ways: loss in percent, and where given bits per second and the bytes of the queue before them.
    pub fn shape(&self, loss: f64, bottleneck: Option<(f64, usize)>) {
        let Some(star) = &self.star else { return };
        let shape = Shape::delayed(DELAY).losing(loss / 100.0);
        let shape = match bottleneck {
            Some((rate, queue)) => shape.limited(rate, queue),
            None => shape,
        };
        star.set_both(0, 1, &shape);
    }

    /// The link between the two.
    pub fn link(&self, up: bool) {
        if let Some(star) = &self.star {
            star.link(0, 1, up);
        }
    }

    pub fn address(&self, machine: usize) -> IpAddr {
        self.star.as_ref().map_or(Ipv4Addr::LOCALHOST.into(), |star| star.at(machine).ipv4().into())
    }

    /// Any free port of a machine.
    pub fn any_port(&self, machine: usize) -> SocketAddr {
        SocketAddr::new(self.address(machine), 0)
    }

    /// Starts a program on a machine. It ends when the child's standard input does, and so also when this process is killed.
    pub fn start(&self, machine: usize, program: &Command) -> io::Result<Child> {
        let before: &[&str] = if self.punctual { &["chrt", "--fifo", PRIORITY] } else { &[] };
        let mut guarded = Command::new("sh");
        guarded.args(["-c", GUARD, "sh"]).args(before).arg(program.get_program()).args(program.get_args());
        guarded.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        match &self.star {
            Some(star) => star.at(machine).start(&mut guarded),
            None => guarded.spawn(),
        }
    }

    /// Does something on a machine: on a thread, in a runtime of its own, and for no longer than `PATIENCE`.
    pub fn on<T: Send, F: Future<Output = Result<T>>>(
        &self,
        machine: usize,
        work: impl FnOnce() -> F + Send,
    ) -> Result<T> {
        let punctual = self.punctual;
        let inside = move || {
            if punctual {
                trishula_wan::be_punctual();
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            Ok(runtime.block_on(async { tokio::time::timeout(PATIENCE, work()).await }))
        };
        let done = match &self.star {
            Some(star) => star.at(machine).enter(inside)?,
            None => std::thread::scope(|scope| scope.spawn(inside).join().map_err(joined))??,
        };
        done.with_context(|| format!("it hangs for {PATIENCE:?}"))?
    }

    /// A receiver on the second machine, and a sender on the first that begins when the receiver has told where it
    /// listens. The receiver ends with the sender.
    pub fn both<A: Send, T: Send, R: Future<Output = Result<()>>, S: Future<Output = Result<T>>>(
        &self,
        receive: impl FnOnce(mpsc::Sender<A>) -> R + Send,
        send: impl FnOnce(A) -> S + Send,
    ) -> Result<T> {
        let (up, listening) = mpsc::channel();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        std::thread::scope(|scope| {
            let receiver = scope.spawn(move || {
                self.on(1, move || async move {
                    tokio::select! {
                        done = receive(up) => done,
                        _ = ended => Ok(()),
                    }
                })
            });
            let sent = match listening.recv_timeout(PATIENCE) {
                Ok(address) => self.on(0, move || send(address)),
                Err(e) => Err(e.into()),
            };
            // It has ended by itself if it failed.
            let _ = end.send(());
            let received = receiver.join().map_err(joined)?;
            // Why the receiver failed says more than that the sender found nobody.
            received.and(sent)
        })
    }
}

fn joined(_: Box<dyn std::any::Any + Send>) -> io::Error {
    io::Error::other("a thread of the bench panicked")
}
