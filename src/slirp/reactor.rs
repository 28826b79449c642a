//! Which host sockets are ready: an epoll instance of our own.
//!
//! Sockets are watched edge-triggered, once, for both directions, so that a
//! flow costs one system call to watch and none to keep watching. The epoll
//! descriptor itself is what the asynchronous runtime waits on. The next
//! deadline is a timer descriptor among the others: unlike the runtime's own
//! timers it has microseconds, and costs nothing while it stays the same.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::flow::Token;

/// Events taken from the kernel at once.
const BATCH: usize = 256;

/// Marks the timer among the events; 0 is a descriptor of the driver's.
const TIMER: u64 = 1;

/// What a descriptor became.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Readiness {
    /// There is something to read, or an end or error to learn of.
    pub readable: bool,
    /// There is room to write, or an error to learn of.
    pub writable: bool,
    /// The error queue or the socket's error has something.
    pub error: bool,
    /// The other end has closed its direction, or there is an error: reading
    /// comes to an end.
    pub ended: bool,
}

/// Watches descriptors.
#[derive(Debug)]
pub struct Reactor {
    epoll: Epoll,
    events: Vec<EpollEvent>,
    timer: TimerFd,
    /// What the timer is set to.
    armed: Option<Instant>,
}

impl Reactor {
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new() -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // Edge-triggered: it need not be read, setting it anew is enough.
        let expired = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TIMER);
        epoll.add(&timer, expired)?;
        Ok(Self {
            epoll,
            events: vec![EpollEvent::empty(); BATCH],
            timer,
            armed: None,
        })
    }

    /// Becomes ready at `deadline` at the latest; possibly before, when it was
    /// to be ready for an earlier one. `None`: no later than it was to be.
    pub(crate) fn wake_by(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        let passed = self.armed.is_some_and(|at| at <= now);
        if passed {
            self.armed = None;
        }
        let Some(deadline) = deadline else {
            return Ok(());
        };
        if self.armed.is_some_and(|at| at <= deadline) {
            return Ok(());
        }
        // Zero would switch the timer off.
        let wait = deadline
            .saturating_duration_since(now)
            .max(Duration::from_micros(1));
        self.timer
            .set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty())?;
        self.armed = Some(deadline);
        Ok(())
    }

    /// Watches a flow's socket, edge-triggered, until it is closed.
    pub(crate) fn watch(&self, fd: impl AsFd, token: Token) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN
            | EpollFlags::EPOLLOUT
            | EpollFlags::EPOLLRDHUP
            | EpollFlags::EPOLLET;
        Ok(self.epoll.add(fd, EpollEvent::new(flags, token.raw()))?)
    }

    /// Watches a flow's socket no longer.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        // It is watched, or else there is nothing to be done.
        let _ = self.epoll.delete(fd);
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
            if event.data() == TIMER {
                // Perhaps later than this round's clock: it must be set anew
                // even for a deadline that is still to come.
                self.armed = None;
                continue;
            }
            let flags = event.events();
            let error = flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP);
            let readable = error || flags.intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP);
            let writable = error || flags.contains(EpollFlags::EPOLLOUT);
            let ended = error || flags.contains(EpollFlags::EPOLLRDHUP);
            each(
                Token::from_raw(event.data()),
                Readiness {
                    readable,
                    writable,
                    error,
                    ended,
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
