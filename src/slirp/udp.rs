//! The guest's UDP.
//!
//! # Theory of operation
//!
//! **Endpoint-independent mapping** (RFC 4787 REQ-1): one host socket per guest
//! address and port, not connected, so that the guest keeps its outside port
//! towards everybody and every answer reaches it.
//!
//! **Batches.** Datagrams of one flow to one destination that arrive in the
//! same round and have the same size leave as one `sendmsg` with `UDP_SEGMENT`;
//! the guest's own super-frames (USO) already are such a batch. Towards the
//! guest, datagrams are taken from the socket many at a time, and those of the
//! same sender and size become one super-frame.
//!
//! **Hops and errors.** The gateway is one hop: the host's packets carry the
//! guest's hop limit less one. `IP_RECVERR` brings back what routers said; the
//! guest gets it as the ICMP error it would have seen.
//!
//! **Limits.** [`MAX_FLOWS`]; the flow that was idle longest makes room. Idle
//! times: [`IDLE_DNS`], [`IDLE_UNANSWERED`], [`IDLE_ANSWERED`] (RFC 4787 REQ-5).

use std::collections::HashMap;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmsg,
};

use super::Core;
use super::counters::DropReason;
use super::egress::Problem;
use super::errqueue::{self, socket_addr};
use super::flow::{Idle, Slots, Table, Token};
use super::lwip::FrameBuf;
use super::packet::IpPacket;
use super::reactor::Readiness;
use super::sockets::{set_dont_fragment, set_hop_limit};
use crate::policy::{Protocol, Verdict};
use crate::wire;

/// Flows at most.
pub(crate) const MAX_FLOWS: usize = 8192;

/// Idle limit of a flow that only ever asked port 53.
const IDLE_DNS: Duration = Duration::from_secs(10);
/// Idle limit of a flow that was never answered.
const IDLE_UNANSWERED: Duration = Duration::from_secs(30);
/// Idle limit of a flow with traffic both ways.
const IDLE_ANSWERED: Duration = Duration::from_secs(180);

/// Bytes of a UDP header.
pub(crate) const HEADER: usize = 8;

/// Datagrams in one super-frame (Linux's `UDP_MAX_SEGMENTS` was 64 first).
const MAX_SEGMENTS: usize = 64;

/// Datagrams in one super-frame of the guest's: Linux makes no more
/// (`UDP_MAX_SEGMENTS`). Where the host cannot cut, each costs a system call.
const MAX_GUEST_SEGMENTS: usize = 128;

/// Payload bytes of one super-frame: a UDP datagram's limit.
const MAX_BATCH: usize = 65000;

/// Datagrams taken from a socket at once, while it has many and while it has
/// few (setting up a call costs with its size), and how often in one round.
const RECEIVE_BATCH: usize = 32;
const RECEIVE_FEW: usize = 2;
const RECEIVE_ROUNDS: usize = 4;

/// Largest datagram.
const MAX_DATAGRAM: usize = 65535;

#[derive(Debug)]
struct Flow {
    guest: SocketAddr,
    socket: OwnedFd,
    active: Instant,
    answered: bool,
    /// Asked nothing but port 53.
    dns_only: bool,
    /// As set on the socket; `None`: the kernel's default.
    hop_limit: Option<u8>,
    dont_fragment: Option<bool>,
    readable: bool,
    /// The last batch was full.
    busy: bool,
    marked: bool,
}

impl Idle for Flow {
    fn active(&self) -> Instant {
        self.active
    }

    fn limit(&self) -> Duration {
        match (self.answered, self.dns_only) {
            (_, true) => IDLE_DNS,
            (false, false) => IDLE_UNANSWERED,
            (true, false) => IDLE_ANSWERED,
        }
    }
}

/// A UDP datagram, or super-frame of several, from the guest.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) ip: IpPacket,
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Where in the frame the payload is.
    pub(crate) payload: Range<usize>,
    /// Size of each datagram in a super-frame.
    pub(crate) segment: Option<u16>,
}

