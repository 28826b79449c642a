//! Datagrams from a host socket to the guest, many at a time.

use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use arrayvec::ArrayVec;
use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_pktinfo};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg};

use super::super::Core;
use super::super::errqueue::socket_addr;
use super::batch::MAX_SEGMENTS;
use super::{HEADER, Local};
use crate::wire;

/// Payload bytes of one super-frame: a UDP datagram's limit.
pub(super) const MAX_BATCH: usize = 65000;

/// Datagrams taken from a socket at once, while it has many and while it has
/// few (setting up a call costs with its size).
pub(crate) const RECEIVE_BATCH: usize = 32;
const RECEIVE_FEW: usize = 2;

/// Largest datagram.
const MAX_DATAGRAM: usize = 65535;

/// How much a socket had, lately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Pace {
    /// Little: most calls bring one datagram.
    #[default]
    Few,
    /// The last batch was full.
    Busy,
}

/// Datagrams of one call.
pub(crate) type Datagrams = ArrayVec<Datagram, RECEIVE_BATCH>;

/// Takes datagrams from sockets into its buffers.
#[derive(Debug, Default)]
pub(crate) struct Receiver {
    buffers: Vec<Box<[u8]>>,
}

impl Receiver {
    /// Takes one batch from a socket. `pace` is what the last call said; it says
    /// [`Pace::Busy`] again when there may be more.
    pub(crate) fn receive(
        &mut self,
        socket: &OwnedFd,
        pace: &mut Pace,
    ) -> Result<Datagrams, Errno> {
        let batch = match pace {
            Pace::Busy => RECEIVE_BATCH,
            Pace::Few => RECEIVE_FEW,
        };
        while self.buffers.len() < batch {
            self.buffers.push(vec![0; MAX_DATAGRAM].into());
        }
        let mut slices: Vec<[IoSliceMut<'_>; 1]> = self
            .buffers
            .iter_mut()
            .take(batch)
            .map(|b| [IoSliceMut::new(b)])
            .collect();
        // New every time: the kernel shortens the lengths in them to what the
        // last call needed, and nothing sets them back.
        let space = cmsg_space!(i32, in6_pktinfo);
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(batch, Some(space));
        let flags = MsgFlags::MSG_DONTWAIT;
        let results = recvmmsg(
            socket.as_raw_fd(),
            &mut headers,
            slices.iter_mut(),
            flags,
            None,
        )?;
        let mut received = Datagrams::new();
        let mut count = 0;
        for (at, message) in results.enumerate() {
            count += 1;
            let Some(from) = message.address.as_ref().and_then(socket_addr) else {
                continue;
            };
            let mut datagram = Datagram {
                at,
                len: message.bytes,
                segment: None,
                from,
                local: None,
            };
            for control in message.cmsgs().into_iter().flatten() {
                datagram.note(&control);
            }
            received.push(datagram);
        }
        *pace = if count == batch {
            Pace::Busy
        } else {
            Pace::Few
        };
        Ok(received)
    }

    /// Sends datagrams of the last call to the guest, those that belong together
    /// as one super-frame; `seen` says whom the guest sees as a datagram's sender.
    pub(crate) fn to_guest(
        &self,
        core: &mut Core,
        guest: SocketAddr,
        datagrams: &[Datagram],
        seen: impl Fn(&Core, SocketAddr) -> SocketAddr,
    ) {
        let buffers = &self.buffers;
        let mut rest = datagrams;
        while let Some(first) = rest.first() {
            let run = if core.uso { run_length(rest) } else { 1 };
            let (now, later) = rest.split_at(run);
            rest = later;
            let from = seen(core, first.from);
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
}

/// A datagram that was received.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagram {
    /// Index of its buffer.
    at: usize,
    pub(crate) len: usize,
    /// Size of each, when several came as one.
    segment: Option<usize>,
    pub(crate) from: SocketAddr,
    /// The host's address that it was sent to, where the socket tells.
    pub(crate) local: Option<Local>,
}

impl Datagram {
    /// Reads what the kernel says about it.
    fn note(&mut self, control: &ControlMessageOwned) {
        match control {
            ControlMessageOwned::UdpGroSegments(size) => {
                self.segment = usize::try_from(*size).ok();
            }
            ControlMessageOwned::Ipv4PacketInfo(info) => self.local = local_v4(info),
            ControlMessageOwned::Ipv6PacketInfo(info) => self.local = local_v6(info),
            _ => {}
        }
    }

    fn size(&self) -> usize {
        self.segment.unwrap_or(self.len).min(self.len)
    }

    /// How many came as one.
    pub(crate) fn count(&self) -> u64 {
        self.len.div_ceil(self.size().max(1)).max(1) as u64
    }
}

/// The address that an answer leaves from: for a datagram to a broadcast address
/// another than that.
fn local_v4(info: &in_pktinfo) -> Option<Local> {
    let addr = Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr));
    (!addr.is_unspecified()).then_some(Local::V4(addr))
}

fn local_v6(info: &in6_pktinfo) -> Option<Local> {
    let addr = Ipv6Addr::from(info.ipi6_addr.s6_addr);
    let to_many = match addr.to_ipv4_mapped() {
        Some(v4) => v4.is_multicast() || v4.is_broadcast(),
        None => addr.is_multicast(),
    };
    if to_many {
        return None;
    }
    let interface = if addr.is_unicast_link_local() {
        info.ipi6_ifindex
    } else {
        0
    };
    Some(Local::V6(addr, interface))
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
    let slices: ArrayVec<IoSlice<'_>, RECEIVE_BATCH> = datagrams
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
fn headers(from: SocketAddr, to: SocketAddr, bytes: usize) -> ArrayVec<u8, 48> {
    const HOP_LIMIT: u8 = 64;
    let mut out = ArrayVec::new();
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
    use super::super::super::packet::IpPacket;
    use super::*;

    fn datagram(from: &str, len: usize, segment: Option<usize>) -> Datagram {
        Datagram {
            at: 0,
            len,
            segment,
            from: from.parse().expect("address"),
            local: None,
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
