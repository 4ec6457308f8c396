//! Why the data plane cannot be had, or not be changed.

use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;
use coppice_network::Word;

/// An operation of the data plane that failed. Unless said otherwise, what was in force stays in force.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    #[error("there is no link {name} in this network namespace: {errno}; the bridge is made first")]
    NoBridge { name: String, errno: rustix::io::Errno },
    #[error("cannot mount a BPF file system at {folder:?}: {errno}; this needs root and Linux 5.10 with BPF_SYSCALL")]
    Mount { folder: PathBuf, errno: rustix::io::Errno },
    #[error("cannot keep what BPF needs in {path:?}: {error}")]
    Folder { path: PathBuf, error: std::io::Error },
    #[error(
        "the kernel does not take the {program} program: {error}; it needs root (CAP_BPF, CAP_NET_ADMIN), Linux 5.10, \
         and no lockdown"
    )]
    Refused { program: &'static str, error: String },
    #[error("cannot attach {program} to the bridge: {error}")]
    Attach { program: &'static str, error: String },
    #[error("cannot change the kernel's map {map}: {error}; what was changed before it stays changed, try again")]
    Map { map: &'static str, error: MapError },
    #[error("{0:?} is no name of DNS: labels of 1 to 63 characters with dots between them, 253 in all")]
    Name(String),
    #[error("{count} {what} are more than the {max} there is room for")]
    TooMany { what: &'static str, count: usize, max: usize },
}

impl BpfError {
    /// For the user, where the node goes on without.
    pub fn word(&self) -> Word {
        Word(format!("Services and policy are kept by nftables rules alone, which is slower: {self}."))
    }

    pub(crate) fn refused(program: &'static str) -> impl Fn(EbpfError) -> Self {
        move |error| Self::Refused { program, error: chain(&error) }
    }

    pub(crate) fn not_loaded(program: &'static str) -> impl Fn(ProgramError) -> Self {
        move |error| Self::Refused { program, error: chain(&error) }
    }

    pub(crate) fn map(map: &'static str) -> impl Fn(MapError) -> Self {
        move |error| Self::Map { map, error }
    }
}

/// An error with what it is because of, in one line: a verifier's log has thousands.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = error.source();
    }
    // The verifier says what is wrong last, before its statistics.
    let statistics =
        |line: &&str| ["processed ", "stack depth ", "verification time "].iter().any(|of| line.starts_with(of));
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !statistics(line));
    let lines: Vec<&str> = lines.collect();
    match lines.as_slice() {
        [first, .., before, last] => format!("{first} … {before} {last}"),
        _ => lines.join(" "),
    }
}
