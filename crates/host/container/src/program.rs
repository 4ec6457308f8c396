//! Finding the program in the container and becoming it.

use std::ffi::CString;

use coppice_linux::{ExecArgs, exec};
use rustix::io::Errno;

use crate::failure::StartFailure;

/// Where programs are looked for when the container's environment has no PATH (docker's default).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Becomes `args[0]`, looked up as `execvp` does. Returns only on failure.
pub(crate) fn become_program(args: &[String], env: &[String]) -> StartFailure {
    let Some(program) = args.first() else { return StartFailure::NotFound(String::new()) };
    let prepared = match ExecArgs::new(args, env) {
        Ok(prepared) => prepared,
        Err(text) => {
            return StartFailure::NotExecutable {
                program: program.clone(),
                why: format!("NUL character in argument or variable {text:?}"),
            };
        }
    };
    let not_executable =
        |errno: Errno| StartFailure::NotExecutable { program: program.clone(), why: explain(errno).to_owned() };
    let attempt = |path: String| match CString::new(path) {
        Ok(path) => exec(&path, &prepared),
        Err(_) => Errno::NOENT,
    };
    if program.is_empty() {
        return StartFailure::NotFound(program.clone());
    }
    if program.contains('/') {
        return match attempt(program.clone()) {
            // The file may be there and its interpreter missing; the two read the same from execve.
            Errno::NOENT | Errno::NOTDIR if !exists(program) => StartFailure::NotFound(program.clone()),
            errno => not_executable(errno),
        };
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let mut refused = None;
    for directory in path.split(':') {
        let directory = if directory.is_empty() { "." } else { directory };
        let candidate = format!("{directory}/{program}");
        match attempt(candidate.clone()) {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG if !exists(&candidate) => {}
            Errno::ACCESS => refused = Some(Errno::ACCESS),
            errno => return not_executable(errno),
        }
    }
    refused.map_or_else(|| StartFailure::NotFound(program.clone()), not_executable)
}

fn exists(path: &str) -> bool {
    rustix::fs::access(path, rustix::fs::Access::EXISTS).is_ok()
}

fn explain(errno: Errno) -> &'static str {
    match errno {
        Errno::ACCESS => "permission denied (is it executable, and not a directory?)",
        Errno::NOENT => "its interpreter (#! line or dynamic linker) is not in the container",
        Errno::NOEXEC => "exec format error (is it built for another architecture, or a script without #! line?)",
        Errno::TOOBIG => "arguments and environment are too long",
        Errno::TXTBSY => "the file is open for writing",
        Errno::LOOP => "too many symbolic links",
        Errno::PERM => "operation not permitted",
        _ => "the kernel refused it",
    }
}
