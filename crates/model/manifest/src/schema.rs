//! The JSON Schema of `coppice.toml`, printed from the table of keys the parser reads by.

use serde_json::{Map, Value, json};

use crate::keys::{
    ACME, ANALYSIS, APP, APPS, BACKOFF, CANARY_STEP, COOKIE, CRON, DEV, DNS, GROUP, HEALTH, HOOKS, Key, Kind, LIMITS,
    POLICY, RATE_LIMIT, REDIRECT, RELEASE, ROLLOUT, ROOT, ROUTE, SECRET, SECRET_USE, SERVICE, SUPERVISE, Section, TLS,
    VOLUME, WORKER,
};
use crate::workload::CONDITIONS;

/// Sections by the name they have in the schema.
const DEFINITIONS: &[(&str, &Section)] = &[
    ("acme", &ACME),
    ("analysis", &ANALYSIS),
    ("app", &APP),
    ("apps", &APPS),
    ("backoff", &BACKOFF),
    ("canary_step", &CANARY_STEP),
    ("cookie", &COOKIE),
    ("cron", &CRON),
    ("dev", &DEV),
    ("dns", &DNS),
    ("group", &GROUP),
    ("health", &HEALTH),
    ("hooks", &HOOKS),
    ("limits", &LIMITS),
    ("policy", &POLICY),
    ("rate_limit", &RATE_LIMIT),
    ("redirect", &REDIRECT),
    ("release", &RELEASE),
    ("rollout", &ROLLOUT),
    ("route", &ROUTE),
    ("secret", &SECRET),
    ("secret_use", &SECRET_USE),
    ("service", &SERVICE),
    ("supervise", &SUPERVISE),
    ("tls", &TLS),
    ("volume", &VOLUME),
    ("worker", &WORKER),
];

/// The JSON Schema (draft 2020-12) of `coppice.toml`, for editors. It accepts every key the parser accepts and no
/// other. It is looser than the parser where a rule needs more than one value (dependencies, groups, ports).
pub fn schema() -> Value {
    let mut root = section(&ROOT);
    root.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("title".to_owned(), json!("coppice.toml"));
    let mut definitions = Map::new();
    for (name, of) in DEFINITIONS {
        definitions.insert((*name).to_owned(), Value::Object(section(of)));
    }
    let name = json!({
        "type": "string",
        "description": "1 to 63 of a-z, 0-9, '-', '_' and '.', the first a letter or digit.",
        "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$",
    });
    definitions.insert("name".to_owned(), name);
    let variable = json!({
        "type": "string",
        "description": "Text with a ${VAR}, ${VAR:-default} or ${VAR:?message}.",
        "pattern": r"\$\{",
    });
    definitions.insert("variable".to_owned(), variable);
    root.insert("$defs".to_owned(), Value::Object(definitions));
    Value::Object(root)
}

fn section(of: &Section) -> Map<String, Value> {
    let mut properties = Map::new();
    for key in of.keys {
        for name in [Some(key.name), key.alias].into_iter().flatten() {
            properties.insert(name.to_owned(), property(key));
        }
    }
    let required: Vec<&str> = of.keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    let mut schema = Map::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("description".to_owned(), json!(of.doc));
    schema.insert("additionalProperties".to_owned(), json!(false));
    schema.insert("properties".to_owned(), Value::Object(properties));
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = value(&key.kind);
    if let Value::Object(schema) = &mut schema {
        schema.insert("description".to_owned(), json!(key.doc));
    }
    schema
}

