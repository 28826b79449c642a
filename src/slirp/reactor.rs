//! Which host sockets are ready: an epoll instance of our own.
//!
//! Sockets are watched edge-triggered, once, for both directions, so that a
//! flow costs one system call to watch and none to keep watching. The epoll
//! descriptor itself is what the asynchronous runtime waits on.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::flow::Token;

/// Events taken from the kernel at once.
const BATCH: usize = 256;

/// What a descriptor became.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    /// There is something to read, or an end or error to learn of.
    pub readable: bool,
    /// There is room to write, or an error to learn of.
    pub writable: bool,
    /// The error queue or the socket's error has something.
    pub error: bool,
}

/// Watches descriptors.
#[derive(Debug)]
pub struct Reactor {
    epoll: Epoll,
    events: Vec<EpollEvent>,
}

impl Reactor {
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); BATCH],
        })
    }

    /// Watches a flow's socket, edge-triggered, until it is closed.
    pub(crate) fn watch(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.raw()))?)
    }

    /// Watches a descriptor that is always read until it blocks.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn watch_readable(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
    }

    /// Takes the events that are there, without waiting. True when there may be
    /// more of them.
    pub(crate) fn poll(&mut self, mut each: impl FnMut(Token, Readiness)) -> io::Result<bool> {
        let count = match self.epoll.wait(&mut self.events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => return Ok(true),
            Err(e) => return Err(e.into()),
        };
        for event in &self.events[..count] {
            let flags = event.events();
            let error = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
            let readable = error || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
            let writable = error || flags.contains(EpollFlags::EPOLLOUT);
            each(
                Token::from_raw(event.data()),
                Readiness {
                    readable,
                    writable,
                    error,
                },
            );
        }
        Ok(count == BATCH)
    }
}

impl AsFd for Reactor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}
