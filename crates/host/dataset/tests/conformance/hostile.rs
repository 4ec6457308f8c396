//! Streams by somebody who wants out of the dataset, with checksums that are right.

use std::fs;
use std::os::unix::fs::symlink;

use coppice_dataset::{DatasetError, StreamError};
use sha2::{Digest, Sha256};

use crate::ground::{Ground, On, named, read, snapshot, stamps};

/// Records, as they are on the wire.
#[derive(Default)]
struct Records(Vec<u8>);

impl Records {
    fn text(mut self, tag: &[u8], texts: &[&[u8]]) -> Self {
        self.0.extend_from_slice(tag);
        for text in texts {
            self.0.extend_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
            self.0.extend_from_slice(text);
        }
        self
    }

    fn numbers(mut self, numbers: &[u64]) -> Self {
        numbers.iter().for_each(|number| self.0.extend_from_slice(&number.to_le_bytes()));
        self
    }

    fn meta(self, mode: u32) -> Self {
        self.attributes(mode, &[])
    }

    fn attributes(mut self, mode: u32, attributes: &[(&str, &str)]) -> Self {
        for number in [mode, 0, 0] {
            self.0.extend_from_slice(&number.to_le_bytes());
        }
        self.0.extend_from_slice(&[0; 24]);
        self.0.extend_from_slice(&u16::try_from(attributes.len()).unwrap().to_le_bytes());
        attributes.iter().fold(self, |all, (name, value)| all.text(b"", &[name.as_bytes(), value.as_bytes()]))
    }

    fn enter(self, name: &str) -> Self {
        self.text(b"D", &[name.as_bytes()])
    }

    fn leave(self) -> Self {
        self.text(b"U", &[]).meta(0o40755)
    }

    fn file(self, name: &str, bytes: &str) -> Self {
        let begun = self.text(b"F", &[name.as_bytes()]).numbers(&[bytes.len() as u64, 0]);
        begun.text(b"R", &[]).numbers(&[0]).text(b"", &[bytes.as_bytes()]).text(b"E", &[]).meta(0o100_644)
    }

    fn link(self, name: &str, target: &str) -> Self {
        self.text(b"S", &[name.as_bytes(), target.as_bytes()]).meta(0o120_777)
    }

    /// A whole stream.
    fn stream(&self, header: &str) -> Vec<u8> {
        let mut stream = b"coppice-volume\n\x01\0\0\0".to_vec();
        for piece in [header.as_bytes()].into_iter().chain(self.0.chunks(1 << 20)) {
            stream.extend_from_slice(&u32::try_from(piece.len()).unwrap().to_le_bytes());
            stream.extend_from_slice(piece);
        }
        stream.extend_from_slice(&[0; 4]);
        let sum = Sha256::digest(&stream);
        stream.extend_from_slice(&sum);
        stream
    }
}

const HEADER: &str =
    r#"{"dataset":"x","snapshot":"r1","id":"0123456789abcdef0123456789abcdef","stamps":{"release":"1"},"base":null}"#;

