//! Which containers there are: by id, by name, by what people type.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};

use coppice_base::ContainerId;
use tokio::sync::watch;

use crate::container::{Container, Owner, Place};

/// First id range of ad-hoc containers; those below are the apps'.
pub(crate) const AD_HOC_RANGES: u32 = coppice_state::UID_RANGES;
/// Ranges end below 2³¹, where some tools take ids for negative numbers: `0x1000_0000 + 28672 · 65536 = 2³¹`.
const RANGES_END: u32 = 28_672;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("no container {0:?}: `coppice ps -a` lists those there are")]
    Unknown(String),
    #[error("{text:?} could be {}: write more of it", candidates.join(" or "))]
    Ambiguous { text: String, candidates: Vec<String> },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    #[error("name {name:?} is taken by container {holder}: remove it (`coppice rm {name}`) or choose another")]
    NameTaken { name: String, holder: ContainerId },
    #[error("all id ranges are in use: remove containers that are not needed (`coppice ps -a`)")]
    NoRange,
}

/// The node's containers.
#[derive(Default)]
pub(crate) struct Table {
    inner: Mutex<Inner>,
    /// Counts those that came, so that who follows them looks again.
    arrivals: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    /// Also names that are claimed for a container being made.
    by_name: HashMap<String, ContainerId>,
    ranges: BTreeSet<u32>,
    /// Where the search for a free range goes on, so that a range rests before it is used again.
    next_range: u32,
}

impl Table {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic holds this lock")
    }

    pub(crate) fn claim_name(&self, name: &str, id: &ContainerId) -> Result<(), ClaimError> {
        let mut inner = self.inner();
        match inner.by_name.get(name) {
            Some(holder) if holder != id => {
                Err(ClaimError::NameTaken { name: name.to_owned(), holder: holder.clone() })
            }
            _ => {
                inner.by_name.insert(name.to_owned(), id.clone());
                Ok(())
            }
        }
    }

    /// Gives back a name that was claimed and not used.
    pub(crate) fn release_name(&self, name: &str, id: &ContainerId) {
        let mut inner = self.inner();
        if inner.by_name.get(name) == Some(id) {
            inner.by_name.remove(name);
        }
    }

    /// A range no ad-hoc container has.
    pub(crate) fn claim_range(&self) -> Result<u32, ClaimError> {
        let mut inner = self.inner();
        let count = RANGES_END - AD_HOC_RANGES;
        let start = inner.next_range;
        for offset in 0..count {
            let range = AD_HOC_RANGES + (start + offset) % count;
            if inner.ranges.insert(range) {
                inner.next_range = (start + offset + 1) % count;
                return Ok(range);
            }
        }
        Err(ClaimError::NoRange)
    }

    pub(crate) fn release_range(&self, range: u32) {
        self.inner().ranges.remove(&range);
    }

    pub(crate) fn insert(&self, container: Arc<Container>) {
        let mut inner = self.inner();
        let range = container.read(|record| record.range);
        if range >= AD_HOC_RANGES {
            inner.ranges.insert(range);
        }
        inner.by_name.insert(container.name(), container.id.clone());
        inner.by_id.insert(container.id.clone(), container);
        drop(inner);
        self.arrivals.send_modify(|count| *count += 1);
    }

    /// Gives a container another name, which must be free. The caller writes its record.
    pub(crate) fn rename(&self, container: &Container, name: &str) -> Result<(), ClaimError> {
        self.claim_name(name, &container.id)?;
        self.release_name(&container.name(), &container.id);
        container.change(|record| record.name = name.to_owned());
        Ok(())
    }

    /// Changes whenever a container has come.
    pub(crate) fn arrivals(&self) -> watch::Receiver<u64> {
        self.arrivals.subscribe()
    }

    /// Takes a container out; its name is free from now on, its range when its files are gone.
    pub(crate) fn remove(&self, id: &ContainerId) {
        let mut inner = self.inner();
        if let Some(container) = inner.by_id.remove(id)
            && inner.by_name.get(&container.name()) == Some(id)
        {
            inner.by_name.remove(&container.name());
        }
    }

    pub(crate) fn get(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.inner().by_id.get(id).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.inner().by_id.values().cloned().collect()
    }

    /// A name, an id, `app/instance`, `app.instance`, an instance's own name, or the beginning of an id.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Container>, LookupError> {
        let inner = self.inner();
        let dotted = text.replacen('/', ".", 1);
        if let Some(container) = inner.by_name.get(&dotted).and_then(|id| inner.by_id.get(id)) {
            return Ok(container.clone());
        }
        let instance = |container: &&Arc<Container>| {
            matches!(&container.owner, Owner::App { instance, .. } if instance == text)
                && container.read(|record| record.place == Place::Own)
        };
        let mut found: Vec<&Arc<Container>> = inner.by_id.values().filter(instance).collect();
        if found.is_empty() && !text.is_empty() {
            found = inner.by_id.values().filter(|container| container.id.as_str().starts_with(text)).collect();
        }
        match found[..] {
            [one] => Ok(one.clone()),
            [] => Err(LookupError::Unknown(text.to_owned())),
            _ => Err(LookupError::Ambiguous {
                text: text.to_owned(),
                candidates: found.iter().map(|container| container.name()).collect(),
            }),
        }
    }
}
