//! Tries a filter on a frame. `None` stands for a frame that is too short.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Expression, Operator, Primitive, Protocol, Side, Transport};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// Bytes of an IPv6 header.
const IPV6: usize = 40;

const TYPE_IP: u16 = 0x0800;
const TYPE_ARP: u16 = 0x0806;
const TYPE_RARP: u16 = 0x8035;
const TYPE_IP6: u16 = 0x86dd;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const FRAGMENT: u8 = 44;
const ICMP6: u8 = 58;
const SCTP: u8 = 132;

impl Expression {
    pub(super) fn eval(&self, frame: &[u8]) -> Option<bool> {
        match self {
            Self::Primitive(primitive) => primitive.eval(frame),
            Self::Not(inner) => inner.eval(frame).map(|found| !found),
            Self::Chain(first, rest) => {
                let mut found = first.eval(frame)?;
                for (operator, term) in rest {
                    let decided = match operator {
                        Operator::And => !found,
                        Operator::Or => found,
                    };
                    if !decided {
                        found = term.eval(frame)?;
                    }
                }
                Some(found)
            }
        }
    }
}

impl Primitive {
    fn eval(&self, frame: &[u8]) -> Option<bool> {
        match *self {
            Self::Protocol(protocol) => protocol.eval(frame),
            Self::Host(side, address) => net(frame, side, address.into()),
            Self::Net(side, wanted) => net(frame, side, wanted),
            Self::Ports(transport, side, low, high) => {
                let Some(at) = transport.ports(frame)? else {
                    return Some(false);
                };
                let is_wanted = |at| Some((low..=high).contains(&word(frame, at)?));
                side.of(|| is_wanted(at), || is_wanted(at + 2))
            }
            Self::Station(side, mac) => {
                let is_wanted = |at| Some(frame.get(at..at + 6)? == mac.0);
                side.of(|| is_wanted(6), || is_wanted(0))
            }
        }
    }
}

impl Side {
    fn of(
        self,
        source: impl Fn() -> Option<bool>,
        destination: impl Fn() -> Option<bool>,
    ) -> Option<bool> {
        match self {
            Self::Source => source(),
            Self::Destination => destination(),
            Self::Either => Some(source()? || destination()?),
            Self::Both => Some(source()? && destination()?),
        }
    }
}

impl Protocol {
    fn eval(self, frame: &[u8]) -> Option<bool> {
        let kind = word(frame, 12)?;
        let v4 = |wanted| Some(kind == TYPE_IP && *frame.get(ETHERNET + 9)? == wanted);
        let v6 = |wanted| {
            if kind != TYPE_IP6 {
                return Some(false);
            }
            let next = *frame.get(ETHERNET + 6)?;
            Some(next == wanted || next == FRAGMENT && *frame.get(ETHERNET + IPV6)? == wanted)
        };
        match self {
            Self::Ip => Some(kind == TYPE_IP),
            Self::Ip6 => Some(kind == TYPE_IP6),
            Self::Arp => Some(kind == TYPE_ARP),
            Self::Tcp => Some(v4(TCP)? || v6(TCP)?),
            Self::Udp => Some(v4(UDP)? || v6(UDP)?),
            Self::Icmp => v4(ICMP),
            Self::Icmp6 => v6(ICMP6),
        }
    }
}

impl Transport {
    /// Where the source port is; inside, `None` for a packet without ports.
    fn ports(self, frame: &[u8]) -> Option<Option<usize>> {
        let has_ports = |protocol| match self {
            Self::Any => matches!(protocol, TCP | UDP | SCTP),
            Self::Tcp => protocol == TCP,
            Self::Udp => protocol == UDP,
        };
        Some(match word(frame, 12)? {
            TYPE_IP => {
                let is_later_fragment = || Some(word(frame, ETHERNET + 6)? & 0x1fff != 0);
                if !has_ports(*frame.get(ETHERNET + 9)?) || is_later_fragment()? {
                    return Some(None);
                }
                let header = usize::from(frame.get(ETHERNET)? & 0x0f) * 4;
                Some(ETHERNET + header)
            }
            TYPE_IP6 if has_ports(*frame.get(ETHERNET + 6)?) => Some(ETHERNET + IPV6),
            _ => None,
        })
    }
}

/// True for a frame from or to an address in `wanted`, by IP or ARP.
fn net(frame: &[u8], side: Side, wanted: IpNet) -> Option<bool> {
    let kind = word(frame, 12)?;
    let (source, destination) = match (wanted, kind) {
        (IpNet::V4(_), TYPE_IP) => (ETHERNET + 12, ETHERNET + 16),
        (IpNet::V4(_), TYPE_ARP | TYPE_RARP) => (ETHERNET + 14, ETHERNET + 24),
        (IpNet::V6(_), TYPE_IP6) => (ETHERNET + 8, ETHERNET + 24),
        _ => return Some(false),
    };
    let is_wanted = |at: usize| {
        let rest = frame.get(at..)?;
        let address = match wanted {
            IpNet::V4(_) => IpAddr::from(*rest.first_chunk::<4>()?),
            IpNet::V6(_) => IpAddr::from(*rest.first_chunk::<16>()?),
        };
        Some(wanted.contains(&address))
    };
    side.of(|| is_wanted(source), || is_wanted(destination))
}

/// A big-endian number of 16 bits.
fn word(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}
