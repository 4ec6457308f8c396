//! The app most tests run: a store with a volume, a worker that needs it, and two replicas that answer on a port.

/// Every server answers with its own name; the worker writes a line for each of its runs.
pub const SHOP: &str = r#"
[service.db]
image = "box"
command = ["sh", "-c", "sleep 0.1; hostname > /data/index.html; exec httpd -f -p 5432 -h /data"]
volumes = ["data:/data"]
stop_signal = "KILL"
health = { type = "http", port = 5432, interval = "500ms" }

[worker.migrate]
image = "box"
command = ["sh", "-c", "wget -q -O /data/seen http://db:5432/ && echo once >> /data/runs"]
volumes = ["data:/data"]
depends_on = { db = "healthy" }

[service.web]
image = "box"
command = ["sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 80 -h /www"]
replicas = 2
ports = ["8080:80"]
depends_on = { db = "healthy", migrate = "completed" }
stop_signal = "KILL"
health = { type = "http", port = 80, interval = "500ms" }

[volume.data]
"#;

/// The shop, whose store takes this long (in seconds, as sleep(1) reads it) to get up.
pub fn slow_shop(seconds: &str) -> String {
    SHOP.replace("sleep 0.1;", &format!("sleep {seconds};"))
}
