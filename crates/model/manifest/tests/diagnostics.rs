//! What a person sees when a manifest is wrong, as golden texts: see tests/snapshots.

use std::path::Path;

use coppice_manifest::{Context, Diagnostics, parse};

fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/bad").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn context() -> Context<'static> {
    Context::new("/srv/shop").with_variables(|name| match name {
        "INJECTED" => Some("x\"\n[service.evil]\nimage = \"evil".to_owned()),
        _ => None,
    })
}

fn refused(name: &str) -> Diagnostics {
    parse(&fixture(name), name, &context()).expect_err("the fixture is wrong on purpose")
}

#[test]
fn unknown_keys_are_refused_with_what_to_write() {
    insta::assert_snapshot!(refused("keys.toml").render(false));
}

#[test]
fn wrong_values_are_refused_all_at_once() {
    insta::assert_snapshot!(refused("values.toml").render(false));
}

#[test]
fn broken_references_between_sections_are_refused() {
    insta::assert_snapshot!(refused("references.toml").render(false));
}

#[test]
fn broken_variables_are_refused_where_they_stand() {
    insta::assert_snapshot!(refused("variables.toml").render(false));
}

#[test]
fn broken_toml_is_refused_with_every_place() {
    insta::assert_snapshot!(refused("syntax.toml").render(false));
}

#[test]
fn usual_slips_of_toml_are_explained() {
    let slips = [
        "a = nginx\n",
        "a = True\n",
        "a = \n",
        "a = 5 b = 6\n",
        "a = \"\\q\"\n",
        "= 5\n",
        "a = 'x\n",
        "a = 01\n",
        "a = {b = 1\n",
        "[a]]\n",
        "[a\n",
        "a.b = 1\na = 2\n",
        "a = [1, 2\n",
        "\"a = 5\n",
        "a = 1979-99-99\n",
        "a b = 1\n",
        "a = 5m\n",
        "services:\n  web:\n    image: x\n",
        "{\"a\": 1}",
    ];
    let shown: Vec<String> =
        slips.iter().map(|text| parse(text, "t.toml", &context()).expect_err("each is wrong").render(false)).collect();
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn wrong_routes_certificates_and_policies_are_refused_all_at_once() {
    insta::assert_snapshot!(refused("traffic.toml").render(false));
}

#[test]
fn wrong_rollouts_crons_hooks_and_secrets_are_refused_all_at_once() {
    insta::assert_snapshot!(refused("release.toml").render(false));
}
