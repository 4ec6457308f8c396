//! Virtual addresses: who has which, and how long one that was given up rests.

use std::collections::BTreeSet;

use coppice_state::{Body, ServiceAddress, State};

use crate::words::{World, apply, name, spec};

fn address(world: &World, app: &str, service: &str) -> Option<ServiceAddress> {
    world.state.app(app).unwrap().addresses.get(service).copied()
}

#[test]
fn each_service_has_an_address_of_its_own_from_release_to_release() {
    let mut world = World::default();
    world.does(apply(1, spec("shop", "nginx:1")));
    world.does(apply(2, spec("blog", "nginx:1")));
    let of = |world: &World| {
        [("shop", "web"), ("shop", "db"), ("blog", "web"), ("blog", "db")]
            .map(|(app, of)| address(world, app, of).unwrap())
    };
    let first = of(&world);
    assert_eq!(BTreeSet::from(first).len(), 4);
    world.does(apply(3, spec("shop", "nginx:2")));
    assert_eq!(of(&world), first);
    assert_eq!(address(&world, "shop", "seed"), None, "a worker is nobody's server");
}

#[test]
fn a_headless_service_has_none() {
    let mut world = World::default();
    let mut headless = spec("shop", "nginx:1");
    headless.services.get_mut("web").unwrap().headless = true;
    world.does(apply(1, spec("shop", "nginx:1")));
    assert!(address(&world, "shop", "web").is_some());
    world.does(apply(2, headless));
    assert_eq!(address(&world, "shop", "web"), None);
}

#[test]
fn an_address_that_was_given_up_rests() {
    let mut world = World::default();
    world.does(apply(1, spec("shop", "nginx:1")));
    let old = [address(&world, "shop", "web").unwrap(), address(&world, "shop", "db").unwrap()];
    world.does(Body::Remove { app: name("shop"), remove_volumes: true });
    for release in 2..32 {
        world.does(apply(release, spec("shop", "nginx:1")));
        let new = [address(&world, "shop", "web").unwrap(), address(&world, "shop", "db").unwrap()];
        assert!(new.iter().all(|new| !old.contains(new)), "release {release}");
        world.does(Body::Remove { app: name("shop"), remove_volumes: true });
    }
}

#[test]
fn a_snapshot_from_before_there_were_addresses_is_read_and_the_next_release_gives_them() {
    let mut world = World::default();
    world.does(apply(1, spec("shop", "nginx:1")));
    let text = String::from_utf8(world.state.to_snapshot()).unwrap();
    let old = text.replace(r#","addresses":{"db":0,"web":1}"#, "").replace(r#""resting":[],"#, "");
    assert!(old != text);
    world.state = State::from_snapshot(old.as_bytes()).unwrap();
    assert_eq!(address(&world, "shop", "web"), None);
    world.does(apply(2, spec("shop", "nginx:2")));
    assert!(address(&world, "shop", "web").is_some());
}
