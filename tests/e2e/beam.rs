//! Releases of Elixir, built here by Debian's packages: deployed, judged by rpc and epmd, upgraded, rolled back.

mod node;
mod project;

use std::path::{Path, PathBuf};
use std::process::Command;

use node::{Node, Output, debian_root};
use project::{Project, wait_until};

/// A cookie that nothing has by chance.
const COOKIE: &str = "oatmeal-raisin-51c7e0aa93";

const MIX: &str = r#"
defmodule Shop.MixProject do
  use Mix.Project
  def project do
    [app: :shop, version: System.get_env("SHOP_VERSION"), start_permanent: true,
     releases: [shop: [include_erts: true, steps: [:assemble, :tar], strip_beams: true]]]
  end
  def application, do: [mod: {Shop, []}]
end
"#;

/// Answers any request with its version, its node's name and its cookie's length.
const SOURCE: &str = r##"
defmodule Shop do
  use Application
  def start(_, _) do
    {:ok, socket} = :gen_tcp.listen(8080, [:binary, packet: :http_bin, active: false, reuseaddr: true])
    Supervisor.start_link([{Task, fn -> accept(socket) end}], strategy: :one_for_one)
  end
  def well?, do: Node.alive?()
  defp accept(socket) do
    {:ok, client} = :gen_tcp.accept(socket)
    _ = :gen_tcp.recv(client, 0)
    cookie = byte_size(Atom.to_string(Node.get_cookie()))
    body = "#{Application.spec(:shop, :vsn)} #{node()} #{cookie}"
    :inet.setopts(client, packet: :raw)
    :gen_tcp.send(client, "HTTP/1.1 200 OK\r\ncontent-length: #{byte_size(body)}\r\nconnection: close\r\n\r\n#{body}")
    :gen_tcp.close(client)
    accept(socket)
  end
end
"##;

/// The tarball of a version of the shop's release.
#[track_caller]
fn release(dir: &Path, version: &str) -> PathBuf {
    let home = dir.join(format!("source-{version}"));
    std::fs::create_dir_all(home.join("lib")).unwrap();
    std::fs::write(home.join("mix.exs"), MIX).unwrap();
    std::fs::write(home.join("lib/shop.ex"), SOURCE).unwrap();
    let mut mix = Command::new("mix");
    mix.args(["release", "--quiet"]).current_dir(&home).env("MIX_ENV", "prod").env("SHOP_VERSION", version);
    mix.env("LANG", "C.UTF-8").env("HOME", &home);
    Output::of(mix).succeeded();
    home.join(format!("_build/prod/shop-{version}.tar.gz"))
}

fn manifest(more: &str) -> String {
    format!(
        r#"
[service.web]
image = "base"
release = "shop.tar.gz"
node = "shop@web"
cookie = {{ secret = "cookie" }}
ports = ["18080:8080"]
stop_signal = "KILL"
rollout = {{ strategy = "rolling", health_check_timeout = "20s" }}

[service.web.health]
type = "rpc"
interval = "1s"
timeout = "10s"
{more}
"#
    )
}

const BACK: &str = r#"
[service.back]
image = "base"
release = "shop.tar.gz"
node = "back@back"
cookie = { secret = "cookie" }
stop_signal = "KILL"

[service.back.health]
type = "epmd"
interval = "1s"
"#;

#[test]
fn a_release_is_deployed_upgraded_and_rolled_back_and_its_cookie_is_nowhere() {
    let node = Node::new();
    // What Debian's ERTS is linked with, and the shell that a release's start script wants.
    let packages = ["libstdc++6", "libsystemd0", "libtinfo6", "zlib1g", "coreutils", "dash", "grep", "mawk", "sed"];
    let root = debian_root("erts", &packages);
    node.coppice(["image", "import", root.to_str().unwrap(), "base"]).succeeded();
    let versions = ["1.0.0", "2.0.0"].map(|version| release(node.dir(), version));

    let shop = Project::new(&node, "shop", &(manifest("expression = \"Shop.well?()\"") + BACK));
    let tarball = shop.dir.join("shop.tar.gz");
    std::fs::copy(&versions[0], &tarball).unwrap();
    let unset = shop.coppice(&["up"]).complained("cookie");
    assert_ne!(unset.code, 0);
    node.coppice_fed(["secret", "set", "cookie"], COOKIE.as_bytes()).succeeded();

    let answers = |version: &str| {
        let whole = format!("{version} shop@web {}", COOKIE.len());
        wait_until(&format!("it answers {whole}"), || node.http_get(18080).is_some_and(|body| body.contains(&whole)));
    };
    shop.up();
    answers("1.0.0");
    assert!(shop.child("back-1").ready, "epmd knows it");

    // Once sent, it is there.
    let again = shop.coppice(&["up"]).succeeded();
    assert!(again.stderr.contains("nothing has changed") && !again.stderr.contains("is sent"), "{}", again.stderr);
    for told in [shop.ok(&["inspect", "web-1"]), shop.ok(&["status", "--json"]), shop.ok(&["plan", "--json"])] {
        assert!(!told.contains(COOKIE), "{told}");
    }
    assert!(shop.ok(&["inspect", "web-1"]).contains("localhost/release/shop:"));

    // A release that is not well by its own word is not taken.
    shop.write(&(manifest("expression = \"1 > 2\"").replace("20s", "3s") + BACK));
    assert_ne!(shop.coppice(&["up"]).code, 0);
    answers("1.0.0");

    shop.write(&(manifest("expression = \"Shop.well?()\"") + BACK));
    std::fs::copy(&versions[1], &tarball).unwrap();
    let plan = shop.ok(&["plan"]);
    assert!(plan.contains("release"), "{plan}");
    shop.up();
    answers("2.0.0");
    shop.coppice(&["rollback", "shop"]).succeeded();
    answers("1.0.0");
}

#[test]
fn what_is_no_release_is_refused_before_anything_is_sent() {
    let node = Node::with_busybox();
    let text = "[service.web]\nimage = \"box\"\nrelease = \"shop.tar.gz\"\n";
    let shop = Project::new(&node, "shop", text);
    shop.coppice(&["up"]).ended_with(2).complained("cannot read the release");
    std::fs::write(shop.dir.join("shop.tar.gz"), "no tar").unwrap();
    shop.coppice(&["up"]).ended_with(2).complained("shop.tar.gz");
    shop.write(&format!("{text}cookie = \"oatmeal\"\n"));
    shop.coppice(&["up"]).ended_with(2).complained("coppice secret set");
    assert_eq!(node.json(["images", "--json"]).as_array().map(Vec::len), Some(1), "only the busybox");
}
