//! `bare`: `./x demo` on a machine with nothing prepared.
//!
//! A minimal Debian (no compiler, no Rust, no curl, no git, no sudo, no locale, no HOME) is unpacked into a folder and
//! entered as a machine of its own, with a fresh clone of the last commit in it. There `./x demo` must install what is
//! missing (by apt-get and by rustup, for real, each time), build, and show what it shows. Before that, a user who is
//! nobody must be told what to ask root for.
//!
//! What cargo has built and fetched here is seen there through an overlay, so that the stage costs minutes; `--sudo`, a
//! stage of its own, shares nothing and runs as an ordinary user with sudo: all that a stranger waits for. Where this machine's network does
//! not lead to Debian's packages and Rust's, the stage is skipped, and says so.

mod machine;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use self::machine::{Machine, NAME_SERVER, Shared};
use crate::interrupt::Interrupt;
use crate::{install, shell, workspace};

const SUITE: &str = "bookworm";

/// What a machine's first `./x demo` fetches from, and who keeps it there.
const SOURCES: [(&str, &str); 2] = [
    ("http://deb.debian.org/debian/dists/bookworm/InRelease", "Debian's packages"),
    ("https://static.rust-lang.org/rustup/rustup-init.sh", "rustup"),
];

/// What must have been said on the way, so that a machine that had it all proves nothing.
const MUST_SAY: [&str; 5] =
    ["x: installing gcc", "x: installing rustup", "installing component 'rustc'", "it is back as process", "Stopped."];

/// Whether it was shown.
#[derive(Debug)]
pub(crate) enum Outcome {
    Held,
    /// Why not, in a sentence.
    Skipped(String),
}

/// `./x bare [--sudo]`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let user = match args {
        [] => User::Root,
        [only] if only == "--sudo" => User::Sudo,
        other => bail!("bare takes --sudo, got {}", other.join(" ")),
    };
    match show(user)? {
        Outcome::Held => println!("bare: `./x demo` holds on a machine with nothing prepared"),
        Outcome::Skipped(why) => println!("SKIPPED bare: {why}"),
    }
    Ok(())
}

/// Who runs `./x demo` there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    /// An ordinary user who may use sudo.
    Sudo,
}

/// Makes the machine and runs the demo in it.
pub(crate) fn show(user: User) -> Result<Outcome> {
    if !install::is_root() {
        bail!("bare makes namespaces and mounts: run it as root");
    }
    if let Some((url, whose)) = SOURCES.iter().find(|(url, _)| !answers(url)) {
        return Ok(Outcome::Skipped(format!("this machine does not reach {whose} ({url})")));
    }
    install::packages()?;
    let cache = cache()?;
    let base = base(&cache)?;
    let folder = Folder::make(&cache)?;
    let path = folder.0.clone();
    let _interrupt = Interrupt::undone_by(move || drop(Folder(path)))?;
    let root = folder.0.join("root");
    prepare(&root, &base)?;

    tell(&root, &Shared::default(), NOBODY, &["as root, run `apt-get update && apt-get install gcc libc6-dev curl"])?;
    match user {
        User::Root => {
            let target = workspace::Metadata::read(&workspace::root())?.target_directory;
            let registry = home_of_cargo()?.join("registry");
            let shared = Shared { target: Some(&target), registry: Some(&registry) };
            tell(&root, &shared, "cd /root/coppice && CARGO_INCREMENTAL=0 ./x demo", &MUST_SAY)?;
        }
        User::Sudo => tell(&root, &Shared::default(), STRANGER, &MUST_SAY)?,
    }
    Ok(Outcome::Held)
}

/// A user who may do nothing: the message is all there can be.
const NOBODY: &str = "cp -r /root/coppice /srv/coppice && chown -R nobody /srv/coppice && cd /srv/coppice &&
if su nobody -s /bin/sh -c './x demo'; then echo 'it should have failed'; exit 1; fi; rm -rf /srv/coppice";

/// An ordinary user with sudo, and nothing else added.
const STRANGER: &str = "set -e
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends sudo >/dev/null
useradd --create-home --shell /bin/sh stranger
echo 'stranger ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/stranger
mv /root/coppice /home/stranger/coppice
chown -R stranger:stranger /home/stranger/coppice
cd /home/stranger/coppice
su stranger -c './x demo'";

