//! Sockets that virtual machines connect to.
//!
//! | link | socket | who connects |
//! |---|---|---|
//! | [`Listener::qemu`] | a stream, unix or TCP; frames behind their lengths, 4 bytes each | QEMU's `-netdev stream` and `-netdev socket,connect=` |
//! | [`Listener::bess`] | unix, `SOCK_SEQPACKET`; a message is a frame | User-Mode Linux's `vec0:transport=bess,dst=PATH` |
//! | [`UnixgramLink`] | unix, `SOCK_DGRAM`; a datagram is a frame | vfkit's `virtio-net,unixSocketPath=`, QEMU's `-netdev dgram` |
//!
//! A [`Listener`] is a source of ports: each connection is one, and ends with it.
//! Datagram sockets have no connections: [`UnixgramLink`] is one port, whose peer
//! is whoever sent the last datagram from a socket with a name.
//!
//! **Who may connect.** Unix sockets are for this user unless asked otherwise. A
//! TCP port on the loopback address is open to every user of the host.

mod unixgram;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

pub use self::unixgram::UnixgramLink;
use super::acceptor::Acceptor;
use super::fd::{DatagramLink, Ends, SOCKET_BUFFER, StreamLink};
use super::framing::Prefix;
use super::switch::{NewPort, PortSource};
use super::{Access, Link, Medium, SocketFile, SocketFileError};

/// A silent TCP connection is asked whether it is still there after this long:
/// a host that has lost its power does not say goodbye.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A unix socket, made here; one that was left behind is replaced.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Who may connect. Default: this user.
        access: Access,
    },
    /// A TCP port of this host.
    Tcp(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// There is no listening.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketFileError),
    /// The address is not to be had.
    #[error(
        "cannot listen on TCP {address}: {source}; choose an address of this host and a free port"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no room.
    #[error("cannot listen: {0}")]
    System(#[from] io::Error),
}

/// Makes a port of every connection.
#[derive(Debug)]
pub struct Listener {
    name: String,
    acceptor: Acceptor,
    kind: Kind,
    local: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Qemu,
    Bess,
}

impl Listener {
    /// For QEMU's `-netdev stream`.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn qemu(at: &ListenAddress) -> Result<Self, ListenError> {
        let (socket, file) = match at {
            ListenAddress::Unix { path, access } => {
                let (socket, file) = SocketFile::make(Type::STREAM, path, access)?;
                (socket, Some(file))
            }
            ListenAddress::Tcp(address) => (bind_tcp(*address)?, None),
        };
        let local = socket.local_addr()?.as_socket();
        Ok(Self {
            name: format!("qemu:{at}"),
            acceptor: Acceptor::new(socket, file)?,
            kind: Kind::Qemu,
            local,
        })
    }

    /// For User-Mode Linux's `bess` transport.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bess(path: &Path, access: &Access) -> Result<Self, ListenError> {
        let (socket, file) = SocketFile::make(Type::SEQPACKET, path, access)?;
        Ok(Self {
            name: format!("bess:{}", path.display()),
            acceptor: Acceptor::new(socket, Some(file))?,
            kind: Kind::Bess,
            local: None,
        })
    }

    /// The TCP address, with the port that the system chose.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    fn port(&self, socket: Socket, from: &SockAddr) -> io::Result<NewPort> {
        let name = match from.as_socket() {
            Some(address) => {
                tune_tcp(&socket);
                format!("{} from {address}", self.name)
            }
            None => match getsockopt(&socket, sockopt::PeerCredentials) {
                Ok(peer) => format!("{} from process {}", self.name, peer.pid()),
                Err(_) => self.name.clone(),
            },
        };
        // Less room costs frames, but works.
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let ends = Ends::one(socket.into())?;
        let link: Box<dyn Link> = match self.kind {
            Kind::Qemu => Box::new(StreamLink::new(ends, Prefix::Len32, Medium::Ethernet)?),
            Kind::Bess => Box::new(DatagramLink::new(ends, Medium::Ethernet)?),
        };
        Ok(NewPort { link, name })
    }
}

impl PortSource for Listener {
    fn name(&self) -> &str {
        &self.name
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.acceptor.readiness()
    }

    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        match self.acceptor.accept()? {
            Some((socket, from)) => Ok(Some(self.port(socket, &from)?)),
            None => Ok(None),
        }
    }

    fn lost(&mut self, _reason: &io::Error) {}
}

fn bind_tcp(address: SocketAddr) -> Result<Socket, ListenError> {
    let bind = || {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        // Connections of an earlier run may still be in TIME-WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bind().map_err(|source| ListenError::Tcp { address, source })
}

/// None of it is needed to work.
fn tune_tcp(socket: &Socket) {
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
}

#[cfg(test)]
mod tests;
