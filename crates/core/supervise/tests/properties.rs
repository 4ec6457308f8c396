//! Random trees under random events: what must hold whatever happens.

mod trees;

use std::collections::{BTreeMap, BTreeSet};

use coppice_base::Timestamp;
use coppice_base::random::Seeded;
use coppice_spec::{Condition, RestartPolicy, Strategy as Restarts};
use coppice_supervise::{
    Action, Adopted, Event, ExitReason, MemberSpec, Overall, Snapshot, Supervision, SupervisorSpec, What,
};
use proptest::prelude::*;
use trees::{Child, ChildWords, Tree, child, supervise};

const MAX_CHILDREN: usize = 7;

/// What a shell and its children do, seen from outside the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Down,
    Starting,
    Up { ready: bool },
    Stopping,
}

#[derive(Clone, Debug)]
enum Step {
    Start,
    Stop,
    StartOne(usize),
    StopOne(usize),
    RestartSome(usize),
    /// Answer the nth action in flight, well or badly.
    Answer {
        nth: usize,
        well: bool,
    },
    /// The nth child that runs exits.
    Exit {
        nth: usize,
        code: i32,
    },
    Ready(usize),
    Unhealthy(usize),
    Advance(u64),
    ClockBack(u64),
    /// The process that holds the machine is replaced; children that ended meanwhile are found so.
    Return {
        ended: usize,
    },
    Reconfigure(Tree),
}

fn step(trees: impl Strategy<Value = Tree> + Clone + 'static) -> impl Strategy<Value = Step> {
    let n = 0..MAX_CHILDREN;
    prop_oneof![
        2 => Just(Step::Start),
        1 => Just(Step::Stop),
        1 => n.clone().prop_map(Step::StartOne),
        1 => n.clone().prop_map(Step::StopOne),
        1 => n.clone().prop_map(Step::RestartSome),
        12 => (n.clone(), prop::bool::weighted(0.85)).prop_map(|(nth, well)| Step::Answer { nth, well }),
        4 => (n.clone(), 0..2i32).prop_map(|(nth, code)| Step::Exit { nth, code }),
        4 => n.clone().prop_map(Step::Ready),
        1 => n.clone().prop_map(Step::Unhealthy),
        6 => (1..2000u64).prop_map(Step::Advance),
        1 => (1..100_000u64).prop_map(Step::ClockBack),
        1 => n.prop_map(|ended| Step::Return { ended }),
        1 => trees.prop_map(Step::Reconfigure),
    ]
}

/// Up to seven children `c0`…, some in two groups of which one may be inside the other, needing only children
/// of a smaller number.
fn tree() -> impl Strategy<Value = Tree> + Clone {
    let one = (
        0..3u8,
        0..3u8,
        any::<bool>(),
        any::<bool>(),
        0..4u32,
        0..3u8,
        prop::collection::vec((any::<usize>(), 0..2u8), 0..3),
    );
    let strategies = prop::array::uniform3((0..3u8, 0..4u32));
    (prop::collection::vec(one, 1..=MAX_CHILDREN), strategies, any::<bool>()).prop_map(|(children, sups, nested)| {
        let strategy = |n: u8| [Restarts::OneForOne, Restarts::OneForAll, Restarts::RestForOne][n as usize];
        let mut groups: Vec<Tree> = ["app", "one", "two"]
            .iter()
            .zip(sups)
            .map(|(name, (s, max))| SupervisorSpec {
                name: (*name).to_owned(),
                order: max,
                supervise: supervise(strategy(s), max, 5_000),
                members: Vec::new(),
            })
            .collect();
        let one_shots: Vec<bool> = children.iter().map(|c| c.2).collect();
        for (i, (group, policy, one_shot, healthy, order, revision, needs)) in children.into_iter().enumerate() {
            let mut new: Child = child(&format!("c{i}"))
                .at(order)
                .revision(&revision.to_string())
                .restart([RestartPolicy::Always, RestartPolicy::OnFailure, RestartPolicy::Never][policy as usize]);
            new.one_shot = one_shot;
            new.has_health = healthy && !one_shot;
            if i > 0 {
                for (needed, condition) in needs {
                    let needed = needed % i;
                    // Only a worker ends; needing a service to complete is a wait for ever.
                    let condition = match (one_shots[needed], condition) {
                        (true, _) => Condition::Completed,
                        (false, 0) => Condition::Started,
                        (false, _) => Condition::Healthy,
                    };
                    new = new.needs(&[&format!("c{needed}")], condition);
                }
            }
            groups[group as usize].members.push(new.member());
        }
        let (two, one) = (groups.remove(2), groups.remove(1));
        let mut app = groups.remove(0);
        let mut one = one;
        if nested {
            one.members.push(MemberSpec::Supervisor(two));
        } else {
            app.members.push(MemberSpec::Supervisor(two));
        }
        app.members.push(MemberSpec::Supervisor(one));
        app
    })
}

