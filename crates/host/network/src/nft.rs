//! nftables' netlink messages (`linux/netfilter/nf_tables.h`): tables, chains, maps, elements, and rules built
//! from the kernel's expressions. Only what this crate's table needs.

use crate::netlink::{APPEND, Batch, CREATE, Socket};

/// `NFNL_SUBSYS_NFTABLES`, in a message type's high byte.
pub(crate) const SUBSYSTEM: u16 = 10 << 8;
pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
pub(crate) const GET_TABLE: u16 = SUBSYSTEM | 1;
pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(crate) const GET_CHAIN: u16 = SUBSYSTEM | 4;
const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
const NEW_SET: u16 = SUBSYSTEM | 9;
pub(crate) const GET_SET: u16 = SUBSYSTEM | 10;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
pub(crate) const GET_ELEMENT: u16 = SUBSYSTEM | 13;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
pub(crate) const GET_GENERATION: u16 = SUBSYSTEM | 16;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;

/// The multicast group that hears every change of rules, as a bit.
pub(crate) const GROUP: u32 = 1 << (7 - 1); // NFNLGRP_NFTABLES

/// The one that hears what becomes of packets that are traced.
pub(crate) const TRACE_GROUP: u32 = 1 << (9 - 1); // NFNLGRP_NFTRACE
pub(crate) const TRACE: u16 = SUBSYSTEM | 17;

/// `struct nfgenmsg` of family inet (1), for tables of IPv4 and IPv6 both.
pub(crate) const INET: [u8; 4] = [1, 0, 0, 0];
/// And of family bridge (7), for what a bridge forwards.
pub(crate) const BRIDGE: [u8; 4] = [7, 0, 0, 0];

const TABLE_NAME: u16 = 1;
const LIST_ELEMENT: u16 = 1;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// Hooks of family inet.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    Prerouting = 0,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// The kernel's registers of four bytes each.
#[derive(Clone, Copy)]
pub(crate) struct Register(u32);

impl Register {
    /// Four bytes of number `n`, below 16 (`NFT_REG32_00` is 8).
    pub(crate) const fn word(n: u32) -> Self {
        Self(8 + n)
    }
}

/// What ends or moves the evaluation of a packet.
#[derive(Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Drop,
    Accept,
    Return,
    Jump(&'a str),
}

/// How a sender is told that it is not let through.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    TcpReset,
    /// Of ICMP or ICMPv6.
    PortUnreachable,
}

/// What of a packet or its connection is loaded into a register.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    InName,
    OutName,
    /// Group of the link it comes in by, or goes out by.
    InGroup,
    OutGroup,
    Family,
    L4Protocol,
    /// Who made the socket that sends it; does not match where there is none.
    SocketUser,
    /// Bytes of a header, from an offset.
    Payload(Header, u32, u32),
    ConnectionState,
    ConnectionStatus,
    /// Whether it goes as the connection's first packet did (0) or answers (1); one byte.
    ConnectionDirection,
    /// Type of the destination as the routing table sees it.
    DestinationType,
    /// A random number below this.
    Random(u32),
}

impl Load {
    /// Of an IPv4 header.
    pub(crate) const DESTINATION4: Self = Self::Payload(Header::Network, 16, 4);
    /// Of TCP's and UDP's.
    pub(crate) const SOURCE_PORT: Self = Self::Payload(Header::Transport, 0, 2);
    pub(crate) const DESTINATION_PORT: Self = Self::Payload(Header::Transport, 2, 2);
}

/// The headers of a packet, as payload expressions count them.
#[derive(Clone, Copy)]
pub(crate) enum Header {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// A set or map to be made. Types only tell `nft list` how to print.
#[derive(Clone, Copy)]
pub(crate) struct Set<'a> {
    pub(crate) name: &'a str,
    /// Type, and length in bytes.
    pub(crate) key: (u32, usize),
    /// Of a map.
    pub(crate) value: Option<(u32, usize)>,
    /// Elements count the packets that they were found for.
    pub(crate) counting: bool,
}

/// Changes that the kernel carries out all or not at all.
pub(crate) struct Transaction<'a> {
    batch: Batch,
    table: &'a str,
    family: [u8; 4],
    sets: u32,
    /// Messages so far, the batch's begin included.
    count: usize,
}

