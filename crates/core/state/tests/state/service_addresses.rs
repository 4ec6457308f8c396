//! Virtual addresses: who has which, and how long one that was given up rests.

use std::collections::BTreeSet;

use coppice_state::{Body, Rejection, SERVICE_ADDRESS_REST_MS, SERVICE_ADDRESSES, ServiceAddress, State};

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

/// Of an app that gets `services` services, then is removed.
fn given_up(world: &mut World, app: &str, services: u64) -> BTreeSet<ServiceAddress> {
    let mut many = spec(app, "nginx:1");
    let one = many.services.remove("db").unwrap();
    many.services = (0..services).map(|at| (name(&format!("s{at}")), one.clone())).collect();
    world.does(apply(1000, many));
    let had = world.state.app(app).unwrap().addresses.values().copied().collect();
    world.does(Body::Remove { app: name(app), remove_volumes: true });
    had
}

fn had(world: &World, app: &str) -> BTreeSet<ServiceAddress> {
    world.state.app(app).unwrap().addresses.values().copied().collect()
}

#[test]
fn none_of_a_hundred_given_up_at_once_is_given_before_all_of_them_have_rested() {
    let mut world = World::default();
    let old = given_up(&mut world, "shop", 100);
    assert_eq!(old.len(), 100);
    // Another app right after, and one in the last moment of the rest.
    world.does(apply(1, spec("blog", "nginx:1")));
    assert!(had(&world, "blog").is_disjoint(&old));
    world.ahead_ms = SERVICE_ADDRESS_REST_MS - 10;
    let meanwhile = given_up(&mut world, "wiki", 80);
    assert!(meanwhile.is_disjoint(&old), "{meanwhile:?}");
    // Rested, and more than are remembered: now they may be given again.
    world.ahead_ms = 2 * SERVICE_ADDRESS_REST_MS - 20;
    given_up(&mut world, "late", 1);
    let again = given_up(&mut world, "again", 30);
    assert!(again.is_subset(&old), "{again:?}");
}

/// A world in which every number was given up: even ones at 1000, odd ones at 2000, but for those that have no time.
fn all_given_up(has_time: bool) -> World {
    let text = String::from_utf8(State::default().to_snapshot()).unwrap();
    let numbers = (0..SERVICE_ADDRESSES).step_by(2).map(|even| (even, 1000));
    let numbers = numbers.chain((1..SERVICE_ADDRESSES).step_by(2).map(|odd| (odd, 2000)));
    let entry = |(number, since): (u32, u64)| match has_time {
        true => format!(r#"{{"address":{number},"since":{since}}}"#),
        false => number.to_string(),
    };
    let resting: Vec<String> = numbers.map(entry).collect();
    let full = text.replace(r#""resting":[]"#, &format!(r#""resting":[{}]"#, resting.join(",")));
    assert!(full != text);
    World { state: State::from_snapshot(full.as_bytes()).unwrap(), ..World::default() }
}

#[test]
fn where_all_are_tired_the_oldest_that_has_rested_is_given_and_none_that_has_not() {
    let mut world = all_given_up(true);
    world.ahead_ms = 1000 + SERVICE_ADDRESS_REST_MS - 101;
    let refused = world.is_refused(apply(1, spec("shop", "nginx:1")));
    assert_eq!(refused, Rejection::ServiceAddressesRest { wait_s: 1 });
    assert!(refused.to_string().contains("apply again in 1 s"), "{refused}");
    world.ahead_ms += 100;
    world.does(apply(1, spec("shop", "nginx:1")));
    assert_eq!(had(&world, "shop"), BTreeSet::from([ServiceAddress(0), ServiceAddress(2)]));
}

#[test]
fn what_was_given_up_before_times_were_kept_rests_from_the_next_command_on() {
    let mut world = all_given_up(false);
    world.ahead_ms = 1_000_000;
    let wait_s = SERVICE_ADDRESS_REST_MS / 1000;
    let refused = world.is_refused(apply(1, spec("shop", "nginx:1")));
    assert_eq!(refused, Rejection::ServiceAddressesRest { wait_s });
    let mut headless = spec("blog", "nginx:1");
    headless.services.values_mut().for_each(|service| service.headless = true);
    world.does(apply(1, headless));
    world.ahead_ms += SERVICE_ADDRESS_REST_MS - 2;
    world.is_refused(apply(2, spec("shop", "nginx:1")));
    world.ahead_ms += 10;
    world.does(apply(2, spec("shop", "nginx:1")));
    let same = State::from_snapshot(&world.state.to_snapshot()).unwrap();
    assert_eq!(same, world.state);
}

#[test]
fn a_clock_that_was_set_back_keeps_no_address_longer_than_one_rest() {
    let mut world = World { ahead_ms: 1_000_000_000, ..World::default() };
    let old = given_up(&mut world, "shop", 100);
    world.ahead_ms = 0;
    let meanwhile = given_up(&mut world, "wiki", 1);
    assert!(meanwhile.is_disjoint(&old));
    world.ahead_ms = SERVICE_ADDRESS_REST_MS + 10;
    given_up(&mut world, "late", 1);
    assert!(!given_up(&mut world, "again", 90).is_disjoint(&old));
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
