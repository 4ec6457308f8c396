//! The command line of Coppice, in three steps: syntax ([`args`]: what was typed), settings ([`settings`]: what it
//! means here), and one file per verb under [`commands`].
//!
//! Exit codes: 0 done, 1 it failed, 2 the input was wrong (flags, manifest, a request the node calls invalid).
//! `run`, `exec` and `wait` end with the container's own code; for `run` and `exec`, 125 is a failure of Coppice
//! itself, 126 a command that cannot be executed, 127 one that is not there, as with docker.
//!
//! What it refuses: to know how a node works. The daemon and the launcher are the same program, but they come in
//! through [`Hooks`], and everything else goes through the client.

mod archive;
mod args;
mod attach;
mod commands;
mod daemon;
mod error;
mod login;
mod output;
mod place;
mod release;
mod settings;
mod spec;
mod terminal;
mod transfer;

use coppice_api::RestoreReply;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use crate::args::Cli;
use crate::settings::Settings;

/// The parts of the program that are not the command line.
pub struct Hooks {
    /// Runs the node daemon until it is told to stop (`coppice node run`).
    pub node: fn(NodeOptions) -> ExitCode,
    /// Runs the launcher (`coppice launcher …`, only ever started by a node), with the arguments after `launcher`.
    pub launcher: fn(Vec<OsString>) -> ExitCode,
    /// Restores a backup where no node runs (`coppice restore`).
    pub restore: fn(RestoreOptions) -> Result<RestoreReply, RestoreRefused>,
}

/// What to restore, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// State directory.
    pub root: PathBuf,
    /// The backup.
    pub file: PathBuf,
    /// Has the key that it is sealed with.
    pub key_file: Option<PathBuf>,
    /// Look at all of it, and change nothing.
    pub check: bool,
    /// Also where there is state already.
    pub force: bool,
}

/// Why nothing was restored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreRefused {
    pub what: String,
    /// What was given is wrong, rather than this machine.
    pub is_usage: bool,
}

/// Where to run the node daemon. All else is in `<root>/node.toml`, which the daemon reads itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeOptions {
    /// State directory.
    pub root: PathBuf,
    /// `<root>/run/coppice.sock`.
    pub socket: PathBuf,
}

/// Does what the process's arguments say.
pub fn main(hooks: Hooks) -> ExitCode {
    let mut arguments = std::env::args_os();
    // The launcher is not for people, and it starts before anything else can: no parser for it.
    if arguments.nth(1).is_some_and(|verb| verb == "launcher") {
        return (hooks.launcher)(arguments.collect());
    }
    let cli = match args::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { error::USAGE } else { 0 };
            match args::start_help(&error) {
                Some(help) => error::eprint_all(&help),
                // Nothing can be done when even the message cannot be written.
                None => drop(error.print()),
            }
            return ExitCode::from(code);
        }
    };
    let settings = match Settings::resolve(&cli.global) {
        Ok(settings) => settings,
        Err(error) => return error.report(&output::Style::plain()),
    };
    match commands::dispatch(&hooks, &settings, cli.verb) {
        Ok(code) => code,
        Err(error) => error.report(&settings.stderr),
    }
}

/// Every verb's help as one text, for documentation and its tests.
pub fn help_of_every_verb() -> Vec<(String, String)> {
    fn visit(command: &mut clap::Command, path: &str, into: &mut Vec<(String, String)>) {
        let path =
            if path.is_empty() { command.get_name().to_owned() } else { format!("{path} {}", command.get_name()) };
        into.push((path.clone(), command.render_long_help().to_string()));
        for sub in command.get_subcommands_mut().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
            visit(sub, &path, into);
        }
    }
    let mut command = <Cli as clap::CommandFactory>::command().term_width(100);
    command.build();
    let mut texts = Vec::new();
    visit(&mut command, "", &mut texts);
    texts
}
