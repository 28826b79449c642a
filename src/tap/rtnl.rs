//! Configures an interface of the current network namespace through rtnetlink.
//!
//! All requests go to the kernel in one message and its answers come back in
//! as few; starting up takes fractions of a millisecond.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

use super::attach_error::Errno;
use crate::net::{MacAddr, Mtu};

/// Bytes for one batch of the kernel's answers; a link's description with all
/// of its statistics is about 2 KiB.
const ANSWER_LEN: usize = 16 << 10;

/// A connection to the kernel's routing tables.
#[derive(Debug)]
pub(super) struct Rtnl {
    socket: Socket,
}

/// What drives an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    /// The tun driver.
    Tun,
    /// Anything else.
    Other,
}

/// A version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IpVersion {
    V4,
    V6,
}

/// A change to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Brings interface `index` up.
    Up { index: u32 },
    /// Sets MAC (if given) and MTU, then brings the interface up.
    SetUp {
        index: u32,
        mac: Option<MacAddr>,
        mtu: Mtu,
    },
    /// Adds an address; an IPv6 one at once, without duplicate detection.
    Address {
        index: u32,
        addr: IpAddr,
        prefix_len: u8,
    },
    /// Adds a default route.
    DefaultRoute { index: u32, gateway: IpAddr },
    /// Adds a default route without a gateway, for an interface with one other
    /// end.
    DeviceRoute { index: u32, version: IpVersion },
}

