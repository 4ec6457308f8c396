//! Watching over one run of one container: its health, and its end, told to its supervisor in order.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use coppice_api::HealthState;
use coppice_launcher::protocol::Exit;
use coppice_spec::{HealthProbe, HealthSpec, NetworkMode};
use coppice_supervise::{Event, ExitReason};

use crate::attach;
use crate::container::{Container, Phase};
use crate::containers::Containers;
use crate::epmd;
use crate::health::{self, Judge, Verdict};
use crate::supervisor::Supervisor;

/// Who hears what becomes of a run.
pub(crate) trait Hearer: Send + Sync {
    /// Before the same is told, so that routes are there when dependents start.
    fn changed(&self, ready: bool) -> impl Future<Output = ()> + Send;
    fn tell(&self, event: Event<String>);
}

/// Nobody's routes depend on it.
impl Hearer for Supervisor {
    async fn changed(&self, _: bool) {}

    fn tell(&self, event: Event<String>) {
        Supervisor::tell(self, event);
    }
}

/// Tells `hearer` what becomes of a run of `container` that has begun: ready, unhealthy, and in the end exited.
pub(crate) async fn watch_over(
    containers: &Arc<Containers>,
    container: &Arc<Container>,
    key: &str,
    known_ready: bool,
    hearer: &impl Hearer,
) {
    let health = container.read(|record| record.spec.health.clone());
    container.set_health(match (&health, known_ready) {
        (None, _) => HealthState::None,
        (Some(_), true) => HealthState::Healthy,
        (Some(_), false) => HealthState::Starting,
    });
    if health.is_none() || known_ready {
        hearer.changed(true).await;
    }
    let checking = async {
        match health {
            Some(spec) => check(containers, container, key, &spec, hearer).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = checking => {}
        _ = container.ended() => {}
    }
    let exit = container.ended().await;
    hearer.changed(false).await;
    hearer.tell(Event::Exited(key.to_owned(), reason(exit, &container.phase())));
}

/// A supervisor's word for how it ended.
pub(crate) fn reason(exit: Option<Exit>, phase: &Phase) -> ExitReason {
    match (exit, phase) {
        (None, _) | (_, Phase::Exited { lost: true, .. }) => ExitReason::Lost,
        (Some(Exit { oom: true, .. }), _) => ExitReason::OutOfMemory,
        (Some(Exit { signal: Some(signal), .. }), _) => ExitReason::Signal(signal),
        (Some(exit), _) => ExitReason::Code(i32::from(exit.code)),
    }
}

/// Probes at the spec's interval for as long as it is polled.
async fn check(
    containers: &Arc<Containers>,
    container: &Arc<Container>,
    key: &str,
    spec: &HealthSpec,
    hearer: &impl Hearer,
) {
    let started_at = match container.phase() {
        Phase::Running { started_at, .. } => started_at,
        _ => containers.clock.now(),
    };
    let mut judge = Judge::new(spec, started_at);
    loop {
        let result = match tokio::time::timeout(spec.timeout.0, probe(containers, container, spec)).await {
            Ok(result) => result,
            Err(_) => Err(format!("no answer within {}", spec.timeout)),
        };
        let paused = matches!(container.phase(), Phase::Running { paused: true, .. });
        let verdict = if paused { Verdict::Unchanged } else { judge.hear(containers.clock.now(), result) };
        match verdict {
            Verdict::Unchanged => {}
            Verdict::BecameHealthy => {
                container.set_health(HealthState::Healthy);
                containers.tell(container, "healthy", String::new());
                hearer.changed(true).await;
                hearer.tell(Event::Ready(key.to_owned()));
            }
            Verdict::BecameUnhealthy(why) => {
                container.set_health(HealthState::Unhealthy);
                containers.tell(container, "unhealthy", why.clone());
                hearer.changed(false).await;
                hearer.tell(Event::Unhealthy(key.to_owned(), why));
            }
        }
        // Until the first success a quick start should not wait a whole interval to be seen.
        let pause = match container.health() {
            HealthState::Starting => spec.interval.0.min(FIRST_CHECKS),
            _ => spec.interval.0,
        };
        tokio::time::sleep(pause).await;
    }
}

/// Pause between probes while an instance has not been healthy yet.
const FIRST_CHECKS: std::time::Duration = std::time::Duration::from_millis(500);

async fn probe(containers: &Arc<Containers>, container: &Arc<Container>, spec: &HealthSpec) -> Result<(), String> {
    let address = || -> Result<IpAddr, String> {
        let (address, mode) = container.read(|record| (record.address, record.spec.workload.network));
        match (address, mode) {
            (Some(address), _) => Ok(IpAddr::V4(address)),
            (None, NetworkMode::Host) => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            (None, _) => Err("it has no network to reach it by: use an exec health check".to_owned()),
        }
    };
    match &spec.probe {
        HealthProbe::Http { port, path } => health::http(address()?, *port, path).await,
        HealthProbe::Tcp { port } => health::tcp(address()?, *port).await,
        HealthProbe::Grpc { port, service } => health::grpc(address()?, *port, service).await,
        HealthProbe::Exec { command } => {
            exec(containers, container, command).await.map_err(|why| format!("exec: {why}"))
        }
        HealthProbe::Rpc { expression } => {
            let command = container.read(|record| {
                let beam = record.spec.workload.beam.as_ref();
                beam.and_then(|beam| beam.rpc(expression.as_deref()))
            });
            let command = command.ok_or_else(|| "rpc: it has no release to ask".to_owned())?;
            exec(containers, container, &command).await.map_err(|why| format!("rpc: {why}"))
        }
        HealthProbe::Epmd { node } => epmd::registered(address()?, node).await,
    }
}

async fn exec(containers: &Arc<Containers>, container: &Arc<Container>, command: &[String]) -> Result<(), String> {
    match attach::exec_quietly(containers, container, command).await {
        Ok((exit, _)) if exit.code == 0 => Ok(()),
        Ok((exit, output)) => {
            let said = output.trim();
            Err(if said.is_empty() {
                format!("exited with code {}", exit.code)
            } else {
                format!("exited with code {}: {said}", exit.code)
            })
        }
        Err(error) => Err(error.to_string()),
    }
}
