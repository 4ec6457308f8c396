//! How a bridge is now, looked at afresh: for whoever wants to know why packets do not arrive. Nothing is changed or put
//! back.

use serde::{Deserialize, Serialize};

use crate::Word;
use crate::address::LinkName;
use crate::bridge::Bridge;
use crate::error::{NetworkError, cannot};
use crate::link;
use crate::netlink::Socket;

/// A bridge and its rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// `None`: somebody removed it.
    pub link: Option<LinkNow>,
    pub rules: RulesNow,
    /// Other programs' chains that forward only what they know. What they know may be enough.
    pub closed: Vec<Word>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RulesNow {
    /// As this program made them.
    Intact,
    /// Somebody added, removed or changed some.
    Changed,
    Missing,
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkNow {
    pub index: u32,
    /// Somebody set it up.
    pub is_raised: bool,
    /// It carries packets.
    pub is_up: bool,
    /// The bridge it is a port of.
    pub master: Option<u32>,
}

/// The link of this name in the caller's network namespace; `None` where there is none.
pub fn link_now(name: &LinkName) -> Result<Option<LinkNow>, NetworkError> {
    let mut route = Socket::route().map_err(cannot("ask for network links"))?;
    look(&mut route, name)
}

fn look(route: &mut Socket, name: &LinkName) -> Result<Option<LinkNow>, NetworkError> {
    let found = link::find(route, name.as_str()).map_err(cannot("look at a network link"))?;
    Ok(found.map(|link| LinkNow {
        index: link.index,
        is_raised: link.is_raised,
        is_up: link.is_up(),
        master: link.master,
    }))
}

impl Bridge {
    /// See the module.
    pub fn survey(&mut self) -> Result<Survey, NetworkError> {
        let name = self.name().clone();
        Ok(Survey {
            link: look(&mut self.route, &name)?,
            rules: self.compare_rules().map_err(cannot("read the network rules"))?,
            closed: self.closed_forwarding().map_err(cannot("read the network rules"))?,
        })
    }
}
