//! Trying again later: a timer that polls readable, and growing pauses.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A descriptor that polls readable when a time has passed.
#[derive(Debug)]
pub(super) struct Timer(TimerFd);

impl Timer {
    /// One that is not set.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        Ok(Self(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?))
    }

    /// Polls readable in `wait`, and not before, whatever it was set to.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn set(&self, wait: Duration) -> io::Result<()> {
        // Zero would switch the timer off.
        let wait = wait.max(Duration::from_micros(1));
        let at = Expiration::OneShot(wait.into());
        Ok(self.0.set(at, TimerSetTimeFlags::empty())?)
    }

    /// Does not poll readable until it is set again.
    ///
    /// # Errors
    /// None that is known.
    pub(super) fn clear(&self) -> io::Result<()> {
        Ok(self.0.unset()?)
    }

    /// True when the time has passed; true once each time it was set.
    pub(super) fn has_expired(&self) -> bool {
        self.0.wait().is_ok()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Pauses between attempts: each twice the one before, up to a limit, and short
/// again after a success that lasted.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// The first pause.
    const FIRST: Duration = Duration::from_millis(100);
    /// What lives this long has worked.
    const LASTING: Duration = Duration::from_secs(10);

    pub(super) const fn new(longest: Duration) -> Self {
        Self {
            next: Self::FIRST,
            longest,
        }
    }

    /// How long to wait before the next attempt.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// An attempt worked, and what it made lived for `life`.
    pub(super) fn lived(&mut self, life: Duration) {
        if life >= Self::LASTING {
            self.next = Self::FIRST;
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_shrink_after_success() {
        let mut backoff = Backoff::new(Duration::from_secs(30));
        let pauses: Vec<_> = (0..11).map(|_| backoff.pause().as_millis()).collect();
        assert_eq!(
            pauses,
            [
                100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000
            ]
        );
        backoff.lived(Duration::from_secs(9));
        assert_eq!(backoff.pause().as_secs(), 30);
        backoff.lived(Duration::from_secs(10));
        assert_eq!(backoff.pause().as_millis(), 100);
    }

    #[test]
    fn a_timer_expires_once() {
        let timer = Timer::new().expect("timer");
        assert!(!timer.has_expired());
        timer.set(Duration::ZERO).expect("set");
        let mut fds = [PollFd::new(timer.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(1000u16)), Ok(1));
        assert!(timer.has_expired());
        assert!(!timer.has_expired());
        timer.set(Duration::from_millis(1)).expect("set");
        timer.clear().expect("clear");
        assert_eq!(poll(&mut fds, PollTimeout::from(20u8)), Ok(0));
    }
}
