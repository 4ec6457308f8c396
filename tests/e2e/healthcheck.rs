//! An image's own HEALTHCHECK, as buildah writes it: for `run` and for a service.

use crate::node::{Node, Output, PATIENCE, busybox_tar, wait_until};

/// Makes an image with buildah, whose check fails while /sick is there, and takes it in as `checked:1`.
fn load_checked(node: &Node) {
    let script = format!(
        "set -e; b() {{ buildah --storage-driver vfs --root {dir}/storage --runroot {dir}/run \"$@\"; }}; \
         c=$(b from scratch); b add -q $c {tar} / > /dev/null; \
         b config --healthcheck 'CMD-SHELL test ! -e /sick' --healthcheck-interval 200ms \
           --healthcheck-timeout 5s --healthcheck-retries 2 --cmd 'sleep 1000' $c; \
         b commit -q --format docker $c docker-archive:{dir}/checked.tar:checked:1 > /dev/null; b rm $c > /dev/null; \
         b rmi -a -f > /dev/null || true; rm -rf {dir}/storage {dir}/run",
        dir = node.dir().display(),
        tar = busybox_tar().display(),
    );
    let mut sh = node.inside("sh");
    sh.args(["-c", &script]).env("BUILDAH_ISOLATION", "chroot").env_remove("DOCKER_CONFIG");
    Output::of(sh).succeeded();
    node.ok(["load", "-i", "checked.tar"]);
}

#[test]
fn a_container_of_an_image_with_a_healthcheck_shows_how_it_is() {
    let node = Node::new();
    load_checked(&node);
    node.ok(["run", "-d", "--name", "c", "--network=none", "checked:1"]);
    let is = |health: &str| {
        wait_until(&format!("it is {health}"), PATIENCE, || node.inspect("c")["health"] == health);
        node.coppice(["ps"]).succeeded().printed_some(&format!("({health})"));
    };
    is("healthy");
    node.ok(["exec", "c", "touch", "/sick"]);
    is("unhealthy");
    assert_eq!(node.inspect("c")["state"], "running", "as with docker, it runs on");
    node.ok(["exec", "c", "rm", "/sick"]);
    is("healthy");
}

#[test]
fn a_service_of_an_image_with_a_healthcheck_is_ready_when_that_says_so() {
    let node = Node::new();
    load_checked(&node);
    let manifest = "app = \"shop\"\n[service.web]\nimage = \"checked:1\"\nnetwork = \"none\"\nstop_signal = \"KILL\"\n\
                    [service.user]\nimage = \"checked:1\"\nnetwork = \"none\"\nstop_signal = \"KILL\"\n\
                    depends_on = { web = \"healthy\" }\n";
    node.file("coppice.toml", manifest);
    node.ok(["up", "--timeout", "20s"]);
    let web = || {
        let status = node.json(["status", "shop"]);
        status["tree"]["children"].as_array().unwrap().iter().find(|c| c["instance"] == "web-1").unwrap().clone()
    };
    assert_eq!((&web()["ready"], &web()["health"]), (&true.into(), &"healthy".into()));
    node.ok(["exec", "web-1", "touch", "/sick"]);
    wait_until("the tree says what the check said", PATIENCE, || {
        let text = node.coppice(["status", "shop"]).stdout;
        text.contains("unhealthy") && text.contains("exited with code 1 (2 times in a row)")
    });
}
