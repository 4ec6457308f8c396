//! Asking a container's epmd which nodes of Erlang it knows: the one question `NAMES_REQ` of the distribution protocol (a
//! length of 1, then `n`), answered with epmd's port and a line for each node, `name NAME at port PORT`.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where epmd listens, unless ERL_EPMD_PORT says otherwise.
const PORT: u16 = 4369;

/// Bytes of an answer that are read at most: a thousand nodes.
const ANSWER_MAX: u64 = 64 << 10;

/// Whether a node of this name (without its host) is registered.
pub(crate) async fn registered(address: IpAddr, node: &str) -> Result<(), String> {
    ask(SocketAddr::new(address, PORT), node).await
}

async fn ask(epmd: SocketAddr, node: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("epmd: port {}: {error}", epmd.port());
    let mut stream = TcpStream::connect(epmd).await.map_err(failed)?;
    stream.write_all(&[0, 1, b'n']).await.map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await.map_err(failed)?;
    let Some((_port, names)) = answer.split_at_checked(4) else { return Err("epmd: unreadable answer".to_owned()) };
    let names = String::from_utf8_lossy(names);
    let known: Vec<&str> = names
        .lines()
        .filter_map(|line| line.strip_prefix("name ")?.split_once(" at port ").map(|(name, _)| name))
        .collect();
    if known.contains(&node) {
        return Ok(());
    }
    let others = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    Err(format!("epmd: no node {node} is registered; it knows {others}"))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// An epmd that answers one question with these bytes; what it was asked.
    async fn answering(bytes: &'static [u8], node: &str) -> (Result<(), String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = vec![0; 3];
            stream.read_exact(&mut question).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            question
        });
        let verdict = ask(at, node).await;
        (verdict, serving.await.unwrap())
    }

    #[tokio::test]
    async fn a_node_that_epmd_knows_is_well_and_another_is_not() {
        let answer = b"\0\0\x11\x11name shop at port 41234\nname shopping at port 41235\n";
        let (verdict, asked) = answering(answer, "shop").await;
        assert_eq!((verdict, asked), (Ok(()), vec![0, 1, b'n']));
        let (verdict, _) = answering(answer, "sho").await;
        assert_eq!(verdict.unwrap_err(), "epmd: no node sho is registered; it knows shop, shopping");
        let (verdict, _) = answering(b"\0\0\x11\x11", "shop").await;
        assert!(verdict.unwrap_err().contains("it knows none"));
    }

    #[tokio::test]
    async fn what_is_no_answer_of_epmd_is_told() {
        let (verdict, _) = answering(b"\0\0", "shop").await;
        assert!(verdict.unwrap_err().contains("unreadable"));
        let (verdict, _) = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n", "shop").await;
        assert!(verdict.is_err());
    }
}
