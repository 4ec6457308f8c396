//! What providers send, checked by servers that answer as theirs do; and the looks for a record, by real name servers.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hickory_proto::op::{Message, MessageType};
use hickory_proto::rr::rdata::{A, NS, TXT};
use hickory_proto::rr::{RData, Record as DnsRecord, RecordType};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};

use coppice_spec::{DnsProvider, DnsProviderKind};

use super::propagation::{self, Lookup};
use super::{Provider, ProviderError, Record};
use crate::https::Https;

struct Asked {
    method: String,
    path: String,
    headers: http::HeaderMap,
    body: String,
}

/// A server whose `answer` decides; each request is kept.
async fn server(
    answer: impl Fn(&Asked) -> (u16, String) + Send + Sync + 'static,
) -> (SocketAddr, Arc<Mutex<Vec<Asked>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let (address, kept) = (listener.local_addr().expect("address"), Arc::new(Mutex::new(Vec::new())));
    let (answer, asked) = (Arc::new(answer), Arc::clone(&kept));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
            let service = service_fn(move |request: Request<Incoming>| {
                let (answer, asked) = (Arc::clone(&answer), Arc::clone(&asked));
                async move {
                    let (parts, body) = request.into_parts();
                    let body = body.collect().await.expect("body").to_bytes();
                    let one = Asked {
                        method: parts.method.to_string(),
                        path: parts.uri.to_string(),
                        headers: parts.headers,
                        body: String::from_utf8(body.to_vec()).expect("text"),
                    };
                    let (status, text) = answer(&one);
                    asked.lock().expect("lock").push(one);
                    let response = Response::builder().status(status).body(Full::new(Bytes::from(text)));
                    Ok::<_, Infallible>(response.expect("response"))
                }
            });
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (address, kept)
}

fn https() -> Https {
    Https::new(&[], Duration::from_secs(20)).expect("https")
}

fn secret_file(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    coppice_secret::durable::write(&path, format!("{text}\n").as_bytes()).expect("secret");
    path.display().to_string()
}

