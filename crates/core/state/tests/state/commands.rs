//! Each command, applied by hand: what it does, and how it is refused.

use std::collections::{BTreeMap, BTreeSet};

use coppice_spec::{Condition, Dependency};
use coppice_state::{
    Body, CommandId, Effect, NodeId, RELEASES_KEPT, Rejection, ReleaseId, ReleaseTerms, SEEN_KEPT, SnapshotError,
    State, UID_RANGES, UidRange, Verdict,
};

use crate::words::{World, apply, command, digest, name, names, spec};

fn verdict(release: u64, verdict: Verdict) -> Body {
    Body::RecordVerdict { app: name("shop"), release: ReleaseId(release), verdict }
}

fn failed() -> Verdict {
    Verdict::Failed { reason: "web exited with 1".to_owned() }
}

#[test]
fn releases_of_an_app_are_numbered_from_one_and_the_last_is_current() {
    let mut world = World::default();
    assert_eq!(world.does(apply(7, spec("shop", "nginx:1"))), Effect::Released { release: ReleaseId(7), number: 1 });
    assert_eq!(world.does(apply(3, spec("shop", "nginx:2"))), Effect::Released { release: ReleaseId(3), number: 2 });
    let app = world.state.app("shop").unwrap();
    assert_eq!(app.current().id, ReleaseId(3));
    assert_eq!(app.spec().services["web"].workload.image, "nginx:2");
    assert_eq!(app.release(ReleaseId(7)).unwrap().verdict, Some(Verdict::Superseded));
}

#[test]
fn applying_what_is_current_makes_no_release_and_wants_all_up_again() {
    let mut world = World::with_shop();
    world.does(Body::SetStopped { app: name("shop"), workloads: names(["web"]), stopped: true });
    world.does(Body::SetScale { app: name("shop"), service: name("db"), replicas: 4 });
    assert_eq!(world.does(apply(2, spec("shop", "nginx:1"))), Effect::Unchanged { release: ReleaseId(1), number: 1 });
    let app = world.state.app("shop").unwrap();
    assert_eq!((app.is_stopped("web"), app.replicas("db"), app.releases.len()), (false, 1, 1));
}

#[test]
fn workloads_named_as_stopped_in_an_apply_stay_down() {
    let mut world = World::with_shop();
    let Body::Apply { release, spec, images, expected_release, .. } = apply(2, spec("shop", "nginx:2")) else {
        unreachable!()
    };
    let secrets = BTreeMap::new();
    world.does(Body::Apply {
        release,
        spec,
        images,
        expected_release,
        stopped: names(["db"]),
        secrets,
        terms: ReleaseTerms::default(),
    });
    let app = world.state.app("shop").unwrap();
    assert!(app.is_stopped("db") && !app.is_stopped("web"));
}

#[test]
fn a_stale_expected_release_is_refused_with_the_one_that_is_current() {
    let mut world = World::with_shop();
    let expecting = |release: u64, expected: u64| {
        let Body::Apply { release, spec, images, stopped, .. } = apply(release, spec("shop", "nginx:2")) else {
            unreachable!()
        };
        let secrets = BTreeMap::new();
        Body::Apply {
            release,
            spec,
            images,
            expected_release: Some(ReleaseId(expected)),
            stopped,
            secrets,
            terms: ReleaseTerms::default(),
        }
    };
    world.does(expecting(2, 1));
    let rejection = world.is_refused(expecting(3, 1));
    let current = Some(ReleaseId(2));
    assert_eq!(rejection, Rejection::StaleRelease { app: name("shop"), expected: ReleaseId(1), current });
    assert!(rejection.to_string().contains("at release 0000000000000002, not at 0000000000000001"), "{rejection}");
}

#[test]
fn an_invalid_spec_is_refused_with_every_broken_rule() {
    let mut bad = spec("shop", "nginx:1");
    for (service, dependency) in [("web", "ghost"), ("db", "db")] {
        let workload = &mut bad.services.get_mut(service).unwrap().workload;
        workload.depends_on.push(Dependency { name: name(dependency), condition: Condition::Started });
    }
    let Rejection::InvalidSpec { broken, .. } = World::default().is_refused(apply(1, bad)) else {
        panic!("not refused as invalid")
    };
    assert_eq!(broken.len(), 2, "{broken:?}");
}

#[test]
fn a_release_id_is_used_once_across_apps() {
    let mut world = World::with_shop();
    assert_eq!(world.is_refused(apply(1, spec("blog", "nginx:1"))), Rejection::ReleaseIdTaken(ReleaseId(1)));
}

