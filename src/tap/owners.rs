//! Says which socket of the guest's namespace a flow belongs to.
//!
//! As [`listening`](super::listening), with questions about one socket each: the
//! kernel looks it up in its hash tables, so that an answer costs the same however
//! many there are.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, IPPROTO_UDP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};
use nix::sys::socket::{MsgFlags, recv, send};

/// Bytes of an answer: one socket with the attributes that come unasked.
const ANSWER_LEN: usize = 4096;

/// Answers to questions that were given up, skipped before ours.
const MAX_STALE: usize = 16;

/// Protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A socket, and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Its inode, as `/proc/PID/fd` shows it; the same in all namespaces.
    pub inode: u32,
    /// The user that made it, as this process's own user namespace has it.
    pub uid: u32,
}

/// Shows whose the sockets of a namespace are.
#[derive(Debug)]
pub struct SocketOwners {
    socket: OwnedFd,
    buffer: Vec<u8>,
    /// Number of the last question.
    last: u32,
    namespace: Option<u64>,
}

impl SocketOwners {
    /// Takes over a socket of `sock_diag`; `namespace` is the inode of the network
    /// namespace that it was made in, where that is known.
    pub(super) fn from_fd(socket: OwnedFd, namespace: Option<u64>) -> Self {
        Self {
            socket,
            buffer: vec![0; ANSWER_LEN],
            last: 0,
            namespace,
        }
    }

    /// The inode of the network namespace, as `/proc/PID/ns/net` has it.
    #[must_use]
    pub fn namespace(&self) -> Option<u64> {
        self.namespace
    }

    /// The socket at `guest` that talks to `remote`: one that is connected to it;
    /// else one that would take what comes from there. `None` when there is none,
    /// or none that belongs to a process (any more).
    ///
    /// # Errors
    /// When the kernel has no `sock_diag` for the protocol.
    pub fn find(
        &mut self,
        transport: Transport,
        guest: SocketAddr,
        remote: SocketAddr,
    ) -> io::Result<Option<Owner>> {
        self.last = self.last.wrapping_add(1);
        self.ask(transport, guest, remote)?;
        for _ in 0..MAX_STALE {
            if let Some(answer) = self.read()? {
                return Ok(answer.filter(|owner| owner.inode != 0));
            }
        }
        Ok(None)
    }

    fn ask(&self, transport: Transport, guest: SocketAddr, remote: SocketAddr) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        header.sequence_number = self.last;
        let (family, mut socket_id) = match guest {
            SocketAddr::V4(_) => (AF_INET, SocketId::new_v4()),
            SocketAddr::V6(_) => (AF_INET6, SocketId::new_v6()),
        };
        // The kernel looks a TCP socket up by the ends as the socket has them, and a
        // UDP socket as one that takes a datagram (net/ipv4/udp_diag.c: "src and dst
        // are swapped for historical reasons").
        let (protocol, source, destination) = match transport {
            Transport::Tcp => (IPPROTO_TCP, guest, remote),
            Transport::Udp => (IPPROTO_UDP, remote, guest),
        };
        socket_id.source_address = source.ip();
        socket_id.source_port = source.port();
        socket_id.destination_address = destination.ip();
        socket_id.destination_port = destination.port();
        socket_id.cookie = [0xff; 8]; // whichever
        let request = InetRequest {
            family,
            protocol,
            extensions: ExtensionFlags::empty(),
            states: StateFlags::all(),
            socket_id,
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(self.socket.as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL)?;
        Ok(())
    }

    /// Reads one answer; `None` when it is to an earlier question.
    fn read(&mut self) -> io::Result<Option<Option<Owner>>> {
        let fd = self.socket.as_raw_fd();
        let len = loop {
            match recv(fd, &mut self.buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => {}
                result => break result?,
            }
        };
        let bytes = self.buffer.get(..len).unwrap_or(&[]);
        let message =
            NetlinkMessage::<SockDiagMessage>::deserialize(bytes).map_err(io::Error::other)?;
        if message.header.sequence_number != self.last {
            return Ok(None);
        }
        match message.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(answer)) => {
                let (inode, uid) = (answer.header.inode, answer.header.uid);
                Ok(Some(Some(Owner { inode, uid })))
            }
            NetlinkPayload::Error(error) => {
                let error = error.to_io();
                match error.raw_os_error() {
                    Some(libc::ENOENT | libc::ESTALE) => Ok(Some(None)),
                    _ => Err(error),
                }
            }
            _ => Ok(Some(None)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsFd;

    fn owners() -> SocketOwners {
        SocketOwners::from_fd(super::super::listening::open().expect("sock_diag"), None)
    }

    fn inode(socket: &impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket).expect("a socket").st_ino
    }

    #[track_caller]
    fn found(transport: Transport, at: SocketAddr, peer: SocketAddr) -> u64 {
        let found = owners().find(transport, at, peer).expect("an answer");
        let owner = found.expect("a socket");
        assert_eq!(owner.uid, nix::unistd::geteuid().as_raw());
        owner.inode.into()
    }

    #[test]
    fn connections_are_found() {
        for at in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(at).expect("a port");
            let there = listener.local_addr().expect("an address");
            let client = TcpStream::connect(there).expect("connects");
            let here = client.local_addr().expect("an address");
            assert_eq!(found(Transport::Tcp, here, there), inode(&client));
            // Not accepted yet: who listens.
            let (server, _) = listener.accept().expect("a client");
            assert_eq!(found(Transport::Tcp, there, here), inode(&server));
            let other = "192.0.2.1:7".parse().expect("an address");
            let other = if there.is_ipv4() { other } else { here };
            assert_eq!(
                found(
                    Transport::Tcp,
                    there,
                    SocketAddr::new(other.ip(), here.port().wrapping_add(1))
                ),
                inode(&listener)
            );
            drop((client, server, listener));
            let found = owners().find(Transport::Tcp, here, there);
            assert_eq!(found.expect("an answer"), None);
        }
    }

    #[test]
    fn a_connection_of_a_socket_for_both_families_is_found() {
        let listener = TcpListener::bind("[::]:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("connects");
        let (server, _) = listener.accept().expect("a client");
        let (here, there) = (
            client.local_addr().expect("an address"),
            client.peer_addr().expect("an address"),
        );
        assert_eq!(found(Transport::Tcp, there, here), inode(&server));
    }

    #[test]
    fn datagram_sockets_are_found() {
        let remote: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        let any = UdpSocket::bind("0.0.0.0:0").expect("a port");
        let at = |socket: &UdpSocket| {
            let port = socket.local_addr().expect("an address").port();
            SocketAddr::new([127, 0, 0, 1].into(), port)
        };
        assert_eq!(found(Transport::Udp, at(&any), remote), inode(&any));
        let both = UdpSocket::bind("[::]:0").expect("a port");
        assert_eq!(found(Transport::Udp, at(&both), remote), inode(&both));
        let connected = UdpSocket::bind("127.0.0.1:0").expect("a port");
        connected.connect(remote).expect("connects");
        assert_eq!(
            found(Transport::Udp, at(&connected), remote),
            inode(&connected)
        );
        let here = at(&any);
        drop(any);
        let found = owners().find(Transport::Udp, here, remote);
        assert_eq!(found.expect("an answer"), None);
    }
}
