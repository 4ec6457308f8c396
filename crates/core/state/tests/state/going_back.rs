//! Which release comes back, when somebody asks for it and when an app has exhausted its supervisor.

use coppice_state::{Body, ReleaseId, ReleaseTerms, Trigger, Verdict};

use crate::words::{World, apply, name, spec};

fn succeeds(world: &mut World, release: u64) {
    world.does(Body::RecordVerdict { app: name("shop"), release: ReleaseId(release), verdict: Verdict::Succeeded });
}

/// The release `source`, whose image this is, comes back as `release`.
fn back(release: u64, source: u64, image: &str) -> Body {
    let Body::Apply { release, spec, images, expected_release, stopped, secrets, .. } =
        apply(release, spec("shop", image))
    else {
        unreachable!()
    };
    let trigger = Trigger::Rollback { source: ReleaseId(source), data: false };
    let terms = ReleaseTerms { trigger, ..ReleaseTerms::default() };
    Body::Apply { release, spec, images, expected_release, stopped, secrets, terms }
}

/// Releases 1 to `count`, all of which succeeded.
fn world(count: u64) -> World {
    let mut world = World::default();
    for release in 1..=count {
        world.does(apply(release, spec("shop", &format!("nginx:{release}"))));
        succeeds(&mut world, release);
    }
    world
}

fn to_bring_back(world: &World) -> Option<u64> {
    world.state.app("shop").unwrap().to_bring_back().map(|release| release.number)
}

#[test]
fn by_default_it_is_the_newest_before_that_succeeded_and_is_not_what_is_there_already() {
    let mut world = world(3);
    let previous = |world: &World| world.state.app("shop").unwrap().previous_successful().map(|release| release.number);
    assert_eq!(previous(&world), Some(2));
    world.does(back(4, 2, "nginx:2"));
    assert_eq!(previous(&world), Some(3), "what it was rolled back from, not what it is");
    let failed = Verdict::Failed { reason: "web exited".to_owned() };
    world.does(Body::RecordVerdict { app: name("shop"), release: ReleaseId(4), verdict: failed });
    world.does(apply(5, spec("shop", "nginx:5")));
    assert_eq!(previous(&world), Some(3), "not one that failed");
    assert_eq!(self::world(1).state.app("shop").unwrap().previous_successful(), None);
}

#[test]
fn what_a_node_brings_back_by_itself_is_older_each_time_and_never_what_was_given_up() {
    let mut world = world(3);
    assert_eq!(to_bring_back(&world), Some(2));
    world.node_does(back(4, 2, "nginx:2"));
    succeeds(&mut world, 4);
    assert_eq!(to_bring_back(&world), Some(1), "2 gave up, and 3 before");
    world.node_does(back(5, 1, "nginx:1"));
    succeeds(&mut world, 5);
    assert_eq!(to_bring_back(&world), None);
    // Somebody's new release may go back to it, but with it to nothing that was given up.
    world.does(apply(6, spec("shop", "nginx:6")));
    succeeds(&mut world, 6);
    assert_eq!(to_bring_back(&world), Some(5));
    world.node_does(back(7, 5, "nginx:1"));
    succeeds(&mut world, 7);
    assert_eq!(to_bring_back(&world), None);
    // Somebody's own rollback begins anew.
    world.does(back(8, 2, "nginx:2"));
    assert_eq!(to_bring_back(&world), Some(7));
}