fn spec(kind: DnsProviderKind, secrets: &[(&str, String)], config: &[(&str, String)]) -> DnsProvider {
    let map = |pairs: &[(&str, String)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    DnsProvider {
        kind,
        secrets: map(secrets),
        config: map(config),
        hook: Vec::new(),
        propagation_timeout_secs: 1,
        poll_interval_secs: 1,
    }
}

fn record() -> Record {
    Record {
        domain: "*.a.example".to_owned(),
        name: "_acme-challenge.a.example".to_owned(),
        value: "proof-1".to_owned(),
        directory: "https://acme.example/dir".to_owned(),
    }
}

#[tokio::test]
async fn cloudflare_gets_a_record_of_its_own_and_only_that_is_removed() {
    let held = Arc::new(Mutex::new(vec![("other".to_owned(), "\"not ours\"".to_owned())]));
    let zone = Arc::clone(&held);
    let (address, asked) = server(move |asked| {
        let mut zone = zone.lock().expect("lock");
        match asked.method.as_str() {
            "GET" => {
                let result: Vec<_> =
                    zone.iter().map(|(id, content)| serde_json::json!({ "id": id, "content": content })).collect();
                (200, serde_json::json!({ "success": true, "result": result }).to_string())
            }
            "POST" => {
                let body: serde_json::Value = serde_json::from_str(&asked.body).expect("JSON");
                zone.push(("new".to_owned(), body["content"].as_str().expect("content").to_owned()));
                (200, "{}".to_owned())
            }
            _ => {
                let id = asked.path.rsplit('/').next().expect("id").to_owned();
                zone.retain(|(kept, _)| *kept != id);
                (200, "{}".to_owned())
            }
        }
    })
    .await;
    let folder = tempfile::tempdir().expect("folder");
    let spec = spec(
        DnsProviderKind::Cloudflare,
        &[("api_token", secret_file(folder.path(), "token", "t0ken"))],
        &[("zone_id", "zone1".to_owned()), ("endpoint", format!("http://{address}/client/v4"))],
    );
    let provider = Provider::of(&spec, &https()).expect("provider");
    provider.publish(&record()).await.expect("published");
    provider.publish(&record()).await.expect("published already");
    assert_eq!(held.lock().expect("lock").len(), 2);
    provider.withdraw(&record()).await.expect("withdrawn");
    assert_eq!(*held.lock().expect("lock"), [("other".to_owned(), "\"not ours\"".to_owned())]);
    let asked = asked.lock().expect("lock");
    let lines: Vec<_> = asked.iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    let list = "GET /client/v4/zones/zone1/dns_records?type=TXT&name=_acme-challenge.a.example&per_page=100";
    let (create, remove) = ("POST /client/v4/zones/zone1/dns_records", "DELETE /client/v4/zones/zone1/dns_records/new");
    assert_eq!(lines, [list, create, list, list, remove]);
    assert!(asked.iter().all(|asked| asked.headers["authorization"] == "Bearer t0ken"));
    assert!(asked.iter().all(|asked| asked.headers["host"] == address.to_string().as_str()));
    assert_eq!(asked[1].headers["content-type"], "application/json");
    let body: serde_json::Value = serde_json::from_str(&asked[1].body).expect("JSON");
    let wanted = serde_json::json!({
        "type": "TXT", "name": "_acme-challenge.a.example", "content": "\"proof-1\"", "ttl": 60
    });
    assert_eq!(body, wanted);
}

#[tokio::test]
async fn google_gets_the_old_set_out_and_the_new_one_in_with_other_values_kept() {
    let held = Arc::new(Mutex::new(vec!["\"not ours\"".to_owned()]));
    let zone = Arc::clone(&held);
    let set = |values: &[String]| serde_json::json!({ "name": "_acme-challenge.a.example.", "type": "TXT", "ttl": 60, "rrdatas": values });
    let (address, asked) = server(move |asked| {
        let mut zone = zone.lock().expect("lock");
        if asked.method == "GET" {
            return (200, serde_json::json!({ "rrsets": [set(&zone)] }).to_string());
        }
        let body: serde_json::Value = serde_json::from_str(&asked.body).expect("JSON");
        // As Google does: what is removed must be just what is there.
        if body["deletions"] != serde_json::json!([set(&zone)]) {
            return (412, "precondition".to_owned());
        }
        *zone = serde_json::from_value(body["additions"][0]["rrdatas"].clone()).expect("values");
        (200, "{}".to_owned())
    })
    .await;
    let folder = tempfile::tempdir().expect("folder");
    let spec = spec(
        DnsProviderKind::Gcloud,
        &[("access_token", secret_file(folder.path(), "token", "ya29"))],
        &[("project", "p1".to_owned()), ("managed_zone", "z1".to_owned()), ("endpoint", format!("http://{address}"))],
    );
    let provider = Provider::of(&spec, &https()).expect("provider");
    provider.publish(&record()).await.expect("published");
    assert_eq!(*held.lock().expect("lock"), ["\"not ours\"", "\"proof-1\""]);
    provider.withdraw(&record()).await.expect("withdrawn");
    assert_eq!(*held.lock().expect("lock"), ["\"not ours\""]);
    let asked = asked.lock().expect("lock");
    let lines: Vec<_> = asked.iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect();
    let list = "GET /dns/v1/projects/p1/managedZones/z1/rrsets?name=_acme-challenge.a.example.&type=TXT";
    let change = "POST /dns/v1/projects/p1/managedZones/z1/changes";
    assert_eq!(lines, [list, change, list, change]);
    assert!(asked.iter().all(|asked| asked.headers["authorization"] == "Bearer ya29"));
}

/// Checks a signature anew from what arrived, as AWS does.
fn is_signed(asked: &Asked, secret: &str) -> bool {
    let header = |name: &str| asked.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let authorization = header("authorization");
    let part = |name: &str| authorization.split_once(name).map(|(_, rest)| rest.split(',').next().unwrap_or_default());
    let (Some(scope), Some(names), Some(signature)) =
        (part("Credential=AKID/"), part("SignedHeaders="), part("Signature="))
    else {
        return false;
    };
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let headers: String = names.split(';').map(|name| format!("{name}:{}\n", header(name))).collect();
    let digest = |text: &[u8]| hex::encode(Sha256::digest(text));
    let canonical = format!("{}\n{path}\n{query}\n{headers}\n{names}\n{}", asked.method, digest(asked.body.as_bytes()));
    let stamp = header("x-amz-date");
    let text = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{}", digest(canonical.as_bytes()));
    let hmac = |key: &[u8], text: &str| {
        ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
    };
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/') {
        key = hmac(&key, part);
    }
    scope == format!("{}/eu-west-1/route53/aws4_request", &stamp[..8])
        && names.split(';').collect::<BTreeSet<_>>().is_superset(&BTreeSet::from(["host", "x-amz-date"]))
        && hex::encode(hmac(&key, &text)) == signature
}

