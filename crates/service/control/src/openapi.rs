//! The OpenAPI document, from the API's own types. Committed as `docs/openapi.json`; a test compares the two.

use coppice_api as api;
use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{Content, Paths, PathsBuilder, Ref, RefOr, Required, ResponseBuilder, ResponsesBuilder};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Coppice node API",
        description = "HTTP/1.1 and JSON on the node's Unix socket.",
        license(name = "Apache-2.0")
    ),
    components(schemas(
        api::VersionReply,
        api::NodeStatus,
        api::StopNodeRequest,
        api::Metrics,
        api::Event,
        api::ApiError,
        api::AppSummary,
        api::AppStatus,
        api::ApplyRequest,
        api::ApplyReply,
        api::AppliedReply,
        api::ReleaseEntry,
        api::RollbackRequest,
        api::RollbackReply,
        api::PlanReply,
        api::WorkloadRequest,
        api::ContainerSummary,
        api::ContainerDetail,
        api::RunRequest,
        api::Created,
        api::StopRequest,
        api::KillRequest,
        api::ExitReply,
        api::ExecRequest,
        api::LogLine,
        api::Process,
        api::Stats,
        api::ImageSummary,
        api::ImageDetail,
        api::PullRequest,
        api::PushRequest,
        api::TagRequest,
        api::TransferLine,
        api::LoadReply,
        api::RemoveReply,
        api::PruneRequest,
        api::PruneReply,
        api::CronSummary,
        api::CronDetail,
        api::CronRun,
        api::CronRunReply,
        api::WorkerRunReply,
        api::CertificateList,
        api::CertificateSummary,
        api::InstallRequest,
        api::ProvisionRequest,
        api::NetworkStatus,
        api::DoctorReport,
        api::PolicyRuleRequest,
        api::PolicyRuleSummary,
        api::PreviewReply,
        api::PreviewRequest,
        api::PreviewSummary,
        api::PromoteReply,
        api::RecoverReply,
        api::RecoveredApp,
        api::RekeyReply,
        api::RekeyRequest,
        api::SecretCheck,
        api::SecretReply,
        api::SecretRequest,
        api::SecretSummary,
        api::SecretValue,
        api::SecretVersionSummary,
        api::SnapshotDetail,
        api::VolumeCloneRequest,
        api::VolumeDetail,
        api::VolumeReceiveReply,
        api::VolumeRollbackReply,
        api::VolumeRollbackRequest,
        api::VolumeSnapshotRequest,
        api::VolumeSummary,
    ))
)]
struct Components;

/// One operation: path, method, what it does, request schema, answer schema, status, query keys.
struct Operation(
    &'static str,
    HttpMethod,
    &'static str,
    Option<&'static str>,
    Option<&'static str>,
    u16,
    &'static [&'static str],
);

