//! Pull of a 300 MB image of five layers from a registry on this machine into an empty store.
//!
//! The image is made here from a seed, half of it incompressible, so that every run pulls the same bytes. Peers that
//! unpack (podman, skopeo into container storage) are the comparison; skopeo's copy to a folder of blobs is shown as
//! the time the network and the digests alone take.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::Plan;
use super::contenders::Arena;
use super::figures::{Report, Row};
use super::processes::{background, until};
use super::starts::once;
use crate::shell;

const FIGURE: &str = "pull of 300 MB in five layers, cold store";
const LAYERS: u64 = 5;
const FILES: u64 = 400;
const FILE_BYTES: u64 = 150_000;
const ADDRESS: &str = "127.0.0.1:5005";

pub(super) fn measure(arena: &Arena, plan: &Plan, report: &mut Report) -> Result<()> {
    let folder = arena.folder.join("pull");
    fs::create_dir_all(&folder)?;
    let layout = image(&folder)?;
    let mut registry = registry(&folder)?;
    let source = format!("docker://{ADDRESS}/bench/big:1");
    let mut push = Command::new("skopeo");
    push.args(["copy", "--quiet", "--dest-tls-verify=false"]).arg(format!("oci:{}", layout.display())).arg(&source);
    shell::output(&mut push)?;

    type Attempt<'a> = Box<dyn Fn(&Path) -> Result<Command> + 'a>;
    let contenders: [(&str, Attempt<'_>); 4] = [
        ("skopeo, blobs only", Box::new(|cold| Ok(skopeo(&source, &format!("dir:{}", cold.display()))))),
        (
            "skopeo",
            Box::new(|cold| {
                let store = format!("containers-storage:[overlay@{0}/store+{0}/run]localhost/big:1", cold.display());
                Ok(skopeo(&source, &store))
            }),
        ),
        (
            "podman",
            Box::new(|cold| {
                let mut command = arena.podman_command();
                // It refuses a run root whose path has more than 50 characters; /run is the benchmark's own.
                let run = Path::new("/run").join(cold.file_name().unwrap_or_default());
                command.arg("--root").arg(cold.join("store")).arg("--runroot").arg(run);
                command.args(["pull", "--quiet", "--tls-verify=false"]).arg(format!("{ADDRESS}/bench/big:1"));
                Ok(command)
            }),
        ),
        (
            "coppice",
            Box::new(|cold| {
                // A node of its own, up before the clock runs, as the peers' programs are.
                shell::output(arena.coppice_at(cold)?.args(["node", "start"]))?;
                let mut command = arena.coppice_at(cold)?;
                command.arg("pull").arg(format!("{ADDRESS}/bench/big:1"));
                Ok(command)
            }),
        ),
    ];
    let mut samples: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    let mut failed: Vec<Option<String>> = vec![None; contenders.len()];
    for round in 0..plan.rounds(5, 1) {
        for (index, (name, attempt)) in contenders.iter().enumerate() {
            let cold = folder.join(format!("cold-{index}-{round}"));
            fs::create_dir_all(&cold)?;
            match attempt(&cold).and_then(|mut command| once(&mut command)) {
                Ok(took) => samples[index].push(took),
                Err(error) => failed[index] = Some(format!("{error:#}")),
            }
            if *name == "coppice" {
                let _ =
                    arena.coppice_at(&cold).map(|mut command| shell::output(command.args(["node", "stop", "--all"])));
            }
            // A store that is still mounted or busy stays until the next run empties the folder.
            let _ = fs::remove_dir_all(&cold);
        }
    }
    for (((name, _), samples), failed) in contenders.iter().zip(&samples).zip(failed) {
        match failed {
            Some(why) => report.skip(format!("{name} ({FIGURE})"), why),
            None => report.rows.push(Row::of(FIGURE, name, "ms", samples)),
        }
    }
    let peers = [report.median(FIGURE, "skopeo"), report.median(FIGURE, "podman")];
    if let (Some(ours), Some(best)) =
        (report.median(FIGURE, "coppice"), peers.into_iter().flatten().min_by(f64::total_cmp))
    {
        report.goal(FIGURE, "≤ 0.70 × the faster peer".into(), ours / best, ours <= 0.7 * best);
    }
    registry.kill().and_then(|()| registry.wait()).context("cannot end the registry")?;
    Ok(())
}

fn skopeo(source: &str, target: &str) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet", "--src-tls-verify=false", source, target]);
    command
}

