//! Environments, conditions, included files and several apps in one file.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use coppice_manifest::{Context, Parsed, parse};

const SHOP: &str = r#"
app = "shop"

[service.web]
image = "web:${TAG:-1}"
env = { MODE = "dev", LEVEL = "debug" }
ports = ["8080:80"]
depends_on = ["db"]

[service.db]
image = "db:1"
volumes = ["data:/data"]

[service.mail]
image = "fake-mail"
when = "env != 'prod'"

[volume.data]

[volume.spare]
when = "env == 'staging'"

[env.prod.service.web]
replicas = 3
env = { MODE = "live" }
ports = ["80:80"]
rollout = { strategy = "blue_green" }

[env.prod.service.metrics]
image = "metrics:1"

[env.prod.volume.data]
quota = "10g"

[env.staging.service.web]
image = "web:${STAGING_TAG:?which one}"
env_file = "staging.env"

[env.staging.service.db]
volumes = ["data:/data", "spare:/spare"]
"#;

fn context(environment: &str) -> Context<'static> {
    let context = Context::new("/srv/shop");
    if environment.is_empty() { context } else { context.with_environment(environment) }
}

fn right(text: &str, context: &Context<'_>) -> Parsed {
    parse(text, "coppice.toml", context).unwrap_or_else(|errors| panic!("{errors}"))
}

fn wrong(text: &str, context: &Context<'_>) -> String {
    parse(text, "coppice.toml", context).expect_err("it is wrong").to_string()
}

/// Files below `/srv/shop`.
fn files(files: &[(&'static str, &'static str)]) -> Context<'static> {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    Context::new("/srv/shop").with_files(move |path| {
        let found = path.to_str().and_then(|path| files.get(path));
        found.map(|text| text.as_bytes().to_vec()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    })
}

#[test]
fn an_environment_is_merged_over_the_manifest_table_by_table() {
    let base = right(SHOP, &context("")).into_first();
    let prod = right(SHOP, &context("prod")).into_first();
    assert_eq!(base.services.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["db", "mail", "web"]);
    assert_eq!(prod.services.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["db", "metrics", "web"]);
    let (was, is) = (&base.services["web"], &prod.services["web"]);
    assert_eq!((was.replicas, is.replicas), (1, 3));
    assert_eq!(is.workload.image, "web:1", "what is not said again stays");
    assert_eq!((is.workload.env["MODE"].as_str(), is.workload.env["LEVEL"].as_str()), ("live", "debug"));
    assert_eq!(is.ports.len(), 1, "an array is replaced");
    assert_eq!(is.ports[0].host, 80);
    assert_eq!(is.rollout.strategy.as_str(), "blue_green");
    assert_eq!(prod.volumes["data"].quota.map(|quota| quota.0), Some(10 << 30));
    assert_eq!(prod.check(), Vec::<String>::new());
}

