//! What a container's network costs, in microseconds, in a network namespace of its own:
//! `cargo run --release --example network_cost -p coppice-network`.

use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use coppice_network::{
    Backend, Bridge, BridgeConfig, Netns, PortKey, Protocol, Published, configure_inside, host_link,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

fn new_netns() -> Result<File, Box<dyn std::error::Error>> {
    #[allow(deprecated)] // for its effect with FILES; this is NEWNET alone
    rustix::thread::unshare(UnshareFlags::NEWNET)?;
    Ok(File::open("/proc/thread-self/ns/net")?)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const TIMES: u32 = 200;
    let host = new_netns()?;
    let started = Instant::now();
    let (mut bridge, _) = Bridge::ensure(&BridgeConfig::of("cost")?)?;
    println!("bridge and table: {} us", started.elapsed().as_micros());
    let mut attacher = bridge.attacher()?;
    let address = bridge.address_for([10, 88, 0, 2].into());
    let key = PortKey { host_ip: None, protocol: Protocol::Tcp, host: 8080 };
    let port = [Published { key, backends: vec![Backend { ip: address.ip, port: 80 }] }];

    for (name, detach) in [("removed by us", true), ("removed with the namespace", false)] {
        let mut spent_us = [0u128; 8];
        for run in 0..TIMES {
            let mut clock = Instant::now();
            let mut lap = |slot: usize| {
                spent_us[slot] += clock.elapsed().as_nanos() / 1000;
                clock = Instant::now();
            };
            let inside = new_netns()?;
            lap(0);
            move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))?;
            let link = host_link(&format!("{run:013}"));
            lap(6);
            attacher.attach(Netns::Fd(inside.as_fd()), &link, &address)?;
            lap(1);
            bridge.publish(&port)?;
            lap(2);
            move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network))?;
            lap(6);
            configure_inside(Some(&address), Duration::ZERO)?;
            lap(3);
            move_into_link_name_space(host.as_fd(), Some(LinkNameSpaceType::Network))?;
            lap(6);
            attacher.settle(&link, Duration::ZERO)?;
            lap(7);
            bridge.unpublish(&[key])?;
            lap(4);
            if detach {
                attacher.detach(&link)?;
            }
            drop(inside);
            lap(5);
        }
        let [netns, attach, publish, inside, unpublish, end, _, settle] = spent_us.map(|us| us / u128::from(TIMES));
        println!(
            "{name}: new namespace {netns} us, attach {attach} us, publish {publish} us, configure inside {inside} us, \
             settle {settle} us, unpublish {unpublish} us, end {end} us"
        );
    }
    Ok(())
}
