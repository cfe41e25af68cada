//! Trishula itself as a [`Way`]: the real programs, as `trishula init` sets them up.
use anyhow::Result;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::programs::{Programs, TwoMachines};
use crate::way::{Endpoint, Running, Way};

/// Our own way.
pub fn ours(programs: Programs) -> Box<dyn Way> {
    Box::new(Ours { programs })
}

struct Ours {
    programs: Programs,
}

impl Way for Ours {
    fn name(&self) -> &'static str {
        "ours"
    }

    fn hops(&self) -> [&'static str; 5] {
        ["WSS", "Unix", "QUIC", "Unix", "WSS"]
    }

    fn start(&self) -> Result<Running> {
        let folder = tempfile::tempdir()?;
        let machines = TwoMachines::start(&self.programs, &folder.path().join("mesh"))?;
        Ok(Running {
            a: machines.endpoint(0, "a")?,
            b: machines.endpoint(1, "b")?,
            ca: machines.ca,
            processes: machines.processes,
            guards: vec![Box::new(folder)],
        })
    }

    fn greeting(&self, _me: &Endpoint) -> Option<String> {
        Some(r#"{"type":"REGISTER","id":"r"}"#.to_owned())
    }

    fn wrap(&self, to: &Endpoint, n: u64, body: String) -> String {
        let to = &to.agent;
        // The bare chain keeps nothing: what keeping costs is shown by the bench `publish`.
        format!(r#"{{"type":"STATUS","to":"{to}","id":"m{n}","class":"live","payload":{body}}}"#)
    }

    fn unwrap<'t>(&self, text: &'t str) -> Option<&'t str> {
        let frame: Frame<'t> = serde_json::from_str(text).ok()?;
        (frame.kind == "STATUS").then(|| frame.payload.get())
    }

    fn refuses(&self, text: &str) -> bool {
        serde_json::from_str(text).is_ok_and(|frame: Frame<'_>| frame.kind == "ERROR")
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
}
