//! Links over descriptors that somebody else made: one frame a message
//! ([`DatagramLink`]), or frames behind their lengths on a stream ([`StreamLink`]).
//!
//! # Theory of operation
//!
//! Neither medium knows offloads, so super-frames are cut and checksums completed
//! in software before they leave ([`crate::wire::segment`]).
//!
//! When the other end is slow, frames wait ([`super::queue`]), and when they are
//! too many the newest are lost, as on any wire. A stream may take half a frame;
//! the rest of it waits, and is sent before anything else. For the medium to say
//! when it has room again, a link keeps an epoll instance of its own, which is
//! what the caller watches.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::uio::writev;
use nix::unistd::read;

use super::framing::{Deframer, Prefix};
use super::queue::{ByteQueue, FrameQueue};
use super::software::Software;
use super::{Caps, Link, Medium, Offload, Received};

/// Bytes that the system may keep for one direction of a socket: a large window
/// of TCP, because what does not fit is lost. The system lowers it to its own
/// limit (`net.core.wmem_max`).
pub(super) const SOCKET_BUFFER: usize = 4 << 20;

/// Slices that one `writev` takes (`UIO_MAXIOV`), less one for a length.
const MAX_SLICES: usize = 1023;

/// What a medium without offloads can carry.
pub(super) const fn plain(medium: Medium) -> Caps {
    Caps {
        medium,
        checksum: false,
        tso: false,
        uso: false,
    }
}

/// A descriptor to read from and, possibly the same, one to write to.
#[derive(Debug)]
pub struct Ends {
    input: OwnedFd,
    /// `None`: the same.
    output: Option<OwnedFd>,
}

impl Ends {
    /// One descriptor for both directions.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn one(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            input: fd,
            output: None,
        })
    }

    /// One for each direction.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn two(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&input)?;
        set_nonblocking(&output)?;
        Ok(Self {
            input,
            output: Some(output),
        })
    }

    fn output(&self) -> &OwnedFd {
        self.output.as_ref().unwrap_or(&self.input)
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

pub(super) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other end has closed")
}

/// One frame a message: sockets of type `SOCK_SEQPACKET` and `SOCK_DGRAM`, and
/// whatever else keeps the bounds of what is written.
#[derive(Debug)]
pub struct DatagramLink {
    caps: Caps,
    empty: Empty,
    outgoing: Messages,
    software: Software,
}

/// The writing half, apart so that the software path can borrow it.
#[derive(Debug)]
struct Messages {
    ends: Ends,
    epoll: Epoll,
    waiting: FrameQueue,
}

/// What a message of no bytes means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// Nothing: datagram sockets have no end.
    Ignored,
    /// The other end has closed.
    End,
}

impl DatagramLink {
    /// A link over `ends`.
    ///
    /// # Errors
    /// When a descriptor cannot be waited for, such as a regular file.
    pub fn new(ends: Ends, medium: Medium) -> io::Result<Self> {
        let empty = match getsockopt(&ends.input, sockopt::SockType) {
            Ok(SockType::Datagram) => Empty::Ignored,
            _ => Empty::End,
        };
        Self::with_empty(ends, medium, empty)
    }

    /// The same, where the other end's protocol says what no bytes mean.
    pub(super) fn with_empty(ends: Ends, medium: Medium, empty: Empty) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ends.input, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            caps: plain(medium),
            empty,
            outgoing: Messages {
                ends,
                epoll,
                waiting: FrameQueue::default(),
            },
            software: Software::default(),
        })
    }

    /// What polls readable; others may be added to it.
    pub(super) const fn epoll(&self) -> &Epoll {
        &self.outgoing.epoll
    }

    /// Where frames are read.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.outgoing.ends.input.as_fd()
    }
}

impl Messages {
    fn send(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.flush()?;
        if !self.waiting.is_empty() {
            return self.waiting.push(frame);
        }
        match writev(self.ends.output(), frame) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN) => {
                self.waiting.push(frame)?;
                self.wait_for_room()
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let output = self.ends.output();
        self.waiting.flush(|frame| writev(output, frame).map(drop));
        if self.waiting.is_empty() {
            self.wait_no_more()?;
        }
        Ok(())
    }

    fn wait_for_room(&self) -> io::Result<()> {
        match &self.ends.output {
            Some(output) => {
                let writable = EpollEvent::new(EpollFlags::EPOLLOUT, 0);
                self.epoll.add(output, writable)?;
            }
            None => {
                let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                let mut event = EpollEvent::new(both, 0);
                self.epoll.modify(&self.ends.input, &mut event)?;
            }
        }
        Ok(())
    }

    fn wait_no_more(&self) -> io::Result<()> {
        match &self.ends.output {
            Some(output) => self.epoll.delete(output)?,
            None => {
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
                self.epoll.modify(&self.ends.input, &mut event)?;
            }
        }
        Ok(())
    }
}