/// One frame of a batch.
#[derive(Debug)]
struct Part {
    frame: FrameBuf,
    /// Where in it the IP packet is.
    packet: Range<usize>,
    /// And its payload.
    payload: Range<usize>,
}

impl Part {
    fn payload(&self) -> &[u8] {
        &self.frame.bytes()[self.payload.clone()]
    }

    fn packet(&self) -> &[u8] {
        &self.frame.bytes()[self.packet.clone()]
    }
}

/// Datagrams that wait for the end of the round.
#[derive(Debug)]
struct Batch {
    flow: Token,
    to: SocketAddr,
    /// Size of all but the last.
    size: usize,
    bytes: usize,
    hop_limit: u8,
    dont_fragment: bool,
    parts: Vec<Part>,
    /// The last was shorter: nothing can follow.
    closed: bool,
}

/// All UDP flows.
pub(crate) struct Udp {
    flows: Slots<Flow>,
    index: HashMap<SocketAddr, Token>,
    marked: Vec<Token>,
    batch: Option<Batch>,
    buffers: Vec<Box<[u8]>>,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp")
            .field("flows", &self.flows.len())
            .finish_non_exhaustive()
    }
}

impl Udp {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            flows: Slots::new(Table::Udp, limit.min(MAX_FLOWS)),
            index: HashMap::new(),
            marked: Vec::new(),
            batch: None,
            buffers: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes a datagram; `frame` holds its bytes.
    pub(crate) fn input(&mut self, core: &mut Core, arrival: Arrival, frame: FrameBuf) {
        if let Some(size) = arrival.segment
            && arrival.payload.len() > usize::from(size) * MAX_GUEST_SEGMENTS
        {
            return core.drop(DropReason::Malformed);
        }
        let to = match core.policy.verdict(Protocol::Udp, arrival.remote) {
            Verdict::Connect(to) => to,
            Verdict::Dns => {
                let query = &frame.bytes()[arrival.payload];
                return core
                    .local
                    .dns_datagram(arrival.guest, arrival.remote, query);
            }
            Verdict::Unreachable | Verdict::ConnectUnix(_) => {
                let packet = &frame.bytes()[arrival.ip.packet];
                return core.problem(Problem::NetUnreachable, packet);
            }
            Verdict::Drop | Verdict::Local => return core.drop(DropReason::NoNeighbour),
        };
        let flow = match self.flow_for(core, arrival.guest, to) {
            Ok(flow) => flow,
            Err(e) => {
                let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
                let packet = &frame.bytes()[arrival.ip.packet];
                match Problem::from_errno(errno) {
                    Some(problem) => core.problem(problem, packet),
                    None => core.drop(DropReason::HostSocket),
                }
                return;
            }
        };
        self.enqueue(core, flow, to, arrival, frame);
    }

    fn flow_for(
        &mut self,
        core: &mut Core,
        guest: SocketAddr,
        to: SocketAddr,
    ) -> std::io::Result<Token> {
        if let Some(&token) = self.index.get(&guest)
            && let Some(flow) = self.flows.get_mut(token)
        {
            flow.active = core.now;
            flow.dns_only &= to.port() == 53;
            return Ok(token);
        }
        if self.flows.is_full()
            && let Some(oldest) = self.flows.longest_idle()
        {
            self.remove(oldest);
        }
        let socket = core.sockets.udp(to)?;
        let mut watched = Ok(());
        let token = self.flows.insert_with(|token| {
            watched = core.reactor.watch(&socket, token);
            watched.is_ok().then_some(Flow {
                guest,
                socket,
                active: core.now,
                answered: false,
                dns_only: to.port() == 53,
                hop_limit: None,
                dont_fragment: None,
                readable: false,
                busy: false,
                marked: false,
            })
        });
        watched?;
        let token = token.ok_or(Errno::ENOBUFS)?;
        self.index.insert(guest, token);
        self.flows.look_by(core.now + IDLE_DNS);
        Ok(token)
    }

