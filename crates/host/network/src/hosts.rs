//! Texts of `/etc/hosts` and `/etc/resolv.conf` for a container. Pure.

use std::fmt::Write;
use std::net::IpAddr;

/// Name servers when the host's are all its own loopback ones, which a container cannot reach: those docker falls
/// back to.
const FALLBACK_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// `/etc/hosts`: loopback names, the container's own names at its own address (loopback without one), and others'.
/// Names and addresses that could break a line (spaces, newlines) are left out.
pub fn hosts_file(own_names: &[&str], ip: Option<IpAddr>, others: &[(String, IpAddr)]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n",
    );
    let clean = |name: &str| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '#' || c == '\0');
    let own: Vec<&str> = own_names.iter().copied().filter(|name| clean(name)).collect();
    if !own.is_empty() {
        let ip = ip.unwrap_or(IpAddr::from([127, 0, 1, 1]));
        let _ = writeln!(text, "{ip}\t{}", own.join(" ")); // writing to a String cannot fail
    }
    for (name, ip) in others.iter().filter(|(name, _)| clean(name)) {
        let _ = writeln!(text, "{ip}\t{name}");
    }
    text
}

/// `/etc/resolv.conf` from the host's: loopback name servers are removed, search domains and options kept; with no
/// server left, public ones are used. Where systemd-resolved serves the host, its real servers are in
/// `/run/systemd/resolve/resolv.conf`: give that file's text. `own`: a server that comes before those, and domains that
/// are searched before the host's.
pub fn resolv_conf(host_text: &str, own: Option<(IpAddr, &str)>) -> String {
    let mut text = String::new();
    let mut servers = 0;
    let mut domains = String::new();
    if let Some((server, search)) = own {
        let _ = writeln!(text, "nameserver {server}"); // writing to a String cannot fail
        domains.push_str(search);
    }
    for line in host_text.lines() {
        let line = line.trim();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => {
                let address = words.next().unwrap_or("");
                let bare = address.split('%').next().unwrap_or("");
                // A zone (`%eth0`) names a link of the host.
                if bare != address || !bare.parse::<IpAddr>().is_ok_and(|ip| !ip.is_loopback() && !ip.is_unspecified())
                {
                    continue;
                }
                let _ = writeln!(text, "nameserver {address}");
                servers += 1;
            }
            // Of several such lines a resolver reads the last: ours and the host's must be one.
            Some("search" | "domain") if own.is_some() => {
                for domain in words {
                    let _ = write!(domains, " {domain}");
                }
            }
            Some("search" | "domain" | "options" | "sortlist") => {
                let _ = writeln!(text, "{line}");
            }
            _ => {}
        }
    }
    if servers == 0 {
        for server in FALLBACK_SERVERS {
            let _ = writeln!(text, "nameserver {server}");
        }
    }
    if !domains.is_empty() {
        let _ = writeln!(text, "search {domains}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_finds_itself_and_its_neighbours() {
        let ip = IpAddr::from([10, 88, 0, 5]);
        let text = hosts_file(&["web-1", "web"], Some(ip), &[("db".into(), IpAddr::from([10, 88, 0, 6]))]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.88.0.5\tweb-1 web\n10.88.0.6\tdb\n"), "{text}");
    }

    #[test]
    fn a_name_cannot_add_lines_to_the_hosts_file() {
        let evil = ("x\n6.6.6.6 db".to_owned(), IpAddr::from([1, 1, 1, 1]));
        let text = hosts_file(&["a b", ""], None, &[evil]);
        assert_eq!(text.lines().count(), 4, "{text}");
    }

    #[test]
    fn loopback_name_servers_are_replaced_and_the_rest_kept() {
        let text = resolv_conf(
            "# made by x\nnameserver 127.0.0.53\nnameserver ::1\nnameserver fe80::1%eth0\nsearch a.example b\noptions ndots:2\nbogus\n",
            None,
        );
        assert_eq!(text, "search a.example b\noptions ndots:2\nnameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(resolv_conf("nameserver 192.0.2.1\nnameserver 127.0.0.1", None), "nameserver 192.0.2.1\n");
        assert_eq!(resolv_conf("", None), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn our_own_name_server_and_domains_come_before_the_hosts() {
        let own = (IpAddr::from([10, 88, 0, 1]), "shop.coppice.internal coppice.internal");
        assert_eq!(
            resolv_conf("nameserver 192.0.2.1\nsearch a.example\noptions ndots:2\n", Some(own)),
            "nameserver 10.88.0.1\nnameserver 192.0.2.1\noptions ndots:2\n\
             search shop.coppice.internal coppice.internal a.example\n"
        );
    }
}
