//! Users as the tokens of the older services call them: an address of e-mail, a number, a name with blanks.

use std::fmt::Write;

use aws_lc_rs::digest;

use crate::wire::ids::{AgentName, MAX_AGENT_NAME};

/// Longest name of a user, in bytes.
const MAX_USER: usize = 256;
/// How much of a user's name can be read in the agent's, in bytes: with the digest there is room for names below it
/// (`NAME.xxxxxxxx`) and for a short namespace before it.
const READABLE: usize = 24;
/// What a name below it takes: `.xxxxxxxx`.
const BELOW: usize = 9;
/// Bytes of the digest in the agent's name: by chance two users share one only where there are some 4 billion (2^32) of them.
const DIGEST: usize = 8;

/// The agent that a user is in the mesh: of the same name where that is one, else of what can be kept of it and a digest
/// (SHA-256) of the whole, always the same; also where it has a dot or looks like one that is made so, if `alone`. Then it is
/// below nobody's name, and nobody else's. `None`: nobody is called so.
pub(super) fn agent_of(user: &str, alone: bool) -> Option<AgentName> {
    let made = alone && (user.contains('.') || is_shortened(user));
    if let Some(agent) = AgentName::new(user).ok().filter(|_| !made) {
        return Some(agent);
    }
    if user.trim().is_empty() || user.len() > MAX_USER || user.chars().any(char::is_control) {
        return None;
    }
    AgentName::new(&shortened(user)).ok()
}

/// What stands before the dot in the names below an agent's: its own, or, where that would leave no room behind the dot, one that
/// is shortened as those are that are no agents'.
pub fn base_of(agent: &str) -> String {
    if agent.len() + BELOW <= MAX_AGENT_NAME { agent.to_owned() } else { shortened(agent) }
}

/// Whether it ends as [`shortened`] names do.
fn is_shortened(user: &str) -> bool {
    let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    user.rsplit_once('-').is_some_and(|(_, end)| end.len() == 2 * DIGEST && end.bytes().all(hex))
}

fn shortened(user: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    let kept: String = user.chars().map(plain).take(READABLE).collect();
    let kept = kept.trim_matches(|c: char| !c.is_ascii_alphanumeric());
    let mut name = if kept.is_empty() { "user".to_owned() } else { kept.to_owned() };
    name.push('-');
    for byte in &digest::digest(&digest::SHA256, user.as_bytes()).as_ref()[..DIGEST] {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_is_an_agent_and_no_two_are_one() {
        // covers B03
        let agent = |user: &str| agent_of(user, true).unwrap().to_string();
        assert_eq!(agent("alice"), "alice");
        let long = "x".repeat(MAX_USER);
        let users = [
            "alice@example.com",
            "alice-example-com-ff8d9819fc0e12bf",
            "alice-example.com",
            "alice",
            "alice.smith",
            "alice-smith",
            "alice.3b312198",
            "Alice Example",
            "Alice  Example",
            "मीरा",
            "@",
            "broadcast",
            "Mesh",
            "-a",
            " a",
            "a ",
            "a/b",
            &long,
            &long[1..],
        ];
        let agents: Vec<String> = users.iter().map(|user| agent(user)).collect();
        for (at, name) in agents.iter().enumerate() {
            assert!(!agents[..at].contains(name), "{name}");
            assert!(name.len() + ".xxxxxxxx".len() <= MAX_AGENT_NAME, "{name}");
        }
        assert_eq!(agents[0], "alice-example-com-ff8d9819fc0e12bf");
        for length in 50..=64 {
            let (name, other) = ("y".repeat(length), "y".repeat(length - 1) + "z");
            let base = base_of(&name);
            assert!(AgentName::new(&format!("{base}.xxxxxxxx")).is_ok(), "{length}");
            assert_eq!(base == name, length <= 55, "{length}: {base}");
            assert_ne!(base, base_of(&other), "{length}");
        }
        for nobody in ["", " ", "a\n", "a\0", &"x".repeat(MAX_USER + 1)] {
            assert_eq!(agent_of(nobody, true), None, "{nobody:?}");
        }
        assert!(agents.iter().all(|agent| !agent.contains('.')), "none is below another's");
        assert_eq!(agent_of("alice.smith", false).unwrap().as_str(), "alice.smith");
    }
}
