//! Compose files and what becomes of them: nothing is dropped without a word.

use std::path::Path;

use coppice_manifest::{Context, Converted, convert_compose, parse};
use proptest::prelude::*;

const WORDPRESS: &str = include_str!("fixtures/compose/wordpress.yaml");
const STACK: &str = include_str!("fixtures/compose/stack.yaml");

fn context() -> Context<'static> {
    Context::new("/srv/shop")
}

fn convert(yaml: &str) -> Converted {
    convert_compose(yaml, "compose.yaml", &context()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn listed(converted: &Converted) -> String {
    converted.left_out.iter().map(|left| format!("{}: {}: {}\n", left.line, left.path, left.why)).collect()
}

/// The result read with every variable set and every env file there.
fn read(converted: &Converted) -> coppice_spec::AppSpec {
    let context = context()
        .with_variables(|name| Some(if name == "HOME" { "/root" } else { "1" }.to_owned()))
        .with_files(|_| Ok(Vec::new()));
    let parsed = parse(&converted.toml, "coppice.toml", &context);
    parsed.unwrap_or_else(|errors| panic!("{errors}\n{}", converted.toml)).into_first()
}

#[test]
fn a_wordpress_site_is_converted() {
    let converted = convert(WORDPRESS);
    read(&converted);
    insta::assert_snapshot!(converted.toml);
}

#[test]
fn a_whole_stack_is_converted() {
    let converted = convert(STACK);
    read(&converted);
    insta::assert_snapshot!(converted.toml);
}

#[test]
fn every_key_is_carried_or_listed() {
    for yaml in [WORDPRESS, STACK] {
        let whole = convert(yaml);
        let lines: Vec<&str> = yaml.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let key = line.trim_start().trim_start_matches("- ");
            let without_block: Vec<&str> = without(&lines, at);
            // What is below a key that is listed as a whole is listed with it.
            if key.is_empty() || above(&lines, at).any(|above| wholly_listed(&whole, above)) {
                continue;
            }
            let Ok(less) = convert_compose(&without_block.join("\n"), "compose.yaml", &context()) else { continue };
            let texts = |converted: &Converted| {
                let listed: Vec<String> = converted.left_out.iter().map(|l| format!("{} {}", l.path, l.why)).collect();
                let body: Vec<String> =
                    converted.toml.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect();
                (listed, body)
            };
            assert_ne!(texts(&less), texts(&whole), "line {} says nothing and is not listed: {line}", at + 1);
        }
    }
}

/// The lines (from 0) that line `at` is nested below.
fn above(lines: &[&str], at: usize) -> impl Iterator<Item = usize> {
    let indent = |line: &str| line.trim_start_matches([' ', '-']).as_ptr() as usize - line.as_ptr() as usize;
    let mut limit = indent(lines[at]);
    let mut found = Vec::new();
    for (number, line) in lines[..at].iter().enumerate().rev() {
        if !line.trim().is_empty() && indent(line) < limit {
            limit = indent(line);
            found.push(number);
        }
    }
    found.into_iter()
}

/// Whether the key on line `at` (from 0) is left out with all below it.
fn wholly_listed(converted: &Converted, at: usize) -> bool {
    let changed = ["renamed", "at most"];
    let listed = converted.left_out.iter().filter(|left| left.line == at + 1);
    listed
        .into_iter()
        .any(|left| !changed.iter().any(|word| left.why.starts_with(word)) && !left.path.starts_with("x-"))
}

/// The lines without line `at` and what is nested below it.
fn without<'l>(lines: &[&'l str], at: usize) -> Vec<&'l str> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let own = indent(lines[at]);
    let is_item = lines[at].trim_start().starts_with("- ");
    let mut left = lines[..at].to_vec();
    let mut nested = true;
    for line in &lines[at + 1..] {
        let same_item = is_item && line.trim_start().starts_with("- ") && indent(line) == own;
        nested = nested && !line.trim().is_empty() && indent(line) > own && !same_item;
        if !nested {
            left.push(line);
        }
    }
    left
}

#[test]
fn a_key_nobody_thought_of_is_listed() {
    let converted =
        convert("services:\n  a:\n    image: x\n    zebra: 1\n    deploy: { stripes: { n: 1 } }\nsavanna: 2\n");
    let listed = listed(&converted);
    for path in ["4: services.a.zebra", "5: services.a.deploy.stripes", "6: savanna"] {
        assert!(listed.contains(path), "{path} is missing:\n{listed}");
    }
    assert!(converted.toml.contains("# "), "the file itself says so too");
}

#[test]
fn a_one_shot_service_others_wait_for_becomes_a_worker() {
    for restart in ["", "    restart: \"no\"\n", "    restart: on-failure\n", "    restart: always\n"] {
        let yaml = format!(
            "services:\n  init:\n    image: x\n{restart}  web:\n    image: y\n    depends_on:\n      init:\n        \
             condition: service_completed_successfully\n"
        );
        let spec = read(&convert(&yaml));
        assert!(spec.workers.contains_key("init") && spec.services.contains_key("web"));
    }
}

