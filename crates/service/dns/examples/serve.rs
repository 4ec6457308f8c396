//! A DNS server with made-up names, for measurements: `serve ADDRESS THREADS NAMES` answers `0.web.app-N` and the like.
//!
//! Prints its address when it answers, and stops when its standard input ends.

use std::net::{IpAddr, Ipv4Addr};

use coppice_base::Name;
use coppice_dns::{App, Config, Instance, Listeners, Server, Service, Upstreams, Zone, ZoneSpec};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, threads, names] = words.as_slice() else { return Err("usage: serve ADDRESS THREADS NAMES".into()) };
    let listeners = Listeners::bind(&[address.parse()?], threads.parse()?)?;
    let apps = (0..names.parse::<u32>()?)
        .map(|at| {
            let address = IpAddr::from(Ipv4Addr::from(0x0a09_0000 + at));
            let instance = Instance { index: 0, addresses: vec![address], ready: true };
            let service = Service {
                name: Name::new("web")?,
                virtual_addresses: Vec::new(),
                headless: false,
                instances: vec![instance],
                ports: Vec::new(),
            };
            Ok(App { name: Name::new(format!("app-{at}"))?, services: vec![service], clients: Vec::new() })
        })
        .collect::<Result<_, Box<dyn std::error::Error>>>()?;
    let zone = Zone::new(&ZoneSpec { apps, ..ZoneSpec::default() })?;
    let config = Config { client_rate: None, upstreams: Upstreams::Given(Vec::new()), ..Config::new(listeners) };
    let server = Server::start(config, zone)?;
    println!("{}", server.addresses()[0]);
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    println!("{:?}", server.metrics());
    Ok(())
}
