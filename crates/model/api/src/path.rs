//! Paths of the API. `{x}` stands for one percent-encoded segment.

/// GET → [`VersionReply`](crate::VersionReply).
pub const VERSION: &str = "/v1/version";
/// GET → [`NodeStatus`](crate::NodeStatus).
pub const NODE: &str = "/v1/node";
/// POST [`StopNodeRequest`](crate::StopNodeRequest) → 204.
pub const NODE_STOP: &str = "/v1/node/stop";
/// GET → the OpenAPI document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// GET → [`Metrics`](crate::Metrics).
pub const METRICS: &str = "/v1/metrics";
/// GET → the same in Prometheus' text format, 0.0.4; at the path where a Prometheus looks for it.
pub const METRICS_TEXT: &str = "/metrics";
/// GET `?since=<ms>&follow=true&app=` → lines of [`Event`](crate::Event).
pub const EVENTS: &str = "/v1/events";

/// GET → `[AppSummary]`; POST [`ApplyRequest`](crate::ApplyRequest) → [`AppliedReply`](crate::AppliedReply).
pub const APPS: &str = "/v1/apps";
/// POST [`ApplyRequest`](crate::ApplyRequest) → [`PlanReply`](crate::PlanReply); changes nothing.
pub const APPS_PLAN: &str = "/v1/apps/plan";
/// GET → [`AppStatus`](crate::AppStatus); DELETE `?volumes=true` → 204 when all of it has stopped and is gone.
pub const APP: &str = "/v1/apps/{app}";
/// POST [`WorkloadRequest`](crate::WorkloadRequest) → 204.
pub const APP_WORKLOADS: &str = "/v1/apps/{app}/workloads";
/// GET → `[ReleaseEntry]`, the newest first.
pub const APP_HISTORY: &str = "/v1/apps/{app}/history";
/// GET → [`ReleaseEntry`](crate::ReleaseEntry); `{release}` is a number or an id. `?wait_ms=N`: answered when the release
/// has ended, or after so many milliseconds (60,000 at most).
pub const APP_RELEASE: &str = "/v1/apps/{app}/releases/{release}";
/// POST [`RollbackRequest`](crate::RollbackRequest) → [`RollbackReply`](crate::RollbackReply).
pub const APP_ROLLBACK: &str = "/v1/apps/{app}/rollback";
/// POST → 204: the rollout that goes on rests after what it has begun.
pub const APP_ROLLOUT_PAUSE: &str = "/v1/apps/{app}/rollout/pause";
/// POST → 204: the rollout that rests goes on.
pub const APP_ROLLOUT_RESUME: &str = "/v1/apps/{app}/rollout/resume";
/// POST → 204: the rollout that goes on, or rests, goes back.
pub const APP_ROLLOUT_CANCEL: &str = "/v1/apps/{app}/rollout/cancel";
/// GET → `[PreviewSummary]`; POST [`PreviewRequest`](crate::PreviewRequest) → [`PreviewReply`](crate::PreviewReply).
pub const PREVIEWS: &str = "/v1/previews";
/// DELETE → 204 when it and its volumes are gone. `{app}` is the app that it is.
pub const PREVIEW: &str = "/v1/previews/{app}";
/// POST → [`PromoteReply`](crate::PromoteReply), when the app beside which it stands has become what it is; it is gone then.
pub const PREVIEW_PROMOTE: &str = "/v1/previews/{app}/promote";
/// GET `?app=` → `[CronSummary]`.
pub const CRONS: &str = "/v1/crons";
/// GET → [`CronDetail`](crate::CronDetail).
pub const APP_CRON: &str = "/v1/apps/{app}/crons/{cron}";
/// POST → [`CronRunReply`](crate::CronRunReply): a run now.
pub const APP_CRON_RUN: &str = "/v1/apps/{app}/crons/{cron}/run";
/// GET → [`CronRun`](crate::CronRun), when run `{run}` has ended.
pub const APP_CRON_ONE: &str = "/v1/apps/{app}/crons/{cron}/runs/{run}";
/// POST → [`WorkerRunReply`](crate::WorkerRunReply), when a run of the worker, beside the tree, has started.
pub const APP_WORKER_RUN: &str = "/v1/apps/{app}/workers/{worker}/run";
/// GET `?workload=&since=&tail=&follow=&stdout=&stderr=` ([`LogQuery`](crate::LogQuery), several `workload`) → lines of
/// [`LogLine`](crate::LogLine), of all instances.
pub const APP_LOGS: &str = "/v1/apps/{app}/logs";
/// POST: begin a new root of the app's own authority → 204.
pub const APP_AUTHORITY_ROTATE: &str = "/v1/apps/{app}/authority/rotate";

