//! Rules given by hand, and what holds between them and the manifests.

use coppice_base::{Name, Timestamp};
use coppice_spec::{Pair, Party, PolicySpec, Verdict};
use coppice_state::{Body, Decider, Preview, RULES_MAX, Rejection, State};

use crate::words::{World, apply, command, name, spec};

fn party(text: &str) -> Party {
    text.parse().unwrap()
}

fn rule(from: &str, to: &str, verdict: Verdict) -> Body {
    Body::SetPolicyRule { from: party(from), to: party(to), verdict }
}

/// Two apps of `web` and `db`: `shop` with this policy, `blog` with none.
fn world(policy: PolicySpec) -> World {
    let mut world = World::default();
    let mut shop = spec("shop", "nginx:1");
    shop.policy = policy;
    world.does(apply(1, shop));
    world.does(apply(2, spec("blog", "nginx:1")));
    world
}

fn speaks(state: &State, from: &str, to: &str) -> bool {
    let speaker = |text: &str| -> (Name, Name) {
        let (app, workload) = text.split_once('/').unwrap();
        (name(app), name(workload))
    };
    let to = speaker(to);
    let to = (&to.0, &to.1);
    if from == "stranger" {
        return state.may_speak(None, to);
    }
    let from = speaker(from);
    state.may_speak(Some((&from.0, &from.1)), to)
}

#[test]
fn without_policy_everybody_speaks_to_everybody() {
    let world = world(PolicySpec::default());
    for from in ["shop/web", "blog/web", "stranger"] {
        assert!(speaks(&world.state, from, "shop/db"), "{from}");
    }
}

#[test]
fn an_app_that_denies_by_default_is_closed_to_its_own_services_other_apps_and_strangers() {
    let allow = [Pair { from: name("web"), to: name("db") }].into();
    let world = world(PolicySpec { default: Verdict::Deny, allow, deny: [].into() });
    assert!(speaks(&world.state, "shop/web", "shop/db"));
    assert!(speaks(&world.state, "shop/db", "shop/db"), "to itself");
    for from in ["shop/db", "blog/web", "stranger"] {
        assert!(!speaks(&world.state, from, "shop/web"), "{from}");
    }
    assert!(speaks(&world.state, "shop/web", "blog/web"), "who is asked decides");
}

#[test]
fn a_rule_by_hand_wins_over_the_manifest_until_it_is_removed() {
    let deny = [Pair { from: name("web"), to: name("db") }].into();
    let mut world = world(PolicySpec { default: Verdict::Allow, allow: [].into(), deny });
    assert!(!speaks(&world.state, "shop/web", "shop/db"));
    world.does(rule("shop/web", "shop/db", Verdict::Allow));
    assert!(speaks(&world.state, "shop/web", "shop/db"));
    world.does(Body::RemovePolicyRule { from: party("shop/web"), to: party("shop/db") });
    assert!(!speaks(&world.state, "shop/web", "shop/db"));
}

#[test]
fn the_most_specific_rule_decides_and_of_equal_ones_deny() {
    let mut world = world(PolicySpec::default());
    world.does(rule("blog", "shop", Verdict::Deny));
    assert!(!speaks(&world.state, "blog/web", "shop/db"));
    world.does(rule("blog/web", "shop", Verdict::Allow));
    assert!(speaks(&world.state, "blog/web", "shop/db") && !speaks(&world.state, "blog/db", "shop/db"));
    world.does(rule("blog", "shop/db", Verdict::Deny));
    assert!(!speaks(&world.state, "blog/web", "shop/db") && speaks(&world.state, "blog/web", "shop/web"));
    world.does(rule("blog/web", "shop/db", Verdict::Allow));
    assert!(speaks(&world.state, "blog/web", "shop/db"));
    assert!(speaks(&world.state, "shop/db", "blog/web"), "a rule has a direction");
}

#[test]
fn what_decides_is_named() {
    let deny = [Pair { from: name("web"), to: name("db") }].into();
    let mut world = world(PolicySpec { default: Verdict::Deny, allow: [].into(), deny });
    let decides = |state: &State, from: &str, to: &str| {
        let parts = |text: &str| -> (Name, Name) { text.split_once('/').map(|(a, b)| (name(a), name(b))).unwrap() };
        let (from, to) = (parts(from), parts(to));
        state.decide(Some((&from.0, &from.1)), (&to.0, &to.1))
    };
    let shop = || name("shop");
    assert_eq!(decides(&world.state, "shop/db", "shop/db"), (Verdict::Allow, Decider::Itself));
    assert_eq!(decides(&world.state, "shop/web", "shop/db"), (Verdict::Deny, Decider::Manifest { app: shop() }));
    assert_eq!(decides(&world.state, "shop/db", "shop/web"), (Verdict::Deny, Decider::Default { app: shop() }));
    assert_eq!(decides(&world.state, "blog/db", "shop/web"), (Verdict::Deny, Decider::Default { app: shop() }));
    world.does(rule("blog", "shop/web", Verdict::Allow));
    let by_hand = Decider::Rule { from: party("blog"), to: party("shop/web") };
    assert_eq!(decides(&world.state, "blog/db", "shop/web"), (Verdict::Allow, by_hand));
}

