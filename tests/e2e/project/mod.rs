//! A directory with a `coppice.toml`, and what a test does with its app: bring it up, look at it, end parts of it.
#![allow(dead_code, unreachable_pub, unused_imports)] // each test target uses its part

mod shop;
pub mod steps;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coppice_api::{AppStatus, ChildStatus, ContainerSummary, NodeStatus, SupervisorStatus};

use crate::node::{Node, Output, PATIENCE};

pub use shop::{SHOP, slow_shop};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(25);

/// Looks until `look` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "gave up waiting until {what}");
        std::thread::park_timeout(PAUSE);
    }
}

/// Looks until `holds`.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || holds().then_some(()));
}

pub struct Project<'n> {
    pub node: &'n Node,
    pub dir: PathBuf,
    pub app: String,
}

impl<'n> Project<'n> {
    /// A directory with this manifest, whose `app` is `app`.
    pub fn new(node: &'n Node, app: &str, manifest: &str) -> Self {
        let project = Self { node, dir: node.dir().join(app), app: app.to_owned() };
        std::fs::create_dir(&project.dir).unwrap();
        project.write(manifest);
        project
    }

    /// Replaces the manifest.
    pub fn write(&self, manifest: &str) {
        let text = format!("app = \"{}\"\n{manifest}", self.app);
        std::fs::write(self.dir.join("coppice.toml"), text).unwrap();
    }

    /// `coppice ARGS` in this directory, not started yet. Its process is coppice itself.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = self.node.inside("env");
        command.arg(format!("--chdir={}", self.dir.display())).arg(env!("CARGO_BIN_EXE_coppice"));
        command.arg("--root").arg(self.node.root()).args(args).stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn coppice(&self, args: &[&str]) -> Output {
        Output::of(self.command(args))
    }

    /// `coppice ARGS`, which must end well; its standard output.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.coppice(args).succeeded().stdout
    }

    /// `coppice up`, which must end well.
    #[track_caller]
    pub fn up(&self) -> AppStatus {
        self.ok(&["up", "--timeout", "20s"]);
        self.status()
    }

    #[track_caller]
    pub fn status(&self) -> AppStatus {
        self.try_status().expect("the app has a status")
    }

    /// `None`: there is no such app, or nobody answers.
    pub fn try_status(&self) -> Option<AppStatus> {
        serde_json::from_str(&self.coppice(&["status", "--json", &self.app]).stdout).ok()
    }

    /// Waits until the status is so.
    #[track_caller]
    pub fn wait_status(&self, what: &str, mut holds: impl FnMut(&AppStatus) -> bool) -> AppStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.try_status().filter(&mut holds) {
                return status;
            }
            if Instant::now() >= deadline {
                panic!("gave up waiting until {what}:\n{}", self.coppice(&["status"]).stdout);
            }
            std::thread::park_timeout(PAUSE);
        }
    }

    /// Waits until one instance is so.
    #[track_caller]
    pub fn wait_child(&self, instance: &str, what: &str, mut holds: impl FnMut(&ChildStatus) -> bool) -> ChildStatus {
        let status =
            self.wait_status(&format!("{instance} {what}"), |status| find(status, instance).is_some_and(&mut holds));
        child(&status, instance).clone()
    }

    #[track_caller]
    pub fn child(&self, instance: &str) -> ChildStatus {
        child(&self.status(), instance).clone()
    }

    #[track_caller]
    pub fn pid(&self, instance: &str) -> u32 {
        let child = self.child(instance);
        let Some(pid) = child.pid else { panic!("{instance} does not run: {child:?}") };
        pid
    }

    /// Every running instance and its pid.
    pub fn pids(&self) -> Vec<(String, u32)> {
        let status = self.status();
        children(&status.tree).iter().filter_map(|child| Some((child.instance.clone(), child.pid?))).collect()
    }

    /// `coppice exec`, by the shell of the instance, which must end well.
    #[track_caller]
    pub fn shell(&self, instance: &str, script: &str) -> String {
        self.ok(&["exec", &format!("{}/{instance}", self.app), "sh", "-c", script])
    }

    /// `coppice ps` of the app, those that have stopped too.
    pub fn containers(&self) -> Vec<ContainerSummary> {
        serde_json::from_str(&self.ok(&["ps", "-a", "--json", "--app", &self.app])).unwrap()
    }

    pub fn node_status(&self) -> NodeStatus {
        node_status(self.node)
    }

    /// The host's directory of one of the app's volumes.
    pub fn volume(&self, name: &str) -> PathBuf {
        self.node.root().join("volumes").join(&self.app).join(name).join("head")
    }
}

