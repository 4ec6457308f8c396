//! Real servers as backends: PostgreSQL and redis by their services' names and virtual addresses, nginx by its route.

mod node;
mod project;

use std::process::Stdio;

use node::{Node, Output, debian_root, kill_and_wait};
use project::{Project, wait_for, wait_until};

/// Roots that are only unpacked have no users: PostgreSQL wants its own to have a name, and nobody has given it its directory.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n";

const BACKENDS: &str = r#"
[supervise]
max_restarts = 1000
backoff = { first = "50ms", max = "200ms" }
[worker.directory]
image = "box"
command = ["chown", "999:999", "/data"]
volumes = ["data:/data"]

[worker.initdb]
image = "postgres-root"
command = ["/bin/sh", "-c", "/usr/lib/postgresql/15/bin/initdb -D /data/pg -U postgres -A trust --locale=C && echo 'host all all all trust' >> /data/pg/pg_hba.conf"]
user = "999:999"
volumes = ["data:/data", "./passwd:/etc/passwd:ro"]
tmpfs = ["/tmp"]
depends_on = { directory = "completed" }

[service.db]
image = "postgres-root"
command = ["/usr/lib/postgresql/15/bin/postgres", "-D", "/data/pg", "-k", "/tmp", "-c", "listen_addresses=*"]
user = "999:999"
volumes = ["data:/data", "./passwd:/etc/passwd:ro"]
tmpfs = ["/tmp"]
stop_signal = "INT"
depends_on = { initdb = "completed" }
health = { type = "exec", command = ["/usr/lib/postgresql/15/bin/pg_isready", "-h", "/tmp"], interval = "200ms", start_period = "15s" }

[service.cache]
image = "redis-root"
command = ["/usr/bin/redis-server", "--save", "", "--protected-mode", "no"]
user = "999:999"
stop_signal = "KILL"
health = { type = "exec", command = ["/usr/bin/redis-cli", "ping"], interval = "200ms", start_period = "15s" }

[service.pages]
image = "nginx-root"
replicas = 2
command = ["/usr/sbin/nginx", "-e", "/dev/stderr", "-c", "/nginx.conf"]
user = "33:33"
volumes = ["./nginx.conf:/nginx.conf:ro", "./pages:/pages:ro"]
tmpfs = ["/tmp"]
stop_signal = "QUIT"
health = { type = "http", port = 8080, path = "/small", interval = "200ms", start_period = "15s" }

[service.pages.http_proxy]
host = "pages.example.com"
retries = 2

# One session that lasts: a row every tenth of a second, each with the time its session began.
[service.writer]
image = "postgres-root"
command = ["/bin/sh", "-c", "echo 'create table if not exists beats (since timestamptz); insert into beats select backend_start from pg_stat_activity where pid = pg_backend_pid() \\watch 0.1' | PGCONNECT_TIMEOUT=5 exec /usr/lib/postgresql/15/bin/psql -h db -U postgres -q -v ON_ERROR_STOP=1"]
volumes = ["./passwd:/etc/passwd:ro"]
depends_on = { db = "healthy" }
stop_signal = "KILL"
"#;

const NGINX: &str = "daemon off; pid /tmp/nginx.pid; error_log /dev/stderr; events {}\n\
    http { access_log off; client_body_temp_path /tmp/b; proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f;\n\
    uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s; server { listen 8080; root /pages; } }\n";

fn backends(node: &Node) -> Project<'_> {
    node.busybox_image();
    let postgres = ["postgresql-15", "postgresql-client-15", "dash"];
    for (name, packages) in [("postgres", &postgres[..]), ("redis", &["redis-server"]), ("nginx", &["nginx-light"])] {
        let tar = debian_root(name, packages);
        node.ok(["import", tar.to_str().unwrap(), &format!("{name}-root")]);
    }
    let project = Project::new(node, "shop", BACKENDS);
    std::fs::write(project.dir.join("passwd"), PASSWD).unwrap();
    std::fs::write(project.dir.join("nginx.conf"), NGINX).unwrap();
    std::fs::create_dir(project.dir.join("pages")).unwrap();
    std::fs::write(project.dir.join("pages/small"), "small\n").unwrap();
    let large: Vec<u8> = (0..8 << 20).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(project.dir.join("pages/large"), large).unwrap();
    project
}

