//! Asking an instance whether it is well: http, tcp, grpc and exec probes.
//!
//! A probe gives a verdict or a sentence why not; counting failures and grace is [`Judge`], which is pure. Probes
//! connect to the instance's own address on the bridge (or loopback for `network = "host"`), so a container
//! without a network can only have exec probes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use coppice_base::Timestamp;
use coppice_spec::HealthSpec;
use http_body_util::{BodyExt, Empty, Full, Limited};
use hyper::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// Bytes of an answer that a probe reads at most.
const ANSWER_MAX: usize = 64 << 10;

/// One http probe: 2xx is healthy.
pub(crate) async fn http(address: IpAddr, port: u16, path: &str) -> Result<(), String> {
    let stream = connect(address, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| format!("http: {e}"))?;
    let driving = tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", SocketAddr::new(address, port).to_string())
        .header("user-agent", concat!("coppice/", env!("CARGO_PKG_VERSION"), " health"))
        .header("connection", "close")
        .body(Empty::<Bytes>::new())
        .map_err(|e| format!("http: {e}"))?;
    let answer = sender.send_request(request).await.map_err(|e| format!("http: {e}"));
    driving.abort();
    let status = answer?.status();
    if status.is_success() { Ok(()) } else { Err(format!("http: GET {path} answered {status}")) }
}

/// One tcp probe: a connection is healthy.
pub(crate) async fn tcp(address: IpAddr, port: u16) -> Result<(), String> {
    connect(address, port).await.map(drop)
}

async fn connect(address: IpAddr, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect((address, port)).await.map_err(|e| format!("tcp: port {port}: {e}"))
}

