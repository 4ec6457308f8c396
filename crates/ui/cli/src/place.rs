//! Where a command stands: the manifest of this directory, and what a target's name means here.

use std::path::{Path, PathBuf};

use coppice_manifest::{Context, Diagnostics, Parsed, parse_bytes};
use coppice_spec::{Party, PartyError};

use crate::error::{CommandError, eprint_all};
use crate::settings::Settings;

/// The manifest looked for when none is named.
pub(crate) const MANIFEST: &str = "coppice.toml";

/// What `start`, `stop`, `restart` and `logs` work on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A service, worker or instance of an app.
    Workload { app: String, workload: String },
    /// A name, id or start of an id; the node knows.
    Container(String),
}

/// The current directory's manifest, read once, if there is a right one. A wrong one only means that its services
/// have to be named as `app/service`: stopping things must not depend on a file without mistakes.
pub(crate) struct Place {
    app: Option<(String, Vec<String>)>,
    volumes: Vec<String>,
}

impl Place {
    pub(crate) fn here() -> Self {
        let parsed =
            std::fs::read(MANIFEST).ok().and_then(|bytes| parse_bytes(&bytes, MANIFEST, &Context::from_host(".")).ok());
        let volumes = parsed.iter().flat_map(|parsed| parsed.spec.volumes.keys()).map(ToString::to_string).collect();
        let app = parsed.map(|parsed| {
            let workloads = parsed.spec.workloads().map(|(name, _)| name.to_string()).collect();
            (parsed.spec.name.to_string(), workloads)
        });
        Self { app, volumes }
    }

    #[cfg(test)]
    pub(crate) fn of(app: Option<(&str, &[&str])>) -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self { app: app.map(|(app, workloads)| (app.to_owned(), names(workloads))), volumes: Vec::new() }
    }

    /// The app of this directory.
    pub(crate) fn app(&self) -> Option<&str> {
        self.app.as_ref().map(|(app, _)| app.as_str())
    }

    /// `APP/VOLUME`, or a volume of this directory's app; the node knows those of no app.
    pub(crate) fn volume(&self, text: &str) -> String {
        match &self.app {
            Some((app, _)) if self.volumes.iter().any(|volume| volume == text) => format!("{app}/{text}"),
            _ => text.to_owned(),
        }
    }

    /// `APP/SERVICE`, a service of this directory, or a container.
    pub(crate) fn target(&self, text: &str) -> Result<Target, CommandError> {
        if let Some((app, workload)) = text.split_once('/') {
            if app.is_empty() || workload.is_empty() || workload.contains('/') {
                return Err(CommandError::usage(
                    format!("{text:?} names nothing"),
                    "write APP/SERVICE, a service of the coppice.toml here, or a container",
                ));
            }
            return Ok(Target::Workload { app: app.to_owned(), workload: workload.to_owned() });
        }
        if let Some((app, workloads)) = &self.app
            && workloads.iter().any(|workload| workload == text)
        {
            return Ok(Target::Workload { app: app.clone(), workload: text.to_owned() });
        }
        Ok(Target::Container(text.to_owned()))
    }

    /// One side of a policy rule: `APP/SERVICE`, a service of this directory, or an app.
    pub(crate) fn party(&self, text: &str) -> Result<Party, CommandError> {
        let known = self.app.as_ref().filter(|(_, workloads)| workloads.iter().any(|workload| workload == text));
        let full = known.map_or_else(|| text.to_owned(), |(app, _)| format!("{app}/{text}"));
        full.parse().map_err(|error: PartyError| {
            CommandError::usage(error.to_string(), "`coppice status` lists apps and their services")
        })
    }
}

/// Reads a manifest that must be there and right; says its warnings.
pub(crate) fn read(settings: &Settings, file: &Path) -> Result<Parsed, CommandError> {
    let bytes = std::fs::read(file).map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "`coppice init` writes one to start from; -f names another file",
            _ => "-f names another file",
        };
        CommandError::usage(format!("cannot read {}: {error}", file.display()), help)
    })?;
    let parsed = parse_bytes(&bytes, &file.display().to_string(), &Context::from_host(directory(file)));
    let parsed = parsed.map_err(|diagnostics| wrong(settings, &diagnostics))?;
    if !parsed.warnings.is_empty() {
        eprint_all(&parsed.warnings.render(settings.stderr.color));
    }
    Ok(parsed)
}

fn wrong(settings: &Settings, diagnostics: &Diagnostics) -> CommandError {
    CommandError::Manifest { rendered: diagnostics.render(settings.stderr.color) }
}

/// The directory relative paths in `file` start from.
pub(crate) fn directory(file: &Path) -> PathBuf {
    match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The app that is named, or the manifest's.
pub(crate) fn app_name(settings: &Settings, named: Option<&str>, file: &Path) -> Result<String, CommandError> {
    match named {
        Some(app) => Ok(app.to_owned()),
        None => Ok(read(settings, file)?.spec.name.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_an_apps_service_a_service_here_or_a_container() {
        let place = Place::of(Some(("shop", &["web", "db"])));
        let workload = |app: &str, workload: &str| Target::Workload { app: app.into(), workload: workload.into() };
        assert_eq!(place.target("blog/web").unwrap(), workload("blog", "web"));
        assert_eq!(place.target("web").unwrap(), workload("shop", "web"));
        assert_eq!(place.target("web-1").unwrap(), Target::Container("web-1".into()));
        assert_eq!(Place::of(None).target("web").unwrap(), Target::Container("web".into()));
        for bad in ["/web", "shop/", "a/b/c"] {
            assert!(matches!(place.target(bad), Err(CommandError::Usage { .. })), "{bad}");
        }
    }

    #[test]
    fn a_side_of_a_rule_is_an_apps_service_a_service_here_or_an_app() {
        let place = Place::of(Some(("shop", &["web", "db"])));
        let party = |place: &Place, text: &str| place.party(text).unwrap().to_string();
        assert_eq!(party(&place, "web"), "shop/web");
        assert_eq!(party(&place, "blog/web"), "blog/web");
        assert_eq!(party(&place, "blog"), "blog");
        assert_eq!(party(&Place::of(None), "web"), "web");
        assert!(matches!(place.party("a/b/c"), Err(CommandError::Usage { .. })));
    }
}
