//! Manifests that are right: what they become, and that nothing can make reading them panic.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

use coppice_manifest::{Context, Parsed, init, parse, parse_bytes, to_toml};
use coppice_spec::{AppSpec, Condition, MountSource, RestartPolicy};
use proptest::prelude::*;

const SHOP: &str = include_str!("fixtures/good/shop.toml");

fn context() -> Context<'static> {
    let variables = BTreeMap::from([("HOST_NAME", "h\"1\n[x]")]);
    Context::new("/srv/shop")
        .with_variables(move |name| variables.get(name).map(|value| (*value).to_owned()))
        .with_files(|path| match path == Path::new("/srv/shop/web.env") {
            true => Ok(b"# shared\nMODE=test\nFROM_FILE='a b'\n".to_vec()),
            false => Err(io::Error::from(io::ErrorKind::NotFound)),
        })
}

fn right(text: &str) -> Parsed {
    parse(text, "coppice.toml", &context()).unwrap_or_else(|errors| panic!("{errors}"))
}

fn wrong(text: &str) -> String {
    parse(text, "coppice.toml", &context()).expect_err("the text is wrong").to_string()
}

#[test]
fn a_whole_app_is_read_with_every_key() {
    let parsed = right(SHOP);
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let json = serde_json::to_string_pretty(&parsed.apps[0]).unwrap();
    insta::assert_snapshot!(json);
}

