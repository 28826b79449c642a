//! What ties the process to those who started it: descriptors that tell of
//! readiness and of the end, the pid file, signals, limits.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::sys::stat::{SFlag, fstat};

use super::passed;
use crate::config::Config;
use crate::forward::Passed;
use crate::observe::{FlowLog, FlowLogError, LogTarget, Sink};
use crate::tap::sys;

/// What the caller handed over cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LifecycleError {
    /// The number is not an open descriptor.
    #[error("{option} {fd} is not open; open it before starting gw, like '{example}'")]
    NotOpen {
        option: &'static str,
        fd: RawFd,
        example: &'static str,
    },
    /// It cannot be written to.
    #[error("{option} {fd} is open for reading only; hand over the end that is written to")]
    NotWritable { option: &'static str, fd: RawFd },
    /// The flow log cannot be written.
    #[error(transparent)]
    FlowLog(#[from] FlowLogError),
    /// It never hangs up.
    #[error("--exit-fd {0} is a file, which never hangs up; hand over one end of a pipe or socket")]
    NeverHangsUp(RawFd),
    /// The service manager's sockets are used for something else.
    #[error(
        "{option} {fd} is one of the sockets that the service manager passes (LISTEN_FDS); \
         choose another descriptor"
    )]
    IsPassed { option: &'static str, fd: RawFd },
    /// A socket that was announced is not there.
    #[error("LISTEN_FDS announces descriptor {0}, which is not open; unset it, or pass the socket")]
    NotPassed(RawFd),
    /// The pid file cannot be written.
    #[error("cannot write the pid file '{path}': {source}; choose another path with --pid-file")]
    PidFile { path: PathBuf, source: io::Error },
    /// Signals cannot be received.
    #[error("cannot set up signals: {0}")]
    Signals(#[source] io::Error),
}

/// The caller's descriptors and pid file, checked.
#[derive(Debug)]
pub(crate) struct Handles {
    passed: Passed,
    ready: Option<OwnedFd>,
    exit: Option<OwnedFd>,
    flow_log: Option<FlowLog>,
    pid_file: Option<PidFile>,
}

impl Handles {
    /// Takes the descriptors over. To be called before anything else is opened.
    pub(crate) fn adopt(config: &Config) -> Result<Self, LifecycleError> {
        Self::adopt_beside(config, &[])
    }

    /// As [`Handles::adopt`], where `links` are descriptors that belong to links.
    pub(crate) fn adopt_beside(config: &Config, links: &[RawFd]) -> Result<Self, LifecycleError> {
        let passed = passed::adopt(config, links)?;
        let ready = config.ready_fd.map(adopt_ready).transpose()?;
        let exit = config.exit_fd.map(adopt_exit).transpose()?;
        // Last, as it may open a file.
        let flow_log = config.observe.flow_log.as_ref();
        let flow_log = flow_log.map(open_flow_log).transpose()?;
        Ok(Self {
            passed,
            ready,
            exit,
            flow_log,
            pid_file: None,
        })
    }

    /// Makes sure that the pid file can be written. To be called once signals
    /// are blocked, so that none can end the process and leave the file behind.
    pub(crate) fn open_pid_file(&mut self, config: &Config) -> Result<(), LifecycleError> {
        self.pid_file = config.pid_file.as_deref().map(PidFile::open).transpose()?;
        Ok(())
    }

    /// Tells that traffic flows. Returns what could not be told.
    pub(crate) fn announce(&mut self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(Err(e)) = self.pid_file.as_mut().map(PidFile::write) {
            warnings.push(format!("cannot write the pid file: {e}"));
        }
        if let Some(Err(e)) = self.ready.take().map(|fd| File::from(fd).write_all(b"1")) {
            warnings.push(format!("cannot write to --ready-fd: {e}"));
        }
        warnings
    }

    /// The service manager's sockets.
    pub(crate) fn take_passed(&mut self) -> Passed {
        std::mem::take(&mut self.passed)
    }

    /// What takes what is told of flows.
    pub(crate) fn take_sinks(&mut self) -> Vec<Box<dyn Sink>> {
        let flow_log = self.flow_log.take();
        flow_log
            .into_iter()
            .map(|log| Box::new(log) as Box<dyn Sink>)
            .collect()
    }

    /// The descriptor whose hang-up ends the gateway, for [`exit_requested`].
    pub(crate) const fn take_exit(&mut self) -> Option<OwnedFd> {
        self.exit.take()
    }
}

/// Resolves when the other end of `exit` is closed; never without one.
pub(crate) async fn exit_requested(exit: Option<&OwnedFd>) {
    let Some(exit) = exit else {
        return std::future::pending().await;
    };
    // A kind of file that cannot be waited for never hangs up.
    if sys::hung_up(exit.as_fd()).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn adopt_ready(fd: RawFd) -> Result<OwnedFd, LifecycleError> {
    let (option, example) = ("--ready-fd", "gw --ready-fd 3 ... 3>FILE");
    adopt_writable(fd, option, example)
}

fn open_flow_log(target: &LogTarget) -> Result<FlowLog, LifecycleError> {
    let adopted = match target {
        LogTarget::Fd(fd) => {
            let example = "gw --flow-log fd:3 ... 3>FILE";
            Some(adopt_writable(*fd, "--flow-log fd", example)?)
        }
        LogTarget::Stdout | LogTarget::Path(_) => None,
    };
    Ok(FlowLog::open(target, adopted)?)
}

fn adopt_writable(
    fd: RawFd,
    option: &'static str,
    example: &'static str,
) -> Result<OwnedFd, LifecycleError> {
    let owned = sys::adopt_fd(fd).map_err(|_| LifecycleError::NotOpen {
        option,
        fd,
        example,
    })?;
    let flags = fcntl(&owned, FcntlArg::F_GETFL).unwrap_or(0);
    if flags & OFlag::O_ACCMODE.bits() == OFlag::O_RDONLY.bits() {
        return Err(LifecycleError::NotWritable { option, fd });
    }
    Ok(owned)
}

fn adopt_exit(fd: RawFd) -> Result<OwnedFd, LifecycleError> {
    let (option, example) = ("--exit-fd", "gw --exit-fd 3 ... 3<PIPE");
    let owned = sys::adopt_fd(fd).map_err(|_| LifecycleError::NotOpen {
        option,
        fd,
        example,
    })?;
    let kind = fstat(&owned).map_or(SFlag::empty(), |stat| {
        SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
    });
    if kind == SFlag::S_IFREG || kind == SFlag::S_IFDIR {
        return Err(LifecycleError::NeverHangsUp(fd));
    }
    Ok(owned)
}

/// A file with this process's id, gone when this is dropped.
#[derive(Debug)]
struct PidFile {
    path: PathBuf,
    file: File,
    /// Made by us, or overwritten: ours to remove.
    ours: Ours,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ours {
    Yes,
    NotYet,
}

impl PidFile {
    fn open(path: &Path) -> Result<Self, LifecycleError> {
        let fail = |source| LifecycleError::PidFile {
            path: path.to_owned(),
            source,
        };
        // Absolute, should the process ever change its directory.
        let path = &std::path::absolute(path).map_err(fail)?;
        let fail = |source| LifecycleError::PidFile {
            path: path.clone(),
            source,
        };
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Self {
                path: path.clone(),
                file,
                ours: Ours::Yes,
            }),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let file = OpenOptions::new().write(true).open(path).map_err(fail)?;
                Ok(Self {
                    path: path.clone(),
                    file,
                    ours: Ours::NotYet,
                })
            }
            Err(e) => Err(fail(e)),
        }
    }

    fn write(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.ours = Ours::Yes;
        self.file
            .write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if self.ours == Ours::Yes {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Signals, received in the order of the loop instead of at any time.
#[derive(Debug)]
pub(crate) struct Signals {
    before: SigSet,
    fd: SignalFd,
}

impl Signals {
    /// Blocks `signals` in this process, and those it forks from now on, so that
    /// they are only seen through [`Signals::next`]. Those that the caller has
    /// this process ignore stay ignored.
    pub(crate) fn block(signals: &[Signal]) -> Result<Self, LifecycleError> {
        // A blocked signal is seen even if it is ignored.
        let set: SigSet = signals
            .iter()
            .copied()
            .filter(|s| !sys::is_ignored(*s))
            .collect();
        let fail = |e: nix::Error| LifecycleError::Signals(e.into());
        let mut before = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before)).map_err(fail)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let fd = SignalFd::with_flags(&set, flags).map_err(fail)?;
        Ok(Self { before, fd })
    }

    /// Sets the mask as it was; for a child before it executes a command.
    pub(crate) fn unblock(&self) -> io::Result<()> {
        sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.before), None)?;
        Ok(())
    }

    /// The next signal.
    pub(crate) async fn next(&self) -> io::Result<siginfo> {
        loop {
            if let Some(info) = self.fd.read_signal()? {
                return Ok(info);
            }
            sys::readable(self.fd.as_fd()).await?;
        }
    }
}

/// Allows as many open descriptors as the system lets us: each flow has one.
pub(crate) fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Where it is refused there is room for fewer flows.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_comes_and_goes() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("gw.pid");
        let mut file = PidFile::open(&path).expect("opens");
        file.write().expect("writes");
        let text = fs::read_to_string(&path).expect("reads");
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(file);
        assert!(!path.exists());

        fs::write(&path, "a longer text of somebody else's").expect("writes");
        drop(PidFile::open(&path).expect("opens"));
        assert!(path.exists(), "a failed start leaves what was there");
        let mut file = PidFile::open(&path).expect("opens");
        file.write().expect("writes");
        assert_eq!(fs::read_to_string(&path).expect("reads"), text);

        let text = PidFile::open(&dir.path().join("no/such"))
            .expect_err("refused")
            .to_string();
        assert!(
            text.contains("no/such': No such file or directory"),
            "{text}"
        );
        assert!(text.contains("--pid-file"), "{text}");
    }
}
