//! The distribution's cloud kernel, unpacked from its package into the cache; nothing is installed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{install, shell};

/// The package that always depends on the newest kernel.
const NEWEST: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub(crate) struct Kernel {
    pub(crate) image: PathBuf,
    /// `lib/modules/VERSION/kernel`
    modules: PathBuf,
}

/// Finds the kernel in the cache or downloads it.
pub(crate) fn fetch(cache: &Path) -> Result<Kernel> {
    if !cfg!(target_arch = "x86_64") {
        bail!("vmtest boots an x86-64 kernel; this machine is {}", std::env::consts::ARCH);
    }
    let package = newest().or_else(|_| {
        shell::run(install::as_root("apt-get").args(["update", "-qq"]))?;
        newest()
    })?;
    let folder = cache.join(&package);
    if !folder.join("boot").is_dir() {
        let scratch = cache.join(format!("{package}.part"));
        let _ = fs::remove_dir_all(&scratch);
        fs::create_dir_all(&scratch)?;
        shell::run(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(&scratch))?;
        let deb = entries(&scratch)?.into_iter().find(|path| path.extension().is_some_and(|e| e == "deb"));
        let deb = deb.with_context(|| format!("apt-get downloaded no {package}"))?;
        let tree = scratch.join("tree");
        shell::run(Command::new("dpkg").arg("-x").arg(&deb).arg(&tree))?;
        fs::rename(&tree, &folder).with_context(|| format!("cannot place {}", folder.display()))?;
        fs::remove_dir_all(&scratch)?;
    }
    let starts = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"));
    let image = entries(&folder.join("boot"))?.into_iter().find(starts).context("the kernel package has no vmlinuz")?;
    // Where /lib is a link, newer packages have usr/lib.
    let modules = ["lib/modules", "usr/lib/modules"]
        .iter()
        .find_map(|place| entries(&folder.join(place)).ok()?.into_iter().next().map(|version| version.join("kernel")));
    Ok(Kernel { image, modules: modules.context("the kernel package has no modules")? })
}

fn newest() -> Result<String> {
    let text = shell::output(Command::new("apt-cache").args(["depends", NEWEST]))?;
    let depends = text.lines().find_map(|line| line.trim().strip_prefix("Depends: "));
    depends.map(str::to_owned).with_context(|| format!("this distribution has no {NEWEST} (Debian does)"))
}

impl Kernel {
    /// The files of the modules and of all they depend on, in the order in which they load. Names this kernel does
    /// not have as modules (built in, or absent) are passed over.
    pub(crate) fn modules(&self, names: &[&str]) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        walk(&self.modules, &mut files)?;
        let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
        for name in names {
            visit(name, &files, &mut seen, &mut order)?;
        }
        Ok(order)
    }
}

fn visit(name: &str, files: &[PathBuf], seen: &mut BTreeSet<String>, order: &mut Vec<PathBuf>) -> Result<()> {
    let name = name.replace('-', "_");
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let Some(file) = files.iter().find(|file| module_name(file).as_deref() == Some(&name)) else { return Ok(()) };
    for below in depends(&plain(file)?) {
        visit(&below, files, seen, order)?;
    }
    order.push(file.clone());
    Ok(())
}

/// `kernel/fs/overlayfs/overlay.ko.xz` is `overlay`.
fn module_name(file: &Path) -> Option<String> {
    let name = file.file_name()?.to_str()?;
    Some(name.split_once(".ko")?.0.replace('-', "_"))
}

/// The module's bytes, decompressed where the distribution compresses them.
pub(crate) fn plain(file: &Path) -> Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return fs::read(file).with_context(|| format!("cannot read {}", file.display())),
    };
    let done = Command::new(program).arg("-dc").arg(file).output()?;
    if !done.status.success() {
        bail!("{program} cannot unpack {}", file.display());
    }
    Ok(done.stdout)
}

/// What the module's own `.modinfo` section says it needs: `depends=a,b`.
fn depends(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else { return Vec::new() };
    let value: Vec<u8> = module[at + KEY.len()..].iter().copied().take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&value).split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for path in entries(folder)? {
        if path.is_dir() { walk(&path, files)? } else { files.push(path) }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listed = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = listed.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>>>()?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_those_they_depend_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let module = |name: &str, depends: &str| {
            let path = folder.path().join("drivers").join(format!("{name}.ko"));
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, format!("\x7fELF\0license=GPL\0depends={depends}\0retpoline=Y\0")).expect("written");
        };
        module("veth", "");
        module("bridge", "stp,llc");
        module("stp", "llc");
        module("llc", "");
        let kernel = Kernel { image: PathBuf::new(), modules: folder.path().to_path_buf() };
        let order = kernel.modules(&["bridge", "veth", "absent"]).expect("an order");
        let names: Vec<_> = order.iter().filter_map(|file| module_name(file)).collect();
        assert_eq!(names, ["llc", "stp", "bridge", "veth"]);
    }

    #[test]
    fn a_compressed_module_has_the_same_name() {
        assert_eq!(module_name(Path::new("net/nf-tables.ko.xz")).as_deref(), Some("nf_tables"));
    }
}
