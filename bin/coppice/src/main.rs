//! The one binary: command line, node daemon and launcher. Wiring only.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};

use coppice_api::RestoreReply;
use coppice_cli::{Hooks, NodeOptions, RestoreOptions, RestoreRefused};
use coppice_launcher::LauncherOptions;
use coppice_node::{Node, Root};
use tracing_subscriber::EnvFilter;

/// Threads that serve the API and supervise. A node mostly waits; what blocks has threads of its own.
const WORKERS: usize = 2;

/// Their name.
const WORKER: &str = "worker";

/// By how much they, and the main thread, come first: what is to start instances must not wait for those there are.
const FIRST_BY: u8 = 10;

fn main() -> ExitCode {
    coppice_cli::main(Hooks { node, launcher, restore })
}

fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("COPPICE_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=warn"));
    let format = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Its complaint about a log that cannot be written (the disk is full) would go to the same place, and end in a panic.
    format.with_ansi(false).log_internal_errors(false).init();
}

fn fail(error: &dyn std::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// The node daemon, until it is told to stop.
fn node(options: NodeOptions) -> ExitCode {
    log_to_stderr();
    coppice_linux::come_first(FIRST_BY);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // The workers are made first. What is made later has long work: it unpacks, copies, seals.
    let made = AtomicUsize::new(0);
    let name = move || match made.fetch_add(1, Ordering::Relaxed) {
        worker if worker < WORKERS => WORKER.to_owned(),
        _ => "blocking".to_owned(),
    };
    runtime.worker_threads(WORKERS).thread_name_fn(name).on_thread_start(|| {
        if std::thread::current().name() == Some(WORKER) {
            coppice_linux::come_first(FIRST_BY);
        }
    });
    let runtime = runtime.enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error),
    };
    let served = runtime.block_on(async {
        let node = Node::open(coppice_node::NodeOptions {
            root: options.root,
            // What runs now, even if another binary was put in its place meanwhile.
            binary: PathBuf::from("/proc/self/exe"),
        });
        let wrong_input =
            |error: &coppice_node::OpenError| if error.is_input() { ExitCode::from(2) } else { ExitCode::FAILURE };
        let node = node.await.map_err(|error| {
            fail(&error);
            wrong_input(&error)
        })?;
        tokio::spawn(coppice_control::stop_on_signal(node.clone()));
        coppice_control::serve(node).await.map_err(|error| fail(&error))
    });
    // Requests that are being answered get a moment; readers of logs do not hold the end up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => code,
    }
}

/// A restore, while no node runs.
fn restore(options: RestoreOptions) -> Result<RestoreReply, RestoreRefused> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| RestoreRefused { what: error.to_string(), is_usage: false })?;
    let RestoreOptions { root, file, key_file, check, force } = options;
    let options = coppice_node::RestoreOptions { root, file, key_file, check, force };
    let restored = runtime.block_on(coppice_node::restore(&options));
    restored.map_err(|error| RestoreRefused { what: error.to_string(), is_usage: error.is_input() })
}

/// The launcher: `launcher --root DIR`.
fn launcher(arguments: Vec<OsString>) -> ExitCode {
    let [flag, root] = &arguments[..] else {
        eprintln!("usage: coppice launcher --root DIR (started by the node daemon, not by people)");
        return ExitCode::from(2);
    };
    if flag != "--root" {
        eprintln!("usage: coppice launcher --root DIR (started by the node daemon, not by people)");
        return ExitCode::from(2);
    }
    // A session of its own: no terminal's signals, and it outlives the daemon. It fails for a group's leader, which
    // has left the starter's group already.
    let _ = rustix::process::setsid();
    let root = match Root::prepare(&PathBuf::from(root)) {
        Ok(root) => root,
        Err(error) => return fail(&error),
    };
    let options = LauncherOptions { root: root.path().to_owned(), cgroup: root.cgroup() };
    match coppice_launcher::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}