/// Runs a script in a machine on `root`, shows what it says, and wants it to succeed and to say these parts.
fn tell(root: &Path, shared: &Shared<'_>, script: &str, parts: &[&str]) -> Result<()> {
    let mut said = String::new();
    let end = Machine::start(root, shared, &["/bin/sh", "-c", script])?.follow(|line| {
        println!("  bare │ {line}");
        said.push_str(line);
        said.push('\n');
    })?;
    if !end.success() {
        bail!("on the bare machine, this failed ({end}): {script}");
    }
    if let Some(part) = parts.iter().find(|part| !said.contains(**part)) {
        bail!("on the bare machine nothing said {part:?}: {script}");
    }
    Ok(())
}

/// Whether somebody answers there, in three tries.
fn answers(url: &str) -> bool {
    shell::succeeds(Command::new("curl").args(["-sSfL", "--retry", "2", "--max-time", "20", "-o", "/dev/null", url]))
}

/// A minimal Debian as a tar, made once.
fn base(cache: &Path) -> Result<PathBuf> {
    let tar = cache.join(format!("debian-{SUITE}.tar"));
    if !tar.exists() {
        let fresh = cache.join(format!("debian-{SUITE}-{}.tar", std::process::id()));
        shell::run(Command::new("mmdebstrap").args(["--quiet", "--variant=minbase", SUITE]).arg(&fresh))?;
        fs::rename(&fresh, &tar).with_context(|| format!("cannot keep {}", tar.display()))?;
    }
    Ok(tar)
}

/// Unpacks the base and lays in what no package brings: names, this machine's own authorities, and the clone.
fn prepare(root: &Path, base: &Path) -> Result<()> {
    fs::create_dir(root).with_context(|| format!("cannot make {}", root.display()))?;
    shell::output(Command::new("tar").arg("--numeric-owner").arg("-xpf").arg(base).arg("-C").arg(root))?;
    let names = root.join("etc/resolv.conf");
    let _ = fs::remove_file(&names);
    fs::write(&names, format!("nameserver {NAME_SERVER}\n")).context("cannot write resolv.conf")?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost bare\n").context("cannot write hosts")?;
    // Behind a proxy that opens TLS, its authority is this machine's to hand on.
    let authorities = Path::new("/usr/local/share/ca-certificates");
    if authorities.is_dir() {
        shell::output(Command::new("cp").arg("-rL").arg(authorities).arg(root.join("usr/local/share/")))?;
    }
    let mut clone = Command::new("git");
    clone.args(["clone", "--quiet", "--no-hardlinks"]).arg(workspace::root()).arg(root.join("root/coppice"));
    shell::output(&mut clone).map(drop)
}

fn cache() -> Result<PathBuf> {
    let folder = workspace::cache()?.join("bare");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}

fn home_of_cargo() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    std::env::var_os("CARGO_HOME").map(PathBuf::from).or(home).context("neither CARGO_HOME nor HOME is set")
}

/// The machine's folder: a gigabyte, gone with this.
struct Folder(PathBuf);

impl Folder {
    /// A fresh one; those of runs that were killed go first.
    fn make(cache: &Path) -> Result<Self> {
        for entry in fs::read_dir(cache).context("cannot list the cache")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(pid) = name.strip_prefix("run-")
                && !Path::new("/proc").join(pid).exists()
            {
                drop(Self(entry.path()));
            }
        }
        let folder = Self(cache.join(format!("run-{}", std::process::id())));
        fs::create_dir(&folder.0).with_context(|| format!("cannot make {}", folder.0.display()))?;
        Ok(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_of_a_killed_run_goes_with_the_next_and_that_of_a_running_one_stays() {
        let cache = tempfile::tempdir().expect("a folder");
        let (dead, alive) = (cache.path().join("run-4194999"), cache.path().join("run-1"));
        fs::create_dir_all(dead.join("root/etc")).expect("a folder");
        fs::create_dir(&alive).expect("a folder");
        let own = Folder::make(cache.path()).expect("a folder");
        assert!(!dead.exists() && alive.exists() && own.0.exists());
        let path = own.0.clone();
        drop(own);
        assert!(!path.exists());
    }

    #[test]
    fn a_host_that_nobody_has_does_not_answer() {
        assert!(!answers("http://127.0.0.1:1/"));
    }
}
