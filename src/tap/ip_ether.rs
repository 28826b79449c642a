//! An Ethernet link made of one that carries bare IP packets.
//!
//! # Theory of operation
//!
//! The gateway speaks Ethernet. A TUN, or a descriptor with `medium=ip`, does
//! not; behind it is one guest, without an Ethernet address. [`IpEther`] gives it
//! one, puts a header in front of what the guest sends, and takes it away from
//! what the guest gets. Offsets that an [`Offload`] holds move with it. Nothing
//! is copied.
//!
//! What only Ethernet needs is answered here in the guest's name: ARP requests
//! (RFC 826) and neighbour solicitations (RFC 4861 section 7.2.4) for the
//! guest's addresses. These are the ones it was given and the last
//! [`MAX_ADDRESSES`] that it has used, of those that the address plan lets
//! guests have. The answers wait for the next [`Link::recv`], at most
//! [`MAX_ANSWERS`]; an eventfd says that there are some.
//!
//! A guest without an Ethernet address knows neither DHCP nor its neighbours: its
//! packets go to the gateway, or to the group that they are addressed to. Other
//! protocols than IP end here.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd};

use arrayvec::ArrayVec;
use etherparse::icmpv6::NeighborAdvertisementHeader;
use etherparse::{ArpEthIpv4Packet, ArpOperation, ArpPacketSlice, Icmpv6Type, PacketBuilder};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::switch::{NewPort, PortSource};
use super::{Caps, Checksum, Link, Medium, Offload, Received};
use crate::net::{AddressPlan, MacAddr};

/// Addresses that the guest was seen with: a few of each version.
pub const MAX_ADDRESSES: usize = 16;

/// Answers that wait for the gateway; it asks once a second for each address.
pub const MAX_ANSWERS: usize = 16;

/// Bytes of an Ethernet header.
const HEADER_LEN: usize = 14;

/// Slices that go on without a table on the heap: headers and chunks.
const FEW_SLICES: usize = 64;

/// What is looked at: the headers of a neighbour solicitation up to its target,
/// 8 and 16 bytes behind Ethernet's and IPv6's.
const PEEK_LEN: usize = HEADER_LEN + 40 + 24;

const IPV4: [u8; 2] = [0x08, 0x00];
const IPV6: [u8; 2] = [0x86, 0xdd];
const ARP: [u8; 2] = [0x08, 0x06];

/// The number of ICMPv6 as a next header, and of a solicitation in it.
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;

/// Who is behind a link that carries bare IP.
#[derive(Debug, Clone)]
pub struct IpGuest {
    /// The Ethernet address it is given.
    pub mac: MacAddr,
    /// IP addresses that it has, whether or not it was heard.
    pub addresses: Vec<IpAddr>,
    /// The gateway's address, and which ones guests may have.
    pub plan: AddressPlan,
}

impl IpGuest {
    /// The guest of `plan` that is configured by hand, with an Ethernet address
    /// that is made up.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(plan: &AddressPlan) -> io::Result<Self> {
        let v4 = plan.v4.map(|v4| v4.guest.into());
        let v6 = plan.v6.map(|v6| v6.guest.into());
        Ok(Self {
            mac: random_mac()?,
            addresses: v4.into_iter().chain(v6).collect(),
            plan: plan.clone(),
        })
    }
}

/// An Ethernet address that nobody else is likely to have.
///
/// # Errors
/// When the system has no random numbers.
pub(super) fn random_mac() -> io::Result<MacAddr> {
    let mut bytes = [0; 6];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(MacAddr::local_from(bytes))
}

/// See the module's documentation.
#[derive(Debug)]
pub struct IpEther {
    inner: Box<dyn Link>,
    /// Of the inner link and the event.
    epoll: Epoll,
    event: EventFd,
    answers: VecDeque<Vec<u8>>,
    guest: IpGuest,
    /// The oldest first.
    seen: ArrayVec<IpAddr, MAX_ADDRESSES>,
}

