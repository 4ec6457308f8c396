//! `[volume.X]`.

use coppice_spec::{Compression, VolumeSpec};

use crate::diagnostic::{Report, quoted};
use crate::fields::Fields;
use crate::keys::VOLUME;
use crate::mount::host_path;
use crate::parse::Input;
use crate::tree::{Entry, Value};

/// yoq's drivers that this version does not have.
const LATER: &[&str] = &["nfs", "parallel"];

/// One declared volume; `None` when its driver is not to be had (reported).
pub(crate) fn read(entry: &Entry, input: &Input<'_, '_>, report: &mut Report<'_>) -> Option<VolumeSpec> {
    let title = format!("[volume.{}]", entry.key);
    if let Value::Table(keys) = &entry.node.value
        && let Some(driver) = keys.iter().find(|key| matches!(key.key.as_str(), "driver" | "type"))
        && let Value::Text { text, .. } = &driver.node.value
        && LATER.contains(&text.as_str())
    {
        let message = format!("volume driver {} is not available yet in {title}", quoted(text));
        let help = "mount it on the host, then write driver = \"host\" and path = \"/mnt/…\"";
        report.error(&driver.node.span, message, help);
        return None;
    }
    let fields = Fields::open(&entry.node, &VOLUME, title, report)?;
    let driver = fields.choice("driver", report);
    let path = fields.text("path", report);
    fields.text("when", report);
    let labels = fields.pairs("labels", report).into_iter().collect();
    let known = driver.is_some() || !fields.has("driver");
    let driver = driver.map_or("local", |found| found.value);
    let mut host = None;
    match (driver, path) {
        ("host", Some(path)) if path.value.is_empty() => {
            report.error(&path.span, "`path` is empty", "give a directory of the host, as in \"/srv/data\"");
        }
        ("host", Some(path)) => match host_path(&path.value, &input.dir(&path.span, report)) {
            Ok(path) => host = Some(path),
            Err((message, help)) => report.error(&path.span, message, help),
        },
        ("host", None) if !fields.has("path") => {
            let message = format!("{} has driver host and no `path`", fields.title);
            report.error(&entry.key_span, message, "add path = \"/srv/data\", a directory of the host");
        }
        ("local", Some(path)) if known => report.error(
            &path.span,
            format!("`path` has no meaning for a local volume, in {}", fields.title),
            "remove it, or add driver = \"host\" to use that directory",
        ),
        _ => {}
    }
    let compression = fields.choice("compression", report).map(|found| match found.value {
        "off" => Compression::Off,
        "lz4" => Compression::Lz4,
        "zstd" => Compression::Zstd,
        _ => Compression::Gzip,
    });
    let quota = fields.size("quota", report).map(|found| found.value);
    let record_size = fields.size("record_size", report);
    if let Some(size) = &record_size
        && !(VolumeSpec::RECORD_SIZE.contains(&size.value.0) && size.value.0.is_power_of_two())
    {
        let message = format!("a record of {} bytes cannot be", size.value.0);
        report.error(&size.span, message, "use a power of two from 512 to \"1m\", as in \"16k\"");
    }
    for key in ["compression", "quota", "record_size"] {
        if let Some(wrong) = fields.entry(key, report).filter(|_| driver == "host") {
            let message = format!("`{key}` has no meaning for driver host, in {}", fields.title);
            report.error(&wrong.key_span, message, "remove it: the host's administrator decides");
        }
    }
    fields.finish();
    let record_size = record_size.map(|found| found.value);
    Some(VolumeSpec { host_path: host, labels, compression, quota, record_size })
}
