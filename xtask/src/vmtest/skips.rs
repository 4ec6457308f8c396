//! The tests that do not run in the machine, each with the reason, which the report prints.

/// A test that is left out.
pub(crate) struct Skip {
    /// `package::target`
    pub(crate) binary: &'static str,
    pub(crate) test: &'static str,
    pub(crate) why: &'static str,
}

pub(crate) const SKIPS: &[Skip] = &[];

/// The names to leave out of a binary.
pub(crate) fn of(binary: &str) -> Vec<&'static str> {
    SKIPS.iter().filter(|skip| skip.binary == binary).map(|skip| skip.test).collect()
}
