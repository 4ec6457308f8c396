//! A database with real data, cut back: a migration drops a table, and every row is there again, at whichever step daemons are
//! killed.

mod node;
mod project;

use std::collections::BTreeSet;
use std::path::Path;

use node::{Node, Output, debian_root};
use project::{Project, wait_until};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npostgres:x:999:999::/tmp:/bin/sh\n";

const MANIFEST: &str = r#"
[worker.initdb]
image = "postgres-root"
command = ["/bin/sh", "-c", "[ -d /data/pg ] || { /usr/lib/postgresql/15/bin/initdb -D /data/pg -U postgres -A trust --locale=C && echo 'host all all all trust' >> /data/pg/pg_hba.conf; }"]
user = "999:999"
volumes = ["data:/data", "./passwd:/etc/passwd:ro"]
tmpfs = ["/tmp"]
depends_on = { directory = "completed" }

[worker.directory]
image = "box"
command = ["chown", "999:999", "/data"]
volumes = ["data:/data"]

[service.db]
image = "postgres-root"
command = ["/usr/lib/postgresql/15/bin/postgres", "-D", "/data/pg", "-k", "/tmp", "-c", "listen_addresses=*", "-c", "fsync=off"]
user = "999:999"
volumes = ["data:/data", "./passwd:/etc/passwd:ro"]
tmpfs = ["/tmp"]
stop_signal = "INT"
depends_on = { initdb = "completed" }
health = { type = "exec", command = ["/usr/lib/postgresql/15/bin/pg_isready", "-h", "/tmp"], interval = "200ms", start_period = "15s" }

# Deploys change the schema through the database, as deploys do.
[worker.migrate]
image = "postgres-root"
command = ["/usr/lib/postgresql/15/bin/psql", "-h", "db", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qc", "MIGRATION"]
volumes = ["./passwd:/etc/passwd:ro"]
depends_on = { db = "healthy" }

[volume.data]

[release]
keep = 100
"#;

fn manifest(migration: &str) -> String {
    MANIFEST.replace("MIGRATION", migration)
}

/// What a statement answers.
fn ask(shop: &Project<'_>, statement: &str) -> Output {
    let psql = "/usr/lib/postgresql/15/bin/psql";
    shop.coppice(&["exec", "shop/db-1", psql, "-h", "/tmp", "-U", "postgres", "-Atqc", statement])
}

fn rows(shop: &Project<'_>) -> Option<String> {
    let said = ask(shop, "select count(*), sum(hashtext(line)::bigint) from orders");
    (said.code == 0).then_some(said.stdout)
}

/// The moments that daemons came past, each once.
fn passed(death: &Path) -> BTreeSet<String> {
    let passed = std::fs::read_to_string(death.with_extension("passed")).unwrap();
    passed.lines().filter(|moment| *moment != "after tick").map(str::to_owned).collect()
}

#[test]
fn a_dropped_table_is_back_with_every_row_after_a_rollback_with_data_at_whichever_step_daemons_are_killed() {
    let mut node = Node::on_btrfs(2 << 30);
    let death = node.mortal();
    node.busybox_image();
    let tar = debian_root("postgres", &["postgresql-15", "postgresql-client-15", "dash"]);
    node.ok(["import", tar.to_str().unwrap(), "postgres-root"]);
    let create = "create table orders as select n, md5(n::text) as line from generate_series(1, 20000) n";
    let shop = Project::new(&node, "shop", &manifest(create));
    std::fs::write(shop.dir.join("passwd"), PASSWD).unwrap();
    shop.ok(&["up", "--timeout", "60s"]);
    let before = rows(&shop).expect("the table is there");
    assert!(before.starts_with("20000|"), "{before}");

    shop.write(&manifest("drop table orders"));
    shop.ok(&["up", "--timeout", "60s"]);
    assert_eq!(rows(&shop), None, "the migration destroyed it");
    let _ = std::fs::remove_file(death.with_extension("passed"));
    shop.ok(&["rollback", "shop", "--data"]);
    let moments = passed(&death);
    assert_eq!(rows(&shop).as_ref(), Some(&before));
    // Its past is its own: the rollback did not run the old migration into what came back.
    shop.ok(&["rollback", "shop", "--undo"]);
    assert_eq!(rows(&shop), None);

    // Daemons killed at each step of it: the next ones finish it, and every row is there.
    assert!(moments.iter().any(|moment| moment == "after switched"), "{moments:?}");
    for moment in moments {
        std::fs::write(&death, &moment).unwrap();
        // Its fate is told by the next daemon.
        let said = shop.coppice(&["rollback", "shop", "--release", "1", "--data", "--detach"]);
        wait_until(&format!("a daemon has died {moment}: {}", said.stderr), || !death.exists());
        let status = shop.wait_status("it has ended", |status| status.settled);
        assert_eq!(status.state, "ready", "{moment}: {status:#?}");
        assert_eq!(rows(&shop).as_ref(), Some(&before), "{moment}");
        shop.ok(&["rollback", "shop", "--undo"]);
        assert_eq!(rows(&shop), None, "{moment}");
    }
    // Down and gone, loop device and all.
    shop.ok(&["node", "stop", "--all"]);
}
