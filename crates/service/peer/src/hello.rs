//! What the halves say to each other inside TLS before the connection's own bytes: the destination, and whether it was
//! reached.
//!
//! ```text
//!  outbound ▶ version (1) · 4 or 16 (length of the address) · address · port (2, big endian)
//!  inbound  ▶ version (1) · outcome (1)
//! ```
//!
//! Refuses a version it does not know: the halves may be of two nodes, upgraded one after the other.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const VERSION: u8 = 1;

/// What became of a connection at the inbound half.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Connected,
    /// The instance does not answer.
    Unreachable,
    /// The destination is not of the service whose certificate was shown.
    NotHere,
}

pub(crate) async fn ask(stream: &mut (impl AsyncWrite + Unpin), to: SocketAddr) -> io::Result<()> {
    let mut bytes = vec![VERSION];
    match to.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend(ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(16);
            bytes.extend(ip.octets());
        }
    }
    bytes.extend(to.port().to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await
}

pub(crate) async fn asked(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<SocketAddr> {
    known(stream.read_u8().await?)?;
    let ip = match stream.read_u8().await? {
        4 => {
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            IpAddr::from(octets)
        }
        16 => {
            let mut octets = [0; 16];
            stream.read_exact(&mut octets).await?;
            IpAddr::from(octets)
        }
        length => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("an address of {length} bytes"))),
    };
    Ok(SocketAddr::new(ip, stream.read_u16().await?))
}

pub(crate) async fn answer(stream: &mut (impl AsyncWrite + Unpin), outcome: Outcome) -> io::Result<()> {
    let byte = match outcome {
        Outcome::Connected => 0,
        Outcome::Unreachable => 1,
        Outcome::NotHere => 2,
    };
    stream.write_all(&[VERSION, byte]).await?;
    stream.flush().await
}

pub(crate) async fn answered(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Outcome> {
    known(stream.read_u8().await?)?;
    match stream.read_u8().await? {
        0 => Ok(Outcome::Connected),
        1 => Ok(Outcome::Unreachable),
        2 => Ok(Outcome::NotHere),
        byte => Err(io::Error::new(io::ErrorKind::InvalidData, format!("an outcome of {byte}"))),
    }
}

fn known(version: u8) -> io::Result<()> {
    if version == VERSION {
        return Ok(());
    }
    let text = format!("the other half speaks version {version}, this one {VERSION}: upgrade the older node");
    Err(io::Error::new(io::ErrorKind::InvalidData, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_asked_and_answered_is_read_back() {
        for to in ["10.88.0.2:5432", "[fd00::2]:65535"] {
            let to: SocketAddr = to.parse().unwrap();
            let mut bytes = Vec::new();
            ask(&mut bytes, to).await.unwrap();
            assert_eq!(asked(&mut bytes.as_slice()).await.unwrap(), to);
            for cut in 0..bytes.len() {
                assert!(asked(&mut &bytes[..cut]).await.is_err());
            }
        }
        for outcome in [Outcome::Connected, Outcome::Unreachable, Outcome::NotHere] {
            let mut bytes = Vec::new();
            answer(&mut bytes, outcome).await.unwrap();
            assert_eq!(answered(&mut bytes.as_slice()).await.unwrap(), outcome);
        }
    }

    #[tokio::test]
    async fn another_version_and_nonsense_are_refused() {
        assert!(asked(&mut &[2, 4, 1, 2, 3, 4, 0, 1][..]).await.unwrap_err().to_string().contains("version 2"));
        assert!(asked(&mut &[1, 5, 1, 2, 3, 4, 0, 1][..]).await.is_err());
        assert!(answered(&mut &[1, 9][..]).await.is_err());
    }
}
