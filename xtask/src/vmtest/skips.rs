//! The tests that do not run in the machine, each with the reason, which the report prints.

/// A test that is left out.
pub(crate) struct Skip {
    /// `package::target`
    pub(crate) binary: &'static str,
    pub(crate) test: &'static str,
    pub(crate) why: &'static str,
}

pub(crate) const SKIPS: &[Skip] = &[
    Skip {
        binary: "coppice-launcher::network",
        test: "a_container_is_reached_as_soon_as_it_is_said_to_have_started",
        why: "before Linux 6.8 the kernel settles links in its background; the launcher waits 20 ms for it, which an \
              emulated machine may take longer than",
    },
];

/// The names to leave out of a binary.
pub(crate) fn of(binary: &str) -> Vec<&'static str> {
    SKIPS.iter().filter(|skip| skip.binary == binary).map(|skip| skip.test).collect()
}
