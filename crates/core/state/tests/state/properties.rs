//! Random commands: replicas agree to the byte, rejections change nothing, snapshots lose nothing.

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Name;
use coppice_spec::{Condition, Dependency};
use coppice_state::{Body, Command, NodeId, ReleaseId, ReleaseTerms, State, Verdict};
use proptest::prelude::*;

use crate::words::{apply, command, digest, name, resealed, set_secret, spec, uses};

fn app() -> impl Strategy<Value = Name> {
    prop::sample::select(vec!["a", "b", "c"]).prop_map(name)
}

fn workload() -> impl Strategy<Value = Name> {
    prop::sample::select(vec!["web", "db", "seed", "ghost"]).prop_map(name)
}

fn workloads() -> impl Strategy<Value = BTreeSet<Name>> {
    prop::collection::btree_set(workload(), 0..3)
}

fn images() -> impl Strategy<Value = BTreeMap<Name, coppice_state::Digest>> {
    prop::collection::btree_map(workload(), (0u8..3).prop_map(digest), 0..2)
}

fn secret() -> impl Strategy<Value = Name> {
    prop::sample::select(vec!["key", "key", "cert"]).prop_map(name)
}

fn key() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["k1", "k1", "k2"])
}

/// Few ids, so that commands meet: releases taken, stale, unknown and right.
fn release() -> impl Strategy<Value = ReleaseId> {
    (0u64..12).prop_map(ReleaseId)
}

fn applied_spec() -> impl Strategy<Value = Body> {
    let image = prop::sample::select(vec!["nginx:1", "nginx:2", "redis"]);
    let expected = prop::option::weighted(0.3, release());
    let secret = prop::sample::select(vec![0, 0, 1, 2, 3]);
    (app(), image, any::<prop::sample::Index>(), images(), expected, workloads(), 0u64..200, 0..8, secret).prop_map(
        |(app, image, drop, images, expected_release, stopped, release, broken, secret)| {
            let mut wanted = spec(app.as_str(), image);
            if drop.index(3) == 0 {
                wanted.services.remove("db");
            }
            if broken == 0 {
                let web = &mut wanted.services.get_mut("web").unwrap().workload;
                web.depends_on.push(Dependency { name: name("ghost"), condition: Condition::Started });
            }
            let Body::Apply { release, mut spec, .. } = apply(release, wanted) else { unreachable!() };
            // Of some apps, a workload uses a secret; which may be there, pinned, both or neither.
            let mut secrets = BTreeMap::new();
            if secret > 0 {
                let web = &mut spec.services.get_mut("web").unwrap().workload;
                web.secrets.push(uses("key"));
                secrets.insert(name("key"), secret);
            }
            Body::Apply { release, spec, images, expected_release, stopped, secrets, terms: ReleaseTerms::default() }
        },
    )
}

fn body() -> impl Strategy<Value = Body> {
    let verdict = prop_oneof![
        Just(Verdict::Succeeded),
        Just(Verdict::Failed { reason: "exit 1".to_owned() }),
        Just(Verdict::Superseded)
    ];
    let node = || (0u64..4).prop_map(NodeId);
    prop_oneof![
        6 => applied_spec(),
        1 => (app(), release(), images()).prop_map(|(app, release, images)| Body::PinImages { app, release, images }),
        2 => (app(), any::<bool>()).prop_map(|(app, remove_volumes)| Body::Remove { app, remove_volumes }),
        2 => (app(), workload(), 0u32..4)
            .prop_map(|(app, service, replicas)| Body::SetScale { app, service, replicas }),
        2 => (app(), workloads(), any::<bool>())
            .prop_map(|(app, workloads, stopped)| Body::SetStopped { app, workloads, stopped }),
        2 => (app(), workloads()).prop_map(|(app, workloads)| Body::Restart { app, workloads }),
        2 => (app(), release(), verdict)
            .prop_map(|(app, release, verdict)| Body::RecordVerdict { app, release, verdict }),
        1 => (node(), workload()).prop_map(|(node, name)| Body::AddNode { node, name }),
        3 => (secret(), 1u64..5, key()).prop_map(|(name, version, key)| set_secret(name, version, key)),
        1 => (secret(), any::<bool>()).prop_map(|(name, force)| Body::RemoveSecret { name, force }),
        1 => (key(), key(), 1u64..4).prop_map(|(from, to, newest)| {
            let versions = (1..=newest).map(|version| (version, resealed(version, to)));
            let versions = BTreeMap::from([(name("key"), versions.collect())]);
            Body::Rekey { from: from.to_owned(), to: to.to_owned(), versions }
        }),
        2 => (app(), release(), secret(), 1u64..5).prop_map(|(app, release, secret, version)| {
            Body::PinSecrets { app, release, secrets: BTreeMap::from([(secret, version)]) }
        }),
        1 => node().prop_map(|node| Body::RemoveNode { node }),
    ]
}

/// Commands of which some share an id: retries, and clashes of ids.
fn commands() -> impl Strategy<Value = Vec<Command>> {
    prop::collection::vec((0u32..400, body()).prop_map(|(id, body)| command(u128::from(id), body)), 1..120)
}

proptest! {
    #[test]
    fn two_replicas_give_the_same_answers_and_the_same_bytes(commands in commands()) {
        let (mut one, mut two) = (State::default(), State::default());
        for command in &commands {
            // The second replica reads the command from the log's text.
            let carried: Command = serde_json::from_slice(&serde_json::to_vec(command).unwrap()).unwrap();
            prop_assert_eq!(one.apply(command), two.apply(&carried));
        }
        prop_assert_eq!(one.to_snapshot(), two.to_snapshot());
    }

    #[test]
    fn invariants_hold_after_every_command_and_a_rejection_changes_nothing(commands in commands()) {
        let mut state = State::default();
        for command in &commands {
            let before = state.clone();
            let answer = state.apply(command);
            prop_assert_eq!(state.check(), Vec::<String>::new());
            match answer {
                Err(_) => prop_assert_eq!(&state, &before),
                Ok(applied) => {
                    prop_assert!(applied.revision <= state.revision());
                    let again = state.clone().apply(command);
                    prop_assert_eq!(again, Ok(applied));
                }
            }
        }
    }

    #[test]
    fn a_snapshot_at_any_point_and_the_rest_replayed_is_the_full_replay(
        commands in commands(),
        cut in any::<prop::sample::Index>(),
    ) {
        let cut = cut.index(commands.len());
        let mut full = State::default();
        let mut restored = State::default();
        for (at, command) in commands.iter().enumerate() {
            if at == cut {
                restored = State::from_snapshot(&full.to_snapshot()).unwrap();
                prop_assert_eq!(&restored, &full);
            }
            let answer = full.apply(command);
            if at >= cut {
                prop_assert_eq!(restored.apply(command), answer);
            }
        }
        prop_assert_eq!(restored.to_snapshot(), full.to_snapshot());
    }
}