#[test]
fn what_names_an_unknown_app_or_workload_is_refused() {
    let mut world = World::with_shop();
    let (ghost, shop) = (name("ghost"), name("shop"));
    let unknown_app = Rejection::UnknownApp(ghost.clone());
    assert_eq!(world.is_refused(Body::Restart { app: ghost.clone(), workloads: BTreeSet::new() }), unknown_app);
    assert_eq!(world.is_refused(Body::Remove { app: ghost.clone(), remove_volumes: true }), unknown_app);
    let unknown = Rejection::UnknownWorkload { app: shop.clone(), workload: ghost.clone() };
    let workloads = names(["web", "ghost"]);
    assert_eq!(world.is_refused(Body::Restart { app: shop.clone(), workloads: workloads.clone() }), unknown);
    assert_eq!(world.is_refused(Body::SetStopped { app: shop.clone(), workloads, stopped: true }), unknown);
    assert_eq!(world.is_refused(Body::SetScale { app: shop.clone(), service: ghost, replicas: 1 }), unknown);
    assert_eq!(
        world.is_refused(Body::SetScale { app: shop.clone(), service: name("seed"), replicas: 2 }),
        Rejection::NotAService { app: shop, workload: name("seed") }
    );
}

#[test]
fn scale_stops_and_restarts_hold_until_said_otherwise() {
    let mut world = World::with_shop();
    let shop = name("shop");
    world.does(Body::SetScale { app: shop.clone(), service: name("web"), replicas: 5 });
    world.does(Body::SetStopped { app: shop.clone(), workloads: BTreeSet::new(), stopped: true });
    world.does(Body::SetStopped { app: shop.clone(), workloads: names(["web"]), stopped: false });
    world.does(Body::Restart { app: shop.clone(), workloads: names(["web"]) });
    let app = world.state.app("shop").unwrap();
    assert_eq!((app.replicas("web"), app.replicas("seed"), app.replicas("ghost")), (5, 1, 0));
    assert_eq!(app.stopped, names(["db", "seed"]));
    world.does(Body::Restart { app: shop.clone(), workloads: names(["db", "web"]) });
    let app = world.state.app("shop").unwrap();
    assert_eq!(app.stopped, names(["seed"]), "what is restarted is wanted up");
    assert_eq!((app.generation("web"), app.generation("db"), app.generation("ghost")), (2, 1, 0));
    world.does(Body::SetScale { app: shop, service: name("web"), replicas: 2 });
    assert!(world.state.app("shop").unwrap().scale.is_empty());
}

#[test]
fn the_first_verdict_of_a_release_stands() {
    let mut world = World::with_shop();
    world.does(verdict(1, failed()));
    world.does(verdict(1, failed()));
    assert!(matches!(world.is_refused(verdict(1, Verdict::Succeeded)), Rejection::VerdictGiven { .. }));
    assert!(matches!(world.is_refused(verdict(9, failed())), Rejection::UnknownRelease { .. }));
    assert!(matches!(world.is_refused(verdict(1, Verdict::Superseded)), Rejection::OnlyReleasesSupersede { .. }));
    assert_eq!(world.state.app("shop").unwrap().current().verdict, Some(failed()));
}

#[test]
fn an_image_once_pinned_stays_the_same() {
    let mut world = World::with_shop();
    let pin = |workload: &str, byte| Body::PinImages {
        app: name("shop"),
        release: ReleaseId(1),
        images: BTreeMap::from([(name(workload), digest(byte))]),
    };
    world.does(pin("web", 1));
    world.does(pin("web", 1));
    world.does(pin("db", 2));
    assert!(matches!(world.is_refused(pin("web", 3)), Rejection::ImagePinned { .. }));
    assert!(matches!(world.is_refused(pin("ghost", 3)), Rejection::UnknownWorkload { .. }));
    let images = &world.state.app("shop").unwrap().current().images;
    assert_eq!(*images, BTreeMap::from([(name("web"), digest(1)), (name("db"), digest(2))]));
}

#[test]
fn history_is_bounded_and_keeps_the_newest_release_that_succeeded() {
    let mut world = World::with_shop();
    world.does(verdict(1, Verdict::Succeeded));
    for release in 2..60 {
        world.does(apply(release, spec("shop", &format!("nginx:{release}"))));
        world.does(verdict(release, failed()));
    }
    let app = world.state.app("shop").unwrap();
    assert_eq!(app.releases.len(), RELEASES_KEPT);
    assert_eq!(app.last_succeeded().unwrap().id, ReleaseId(1));
    assert_eq!((app.current().id, app.current().number), (ReleaseId(59), 59));
}

#[test]
fn an_app_keeps_its_uid_range_while_its_volumes_are_kept() {
    let mut world = World::default();
    for (release, app) in [(1, "a"), (2, "b"), (3, "c")] {
        world.does(apply(release, spec(app, "nginx:1")));
    }
    let range = |world: &World, app: &str| world.state.app(app).unwrap().uid_range;
    world.does(Body::Remove { app: name("a"), remove_volumes: false });
    world.does(Body::Remove { app: name("b"), remove_volumes: true });
    world.does(apply(4, spec("d", "nginx:1")));
    assert_eq!(range(&world, "d"), UidRange(1), "the smallest free one");
    world.does(apply(5, spec("a", "nginx:1")));
    assert_eq!(range(&world, "a"), UidRange(0), "the one its files belong to");
    world.does(Body::Remove { app: name("a"), remove_volumes: false });
    world.does(Body::Remove { app: name("a"), remove_volumes: true });
    world.does(apply(6, spec("e", "nginx:1")));
    assert_eq!(range(&world, "e"), UidRange(0));
}

