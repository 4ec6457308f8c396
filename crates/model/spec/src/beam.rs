//! Erlang and Elixir releases: a workload whose program is a release's tarball, on top of an image that has what the release
//! needs of an operating system.
//!
//! Who reads a manifest knows the tarball's path; who sends it to a node ([`BeamRelease::Packed`]) made it a layer on the
//! image, and from then on it is an image like any other: pinned by digest, rolled out and back. The cookie is never here,
//! only the name of the secret that holds it.

use std::collections::BTreeMap;

use coppice_base::Name;
use serde::{Deserialize, Serialize};

use crate::{OnRotate, SecretTarget, SecretUse, WorkloadSpec};

/// What makes a workload a node of Erlang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BeamSpec {
    pub release: BeamRelease,
    /// `name@host`, or `name` alone; `None`: the release's own.
    pub node: Option<String>,
    /// The secret with the cookie; `None`: the release's own.
    pub cookie: Option<Name>,
}

/// Where the release is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BeamRelease {
    /// A tarball on the machine of the manifest, by its absolute path. No node takes such a spec.
    File(String),
    /// In the workload's image, below [`BeamSpec::DIRECTORY`].
    Packed {
        /// The release's name: its program is `bin/<name>`.
        name: String,
        tool: BeamTool,
        /// SHA-256 of the tarball, in hex.
        sha256: String,
    },
}

/// What made the release; their start scripts differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeamTool {
    Mix,
    /// rebar3's relx, with its extended start script.
    Rebar3,
}

impl BeamSpec {
    /// Where a release is unpacked in its image.
    pub const DIRECTORY: &str = "/app";
    /// The variable with the cookie.
    pub const COOKIE: &str = "RELEASE_COOKIE";

    /// The name epmd knows the node by: what is before the `@`.
    pub fn short_name(&self) -> Option<&str> {
        self.node.as_deref().map(|node| node.split('@').next().unwrap_or(node))
    }

    /// The host part of the node's name.
    pub fn host(&self) -> Option<&str> {
        self.node.as_deref()?.split_once('@').map(|(_, host)| host)
    }

    /// What the release is told of its node's name. A host with a dot is a long name, as Erlang has it.
    pub fn env(&self) -> BTreeMap<String, String> {
        let Some(node) = &self.node else { return BTreeMap::new() };
        let long = self.host().is_some_and(|host| host.contains('.'));
        let distribution = if long { "name" } else { "sname" };
        [("RELEASE_NODE", node.as_str()), ("RELEASE_DISTRIBUTION", distribution)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    }

    /// How the cookie gets there.
    pub fn cookie_use(&self) -> Option<SecretUse> {
        let target = SecretTarget::Env(Self::COOKIE.to_owned());
        self.cookie.clone().map(|secret| SecretUse { secret, part: None, target, on_rotate: OnRotate::Restart })
    }

    /// What asks the node that runs in the container: `expression` (of Elixir or, with its full stop, Erlang), which must be
    /// neither false nor nil; without one, whether it answers at all. `None` for a release that is not packed.
    pub fn rpc(&self, expression: Option<&str>) -> Option<Vec<String>> {
        let BeamRelease::Packed { name, tool, .. } = &self.release else { return None };
        let program = format!("{}/bin/{name}", Self::DIRECTORY);
        let words = match (tool, expression) {
            (BeamTool::Mix, None) => vec!["rpc".to_owned(), ":ok".to_owned()],
            (BeamTool::Mix, Some(text)) => {
                vec!["rpc".to_owned(), format!("({text}) || raise(\"the health expression is false or nil\")")]
            }
            (BeamTool::Rebar3, None) => vec!["ping".to_owned()],
            (BeamTool::Rebar3, Some(text)) => vec!["eval".to_owned(), text.to_owned()],
        };
        Some([program].into_iter().chain(words).collect())
    }

    /// What is wrong with a node's name.
    ///
    /// # Errors
    /// The reason, as a clause.
    pub fn check_node(node: &str) -> Result<(), &'static str> {
        let word = |text: &str, more: &[char]| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || more.contains(&c))
        };
        let (name, host) = match node.split_once('@') {
            Some((name, host)) => (name, Some(host)),
            None => (node, None),
        };
        if node.len() > 255 {
            return Err("it is longer than 255 characters");
        }
        if !word(name, &['-']) {
            return Err("the part before the @ takes letters, digits, '_' and '-'");
        }
        match host {
            Some(host) if !word(host, &['-', '.']) => Err("the part after the @ is not a host's name"),
            _ => Ok(()),
        }
    }
}

/// What must hold of a workload's release when a node gets it.
pub(crate) fn check(kind: &str, name: &str, workload: &WorkloadSpec, broken: &mut Vec<String>) {
    let Some(beam) = &workload.beam else { return };
    match &beam.release {
        BeamRelease::File(path) => broken.push(format!(
            "{kind} {name} has a release that is a file of another machine ({path}): `coppice up` sends it first"
        )),
        BeamRelease::Packed { name: release, .. } => {
            if !is_release_name(release) {
                broken.push(format!("{kind} {name}: {release:?} is not the name of a release"));
            }
        }
    }
    if let Some(Err(why)) = beam.node.as_deref().map(BeamSpec::check_node) {
        broken.push(format!("{kind} {name} has a node name that Erlang does not take: {why}"));
    }
    if workload.env.contains_key(BeamSpec::COOKIE) {
        broken.push(format!("{kind} {name} has its cookie in its environment: keep it in a secret"));
    }
}

/// An Erlang application's name: `[a-z][a-zA-Z0-9_]*`.
pub fn is_release_name(text: &str) -> bool {
    text.len() <= 255
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(tool: BeamTool) -> BeamSpec {
        let release = BeamRelease::Packed { name: "shop".into(), tool, sha256: "00".repeat(32) };
        BeamSpec { release, node: Some("shop@web".into()), cookie: Some(Name::new("cookie").unwrap()) }
    }

    #[test]
    fn a_release_is_asked_by_its_own_program() {
        let words = |tool, text| packed(tool).rpc(text).unwrap();
        assert_eq!(words(BeamTool::Mix, None), ["/app/bin/shop", "rpc", ":ok"]);
        assert!(words(BeamTool::Mix, Some("Shop.well?()"))[2].starts_with("(Shop.well?()) || raise("));
        assert_eq!(words(BeamTool::Rebar3, None), ["/app/bin/shop", "ping"]);
        let file = BeamSpec { release: BeamRelease::File("/x".into()), ..packed(BeamTool::Mix) };
        assert_eq!(file.rpc(None), None);
    }

    #[test]
    fn a_host_with_a_dot_is_a_long_name() {
        assert_eq!(packed(BeamTool::Mix).env()["RELEASE_DISTRIBUTION"], "sname");
        let long = BeamSpec { node: Some("shop@web.shop.internal".into()), ..packed(BeamTool::Mix) };
        assert_eq!(long.env()["RELEASE_DISTRIBUTION"], "name");
        assert_eq!((long.short_name(), long.host()), (Some("shop"), Some("web.shop.internal")));
    }

    #[test]
    fn node_names_that_erlang_does_not_take_are_refused() {
        for node in ["shop", "shop@web", "shop-1@web.shop.internal"] {
            assert_eq!(BeamSpec::check_node(node), Ok(()), "{node}");
        }
        for node in ["", "@web", "shop@", "sh op@web", "shop@we b", "a@b@c", "shop;halt@web"] {
            assert!(BeamSpec::check_node(node).is_err(), "{node}");
        }
    }
}