    fn remove(&mut self, token: Token) {
        if let Some(flow) = self.flows.remove(token) {
            self.index.remove(&flow.guest);
        }
    }

    /// Adds to the batch under way when it fits, else sends that first.
    fn enqueue(
        &mut self,
        core: &mut Core,
        flow: Token,
        to: SocketAddr,
        arrival: Arrival,
        frame: FrameBuf,
    ) {
        let len = arrival.payload.len();
        // The ingress has checked it, but for the gateway's own addresses.
        let hop_limit = arrival.ip.hop_limit.saturating_sub(1).max(1);
        let dont_fragment = arrival.ip.dont_fragment;
        if let Some(batch) = &mut self.batch
            && batch.flow == flow
            && batch.to == to
            && (batch.hop_limit, batch.dont_fragment) == (hop_limit, dont_fragment)
            && !batch.closed
            && arrival.segment.is_none()
            && (1..=batch.size).contains(&len)
            && batch.parts.len() < MAX_SEGMENTS
            && batch.bytes + len <= MAX_BATCH
        {
            batch.bytes += len;
            batch.closed = len < batch.size;
            batch.parts.push(Part {
                frame,
                packet: arrival.ip.packet,
                payload: arrival.payload,
            });
            return;
        }
        self.flush(core);
        self.batch = Some(Batch {
            flow,
            to,
            size: arrival.segment.map_or(len, usize::from),
            bytes: len,
            hop_limit,
            dont_fragment,
            parts: vec![Part {
                frame,
                packet: arrival.ip.packet,
                payload: arrival.payload,
            }],
            closed: arrival.segment.is_some() || len == 0,
        });
    }

