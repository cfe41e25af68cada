//! What a check found: one line each, with the command that mends it.

use std::path::Path;

use serde::Serialize;

use super::{Said, print};

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// As it should be.
    Ok,
    /// It works, and will not for ever.
    Warning,
    /// It does not work.
    Fault,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Finding {
    /// How bad.
    pub level: Level,
    /// What was looked at.
    pub what: String,
    /// How it is.
    pub found: String,
    /// The command, or the step, that mends it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

/// All of them, in the order in which they were looked at.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// It is as it should be.
    pub fn ok(&mut self, what: impl Into<String>, found: impl Into<String>) {
        self.0.push(Finding { level: Level::Ok, what: what.into(), found: found.into(), mend: None });
    }

    /// It is not.
    pub fn bad(
        &mut self,
        level: Level,
        what: impl Into<String>,
        found: impl ToString,
        mend: impl Into<String>,
    ) {
        let (found, mend) = (found.to_string(), mend.into());
        let mend = (!mend.is_empty()).then_some(mend);
        self.0.push(Finding { level, what: what.into(), found, mend });
    }

    /// Prints them; a fault (and, if `strict`, a warning) makes the command fail.
    pub fn tell(self, json: bool, strict: bool) -> anyhow::Result<()> {
        let worst = self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
        if json {
            print::json(&serde_json::json!({ "ok": worst < Level::Fault, "findings": self.0 }))?;
        } else {
            self.0.iter().try_for_each(|finding| print::line(&line(finding)))?;
        }
        let limit = if strict { Level::Warning } else { Level::Fault };
        if worst >= limit { Err(Said.into()) } else { Ok(()) }
    }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.level {
        Level::Ok => "ok      ",
        Level::Warning => "WARNING ",
        Level::Fault => "FAULT   ",
    };
    let mend = finding.mend.as_ref().map(|mend| format!("; to mend: {mend}")).unwrap_or_default();
    format!("{mark} {}: {}{mend}", finding.what, finding.found)
}

/// A path that a shell takes as one word.
pub(crate) fn shell(path: &Path) -> String {
    let shown = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@%".contains(c);
    if shown.chars().all(plain) { shown } else { format!("'{}'", shown.replace('\'', r"'\''")) }
}
