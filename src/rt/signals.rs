//! SIGTERM and SIGINT ask for a graceful stop.

use tokio::signal::unix::{SignalKind, signal};

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