    /// Sends the batch under way.
    pub(crate) fn flush(&mut self, core: &mut Core) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let Some(flow) = self.flows.get_mut(batch.flow) else {
            return;
        };
        if flow.hop_limit != Some(batch.hop_limit)
            && set_hop_limit(&flow.socket, batch.to.ip(), batch.hop_limit).is_ok()
        {
            flow.hop_limit = Some(batch.hop_limit);
        }
        if flow.dont_fragment != Some(batch.dont_fragment)
            && set_dont_fragment(&flow.socket, batch.to.ip(), batch.dont_fragment).is_ok()
        {
            flow.dont_fragment = Some(batch.dont_fragment);
        }
        let slices: Vec<IoSlice<'_>> = batch
            .parts
            .iter()
            .map(|part| IoSlice::new(part.payload()))
            .collect();
        let several = batch.bytes > batch.size;
        let size = u16::try_from(batch.size).unwrap_or(u16::MAX);
        match send(&flow.socket, batch.to, &slices, several.then_some(size)) {
            Ok(()) => {}
            // No segmentation on this route, or a datagram that is too large
            // for it: one by one, each with its own fate.
            Err(_) if several => {
                for part in &batch.parts {
                    for piece in part.payload().chunks(batch.size) {
                        let sent = send(&flow.socket, batch.to, &[IoSlice::new(piece)], None);
                        if let Err(errno) = sent {
                            refused(core, &flow.socket, errno, part.packet());
                        }
                    }
                }
            }
            Err(errno) => refused(core, &flow.socket, errno, batch.parts[0].packet()),
        }
    }

    /// The reactor has news of a flow's socket.
    pub(crate) fn host_ready(&mut self, core: &mut Core, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        if ready.error {
            let reports = errqueue::drain(&flow.socket);
            let guest = flow.guest;
            let hops = flow.hop_limit.unwrap_or(64).saturating_add(1);
            // The error is also pending on the socket; take it, or the next
            // call would fail with it.
            let _ = socket2::SockRef::from(&flow.socket).take_error();
            for report in reports {
                relay(core, guest, hops, report);
            }
        }
        if ready.readable {
            flow.readable = true;
            self.mark(token);
        }
    }

    fn mark(&mut self, token: Token) {
        if let Some(flow) = self.flows.get_mut(token)
            && !flow.marked
        {
            flow.marked = true;
            self.marked.push(token);
        }
    }

    /// Takes what arrived for marked flows. True when there is more.
    pub(crate) fn work(&mut self, core: &mut Core) -> bool {
        for token in std::mem::take(&mut self.marked) {
            let Some(flow) = self.flows.get_mut(token) else {
                continue;
            };
            flow.marked = false;
            for _ in 0..RECEIVE_ROUNDS {
                if !self.receive(core, token) {
                    break;
                }
            }
            if self.flows.get_mut(token).is_some_and(|flow| flow.readable) {
                self.mark(token);
            }
        }
        !self.marked.is_empty()
    }

    /// Takes one batch from a socket. True when there may be more.
    fn receive(&mut self, core: &mut Core, token: Token) -> bool {
        let Some(flow) = self.flows.get_mut(token) else {
            return false;
        };
        let batch = if flow.busy {
            RECEIVE_BATCH
        } else {
            RECEIVE_FEW
        };
        while self.buffers.len() < batch {
            self.buffers.push(vec![0; MAX_DATAGRAM].into());
        }
        let mut received: arrayvec::ArrayVec<Datagram, RECEIVE_BATCH> = arrayvec::ArrayVec::new();
        let count = {
            let mut slices: Vec<[IoSliceMut<'_>; 1]> = self
                .buffers
                .iter_mut()
                .take(batch)
                .map(|b| [IoSliceMut::new(b)])
                .collect();
            // New every time: the kernel shortens the lengths in them to what the
            // last call needed, and nothing sets them back.
            let mut headers =
                MultiHeaders::<SockaddrStorage>::preallocate(batch, Some(cmsg_space!(i32)));
            let flags = MsgFlags::MSG_DONTWAIT;
            let fd = flow.socket.as_raw_fd();
            let results = recvmmsg(fd, &mut headers, slices.iter_mut(), flags, None);
            match results {
                Ok(results) => {
                    let mut count = 0;
                    for (at, message) in results.enumerate() {
                        count += 1;
                        let Some(from) = message.address.as_ref().and_then(socket_addr) else {
                            continue;
                        };
                        let segment = message.cmsgs().ok().and_then(|mut c| {
                            c.find_map(|c| match c {
                                ControlMessageOwned::UdpGroSegments(size) => {
                                    usize::try_from(size).ok()
                                }
                                _ => None,
                            })
                        });
                        received.push(Datagram {
                            at,
                            len: message.bytes,
                            segment,
                            from,
                        });
                    }
                    count
                }
                Err(Errno::EAGAIN) => {
                    flow.readable = false;
                    return false;
                }
                // An error of an earlier datagram; the queue has the details.
                Err(_) => return true,
            }
        };
        flow.readable = count == batch;
        flow.busy = count == batch;
        flow.active = core.now;
        if count > 0 && !flow.answered {
            flow.answered = true;
        }
        let (guest, more) = (flow.guest, flow.readable);
        to_guest(core, guest, &received, &self.buffers);
        more
    }

    /// Removes idle flows.
    pub(crate) fn poll_timers(&mut self, now: Instant) {
        for token in self.flows.idle(now) {
            self.remove(token);
        }
    }

    /// When [`Udp::poll_timers`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.flows.next_look()
    }
}

/// A datagram that was received.
#[derive(Debug, Clone, Copy)]
struct Datagram {
    /// Index of its buffer.
    at: usize,
    len: usize,
    /// Size of each, when several came as one.
    segment: Option<usize>,
    from: SocketAddr,
}

impl Datagram {
    fn size(&self) -> usize {
        self.segment.unwrap_or(self.len).min(self.len)
    }
}

