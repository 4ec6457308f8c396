//! The one start order of a tree, and who depends on whom. Derived from the records; never stored.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use coppice_base::Timestamp;
use coppice_spec::{Condition, Strategy};

use crate::record::{ChildRecord, SupervisorRecord};
use crate::tree::{ChildSpec, MemberSpec, SupervisorSpec, TreeError};

/// Indices into the children, which stand in start order.
#[derive(Clone, Debug)]
pub(crate) struct Order<K> {
    pub(crate) index: BTreeMap<K, usize>,
    /// What each child needs.
    pub(crate) needs: Vec<Vec<(Vec<usize>, Condition)>>,
    /// Who depends on each child, however indirectly.
    pub(crate) dependents: Vec<Vec<usize>>,
    /// The supervisors above each child, from the root down.
    pub(crate) chains: Vec<Vec<usize>>,
}

impl<K: Ord + Clone + Debug> Order<K> {
    pub(crate) fn of(supervisors: &[SupervisorRecord], children: &[ChildRecord<K>]) -> Self {
        let index: BTreeMap<K, usize> = children.iter().enumerate().map(|(i, c)| (c.spec.key.clone(), i)).collect();
        let needs: Vec<Vec<(Vec<usize>, Condition)>> = children
            .iter()
            .map(|child| {
                let needs = child.spec.needs.iter();
                // A leaving child's own needs may be gone already.
                needs.map(|n| (n.keys.iter().filter_map(|k| index.get(k).copied()).collect(), n.condition)).collect()
            })
            .collect();
        // Needs point to earlier children, so one pass in start order sees all of a child's needs complete.
        let mut ancestors: Vec<BTreeSet<usize>> = Vec::with_capacity(children.len());
        let mut dependents = vec![Vec::new(); children.len()];
        for (i, needs) in needs.iter().enumerate() {
            let mut mine = BTreeSet::new();
            for &needed in needs.iter().flat_map(|(keys, _)| keys) {
                mine.insert(needed);
                if let Some(above) = ancestors.get(needed) {
                    mine.extend(above.iter().copied());
                }
            }
            for &above in &mine {
                dependents[above].push(i);
            }
            ancestors.push(mine);
        }
        let chains = children
            .iter()
            .map(|child| {
                let mut chain = vec![child.parent];
                while let Some(parent) = chain.last().and_then(|&s| supervisors[s].parent) {
                    chain.push(parent);
                }
                chain.reverse();
                chain
            })
            .collect();
        Self { index, needs, dependents, chains }
    }

    /// Whether child `i` is under supervisor `s`, however deep.
    pub(crate) fn is_under(&self, i: usize, s: usize) -> bool {
        self.chains[i].contains(&s)
    }

    /// Whether `later` must have stopped before `earlier` is told to, by the strategy of the lowest supervisor
    /// that is above both.
    pub(crate) fn is_ordered<C>(
        &self,
        supervisors: &[SupervisorRecord],
        children: &[ChildRecord<C>],
        earlier: usize,
        later: usize,
    ) -> bool {
        let (a, b) = (&self.chains[earlier], &self.chains[later]);
        let common = a.iter().zip(b).take_while(|(x, y)| x == y).count();
        let lowest = a[common - 1];
        let rank = |i: usize, chain: &[usize]| match chain.get(common) {
            Some(&group) => supervisors[group].order,
            None => children[i].spec.order,
        };
        supervisors[lowest].supervise.strategy != Strategy::OneForOne && rank(earlier, a) != rank(later, b)
    }
}

type Records<K> = (Vec<SupervisorRecord>, Vec<ChildRecord<K>>);

/// The tree as records, children in start order: dependencies first, then by the members' order.
pub(crate) fn flatten<K: Ord + Clone + Debug>(
    tree: SupervisorSpec<K>,
    now: Timestamp,
) -> Result<Records<K>, TreeError<K>> {
    let mut supervisors = Vec::new();
    let mut listed = Vec::new();
    list(tree, None, &mut supervisors, &mut listed)?;

    let mut index = BTreeMap::new();
    for (i, (child, _)) in listed.iter().enumerate() {
        if index.insert(child.key.clone(), i).is_some() {
            return Err(TreeError::DuplicateKey(child.key.clone()));
        }
    }
    let mut needs: Vec<Vec<usize>> = Vec::with_capacity(listed.len());
    for (child, _) in &listed {
        let mut mine = BTreeSet::new();
        for needed in child.needs.iter().flat_map(|need| &need.keys) {
            let unknown = || TreeError::UnknownNeed { child: child.key.clone(), needed: needed.clone() };
            mine.insert(*index.get(needed).ok_or_else(unknown)?);
        }
        needs.push(mine.into_iter().collect());
    }

    let sequence = sequence(&needs).map_err(|i| TreeError::Circle(listed[i].0.key.clone()))?;
    let mut slots: Vec<Option<(ChildSpec<K>, usize)>> = listed.into_iter().map(Some).collect();
    let children = sequence
        .into_iter()
        .filter_map(|i| slots[i].take())
        .map(|(spec, parent)| ChildRecord::fresh(spec, parent, now))
        .collect();
    Ok((supervisors, children))
}

fn list<K: Ord + Clone + Debug>(
    tree: SupervisorSpec<K>,
    parent: Option<usize>,
    supervisors: &mut Vec<SupervisorRecord>,
    children: &mut Vec<(ChildSpec<K>, usize)>,
) -> Result<(), TreeError<K>> {
    let SupervisorSpec { name, order, supervise, mut members } = tree;
    if supervisors.iter().any(|other| other.name == name) {
        return Err(TreeError::DuplicateSupervisor(name));
    }
    let me = supervisors.len();
    supervisors.push(SupervisorRecord {
        name,
        order,
        supervise,
        parent,
        restarts: Vec::new(),
        attempt: 0,
        renewed: None,
    });
    members.sort_by_key(|member| match member {
        MemberSpec::Child(child) => child.order,
        MemberSpec::Supervisor(group) => group.order,
    });
    for member in members {
        match member {
            MemberSpec::Child(child) => children.push((child, me)),
            MemberSpec::Supervisor(group) => list(group, Some(me), supervisors, children)?,
        }
    }
    Ok(())
}

/// Depth-first, so that each is after its needs and else in the given order. `Err` is a member of a circle.
fn sequence(needs: &[Vec<usize>]) -> Result<Vec<usize>, usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        Unseen,
        Open,
        Placed,
    }
    let mut marks = vec![Mark::Unseen; needs.len()];
    let mut order = Vec::with_capacity(needs.len());
    for first in 0..needs.len() {
        // A stack of (child, needs already followed): deep chains must not overflow the thread's own.
        let mut path = vec![(first, 0)];
        while let Some((child, followed)) = path.pop() {
            match marks[child] {
                Mark::Placed => continue,
                Mark::Open if followed == 0 => return Err(child),
                _ => marks[child] = Mark::Open,
            }
            match needs[child].get(followed) {
                Some(&needed) => {
                    path.push((child, followed + 1));
                    path.push((needed, 0));
                }
                None => {
                    marks[child] = Mark::Placed;
                    order.push(child);
                }
            }
        }
    }
    Ok(order)
}
