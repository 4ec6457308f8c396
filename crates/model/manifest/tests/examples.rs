//! The manifests and the schema that live elsewhere in the repository are held to the parser.

use std::path::{Path, PathBuf};

use coppice_manifest::{Context, parse, schema};

fn manifests(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            manifests(&path, found);
        } else if path.file_name().is_some_and(|name| name == "coppice.toml") {
            found.push(path);
        }
    }
}

fn check(text: &str, file: &str, context: &Context<'_>) {
    let parsed = parse(text, file, context).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    let value: serde_json::Value = toml::from_str(text).expect("it is TOML");
    let schema = jsonschema::validator_for(&schema()).expect("the schema is one");
    let errors: Vec<String> = schema.iter_errors(&value).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(errors.is_empty(), "{file}: {errors:#?}");
}

#[test]
fn every_example_is_right_by_parser_and_schema() {
    let mut found = Vec::new();
    manifests(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../examples"), &mut found);
    for path in found {
        let text = std::fs::read_to_string(&path).expect("the example can be read");
        let dir = path.parent().expect("a file is in a directory");
        check(&text, &path.display().to_string(), &Context::from_host(dir));
    }
}

#[test]
fn the_fixture_with_every_key_and_the_starter_are_right_by_the_schema_too() {
    let context = Context::new("/srv/shop").with_variables(|_| Some("1".to_owned())).with_files(|_| Ok(Vec::new()));
    check(include_str!("fixtures/good/shop.toml"), "shop.toml", &context);
    check(&coppice_manifest::init("x"), "coppice.toml", &context);
}