impl<'a> Transaction<'a> {
    pub(crate) fn on(table: &'a str) -> Self {
        let mut batch = Batch::new();
        batch.message(BATCH_BEGIN, 0, &[0, 0, 0, 10]); // res_id: the subsystem, in network order
        Self { batch, table, family: INET, sets: 0, count: 1 }
    }

    /// What follows is about the table of this name in this family.
    pub(crate) fn in_family(&mut self, family: [u8; 4]) {
        self.family = family;
    }

    fn message(&mut self, kind: u16, flags: u16) -> &mut Batch {
        self.count += 1;
        let family = self.family;
        self.batch.message(kind, flags, &family)
    }

    pub(crate) fn add_table(&mut self) {
        let table = self.table;
        self.message(NEW_TABLE, CREATE).text(TABLE_NAME, table);
    }

    /// The table, with everything in it.
    pub(crate) fn delete_table(&mut self) {
        let table = self.table;
        self.message(DELETE_TABLE, 0).text(TABLE_NAME, table);
    }

    /// A chain that others jump to.
    pub(crate) fn add_chain(&mut self, name: &str) {
        let table = self.table;
        self.message(NEW_CHAIN, CREATE).text(1, table).text(3, name);
    }

    /// A chain that the kernel calls.
    pub(crate) fn add_base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        const HOOK: u16 = 4;
        const POLICY: u16 = 5;
        const TYPE: u16 = 7;
        const ACCEPT: u32 = 1;
        let table = self.table;
        self.message(NEW_CHAIN, CREATE)
            .text(1, table)
            .text(3, name)
            .nest(HOOK, |b| {
                b.be32(1, hook as u32).be32(2, priority as u32);
            })
            .be32(POLICY, ACCEPT)
            .text(TYPE, kind);
    }

    pub(crate) fn add_set(&mut self, set: Set<'_>) {
        const IS_MAP: u32 = 8;
        self.sets += 1;
        let (table, id) = (self.table, self.sets);
        let flags = if set.value.is_some() { IS_MAP } else { 0 };
        let message = self.message(NEW_SET, CREATE).text(1, table).text(2, set.name);
        message.be32(3, flags).be32(4, set.key.0).be32(5, set.key.1 as u32);
        if let Some((kind, length)) = set.value {
            message.be32(6, kind).be32(7, length as u32);
        }
        message.be32(10, id);
        if set.counting {
            message.nest(17, |b| {
                b.text(1, "counter").nest(2, |_| {});
            });
        }
    }

    /// A map with keys and values of these types and lengths.
    pub(crate) fn add_map(&mut self, name: &str, key: (u32, usize), value: (u32, usize)) {
        self.add_set(Set { name, key, value: Some(value), counting: false });
    }

    pub(crate) fn add_elements(&mut self, map: &str, elements: &[(Vec<u8>, Vec<u8>)]) {
        self.elements(NEW_ELEMENT, CREATE, map, elements.iter().map(|(key, value)| (key, Some(value))));
    }

    /// Elements of a set that is no map.
    pub(crate) fn add_keys(&mut self, set: &str, keys: &[Vec<u8>]) {
        self.elements(NEW_ELEMENT, CREATE, set, keys.iter().map(|key| (key, None)));
    }

    pub(crate) fn delete_elements(&mut self, map: &str, keys: &[Vec<u8>]) {
        self.elements(DELETE_ELEMENT, 0, map, keys.iter().map(|key| (key, None)));
    }

    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        map: &str,
        elements: impl Iterator<Item = (&'e Vec<u8>, Option<&'e Vec<u8>>)>,
    ) {
        // An attribute holds at most 64 KiB; an element takes less than 60 bytes.
        const PER_MESSAGE: usize = 512;
        let table = self.table;
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            self.message(kind, flags).text(1, table).text(2, map).nest(3, |list| {
                for (key, value) in elements.by_ref().take(PER_MESSAGE) {
                    list.nest(LIST_ELEMENT, |element| {
                        element.nest(1, |b| {
                            b.attr(DATA_VALUE, key);
                        });
                        if let Some(value) = value {
                            element.nest(2, |b| {
                                b.attr(DATA_VALUE, value);
                            });
                        }
                    });
                }
            });
        }
    }

    /// Appends a rule to `chain`.
    pub(crate) fn add_rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Expressions<'_>)) {
        let table = self.table;
        self.message(NEW_RULE, CREATE | APPEND).text(1, table).text(2, chain).nest(4, |list| {
            expressions(&mut Expressions(list));
        });
    }

    /// Sends it all. On a failure nothing was changed.
    pub(crate) fn commit(mut self, socket: &mut Socket) -> rustix::io::Result<()> {
        let last = self.count - 1;
        if last == 0 {
            return Ok(());
        }
        // Failures are told of every message; that there was none, of the last.
        self.batch.acknowledge();
        self.batch.message(BATCH_END, 0, &[0, 0, 0, 10]);
        socket.exchange_until(&mut self.batch, last)
    }
}

