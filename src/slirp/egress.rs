//! The way out: IP packets become frames for the guest.
//!
//! Headers are gathered on the stack, payload is passed on by reference; no
//! checksum is computed over payload here. A packet larger than the MTU goes
//! out as a super-frame when its pieces are segments, and as IP fragments when
//! it is one datagram. A packet for a guest whose hardware address is not known
//! waits until the guest has been asked ([`neighbours`](super::neighbours)).

use std::fmt;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::time::Instant;

use arrayvec::ArrayVec;
use nix::errno::Errno;

use super::counters::{Counters, DropReason};
use super::lwip;
use super::neighbours::{Held, Holding, Neighbours};
use super::packet::{ETHERNET, IpPacket, protocol};
use crate::net::{AddressPlan, Checksum, Gso, GsoKind, MacAddr, Mtu, Offload};
use crate::wire::icmp::{self, ErrorBudget, Spend, V4Error, V6Error};
use crate::wire::{checksum, neighbour};

/// Why a packet of the guest went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    NetUnreachable,
    HostUnreachable,
    PortUnreachable,
    Prohibited,
    TooBig { mtu: u16 },
    HopLimit,
    Reassembly,
}

impl Problem {
    /// What a failed connect or send says about the way to the destination;
    /// `None` when it says nothing about that.
    pub(crate) fn from_errno(errno: Errno) -> Option<Self> {
        match errno {
            Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EADDRNOTAVAIL | Errno::ENONET => {
                Some(Self::NetUnreachable)
            }
            Errno::EHOSTUNREACH | Errno::EHOSTDOWN => Some(Self::HostUnreachable),
            Errno::ECONNREFUSED => Some(Self::PortUnreachable),
            Errno::EACCES | Errno::EPERM => Some(Self::Prohibited),
            _ => None,
        }
    }

    /// The ICMP packet that tells the sender of `offending`.
    fn packet(self, source: IpAddr, offending: &[u8]) -> Option<Vec<u8>> {
        let ip = IpPacket::parse(offending, 0).ok()?;
        match (source, ip.source) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                Some(icmp::v4_error(from, to, self.v4(), offending))
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                Some(icmp::v6_error(from, to, self.v6(), offending))
            }
            _ => None,
        }
    }

    const fn v4(self) -> V4Error {
        match self {
            Self::NetUnreachable => V4Error::NetUnreachable,
            Self::HostUnreachable => V4Error::HostUnreachable,
            Self::PortUnreachable => V4Error::PortUnreachable,
            Self::Prohibited => V4Error::AdminProhibited,
            Self::TooBig { mtu } => V4Error::FragmentationNeeded { mtu },
            Self::HopLimit => V4Error::TtlExceeded,
            Self::Reassembly => V4Error::ReassemblyTimeExceeded,
        }
    }

    fn v6(self) -> V6Error {
        match self {
            Self::NetUnreachable => V6Error::NoRoute,
            Self::HostUnreachable => V6Error::AddressUnreachable,
            Self::PortUnreachable => V6Error::PortUnreachable,
            Self::Prohibited => V6Error::AdminProhibited,
            Self::TooBig { mtu } => V6Error::PacketTooBig { mtu: mtu.into() },
            Self::HopLimit => V6Error::HopLimitExceeded,
            Self::Reassembly => V6Error::ReassemblyTimeExceeded,
        }
    }
}

/// Takes frames for the guest.
pub trait Outlet: fmt::Debug {
    /// Sends one frame; `WouldBlock` drops it.
    ///
    /// # Errors
    /// When the frame could not be sent.
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()>;

    /// Whether the last frame met a wire that delays, queues or loses because it
    /// was told to. TCP avoids congestion on those; a link without is the guest's
    /// own, and as fast as its kernel reads.
    fn is_wire(&self) -> bool {
        false
    }
}

/// Longest header in front of a payload: Ethernet, IPv6 and TCP with options.
const MAX_HEADERS: usize = ETHERNET + 40 + 60;

/// Payload slices of one frame, the headers not counted.
const MAX_SLICES: usize = 260;

/// Least piece a super-frame is cut into, in bytes, whatever the guest asks
/// for: Linux's own lower limit of an MSS (`TCP_MIN_SND_MSS`, less options).
const MIN_MSS: u16 = 48;

