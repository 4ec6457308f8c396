//! Which route takes a request, by tables and by comparison with a plain reading of the rules.

use std::collections::BTreeMap;

use coppice_base::Name;
use coppice_route::{RouteTable, TableEntry};
use coppice_spec::{PathMatch, RouteSpec};
use proptest::prelude::*;

fn route(name: &str, host: &str, path: PathMatch, methods: &[&str], headers: &[(&str, &str)]) -> TableEntry<()> {
    let mut spec = RouteSpec::of(Name::new("r").unwrap(), host);
    spec.path = path;
    spec.methods = methods.iter().map(|method| (*method).to_owned()).collect();
    spec.headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    TableEntry { name: name.to_owned(), spec, value: () }
}

fn prefix(text: &str) -> PathMatch {
    PathMatch::Prefix(text.to_owned())
}

fn exact(text: &str) -> PathMatch {
    PathMatch::Exact(text.to_owned())
}

fn found<'a>(table: &'a RouteTable<()>, host: &str, path: &str, method: &str, has: &[(&str, &str)]) -> Option<&'a str> {
    table.find(host, path, method, |name, value| has.contains(&(name, value))).map(|entry| entry.name.as_str())
}

#[test]
fn the_most_particular_route_takes_a_request() {
    let table = RouteTable::new(vec![
        route("any", "example.com", prefix("/"), &[], &[]),
        route("api", "example.com", prefix("/api"), &[], &[]),
        route("api-v1", "example.com", prefix("/api/v1"), &[], &[]),
        route("api-get", "example.com", prefix("/api"), &["GET"], &[]),
        route("api-get-post", "example.com", prefix("/api"), &["GET", "POST"], &[]),
        route("api-beta", "example.com", prefix("/api"), &[], &[("x-beta", "1")]),
        route("api-beta-eu", "example.com", prefix("/api"), &[], &[("x-beta", "1"), ("x-region", "eu")]),
        route("exact", "example.com", exact("/api/v1"), &[], &[]),
        route("wild", "*.example.com", prefix("/"), &[], &[]),
        route("named", "a.example.com", prefix("/only"), &[], &[]),
    ])
    .unwrap();
    for (host, path, method, headers, name) in [
        ("example.com", "/", "GET", &[][..], Some("any")),
        ("example.com", "/apiary", "GET", &[], Some("any")),
        ("example.com", "/api", "GET", &[], Some("api-get")),
        ("example.com", "/api/", "POST", &[], Some("api-get-post")),
        ("example.com", "/api/x", "DELETE", &[], Some("api")),
        ("example.com", "/api/x", "GET", &[("x-beta", "1")], Some("api-beta")),
        ("example.com", "/api/x", "GET", &[("x-beta", "2")], Some("api-get")),
        ("example.com", "/api/x", "GET", &[("x-beta", "1"), ("x-region", "eu")], Some("api-beta-eu")),
        ("example.com", "/api/v1", "GET", &[("x-beta", "1")], Some("exact")),
        ("example.com", "/api/v1/x", "GET", &[("x-beta", "1")], Some("api-v1")),
        ("b.example.com", "/x", "GET", &[], Some("wild")),
        ("a.example.com", "/only/x", "GET", &[], Some("named")),
        ("a.example.com", "/other", "GET", &[], Some("wild")),
        ("a.b.example.com", "/", "GET", &[], None),
        ("example.org", "/", "GET", &[], None),
    ] {
        assert_eq!(found(&table, host, path, method, headers), name, "{method} {host}{path} {headers:?}");
    }
}

#[test]
fn routes_that_no_request_can_tell_apart_are_refused_with_both_names() {
    let twice = |a, b| RouteTable::new(vec![a, b]).map(|_| ()).map_err(|error| error.to_string());
    let error = twice(
        route("shop/web/default", "Example.com", prefix("/api/"), &["GET", "POST"], &[]),
        route("blog/web/default", "example.com", prefix("/api"), &["POST", "GET", "GET"], &[]),
    )
    .unwrap_err();
    assert!(error.contains("shop/web/default") && error.contains("blog/web/default"), "{error}");
    let differ = [
        route("b", "example.com", exact("/api"), &[], &[]),
        route("b", "example.com", prefix("/api"), &["GET"], &[]),
        route("b", "example.com", prefix("/api"), &[], &[("a", "b")]),
        route("b", "www.example.com", prefix("/api"), &[], &[]),
    ];
    for other in differ {
        assert_eq!(twice(route("a", "example.com", prefix("/api"), &[], &[]), other), Ok(()));
    }
}

