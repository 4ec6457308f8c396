//! The access log: a JSON object a line, written by a thread of its own.
//!
//! Workers gather lines and hand them over in batches; where the writer is too slow, batches are dropped and counted, and
//! requests go on.

use std::cell::RefCell;
use std::io::Write;
use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use coppice_base::{Clock, SystemClock};

use crate::headers::Known;
use crate::plan::Request;

/// Batches that may wait for the writer.
const WAITING: usize = 64;
/// Bytes at which a batch is handed over before its time.
const BATCH: usize = 64 << 10;
/// Characters of a client's text that are logged.
const TEXT: usize = 1024;

/// What is known of a request when it comes.
pub(crate) struct Record {
    method: String,
    target: String,
    host: String,
    client: IpAddr,
    version: &'static str,
    user_agent: String,
    request_id: String,
}

impl Record {
    pub(crate) fn of(request: &Request<'_>, known: &Known<'_>, client: IpAddr, request_id: &[u8]) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT)]).into_owned();
        let host = request.authority.map(str::as_bytes).or(known.host);
        Self {
            method: request.method.to_owned(),
            target: text(request.target),
            host: text(host.unwrap_or_default()),
            client,
            version: if request.is_http2 { "2" } else { "1.1" },
            user_agent: text(request.view.get("user-agent").unwrap_or_default()),
            request_id: text(request_id),
        }
    }
}

/// What is known of a request when it has ended.
pub(crate) struct Outcome<'a> {
    pub(crate) status: u16,
    pub(crate) route: Option<&'a crate::routes::Compiled>,
    pub(crate) instance: Option<&'a str>,
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) took: Duration,
    pub(crate) aborted: bool,
}

/// One worker's end of the log.
pub(crate) struct Log {
    batch: RefCell<(Vec<u8>, u64)>,
    to: SyncSender<Vec<u8>>,
}

impl Log {
    pub(crate) fn new(to: SyncSender<Vec<u8>>) -> Self {
        Self { batch: RefCell::default(), to }
    }

    /// Adds a line; returns how many lines were dropped for it.
    pub(crate) fn write(&self, record: &Record, outcome: &Outcome<'_>) -> u64 {
        let route = outcome.route.map(|route| format!("{}/{}/{}", route.app, route.service, route.spec.name));
        let line = serde_json::json!({
            "time_ms": SystemClock.now().0,
            "request_id": record.request_id,
            "client": record.client.to_string(),
            "method": record.method,
            "host": record.host,
            "target": record.target,
            "http": record.version,
            "status": outcome.status,
            "sent": outcome.sent,
            "received": outcome.received,
            "duration_us": u64::try_from(outcome.took.as_micros()).unwrap_or(u64::MAX),
            "route": route,
            "instance": outcome.instance,
            "aborted": outcome.aborted,
            "user_agent": record.user_agent,
        });
        let full = {
            let mut batch = self.batch.borrow_mut();
            // A vector takes everything.
            let _ = writeln!(batch.0, "{line}");
            batch.1 += 1;
            batch.0.len() >= BATCH
        };
        if full { self.hand_over() } else { 0 }
    }

    /// Gives what has gathered to the writer; returns how many lines were dropped.
    pub(crate) fn hand_over(&self) -> u64 {
        let (bytes, lines) = std::mem::take(&mut *self.batch.borrow_mut());
        if bytes.is_empty() {
            return 0;
        }
        match self.to.try_send(bytes) {
            Ok(()) => 0,
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => lines,
        }
    }
}

/// Starts the writer; it ends when the last sender is gone.
pub(crate) fn start(mut writer: Box<dyn Write + Send>) -> std::io::Result<SyncSender<Vec<u8>>> {
    let (to, from) = sync_channel::<Vec<u8>>(WAITING);
    std::thread::Builder::new().name("proxy-log".to_owned()).spawn(move || {
        for batch in from {
            if let Err(error) = writer.write_all(&batch).and_then(|()| writer.flush()) {
                tracing::warn!(%error, "the access log could not be written: its lines are lost");
            }
        }
    })?;
    Ok(to)
}