fn children_of(tree: &Tree) -> Vec<Child> {
    let each = tree.members.iter().flat_map(|member| match member {
        MemberSpec::Child(child) => vec![child.clone()],
        MemberSpec::Supervisor(group) => children_of(group),
    });
    each.collect()
}

/// The machine and, beside it, the world it believes in.
struct World {
    machine: Supervision<String>,
    random: Seeded,
    now: Timestamp,
    lives: BTreeMap<String, Life>,
    completed: BTreeSet<String>,
    specs: BTreeMap<String, Child>,
    /// The last thing people asked for was to stop everything.
    down: bool,
    escalations: usize,
    transcript: Vec<String>,
    /// Go through text at every step.
    restores: bool,
}

impl World {
    fn new(tree: &Tree, seed: u64, restores: bool) -> Self {
        let specs = children_of(tree).into_iter().map(|child| (child.key.clone(), child)).collect();
        Self {
            machine: Supervision::new(tree.clone()).unwrap(),
            random: Seeded::new(seed),
            now: Timestamp(1_000_000),
            lives: BTreeMap::new(),
            completed: BTreeSet::new(),
            specs,
            down: true,
            escalations: 0,
            transcript: Vec::new(),
            restores,
        }
    }

    fn life(&self, key: &str) -> Life {
        self.lives.get(key).copied().unwrap_or(Life::Down)
    }

    fn keys_in(&self, wanted: impl Fn(Life) -> bool) -> Vec<String> {
        self.lives.iter().filter(|(_, life)| wanted(**life)).map(|(key, _)| key.clone()).collect()
    }

    fn in_flight(&self) -> Vec<String> {
        self.keys_in(|life| matches!(life, Life::Starting | Life::Stopping))
    }

    fn running(&self) -> Vec<String> {
        self.keys_in(|life| matches!(life, Life::Up { .. }))
    }

    fn meets(&self, key: &str, condition: Condition) -> bool {
        match condition {
            Condition::Started => self.completed.contains(key) || matches!(self.life(key), Life::Up { .. }),
            Condition::Healthy => {
                self.life(key) == Life::Up { ready: true }
                    || self.completed.contains(key) && self.specs.get(key).is_some_and(|spec| spec.one_shot)
            }
            Condition::Completed => self.completed.contains(key),
        }
    }

