//! Which device nodes a container may make and open: the rules, and their two renderings, lines for v1's
//! `devices.allow` and a BPF program for v2.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    Char,
    Block,
}

/// One thing that is allowed. A number that is `None` stands for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    pub kind: DeviceKind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

/// What is not allowed by these rules is denied.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRules {
    /// Every device (privileged containers). The other rules then do not matter.
    pub all: bool,
    /// Allowed beyond [`DeviceRules::USUAL`].
    pub extra: Vec<DeviceRule>,
}

impl DeviceRule {
    const fn made(kind: DeviceKind) -> Self {
        Self { kind, major: None, minor: None, read: false, write: false, mknod: true }
    }

    const fn used(major: u32, minor: Option<u32>) -> Self {
        Self { kind: DeviceKind::Char, major: Some(major), minor, read: true, write: true, mknod: true }
    }

    /// `/dev/net/tun`, for [`DeviceRules::extra`]; not among the usual ones.
    pub const TUN: DeviceRule = DeviceRule::used(10, Some(200));

    /// The line for `devices.allow` (admin-guide/cgroup-v1/devices).
    pub(crate) fn line(&self) -> String {
        let kind = match self.kind {
            DeviceKind::Char => 'c',
            DeviceKind::Block => 'b',
        };
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let mut line = format!("{kind} {}:{} ", number(self.major), number(self.minor));
        for (on, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            if on {
                line.push(letter);
            }
        }
        line
    }
}

impl DeviceRules {
    /// What every container has, the list people know from docker: nodes may be made, but only these opened
    /// (numbers from Documentation/admin-guide/devices.txt).
    pub const USUAL: [DeviceRule; 11] = [
        DeviceRule::made(DeviceKind::Char),
        DeviceRule::made(DeviceKind::Block),
        DeviceRule::used(1, Some(3)), // null
        DeviceRule::used(1, Some(5)), // zero
        DeviceRule::used(1, Some(7)), // full
        DeviceRule::used(1, Some(8)), // random
        DeviceRule::used(1, Some(9)), // urandom
        DeviceRule::used(5, Some(0)), // tty
        DeviceRule::used(5, Some(1)), // console
        DeviceRule::used(5, Some(2)), // ptmx
        DeviceRule::used(136, None),  // pts/*
    ];

    /// Exactly [`Self::USUAL`].
    pub fn are_usual(&self) -> bool {
        !self.all && self.extra.is_empty()
    }

    pub(crate) fn allowed(&self) -> impl Iterator<Item = &DeviceRule> {
        Self::USUAL.iter().chain(&self.extra)
    }

    /// The v2 program: 1 for an allowed access, else 0. Its context is `struct bpf_cgroup_dev_ctx`: access type
    /// (device type in the low half, access in the high half), major, minor.
    pub(crate) fn program(&self) -> Vec<u64> {
        const ACCESS_MKNOD: i32 = 1;
        const ACCESS_READ: i32 = 2;
        const ACCESS_WRITE: i32 = 4;
        const DEVICE_BLOCK: i32 = 1;
        const DEVICE_CHAR: i32 = 2;
        // r2 = type, r3 = access, r4 = major, r5 = minor
        let mut code = vec![
            insn(LOAD_WORD, 2, 1, 0, 0),
            insn(AND_IMMEDIATE, 2, 0, 0, 0xffff),
            insn(LOAD_WORD, 3, 1, 0, 0),
            insn(SHIFT_RIGHT, 3, 0, 0, 16),
            insn(LOAD_WORD, 4, 1, 4, 0),
            insn(LOAD_WORD, 5, 1, 8, 0),
        ];
        for rule in self.allowed() {
            let mut tests: Vec<(u8, i32)> = Vec::with_capacity(3);
            tests.push((2, if rule.kind == DeviceKind::Block { DEVICE_BLOCK } else { DEVICE_CHAR }));
            tests.extend(rule.major.map(|major| (4, major as i32)));
            tests.extend(rule.minor.map(|minor| (5, minor as i32)));
            let mut mask = 0;
            for (on, bit) in [(rule.read, ACCESS_READ), (rule.write, ACCESS_WRITE), (rule.mknod, ACCESS_MKNOD)] {
                mask |= if on { bit } else { 0 };
            }
            // Each test jumps over what is left of the rule: other tests, 3 of the access test, 2 of the answer.
            let mut left = tests.len() as i16 + 5;
            for (register, wanted) in tests {
                left -= 1;
                code.push(insn(JUMP32_NOT_EQUAL, register, 0, left, wanted));
            }
            code.push(insn(MOVE, 1, 3, 0, 0));
            code.push(insn(AND_IMMEDIATE, 1, 0, 0, mask));
            code.push(insn(JUMP_NOT_EQUAL_REGISTER, 1, 3, 2, 0));
            code.push(insn(MOVE_IMMEDIATE, 0, 0, 0, 1));
            code.push(insn(EXIT, 0, 0, 0, 0));
        }
        code.push(insn(MOVE_IMMEDIATE, 0, 0, 0, i32::from(self.all)));
        code.push(insn(EXIT, 0, 0, 0, 0));
        code
    }
}

