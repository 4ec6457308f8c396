//! Being written.
pub fn run(_args: &[String]) -> anyhow::Result<()> {
    anyhow::bail!("is not written yet")
}
