//! What each step of a container's cgroup costs, in microseconds: `cargo run --release --example cgroup_cost -p coppice-cgroup`.

use std::time::Instant;

use coppice_base::{Bytes, MilliCpu};
use coppice_cgroup::{CgroupLimits, Hierarchy};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const TIMES: u32 = 200;
    let hierarchy = Hierarchy::detect()?;
    let parent = hierarchy.parent(&format!("coppice-cost-{}", std::process::id()))?;
    let limits = CgroupLimits {
        cpu: Some(MilliCpu(500)),
        memory: Some(Bytes(64 << 20)),
        pids: Some(100),
        ..CgroupLimits::default()
    };
    println!("{:?}, {} runs each", hierarchy.kind(), TIMES);
    for (name, limits) in [("unlimited", CgroupLimits::default()), ("cpu, memory, pids", limits)] {
        let mut spent_us = [0u128; 4];
        for _ in 0..TIMES {
            let mut clock = Instant::now();
            let mut lap = |slot: usize| {
                spent_us[slot] += clock.elapsed().as_nanos() / 1000;
                clock = Instant::now();
            };
            let (cgroup, _) = parent.create("one", &limits)?;
            lap(0);
            let join = cgroup.join()?;
            lap(1);
            drop(join);
            cgroup.usage()?;
            lap(2);
            cgroup.remove()?;
            lap(3);
        }
        let [create, join, usage, remove] = spent_us.map(|us| us / u128::from(TIMES));
        println!("{name}: create {create} us, join files {join} us, usage {usage} us, remove {remove} us");
    }
    parent.remove()?;
    Ok(())
}