// Opcodes: RFC 9669, sections 4 and 5.
const LOAD_WORD: u8 = 0x61;
const AND_IMMEDIATE: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const MOVE: u8 = 0xbf;
const MOVE_IMMEDIATE: u8 = 0xb7;
const JUMP32_NOT_EQUAL: u8 = 0x56;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// One instruction: opcode, destination and source registers (a nibble each), offset, immediate.
fn insn(opcode: u8, to: u8, from: u8, offset: i16, immediate: i32) -> u64 {
    let mut bytes = [0u8; 8];
    bytes[0] = opcode;
    bytes[1] = to | from << 4;
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..8].copy_from_slice(&immediate.to_ne_bytes());
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the program answers, by interpreting the few instructions it uses.
    fn answer(program: &[u64], kind: DeviceKind, access: u32, major: u32, minor: u32) -> u64 {
        let kind = if kind == DeviceKind::Block { 1 } else { 2 };
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u64; 11];
        let mut at = 0usize;
        loop {
            let b = program[at].to_ne_bytes();
            let (to, from) = (usize::from(b[1] & 15), usize::from(b[1] >> 4));
            let offset = i16::from_ne_bytes([b[2], b[3]]);
            let immediate = i32::from_ne_bytes([b[4], b[5], b[6], b[7]]);
            at += 1;
            let jump = match b[0] {
                LOAD_WORD => {
                    registers[to] = u64::from(context[offset as usize / 4]);
                    false
                }
                AND_IMMEDIATE => {
                    registers[to] &= immediate as u64;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= immediate;
                    false
                }
                MOVE => {
                    registers[to] = registers[from];
                    false
                }
                MOVE_IMMEDIATE => {
                    registers[to] = immediate as u64;
                    false
                }
                JUMP32_NOT_EQUAL => registers[to] as u32 != immediate as u32,
                JUMP_NOT_EQUAL_REGISTER => registers[to] != registers[from],
                EXIT => return registers[0],
                other => panic!("opcode {other:#x}"),
            };
            if jump {
                at += offset as usize;
            }
        }
    }

    #[test]
    fn the_program_allows_what_the_rules_allow_and_nothing_else() {
        let disk =
            DeviceRule { kind: DeviceKind::Block, major: Some(8), minor: None, read: true, write: false, mknod: true };
        let usual = DeviceRules::default().program();
        let more = DeviceRules { all: false, extra: vec![disk] }.program();
        let all = DeviceRules { all: true, extra: vec![] }.program();
        let (mknod, read, write) = (1, 2, 4);
        // (kind, access, major, minor, usual, with the disk)
        let table = [
            (DeviceKind::Char, read | write, 1, 3, 1, 1),
            (DeviceKind::Char, read | write, 1, 1, 0, 0), // mem
            (DeviceKind::Char, read, 136, 77, 1, 1),
            (DeviceKind::Char, mknod, 1, 1, 1, 1),
            (DeviceKind::Char, mknod | read, 1, 1, 0, 0),
            (DeviceKind::Block, mknod, 7, 0, 1, 1),
            (DeviceKind::Block, read, 8, 16, 0, 1),
            (DeviceKind::Block, read | write, 8, 16, 0, 0),
            (DeviceKind::Char, read, 8, 16, 0, 0),
            (DeviceKind::Char, read, 10, 200, 0, 0),
        ];
        for (kind, access, major, minor, in_usual, in_more) in table {
            assert_eq!(answer(&usual, kind, access, major, minor), in_usual, "{kind:?} {access} {major}:{minor}");
            assert_eq!(answer(&more, kind, access, major, minor), in_more, "{kind:?} {access} {major}:{minor}");
            assert_eq!(answer(&all, kind, access, major, minor), 1);
        }
    }

    #[test]
    fn v1_lines_are_as_the_kernel_reads_them() {
        assert_eq!(DeviceRule::TUN.line(), "c 10:200 rwm");
        assert_eq!(DeviceRule::made(DeviceKind::Block).line(), "b *:* m");
        assert_eq!(DeviceRules::USUAL[10].line(), "c 136:* rwm");
    }
}