/// ICMP errors per second in the long run, and at once (RFC 4443 section 2.4(f)).
const ERRORS_PER_SECOND: u32 = 1000;
const ERROR_BURST: u32 = 200;

/// Builds and sends frames.
#[derive(Debug)]
pub(crate) struct Egress {
    outlet: Box<dyn Outlet>,
    neighbours: Neighbours,
    plan: AddressPlan,
    pub(crate) counters: Counters,
    /// Identification of the next packet that is fragmented.
    next_id: u16,
    /// Limits ICMP errors.
    errors: ErrorBudget,
    now: Instant,
}

impl Egress {
    pub(crate) fn new(outlet: Box<dyn Outlet>, plan: AddressPlan, now: Instant) -> Self {
        Self {
            outlet,
            neighbours: Neighbours::default(),
            plan,
            counters: Counters::default(),
            next_id: 0,
            errors: ErrorBudget::new(ERRORS_PER_SECOND, ERROR_BURST, now),
            now,
        }
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
    }

    /// Remembers whose hardware address an IP address is, and sends what waited
    /// for it.
    pub(crate) fn learn(&mut self, addr: IpAddr, mac: MacAddr) {
        for mut held in self.neighbours.learn(addr, mac) {
            held.frame[..6].copy_from_slice(&mac.0);
            self.send(&held.offload, &[IoSlice::new(&held.frame)]);
        }
    }

    /// Whose hardware address is known, and who did not answer.
    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// Asks again where an answer is overdue. Gives back the addresses that
    /// did not answer at all.
    pub(crate) fn poll_neighbours(&mut self) -> Vec<IpAddr> {
        if self
            .neighbours
            .next_deadline()
            .is_none_or(|at| at > self.now)
        {
            return Vec::new();
        }
        let due = self.neighbours.poll(self.now);
        for addr in due.ask {
            self.ask(addr);
        }
        let silent = due.silent.into_iter();
        silent
            .map(|(addr, dropped)| {
                self.drop_unanswered(dropped);
                addr
            })
            .collect()
    }

    fn drop_unanswered(&mut self, frames: usize) {
        for _ in 0..frames {
            self.counters.drop(DropReason::NoHardwareAddress);
        }
    }

    /// Asks the guest's network who has `addr`.
    fn ask(&mut self, addr: IpAddr) {
        let ours = match addr {
            IpAddr::V4(_) => self.plan.gateway_beside(addr),
            // The answer comes to the address that guests know as the router.
            IpAddr::V6(_) => self.plan.v6.map(|p| p.gateway_link_local.into()),
        };
        let query = ours.and_then(|ours| neighbour::query(self.plan.gateway_mac, ours, addr));
        if let Some(query) = query {
            self.frame(&query);
        }
    }

    pub(crate) fn mtu(&self) -> Mtu {
        self.plan.mtu
    }

    /// Sends a whole frame that somebody else built.
    pub(crate) fn frame(&mut self, frame: &[u8]) {
        self.send(&Offload::default(), &[IoSlice::new(frame)]);
    }

    /// Sends an IP packet of any size up to 64 KiB, its checksums complete.
    pub(crate) fn packet(&mut self, packet: &[u8]) {
        if packet.len() > self.mtu().get().into() {
            return self.fragments(packet);
        }
        if let Some((ethernet, way)) = self.ethernet_for(packet) {
            let slices = [IoSlice::new(&ethernet), IoSlice::new(packet)];
            self.send_by(way, &Offload::default(), &slices);
        }
    }

    /// Tells the guest that `offending`, an IP packet of its own, went nowhere.
    /// `source` is who says so: the gateway, or the router that said it to us.
    pub(crate) fn problem(&mut self, problem: Problem, source: IpAddr, offending: &[u8]) {
        if !icmp::may_answer(offending) {
            return;
        }
        if self.errors.spend(self.now) == Spend::Exhausted {
            return self.counters.drop(DropReason::ErrorLimit);
        }
        let Some(packet) = problem.packet(source, offending) else {
            return;
        };
        self.packet(&packet);
    }