fn operations() -> Vec<Operation> {
    use HttpMethod::{Delete, Get, Post, Put};
    use api::path;
    const LOG: &[&str] = &["since", "until", "tail", "follow", "stdout", "stderr"];
    const APP_LOG: &[&str] = &["workload", "since", "until", "tail", "follow", "stdout", "stderr"];
    vec![
        Operation(path::VERSION, Get, "Version of the node and of this API", None, Some("VersionReply"), 200, &[]),
        Operation(path::NODE, Get, "The node's state", None, Some("NodeStatus"), 200, &[]),
        Operation(path::NODE_STOP, Post, "Stop the daemon", Some("StopNodeRequest"), None, 204, &[]),
        Operation(path::OPENAPI, Get, "This document", None, None, 200, &[]),
        Operation(path::METRICS, Get, "What the node counts and measures", None, Some("Metrics"), 200, &[]),
        Operation(path::METRICS_TEXT, Get, "The same for Prometheus, as text (0.0.4)", None, None, 200, &[]),
        Operation(path::EVENTS, Get, "Events, a JSON line each", None, Some("Event"), 200, &["since", "follow", "app"]),
        Operation(path::APPS, Get, "All apps", None, Some("[AppSummary]"), 200, &[]),
        Operation(path::APPS, Post, "Apply a spec", Some("ApplyRequest"), Some("AppliedReply"), 200, &[]),
        Operation(path::APPS_PLAN, Post, "What an apply would do", Some("ApplyRequest"), Some("PlanReply"), 200, &[]),
        Operation(path::APP, Get, "An app's tree", None, Some("AppStatus"), 200, &[]),
        Operation(path::APP, Delete, "Stop and forget an app", None, None, 204, &["volumes"]),
        Operation(
            path::APP_WORKLOADS,
            Post,
            "Start, stop or restart workloads",
            Some("WorkloadRequest"),
            None,
            204,
            &[],
        ),
        Operation(path::APP_LOGS, Get, "An app's logs, a JSON line each", None, Some("LogLine"), 200, APP_LOG),
        Operation(path::APP_WORKER_RUN, Post, "Run a worker once more", None, Some("WorkerRunReply"), 200, &[]),
        Operation(path::CRONS, Get, "Crons", None, Some("[CronSummary]"), 200, &["app"]),
        Operation(path::APP_CRON, Get, "One cron, with its history", None, Some("CronDetail"), 200, &[]),
        Operation(path::APP_CRON_RUN, Post, "Run a cron now", None, Some("CronRunReply"), 200, &[]),
        Operation(path::APP_CRON_ONE, Get, "Wait for the end of a run", None, Some("CronRun"), 200, &[]),
        Operation(path::APP_HISTORY, Get, "An app's releases", None, Some("[ReleaseEntry]"), 200, &[]),
        Operation(path::APP_RELEASE, Get, "One release", None, Some("ReleaseEntry"), 200, &["wait_ms"]),
        Operation(
            path::APP_ROLLBACK,
            Post,
            "Have an earlier release come back",
            Some("RollbackRequest"),
            Some("RollbackReply"),
            200,
            &[],
        ),
        Operation(path::APP_ROLLOUT_PAUSE, Post, "Have a rollout rest", None, None, 204, &[]),
        Operation(path::APP_ROLLOUT_RESUME, Post, "Have a rollout go on", None, None, 204, &[]),
        Operation(path::APP_ROLLOUT_CANCEL, Post, "Have a rollout go back", None, None, 204, &[]),
        Operation(path::PREVIEWS, Get, "Previews", None, Some("[PreviewSummary]"), 200, &[]),
        Operation(
            path::PREVIEWS,
            Post,
            "Stand a preview beside an app",
            Some("PreviewRequest"),
            Some("PreviewReply"),
            200,
            &[],
        ),
        Operation(path::PREVIEW, Delete, "Remove a preview and its volumes", None, None, 204, &[]),
        Operation(
            path::PREVIEW_PROMOTE,
            Post,
            "Have the app become what its preview is",
            None,
            Some("PromoteReply"),
            200,
            &[],
        ),
        Operation(path::CONTAINERS, Get, "Containers", None, Some("[ContainerSummary]"), 200, &["all", "app"]),
        Operation(path::CONTAINERS, Post, "Make a container", Some("RunRequest"), Some("Created"), 200, &[]),
        Operation(path::RUN, Post, "Make, start and attach", Some("RunRequest"), None, 101, &[]),
        Operation(path::CONTAINER, Get, "One container", None, Some("ContainerDetail"), 200, &[]),
        Operation(path::CONTAINER, Delete, "Remove it", None, None, 204, &["force", "volumes"]),
        Operation(path::CONTAINER_START, Post, "Start it", None, None, 204, &[]),
        Operation(path::CONTAINER_STOP, Post, "Stop it", Some("StopRequest"), None, 204, &[]),
        Operation(path::CONTAINER_RESTART, Post, "Stop and start it", Some("StopRequest"), None, 204, &[]),
        Operation(path::CONTAINER_KILL, Post, "Send it a signal", Some("KillRequest"), None, 204, &[]),
        Operation(path::CONTAINER_PAUSE, Post, "Freeze its processes", None, None, 204, &[]),
        Operation(path::CONTAINER_UNPAUSE, Post, "Thaw its processes", None, None, 204, &[]),
        Operation(path::CONTAINER_WAIT, Post, "Wait for its end", None, Some("ExitReply"), 200, &[]),
        Operation(path::CONTAINER_EXEC, Post, "Run a command in it", Some("ExecRequest"), None, 101, &[]),
        Operation(path::CONTAINER_ATTACH, Post, "Attach to its streams", None, None, 101, &[]),
        Operation(path::CONTAINER_LOGS, Get, "Its log, a JSON line each", None, Some("LogLine"), 200, LOG),
        Operation(path::CONTAINER_TOP, Get, "Its processes", None, Some("[Process]"), 200, &[]),
        Operation(path::CONTAINER_ARCHIVE, Get, "A tar of a path in it", None, None, 200, &["path"]),
        Operation(path::CONTAINER_ARCHIVE, Put, "Unpack a tar in it", None, None, 204, &["path"]),
        Operation(path::STATS, Get, "Usage", None, Some("[Stats]"), 200, &["container"]),
        Operation(path::IMAGES, Get, "Images", None, Some("[ImageSummary]"), 200, &[]),
        Operation(path::IMAGES, Delete, "Remove an image", None, Some("RemoveReply"), 200, &["name", "force"]),
        Operation(path::IMAGE_INSPECT, Get, "One image", None, Some("ImageDetail"), 200, &["name"]),
        Operation(
            path::IMAGE_PULL,
            Post,
            "Pull; a JSON line per step",
            Some("PullRequest"),
            Some("TransferLine"),
            200,
            &[],
        ),
        Operation(
            path::IMAGE_PUSH,
            Post,
            "Push; a JSON line per step",
            Some("PushRequest"),
            Some("TransferLine"),
            200,
            &[],
        ),
        Operation(path::IMAGE_TAG, Post, "Give another name", Some("TagRequest"), None, 204, &[]),
        Operation(
            path::IMAGE_IMPORT,
            Post,
            "Make an image of a tar",
            None,
            Some("LoadReply"),
            200,
            &["name", "base", "cmd", "entrypoint", "env", "workdir", "user"],
        ),
        Operation(path::IMAGE_EXPORT, Get, "A tar of its root filesystem", None, None, 200, &["name"]),
        Operation(path::IMAGE_LOAD, Post, "Load an archive", None, Some("LoadReply"), 200, &[]),
        Operation(path::IMAGE_SAVE, Get, "An archive", None, None, 200, &["name", "format"]),
        Operation(path::IMAGE_PRUNE, Post, "Remove what is unused", Some("PruneRequest"), Some("PruneReply"), 200, &[]),
        Operation(path::APP_AUTHORITY_ROTATE, Post, "Begin a new root of its own authority", None, None, 204, &[]),
        Operation(path::CERTIFICATES, Get, "Certificates", None, Some("CertificateList"), 200, &[]),
        Operation(
            path::CERTIFICATES,
            Post,
            "Install a certificate",
            Some("InstallRequest"),
            Some("CertificateSummary"),
            200,
            &[],
        ),
        Operation(
            path::CERTIFICATE_PROVISION,
            Post,
            "Order a certificate",
            Some("ProvisionRequest"),
            Some("CertificateSummary"),
            200,
            &[],
        ),
        Operation(path::CERTIFICATE_RENEW, Post, "Order it anew", None, Some("CertificateSummary"), 200, &[]),
        Operation(path::CERTIFICATE, Delete, "Remove it", None, None, 204, &[]),
        Operation(
            path::RECOVER,
            Post,
            "Take in apps that only volumes know",
            None,
            Some("RecoverReply"),
            200,
            &["print"],
        ),
        Operation(path::BACKUP, Get, "A backup of the node", None, None, 200, &["volumes", "key_file"]),
        Operation(path::NETWORK, Get, "The bridge, and services", None, Some("NetworkStatus"), 200, &[]),
        Operation(
            path::NETWORK_DOCTOR,
            Get,
            "Why one does not reach another",
            None,
            Some("DoctorReport"),
            200,
            &["from", "to"],
        ),
        Operation(path::POLICY, Get, "Who may speak to whom", None, Some("[PolicyRuleSummary]"), 200, &[]),
        Operation(path::POLICY, Post, "Allow or deny", Some("PolicyRuleRequest"), None, 204, &[]),
        Operation(path::POLICY, Delete, "Remove a rule", None, None, 204, &["from", "to"]),
        Operation(path::SECRETS, Get, "Secrets, without their values", None, Some("[SecretSummary]"), 200, &[]),
        Operation(path::SECRET, Get, "A secret's versions", None, Some("[SecretVersionSummary]"), 200, &[]),
        Operation(
            path::SECRET,
            Post,
            "A new version, for releases from now on",
            Some("SecretRequest"),
            Some("SecretReply"),
            200,
            &[],
        ),
        Operation(path::SECRET, Delete, "Remove a secret", None, None, 204, &["force"]),
        Operation(
            path::SECRET_ROTATE,
            Post,
            "A new version, for what runs",
            Some("SecretRequest"),
            Some("SecretReply"),
            200,
            &[],
        ),
        Operation(path::SECRET_VALUE, Get, "A value, for root", None, Some("SecretValue"), 200, &["version", "part"]),
        Operation(path::SECRETS_KEY, Post, "Another key", Some("RekeyRequest"), Some("RekeyReply"), 200, &[]),
        Operation(path::SECRETS_CHECK, Get, "Whether they are well", None, Some("[SecretCheck]"), 200, &["secret"]),
        Operation(path::VOLUMES, Get, "List volumes", None, Some("[VolumeSummary]"), 200, &[]),
        Operation(path::VOLUMES, Delete, "Remove a volume or snapshot", None, None, 204, &["volume", "snapshot"]),
        Operation(path::VOLUME, Get, "A volume and its snapshots", None, Some("VolumeDetail"), 200, &["volume"]),
        Operation(
            path::VOLUME_SNAPSHOT,
            Post,
            "Keep what a volume is now",
            Some("VolumeSnapshotRequest"),
            Some("SnapshotDetail"),
            200,
            &[],
        ),
        Operation(
            path::VOLUME_ROLLBACK,
            Post,
            "Have a volume be what a snapshot is",
            Some("VolumeRollbackRequest"),
            Some("VolumeRollbackReply"),
            200,
            &[],
        ),
        Operation(
            path::VOLUME_CLONE,
            Post,
            "Make a volume of a snapshot",
            Some("VolumeCloneRequest"),
            Some("VolumeDetail"),
            200,
            &[],
        ),
        Operation(path::VOLUME_STREAM, Get, "Send a snapshot", None, None, 200, &["volume", "snapshot", "from"]),
        Operation(path::VOLUME_STREAM, Post, "Receive a snapshot", None, Some("VolumeReceiveReply"), 200, &["volume"]),
    ]
}