#[tokio::test]
async fn route_53_gets_signed_requests_and_other_values_of_the_set_are_kept() {
    let held = Arc::new(Mutex::new(vec!["&quot;not ours&quot;".to_owned()]));
    let zone = Arc::clone(&held);
    let (address, asked) = server(move |asked| {
        if !is_signed(asked, "s3cret") {
            return (403, "SignatureDoesNotMatch".to_owned());
        }
        let mut zone = zone.lock().expect("lock");
        if asked.method == "GET" {
            let values: String =
                zone.iter().map(|value| format!("<ResourceRecord><Value>{value}</Value></ResourceRecord>")).collect();
            return (
                200,
                format!(
                    "<ListResourceRecordSetsResponse><ResourceRecordSets><ResourceRecordSet>\
                 <Name>_acme-challenge.a.example.</Name><Type>TXT</Type><TTL>60</TTL><ResourceRecords>{values}\
                 </ResourceRecords></ResourceRecordSet></ResourceRecordSets></ListResourceRecordSetsResponse>"
                ),
            );
        }
        let values = asked.body.split("<Value>").skip(1).filter_map(|rest| rest.split_once("</Value>"));
        *zone = values.map(|(value, _)| value.to_owned()).collect();
        (200, "<ChangeResourceRecordSetsResponse/>".to_owned())
    })
    .await;
    let folder = tempfile::tempdir().expect("folder");
    let with_secret = |secret: &str| {
        spec(
            DnsProviderKind::Route53,
            &[
                ("access_key_id", secret_file(folder.path(), "id", "AKID")),
                ("secret_access_key", secret_file(folder.path(), "key", secret)),
            ],
            &[
                ("hosted_zone_id", "/hostedzone/Z1".to_owned()),
                ("region", "eu-west-1".to_owned()),
                ("endpoint", format!("http://{address}")),
            ],
        )
    };
    let provider = Provider::of(&with_secret("s3cret"), &https()).expect("provider");
    provider.publish(&record()).await.expect("published");
    assert_eq!(*held.lock().expect("lock"), ["&quot;not ours&quot;", "&quot;proof-1&quot;"]);
    provider.withdraw(&record()).await.expect("withdrawn");
    assert_eq!(*held.lock().expect("lock"), ["&quot;not ours&quot;"]);
    let wrong = Provider::of(&with_secret("wrong"), &https()).expect("provider");
    let error = wrong.publish(&record()).await.expect_err("refused");
    assert!(matches!(error, ProviderError::Refused { status: 403, .. }), "{error}");
    let text = format!("{error}");
    assert!(text.contains("SignatureDoesNotMatch") && !text.contains("wrong"), "{text}");
    let asked = asked.lock().expect("lock");
    assert_eq!(asked[0].path, "/2013-04-01/hostedzone/Z1/rrset?maxitems=1&name=_acme-challenge.a.example.&type=TXT");
    assert_eq!((asked[1].method.as_str(), asked[1].path.as_str()), ("POST", "/2013-04-01/hostedzone/Z1/rrset"));
    assert!(asked[1].body.contains(
        "<Action>UPSERT</Action><ResourceRecordSet><Name>_acme-challenge.a.example.</Name><Type>TXT</Type><TTL>60</TTL>"
    ));
}

#[tokio::test]
async fn a_secret_others_may_read_and_a_missing_setting_are_refused_by_name() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("folder");
    let token = secret_file(folder.path(), "token", "t");
    let no_zone = spec(DnsProviderKind::Cloudflare, &[("api_token", token.clone())], &[]);
    let error = Provider::of(&no_zone, &https()).err().expect("refused").to_string();
    assert!(error.contains("Cloudflare needs `zone_id` in config"), "{error}");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("chmod");
    let open = spec(DnsProviderKind::Cloudflare, &[("api_token", token)], &[("zone_id", "z".to_owned())]);
    assert!(matches!(Provider::of(&open, &https()), Err(ProviderError::SecretMode { mode: 0o644, .. })));
}

fn hook(folder: &Path, script: &str) -> Provider {
    let mut spec = spec(
        DnsProviderKind::Exec,
        &[("TOKEN", secret_file(folder, "hook-secret", "s3cret"))],
        &[("ZONE", "z1".to_owned())],
    );
    spec.hook = vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()];
    Provider::of(&spec, &https()).expect("provider")
}

#[tokio::test]
async fn a_hook_gets_what_it_needs_and_nothing_of_the_node_s_environment() {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("out");
    hook(folder.path(), &format!("env | sort > {}", out.display())).publish(&record()).await.expect("published");
    let text = std::fs::read_to_string(out).expect("out");
    let names: BTreeSet<_> = text.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
    assert!(text.contains("COPPICE_ACME_ACTION=present\n") && text.contains("COPPICE_ACME_VALUE=proof-1\n"), "{text}");
    assert!(text.contains("TOKEN=s3cret\n") && text.contains("ZONE=z1\n"), "{text}");
    assert!(!names.contains("HOME") && !names.contains("CARGO_MANIFEST_DIR"), "{text}");
}

