//! Values of flags: what each may look like, and what is said when it does not.

use std::net::IpAddr;
use std::time::Duration;

use coppice_base::{Bytes, Clock, DurationText, Name, SystemClock, Timestamp};
use coppice_spec::{MountSource, PortSpec, Protocol, RestartPolicy, VolumeMount};

/// Most ports one range may publish.
const PORTS_MAX: usize = 1024;

/// Why a flag's value cannot be used, and what it should look like.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct ValueError(String);

fn wrong<T>(why: impl Into<String>) -> Result<T, ValueError> {
    Err(ValueError(why.into()))
}

/// Ports of one flag: a range is several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ports(pub(crate) Vec<PortSpec>);

/// `None`: take the value from this process's environment, if it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Env(pub(crate) String, pub(crate) Option<String>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Label(pub(crate) String, pub(crate) String);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HostLine(pub(crate) String, pub(crate) IpAddr);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tmpfs(pub(crate) String, pub(crate) Option<Bytes>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nofile(pub(crate) u64);

/// `None`: all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tail(pub(crate) Option<u64>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CommandWords(pub(crate) Vec<String>);

pub(crate) fn name(text: &str) -> Result<Name, ValueError> {
    Name::new(text).map_err(|error| ValueError(error.to_string()))
}

/// `[[ip:]host:]container[/tcp|udp]`; host and container may be ranges of equal length.
pub(crate) fn ports(text: &str) -> Result<Ports, ValueError> {
    const SHAPE: &str = "write [[IP:]HOST:]CONTAINER[/udp], as in 8080:80 or 127.0.0.1:53:53/udp";
    let (text_ports, protocol) = match text.rsplit_once('/') {
        None | Some((_, "tcp")) => (text.strip_suffix("/tcp").unwrap_or(text), Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((_, other)) => return wrong(format!("{other:?} is not a protocol; use tcp or udp")),
    };
    let (rest, container) = match text_ports.rsplit_once(':') {
        Some((rest, container)) => (Some(rest), container),
        None => (None, text_ports),
    };
    let (host_ip, host) = match rest {
        None => (None, None),
        Some(rest) => match rest.rsplit_once(':') {
            None => (None, Some(rest)),
            Some((ip, host)) => (Some(ip), Some(host)),
        },
    };
    let host_ip = match host_ip {
        None | Some("") => None,
        Some(ip) => {
            let bare = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
            match bare.parse::<IpAddr>() {
                Ok(ip) => Some(ip),
                Err(_) => return wrong(format!("{ip:?} is not an address; {SHAPE}")),
            }
        }
    };
    let container = range(container, SHAPE)?;
    let host = match host {
        None | Some("") => vec![0; container.len()],
        Some(host) => range(host, SHAPE)?,
    };
    if host.len() != container.len() {
        return wrong(format!(
            "{} host ports for {} container ports; both ranges must be as long",
            host.len(),
            container.len()
        ));
    }
    let pairs = host.into_iter().zip(container);
    Ok(Ports(pairs.map(|(host, container)| PortSpec { host_ip, host, container, protocol }).collect()))
}

fn range(text: &str, shape: &str) -> Result<Vec<u16>, ValueError> {
    let port = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => wrong(format!("{text:?} is not a port (1 to 65535); {shape}")),
    };
    match text.split_once('-') {
        None => Ok(vec![port(text)?]),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            if first > last {
                return wrong(format!("the range {text} goes backwards; write {last}-{first}"));
            }
            let ports: Vec<u16> = (first..=last).collect();
            if ports.len() > PORTS_MAX {
                return wrong(format!("{} ports in one range; {PORTS_MAX} is the most", ports.len()));
            }
            Ok(ports)
        }
    }
}

