//! The child's side of `gw run`, from the fork to the command.

use std::ffi::{CString, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::{Pid, close, execvp, getppid};

use super::namespaces;
use super::resolv_mount::{self, EtcWrites};
use crate::cli::lifecycle::Signals;
use crate::cli::messages::Voice;
use crate::cli::resolve::{Identity, RunMode};
use crate::config::Config;
use crate::tap::netns::{Handed, Made, make_here, report};
use crate::tap::{AttachError, sys};

/// Exit status of a child that could not be set up; its parent says why.
const SETUP_FAILED: i32 = 1;
/// A command that was found but cannot be executed (POSIX shell, 2.8.2).
const NOT_EXECUTABLE: i32 = 126;
/// A command that was not found.
const NOT_FOUND: i32 = 127;

/// What the child has to do.
pub(super) struct Plan<'a> {
    pub(super) config: &'a Config,
    pub(super) mode: &'a RunMode,
    pub(super) signals: &'a Signals,
    pub(super) resolv_conf: Option<&'a str>,
    pub(super) voice: Voice,
}

/// Why there is no command.
#[derive(Debug, thiserror::Error)]
enum ExecError {
    #[error("cannot run '{0}': there is no such command; check its name and PATH")]
    NotFound(String),
    #[error("cannot run '{0}': {desc}; check that it is a program and executable", desc = .1.desc())]
    NotExecutable(String, nix::Error),
}

impl Plan<'_> {
    /// Runs in the child; returns the exit status if there is to be no command.
    pub(super) fn carry_out(&self, parents: &OwnedFd, ours: BorrowedFd<'_>) -> i32 {
        let parent = getppid();
        // The parent's end, so that its death is seen. The parent's value stays
        // as it is: this process ends without dropping anything.
        let _ = close(parents.as_raw_fd());
        let made = self.set_up(parent);
        let failed = made.is_err();
        if report(&ours, made).is_err() || failed || !told_to_go(ours) {
            return SETUP_FAILED;
        }
        let error = self.execute();
        self.voice.fail(&error);
        match error {
            ExecError::NotFound(_) => NOT_FOUND,
            ExecError::NotExecutable(..) => NOT_EXECUTABLE,
        }
    }

    fn set_up(&self, parent: Pid) -> Result<(Handed, Made), AttachError> {
        namespaces::enter_new(self.mode.identity)?;
        die_with(parent)?;
        let (handed, mut made) = make_here(&self.config.interface, &self.config.plan)?;
        if let Some(text) = self.resolv_conf
            && let Err(e) = resolv_mount::mount(text, self.etc_writes())
        {
            made.warnings.push(e.to_string());
        }
        Ok((handed, made))
    }

    const fn etc_writes(&self) -> EtcWrites {
        match self.mode.identity {
            Identity::Same => EtcWrites::Refused,
            Identity::Root => EtcWrites::Private,
        }
    }

    /// Becomes the command; returns only with why it could not.
    fn execute(&self) -> ExecError {
        let words = command(&self.mode.command);
        let name = words[0].to_string_lossy().into_owned();
        let _ = sys::restore_sigpipe();
        let _ = self.signals.unblock();
        match execvp(&words[0], &words) {
            Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => ExecError::NotFound(name),
            Err(e) => ExecError::NotExecutable(name, e),
            Ok(never) => match never {},
        }
    }
}

/// Has this process killed when `parent` dies. To be called after the last
/// change of credentials, which would undo it (prctl(2)).
fn die_with(parent: Pid) -> Result<(), AttachError> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(|e| AttachError::System {
        what: "prctl".to_owned(),
        errno: e.into(),
    })?;
    if getppid() == parent {
        return Ok(());
    }
    // It died before the kernel knew that we care.
    Err(AttachError::HelperDied {
        status: "its parent is gone".to_owned(),
    })
}

/// Waits for the parent's word; false when it is gone instead.
fn told_to_go(ours: BorrowedFd<'_>) -> bool {
    let mut byte = [0];
    loop {
        match recv(ours.as_raw_fd(), &mut byte, MsgFlags::empty()) {
            Err(nix::Error::EINTR) => {}
            result => return result == Ok(1),
        }
    }
}

/// The words of the command: those given, or the user's shell. Never empty.
pub(super) fn words(given: &[OsString]) -> Vec<OsString> {
    if !given.is_empty() {
        return given.to_vec();
    }
    let shell = std::env::var_os("SHELL").filter(|path| Path::new(path).is_file());
    vec![shell.unwrap_or_else(|| "/bin/sh".into())]
}

/// As [`words`], for exec(3).
fn command(given: &[OsString]) -> Vec<CString> {
    // Words from the command line or the environment hold no zero bytes.
    words(given)
        .into_iter()
        .map(|w| CString::new(w.into_vec()).unwrap_or_default())
        .collect()
}