#[tokio::test]
async fn a_hook_that_fails_hangs_floods_or_leaves_children_is_told_of_and_bounded() {
    let folder = tempfile::tempdir().expect("folder");
    let error = hook(folder.path(), "echo no such zone >&2; exit 3").publish(&record()).await.expect_err("failed");
    let text = error.to_string();
    assert!(text.contains("no such zone") && text.contains("exit status: 3"), "{text}");
    let pid = folder.path().join("pid");
    let hanging = format!("sleep 1000 & echo $! > {}; wait", pid.display());
    let error = hook(folder.path(), &hanging).publish(&record()).await.expect_err("hangs");
    assert!(matches!(error, ProviderError::HookSlow { within_secs: 1, .. }), "{error}");
    gone(&pid).await;
    let error = hook(folder.path(), "yes | head -c 10000000; exit 1").publish(&record()).await.expect_err("failed");
    assert!(error.to_string().len() < 1000, "{}", error.to_string().len());
    let leaving = format!("sleep 1000 & echo $! > {}", pid.display());
    hook(folder.path(), &leaving).publish(&record()).await.expect("the hook itself did well");
    gone(&pid).await;
}

/// Waits until the process whose id the file holds has ended.
async fn gone(pid: &Path) {
    let pid = std::fs::read_to_string(pid).expect("pid").trim().to_owned();
    for _ in 0..500 {
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if state.is_empty() || state.contains(") Z ") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("process {pid} is still there");
}

/// Name servers of `a.example`, whose TXT values may change, and who count what they are asked.
struct NameServer {
    address: SocketAddr,
    values: Arc<Mutex<Vec<String>>>,
}

async fn name_server(address: &str, servers: &'static [[u8; 4]], values: &[&str]) -> NameServer {
    let socket = tokio::net::UdpSocket::bind(address).await.expect("bind");
    let address = socket.local_addr().expect("address");
    let values = Arc::new(Mutex::new(values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>()));
    let held = Arc::clone(&values);
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let question = Message::from_vec(&buffer[..length]).expect("question");
            let query = question.queries[0].clone();
            let mut answer = Message::response(question.metadata.id, question.metadata.op_code);
            answer.metadata.message_type = MessageType::Response;
            answer.add_query(query.clone());
            let name = query.name().to_ascii();
            let mut add = |data| {
                answer.add_answer(DnsRecord::from_rdata(query.name().clone(), 60, data));
            };
            match query.query_type() {
                RecordType::NS if name == "a.example." => {
                    for number in 0..servers.len() {
                        let name = format!("ns{number}.a.example.").parse().expect("name");
                        add(RData::NS(NS(name)));
                    }
                }
                RecordType::A => {
                    let number: usize = name[2..3].parse().expect("number");
                    add(RData::A(A::from(std::net::Ipv4Addr::from(servers[number]))));
                }
                RecordType::TXT => {
                    for value in held.lock().expect("lock").iter() {
                        add(RData::TXT(TXT::new(vec![value.clone()])));
                    }
                }
                _ => {}
            }
            socket.send_to(&answer.to_vec().expect("answer"), from).await.expect("send");
        }
    });
    NameServer { address, values }
}

#[tokio::test]
async fn a_record_is_seen_only_when_all_name_servers_of_the_zone_have_it() {
    static SERVERS: &[[u8; 4]] = &[[127, 0, 0, 71], [127, 0, 0, 72]];
    let first = name_server("127.0.0.71:0", SERVERS, &["other", "proof-1"]).await;
    let port = first.address.port();
    let second = name_server(&format!("127.0.0.72:{port}"), SERVERS, &["other"]).await;
    let resolver = name_server("127.0.0.1:0", SERVERS, &["proof-1"]).await;
    let lookup = Lookup { resolvers: vec![resolver.address], name_server_port: Some(port) };
    let within = Duration::from_secs(1);
    let error =
        propagation::wait(&lookup, &record(), within, Duration::from_millis(100)).await.expect_err("not on all");
    let ProviderError::NotSeen { missing, .. } = &error else { panic!("{error}") };
    assert_eq!(*missing, second.address.to_string());
    let (late, record) = (Arc::clone(&second.values), record());
    let waiting = propagation::wait(&lookup, &record, Duration::from_secs(30), Duration::from_millis(20));
    let publish = async {
        tokio::task::yield_now().await;
        late.lock().expect("lock").push("proof-1".to_owned());
    };
    let (seen, ()) = tokio::join!(waiting, publish);
    seen.expect("seen on all");
}

#[tokio::test]
async fn a_zone_without_known_name_servers_is_looked_up_at_the_resolver() {
    let resolver = name_server("127.0.0.1:0", &[], &["proof-1"]).await;
    let lookup = Lookup { resolvers: vec![resolver.address], name_server_port: None };
    propagation::wait(&lookup, &record(), Duration::from_secs(10), Duration::from_millis(20)).await.expect("seen");
    let absent = Record { value: "absent".to_owned(), ..record() };
    let outcome = propagation::wait(&lookup, &absent, Duration::from_millis(100), Duration::from_millis(20)).await;
    assert!(matches!(outcome, Err(ProviderError::NotSeen { .. })));
}
