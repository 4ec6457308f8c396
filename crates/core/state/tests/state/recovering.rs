//! Apps that come back from what their volumes remember of them, which may be damaged, partial or another's.

use std::collections::BTreeMap;

use coppice_base::Timestamp;
use coppice_spec::{Condition, Dependency};
use coppice_state::{
    Actor, Body, Effect, RELEASES_KEPT, Rejection, Release, ReleaseId, State, Trigger, UID_RANGES, UidRange, Verdict,
};

use crate::words::{World, apply, command, digest, name, set_secret, spec, uses};

/// Release `number` of app `shop`, with id 100 and that, as it was recorded when it had succeeded.
fn release(number: u64) -> Release {
    Release {
        id: ReleaseId(100 + number),
        number,
        spec: spec("shop", &format!("nginx:{number}")),
        images: BTreeMap::from([(name("web"), digest(u8::try_from(number).unwrap()))]),
        created_at: Timestamp(number),
        actor: Actor::User { uid: 7 },
        verdict: Some(Verdict::Succeeded),
        trigger: Trigger::Apply,
        from: None,
        rollout: None,
        secrets: BTreeMap::new(),
        ended_at: Some(Timestamp(number + 1)),
    }
}

fn with(number: u64, change: impl FnOnce(&mut Release)) -> Release {
    let mut release = release(number);
    change(&mut release);
    release
}

fn went_back() -> Option<Verdict> {
    Some(Verdict::RolledBack { reason: "web exited with 1".to_owned() })
}

fn recover(releases: impl IntoIterator<Item = Release>) -> Body {
    Body::RecoverApp { app: name("shop"), releases: releases.into_iter().collect() }
}

#[test]
fn an_app_is_there_again_with_its_history_as_it_was_and_goes_on_from_there() {
    let mut world = World::default();
    world.does(apply(1, spec("other", "nginx:1")));
    let back = with(5, |five| five.verdict = went_back());
    let rollback = with(4, |four| four.trigger = Trigger::Rollback { source: ReleaseId(101), data: true });
    let known = [release(1), with(2, |two| two.verdict = Some(Verdict::Superseded)), rollback, back];
    assert_eq!(world.does(recover(known.clone())), Effect::Released { release: ReleaseId(104), number: 4 });
    let app = world.state.app("shop").unwrap();
    assert!(app.releases.iter().map(|release| &**release).eq(&known), "{:#?}", app.releases);
    assert_eq!((app.current().number, app.newest().number), (4, 5), "what had gone back does not come");
    assert_eq!((app.uid_range, &app.preview), (UidRange(1), &None));
    assert_eq!(app.addresses.keys().map(|service| service.as_str()).collect::<Vec<_>>(), ["db", "web"]);
    assert!(app.stopped.is_empty() && app.scale.is_empty() && app.restarts.is_empty());
    assert_eq!(State::from_snapshot(&world.state.to_snapshot()).unwrap(), world.state);
    // Numbers go on, and what is there is not taken in again.
    assert!(matches!(world.is_refused(recover([release(1)])), Rejection::Unrecoverable { .. }));
    let next = world.does(apply(9, spec("shop", "nginx:9")));
    assert_eq!(next, Effect::Released { release: ReleaseId(9), number: 6 });
}

