//! SIGTERM and SIGINT ask for a graceful stop, SIGHUP for reading files again.

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Waits for the first request to stop, and says which it was.
pub async fn stop_requested() -> &'static str {
    let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        // Without handlers the default action of these signals ends the process, which is what was asked.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => "SIGTERM",
        _ = int.recv() => "SIGINT",
    }
}

/// SIGHUP, as often as it comes. From here on it does not end the process.
#[derive(Debug)]
pub struct Hangups(Option<Signal>);

impl Hangups {
    /// Listens from now on.
    pub fn listen() -> Hangups {
        Hangups(signal(SignalKind::hangup()).ok())
    }

    /// The next one.
    pub async fn next(&mut self) {
        if let Some(signal) = &mut self.0
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}