    fn send(&mut self, event: Event<String>) {
        self.transcript.push(format!("{} {event:?}", self.now.0));
        let actions = self.machine.handle(self.now, event, &mut self.random).expect("the world only tells the truth");
        for action in actions {
            self.transcript.push(format!("  {action:?}"));
            match action {
                Action::Start { key, .. } => {
                    assert_eq!(self.life(&key), Life::Down, "{key} is started while it lives");
                    assert!(!self.down, "{key} is started while everything is to be down");
                    for need in &self.specs[&key].needs {
                        for needed in &need.keys {
                            assert!(
                                self.meets(needed, need.condition),
                                "{key} is started before {needed} is there:\n{}",
                                self.transcript.join("\n")
                            );
                        }
                    }
                    self.completed.remove(&key);
                    self.lives.insert(key, Life::Starting);
                }
                Action::Stop { key, .. } => {
                    let life = self.life(&key);
                    assert!(matches!(life, Life::Starting | Life::Up { .. }), "{key} is stopped while {life:?}");
                    if self.down {
                        for (other, spec) in &self.specs {
                            let depends = spec.needs.iter().any(|need| need.keys.contains(&key));
                            let alive = self.life(other) != Life::Down;
                            assert!(!(depends && alive), "{key} is stopped before {other}, which depends on it");
                        }
                    }
                    self.lives.insert(key, Life::Stopping);
                }
                Action::Escalate(_) => {
                    assert!(self.lives.values().all(|life| *life == Life::Down), "escalated while something lives");
                    self.escalations += 1;
                }
                Action::Note { key, note } => {
                    if note.what == What::Completed {
                        self.completed.insert(key);
                    }
                }
            }
        }
        self.check();
        if self.restores {
            let text = serde_json::to_string(self.machine.snapshot()).unwrap();
            let snapshot: Snapshot<String> = serde_json::from_str(&text).unwrap();
            assert_eq!(&snapshot, self.machine.snapshot());
            self.machine = Supervision::restore(snapshot).unwrap();
        }
    }

    fn check(&self) {
        assert_eq!(self.machine.check(), Vec::<String>::new(), "after\n{}", self.transcript.join("\n"));
        for (key, life) in &self.lives {
            let status = self.machine.status_of(key).map(|status| status.state.to_string());
            let alive = status.as_deref().is_some_and(|state| {
                ["starting", "ready", "running, not ready", "stopping"].contains(&state)
                    || state.starts_with("unhealthy")
            });
            assert_eq!(alive, *life != Life::Down, "{key} is {life:?} and said to be {status:?}");
        }
        let unfinished = self.lives.iter().any(|(key, life)| match life {
            Life::Down => false,
            Life::Up { ready: true } => self.specs.get(key).is_some_and(|spec| spec.one_shot),
            _ => true,
        });
        let overall = self.machine.overall();
        let at_rest = matches!(overall, Overall::Ready | Overall::Stopped | Overall::Failed);
        assert!(
            at_rest || unfinished || self.machine.next_wakeup().is_some() || !self.machine.stuck().is_empty(),
            "{overall:?}, and nothing will ever happen:\n{}",
            self.transcript.join("\n")
        );
    }

    fn exit(&mut self, key: &str, code: i32) {
        self.lives.insert(key.to_owned(), Life::Down);
        self.send(Event::Exited(key.to_owned(), ExitReason::Code(code)));
    }

    fn answer(&mut self, key: &str, well: bool) {
        match (self.life(key), well) {
            (Life::Starting, true) => {
                let ready = !self.specs.get(key).is_some_and(|spec| spec.has_health);
                self.lives.insert(key.to_owned(), Life::Up { ready });
                self.send(Event::Started(key.to_owned()));
            }
            (Life::Starting, false) => {
                self.lives.insert(key.to_owned(), Life::Down);
                self.send(Event::StartFailed(key.to_owned(), "no such image".to_owned()));
            }
            (Life::Stopping, _) => self.exit(key, if well { 0 } else { 137 }),
            _ => {}
        }
    }

    fn advance(&mut self, ms: u64) {
        self.now.0 += ms;
        self.send(Event::Tick);
    }

