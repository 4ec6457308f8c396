//! `coppice init`: the first manifest, and the name an app gets from its directory.

use coppice_base::Name;
use coppice_base::name::NAME_MAX;

/// A [`Name`] as near to `text` as can be: lower case, other characters as `-`; `app` when nothing is left.
pub fn app_name(text: &str) -> Name {
    let mut name = String::new();
    for c in text.chars() {
        let c = c.to_ascii_lowercase();
        let plain = c.is_ascii_lowercase() || c.is_ascii_digit();
        let c = if plain || matches!(c, '-' | '_' | '.') { c } else { '-' };
        if name.len() < NAME_MAX && (plain || !(name.is_empty() || c == '-' && name.ends_with('-'))) {
            name.push(c);
        }
    }
    let name = name.trim_end_matches(['-', '.', '_']);
    Name::new(name).unwrap_or_else(|_| Name::new("app").expect("`app` is a name"))
}

/// A commented `coppice.toml` to start from, for a directory called `dir_name`. It is valid as it is.
pub fn init(dir_name: &str) -> String {
    STARTER.replace("APP_NAME", app_name(dir_name).as_str())
}

const STARTER: &str = r#"# An app of containers. `coppice validate` checks this file, `coppice up` runs it.

[app]
name = "APP_NAME"

[service.web]
image = "nginx:alpine"
# command = ["nginx", "-g", "daemon off;"]   # replaces the image's command; no shell is run
ports = ["8080:80"]                          # host:container
replicas = 1
# env = { LOG_LEVEL = "${LOG_LEVEL:-info}" } # variables are taken from your environment
# volumes = ["content:/usr/share/nginx/html", "./nginx.conf:/etc/nginx/nginx.conf:ro"]
# depends_on = ["migrate", "cache:healthy"]  # started, healthy or completed
# limits = { cpu = 0.5, memory = "256m", pids = 200 }

[service.web.health]
type = "http"                                # http, tcp, grpc or exec
port = 80
path = "/"
interval = "10s"
timeout = "2s"

# A worker runs once, to exit 0.
# [worker.migrate]
# image = "ghcr.io/you/migrate:1"
# env_file = "./migrate.env"

# Members of a group are restarted by their own supervisor.
# [group.front]
# members = ["web"]
# strategy = "one_for_one"                   # or one_for_all, rest_for_one
# max_restarts = 10
# window = "60s"

# Named volumes need no section; one that is a directory of the host does.
# [volume.content]
# driver = "host"
# path = "/srv/content"
"#;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_directory_name_gives_an_app_name() {
        for (dir, name) in [
            ("shop", "shop"),
            ("My Shop (2)", "my-shop-2"),
            ("--x--", "x"),
            ("", "app"),
            ("日本", "app"),
            ("a.b_c", "a.b_c"),
        ] {
            assert_eq!(app_name(dir).as_str(), name, "{dir}");
        }
        assert_eq!(app_name(&"x".repeat(200)).as_str().len(), 63);
    }
}
