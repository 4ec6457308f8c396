//! Programs on the bridge's device: put there, exchanged for newer ones without a moment without, and taken off.
//!
//! Linux 6.6 has links for this (tcx), which are pinned; before it a filter of the `clsact` queueing discipline is
//! replaced by number.

use std::path::Path;

use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType, Xdp};

use crate::BpfError;
use crate::dataplane::Hook;
use crate::error::chain;

/// Our filter's number among a link's (`clsact`), and its handle. Lower ones are judged first.
const PRIORITY: u16 = 0xc0;
const HANDLE: TcHandle = TcHandle::new(0, 1);

/// A program of the object, and where it sits.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) program: &'static str,
    pub(crate) way: TcAttachType,
    /// Among ours on the same device: lower ones are first.
    pub(crate) order: u16,
}

/// What leaves containers, and what enters them.
pub(crate) const PLACES: [Place; 2] = [
    Place { program: "from_containers", way: TcAttachType::Ingress, order: 0 },
    Place { program: "to_containers", way: TcAttachType::Egress, order: 0 },
];

/// Attaches `program` to `link`; where one of an earlier process is, pinned at `pin`, it is exchanged. It stays when
/// this process ends.
pub(crate) fn attach(
    program: &mut SchedClassifier,
    place: Place,
    (link, pin): (&str, &Path),
    hook: Option<Hook>,
) -> Result<Hook, BpfError> {
    let failed = |error: String| BpfError::Attach { program: place.program, error };
    match hook {
        Some(Hook::Tcx) => attach_tcx(program, place, link, pin).map(|()| Hook::Tcx).map_err(failed),
        Some(Hook::Clsact) => attach_clsact(program, place, link, pin).map(|()| Hook::Clsact).map_err(failed),
        None => match attach_tcx(program, place, link, pin) {
            Ok(()) => Ok(Hook::Tcx),
            Err(why) => match attach_clsact(program, place, link, pin) {
                Ok(()) => Ok(Hook::Clsact),
                Err(other) => Err(failed(format!("{why}; and as a filter: {other}"))),
            },
        },
    }
}

fn attach_tcx(program: &mut SchedClassifier, place: Place, link: &str, pin: &Path) -> Result<(), String> {
    if let Some(old) = pinned(pin)? {
        let old = SchedClassifierLink::try_from(FdLink::from(old)).map_err(|error| chain(&error))?;
        if let Ok(id) = program.attach_to_link(old) {
            // Taken, so that the end of `program` does not take it off; the pin holds it.
            drop(program.take_link(id).map_err(|error| chain(&error))?);
            return Ok(());
        }
        // The link it was on is gone: another bridge has its name.
        std::fs::remove_file(pin).map_err(|error| error.to_string())?;
    }
    let order = if place.order == 0 { LinkOrder::first() } else { LinkOrder::last() };
    let options = TcAttachOptions::TcxOrder(order);
    let id = program.attach_with_options(link, place.way, options).map_err(|error| chain(&error))?;
    let made = program.take_link(id).map_err(|error| chain(&error))?;
    FdLink::try_from(made).map_err(|error| chain(&error))?.pin(pin).map_err(|error| chain(&error))?;
    Ok(())
}

fn pinned(pin: &Path) -> Result<Option<PinnedLink>, String> {
    match PinnedLink::from_pin(pin) {
        Ok(link) => Ok(Some(link)),
        Err(LinkError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(chain(&error)),
    }
}

/// A filter cannot be pinned; a folder stands for it, so that it is found again.
fn attach_clsact(program: &mut SchedClassifier, place: Place, link: &str, pin: &Path) -> Result<(), String> {
    // There already is fine; any other failure shows with the filter.
    let _ = tc::qdisc_add_clsact(link);
    let known = SchedClassifierLink::attached(link, place.way, PRIORITY + place.order, HANDLE, None);
    let known = known.map_err(|error| error.to_string())?;
    let id = match program.attach_to_link(known) {
        Ok(id) => id,
        Err(_) => {
            let options = NlOptions { priority: PRIORITY + place.order, handle: HANDLE, classid: None };
            program
                .attach_with_options(link, place.way, TcAttachOptions::Netlink(options))
                .map_err(|error| chain(&error))?
        }
    };
    // Dropping it would take the filter off.
    std::mem::forget(program.take_link(id).map_err(|error| chain(&error))?);
    match std::fs::create_dir(pin) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error.to_string()),
        _ => Ok(()),
    }
}

/// Attaches `program` to `link` as one of XDP, in its generic form, which every device has; where an earlier process's is,
/// pinned at `pin`, it is exchanged. It stays when this process ends.
pub(crate) fn attach_xdp(program: &mut Xdp, link: &str, pin: &Path) -> Result<(), String> {
    if let Some(old) = pinned(pin)? {
        let old = XdpLink::try_from(FdLink::from(old)).map_err(|error| chain(&error))?;
        if let Ok(id) = program.attach_to_link(old) {
            drop(program.take_link(id).map_err(|error| chain(&error))?);
            return Ok(());
        }
        std::fs::remove_file(pin).map_err(|error| error.to_string())?;
    }
    let id = program.attach(link, XdpMode::Skb).map_err(|error| chain(&error))?;
    let made = program.take_link(id).map_err(|error| chain(&error))?;
    FdLink::try_from(made).map_err(|error| chain(&error))?.pin(pin).map_err(|error| chain(&error))?;
    Ok(())
}

/// Takes a program off, however it was put there. Not there is fine.
pub(crate) fn detach(place: Place, link: &str, pin: &Path) -> Result<(), BpfError> {
    let removed = if pin.is_dir() { std::fs::remove_dir(pin) } else { std::fs::remove_file(pin) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(BpfError::Folder { path: pin.to_owned(), error })
        }
        _ => {
            // Where there is no clsact, or no link, there is no filter either.
            let _ = tc::qdisc_detach_program(link, place.way, place.program);
            Ok(())
        }
    }
}
