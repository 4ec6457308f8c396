//! One manifest end to end, with several apps, environments, conditions and a file that it includes: what `up`, `plan`,
//! `status` and `down` make of it.

mod node;
mod project;

use std::fs;

use coppice_api::{AppStatus, PlanReply};
use node::{Node, Output};
use project::{Project, assert_nothing_left, child, children, wait_until};
use serde_json::Value;

/// The apps are not in the order of the alphabet: what is first in the file comes first.
const MANIFEST: &str = r#"
include = "parts/blog.toml"

[app.shop.service.web]
image = "box"
command = ["sleep", "1000"]
env = { MODE = "dev", LEVEL = "debug" }
stop_signal = "KILL"

[app.shop.service.fake-mail]
image = "box"
command = ["sleep", "1000"]
stop_signal = "KILL"
when = "env != 'prod' && var.SHOP_MAIL in ['', 'fake']"

[env.prod.app.shop.service.web]
replicas = 2
env = { MODE = "live" }

[env.prod.app.blog.service.front]
env = { MODE = "live" }
"#;

/// What is included: an app of its own, whose paths start where this file is.
const BLOG: &str = r#"
[app.blog.service.front]
image = "box"
command = ["sleep", "1000"]
env_file = "blog.env"
volumes = ["./site:/site"]
stop_signal = "KILL"
"#;

/// A directory with both, whose daemon runs.
fn both<'n>(node: &'n Node, manifest: &str) -> Project<'n> {
    let project = Project::new(node, "both", "");
    fs::write(project.dir.join("coppice.toml"), manifest).unwrap();
    fs::create_dir_all(project.dir.join("parts/site")).unwrap();
    fs::write(project.dir.join("parts/blog.toml"), BLOG).unwrap();
    fs::write(project.dir.join("parts/blog.env"), "TITLE=included\n").unwrap();
    fs::write(project.dir.join("parts/site/page"), "beside the included file\n").unwrap();
    project
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn statuses(project: &Project<'_>) -> Vec<AppStatus> {
    serde_json::from_str(&project.ok(&["status", "--json"])).unwrap()
}

fn names_of(statuses: &[AppStatus]) -> Vec<&str> {
    statuses.iter().map(|app| app.name.as_str()).collect()
}

fn instances(status: &AppStatus) -> Vec<&str> {
    children(&status.tree).iter().map(|child| child.instance.as_str()).collect()
}

/// Waits until app `shop` has these instances, and no other.
#[track_caller]
fn wait_shop(project: &Project<'_>, wanted: &[&str]) {
    wait_until(&format!("shop is {wanted:?}"), || instances(&statuses(project)[0]) == wanted);
}

fn apps(project: &Project<'_>) -> Vec<String> {
    let all = json(&project.ok(&["apps", "--json"]));
    all.as_array().unwrap().iter().map(|app| app["name"].as_str().unwrap().to_owned()).collect()
}

/// What a running instance sees of the variable.
fn variable(project: &Project<'_>, instance: &str, name: &str) -> String {
    project.ok(&["exec", instance, "sh", "-c", &format!("echo -n \"${name}\"")])
}

/// `coppice ARGS` with these variables.
fn with_variables(project: &Project<'_>, variables: &[(&str, &str)], args: &[&str]) -> Output {
    let mut command = project.command(args);
    command.envs(variables.iter().copied());
    Output::of(command)
}

