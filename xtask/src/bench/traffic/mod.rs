//! Traffic: the proxy beside nginx and haproxy, the name server beside dnsmasq, a service's address beside none.
//!
//! All is on the loopback of the benchmark's own network namespace: load, contender and backend share the machine's
//! processors, and only the contender that is measured has anything to do. Every proxy is set up as its manual has it for
//! this task, keeps its connections to the backend, writes no log, and may use two threads; where a default of a peer
//! would only slow it here (spooling to disk, few requests a connection), it is turned off.

mod body;
mod idle;
mod kernel;
mod l4;
mod questions;
mod requests;
mod secure;
mod servers;

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::figures::Report;
use super::processes::Service;
use super::{Plan, turns};
use crate::release::example;
use crate::{shell, workspace};

use servers::Contender;

/// Measures one part.
type Measure = fn(&Ground, &Plan, &mut Report) -> Result<()>;

/// The parts, by name.
pub(super) const PARTS: &[(&str, Measure)] = &[
    ("proxy", requests::measure),
    ("tls", secure::measure),
    ("body", body::measure),
    ("dns", questions::measure),
    ("dns-kernel", kernel::measure),
    ("idle-connections", idle::measure),
    ("l4", l4::measure),
];

/// Builds what is measured, linked as the product is.
pub(super) fn build() -> Result<()> {
    for (package, name) in
        [("coppice-proxy", "proxy"), ("coppice-dns", "serve"), ("coppice-bpf", "l4"), ("coppice-bpf", "names")]
    {
        example(package, name)?;
    }
    Ok(())
}

/// The prepared place: certificates, files, and the backend that all proxies have.
pub(super) struct Ground {
    /// Below the target folder; emptied at the start of each run.
    folder: PathBuf,
    examples: PathBuf,
    _backend: Service,
}

/// Bytes of the file `/large` of the backend.
const LARGE: u64 = 1 << 30;

impl Ground {
    /// To be called within the benchmark's namespaces.
    pub(super) fn prepare() -> Result<Self> {
        let target = workspace::Metadata::read(&workspace::root())?.target_directory;
        let folder = target.join("bench-traffic");
        if folder.exists() {
            fs::remove_dir_all(&folder).with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(folder.join("files"))?;
        shell::output(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        // Sparse: the backend sends zeros from the page cache, so that no disk is measured.
        fs::File::create(folder.join("files/large"))?.set_len(LARGE)?;
        let mut certify = Command::new("openssl");
        certify.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]);
        certify.args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-days", "30"]);
        shell::output(certify.arg("-keyout").arg(folder.join("key.pem")).arg("-out").arg(folder.join("cert.pem")))?;
        let both = [fs::read(folder.join("cert.pem"))?, fs::read(folder.join("key.pem"))?].concat();
        fs::write(folder.join("both.pem"), both)?;
        let backend = servers::backend(&folder)?;
        Ok(Self { examples: target.join("release/examples"), folder, _backend: backend })
    }
}

/// Those of the contenders that answer; the others are skipped with their word.
fn ready(figure: &str, contenders: Vec<(&str, Result<Contender>)>, report: &mut Report) -> Vec<Contender> {
    let mut ready = Vec::new();
    for (name, contender) in contenders {
        match contender {
            Ok(contender) => ready.push(contender),
            Err(error) => report.skip(format!("{name} ({figure})"), format!("{error:#}")),
        }
    }
    ready
}

/// One figure of one contender, over the rounds.
type Samples = Vec<Vec<f64>>;

/// Has each contender measured in each round, and once before for nothing. `once` gives as many figures each time.
fn take_turns<const FIGURES: usize>(
    contenders: &[Contender],
    rounds: usize,
    mut once: impl FnMut(&Contender) -> Result<[f64; FIGURES]>,
) -> Result<[Samples; FIGURES]> {
    let mut samples = std::array::from_fn(|_| vec![Vec::new(); contenders.len()]);
    for round in 0..=rounds {
        for place in turns(round, contenders.len()) {
            let contender = &contenders[place];
            let figures = once(contender).with_context(|| format!("{} in round {round}", contender.name))?;
            // The first fills caches, pools and the branch predictor.
            for (samples, figure) in samples.iter_mut().zip(figures).filter(|_| round > 0) {
                samples[place].push(figure);
            }
        }
    }
    Ok(samples)
}

/// What `work` costs the contender, in seconds of processor time, and what it gives.
fn costed<T>(contender: &Contender, work: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let processes = contender.service.processes();
    let before = processes.processor_s()?;
    let done = work()?;
    Ok((processes.processor_s()? - before, done))
}
