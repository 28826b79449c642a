//! Where a capture is written: files, one after the other, or a pipe.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::CaptureError;
use super::spec::{CaptureSpec, Target};

/// Bytes that a pipe takes at once when it says that it has room (pipe(7)).
const PIPE_ROOM: usize = 4096;

/// How often a writer that waits for a reader looks whether it is to end.
const LOOK_EVERY: u8 = 100;

/// How long a reader may take for what is left at the end.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// An output that is open.
#[derive(Debug)]
pub(super) enum Output {
    Files(Files),
    Stream(Stream),
}

/// What comes of an attempt to open.
#[derive(Debug)]
pub(super) enum Opened {
    Output(Output),
    /// A FIFO that nobody reads yet.
    NoReader,
}

/// Files, one at a time.
#[derive(Debug)]
pub(super) struct Files {
    file: File,
    path: PathBuf,
    /// Bytes in this one.
    written: u64,
    names: Names,
    /// The oldest first, this one last; empty where all are kept.
    kept: VecDeque<PathBuf>,
    keep: Option<usize>,
}

/// A pipe, or something like it.
#[derive(Debug)]
pub(super) struct Stream {
    file: File,
    target: Target,
    /// Bytes that may be written at once without waiting.
    at_once: usize,
}

/// How files are named: `NAME_00001_20240131235959.ENDING`, as dumpcap does.
#[derive(Debug)]
struct Names {
    base: PathBuf,
    numbered: bool,
    /// Of the file being written, from 1.
    number: u32,
}

impl Names {
    fn current(&self, now: SystemTime) -> PathBuf {
        if !self.numbered {
            return self.base.clone();
        }
        let stem = self.base.file_stem().unwrap_or_default();
        let mut name = stem.to_os_string();
        name.push(format!("_{:05}_{}", self.number, stamp(now)));
        if let Some(ending) = self.base.extension() {
            name.push(".");
            name.push(ending);
        }
        self.base.with_file_name(name)
    }
}

/// Year to second, in UTC.
fn stamp(now: SystemTime) -> String {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years are counted from March, so that the leap day is their last; eras are
    // the 400 years after which the calendar repeats, 146,097 days.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

/// Opens what `spec` says.
pub(super) fn open(spec: &CaptureSpec) -> Result<Opened, CaptureError> {
    let target = &spec.target;
    let failed = |source| CaptureError::Open {
        target: target.clone(),
        source,
    };
    let Target::Path(base) = target else {
        return stdout().map(|stream| Opened::Output(Output::Stream(stream)));
    };
    let names = Names {
        base: base.clone(),
        numbered: spec.is_numbered(),
        number: 1,
    };
    // What is there already may be a pipe, which is never numbered.
    let found = fs::metadata(base).ok().map(|found| found.file_type());
    if found.is_some_and(|kind| kind.is_fifo() || kind.is_char_device()) {
        if spec.is_numbered() {
            return Err(CaptureError::Pipe(target.clone()));
        }
        return open_stream(base, target);
    }
    if let Some(kind) = found {
        let what = if kind.is_dir() {
            Some("a directory")
        } else if kind.is_socket() {
            Some("a socket")
        } else if kind.is_block_device() {
            Some("a disk")
        } else {
            None
        };
        if let Some(what) = what
            && !names.numbered
        {
            return Err(CaptureError::Kind(target.clone(), what));
        }
    }
    let path = names.current(SystemTime::now());
    let file = create(&path).map_err(|e| match e {
        CreateError::Busy => CaptureError::Busy(Target::Path(path.clone())),
        CreateError::Io(source) => failed(source),
    })?;
    let keep = spec.files.and_then(|n| usize::try_from(n.get()).ok());
    Ok(Opened::Output(Output::Files(Files {
        kept: keep.map(|_| path.clone()).into_iter().collect(),
        file,
        path,
        written: 0,
        names,
        keep,
    })))
}

enum CreateError {
    Busy,
    Io(io::Error),
}

/// Makes a file, for this user only: it holds what others say. One that is there
/// is emptied, unless another capture is written to it.
fn create(path: &Path) -> Result<File, CreateError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(CreateError::Io)?;
    match file.try_lock() {
        // Some file systems have no locks.
        Ok(()) | Err(TryLockError::Error(_)) => {}
        Err(TryLockError::WouldBlock) => return Err(CreateError::Busy),
    }
    file.set_len(0).map_err(CreateError::Io)?;
    Ok(file)
}

