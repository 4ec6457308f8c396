//! A private registry as companies have them: a certificate of its own authority, a name and a password.

use std::os::unix::fs::PermissionsExt;

use crate::images::Registry;
use crate::node::{Node, Output, busybox_tar};

const REGISTRY: &str = "127.0.0.1:5000";

/// A registry with TLS by an authority nobody knows, and the user planter with the password secret.
fn registry(node: &Node) -> Registry {
    let script = "set -e; openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.crt -days 2 -subj '/CN=grove ca' 2> /dev/null; \
                  openssl req -newkey rsa:2048 -nodes -keyout key.pem -out request.pem -subj /CN=registry 2> /dev/null; \
                  echo 'subjectAltName=IP:127.0.0.1' > ext; \
                  openssl x509 -req -in request.pem -CA ca.crt -CAkey ca.key -CAcreateserial -out cert.pem -days 2 -extfile ext 2> /dev/null; \
                  htpasswd -Bbc users planter secret 2> /dev/null";
    let mut sh = node.inside("sh");
    sh.args(["-c", script]);
    Output::of(sh).succeeded();
    let file = |name: &str| node.dir().join(name).display().to_string();
    let more = format!(
        "  tls: {{certificate: {}, key: {}}}\nauth:\n  htpasswd: {{realm: grove, path: {}}}\n",
        file("cert.pem"),
        file("key.pem"),
        file("users")
    );
    Registry::start_with(node, &node.dir().join("storage"), &more)
}

fn trust(node: &Node) {
    let dir = node.see(&node.root().join("certs.d").join(REGISTRY));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::copy(node.dir().join("ca.crt"), dir.join("ca.crt")).unwrap();
}

fn node_with_image() -> Node {
    let node = Node::new();
    node.ok(["import", "--cmd", "echo it runs", busybox_tar().to_str().unwrap(), &format!("{REGISTRY}/team/made:1")]);
    node
}

#[test]
fn a_registry_of_an_own_authority_is_spoken_to_once_that_is_trusted_and_the_login_is_right() {
    let node = node_with_image();
    let _registry = registry(&node);
    let image = format!("{REGISTRY}/team/made:1");
    let login = ["login", "-u", "planter", "--password-stdin", REGISTRY];
    node.coppice_fed(login, b"secret\n").succeeded();
    node.coppice(["push", &image]).ended_with(1).complained("certificate").complained("certs.d");
    trust(&node);
    // No restart is needed for it.
    node.coppice(["push", &image]).succeeded();
    node.ok(["rmi", &image]);
    node.coppice_fed(login, b"mistyped\n").succeeded();
    let refused = node.coppice(["pull", &image]).ended_with(1).complained("password").complained("coppice login");
    assert!(!refused.stderr.contains("mistyped"), "the password is not shown");
    node.ok(["logout", REGISTRY]);
    node.coppice(["pull", &image]).ended_with(1).complained("coppice login");
    node.coppice_fed(login, b"secret\n").succeeded();
    node.coppice(["run", "--rm", "--network=none", &image]).succeeded().printed_some("it runs");
}

#[test]
fn a_login_is_written_as_docker_writes_it_and_a_credential_helper_is_asked() {
    let node = node_with_image();
    let _registry = registry(&node);
    trust(&node);
    let image = format!("{REGISTRY}/team/made:1");
    node.coppice_fed(["login", "-u", "planter", "--password-stdin", REGISTRY], b"secret\n").succeeded();
    let config = node.dir().join("docker/config.json");
    assert_eq!(std::fs::metadata(&config).unwrap().permissions().mode() & 0o777, 0o600);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    // planter:secret
    assert_eq!(written["auths"][REGISTRY]["auth"], "cGxhbnRlcjpzZWNyZXQ=");
    // Another tool that reads it gets in.
    let mut skopeo = node.inside("skopeo");
    skopeo
        .args(["list-tags", "--tls-verify=false", "--authfile"])
        .arg(&config)
        .arg(format!("docker://{REGISTRY}/none"));
    let asked = Output::of(skopeo);
    assert!(!asked.stderr.contains("unauthorized"), "{}", asked.stderr);

    std::fs::create_dir(node.dir().join("bin")).unwrap();
    let helper = node.file(
        "bin/docker-credential-grove",
        "#!/bin/sh\ntest \"$1\" = get && cat > asked && \
         echo '{\"Username\":\"planter\",\"Secret\":\"secret\"}'\n",
    );
    std::fs::set_permissions(&helper, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(&config, format!("{{\"credHelpers\":{{\"{REGISTRY}\":\"grove\"}}}}")).unwrap();
    let path = format!("{}:{}", node.dir().join("bin").display(), std::env::var("PATH").unwrap());
    let mut push = node.command(["push", &image]);
    push.env("PATH", path);
    Output::of(push).succeeded();
    assert_eq!(std::fs::read_to_string(node.dir().join("asked")).unwrap().trim(), REGISTRY);
    // A helper that is not there is named.
    node.coppice(["push", &image]).ended_with(1).complained("docker-credential-grove");
}