/// GET `?all=true&app=` → `[ContainerSummary]`; POST [`RunRequest`](crate::RunRequest) → [`Created`](crate::Created) (started when
/// `start`).
pub const CONTAINERS: &str = "/v1/containers";
/// POST [`RunRequest`](crate::RunRequest) → 101 and a stream that ends with the exit; header `coppice-container: <id>`.
pub const RUN: &str = "/v1/run";
/// GET → [`ContainerDetail`](crate::ContainerDetail); DELETE `?force=true&volumes=true` → 204. `{container}` is a name, an
/// id or a unique prefix of an id, or an app's instance (`app.service-1`, or `service-1` where unique).
pub const CONTAINER: &str = "/v1/containers/{container}";
/// POST → 204.
pub const CONTAINER_START: &str = "/v1/containers/{container}/start";
/// POST [`StopRequest`](crate::StopRequest) → 204 when stopped.
pub const CONTAINER_STOP: &str = "/v1/containers/{container}/stop";
/// POST [`StopRequest`](crate::StopRequest) → 204.
pub const CONTAINER_RESTART: &str = "/v1/containers/{container}/restart";
/// POST [`KillRequest`](crate::KillRequest) → 204.
pub const CONTAINER_KILL: &str = "/v1/containers/{container}/kill";
/// POST → 204.
pub const CONTAINER_PAUSE: &str = "/v1/containers/{container}/pause";
/// POST → 204.
pub const CONTAINER_UNPAUSE: &str = "/v1/containers/{container}/unpause";
/// POST → [`ExitReply`](crate::ExitReply) when it has ended.
pub const CONTAINER_WAIT: &str = "/v1/containers/{container}/wait";
/// POST [`ExecRequest`](crate::ExecRequest) → 101 and a stream; with `detach`, 204.
pub const CONTAINER_EXEC: &str = "/v1/containers/{container}/exec";
/// POST → 101 and a stream.
pub const CONTAINER_ATTACH: &str = "/v1/containers/{container}/attach";
/// GET, query [`LogQuery`](crate::LogQuery) → lines of [`LogLine`](crate::LogLine).
pub const CONTAINER_LOGS: &str = "/v1/containers/{container}/logs";
/// GET → `[Process]`.
pub const CONTAINER_TOP: &str = "/v1/containers/{container}/top";
/// GET `?path=` → a tar of that file or directory, ids as in the container; PUT `?path=` takes a tar to unpack in the
/// directory `path`.
pub const CONTAINER_ARCHIVE: &str = "/v1/containers/{container}/archive";
/// GET `?container=` (several; none: all that run) → `[Stats]`.
pub const STATS: &str = "/v1/stats";

/// GET → `[ImageSummary]`; DELETE `?name=&force=true` → [`RemoveReply`](crate::RemoveReply).
pub const IMAGES: &str = "/v1/images";
/// GET `?name=` → [`ImageDetail`](crate::ImageDetail).
pub const IMAGE_INSPECT: &str = "/v1/images/inspect";
/// POST [`PullRequest`](crate::PullRequest) → lines of [`TransferLine`](crate::TransferLine).
pub const IMAGE_PULL: &str = "/v1/images/pull";
/// POST [`PushRequest`](crate::PushRequest) → lines of [`TransferLine`](crate::TransferLine).
pub const IMAGE_PUSH: &str = "/v1/images/push";
/// POST [`TagRequest`](crate::TagRequest) → 204.
pub const IMAGE_TAG: &str = "/v1/images/tag";
/// POST a root filesystem tar (plain, gzip, zstd), `?name=&cmd=<JSON list>&entrypoint=<JSON list>&env=<JSON
/// list>&workdir=&user=` → [`LoadReply`](crate::LoadReply).
pub const IMAGE_IMPORT: &str = "/v1/images/import";
/// GET `?name=` → a tar of the flattened root filesystem.
pub const IMAGE_EXPORT: &str = "/v1/images/export";
/// POST a docker-archive or oci-archive → [`LoadReply`](crate::LoadReply).
pub const IMAGE_LOAD: &str = "/v1/images/load";
/// GET `?name=` (several) `&format=docker|oci` → an archive.
pub const IMAGE_SAVE: &str = "/v1/images/save";
/// POST [`PruneRequest`](crate::PruneRequest) → [`PruneReply`](crate::PruneReply).
pub const IMAGE_PRUNE: &str = "/v1/images/prune";

