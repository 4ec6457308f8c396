//! How a command fails: what is said, and the exit code.
//!
//! On standard error: `error: ` and one sentence of what and why, then, where there is a next step, `help: ` and it.

use std::io;
use std::process::ExitCode;

use coppice_api::ErrorKind;
use coppice_client::ClientError;

use crate::archive::ArchiveError;
use crate::daemon::DaemonError;
use crate::login::LoginError;
use crate::output::{Paint, Style};
use crate::release::ReleaseError;

/// The operation failed.
pub(crate) const FAILURE: u8 = 1;
/// The input was wrong; nothing was done.
pub(crate) const USAGE: u8 = 2;
/// `run` and `exec`: Coppice failed, not the command.
pub(crate) const RUN_FAILURE: u8 = 125;

/// What any command returns.
pub(crate) type CommandResult = Result<ExitCode, CommandError>;

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    /// Bad input; nothing was done.
    #[error("{what}")]
    Usage { what: String, help: Option<String> },
    /// Bad input in a manifest: all diagnostics, rendered. Nothing was done.
    #[error("{rendered}")]
    Manifest { rendered: String },
    /// It was tried and did not work; the words say what is left.
    #[error("{what}")]
    Failed { what: String, help: Option<String> },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    #[error(transparent)]
    Login(#[from] LoginError),
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error(transparent)]
    Release(#[from] ReleaseError),
    #[error("{what}: {source}")]
    File { what: String, source: io::Error },
    /// The reader of the output went away or the disk is full.
    #[error("cannot write the output: {0}")]
    Output(io::Error),
}

impl CommandError {
    pub(crate) fn usage(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self::Usage { what: what.into(), help: Some(help.into()) }
    }

    pub(crate) fn file(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::File { what, source }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } | Self::Manifest { .. } => USAGE,
            Self::Client(ClientError::Api(error)) if error.kind == ErrorKind::Invalid => USAGE,
            Self::Archive(error) if error.is_usage() => USAGE,
            Self::Release(_) => USAGE,
            Self::Daemon(error) if error.is_usage() => USAGE,
            // A path that no socket can have.
            Self::Client(ClientError::Connect { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => USAGE,
            _ => FAILURE,
        }
    }

    /// The exit code of `run` and `exec`.
    pub(crate) fn run_code(&self) -> u8 {
        match self {
            Self::Usage { .. } => USAGE,
            Self::Client(ClientError::Api(error)) => error.exit_code.unwrap_or(RUN_FAILURE),
            _ => RUN_FAILURE,
        }
    }

    fn help(&self) -> Option<String> {
        match self {
            Self::Usage { help, .. } | Self::Failed { help, .. } => help.clone(),
            Self::Client(error) => error.next_step(),
            Self::Daemon(error) => error.next_step(),
            _ => None,
        }
    }

    /// What is written to standard error.
    pub(crate) fn render(&self, style: &Style) -> String {
        if style.json {
            let error = serde_json::json!({ "error": { "message": self.to_string().trim_end(), "help": self.help() } });
            return format!("{error}\n");
        }
        if let Self::Manifest { rendered } = self {
            return format!("{}\n", rendered.trim_end());
        }
        let mut text = format!("{} {self}\n", style.paint(Paint::Red, "error:"));
        if let Some(help) = self.help() {
            text.push_str(&format!("{} {help}\n", style.paint(Paint::Cyan, "help:")));
        }
        text
    }

    /// Says it on standard error.
    pub(crate) fn report(&self, style: &Style) -> ExitCode {
        self.report_as(style, self.code())
    }

    /// The same of one app, where others are worked on too.
    pub(crate) fn report_of(&self, app: &str, style: &Style) -> ExitCode {
        if !style.json {
            eprint_all(&format!("{app}: "));
        }
        self.report(style)
    }

    pub(crate) fn report_as(&self, style: &Style, code: u8) -> ExitCode {
        // `coppice ps | head` closing its end is no error worth words.
        if matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe) {
            return ExitCode::SUCCESS;
        }
        eprint_all(&self.render(style));
        ExitCode::from(code)
    }
}

/// Writes to standard error; when that is closed there is nobody to tell.
pub(crate) fn eprint_all(text: &str) {
    use io::Write;
    let _ = io::stderr().write_all(text.as_bytes());
}