/// The rules again, as slowly and plainly as they can be said.
fn plainly<'a>(
    routes: &'a [TableEntry<()>],
    host: &str,
    path: &str,
    method: &str,
    has: &[(&str, &str)],
) -> Option<&'a str> {
    let fits_host = |of_route: &str| match of_route.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(_, parent)| parent == rest),
        None => of_route == host,
    };
    let segments = |path: &str| path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let mut fit: Vec<_> = routes
        .iter()
        .filter(|route| fits_host(&route.spec.hosts[0]))
        .filter(|route| match &route.spec.path {
            PathMatch::Exact(exact) => exact == path,
            PathMatch::Prefix(prefix) => segments(path).starts_with(&segments(prefix)),
        })
        .filter(|route| route.spec.methods.is_empty() || route.spec.methods.iter().any(|of| of == method))
        .filter(|route| route.spec.headers.iter().all(|(name, value)| has.contains(&(name, value))))
        .collect();
    fit.sort_by_key(|route| {
        let wild = route.spec.hosts[0].starts_with("*.");
        let not_exact = matches!(route.spec.path, PathMatch::Prefix(_));
        let shortness = usize::MAX - route.spec.path.text().trim_end_matches('/').len();
        let few_headers = usize::MAX - route.spec.headers.len();
        let methods = if route.spec.methods.is_empty() { usize::MAX } else { route.spec.methods.len() };
        (wild, not_exact, shortness, few_headers, methods, route.name.clone())
    });
    fit.first().map(|route| route.name.as_str())
}

fn any_route() -> impl Strategy<Value = TableEntry<()>> {
    let host = prop::sample::select(vec!["a.com", "b.a.com", "*.a.com"]);
    let path = prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/ab"]);
    let methods = prop::sample::subsequence(vec!["GET", "PUT"], 0..=2);
    let headers = prop::sample::subsequence(vec![("x", "1"), ("y", "2")], 0..=2);
    (host, path, any::<bool>(), methods, headers).prop_map(|(host, path, whole, methods, headers)| {
        let path = if whole { exact(path) } else { prefix(path) };
        let name = format!("{host} {path:?} {methods:?} {headers:?}");
        let headers: BTreeMap<_, _> = headers.into_iter().collect();
        route(&name, host, path, &methods, &headers.into_iter().collect::<Vec<_>>())
    })
}

proptest! {
    #[test]
    fn the_table_finds_what_the_rules_say(
        routes in prop::collection::vec(any_route(), 0..12),
        host in prop::sample::select(vec!["a.com", "b.a.com", "c.a.com", "d.c.a.com"]),
        path in prop::sample::select(vec!["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/abc"]),
        method in prop::sample::select(vec!["GET", "PUT", "HEAD"]),
        has in prop::sample::subsequence(vec![("x", "1"), ("y", "2")], 0..=2),
    ) {
        if let Ok(table) = RouteTable::new(routes.clone()) {
            prop_assert_eq!(found(&table, host, path, method, &has), plainly(&routes, host, path, method, &has));
        }
    }

    #[test]
    fn a_target_that_is_taken_has_one_reading(text in "/[ -~]{0,24}") {
        if let Ok(target) = coppice_route::Target::parse(text.as_bytes()) {
            let again = coppice_route::Target::parse(target.path.as_bytes());
            prop_assert_eq!(again.map(|target| target.path.into_owned()), Ok(target.path.clone().into_owned()));
            prop_assert!(!target.path.split('/').any(|segment| segment == ".." || segment == "."));
            prop_assert!(!target.path.contains("//") && !target.path.to_lowercase().contains("%2f"));
        }
    }

    #[test]
    fn a_rewrite_never_leaves_its_prefix(rest in "(/[a-z.%0-9]{1,5}){0,4}/?", base in prop::sample::select(vec!["/", "/in", "/in/"])) {
        let path = format!("/api{rest}");
        if let Ok(target) = coppice_route::Target::parse(path.as_bytes()) {
            let sent = coppice_route::rewritten(&target.path, "/api", base);
            prop_assert!(sent.starts_with('/') && sent.starts_with(base.trim_end_matches('/')));
            prop_assert!(!sent.contains("//") && !sent.split('/').any(|segment| segment == ".."));
        }
    }
}