/// GET → [`CertificateList`](crate::CertificateList); POST [`InstallRequest`](crate::InstallRequest) →
/// [`CertificateSummary`](crate::CertificateSummary).
pub const CERTIFICATES: &str = "/v1/certificates";
/// POST [`ProvisionRequest`](crate::ProvisionRequest) → [`CertificateSummary`](crate::CertificateSummary) when it is there.
pub const CERTIFICATE_PROVISION: &str = "/v1/certificates/provision";
/// DELETE → 204.
pub const CERTIFICATE: &str = "/v1/certificates/{domain}";
/// POST → [`CertificateSummary`](crate::CertificateSummary) of the new one.
pub const CERTIFICATE_RENEW: &str = "/v1/certificates/{domain}/renew";

/// GET → list of [`PolicyRuleSummary`](crate::PolicyRuleSummary); POST [`PolicyRuleRequest`](crate::PolicyRuleRequest) →
/// 204; DELETE `?from=&to=` → 204.
pub const POLICY: &str = "/v1/policy";

/// GET → list of [`SecretSummary`](crate::SecretSummary).
pub const SECRETS: &str = "/v1/secrets";
/// GET → list of [`SecretVersionSummary`](crate::SecretVersionSummary), oldest first; POST
/// [`SecretRequest`](crate::SecretRequest) → [`SecretReply`](crate::SecretReply): a new version, which releases get from
/// now on; DELETE `?force=true` → 204.
pub const SECRET: &str = "/v1/secrets/{secret}";
/// POST [`SecretRequest`](crate::SecretRequest) → [`SecretReply`](crate::SecretReply): a new version, which current
/// releases get at once.
pub const SECRET_ROTATE: &str = "/v1/secrets/{secret}/rotate";
/// GET `?version=&part=` → [`SecretValue`](crate::SecretValue). For root alone, but for the public part of a key pair.
pub const SECRET_VALUE: &str = "/v1/secrets/{secret}/value";
/// POST [`RekeyRequest`](crate::RekeyRequest) → [`RekeyReply`](crate::RekeyReply): another key, everything sealed anew.
pub const SECRETS_KEY: &str = "/v1/secrets-key";
/// GET `?secret=` (several) → list of [`SecretCheck`](crate::SecretCheck): whether they open, and whether instances have
/// what they are to have.
pub const SECRETS_CHECK: &str = "/v1/secrets-check";

/// POST `?print=true` → [`RecoverReply`](crate::RecoverReply): apps that only the volumes know are taken in.
pub const RECOVER: &str = "/v1/recover";

/// GET `?volumes=true&key_file=` → a backup of the node, as a stream of bytes; sealed with the key in that file of the node's
/// machine, which is for root alone.
pub const BACKUP: &str = "/v1/backup";

/// GET → [`NetworkStatus`](crate::NetworkStatus).
pub const NETWORK: &str = "/v1/network";
/// GET `?from=&to=` → [`DoctorReport`](crate::DoctorReport): why one does not reach another; without, how the node's
/// network is.
pub const NETWORK_DOCTOR: &str = "/v1/network/doctor";

/// GET → list of [`VolumeSummary`](crate::VolumeSummary); DELETE `?volume=&snapshot=` → 204: a snapshot, or without one the
/// volume and all its snapshots.
pub const VOLUMES: &str = "/v1/volumes";
/// GET `?volume=` → [`VolumeDetail`](crate::VolumeDetail).
pub const VOLUME: &str = "/v1/volumes/one";
/// POST [`VolumeSnapshotRequest`](crate::VolumeSnapshotRequest) → [`SnapshotDetail`](crate::SnapshotDetail).
pub const VOLUME_SNAPSHOT: &str = "/v1/volumes/snapshot";
/// POST [`VolumeRollbackRequest`](crate::VolumeRollbackRequest) → [`VolumeRollbackReply`](crate::VolumeRollbackReply).
pub const VOLUME_ROLLBACK: &str = "/v1/volumes/rollback";
/// POST [`VolumeCloneRequest`](crate::VolumeCloneRequest) → [`VolumeDetail`](crate::VolumeDetail) of the new one.
pub const VOLUME_CLONE: &str = "/v1/volumes/clone";
/// GET `?volume=&snapshot=&from=` → the snapshot as a stream of bytes, or its difference from another one; POST such a stream
/// `?volume=` → [`VolumeReceiveReply`](crate::VolumeReceiveReply).
pub const VOLUME_STREAM: &str = "/v1/volumes/stream";
