//! Linux as the host layer needs it: the calls that rustix and std lack, each behind a safe signature.
//!
//! Every function is one system call (or one small conversation with one), reports which call failed on what,
//! and owns the fds it returns, close-on-exec. Policy (what to mount, which capability) lives in the crates
//! above. Where rustix has a call it is used, here or directly.
//!
//! Refused here: threads. [`SingleThread`] is the proof that [`clone3`] asks for, since the child of a threaded
//! process may do almost nothing.

// The one crate (with the launcher) where raw system calls are made; each block says why it is sound.
#![allow(unsafe_code)]

mod btrfs;
mod capability;
mod datagrams;
mod error;
mod heap;
mod id;
mod mount;
mod namespace;
mod process;
mod seccomp;
mod socket;
mod terminal;
mod tree;

pub use btrfs::{
    BTRFS_MAGIC, commit as commit_btrfs, create_subvolume, destroy_subvolume, enable_simple_quotas, is_subvolume,
    limit_subvolume, set_subvolume_read_only, snapshot_subvolume,
};
pub use capability::{clear_ambient, drop_bounding, last_capability, set_capabilities};
pub use datagrams::Datagrams;
pub use error::{SyscallError, SyscallResult};
pub use heap::{keep_large_blocks_apart, return_idle_memory};
pub use id::{set_gid, set_groups, set_uid};
pub use mount::{
    Attributes, FilesystemContext, attach, attach_in, clone_mount, clone_tree, detach, idmap, pivot_into,
    set_attributes, statfs_magic,
};
pub use namespace::{
    NamespaceFlags, bring_loopback_up, join_namespaces, join_pid_namespace_for_children, set_hostname, unshare,
    user_namespace_of,
};
pub use process::{
    CloneArgs, ExecArgs, Forked, Rlimit, SignalSet, SingleThread, Wait, block_all_signals, clone3, close_from_on_exec,
    close_others, come_first, exec, exit_now, fork, ignore_signals, join_new_session_keyring, kill,
    make_user_namespace, new_session, prlimit, reset_signals, send_signal, set_dumpable, set_no_new_privileges,
    set_parent_death_signal, wait_any_child, wait_pidfd, wait_signal, write_id_maps,
};
pub use seccomp::{Instruction, load_seccomp};
pub use socket::{peer_uid, receive, send, seqpacket_pair, stream_pair};
pub use terminal::{make_controlling, open_peer, set_size};
pub use tree::{Tree, TreeError};
pub mod bpf;
