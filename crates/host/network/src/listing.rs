//! What the kernel lists of nftables, whoever made it: how often it has changed, and everybody's chains.

use rustix::io::Errno;

use crate::netlink::{ACK, Batch, DUMP, Socket, attributes};
use crate::nft;

/// A chain of anybody's.
pub(crate) struct Chain {
    /// As `NFPROTO_*` of linux/netfilter.h has it: 1 inet, 2 ip, 10 ip6.
    pub(crate) family: u8,
    pub(crate) table: String,
    pub(crate) name: String,
    /// `NF_INET_*` of linux/netfilter.h; `None`: other chains jump to it.
    pub(crate) hook: Option<u32>,
    /// What no rule of it decides is dropped.
    pub(crate) drops: bool,
}

/// Counts up with every change of any table.
pub(crate) fn generation(socket: &mut Socket) -> Result<u32, Errno> {
    let mut batch = Batch::new();
    batch.message(nft::GET_GENERATION, ACK, &[0; 4]);
    let mut generation = 0;
    socket.ask(&mut batch, |answer| {
        let id = attributes(answer.body.get(4..).unwrap_or_default()).find(|(kind, _)| *kind == 1);
        generation = id.and_then(|(_, id)| id.try_into().ok()).map_or(0, u32::from_be_bytes);
    })?;
    Ok(generation)
}

/// The chains of all tables.
pub(crate) fn chains(socket: &mut Socket) -> Result<Vec<Chain>, Errno> {
    // `NFTA_CHAIN_*` and, in a hook, `NFTA_HOOK_HOOKNUM` of linux/netfilter/nf_tables.h.
    const TABLE: u16 = 1;
    const NAME: u16 = 3;
    const HOOK: u16 = 4;
    const POLICY: u16 = 5;
    const NUMBER: u16 = 1;
    let mut batch = Batch::new();
    batch.message(nft::GET_CHAIN, DUMP, &[0; 4]);
    let mut chains = Vec::new();
    socket.ask(&mut batch, |answer| {
        let (Some(family), Some(body)) = (answer.body.first(), answer.body.get(4..)) else { return };
        let get = |wanted| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
        let hook = get(HOOK).and_then(|hook| attributes(hook).find(|(kind, _)| *kind == NUMBER));
        let text = |kind| String::from_utf8_lossy(get(kind).unwrap_or_default()).replace('\0', "");
        chains.push(Chain {
            family: *family,
            table: text(TABLE),
            name: text(NAME),
            hook: hook.and_then(|(_, number)| number.try_into().ok()).map(u32::from_be_bytes),
            drops: get(POLICY) == Some(&[0; 4]),
        });
    })?;
    Ok(chains)
}