impl Link for DatagramLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.outgoing.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        self.outgoing.flush()?;
        match (read(&self.outgoing.ends.input, buf)?, self.empty) {
            (0, Empty::End) => Err(ended()),
            (0, Empty::Ignored) => Err(io::ErrorKind::Interrupted.into()),
            (len, _) => Ok(Received {
                len,
                offload: Offload::default(),
            }),
        }
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

/// Frames behind their lengths on a stream.
#[derive(Debug)]
pub struct StreamLink {
    caps: Caps,
    incoming: Deframer,
    outgoing: Outgoing,
    software: Software,
}

/// The writing half, apart so that the software path can borrow it.
#[derive(Debug)]
struct Outgoing {
    ends: Ends,
    epoll: Epoll,
    prefix: Prefix,
    /// What the stream did not take: perhaps the rest of a frame, then whole
    /// ones.
    waiting: ByteQueue,
}

impl StreamLink {
    /// A link over `ends`.
    ///
    /// # Errors
    /// When a descriptor cannot be waited for, such as a regular file.
    pub fn new(ends: Ends, prefix: Prefix, medium: Medium) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ends.input, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        if let Some(output) = &ends.output {
            epoll.add(output, EpollEvent::new(EpollFlags::empty(), 1))?;
        }
        Ok(Self {
            caps: plain(medium),
            incoming: Deframer::new(prefix),
            outgoing: Outgoing {
                ends,
                epoll,
                prefix,
                waiting: ByteQueue::default(),
            },
            software: Software::default(),
        })
    }
}

impl Outgoing {
    fn send(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.flush()?;
        let len = frame.iter().map(|slice| slice.len()).sum();
        let Some(header) = self.prefix.encode(len) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the frame is longer than its length can say",
            ));
        };
        let len = len + self.prefix.size();
        let mut slices = Vec::with_capacity(frame.len() + 1);
        slices.push(IoSlice::new(header.as_bytes()));
        slices.extend_from_slice(frame);
        if !self.waiting.is_empty() {
            if !self.waiting.has_room(len) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.waiting.push(&slices, 0);
            return Ok(());
        }
        let sent = match writev(self.ends.output(), &slices) {
            Ok(sent) => sent,
            Err(Errno::EAGAIN) => 0,
            Err(e) => return Err(e.into()),
        };
        if sent < len {
            self.waiting.push(&slices, sent);
            self.wait_for_room(true)?;
        }
        Ok(())
    }

    /// Sends what waits; that there is still no room is no error.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        while !self.waiting.is_empty() {
            match writev(self.ends.output(), &self.waiting.front(usize::MAX)) {
                Ok(sent) => self.waiting.pop(sent),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        self.wait_for_room(false)
    }

    /// `WouldBlock`, unless the output is a descriptor of its own whose reader
    /// is gone: it would poll ready for ever.
    fn state(&self) -> io::Error {
        let Some(output) = &self.ends.output else {
            return io::ErrorKind::WouldBlock.into();
        };
        // With no events asked for, poll(2) tells of hang-up and error alone.
        let mut look = [PollFd::new(output.as_fd(), PollFlags::empty())];
        match poll(&mut look, PollTimeout::ZERO) {
            Ok(0) => io::ErrorKind::WouldBlock.into(),
            Ok(_) => ended(),
            Err(e) => e.into(),
        }
    }

    fn wait_for_room(&self, wanted: bool) -> io::Result<()> {
        let room = if wanted {
            EpollFlags::EPOLLOUT
        } else {
            EpollFlags::empty()
        };
        match &self.ends.output {
            Some(output) => self.epoll.modify(output, &mut EpollEvent::new(room, 1))?,
            None => {
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN | room, 0);
                self.epoll.modify(&self.ends.input, &mut event)?;
            }
        }
        Ok(())
    }
}

impl Link for StreamLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.outgoing.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        self.outgoing.flush()?;
        loop {
            let next = self.incoming.next_frame();
            let next = next.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Some(frame) = next {
                // Longer than there is room for is longer than a packet can be.
                let len = match buf.get_mut(..frame.len()) {
                    Some(room) => {
                        room.copy_from_slice(frame);
                        frame.len()
                    }
                    None => 0,
                };
                return Ok(Received {
                    len,
                    offload: Offload::default(),
                });
            }
            match read(&self.outgoing.ends.input, self.incoming.space()) {
                Ok(0) => return Err(ended()),
                Ok(n) => self.incoming.filled(n),
                Err(Errno::EAGAIN) => return Err(self.outgoing.state()),
                Err(e) => return Err(e.into()),
            }
        }
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

#[cfg(test)]
mod tests;
