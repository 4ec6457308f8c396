//! `node install`: a systemd unit, so that the node runs from boot on.
//!
//! Two lines in it carry the promise that a restart of the daemon touches no container: `KillMode=process` (systemd
//! signals the daemon alone) and `Delegate=yes` (the cgroups below the unit are ours).

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::args::NodeInstallArgs;
use crate::error::{CommandError, CommandResult};
use crate::settings::Settings;

pub(crate) fn run(settings: &Settings, args: NodeInstallArgs) -> CommandResult {
    // The link's target: a package manager's rename must not leave the unit pointing at "(deleted)".
    let program = std::env::current_exe().map_err(CommandError::file("cannot find this program's own file"))?;
    let unit = unit(&program, &settings.root, args.user)?;
    if args.print {
        settings.print(&unit)?;
        return Ok(ExitCode::SUCCESS);
    }
    let path = unit_path(args.user)?;
    let failed = || CommandError::file(format!("cannot write {}", path.display()));
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed())?;
    }
    let draft = path.with_extension("service.draft");
    let written = std::fs::write(&draft, &unit).and_then(|()| std::fs::rename(&draft, &path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written.map_err(failed())?;
    let flag = if args.user { " --user" } else { "" };
    settings.print(&format!(
        "{} is written\nnext: systemctl{flag} daemon-reload && systemctl{flag} enable --now coppice\n",
        path.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn unit_path(user: bool) -> Result<PathBuf, CommandError> {
    if !user {
        return Ok("/etc/systemd/system/coppice.service".into());
    }
    match std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| Some(std::env::home_dir()?.join(".config")))
    {
        Some(config) => Ok(config.join("systemd/user/coppice.service")),
        None => Err(CommandError::usage("there is no HOME to write a user's unit to", "set HOME, or use --print")),
    }
}

fn unit(program: &Path, root: &Path, user: bool) -> Result<String, CommandError> {
    let program = quoted(program)?;
    let root_text = quoted(root)?;
    let wanted_by = if user { "default.target" } else { "multi-user.target" };
    // Whatever systemd applies to the daemon, its containers inherit. So what would break them is left out on purpose:
    // mount namespaces (ProtectSystem, PrivateTmp: bind sources are the host's), system call filters and
    // MemoryDenyWriteExecute (JIT compilers), NoNewPrivileges, RestrictSUIDSGID (layers have setuid files),
    // OOMScoreAdjust. What is taken away is what neither the daemon nor any container needs.
    let hardening = if user {
        ""
    } else {
        "CapabilityBoundingSet=~CAP_SYS_BOOT CAP_SYS_TIME CAP_WAKE_ALARM CAP_MAC_ADMIN CAP_MAC_OVERRIDE CAP_BLOCK_SUSPEND\n\
         KeyringMode=private\nUMask=0022\n"
    };
    Ok(format!(
        "[Unit]\n\
         Description=Coppice node\n\
         After=network-online.target local-fs.target\n\
         Wants=network-online.target\n\
         StartLimitIntervalSec=60\n\
         StartLimitBurst=10\n\
         \n\
         [Service]\n\
         Type=exec\n\
         ExecStart={program} node run --root {root_text}\n\
         Restart=always\n\
         RestartSec=1\n\
         # Containers and their launcher outlive the daemon: it alone is signalled, and their cgroups are ours.\n\
         KillMode=process\n\
         Delegate=yes\n\
         TimeoutStopSec=30\n\
         TasksMax=infinity\n\
         LimitNOFILE=1048576\n\
         LimitNPROC=infinity\n\
         {hardening}\
         \n\
         [Install]\n\
         WantedBy={wanted_by}\n"
    ))
}

/// A word of an ExecStart line.
fn quoted(path: &Path) -> Result<String, CommandError> {
    match path.to_str() {
        Some(text) if !text.chars().any(char::is_control) => {
            // systemd.service(5): % and $ are expanded inside quotes too.
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");
            let plain = escaped.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.+,:@".contains(c));
            Ok(if plain { escaped } else { format!("\"{escaped}\"") })
        }
        _ => Err(CommandError::usage(
            format!("{} cannot be written in a unit file", path.display()),
            "choose a path without control characters that is UTF-8",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_lets_containers_outlive_the_daemon() {
        let unit = unit(Path::new("/usr/bin/coppice"), Path::new("/var/lib/coppice"), false).unwrap();
        for line in [
            "ExecStart=/usr/bin/coppice node run --root /var/lib/coppice",
            "KillMode=process",
            "Delegate=yes",
            "Restart=always",
            "WantedBy=multi-user.target",
        ] {
            assert!(unit.lines().any(|found| found == line), "{line} is not in\n{unit}");
        }
        // Containers inherit what the daemon is under.
        for line in ["ProtectSystem", "PrivateTmp", "MemoryDenyWriteExecute", "NoNewPrivileges", "SystemCallFilter"] {
            assert!(!unit.contains(line), "{line}");
        }
    }

    #[test]
    fn paths_cannot_add_words_or_lines_to_the_unit() {
        assert_eq!(quoted(Path::new("/a b/%h$X\"")).unwrap(), "\"/a b/%%h$$X\\\"\"");
        assert!(quoted(Path::new("/a\nExecStart=/evil")).is_err());
    }
}
