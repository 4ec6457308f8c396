//! Switches of the kernel that a bridge needs, under `/proc/sys/net` of the caller's network namespace.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::Word;
use crate::address::LinkName;
use crate::error::NetworkError;

/// Whether bridged frames pass IP's hooks (br_netfilter), for all bridges of the network namespace this was opened in.
#[derive(Debug)]
pub(crate) struct Hooks(Vec<File>);

impl Hooks {
    pub(crate) fn open() -> Self {
        let path = |family| format!("/proc/sys/net/bridge/bridge-nf-call-{family}");
        Self(["iptables", "ip6tables"].iter().filter_map(|family| File::open(path(family)).ok()).collect())
    }

    /// Now. The module that makes it so may have been loaded since.
    pub(crate) fn are_on(&mut self) -> bool {
        if self.0.is_empty() {
            *self = Self::open();
        }
        self.0.iter().any(|file| {
            let mut value = [b'0'];
            file.read_at(&mut value, 0).is_ok() && value != *b"0"
        })
    }
}

/// Loopback routing on the bridge alone, so that ports published on 127.0.0.1 work; no word of shorter ways, no advice
/// of routers taken from containers; forwarding for the machine.
pub(crate) fn prepare(bridge: &LinkName, ipv6: bool) -> Result<Vec<Word>, NetworkError> {
    let mut words = Vec::new();
    set(&format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet"), "1")?;
    set(&format!("/proc/sys/net/ipv4/conf/{bridge}/send_redirects"), "0")?;
    set(&format!("/proc/sys/net/ipv4/conf/{bridge}/accept_redirects"), "0")?;
    // The kernel sends them on a link when either is set; they would also use up its allowance of errors per receiver.
    if set("/proc/sys/net/ipv4/conf/all/send_redirects", "0")? {
        words.push(Word(
            "net.ipv4.conf.all.send_redirects was on and is off now, since containers reach each other through this machine \
             only; every other link goes by its own setting."
                .to_owned(),
        ));
    }
    if set("/proc/sys/net/ipv4/ip_forward", "1")? {
        words.push(Word(
            "IP forwarding (net.ipv4.ip_forward) was off and is on now: containers need it to reach and be reached."
                .to_owned(),
        ));
    }
    if !ipv6 {
        return Ok(words);
    }
    set(&format!("/proc/sys/net/ipv6/conf/{bridge}/accept_ra"), "0")?;
    set(&format!("/proc/sys/net/ipv6/conf/{bridge}/accept_redirects"), "0")?;
    const FORWARDING: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
    if is(FORWARDING, "1")? {
        return Ok(words);
    }
    // A machine that forwards takes no router's advertisements, unless told to: it would lose its own default route.
    let kept = keep_advertisements()?;
    set(FORWARDING, "1")?;
    let mut text =
        "IPv6 forwarding (net.ipv6.conf.all.forwarding) was off and is on now: containers need it to reach and be reached."
            .to_owned();
    if !kept.is_empty() {
        text.push_str(&format!(
            " So that this machine goes on to take router advertisements, accept_ra is 2 now on {}.",
            kept.join(", ")
        ));
    }
    words.push(Word(text));
    Ok(words)
}

/// Sets `accept_ra` from 1 to 2 on every link; their names.
fn keep_advertisements() -> Result<Vec<String>, NetworkError> {
    const LINKS: &str = "/proc/sys/net/ipv6/conf";
    let failed = |error| cannot(LINKS, &error);
    let mut kept = Vec::new();
    for entry in std::fs::read_dir(LINKS).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        let path = format!("{LINKS}/{name}/accept_ra");
        let forwards = format!("{LINKS}/{name}/forwarding");
        // One that is gone meanwhile has none.
        if ["all", "default", "lo"].contains(&name.as_str()) || !is(&path, "1").unwrap_or(false) || is(&forwards, "1")?
        {
            continue;
        }
        set(&path, "2")?;
        kept.push(name);
    }
    kept.sort();
    Ok(kept)
}

fn cannot(path: &str, error: &std::io::Error) -> NetworkError {
    NetworkError::Sysctl { path: path.to_owned(), errno: Errno::from_io_error(error).unwrap_or(Errno::IO) }
}

fn is(path: &str, value: &str) -> Result<bool, NetworkError> {
    Ok(std::fs::read_to_string(path).map_err(|error| cannot(path, &error))?.trim() == value)
}

/// True when it was another.
fn set(path: &str, value: &str) -> Result<bool, NetworkError> {
    if is(path, value)? {
        return Ok(false);
    }
    std::fs::write(path, value).map_err(|error| cannot(path, &error))?;
    Ok(true)
}