impl IpEther {
    /// Wraps `inner`, which carries IP packets of `guest`.
    ///
    /// # Errors
    /// When `inner` carries Ethernet already, or the process is out of
    /// descriptors.
    pub fn new(inner: Box<dyn Link>, guest: IpGuest) -> io::Result<Self> {
        if inner.caps().medium != Medium::Ip {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the link carries Ethernet frames already",
            ));
        }
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(inner.readiness(), readable())?;
        epoll.add(&event, readable())?;
        Ok(Self {
            inner,
            epoll,
            event,
            answers: VecDeque::new(),
            guest,
            seen: ArrayVec::new(),
        })
    }

    fn is_guests(&self, address: IpAddr) -> bool {
        self.guest.addresses.contains(&address) || self.seen.contains(&address)
    }

    fn learn(&mut self, address: IpAddr) {
        if self.seen.last() == Some(&address) || self.is_guests(address) {
            return;
        }
        if self.guest.plan.is_guest(address) {
            if self.seen.is_full() {
                self.seen.remove(0);
            }
            self.seen.push(address);
        }
    }

    fn next_answer(&mut self, buf: &mut [u8]) -> Option<Received> {
        let answer = self.answers.pop_front()?;
        if self.answers.is_empty() {
            let _ = self.event.read();
        }
        let len = match buf.get_mut(..answer.len()) {
            Some(room) => {
                room.copy_from_slice(&answer);
                answer.len()
            }
            None => 0,
        };
        Some(Received {
            len,
            offload: Offload::default(),
        })
    }

    fn answer(&mut self, frame: Option<Vec<u8>>) {
        if let Some(frame) = frame.filter(|_| self.answers.len() < MAX_ANSWERS) {
            self.answers.push_back(frame);
            let _ = self.event.write(1);
        }
    }

    /// The reply to an ARP request for one of the guest's addresses.
    fn arp_reply(&self, packet: &[u8]) -> Option<Vec<u8>> {
        let request = ArpPacketSlice::from_slice(packet).ok()?.to_packet();
        let request = request.try_eth_ipv4().ok()?;
        let target = IpAddr::from(request.target_ipv4);
        let is_question = request.operation == ArpOperation::REQUEST
            && request.sender_ipv4 != request.target_ipv4
            && self.is_guests(target);
        let reply = ArpEthIpv4Packet {
            operation: ArpOperation::REPLY,
            sender_mac: self.guest.mac.0,
            sender_ipv4: request.target_ipv4,
            target_mac: request.sender_mac,
            target_ipv4: request.sender_ipv4,
        };
        let header = [&request.sender_mac[..], &self.guest.mac.0, &ARP].concat();
        is_question.then(|| [&header[..], &reply.to_bytes()].concat())
    }

    /// The advertisement that answers a solicitation for one of the guest's
    /// addresses. `frame` begins with its headers.
    fn advertisement(&self, frame: &[u8; PEEK_LEN]) -> Option<Vec<u8>> {
        let packet = &frame[HEADER_LEN..];
        let source = address_v6(packet, 8)?;
        let target = address_v6(packet, 48)?;
        // Somebody makes sure that nobody has the address it wants: that it is
        // not the guest's is its own business to find out.
        if source.is_unspecified() || !self.is_guests(target.into()) {
            return None;
        }
        let to: [u8; 6] = *frame[6..].first_chunk()?;
        let [a, b, c, d, e, f] = self.guest.mac.0;
        let target_link_layer = [2, 1, a, b, c, d, e, f];
        let advertisement = Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader {
            router: false,
            solicited: true,
            r#override: true,
        });
        let body = [&target.octets()[..], &target_link_layer].concat();
        let mut out = Vec::new();
        PacketBuilder::ethernet2(self.guest.mac.0, to)
            .ipv6(target.octets(), source.octets(), 255)
            .icmpv6(advertisement)
            .write(&mut out, &body)
            .ok()?;
        Some(out)
    }

    /// The header for a packet of the guest's; `None`: it is no IP packet.
    fn header(&mut self, packet: &[u8]) -> Option<[u8; HEADER_LEN]> {
        let (source, destination, ethertype) = match packet.first()? >> 4 {
            4 => (
                IpAddr::V4(address_v4(packet, 12)?),
                self.station_v4(address_v4(packet, 16)?),
                IPV4,
            ),
            6 => (
                IpAddr::V6(address_v6(packet, 8)?),
                self.station_v6(address_v6(packet, 24)?),
                IPV6,
            ),
            _ => return None,
        };
        self.learn(source);
        let mut header = [0; HEADER_LEN];
        header[..6].copy_from_slice(&destination.0);
        header[6..12].copy_from_slice(&self.guest.mac.0);
        header[12..].copy_from_slice(&ethertype);
        Some(header)
    }

    /// Where packets to `address` go: to its group (RFC 1112 section 6.4), or to
    /// the gateway.
    fn station_v4(&self, address: Ipv4Addr) -> MacAddr {
        match address.octets() {
            [255, 255, 255, 255] => MacAddr::BROADCAST,
            [224..=239, b, c, d] => MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d]),
            _ => self.guest.plan.gateway_mac,
        }
    }

    fn station_v6(&self, address: Ipv6Addr) -> MacAddr {
        if address.is_multicast() {
            MacAddr::for_ipv6_multicast(address)
        } else {
            self.guest.plan.gateway_mac
        }
    }
}

