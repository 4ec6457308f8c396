//! Releases of Erlang and Elixir on their way to a node: a tarball becomes one layer below `/app` on the workload's image.
//!
//! ```text
//!   release = "shop.tar.gz" ─read─→ name, tool, SHA-256 ─→ localhost/release/shop:<of tarball and base>
//!                                                             │ is there: nothing is sent
//!                                                             └ is not: the layer is sent, and is there whole or not at all
//! ```
//!
//! From then on it is an image: pinned by its digest, rolled out and back as any. The tarball is somebody's: entries that
//! lead out of it, and what is neither file, directory nor link, are refused here, and the layer is unpacked on the node by
//! the rules for anyone's layers.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Component, Path, PathBuf};

use coppice_client::{Client, ImportOptions, Upload};
use coppice_spec::{AppSpec, BeamRelease, BeamSpec, BeamTool, PullPolicy, WorkloadSpec, is_release_name};
use flate2::bufread::MultiGzDecoder;
use sha2::{Digest, Sha256};
use tar::{Archive, Builder, EntryType};

use crate::error::{CommandError, eprint_all};
use crate::settings::Settings;
use crate::transfer;

/// Why a tarball is not sent. Nothing was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReleaseError {
    #[error("cannot read the release {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "{} is not a release: it has no releases/start_erl.data; make one by `mix release` with `steps: [:assemble, :tar]`, \
         or by `rebar3 tar`", path.display()
    )]
    NotOne { path: PathBuf },
    #[error("the release {} has no start script bin/NAME for its releases/VERSION/NAME.rel", path.display())]
    NoProgram { path: PathBuf },
    #[error("the release {} holds {entry:?}, which {why}; nothing was sent", path.display())]
    Entry { path: PathBuf, entry: String, why: &'static str },
}

/// What a tarball is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    name: String,
    tool: BeamTool,
    sha256: String,
    /// The directory within the tarball that the release is in; empty where it is at the top.
    inside: PathBuf,
}

/// Has every release that these apps' workloads name be an image of the node, and the workloads name those images.
pub(crate) async fn send(
    settings: &Settings,
    client: &Client,
    specs: impl Iterator<Item = &mut AppSpec>,
) -> Result<(), CommandError> {
    let mut known: BTreeMap<String, Found> = BTreeMap::new();
    for spec in specs {
        let services = spec.services.values_mut().map(|service| &mut service.workload);
        let workers = spec.workers.values_mut().map(|worker| &mut worker.workload);
        for workload in services.chain(workers).chain(spec.crons.values_mut().map(|cron| &mut cron.workload)) {
            send_one(settings, client, workload, &mut known).await?;
        }
    }
    Ok(())
}

async fn send_one(
    settings: &Settings,
    client: &Client,
    workload: &mut WorkloadSpec,
    known: &mut BTreeMap<String, Found>,
) -> Result<(), CommandError> {
    let Some(BeamSpec { release: release @ BeamRelease::File(_), .. }) = &mut workload.beam else { return Ok(()) };
    let BeamRelease::File(path) = &*release else { return Ok(()) };
    let path = path.clone();
    let found = match known.get(&path) {
        Some(found) => found.clone(),
        None => known.entry(path.clone()).or_insert(look(Path::new(&path))?).clone(),
    };
    let base = base(settings, client, &workload.image, workload.pull).await?;
    let name = reference(&found, &base);
    match client.image(&name).await {
        Ok(_) => {}
        Err(error) if error.not_found() => {
            let layer = layer(Path::new(&path), &found.inside)?;
            eprint_all(&format!("{} {} is sent to the node\n", found.name, &found.sha256[..12]));
            let start = match found.tool {
                BeamTool::Mix => "start",
                BeamTool::Rebar3 => "foreground",
            };
            let options = ImportOptions {
                name: name.clone(),
                base: Some(base),
                entrypoint: Some(vec![format!("{}/bin/{}", BeamSpec::DIRECTORY, found.name)]),
                command: Some(vec![start.to_owned()]),
                // Elixir wants UTF-8; a release without a home directory has nowhere for its crash dumps.
                env: vec!["LANG=C.UTF-8".to_owned(), format!("HOME={}", BeamSpec::DIRECTORY)],
                working_dir: Some(BeamSpec::DIRECTORY.to_owned()),
                user: None,
            };
            client.import(&options, Upload::new(layer)).await?;
        }
        Err(error) => return Err(error.into()),
    }
    *release = BeamRelease::Packed { name: found.name, tool: found.tool, sha256: found.sha256 };
    workload.image = name;
    workload.pull = PullPolicy::Never;
    Ok(())
}

/// The id of the image below, fetched where it is not there.
async fn base(settings: &Settings, client: &Client, image: &str, pull: PullPolicy) -> Result<String, CommandError> {
    match client.image(image).await {
        Ok(found) if pull != PullPolicy::Always => return Ok(found.summary.id),
        Err(error) if !error.not_found() || pull == PullPolicy::Never => return Err(error.into()),
        _ => {}
    }
    Ok(transfer::pull(settings, client, image, true, false).await?.id)
}