#[test]
fn apps_of_one_file_come_up_in_its_order_and_go_in_the_reverse_and_each_verb_is_of_all_or_of_one() {
    let node = Node::with_busybox();
    let project = both(&node, MANIFEST);
    project.ok(&["validate"]);
    let plans: Vec<PlanReply> = serde_json::from_str(&project.ok(&["plan", "--json"])).unwrap();
    let planned: Vec<(&str, u32)> = plans.iter().map(|plan| (plan.app.as_str(), plan.summary.starts)).collect();
    assert_eq!(planned, [("shop", 2), ("blog", 1)]);
    let dry: Vec<PlanReply> = serde_json::from_str(&project.ok(&["up", "--dry-run", "--json"])).unwrap();
    assert_eq!(dry, plans);
    let one: PlanReply = serde_json::from_str(&project.ok(&["plan", "--json", "--app", "blog"])).unwrap();
    assert_eq!(one, plans[1], "of one it is no array");
    assert_eq!(apps(&project), Vec::<String>::new(), "a plan changes nothing");

    // One alone, then all.
    project.ok(&["up", "--timeout", "20s", "--app", "blog"]);
    assert_eq!(apps(&project), ["blog"]);
    let said = project.coppice(&["up", "--timeout", "20s"]).succeeded();
    assert!(said.stderr.contains("blog: nothing has changed since release 1"), "{}", said.stderr);
    let status = statuses(&project);
    assert_eq!(names_of(&status), ["shop", "blog"]);
    assert!(status.iter().all(|app| app.state == "ready" && app.settled), "{status:#?}");
    assert_eq!((instances(&status[0]), instances(&status[1])), (vec!["fake-mail-1", "web-1"], vec!["front-1"]));
    let text = project.ok(&["status"]);
    assert!(text.find("shop").unwrap() < text.find("blog").unwrap(), "{text}");
    let of_one: AppStatus = serde_json::from_str(&project.ok(&["status", "--json", "--app", "blog"])).unwrap();
    assert_eq!(of_one.name.as_str(), "blog");
    assert_eq!(project.ok(&["plan"]), "shop:\nnothing to do\nblog:\nnothing to do\n");
    // Paths of the included file start where it is.
    assert_eq!(variable(&project, "blog/front-1", "TITLE"), "included");
    assert_eq!(project.ok(&["exec", "blog/front-1", "cat", "/site/page"]), "beside the included file\n");

    for (args, why) in [
        (&["up", "web"][..], "say which: --app NAME, of shop, blog"),
        (&["up", "--app", "shap"], "has no app \"shap\""),
        (&["up", "--app", "blog", "web"], "\"web\" is not a service or worker of app blog"),
    ] {
        let said = project.coppice(args);
        assert_eq!(said.code, 2, "{args:?}: {}", said.stderr);
        assert!(said.stderr.contains(why), "{args:?}: {}", said.stderr);
    }
    assert_eq!(project.ok(&["down"]), "blog is gone\nshop is gone\n");
    assert_eq!(apps(&project), Vec::<String>::new());
    assert_nothing_left(&node);
}

