//! What is in a backup's file, read from its beginning to its end without keeping more of it than a piece.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::path::Path;
use std::thread::{Scope, ScopedJoinHandle};

use coppice_backup::{Backup, OpenError, Replacement, entries};
use coppice_secret::Key;

use super::RestoreError;
use crate::backup::{MANIFEST, Manifest, NAMES, SETTINGS, VOLUMES, place_of};
use crate::volume::snapshot_of;

/// Longest manifest, in bytes: a hundred thousand snapshots.
const MANIFEST_MAX: u64 = 16 << 20;

/// A backup that is open.
pub(super) struct Content<'c> {
    pub(super) file: &'c Path,
    pub(super) backup: &'c mut Backup<File>,
    pub(super) key: Option<&'c Key>,
}

/// What is done with a volume's stream: which volume, which of its snapshots, its bytes.
pub(super) type OnStream<'w> = dyn Fn(usize, usize, &mut dyn Read) -> Result<(), RestoreError> + Sync + 'w;

impl Content<'_> {
    /// Unpacks what is small, and looks at what is not. The node's own settings stay.
    pub(super) fn check(&mut self, replacement: &Replacement, keeps_settings: bool) -> Result<Manifest, RestoreError> {
        let file = self.file;
        let wrong = move |why: String| RestoreError::Content { path: file.to_owned(), why };
        let look = |_, _, input: &mut dyn Read| {
            coppice_dataset::check_stream(input).map_err(|error| wrong(format!("a volume's data: {error}")))
        };
        self.each(&look, &mut |name, content| {
            if keeps_settings && name == Path::new(SETTINGS) { Ok(()) } else { Ok(replacement.add(name, content)?) }
        })
    }

    /// The volumes' streams again, which were looked at before.
    pub(super) fn streams(&mut self, on_stream: &OnStream<'_>) -> Result<(), RestoreError> {
        self.each(on_stream, &mut |_, _| Ok(())).map(drop)
    }

    fn each(
        &mut self,
        on_stream: &OnStream<'_>,
        on_file: &mut dyn FnMut(&Path, &mut dyn Read) -> Result<(), RestoreError>,
    ) -> Result<Manifest, RestoreError> {
        let path = self.file.to_owned();
        let wrong = |why: &str| RestoreError::Content { path: path.clone(), why: why.to_owned() };
        let io_failed = |source| RestoreError::File { path: path.clone(), source };
        let (mut reader, mut writer) = io::pipe().map_err(io_failed)?;
        let (backup, key) = (&mut *self.backup, self.key);
        let (visited, unsealed) = std::thread::scope(|scope| {
            let unsealing = scope.spawn(move || backup.unseal(key, &mut writer));
            let mut manifest = None;
            let mut streams = Streams { scope, on_stream, expected: Vec::new(), current: None, file: &path };
            let visited = entries(&mut reader, NAMES, &mut |name, content| {
                if name == Path::new(MANIFEST) {
                    let read: Manifest = serde_json::from_reader(content.take(MANIFEST_MAX))
                        .map_err(|error| wrong(&format!("its list cannot be read: {error}")))?;
                    streams.expected = expected(&read).map_err(|why| wrong(&why))?;
                    manifest = Some(read);
                    return Ok(());
                }
                if manifest.is_none() {
                    return Err(wrong("it does not begin with a list of what is in it"));
                }
                if name.starts_with(VOLUMES) { streams.piece(name, content) } else { on_file(name, content) }
            });
            let visited = visited.and_then(|()| streams.end());
            let visited = visited.and_then(|()| manifest.ok_or_else(|| wrong("there is nothing in it")));
            if visited.is_ok() {
                // What pads a tar's end.
                let _ = io::copy(&mut reader, &mut io::sink());
            }
            drop(reader);
            (visited, unsealing.join().expect("unsealing does not panic"))
        });
        match (visited, unsealed) {
            // It is why the rest was not understood.
            (_, Err(source)) if !matches!(source, OpenError::Io(_)) => {
                Err(RestoreError::Backup { path: self.file.to_owned(), source })
            }
            (Err(error), _) => Err(error),
            (Ok(_), Err(source)) => Err(RestoreError::Backup { path: self.file.to_owned(), source }),
            (Ok(manifest), Ok(())) => Ok(manifest),
        }
    }
}

/// Every stream that is to come, the last one first; refuses names that no volume or snapshot has.
fn expected(manifest: &Manifest) -> Result<Vec<(usize, usize)>, String> {
    let mut all = Vec::new();
    for (at, volume) in manifest.volumes.iter().enumerate() {
        volume.dataset().map_err(|error| error.to_string())?;
        for snapshot in volume.snapshots.iter().chain(&volume.head) {
            snapshot_of(&snapshot.name).map_err(|error| error.to_string())?;
        }
        all.extend((0..volume.sent().len()).map(|snapshot| (at, snapshot)));
    }
    all.reverse();
    Ok(all)
}

/// The stream that pieces are put together to, one at a time, each read by a thread.
struct Streams<'s, 'e> {
    scope: &'s Scope<'s, 'e>,
    on_stream: &'s OnStream<'s>,
    expected: Vec<(usize, usize)>,
    current: Option<Current<'s>>,
    file: &'e Path,
}

struct Current<'s> {
    of: (usize, usize),
    pieces: u64,
    writer: PipeWriter,
    reading: ScopedJoinHandle<'s, Result<(), RestoreError>>,
}

impl<'s> Streams<'s, '_> {
    fn wrong(&self, why: &str) -> RestoreError {
        RestoreError::Content { path: self.file.to_owned(), why: why.to_owned() }
    }

    fn piece(&mut self, name: &Path, content: &mut dyn Read) -> Result<(), RestoreError> {
        let misplaced = self.wrong("a volume's data is not where it belongs");
        let Some((volume, snapshot, number)) = place_of(name) else { return Err(misplaced) };
        let of = (volume, snapshot);
        if self.current.as_ref().is_none_or(|current| current.of != of) {
            self.finish()?;
            if self.expected.pop() != Some(of) {
                return Err(misplaced);
            }
            self.begin(of)?;
        }
        let Some(current) = self.current.as_mut().filter(|current| current.pieces == number) else {
            return Err(misplaced);
        };
        current.pieces += 1;
        match io::copy(content, &mut current.writer) {
            Ok(_) => Ok(()),
            Err(source) => {
                // Whoever read it has stopped, and says why.
                self.finish()?;
                Err(RestoreError::File { path: self.file.to_owned(), source })
            }
        }
    }

    fn begin(&mut self, of: (usize, usize)) -> Result<(), RestoreError> {
        let pipe = io::pipe().map_err(|source| RestoreError::File { path: self.file.to_owned(), source })?;
        let (mut reader, writer): (PipeReader, PipeWriter) = pipe;
        let on_stream = self.on_stream;
        let reading = self.scope.spawn(move || on_stream(of.0, of.1, &mut reader));
        self.current = Some(Current { of, pieces: 0, writer, reading });
        Ok(())
    }

    fn finish(&mut self) -> Result<(), RestoreError> {
        let Some(Current { writer, reading, .. }) = self.current.take() else { return Ok(()) };
        drop(writer);
        reading.join().expect("reading a stream does not panic")
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        self.finish()?;
        if self.expected.is_empty() { Ok(()) } else { Err(self.wrong("a volume's data is missing")) }
    }
}
