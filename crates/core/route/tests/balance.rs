//! Which instance is chosen, over many requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use coppice_base::Timestamp;
use coppice_route::{Chosen, Instance, Picking, choose, hash};
use coppice_spec::BreakerSpec;
use proptest::prelude::*;

const NOW: Timestamp = Timestamp(1_000_000);

fn instances(count: usize) -> Vec<Arc<Instance>> {
    let make = |at: usize| {
        let instance = Instance::new(&format!("web-{at}"));
        instance.set(true, false);
        Arc::new(instance)
    };
    (0..count).map(make).collect()
}

struct Asked {
    sticky: Option<u64>,
    wanted: Option<u64>,
    tried: Vec<u64>,
    now: Timestamp,
}

const PLAIN: Asked = Asked { sticky: None, wanted: None, tried: Vec::new(), now: NOW };

fn pick(instances: &[Arc<Instance>], turn: u64, asked: &Asked) -> Chosen {
    let breaker = BreakerSpec::default();
    let how = Picking {
        breaker: &breaker,
        now: asked.now,
        random: hash::mix(turn),
        sticky: asked.sticky,
        wanted: asked.wanted,
        tried: &asked.tried,
    };
    choose(instances, how)
}

fn counted(instances: &[Arc<Instance>], asked: &Asked) -> BTreeMap<usize, usize> {
    let mut counts = BTreeMap::new();
    for turn in 0..3000 {
        if let Chosen::At(at) = pick(instances, turn, asked) {
            *counts.entry(at).or_default() += 1;
        }
    }
    counts
}

#[test]
fn equal_instances_get_about_equal_shares() {
    let counts = counted(&instances(3), &PLAIN);
    assert!(counts.values().all(|count| (850..1150).contains(count)), "{counts:?}");
}

#[test]
fn a_loaded_instance_gets_less() {
    let all = instances(2);
    for _ in 0..10 {
        assert!(all[0].enter());
    }
    let counts = counted(&all, &PLAIN);
    assert!(counts[&0] < counts[&1] / 2, "{counts:?}");
}

#[test]
fn an_instance_that_is_not_ready_or_drains_takes_no_new_request_whatever_is_asked() {
    let all = instances(3);
    all[0].set(false, false);
    all[1].set(true, true);
    for asked in [PLAIN, Asked { wanted: Some(all[1].id), ..PLAIN }, Asked { sticky: Some(7), ..PLAIN }] {
        assert_eq!(counted(&all, &asked).keys().collect::<Vec<_>>(), [&2]);
    }
    all[2].set(true, true);
    assert_eq!(pick(&all, 1, &PLAIN), Chosen::None);
}

#[test]
fn a_request_that_was_chosen_before_the_drain_and_comes_after_it_is_turned_away() {
    let instance = instances(1).remove(0);
    assert!(instance.enter());
    instance.set(true, true);
    assert!(!instance.enter());
    assert_eq!(instance.in_flight(), 1);
    instance.leave();
    assert_eq!(instance.in_flight(), 0);
}

#[test]
fn an_open_breaker_shuts_an_instance_out_until_one_request_proves_it() {
    let all = instances(2);
    for _ in 0..3 {
        all[0].report(false, NOW);
    }
    assert_eq!(counted(&all, &PLAIN).keys().collect::<Vec<_>>(), [&1]);
    let later = Asked { now: NOW.plus(Duration::from_secs(30)), ..PLAIN };
    assert_eq!(counted(&all, &later).get(&0), Some(&1));
    all[0].report(true, later.now);
    assert!(counted(&all, &later)[&0] > 1000);
}

#[test]
fn an_outlier_is_ejected_but_never_more_than_half() {
    let all = instances(3);
    let eject = |instance: &Instance| (0..20).for_each(|turn| instance.report(turn % 2 == 0, NOW));
    eject(&all[0]);
    all[0].report(true, NOW);
    assert_eq!(counted(&all, &PLAIN).keys().collect::<Vec<_>>(), [&1, &2]);
    eject(&all[1]);
    all[1].report(true, NOW);
    assert_eq!(counted(&all, &PLAIN).len(), 3);
}

#[test]
fn what_was_tried_is_taken_again_only_when_nothing_else_is_left() {
    let all = instances(2);
    let first = Asked { tried: vec![all[0].id], ..PLAIN };
    assert_eq!(counted(&all, &first).keys().collect::<Vec<_>>(), [&1]);
    let both = Asked { tried: vec![all[0].id, all[1].id], ..PLAIN };
    assert!(matches!(pick(&all, 1, &both), Chosen::OnlyTried(_)));
}

#[test]
fn a_cookie_finds_its_instance() {
    let all = instances(5);
    let asked = Asked { wanted: Some(all[3].id), ..PLAIN };
    assert_eq!(counted(&all, &asked).keys().collect::<Vec<_>>(), [&3]);
}

proptest! {
    #[test]
    fn losing_an_instance_moves_only_its_own_clients(keys in prop::collection::vec(any::<u64>(), 1..50), lost in 0usize..5) {
        let all = instances(5);
        let place = |key: &u64| pick(&all, 1, &Asked { sticky: Some(*key), ..PLAIN });
        let before: Vec<_> = keys.iter().map(place).collect();
        all[lost].set(false, false);
        for (key, was) in keys.iter().zip(before) {
            if was != Chosen::At(lost) {
                prop_assert_eq!(place(key), was);
            }
        }
    }

    #[test]
    fn whatever_happened_a_choice_takes_requests(
        states in prop::collection::vec((any::<bool>(), any::<bool>(), 0u32..5), 0..6),
        turn in any::<u64>(),
    ) {
        let all = instances(states.len());
        for (instance, (ready, draining, failures)) in all.iter().zip(&states) {
            instance.set(*ready, *draining);
            for _ in 0..*failures {
                instance.report(false, NOW);
            }
        }
        match pick(&all, turn, &PLAIN) {
            Chosen::At(at) | Chosen::OnlyTried(at) => {
                prop_assert!(states[at].0 && !states[at].1 && states[at].2 < 3);
            }
            Chosen::None => prop_assert!(states.iter().all(|(ready, draining, failed)| !ready || *draining || *failed >= 3)),
        }
    }
}
