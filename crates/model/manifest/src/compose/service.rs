//! One service of a Compose file → `[service.X]` or `[worker.X]`.

use std::collections::BTreeSet;

use coppice_base::{Bytes, MilliCpu};

use super::File;
use super::health::{self, duration, number};
use super::ledger::{Ledger, Map, Pair};
use super::mounts::Mounts;
use super::ports;
use super::reasons;
use super::yaml::{Node, Value};
use crate::toml_text::{Document, array, quote};
use crate::{names, security, shell_words, workload};

/// The services that the service in `node` waits for to complete.
pub(super) fn waits_to_complete(node: &Node) -> BTreeSet<String> {
    let map = |node: &Node| match &node.value {
        Value::Map(pairs) => pairs.clone(),
        _ => Vec::new(),
    };
    let find = |node: &Node, key: &str| map(node).into_iter().find(|(seen, _)| seen.text == key).map(|(_, node)| node);
    let Some(dependencies) = find(node, "depends_on") else { return BTreeSet::new() };
    let completed =
        |node: &Node| find(node, "condition").is_some_and(|c| c.text() == Some("service_completed_successfully"));
    map(&dependencies).into_iter().filter(|(_, node)| completed(node)).map(|(key, _)| key.text).collect()
}

/// A section being gathered: lines first, then its tables.
#[derive(Default)]
struct Section {
    lines: Vec<(&'static str, String)>,
    env: Vec<(String, String)>,
    labels: Vec<(String, String)>,
    limits: Vec<(&'static str, String)>,
    extra_hosts: Vec<(String, String)>,
    health: Vec<(&'static str, String)>,
}

/// Writes the section. Says whether the service leaves `restart` to the default, which is not the same on both sides.
pub(super) fn convert(
    name: &str,
    node: &Node,
    path: &str,
    file: &File,
    document: &mut Document,
    ledger: &mut Ledger<'_>,
) -> bool {
    let Some(map) = Map::open(node, path, ledger) else { return false };
    let worker = file.workers.contains(name);
    let ours = &file.names[name];
    let mut section = Section::default();
    section.image(&map, name, file, ledger);
    section.process(&map, ledger);
    section.environment(&map, ledger);
    section.replicas(&map, worker, ledger);
    section.restart(&map, worker, ledger);
    section.network(&map, worker, ledger);
    let mut mounts = Mounts::default();
    if let Some((path, node)) = map.take("volumes") {
        mounts.volumes(node, &path, file, ledger);
    }
    if let Some((path, node)) = map.take("tmpfs") {
        mounts.tmpfs(node, &path, ledger);
    }
    section.list("volumes", &mounts.volumes);
    section.list("tmpfs", &mounts.tmpfs);
    section.depends_on(&map, ours, file, ledger);
    section.security(&map, ledger);
    section.limits(&map, ledger);
    if let Some((path, node)) = map.take("healthcheck") {
        if worker {
            ledger.leave(&path, &node.span, "it became a worker, and a worker has no health check");
        } else {
            section.health = health::convert(node, &path, ledger);
        }
    }
    if let Some((path, node)) = map.take("deploy")
        && let Some(deploy) = Map::open(node, &path, ledger)
    {
        section.deploy(&map, &deploy, worker, ledger);
        deploy.finish(reasons::deploy, ledger);
    }
    map.finish(reasons::service, ledger);
    let default_restart = !worker && !section.lines.iter().any(|(key, _)| *key == "restart");
    section.write(if worker { "worker" } else { "service" }, ours, document);
    default_restart
}

impl Section {
    fn write(self, kind: &str, name: &str, document: &mut Document) {
        document.section(&[kind, name]);
        for (key, value) in &self.lines {
            document.line(key, value);
        }
        let mut table = |title: &str, lines: Vec<(&str, String)>| {
            if !lines.is_empty() {
                document.section(&[kind, name, title]);
                for (key, value) in lines {
                    document.line(key, &value);
                }
            }
        };
        fn quoted(pairs: &[(String, String)]) -> Vec<(&str, String)> {
            pairs.iter().map(|(key, value)| (key.as_str(), quote(value))).collect()
        }
        table("env", quoted(&self.env));
        table("limits", self.limits);
        table("labels", quoted(&self.labels));
        table("extra_hosts", quoted(&self.extra_hosts));
        table("health", self.health);
    }

    fn line(&mut self, key: &'static str, value: String) {
        self.lines.push((key, value));
    }

    fn list(&mut self, key: &'static str, items: &[String]) {
        if !items.is_empty() {
            self.line(key, array(items));
        }
    }

    fn image(&mut self, map: &Map<'_>, name: &str, file: &File, ledger: &mut Ledger<'_>) {
        let valid = |text: &str| workload::check_image(text).is_ok();
        let image =
            map.take("image").and_then(|(path, node)| ledger.checked(node, &path, "is not an image reference", valid));
        let named = image.is_some();
        // What Compose itself would call the image it builds.
        let image = image.unwrap_or_else(|| format!("{}-{}", file.app, name.to_ascii_lowercase()));
        match map.take("build") {
            Some((path, node)) => {
                let why = format!("images are not built in this version: build it and tag it `{image}`");
                ledger.leave(&path, &node.span, why);
            }
            None if !named => {
                ledger.leave(&map.child("image"), &map.span, format!("there is no usable image: `{image}` stands in"));
            }
            None => {}
        }
        self.line("image", quote(&image));
        let Some((path, node)) = map.take("pull_policy") else { return };
        match ledger.text(node, &path).as_deref() {
            Some("always") => self.line("pull", quote("always")),
            Some("missing" | "if_not_present") => self.line("pull", quote("missing")),
            Some("never") => self.line("pull", quote("never")),
            Some(other) => ledger.leave(&path, &node.span, format!("pull policy `{other}` has no counterpart")),
            None => {}
        }
    }

    fn process(&mut self, map: &Map<'_>, ledger: &mut Ledger<'_>) {
        for key in ["entrypoint", "command"] {
            let Some((path, node)) = map.take(key).filter(|(_, node)| !node.is_null()) else { continue };
            if let Value::List(items) = &node.value {
                let words = ledger.texts(node, &path);
                if words.len() == items.len() {
                    self.line(key, array(&words));
                } else {
                    ledger.leave(&path, &node.span, "a word of it cannot be carried, so none is");
                }
                continue;
            }
            let Some(text) = ledger.text(node, &path) else { continue };
            match shell_words::split(&text) {
                // A variable may hold blanks: it is expanded first and split afterwards, as Compose does.
                Ok(_) if text.contains("${") => self.line(key, quote(&text)),
                Ok(split) => self.line(key, array(&split.words)),
                Err(_) => ledger.leave(&path, &node.span, "it has a quote that is never closed"),
            }
        }
        if let Some((path, node)) = map.take("user")
            && let Some(text) = ledger.checked(node, &path, "is not a user", security::is_user)
        {
            self.line("user", quote(&text));
        }
        if let Some((path, node)) = map.take("working_dir") {
            let absolute = |text: &str| text == "/" || crate::mount::container_path(text, "").is_ok();
            if let Some(text) = ledger.checked(node, &path, "is not an absolute path", absolute) {
                self.line("working_dir", quote(&text));
            }
        }
        if let Some((path, node)) = map.take("hostname")
            && let Some(text) = ledger.checked(node, &path, "is not a host name", security::is_hostname)
        {
            self.line("hostname", quote(&text));
        }
        if let Some((path, node)) = map.take("stop_signal") {
            let valid = |text: &str| names::signal(text).is_ok();
            if let Some(text) = ledger.checked(node, &path, "is not a signal", valid) {
                self.line("stop_signal", quote(&text));
            }
        }
        if let Some((path, node)) = map.take("stop_grace_period")
            && let Some(text) = duration(node, &path, ledger)
        {
            self.line("stop_timeout", quote(&text));
        }
    }

    fn environment(&mut self, map: &Map<'_>, ledger: &mut Ledger<'_>) {
        let mut files = Vec::new();
        if let Some((path, node)) = map.take("env_file") {
            for (path, item) in ledger.items(node, &path) {
                let file = match &item.value {
                    Value::Map(_) => {
                        let Some(file) = Map::open(item, &path, ledger) else { continue };
                        let text = file.take("path").and_then(|(path, node)| ledger.text(node, &path));
                        if let Some((path, node)) = file.take("required") {
                            let why = "an env file must exist: there is no optional one";
                            ledger.leave(&path, &node.span, why);
                        }
                        file.finish(reasons::other, ledger);
                        text
                    }
                    _ => ledger.text(item, &path),
                };
                files.extend(file);
            }
        }
        self.list("env_file", &files);
        if let Some((path, node)) = map.take("environment") {
            for Pair { key, value, span } in ledger.pairs(node, &path) {
                if let Some(value) = value {
                    self.env.push((key, value));
                } else if crate::expand::is_variable_name(&key) {
                    let why = format!("handed on from your environment; empty, not absent, when {key} is unset there");
                    ledger.leave(&format!("{path}.{key}"), &span, why);
                    self.env.push((key.clone(), format!("${{{key}:-}}")));
                } else {
                    ledger.leave(&format!("{path}.{key}"), &span, "it has no value");
                }
            }
        }
        if let Some((path, node)) = map.take("labels") {
            let labels = ledger.pairs(node, &path).into_iter();
            self.labels = labels.map(|pair| (pair.key, pair.value.unwrap_or_default())).collect();
        }
    }

    fn replicas(&mut self, map: &Map<'_>, worker: bool, ledger: &mut Ledger<'_>) {
        let profiles = map.take("profiles");
        let scale = map.take("scale");
        if let Some((path, node)) = &profiles {
            let why = match worker {
                true => "there are no profiles: it is always part of the app",
                false => "there are no profiles: it is defined and stopped (replicas = 0) until you give it a replica",
            };
            ledger.leave(path, &node.span, why);
            if !worker {
                self.line("replicas", "0".to_owned());
            }
        }
        if let Some((path, node)) = scale {
            self.count(node, &path, worker, ledger);
        }
    }

    /// `scale` or `deploy.replicas`.
    fn count(&mut self, node: &Node, path: &str, worker: bool, ledger: &mut Ledger<'_>) {
        if worker || self.lines.iter().any(|(key, _)| *key == "replicas") {
            let why = if worker { "a worker runs once" } else { "the number of replicas is already settled" };
            return ledger.leave(path, &node.span, why);
        }
        let valid = |text: &str| text.parse::<u32>().is_ok_and(|n| n <= 10_000);
        if let Some(text) = ledger.checked(node, path, "is not a number from 0 to 10000", valid) {
            self.line("replicas", number(&text));
        }
    }

    fn restart(&mut self, map: &Map<'_>, worker: bool, ledger: &mut Ledger<'_>) {
        let Some((path, node)) = map.take("restart") else { return };
        let Some(text) = ledger.text(node, &path) else { return };
        let (word, tries) = text.split_once(':').map_or((text.as_str(), None), |(word, tries)| (word, Some(tries)));
        if let Some(tries) = tries.filter(|_| !text.contains("${")) {
            let why =
                format!("at most {tries} restarts: restarts are counted by [supervise], max_restarts within window");
            ledger.leave(&path, &node.span, why);
        }
        self.policy(word, worker, node, &path, ledger);
    }

    fn policy(&mut self, word: &str, worker: bool, node: &Node, path: &str, ledger: &mut Ledger<'_>) {
        let policy = match word {
            "no" | "none" | "false" | "False" => "never",
            "on-failure" => "on-failure",
            "always" | "unless-stopped" | "any" if worker => {
                let why = "others wait for it to complete, so it became a worker, which is not restarted on success";
                ledger.leave(path, &node.span, why);
                "on-failure"
            }
            "always" | "unless-stopped" | "any" => "always",
            other => return ledger.leave(path, &node.span, format!("`{other}` is not a restart policy")),
        };
        self.line("restart", quote(policy));
    }

    fn network(&mut self, map: &Map<'_>, worker: bool, ledger: &mut Ledger<'_>) {
        let mut bridge = true;
        if let Some((path, node)) = map.take("network_mode") {
            match ledger.text(node, &path).as_deref() {
                Some(mode @ ("bridge" | "host" | "none")) => {
                    bridge = mode == "bridge";
                    self.line("network", quote(mode));
                }
                Some(mode) => {
                    ledger.leave(
                        &path,
                        &node.span,
                        format!("network mode `{mode}` has no counterpart: bridge is used"),
                    );
                }
                None => {}
            }
        }
        if let Some((path, node)) = map.take("ports") {
            if worker {
                ledger.leave(&path, &node.span, "it became a worker, and a worker publishes no ports");
            } else if bridge {
                let mut ports = Vec::new();
                for (path, item) in ledger.items(node, &path) {
                    ports::convert(item, &path, &mut ports, ledger);
                }
                self.list("ports", &ports);
            } else {
                ledger.leave(&path, &node.span, "ports are published on the bridge network only");
            }
        }
        if let Some((path, node)) = map.take("extra_hosts") {
            self.hosts(node, &path, ledger);
        }
    }

    fn hosts(&mut self, node: &Node, path: &str, ledger: &mut Ledger<'_>) {
        let mut lines = Vec::new();
        if let Value::Map(pairs) = &node.value {
            for (key, node) in pairs {
                let path = format!("{path}.{}", key.text);
                if let Some(address) = ledger.text(node, &path) {
                    lines.push((key.text.clone(), address, node, path));
                }
            }
        } else {
            for (path, item) in ledger.items(node, path) {
                let Some(text) = ledger.text(item, &path) else { continue };
                match security::host_line(&text) {
                    Some((name, address)) => lines.push((name, address, item, path)),
                    None => ledger.leave(&path, &item.span, format!("`{text}` is not name:address")),
                }
            }
        }
        for (name, address, node, path) in lines {
            let plain = address.trim_start_matches('[').trim_end_matches(']');
            if !security::is_hostname(&name) || self.extra_hosts.iter().any(|(seen, _)| *seen == name) {
                ledger.leave(&path, &node.span, format!("`{name}` is not a host name, or is there already"));
            } else if plain.contains("${") || plain.parse::<std::net::IpAddr>().is_ok() {
                self.extra_hosts.push((name, plain.to_owned()));
            } else {
                ledger.leave(&path, &node.span, format!("`{address}` is not an IP address; write the host's own"));
            }
        }
    }

    fn depends_on(&mut self, map: &Map<'_>, ours: &str, file: &File, ledger: &mut Ledger<'_>) {
        let Some((path, node)) = map.take("depends_on") else { return };
        let mut wanted: Vec<(String, &str, String, &Node)> = Vec::new();
        if let Value::Map(pairs) = &node.value {
            for (key, node) in pairs {
                let path = format!("{path}.{}", key.text);
                let Some(one) = Map::open(node, &path, ledger) else { continue };
                let written = one
                    .take("condition")
                    .and_then(|(path, node)| ledger.text(node, &path).map(|text| (path, node, text)));
                let condition = match &written {
                    None => "started",
                    Some((path, node, text)) => match text.as_str() {
                        "service_started" => "started",
                        "service_healthy" => "healthy",
                        "service_completed_successfully" => "completed",
                        other => {
                            ledger.leave(path, &node.span, format!("`{other}` is not a condition: started is used"));
                            "started"
                        }
                    },
                };
                for key in ["restart", "required"] {
                    if let Some((path, node)) = one.take(key) {
                        let why = match key {
                            "restart" => "who restarts with whom is said by a [group.X] and its strategy",
                            _ => "every dependency is required",
                        };
                        ledger.leave(&path, &node.span, why);
                    }
                }
                one.finish(reasons::other, ledger);
                wanted.push((key.text.clone(), condition, path, node));
            }
        } else {
            for (path, item) in ledger.items(node, &path) {
                if let Some(text) = ledger.text(item, &path) {
                    wanted.push((text, "started", path, item));
                }
            }
        }
        let mut dependencies: Vec<String> = Vec::new();
        for (name, condition, path, node) in wanted {
            let Some(target) = file.names.get(&name).filter(|target| *target != ours) else {
                ledger.leave(&path, &node.span, format!("`{name}` is not another service of this file"));
                continue;
            };
            let condition = match condition {
                "healthy" if file.workers.contains(&name) => {
                    let why = format!("`{target}` became a worker, which has no health: waiting for it to complete");
                    ledger.leave(&path, &node.span, why);
                    "completed"
                }
                other => other,
            };
            let dependency = format!("{target}:{condition}");
            if !dependencies.contains(&dependency) {
                dependencies.push(dependency);
            }
        }
        self.list("depends_on", &dependencies);
    }

    fn security(&mut self, map: &Map<'_>, ledger: &mut Ledger<'_>) {
        for key in ["read_only", "privileged", "init"] {
            if let Some((path, node)) = map.take(key).filter(|(_, node)| !node.is_null())
                && let Some(value) = ledger.boolean(node, &path)
            {
                self.line(key, value);
            }
        }
        for key in ["cap_add", "cap_drop"] {
            let Some((path, node)) = map.take(key) else { continue };
            let mut capabilities = Vec::new();
            for (path, item) in ledger.items(node, &path) {
                let valid = |text: &str| names::capability(text).is_ok();
                capabilities.extend(ledger.checked(item, &path, "is not a capability", valid));
            }
            self.list(key, &capabilities);
        }
    }

    fn limits(&mut self, map: &Map<'_>, ledger: &mut Ledger<'_>) {
        for (theirs, limit) in
            [("cpus", "cpu"), ("mem_limit", "memory"), ("pids_limit", "pids"), ("shm_size", "shm_size")]
        {
            if let Some((path, node)) = map.take(theirs) {
                self.limit(limit, node, &path, ledger);
            }
        }
        if let Some((path, node)) = map.take("ulimits")
            && let Some(ulimits) = Map::open(node, &path, ledger)
        {
            if let Some((path, node)) = ulimits.take("nofile") {
                self.nofile(node, &path, ledger);
            }
            ulimits.finish(|_| "only nofile can be set; other limits are the node's".to_owned(), ledger);
        }
    }

    fn nofile(&mut self, node: &Node, path: &str, ledger: &mut Ledger<'_>) {
        let Value::Map(_) = &node.value else { return self.limit("nofile", node, path, ledger) };
        let Some(map) = Map::open(node, path, ledger) else { return };
        let (soft, hard) = (map.take("soft"), map.take("hard"));
        match (soft, hard) {
            (Some((path, node)), hard) => {
                self.limit("nofile", node, &path, ledger);
                if let Some((path, hard)) = hard {
                    let same = hard.text() == node.text();
                    let why =
                        if same { "soft and hard are one limit" } else { "soft and hard are one limit: soft is used" };
                    ledger.leave(&path, &hard.span, why);
                }
            }
            (None, Some((path, node))) => self.limit("nofile", node, &path, ledger),
            (None, None) => {}
        }
        map.finish(reasons::other, ledger);
    }

    fn limit(&mut self, limit: &'static str, node: &Node, path: &str, ledger: &mut Ledger<'_>) {
        if self.limits.iter().any(|(seen, _)| *seen == limit) {
            return ledger.leave(path, &node.span, "this limit is already settled by another key");
        }
        if matches!(node.text(), Some("0" | "-1")) {
            return ledger.leave(path, &node.span, "unlimited, which is the default");
        }
        let value = match limit {
            "cpu" => ledger.checked(node, path, "is not an amount of CPU", |text| text.parse::<MilliCpu>().is_ok()),
            "pids" | "nofile" => {
                let max = if limit == "pids" { 4_194_304 } else { 1_073_741_816 };
                let valid = |text: &str| text.parse::<u64>().is_ok_and(|n| (1..=max).contains(&n));
                ledger.checked(node, path, "is not a number that can be a limit", valid)
            }
            _ => {
                let enough = |bytes: Bytes| limit != "memory" || bytes.0 >= 1 << 20;
                let valid = |text: &str| text.parse::<Bytes>().is_ok_and(|bytes| bytes.0 > 0 && enough(bytes));
                ledger.checked(node, path, "is not a size of 1 MiB or more, as in 512m", valid)
            }
        };
        if let Some(value) = value {
            let bare = matches!(limit, "pids" | "nofile");
            self.limits.push((limit, if bare { number(&value) } else { quote(&value) }));
        }
    }

    fn deploy(&mut self, service: &Map<'_>, deploy: &Map<'_>, worker: bool, ledger: &mut Ledger<'_>) {
        if let Some((path, node)) = deploy.take("replicas") {
            self.count(node, &path, worker, ledger);
        }
        if let Some((path, node)) = deploy.take("resources")
            && let Some(resources) = Map::open(node, &path, ledger)
        {
            if let Some((path, node)) = resources.take("limits")
                && let Some(limits) = Map::open(node, &path, ledger)
            {
                for (theirs, limit) in [("cpus", "cpu"), ("memory", "memory"), ("pids", "pids")] {
                    if let Some((path, node)) = limits.take(theirs) {
                        self.limit(limit, node, &path, ledger);
                    }
                }
                limits.finish(reasons::other, ledger);
            }
            resources.finish(|_| "Coppice limits resources and reserves none in this version".to_owned(), ledger);
        }
        if let Some((path, node)) = deploy.take("restart_policy")
            && let Some(policy) = Map::open(node, &path, ledger)
        {
            if let Some((path, node)) = policy.take("condition") {
                if service.has("restart") {
                    ledger.leave(&path, &node.span, "`restart` already says it");
                } else if let Some(word) = ledger.text(node, &path) {
                    self.policy(&word, worker, node, &path, ledger);
                }
            }
            policy.finish(|_| "restarts are counted by [supervise]: max_restarts, window, backoff".to_owned(), ledger);
        }
    }
}
