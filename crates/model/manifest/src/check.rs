//! What holds between sections: dependencies, groups, shared host ports, volumes. The same rules as
//! [`AppSpec::check`], here with positions.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use coppice_base::Name;
use coppice_spec::{Condition, Dependency, GroupSpec, HooksSpec, MountSource, VolumeMount, VolumeSpec};

use crate::cron::ReadCron;
use crate::diagnostic::Report;
use crate::fields::Placed;
use crate::host_port;
use crate::suggest::nearest;
use crate::workload::{Read, ReadKind};

/// "did you mean `x`?", or what else to do.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl Iterator<Item = &'a str>, otherwise: String) -> String {
    nearest(word, known).map_or(otherwise, |near| format!("did you mean `{near}`?"))
}

/// Of something that a `when` leaves out: why, as the end of a sentence, and what to do about it.
pub(crate) fn left_out(name: &str, report: &Report<'_>) -> Option<(String, String)> {
    let when = report.left_out.get(name)?;
    let why = format!("is left out, since its `when` ({}) is false", report.source.whereabouts(when));
    Some((why, "give this a `when` too, or remove it".to_owned()))
}

/// Services, workers and crons share one name space.
pub(crate) fn names(read: &[Read], crons: &[ReadCron], report: &mut Report<'_>) {
    let mut seen: BTreeMap<&Name, (&Range<usize>, &str)> = BTreeMap::new();
    let kind = |read: &Read| if matches!(read.kind, ReadKind::Service { .. }) { "service" } else { "worker" };
    let crons = crons.iter().map(|one| (&one.name, &one.key_span, "cron"));
    for (name, span, kind) in read.iter().map(|one| (&one.name, &one.key_span, kind(one))).chain(crons) {
        if let Some((other, first)) = seen.insert(name, (span, kind)) {
            let place = report.source.whereabouts(other);
            let message = format!("`{name}` is both a {first} and a {kind} ({place})");
            report.error(span, message, "rename one of the two: dependencies name either");
        }
    }
}

/// The dependencies of `one`, conditions filled in: a worker must complete, a service with a health check be
/// healthy, another be started.
pub(crate) fn dependencies(
    one: &Read,
    all: &BTreeMap<&str, &Read>,
    broken: &BTreeSet<String>,
    report: &mut Report<'_>,
) -> Vec<Dependency> {
    let mut found = Vec::new();
    for written in &one.depends_on {
        if written.name == one.name.as_str() {
            report.error(&written.span, format!("`{}` depends on itself", one.name), "remove it from `depends_on`");
            continue;
        }
        let Some(target) = all.get(written.name.as_str()) else {
            if !broken.contains(&written.name) {
                if let Some((why, help)) = left_out(&written.name, report) {
                    let message = format!("`{}` depends on `{}`, which {why}", one.name, written.name);
                    report.error(&written.span, message, help);
                    continue;
                }
                let known = all.keys().copied().filter(|name| *name != one.name.as_str());
                let otherwise = format!("define [service.{0}] or [worker.{0}]", written.name);
                let message = format!("`{}` depends on `{}`, which is not defined", one.name, written.name);
                report.error(&written.span, message, did_you_mean(&written.name, known, otherwise));
            }
            continue;
        };
        let condition = match (&target.kind, written.condition) {
            (ReadKind::Worker(_), None) => Condition::Completed,
            (ReadKind::Service { health: true, .. }, None) => Condition::Healthy,
            (ReadKind::Service { .. }, None) => Condition::Started,
            (ReadKind::Service { .. }, Some(Condition::Completed)) => {
                let message = format!("`{}` is a service, and a service never completes", written.name);
                report.error(&written.span, message, format!("make it [worker.{}], or wait for healthy", written.name));
                continue;
            }
            (ReadKind::Worker(_), Some(Condition::Healthy)) => {
                let message = format!("`{}` is a worker, and a worker has no health", written.name);
                report.error(&written.span, message, "wait for completed, or for started");
                continue;
            }
            (_, Some(condition)) => condition,
        };
        if let ReadKind::Service { spec, .. } = &target.kind
            && spec.replicas == 0
        {
            let message =
                format!("`{}` has replicas = 0, so `{}` waits for it until it is scaled up", target.name, one.name);
            report.warning(&written.span, message, "give it a replica, or remove the dependency");
        }
        found.push(Dependency { name: target.name.clone(), condition });
    }
    found
}

