//! `trishula run`: the node itself.

use anyhow::Context;

use super::common::ConfigArg;
use crate::config::node::NodeConfig;
use crate::daemon;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  trishula run                                      with /etc/trishula/node.toml
  trishula run --config ./trishula-mesh/agni/node.toml
  TRISHULA_LOG_LEVEL=debug trishula run             the environment wins over the file
  trishula run --set mesh.listen=[::]:443           and a flag over both
  trishula check --config FILE                      looks at everything first, without running

It stops gracefully on SIGTERM and SIGINT: peers are told, and use other ways.
Exit code 64: the configuration is bad, and starting again does not help.")]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArg,
    /// Sets a key of the configuration, such as mesh.listen=[::]:443; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, toml::Value)>,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        let config = self.config.load_with(self.set)?;
        let _log = config.log.start()?;
        start(config)
    }
}

fn start(config: NodeConfig) -> anyhow::Result<()> {
    // One thread: handing messages between threads costs more than a second core brings (docs/benchmarks.md).
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("the system gives no runtime")?;
    Ok(runtime.block_on(daemon::run(config))?)
}

/// Reads `section.key=value`; a value that is not TOML is a string.
fn key_value(given: &str) -> Result<(String, toml::Value), String> {
    let (key, value) = given.split_once('=').ok_or("write KEY=VALUE, such as mesh.listen=[::]:443")?;
    let is_key = |part: &str| {
        !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    if !key.contains('.') || !key.split('.').all(is_key) {
        return Err(format!("{key:?} is not a key; write SECTION.KEY=VALUE, such as log.level=debug"));
    }
    let parsed = toml::from_str::<toml::Table>(&format!("value = {value}")).ok();
    let parsed = parsed.filter(|table| table.len() == 1).and_then(|mut table| table.remove("value"));
    Ok((key.to_owned(), parsed.unwrap_or_else(|| value.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_sets_a_key() {
        // covers Q07
        assert_eq!(key_value("mesh.listen=[::]:443"), Ok(("mesh.listen".into(), "[::]:443".into())));
        assert_eq!(key_value("mesh.heartbeat_ms=500"), Ok(("mesh.heartbeat_ms".into(), 500.into())));
        assert_eq!(key_value("node.name=a\nx = 1").unwrap().1, "a\nx = 1".into());
        for bad in ["mesh.listen", "listen=1", "a.b c=1", ".a=1"] {
            assert!(key_value(bad).is_err(), "{bad}");
        }
    }
}