/// A rule's expressions, evaluated left to right until one does not match.
pub(crate) struct Expressions<'a>(&'a mut Batch);

impl Expressions<'_> {
    fn add(&mut self, name: &str, fill: impl FnOnce(&mut Batch)) -> &mut Self {
        self.0.nest(LIST_ELEMENT, |b| {
            b.text(1, name).nest(2, fill);
        });
        self
    }

    pub(crate) fn load(&mut self, what: Load, to: Register) -> &mut Self {
        let meta = |this: &mut Self, key: u32| {
            this.add("meta", |b| {
                b.be32(1, to.0).be32(2, key);
            });
        };
        match what {
            Load::InName => meta(self, 6),
            Load::OutName => meta(self, 7),
            Load::SocketUser => meta(self, 10),
            Load::Family => meta(self, 15),
            Load::L4Protocol => meta(self, 16),
            Load::InGroup => meta(self, 21),
            Load::OutGroup => meta(self, 22),
            Load::Payload(header, offset, length) => {
                self.add("payload", |b| {
                    b.be32(1, to.0).be32(2, header as u32).be32(3, offset).be32(4, length);
                });
            }
            Load::ConnectionState | Load::ConnectionStatus | Load::ConnectionDirection => {
                let key = match what {
                    Load::ConnectionState => 0,
                    Load::ConnectionDirection => 1,
                    _ => 2,
                };
                self.add("ct", |b| {
                    b.be32(1, to.0).be32(2, key);
                });
            }
            Load::DestinationType => {
                const RESULT_ADDRTYPE: u32 = 3;
                const FLAG_DESTINATION: u32 = 2;
                self.add("fib", |b| {
                    b.be32(1, to.0).be32(2, RESULT_ADDRTYPE).be32(3, FLAG_DESTINATION);
                });
            }
            Load::Random(below) => {
                const RANDOM: u32 = 1;
                self.add("numgen", |b| {
                    b.be32(1, to.0).be32(2, below).be32(3, RANDOM).be32(4, 0);
                });
            }
        }
        self
    }

    /// Has the kernel tell what becomes of the packet from here on; the register holds one byte of 1.
    pub(crate) fn trace(&mut self, on: Register) -> &mut Self {
        const NFTRACE: u32 = 12;
        const SOURCE: u16 = 3;
        self.add("meta", |b| {
            b.be32(2, NFTRACE).be32(SOURCE, on.0);
        })
    }

    /// What a link's queueing discipline sorts by.
    pub(crate) fn set_priority(&mut self, from: Register) -> &mut Self {
        const PRIORITY: u32 = 2;
        const SOURCE: u16 = 3;
        self.add("meta", |b| {
            b.be32(2, PRIORITY).be32(SOURCE, from.0);
        })
    }

    /// Writes `length` bytes of the network header at an even `offset`; `checksum` is where one is that covers them.
    pub(crate) fn write(&mut self, from: Register, offset: u32, length: u32, checksum: Option<u32>) -> &mut Self {
        const INTERNET: u32 = 1;
        self.add("payload", |b| {
            b.be32(5, from.0).be32(2, Header::Network as u32).be32(3, offset).be32(4, length);
            if let Some(at) = checksum {
                b.be32(6, INTERNET).be32(7, at);
            }
        })
    }

    /// `register & mask`, in place.
    pub(crate) fn mask(&mut self, register: Register, mask: [u8; 4]) -> &mut Self {
        self.replace_bits(register, mask, [0; 4])
    }

    /// `(register & kept) ^ put`, in place.
    pub(crate) fn replace_bits(&mut self, register: Register, kept: [u8; 4], put: [u8; 4]) -> &mut Self {
        self.add("bitwise", |b| {
            b.be32(1, register.0).be32(2, register.0).be32(3, 4);
            b.nest(4, |b| {
                b.attr(DATA_VALUE, &kept);
            });
            b.nest(5, |b| {
                b.attr(DATA_VALUE, &put);
            });
        })
    }

    pub(crate) fn equal(&mut self, register: Register, value: &[u8]) -> &mut Self {
        self.compare(register, 0, value)
    }

    pub(crate) fn not_equal(&mut self, register: Register, value: &[u8]) -> &mut Self {
        self.compare(register, 1, value)
    }

    fn compare(&mut self, register: Register, operator: u32, value: &[u8]) -> &mut Self {
        self.add("cmp", |b| {
            b.be32(1, register.0).be32(2, operator).nest(3, |b| {
                b.attr(DATA_VALUE, value);
            });
        })
    }

    /// The value of `map` for the key that starts at `key`; does not match when there is none.
    pub(crate) fn lookup(&mut self, map: &str, key: Register, value: Register) -> &mut Self {
        self.add("lookup", |b| {
            b.text(1, map).be32(2, key.0).be32(3, value.0);
        })
    }

    /// Goes on only when `set` has the key that starts at `key`.
    pub(crate) fn is_in(&mut self, set: &str, key: Register) -> &mut Self {
        self.add("lookup", |b| {
            b.text(1, set).be32(2, key.0);
        })
    }

    /// Goes on only when it has not.
    pub(crate) fn is_not_in(&mut self, set: &str, key: Register) -> &mut Self {
        const INVERTED: u32 = 1;
        self.add("lookup", |b| {
            b.text(1, set).be32(2, key.0).be32(5, INVERTED);
        })
    }

    /// Puts up to 16 bytes into registers.
    pub(crate) fn put(&mut self, value: &[u8], to: Register) -> &mut Self {
        self.add("immediate", |b| {
            b.be32(1, to.0).nest(2, |b| {
                b.attr(DATA_VALUE, value);
            });
        })
    }

    /// Jenkins' hash of `length` bytes, modulo a number.
    pub(crate) fn hash(&mut self, from: Register, length: u32, modulus: u32, to: Register) -> &mut Self {
        const JENKINS: u32 = 0;
        /// Any constant: a random one would send clients elsewhere whenever the rules are made anew.
        const SEED: u32 = 0x636f_7070;
        self.add("hash", |b| {
            b.be32(1, from.0).be32(2, to.0).be32(3, length).be32(4, modulus).be32(5, SEED).be32(7, JENKINS);
        })
    }

    /// Sends the connection to the address in these registers, which is of this family (`AF_INET` or `AF_INET6`), and
    /// to another port where one is given.
    pub(crate) fn destination_nat(&mut self, family: u8, address: Register, port: Option<Register>) -> &mut Self {
        const DESTINATION: u32 = 1;
        self.add("nat", |b| {
            b.be32(1, DESTINATION).be32(2, u32::from(family)).be32(3, address.0);
            if let Some(port) = port {
                b.be32(5, port.0);
            }
        })
    }

    pub(crate) fn reject(&mut self, how: Refusal) -> &mut Self {
        // Type, and code.
        let (kind, code) = match how {
            Refusal::TcpReset => (1, 0),
            Refusal::PortUnreachable => (2, 1),
        };
        self.add("reject", |b| {
            b.be32(1, kind).attr(2, &[code]);
        })
    }

    /// Lets the connection come from the address of the link it leaves by.
    pub(crate) fn masquerade(&mut self) -> &mut Self {
        self.add("masq", |_| {})
    }

    pub(crate) fn verdict(&mut self, verdict: Verdict<'_>) -> &mut Self {
        let (code, chain) = match verdict {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3i32, Some(chain)),
            Verdict::Return => (-5, None),
        };
        self.add("immediate", |b| {
            b.be32(1, 0).nest(2, |b| {
                b.nest(DATA_VERDICT, |b| {
                    b.be32(1, code as u32);
                    if let Some(chain) = chain {
                        b.text(2, chain);
                    }
                });
            });
        })
    }
}