/// Every circle of dependencies, once. Walks without recursion, so that a long chain costs no stack.
pub(crate) fn circles(read: &[Read], all: &BTreeMap<&str, &Read>, report: &mut Report<'_>) {
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in read {
        // The path from `start`: each workload on it and how many of its dependencies were followed.
        let mut path: Vec<(&Read, usize)> = vec![(start, 0)];
        while let Some((one, followed)) = path.last_mut() {
            let one = *one;
            let next = one.depends_on.get(*followed);
            *followed += 1;
            let Some(next) = next.filter(|_| !done.contains(one.name.as_str())) else {
                done.insert(one.name.as_str());
                path.pop();
                continue;
            };
            let on_path = path.iter().position(|(on_path, _)| on_path.name.as_str() == next.name);
            if next.name == one.name.as_str() {
                continue; // reported as depending on itself
            }
            if let Some(from) = on_path {
                let mut circle: Vec<&str> = path[from..].iter().map(|(on_path, _)| on_path.name.as_str()).collect();
                circle.push(next.name.as_str());
                let message = format!("`depends_on` goes round in a circle: {}", circle.join(" -> "));
                report.error(&next.span, message, "remove one of these dependencies");
            } else if let Some(target) = all.get(next.name.as_str()).filter(|t| !done.contains(t.name.as_str())) {
                path.push((target, 0));
            }
        }
    }
}

/// One socket of the host is published once.
pub(crate) fn host_ports(read: &[Read], report: &mut Report<'_>) {
    let mut seen: BTreeMap<u16, Vec<(&Name, &Placed<coppice_spec::PortSpec>)>> = BTreeMap::new();
    for one in read {
        let ReadKind::Service { ports, .. } = &one.kind else { continue };
        for port in ports.iter().filter(|port| port.value.host != 0) {
            let same = seen.entry(port.value.host).or_default();
            if let Some((owner, other)) = same.iter().find(|(_, other)| host_port::collide(&other.value, &port.value)) {
                let place = report.source.whereabouts(&other.span);
                let message = format!("host port {} is already published by `{owner}` ({place})", port.value.host);
                let help = format!("use another host port, or {} alone for a free one", port.value.container);
                report.error(&port.span, message, help);
            }
            same.push((&one.name, port));
        }
    }
}

/// Routes name services that exist, and no two of them take the same requests.
pub(crate) fn routes(read: &[Read], all: &BTreeMap<&str, &Read>, broken: &BTreeSet<String>, report: &mut Report<'_>) {
    let mut seen: BTreeMap<String, &Name> = BTreeMap::new();
    for one in read {
        let ReadKind::Service { spec, mentioned, .. } = &one.kind else { continue };
        for service in mentioned {
            let message = match all.get(service.value.as_str()).map(|found| &found.kind) {
                Some(ReadKind::Service { .. }) => continue,
                Some(ReadKind::Worker(_)) => format!("`{}` is a worker, and workers answer no requests", service.value),
                None if broken.contains(service.value.as_str()) => continue,
                None if report.left_out.contains_key(service.value.as_str()) => {
                    if let Some((why, help)) = left_out(service.value.as_str(), report) {
                        let message = format!("a route of `{}` names `{}`, which {why}", one.name, service.value);
                        report.error(&service.span, message, help);
                    }
                    continue;
                }
                None => format!("a route of `{}` names `{}`, which is not defined", one.name, service.value),
            };
            let known = all.iter().filter(|(_, read)| matches!(read.kind, ReadKind::Service { .. }));
            let otherwise = format!("define [service.{}]", service.value);
            let help = did_you_mean(service.value.as_str(), known.map(|(name, _)| *name), otherwise);
            report.error(&service.span, message, help);
        }
        for route in &spec.routes {
            for condition in route.conditions() {
                if let Some(owner) = seen.insert(condition.clone(), &one.name) {
                    let message = format!("a route of `{}` takes the same requests as one of `{owner}`", one.name);
                    let help = format!("give one of them another host, path, method or header ({condition})");
                    report.error(&one.key_span, message, help);
                }
            }
        }
    }
}

/// A group as written.
pub(crate) struct WrittenGroup {
    pub(crate) name: Name,
    pub(crate) key_span: Range<usize>,
    pub(crate) members: Vec<Placed<String>>,
    pub(crate) supervise: coppice_spec::SuperviseSpec,
}

