//! What verbs do. One file per verb; this one sends each to its own.

mod app;
mod backup;
mod cert;
mod container;
mod cron;
mod image;
mod manifest;
mod network;
mod node;
mod policy;
mod preview;
mod release;
mod secret;
mod volume;

use std::future::Future;
use std::process::ExitCode;

use coppice_spec::Verdict;

use crate::Hooks;
use crate::args::{
    BootstrapVerb, CertVerb, CronVerb, ImageVerb, NetVerb, NodeVerb, PolicyVerb, PreviewVerb, SecretVerb, Verb,
    VolumeVerb,
};
use crate::error::{CommandError, CommandResult, FAILURE};
use crate::settings::Settings;

/// Does one verb.
pub(crate) fn dispatch(hooks: &Hooks, settings: &Settings, verb: Verb) -> CommandResult {
    match verb {
        Verb::Up(args) => block_on(app::up::run(settings, args)),
        Verb::Down(args) => block_on(app::down::run(settings, args)),
        Verb::Plan(args) => block_on(app::plan::run(settings, args)),
        Verb::Status(args) => block_on(app::status::run(settings, args)),
        Verb::RunWorker(args) => block_on(app::run_worker::run(settings, args)),
        Verb::Apps(args) => block_on(app::list::run(settings, args)),
        Verb::History(args) => block_on(release::history::run(settings, args)),
        Verb::Rollback(args) => block_on(release::rollback::run(settings, args)),
        Verb::Rollout(verb) => block_on(release::rollout::run(settings, verb)),
        Verb::Preview(PreviewVerb::Ls) => block_on(preview::list::run(settings)),
        Verb::Preview(PreviewVerb::Promote(args)) => block_on(preview::end::promote(settings, args)),
        Verb::Preview(PreviewVerb::Discard(args)) => block_on(preview::end::discard(settings, args)),
        Verb::Cron(CronVerb::Ls(args)) => block_on(cron::show::list(settings, args)),
        Verb::Cron(CronVerb::History(args)) => block_on(cron::show::history(settings, args)),
        Verb::Cron(CronVerb::Run(args)) => block_on(cron::run::run(settings, args)),
        Verb::Init(args) => manifest::init::run(settings, args),
        Verb::Validate(args) => manifest::validate::run(settings, args),
        Verb::Schema => manifest::schema::run(settings),
        Verb::Convert(args) => manifest::convert::run(settings, args),

        Verb::Run(args) => block_on(container::run::run(settings, args)),
        Verb::Create(args) => block_on(container::create::run(settings, args)),
        Verb::Ps(args) => block_on(container::ps::run(settings, args)),
        Verb::Logs(args) => block_on(container::logs::run(settings, args)),
        Verb::Exec(args) => block_on(container::exec::run(settings, args)),
        Verb::Attach(args) => block_on(container::attach::run(settings, args)),
        Verb::Start(args) => block_on(container::start::run(settings, args)),
        Verb::Stop(args) => block_on(container::stop::run(settings, args)),
        Verb::Restart(args) => block_on(container::restart::run(settings, args)),
        Verb::Kill(args) => block_on(container::kill::run(settings, args)),
        Verb::Pause(args) => block_on(container::pause::pause(settings, args)),
        Verb::Unpause(args) => block_on(container::pause::unpause(settings, args)),
        Verb::Wait(args) => block_on(container::wait::run(settings, args)),
        Verb::Rm(args) => block_on(container::rm::run(settings, args)),
        Verb::Inspect(args) => block_on(container::inspect::run(settings, args)),
        Verb::Stats(args) => block_on(container::stats::run(settings, args)),
        Verb::Metrics(args) => block_on(node::metrics::run(settings, args)),
        Verb::Recover(args) => block_on(node::recover::run(settings, args)),
        Verb::Top(args) => block_on(container::top::run(settings, args)),
        Verb::Events(args) => block_on(container::events::run(settings, args)),
        Verb::Cp(args) => block_on(container::cp::run(settings, args)),

        Verb::Images(args) | Verb::Image(ImageVerb::Ls(args)) => block_on(image::list::run(settings, args)),
        Verb::Pull(args) | Verb::Image(ImageVerb::Pull(args)) => block_on(image::pull::run(settings, args)),
        Verb::Push(args) | Verb::Image(ImageVerb::Push(args)) => block_on(image::push::run(settings, args)),
        Verb::Tag(args) | Verb::Image(ImageVerb::Tag(args)) => block_on(image::tag::run(settings, args)),
        Verb::Rmi(args) | Verb::Image(ImageVerb::Rm(args)) => block_on(image::remove::run(settings, args)),
        Verb::Import(args) | Verb::Image(ImageVerb::Import(args)) => block_on(image::import::run(settings, args)),
        Verb::Save(args) | Verb::Image(ImageVerb::Save(args)) => block_on(image::save::run(settings, args)),
        Verb::Load(args) | Verb::Image(ImageVerb::Load(args)) => block_on(image::load::run(settings, args)),
        Verb::Prune(args) | Verb::Image(ImageVerb::Prune(args)) => block_on(image::prune::run(settings, args)),
        Verb::Image(ImageVerb::Inspect(args)) => block_on(image::inspect::run(settings, args)),
        Verb::Image(ImageVerb::Export(args)) => block_on(image::export::run(settings, args)),
        Verb::Login(args) => image::login::login(settings, args),
        Verb::Logout(args) => image::login::logout(settings, args),

        Verb::Cert(CertVerb::List) => block_on(cert::list::run(settings)),
        Verb::Cert(CertVerb::Install(args)) => block_on(cert::install::run(settings, args)),
        Verb::Cert(CertVerb::Provision(args)) => block_on(cert::provision::run(settings, args)),
        Verb::Cert(CertVerb::Renew(args)) => block_on(cert::renew::run(settings, args)),
        Verb::Cert(CertVerb::Rotate(args)) => block_on(cert::rotate::run(settings, args)),
        Verb::Cert(CertVerb::Rm(args)) => block_on(cert::remove::run(settings, args)),

        Verb::Policy(PolicyVerb::Allow(args)) => block_on(policy::set::run(settings, args, Verdict::Allow)),
        Verb::Policy(PolicyVerb::Deny(args)) => block_on(policy::set::run(settings, args, Verdict::Deny)),
        Verb::Policy(PolicyVerb::Rm(args)) => block_on(policy::remove::run(settings, args)),
        Verb::Policy(PolicyVerb::List) => block_on(policy::list::run(settings)),

        Verb::Volume(VolumeVerb::Ls) => block_on(volume::show::list(settings)),
        Verb::Volume(VolumeVerb::Inspect(args)) => block_on(volume::show::inspect(settings, args)),
        Verb::Volume(VolumeVerb::Snapshot(args)) => block_on(volume::change::snapshot(settings, args)),
        Verb::Volume(VolumeVerb::Rollback(args)) => block_on(volume::change::rollback(settings, args)),
        Verb::Volume(VolumeVerb::Clone(args)) => block_on(volume::change::clone(settings, args)),
        Verb::Volume(VolumeVerb::Send(args)) => block_on(volume::transfer::send(settings, args)),
        Verb::Volume(VolumeVerb::Receive(args)) => block_on(volume::transfer::receive(settings, args)),
        Verb::Volume(VolumeVerb::Rm(args)) => block_on(volume::change::remove(settings, args)),

        Verb::Secret(SecretVerb::Set(args)) => block_on(secret::change::set(settings, args)),
        Verb::Secret(SecretVerb::Get(args)) => block_on(secret::show::get(settings, args)),
        Verb::Secret(SecretVerb::Ls) => block_on(secret::show::list(settings)),
        Verb::Secret(SecretVerb::Rm(args)) => block_on(secret::change::remove(settings, args)),
        Verb::Secret(SecretVerb::Rotate(args)) => block_on(secret::change::rotate(settings, args)),
        Verb::Secret(SecretVerb::History(args)) => block_on(secret::show::history(settings, args)),
        Verb::Secret(SecretVerb::Rekey(args)) => block_on(secret::change::rekey(settings, args)),
        Verb::Bootstrap(BootstrapVerb::Init(args)) => block_on(secret::bootstrap::init(settings, args)),
        Verb::Bootstrap(BootstrapVerb::Status(args)) => block_on(secret::bootstrap::status(settings, args)),
        Verb::Bootstrap(BootstrapVerb::Rotate(args)) => block_on(secret::bootstrap::rotate(settings, args)),
        Verb::Bootstrap(BootstrapVerb::Verify(args)) => block_on(secret::bootstrap::verify(settings, args)),
        Verb::Bootstrap(BootstrapVerb::ExportPubkey(args)) => block_on(secret::bootstrap::export(settings, args)),

        Verb::Net(NetVerb::Doctor(args)) => block_on(network::doctor::run(settings, args)),

        Verb::Node(NodeVerb::Start) => block_on(node::start::run(settings)),
        Verb::Node(NodeVerb::Stop(args)) => block_on(node::stop::run(settings, args)),
        Verb::Node(NodeVerb::Status) => block_on(node::status::run(settings)),
        Verb::Node(NodeVerb::Install(args)) => node::install::run(settings, args),
        Verb::Node(NodeVerb::Run(args)) => node::run::run(hooks, settings, args),
        Verb::Backup(args) => block_on(backup::backup(settings, args)),
        Verb::Restore(args) => backup::restore(hooks, settings, args),
        Verb::Openapi => block_on(node::openapi::run(settings)),
        Verb::Completions(args) => node::completions::run(settings, args),
        Verb::Version => block_on(node::version::run(settings)),
    }
}

/// Runs a command on a runtime of its own: one thread, nothing started that is not used.
fn block_on(command: impl Future<Output = CommandResult>) -> CommandResult {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
        CommandError::File { what: "cannot start: the system refuses an epoll descriptor or a pipe".into(), source }
    })?;
    let result = runtime.block_on(command);
    // A thread that waits for a pipe nobody reads must not hold the exit up.
    runtime.shutdown_background();
    result
}

/// Does `act` for each of `names`, prints those it worked for, and reports each it did not. One failure does not keep
/// the others from being tried; the exit code is 1 then.
async fn for_each(
    settings: &Settings,
    names: &[String],
    act: impl AsyncFn(&str) -> Result<(), CommandError>,
) -> CommandResult {
    let mut done = Vec::new();
    let mut code = ExitCode::SUCCESS;
    for name in names {
        match act(name).await {
            Ok(()) if settings.json => done.push(name),
            Ok(()) => settings.print(&format!("{name}\n"))?,
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                error.report(&settings.stderr);
                code = ExitCode::from(FAILURE);
            }
        }
    }
    if settings.json {
        settings.print_json(&done)?;
    }
    Ok(code)
}
