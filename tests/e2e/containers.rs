//! Containers end to end: the built binary, a real node, real images.

mod node;

use node::Node;

#[test]
fn run_prints_what_the_command_prints_and_ends_with_its_code() {
    let node = Node::with_busybox();
    node.coppice(["run", "--rm", "--network", "none", "box", "sh", "-c", "echo out; echo err >&2; exit 7"])
        .ended_with(7)
        .printed("out")
        .complained("err");
}