fn registry(folder: &Path) -> Result<std::process::Child> {
    let config = folder.join("registry.yml");
    let store = folder.join("registry");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {ADDRESS}\n",
        store.display()
    );
    fs::write(&config, text)?;
    let mut serve = Command::new("docker-registry");
    let child = background(serve.arg("serve").arg(&config), &folder.join("registry.log"))?;
    until("the registry to listen", || std::net::TcpStream::connect(ADDRESS).is_ok())?;
    Ok(child)
}

/// An OCI layout with the image.
fn image(folder: &Path) -> Result<PathBuf> {
    let layout = folder.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
    for number in 0..LAYERS {
        let (layer, diff_id) = layer(folder, &blobs, number)?;
        layers.push(layer);
        diff_ids.push(diff_id);
    }
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let config = blob(&blobs, &config.to_string(), "application/vnd.oci.image.config.v1+json")?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers });
    let manifest = blob(&blobs, &manifest.to_string(), kind)?;
    fs::write(layout.join("index.json"), json!({ "schemaVersion": 2, "manifests": [manifest] }).to_string())?;
    fs::write(layout.join("oci-layout"), json!({ "imageLayoutVersion": "1.0.0" }).to_string())?;
    Ok(layout)
}

/// The descriptor of a gzipped layer of 60 MB, and its diff id.
fn layer(folder: &Path, blobs: &Path, number: u64) -> Result<(serde_json::Value, String)> {
    let content = folder.join(format!("layer-{number}"));
    for file in 0..FILES {
        let place = content.join(format!("srv/layer{number}/{}", file % 20));
        fs::create_dir_all(&place)?;
        let mut out = BufWriter::new(fs::File::create(place.join(format!("file{file}")))?);
        let mut state = number << 32 | file;
        for word in 0..FILE_BYTES / 8 {
            // SplitMix64; every second word is text that compresses.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed ^= mixed >> 27;
            out.write_all(&if word % 2 == 0 { mixed.to_le_bytes() } else { *b"coppice " })?;
        }
        out.flush()?;
    }
    let tar = folder.join(format!("layer-{number}.tar"));
    let mut pack = Command::new("tar");
    pack.args(["--sort=name", "--mtime=@0", "--owner=0", "--group=0", "-cf"])
        .arg(&tar)
        .arg("-C")
        .arg(&content)
        .arg("srv");
    shell::output(&mut pack)?;
    fs::remove_dir_all(&content)?;
    let diff_id = format!("sha256:{}", digest(&tar)?);
    shell::output(Command::new("gzip").args(["-f", "-n", "-6"]).arg(&tar))?;
    let packed = folder.join(format!("layer-{number}.tar.gz"));
    let (hex, size) = (digest(&packed)?, fs::metadata(&packed)?.len());
    fs::rename(&packed, blobs.join(&hex))?;
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    Ok((json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": size }), diff_id))
}

fn blob(blobs: &Path, text: &str, kind: &str) -> Result<serde_json::Value> {
    let fresh = blobs.join("fresh");
    fs::write(&fresh, text)?;
    let hex = digest(&fresh)?;
    fs::rename(&fresh, blobs.join(&hex))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{hex}"), "size": text.len() }))
}

fn digest(file: &Path) -> Result<String> {
    let said = shell::output(Command::new("sha256sum").arg(file))?;
    said.split_whitespace().next().map(str::to_owned).context("sha256sum printed nothing")
}