impl Link for IpEther {
    fn caps(&self) -> Caps {
        Caps {
            medium: Medium::Ethernet,
            ..self.inner.caps()
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        if let Some(answer) = self.next_answer(buf) {
            return Ok(answer);
        }
        let Some((header, packet)) = buf.split_first_chunk_mut::<HEADER_LEN>() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let received = self.inner.recv(packet)?;
        let ethernet = self.header(&packet[..received.len]);
        let offload = deeper(&received.offload);
        Ok(match (ethernet, offload) {
            (Some(ethernet), Some(offload)) => {
                *header = ethernet;
                Received {
                    len: HEADER_LEN + received.len,
                    offload,
                }
            }
            _ => Received {
                len: 0,
                offload: Offload::default(),
            },
        })
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let (head, len) = peek(frame);
        if len < HEADER_LEN {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let to = MacAddr([head[0], head[1], head[2], head[3], head[4], head[5]]);
        if to.is_unicast() && to != self.guest.mac {
            // For a neighbour of the guest's that nobody knows.
            return Ok(());
        }
        match [head[12], head[13]] {
            ARP => {
                let whole: Vec<u8> = frame.iter().flat_map(|s| s.iter().copied()).collect();
                let reply = self.arp_reply(&whole[HEADER_LEN..]);
                self.answer(reply);
                return Ok(());
            }
            IPV6 if is_solicitation(&head[..len]) => {
                let advertisement = self.advertisement(&head);
                self.answer(advertisement);
                return Ok(());
            }
            IPV4 | IPV6 => {}
            _ => return Ok(()),
        }
        let offload = shallower(offload).ok_or(io::ErrorKind::InvalidInput)?;
        let mut skip = HEADER_LEN;
        let packet = frame.iter().filter_map(|slice| {
            let (_, rest) = slice.split_at(skip.min(slice.len()));
            skip -= slice.len() - rest.len();
            (!rest.is_empty()).then(|| IoSlice::new(rest))
        });
        if frame.len() <= FEW_SLICES {
            let packet: ArrayVec<_, FEW_SLICES> = packet.collect();
            self.inner.send(&offload, &packet)
        } else {
            let packet: Vec<_> = packet.collect();
            self.inner.send(&offload, &packet)
        }
    }
}

/// A source of links that carry bare IP, each of them for the same guest, such
/// as a child process that is started again.
#[derive(Debug)]
pub struct IpPorts {
    source: Box<dyn PortSource>,
    guest: IpGuest,
}

impl IpPorts {
    /// Wraps the ports of `source`.
    #[must_use]
    pub fn new(source: Box<dyn PortSource>, guest: IpGuest) -> Self {
        Self { source, guest }
    }
}

impl PortSource for IpPorts {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.source.readiness()
    }

    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        let Some(NewPort { link, name }) = self.source.poll()? else {
            return Ok(None);
        };
        match IpEther::new(link, self.guest.clone()) {
            Ok(link) => Ok(Some(NewPort {
                link: Box::new(link),
                name,
            })),
            Err(e) => {
                self.source.lost(&e);
                Err(e)
            }
        }
    }

    fn lost(&mut self, reason: &io::Error) {
        self.source.lost(reason);
    }
}

/// The beginning of a frame in pieces, and how many bytes there are of it.
fn peek(frame: &[IoSlice<'_>]) -> ([u8; PEEK_LEN], usize) {
    let mut head = [0; PEEK_LEN];
    let mut len = 0;
    for slice in frame {
        let room = &mut head[len..];
        let n = room.len().min(slice.len());
        room[..n].copy_from_slice(&slice[..n]);
        len += n;
        if len == PEEK_LEN {
            break;
        }
    }
    (head, len)
}

/// True for a neighbour solicitation, up to its target.
fn is_solicitation(head: &[u8]) -> bool {
    head.len() == PEEK_LEN
        && head[HEADER_LEN + 6] == ICMPV6
        && head[HEADER_LEN + 40] == NEIGHBOUR_SOLICITATION
}

fn address_v4(packet: &[u8], at: usize) -> Option<Ipv4Addr> {
    let bytes: &[u8; 4] = packet.get(at..)?.first_chunk()?;
    Some((*bytes).into())
}

fn address_v6(packet: &[u8], at: usize) -> Option<Ipv6Addr> {
    let bytes: &[u8; 16] = packet.get(at..)?.first_chunk()?;
    Some((*bytes).into())
}

/// The same for a frame with a header in front.
fn deeper(offload: &Offload) -> Option<Offload> {
    moved(offload, |at| at.checked_add(14))
}

/// The same for the packet without the header.
fn shallower(offload: &Offload) -> Option<Offload> {
    moved(offload, |at| at.checked_sub(14))
}

fn moved(offload: &Offload, by: impl Fn(u16) -> Option<u16>) -> Option<Offload> {
    let mut moved = *offload;
    if let Checksum::Partial { start, .. } = &mut moved.checksum {
        *start = by(*start)?;
    }
    if let Some(gso) = &mut moved.gso {
        gso.header_len = by(gso.header_len)?;
    }
    Some(moved)
}

#[cfg(test)]
mod tests;