    fn take(&mut self, step: &Step) {
        let pick = |keys: Vec<String>, nth: usize| (!keys.is_empty()).then(|| keys[nth % keys.len()].clone());
        let specs: Vec<String> = self.specs.keys().cloned().collect();
        let named = |nth: usize| specs[nth % specs.len()].clone();
        match step {
            Step::Start => {
                self.down = false;
                self.send(Event::Start);
            }
            Step::Stop => {
                self.down = true;
                self.send(Event::Stop);
            }
            Step::StartOne(nth) => {
                self.down = false;
                self.send(Event::StartChildren(vec![named(*nth)]));
            }
            Step::StopOne(nth) => self.send(Event::StopChildren(vec![named(*nth)])),
            Step::RestartSome(nth) => {
                self.down = false;
                self.send(Event::Restart(specs[nth % specs.len()..].to_vec()));
            }
            Step::Answer { nth, well } => {
                if let Some(key) = pick(self.in_flight(), *nth) {
                    self.answer(&key, *well);
                }
            }
            Step::Exit { nth, code } => {
                if let Some(key) = pick(self.running(), *nth) {
                    self.exit(&key, *code);
                }
            }
            Step::Ready(nth) => {
                if let Some(key) = pick(self.running(), *nth) {
                    self.lives.insert(key.clone(), Life::Up { ready: true });
                    self.send(Event::Ready(key));
                }
            }
            Step::Unhealthy(nth) => {
                if let Some(key) = pick(self.keys_in(|life| life == Life::Up { ready: true }), *nth)
                    && self.specs.get(&key).is_some_and(|spec| spec.has_health)
                {
                    self.lives.insert(key.clone(), Life::Up { ready: false });
                    self.send(Event::Unhealthy(key, "http 500 three times".to_owned()));
                }
            }
            Step::Advance(ms) => self.advance(*ms),
            Step::ClockBack(ms) => {
                self.now.0 -= ms;
                self.send(Event::Tick);
            }
            Step::Return { ended } => {
                let gone = pick(self.running(), *ended);
                self.machine = Supervision::restore(self.machine.snapshot().clone()).unwrap();
                for (key, life) in self.lives.clone() {
                    // What the first adoptions led to is known to be on its way; only the world before is adopted.
                    if self.lives[&key] != life {
                        continue;
                    }
                    match life {
                        Life::Up { .. } if Some(&key) == gone.as_ref() => {
                            self.lives.insert(key.clone(), Life::Down);
                            self.send(Event::Adopt(key, Adopted::Exited(ExitReason::Signal(9))));
                        }
                        Life::Up { ready } => self.send(Event::Adopt(key, Adopted::Running { ready })),
                        Life::Starting => {
                            self.lives.insert(key.clone(), Life::Down);
                            self.send(Event::Adopt(key, Adopted::Absent));
                        }
                        // Found running still: told to stop once more, whatever the order would be now.
                        Life::Stopping => {
                            self.lives.insert(key.clone(), Life::Up { ready: false });
                            let down = std::mem::replace(&mut self.down, false);
                            self.send(Event::Adopt(key, Adopted::Running { ready: false }));
                            self.down = down;
                        }
                        Life::Down => self.send_absent(key),
                    }
                }
            }
            Step::Reconfigure(tree) => {
                self.specs = children_of(tree).into_iter().map(|child| (child.key.clone(), child)).collect();
                for (key, life) in &mut self.lives {
                    if let Life::Up { ready } = life {
                        *ready |= self.specs.get(key).is_some_and(|spec| !spec.has_health);
                    }
                }
                self.send(Event::Reconfigure(tree.clone()));
                let known: BTreeSet<String> = self.machine.keys().cloned().collect();
                self.lives.retain(|key, _| known.contains(key));
                self.completed.retain(|key| known.contains(key));
            }
        }
        let known: BTreeSet<String> = self.machine.keys().cloned().collect();
        self.lives.retain(|key, life| *life != Life::Down || known.contains(key));
        self.completed.retain(|key| known.contains(key));
    }

    fn send_absent(&mut self, key: String) {
        if self.machine.status_of(&key).is_some() {
            self.send(Event::Adopt(key, Adopted::Absent));
        }
    }

    /// Everything goes well from here on, until nothing is under way any more.
    fn drain(&mut self) {
        for _ in 0..10_000 {
            if let Some(key) = self.in_flight().first().cloned() {
                self.answer(&key, true);
            } else if let Some(key) = self.keys_in(|life| life == Life::Up { ready: false }).first().cloned() {
                self.lives.insert(key.clone(), Life::Up { ready: true });
                self.send(Event::Ready(key));
            } else if let Some(key) =
                self.running().into_iter().find(|key| self.specs.get(key).is_some_and(|spec| spec.one_shot))
            {
                self.exit(&key, 0);
            } else if let Some(at) = self.machine.next_wakeup() {
                self.now = at;
                self.send(Event::Tick);
            } else {
                return;
            }
        }
        panic!("never comes to rest:\n{}", self.transcript.join("\n"));
    }
}