/// `[source:]target[:ro|rw]`. A source with a `/` is a path of this machine, made absolute here; else a volume's name.
pub(crate) fn volume(text: &str) -> Result<VolumeMount, ValueError> {
    const SHAPE: &str = "write [SOURCE:]TARGET[:ro], as in data:/var/lib/data or ./site:/srv:ro";
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, options] => (Some(source), target, options),
        _ => return wrong(format!("too many colons; {SHAPE}")),
    };
    if !target.starts_with('/') {
        return wrong(format!("{target:?} is not an absolute path in the container; {SHAPE}"));
    }
    let mut read_only = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            "rw" => read_only = false,
            // SELinux labels: there is nothing to relabel, and compose files carry them everywhere.
            "z" | "Z" => {}
            other => return wrong(format!("{other:?} is not a mount option; use ro or rw")),
        }
    }
    let source = match source {
        None => MountSource::Anonymous,
        Some("") => return wrong(format!("there is nothing before the colon; {SHAPE}")),
        Some(path) if path.contains('/') || path == "." || path == ".." => {
            let path = match path.strip_prefix("~/").zip(std::env::home_dir()) {
                Some((rest, home)) => home.join(rest),
                None => path.into(),
            };
            // Cleaned of "." and "..", lexically except through what exists, as a shell's cd would.
            let absolute = std::fs::canonicalize(&path).or_else(|_| std::path::absolute(&path));
            match absolute.ok().and_then(|path| path.into_os_string().into_string().ok()) {
                Some(path) => MountSource::Host(path),
                None => return wrong("the path is not UTF-8 or the current directory is gone"),
            }
        }
        Some(volume) => match Name::new(volume) {
            Ok(name) => MountSource::Volume(name),
            Err(error) => return wrong(format!("{error}; a path of this machine has a / in it, as in ./{volume}")),
        },
    };
    Ok(VolumeMount { source, target: target.to_owned(), read_only })
}

pub(crate) fn env(text: &str) -> Result<Env, ValueError> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => (text, None),
    };
    if key.is_empty() || key.chars().any(|c| c.is_whitespace() || c == '\0') {
        return wrong(format!("{key:?} is not a variable's name; write KEY=VALUE, or KEY to take this shell's value"));
    }
    Ok(Env(key.to_owned(), value))
}

pub(crate) fn label(text: &str) -> Result<Label, ValueError> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    if key.is_empty() { wrong("a label needs a key; write KEY=VALUE") } else { Ok(Label(key.into(), value.into())) }
}

/// `name:address`; the address may be IPv6, with or without brackets.
pub(crate) fn host(text: &str) -> Result<HostLine, ValueError> {
    const SHAPE: &str = "write NAME:ADDRESS, as in db:10.0.0.5";
    let Some((name, address)) = text.split_once(':').filter(|(name, _)| !name.is_empty()) else {
        return wrong(SHAPE);
    };
    let bare = address.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(address);
    match bare.parse() {
        Ok(ip) => Ok(HostLine(hostname(name)?, ip)),
        Err(_) => wrong(format!("{address:?} is not an address; {SHAPE}")),
    }
}

/// A host name as sethostname(2) and /etc/hosts take it.
pub(crate) fn hostname(text: &str) -> Result<String, ValueError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || text.len() > 63 || text.starts_with('-') || !text.chars().all(fits) {
        return wrong("a host name is 1 to 63 letters, digits, '-', '.' and '_', the first not '-'");
    }
    Ok(text.to_owned())
}

/// `path[:size=64m]`. Other options docker takes (mode, exec…) are refused, not dropped.
pub(crate) fn tmpfs(text: &str) -> Result<Tmpfs, ValueError> {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    let path = absolute(path)?;
    let mut size = None;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some(("size", value)) => match value.parse::<Bytes>() {
                Ok(bytes) => size = Some(bytes),
                Err(error) => return wrong(error.to_string()),
            },
            _ => return wrong(format!("{option:?} is not an option of a tmpfs here; use size=SIZE")),
        }
    }
    Ok(Tmpfs(path, size))
}

pub(crate) fn absolute(text: &str) -> Result<String, ValueError> {
    if text.starts_with('/') {
        Ok(text.to_owned())
    } else {
        wrong(format!("{text:?} is not an absolute path in the container; begin it with /"))
    }
}