#[test]
fn a_hostile_stream_is_refused_whatever_it_says_and_reaches_nothing() {
    let ground = Ground::new(On::Btrfs);
    let to = &ground.store;
    let outside = ground.root().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let out = outside.to_str().unwrap();
    let new = Records::default;
    let good = new().file("file", "one").leave();
    to.receive(&named("good"), &mut good.stream(HEADER).as_slice()).unwrap();
    assert_eq!(read(to.head(&named("good")).join("file")), "one");
    let deep = (0..1500).fold(new(), |all, _| all.enter("d"));
    let hostile = [
        ("a path", new().file("../outside/new", "x").leave()),
        ("the parent", new().enter("..").file("new", "x").leave().leave()),
        ("an absolute path", new().file(&format!("{out}/new"), "x").leave()),
        ("no name", new().file("", "x").leave()),
        ("a zero", new().file("a\0b", "x").leave()),
        ("a long name", new().file(&"n".repeat(256), "x").leave()),
        ("through a link", new().link("dir", out).enter("dir").file("new", "x").leave().leave()),
        ("over a link", new().link("secret", &format!("{out}/secret")).file("secret", "x").leave()),
        ("a change through a link", {
            let change = new().link("l", &format!("{out}/secret")).text(b"C", &[b"l"]).numbers(&[1]);
            change.text(b"R", &[]).numbers(&[0]).text(b"", &[b"x"]).text(b"E", &[]).meta(0o644).leave()
        }),
        ("a second name of what did not come", new().text(b"L", &[b"n"]).numbers(&[1]).leave()),
        ("twice the same", new().file("f", "x").file("f", "y").leave()),
        ("a device", new().text(b"P", &[b"sda"]).meta(0o060_666).leave()),
        ("a character device", new().text(b"P", &[b"null"]).meta(0o020_666).leave()),
        ("a size no file has", new().text(b"F", &[b"f"]).numbers(&[1 << 63, 0]).text(b"E", &[]).meta(0o644).leave()),
        ("bytes past the end", {
            let begun = new().text(b"F", &[b"f"]).numbers(&[1, 0]).text(b"R", &[]).numbers(&[u64::MAX >> 1]);
            begun.text(b"", &[b"xx"]).text(b"E", &[]).meta(0o644).leave()
        }),
        ("a stamp of its own", new().text(b"U", &[]).attributes(0o40755, &[("trusted.coppice.release", "99")])),
        ("an id of its own", new().text(b"U", &[]).attributes(0o40755, &[("trusted.coppice-id", "99")])),
        ("without end", deep),
        ("no record", new().text(b"?", &[])),
        ("removed what is not there", new().text(b"X", &[b"nothing"]).leave()),
        ("a length beyond all", Records(vec![b'D', 255, 255, 255, 255])),
        ("more after its end", new().leave().file("f", "x")),
    ];
    for (what, records) in hostile {
        let refused = to.receive(&named("bad"), &mut records.stream(HEADER).as_slice());
        assert!(matches!(refused, Err(DatasetError::Stream { .. })), "{what}: {refused:?}");
        assert!(!to.has(&named("bad")), "{what}");
        assert_eq!((fs::read_dir(&outside).unwrap().count(), read(outside.join("secret"))), (1, "secret".into()));
        assert!(
            fs::read_dir(ground.root())
                .unwrap()
                .flatten()
                .all(|one| !one.file_name().to_string_lossy().starts_with('.'))
        );
    }
    let headers = [
        HEADER.replace("\"r1\"", "\"../r1\""),
        HEADER.replace("release", "re/lease"),
        HEADER.replace("0123456789abcdef", "xyz"),
        HEADER.replace("\"1\"", &format!("\"{}\"", "1".repeat(2000))),
        "[]".to_owned(),
    ];
    for header in headers {
        let refused = to.receive(&named("bad"), &mut good.stream(&header).as_slice());
        assert!(
            matches!(refused, Err(DatasetError::Stream { source: StreamError::Foreign, .. })),
            "{header}: {refused:?}"
        );
    }
}

#[test]
fn a_hostile_difference_reaches_nothing_through_what_is_there() {
    let ground = Ground::new(On::Xfs);
    let to = &ground.store;
    let outside = ground.root().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    // Links that an app made, which is data like any other.
    let (name, head) = ground.dataset("data");
    symlink(&outside, head.join("dir")).unwrap();
    symlink(outside.join("secret"), head.join("leak")).unwrap();
    fs::hard_link(head.join("file"), head.join("same")).unwrap();
    to.snapshot(&name, &snapshot("r0"), &stamps(&[])).unwrap();
    let id = to.inspect(&name).unwrap().snapshots[0].id.clone().unwrap();
    let header = HEADER.replace("null", &format!(r#"{{"snapshot":"r0","id":"{id}"}}"#));
    let change = |name: &str| {
        let begun = Records::default().text(b"C", &[name.as_bytes()]).numbers(&[1]);
        begun.text(b"R", &[]).numbers(&[0]).text(b"", &[b"x"]).text(b"E", &[]).meta(0o644).leave()
    };
    let hostile = [
        Records::default().enter("dir").file("new", "x").leave().leave(),
        Records::default().enter("dir").text(b"X", &[b"secret"]).leave().leave(),
        change("leak"),
        change("same"),
    ];
    for records in hostile {
        to.receive(&name, &mut records.stream(&header).as_slice()).unwrap_err();
        assert_eq!((fs::read_dir(&outside).unwrap().count(), read(outside.join("secret"))), (1, "secret".into()));
    }
    // Taking the link itself away is no harm.
    let removed = Records::default().text(b"X", &[b"dir"]).leave();
    to.receive(&name, &mut removed.stream(&header).as_slice()).unwrap();
    assert_eq!((outside.join("secret").exists(), to.inspect(&name).unwrap().snapshots.len()), (true, 2));
}