/// `coppice node status --json`.
pub fn node_status(node: &Node) -> NodeStatus {
    serde_json::from_str(&node.ok(["node", "status", "--json"])).unwrap()
}

/// All instances of a tree, groups' too.
pub fn children(tree: &SupervisorStatus) -> Vec<&ChildStatus> {
    let mut all: Vec<&ChildStatus> = tree.children.iter().collect();
    all.extend(tree.groups.iter().flat_map(children));
    all
}

pub fn find<'s>(status: &'s AppStatus, instance: &str) -> Option<&'s ChildStatus> {
    children(&status.tree).into_iter().find(|child| child.instance == instance)
}

#[track_caller]
pub fn child<'s>(status: &'s AppStatus, instance: &str) -> &'s ChildStatus {
    find(status, instance).unwrap_or_else(|| panic!("no {instance} in {status:#?}"))
}

/// SIGKILL to a process of the test's node, as the out-of-memory killer or an operator would.
pub fn kill9(pid: u32) {
    assert!(pid > 1);
    let status = Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap();
    assert!(status.success(), "no process {pid}");
}

/// One HTTP answer from inside the node's network namespace: the body of a 200, else why not.
pub fn get(node: &Node, address: &str) -> Result<String, String> {
    let output =
        node.inside("curl").args(["-sS", "--fail", "--max-time", "5", &format!("http://{address}")]).output().unwrap();
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Names in a directory, sorted; none when it is not there.
pub fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What is left of containers on the machine: their directories, cgroups and network devices. Empty when all are gone.
pub fn leftovers(node: &Node) -> Vec<String> {
    let mut left: Vec<String> = names(&node.root().join("containers"));
    left.extend(container_cgroups(node).into_iter().map(|id| format!("cgroup {id}")));
    left.extend(devices(node));
    left
}

/// Ids of the containers that have a cgroup in any hierarchy.
pub fn container_cgroups(node: &Node) -> BTreeSet<String> {
    let dirs = node.cgroup_dirs();
    let parents = dirs.iter().filter(|dir| dir.file_name().is_some_and(|name| *name == *node.cgroup()));
    let below = parents.flat_map(|parent| std::fs::read_dir(parent).into_iter().flatten().flatten());
    let dirs = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    // A name with a dot is the node's own, of rules that containers share.
    dirs.map(|entry| entry.file_name().to_string_lossy().into_owned()).filter(|name| !name.starts_with('.')).collect()
}

/// Waits until nothing is left of any container.
#[track_caller]
pub fn assert_nothing_left(node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = leftovers(node);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "these are left of containers: {left:#?}");
        std::thread::park_timeout(PAUSE);
    }
}

/// The containers' ends on the bridge.
pub fn devices(node: &Node) -> Vec<String> {
    let mut command = node.inside("ip");
    command.args(["-o", "link"]);
    let said = Output::of(command).succeeded().stdout;
    let names =
        said.lines().filter_map(|line| line.split(": ").nth(1)).map(|name| name.split('@').next().unwrap_or(name));
    names.filter(|name| name.starts_with("cp") && name.len() == 14).map(str::to_owned).collect()
}
