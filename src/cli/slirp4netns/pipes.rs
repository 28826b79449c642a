//! The descriptors of `--ready-fd` and `--exit-fd`, as forgivingly as
//! slirp4netns takes them: callers hand over what they have.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};

use crate::config::Config;
use crate::tap::sys;

/// Both descriptors.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) ready: Ready,
    pub(super) exit: ExitEvent,
}

/// Whom to tell that traffic flows.
#[derive(Debug)]
pub(super) enum Ready {
    Nobody,
    Told(OwnedFd),
    /// The number is not open.
    Nowhere(io::Error),
}

/// What ends the gateway.
#[derive(Debug)]
pub(super) enum ExitEvent {
    Never,
    /// The other end of this is closed.
    HangUp(OwnedFd),
    /// It has happened: the descriptor is not open.
    Now,
}

impl Pipes {
    /// Takes the descriptors over. To be called before anything else is opened.
    pub(super) fn adopt(config: &Config) -> Self {
        let ready = match config.ready_fd.map(sys::adopt_fd) {
            None => Ready::Nobody,
            Some(Ok(fd)) => Ready::Told(fd),
            Some(Err(e)) => Ready::Nowhere(e),
        };
        // One descriptor for both is closed as the one before it is looked at
        // as the other.
        let exit = match config.exit_fd {
            None => ExitEvent::Never,
            fd if fd == config.ready_fd => ExitEvent::Now,
            Some(fd) => sys::adopt_fd(fd).map_or(ExitEvent::Now, ExitEvent::HangUp),
        };
        Self { ready, exit }
    }
}

impl Ready {
    /// Says that traffic flows.
    pub(super) fn tell(self) -> io::Result<()> {
        match self {
            Self::Nobody => Ok(()),
            Self::Told(fd) => File::from(fd).write_all(b"1"),
            Self::Nowhere(error) => Err(error),
        }
    }
}

impl ExitEvent {
    /// Resolves when it happens.
    pub(super) async fn happened(&self) {
        match self {
            Self::Never => std::future::pending().await,
            Self::Now => {}
            Self::HangUp(fd) => {
                // A kind of file that cannot be waited for never hangs up.
                if sys::disconnected(fd.as_fd()).await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}