/// What a statement answers, asked from another service's instance by a name of `db`.
fn ask(shop: &Project<'_>, host: &str, statement: &str) -> Output {
    let psql = "/usr/lib/postgresql/15/bin/psql";
    shop.coppice(&["exec", "shop/writer-1", psql, "-h", host, "-U", "postgres", "-Atqc", statement])
}

fn beats(shop: &Project<'_>) -> Option<(u64, u64)> {
    let said = ask(shop, "db", "select count(*), count(distinct since) from beats");
    let (rows, sessions) = said.stdout.trim().split_once('|')?;
    Some((rows.parse().ok()?, sessions.parse().ok()?))
}

#[test]
fn postgresql_and_redis_serve_by_name_and_nginx_by_its_route_over_kills_of_everything() {
    let node = Node::new();
    let shop = backends(&node);
    shop.ok(&["up", "--timeout", "60s"]);

    // A large answer, by each of the service's names.
    ask(
        &shop,
        "db",
        "create table large as select n, repeat(md5(n::text), 30) as text from generate_series(1, 20000) n",
    )
    .succeeded();
    let all = ask(&shop, "db.shop", "select text from large order by n").succeeded().stdout;
    assert_eq!((all.lines().count(), all.len()), (20_000, 20_000 * 961));

    // The session goes on while the daemon is killed, another comes, and everything around it changes.
    wait_until("the writer writes", || beats(&shop).is_some_and(|(rows, _)| rows > 2));
    let (before, sessions) = beats(&shop).unwrap();
    kill_and_wait(node.daemon_pid(), "KILL");
    wait_until("another daemon runs", || node.coppice(["node", "start"]).code == 0);
    shop.write(&BACKENDS.replace("replicas = 2", "replicas = 3"));
    shop.ok(&["up", "--timeout", "60s"]);
    wait_until("it wrote on", || beats(&shop).is_some_and(|(rows, _)| rows > before + 5));
    assert_eq!(beats(&shop).unwrap().1, sessions, "the session broke");

    // The server is killed: what was committed is there, and clients find it at the same name and address.
    kill_and_wait(shop.pid("db-1"), "KILL");
    shop.wait_child("db-1", "is back", |db| db.ready && db.restarts >= 1);
    let (rows, _) = wait_for("it answers", || beats(&shop));
    assert!(rows > before + 5, "{rows} rows of more than {before}");
    wait_until("another session writes", || beats(&shop).is_some_and(|(_, now)| now > sessions));
    assert_eq!(ask(&shop, "db", "select count(*) from large").succeeded().stdout.trim(), "20000");

    let redis = |args: &[&str]| {
        let command = [&["exec", "shop/cache-1", "/usr/bin/redis-cli", "-h", "cache.shop"], args].concat();
        shop.ok(&command).trim().to_owned()
    };
    assert_eq!(redis(&["set", "greeting", "hello"]), "OK");
    assert_eq!(redis(&["get", "greeting"]), "hello");

    // nginx behind the proxy: whole, while each of its instances is killed in its turn.
    let page = |name: &str| {
        let mut curl = node.inside("curl");
        curl.args(["-sS", "--fail-with-body", "--max-time", "20", "-H", "Host: pages.example.com"]);
        let output = curl.arg(format!("http://127.0.0.1/{name}")).stderr(Stdio::inherit()).output().unwrap();
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stdout));
        output.stdout
    };
    let large = std::fs::read(shop.dir.join("pages/large")).unwrap();
    for instance in ["pages-1", "pages-2", "pages-3"] {
        kill_and_wait(shop.pid(instance), "KILL");
        assert_eq!(page("small"), b"small\n");
        assert!(page("large") == large, "another body");
        shop.wait_child(instance, "is back", |pages| pages.ready && pages.restarts == 1);
    }
}