#[test]
fn routes_certificates_and_policies_are_read_with_every_key_and_written_back() {
    let parsed = right(include_str!("fixtures/good/traffic.toml"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let spec = parsed.into_first();
    assert_eq!(spec.check(), Vec::<String>::new());
    let text = to_toml(&spec);
    let again = parse(&text, "coppice.toml", &Context::new("/elsewhere")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(again.apps[0], spec);
    insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap());
}

#[test]
fn rollouts_crons_hooks_and_secrets_are_read_with_every_key_and_written_back() {
    let parsed = right(include_str!("fixtures/good/release.toml"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let spec = parsed.into_first();
    assert_eq!(spec.check(), Vec::<String>::new());
    let strategy = |service: &str| spec.services[service].rollout.strategy.as_str();
    // One writer and the host's own network: one instance at a time, unless told otherwise.
    assert_eq!(["db", "mirror", "plain", "web"].map(strategy), ["switch", "switch", "rolling", "canary"]);
    assert_eq!(spec.services["plain"].rollout.max_surge, 2, "as many as are replaced at once");
    assert_eq!(spec.services["first"].rollout.canary, [coppice_spec::CanaryStep::DEFAULT]);
    let text = to_toml(&spec);
    let again = parse(&text, "coppice.toml", &Context::new("/elsewhere")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(again.apps[0], spec);
    insta::assert_snapshot!(format!("{text}\n{}", serde_json::to_string_pretty(&spec).unwrap()));
}

#[test]
fn what_is_read_also_passes_the_specs_own_check() {
    assert_eq!(right(SHOP).apps[0].check(), Vec::<String>::new());
}

#[test]
fn a_spec_written_as_toml_reads_back_equal_in_any_directory() {
    let spec = right(SHOP).into_first();
    let text = to_toml(&spec);
    let again = parse(&text, "coppice.toml", &Context::new("/elsewhere")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(again.apps[0], spec);
    insta::assert_snapshot!(text);
}

#[test]
fn defaults_are_filled_in() {
    let spec = right("[service.a]\nimage = \"x\"\n[worker.b]\nimage = \"x\"\n").into_first();
    assert_eq!(spec.name.as_str(), "shop", "the directory's name");
    assert_eq!((spec.services["a"].replicas, spec.services["a"].restart), (1, RestartPolicy::Always));
    assert_eq!(spec.workers["b"].restart, RestartPolicy::Never);
    assert_eq!(spec.services["a"].workload.stop_timeout.0, Duration::from_secs(10));
    assert_eq!(spec.supervise, coppice_spec::SuperviseSpec::default());
}

#[test]
fn an_apps_name_may_stand_alone() {
    let spec = right("app = \"hello\"\n[service.a]\nimage = \"x\"\n").into_first();
    assert_eq!(spec.name.as_str(), "hello");
    assert!(wrong("app = \"Hello\"\n[service.a]\nimage = \"x\"\n").contains("as in \"hello\""));
}

#[test]
fn a_probe_has_at_most_the_interval_when_nothing_is_said() {
    let text = "[service.a]\nimage = \"x\"\nhealth = { type = \"tcp\", port = 1, interval = \"1s\" }\n";
    let parsed = right(text);
    assert_eq!(parsed.apps[0].services["a"].health.as_ref().unwrap().timeout.0, Duration::from_secs(1));
    assert!(parsed.warnings.is_empty());
}

#[test]
fn a_dependency_waits_for_what_its_kind_can_reach() {
    let spec = right(
        "[service.a]\nimage = \"x\"\ndepends_on = [\"w\", \"h\", \"p\"]\n[worker.w]\nimage = \"x\"\n\
         [service.h]\nimage = \"x\"\nhealth = { type = \"tcp\", port = 1 }\n[service.p]\nimage = \"x\"\n",
    )
    .into_first();
    let conditions: Vec<Condition> = spec.services["a"].workload.depends_on.iter().map(|d| d.condition).collect();
    assert_eq!(conditions, [Condition::Completed, Condition::Healthy, Condition::Started]);
}

#[test]
fn an_undeclared_volume_is_a_local_one_and_mounts_are_writable_unless_told() {
    let spec = right("[service.a]\nimage = \"x\"\nvolumes = [\"data:/d\", \"data:/r:ro\"]\n").into_first();
    assert!(spec.volumes["data"].host_path.is_none());
    let mounts = &spec.services["a"].workload.volumes;
    assert_eq!((mounts[0].read_only, mounts[1].read_only), (false, true));
    assert!(matches!(&mounts[0].source, MountSource::Volume(name) if name.as_str() == "data"));
}

#[test]
fn a_variable_cannot_inject_toml() {
    let spec = right("[service.a]\nimage = \"x\"\nenv = { A = \"${HOST_NAME}\" }\n").into_first();
    assert_eq!(spec.services["a"].workload.env["A"], "h\"1\n[x]");
    assert_eq!(spec.services.len(), 1);
}

#[test]
fn variables_are_not_looked_for_in_keys_and_comments() {
    let spec = right("# ${NO}\n[service.a]\nimage = \"x\" # ${NO\nlabels = { \"${NO}\" = \"v\" }\n").into_first();
    assert_eq!(spec.services["a"].workload.labels["${NO}"], "v");
}

#[test]
fn members_come_in_the_order_they_are_listed_and_then_written() {
    let spec = right(
        "[group.g]\nmembers = [\"c\", \"a\"]\n[service.z]\nimage = \"x\"\ngroup = \"g\"\n[service.a]\nimage = \"x\"\n\
         [worker.b]\nimage = \"x\"\ngroup = \"g\"\n[service.c]\nimage = \"x\"\n",
    )
    .into_first();
    let members: Vec<&str> = spec.groups["g"].members.iter().map(|name| name.as_str()).collect();
    assert_eq!(members, ["c", "a", "z", "b"]);
}

#[test]
fn the_environment_of_the_manifest_wins_over_its_env_files() {
    let spec = right("[service.a]\nimage = \"x\"\nenv_file = [\"web.env\"]\nenv = { MODE = \"live\" }\n").into_first();
    let env = &spec.services["a"].workload.env;
    assert_eq!((env["MODE"].as_str(), env["FROM_FILE"].as_str()), ("live", "a b"));
}

#[test]
fn mistakes_in_an_env_file_point_into_that_file() {
    let context = Context::new("/srv").with_files(|_| Ok(b"A=1\n\nno value here\nB='x\n".to_vec()));
    let text = "[service.a]\nimage = \"x\"\nenv_file = \"a.env\"\n";
    insta::assert_snapshot!(parse(text, "coppice.toml", &context).unwrap_err(), @r"
    a.env:3:1: `no value here` is not KEY=VALUE
        3 | no value here
          | ^^^^^^^^^^^^^ write KEY=VALUE, or start a comment with #
    a.env:4:1: the value of `B` has a quote that is not closed
        4 | B='x
          | ^^^^ close the quote on this line
    ");
}

#[test]
fn the_starter_is_right_as_it_is() {
    let text = init("My App!");
    let parsed = parse(&text, "coppice.toml", &Context::new("/x")).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    assert_eq!(parsed.apps[0].name.as_str(), "my-app");
}

#[test]
fn every_commented_line_of_the_starter_is_right_too() {
    let text = init("app");
    let uncommented: Vec<&str> = text
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(code) if code.starts_with('[') || code.split_whitespace().nth(1) == Some("=") => code,
            _ => line,
        })
        .collect();
    let text = format!("{}\n[service.cache]\nimage = \"redis\"\n", uncommented.join("\n"));
    let context = Context::new("/x").with_files(|_| Ok(Vec::new()));
    parse(&text, "coppice.toml", &context).unwrap_or_else(|errors| panic!("{errors}"));
}

#[test]
fn what_is_allowed_and_odd_is_a_warning() {
    let text = "[service.a]\nimage = \"x\"\ncommand = \"echo hi > /tmp/x\"\n\
                health = { type = \"tcp\", port = 1, interval = \"5s\", timeout = \"5s\" }\n[volume.v]\n";
    insta::assert_snapshot!(right(text).warnings, @r#"
    coppice.toml:3:11: warning: `>` is passed to the program as it is: no shell is run
        3 | command = "echo hi > /tmp/x"
          |           ^^^^^^^^^^^^^^^^^^ for a shell write ["sh", "-c", "…"]; else write an array
    coppice.toml:4:63: warning: a probe may take as long (5s) as the time between probes (5s)
        4 | health = { type = "tcp", port = 1, interval = "5s", timeout = "5s" }
          |                                                               ^^^^ make `timeout` shorter than `interval`
    coppice.toml:5:9: warning: volume `v` is declared and used by nothing
        5 | [volume.v]
          |         ^ mount it, or remove it
    "#);
}

#[test]
fn an_empty_manifest_says_what_to_write() {
    assert!(wrong("").contains("add [service.web]"));
    assert!(wrong("# nothing\n[app]\nname = \"x\"\n").contains("no service and no worker"));
}

#[test]
fn limits_of_the_file_are_kept() {
    assert!(wrong(&"#".repeat(coppice_manifest::FILE_MAX + 1)).contains("larger than 1 MiB"));
    let nested = |deep: usize| format!("a = {}1{}\n", "[".repeat(deep), "]".repeat(deep));
    assert!(wrong(&nested(63)).contains("unknown section `a`"));
    for deep in [65, 79, 81, 1000, 100_000] {
        let errors = wrong(&nested(deep));
        assert!(errors.contains("nested deeper than 64") || errors.contains("at most 64 levels"), "{deep}: {errors}");
    }
    let keys = format!("{} = 1\n", vec!["a"; 5000].join("."));
    assert!(wrong(&keys).contains("levels"));
}

#[test]
fn an_app_of_too_many_services_is_refused_before_it_costs_anything() {
    let text: String =
        (0..=coppice_manifest::WORKLOADS_MAX).map(|n| format!("[service.s{n}]\nimage = \"x\"\n")).collect();
    assert!(wrong(&text).contains("at most 1000 services and workers"));
}

#[test]
fn a_megabyte_of_mistakes_is_counted_and_not_all_kept() {
    let text: String = (0..40_000).map(|n| format!("key{n} = {n}\n")).collect();
    let errors = parse(&text, "coppice.toml", &context()).unwrap_err();
    assert_eq!(errors.diagnostics.len(), 200);
    assert!(errors.left_out > 39_000);
    assert!(errors.render(false).ends_with(&format!("and {} more\n", errors.left_out)));
}

#[test]
fn bytes_that_are_not_text_are_refused_where_they_start() {
    let errors = parse_bytes(b"[service.a]\nimage = \"\xff\xfe\"\n", "coppice.toml", &context()).unwrap_err();
    let first = &errors.diagnostics[0];
    assert_eq!((first.line, first.column), (2, 10));
    assert!(first.message.contains("not UTF-8"));
    assert!(parse_bytes(SHOP.as_bytes(), "coppice.toml", &context()).is_ok());
}

#[test]
fn a_manifest_cannot_write_to_the_terminal() {
    let context = Context::new("/x").with_variables(|_| Some("\x1b[2Jgone\u{202e}".to_owned()));
    let text = "[service.a]\nimage = \"${X}\"\n[service.\"\\u001b[31m\"]\nimage = \"x\"\n";
    let shown = parse(text, "coppice.toml", &context).unwrap_err().render(false);
    assert!(!shown.contains(['\x1b', '\u{202e}']), "{shown}");
    let coloured = parse("x = 1\n", "coppice.toml", &context).unwrap_err().render(true);
    assert!(coloured.contains("\x1b[1;31m"), "colour when asked for");
}

#[test]
fn findings_are_json_for_editors() {
    let errors = parse("[service.a]\nimage = 5\n", "coppice.toml", &context()).unwrap_err();
    let json = serde_json::to_value(&errors).unwrap();
    let first = &json["diagnostics"][0];
    assert_eq!(first["severity"], "error");
    assert_eq!((&first["line"], &first["column"], &first["end_column"]), (&2.into(), &9.into(), &10.into()));
    assert_eq!(first["help"], "put it between double quotes");
    assert_eq!(json["left_out"], 0);
}

#[test]
fn the_host_gives_variables_and_env_files() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/good");
    let context = Context::from_host(&dir);
    let text = "[service.a]\nimage = \"x\"\nenv = { P = \"${CARGO_MANIFEST_DIR}\" }\nenv_file = \"host.env\"\n";
    let spec = parse(text, "coppice.toml", &context).unwrap_or_else(|errors| panic!("{errors}")).into_first();
    assert_eq!(spec.services["a"].workload.env["P"], env!("CARGO_MANIFEST_DIR"));
    assert_eq!(spec.services["a"].workload.env["GREETING"], "hello there");
    let error = parse("[service.a]\nimage = \"x\"\nenv_file = \".\"\n", "c", &context).unwrap_err().to_string();
    assert!(error.contains("not a plain file"), "{error}");
}

/// Broken and whole pieces of manifests, in any order.
fn pieces() -> impl Strategy<Value = String> {
    let lines: Vec<String> = SHOP.lines().map(str::to_owned).collect();
    let odd = prop_oneof![
        "\\PC{0,30}",
        "[\\[\\]{}\"'=.,#$\n a-z0-9]{0,40}",
        Just("\"\"\"".to_owned()),
        Just("x = ${".to_owned()),
        Just("[[service.web]]".to_owned()),
        Just("service = 99999999999999999999999999".to_owned()),
        Just("a.b.c.d = 1979-05-27T07:32:00Z".to_owned()),
        Just("limits = { cpu = nan, memory = -inf }".to_owned()),
        Just("replicas = -9223372036854775808".to_owned()),
        Just("stop_timeout = 9223372036854775807".to_owned()),
    ];
    let line = prop_oneof![4 => proptest::sample::select(lines), 1 => odd];
    proptest::collection::vec(line, 0..60).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_text_is_read_or_refused_with_places_inside_it(text in pieces()) {
        match parse(&text, "coppice.toml", &context()) {
            Ok(parsed) => prop_assert_eq!(parsed.apps[0].check(), Vec::<String>::new()),
            Err(errors) => {
                prop_assert!(errors.errors().next().is_some());
                for found in &errors.diagnostics {
                    prop_assert!(!found.message.is_empty() && !found.help.is_empty());
                    if found.file == "coppice.toml" {
                        prop_assert!(found.line <= text.lines().count() + 1);
                        prop_assert!(found.column <= found.source_line.chars().count() + 1);
                    }
                }
                prop_assert!(errors.diagnostics.is_sorted_by_key(|d| (d.file != "coppice.toml", d.file.clone(), d.line, d.column)));
                drop(errors.render(true));
            }
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Err(errors) = parse_bytes(&bytes, "coppice.toml", &context()) {
            drop(errors.render(false));
        }
    }

    #[test]
    fn a_read_manifest_survives_being_written_and_read(keep in proptest::collection::vec(any::<bool>(), 200)) {
        // The whole app without some of its lines: where it is still right, it must round-trip.
        let text: Vec<&str> = SHOP.lines().zip(keep.iter().chain(std::iter::repeat(&true)))
            .filter(|(line, keep)| **keep || line.starts_with('[') || line.starts_with("image")).map(|(line, _)| line).collect();
        if let Ok(parsed) = parse(&text.join("\n"), "coppice.toml", &context()) {
            let written = to_toml(&parsed.apps[0]);
            let again: AppSpec = parse(&written, "coppice.toml", &Context::new("/y")).map_err(|e| TestCaseError::fail(e.to_string()))?.into_first();
            prop_assert_eq!(&again, &parsed.apps[0]);
        }
    }
}
