//! The contenders as they are set up, and the backend behind the proxies. Each is asked once before it takes part.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::Ground;
use crate::bench::processes::{Service, until};
use crate::shell;

/// What the backend answers to everything but `/large`.
pub(super) const ANSWER: usize = 1024;
const BACKEND: u16 = 8080;

/// A running server.
pub(super) struct Contender {
    pub(super) name: &'static str,
    /// For a proxy, plain HTTP; TLS is at the port after it. For a name server, UDP.
    pub(super) port: u16,
    pub(super) service: Service,
}

impl Contender {
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(super) fn secure_url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.secure_port())
    }

    pub(super) fn secure_port(&self) -> u16 {
        self.port + 1
    }
}

/// nginx, which answers from memory, or with the large file.
pub(super) fn backend(folder: &Path) -> Result<Service> {
    let files = folder.join("files");
    let text = format!(
        "{} {{ listen 127.0.0.1:{BACKEND} backlog=4096; root {}; location /large {{ sendfile on; }}\n\
         location / {{ default_type text/plain; return 200 {}; }} }} }}\n",
        nginx_head(folder, "backend", 20_000),
        files.display(),
        "x".repeat(ANSWER),
    );
    let service = nginx(folder, "backend", &text)?;
    until("the backend to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, BACKEND)).is_ok())?;
    Ok(service)
}

/// The backend itself, for what would be if no proxy were between.
pub(super) fn direct(ground: &Ground) -> Result<Contender> {
    // Its processes are not looked at: it stands for none.
    let service = Service::start(Command::new("sleep").arg("100000"), &ground.folder.join("direct.log"))?;
    Ok(Contender { name: "backend alone", port: BACKEND, service })
}

/// All proxies. `connections`: as many of clients may be open, where a program must be told.
pub(super) fn proxies(ground: &Ground, connections: usize) -> Vec<(&'static str, Result<Contender>)> {
    vec![
        ("nginx", nginx_proxy(ground, connections)),
        ("haproxy", haproxy(ground, connections)),
        ("coppice", coppice(ground)),
    ]
}

fn coppice(ground: &Ground) -> Result<Contender> {
    let (port, backend) = (8001, SocketAddr::from((Ipv4Addr::LOCALHOST, BACKEND)));
    let mut command = Command::new(ground.examples.join("proxy"));
    command.arg(format!("127.0.0.1:{port}")).arg(backend.to_string()).arg("2");
    command.arg(ground.folder.join("cert.pem")).arg(ground.folder.join("key.pem"));
    let service = Service::start(&mut command, &ground.folder.join("coppice.log"))?;
    tried(Contender { name: "coppice", port, service })
}

fn nginx_head(folder: &Path, name: &str, connections: usize) -> String {
    format!(
        "worker_processes 2; user root; daemon off; pid {0}/{name}.pid; error_log stderr warn;\n\
         events {{ worker_connections {connections}; }}\n\
         http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 600s;\n\
         client_body_temp_path {0}/{name}-body; proxy_temp_path {0}/{name}-proxy;\n\
         fastcgi_temp_path {0}/{name}-fcgi; uwsgi_temp_path {0}/{name}-uwsgi; scgi_temp_path {0}/{name}-scgi;\n\
         server",
        folder.display()
    )
}

fn nginx(folder: &Path, name: &str, text: &str) -> Result<Service> {
    let config = folder.join(format!("{name}.conf"));
    fs::write(&config, text)?;
    let mut command = Command::new("/usr/sbin/nginx");
    command.arg("-c").arg(&config).arg("-p").arg(folder).args(["-e", "stderr"]);
    Service::start(&mut command, &folder.join(format!("{name}.log")))
}

fn nginx_proxy(ground: &Ground, connections: usize) -> Result<Contender> {
    let port = 8011;
    let text = format!(
        "{head} {{ listen 127.0.0.1:{port} backlog=4096; listen 127.0.0.1:{secure} ssl http2 backlog=4096;\n\
         ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_protocols TLSv1.2 TLSv1.3;\n\
         location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n\
         proxy_set_header X-Forwarded-Proto $scheme; proxy_max_temp_file_size 0; }} }}\n\
         upstream backend {{ server 127.0.0.1:{BACKEND}; keepalive 256; keepalive_requests 1000000000; }} }}\n",
        head = nginx_head(&ground.folder, "nginx", connections),
        secure = port + 1,
        folder = ground.folder.display(),
    );
    tried(Contender { name: "nginx", port, service: nginx(&ground.folder, "nginx", &text)? })
}

fn haproxy(ground: &Ground, connections: usize) -> Result<Contender> {
    let port = 8021;
    let text = format!(
        "global\n nbthread 2\n maxconn {connections}\n no strict-limits\n\
         defaults\n mode http\n timeout connect 5s\n timeout client 600s\n timeout server 600s\n\
         option forwardfor\n http-reuse always\n\
         frontend front\n bind 127.0.0.1:{port} backlog 4096\n\
         bind 127.0.0.1:{} ssl crt {}/both.pem alpn h2,http/1.1 backlog 4096\n default_backend back\n\
         backend back\n server one 127.0.0.1:{BACKEND}\n",
        port + 1,
        ground.folder.display(),
    );
    let config = ground.folder.join("haproxy.cfg");
    fs::write(&config, text)?;
    let mut command = Command::new("/usr/sbin/haproxy");
    let service = Service::start(command.arg("-db").arg("-f").arg(&config), &ground.folder.join("haproxy.log"))?;
    tried(Contender { name: "haproxy", port, service })
}

/// Asks for one page in plain HTTP and one over TLS.
fn tried(contender: Contender) -> Result<Contender> {
    until("it to listen", || TcpStream::connect((Ipv4Addr::LOCALHOST, contender.secure_port())).is_ok())?;
    for url in [contender.url("/"), contender.secure_url("/")] {
        let said = shell::output(Command::new("curl").args(["-sS", "-k", "--max-time", "5"]).arg(&url))?;
        if said.len() != ANSWER {
            bail!("{} answered {url} with {said:?}", contender.name);
        }
    }
    Ok(contender)
}

/// How many names a name server is given.
const NAMES: u32 = 1000;

/// The name servers, each with the same names, which are written to a file for dnsperf.
pub(super) fn name_servers(ground: &Ground) -> Result<Vec<(&'static str, Result<Contender>)>> {
    let names: Vec<String> = (0..NAMES).map(|at| format!("0.web.app-{at}")).collect();
    let questions: String = names.iter().map(|name| format!("{name} A\n")).collect();
    fs::write(ground.folder.join("questions"), questions)?;
    let hosts: String = names
        .iter()
        .enumerate()
        .map(|(at, name)| format!("{} {name}\n", Ipv4Addr::from(0x0a09_0000 + at as u32)))
        .collect();
    fs::write(ground.folder.join("hosts"), hosts)?;
    Ok(vec![("dnsmasq", dnsmasq(ground)), ("coppice", coppice_names(ground))])
}

fn dnsmasq(ground: &Ground) -> Result<Contender> {
    let port = 5301;
    let mut command = Command::new("/usr/sbin/dnsmasq");
    command.args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--user=root"]);
    command.args(["--listen-address=127.0.0.1", "--bind-interfaces", &format!("--port={port}"), "--cache-size=10000"]);
    command.arg(format!("--addn-hosts={}", ground.folder.join("hosts").display()));
    command.arg(format!("--pid-file={}", ground.folder.join("dnsmasq.pid").display()));
    let service = Service::start(&mut command, &ground.folder.join("dnsmasq.log"))?;
    named(Contender { name: "dnsmasq", port, service })
}

fn coppice_names(ground: &Ground) -> Result<Contender> {
    let port = 5302;
    let mut command = Command::new(ground.examples.join("serve"));
    command.arg(format!("127.0.0.1:{port}")).args(["2", &NAMES.to_string()]);
    let service = Service::start(&mut command, &ground.folder.join("names.log"))?;
    named(Contender { name: "coppice", port, service })
}

/// Asks for one name.
fn named(contender: Contender) -> Result<Contender> {
    let ask = |wait: &str| {
        let mut dig = Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &contender.port.to_string(), "+short", "+tries=1", wait, "0.web.app-7"]);
        shell::output(&mut dig)
    };
    until("it to answer", || ask("+time=1").is_ok_and(|said| said.trim() == "10.9.0.7"))?;
    Ok(contender)
}
