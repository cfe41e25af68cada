//! Tells systemd how the process stands (sd_notify(3)): ready, alive, stopping. Without systemd nothing happens.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::platform;

/// The process serves.
pub fn ready() {
    notify("READY=1");
}

/// The process stops.
pub fn stopping() {
    notify("STOPPING=1");
}

/// Says that the process is alive, twice in the time that the unit's `WatchdogSec` allows. It runs on the
/// same runtime as everything else: a process that hangs falls silent and is started again.
pub async fn watchdog() {
    let allowed = std::env::var("WATCHDOG_USEC").ok().and_then(|usec| usec.parse().ok());
    let Some(allowed) = allowed.map(Duration::from_micros).filter(|allowed| !allowed.is_zero()) else {
        return std::future::pending().await;
    };
    loop {
        notify("WATCHDOG=1");
        tokio::time::sleep(allowed / 2).await;
    }
}

fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let sent =
        UnixDatagram::unbound().and_then(|socket| match path.to_str().and_then(|p| p.strip_prefix('@')) {
            Some(name) => platform::send_to_abstract(&socket, state.as_bytes(), name),
            None => socket.send_to(state.as_bytes(), &path),
        });
    if let Err(why) = sent {
        tracing::debug!(state, %why, "systemd could not be told");
    }
}
