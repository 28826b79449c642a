//! Datagrams from the guest to a host socket, many at a time.

use std::io::IoSlice;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use arrayvec::ArrayVec;
use nix::errno::Errno;
use nix::libc::{in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, sendmsg};

use super::super::Core;
use super::super::counters::DropReason;
use super::super::egress::Problem;
use super::super::errqueue;
use super::super::flow::Token;
use super::super::lwip::FrameBuf;
use super::Arrival;
use super::receive::MAX_BATCH;

/// Datagrams in one super-frame (Linux's `UDP_MAX_SEGMENTS` was 64 first).
pub(super) const MAX_SEGMENTS: usize = 64;

/// An address of the host that a client has sent to, and that the answers leave
/// from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Local {
    V4(Ipv4Addr),
    /// With the index of its interface where the address alone does not say it;
    /// else 0.
    V6(Ipv6Addr, u32),
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

/// Datagrams of one flow to one destination that wait for the end of the round.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) flow: Token,
    pub(crate) to: SocketAddr,
    /// Size of all but the last.
    size: usize,
    pub(crate) bytes: usize,
    pub(crate) hop_limit: u8,
    pub(crate) dont_fragment: bool,
    parts: Vec<Part>,
    /// The last was shorter: nothing can follow.
    closed: bool,
}

impl Batch {
    /// A batch that begins with `arrival`.
    pub(crate) fn new(flow: Token, to: SocketAddr, arrival: Arrival, frame: FrameBuf) -> Self {
        let len = arrival.payload.len();
        let mut batch = Self {
            flow,
            to,
            size: arrival.segment.map_or(len, usize::from),
            bytes: 0,
            hop_limit: arrival.hop_limit(),
            dont_fragment: arrival.ip.dont_fragment,
            parts: Vec::with_capacity(1),
            closed: false,
        };
        let closed = arrival.segment.is_some() || len == 0;
        batch.add(arrival, frame);
        batch.closed = closed;
        batch
    }

    /// True when a datagram can go with those in the batch.
    pub(crate) fn fits(&self, flow: Token, to: SocketAddr, arrival: &Arrival) -> bool {
        let len = arrival.payload.len();
        self.flow == flow
            && self.to == to
            && self.hop_limit == arrival.hop_limit()
            && self.dont_fragment == arrival.ip.dont_fragment
            && !self.closed
            && arrival.segment.is_none()
            && (1..=self.size).contains(&len)
            && self.parts.len() < MAX_SEGMENTS
            && self.bytes + len <= MAX_BATCH
    }

    /// Adds what [`Batch::fits`].
    pub(crate) fn add(&mut self, arrival: Arrival, frame: FrameBuf) {
        let len = arrival.payload.len();
        self.bytes += len;
        self.closed = len < self.size;
        self.parts.push(Part {
            frame,
            packet: arrival.ip.packet,
            payload: arrival.payload,
        });
    }

    /// Datagrams in it.
    pub(crate) fn datagrams(&self) -> u64 {
        let size = self.size.max(1);
        let parts = self.parts.iter();
        parts
            .map(|part| part.payload.len().div_ceil(size).max(1) as u64)
            .sum()
    }

    /// Sends all of it, from `source` where that is to be chosen.
    ///
    /// # Errors
    /// Why the host did not take some of it, where that says something about the
    /// way; the guest was told.
    pub(crate) fn send(
        &self,
        core: &mut Core,
        socket: &OwnedFd,
        source: Option<Local>,
    ) -> Result<(), Problem> {
        let slices: ArrayVec<IoSlice<'_>, MAX_SEGMENTS> = self
            .parts
            .iter()
            .map(|part| IoSlice::new(part.payload()))
            .collect();
        let several = self.bytes > self.size;
        let size = u16::try_from(self.size).unwrap_or(u16::MAX);
        let segment = several.then_some(size);
        match send(socket, self.to, &slices, segment, source) {
            Ok(()) => Ok(()),
            // No segmentation on this route, or a datagram that is too large
            // for it: one by one, each with its own fate.
            Err(_) if several => {
                let mut result = Ok(());
                for part in &self.parts {
                    for piece in part.payload().chunks(self.size) {
                        let piece = [IoSlice::new(piece)];
                        if let Err(errno) = send(socket, self.to, &piece, None, source) {
                            result = refused(core, socket, errno, part.packet());
                        }
                    }
                }
                result
            }
            Err(errno) => refused(core, socket, errno, self.parts[0].packet()),
        }
    }
}

fn send(
    socket: &OwnedFd,
    to: SocketAddr,
    slices: &[IoSlice<'_>],
    segment: Option<u16>,
    source: Option<Local>,
) -> Result<(), Errno> {
    let address = SockaddrStorage::from(to);
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let (v4, v6) = packet_info(source);
    let control: ArrayVec<ControlMessage<'_>, 2> = [
        segment.as_ref().map(ControlMessage::UdpGsoSegments),
        v4.as_ref().map(ControlMessage::Ipv4PacketInfo),
        v6.as_ref().map(ControlMessage::Ipv6PacketInfo),
    ]
    .into_iter()
    .flatten()
    .collect();
    // ICMP errors of earlier datagrams are reported by the next call, which
    // then has sent nothing: try again once.
    match sendmsg(socket.as_raw_fd(), slices, &control, flags, Some(&address)) {
        Err(
            Errno::ECONNREFUSED
            | Errno::EHOSTUNREACH
            | Errno::ENETUNREACH
            | Errno::EPROTO
            | Errno::ENOPROTOOPT
            | Errno::EACCES,
        ) => sendmsg(socket.as_raw_fd(), slices, &control, flags, Some(&address)).map(|_| ()),
        other => other.map(|_| ()),
    }
}

fn packet_info(source: Option<Local>) -> (Option<in_pktinfo>, Option<in6_pktinfo>) {
    match source {
        Some(Local::V4(addr)) => {
            let addr = nix::libc::in_addr {
                s_addr: u32::from(addr).to_be(),
            };
            let info = in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: addr,
                ipi_addr: addr,
            };
            (Some(info), None)
        }
        Some(Local::V6(addr, interface)) => {
            let info = in6_pktinfo {
                ipi6_addr: in6_addr {
                    s6_addr: addr.octets(),
                },
                ipi6_ifindex: interface,
            };
            (None, Some(info))
        }
        None => (None, None),
    }
}

/// The host did not take a datagram: tell the guest why, where there is a way.
fn refused(core: &mut Core, socket: &OwnedFd, errno: Errno, packet: &[u8]) -> Result<(), Problem> {
    let problem = match errno {
        Errno::EMSGSIZE => errqueue::path_mtu(socket).map(|mtu| Problem::TooBig { mtu }),
        errno => Problem::from_errno(errno),
    };
    match problem {
        Some(problem) => {
            core.problem(problem, packet);
            Err(problem)
        }
        None => {
            core.drop(DropReason::HostError);
            Ok(())
        }
    }
}
