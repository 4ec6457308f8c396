//! Releases of Erlang and Elixir in a manifest.

use coppice_manifest::{Context, parse, to_toml};
use coppice_spec::{AppSpec, BeamRelease, HealthProbe, SecretTarget};

fn read(text: &str) -> Result<AppSpec, String> {
    let parsed = parse(text, "coppice.toml", &Context::new("/srv/shop")).map_err(|wrong| wrong.to_string())?;
    assert!(parsed.warnings.is_empty(), "{}", parsed.warnings);
    Ok(parsed.apps.into_iter().next().expect("there is one app"))
}

const SHOP: &str = r#"
app = "shop"

[service.web]
image = "debian:12"
release = "rel/shop.tar.gz"
node = "shop@web"
cookie = { secret = "cookie" }

[service.web.health]
type = "rpc"
expression = "Shop.well?()"

[service.back]
image = "debian:12"
release = "/srv/back.tar.gz"
node = "back@back.shop.internal"

[service.back.health]
type = "epmd"

[secret.cookie]
generate = "random-256"
"#;

#[test]
fn a_release_gets_its_name_and_its_cookie_by_variables_and_reads_back_equal() {
    let spec = read(SHOP).unwrap();
    let web = &spec.services["web"].workload;
    assert_eq!(web.beam.as_ref().unwrap().release, BeamRelease::File("/srv/shop/rel/shop.tar.gz".into()));
    assert_eq!((web.env["RELEASE_NODE"].as_str(), web.env["RELEASE_DISTRIBUTION"].as_str()), ("shop@web", "sname"));
    assert_eq!(web.hostname.as_deref(), Some("web"), "the node's own name leads to itself");
    assert_eq!(web.secrets[0].target, SecretTarget::Env("RELEASE_COOKIE".into()));
    let probe = |name: &str| spec.services[name].health.as_ref().unwrap().probe.clone();
    assert_eq!(probe("web"), HealthProbe::Rpc { expression: Some("Shop.well?()".into()) });
    assert_eq!(probe("back"), HealthProbe::Epmd { node: "back".into() });
    assert_eq!(spec.services["back"].workload.env["RELEASE_DISTRIBUTION"], "name");
    let text = to_toml(&spec);
    // The secret's own section is not written; its use is.
    let again = parse(&text, "coppice.toml", &Context::new("/else")).unwrap_or_else(|e| panic!("{e}\n{text}"));
    assert_eq!(again.apps[0].services, spec.services, "{text}");
    assert!(!text.contains("RELEASE_"), "{text}");
}

#[test]
fn a_cookie_in_the_text_is_refused_with_the_fix() {
    for line in ["cookie = \"oatmeal\"", "env = { RELEASE_COOKIE = \"oatmeal\" }"] {
        let text = format!("app = \"x\"\n[service.a]\nimage = \"x\"\nrelease = \"a.tar.gz\"\n{line}\n");
        let error = read(&text).unwrap_err();
        assert!(error.contains("plain text") && error.contains("coppice secret set"), "{error}");
        assert!(error.contains("coppice.toml:5:"), "{error}");
    }
}

#[test]
fn what_needs_a_release_is_refused_without_one() {
    let service = |lines: &str| read(&format!("app = \"x\"\n[service.a]\nimage = \"x\"\n{lines}\n"));
    for (lines, part) in [
        ("node = \"a@b\"", "`node` and no `release`"),
        ("cookie = { secret = \"c\" }", "`cookie` and no `release`"),
        ("health = { type = \"rpc\" }", "rpc asks a release"),
        ("health = { type = \"epmd\" }", "epmd asks for a node's name"),
        ("release = \"a.tgz\"\nhealth = { type = \"epmd\" }", "epmd asks for a node's name"),
        ("release = \"a.tgz\"\nnode = \"a b@c\"", "is not the name of a node"),
        ("release = \"a.tgz\"\ncookie = {}", "does not say which secret"),
        ("release = \"\"", "`release` is empty"),
        (
            "release = \"a.tgz\"\ncookie = { secret = \"c\" }\nsecrets = [{ secret = \"d\", env = \"RELEASE_COOKIE\" }]",
            "twice",
        ),
    ] {
        let error = service(lines).unwrap_err();
        assert!(error.contains(part), "{lines}: {error}");
    }
}
