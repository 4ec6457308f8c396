//! Published UDP ports: datagrams there and back, from the machine itself and from another one.

use std::process::Command;

use crate::node::{Node, Output, PATIENCE, wait_until};

/// Another machine: a network namespace behind a cable, with the node's end at 192.0.2.1; then `bash -c "$1"` on it.
const ELSEWHERE: &str = r#"
unshare --net sleep 1000 & other=$!
trap 'kill $other; ip link delete near 2> /dev/null' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do :; done
there() { nsenter --target $other --net "$@"; }
ip link add near type veth peer name far && ip link set far netns $other
ip address add 192.0.2.1/24 dev near && ip link set near up
there ip address add 192.0.2.2/24 dev far && there ip link set far up && there ip route add default via 192.0.2.1
there bash -c "$1"
"#;

/// Sends every datagram to port 7 back to where it came from. (Busybox has nothing of the kind.)
const ECHO: &str = r#"fn main() {
    let socket = std::net::UdpSocket::bind("0.0.0.0:7").unwrap();
    let mut buffer = [0; 2048];
    while let Ok((size, from)) = socket.recv_from(&mut buffer) {
        let _ = socket.send_to(&buffer[..size], from);
    }
}"#;

/// The echo, static.
fn echo_program(node: &Node) -> String {
    let (source, program) = (node.file("echo.rs", ECHO), node.dir().join("echo"));
    let mut build = Command::new("rustc");
    build.args(["--edition", "2024", "-C", "target-feature=+crt-static", "-o"]).arg(&program).arg(source);
    Output::of(build).succeeded();
    program.to_str().unwrap().to_owned()
}

/// Sends a line to a UDP port and prints what comes back within a second.
fn asking(address: &str, line: &str) -> String {
    format!("exec 3<> /dev/udp/{}; echo {line} >&3; timeout 1 head -n 1 <&3", address.replace(':', "/"))
}

fn bash(node: &Node, words: &[&str]) -> Output {
    let mut bash = node.inside("bash");
    bash.args(words);
    Output::of(bash)
}

#[test]
fn a_published_udp_port_answers_on_loopback_and_from_another_machine() {
    let node = Node::with_busybox();
    let program = format!("{}:/echo:ro", echo_program(&node));
    let flags = ["run", "-d", "--name", "echo", "-v", &program, "-p", "9007:7/udp", "-p", "9007:7", "box", "/echo"];
    node.ok(flags);
    assert_eq!(node.inspect("echo")["ports"][0]["protocol"], "udp");
    node.coppice(["ps"]).succeeded().printed_some("9007->7/udp");
    let here = |line: &str| bash(&node, &["-c", &asking("127.0.0.1:9007", line)]).stdout;
    wait_until("it echoes", PATIENCE, || here("first").trim() == "first");
    for n in 0..5 {
        let line = format!("again-{n}");
        wait_until("it echoes again", PATIENCE, || here(&line).trim() == line);
    }
    let ask = asking("192.0.2.1:9007", "from-afar");
    let far = || bash(&node, &["-c", ELSEWHERE, "_", &ask]).stdout;
    wait_until("it echoes across the cable", PATIENCE, || far().trim() == "from-afar");
    // The port is taken for UDP, and free again with the container.
    let taken = node.coppice(["run", "--rm", "-p", "9007:7/udp", "box", "true"]);
    taken.ended_with(125).complained("9007");
    node.ok(["rm", "-f", "echo"]);
    assert_eq!(here("nobody").trim(), "");
    node.ok(["run", "--rm", "-p", "9007:7/udp", "box", "true"]);
}
