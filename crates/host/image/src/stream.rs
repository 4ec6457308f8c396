//! Bridges between async streams and the blocking threads that hash, unpack and write.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::ingest::Chunks;

/// Chunks in flight between the two sides: enough to hide a write, few enough for four layers at once.
const DEPTH: usize = 8;
const CHUNK: usize = 256 << 10;

/// The blocking end of a stream of bytes.
pub(crate) struct ChannelChunks {
    queue: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

pub(crate) fn chunk_channel() -> (mpsc::Sender<io::Result<Bytes>>, ChannelChunks) {
    let (sender, queue) = mpsc::channel(DEPTH);
    (sender, ChannelChunks { queue, current: Bytes::new() })
}

impl Chunks for ChannelChunks {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        self.queue.blocking_recv().transpose()
    }
}

impl Read for ChannelChunks {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match Chunks::next(self)? {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let got = self.current.len().min(buffer.len());
        buffer[..got].copy_from_slice(&self.current.split_to(got));
        Ok(got)
    }
}

/// Pumps `reader` into a channel until its end or until the blocking side has had enough.
pub(crate) fn chunks_of(mut reader: impl AsyncRead + Send + Unpin + 'static) -> ChannelChunks {
    let (sender, chunks) = chunk_channel();
    // Ends by itself when the reader ends or the receiver is dropped.
    tokio::spawn(async move {
        loop {
            let mut buffer = bytes::BytesMut::with_capacity(CHUNK);
            let item = match reader.read_buf(&mut buffer).await {
                Ok(0) => return,
                Ok(_) => Ok(buffer.freeze()),
                Err(error) => Err(error),
            };
            let failed = item.is_err();
            if sender.send(item).await.is_err() || failed {
                return;
            }
        }
    });
    chunks
}

/// Runs `write` on a blocking thread with a writer whose bytes go to `out`.
pub(crate) async fn write_through<E: From<io::Error> + Send + 'static>(
    mut out: impl AsyncWrite + Unpin,
    write: impl FnOnce(&mut dyn Write) -> Result<(), E> + Send + 'static,
) -> Result<(), E> {
    let (sender, mut queue) = mpsc::channel::<Bytes>(DEPTH);
    let worker = tokio::task::spawn_blocking(move || {
        let mut writer = io::BufWriter::with_capacity(CHUNK, ChannelWriter(sender));
        write(&mut writer)?;
        writer.flush().map_err(E::from)
    });
    let mut sent = Ok(());
    while let Some(chunk) = queue.recv().await {
        sent = out.write_all(&chunk).await;
        if sent.is_err() {
            break;
        }
    }
    drop(queue);
    let written = worker.await.map_err(|error| E::from(io::Error::other(error)))?;
    // When the reader went away, that is the reason; the worker only saw the broken pipe.
    sent?;
    written?;
    out.flush().await?;
    Ok(())
}

struct ChannelWriter(mpsc::Sender<Bytes>);

impl Write for ChannelWriter {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.0.blocking_send(Bytes::copy_from_slice(buffer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        Ok(buffer.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
