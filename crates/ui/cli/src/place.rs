//! Where a command stands: the manifest of this directory, and what a target's name means here.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use coppice_manifest::{Context, DevSpec, Diagnostics, parse_bytes};
use coppice_spec::{AppSpec, Party, PartyError};

use crate::args::ManifestArgs;
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
    /// The apps and their services and workers.
    apps: Vec<(String, Vec<String>)>,
    /// Volumes and their apps.
    volumes: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn here() -> Self {
        let context = in_environment(Context::from_host("."), None);
        let parsed = std::fs::read(MANIFEST).ok().and_then(|bytes| parse_bytes(&bytes, MANIFEST, &context).ok());
        let specs: Vec<AppSpec> = parsed.map_or(Vec::new(), |parsed| parsed.apps);
        let volumes = specs.iter().flat_map(|spec| spec.volumes.keys().map(|v| (v.to_string(), spec.name.to_string())));
        let workloads = |spec: &AppSpec| spec.workloads().map(|(name, _)| name.to_string()).collect();
        Self {
            volumes: volumes.collect(),
            apps: specs.iter().map(|spec| (spec.name.to_string(), workloads(spec))).collect(),
        }
    }

    #[cfg(test)]
    pub(crate) fn of(app: Option<(&str, &[&str])>) -> Self {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Self {
            apps: app.map(|(app, workloads)| (app.to_owned(), names(workloads))).into_iter().collect(),
            volumes: Vec::new(),
        }
    }

    /// The app of this directory, where there is one and no other.
    pub(crate) fn app(&self) -> Option<&str> {
        match &self.apps[..] {
            [(app, _)] => Some(app),
            _ => None,
        }
    }

    /// The app here that has a service or worker of this name; the first, where several do.
    fn app_of(&self, workload: &str) -> Option<&str> {
        let has = |(_, workloads): &&(String, Vec<String>)| workloads.iter().any(|name| name == workload);
        self.apps.iter().find(has).map(|(app, _)| app.as_str())
    }

    /// `APP/VOLUME`, or a volume of this directory's apps; the node knows those of no app.
    pub(crate) fn volume(&self, text: &str) -> String {
        match self.volumes.iter().find(|(volume, _)| volume == text) {
            Some((_, app)) => format!("{app}/{text}"),
            None => text.to_owned(),
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
        if let Some(app) = self.app_of(text) {
            return Ok(Target::Workload { app: app.to_owned(), workload: text.to_owned() });
        }
        Ok(Target::Container(text.to_owned()))
    }

    /// One side of a policy rule: `APP/SERVICE`, a service of this directory, or an app.
    pub(crate) fn party(&self, text: &str) -> Result<Party, CommandError> {
        let full = self.app_of(text).map_or_else(|| text.to_owned(), |app| format!("{app}/{text}"));
        full.parse().map_err(|error: PartyError| {
            CommandError::usage(error.to_string(), "`coppice status` lists apps and their services")
        })
    }
}

/// A manifest that was read.
pub(crate) struct Manifest {
    /// At least one: those asked for.
    pub(crate) apps: Vec<AppSpec>,
    /// It, what it includes, and env files; absolute.
    pub(crate) files: BTreeSet<PathBuf>,
    /// How services of these apps are built while they are developed.
    pub(crate) dev: Vec<DevSpec>,
}

/// The apps of a manifest, read as by [`read`].
pub(crate) fn apps(settings: &Settings, args: &ManifestArgs) -> Result<Vec<AppSpec>, CommandError> {
    Ok(read(settings, args)?.apps)
}