/// `nofile=N` or `nofile=N:N`.
pub(crate) fn ulimit(text: &str) -> Result<Nofile, ValueError> {
    let Some(limit) = text.strip_prefix("nofile=") else {
        return wrong("only nofile can be set, as in nofile=65536 (processes: --pids, shared memory: --shm-size)");
    };
    let (soft, hard) = limit.split_once(':').unwrap_or((limit, limit));
    match (soft.parse::<u64>(), hard.parse::<u64>()) {
        (Ok(soft), Ok(hard)) if soft == hard && soft > 0 => Ok(Nofile(soft)),
        (Ok(_), Ok(_)) => wrong("the soft and the hard limit must be the same number above 0, as in nofile=65536"),
        _ => wrong(format!("{limit:?} is not a number, as in nofile=65536")),
    }
}

/// A capability's name without CAP_, upper case. Whether there is such a one the node knows.
pub(crate) fn capability(text: &str) -> Result<String, ValueError> {
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    if bare.is_empty() || !bare.chars().all(|c| c.is_ascii_uppercase() || c == '_') {
        return wrong(format!("{text:?} is not a capability; write it like NET_ADMIN, or ALL"));
    }
    Ok(bare.to_owned())
}

pub(crate) fn restart(text: &str) -> Result<RestartPolicy, ValueError> {
    match text {
        "no" | "never" => Ok(RestartPolicy::Never),
        "on-failure" => Ok(RestartPolicy::OnFailure),
        // A stop by hand is remembered for both, so docker's two words mean the same here.
        "always" | "unless-stopped" => Ok(RestartPolicy::Always),
        _ if text.starts_with("on-failure:") => {
            wrong("a number of tries cannot be given here; use on-failure, or a service's [supervise] in coppice.toml")
        }
        _ => wrong(format!("{text:?} is not a policy; use no, on-failure or always")),
    }
}

/// A signal without SIG, or a number.
pub(crate) fn signal(text: &str) -> Result<String, ValueError> {
    const NAMES: &[&str] = &[
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS", "RTMIN", "RTMAX",
    ];
    let upper = text.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    let number = bare.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let real_time = [("RTMIN+", 30), ("RTMAX-", 30)]
        .iter()
        .any(|(prefix, max)| bare.strip_prefix(prefix).and_then(|n| n.parse::<u8>().ok()).is_some_and(|n| n <= *max));
    if number || real_time || NAMES.contains(&bare) {
        Ok(bare.to_owned())
    } else {
        wrong(format!("{text:?} is not a signal; write a name like TERM or a number from 1 to 64"))
    }
}

pub(crate) fn duration(text: &str) -> Result<Duration, ValueError> {
    text.parse::<DurationText>().map(|duration| duration.0).map_err(|error| ValueError(error.to_string()))
}

/// A bare number is seconds, as docker's `stop -t 5`.
pub(crate) fn seconds_or_duration(text: &str) -> Result<Duration, ValueError> {
    match text.parse::<u32>() {
        Ok(seconds) => Ok(Duration::from_secs(seconds.into())),
        Err(_) => duration(text),
    }
}

/// A moment: RFC 3339, a date, seconds since 1970, or a duration before now.
pub(crate) fn moment(text: &str) -> Result<Timestamp, ValueError> {
    moment_before(text, SystemClock.now())
}

fn moment_before(text: &str, now: Timestamp) -> Result<Timestamp, ValueError> {
    if let Ok(ago) = text.parse::<DurationText>() {
        return Ok(Timestamp(now.0.saturating_sub(u64::try_from(ago.0.as_millis()).unwrap_or(u64::MAX))));
    }
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(Timestamp(seconds.saturating_mul(1000)));
    }
    let zoned = text.parse::<jiff::Timestamp>();
    let local = || {
        let zone = jiff::tz::TimeZone::system();
        text.parse::<jiff::civil::DateTime>().and_then(|time| time.to_zoned(zone)).map(|zoned| zoned.timestamp())
    };
    match zoned.or_else(|_| local()).map(|time| u64::try_from(time.as_millisecond())) {
        Ok(Ok(ms)) => Ok(Timestamp(ms)),
        _ => wrong(format!(
            "{text:?} is not a time; write a duration ago, as in 10m, or a moment, as in 2026-01-31T12:00:00Z"
        )),
    }
}

