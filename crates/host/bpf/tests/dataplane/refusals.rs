//! Where it cannot be had, or is asked for too much: a sentence, and nothing changed.

use std::net::Ipv4Addr;

use coppice_bpf::{BpfError, Dataplane, SERVICES_MAX, Settings};
use coppice_network::{LinkName, VirtualService};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};

use crate::machine::{Machine, WEB};

/// What loading says to a process that may not. In a thread of its own: it does not get its rights back.
fn refusal(machine: &Machine) -> BpfError {
    let (info, folder) = (machine.info.clone(), machine.folder.path().join("bpf"));
    machine.host.run(move || {
        let without = std::thread::spawn(move || {
            let none = CapabilitySet::empty();
            set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none }).unwrap();
            Dataplane::load(&info, &folder, Settings::default()).map(drop)
        });
        without.join().unwrap().unwrap_err()
    })
}

#[test]
fn a_process_without_the_rights_is_told_so_and_goes_on_without() {
    let machine = Machine::without();
    let mount = refusal(&machine);
    assert!(matches!(mount, BpfError::Mount { .. }), "{mount}");
    assert!(mount.word().0.contains("nftables rules alone") && mount.to_string().contains("needs root"), "{mount}");
    // And where an earlier process had them.
    machine.start(Settings::default());
    machine.stop();
    let load = refusal(&machine);
    assert!(load.to_string().contains("CAP_BPF") || load.to_string().contains("cannot keep"), "{load}");
    assert!(!load.to_string().contains('\n'), "{load}");
}

#[test]
fn a_bridge_that_is_not_there_is_named() {
    let machine = Machine::without();
    let (mut info, folder) = (machine.info.clone(), machine.folder.path().join("bpf"));
    info.name = LinkName::new("nobridge").unwrap();
    let error = machine.host.run(move || Dataplane::load(&info, &folder, Settings::default()).unwrap_err());
    assert!(error.to_string().contains("no link nobridge"), "{error}");
    assert!(!machine.folder.path().join("bpf").exists(), "nothing was mounted for nothing");
}

#[test]
fn more_than_there_is_room_for_is_refused_and_what_was_set_stays() {
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.endpoints(&[&client, &backend]);
    machine.services(&[(WEB, &[&backend])]);
    let many: Vec<VirtualService> = (0..=SERVICES_MAX as u32)
        .map(|at| VirtualService { address: Ipv4Addr::from_bits(WEB.to_bits() + at), backends: vec![] })
        .collect();
    let error = machine.plane(move |plane| plane.set_services(&many).unwrap_err());
    assert!(matches!(error, BpfError::TooMany { count: 513, .. }), "{error}");
    assert_eq!(client.space.tcp(WEB, 80), format!("web {}", client.ip));
}

#[test]
fn services_can_be_changed_as_often_as_one_likes() {
    let mut machine = Machine::new();
    let (client, backend) = (machine.container(), machine.container());
    backend.space.serve(80, "web");
    machine.endpoints(&[&client, &backend]);
    // More changes than there are tables, and more backends in all than there are places.
    let ip = backend.ip;
    machine.plane(move |plane| {
        for turn in 0..1200_u32 {
            let others = (0..8).map(|of| Ipv4Addr::from_bits(0x0a4d_1000 + turn * 8 + of));
            let services = [VirtualService { address: WEB, backends: others.collect() }];
            plane.set_services(&services).unwrap();
        }
        plane.set_services(&[VirtualService { address: WEB, backends: vec![ip] }]).unwrap();
    });
    assert_eq!(client.space.tcp(WEB, 80), format!("web {}", client.ip));
}
