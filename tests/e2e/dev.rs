//! `up --dev`: the app follows its files, and what it writes is seen, until it is interrupted.

mod node;
mod project;

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use node::{Node, Output};
use project::{Project, wait_until};

const SITE: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "echo serving $(cat /site/word) in $MODE; exec sleep 1000"]
stop_signal = "KILL"
volumes = ["./site:/site:ro", "notes:/notes"]
env_file = "web.env"

[service.other]
image = "box"
command = ["sh", "-c", "echo other; exec sleep 1000"]
stop_signal = "KILL"
"#;

/// `coppice up --dev`, with what it said so far in files; killed when the test ends.
struct Dev {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Dev {
    fn start(project: &Project<'_>) -> Self {
        let (out, err) = (project.dir.join("../dev.out"), project.dir.join("../dev.err"));
        let mut command = project.command(&["up", "--dev"]);
        command.stdout(Stdio::from(File::create(&out).unwrap())).stderr(Stdio::from(File::create(&err).unwrap()));
        Self { child: command.spawn().unwrap(), out, err }
    }

    fn out(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    fn err(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap()
    }

    #[track_caller]
    fn wait_out(&self, text: &str) {
        wait_until(&format!("{text:?} is shown"), || self.out().contains(text));
    }

    #[track_caller]
    fn wait_err(&self, text: &str) {
        wait_until(&format!("{text:?} is said"), || self.err().contains(text));
    }

    fn interrupt(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("── it showed ──\n{}── and said ──\n{}", self.out(), self.err());
        }
    }
}

fn write(dir: &Path, file: &str, text: &str) {
    std::fs::write(dir.join(file), text).unwrap();
}

#[test]
fn an_app_in_dev_follows_its_files_and_is_stopped_by_ctrl_c_with_its_data_kept() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", SITE);
    std::fs::create_dir(site.dir.join("site")).unwrap();
    write(&site.dir, "site/word", "one");
    write(&site.dir, "web.env", "MODE=draft\n");
    let mut dev = Dev::start(&site);
    dev.wait_out("| serving one in draft\n");
    dev.wait_out("other-1 | other\n");
    dev.wait_err("dev | site: release 1\n");

    // A file in a bind mount restarts who mounts it, and nobody else; as an editor saves it, too.
    let other = site.child("other-1").pid;
    write(&site.dir, "site/word", "two");
    dev.wait_out("serving two in draft\n");
    write(&site.dir, "site/draft~", "three");
    std::fs::rename(site.dir.join("site/draft~"), site.dir.join("site/word")).unwrap();
    dev.wait_out("serving three in draft\n");
    assert!(dev.err().contains("dev | site: files changed, restarting web\n"), "{}", dev.err());
    assert_eq!(site.child("other-1").pid, other);

    // The manifest and what it reads are applied; one that is wrong is told and changes nothing.
    write(&site.dir, "web.env", "MODE=live\n");
    dev.wait_out("serving three in live\n");
    site.write("[service.web]\nimge = 5\n");
    dev.wait_err("did you mean `image`?");
    dev.wait_err("nothing is changed until it is right");
    site.write(&SITE.replace("echo other", "echo another"));
    dev.wait_out("another\n");
    dev.wait_err("dev | site: release 3\n");

    dev.interrupt();
    let status = dev.child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", dev.err());
    assert!(dev.err().ends_with(
        "dev | site is stopped; its volumes and releases stay: `coppice up` starts it again, `coppice down` removes it\n"
    ), "{}", dev.err());
    assert!(site.containers().iter().all(|container| container.pid.is_none()));
    assert!(site.ok(&["volume", "ls"]).contains("site/notes"));
    site.up();
    assert_eq!(site.status().state, "ready");
}

#[test]
fn a_workload_that_writes_into_what_is_watched_is_not_restarted_for_ever() {
    let node = Node::with_busybox();
    let manifest = "[service.web]\nimage = \"box\"\nstop_signal = \"KILL\"\nvolumes = [\"./data:/data\"]\n\
                    command = [\"sh\", \"-c\", \"date >> /data/starts; exec sleep 1000\"]\n";
    let site = Project::new(&node, "site", manifest);
    std::fs::create_dir(site.dir.join("data")).unwrap();
    let mut dev = Dev::start(&site);
    dev.wait_err("web writes into its bind mounts itself: they no longer restart it");
    dev.interrupt();
    assert_eq!(dev.child.wait().unwrap().code(), Some(0));
}