fn scenario() -> impl Strategy<Value = (Tree, Vec<Step>, u64)> {
    (tree(), prop::collection::vec(step(tree()), 0..60), any::<u64>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    /// The invariants are in `World::send` and `World::check`; here is how it must end.
    #[test]
    fn whatever_happened_stop_stops_everything_and_start_gets_everything_ready((tree, steps, seed) in scenario()) {
        let mut world = World::new(&tree, seed, false);
        for step in &steps {
            world.take(step);
        }
        world.take(&Step::Stop);
        world.drain();
        prop_assert_eq!(world.machine.overall(), Overall::Stopped);
        prop_assert_eq!(world.machine.next_wakeup(), None);
        prop_assert!(world.lives.values().all(|life| *life == Life::Down));
        world.take(&Step::Start);
        world.drain();
        prop_assert_eq!(world.machine.overall(), Overall::Ready, "{}", world.transcript.join("\n"));
        prop_assert!(world.machine.stuck().is_empty());
        for (key, spec) in &world.specs {
            let expected = if spec.one_shot { Life::Down } else { Life::Up { ready: true } };
            prop_assert_eq!(world.life(key), expected);
        }
    }

    #[test]
    fn equal_events_and_seeds_give_equal_actions_and_a_restored_machine_goes_on_the_same((tree, steps, seed) in scenario()) {
        let run = |restores| {
            let mut world = World::new(&tree, seed, restores);
            steps.iter().for_each(|step| world.take(step));
            world.transcript
        };
        let first = run(false);
        prop_assert_eq!(&first, &run(false));
        prop_assert_eq!(&first, &run(true));
    }

    #[test]
    fn within_any_window_there_are_no_more_restarts_than_the_intensity_allows(
        max in 0..5u32, gaps in prop::collection::vec(1..3000u64, 1..60), seed: u64,
    ) {
        let window_ms = 5_000;
        let tree = SupervisorSpec {
            name: "app".to_owned(),
            order: 0,
            supervise: supervise(Restarts::OneForOne, max, window_ms),
            members: (0..3).map(|i| child(&format!("c{i}")).member()).collect(),
        };
        let mut world = World::new(&tree, seed, false);
        world.take(&Step::Start);
        let mut failures: Vec<u64> = Vec::new();
        for (i, gap) in gaps.iter().enumerate() {
            world.in_flight().iter().for_each(|key| world.answer(key, true));
            world.advance(*gap);
            world.in_flight().iter().for_each(|key| world.answer(key, true));
            let Some(key) = world.running().get(i % 3).cloned() else { continue };
            world.exit(&key, 1);
            failures.push(world.now.0);
            let recent = failures.iter().filter(|at| world.now.0 - **at < window_ms).count();
            if recent > max as usize {
                world.drain();
                prop_assert_eq!(world.machine.overall(), Overall::Failed);
                prop_assert_eq!(world.escalations, 1);
                return Ok(());
            }
            prop_assert!(!matches!(world.machine.overall(), Overall::Failed | Overall::Stopping));
        }
    }

    #[test]
    fn the_wait_doubles_up_to_its_limit_with_at_most_a_quarter_of_jitter(seed: u64, failures in 1..12u32) {
        let tree = SupervisorSpec {
            name: "app".to_owned(),
            order: 0,
            supervise: supervise(Restarts::OneForOne, 100, 60_000),
            members: vec![child("c").member()],
        };
        let mut world = World::new(&tree, seed, false);
        world.take(&Step::Start);
        for nth in 0..failures {
            world.answer("c", true);
            world.exit("c", 1);
            let plain = (100u64 << nth.min(10)).min(1000);
            let wait = world.machine.next_wakeup().unwrap().0 - world.now.0;
            prop_assert!((plain..=plain + plain / 4).contains(&wait), "{} is not {} and a quarter", wait, plain);
            world.advance(wait - 1);
            prop_assert_eq!(world.life("c"), Life::Down);
            world.advance(1);
            prop_assert_eq!(world.life("c"), Life::Starting);
        }
    }
}
