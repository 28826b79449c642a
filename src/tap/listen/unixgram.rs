//! Frames as datagrams at a unix socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, UnixAddr, recvfrom, sendmsg};
use socket2::{Socket, Type};

use super::ListenError;
use crate::tap::fd::{SOCKET_BUFFER, plain};
use crate::tap::queue::FrameQueue;
use crate::tap::retry::Timer;
use crate::tap::software::Software;
use crate::tap::{Access, Caps, Link, Medium, Offload, Received, SocketFile};

/// How long frames wait for a peer that does nothing.
const RETRY: Duration = Duration::from_millis(1);

/// Less than this is no Ethernet frame. vfkit introduces itself with four bytes.
const MIN_FRAME: usize = 14;

/// Slices that one `sendmsg` takes (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;

/// Frames as datagrams at a unix socket of ours.
///
/// The socket is not connected: a peer that is started again must be able to
/// send, whatever became of the one before. So the system does not say when the
/// peer has room again, which on most systems it has for 10 datagrams only
/// (`net.unix.max_dgram_qlen`). Frames that wait are tried again with each frame
/// that comes, which is when the peer has done something, and after [`RETRY`].
#[derive(Debug)]
pub struct UnixgramLink {
    outgoing: Datagrams,
    software: Software,
    caps: Caps,
    /// Removed at the end.
    _file: SocketFile,
}

/// The sockets, apart so that the software path can borrow it.
#[derive(Debug)]
struct Datagrams {
    socket: Socket,
    peer: Option<UnixAddr>,
    waiting: FrameQueue,
    timer: Timer,
    /// Of the socket and the timer.
    epoll: Epoll,
}

impl UnixgramLink {
    /// Makes the socket; one that was left behind is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn new(path: &Path, access: &Access) -> Result<Self, ListenError> {
        let (socket, file) = SocketFile::make(Type::DGRAM, path, access)?;
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        Ok(Self {
            outgoing: Datagrams::new(socket)?,
            software: Software::default(),
            caps: plain(Medium::Ethernet),
            _file: file,
        })
    }
}

impl Datagrams {
    fn new(socket: Socket) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = Timer::new()?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            socket,
            peer: None,
            waiting: FrameQueue::default(),
            timer,
            epoll,
        })
    }

    fn heard(&mut self, from: UnixAddr) {
        if self.peer == Some(from) {
            return;
        }
        if let Some(path) = from.path() {
            tracing::info!(peer = %path.display(), "frames come from here, and go there");
            self.peer = Some(from);
        }
    }

    fn send(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let Some(peer) = self.peer else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if !self.waiting.is_empty() {
            return self.waiting.push(frame);
        }
        match send_to(&self.socket, &peer, frame) {
            Ok(()) => Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                self.waiting.push(frame)?;
                self.timer.set(RETRY)
            }
            Err(e) => {
                if matches!(e, Errno::ECONNREFUSED | Errno::ENOENT) {
                    // Whoever it was is gone.
                    self.peer = None;
                }
                Err(e.into())
            }
        }
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self) -> io::Result<()> {
        self.timer.has_expired();
        let (socket, peer) = (&self.socket, self.peer);
        self.waiting.flush(|frame| match &peer {
            Some(peer) => send_to(socket, peer, frame),
            // For nobody any more.
            None => Ok(()),
        });
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.timer.set(RETRY)
    }
}

impl Link for UnixgramLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.outgoing.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        if !self.outgoing.waiting.is_empty() {
            self.outgoing.flush()?;
        }
        let (len, from) = recvfrom::<UnixAddr>(self.outgoing.socket.as_raw_fd(), buf)?;
        if let Some(from) = from {
            self.outgoing.heard(from);
        }
        if len < MIN_FRAME {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(Received {
            len,
            offload: Offload::default(),
        })
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let Self {
            caps,
            outgoing,
            software,
            ..
        } = self;
        software.carry(caps, offload, frame, MAX_SLICES, |frame| {
            outgoing.send(frame)
        })
    }
}

fn send_to(socket: &Socket, peer: &UnixAddr, frame: &[IoSlice<'_>]) -> nix::Result<()> {
    sendmsg(
        socket.as_raw_fd(),
        frame,
        &[],
        MsgFlags::empty(),
        Some(peer),
    )
    .map(drop)
}