fn schema(name: &str) -> RefOr<utoipa::openapi::Schema> {
    match name.strip_prefix('[') {
        Some(inner) => {
            let items = Ref::from_schema_name(inner.trim_end_matches(']'));
            RefOr::T(utoipa::openapi::ArrayBuilder::new().items(RefOr::Ref(items)).build().into())
        }
        None => RefOr::Ref(Ref::from_schema_name(name)),
    }
}

fn content(name: &str) -> Content {
    Content::new(Some(schema(name)))
}

fn paths() -> Paths {
    let mut builder = PathsBuilder::new();
    for Operation(path, method, summary, request, answer, status, query) in operations() {
        let mut done = ResponseBuilder::new().description(summary);
        if let Some(answer) = answer {
            done = done.content("application/json", content(answer));
        }
        let failed = ResponseBuilder::new().description("Not done").content("application/json", content("ApiError"));
        let responses = ResponsesBuilder::new().response(status.to_string(), done).response("default", failed);
        let mut operation = OperationBuilder::new().summary(Some(summary)).responses(responses.build());
        if let Some(request) = request {
            let body =
                RequestBodyBuilder::new().content("application/json", content(request)).required(Some(Required::True));
            operation = operation.request_body(Some(body.build()));
        }
        let segments = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        for name in segments {
            operation = operation
                .parameter(ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True));
        }
        for name in query {
            operation = operation.parameter(
                ParameterBuilder::new().name(*name).parameter_in(ParameterIn::Query).required(Required::False),
            );
        }
        builder = builder.path(path, PathItem::new(method, operation));
    }
    builder.build()
}

/// The document, as JSON.
pub fn document() -> serde_json::Value {
    let mut api = Components::openapi();
    api.info.version = format!("{}", api::API);
    api.paths = paths();
    serde_json::to_value(api).expect("an OpenAPI document is plain data")
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../docs/openapi.json");

    #[test]
    fn the_committed_document_is_the_one_the_node_serves() {
        let fresh = format!("{:#}\n", document());
        if std::env::var_os("COPPICE_WRITE_OPENAPI").is_some() {
            std::fs::write(COMMITTED, &fresh).unwrap();
        }
        let committed = std::fs::read_to_string(COMMITTED).unwrap_or_default();
        assert!(committed == fresh, "docs/openapi.json is old: run this test with COPPICE_WRITE_OPENAPI=1");
    }

    #[test]
    fn every_schema_that_is_named_is_there() {
        let document = document();
        let text = document.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name: String = part.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            assert!(document["components"]["schemas"].get(&name).is_some(), "{name}");
        }
    }
}
