//! What a frame is about, for rules and filters that pick frames: addresses,
//! protocol, ports. Not on the path of frames that nobody asks about.

use std::net::{IpAddr, SocketAddr};

use etherparse::{LaxNetSlice, LaxSlicedPacket, TransportSlice};

use crate::net::Medium;

/// Addresses, protocol and ports of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Summary {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// IANA's number of what is inside; of a fragment as well.
    pub protocol: u8,
    /// Source and destination port, of TCP and UDP. A fragment but the first
    /// has none.
    pub ports: Option<(u16, u16)>,
}

impl Summary {
    /// Reads a frame, a super-frame as well; VLAN tags and extension headers are
    /// looked through. `None` for what is not IP, or too short to be.
    #[must_use]
    pub fn of(frame: &[u8], medium: Medium) -> Option<Self> {
        let packet = match medium {
            Medium::Ethernet => LaxSlicedPacket::from_ethernet(frame).ok()?,
            Medium::Ip => LaxSlicedPacket::from_ip(frame).ok()?,
        };
        let (source, destination, protocol) = match packet.net? {
            LaxNetSlice::Ipv4(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload().ip_number.0,
            ),
            LaxNetSlice::Ipv6(ip) => (
                ip.header().source_addr().into(),
                ip.header().destination_addr().into(),
                ip.payload().ip_number.0,
            ),
            LaxNetSlice::Arp(_) => return None,
        };
        let ports = match packet.transport {
            Some(TransportSlice::Tcp(tcp)) => Some((tcp.source_port(), tcp.destination_port())),
            Some(TransportSlice::Udp(udp)) => Some((udp.source_port(), udp.destination_port())),
            _ => None,
        };
        Some(Self {
            source,
            destination,
            protocol,
            ports,
        })
    }

    /// The sender's end; without ports, port 0.
    #[must_use]
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.ports.map_or(0, |(port, _)| port))
    }

    /// The receiver's end; without ports, port 0.
    #[must_use]
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.destination, self.ports.map_or(0, |(_, port)| port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::PacketBuilder;
    use proptest::prelude::*;

    fn udp(payload: &[u8]) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
            .udp(5000, 53);
        let mut frame = Vec::new();
        builder.write(&mut frame, payload).expect("writes");
        frame
    }

    #[test]
    fn a_datagram_has_two_ends() {
        let frame = udp(b"hello");
        let summary = Summary::of(&frame, Medium::Ethernet).expect("is IP");
        assert_eq!(summary.from(), "10.0.2.100:5000".parse().expect("address"));
        assert_eq!(summary.to(), "192.0.2.1:53".parse().expect("address"));
        assert_eq!(summary.protocol, 17);
        assert_eq!(Summary::of(&frame[14..], Medium::Ip), Some(summary));
    }

    #[test]
    fn a_part_of_a_frame_will_do() {
        let frame = udp(&[0; 1000]);
        let head = Summary::of(&frame[..64], Medium::Ethernet).expect("is IP");
        assert_eq!(head.ports, Some((5000, 53)));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let _ = Summary::of(&bytes, Medium::Ethernet);
            let _ = Summary::of(&bytes, Medium::Ip);
        }
    }
}
