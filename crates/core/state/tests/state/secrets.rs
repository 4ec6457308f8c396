//! Secrets: versions, what releases pin, and another key.

use std::collections::BTreeMap;

use coppice_spec::AppSpec;
use coppice_state::{
    Body, Effect, Rejection, ReleaseId, ReleaseTerms, SEALED_MAX, SECRET_VERSIONS_KEPT, Secret, State,
};

use crate::words::{World, apply, name, resealed, set_secret, spec, uses};

fn with_secret(image: &str) -> AppSpec {
    let mut spec = spec("shop", image);
    spec.services.get_mut("web").unwrap().workload.secrets.push(uses("db"));
    spec
}

/// Release `id` of app `shop`, which runs with this version of secret `db`.
fn release(id: u64, image: &str, version: u64) -> Body {
    let Body::Apply { release, images, expected_release, stopped, .. } = apply(id, with_secret(image)) else {
        unreachable!()
    };
    let secrets = BTreeMap::from([(name("db"), version)]);
    Body::Apply {
        release,
        spec: Box::new(with_secret(image)),
        images,
        expected_release,
        stopped,
        secrets,
        terms: ReleaseTerms::default(),
    }
}

fn set(version: u64) -> Body {
    set_secret(name("db"), version, "k1")
}

fn numbers(state: &State) -> Vec<u64> {
    state.secret("db").map(|secret: &Secret| secret.versions.keys().copied().collect()).unwrap_or_default()
}

fn pin(release: u64, version: u64) -> Body {
    let secrets = BTreeMap::from([(name("db"), version)]);
    Body::PinSecrets { app: name("shop"), release: ReleaseId(release), secrets }
}

#[test]
fn versions_are_numbered_from_one_and_a_number_is_taken_once() {
    let mut world = World::default();
    world.does(set(1));
    assert_eq!(world.is_refused(set(1)), Rejection::SecretVersionTaken { secret: name("db"), version: 1 });
    assert_eq!(world.is_refused(set(3)), Rejection::SecretVersionTaken { secret: name("db"), version: 3 });
    world.does(set(2));
    assert_eq!(numbers(&world.state), [1, 2]);
    assert_eq!(world.state.secret("db").unwrap().newest().unwrap().0, 2);
}

#[test]
fn an_app_that_uses_a_secret_is_refused_until_the_secret_has_a_value() {
    let mut world = World::default();
    let unpinned = apply(1, with_secret("a"));
    let refused = world.is_refused(unpinned);
    assert_eq!(refused, Rejection::SecretNotPinned { app: name("shop"), secret: name("db") });
    assert!(refused.to_string().contains("coppice secret set db"), "{refused}");
    let refused = world.is_refused(release(1, "a", 1));
    assert_eq!(refused, Rejection::UnknownSecretVersion { secret: name("db"), version: 1 });
    world.does(set(1));
    world.does(release(1, "a", 1));
    assert_eq!(world.state.app("shop").unwrap().current().secrets[&name("db")], 1);
}

#[test]
fn another_version_alone_makes_another_release() {
    let mut world = World::default();
    world.does(set(1));
    world.does(set(2));
    world.does(release(1, "a", 1));
    assert!(matches!(world.does(release(2, "a", 1)), Effect::Unchanged { number: 1, .. }));
    assert!(matches!(world.does(release(3, "a", 2)), Effect::Released { number: 2, .. }));
    let app = world.state.app("shop").unwrap();
    let pinned: Vec<u64> = app.releases.iter().map(|release| release.secrets[&name("db")]).collect();
    assert_eq!(pinned, [1, 2], "the earlier release keeps its own");
}

#[test]
fn a_version_that_a_kept_release_pins_outlives_any_number_of_newer_ones() {
    let mut world = World::default();
    world.does(set(1));
    world.does(release(1, "a", 1));
    for version in 2..40 {
        world.does(set(version));
    }
    let there = numbers(&world.state);
    assert_eq!(there[0], 1);
    assert_eq!(there[1..], (40 - SECRET_VERSIONS_KEPT as u64..40).collect::<Vec<_>>());
    world.does(Body::Remove { app: name("shop"), remove_volumes: true });
    assert_eq!(numbers(&world.state).len(), SECRET_VERSIONS_KEPT, "nobody pins it now");
}

