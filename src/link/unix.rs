//! A link over a Unix socket: between a node and the edge on the same machine. Measured against QUIC on
//! loopback it saves about three tenths of a round trip and of the CPU (docs/benchmarks.md).
//!
//! The socket's permissions say who may connect; there is no TLS.

use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};

use super::stream::{self, Carried, Framing, Trusted};
use super::{Local, Role};
use crate::rt::{accept, tasks};

/// Links at once.
const MAX_LINKS: usize = 64;

/// Runs a link over a connected socket until it ends, and reports its life. `role` is what the peer is: who
/// dials is an entrance, who accepts is a node. Answers as [`stream::run`] does.
pub async fn run(local: &Local, stream: UnixStream, role: Role) -> bool {
    let carried = Carried {
        carrier: "unix",
        remote: "this machine".into(),
        peer: Trusted::Socket(role),
        dialled: role == Role::Node,
        framing: Framing::Whole,
    };
    stream::run(local, stream.into_split(), carried).await
}

/// Accepts entrances on a socket until the task is dropped.
pub fn serve(listener: UnixListener, local: Arc<Local>) -> tasks::Task {
    tasks::spawn("link.unix", async move {
        accept::each(listener, "link.unix.one", MAX_LINKS, |stream| {
            let local = local.clone();
            async move {
                run(&local, stream, Role::Entrance).await;
            }
        })
        .await;
    })
}