pub(crate) fn tail(text: &str) -> Result<Tail, ValueError> {
    match text.parse::<u64>() {
        Ok(lines) => Ok(Tail(Some(lines))),
        Err(_) if text == "all" => Ok(Tail(None)),
        Err(_) => wrong(format!("{text:?} is not a number of lines; write a number or all")),
    }
}

/// A JSON list of words, or text for the shell.
pub(crate) fn command(text: &str) -> Result<CommandWords, ValueError> {
    if text.trim_start().starts_with('[') {
        return match serde_json::from_str(text) {
            Ok(words) => Ok(CommandWords(words)),
            Err(error) => wrong(format!("it begins like a JSON list of strings but is none: {error}")),
        };
    }
    Ok(CommandWords(if text.is_empty() {
        Vec::new()
    } else {
        vec!["/bin/sh".to_owned(), "-c".to_owned(), text.to_owned()]
    }))
}

/// What `ps --filter` looks at, and what has to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) key: FilterKey,
    pub(crate) value: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterKey {
    Id,
    Name,
    Status,
    Health,
    Ancestor,
    App,
}

pub(crate) fn filter(text: &str) -> Result<Filter, String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE, as in status=exited")?;
    let one_of = |known: &[&str]| match known.contains(&value) {
        true => Ok(()),
        false => Err(format!("{key} is one of {}, not {value:?}", known.join(", "))),
    };
    let key = match key {
        "id" => FilterKey::Id,
        "name" => FilterKey::Name,
        "status" => one_of(&["created", "running", "paused", "exited"]).map(|()| FilterKey::Status)?,
        "health" => one_of(&["none", "starting", "healthy", "unhealthy"]).map(|()| FilterKey::Health)?,
        "ancestor" => FilterKey::Ancestor,
        "app" => FilterKey::App,
        other => return Err(format!("there is no filter {other:?}: use id, name, status, health, ancestor or app")),
    };
    Ok(Filter { key, value: value.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(host_ip: Option<&str>, host: u16, container: u16, protocol: Protocol) -> PortSpec {
        PortSpec { host_ip: host_ip.map(|ip| ip.parse().unwrap()), host, container, protocol }
    }

    #[test]
    fn ports_are_read_as_docker_reads_them() {
        for (text, want) in [
            ("80", vec![port(None, 0, 80, Protocol::Tcp)]),
            ("8080:80", vec![port(None, 8080, 80, Protocol::Tcp)]),
            ("8080:80/tcp", vec![port(None, 8080, 80, Protocol::Tcp)]),
            ("53:53/udp", vec![port(None, 53, 53, Protocol::Udp)]),
            ("127.0.0.1:8080:80", vec![port(Some("127.0.0.1"), 8080, 80, Protocol::Tcp)]),
            ("127.0.0.1::80", vec![port(Some("127.0.0.1"), 0, 80, Protocol::Tcp)]),
            ("[::1]:8080:80", vec![port(Some("::1"), 8080, 80, Protocol::Tcp)]),
            ("8000-8001:80-81", vec![port(None, 8000, 80, Protocol::Tcp), port(None, 8001, 81, Protocol::Tcp)]),
        ] {
            assert_eq!(ports(text).unwrap().0, want, "{text}");
        }
    }

    #[test]
    fn wrong_ports_say_what_a_port_looks_like() {
        for (text, word) in [
            ("", "not a port"),
            ("0", "not a port"),
            ("web:80", "not a port"),
            ("70000:80", "1 to 65535"),
            ("80:80/sctp", "use tcp or udp"),
            ("nohost:80:80", "not an address"),
            ("80-82:80-81", "as long"),
            ("82-80:80-82", "write 80-82"),
            ("1-2000:1-2000", "is the most"),
        ] {
            let error = ports(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn volumes_are_names_paths_or_nothing() {
        let read = |text: &str| volume(text).unwrap();
        assert_eq!(read("/data").source, MountSource::Anonymous);
        assert_eq!(read("data:/data").source, MountSource::Volume(Name::new("data").unwrap()));
        assert_eq!(read("/etc:/x:ro").source, MountSource::Host("/etc".into()));
        assert!(read("/etc:/x:ro").read_only);
        assert!(!read("data:/data:rw,Z").read_only);
        let cwd = std::env::current_dir().unwrap();
        assert_eq!(read("./nowhere:/x").source, MountSource::Host(cwd.join("nowhere").to_str().unwrap().into()));
        assert_eq!(read(".:/x").source, MountSource::Host(cwd.to_str().unwrap().into()));
        for (text, word) in [
            ("data:data", "absolute"),
            ("data:/x:rx", "use ro or rw"),
            (":/x", "nothing before"),
            ("a:/b:ro:x", "too many"),
            ("Data:/x", "./Data"),
        ] {
            let error = volume(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn environment_needs_a_name() {
        assert_eq!(env("A=b=c").unwrap(), Env("A".into(), Some("b=c".into())));
        assert_eq!(env("A=").unwrap(), Env("A".into(), Some(String::new())));
        assert_eq!(env("A").unwrap(), Env("A".into(), None));
        assert!(env("=x").is_err());
        assert!(env("A B=x").unwrap_err().to_string().contains("KEY=VALUE"));
    }

    #[test]
    fn signals_have_one_spelling_inside() {
        assert_eq!(signal("sigterm").unwrap(), "TERM");
        assert_eq!(signal("9").unwrap(), "9");
        assert_eq!(signal("RTMIN+3").unwrap(), "RTMIN+3");
        for bad in ["", "0", "65", "TERMINATE", "RTMIN+99"] {
            assert!(signal(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_durations_ago_or_dates() {
        let now = Timestamp(1_000_000_000);
        let read = |text: &str| moment_before(text, now).unwrap().0;
        assert_eq!(read("10m"), 1_000_000_000 - 600_000);
        assert_eq!(read("1700000000"), 1_700_000_000_000);
        assert_eq!(read("2023-11-14T22:13:20Z"), 1_700_000_000_000);
        assert_eq!(read("2023-11-14T23:13:20+01:00"), 1_700_000_000_000);
        assert!(moment_before("yesterday", now).unwrap_err().to_string().contains("10m"));
    }

    #[test]
    fn the_rest_say_what_they_take() {
        assert_eq!(host("db:10.0.0.5").unwrap(), HostLine("db".into(), "10.0.0.5".parse().unwrap()));
        assert_eq!(host("db:[::1]").unwrap(), HostLine("db".into(), "::1".parse().unwrap()));
        assert!(host("db").is_err() && host("db:x").is_err() && host("d b:1.1.1.1").is_err());
        assert_eq!(tmpfs("/run:size=64m").unwrap(), Tmpfs("/run".into(), Some(Bytes(64 << 20))));
        assert_eq!(tmpfs("/run").unwrap(), Tmpfs("/run".into(), None));
        assert!(tmpfs("/run:mode=1777").unwrap_err().to_string().contains("size=SIZE"));
        assert!(tmpfs("run").is_err());
        assert_eq!(ulimit("nofile=1024:1024").unwrap(), Nofile(1024));
        assert!(ulimit("nofile=1:2").is_err() && ulimit("nproc=5").is_err() && ulimit("nofile=x").is_err());
        assert_eq!(capability("cap_net_admin").unwrap(), "NET_ADMIN");
        assert!(capability("net admin").is_err());
        assert_eq!(restart("unless-stopped").unwrap(), RestartPolicy::Always);
        assert!(restart("on-failure:3").unwrap_err().to_string().contains("supervise"));
        assert_eq!(seconds_or_duration("5").unwrap(), Duration::from_secs(5));
        assert_eq!(seconds_or_duration("1m").unwrap(), Duration::from_secs(60));
        assert_eq!(command("[\"a\",\"b\"]").unwrap().0, ["a", "b"]);
        assert_eq!(command("a b").unwrap().0, ["/bin/sh", "-c", "a b"]);
        assert!(command("[a").is_err());
        assert_eq!(tail("all").unwrap(), Tail(None));
        assert!(tail("some").is_err());
    }
}
