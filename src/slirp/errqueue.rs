//! What the network said about datagrams that a socket sent: the error queue of
//! `IP_RECVERR` (ip(7)), in the gateway's own words.

use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};

use super::egress::Problem;

/// Reports taken from one queue at a time.
const MAX_REPORTS: usize = 32;

/// Bytes of the sent datagram that a report quotes to us at most. ICMP quotes
/// less; local errors may come with all of it.
const QUOTE: usize = 1500;

/// What the network said about a datagram.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) problem: Problem,
    /// Where the datagram was sent.
    pub(crate) destination: SocketAddr,
    /// Who said so; `None` when it was the host itself.
    pub(crate) offender: Option<IpAddr>,
    /// The front of the datagram's payload.
    pub(crate) payload: Vec<u8>,
}

/// Takes what is queued; entries that say nothing useful are skipped. What the
/// host itself refused is reported by the call that sent, not from here.
pub(crate) fn drain(socket: &OwnedFd) -> Vec<Report> {
    let mut reports = Vec::new();
    for _ in 0..MAX_REPORTS {
        match next(socket) {
            Ok(Some(Entry::Network(report))) => reports.push(report),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    reports
}

/// The path MTU behind an `EMSGSIZE` that was just returned: the host puts it
/// into the queue.
pub(crate) fn path_mtu(socket: &OwnedFd) -> Option<u16> {
    for _ in 0..MAX_REPORTS {
        match next(socket) {
            Ok(Some(Entry::TooLongHere { mtu })) => return Some(mtu),
            Ok(_) => {}
            Err(_) => break,
        }
    }
    None
}

/// One entry of the queue.
enum Entry {
    /// A router, or the destination, sent an error.
    Network(Report),
    /// The host found the datagram too long for the path.
    TooLongHere { mtu: u16 },
}

fn next(socket: &OwnedFd) -> Result<Option<Entry>, Errno> {
    let mut payload = vec![0; QUOTE];
    let mut space = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let mut slices = [IoSliceMut::new(&mut payload)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message =
        recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    let destination = message.address.as_ref().and_then(socket_addr);
    let told = message.cmsgs()?.find_map(|cmsg| match cmsg {
        ControlMessageOwned::Ipv4RecvErr(error, from) => {
            let from = from.filter(|a| a.sin_family != 0);
            Some((
                error,
                from.map(|a| Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr)).into()),
            ))
        }
        ControlMessageOwned::Ipv6RecvErr(error, from) => {
            let from = from.filter(|a| a.sin6_family != 0);
            Some((
                error,
                from.map(|a| Ipv6Addr::from(a.sin6_addr.s6_addr).into()),
            ))
        }
        _ => None,
    });
    let len = message.bytes;
    let Some((error, offender)) = told else {
        return Ok(None);
    };
    if error.ee_origin == libc::SO_EE_ORIGIN_LOCAL {
        let too_long = i32::try_from(error.ee_errno) == Ok(libc::EMSGSIZE);
        return Ok(too_long.then(|| Entry::TooLongHere { mtu: mtu(&error) }));
    }
    let (Some(destination), Some(problem)) = (destination, problem(&error)) else {
        return Ok(None);
    };
    payload.truncate(len);
    Ok(Some(Entry::Network(Report {
        problem,
        destination,
        offender,
        payload,
    })))
}

fn mtu(error: &libc::sock_extended_err) -> u16 {
    u16::try_from(error.ee_info).unwrap_or(u16::MAX)
}

/// The standard library's form of an address.
pub(crate) fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = addr
        .as_sockaddr_in()
        .map(|a| SocketAddr::from((a.ip(), a.port())));
    v4.or_else(|| {
        addr.as_sockaddr_in6()
            .map(|a| SocketAddrV6::new(a.ip(), a.port(), 0, a.scope_id()).into())
    })
}

/// From ICMP type and code.
fn problem(error: &libc::sock_extended_err) -> Option<Problem> {
    let mtu = mtu(error);
    match (error.ee_origin, error.ee_type, error.ee_code) {
        (libc::SO_EE_ORIGIN_ICMP, 3, 0 | 6) => Some(Problem::NetUnreachable),
        (libc::SO_EE_ORIGIN_ICMP, 3, 1 | 7) => Some(Problem::HostUnreachable),
        (libc::SO_EE_ORIGIN_ICMP, 3, 2 | 3) => Some(Problem::PortUnreachable),
        (libc::SO_EE_ORIGIN_ICMP, 3, 4) => Some(Problem::TooBig { mtu }),
        (libc::SO_EE_ORIGIN_ICMP, 3, 9 | 10 | 13) => Some(Problem::Prohibited),
        (libc::SO_EE_ORIGIN_ICMP, 3, _) => Some(Problem::HostUnreachable),
        (libc::SO_EE_ORIGIN_ICMP, 11, 0) => Some(Problem::HopLimit),
        (libc::SO_EE_ORIGIN_ICMP6, 1, 0) => Some(Problem::NetUnreachable),
        (libc::SO_EE_ORIGIN_ICMP6, 1, 1) => Some(Problem::Prohibited),
        (libc::SO_EE_ORIGIN_ICMP6, 1, 4) => Some(Problem::PortUnreachable),
        (libc::SO_EE_ORIGIN_ICMP6, 1, _) => Some(Problem::HostUnreachable),
        (libc::SO_EE_ORIGIN_ICMP6, 2, _) => Some(Problem::TooBig { mtu }),
        (libc::SO_EE_ORIGIN_ICMP6, 3, 0) => Some(Problem::HopLimit),
        _ => None,
    }
}
