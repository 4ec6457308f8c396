//! A web program for the stack's test: it counts visits in redis. The standard library only, one file, so that the test
//! can build it as a static program.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", 8000))?;
    println!("listening");
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || answer(stream));
    }
    Ok(())
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    let mut request = BufReader::new(stream.try_clone()?);
    let (mut first, mut line) = (String::new(), String::new());
    request.read_line(&mut first)?;
    while request.read_line(&mut line)? > 2 {
        line.clear();
    }
    let (status, body) = match if first.starts_with("GET /health") { Ok(0) } else { count() } {
        Ok(visits) => ("200 OK", format!("visit {visits}\n")),
        Err(error) => ("503 Service Unavailable", format!("redis: {error}\n")),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn count() -> std::io::Result<u64> {
    let mut redis = TcpStream::connect("db:6379")?;
    redis.write_all(b"INCR visits\r\n")?;
    let mut reply = String::new();
    BufReader::new(redis).read_line(&mut reply)?;
    reply.trim().trim_start_matches(':').parse().map_err(|_| std::io::Error::other(reply))
}
