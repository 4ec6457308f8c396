//! The hosts file of a container: how it knows others by name.
//!
//! It is bind-mounted, so it is changed in place, and programs read it at any moment (nginx, once, as it starts). So it is
//! never cut short first: one write puts the new text over the old, and what is left of a longer old text becomes empty
//! lines. A text that has not changed is not written.

use std::fs::File;
use std::io::{self, Read};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;
use std::path::Path;

use coppice_network::Subnet6;

use crate::container::Record;
use crate::network::Names;

/// What it says: the container itself, the names it is given, and those its spec adds; for containers' addresses, the
/// IPv6 ones that belong to them too.
pub(crate) fn text(
    record: &Record,
    hostname: &str,
    address: Option<Ipv4Addr>,
    names: &Names,
    subnet6: Option<Subnet6>,
) -> String {
    let mut text = String::from("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n");
    let mut both = |address: &Ipv4Addr, name: &str| {
        text.push_str(&format!("{address}\t{name}\n"));
        if let Some(subnet6) = subnet6 {
            text.push_str(&format!("{}\t{name}\n", subnet6.address(*address)));
        }
    };
    if let Some(address) = address {
        both(&address, hostname);
    }
    for (name, addresses) in names {
        addresses.iter().for_each(|address| both(address, name));
    }
    if address.is_none() {
        text.push_str(&format!("127.0.1.1\t{hostname}\n"));
    }
    for (name, address) in &record.spec.workload.extra_hosts {
        text.push_str(&format!("{address}\t{name}\n"));
    }
    text
}

/// Puts `text` in the place of what a running container's file says.
pub(crate) fn rewrite(path: &Path, text: &str) -> io::Result<()> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let mut before = String::new();
    file.read_to_string(&mut before)?;
    if before.trim_end_matches('\n') == text.trim_end_matches('\n') {
        return Ok(());
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(bytes.len().max(before.len()), b'\n');
    file.write_all_at(&bytes, 0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_rewritten_file_says_the_new_text_and_nothing_of_a_longer_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        std::fs::write(&path, "10.0.0.2\tweb\n10.0.0.3\tdb\n").unwrap();
        for text in ["10.0.0.4\tweb\n", "10.0.0.4\tweb\n10.0.0.5\tdb\n10.0.0.6\tcache\n", "10.0.0.7\tx\n"] {
            rewrite(&path, text).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap().trim_end(), text.trim_end());
        }
        assert!(rewrite(&dir.path().join("none"), "x").is_err());
    }

    #[test]
    fn whoever_reads_while_it_is_rewritten_never_misses_a_name_that_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        let with = |others: usize| {
            let others: String = (0..others).map(|n| format!("10.0.1.{n}\tother-{n}\n")).collect();
            format!("10.0.0.2\tweb\n{others}10.0.0.3\tlast\n")
        };
        std::fs::write(&path, with(3)).unwrap();
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let reading = scope.spawn(|| {
                let mut reads = 0;
                while !done.load(Ordering::Relaxed) {
                    let text = std::fs::read_to_string(&path).unwrap();
                    assert!(text.starts_with("10.0.0.2\tweb\n"), "after {reads} reads: {text:?}");
                    reads += 1;
                }
                reads
            });
            for round in 0..5000 {
                rewrite(&path, &with(round % 9)).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            assert!(reading.join().unwrap() > 100);
        });
    }
}