/// Reads a manifest that must be there and right, for the environment that is chosen; says its warnings.
pub(crate) fn read(settings: &Settings, args: &ManifestArgs) -> Result<Manifest, CommandError> {
    let file = &args.file;
    let bytes = std::fs::read(file).map_err(|error| {
        let help = match error.kind() {
            std::io::ErrorKind::NotFound => "`coppice init` writes one to start from; -f names another file",
            _ => "-f names another file",
        };
        CommandError::usage(format!("cannot read {}: {error}", file.display()), help)
    })?;
    let context = in_environment(Context::from_host(directory(file)), args.environment.as_deref());
    let parsed = parse_bytes(&bytes, &file.display().to_string(), &context);
    let parsed = parsed.map_err(|diagnostics| wrong(settings, &diagnostics))?;
    if !parsed.warnings.is_empty() {
        eprint_all(&parsed.warnings.render(settings.stderr.color));
    }
    let mut files = context.files_read();
    files.extend(file.file_name().map(|name| context.dir().join(name)));
    let (mut apps, mut dev) = (parsed.apps, parsed.dev);
    if let Some(wanted) = &args.app {
        let names: Vec<String> = apps.iter().map(|app| app.name.to_string()).collect();
        apps.retain(|app| app.name.as_str() == wanted);
        if apps.is_empty() {
            let what = format!("{} has no app {wanted:?}", file.display());
            return Err(CommandError::usage(what, format!("it has: {}", names.join(", "))));
        }
    }
    dev.retain(|dev| apps.iter().any(|app| app.name == dev.app));
    Ok(Manifest { apps, files, dev })
}

/// Like [`apps`], for what can only be done to one.
pub(crate) fn app(settings: &Settings, args: &ManifestArgs) -> Result<AppSpec, CommandError> {
    let mut apps = apps(settings, args)?;
    match (apps.pop(), apps.is_empty()) {
        (Some(app), true) => Ok(app),
        (last, _) => {
            let names: Vec<String> = apps.iter().chain(&last).map(|app| app.name.to_string()).collect();
            let what = format!("{} has several apps", args.file.display());
            Err(CommandError::usage(what, format!("say which: --app NAME, of {}", names.join(", "))))
        }
    }
}

/// The environment that is named, else the shell's. The shell's need not be one of every manifest.
fn in_environment<'c>(context: Context<'c>, named: Option<&str>) -> Context<'c> {
    match (named, std::env::var("COPPICE_ENV")) {
        (Some(name), _) => context.with_environment(name),
        (None, Ok(name)) if !name.is_empty() => context.with_environment_if_any(name),
        (None, _) => context,
    }
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

/// The app that is named, or the manifest's apps.
pub(crate) fn app_names(
    settings: &Settings,
    named: Option<&str>,
    args: &ManifestArgs,
) -> Result<Vec<String>, CommandError> {
    match named {
        Some(app) => Ok(vec![app.to_owned()]),
        None => Ok(apps(settings, args)?.into_iter().map(|app| app.name.to_string()).collect()),
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

    #[test]
    fn a_manifest_is_read_for_an_environment_and_for_one_of_its_apps() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("coppice.toml");
        let text = "include = \"more.toml\"\n[app.shop.service.web]\nimage = \"x\"\n[env.prod.app.shop.service.web]\nreplicas = 3\n";
        std::fs::write(&file, text).unwrap();
        std::fs::write(dir.path().join("more.toml"), "[app.blog.service.web]\nimage = \"y\"\n").unwrap();
        let style = crate::output::Style::plain();
        let (root, socket) = (dir.path().to_owned(), dir.path().join("socket"));
        let settings = Settings { root, socket, json: false, stdout: style, stderr: style };
        let args = |environment: Option<&str>, app: Option<&str>| ManifestArgs {
            file: file.clone(),
            environment: environment.map(str::to_owned),
            app: app.map(str::to_owned),
        };
        let all = read(&settings, &args(None, None)).unwrap();
        let names: Vec<&str> = all.apps.iter().map(|app| app.name.as_str()).collect();
        assert_eq!(names, ["shop", "blog"]);
        let files: Vec<_> = all.files.iter().filter_map(|file| file.file_name()).collect();
        assert_eq!(files, ["coppice.toml", "more.toml"]);
        assert_eq!(app(&settings, &args(Some("prod"), Some("shop"))).unwrap().services["web"].replicas, 3);
        for (wrong, why) in [
            (app(&settings, &args(None, None)), "several apps"),
            (app(&settings, &args(None, Some("shap"))), "no app \"shap\""),
            (app(&settings, &args(Some("live"), Some("shop"))), "not an environment of the manifest"),
        ] {
            assert!(wrong.unwrap_err().to_string().contains(why), "{why}");
        }
    }
}