/// A name that says both contents.
fn reference(found: &Found, base: &str) -> String {
    let both = hex(&Sha256::new().chain_update(base).chain_update("\n").chain_update(&found.sha256).finalize());
    format!("localhost/release/{}:{}", found.name.to_ascii_lowercase(), &both[..32])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads the tarball once, for its names and its digest.
fn look(path: &Path) -> Result<Found, ReleaseError> {
    let failed = |source| ReleaseError::Read { path: path.to_owned(), source };
    let mut names = Vec::new();
    let mut archive = open(path)?;
    for entry in archive.entries().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        names.push(name.components().filter(|part| *part != Component::CurDir).collect::<PathBuf>());
    }
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(path).map_err(failed)?, &mut hasher).map_err(failed)?;
    let start = names.iter().find(|name| name.ends_with("releases/start_erl.data"));
    let not_one = || ReleaseError::NotOne { path: path.to_owned() };
    let inside = start.and_then(|start| start.parent()?.parent()).ok_or_else(not_one)?.to_owned();
    let within: Vec<&Path> = names.iter().filter_map(|name| name.strip_prefix(&inside).ok()).collect();
    let has = |wanted: &str| within.contains(&Path::new(wanted));
    let of_version = |name: &&&Path| name.starts_with("releases") && name.components().count() == 3;
    let name = within.iter().filter(of_version).find_map(|name| {
        let stem = name.extension().filter(|extension| *extension == "rel").and(name.file_stem())?.to_str()?;
        (is_release_name(stem) && has(&format!("bin/{stem}"))).then(|| stem.to_owned())
    });
    let name = name.ok_or_else(|| ReleaseError::NoProgram { path: path.to_owned() })?;
    let is_mix = within.iter().filter(of_version).any(|name| name.ends_with("env.sh"));
    let tool = if is_mix { BeamTool::Mix } else { BeamTool::Rebar3 };
    Ok(Found { name, tool, sha256: hex(&hasher.finalize()), inside })
}

/// The tarball, compressed by gzip or not at all.
fn open(path: &Path) -> Result<Archive<Box<dyn Read>>, ReleaseError> {
    let failed = |source| ReleaseError::Read { path: path.to_owned(), source };
    let mut file = BufReader::new(File::open(path).map_err(failed)?);
    let gzip = file.fill_buf().map_err(failed)?.starts_with(&[0x1f, 0x8b]);
    Ok(Archive::new(if gzip { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) }))
}

