//! The one table of every key `coppice.toml` knows: its type, its bounds, what it says. The parser refuses what is not
//! here, the JSON Schema is printed from here, and a test holds every key to both.

use coppice_spec::{AppSpec, CronSpec};

use crate::names;

/// A table of the manifest.
pub(crate) struct Section {
    pub(crate) keys: &'static [Key],
    /// What the section is, for the schema.
    pub(crate) doc: &'static str,
}

pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// Another accepted name.
    pub(crate) alias: Option<&'static str>,
    pub(crate) kind: Kind,
    pub(crate) required: bool,
    pub(crate) doc: &'static str,
}

/// What a key's value may be. Strings may hold `${VAR}`; one that does may stand for a number or boolean too.
pub(crate) enum Kind {
    Text,
    Boolean,
    Integer {
        min: i64,
        max: i64,
    },
    /// `"1m30s"`, or whole seconds.
    Duration,
    /// `"512m"`, or bytes.
    Size,
    /// `0.5`, `2`, `"500m"`.
    Cpu,
    /// 0 to 100, in tenths at most.
    Percent,
    Choice(&'static [&'static str]),
    /// An argv: array, or a string split into words.
    Words,
    /// A string or an array of strings.
    Texts,
    /// A string or an integer.
    TextOrInteger,
    /// A table of scalars, or an array of `"key=value"`.
    Pairs,
    /// An array of port strings or integers.
    Ports,
    /// An array of names, or a table name → condition.
    DependsOn,
    /// A table name → address, or an array of `"name:address"`.
    Hosts,
    /// An array of texts (the section's first key alone) and tables, or one text.
    Uses(&'static Section),
    /// An array of tables.
    Tables(&'static Section),
    Table(&'static Section),
    /// A string, the first section, or a table of apps, each the second.
    App(&'static Section, &'static Section),
    /// A table of tables with any section of the manifest.
    Overlays,
    /// The section, or a string for its first key alone.
    TextOrTable(&'static Section),
    /// A table whose keys the user chooses, each holding the section.
    Named(&'static Section),
}

impl Section {
    pub(crate) fn key(&self, name: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.name == name || key.alias == Some(name))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.keys.iter().flat_map(|key| [Some(key.name), key.alias]).flatten()
    }
}

const fn key(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, alias: None, kind, required: false, doc }
}

const fn required(name: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, alias: None, kind, required: true, doc }
}

const fn aliased(name: &'static str, alias: &'static str, kind: Kind, doc: &'static str) -> Key {
    Key { name, alias: Some(alias), kind, required: false, doc }
}

/// The sections an app is made of, beside those given.
macro_rules! sections {
    ($($own:expr),* $(,)?) => { &[
        $($own,)*
        key("supervise", Kind::Table(&SUPERVISE), "How the app's root supervisor behaves."),
        key("release", Kind::Table(&RELEASE), "What is kept of releases."),
        key("hooks", Kind::Table(&HOOKS), "Workers that run around a release, and only then."),
        key("group", Kind::Named(&GROUP), "Subtrees of the supervision tree."),
        key("service", Kind::Named(&SERVICE), "Long-running workloads."),
        key("worker", Kind::Named(&WORKER), "One-shot workloads: run to exit 0, then complete."),
        key("cron", Kind::Named(&CRON), "Workloads that run at times."),
        key("volume", Kind::Named(&VOLUME), "Named volumes. A named volume that is not declared is a local one."),
        key("secret", Kind::Named(&SECRET), "Secrets that are made for the app. Values are never in a manifest."),
        key("policy", Kind::Table(&POLICY), "Which services may speak to which."),
    ] };
}

pub(crate) static ROOT: Section = Section {
    doc: "An app: what runs, on what it depends, and how it is supervised.",
    keys: sections![
        key("app", Kind::App(&APP, &APPS), "The app itself, or just its name; or several apps, [app.NAME] each."),
        key("include", Kind::Texts, "Files whose sections belong here too, relative to this one."),
        key("env", Kind::Overlays, "What is different in an environment: any section, below [env.NAME]."),
    ],
};

/// One of several apps in a file.
pub(crate) static APPS: Section = Section {
    doc: "One of several apps in a file: its sections are written below [app.NAME], as in [app.shop.service.web].",
    keys: sections![key("labels", Kind::Pairs, "Labels on the app.")],
};

pub(crate) static APP: Section = Section {
    doc: "The app itself.",
    keys: &[
        key("name", Kind::Text, "Name of the app; the directory's name when absent."),
        key("labels", Kind::Pairs, "Labels on the app."),
    ],
};

const RESTARTS_MAX: i64 = 1_000_000;

pub(crate) static SUPERVISE: Section = Section {
    doc: "A supervisor: what it restarts, how often, and when it gives up and hands the failure upward.",
    keys: &[
        STRATEGY,
        MAX_RESTARTS,
        WINDOW,
        BACKOFF_KEY,
        key(
            "on_exhausted",
            Kind::Choice(names::EXHAUSTED_WORDS),
            "When it gives up: stay as it is (default), or bring the release before back.",
        ),
    ],
};

pub(crate) static RELEASE: Section = Section {
    doc: "What is kept of releases.",
    keys: &[key(
        "keep",
        Kind::Integer { min: 0, max: AppSpec::KEEP_MAX as i64 },
        "Of how many releases the data is kept, beside the current one's. Default 5.",
    )],
};

pub(crate) static HOOKS: Section = Section {
    doc: "Workers that run around a release, one after the other. They do not run with the app's other workers.",
    keys: &[
        key("before_deploy", Kind::Texts, "Before anything is changed; one that fails stops the deploy."),
        key("after_deploy", Kind::Texts, "When all is ready; one that fails fails the release."),
        key(
            "before_rollback",
            Kind::Texts,
            "Of the release that is left, before an earlier one comes back; one that fails stops the rollback.",
        ),
    ],
};

pub(crate) static SECRET: Section = Section {
    doc: "A secret of the app. One that is not declared has to be set by hand (`coppice secret set`).",
    keys: &[
        key("generate", Kind::Choice(names::SECRET_WORDS), "Made by the node when there is none yet."),
        key("name", Kind::Text, "The name the certificate is for (generate = \"tls\")."),
    ],
};

pub(crate) static SECRET_USE: Section = Section {
    doc: "How a workload gets a secret: as a file, or as an environment variable.",
    keys: &[
        required("secret", Kind::Text, "The secret's name."),
        key("part", Kind::Text, "Another part of it: hash (password), public (ed25519) or certificate (tls)."),
        key("env", Kind::Text, "The environment variable that holds it."),
        key("file", Kind::Text, "The file that holds it, below /run/secrets when relative. Default: its name."),
        key("mode", Kind::Text, "The file's mode, as in \"0440\". Default \"0400\"."),
        key("owner", Kind::TextOrInteger, "The file's owner, as in 999 or \"999:999\". Default root."),
        key(
            "on_rotate",
            Kind::Text,
            "What becomes of running instances: restart (default), nothing, or a signal, as in \"signal:HUP\".",
        ),
    ],
};

pub(crate) static GROUP: Section = Section {
    doc: "A named subtree of the supervision tree, with a supervisor of its own.",
    keys: &[
        key("members", Kind::Texts, "Services and workers in the group, in the order they are started."),
        STRATEGY,
        MAX_RESTARTS,
        WINDOW,
        BACKOFF_KEY,
    ],
};

const STRATEGY: Key = key(
    "strategy",
    Kind::Choice(&["one_for_one", "one_for_all", "rest_for_one"]),
    "What else is restarted when one member fails: nothing, all, or those started after it. Default one_for_one.",
);
const MAX_RESTARTS: Key = key(
    "max_restarts",
    Kind::Integer { min: 0, max: RESTARTS_MAX },
    "Restarts within `window` before the supervisor gives up. Default 10.",
);
const WINDOW: Key = key("window", Kind::Duration, "See max_restarts. Default 60s.");
const BACKOFF_KEY: Key = key("backoff", Kind::Table(&BACKOFF), "Waits between restarts of one member.");

pub(crate) static BACKOFF: Section = Section {
    doc: "Waits between restarts: `first`, doubled up to `max`, with up to a quarter of jitter.",
    keys: &[
        key("first", Kind::Duration, "The first wait. Default 100ms."),
        key("max", Kind::Duration, "The longest wait. Default 30s."),
        key("reset_after", Kind::Duration, "A run of this long starts over at `first`. Default 10s."),
    ],
};

pub(crate) static VOLUME: Section = Section {
    doc: "A named volume.",
    keys: &[
        aliased(
            "driver",
            "type",
            Kind::Choice(&["local", "host"]),
            "local: kept by Coppice; host: a directory of the host. Default local.",
        ),
        key("path", Kind::Text, "The host's directory (driver host). Relative paths start at the manifest."),
        key("labels", Kind::Pairs, "Labels on the volume."),
        WHEN,
        key(
            "compression",
            Kind::Choice(names::COMPRESSION_WORDS),
            "How its data is compressed, where its storage can.",
        ),
        key("quota", Kind::Size, "Most bytes it may hold, as in \"10g\", where its storage can."),
        key("record_size", Kind::Size, "Bytes of a record, a power of two from 512 to 1m, where its storage can."),
    ],
};

const PORT: Kind = Kind::Integer { min: 1, max: 65535 };

pub(crate) static HEALTH: Section = Section {
    doc: "How an instance's health is found out. Healthy after one success, unhealthy after `retries` failures in a row.",
    keys: &[
        required("type", Kind::Choice(&["http", "tcp", "grpc", "exec", "rpc", "epmd"]), "What is asked."),
        key("port", PORT, "The container's port (http, tcp, grpc)."),
        key("path", Kind::Text, "Path to GET; 2xx is healthy (http). Default /."),
        key("service", Kind::Text, "The gRPC health service to ask for (grpc). Default: the server."),
        key("command", Kind::Words, "Exit 0 is healthy (exec)."),
        key(
            "expression",
            Kind::Text,
            "Asked of the release; false and nil are unhealthy (rpc). Default: whether it answers.",
        ),
        key("interval", Kind::Duration, "Between probes. Default 10s."),
        key(
            "timeout",
            Kind::Duration,
            "A probe that takes longer has failed. Default 5s, or `interval` if that is shorter.",
        ),
        key("retries", Kind::Integer { min: 1, max: 1000 }, "Failures in a row until unhealthy. Default 3."),
        key("start_period", Kind::Duration, "Failures this soon after the start do not count. Default 0s."),
    ],
};

pub(crate) static LIMITS: Section = Section {
    doc: "Resource limits of each instance; what is absent is unlimited.",
    keys: &[
        key("cpu", Kind::Cpu, "Cores, as in 0.5, or thousandths, as in \"500m\"."),
        key("cpu_weight", Kind::Integer { min: 1, max: 10_000 }, "Share under contention; 100 is normal."),
        key("memory", Kind::Size, "As in \"512m\"."),
        key("pids", Kind::Integer { min: 1, max: 4_194_304 }, "Processes and threads."),
        key("nofile", Kind::Integer { min: 1, max: 1_073_741_816 }, "Open files per process."),
        key("shm_size", Kind::Size, "Size of /dev/shm. Default 64m."),
    ],
};

pub(crate) static POLICY: Section = Section {
    doc: "Which services of the app may open connections to which. `coppice policy` rules win over these.",
    keys: &[
        key("default", Kind::Choice(names::POLICY_WORDS), "What holds of pairs that no rule names. Default allow."),
        key("allow", Kind::Texts, "Pairs, as in \"web -> db\"."),
        key("deny", Kind::Texts, "Pairs, as in \"web -> db\"; wins over `allow`."),
    ],
};

const MILLISECONDS: Kind = Kind::Integer { min: 1, max: u32::MAX as i64 };

pub(crate) static ROUTE: Section = Section {
    doc: "What the proxy sends to the service. A more special route wins: exact host, longer path, more headers.",
    keys: &[
        required("host", Kind::Texts, "Names the route is for, as in \"shop.example.com\" or \"*.example.com\"."),
        key("path_prefix", Kind::Text, "Whole segments: /api takes /api/x but not /apiary. Default /."),
        key("path", Kind::Text, "Exactly this path, instead of a prefix."),
        aliased(
            "rewrite_prefix",
            "rewrite",
            Kind::Text,
            "Stands in the matched path's place on the way to the service.",
        ),
        aliased("match_methods", "methods", Kind::Texts, "Methods the route takes; all when absent."),
        aliased("match_headers", "headers", Kind::Pairs, "Headers that must have exactly these values."),
        key("backend_services", Kind::Pairs, "Shares of services in percent, as in { web = 90, next = 10 }."),
        key("mirror_service", Kind::Text, "A service that gets a copy of each request; its answers are dropped."),
        key(
            "port",
            PORT,
            "The container's port. Default: the first of `ports`, else the image's EXPOSE, else the health check's.",
        ),
        key("protocol", Kind::Choice(names::BACKEND_WORDS), "http1 (default), or h2c for gRPC and other HTTP/2."),
        key("retries", Kind::Integer { min: 0, max: 5 }, "For GET, HEAD and OPTIONS, on other instances. Default 0."),
        key("retry_on_5xx", Kind::Boolean, "Retry after a 5xx answer too. Default true."),
        key("retry_budget", Kind::Integer { min: 1, max: 100 }, "Retries at most, in percent of requests. Default 20."),
        key("connect_timeout", Kind::Duration, "Default 1s."),
        key("connect_timeout_ms", MILLISECONDS, "The same, in milliseconds."),
        key("request_timeout", Kind::Duration, "From the request's end to the answer's head. Default 30s."),
        key("request_timeout_ms", MILLISECONDS, "The same, in milliseconds."),
        key("idle_timeout", Kind::Duration, "A connection on which nothing moves is closed. Default 5m."),
        key("http2_idle_timeout_ms", MILLISECONDS, "The same, in milliseconds."),
        key("circuit_breaker_threshold", Kind::Integer { min: 1, max: 10 }, "Failures in a row. Default 3."),
        key("circuit_breaker_timeout", Kind::Duration, "How long an instance that fails gets nothing. Default 30s."),
        key("circuit_breaker_timeout_ms", MILLISECONDS, "The same, in milliseconds."),
        key("preserve_host", Kind::Boolean, "Send the client's Host on. Default true."),
        key(
            "sticky",
            Kind::Text,
            "Keep a client with its instance: \"cookie\", \"cookie:NAME\", \"header:NAME\", \"client\".",
        ),
        key("rate_limit", Kind::Table(&RATE_LIMIT), "Requests of one client address."),
        key("basic_auth", Kind::Pairs, "User = password hash ($argon2…, $2b$… or {SHA256}hex)."),
        aliased(
            "allow",
            "ip_allowlist",
            Kind::Texts,
            "Networks that may come in, as in \"10.0.0.0/8\"; others get 403.",
        ),
        key("request_headers", Kind::Pairs, "Set on the way to the service; \"\" removes."),
        key("response_headers", Kind::Pairs, "Set on the way to the client; \"\" removes."),
        key("max_body", Kind::Size, "Largest request body, as in \"10m\". Default: any."),
        key("redirect", Kind::TextOrTable(&REDIRECT), "Answer with a redirect instead."),
        key("maintenance", Kind::Text, "Answer 503 with this HTML instead."),
        WHEN,
    ],
};

pub(crate) static RATE_LIMIT: Section = Section {
    doc: "A bucket of tokens for each client address.",
    keys: &[
        required("per_second", Kind::Integer { min: 1, max: 1_000_000 }, "Requests a second."),
        key("burst", Kind::Integer { min: 1, max: 1_000_000 }, "Requests at once. Default: per_second."),
    ],
};

pub(crate) static REDIRECT: Section = Section {
    doc: "A redirect.",
    keys: &[
        required("to", Kind::Text, "The address; {host}, {path} and {query} stand for the request's."),
        key("status", Kind::Integer { min: 301, max: 308 }, "301, 302, 303, 307 or 308. Default 308."),
    ],
};

pub(crate) static TLS: Section = Section {
    doc: "Certificates of the service's names, and encryption between services.",
    keys: &[
        aliased("domain", "domains", Kind::Texts, "Names that need a certificate."),
        key("acme", Kind::Table(&ACME), "Order it. When absent, `coppice cert install` brings it."),
        key("peer", Kind::Choice(names::PEER_WORDS), "Certificates of services that call this one. Default off."),
        key("redirect", Kind::Boolean, "Send plain HTTP requests to HTTPS. Default true."),
    ],
};

pub(crate) static ACME: Section = Section {
    doc: "How certificates are ordered.",
    keys: &[
        required("email", Kind::Text, "Where the authority writes to."),
        key("staging", Kind::Boolean, "Use Let's Encrypt's staging authority."),
        key("directory_url", Kind::Text, "Another authority's directory. Default: Let's Encrypt's."),
        key("challenge", Kind::Choice(names::CHALLENGE_WORDS), "http-01 (default), tls-alpn-01 or dns-01."),
        key("dns", Kind::Table(&DNS), "Who holds the zone (dns-01)."),
        key("on_demand", Kind::Boolean, "Order when the first client asks for a name."),
    ],
};

pub(crate) static DNS: Section = Section {
    doc: "How records are made for dns-01.",
    keys: &[
        required("provider", Kind::Choice(names::DNS_WORDS), "Who holds the zone."),
        key("secrets", Kind::Pairs, "Key = file on the node that holds the value."),
        key("config", Kind::Pairs, "Key = value, such as zone_id."),
        key("hook", Kind::Words, "Program and arguments (provider exec)."),
        key("propagation_timeout_secs", Kind::Integer { min: 1, max: 86_400 }, "Default 300."),
        key("poll_interval_secs", Kind::Integer { min: 1, max: 3600 }, "Default 5."),
    ],
};

const DEPENDS_ON: Key = key("depends_on", Kind::DependsOn, "What must be started, healthy or completed first.");
const WHEN: Key = key(
    "when",
    Kind::Text,
    "It is there only if this holds, as in \"env == 'prod' && var.REGION in ['eu', 'us']\". Default: always.",
);
const GROUP_KEY: Key = key("group", Kind::Text, "The [group.X] it belongs to, instead of listing it there.");

/// The keys services, workers and crons share, then the section's own.
macro_rules! workload_keys {
    ($($own:expr),* $(,)?) => {
        &[
            required("image", Kind::Text, "Image reference, as in `redis:7` or `ghcr.io/x/y@sha256:…`."),
            key("pull", Kind::Choice(&["always", "missing", "never"]), "When the image is fetched. Default missing."),
            key("command", Kind::Words, "Replaces the image's CMD. An argv; no shell is run."),
            key("entrypoint", Kind::Words, "Replaces the image's ENTRYPOINT; [] removes it."),
            key("env", Kind::Pairs, "Environment, as a table or as [\"KEY=VALUE\"]. Wins over env_file."),
            key("env_file", Kind::Texts, "Files of KEY=VALUE lines, relative to the manifest; later ones win."),
            key("volumes", Kind::Texts, "\"name:/path\", \"./dir:/path\", \"/dir:/path:ro\", or \"/path\" for one of its own."),
            key("tmpfs", Kind::Texts, "Paths that get an empty tmpfs, as in \"/tmp\" or \"/run:size=16m\"."),
            key("user", Kind::TextOrInteger, "\"name\", uid, or \"user:group\"; the image's USER when absent."),
            key("working_dir", Kind::Text, "Absolute path; the image's WORKDIR when absent."),
            key("limits", Kind::Table(&LIMITS), "Resource limits."),
            key("stop_signal", Kind::TextOrInteger, "As in \"TERM\" or \"QUIT\"; the image's STOPSIGNAL when absent."),
            key("stop_timeout", Kind::Duration, "From the stop signal to KILL. Default 10s."),
            key("network", Kind::Choice(&["bridge", "host", "none"]), "Default bridge."),
            key(
                "network_priority",
                Kind::Choice(&["low", "normal", "high"]),
                "Which queue of a link what it sends beyond the machine waits in. Default normal.",
            ),
            key("labels", Kind::Pairs, "Labels on the instances."),
            key("read_only", Kind::Boolean, "Mount the root filesystem read-only."),
            key("cap_add", Kind::Texts, "Capabilities beyond the default set, as in \"NET_ADMIN\"."),
            key("cap_drop", Kind::Texts, "Capabilities to take away; \"ALL\" takes every one."),
            key("privileged", Kind::Boolean, "Every device, capability and path. The node must allow it."),
            key("hostname", Kind::Text, "The name of the workload when absent."),
            key("extra_hosts", Kind::Hosts, "Lines for /etc/hosts, as in { db = \"10.0.0.5\" }."),
            key("init", Kind::Boolean, "Run a small init as PID 1 that reaps and forwards signals."),
            WHEN,
            key("secrets", Kind::Uses(&SECRET_USE), "Secrets it gets, as files below /run/secrets unless told otherwise."),
            key("release", Kind::Text, "A tarball of an Erlang or Elixir release, put on top of the image below /app."),
            key("node", Kind::Text, "The release's name among nodes of Erlang, as in \"shop@web\"."),
            key("cookie", Kind::Table(&COOKIE), "The secret with the cookie of its node."),
            $($own),*
        ]
    };
}

pub(crate) static COOKIE: Section = Section {
    doc: "The cookie of a release's node. It is never written here, only where it is kept.",
    keys: &[required("secret", Kind::Text, "The secret that holds it.")],
};

pub(crate) static SERVICE: Section = Section {
    doc: "A long-running workload.",
    keys: workload_keys![
        DEPENDS_ON,
        GROUP_KEY,
        key("rollout", Kind::Table(&ROLLOUT), "How it goes from one release to the next."),
        key("replicas", Kind::Integer { min: 0, max: 10_000 }, "Instances; 0 keeps it defined and stopped. Default 1."),
        key("ports", Kind::Ports, "\"8080:80\", \"127.0.0.1:8080:80/udp\", or 80 for a free host port."),
        key(
            "restart",
            Kind::Choice(names::RESTART_WORDS),
            "always (default), on-failure or never; yoq's on_failure and none are understood.",
        ),
        aliased("health", "health_check", Kind::Table(&HEALTH), "How its health is found out."),
        key("http_proxy", Kind::Table(&ROUTE), "The service's one route at the proxy."),
        key("http_routes", Kind::Named(&ROUTE), "Its routes, when there are several."),
        key("tls", Kind::Table(&TLS), "Certificates of its names."),
        key("headless", Kind::Boolean, "Its name resolves to the instances and not to one virtual address."),
        key("dev", Kind::Table(&DEV), "What `coppice up --dev` builds and watches for it; nobody else reads it."),
    ],
};

pub(crate) static DEV: Section = Section {
    doc: "What `coppice up --dev` does when a service's sources change. It is no part of the app.",
    keys: &[
        key("build", Kind::Text, "A command for `sh`, run beside the manifest: at first, and when a source changes."),
        key("watch", Kind::Texts, "Sources: files and directories, whose changes build and restart the service."),
    ],
};

pub(crate) static WORKER: Section = Section {
    doc: "A one-shot workload: runs to exit 0, then is complete.",
    keys: workload_keys![
        DEPENDS_ON,
        GROUP_KEY,
        key(
            "restart",
            Kind::Choice(names::WORKER_RESTART_WORDS),
            "never (default) or on-failure; yoq's on_failure and none are understood.",
        ),
    ],
};

pub(crate) static CRON: Section = Section {
    doc: "A workload that is run to its end at the times of a schedule: exactly one of `every` and `schedule`.",
    keys: workload_keys![
        key("every", Kind::Duration, "Run this far apart, at least a second."),
        key("schedule", Kind::Text, "\"minute hour day month weekday\", as in \"30 4 * * mon-fri\", or \"@daily\"."),
        key("time_zone", Kind::Text, "Whose times `schedule` means, as in \"Europe/Berlin\". Default UTC."),
        key(
            "overlap",
            Kind::Choice(names::OVERLAP_WORDS),
            "When a run is due and one still runs: skip (default), queue, or replace it.",
        ),
        key(
            "missed",
            Kind::Choice(names::MISSED_WORDS),
            "Times at which the node was away: skip (default), or run_once for all of them.",
        ),
        key("timeout", Kind::Duration, "A run that takes longer is stopped and has failed. Default: none."),
        key(
            "history",
            Kind::Integer { min: 1, max: CronSpec::HISTORY_MAX as i64 },
            "Ended runs remembered. Default 10."
        ),
    ],
};

const INSTANCES_MAX: i64 = 10_000;

pub(crate) static ROLLOUT: Section = Section {
    doc: "How a service goes from one release to the next. A healthy old instance goes only when a new one is ready.",
    keys: &[
        key(
            "strategy",
            Kind::Choice(names::ROLLOUT_WORDS),
            "rolling: batch by batch; canary: some first, with some of the traffic; blue_green: all beside the old, then \
             one switch; switch: stop, snapshot, start. Default: switch for one replica that writes a named volume or is \
             on the host's network, else rolling.",
        ),
        key("parallelism", Kind::Integer { min: 1, max: INSTANCES_MAX }, "Instances replaced at once. Default 1."),
        key(
            "max_surge",
            Kind::Integer { min: 1, max: INSTANCES_MAX },
            "Instances that may run beyond `replicas` meanwhile. Default: parallelism.",
        ),
        key("delay_between_batches", Kind::Duration, "Default 0s."),
        key(
            "health_check_timeout",
            Kind::Duration,
            "How long a new instance may take to be ready; 0s: it is once it runs. Default 2m.",
        ),
        key(
            "deadline",
            Kind::Duration,
            "How long the service may take in all, steps and delays included. Default 10m.",
        ),
        key(
            "failure_action",
            Kind::Choice(names::FAILURE_WORDS),
            "rollback (default): everything goes back; pause: it stays until somebody resumes or cancels it.",
        ),
        key("canary", Kind::Tables(&CANARY_STEP), "Steps (strategy canary). Default: one instance, 10 % for 30s."),
        key("analysis", Kind::Table(&ANALYSIS), "What a canary must keep to."),
    ],
};

pub(crate) static CANARY_STEP: Section = Section {
    doc: "One step of a canary.",
    keys: &[
        required("instances", Kind::Integer { min: 1, max: INSTANCES_MAX }, "New instances in all."),
        required(
            "weight",
            Kind::Integer { min: 1, max: 100 },
            "Share of the requests that come by routes, in percent.",
        ),
        required("duration", Kind::Duration, "How long it is watched before the next step."),
    ],
};

pub(crate) static ANALYSIS: Section = Section {
    doc: "What is compared with what the proxy saw of the new instances during a canary's step.",
    keys: &[
        key(
            "max_error_percent",
            Kind::Percent,
            "Most answers of 500 and above and failed attempts, as in 0.5. Default 1.",
        ),
        key("max_p99", Kind::Duration, "Longest 99th percentile of the time to answer. Default: not judged."),
        key("max_p99_ms", MILLISECONDS, "The same, in milliseconds."),
        key(
            "min_requests",
            Kind::Integer { min: 0, max: i64::MAX },
            "With fewer than this a step says nothing and passes. Default 20.",
        ),
    ],
};

/// Words people bring from elsewhere, and what to write here.
pub(crate) fn advice(section: &Section, word: &str) -> Option<&'static str> {
    let top = std::ptr::eq(section, &ROOT) || std::ptr::eq(section, &APPS);
    let (cron, rollout) = (std::ptr::eq(section, &CRON), std::ptr::eq(section, &ROLLOUT));
    let workload = std::ptr::eq(section, &SERVICE) || std::ptr::eq(section, &WORKER) || cron;
    Some(match word {
        "services" if top => "write one [service.NAME] per service; `coppice convert compose.yaml` does it",
        "volumes" if top => "write one [volume.NAME] per volume",
        "name" if top => "put it under [app]: name = \"...\"",
        "version" if top => "remove it: coppice.toml has no version",
        "secrets" if top => "write one [secret.NAME] per secret",
        "crons" if top => "write one [cron.NAME] per cron",
        "training" | "backup" | "vm" | "route" | "networks" | "configs" | "network" if top => {
            "this version of Coppice does not have it yet; remove it"
        }
        "keep" if top => "put it under [release]: keep = 5",
        "on_exhausted" if top => "put it under [supervise]",
        "environment" if workload => "write `env`",
        "healthcheck" if workload => "write `health`",
        "rollout" if workload && !std::ptr::eq(section, &SERVICE) => "only services have one: others run to their end",
        "depends_on" | "group" | "restart" | "replicas" | "ports" | "health" | "http_proxy" | "http_routes" if cron => {
            "crons have none: a run begins at its time and ends by itself"
        }
        "cron" if cron => "write `schedule`",
        "delay" if rollout => "write `delay_between_batches`",
        "build" if workload => {
            "images are built elsewhere; a command for `up --dev` goes into [service.NAME.dev] build"
        }
        "develop" if workload => "write [service.NAME.dev] with `build` and `watch`",
        "dns" | "networks" | "configs" | "devices" | "sysctls" | "logging" | "profiles" | "gpu" | "gpu_mesh"
        | "alerts" | "required_labels"
            if workload =>
        {
            "this version of Coppice does not have it yet; remove it"
        }
        "mem_limit" | "memory" if workload => "write limits = { memory = \"512m\" }",
        "cpus" | "cpu" if workload => "write limits = { cpu = 0.5 }",
        "pids_limit" | "pids" if workload => "write limits = { pids = 200 }",
        "shm_size" if workload => "write limits = { shm_size = \"128m\" }",
        "ulimits" | "nofile" if workload => "write limits = { nofile = 65536 }",
        "stop_grace_period" if workload => "write `stop_timeout`",
        "network_mode" if workload => "write `network`",
        "container_name" if workload => "remove it: instances are named after their service",
        "scale" | "deploy" if workload => "write `replicas`, `limits` and `restart`",
        "replicas" | "ports" | "health" | "health_check" | "http_proxy" | "http_routes" | "tls"
            if std::ptr::eq(section, &WORKER) =>
        {
            "workers have none; make it a [service.NAME] if it runs for long"
        }
        "test" if std::ptr::eq(section, &HEALTH) => "write type = \"exec\" and command = [...]",
        _ => return None,
    })
}
