//! Short ways to say commands.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::{Name, Timestamp};
use coppice_log::{Log, Settings};
use coppice_spec::{AppSpec, ServiceSpec, WorkloadSpec};
use coppice_state::{Actor, Body, Command, CommandId, NodeId, ReleaseId, ReleaseTerms, State};

pub(crate) const NODE: NodeId = NodeId(1);

/// Snapshots and purges every few commands.
pub(crate) const SMALL: Settings = Settings { snapshot_every: 7, keep_entries: 2 };

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Command `number`: release `number` of app `shop`, whose image says the number. `padding` bytes come on top.
pub(crate) fn release(number: u64, padding: usize) -> Command {
    let web = ServiceSpec::of(WorkloadSpec::of(format!("web:{number}")));
    let spec = AppSpec {
        labels: BTreeMap::from([("padding".to_owned(), "x".repeat(padding))]),
        services: BTreeMap::from([(name("web"), web)]),
        ..AppSpec::of(name("shop"))
    };
    let body = Body::Apply {
        release: ReleaseId(number),
        spec: Box::new(spec),
        images: BTreeMap::new(),
        expected_release: None,
        stopped: BTreeSet::new(),
        secrets: BTreeMap::new(),
        terms: ReleaseTerms::default(),
    };
    Command { id: CommandId(number.into()), at: Timestamp(number), actor: Actor::User { uid: 0 }, body }
}

/// How many of the commands 1, 2, 3… made it into the state, which must be exactly those.
pub(crate) fn releases_in(state: &State) -> u64 {
    assert_eq!(state.check(), Vec::<String>::new());
    let Some(app) = state.app("shop") else {
        assert_eq!(*state, State::default(), "nothing but releases of shop was ever proposed");
        return 0;
    };
    for release in &app.releases {
        assert_eq!(release.id, ReleaseId(release.number), "the commands are there in order, none twice");
        assert_eq!(release.spec.services["web"].workload.image, format!("web:{}", release.number));
    }
    assert_eq!(state.revision(), app.current().number, "no command is there twice or half");
    app.current().number
}

pub(crate) async fn open(dir: &std::path::Path) -> Log {
    Log::open_with(dir, NODE, SMALL).await.unwrap()
}