/// The same entries below `app/`, as root's, in a file that has no name.
fn layer(path: &Path, inside: &Path) -> Result<File, ReleaseError> {
    let failed = |source| ReleaseError::Read { path: path.to_owned(), source };
    let refused = |entry: &Path, why| {
        let entry = entry.to_string_lossy().chars().take(200).collect();
        ReleaseError::Entry { path: path.to_owned(), entry, why }
    };
    let below = |name: &Path| -> Result<Option<PathBuf>, ReleaseError> {
        let mut clean = PathBuf::new();
        for part in name.components() {
            match part {
                Component::Normal(part) => clean.push(part),
                Component::CurDir => {}
                _ => return Err(refused(name, "leads out of it")),
            }
        }
        let kept = clean.strip_prefix(inside).ok().filter(|rest| *rest != Path::new(""));
        Ok(kept.map(|rest| Path::new(BeamSpec::DIRECTORY.trim_start_matches('/')).join(rest)))
    };
    let mut layer = Builder::new(tempfile::tempfile().map_err(failed)?);
    for entry in open(path)?.entries().map_err(failed)? {
        let mut entry = entry.map_err(failed)?;
        let name = entry.path().map_err(failed)?.into_owned();
        let Some(target) = below(&name)? else { continue };
        let mut header = entry.header().clone();
        header.set_uid(0);
        header.set_gid(0);
        header.set_mode(header.mode().map_err(failed)? & 0o777);
        let link = entry.link_name().map_err(failed)?.map(|link| link.into_owned());
        match (header.entry_type(), link) {
            (EntryType::Symlink, Some(link)) => layer.append_link(&mut header, &target, &link),
            (EntryType::Link, Some(link)) => match below(&link)? {
                Some(link) => layer.append_link(&mut header, &target, &link),
                None => return Err(refused(&name, "is a link out of it")),
            },
            (EntryType::Regular | EntryType::Continuous | EntryType::Directory, _) => {
                layer.append_data(&mut header, &target, &mut entry)
            }
            _ => return Err(refused(&name, "is neither a file, a directory nor a link")),
        }
        .map_err(failed)?;
    }
    let mut file = layer.into_inner().map_err(failed)?;
    file.rewind().map_err(failed)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn tarball(entries: &[(&str, EntryType, &str)], gzip: bool) -> tempfile::NamedTempFile {
        let mut builder = Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o4755);
            header.set_uid(1000);
            header.set_gid(1000);
            // As a hostile tool writes it: `set_path` would refuse.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            if matches!(kind, EntryType::Symlink | EntryType::Link) {
                header.as_gnu_mut().unwrap().linkname[..content.len()].copy_from_slice(content.as_bytes());
                header.set_size(0);
                header.set_cksum();
                builder.append(&header, io::empty()).unwrap();
            } else {
                header.set_size(content.len() as u64);
                header.set_cksum();
                builder.append(&header, content.as_bytes()).unwrap();
            }
        }
        let bytes = builder.into_inner().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        if gzip {
            let mut encoder = flate2::write::GzEncoder::new(&mut file, flate2::Compression::fast());
            encoder.write_all(&bytes).unwrap();
            encoder.finish().unwrap();
        } else {
            file.write_all(&bytes).unwrap();
        }
        file
    }

    const MIX: &[(&str, EntryType, &str)] = &[
        ("bin/shop", EntryType::Regular, "#!/bin/sh"),
        ("releases/start_erl.data", EntryType::Regular, "13 1"),
        ("releases/1/env.sh", EntryType::Regular, ""),
        ("releases/1/shop.rel", EntryType::Regular, ""),
    ];

    fn entries(mut layer: File) -> Vec<(String, u32, u64)> {
        let mut text = Vec::new();
        layer.read_to_end(&mut text).unwrap();
        let mut archive = Archive::new(&text[..]);
        let found = archive.entries().unwrap().map(|entry| {
            let entry = entry.unwrap();
            let header = entry.header();
            (entry.path().unwrap().display().to_string(), header.mode().unwrap(), header.uid().unwrap())
        });
        found.collect()
    }

    #[test]
    fn a_release_is_known_by_its_files_and_lies_below_app_as_roots() {
        for gzip in [false, true] {
            let file = tarball(MIX, gzip);
            let found = look(file.path()).unwrap();
            assert_eq!(
                (found.name.as_str(), found.tool, found.inside.as_path()),
                ("shop", BeamTool::Mix, Path::new(""))
            );
            let entries = entries(layer(file.path(), &found.inside).unwrap());
            assert_eq!(entries[0], ("app/bin/shop".to_owned(), 0o755, 0));
            assert_eq!(entries.len(), 4);
        }
    }

    #[test]
    fn a_release_in_a_directory_of_its_tarball_is_found_and_so_is_rebar3s() {
        let file = tarball(
            &[
                ("./rel/bin/back", EntryType::Regular, ""),
                ("./rel/releases/start_erl.data", EntryType::Regular, ""),
                ("./rel/releases/1/back.rel", EntryType::Regular, ""),
                ("./rel/bin/back-1", EntryType::Link, "./rel/bin/back"),
                ("./README", EntryType::Regular, ""),
            ],
            true,
        );
        let found = look(file.path()).unwrap();
        assert_eq!((found.name.as_str(), found.tool), ("back", BeamTool::Rebar3));
        let names: Vec<String> = entries(layer(file.path(), &found.inside).unwrap()).into_iter().map(|e| e.0).collect();
        assert_eq!(names, ["app/bin/back", "app/releases/start_erl.data", "app/releases/1/back.rel", "app/bin/back-1"]);
    }

    #[test]
    fn what_leads_out_of_a_release_or_is_a_device_is_refused() {
        for (bad, why) in [
            (("../etc/passwd", EntryType::Regular, "x"), "leads out"),
            (("/etc/passwd", EntryType::Regular, "x"), "leads out"),
            (("bin/../../x", EntryType::Regular, "x"), "leads out"),
            (("lib/x", EntryType::Link, "../../etc/passwd"), "leads out"),
            (("dev", EntryType::Char, ""), "neither a file"),
            (("pipe", EntryType::Fifo, ""), "neither a file"),
        ] {
            let file = tarball(&[MIX, &[bad]].concat(), true);
            let error = layer(file.path(), Path::new("")).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("nothing was sent"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_is_no_release_is_told_with_what_makes_one() {
        let error = look(tarball(&MIX[..1], true).path()).unwrap_err().to_string();
        assert!(error.contains("mix release") && error.contains("rebar3 tar"), "{error}");
        let error = look(tarball(&MIX[1..], true).path()).unwrap_err();
        assert!(matches!(error, ReleaseError::NoProgram { .. }), "{error}");
        assert!(matches!(look(Path::new("/nowhere.tar.gz")), Err(ReleaseError::Read { .. })));
        let mut cut = tarball(MIX, true);
        let length = cut.as_file().metadata().unwrap().len();
        cut.as_file_mut().set_len(length / 2).unwrap();
        assert!(matches!(look(cut.path()), Err(ReleaseError::Read { .. })));
    }

    #[test]
    fn the_images_name_says_both_the_release_and_what_is_below() {
        let found = look(tarball(MIX, true).path()).unwrap();
        let name = reference(&found, "sha256:1");
        assert!(name.starts_with("localhost/release/shop:"), "{name}");
        assert_ne!(name, reference(&found, "sha256:2"));
        assert_ne!(name, reference(&Found { sha256: "0".repeat(64), ..found }, "sha256:1"));
    }
}