fn send(
    socket: &OwnedFd,
    to: SocketAddr,
    slices: &[IoSlice<'_>],
    segment: Option<u16>,
) -> Result<(), Errno> {
    let address = SockaddrStorage::from(to);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let gso = segment
        .as_ref()
        .map(|size| [ControlMessage::UdpGsoSegments(size)]);
    let control = gso.as_ref().map_or(&[][..], |c| &c[..]);
    // ICMP errors of earlier datagrams are reported by the next call, which
    // then has sent nothing: try again once.
    match sendmsg(socket.as_raw_fd(), slices, control, flags, Some(&address)) {
        Err(
            Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EACCES,
        ) => sendmsg(socket.as_raw_fd(), slices, control, flags, Some(&address)).map(|_| ()),
        other => other.map(|_| ()),
    }
}

/// The host did not take a datagram: tell the guest why, where there is a way.
fn refused(core: &mut Core, socket: &OwnedFd, errno: Errno, packet: &[u8]) {
    let problem = match errno {
        Errno::EMSGSIZE => errqueue::path_mtu(socket).map(|mtu| Problem::TooBig { mtu }),
        errno => Problem::from_errno(errno),
    };
    match problem {
        Some(problem) => core.problem(problem, packet),
        None => core.drop(DropReason::HostError),
    }
}

/// Passes on what a router, or the host, said.
fn relay(core: &mut Core, guest: SocketAddr, hops: u8, report: errqueue::Report) {
    let remote = core.as_guest_sees(report.destination, guest);
    // The packet as the guest sent it, as far as it is known.
    let Ok(offending) = wire::udp::datagram(guest, remote, hops, &report.payload) else {
        return;
    };
    match report.offender.filter(|a| !a.is_loopback()) {
        Some(router) => core.egress().problem(report.problem, router, &offending),
        None => core.problem(report.problem, &offending),
    }
}

/// Sends datagrams to the guest, those that belong together as one super-frame.
fn to_guest(core: &mut Core, guest: SocketAddr, datagrams: &[Datagram], buffers: &[Box<[u8]>]) {
    let mut rest = datagrams;
    while let Some(first) = rest.first() {
        let run = if core.uso { run_length(rest) } else { 1 };
        let (now, later) = rest.split_at(run);
        rest = later;
        let from = core.as_guest_sees(first.from, guest);
        let overhead = HEADER + if from.is_ipv4() { 20 } else { 40 };
        let fits = first.size() + overhead <= core.egress().mtu().get().into();
        if core.uso && fits && now.iter().map(|d| d.len).sum::<usize>() > first.size() {
            super_frame(core, from, guest, first.size(), now, buffers);
            continue;
        }
        for datagram in now {
            let bytes = &buffers[datagram.at][..datagram.len];
            let size = datagram.size().max(1);
            let mut pieces = bytes.chunks(size);
            let only = if bytes.is_empty() {
                Some(&[][..])
            } else {
                None
            };
            for piece in only.into_iter().chain(&mut pieces) {
                core.send_udp(from, guest, piece);
            }
        }
    }
}

/// How many of the first datagrams can share a super-frame: same sender, same
/// size, the last possibly shorter.
fn run_length(datagrams: &[Datagram]) -> usize {
    let first = datagrams[0];
    let size = first.size();
    if size == 0 {
        return 1;
    }
    let (mut bytes, mut segments) = (0, 0);
    let mut run = 0;
    for d in datagrams {
        let fits = d.from == first.from
            && (1..=size).contains(&d.size())
            && (d.segment.is_none() || d.size() == size)
            && bytes + d.len <= MAX_BATCH
            && segments + d.len.div_ceil(size) <= MAX_SEGMENTS;
        if !fits {
            break;
        }
        bytes += d.len;
        segments += d.len.div_ceil(size);
        run += 1;
        if d.len % size != 0 {
            break; // a short one ends the frame
        }
    }
    run.max(1)
}

fn super_frame(
    core: &mut Core,
    from: SocketAddr,
    guest: SocketAddr,
    size: usize,
    datagrams: &[Datagram],
    buffers: &[Box<[u8]>],
) {
    let slices: arrayvec::ArrayVec<IoSlice<'_>, RECEIVE_BATCH> = datagrams
        .iter()
        .map(|d| IoSlice::new(&buffers[d.at][..d.len]))
        .collect();
    let bytes: usize = datagrams.iter().map(|d| d.len).sum();
    let Ok(size) = u16::try_from(size) else {
        return;
    };
    let headers = headers(from, guest, bytes);
    core.egress().datagrams(&headers, &slices, size);
}

/// IP and UDP headers in front of `bytes` of payload; the UDP checksum is empty.
fn headers(from: SocketAddr, to: SocketAddr, bytes: usize) -> arrayvec::ArrayVec<u8, 48> {
    const HOP_LIMIT: u8 = 64;
    let mut out = arrayvec::ArrayVec::new();
    // At most MAX_BATCH and headers: fits 16 bits.
    let udp_len = u16::try_from(bytes + HEADER).unwrap_or(u16::MAX);
    match (from.ip(), to.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let mut h = [
                0x45, 0, 0, 0, 0, 0, 0x40, 0, HOP_LIMIT, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
            ];
            h[2..4].copy_from_slice(&(udp_len + 20).to_be_bytes());
            h[12..16].copy_from_slice(&Ipv4Addr::octets(&a));
            h[16..20].copy_from_slice(&Ipv4Addr::octets(&b));
            let sum = wire::checksum::internet(&h);
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend(h);
        }
        (a, b) => {
            let octets = |addr| match addr {
                IpAddr::V6(a) => Ipv6Addr::octets(&a),
                IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
            };
            out.extend([0x60, 0, 0, 0]);
            out.extend(udp_len.to_be_bytes());
            out.extend([17, HOP_LIMIT]);
            out.extend(octets(a));
            out.extend(octets(b));
        }
    }
    out.extend(from.port().to_be_bytes());
    out.extend(to.port().to_be_bytes());
    out.extend(udp_len.to_be_bytes());
    out.extend([0, 0]);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(from: &str, len: usize, segment: Option<usize>) -> Datagram {
        Datagram {
            at: 0,
            len,
            segment,
            from: from.parse().expect("address"),
        }
    }

    #[test]
    fn runs_are_of_one_sender_and_size() {
        let (a, b) = ("192.0.2.1:1", "192.0.2.2:1");
        for (expected, datagrams) in [
            (
                3,
                vec![
                    datagram(a, 100, None),
                    datagram(a, 100, None),
                    datagram(a, 100, None),
                ],
            ),
            (
                2,
                vec![
                    datagram(a, 100, None),
                    datagram(a, 50, None),
                    datagram(a, 100, None),
                ],
            ),
            (1, vec![datagram(a, 100, None), datagram(a, 200, None)]),
            (1, vec![datagram(a, 100, None), datagram(b, 100, None)]),
            (1, vec![datagram(a, 0, None), datagram(a, 0, None)]),
            (1, vec![datagram(a, 250, Some(100)), datagram(a, 100, None)]),
            (2, vec![datagram(a, 300, Some(100)), datagram(a, 100, None)]),
            (
                1,
                vec![datagram(a, 60_000, None), datagram(a, 60_000, None)],
            ),
        ] {
            assert_eq!(run_length(&datagrams), expected, "{datagrams:?}");
        }
    }

    #[test]
    fn headers_parse() {
        for (from, to) in [
            ("192.0.2.1:53", "10.0.2.100:999"),
            ("[2001:db8::1]:53", "[fd00::100]:999"),
        ] {
            let (from, to): (SocketAddr, SocketAddr) =
                (from.parse().expect("address"), to.parse().expect("address"));
            let mut packet = headers(from, to, 5).to_vec();
            packet.extend_from_slice(b"hello");
            let ip = IpPacket::parse(&packet, 0).expect("valid");
            assert_eq!((ip.source, ip.destination), (from.ip(), to.ip()));
            assert_eq!(packet[ip.payload].len(), HEADER + 5);
        }
    }
}
