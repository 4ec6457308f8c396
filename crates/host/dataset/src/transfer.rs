//! Snapshots sent and received.

use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::AsFd;

use crate::driver::Place;
use crate::error::DatasetError;
use crate::id;
use crate::name::{DatasetName, SnapshotName};
use crate::owners;
use crate::staging::Staging;
use crate::stamps::Stamps;
use crate::store::{Snapshot, Store};
use crate::stream::{Base, Header, Receiver, Sender, StreamError, pack, unpack};
use crate::tree::open;

/// Bytes that are read at once.
const ROOM: usize = 256 << 10;

/// Reads a stream to its end, and says whether [`Store::receive`] would take its bytes for one. Changes nothing.
pub fn check_stream(input: &mut dyn Read) -> Result<(), StreamError> {
    let (mut input, header) = Receiver::begin(input)?;
    checked(&header)?;
    io::copy(&mut input, &mut io::sink())?;
    input.end()
}

/// What came of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// What it is called here: as it was where it was sent.
    pub snapshot: SnapshotName,
    /// Whether the dataset was made of it, its head too; else its head is what it was.
    pub made: bool,
}

impl Store {
    /// Writes a snapshot to `out`; where `from` is given, its difference from that one. Waits for nobody, and nobody for it: a
    /// snapshot that is destroyed meanwhile ends the stream before its end, which whoever receives it sees.
    pub fn send(
        &self,
        name: &DatasetName,
        snapshot: &SnapshotName,
        from: Option<&SnapshotName>,
        out: &mut dyn Write,
    ) -> Result<(), DatasetError> {
        let dataset = self.inspect(name)?;
        let place = self.place(name);
        let find = |wanted: &SnapshotName| {
            let found = dataset.snapshots.iter().find(|one| one.name == *wanted);
            let found = found.ok_or_else(|| place.no_snapshot(wanted))?;
            let id = found.id.clone().ok_or_else(|| stream_error(name)(StreamError::NoId(wanted.clone())))?;
            Ok::<_, DatasetError>((found, id))
        };
        let (Snapshot { stamps, .. }, id) = find(snapshot)?;
        let base = from.map(&find).transpose()?;
        let base = base.map(|(base, id)| Base { snapshot: base.name.to_string(), id });
        let header =
            Header { dataset: name.to_string(), snapshot: snapshot.to_string(), id, stamps: stamps.clone(), base };
        self.viewing(&place, snapshot, |now| match from {
            None => written(name, &header, now, None, out),
            Some(from) => self.viewing(&place, from, |base| written(name, &header, now, Some(base), out)),
        })
    }

    /// Reads a stream to its end and keeps what it says as a snapshot; a dataset that is not there is made of it. A stream that is
    /// not whole, or no stream, changes nothing.
    pub fn receive(&self, name: &DatasetName, input: &mut dyn Read) -> Result<Received, DatasetError> {
        self.receive_as(name, None, input)
    }

    /// As [`receive`](Self::receive), the snapshot under another name than it was sent with.
    pub fn receive_as(
        &self,
        name: &DatasetName,
        snapshot: Option<&SnapshotName>,
        input: &mut dyn Read,
    ) -> Result<Received, DatasetError> {
        let refused = stream_error(name);
        let (input, header) = Receiver::begin(input).map_err(&refused)?;
        let (sent, stamps) = checked(&header).map_err(&refused)?;
        let snapshot = snapshot.cloned().unwrap_or(sent);
        let place = self.place(name);
        let made = !self.has(name);
        let there = if made { Vec::new() } else { self.inspect(name)?.snapshots };
        if there.iter().any(|one| one.name == snapshot) {
            return Err(place.taken(&snapshot));
        }
        let base = header.base.as_ref().map(|base| {
            let found = there.iter().find(|one| one.id.as_ref() == Some(&base.id));
            found.map(|one| (&place, &one.name)).ok_or_else(|| refused(StreamError::NoBase(base.snapshot.clone())))
        });
        let staging = self.driver.stage(base.transpose()?)?;
        let unpacked = (|| {
            let mut input = BufReader::with_capacity(ROOM, input);
            let tree = open(&staging.tree())?;
            let [ids, _] = owners::form(&tree).map_err(DatasetError::errno("look at", staging.tree()))?;
            unpack(tree.as_fd(), &mut input).map_err(&refused)?;
            // What came has the containers' ids; it is to be in one form with what was there.
            owners::shift(&tree, ids).map_err(DatasetError::io("change the owners in", staging.tree()))?;
            if !input.buffer().is_empty() {
                return Err(refused(StreamError::Torn));
            }
            input.into_inner().end().map_err(&refused)
        })();
        let admitted = unpacked.and_then(|()| {
            let came = Came { snapshot: &snapshot, stamps: &stamps, id: &header.id };
            if made {
                return self.make(name, |place| self.driver.admit(&staging, place, true, &came)).map(drop);
            }
            self.driver.admit(&staging, &self.hold(name)?.place, false, &came)
        });
        // What was admitted left nothing there but the folder. What cannot be taken away now, the next one does: it changes nothing
        // of what was done here.
        let _ = self.driver.discard(staging);
        admitted.map(|()| Received { snapshot, made })
    }

    fn viewing(
        &self,
        at: &Place,
        snapshot: &SnapshotName,
        work: impl FnOnce(BorrowedTree<'_>) -> Result<(), DatasetError>,
    ) -> Result<(), DatasetError> {
        let (tree, staging) = self.driver.view(at, snapshot)?;
        let done = open(&tree).and_then(|tree| work(tree.as_fd()));
        if let Some(staging) = staging {
            let _ = self.driver.discard(staging);
        }
        done
    }
}

type BorrowedTree<'t> = std::os::fd::BorrowedFd<'t>;

/// What a tree that was received is to be.
pub(crate) struct Came<'c> {
    pub(crate) snapshot: &'c SnapshotName,
    pub(crate) stamps: &'c Stamps,
    pub(crate) id: &'c str,
}

/// A tree to read, and what is to be discarded afterwards.
pub(crate) type View = (std::path::PathBuf, Option<Staging>);

fn written(
    name: &DatasetName,
    header: &Header,
    now: BorrowedTree<'_>,
    base: Option<BorrowedTree<'_>>,
    out: &mut dyn Write,
) -> Result<(), DatasetError> {
    let whole = (|| {
        let mut sender = Sender::begin(out, header).map_err(StreamError::Write)?;
        pack(now, base, &mut BufWriter::with_capacity(ROOM, &mut sender))?;
        sender.end().map_err(StreamError::Write)
    })();
    whole.map_err(|source| DatasetError::Send { dataset: name.clone(), source })
}

/// A header's names and stamps, if they are such.
fn checked(header: &Header) -> Result<(SnapshotName, Stamps), StreamError> {
    let snapshot = SnapshotName::new(header.snapshot.as_str()).map_err(|_| StreamError::Foreign)?;
    let mut stamps = Stamps::default();
    for (key, value) in header.stamps.iter() {
        stamps.set(key, value).map_err(|_| StreamError::Foreign)?;
    }
    let ids = [Some(&header.id), header.base.as_ref().map(|base| &base.id)];
    if ids.into_iter().flatten().all(|id| id::is_one(id)) { Ok((snapshot, stamps)) } else { Err(StreamError::Foreign) }
}

fn stream_error(name: &DatasetName) -> impl Fn(StreamError) -> DatasetError {
    let dataset = name.clone();
    move |source| DatasetError::Stream { dataset: dataset.clone(), source }
}
