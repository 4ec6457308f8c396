//! The tests that do not run in the machine, each with the reason, which the report prints.

/// A test that is left out.
pub(crate) struct Skip {
    /// `package::target`
    pub(crate) binary: &'static str,
    pub(crate) test: &'static str,
    pub(crate) why: &'static str,
}

const UNSETTLED: &str = "before Linux 6.8 the kernel settles links in its background; the launcher waits 20 ms for it, \
                         which an emulated machine may take longer than";
const EMULATED: &str = "it tells a lost packet by the second that sending it again takes, and a start under emulation \
                        takes about as long";

const IPTABLES: &str = "the machine has no iptables";

pub(crate) const SKIPS: &[Skip] = &[
    Skip {
        binary: "coppice-network::network",
        test: "peace::beside_docker_what_the_word_says_opens_its_chain_and_nothing_else_changes",
        why: IPTABLES,
    },
    Skip {
        binary: "coppice-network::network",
        test: "peace::beside_ufw_the_word_names_its_own_command",
        why: IPTABLES,
    },
    Skip {
        binary: "coppice-network::network",
        test: "intercept::a_firewall_that_closes_the_machine_is_told_with_what_opens_it_for_the_proxy",
        why: IPTABLES,
    },
    Skip {
        binary: "coppice-bpf::dataplane",
        test: "names::dig_takes_the_answers_and_every_address_comes_first_at_times",
        why: "the machine has no dig",
    },
    Skip {
        binary: "coppice-launcher::network",
        test: "a_container_is_reached_as_soon_as_it_is_said_to_have_started",
        why: UNSETTLED,
    },
    Skip {
        binary: "coppice-launcher::network",
        test: "a_container_loses_no_packet_however_early_it_sends",
        why: EMULATED,
    },
    Skip {
        binary: "coppice-network::network",
        test: "settle::a_container_reaches_one_that_is_there_as_soon_as_it_is_configured",
        why: EMULATED,
    },
];

/// The names to leave out of a binary.
pub(crate) fn of(binary: &str) -> Vec<&'static str> {
    SKIPS.iter().filter(|skip| skip.binary == binary).map(|skip| skip.test).collect()
}
