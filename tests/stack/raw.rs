//! A guest made of single segments: says exactly what a test wants to be said,
//! and reads what comes back with another library's parser.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TcpOptionElement, TransportSlice};

use crate::world::{GATEWAY_MAC, GUEST_MAC, GUEST4, GUEST6, World};

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const URG: u8 = 0x20;

/// A TCP segment that arrived at the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    /// As in the header, not scaled.
    pub(crate) window: u16,
    pub(crate) options: Vec<TcpOptionElement>,
    pub(crate) payload: Vec<u8>,
}

impl Segment {
    pub(crate) fn is(&self, flags: u8) -> bool {
        self.flags & (FIN | SYN | RST | ACK) == flags
    }
}

/// Reads a frame, checking every checksum; `None` when it holds no TCP.
pub(crate) fn parse(frame: &[u8]) -> Option<Segment> {
    let packet = SlicedPacket::from_ethernet(frame).expect("a well-formed frame");
    let ip = packet.net?;
    let Some(TransportSlice::Tcp(tcp)) = packet.transport else {
        return None;
    };
    let (from, to, sum): (IpAddr, IpAddr, u16) = match &ip {
        etherparse::NetSlice::Ipv4(v4) => {
            let header = v4.header();
            assert_eq!(
                header.to_header().calc_header_checksum(),
                header.header_checksum()
            );
            let sum = tcp.calc_checksum_ipv4(header.source(), header.destination());
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                sum.expect("short"),
            )
        }
        etherparse::NetSlice::Ipv6(v6) => {
            let header = v6.header();
            let sum = tcp.calc_checksum_ipv6(header.source(), header.destination());
            (
                header.source_addr().into(),
                header.destination_addr().into(),
                sum.expect("short"),
            )
        }
        etherparse::NetSlice::Arp(_) => return None,
    };
    // 0 and 0xffff are the same number to a receiver (RFC 1071).
    let same = |a: u16, b: u16| a == b || (a.min(b), a.max(b)) == (0, 0xffff);
    assert!(
        same(sum, tcp.checksum()),
        "the TCP checksum {:#x}",
        tcp.checksum()
    );
    let bits = [
        tcp.fin(),
        tcp.syn(),
        tcp.rst(),
        tcp.psh(),
        tcp.ack(),
        tcp.urg(),
    ];
    let flags = bits
        .iter()
        .enumerate()
        .map(|(i, set)| u8::from(*set) << i)
        .sum();
    Some(Segment {
        from: SocketAddr::new(from, tcp.source_port()),
        to: SocketAddr::new(to, tcp.destination_port()),
        seq: tcp.sequence_number(),
        ack: tcp.acknowledgment_number(),
        flags,
        window: tcp.window_size(),
        options: tcp.options_iterator().filter_map(Result::ok).collect(),
        payload: tcp.payload().to_vec(),
    })
}

/// The guest's end of one connection.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Next number to send.
    pub(crate) seq: u32,
    /// Next number expected.
    pub(crate) ack: u32,
    pub(crate) window: u16,
    pub(crate) options: Vec<u8>,
}

/// MSS 1460, window scale 7, SACK permitted: what Linux says, less timestamps.
pub(crate) const LINUX_OPTIONS: [u8; 12] = [2, 4, 5, 180, 4, 2, 3, 3, 7, 1, 1, 1];

impl Raw {
    pub(crate) fn new(port: u16, remote: SocketAddr) -> Self {
        let guest: IpAddr = if remote.is_ipv4() {
            GUEST4.into()
        } else {
            GUEST6.into()
        };
        Self {
            guest: SocketAddr::new(guest, port),
            remote,
            seq: 1000,
            ack: 0,
            window: 65535,
            options: LINUX_OPTIONS.to_vec(),
        }
    }

    /// A frame with a segment of this connection. Does not move `seq`.
    pub(crate) fn frame(&self, flags: u8, seq: u32, payload: &[u8]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0);
        let ip = match (self.guest.ip(), self.remote.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => ethernet.ipv4(a.octets(), b.octets(), 64),
            (IpAddr::V6(a), IpAddr::V6(b)) => ethernet.ipv6(a.octets(), b.octets(), 64),
            _ => panic!("one family"),
        };
        let mut tcp = ip.tcp(self.guest.port(), self.remote.port(), seq, self.window);
        if flags & FIN != 0 {
            tcp = tcp.fin();
        }
        if flags & SYN != 0 {
            tcp = tcp
                .syn()
                .options_raw(&self.options)
                .expect("padded options");
        }
        if flags & RST != 0 {
            tcp = tcp.rst();
        }
        if flags & PSH != 0 {
            tcp = tcp.psh();
        }
        if flags & ACK != 0 {
            tcp = tcp.ack(self.ack);
        }
        if flags & URG != 0 {
            tcp = tcp.urg(1);
        }
        let mut frame = Vec::new();
        tcp.write(&mut frame, payload).expect("in memory");
        frame
    }

    /// Sends a segment at `seq` and moves behind it.
    pub(crate) fn send(&mut self, world: &mut World, flags: u8, payload: &[u8]) {
        let frame = self.frame(flags, self.seq, payload);
        let len = u32::try_from(payload.len()).expect("short");
        let control = u32::from(flags & FIN != 0) + u32::from(flags & SYN != 0);
        self.seq = self.seq.wrapping_add(len + control);
        world.inject(&frame);
    }

    /// Sends a segment at any number; nothing moves.
    pub(crate) fn send_at(&self, world: &mut World, flags: u8, seq: u32, payload: &[u8]) {
        world.inject(&self.frame(flags, seq, payload));
    }

    /// The next segment of this connection, within `limit` of virtual time.
    pub(crate) fn within(&self, world: &mut World, limit: Duration) -> Option<Segment> {
        let mut found = None;
        world.try_until(limit, &mut |world| {
            while let Some(frame) = world.arrived() {
                let segment = parse(&frame);
                found = segment.filter(|s| s.from == self.remote && s.to == self.guest);
                if found.is_some() {
                    return true;
                }
            }
            false
        });
        found
    }

    /// All segments of this connection that have arrived by now.
    pub(crate) fn heard(&self, world: &mut World) -> Vec<Segment> {
        world.settle();
        std::iter::from_fn(|| world.arrived())
            .filter_map(|frame| parse(&frame))
            .filter(|s| s.from == self.remote && s.to == self.guest)
            .collect()
    }

    /// The next segment, which is due at once.
    #[track_caller]
    pub(crate) fn next(&self, world: &mut World) -> Segment {
        self.within(world, Duration::from_millis(10))
            .expect("a segment at once")
    }

    /// Nothing is said for `time`.
    #[track_caller]
    pub(crate) fn silent_for(&self, world: &mut World, time: Duration) {
        assert_eq!(self.within(world, time), None, "silence was expected");
    }

    /// SYN and SYN-ACK; the last acknowledgement is the caller's.
    #[track_caller]
    pub(crate) fn half_open(&mut self, world: &mut World) -> Segment {
        self.send(world, SYN, &[]);
        let answer = self
            .within(world, Duration::from_secs(1))
            .expect("a SYN-ACK");
        assert!(answer.is(SYN | ACK), "{answer:?}");
        assert_eq!(answer.ack, self.seq);
        self.ack = answer.seq.wrapping_add(1);
        answer
    }

    /// The whole handshake.
    #[track_caller]
    pub(crate) fn open(&mut self, world: &mut World) -> Segment {
        let answer = self.half_open(world);
        self.send(world, ACK, &[]);
        answer
    }
}