    /// Sends UDP datagrams of `size` bytes each (the last may be shorter) as one
    /// super-frame. `headers` are IP and UDP headers for all of the payload,
    /// with an empty UDP checksum.
    pub(crate) fn datagrams(&mut self, headers: &[u8], payload: &[IoSlice<'_>], size: u16) {
        self.transport(
            headers,
            payload,
            protocol::UDP,
            8,
            Some((GsoKind::Udp, size)),
        );
    }

    /// Sends headers and payload; the transport checksum is left to the guest.
    fn transport(
        &mut self,
        headers: &[u8],
        payload: &[IoSlice<'_>],
        protocol: u8,
        transport_len: usize,
        gso: Option<(GsoKind, u16)>,
    ) {
        let Some((ethernet, way)) = self.ethernet_for(headers) else {
            return;
        };
        let mut front = ArrayVec::<u8, MAX_HEADERS>::new();
        let mut slices = ArrayVec::<IoSlice<'_>, MAX_SLICES>::new();
        if front.try_extend_from_slice(&ethernet).is_err()
            || front.try_extend_from_slice(headers).is_err()
            || payload.len() >= MAX_SLICES
        {
            return self.counters.drop(DropReason::Malformed);
        }
        let start = front.len() - transport_len;
        let field = start + if protocol == protocol::UDP { 6 } else { 16 };
        let len = transport_len + payload.iter().map(|s| s.len()).sum::<usize>();
        let pseudo = pseudo_sum(headers, protocol, len);
        front[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());

        let offset = |at: usize| u16::try_from(at).unwrap_or(0);
        let checksum = Checksum::Partial {
            start: offset(start),
            offset: offset(field - start),
        };
        let gso = gso.map(|(kind, size)| Gso {
            kind,
            size,
            header_len: offset(front.len()),
        });
        slices.push(IoSlice::new(&front));
        slices.extend(payload.iter().map(|s| IoSlice::new(s)));
        self.send_by(way, &Offload { checksum, gso }, &slices);
    }

    /// The Ethernet header for an IP packet, its destination empty when that
    /// has to be asked for; none when there is nobody to ask.
    fn ethernet_for(&mut self, packet: &[u8]) -> Option<([u8; ETHERNET], Way)> {
        let (destination, ethertype) = destination(packet)?;
        let mut header = [0; ETHERNET];
        header[6..12].copy_from_slice(&self.plan.gateway_mac.0);
        header[12..].copy_from_slice(&ethertype);
        let way = match self.neighbours.get(destination) {
            Some(mac) => {
                header[..6].copy_from_slice(&mac.0);
                Way::Known
            }
            None if self.plan.is_guest(destination) => Way::Ask(destination),
            None => {
                self.counters.drop(DropReason::NoHardwareAddress);
                return None;
            }
        };
        Some((header, way))
    }

    fn send_by(&mut self, way: Way, offload: &Offload, frame: &[IoSlice<'_>]) {
        match way {
            Way::Known => self.send(offload, frame),
            Way::Ask(addr) => self.hold(addr, offload, frame),
        }
    }

    fn hold(&mut self, addr: IpAddr, offload: &Offload, frame: &[IoSlice<'_>]) {
        let held = Held {
            offload: *offload,
            frame: frame.iter().flat_map(|s| s.iter().copied()).collect(),
        };
        let mut dropped = 0;
        match self.neighbours.hold(addr, held, self.now, &mut dropped) {
            Holding::Waits => {}
            Holding::Ask => self.ask(addr),
            Holding::Full => dropped += 1,
        }
        self.drop_unanswered(dropped);
    }

    /// IPv4 (RFC 791) and IPv6 (RFC 8200 section 4.5) fragmentation.
    fn fragments(&mut self, packet: &[u8]) {
        self.next_id = self.next_id.wrapping_add(1);
        let mtu = usize::from(self.mtu().get());
        let pieces = if packet[0] >> 4 == 4 {
            fragments_v4(packet, mtu, self.next_id)
        } else {
            fragments_v6(packet, mtu, self.next_id.into())
        };
        for piece in pieces {
            let Some((ethernet, way)) = self.ethernet_for(&piece) else {
                return;
            };
            let slices = [IoSlice::new(&ethernet), IoSlice::new(&piece)];
            self.send_by(way, &Offload::default(), &slices);
        }
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) {
        if self.outlet.send(offload, frame).is_err() {
            self.counters.drop(DropReason::Link);
        }
    }
}

impl lwip::Egress for Egress {
    fn segment(&mut self, headers: &[u8], payload: &[IoSlice<'_>], mss: u16) -> u32 {
        let ip_len = if headers[0] >> 4 == 6 {
            40
        } else {
            usize::from(headers[0] & 0x0f) * 4
        };
        let len: usize = payload.iter().map(|s| s.len()).sum();
        // At the least MTU an acknowledgement with SACK ranges can exceed it.
        let room = usize::from(self.mtu().get())
            .saturating_sub(headers.len())
            .max(1);
        // `mss` counts no options (RFC 6691); those of this segment are in its headers.
        let options = u16::try_from(headers.len() - ip_len - 20).unwrap_or(0);
        let announced = if mss == 0 {
            u16::MAX
        } else {
            mss.saturating_sub(options).max(MIN_MSS)
        };
        let size = announced.min(u16::try_from(room).unwrap_or(u16::MAX));
        let kind = if ip_len == 40 {
            GsoKind::Tcp6
        } else {
            GsoKind::Tcp4
        };
        let gso = (len > size.into()).then_some((kind, size));
        self.transport(headers, payload, protocol::TCP, headers.len() - ip_len, gso);
        match gso {
            Some(_) => u32::try_from(len.div_ceil(size.into())).unwrap_or(u32::MAX),
            None => 1,
        }
    }

    fn is_wire(&self) -> bool {
        self.outlet.is_wire()
    }
}

/// How a frame leaves.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// At once.
    Known,
    /// When this address has answered.
    Ask(IpAddr),
}

/// Destination and ethertype of an IP packet.
fn destination(packet: &[u8]) -> Option<(IpAddr, [u8; 2])> {
    match packet.first()? >> 4 {
        4 => {
            let octets: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
            Some((IpAddr::from(octets), [0x08, 0x00]))
        }
        _ => {
            let octets: [u8; 16] = packet.get(24..40)?.try_into().ok()?;
            Some((IpAddr::from(octets), [0x86, 0xdd]))
        }
    }
}

/// The pseudo-header's sum, not complemented, as a partial checksum wants it.
fn pseudo_sum(headers: &[u8], protocol: u8, len: usize) -> u16 {
    let v6 = headers[0] >> 4 == 6;
    let addresses = if v6 {
        &headers[8..40]
    } else {
        &headers[12..20]
    };
    let len = u32::try_from(len).unwrap_or(0).to_be_bytes();
    checksum::Sum::new()
        .bytes(addresses)
        .bytes(&len)
        .word(protocol.into())
        .folded()
}

/// Cuts an IPv4 packet; `id` becomes its identification.
fn fragments_v4(packet: &[u8], mtu: usize, id: u16) -> Vec<Vec<u8>> {
    let header_len = usize::from(packet[0] & 0x0f) * 4;
    let (header, payload) = packet.split_at(header_len);
    let step = (mtu - header_len) & !7;
    let mut pieces = Vec::new();
    for (n, part) in payload.chunks(step).enumerate() {
        let offset = n * step;
        let more = offset + part.len() < payload.len();
        let mut piece = [header, part].concat();
        let total = u16::try_from(piece.len()).unwrap_or(u16::MAX);
        let field = u16::try_from(offset / 8).unwrap_or(0) | if more { 0x2000 } else { 0 };
        piece[2..4].copy_from_slice(&total.to_be_bytes());
        piece[4..6].copy_from_slice(&id.to_be_bytes());
        piece[6..8].copy_from_slice(&field.to_be_bytes());
        piece[10..12].fill(0);
        let sum = checksum::internet(&piece[..header_len]);
        piece[10..12].copy_from_slice(&sum.to_be_bytes());
        pieces.push(piece);
    }
    pieces
}

/// Cuts an IPv6 packet without extension headers.
fn fragments_v6(packet: &[u8], mtu: usize, id: u32) -> Vec<Vec<u8>> {
    let (header, payload) = packet.split_at(40);
    let step = (mtu - 48) & !7;
    let mut pieces = Vec::new();
    for (n, part) in payload.chunks(step).enumerate() {
        let offset = n * step;
        let more = u16::from(offset + part.len() < payload.len());
        let field = u16::try_from(offset).unwrap_or(0) | more;
        let mut piece = header.to_vec();
        piece[4..6].copy_from_slice(&u16::try_from(part.len() + 8).unwrap_or(0).to_be_bytes());
        piece[6] = 44;
        piece.extend_from_slice(&[header[6], 0]);
        piece.extend_from_slice(&field.to_be_bytes());
        piece.extend_from_slice(&id.to_be_bytes());
        piece.extend_from_slice(part);
        pieces.push(piece);
    }
    pieces
}
