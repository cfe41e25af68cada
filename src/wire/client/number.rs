//! The field `number`: how a sender counts its messages to one agent.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::wire::close::{Code, Refusal};
use crate::wire::envelope::{Numbered, Target};

/// Greatest number: what a float holds exactly.
const MAX: u64 = 9_007_199_254_740_991;

#[derive(Deserialize)]
struct Given {
    epoch: u64,
    n: u64,
}

pub(super) fn read(given: &RawValue, to: &Target) -> Result<Numbered, Refusal> {
    let bad = |why: &str| Refusal::new(Code::BadFrame, format!("number: {why}"));
    if !matches!(to, Target::Agent(_)) {
        return Err(bad("only messages to one agent are counted; leave it out"));
    }
    // A list of the two would pass for an object.
    if !given.get().starts_with('{') {
        return Err(bad("is not an object with epoch and n"));
    }
    let Given { epoch, n } = serde_json::from_str(given.get()).map_err(|e| bad(&e.to_string()))?;
    for (name, value) in [("epoch", epoch), ("n", n)] {
        if !(1..=MAX).contains(&value) {
            return Err(bad(&format!("{name}: {value} is not from 1 to {MAX}")));
        }
    }
    Ok(Numbered { epoch, n })
}