#[test]
fn what_is_damaged_partial_or_anothers_is_refused_with_the_reason_and_changes_nothing() {
    let unready = |release: &mut Release| {
        let web = release.spec.services.get_mut("web").unwrap();
        web.workload.depends_on.push(Dependency { name: name("gone"), condition: Condition::Healthy });
    };
    let cases: [(&str, Vec<Release>); 10] = [
        ("no release of it is left to run", vec![]),
        ("no release of it is left to run", vec![with(1, |one| one.verdict = went_back())]),
        ("its releases are out of order", vec![release(2), release(1)]),
        ("its releases are out of order", vec![release(1), with(1, |again| again.id = ReleaseId(7))]),
        ("release id", vec![release(1), with(2, |two| two.id = ReleaseId(101))]),
        ("release id", vec![with(1, |one| one.id = ReleaseId(1))]),
        ("release 2 is not valid", vec![release(1), with(2, |two| two.spec.name = name("blog")), release(3)]),
        ("release 1 is not valid: ", vec![with(1, unready), release(2)]),
        ("release 2 was not over", vec![release(1), with(2, |two| two.verdict = None)]),
        ("not defined", vec![with(1, |one| drop(one.images.insert(name("gone"), digest(9)))), release(2)]),
    ];
    for (why, releases) in cases {
        let mut world = World::default();
        world.does(apply(1, spec("other", "nginx:1")));
        let refused = world.is_refused(recover(releases)).to_string();
        assert!(refused.contains(why), "{why}: {refused}");
        assert!(world.state.app("shop").is_none());
        // What is whole is taken in after that.
        world.does(recover([release(1)]));
    }
    let mut world = World::with_shop();
    let refused = world.is_refused(recover([release(1)])).to_string();
    assert_eq!(refused, "app shop cannot be recovered: there is an app of that name");
}

#[test]
fn releases_need_the_secrets_that_they_pin() {
    let pinned = |version: Option<u64>| {
        with(1, |one| {
            one.spec.services.get_mut("web").unwrap().workload.secrets.push(uses("db"));
            one.secrets = version.map(|version| (name("db"), version)).into_iter().collect();
        })
    };
    let mut world = World::default();
    assert!(matches!(world.is_refused(recover([pinned(None)])), Rejection::SecretNotPinned { .. }));
    assert!(matches!(world.is_refused(recover([pinned(Some(1))])), Rejection::UnknownSecretVersion { .. }));
    world.does(set_secret(name("db"), 1, "k1"));
    assert!(matches!(world.is_refused(recover([pinned(Some(2))])), Rejection::UnknownSecretVersion { .. }));
    world.does(recover([pinned(Some(1))]));
    assert_eq!(world.state.app("shop").unwrap().current().secrets[&name("db")], 1);
}

#[test]
fn more_releases_than_are_kept_come_back_as_the_newest_with_the_last_that_succeeded() {
    // Volumes that were in use at different times know of different releases.
    let failed = |number| with(number, |one| one.verdict = Some(Verdict::Failed { reason: "no".to_owned() }));
    let many = (1..=2 * u64::try_from(RELEASES_KEPT).unwrap())
        .map(|number| if number < 3 { release(number) } else { failed(number) });
    let mut world = World::default();
    world.does(recover(many));
    let app = world.state.app("shop").unwrap();
    assert_eq!((app.releases.len(), app.releases[0].number, app.current().number), (RELEASES_KEPT, 2, 40));
}

#[test]
fn a_release_whose_successor_no_volume_knows_runs_again_and_says_so() {
    let mut world = World::default();
    world.does(recover([release(1), with(2, |two| two.verdict = Some(Verdict::Superseded))]));
    let app = world.state.app("shop").unwrap();
    let Some(Verdict::Failed { reason }) = &app.current().verdict else { panic!("{:?}", app.current().verdict) };
    assert!(app.current().number == 2 && reason.contains("of which nothing is known"), "{reason}");
}

#[test]
fn an_app_gets_the_uid_range_that_its_volumes_have_and_is_refused_where_none_is_left() {
    let mut world = World::with_shop();
    world.does(apply(2, spec("other", "nginx:1")));
    world.does(Body::Remove { app: name("shop"), remove_volumes: false });
    world.does(recover([release(1)]));
    assert_eq!(world.state.app("shop").unwrap().uid_range, UidRange(0));

    let mut full: serde_json::Value = serde_json::from_slice(&State::default().to_snapshot()).unwrap();
    let ranges = full["state"]["uid_ranges"].as_object_mut().unwrap();
    ranges.extend((0..UID_RANGES).map(|range| (format!("app-{range}"), range.into())));
    let mut state = State::from_snapshot(full.to_string().as_bytes()).unwrap();
    assert_eq!(state.apply(&command(1, recover([release(1)]))), Err(Rejection::NoUidRange));
}
