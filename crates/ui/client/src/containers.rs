//! Containers: create, run, signals, exec, logs, files, usage.

use coppice_api::stream::CONTAINER_HEADER;
use coppice_api::{
    ContainerDetail, ContainerSummary, Created, ExecRequest, ExitReply, KillRequest, LogLine, LogQuery, Process,
    RunRequest, Stats, StopRequest, path,
};

use crate::connection::{Download, Upload};
use crate::stream::Stream;
use crate::target::Target;
use crate::{Client, ClientError, Lines};

/// No body, where a body's type must be named.
const NOTHING: Option<&()> = None;

/// A running process and the connection to it.
pub struct Attached {
    pub stream: Stream,
    /// The container's id, where the node says it.
    pub container: Option<String>,
}

/// Which log lines.
#[derive(Clone, Debug)]
pub struct LogFilter {
    pub query: LogQuery,
    pub stdout: bool,
    pub stderr: bool,
}

impl LogFilter {
    pub(crate) fn onto(&self, target: Target) -> Target {
        let target = target
            .maybe("since", self.query.since.map(|at| at.0))
            .maybe("until", self.query.until.map(|at| at.0))
            .maybe("tail", self.query.tail)
            .flag("follow", self.query.follow);
        if self.stdout && self.stderr {
            target
        } else {
            target.query("stdout", self.stdout).query("stderr", self.stderr)
        }
    }
}

impl Client {
    /// `all`: those that do not run too. `app`: only that app's.
    pub async fn containers(&self, all: bool, app: Option<&str>) -> Result<Vec<ContainerSummary>, ClientError> {
        self.get(Target::of(path::CONTAINERS).flag("all", all).maybe("app", app)).await
    }

    pub async fn create(&self, request: &RunRequest) -> Result<Created, ClientError> {
        self.post(Target::of(path::CONTAINERS), request).await
    }

    /// Creates, starts and attaches in one request.
    pub async fn run(&self, request: &RunRequest) -> Result<Attached, ClientError> {
        let (stream, container) = self.upgrade(Target::of(path::RUN), Some(request), CONTAINER_HEADER).await?;
        Ok(Attached { stream, container })
    }

    pub async fn container(&self, container: &str) -> Result<ContainerDetail, ClientError> {
        self.get(Target::with(path::CONTAINER, container)).await
    }

    pub async fn remove_container(&self, container: &str, force: bool, volumes: bool) -> Result<(), ClientError> {
        let target = Target::with(path::CONTAINER, container);
        self.delete(target.flag("force", force).flag("volumes", volumes)).await
    }

    pub async fn start(&self, container: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::CONTAINER_START, container), NOTHING).await
    }

    /// Returns when it has stopped.
    pub async fn stop(&self, container: &str, request: &StopRequest) -> Result<(), ClientError> {
        self.command(Target::with(path::CONTAINER_STOP, container), Some(request)).await
    }

    pub async fn restart(&self, container: &str, request: &StopRequest) -> Result<(), ClientError> {
        self.command(Target::with(path::CONTAINER_RESTART, container), Some(request)).await
    }

    pub async fn kill(&self, container: &str, request: &KillRequest) -> Result<(), ClientError> {
        self.command(Target::with(path::CONTAINER_KILL, container), Some(request)).await
    }

    pub async fn pause(&self, container: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::CONTAINER_PAUSE, container), NOTHING).await
    }

    pub async fn unpause(&self, container: &str) -> Result<(), ClientError> {
        self.command(Target::with(path::CONTAINER_UNPAUSE, container), NOTHING).await
    }

    /// Returns when it has ended.
    pub async fn wait(&self, container: &str) -> Result<ExitReply, ClientError> {
        self.wait_for(Target::with(path::CONTAINER_WAIT, container)).await
    }

    pub async fn exec(&self, container: &str, request: &ExecRequest) -> Result<Attached, ClientError> {
        let target = Target::with(path::CONTAINER_EXEC, container);
        let (stream, container) = self.upgrade(target, Some(request), CONTAINER_HEADER).await?;
        Ok(Attached { stream, container })
    }

    /// Returns when it has started; it runs on by itself. `request.detach` is set.
    pub async fn exec_detached(&self, container: &str, request: &ExecRequest) -> Result<(), ClientError> {
        let request = ExecRequest { detach: true, ..request.clone() };
        self.command(Target::with(path::CONTAINER_EXEC, container), Some(&request)).await
    }

    pub async fn attach(&self, container: &str) -> Result<Attached, ClientError> {
        let target = Target::with(path::CONTAINER_ATTACH, container);
        let (stream, container) = self.upgrade(target, NOTHING, CONTAINER_HEADER).await?;
        Ok(Attached { stream, container })
    }

    pub async fn container_logs(&self, container: &str, filter: &LogFilter) -> Result<Lines<LogLine>, ClientError> {
        self.get_lines(filter.onto(Target::with(path::CONTAINER_LOGS, container))).await
    }

    pub async fn top(&self, container: &str) -> Result<Vec<Process>, ClientError> {
        self.get(Target::with(path::CONTAINER_TOP, container)).await
    }

    /// A tar of the file or directory `inside`.
    pub async fn read_archive(&self, container: &str, inside: &str) -> Result<Download, ClientError> {
        self.get_bytes(Target::with(path::CONTAINER_ARCHIVE, container).query("path", inside)).await
    }

    /// Unpacks a tar in the directory `inside`.
    pub async fn write_archive(&self, container: &str, inside: &str, tar: Upload) -> Result<(), ClientError> {
        self.put(Target::with(path::CONTAINER_ARCHIVE, container).query("path", inside), tar).await
    }

    /// Usage of `containers` (none: of all that run).
    pub async fn stats(&self, containers: &[String]) -> Result<Vec<Stats>, ClientError> {
        let target = Target::of(path::STATS);
        self.get(containers.iter().fold(target, |target, container| target.query("container", container))).await
    }
}