#[test]
fn an_environment_and_conditions_decide_what_runs_by_an_option_or_by_the_shell() {
    let node = Node::with_busybox();
    let project = both(&node, MANIFEST);
    let of_prod = |args: &[&str]| with_variables(&project, &[("COPPICE_ENV", "prod")], args);
    project.ok(&["up", "--timeout", "20s"]);
    assert_eq!(instances(&statuses(&project)[0]), ["fake-mail-1", "web-1"]);
    assert_eq!(variable(&project, "shop/web-1", "MODE"), "dev");

    // The plan of an environment is the difference to it, by either way of choosing it; the option wins.
    let plan = project.ok(&["plan", "--json", "--env", "prod"]);
    assert_eq!(of_prod(&["plan", "--json"]).succeeded().stdout, plan);
    let plans: Vec<PlanReply> = serde_json::from_str(&plan).unwrap();
    let targets: Vec<&str> = plans[0].steps.iter().map(|step| step.target.as_str()).collect();
    for target in ["instance fake-mail-1", "instance web-1", "instance web-2"] {
        assert!(targets.contains(&target), "{targets:?}");
    }
    let said = of_prod(&["up", "--env", "stage"]);
    assert_eq!(said.code, 2);
    assert!(said.stderr.contains("`stage` is not an environment of the manifest"), "{}", said.stderr);
    assert!(said.stderr.contains("prod"), "{}", said.stderr);
    let said = with_variables(&project, &[("COPPICE_ENV", "stage")], &["up"]);
    assert_eq!(said.code, 2, "a manifest with environments must have the shell's: {}", said.stderr);

    of_prod(&["up", "--timeout", "20s"]).succeeded();
    wait_shop(&project, &["web-1", "web-2"]);
    let status = project.ok(&["status", "--json", "--env", "prod"]);
    let status: Vec<AppStatus> = serde_json::from_str(&status).unwrap();
    assert_eq!((names_of(&status), child(&status[1], "front-1").ready), (vec!["shop", "blog"], true));
    for (instance, mode) in [("shop/web-1", "live"), ("shop/web-2", "live"), ("blog/front-1", "live")] {
        assert_eq!(variable(&project, instance, "MODE"), mode, "{instance}");
    }
    assert_eq!(variable(&project, "shop/web-1", "LEVEL"), "debug", "a table is merged key by key");
    assert_eq!(variable(&project, "blog/front-1", "TITLE"), "included");
    assert_eq!(of_prod(&["plan"]).succeeded().stdout, "shop:\nnothing to do\nblog:\nnothing to do\n");

    // Without the environment again, and with a variable that the condition does not hold for.
    with_variables(&project, &[("SHOP_MAIL", "real")], &["up", "--timeout", "20s"]).succeeded();
    wait_shop(&project, &["web-1"]);
    assert_eq!(variable(&project, "shop/web-1", "MODE"), "dev");

    // A manifest without environments does not mind the shell's, but the option.
    let plain = Project::new(&node, "plain", "[service.a]\nimage = \"box\"\ncommand = [\"sleep\", \"1000\"]\n");
    let planned = with_variables(&plain, &[("COPPICE_ENV", "prod")], &["plan", "--json"]).succeeded();
    assert_eq!(json(&planned.stdout)["app"], "plain");
    let said = plain.coppice(&["plan", "--env", "prod"]);
    assert!(said.code == 2 && said.stderr.contains("it has none"), "{}", said.stderr);
}

#[test]
fn an_app_that_fails_or_is_refused_keeps_no_other_of_its_file_from_coming_up_or_going() {
    let node = Node::with_busybox();
    let project =
        both(&node, &MANIFEST.replace("[\"sleep\", \"1000\"]\nenv =", "[\"false\"]\nrestart = \"never\"\nenv ="));
    let rewrite = |manifest: &str| fs::write(project.dir.join("coppice.toml"), manifest).unwrap();
    let up = || project.coppice(&["up", "--timeout", "20s"]);
    let state = |app: &str| {
        let status: AppStatus = serde_json::from_str(&project.ok(&["status", "--json", app])).unwrap();
        status.state
    };
    // It came, and has failed.
    let said = up();
    assert_eq!(said.code, 1, "{}", said.stderr);
    assert!(said.stderr.contains("web-1"), "{}", said.stderr);
    assert_eq!((state("blog").as_str(), apps(&project).len()), ("ready", 2));
    assert_ne!(state("shop"), "ready");
    project.ok(&["down"]);

    // The node refuses it: nothing of it is there.
    rewrite(&MANIFEST.replace("env = { MODE = \"dev\"", "secrets = [\"unset\"]\nenv = { MODE = \"dev\""));
    let said = up();
    assert_ne!(said.code, 0, "{}", said.stdout);
    assert!(said.stderr.contains("unset"), "{}", said.stderr);
    assert_eq!(apps(&project), ["blog"], "{}", said.stderr);
    assert_eq!(state("blog"), "ready");
    // What is there is shown, and goes, though the other is not; that this is not all is said, and is the exit code.
    let said = project.coppice(&["status", "--json"]);
    assert_eq!((said.code, json(&said.stdout)[0]["name"].as_str()), (1, Some("blog")), "{}", said.stderr);
    assert!(said.stderr.contains("shop"), "{}", said.stderr);
    rewrite(MANIFEST);
    project.ok(&["up", "--timeout", "20s", "--app", "shop"]);
    project.ok(&["down", "--app", "blog"]);
    let said = project.coppice(&["down"]);
    assert_eq!((said.code, said.stdout.as_str()), (1, "shop is gone\n"), "{}", said.stderr);
    assert!(said.stderr.contains("blog"), "{}", said.stderr);
    assert_nothing_left(&node);
}
