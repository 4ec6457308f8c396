//! What a backup's file holds against: damage, cuts, other keys, forgery.

use std::io::{Cursor, Write};

use coppice_backup::{Backup, OpenError, Writer};
use coppice_secret::Key;

fn written(key: Option<&Key>, content: &[u8]) -> Vec<u8> {
    let mut writer = Writer::begin(Vec::new(), key.cloned(), 1_795_000_000_000).unwrap();
    writer.write_all(content).unwrap();
    writer.finish().unwrap()
}

fn read(file: &[u8], key: Option<&Key>) -> Result<Vec<u8>, OpenError> {
    let mut content = Vec::new();
    Backup::open(Cursor::new(file))?.unseal(key, &mut content)?;
    Ok(content)
}

/// Some chunks and a bit, none like the other.
fn content() -> Vec<u8> {
    (0..(5usize << 19) + 77).map(|at| (at / 4096) as u8 ^ at as u8).collect()
}

#[test]
fn what_was_written_is_read_sealed_or_not_whatever_its_length() {
    let key = Key::generate();
    for length in [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, content().len()] {
        let content = &content()[..length];
        assert_eq!(read(&written(None, content), None).unwrap(), content);
        let sealed = written(Some(&key), content);
        assert_eq!(read(&sealed, Some(&key)).unwrap(), content);
        let seen = |part: &[u8]| sealed.windows(part.len()).any(|window| window == part);
        assert!(length < 64 || !seen(&content[..64]), "it can be read without the key");
    }
}

#[test]
fn damage_in_any_sixteenth_and_a_cut_at_any_is_found_before_anything_is_used() {
    let key = Key::generate();
    for key in [None, Some(&key)] {
        let good = written(key, &content());
        for part in 0..16 {
            let at = good.len() * part / 16 + 3;
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            let error = read(&bad, key).expect_err("damage was not seen");
            assert!(
                matches!(error, OpenError::Damaged | OpenError::NotOne | OpenError::Version { .. }),
                "{at}: {error}"
            );
            assert!(read(&good[..at], key).is_err(), "a cut at {at} was not seen");
        }
        let longer = [&good[..], b"x"].concat();
        assert!(matches!(read(&longer, key), Err(OpenError::Damaged)));
    }
}

#[test]
fn another_key_and_none_are_told_by_their_ids() {
    let (key, other) = (Key::generate(), Key::generate());
    let sealed = written(Some(&key), b"content");
    assert!(matches!(read(&sealed, None), Err(OpenError::NoKey { id }) if id == key.id()));
    assert!(matches!(read(&sealed, Some(&other)), Err(OpenError::OtherKey { wanted, .. }) if wanted == key.id()));
}

/// A file with these chunks and a right digest, as somebody without the key could make it.
fn put_together(header: &[u8], chunks: &[&[u8]]) -> Vec<u8> {
    use sha2::Digest;
    let mut file = header.to_vec();
    for chunk in chunks {
        file.extend_from_slice(&u32::try_from(chunk.len()).unwrap().to_be_bytes());
        file.extend_from_slice(chunk);
    }
    file.extend_from_slice(&[0; 4]);
    let digest = sha2::Sha256::digest(&file);
    file.extend_from_slice(&digest);
    file
}

fn taken_apart(file: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let lines: Vec<usize> = file.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    let mut at = lines[1] + 1;
    let header = file[..at].to_vec();
    let mut chunks = Vec::new();
    loop {
        let length = u32::from_be_bytes(file[at..at + 4].try_into().unwrap()) as usize;
        at += 4;
        if length == 0 {
            return (header, chunks);
        }
        chunks.push(file[at..at + length].to_vec());
        at += length;
    }
}

#[test]
fn chunks_left_out_swapped_doubled_or_of_another_backup_do_not_open() {
    let key = Key::generate();
    let (header, chunks) = taken_apart(&written(Some(&key), &content()));
    let [first, second, last] = &chunks[..] else { panic!("{} chunks", chunks.len()) };
    let (_, others) = taken_apart(&{
        let mut writer = Writer::begin(Vec::new(), Some(key.clone()), 5).unwrap();
        writer.write_all(&content()).unwrap();
        writer.finish().unwrap()
    });
    assert_eq!(read(&put_together(&header, &[first, second, last]), Some(&key)).unwrap(), content());
    for forged in [
        vec![first, last],
        vec![second, first, last],
        vec![first, first, second, last],
        vec![first, second],
        vec![first, second, last, last],
        vec![&others[0], second, last],
        vec![],
    ] {
        let forged: Vec<&[u8]> = forged.into_iter().map(Vec::as_slice).collect();
        let error = read(&put_together(&header, &forged), Some(&key)).expect_err("a forgery was opened");
        assert!(matches!(error, OpenError::Forged), "{error}");
    }
}

#[test]
fn a_later_version_and_what_is_no_backup_are_told() {
    let later =
        String::from_utf8_lossy(&written(None, b"x")).replacen("\"version\":1", "\"version\":2", 1).into_bytes();
    assert!(matches!(read(&later, None), Err(OpenError::Version { found: 2 })));
    assert!(matches!(read(b"", None), Err(OpenError::NotOne)));
    assert!(matches!(read(b"coppice-backup-1\n", None), Err(OpenError::Damaged)));
}
