//! Who holds a port of the host, for the message of who would have liked it.
//!
//! The kernel's tables of sockets name the socket and its user; which process
//! has it open can be seen of this user's processes only (root sees all).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use nix::unistd::{Uid, User};
use procfs::net::{TcpState, tcp, tcp6, udp, udp6};
use procfs::process::{FDTarget, Process, all_processes};

use crate::policy::Protocol;

/// Who holds a port, as far as it can be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// This process.
    Process {
        /// Its name.
        name: String,
        /// Its id.
        pid: i32,
    },
    /// A process of this user, by name.
    User(String),
    /// Somebody.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { name, pid } => write!(f, "{name} (process {pid})"),
            Self::User(name) => write!(f, "a program of user {name}"),
            Self::Unknown => f.write_str("another program"),
        }
    }
}

/// A socket in the kernel's tables.
#[derive(Debug, Clone, Copy)]
struct Found {
    inode: u64,
    uid: u32,
}

/// Looks up who has the port of `wanted`, on an address that is in its way.
pub(super) fn of(protocol: Protocol, wanted: SocketAddr) -> Holder {
    let Some(socket) = socket_at(protocol, wanted) else {
        return Holder::Unknown;
    };
    if let Some((name, pid)) = process_with(socket.inode) {
        return Holder::Process { name, pid };
    }
    let user = User::from_uid(Uid::from_raw(socket.uid));
    Holder::User(match user {
        Ok(Some(user)) => user.name,
        _ => socket.uid.to_string(),
    })
}

fn socket_at(protocol: Protocol, wanted: SocketAddr) -> Option<Found> {
    let sockets: Vec<(SocketAddr, Found)> = match protocol {
        Protocol::Tcp => [tcp(), tcp6()]
            .into_iter()
            .flat_map(Result::unwrap_or_default)
            .filter(|entry| entry.state == TcpState::Listen)
            .map(|entry| {
                let (uid, inode) = (entry.uid, entry.inode);
                (entry.local_address, Found { inode, uid })
            })
            .collect(),
        Protocol::Udp => [udp(), udp6()]
            .into_iter()
            .flat_map(Result::unwrap_or_default)
            .map(|entry| {
                let (uid, inode) = (entry.uid, entry.inode);
                (entry.local_address, Found { inode, uid })
            })
            .collect(),
        Protocol::Echo => return None,
    };
    let on_port = || sockets.iter().filter(|(at, _)| at.port() == wanted.port());
    // An unspecified address stands for all, of both families perhaps.
    let is_in_the_way =
        |at: IpAddr| at == wanted.ip() || at.is_unspecified() || wanted.ip().is_unspecified();
    let found = on_port().find(|(at, _)| is_in_the_way(at.ip().to_canonical()));
    found.or_else(|| on_port().next()).map(|&(_, found)| found)
}

/// The first process that has the socket open.
fn process_with(inode: u64) -> Option<(String, i32)> {
    let has = |process: &Process| {
        let Ok(mut descriptors) = process.fd() else {
            return false;
        };
        descriptors.any(|fd| fd.is_ok_and(|fd| fd.target == FDTarget::Socket(inode)))
    };
    let process = all_processes().ok()?.flatten().find(has)?;
    let name = process.stat().ok()?.comm;
    Some((name, process.pid()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn this_process_is_found() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("an address");
        let me = i32::try_from(std::process::id()).expect("a process id");
        for wanted in [at, SocketAddr::new([0, 0, 0, 0].into(), at.port())] {
            let holder = of(Protocol::Tcp, wanted);
            assert!(
                matches!(holder, Holder::Process { pid, .. } if pid == me),
                "{holder:?}"
            );
        }
        let socket = UdpSocket::bind("[::]:0").expect("a port");
        let at = socket.local_addr().expect("an address");
        let holder = of(
            Protocol::Udp,
            SocketAddr::new([127, 0, 0, 1].into(), at.port()),
        );
        assert!(
            matches!(holder, Holder::Process { pid, .. } if pid == me),
            "{holder:?}"
        );
    }

    #[test]
    fn nobody_is_said_to_be_nobody() {
        let free = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let at = free.local_addr().expect("an address");
        drop(free);
        assert_eq!(of(Protocol::Udp, at), Holder::Unknown);
    }
}
