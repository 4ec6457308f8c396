//! Many datagrams by one system call: a server that has a queue of questions is spared most of the way into the kernel
//! and back.
//!
//! Answers of one length to one sender (with at most a shorter one behind them) go as one piece that the kernel cuts up at
//! the other end (`UDP_SEGMENT` of udp(7), Linux 4.18): the way through the network stack, which is most of what a small
//! datagram costs, is gone once for all of them. So it is with the two questions, for IPv4 and IPv6, that a C library asks
//! at once. Where the kernel or the way there does not take that, they go one by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;

use rustix::io::Errno;

/// Datagrams that came together to one socket, each with its sender and room for an answer to them.
pub struct Datagrams {
    /// As many pieces of `room` bytes as datagrams are taken at a time.
    packets: Vec<u8>,
    room: usize,
    lengths: Vec<usize>,
    senders: Vec<libc::sockaddr_storage>,
    answers: Vec<Vec<u8>>,
    /// How many of them are of the last [`Datagrams::receive`].
    came: usize,
}

impl Datagrams {
    /// Room for `count` (at least 1) datagrams of `room` bytes each; what is longer is cut.
    pub fn new(count: usize, room: usize) -> Self {
        let count = count.max(1);
        Self {
            packets: vec![0; count * room],
            room,
            lengths: vec![0; count],
            // SAFETY: the structure is made of numbers, and all zeros is an address of no family.
            senders: vec![unsafe { std::mem::zeroed() }; count],
            answers: vec![Vec::new(); count],
            came: 0,
        }
    }

    /// Takes what waits in `socket`, without waiting for more; the datagrams of before, and answers to them, are
    /// forgotten. Returns how many came: as many as there is room for, when more may be waiting.
    pub fn receive(&mut self, socket: impl AsFd) -> Result<usize, Errno> {
        self.came = 0;
        self.answers.iter_mut().for_each(Vec::clear);
        let pieces = self.packets.chunks_exact_mut(self.room);
        let mut pieces: Vec<_> = pieces.map(|packet| piece(packet.as_mut_ptr(), packet.len())).collect();
        let whole = size_of::<libc::sockaddr_storage>();
        let both = pieces.iter_mut().zip(&mut self.senders);
        let mut headers: Vec<_> =
            both.map(|(piece, sender)| header(std::slice::from_mut(piece), sender, whole)).collect();
        // SAFETY: each header names one piece of `packets` and one of `senders`, which live and are used by nobody else
        // until the call returns, with their lengths.
        let came = unsafe {
            libc::recvmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                headers.len() as libc::c_uint,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        self.came = usize::try_from(came).map_err(|_| last())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..self.came]) {
            *length = (header.msg_len as usize).min(self.room);
        }
        Ok(self.came)
    }

    /// The datagram at `at` of those that came, its sender (none where it has no internet address), and its answer:
    /// empty at first, and not sent when it still is.
    pub fn parts(&mut self, at: usize) -> (&[u8], Option<SocketAddr>, &mut Vec<u8>) {
        let packet = &self.packets[at * self.room..][..self.lengths[at]];
        (packet, address(&self.senders[at]), &mut self.answers[at])
    }

    /// Sends the answers; those to one sender in any order. One that the kernel does not take is left out: the queue is
    /// full, or there is no way back.
    pub fn answer(&mut self, socket: impl AsFd) {
        let socket = socket.as_fd();
        let to_send = |(answer, _): &(&mut Vec<u8>, _)| !answer.is_empty();
        let answers = self.answers.iter_mut().zip(&mut self.senders).take(self.came).filter(to_send);
        let mut answers: Vec<_> = answers
            .map(|(answer, sender)| {
                let piece = piece(answer.as_mut_ptr(), answer.len());
                Answer { to: address(sender), piece, sender }
            })
            .collect();
        // Those to one sender together, and of these the longer ones first.
        answers.sort_unstable_by_key(|answer| (answer.to, std::cmp::Reverse(answer.piece.iov_len)));
        let mut pieces: Vec<_> = answers.iter().map(|answer| answer.piece).collect();
        let mut controls = vec![SegmentSize::default(); answers.len()];
        let (mut headers, mut runs) = (Vec::with_capacity(answers.len()), Vec::with_capacity(answers.len()));
        let (mut begin, mut left, mut free) = (0, &mut pieces[..], controls.iter_mut());
        while begin < answers.len() {
            let count = run(answers[begin..].iter().map(|answer| (answer.to, answer.piece.iov_len)));
            let first = &mut answers[begin];
            let (own, rest) = std::mem::take(&mut left).split_at_mut(count);
            left = rest;
            let mut header = header(own, first.sender, length_of(first.sender));
            if let Some(control) = free.next().filter(|_| count > 1) {
                *control = SegmentSize::of(first.piece.iov_len as u16);
                header.msg_hdr.msg_control = ptr::from_mut(control).cast();
                header.msg_hdr.msg_controllen = size_of::<SegmentSize>() as _;
            }
            headers.push(header);
            runs.push(begin..begin + count);
            begin += count;
        }
        let mut done = 0;
        while done < headers.len() {
            // SAFETY: each header names whole answers, a sender that the kernel wrote and at most one control message,
            // which live and are not changed until the call returns.
            match unsafe { send(socket, &mut headers[done..]) } {
                Ok(sent) => done += sent,
                Err(Errno::INTR) => {}
                Err(_) => {
                    // The first of them; those after it may go elsewhere.
                    let alone = &mut answers[runs[done].clone()];
                    if alone.len() > 1 {
                        send_one_by_one(socket, alone);
                    }
                    done += 1;
                }
            }
        }
    }
}

