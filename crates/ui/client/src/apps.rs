//! Apps: apply, plan, status, workloads, logs.

use coppice_api::{
    AppStatus, AppSummary, ApplyReply, ApplyRequest, LogLine, PlanReply, WorkerRunReply, WorkloadRequest, path,
};

use crate::containers::LogFilter;
use crate::target::Target;
use crate::{Client, ClientError, Lines};

impl Client {
    pub async fn apps(&self) -> Result<Vec<AppSummary>, ClientError> {
        self.get(Target::of(path::APPS)).await
    }

    pub async fn apply(&self, request: &ApplyRequest) -> Result<ApplyReply, ClientError> {
        self.post(Target::of(path::APPS), request).await
    }

    pub async fn plan(&self, request: &ApplyRequest) -> Result<PlanReply, ClientError> {
        self.post(Target::of(path::APPS_PLAN), request).await
    }

    pub async fn app(&self, app: &str) -> Result<AppStatus, ClientError> {
        self.get(Target::with(path::APP, app)).await
    }

    /// Returns when all of it has stopped and is gone.
    pub async fn remove_app(&self, app: &str, volumes: bool) -> Result<(), ClientError> {
        self.delete(Target::with(path::APP, app).flag("volumes", volumes)).await
    }

    pub async fn app_workloads(&self, app: &str, request: &WorkloadRequest) -> Result<(), ClientError> {
        self.command(Target::with(path::APP_WORKLOADS, app), Some(request)).await
    }

    /// A run of a worker now, which has started; its container is waited for as any.
    pub async fn run_worker(&self, app: &str, worker: &str) -> Result<WorkerRunReply, ClientError> {
        self.post(Target::with(path::APP_WORKER_RUN, app).and(worker), &()).await
    }

    /// Lines of all instances of `workloads` (none: of the whole app).
    pub async fn app_logs(
        &self,
        app: &str,
        workloads: &[String],
        filter: &LogFilter,
    ) -> Result<Lines<LogLine>, ClientError> {
        let mut target = Target::with(path::APP_LOGS, app);
        for workload in workloads {
            target = target.query("workload", workload);
        }
        self.get_lines(filter.onto(target)).await
    }
}
