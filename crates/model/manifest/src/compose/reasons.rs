//! Why a Compose key has no place in the manifest, and what to do instead.

const NONE: &str = "Coppice has no counterpart; leave it or do it another way";

/// A key of a service.
pub(super) fn service(key: &str) -> String {
    match key {
        "networks" | "links" | "external_links" => {
            "the services of an app share one network and reach each other by name; there is nothing to declare"
        }
        "expose" => "services reach each other on every port; there is nothing to declare",
        "container_name" => "instances are named after their service",
        "logging" | "log_driver" | "log_opt" => "Coppice keeps the logs itself (`coppice logs`), rotated and bounded",
        "secrets" | "configs" => "mount the file instead, as in volumes = [\"./secret.txt:/run/secrets/name:ro\"]",
        "extends" => "what it takes over is not carried: convert the file it names and copy the keys",
        "devices" | "device_cgroup_rules" | "gpus" => "devices are not handed to containers in this version",
        "dns" | "dns_search" | "dns_opt" | "domainname" | "mac_address" => "the node writes the container's resolver",
        "sysctls" | "security_opt" | "userns_mode" | "ipc" | "pid" | "uts" | "cgroup" | "cgroup_parent"
        | "isolation" => {
            "every container has namespaces, a seccomp filter and a user range of its own; this cannot be changed"
        }
        "stdin_open" | "tty" => "services run without a terminal; use `coppice exec -it`",
        "platform" | "runtime" => "images are run for the node's own architecture by Coppice itself",
        "mem_reservation" | "mem_swappiness" | "memswap_limit" | "oom_kill_disable" | "oom_score_adj"
        | "cpu_shares" | "cpu_count" | "cpu_percent" | "cpu_period" | "cpu_quota" | "cpu_rt_runtime"
        | "cpu_rt_period" | "cpuset" | "blkio_config" => {
            "only cpu, cpu_weight, memory, pids, nofile and shm_size can be limited"
        }
        "develop" => "Coppice does not watch sources in this version",
        "group_add" => "supplementary groups are taken from the image's /etc/group",
        "volumes_from" => "name the volumes in both services",
        "annotations" | "attach" | "credential_spec" | "label_file" | "post_start" | "pre_stop" | "provider"
        | "models" => NONE,
        key if key.starts_with("x-") => EXTENSION,
        _ => NONE,
    }
    .to_owned()
}

const EXTENSION: &str = "an extension field means nothing by itself; values used through its anchors are carried";

/// A key at the top of the file.
pub(super) fn top(key: &str) -> String {
    match key {
        "version" => "coppice.toml has no version",
        "networks" => "the services of an app share one network of its own",
        "secrets" | "configs" => "mount the files instead, as in volumes = [\"./secret.txt:/run/secrets/name:ro\"]",
        "include" => "what it takes in is not carried: convert that file too",
        key if key.starts_with("x-") => EXTENSION,
        _ => NONE,
    }
    .to_owned()
}

/// A key of `deploy`.
pub(super) fn deploy(key: &str) -> String {
    match key {
        "labels" => "only the labels of the service itself are carried",
        "placement" | "mode" | "endpoint_mode" => "Coppice places instances itself",
        "update_config" | "rollback_config" => "rollouts are not described in the manifest in this version",
        _ => NONE,
    }
    .to_owned()
}

/// A key anywhere else.
pub(super) fn other(_: &str) -> String {
    NONE.to_owned()
}
