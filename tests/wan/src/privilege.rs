//! What making namespaces takes: root, or being root in a user namespace.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::Star;

/// Set in a process that was started again: it does not try once more.
const INSIDE: &str = "TRISHULA_WAN_INSIDE";
/// With namespaces of its own for users, mounts and networks, as root of the first.
const UNSHARE: [&str; 2] = ["unshare", "-Urnm"];

/// Whether this process can make a star; the error says why not.
pub fn available() -> io::Result<()> {
    Star::new(1).map(|_| ())
}

/// Goes on when this process can make a star, or starts this program again, with the same arguments, as root of a user
/// namespace, and does not return. The error says why neither can be.
pub fn become_root() -> io::Result<()> {
    let Err(why) = available() else { return Ok(()) };
    let can_try =
        std::env::var_os(INSIDE).is_none() && unshare(&["true"]).status().is_ok_and(|s| s.success());
    if !can_try {
        return Err(why);
    }
    let this = std::env::current_exe()?;
    let mut again = Command::new(UNSHARE[0]);
    Err(again.arg(UNSHARE[1]).arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1").exec())
}

/// Runs the body of a test, in this process when it can make a star, else in this test program started again for this test
/// alone, as root of a user namespace. Panics when neither can be: such a test must not pass by not running.
///
/// # Panics
///
/// As said, and when the test fails in the other process.
#[allow(clippy::panic, reason = "it is the test's own word")]
pub fn inside(test: &str, body: impl FnOnce()) {
    let Err(why) = available() else { return body() };
    assert!(
        std::env::var_os(INSIDE).is_none(),
        "{why}: run as root, or allow user namespaces and /dev/net/tun to this user"
    );
    let this = std::env::current_exe().unwrap_or_else(|e| panic!("this program's name: {e}"));
    let again = unshare(&[this.as_os_str(), "--exact".as_ref(), test.as_ref(), "--nocapture".as_ref()])
        .env(INSIDE, "1")
        .output()
        .unwrap_or_else(|e| panic!("{why}, and unshare (Debian: apt-get install util-linux): {e}"));
    let said = String::from_utf8_lossy(&again.stdout);
    // A name that is none runs no test, and succeeds.
    assert!(
        again.status.success() && said.contains("1 passed"),
        "{why}; as root of a user namespace {test} says:\n{said}{}",
        String::from_utf8_lossy(&again.stderr)
    );
}

fn unshare<S: AsRef<std::ffi::OsStr>>(program: &[S]) -> Command {
    let mut command = Command::new(UNSHARE[0]);
    command.arg(UNSHARE[1]).args(program);
    command
}