/// An answer on its way.
struct Answer<'a> {
    to: Option<SocketAddr>,
    piece: libc::iovec,
    sender: &'a mut libc::sockaddr_storage,
}

/// Most bytes that go as one piece: a datagram's length is a number of 16 bits, and headers take some.
const RUN_BYTES: usize = 60_000;
/// Most datagrams in one piece (`UDP_MAX_SEGMENTS` of the kernel).
const RUN: usize = 64;

/// How many of these can go in one piece, from the first on: of one length to one sender, and a shorter one at the end.
fn run(mut answers: impl Iterator<Item = (Option<SocketAddr>, usize)>) -> usize {
    let Some((to, length)) = answers.next() else { return 0 };
    let most = RUN.min(RUN_BYTES / length.max(1)).max(1);
    let mut count = 1;
    for (_, shorter) in answers.take(most - 1).take_while(|(other, _)| *other == to) {
        debug_assert!(shorter <= length, "they are sorted");
        count += 1;
        if shorter < length {
            break;
        }
    }
    count
}

fn send_one_by_one(socket: BorrowedFd<'_>, answers: &mut [Answer<'_>]) {
    for answer in answers {
        let length = length_of(answer.sender);
        let mut alone = [header(std::slice::from_mut(&mut answer.piece), answer.sender, length)];
        // SAFETY: the header names a whole answer and its sender, which live and are not changed until the call returns.
        while unsafe { send(socket, &mut alone) } == Err(Errno::INTR) {}
    }
}

/// Sends what `headers` name, and returns how many of them; an error is the first one's.
///
/// # Safety
///
/// What the headers point to must be readable until this returns.
unsafe fn send(socket: BorrowedFd<'_>, headers: &mut [libc::mmsghdr]) -> Result<usize, Errno> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (first, count) = (headers.as_mut_ptr(), headers.len() as libc::c_uint);
    // SAFETY: as the caller promises; the headers themselves are lent for the call.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), first, count, flags as _) };
    usize::try_from(sent).map_err(|_| last())
}

/// The control message that says how long each datagram of a piece is.
#[derive(Clone, Copy, Default)]
#[repr(C, align(8))]
struct SegmentSize {
    length: usize,
    level: libc::c_int,
    kind: libc::c_int,
    size: u16,
}

impl SegmentSize {
    fn of(size: u16) -> Self {
        // Up to the end of `size`: what pads the structure is not the message's.
        let length = std::mem::offset_of!(Self, size) + size_of::<u16>();
        Self { length, level: libc::SOL_UDP, kind: libc::UDP_SEGMENT, size }
    }
}