impl Rtnl {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Answers to failed requests need not repeat the request.
        socket.set_cap_ack(true)?;
        Ok(Self { socket })
    }

    /// What drives the interface `name`; `None` when there is none.
    pub(super) fn kind(&self, name: &str) -> io::Result<Option<LinkKind>> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        let mut out = Vec::new();
        append(&mut out, RouteNetlinkMessage::GetLink(message), 0, 0);
        self.socket.send(&out, 0)?;
        for answer in self.answers()? {
            match answer.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                    return Ok(Some(kind_of(&link)));
                }
                NetlinkPayload::Error(e) => {
                    let error = e.to_io();
                    return match error.raw_os_error() {
                        Some(libc::ENODEV) => Ok(None),
                        _ => Err(error),
                    };
                }
                _ => {}
            }
        }
        Err(io::Error::other(
            "the kernel did not describe the interface",
        ))
    }

    /// Makes `changes` in order, each whether or not those before it worked,
    /// and returns what became of each.
    pub(super) fn apply(&self, changes: &[Change]) -> io::Result<Vec<Result<(), Errno>>> {
        let mut out = Vec::with_capacity(1024);
        for (sequence, change) in (1u32..).zip(changes) {
            let (message, flags) = request(change);
            append(&mut out, message, sequence, flags | NLM_F_ACK);
        }
        self.socket.send(&out, 0)?;
        let mut results = vec![None; changes.len()];
        while results.contains(&None) {
            for answer in self.answers()? {
                let index = usize::try_from(answer.header.sequence_number).unwrap_or(0);
                let slot = index.checked_sub(1).and_then(|i| results.get_mut(i));
                if let (Some(slot), NetlinkPayload::Error(e)) = (slot, answer.payload) {
                    *slot = Some(match e.code {
                        None => Ok(()),
                        Some(code) => Err(Errno(-code.get())),
                    });
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Reads one batch of answers.
    fn answers(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let mut buf = Vec::with_capacity(ANSWER_LEN);
        loop {
            match self.socket.recv(&mut buf, 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
                Ok(_) => break,
            }
        }
        let mut answers = Vec::new();
        let mut rest = &buf[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::deserialize(rest).map_err(io::Error::other)?;
            let len = usize::try_from(message.header.length).map_err(io::Error::other)?;
            // Messages are padded to 4 bytes (NLMSG_ALIGN).
            let Some(next) = rest.get(len.max(1).next_multiple_of(4)..) else {
                answers.push(message);
                break;
            };
            rest = next;
            answers.push(message);
        }
        Ok(answers)
    }
}

fn append(out: &mut Vec<u8>, message: RouteNetlinkMessage, sequence: u32, flags: u16) {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = NLM_F_REQUEST | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = out.len();
    out.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut out[start..]);
}

fn kind_of(link: &LinkMessage) -> LinkKind {
    let is_tun = link.attributes.iter().any(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => infos.contains(&LinkInfo::Kind(InfoKind::Tun)),
        _ => false,
    });
    if is_tun {
        LinkKind::Tun
    } else {
        LinkKind::Other
    }
}

fn request(change: &Change) -> (RouteNetlinkMessage, u16) {
    match *change {
        Change::Up { index } => (up(index, Vec::new()), 0),
        Change::SetUp { index, mac, mtu } => {
            let mut attributes = vec![LinkAttribute::Mtu(mtu.get().into())];
            if let Some(MacAddr(bytes)) = mac {
                attributes.push(LinkAttribute::Address(bytes.to_vec()));
            }
            (up(index, attributes), 0)
        }
        Change::Address {
            index,
            addr,
            prefix_len,
        } => (
            address(index, addr, prefix_len),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        Change::DefaultRoute { index, gateway } => {
            (default_route(index, gateway), NLM_F_CREATE | NLM_F_EXCL)
        }
        Change::DeviceRoute { index, version } => {
            (device_route(index, version), NLM_F_CREATE | NLM_F_EXCL)
        }
    }
}

fn up(index: u32, attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes = attributes;
    RouteNetlinkMessage::SetLink(message)
}

fn address(index: u32, addr: IpAddr, prefix_len: u8) -> RouteNetlinkMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = prefix_len;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![
        AddressAttribute::Local(addr),
        AddressAttribute::Address(addr),
    ];
    match addr {
        IpAddr::V4(a) => {
            message.header.family = AddressFamily::Inet;
            message
                .attributes
                .push(AddressAttribute::Broadcast(broadcast(a, prefix_len)));
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message
                .attributes
                .push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    RouteNetlinkMessage::NewAddress(message)
}

fn broadcast(addr: Ipv4Addr, prefix_len: u8) -> Ipv4Addr {
    let host_bits = u32::MAX.checked_shr(prefix_len.into()).unwrap_or(0);
    Ipv4Addr::from(u32::from(addr) | host_bits)
}

fn default_route(index: u32, gateway: IpAddr) -> RouteNetlinkMessage {
    let version = match gateway {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    };
    let mut message = route(index, version);
    let gateway = RouteAttribute::Gateway(RouteAddress::from(gateway));
    message.attributes.push(gateway);
    RouteNetlinkMessage::NewRoute(message)
}

fn device_route(index: u32, version: IpVersion) -> RouteNetlinkMessage {
    let mut message = route(index, version);
    if version == IpVersion::V4 {
        // Nothing between us and the destination. IPv6 has no such scope.
        message.header.scope = RouteScope::Link;
    }
    RouteNetlinkMessage::NewRoute(message)
}

/// A default route through interface `index`.
fn route(index: u32, version: IpVersion) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.address_family = match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    message.attributes = vec![RouteAttribute::Oif(index)];
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broadcast_addresses() {
        let a = Ipv4Addr::new(10, 0, 2, 100);
        assert_eq!(broadcast(a, 24), Ipv4Addr::new(10, 0, 2, 255));
        assert_eq!(broadcast(a, 8), Ipv4Addr::new(10, 255, 255, 255));
        assert_eq!(broadcast(a, 32), a);
    }

    #[test]
    fn loopback_is_described_and_a_missing_interface_is_none() {
        let rtnl = Rtnl::open().expect("rtnetlink");
        assert_eq!(rtnl.kind("lo").expect("query"), Some(LinkKind::Other));
        assert_eq!(rtnl.kind("gw-none").expect("query"), None);
    }
}
