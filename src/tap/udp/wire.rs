//! Datagrams and the frames in them.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use super::{UdpError, UdpFraming, UdpOptions};
use crate::tap::fd::SOCKET_BUFFER;
use crate::tap::framing::Prefix;

/// The socket and how frames stand on it.
#[derive(Debug)]
pub(super) struct Wire {
    socket: Socket,
    framing: UdpFraming,
    /// The socket is connected, and sends to its peer only.
    pub(super) peer: Option<SocketAddr>,
}

/// What a datagram was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Datagram {
    Frame {
        len: usize,
        from: SocketAddr,
    },
    /// Not as long as it says.
    Mismatch {
        from: SocketAddr,
    },
    Empty,
}

impl Wire {
    /// # Errors
    /// [`UdpError`].
    pub(super) fn open(options: &UdpOptions) -> Result<Self, UdpError> {
        let address = options.bind;
        let open = || {
            let kind = Type::DGRAM.nonblocking().cloexec();
            let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::UDP))?;
            socket.set_recv_buffer_size(SOCKET_BUFFER)?;
            socket.set_send_buffer_size(SOCKET_BUFFER)?;
            socket.bind(&address.into())?;
            Ok(socket)
        };
        let socket = open().map_err(|source| UdpError::Bind { address, source })?;
        if let Some(peer) = options.peer {
            let connected = socket.connect(&peer.into());
            connected.map_err(|source| UdpError::Peer {
                address,
                peer,
                source,
            })?;
        }
        Ok(Self {
            socket,
            framing: options.framing,
            peer: options.peer,
        })
    }

    pub(super) const fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) const fn framing(&self) -> UdpFraming {
        self.framing
    }

    /// The next datagram; its frame, without a length, is in `buf`.
    ///
    /// # Errors
    /// `WouldBlock` and `Interrupted` only.
    pub(super) fn recv(&self, buf: &mut [u8]) -> io::Result<Datagram> {
        let prefix = Prefix::Len16;
        let mut length = [0; 2];
        let ahead = match self.framing {
            UdpFraming::Raw => 0,
            UdpFraming::Len16 => prefix.size(),
        };
        let mut parts = [IoSliceMut::new(&mut length[..ahead]), IoSliceMut::new(buf)];
        let socket = self.socket.as_raw_fd();
        let message = recvmsg::<SockaddrStorage>(socket, &mut parts, None, MsgFlags::empty());
        let (bytes, from) = match message {
            Ok(message) => (message.bytes, message.address.as_ref().and_then(to_std)),
            Err(e @ (Errno::EAGAIN | Errno::EINTR)) => return Err(e.into()),
            // An ICMP error to something that was sent: nobody is there, yet. No
            // error ends a UDP socket, and reading it takes it away.
            Err(_) => return Ok(Datagram::Empty),
        };
        let Some(from) = from.filter(|_| bytes > 0) else {
            return Ok(Datagram::Empty);
        };
        let Some(len) = bytes.checked_sub(ahead) else {
            return Ok(Datagram::Mismatch { from });
        };
        let is_whole = match self.framing {
            UdpFraming::Raw => true,
            UdpFraming::Len16 => usize::from(u16::from_be_bytes(length)) == len,
        };
        Ok(if is_whole {
            Datagram::Frame { len, from }
        } else {
            Datagram::Mismatch { from }
        })
    }

    /// Sends one frame, to the peer if there is one for good.
    ///
    /// # Errors
    /// That this frame is lost.
    pub(super) fn send(&self, to: SocketAddr, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let len = frame.iter().map(|slice| slice.len()).sum();
        let header;
        let prefixed: Vec<IoSlice<'_>>;
        let slices = match self.framing {
            UdpFraming::Raw => frame,
            UdpFraming::Len16 => {
                header = Prefix::Len16
                    .encode(len)
                    .ok_or(io::ErrorKind::InvalidInput)?;
                let first = std::iter::once(IoSlice::new(header.as_bytes()));
                prefixed = first.chain(frame.iter().copied()).collect();
                &prefixed
            }
        };
        let to = self.peer.is_none().then(|| SockaddrStorage::from(to));
        let socket = self.socket.as_raw_fd();
        let send = || sendmsg(socket, slices, &[], MsgFlags::empty(), to.as_ref());
        // An ICMP error to something sent before comes first, once.
        match send().or_else(|e| match e {
            Errno::ECONNREFUSED => send(),
            e => Err(e),
        }) {
            Ok(_) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}

fn to_std(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(IpAddr::V4(v4.ip()), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::V6((*v6).into()))
}