fn open_stream(path: &Path, target: &Target) -> Result<Opened, CaptureError> {
    let opened = OpenOptions::new()
        .write(true)
        .custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY)
        .open(path);
    match opened {
        Ok(file) if file.is_terminal() => Err(CaptureError::Kind(target.clone(), "a terminal")),
        Ok(file) => Ok(Opened::Output(Output::Stream(Stream {
            file,
            target: target.clone(),
            at_once: usize::MAX,
        }))),
        // fifo(7).
        Err(e) if e.raw_os_error() == Some(nix::libc::ENXIO) => Ok(Opened::NoReader),
        Err(source) => Err(CaptureError::Open {
            target: target.clone(),
            source,
        }),
    }
}

/// Others may have the same open description: it is not made nonblocking.
fn stdout() -> Result<Stream, CaptureError> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(CaptureError::Terminal);
    }
    let fd: OwnedFd = stdout
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| CaptureError::Open {
            target: Target::Stdout,
            source,
        })?;
    Ok(Stream {
        file: fd.into(),
        target: Target::Stdout,
        at_once: PIPE_ROOM,
    })
}

impl Output {
    /// What is being written.
    pub(super) fn target(&self) -> Target {
        match self {
            Self::Files(files) => Target::Path(files.path.clone()),
            Self::Stream(stream) => stream.target.clone(),
        }
    }

    /// Bytes in the present file; of a pipe, none.
    pub(super) fn written(&self) -> u64 {
        match self {
            Self::Files(files) => files.written,
            Self::Stream(_) => 0,
        }
    }

    /// Writes whole blocks. Of what cannot be written as a whole nothing stays in
    /// a file. `stopping` says whether a reader is waited for without end.
    ///
    /// # Errors
    /// Those of the system; `TimedOut` when a reader is too slow at the end.
    pub(super) fn write(&mut self, bytes: &[u8], stopping: impl Fn() -> bool) -> io::Result<()> {
        match self {
            Self::Files(files) => files.write(bytes),
            Self::Stream(stream) => stream.write(bytes, stopping),
        }
    }

    /// Goes on in another file.
    ///
    /// # Errors
    /// [`CaptureError::Pipe`]; when the file cannot be made.
    pub(super) fn rotate(&mut self) -> Result<(), CaptureError> {
        match self {
            Self::Files(files) => files.rotate(),
            Self::Stream(stream) => Err(CaptureError::Pipe(stream.target.clone())),
        }
    }
}

impl Files {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.file.write_all(bytes) {
            Ok(()) => {
                self.written += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                Ok(())
            }
            Err(e) => {
                // A part of it may be there. When even this fails, readers say that
                // the file is cut short.
                let _ = self.file.set_len(self.written);
                Err(e)
            }
        }
    }

    fn rotate(&mut self) -> Result<(), CaptureError> {
        self.names.number += 1;
        self.names.numbered = true;
        let path = self.names.current(SystemTime::now());
        self.file = create(&path).map_err(|e| match e {
            CreateError::Busy => CaptureError::Busy(Target::Path(path.clone())),
            CreateError::Io(source) => CaptureError::Open {
                target: Target::Path(path.clone()),
                source,
            },
        })?;
        self.written = 0;
        self.path.clone_from(&path);
        if let Some(keep) = self.keep {
            self.kept.push_back(path);
            while self.kept.len() > keep
                && let Some(oldest) = self.kept.pop_front()
            {
                if let Err(error) = fs::remove_file(&oldest)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    let file = oldest.display();
                    tracing::warn!(%file, %error, "cannot remove the oldest file of a capture");
                }
            }
        }
        Ok(())
    }
}

impl Stream {
    fn write(&mut self, bytes: &[u8], stopping: impl Fn() -> bool) -> io::Result<()> {
        let mut left = bytes;
        let mut deadline = None;
        while !left.is_empty() {
            let mut room = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut room, PollTimeout::from(LOOK_EVERY)) {
                Ok(0) if stopping() => {
                    let deadline = *deadline.get_or_insert_with(|| Instant::now() + LAST_PATIENCE);
                    if Instant::now() >= deadline {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Ok(0) | Err(nix::errno::Errno::EINTR) => {}
                Ok(_) => {
                    deadline = None;
                    match self.file.write(&left[..left.len().min(self.at_once)]) {
                        Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                        Ok(n) => left = &left[n..],
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