#[test]
fn rules_about_an_app_are_about_its_previews_too_but_open_no_way_between_the_two() {
    let mut world = world(PolicySpec { default: Verdict::Deny, allow: [].into(), deny: [].into() });
    world.does(rule("shop/web", "shop/db", Verdict::Allow));
    world.does(rule("blog", "shop/web", Verdict::Allow));
    world.does(rule("shop/db", "blog", Verdict::Deny));
    let shop = world.state.app("shop").unwrap().spec().clone();
    let spec = coppice_spec::AppSpec { name: name("shop-fix"), ..shop.clone() };
    let mut body = apply(3, spec);
    if let Body::Apply { terms, .. } = &mut body {
        let (of, until) = (name("shop"), Timestamp(1));
        terms.preview = Some(Preview { of, name: name("fix"), until, spec: Box::new(shop) });
    }
    world.does(body);
    assert!(speaks(&world.state, "shop-fix/web", "shop-fix/db"), "as the app's services among themselves");
    assert!(!speaks(&world.state, "shop-fix/db", "shop-fix/web"));
    assert!(speaks(&world.state, "blog/db", "shop-fix/web") && !speaks(&world.state, "blog/db", "shop-fix/db"));
    assert!(!speaks(&world.state, "shop-fix/db", "blog/web") && speaks(&world.state, "shop-fix/web", "blog/web"));
    for (from, to) in [("shop-fix/web", "shop/db"), ("shop/web", "shop-fix/db")] {
        assert!(!speaks(&world.state, from, to), "{from} is a stranger to {to}");
    }
    // One that names the preview wins, and is about nobody else.
    world.does(rule("shop-fix/web", "shop-fix/db", Verdict::Deny));
    world.does(rule("shop-fix", "shop", Verdict::Allow));
    assert!(!speaks(&world.state, "shop-fix/web", "shop-fix/db") && speaks(&world.state, "shop/web", "shop/db"));
    assert!(speaks(&world.state, "shop-fix/web", "shop/db") && !speaks(&world.state, "shop-fix/db", "shop-fix/web"));
}

#[test]
fn rules_about_what_is_not_there_are_refused_with_its_name() {
    let mut world = world(PolicySpec::default());
    assert_eq!(world.is_refused(rule("ghost", "shop", Verdict::Deny)), Rejection::UnknownApp(name("ghost")));
    let rejection = world.is_refused(rule("shop/web", "shop/ghost", Verdict::Deny));
    assert_eq!(rejection, Rejection::UnknownWorkload { app: name("shop"), workload: name("ghost") });
    let gone = Body::RemovePolicyRule { from: party("shop"), to: party("blog") };
    assert!(matches!(world.is_refused(gone), Rejection::UnknownRule { .. }));
}

#[test]
fn rules_survive_a_snapshot_and_the_apps_they_name() {
    let mut world = world(PolicySpec::default());
    world.does(rule("shop/web", "shop/db", Verdict::Deny));
    world.does(Body::Remove { app: name("shop"), remove_volumes: false });
    let mut state = State::from_snapshot(&world.state.to_snapshot()).unwrap();
    assert_eq!(state, world.state);
    world.state = state.clone();
    world.does(apply(9, spec("shop", "nginx:1")));
    state = world.state.clone();
    assert!(!speaks(&state, "shop/web", "shop/db"));
}

#[test]
fn a_snapshot_from_before_there_were_rules_is_read() {
    let world = world(PolicySpec::default());
    let text = String::from_utf8(world.state.to_snapshot()).unwrap();
    let old = text.replace(r#","policy":{},"resting""#, r#","resting""#);
    assert!(old != text);
    assert_eq!(State::from_snapshot(old.as_bytes()).unwrap(), world.state);
}

#[test]
fn there_is_an_end_to_rules() {
    let mut world = World::default();
    let apps: u64 = 65;
    for number in 0..apps {
        world.does(apply(number, spec(&format!("app{number}"), "nginx:1")));
    }
    let pairs = (0..apps).flat_map(|from| (0..apps).map(move |to| (format!("app{from}"), format!("app{to}"))));
    for (place, (from, to)) in pairs.take(RULES_MAX).enumerate() {
        let id = 1_000_000 + u128::try_from(place).unwrap();
        world.state.apply(&command(id, rule(&from, &to, Verdict::Deny))).unwrap();
    }
    assert_eq!(world.is_refused(rule("app64", "app64", Verdict::Deny)), Rejection::TooManyRules);
    world.does(rule("app0", "app0", Verdict::Allow));
}
