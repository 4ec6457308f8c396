//! `login` and `logout`: a registry's name and password, kept where docker keeps them.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use crate::args::{LoginArgs, LogoutArgs};
use crate::error::{CommandError, CommandResult};
use crate::login::{Credentials, DockerConfig};
use crate::settings::Settings;
use crate::terminal;

/// Keeps them without asking the registry; the first pull or push says when they are wrong.
pub(crate) fn login(settings: &Settings, args: LoginArgs) -> CommandResult {
    let user = match args.username {
        Some(user) => user,
        None if args.password_stdin || !std::io::stdin().is_terminal() => {
            return Err(CommandError::usage("there is no name", "use -u NAME"));
        }
        None => ask_name()?,
    };
    if user.is_empty() || user.contains(':') {
        return Err(CommandError::usage(format!("{user:?} is not a name"), "a name is not empty and has no colon"));
    }
    let password = if args.password_stdin || !std::io::stdin().is_terminal() {
        let mut text = String::new();
        std::io::stdin()
            .take(64 << 10)
            .read_to_string(&mut text)
            .map_err(CommandError::file("cannot read the password"))?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        terminal::read_secret("Password: ").map_err(CommandError::file("cannot read the password"))?
    };
    if password.is_empty() {
        return Err(CommandError::usage("the password is empty", "pipe it in with --password-stdin"));
    }
    let config = DockerConfig::standard()?;
    let kept = config.keep(&args.registry, &Credentials { user, password })?;
    settings.print(&format!("kept in {kept}; it is first used by the next pull or push\n"))?;
    Ok(ExitCode::SUCCESS)
}

fn ask_name() -> Result<String, CommandError> {
    let mut stderr = std::io::stderr();
    let mut name = String::new();
    stderr
        .write_all(b"Name: ")
        .and_then(|()| std::io::stdin().read_line(&mut name))
        .map_err(CommandError::file("cannot read the name"))?;
    Ok(name.trim().to_owned())
}

pub(crate) fn logout(settings: &Settings, args: LogoutArgs) -> CommandResult {
    let words = if DockerConfig::standard()?.forget(&args.registry)? {
        format!("forgot {}\n", args.registry)
    } else {
        format!("nothing was kept for {}\n", args.registry)
    };
    settings.print(&words)?;
    Ok(ExitCode::SUCCESS)
}
