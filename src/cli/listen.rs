//! `trishula listen`
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}
impl Args {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        anyhow::bail!("not yet")
    }
}