fn value(kind: &Kind) -> Value {
    let text = json!({ "type": "string" });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    let or_variable = |wanted: Vec<Value>| {
        let variable = json!({ "$ref": "#/$defs/variable" });
        json!({ "anyOf": wanted.into_iter().chain([variable]).collect::<Vec<_>>() })
    };
    match kind {
        Kind::Text => text,
        Kind::Boolean => or_variable(vec![json!({ "type": "boolean" })]),
        Kind::Integer { min, max } => or_variable(vec![json!({ "type": "integer", "minimum": min, "maximum": max })]),
        Kind::Duration => or_variable(vec![
            json!({ "type": "integer", "minimum": 0 }),
            json!({ "type": "string", "pattern": "^ *([0-9]+(ms|s|m|h|d))+ *$" }),
        ]),
        Kind::Size => or_variable(vec![
            json!({ "type": "integer", "minimum": 1 }),
            json!({ "type": "string", "pattern": "^ *[0-9][0-9.]* *([bB]|[kKmMgGtT]([iI]?[bB])?)? *$" }),
        ]),
        Kind::Cpu => or_variable(vec![
            json!({ "type": "number", "exclusiveMinimum": 0, "maximum": 1024 }),
            json!({ "type": "string", "pattern": "^ *[0-9.]+m? *$" }),
        ]),
        Kind::Percent => or_variable(vec![json!({ "type": "number", "minimum": 0, "maximum": 100 })]),
        Kind::Choice(words) => or_variable(vec![json!({ "enum": words })]),
        Kind::Words | Kind::Texts => json!({ "anyOf": [text, texts] }),
        Kind::TextOrInteger => json!({ "type": ["string", "integer"] }),
        Kind::Pairs => json!({ "anyOf": [
            { "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } },
            { "type": "array", "items": { "type": "string", "pattern": r"=|\$\{" } },
        ] }),
        Kind::Ports => {
            let port = json!({ "type": ["string", "integer"], "minimum": 1, "maximum": 65535 });
            json!({ "anyOf": [port, { "type": "array", "items": port }] })
        }
        Kind::DependsOn => {
            let condition = or_variable(vec![json!({ "enum": CONDITIONS })]);
            json!({ "anyOf": [text, texts, { "type": "object", "additionalProperties": condition }] })
        }
        Kind::Hosts => json!({ "anyOf": [texts, { "type": "object", "additionalProperties": text }] }),
        Kind::Uses(of) => {
            let one = json!({ "anyOf": [text, { "$ref": format!("#/$defs/{}", definition(of)) }] });
            json!({ "anyOf": [text, { "type": "array", "items": one }] })
        }
        Kind::Tables(of) => {
            json!({ "type": "array", "items": { "$ref": format!("#/$defs/{}", definition(of)) }, "minItems": 1 })
        }
        Kind::Table(of) => json!({ "$ref": format!("#/$defs/{}", definition(of)) }),
        Kind::App(of, apps) => json!({ "anyOf": [
            text,
            { "$ref": format!("#/$defs/{}", definition(of)) },
            {
                "type": "object",
                "propertyNames": { "$ref": "#/$defs/name" },
                "additionalProperties": { "$ref": format!("#/$defs/{}", definition(apps)) },
            },
        ] }),
        // What is below changes sections and need not be whole, so it is looser here than it is read.
        Kind::Overlays => json!({
            "type": "object",
            "propertyNames": { "$ref": "#/$defs/name" },
            "additionalProperties": {
                "type": "object",
                "propertyNames": { "enum": ROOT.names().filter(|name| !matches!(*name, "env" | "include")).collect::<Vec<_>>() },
            },
        }),
        Kind::TextOrTable(of) => json!({ "anyOf": [text, { "$ref": format!("#/$defs/{}", definition(of)) }] }),
        Kind::Named(of) => json!({
            "type": "object",
            "propertyNames": { "$ref": "#/$defs/name" },
            "additionalProperties": { "$ref": format!("#/$defs/{}", definition(of)) },
        }),
    }
}

fn definition(of: &Section) -> &'static str {
    let found = DEFINITIONS.iter().find(|(_, section)| std::ptr::eq(*section, of));
    found.map(|(name, _)| *name).unwrap_or_else(|| unreachable!("every section has a name in the schema"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Context, parse};

    /// A right value for each key: by name where the kind does not settle it.
    fn sample(key: &Key) -> &'static str {
        match key.name {
            "when" => r#""env != 'x'""#,
            "image" => r#""redis:7""#,
            "working_dir" | "path" => r#""/srv""#,
            "volumes" => r#"["data:/data", "/cache"]"#,
            "tmpfs" => r#"["/tmp:size=16m"]"#,
            "cap_add" | "cap_drop" => r#"["NET_ADMIN"]"#,
            "stop_signal" => r#""QUIT""#,
            "env_file" | "members" => "[]",
            "before_deploy" | "after_deploy" | "before_rollback" => r#"["job"]"#,
            "schedule" => r#""30 4 * * mon-fri""#,
            "time_zone" => r#""Europe/Berlin""#,
            "record_size" => r#""16k""#,
            "secret" if matches!(key.kind, Kind::Text) => r#""pw""#,
            "part" => r#""hash""#,
            "mode" => r#""0440""#,
            "owner" => r#""999:999""#,
            "on_rotate" => r#""signal:HUP""#,
            "deadline" => r#""20m""#,
            "group" => r#""g""#,
            "name" | "hostname" | "service" => r#""abc""#,
            "host" | "domain" => r#""a.example.com""#,
            "path_prefix" | "rewrite_prefix" => r#""/x""#,
            "match_methods" => r#"["GET"]"#,
            "backend_services" => r#"{ w = 60, other = 40 }"#,
            "mirror_service" => r#""other""#,
            "cookie" => r#"{ secret = "pw" }"#,
            "sticky" => r#""cookie""#,
            "basic_auth" => r#"{ me = "$2b$12$abc" }"#,
            "directory_url" => r#""https://other.example.com""#,
            "redirect" if !matches!(key.kind, Kind::Boolean) => r#""https://other.example.com""#,
            "to" => r#""/elsewhere""#,
            "status" => "307",
            "email" => r#""me@example.com""#,
            "challenge" => r#""tls-alpn-01""#,
            "provider" => r#""route53""#,
            "default" => r#""deny""#,
            "protocol" => r#""h2c""#,
            "peer" => r#""warn""#,
            "rate_limit" => "{ per_second = 1 }",
            "http_proxy" => r#"{ host = "w.example.com" }"#,
            "http_routes" => r#"{ a = { host = "w.example.com" } }"#,
            _ => match &key.kind {
                Kind::Text => r#""text""#,
                Kind::Boolean => "true",
                Kind::Integer { .. } => "5",
                Kind::Duration => r#""20s500ms""#,
                Kind::Size => r#""512m""#,
                Kind::Cpu => "0.5",
                Kind::Percent => "0.5",
                Kind::Uses(_) => r#"["pw", { secret = "token", env = "TOKEN" }]"#,
                Kind::Tables(_) => r#"[{ instances = 1, weight = 5, duration = "1s" }]"#,
                Kind::Choice(words) => match words.first() {
                    Some(&"http") => r#""http""#,
                    Some(&"local") => r#""host""#,
                    Some(&"one_for_one") => r#""rest_for_one""#,
                    Some(&"bridge") => r#""none""#,
                    Some(&"low") => r#""high""#,
                    Some(&"rolling") => r#""blue_green""#,
                    Some(&"stay") => r#""rollback""#,
                    Some(&"rollback") => r#""pause""#,
                    Some(&"skip") => r#""skip""#,
                    Some(&"random-256") => r#""password""#,
                    Some(&"off") => r#""zstd""#,
                    _ => r#""never""#,
                },
                Kind::Words | Kind::Texts => r#"["a", "b"]"#,
                Kind::TextOrInteger => "1000",
                Kind::Pairs => r#"{ A = "1", B = 2, C = true }"#,
                Kind::Ports => r#"["8080:80", 443]"#,
                Kind::DependsOn => r#"["other"]"#,
                Kind::Hosts => r#"{ db = "10.0.0.5" }"#,
                Kind::Table(_) | Kind::TextOrTable(_) | Kind::Named(_) | Kind::App(..) | Kind::Overlays => "{}",
            },
        }
    }

    /// A manifest in which `line` stands in the section called `name`, and all else is right.
    fn manifest(name: &str, line: &str) -> String {
        let rest = "[service.other]\nimage = \"x\"\n[group.g]\n";
        let image = match line.split(' ').next() {
            Some("image") => "",
            Some("node" | "cookie") => "image = \"x\"\nrelease = \"x\"\n",
            _ => "image = \"x\"\n",
        };
        match name {
            "apps" => {
                let service = if line.starts_with("service") { "" } else { "[app.a.service.w]\nimage = \"x\"\n" };
                format!("[app.a]\n{line}\n{service}")
            }
            "app" | "supervise" => format!("[{name}]\n{line}\n{rest}"),
            "backoff" => format!("[supervise.backoff]\n{line}\n{rest}"),
            "group" => format!("[group.v]\n{line}\n{rest}"),
            // `path` is only right beside driver = "host", and the other way round.
            "volume" => match line.split(' ').next() {
                Some("path") => format!("[volume.v]\ndriver = \"host\"\n{line}\n{rest}"),
                Some("driver" | "type") => format!("[volume.v]\npath = \"/x\"\n{line}\n{rest}"),
                _ => format!("[volume.v]\n{line}\n{rest}"),
            },
            "release" => format!("[release]\n{line}\n{rest}"),
            "hooks" => format!("[hooks]\n{line}\n[worker.job]\nimage = \"x\"\n{rest}"),
            "secret" => {
                let kind = if line.starts_with("name") { "generate = \"tls\"\n" } else { "" };
                format!("[secret.s]\n{kind}{line}\n{rest}")
            }
            "secret_use" => {
                let needed = if line.starts_with("secret ") { "" } else { "secret = \"pw\", " };
                format!("[service.w]\n{image}secrets = [{{ {needed}{line} }}]\n{rest}")
            }
            "cron" => {
                let every = match line.split(' ').next() {
                    Some("every" | "schedule") => "",
                    _ => "schedule = \"@daily\"\n",
                };
                format!("[cron.w]\n{image}{every}{line}\n{rest}")
            }
            "rollout" => {
                let canary = if line.starts_with("strategy") { "" } else { "strategy = \"canary\"\n" };
                format!("[service.w]\n{image}[service.w.rollout]\n{canary}{line}\n{rest}")
            }
            "canary_step" => {
                let keys = [("instances", "1"), ("weight", "5"), ("duration", "\"1s\"")];
                let others = keys.iter().filter(|(key, _)| !line.starts_with(key));
                let others: String = others.map(|(key, value)| format!(", {key} = {value}")).collect();
                format!(
                    "[service.w]\n{image}replicas = 9\n[service.w.rollout]\nstrategy = \"canary\"\ncanary = [{{ {line}{others} }}]\n{rest}"
                )
            }
            "analysis" => {
                format!(
                    "[service.w]\n{image}[service.w.rollout]\nstrategy = \"canary\"\n[service.w.rollout.analysis]\n{line}\n{rest}"
                )
            }
            "cookie" => {
                let needed = if line.starts_with("secret") { "" } else { "secret = \"pw\"\n" };
                format!("[service.w]\n{image}release = \"x\"\n[service.w.cookie]\n{needed}{line}\n{rest}")
            }
            "dev" => {
                let watch = if line.starts_with("build") { "watch = [\"src\"]\n" } else { "" };
                format!("[service.w]\n{image}[service.w.dev]\n{watch}{line}\n{rest}")
            }
            "service" | "worker" => format!("[{name}.w]\n{image}{line}\n{rest}"),
            "limits" => format!("[service.w]\n{image}[service.w.limits]\n{line}\n{rest}"),
            "health" => {
                let (kind, port) = match line.split(' ').next() {
                    Some("type") => ("", "port = 80\n"),
                    Some("command") => ("type = \"exec\"\n", ""),
                    Some("expression") => ("type = \"rpc\"\n", ""),
                    Some("service") => ("type = \"grpc\"\n", "port = 80\n"),
                    Some("port") => ("type = \"tcp\"\n", ""),
                    _ => ("type = \"http\"\n", "port = 80\n"),
                };
                let release = if line.starts_with("expression") { "release = \"x\"\n" } else { "" };
                format!("[service.w]\n{image}{release}[service.w.health]\n{kind}{port}{line}\n{rest}")
            }
            "route" => {
                let host = if line.starts_with("host") { "" } else { "host = \"w.example.com\"\n" };
                format!("[service.w]\n{image}[service.w.http_proxy]\n{host}{line}\n{rest}")
            }
            "rate_limit" => {
                let needed = if line.starts_with("per_second") { "" } else { "per_second = 5\n" };
                format!(
                    "[service.w]\n{image}[service.w.http_proxy]\nhost = \"w.a\"\n[service.w.http_proxy.rate_limit]\n{needed}{line}\n{rest}"
                )
            }
            "redirect" => {
                let needed = if line.starts_with("to ") { "" } else { "to = \"/\"\n" };
                format!(
                    "[service.w]\n{image}[service.w.http_proxy]\nhost = \"w.a\"\n[service.w.http_proxy.redirect]\n{needed}{line}\n{rest}"
                )
            }
            "policy" => format!("[policy]\n{line}\n{rest}"),
            "tls" => {
                let needed = if line.starts_with("domain") { "" } else { "domain = \"w.a\"\n" };
                format!("[service.w]\n{image}[service.w.tls]\n{needed}{line}\n{rest}")
            }
            "acme" => {
                let mut needed =
                    if line.starts_with("email") { String::new() } else { "email = \"a@b.c\"\n".to_owned() };
                if line.starts_with("dns") {
                    needed.push_str("challenge = \"dns-01\"\n");
                }
                format!(
                    "[service.w]\n{image}[service.w.tls]\ndomain = \"w.a\"\n[service.w.tls.acme]\n{needed}{line}\n{rest}"
                )
            }
            "dns" => {
                let needed = if line.starts_with("provider") { "" } else { "provider = \"gcloud\"\n" };
                format!(
                    "[service.w]\n{image}[service.w.tls]\ndomain = \"w.a\"\n[service.w.tls.acme]\nemail = \"a@b.c\"\n\
                     challenge = \"dns-01\"\n[service.w.tls.acme.dns]\n{needed}{line}\n{rest}"
                )
            }
            other => panic!("no manifest for section {other}"),
        }
    }

    fn both(text: &str) -> (Result<(), String>, bool) {
        let parsed = parse(text, "t.toml", &Context::new("/srv/x")).map(drop).map_err(|errors| errors.to_string());
        let value: Value = toml::from_str(text).expect("the manifest is TOML");
        (parsed, jsonschema::validator_for(&schema()).expect("the schema is one").is_valid(&value))
    }

    #[test]
    fn the_schema_is_a_draft_2020_12_schema() {
        assert!(jsonschema::draft202012::meta::is_valid(&schema()));
    }

    #[test]
    fn parser_and_schema_accept_the_same_keys_and_refuse_the_same_types() {
        for (name, section) in DEFINITIONS {
            for key in section.keys {
                for word in [Some(key.name), key.alias].into_iter().flatten() {
                    let mut value = sample(key);
                    match word {
                        _ if *name == "apps" && word != "labels" => value = "{}",
                        "health" | "health_check" => value = r#"{ type = "tcp", port = 80 }"#,
                        "acme" => value = r#"{ email = "me@example.com" }"#,
                        "dns" => value = r#"{ provider = "gcloud" }"#,
                        "allow" | "deny" if *name == "policy" => value = r#"["other -> other"]"#,
                        "allow" | "ip_allowlist" => value = r#"["10.0.0.0/8"]"#,
                        "path" if *name == "route" => value = r#""/exactly""#,
                        _ => {}
                    }
                    let good = manifest(name, &format!("{word} = {value}"));
                    let (parsed, valid) = both(&good);
                    assert_eq!(parsed, Ok(()), "{good}");
                    assert!(valid, "the schema refuses\n{good}");

                    let bad = manifest(name, &format!("{word} = [[[]]]"));
                    let (parsed, valid) = both(&bad);
                    assert!(parsed.is_err() && !valid, "parser {parsed:?}, schema {valid}:\n{bad}");
                }
            }
            let stranger = manifest(name, "stranger = 1");
            let (parsed, valid) = both(&stranger);
            assert!(parsed.is_err() && !valid, "{stranger}");
        }
    }

    #[test]
    fn sections_are_the_same_in_parser_and_schema() {
        for key in ROOT.keys {
            let text = format!("{} = 5\n", key.name);
            let (parsed, valid) = both(&text);
            assert!(parsed.unwrap_err().contains("must be a") && !valid, "{text}");
        }
        assert!(!both("[stranger]\n").1);
    }

    #[test]
    fn a_missing_image_or_probe_type_is_refused_by_both() {
        for text in ["[service.a]\n", "[worker.a]\n", "[service.a]\nimage = \"x\"\nhealth = { port = 1 }\n"] {
            let (parsed, valid) = both(text);
            assert!(parsed.is_err() && !valid, "{text}");
        }
    }

    #[test]
    fn variables_may_stand_for_numbers_and_words_in_both() {
        let text = "[service.a]\nimage = \"${I:-x}\"\nreplicas = \"${N:-2}\"\nread_only = \"${R:-true}\"\n\
                    restart = \"${S:-never}\"\nstop_timeout = \"${T:-5}\"\nlimits = { cpu = \"${C:-1}\", pids = \"${P:-9}\" }\n";
        assert_eq!(both(text), (Ok(()), true));
    }
}