#[test]
fn a_rotation_pins_another_version_to_the_current_release_and_to_no_other() {
    let mut world = World::default();
    world.does(set(1));
    world.does(set(2));
    world.does(release(1, "a", 1));
    world.does(release(2, "b", 1));
    assert!(matches!(world.is_refused(pin(1, 2)), Rejection::StaleRelease { .. }));
    let unknown = Rejection::UnknownSecretVersion { secret: name("db"), version: 3 };
    assert_eq!(world.is_refused(pin(2, 3)), unknown);
    world.does(pin(2, 2));
    let app = world.state.app("shop").unwrap();
    assert_eq!((app.releases[0].secrets[&name("db")], app.current().secrets[&name("db")]), (1, 2));
    world.does(set_secret(name("other"), 1, "k1"));
    let secrets = BTreeMap::from([(name("other"), 1)]);
    let refused = world.is_refused(Body::PinSecrets { app: name("shop"), release: ReleaseId(2), secrets });
    assert_eq!(refused, Rejection::SecretNotUsed { app: name("shop"), secret: name("other") });
}

#[test]
fn a_used_secret_is_removed_by_force_only_and_its_numbers_are_not_used_again_while_somebody_remembers_them() {
    let mut world = World::default();
    world.does(set(1));
    world.does(release(1, "a", 1));
    world.does(apply(2, spec("shop", "b")));
    let remove = |force| Body::RemoveSecret { name: name("db"), force };
    let refused = world.is_refused(remove(false));
    assert!(refused.to_string().contains("release 1 of app shop"), "{refused}");
    world.does(remove(true));
    assert_eq!(world.state.secrets().count(), 0);
    assert_eq!(world.is_refused(remove(true)), Rejection::UnknownSecret(name("db")));
    world.does(set(2));
    let back = world.is_refused(release(3, "a", 1));
    assert_eq!(back, Rejection::UnknownSecretVersion { secret: name("db"), version: 1 }, "not the new value");
    world.does(Body::Remove { app: name("shop"), remove_volumes: false });
    world.does(remove(false));
    world.does(set(1));
}

#[test]
fn another_key_takes_all_versions_at_once_or_none() {
    let mut world = World::default();
    world.does(set(1));
    world.does(set(2));
    let rekey = |from: &str, versions: &[u64]| {
        let versions = versions.iter().map(|version| (*version, resealed(*version, "k2"))).collect();
        let versions = BTreeMap::from([(name("db"), versions)]);
        Body::Rekey { from: from.to_owned(), to: "k2".to_owned(), versions }
    };
    assert_eq!(world.is_refused(rekey("k1", &[1])), Rejection::SecretsChanged);
    assert_eq!(world.is_refused(rekey("k1", &[1, 2, 3])), Rejection::SecretsChanged);
    assert_eq!(world.is_refused(rekey("k3", &[1, 2])), Rejection::OtherSecretKey);
    world.does(rekey("k1", &[1, 2]));
    assert_eq!(world.state.secret_key(), Some("k2"));
    let secret = world.state.secret("db").unwrap();
    assert!(secret.versions.values().all(|version| version.sealed.ends_with("k2")));
    assert_eq!(world.is_refused(set(3)), Rejection::OtherSecretKey, "sealed before, come after");
    world.does(Body::RemoveSecret { name: name("db"), force: false });
    assert_eq!(world.state.secret_key(), None, "with nothing sealed, any key will do");
    world.does(set(1));
}

#[test]
fn secrets_together_are_no_larger_than_one_command_can_seal_anew() {
    let mut world = World::default();
    let large = |version: u64| {
        let Body::SetSecret { name, version, mut sealed, kind, key } = set(version) else { unreachable!() };
        sealed.sealed = "x".repeat(SEALED_MAX / 2);
        Body::SetSecret { name, version, sealed, kind, key }
    };
    world.does(large(1));
    world.does(large(2));
    assert_eq!(world.is_refused(large(3)), Rejection::SecretsTooLarge);
}