/// What is built of `src/word` runs; what is wrong there does not build.
const BUILT: &str = r#"
[service.web]
image = "box"
command = ["sh", "-c", "echo running $(cat /out/word); exec sleep 1000"]
stop_signal = "KILL"
volumes = ["./out:/out:ro"]

[service.web.dev]
build = "echo compiling; if grep wrong src/word; then exit 3; fi; cp src/word out/word"
watch = ["src"]

[service.other]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
"#;

#[test]
fn a_service_is_built_of_its_sources_and_one_that_does_not_build_runs_on_as_it_was() {
    let node = Node::with_busybox();
    let site = Project::new(&node, "site", BUILT);
    for dir in ["src", "out"] {
        std::fs::create_dir(site.dir.join(dir)).unwrap();
    }
    write(&site.dir, "src/word", "wrong");
    let first = site.coppice(&["up", "--dev"]).ended_with(1);
    assert!(first.stderr.contains("web build | compiling\nweb build | wrong\n"), "{}", first.stderr);
    assert!(first.stderr.contains("web was not built, and nothing is brought up: exited with code 3"));
    assert!(site.try_status().is_none());

    write(&site.dir, "src/word", "one");
    let mut dev = Dev::start(&site);
    dev.wait_out("web-1 | running one\n");
    let other = site.child("other-1").pid;
    write(&site.dir, "src/word", "two");
    dev.wait_out("running two\n");
    dev.wait_err("dev | site: sources changed, building web\n");
    let pid = site.child("web-1").pid;
    write(&site.dir, "src/word", "wrong");
    dev.wait_err("dev | web was not built: exited with code 3; what runs goes on\n");
    assert_eq!((site.child("web-1").pid, site.child("other-1").pid), (pid, other));
    write(&site.dir, "src/word", "three");
    dev.wait_out("running three\n");
    assert_eq!(dev.out().matches("running two").count(), 1, "once for what was built and mounted");
    assert_eq!(site.child("other-1").pid, other);
    dev.interrupt();
    assert_eq!(dev.child.wait().unwrap().code(), Some(0), "{}", dev.err());
}

#[test]
fn a_release_that_changes_is_sent_again_and_one_that_fails_is_told_with_its_cause() {
    let node = Node::with_busybox();
    let manifest = |more: &str| {
        format!("[service.web]\nimage = \"box\"\nrelease = \"shop.tar.gz\"\nstop_signal = \"KILL\"\n{more}\n")
    };
    let shop = Project::new(&node, "shop", &manifest(""));
    let release = |word: &str| {
        let home = shop.dir.join("home");
        for (file, text) in [
            ("bin/shop", format!("#!/bin/sh\necho $1 {word}\nexec sleep 1000\n")),
            ("releases/start_erl.data", "14.0 1.0.0".to_owned()),
            ("releases/1.0.0/shop.rel", String::new()),
        ] {
            std::fs::create_dir_all(home.join(file).parent().unwrap()).unwrap();
            write(&home, file, &text);
        }
        std::fs::set_permissions(home.join("bin/shop"), PermissionsExt::from_mode(0o755)).unwrap();
        let mut tar = std::process::Command::new("tar");
        tar.args(["-czf", "../next.tar.gz", "bin", "releases"]).current_dir(&home);
        Output::of(tar).succeeded();
        std::fs::rename(shop.dir.join("next.tar.gz"), shop.dir.join("shop.tar.gz")).unwrap();
    };
    release("one");
    let mut dev = Dev::start(&shop);
    dev.wait_out("web-1 | foreground one\n");
    release("two");
    dev.wait_out("foreground two\n");
    dev.wait_err("dev | shop: release 2 runs\n");
    let pid = shop.child("web-1").pid;
    // One that begins, and ends at once, may be in the place of the other before anybody knows.
    shop.write(&manifest("command = [\"x\"]\nentrypoint = [\"missing\"]"));
    dev.wait_err("error: release 3 of shop failed");
    dev.wait_err("missing");
    assert_eq!(shop.child("web-1").pid, pid);
    dev.interrupt();
    assert_eq!(dev.child.wait().unwrap().code(), Some(0), "{}", dev.err());
}
