//! `cp`: files between a container and this machine, or between two containers, with docker's rules for names.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bytes::Bytes;
use coppice_api::ErrorKind;
use coppice_client::{Client, ClientError, Download, Upload};

use crate::archive::{self, ArchiveError, Destination};
use crate::args::CpArgs;
use crate::daemon;
use crate::error::{CommandError, CommandResult, eprint_all};
use crate::output::{Paint, visible};
use crate::settings::Settings;

/// Pieces of a download waiting to be unpacked.
const PIECES: usize = 16;

/// One side of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Side {
    Container {
        name: String,
        path: String,
    },
    Local(PathBuf),
    /// `-`: a tar on standard input or output.
    Pipe,
}

impl Side {
    /// `NAME:PATH` is a container's unless it begins like a local path.
    fn of(text: &str) -> Self {
        if text == "-" {
            return Self::Pipe;
        }
        match text.split_once(':') {
            Some((name, path)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
                let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
                Self::Container { name: name.to_owned(), path }
            }
            _ => Self::Local(text.into()),
        }
    }
}

pub(crate) async fn run(settings: &Settings, args: CpArgs) -> CommandResult {
    match (Side::of(&args.source), Side::of(&args.target)) {
        (Side::Container { name, path }, Side::Local(target)) => {
            let client = daemon::client(settings).await?;
            out_of(settings, &client, &name, &path, &target, args.archive).await?;
        }
        (Side::Container { name, path }, Side::Pipe) => {
            if io::stdout().is_terminal() {
                return Err(CommandError::usage("a tar is not for a terminal", "name a file, or use a pipe"));
            }
            let client = daemon::client(settings).await?;
            let mut download = client.read_archive(&name, &path).await?;
            let mut stdout = io::stdout().lock();
            while let Some(bytes) = download.next().await? {
                stdout.write_all(&bytes).map_err(CommandError::Output)?;
            }
            stdout.flush().map_err(CommandError::Output)?;
        }
        (Side::Local(source), Side::Container { name, path }) => {
            let client = daemon::client(settings).await?;
            into(&client, &source, &name, &path, args.archive).await?;
        }
        (Side::Pipe, Side::Container { name, path }) => {
            let client = daemon::client(settings).await?;
            client.write_archive(&name, &path, Upload::new(io::stdin())).await?;
        }
        (Side::Container { name: from, path: source }, Side::Container { name, path }) => {
            let client = daemon::client(settings).await?;
            across(&client, (&from, &source), (&name, &path), args.archive).await?;
        }
        _ => {
            return Err(CommandError::usage(
                "one side must be in a container",
                "write CONTAINER:PATH for it, and CONTAINER:PATH, a local path or - for the other",
            ));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The last name of a path, and whether it ends in `/.` (only what is inside) or `/`.
fn ending(path: &str) -> (&str, bool, bool) {
    let contents = path.ends_with("/.") || path == ".";
    let bare = path.strip_suffix("/.").unwrap_or(path).trim_end_matches('/');
    (bare.rsplit('/').next().unwrap_or(""), contents, path.ends_with('/'))
}

async fn out_of(
    settings: &Settings,
    client: &Client,
    container: &str,
    path: &str,
    target: &Path,
    keep_owners: bool,
) -> Result<(), CommandError> {
    let (name, contents, _) = ending(path);
    let slash = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    let there = std::fs::metadata(target).ok();
    let inside = path.strip_suffix("/.").unwrap_or(path);
    let download = client.read_archive(container, if inside.is_empty() { "/" } else { inside }).await?;
    let (mut feed, tar) = piped();
    // The kind of what is copied is known from its first entry, so the choice is made where that is read.
    let choose = {
        let target = target.to_owned();
        let name = name.to_owned();
        move |is_directory: bool| choose(&target, there.as_ref(), slash, &name, contents, is_directory)
    };
    let name = name.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        let mut tar = tar;
        let first = peek(&mut tar)?;
        let is_directory = archive::first_is_directory(&first[..])?
            .ok_or_else(|| ArchiveError::Tar(io::Error::new(io::ErrorKind::UnexpectedEof, "it is empty")))?;
        let destination = choose(is_directory)?;
        archive::unpack(first.chain(tar), OsStr::new(&name), &destination, keep_owners)
    });
    let fed = feed.all_of(download).await;
    drop(feed);
    let unpacked = unpacking
        .await
        .map_err(|error| CommandError::Failed { what: format!("unpacking stopped: {error}"), help: None })?;
    // A node that goes away looks like a cut archive: its own error says more.
    fed?;
    for path in unpacked? {
        let warning = settings.stderr.paint(Paint::Yellow, "warning:");
        eprint_all(&format!(
            "{warning} {} is a device, FIFO or socket and was left out\n",
            visible(&path.display().to_string())
        ));
    }
    Ok(())
}

/// Docker's rules.
fn choose(
    target: &Path,
    there: Option<&std::fs::Metadata>,
    slash: bool,
    name: &str,
    contents: bool,
    is_directory: bool,
) -> Result<Destination, ArchiveError> {
    let shown = target.display();
    match (is_directory, there) {
        (_, Some(meta)) if meta.is_dir() && !(is_directory && (contents || name.is_empty())) => {
            Ok(Destination::Into(target.to_owned()))
        }
        (true, Some(meta)) if meta.is_dir() => Ok(Destination::Contents(target.to_owned())),
        (true, Some(_)) => Err(ArchiveError::usage(format!("{shown} is a file; a directory cannot be copied onto it"))),
        (true, None) => Ok(Destination::Contents(target.to_owned())),
        (false, Some(_)) if slash => Err(ArchiveError::usage(format!("{shown} is not a directory"))),
        (false, None) if slash => Err(ArchiveError::usage(format!("there is no directory {shown}"))),
        (false, _) => Ok(Destination::As(target.to_owned())),
    }
}

/// The first header block and whatever extended headers come before it, as read.
fn peek(tar: &mut impl Read) -> Result<Vec<u8>, ArchiveError> {
    const BLOCK: usize = 512;
    // Long names and PAX headers of one entry; more than this is no honest archive.
    const MOST: usize = 1 << 20;
    let mut bytes = Vec::new();
    loop {
        let start = bytes.len();
        bytes.resize(start + BLOCK, 0);
        tar.read_exact(&mut bytes[start..]).map_err(ArchiveError::Tar)?;
        let header = tar::Header::from_byte_slice(&bytes[start..]);
        let kind = header.entry_type();
        let extension = kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_local_extensions()
            || kind.is_pax_global_extensions();
        if !extension {
            return Ok(bytes);
        }
        let size = usize::try_from(header.size().map_err(ArchiveError::Tar)?).unwrap_or(usize::MAX);
        if size > MOST || bytes.len() > MOST {
            return Err(ArchiveError::Tar(io::Error::new(io::ErrorKind::InvalidData, "its headers are too long")));
        }
        let padded = size.next_multiple_of(BLOCK);
        let start = bytes.len();
        bytes.resize(start + padded, 0);
        tar.read_exact(&mut bytes[start..]).map_err(ArchiveError::Tar)?;
    }
}

/// Bytes from the runtime to a thread that reads them.
fn piped() -> (Feed, Pieces) {
    let (sender, receiver) = tokio::sync::mpsc::channel(PIECES);
    (Feed { sender }, Pieces { receiver, current: Bytes::new() })
}

struct Feed {
    sender: tokio::sync::mpsc::Sender<Bytes>,
}

impl Feed {
    async fn all_of(&mut self, mut download: Download) -> Result<(), ClientError> {
        while let Some(bytes) = download.next().await? {
            // The reader has stopped; why, it says itself.
            if self.sender.send(bytes).await.is_err() {
                break;
            }
        }
        Ok(())
    }
}

struct Pieces {
    receiver: tokio::sync::mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.receiver.blocking_recv() {
                Some(bytes) => self.current = bytes,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        buffer[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

async fn into(
    client: &Client,
    source: &Path,
    container: &str,
    path: &str,
    keep_owners: bool,
) -> Result<(), CommandError> {
    let text = source.to_string_lossy().into_owned();
    let (_, contents, slash) = ending(&text);
    let meta = if slash || contents { std::fs::metadata(source) } else { std::fs::symlink_metadata(source) };
    let meta = meta.map_err(|error| CommandError::usage(format!("cannot read {text}: {error}"), "check the path"))?;
    // `.` and `..` have a name, too: the directory's own.
    let own = std::fs::canonicalize(source).ok().and_then(|path| path.file_name().map(OsStr::to_owned));
    let own = source.file_name().map(OsStr::to_owned).or(own).unwrap_or_default();
    let (directory, name) = place(client, container, path, &own, contents, meta.is_dir()).await?;
    let (reader, writer) = io::pipe().map_err(CommandError::file("cannot make a pipe"))?;
    let packed = source.to_owned();
    let packing = std::thread::spawn(move || {
        archive::pack(&packed, name.as_deref(), keep_owners, io::BufWriter::with_capacity(64 << 10, writer))
    });
    let upload = Upload::new(Packed { reader, packing: Some(packing) });
    Ok(client.write_archive(container, &directory, upload).await?)
}

/// The directory of a container that something called `own` is unpacked in to get to `path`, and the name it gets there;
/// no name when only what is inside it is copied.
async fn place(
    client: &Client,
    container: &str,
    path: &str,
    own: &OsStr,
    contents: bool,
    is_directory: bool,
) -> Result<(String, Option<OsString>), CommandError> {
    let (target_name, _, target_slash) = ending(path);
    Ok(match kind(client, container, path).await? {
        Some(true) if is_directory && contents => (path.to_owned(), None),
        Some(true) => (path.to_owned(), Some(own.to_owned())),
        Some(false) if is_directory => {
            return Err(ArchiveError::usage(format!("{path} is a file; a directory cannot be copied onto it")).into());
        }
        None if !is_directory && target_slash => {
            return Err(ArchiveError::usage(format!("there is no directory {path} in {container}")).into());
        }
        Some(false) | None => (above(path), Some(target_name.into())),
    })
}

/// From one container to another.
async fn across(
    client: &Client,
    (from, source): (&str, &str),
    (container, path): (&str, &str),
    keep_owners: bool,
) -> Result<(), CommandError> {
    let (own, contents, slash) = ending(source);
    let inside = if contents { source.strip_suffix("/.").unwrap_or(source) } else { source.trim_end_matches('/') };
    let inside = if inside.is_empty() { "/" } else { inside };
    let is_directory = match kind(client, from, inside).await? {
        Some(false) if slash || contents => {
            return Err(ArchiveError::usage(format!("{inside} in {from} is not a directory")).into());
        }
        Some(is_directory) => is_directory,
        // The node's own words for what is missing.
        None => return client.read_archive(from, inside).await.map(drop).map_err(Into::into),
    };
    let contents = contents || own.is_empty();
    let (directory, name) = place(client, container, path, OsStr::new(own), contents, is_directory).await?;
    let pipe = || io::pipe().map_err(CommandError::file("cannot make a pipe"));
    let ((tar, download), (reader, writer)) = (pipe()?, pipe()?);
    // An upload is read on the runtime's thread, so what it waits for has to come from another one's.
    let fetching = {
        let (socket, from, inside) = (client.socket().to_owned(), from.to_owned(), inside.to_owned());
        std::thread::spawn(move || fetch(&socket, &from, &inside, download))
    };
    let packing = std::thread::spawn(move || {
        let out = io::BufWriter::with_capacity(64 << 10, writer);
        let renamed = archive::rename(io::BufReader::with_capacity(64 << 10, tar), name.as_deref(), keep_owners, out);
        // Where both fail, the download's words say why.
        match fetching.join() {
            Ok(Err(source)) if source.kind() != io::ErrorKind::BrokenPipe => Err(ArchiveError::Tar(source)),
            _ => renamed,
        }
    });
    let upload = Upload::new(Packed { reader, packing: Some(packing) });
    Ok(client.write_archive(container, &directory, upload).await?)
}

/// Writes a container's archive to `out`, on a connection and runtime of its own.
fn fetch(socket: &Path, container: &str, path: &str, mut out: impl Write) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut download = Client::new(socket).read_archive(container, path).await.map_err(io::Error::other)?;
        while let Some(bytes) = download.next().await.map_err(io::Error::other)? {
            out.write_all(&bytes)?;
        }
        Ok(())
    })
}

/// Whether a path in a container is a directory (links followed); `None` when it is not there.
async fn kind(client: &Client, container: &str, path: &str) -> Result<Option<bool>, CommandError> {
    let inside = format!("{}/.", path.trim_end_matches('/'));
    for (probe, directory) in [(inside.as_str(), Some(true)), (path, None)] {
        match client.read_archive(container, probe).await {
            Ok(mut download) => {
                // One header says it; the rest is not fetched.
                let mut first = Vec::new();
                while first.len() < 512
                    && let Some(bytes) = download.next().await?
                {
                    first.extend_from_slice(&bytes);
                }
                match directory {
                    Some(known) => return Ok(Some(known)),
                    None => return Ok(archive::first_is_directory(&first[..])?),
                }
            }
            Err(ClientError::Api(_)) if directory.is_some() => {}
            // Not there, or not to be read; in the latter case the copy itself says why.
            Err(ClientError::Api(error)) if error.kind == ErrorKind::Invalid => return Ok(None),
            Err(error) if error.not_found() => {
                // The path, or the container? The latter is an error of its own.
                client.container(container).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

fn above(path: &str) -> String {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((parent, _)) if !parent.is_empty() => parent.to_owned(),
        _ => "/".to_owned(),
    }
}

/// A tar that is written by a thread; its error becomes the reader's, so that half a tar is never taken for a whole.
struct Packed {
    reader: io::PipeReader,
    packing: Option<std::thread::JoinHandle<Result<(), ArchiveError>>>,
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        if read == 0
            && let Some(packing) = self.packing.take()
        {
            match packing.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(io::Error::other(error)),
                Err(_) => return Err(io::Error::other("packing stopped")),
            }
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_read_as_docker_reads_them() {
        let container = |name: &str, path: &str| Side::Container { name: name.into(), path: path.into() };
        assert_eq!(Side::of("web:/etc"), container("web", "/etc"));
        assert_eq!(Side::of("web:etc"), container("web", "/etc"));
        assert_eq!(Side::of("shop.web-1:/a:b"), container("shop.web-1", "/a:b"));
        assert_eq!(Side::of("./a:b"), Side::Local("./a:b".into()));
        assert_eq!(Side::of("/a:b"), Side::Local("/a:b".into()));
        assert_eq!(Side::of("a"), Side::Local("a".into()));
        assert_eq!(Side::of("-"), Side::Pipe);
    }

    #[test]
    fn names_follow_dockers_table() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let (dir_meta, file_meta) = (std::fs::metadata(dir.path()).unwrap(), std::fs::metadata(&file).unwrap());
        let there = dir.path();
        let none = Path::new("/nowhere/new");
        let into = || Destination::Into(there.to_owned());
        assert_eq!(choose(there, Some(&dir_meta), false, "x", false, true).unwrap(), into());
        assert_eq!(choose(there, Some(&dir_meta), false, "x", false, false).unwrap(), into());
        assert_eq!(
            choose(there, Some(&dir_meta), false, "x", true, true).unwrap(),
            Destination::Contents(there.to_owned())
        );
        assert_eq!(choose(none, None, false, "x", false, true).unwrap(), Destination::Contents(none.to_owned()));
        assert_eq!(choose(none, None, false, "x", false, false).unwrap(), Destination::As(none.to_owned()));
        assert!(choose(none, None, true, "x", false, false).is_err());
        assert!(choose(&file, Some(&file_meta), false, "x", false, true).is_err());
        assert_eq!(choose(&file, Some(&file_meta), false, "x", false, false).unwrap(), Destination::As(file.clone()));
    }

    #[test]
    fn the_first_header_is_found_behind_long_names() {
        let long = format!("{}/file", "d".repeat(150));
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(3);
        header.set_mode(0o644);
        builder.append_data(&mut header, &long, &b"abc"[..]).unwrap();
        let bytes = builder.into_inner().unwrap();
        let mut rest = &bytes[..];
        let first = peek(&mut rest).unwrap();
        assert_eq!(archive::first_is_directory(&first[..]).unwrap(), Some(false));
        assert_eq!(first.len() + rest.len(), bytes.len());
        assert!(peek(&mut &b"short"[..]).is_err());
    }
}