#[test]
fn what_only_an_environment_needs_is_not_asked_for_in_another() {
    assert!(parse(SHOP, "coppice.toml", &context("")).is_ok());
    insta::assert_snapshot!(wrong(SHOP, &context("staging")), @r#"
    coppice.toml:36:14: variable `STAGING_TAG` is required: which one
       36 | image = "web:${STAGING_TAG:?which one}"
          |              ^^^^^^^^^^^^^^^^^^^^^^^^^ set STAGING_TAG to a non-empty value in the environment
    coppice.toml:37:12: env file `staging.env` cannot be read: entity not found
       37 | env_file = "staging.env"
          |            ^^^^^^^^^^^^^ create /srv/shop/staging.env, or correct the path (it starts at the manifest's directory)
    "#);
}

#[test]
fn an_environment_that_is_not_there_is_an_error_that_lists_those_there_are() {
    insta::assert_snapshot!(wrong(SHOP, &context("prd")), @r"
    coppice.toml:23:2: `prd` is not an environment of the manifest
       23 | [env.prod.service.web]
          |  ^^^ did you mean `prod`?
    ");
    assert!(wrong(SHOP, &context("live")).contains("it has: prod, staging"));
    let plain = "[service.a]\nimage = \"x\"\n";
    assert!(wrong(plain, &context("prod")).contains("it has none: add [env.prod]"));
    let shell = |name: &str| Context::new("/srv/shop").with_environment_if_any(name);
    assert!(parse(plain, "coppice.toml", &shell("prod")).is_ok(), "a shell's choice is for other manifests too");
    assert!(wrong(SHOP, &shell("live")).contains("it has: prod, staging"));
}

#[test]
fn mistakes_in_an_environment_nobody_chose_are_found_where_they_stand() {
    let text = "[service.web]\nimage = \"x\"\n\n[env.prod.service.web]\nreplica = 2\nports = [\"80:x\"]\n\n\
                [env.prod.service.other]\ndepends_on = [\"web\"]\n[env.prod.env.a]\n[env.5]\n[env.dev]\nservice = 5\n\
                [env.odd.service]\nweb.depends_on = [\"gone\"]\n";
    insta::assert_snapshot!(wrong(text, &context("")));
    // A mistake in what all share is told once.
    let shared = "[service.web]\nimge = \"x\"\n[env.a.service.web]\nreplicas = 2\n[env.b.service.web]\nreplicas = 3\n";
    assert_eq!(wrong(shared, &context("")).matches("unknown key").count(), 1);
    assert!(
        wrong("env = \"prod\"\n[service.a]\nimage = \"x\"\n", &context("")).contains("must be a table of environments")
    );
}

#[test]
fn dependants_of_what_is_left_out_are_told_clearly() {
    let text = "[service.web]\nimage = \"x\"\ndepends_on = [\"db\", \"job\"]\nvolumes = [\"data:/d\"]\n\
                http_proxy = { host = \"a.b\", mirror_service = \"db\" }\n[service.db]\nimage = \"x\"\nwhen = \"env == 'prod'\"\n\
                [worker.job]\nimage = \"x\"\nwhen = \"var.JOBS != ''\"\n[volume.data]\nwhen = \"env in ['prod']\"\n\
                [hooks]\nbefore_deploy = \"job\"\n[group.g]\nmembers = [\"web\", \"db\"]\n[policy]\nallow = [\"web -> db\"]\n";
    insta::assert_snapshot!(wrong(text, &context("")));
}

#[test]
fn a_condition_leaves_out_routes_and_is_told_where_it_is_wrong() {
    let text = "[service.web]\nimage = \"x\"\n[service.web.http_routes.a]\nhost = \"a.b\"\nwhen = \"env == 'prod'\"\n\
                [service.web.http_routes.b]\nhost = \"c.d\"\n[service.off]\nimage = \"${UNSET}\"\nwhen = \"env == 'prod'\"\n\
                http_proxy = { host = \"e.f\" }\n[service.on]\nimage = \"x\"\nhttp_proxy = { host = \"e.f\", when = \"env == 'x'\" }\n";
    let spec = right(text, &context("")).into_first();
    assert_eq!(spec.services["web"].routes.len(), 1);
    assert_eq!(spec.services["on"].routes, []);
    assert!(!spec.services.contains_key("off"), "and its variables are not asked for");
    let broken = "[service.a]\nimage = \"x\"\nwhen = \"env = 'prod'\"\n[service.b]\nimage = \"x\"\nwhen = true\n\
                  [service.c]\nimage = \"x\"\nwhen = 'stage == \"prod\"'\n";
    insta::assert_snapshot!(wrong(broken, &context("")), @r#"
    coppice.toml:3:13: `=` compares nothing: write `==`
        3 | when = "env = 'prod'"
          |             ^ compare texts, as in when = "env == 'prod' && var.REGION in ['eu', 'us']"
    coppice.toml:6:8: `when` must be a string, and this is a boolean
        6 | when = true
          |        ^^^^ put it between double quotes
    coppice.toml:9:9: `stage` is not a value: there are env, var.NAME and 'text'
        9 | when = 'stage == "prod"'
          |         ^^^^^ compare texts, as in when = "env == 'prod' && var.REGION in ['eu', 'us']"
    "#);
    assert!(wrong("[service.a]\nimage = \"x\"\nwhen = \"env == 'x'\"\n", &context("")).contains("every service"));
}

#[test]
fn included_files_belong_to_the_manifest_and_paths_in_them_start_where_they_are() {
    let context = files(&[
        (
            "/srv/shop/parts/db.toml",
            "include = \"../../parts/cache.toml\"\n[service.db]\nimage = \"db\"\nvolumes = [\"./init:/init\", \"data:/d\"]\nenv_file = \"db.env\"\n[volume.data]\n[env.prod.service.db]\nreplicas = 2\n",
        ),
        ("/srv/shop/parts/db.env", "A=1\n"),
        ("/srv/parts/cache.toml", "[service.cache]\nimage = \"redis\"\n[group.back]\nmembers = [\"cache\", \"db\"]\n"),
    ]);
    let text = "app = \"shop\"\ninclude = [\"parts/db.toml\"]\n[service.web]\nimage = \"x\"\nvolumes = [\"./site:/site\"]\n\
                depends_on = [\"db\", \"cache\"]\n[env.prod.service.web]\nreplicas = 2\n";
    let spec = right(text, &context).into_first();
    assert_eq!(spec.services.len(), 3);
    let source = |service: &str| match &spec.services[service].workload.volumes[0].source {
        coppice_spec::MountSource::Host(path) => path.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((source("web").as_str(), source("db").as_str()), ("/srv/shop/site", "/srv/shop/parts/init"));
    assert_eq!(spec.services["db"].workload.env["A"], "1");
    let prod = right(text, &context.with_environment("prod")).into_first();
    assert_eq!((prod.services["web"].replicas, prod.services["db"].replicas), (2, 2), "both files change it");
}

#[test]
fn mistakes_in_an_included_file_are_placed_in_that_file() {
    let context = files(&[
        ("/srv/shop/db.toml", "[service.db]\nimage = \"db\"\nimge = 5\n[service.web]\nimage = \"x\"\n[supervise]\n"),
        ("/srv/shop/bad.toml", "a = \n"),
        ("/srv/shop/round.toml", "include = [\"turn.toml\"]\n"),
        ("/srv/shop/turn.toml", "\n\ninclude = [\"round.toml\", \"db.toml\"]\n"),
    ]);
    let text = "include = [\"db.toml\", \"none.toml\", \"./db.toml\", \"\", \"${X}.toml\", \"round.toml\", 5]\n[service.web]\nimage = \"x\"\n[supervise]\n";
    insta::assert_snapshot!(wrong(text, &context));
    insta::assert_snapshot!(wrong("include = \"bad.toml\"\n", &context), @r#"
    bad.toml:1:5: not valid TOML: the key has no value
        1 | a = 
          |     ^ give a value: "text", 5, true or [..]
    "#);
    assert!(wrong("include = \"coppice.toml\"\n", &context).contains("circle: coppice.toml -> coppice.toml"));
}

#[test]
fn includes_are_bounded_in_depth_number_and_size() {
    let deep = Context::new("/srv/shop").with_files(|path| {
        let n: usize = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok()).unwrap_or(0);
        Ok(format!("include = \"{}.toml\"\n", n + 1).into_bytes())
    });
    assert!(wrong("include = \"1.toml\"\n", &deep).contains("more than 8 deep"));
    let wide: Vec<String> = (0..100).map(|n| format!("\"{n}.toml\"")).collect();
    let empty = Context::new("/srv/shop").with_files(|_| Ok(Vec::new()));
    assert!(wrong(&format!("include = [{}]\n", wide.join(", ")), &empty).contains("more than 64 files"));
    let large = Context::new("/srv/shop").with_files(|_| Ok(vec![b'#'; 700_000]));
    assert!(wrong("include = [\"a.toml\", \"b.toml\"]\n", &large).contains("larger than 1 MiB"));
    let binary = Context::new("/srv/shop").with_files(|_| Ok(vec![0xff]));
    assert!(wrong("include = \"a.toml\"\n", &binary).contains("not UTF-8 text from byte 0"));
}

#[test]
fn several_apps_in_one_file_are_read_as_if_each_had_its_own() {
    let text = "[app.shop]\nlabels = { team = \"a\" }\n[app.shop.service.web]\nimage = \"web\"\ndepends_on = [\"db\"]\n\
                [app.shop.service.db]\nimage = \"db\"\n[app.shop.supervise]\nmax_restarts = 3\n[app.blog.service.web]\nimage = \"blog\"\n\
                when = \"env != 'dev'\"\n[app.blog.worker.job]\nimage = \"job\"\n[env.prod.app.shop.service.web]\nreplicas = 2\n[env.dev]\n";
    let parsed = right(text, &context(""));
    let names: Vec<&str> = parsed.apps.iter().map(|app| app.name.as_str()).collect();
    assert_eq!(names, ["shop", "blog"]);
    assert_eq!(parsed.apps[0].labels["team"], "a");
    assert_eq!((parsed.apps[0].supervise.max_restarts, parsed.apps[1].supervise.max_restarts), (3, 10));
    assert_eq!(parsed.apps[1].services.len(), 1);
    assert_eq!(right(text, &context("prod")).apps[0].services["web"].replicas, 2);
    assert_eq!(right(text, &context("dev")).apps[1].services.len(), 0);
    let broken = "[app]\nname = \"x\"\n[app.shop.service.web]\nimage = \"x\"\ndepends_on = [\"job\"]\n[app.blog.worker.job]\nimage = \"x\"\n\
                  [service.stray]\nimage = \"x\"\n[app.blog.servce.web]\n[app.empty]\n";
    insta::assert_snapshot!(wrong(broken, &context("")));
}

#[test]
fn the_host_gives_included_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/good");
    let text = "app = \"two\"\ninclude = \"release.toml\"\n";
    let errors = wrong(text, &Context::from_host(&dir));
    assert!(errors.contains("release.toml:2:1: `app` is there already (line 1 of coppice.toml)"), "{errors}");
}