fn piece(bytes: *mut u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: bytes.cast(), iov_len: length }
}

fn header(pieces: &mut [libc::iovec], sender: &mut libc::sockaddr_storage, sender_length: usize) -> libc::mmsghdr {
    // SAFETY: the structure is made of numbers and pointers, for which all zeros is a value.
    let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
    header.msg_hdr.msg_name = ptr::from_mut(sender).cast();
    header.msg_hdr.msg_namelen = sender_length as libc::socklen_t;
    header.msg_hdr.msg_iov = pieces.as_mut_ptr();
    header.msg_hdr.msg_iovlen = pieces.len() as _;
    header
}

/// How many bytes of a storage are the address.
fn length_of(sender: &libc::sockaddr_storage) -> usize {
    match i32::from(sender.ss_family) {
        libc::AF_INET => size_of::<libc::sockaddr_in>(),
        _ => size_of::<libc::sockaddr_in6>(),
    }
}

fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let from = ptr::from_ref(storage);
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure lies there, and the storage is as large and aligned as any.
            let v4 = unsafe { &*from.cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(v4.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*from.cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddr::V6(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id)))
        }
        _ => None,
    }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;

    fn pair(address: &str) -> (UdpSocket, UdpSocket) {
        let (server, client) = (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
        client.connect(server.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        (server, client)
    }

    /// Takes until `wanted` have come, in as many calls as it needs, and answers each with itself and a mark.
    fn echo(server: &UdpSocket, datagrams: &mut Datagrams, wanted: usize) {
        let mut all = 0;
        while all < wanted {
            let came = match datagrams.receive(server) {
                Ok(came) => came,
                Err(Errno::AGAIN) => continue,
                Err(error) => panic!("{error}"),
            };
            for at in 0..came {
                let (packet, _, answer) = datagrams.parts(at);
                answer.extend_from_slice(packet);
                answer.push(b'!');
            }
            datagrams.answer(server);
            all += came;
        }
    }

    #[test]
    fn each_of_many_senders_gets_the_answer_to_its_own_datagram_over_ipv4_and_ipv6() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (server, first) = pair(address);
            let second = UdpSocket::bind(address).unwrap();
            second.connect(server.local_addr().unwrap()).unwrap();
            second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            for at in 0..5 {
                first.send(format!("a{at}").as_bytes()).unwrap();
                second.send(format!("b{at}").as_bytes()).unwrap();
            }
            echo(&server, &mut Datagrams::new(3, 64), 10);
            for at in 0..5 {
                for (client, name) in [(&first, 'a'), (&second, 'b')] {
                    let mut buffer = [0; 64];
                    let len = client.recv(&mut buffer).unwrap();
                    assert_eq!(&buffer[..len], format!("{name}{at}!").as_bytes());
                }
            }
        }
    }

    #[test]
    fn an_empty_socket_says_so_and_an_answer_left_empty_is_not_sent() {
        let (server, client) = pair("127.0.0.1:0");
        let mut datagrams = Datagrams::new(4, 64);
        assert_eq!(datagrams.receive(&server), Err(Errno::AGAIN));
        for text in ["one", "two", "three"] {
            client.send(text.as_bytes()).unwrap();
        }
        assert_eq!(datagrams.receive(&server), Ok(3));
        let (packet, from, answer) = datagrams.parts(1);
        assert_eq!((packet, from), (&b"two"[..], Some(client.local_addr().unwrap())));
        answer.extend_from_slice(b"2");
        datagrams.answer(&server);
        let mut buffer = [0; 64];
        assert_eq!(client.recv(&mut buffer).unwrap(), 1);
        assert_eq!(buffer[0], b'2');
        client.set_nonblocking(true).unwrap();
        assert!(client.recv(&mut buffer).is_err(), "nothing else came");
    }

    #[test]
    fn answers_of_many_lengths_to_few_senders_all_arrive_as_they_are() {
        let (server, first) = pair("127.0.0.1:0");
        let second = UdpSocket::bind("127.0.0.1:0").unwrap();
        second.connect(server.local_addr().unwrap()).unwrap();
        second.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let lengths = [30, 1200, 40, 30, 1, 1200, 40, 1200, 40, 1199, 1201, 30];
        for (at, _) in lengths.iter().enumerate() {
            first.send(&[at as u8]).unwrap();
            second.send(&[100 + at as u8]).unwrap();
        }
        let (mut datagrams, mut left) = (Datagrams::new(32, 64), 2 * lengths.len());
        while left > 0 {
            let came = datagrams.receive(&server).unwrap_or_default();
            for at in 0..came {
                let (packet, _, answer) = datagrams.parts(at);
                let mark = packet[0];
                answer.resize(lengths[usize::from(mark % 100)], mark);
            }
            datagrams.answer(&server);
            left -= came;
        }
        for (client, base) in [(&first, 0), (&second, 100)] {
            let mut seen: Vec<(u8, usize)> = Vec::new();
            while seen.len() < lengths.len() {
                let mut buffer = [0; 2048];
                let len = client.recv(&mut buffer).unwrap();
                assert!(buffer[..len].iter().all(|byte| *byte == buffer[0]), "answers were mixed");
                seen.push((buffer[0] - base, len));
            }
            seen.sort_unstable();
            let wanted: Vec<_> = lengths.iter().enumerate().map(|(at, length)| (at as u8, *length)).collect();
            assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn equal_answers_to_one_sender_are_one_piece_with_a_shorter_one_behind_them() {
        let sender = |port| Some(SocketAddr::from(([127, 0, 0, 1], port)));
        let lengths = |lengths: &[usize]| run(lengths.iter().map(|length| (sender(1), *length)));
        assert_eq!(lengths(&[50]), 1);
        assert_eq!(lengths(&[50, 50, 50]), 3);
        assert_eq!(lengths(&[50, 50, 40, 40]), 3);
        assert_eq!(lengths(&[50, 40, 30]), 2);
        assert_eq!(lengths(&[50; 100]), RUN);
        assert_eq!(lengths(&[2000; 40]), 30);
        assert_eq!(lengths(&[100_000, 10]), 1);
        assert_eq!(run([(sender(1), 50), (sender(2), 50), (sender(1), 50)].into_iter()), 1);
    }

    #[test]
    fn where_the_kernel_cuts_no_piece_up_answers_go_one_by_one() {
        let (server, client) = pair("127.0.0.1:0");
        let off: libc::c_int = 1;
        // SAFETY: the kernel reads a number of this size.
        let rc = unsafe {
            let size = size_of_val(&off) as libc::socklen_t;
            libc::setsockopt(server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, (&raw const off).cast(), size)
        };
        assert_eq!(rc, 0, "a socket without checksums, which cuts nothing up");
        for at in 0..5 {
            client.send(format!("a{at}").as_bytes()).unwrap();
        }
        echo(&server, &mut Datagrams::new(8, 64), 5);
        let mut buffer = [0; 64];
        let mut all: Vec<Vec<u8>> =
            (0..5).map(|_| client.recv(&mut buffer).map(|len| buffer[..len].to_vec()).unwrap()).collect();
        all.sort();
        assert_eq!(all, ["a0!", "a1!", "a2!", "a3!", "a4!"].map(|text| text.as_bytes().to_vec()));
    }

    #[test]
    fn a_datagram_that_is_too_long_is_cut_and_an_answer_nobody_can_send_keeps_no_other_back() {
        let (server, client) = pair("127.0.0.1:0");
        client.send(&[b'x'; 100]).unwrap();
        client.send(b"second").unwrap();
        let mut datagrams = Datagrams::new(8, 10);
        assert_eq!(datagrams.receive(&server), Ok(2));
        assert_eq!(datagrams.parts(0).0, [b'x'; 10]);
        // Larger than any datagram.
        datagrams.parts(0).2.resize(100_000, 0);
        datagrams.parts(1).2.extend_from_slice(b"kept");
        datagrams.answer(&server);
        let mut buffer = [0; 64];
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"kept");
    }
}