#[test]
fn when_uid_ranges_run_out_an_app_is_refused_and_removal_helps() {
    // Thousands of apps by command are slow where each command is followed by a check of all; read them in.
    let mut full: serde_json::Value = serde_json::from_slice(&World::with_shop().state.to_snapshot()).unwrap();
    let ranges = full["state"]["uid_ranges"].as_object_mut().unwrap();
    ranges.extend((1..UID_RANGES).map(|range| (format!("app-{range}"), range.into())));
    let mut state = State::from_snapshot(full.to_string().as_bytes()).unwrap();
    let one_more = command(1 << 40, apply(1 << 40, spec("one-more", "nginx:1")));
    assert_eq!(state.apply(&one_more), Err(Rejection::NoUidRange));
    state.apply(&command(1 << 41, Body::Remove { app: name("app-77"), remove_volumes: true })).unwrap();
    state.apply(&one_more).unwrap();
    assert_eq!(state.app("one-more").unwrap().uid_range, UidRange(77));
}

#[test]
fn a_retried_command_gets_its_first_answer_and_has_no_second_effect() {
    let mut state = State::default();
    state.apply(&command(1, apply(1, spec("shop", "nginx:1")))).unwrap();
    let restart = command(2, Body::Restart { app: name("shop"), workloads: names(["web"]) });
    let first = state.apply(&restart).unwrap();
    state.apply(&command(3, apply(2, spec("shop", "nginx:2")))).unwrap();
    let bytes = state.to_snapshot();
    assert_eq!(state.apply(&restart), Ok(first));
    assert_eq!(state.to_snapshot(), bytes);
    assert_eq!(state.app("shop").unwrap().generation("web"), 1);
}

#[test]
fn ids_of_commands_are_kept_up_to_a_bound() {
    let mut state = State::default();
    state.apply(&command(0, apply(1, spec("shop", "nginx:1")))).unwrap();
    let restart = |id| command(id, Body::Restart { app: name("shop"), workloads: names(["web"]) });
    for id in 1..=SEEN_KEPT as u128 {
        state.apply(&restart(id)).unwrap();
    }
    state.apply(&restart(1)).unwrap();
    assert_eq!(state.app("shop").unwrap().generation("web"), SEEN_KEPT as u64);
    let size = state.to_snapshot().len();
    for id in 10_000..12_000 {
        state.apply(&restart(id)).unwrap();
    }
    assert!(state.to_snapshot().len() < size + size / 5, "the snapshot stays bounded");
}

#[test]
fn nodes_join_once_leave_once_and_the_last_stays() {
    let mut world = World::default();
    let (one, two) = (NodeId(1), NodeId(2));
    let add = |node, text: &str| Body::AddNode { node, name: name(text) };
    world.does(add(one, "oak"));
    assert_eq!(world.is_refused(Body::RemoveNode { node: one }), Rejection::LastNode(one));
    assert_eq!(world.is_refused(add(one, "elm")), Rejection::NodeExists(one));
    assert_eq!(world.is_refused(add(two, "oak")), Rejection::NodeNameTaken(name("oak")));
    world.does(add(two, "elm"));
    world.does(Body::RemoveNode { node: one });
    assert_eq!(world.is_refused(add(one, "oak")), Rejection::NodeExists(one));
    assert_eq!(world.is_refused(Body::RemoveNode { node: one }), Rejection::UnknownNode(one));
    assert_eq!(world.state.nodes().map(|(id, node)| (id, node.name.clone())).collect::<Vec<_>>(), [(two, name("elm"))]);
}

#[test]
fn a_snapshot_of_a_later_format_or_of_nonsense_is_refused() {
    let world = World::with_shop();
    let text = String::from_utf8(world.state.to_snapshot()).unwrap();
    let later = text.replacen("\"format\":1", "\"format\":2", 1);
    assert!(matches!(State::from_snapshot(later.as_bytes()), Err(SnapshotError::Format { found: 2 })));
    assert!(matches!(State::from_snapshot(&text.as_bytes()[..text.len() / 2]), Err(SnapshotError::Decode(_))));
    let twisted = text.replacen("\"uid_range\":0", "\"uid_range\":5", 1);
    assert!(matches!(State::from_snapshot(twisted.as_bytes()), Err(SnapshotError::Broken(_))));
}

#[test]
fn a_command_reads_back_what_it_was_written_as() {
    let written = command(u128::MAX, apply(u64::MAX, spec("shop", "nginx:1")));
    let text = serde_json::to_string(&written).unwrap();
    assert_eq!(serde_json::from_str::<coppice_state::Command>(&text).unwrap(), written);
    assert_eq!(written.id, CommandId(u128::MAX));
}