/// One `grpc.health.v1.Health/Check`: SERVING is healthy. The two messages are one field each, so they are
/// written and read here by hand instead of generating code (and running protoc in the build).
pub(crate) async fn grpc(address: IpAddr, port: u16, service: &str) -> Result<(), String> {
    let failed = |e: hyper::Error| format!("grpc: {e}");
    let stream = connect(address, port).await?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
    let driving = tokio::spawn(connection);
    let authority = SocketAddr::new(address, port);
    let request = Request::post(format!("http://{authority}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from(grpc_question(service))))
        .map_err(|e| format!("grpc: {e}"))?;
    let verdict = async {
        let answer = sender.send_request(request).await.map_err(failed)?;
        if !answer.status().is_success() {
            return Err(format!("grpc: answered HTTP {}", answer.status()));
        }
        if let Some(status) = answer.headers().get("grpc-status").filter(|status| *status != "0") {
            return Err(grpc_status(status.to_str().unwrap_or("?"), service));
        }
        let body = Limited::new(answer.into_body(), ANSWER_MAX).collect().await.map_err(|e| format!("grpc: {e}"))?;
        if let Some(status) = body.trailers().and_then(|t| t.get("grpc-status")).filter(|status| *status != "0") {
            return Err(grpc_status(status.to_str().unwrap_or("?"), service));
        }
        grpc_verdict(&body.to_bytes())
    }
    .await;
    driving.abort();
    verdict
}

fn grpc_status(status: &str, service: &str) -> String {
    match status {
        "5" => format!("grpc: the server knows no service {service:?}"),
        "12" => "grpc: the server has no health service (grpc.health.v1.Health)".to_owned(),
        other => format!("grpc: answered status {other}"),
    }
}

/// `HealthCheckRequest { string service = 1 }` behind gRPC's five bytes (uncompressed, big-endian length).
fn grpc_question(service: &str) -> Vec<u8> {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(0x0a); // field 1, length-delimited
        let mut len = service.len();
        while len >= 0x80 {
            message.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        message.push(len as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let len = u32::try_from(message.len()).expect("a service name is short");
    let mut framed = vec![0];
    framed.extend_from_slice(&len.to_be_bytes());
    framed.append(&mut message);
    framed
}

/// `HealthCheckResponse { ServingStatus status = 1 }`: 1 is SERVING.
fn grpc_verdict(framed: &[u8]) -> Result<(), String> {
    let unreadable = || "grpc: unreadable answer".to_owned();
    let [0, a, b, c, d, message @ ..] = framed else { return Err(unreadable()) };
    if u32::from_be_bytes([*a, *b, *c, *d]) as usize != message.len() {
        return Err(unreadable());
    }
    match message {
        [0x08, 1] => Ok(()),
        [0x08, 2] => Err("grpc: NOT_SERVING".to_owned()),
        [0x08, 3] => Err("grpc: SERVICE_UNKNOWN".to_owned()),
        [] | [0x08, 0] => Err("grpc: UNKNOWN".to_owned()),
        _ => Err(unreadable()),
    }
}

/// Turns a row of probe results into verdicts.
#[derive(Clone, Debug)]
pub(crate) struct Judge {
    retries: u32,
    start_period: Duration,
    started_at: Timestamp,
    failures: u32,
    healthy: bool,
}

/// What a probe's result changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unchanged,
    BecameHealthy,
    /// With the last failure's reason.
    BecameUnhealthy(String),
}

impl Judge {
    pub(crate) fn new(spec: &HealthSpec, started_at: Timestamp) -> Self {
        let (retries, start_period) = (spec.retries.max(1), spec.start_period.0);
        Self { retries, start_period, started_at, failures: 0, healthy: false }
    }

    pub(crate) fn hear(&mut self, at: Timestamp, result: Result<(), String>) -> Verdict {
        match result {
            Ok(()) => {
                self.failures = 0;
                if std::mem::replace(&mut self.healthy, true) { Verdict::Unchanged } else { Verdict::BecameHealthy }
            }
            Err(_) if !self.healthy && at.since(self.started_at) < self.start_period => Verdict::Unchanged,
            Err(reason) => {
                self.failures += 1;
                if self.failures < self.retries {
                    return Verdict::Unchanged;
                }
                self.failures = 0;
                self.healthy = false;
                let times = self.retries;
                Verdict::BecameUnhealthy(if times == 1 { reason } else { format!("{reason} ({times} times in a row)") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use coppice_base::DurationText;
    use coppice_spec::HealthProbe;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn judge(retries: u32, start_period_ms: u64) -> Judge {
        let spec = HealthSpec {
            probe: HealthProbe::Tcp { port: 1 },
            interval: HealthSpec::DEFAULT_INTERVAL,
            timeout: HealthSpec::DEFAULT_TIMEOUT,
            retries,
            start_period: DurationText(Duration::from_millis(start_period_ms)),
        };
        Judge::new(&spec, Timestamp(1000))
    }

    #[test]
    fn one_success_makes_healthy_and_retries_failures_in_a_row_make_unhealthy() {
        let mut judge = judge(3, 0);
        let no = || Err("no".to_owned());
        assert_eq!(judge.hear(Timestamp(1000), Ok(())), Verdict::BecameHealthy);
        assert_eq!(judge.hear(Timestamp(1001), no()), Verdict::Unchanged);
        assert_eq!(judge.hear(Timestamp(1002), no()), Verdict::Unchanged);
        assert_eq!(judge.hear(Timestamp(1003), Ok(())), Verdict::Unchanged);
        assert_eq!(judge.hear(Timestamp(1004), no()), Verdict::Unchanged);
        assert_eq!(judge.hear(Timestamp(1005), no()), Verdict::Unchanged);
        assert!(matches!(judge.hear(Timestamp(1006), no()), Verdict::BecameUnhealthy(why) if why.contains("3 times")));
        assert_eq!(judge.hear(Timestamp(1007), Ok(())), Verdict::BecameHealthy);
    }

    #[test]
    fn failures_within_the_start_period_do_not_count() {
        let mut judge = judge(1, 500);
        assert_eq!(judge.hear(Timestamp(1499), Err("no".into())), Verdict::Unchanged);
        assert!(matches!(judge.hear(Timestamp(1500), Err("no".into())), Verdict::BecameUnhealthy(_)));
    }

    #[test]
    fn grpc_messages_are_the_protocols() {
        assert_eq!(grpc_question(""), [0, 0, 0, 0, 0]);
        assert_eq!(grpc_question("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(grpc_question(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        assert_eq!(grpc_verdict(&[0, 0, 0, 0, 2, 8, 1]), Ok(()));
        assert!(grpc_verdict(&[0, 0, 0, 0, 2, 8, 2]).unwrap_err().contains("NOT_SERVING"));
        assert!(grpc_verdict(&[0, 0, 0, 0, 9, 8, 1]).is_err());
        assert!(grpc_verdict(&[]).is_err());
    }

    async fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        port
    }

    #[tokio::test]
    async fn http_takes_2xx_and_names_the_rest() {
        let ok = answering("HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(http(HERE, ok, "/health").await, Ok(()));
        let bad = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        assert!(http(HERE, bad, "/health").await.unwrap_err().contains("503"));
        let garbage = answering("not http at all\r\n\r\n").await;
        assert!(http(HERE, garbage, "/").await.is_err());
    }

    #[tokio::test]
    async fn tcp_wants_a_listener() {
        let listener = TcpListener::bind((HERE, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(tcp(HERE, port).await, Ok(()));
        drop(listener);
        assert!(tcp(HERE, port).await.unwrap_err().contains(&port.to_string()));
    }
}
