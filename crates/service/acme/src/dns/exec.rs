//! The operator's own program that publishes and withdraws records, for zones no provider here knows.
//!
//! Run without a shell, with an environment of its own: `COPPICE_ACME_ACTION` (`present` or `cleanup`), `_DOMAIN`,
//! `_RECORD`, `_VALUE`, `_CHALLENGE`, `_DIRECTORY_URL`, then the provider's secrets and configuration under their own
//! names. Bounded in time (the propagation timeout) and output; what it leaves running is killed.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use coppice_spec::DnsProvider;

use super::{ProviderError, Record, excerpt, secret_file};
use crate::secret::Secret;

const PROVIDER: &str = "the exec provider";
/// Of each of stdout and stderr; the rest is read and dropped.
const MOST_OUTPUT_BYTES: u64 = 4096;
/// A program is found with this where the node has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) struct Hook {
    argv: Vec<String>,
    secrets: Vec<(String, Secret)>,
    config: Vec<(String, String)>,
    within: Duration,
}

impl Hook {
    pub(super) fn of(spec: &DnsProvider) -> Result<Self, ProviderError> {
        if spec.hook.is_empty() {
            return Err(ProviderError::Missing { provider: PROVIDER, place: "tls.acme.dns", key: "hook" });
        }
        for key in spec.secrets.keys().chain(spec.config.keys()) {
            let why = match key.as_str() {
                "" => "it is empty",
                key if key.contains(['=', '\0']) => "it cannot be the name of an environment variable",
                key if key.starts_with("COPPICE_ACME_") => "names that begin with COPPICE_ACME_ are ours",
                _ => continue,
            };
            return Err(ProviderError::Setting { provider: PROVIDER, key: key.clone(), why });
        }
        let secrets = spec.secrets.iter();
        let secrets = secrets.map(|(key, path)| Ok((key.clone(), secret_file(path.as_ref())?)));
        Ok(Self {
            argv: spec.hook.clone(),
            secrets: secrets.collect::<Result<_, ProviderError>>()?,
            config: spec.config.clone().into_iter().collect(),
            within: Duration::from_secs(spec.propagation_timeout_secs.max(1)),
        })
    }

    pub(super) async fn publish(&self, record: &Record) -> Result<(), ProviderError> {
        self.run("present", record).await
    }

    pub(super) async fn withdraw(&self, record: &Record) -> Result<(), ProviderError> {
        self.run("cleanup", record).await
    }

    async fn run(&self, action: &'static str, record: &Record) -> Result<(), ProviderError> {
        let program = self.argv[0].clone();
        let failed = |source| ProviderError::HookStart { program: program.clone(), source };
        let mut command = Command::new(&program);
        command.args(&self.argv[1..]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into()));
        command.envs(self.config.iter().map(|(key, value)| (key, value)));
        command.envs(self.secrets.iter().map(|(key, value)| (key, value.expose())));
        command.env("COPPICE_ACME_ACTION", action);
        command.env("COPPICE_ACME_DOMAIN", &record.domain);
        command.env("COPPICE_ACME_RECORD", &record.name);
        command.env("COPPICE_ACME_VALUE", &record.value);
        command.env("COPPICE_ACME_CHALLENGE", "dns-01");
        command.env("COPPICE_ACME_DIRECTORY_URL", &record.directory);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.process_group(0).kill_on_drop(true).spawn().map_err(failed)?;
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let run = async {
            let ended = async {
                let status = child.wait().await;
                // What it started must not keep its output open.
                group.kill();
                status
            };
            tokio::join!(ended, bounded(stdout), bounded(stderr))
        };
        let within_secs = self.within.as_secs();
        let (status, stdout, stderr) = tokio::time::timeout(self.within, run)
            .await
            .map_err(|_| ProviderError::HookSlow { program: program.clone(), action, within_secs })?;
        let status = status.map_err(failed)?;
        if status.success() {
            return Ok(());
        }
        let output = excerpt(&[stderr, stdout].concat());
        Err(ProviderError::HookFailed { program, action, status: status.to_string(), output })
    }
}

/// The hook and what it started; killed when dropped, so also when the order is given up.
struct Group(Option<Pid>);

impl Group {
    fn kill(&self) {
        if let Some(leader) = self.0 {
            // None left is what is wanted.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn bounded(output: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut output) = output else { return kept };
    // Output is told in errors alone: what cannot be read is not told.
    let _ = (&mut output).take(MOST_OUTPUT_BYTES).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut output, &mut tokio::io::sink()).await;
    kept
}
