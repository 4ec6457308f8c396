//! A zfs-fuse of a test's own, for nodes whose volumes are on ZFS.

use std::process::{Child, Stdio};

use crate::node::{Node, Output};
use crate::project::wait_until;

/// The `node.toml` of a node whose volumes are in the pool.
pub(crate) const SETTINGS: &str = "[volumes]\nzfs = \"tank/coppice\"\n";

/// A zfs-fuse in a node's mount namespace, and a pool `tank` of a file.
pub(crate) struct ZfsFuse(Child);

impl ZfsFuse {
    /// Has the node a pool, before its first daemon starts; its settings are [`SETTINGS`].
    pub(crate) fn of(node: &Node) -> Self {
        let sh = |script: &str| {
            let mut command = node.inside("sh");
            command.args(["-c", script]).env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap()));
            command
        };
        // As on a machine that systemd started: launchers follow. What daemons of its kind share is the node's own.
        let own = "mount --make-rshared / && for at in /run/zfs /var/lib/zfs /var/lock/zfs; do mkdir -p $at && mount -t tmpfs tmpfs $at || exit; done";
        Output::of(sh(own)).succeeded();
        let mut daemon = sh("exec setpriv --pdeathsig KILL zfs-fuse --no-daemon --no-kstat-mount");
        let daemon = daemon.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_until("zfs-fuse answers", || sh("zpool list").output().unwrap().status.success());
        Output::of(sh("truncate -s 256M pool && zpool create -m none tank $PWD/pool")).succeeded();
        Self(daemon)
    }
}

impl Drop for ZfsFuse {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