/// The groups with their members: those listed, then those that name the group, in source order.
pub(crate) fn groups(
    written: Vec<WrittenGroup>,
    read: &[Read],
    all: &BTreeMap<&str, &Read>,
    broken: &BTreeSet<String>,
    broken_groups: &BTreeSet<String>,
    hooks: &HooksSpec,
    report: &mut Report<'_>,
) -> BTreeMap<Name, GroupSpec> {
    let mut group_of: BTreeMap<String, Name> = BTreeMap::new();
    let mut groups: BTreeMap<Name, GroupSpec> = BTreeMap::new();
    let mut unlisted: Vec<(Name, Range<usize>)> = Vec::new();
    for group in written {
        if all.contains_key(group.name.as_str()) {
            let message = format!("`{}` is a group and also a service or worker", group.name);
            report.error(&group.key_span, message, "rename the group: both are nodes of one tree");
        }
        let mut members: Vec<Name> = Vec::new();
        let listed = !group.members.is_empty();
        for member in group.members {
            let Some(target) = all.get(member.value.as_str()) else {
                // What is left out is simply not in the group.
                if !broken.contains(&member.value) && !report.left_out.contains_key(&member.value) {
                    let message = format!("group `{}` names `{}`, which is not defined", group.name, member.value);
                    let otherwise = format!("define [service.{0}] or [worker.{0}]", member.value);
                    report.error(&member.span, message, did_you_mean(&member.value, all.keys().copied(), otherwise));
                }
                continue;
            };
            if hooks.contains(&member.value) {
                let message = format!("`{}` is a hook, and hooks are not supervised", member.value);
                report.error(&member.span, message, "remove it here, or take it out of [hooks]");
                continue;
            }
            match group_of.insert(member.value.clone(), group.name.clone()) {
                Some(other) if other == group.name => {
                    let message = format!("`{}` is listed twice in group `{other}`", member.value);
                    report.error(&member.span, message, "remove one of the two");
                }
                Some(other) => {
                    let message = format!("`{}` is already in group `{other}`", member.value);
                    report.error(&member.span, message, "a workload has one supervisor: remove it from one of the two");
                }
                None => members.push(target.name.clone()),
            }
        }
        if !listed {
            unlisted.push((group.name.clone(), group.key_span));
        }
        groups.insert(group.name, GroupSpec { supervise: group.supervise, members });
    }
    let mut in_order: Vec<&Read> = read.iter().collect();
    in_order.sort_by_key(|one| one.key_span.start);
    for one in in_order {
        let Some(wanted) = &one.group else { continue };
        let Some(group) = groups.get_mut(wanted.value.as_str()) else {
            if !broken_groups.contains(&wanted.value) {
                let message = format!("`{}` is in group `{}`, which is not defined", one.name, wanted.value);
                let otherwise = format!("add [group.{}]", wanted.value);
                report.error(
                    &wanted.span,
                    message,
                    did_you_mean(&wanted.value, groups.keys().map(Name::as_str), otherwise),
                );
            }
            continue;
        };
        match group_of.get(one.name.as_str()) {
            Some(other) if other.as_str() != wanted.value => {
                let message = format!("`{}` is already in group `{other}`", one.name);
                report.error(&wanted.span, message, "a workload has one supervisor: remove it from one of the two");
            }
            Some(_) => {}
            None => group.members.push(one.name.clone()),
        }
    }
    for (name, span) in &unlisted {
        let complete = broken.is_empty();
        if complete && groups.get(name).is_some_and(|group| group.members.is_empty()) {
            let message = format!("group `{name}` has no members");
            report.warning(span, message, format!("list members, or write group = \"{name}\" in a service"));
        }
    }
    groups
}

/// Adds a local volume for each named one that is used and not declared; warns of those declared and not used.
pub(crate) fn volumes<'m>(
    volumes: &mut BTreeMap<Name, VolumeSpec>,
    declared: &[(Name, Range<usize>)],
    mounts: impl Iterator<Item = &'m Placed<VolumeMount>>,
    report: &mut Report<'_>,
) {
    let mut used: BTreeSet<&Name> = BTreeSet::new();
    for mount in mounts {
        let MountSource::Volume(name) = &mount.value.source else { continue };
        used.insert(name);
        if declared.iter().any(|(seen, _)| seen == name) {
            continue;
        }
        if let Some((why, help)) = left_out(&format!("volume {name}"), report) {
            report.error(&mount.span, format!("volume `{name}` {why}"), help);
        }
        let known = declared.iter().map(|(seen, _)| seen.as_str());
        if let Some(near) = nearest(name.as_str(), known).filter(|near| name.as_str().len() > 3 && near.len() > 3) {
            let message = format!("volume `{name}` is not declared, so it is a new local one");
            report.warning(&mount.span, message, format!("did you mean `{near}`? Else add [volume.{name}]"));
        }
        volumes.entry(name.clone()).or_default();
    }
    for (name, span) in declared.iter().filter(|(name, _)| !used.contains(name)) {
        report.warning(span, format!("volume `{name}` is declared and used by nothing"), "mount it, or remove it");
    }
}
