//! A port of a VDE switch, seen from either side: datagrams with frames, and the
//! stream whose end is the port's end.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::unistd::read;
use socket2::{Domain, Socket, Type};

use crate::tap::fd::{DatagramLink, Empty, Ends, SOCKET_BUFFER, ended};
use crate::tap::{Caps, Link, Medium, Offload, Received};

/// Frames between two looks at the stream, for a port that always has one.
const FRAMES_PER_LOOK: u32 = 64;

/// Carries frames as long as the stream is open.
#[derive(Debug)]
pub(super) struct VdeLink {
    /// What polls readable for it does so for the stream, too.
    data: DatagramLink,
    ctl: Socket,
    until_look: u32,
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// A switch, to which an empty datagram means nothing.
    Switch,
    /// A client, which may part with an empty datagram.
    Client,
}

impl VdeLink {
    /// A port over a connected datagram socket and its stream, neither of which
    /// blocks.
    pub(super) fn new(data: Socket, ctl: Socket, peer: Peer) -> io::Result<Self> {
        let empty = match peer {
            Peer::Switch => Empty::Ignored,
            Peer::Client => Empty::End,
        };
        let ends = Ends::one(data.into())?;
        let data = DatagramLink::with_empty(ends, Medium::Ethernet, empty)?;
        let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        data.epoll().add(&ctl, readable)?;
        Ok(Self {
            data,
            ctl,
            until_look: FRAMES_PER_LOOK,
        })
    }

    /// `WouldBlock` as long as the stream is open and silent. What comes on it
    /// has no meaning; that something came is `Interrupted`.
    fn look_at_ctl(&mut self) -> io::Error {
        self.until_look = FRAMES_PER_LOOK;
        match read(&self.ctl, &mut [0; 256]) {
            Ok(0) => ended(),
            Ok(_) => io::ErrorKind::Interrupted.into(),
            Err(e) => e.into(),
        }
    }
}

impl Link for VdeLink {
    fn caps(&self) -> Caps {
        self.data.caps()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.data.readiness()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        self.until_look -= 1;
        if self.until_look == 0 {
            let state = self.look_at_ctl();
            if state.kind() != io::ErrorKind::WouldBlock {
                return Err(state);
            }
        }
        match self.data.recv(buf) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Err(self.look_at_ctl()),
            result => result,
        }
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.data.send(offload, frame)
    }
}

/// A datagram socket for a port, with room for many frames.
pub(super) fn data_socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM.nonblocking(), None)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)?;
    Ok(socket)
}