#[test]
fn the_example_of_the_starter_of_compose_keeps_its_meaning() {
    let spec = read(&convert(STACK));
    assert_eq!(spec.name.as_str(), "shop");
    let api = &spec.services["api"];
    assert_eq!((api.replicas, api.ports.len()), (3, 4));
    assert_eq!(api.workload.command, ["gunicorn", "shop.wsgi:app", "--bind", "0.0.0.0:8000"]);
    assert_eq!(api.workload.env["LOG_LEVEL"], "1");
    assert_eq!(api.workload.limits.memory.unwrap().0, 512 << 20);
    assert!(api.workload.init, "taken over by the merge key");
    assert_eq!(spec.workers["migrate"].workload.env["STEP"], "migrate");
    assert_eq!(spec.services["debug_tools"].replicas, 0);
    let table = &read(&convert(WORDPRESS)).services["wordpress"].workload.env["WORDPRESS_CONFIG_EXTRA"];
    assert_eq!(table, "define('WP_CACHE', true);\n$table_prefix = 'wp_';\n");
}

#[test]
fn what_a_manifest_refuses_is_refused_and_not_written() {
    let circle = "services:\n  a: { image: x, depends_on: [b] }\n  b: { image: x, depends_on: [a] }\n";
    let twice = "services:\n  a: { image: x, ports: [\"80:80\"] }\n  b: { image: x, ports: [\"80:80\"] }\n";
    for (yaml, part) in [
        (circle, "goes round in a circle"),
        (twice, "already published"),
        ("services: {}\n", "no service and no worker"),
        ("version: 3\n", "no `services`"),
        ("- a\n", "no `services`"),
        ("a: [\n", "not valid YAML"),
        ("", "empty"),
        (&"#".repeat(2 << 20), "larger than 1 MiB"),
    ] {
        let errors = convert_compose(yaml, "compose.yaml", &context()).unwrap_err().to_string();
        assert!(errors.contains(part), "{part}: {errors}");
    }
}

#[test]
fn a_volume_bound_to_a_directory_uses_that_directory() {
    let yaml = "services: { a: { image: x, volumes: [\"v:/v\"] } }\n\
                volumes: { v: { driver: local, driver_opts: { type: none, o: bind, device: /srv/v } } }\n";
    assert_eq!(read(&convert(yaml)).volumes["v"].host_path.as_deref(), Some("/srv/v"));
}

#[test]
fn names_that_become_one_are_listed_and_not_merged() {
    let converted = convert("services: { A: { image: x }, a: { image: y } }\nvolumes: { V: {}, v: {} }\n");
    let listed = listed(&converted);
    assert!(listed.contains("already called `a`") && listed.contains("already called `v`"), "{listed}");
    assert_eq!(read(&converted).services["a"].workload.image, "x");
}

#[test]
fn another_default_for_restart_is_said() {
    let said = |yaml| convert(yaml).toml.contains("Services without `restart`");
    assert!(said("services: { a: { image: x } }\n"));
    assert!(!said("services: { a: { image: x, restart: always } }\n"));
}

#[test]
fn a_dot_env_file_is_pointed_out() {
    let context = context().with_files(|path| match path == Path::new("/srv/shop/.env") {
        true => Ok(Vec::new()),
        false => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
    });
    let converted = convert_compose("services: { a: { image: x } }\n", "compose.yaml", &context).unwrap();
    assert_eq!(converted.left_out[0].path, ".env");
}

#[test]
fn a_value_of_the_compose_file_cannot_inject_toml() {
    let yaml = "services:\n  a:\n    image: \"x\\\"\\n[service.evil]\\nimage = \\\"y\"\n    labels: { \"k\\n[service.b]\": v }\n    \"z\\n[service.c]\\nimage='x'\": 1\n";
    let spec = read(&convert(yaml));
    assert_eq!(spec.services.keys().map(|name| name.as_str()).collect::<Vec<_>>(), ["a"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_compose_text_is_converted_or_refused(
        lines in proptest::collection::vec(
            prop_oneof![4 => proptest::sample::select(STACK.lines().map(str::to_owned).collect::<Vec<_>>()), 1 => "\\PC{0,20}".boxed()], 0..40,
        ),
        whole in any::<bool>(),
        at in any::<proptest::sample::Index>(),
    ) {
        let text = match whole {
            true => format!("services:\n{}", lines.join("\n")),
            false => {
                let mut all: Vec<&str> = STACK.lines().collect();
                let at = at.index(all.len());
                match lines.first() {
                    Some(line) => all[at] = line,
                    None => drop(all.remove(at)),
                }
                all.join("\n")
            }
        };
        match convert_compose(&text, "compose.yaml", &context()) {
            Ok(converted) => drop(listed(&converted)),
            Err(errors) => prop_assert!(errors.errors().next().is_some()),
        }
    }
}
