//! The flow log: a line of JSON for each flow's beginning and end.
//!
//! # Theory of operation
//!
//! `docs/schema/flow-log.schema.json` describes a line; members are never taken
//! away and never change their meaning, new ones may come.
//!
//! Lines are put together in a buffer and written at the end of each batch of
//! records, so that `tail -f` shows them at once. Only whole lines are written. To a
//! pipe that means at most `PIPE_BUF` bytes at a time, which the kernel does not mix
//! with what others write there.
//!
//! Nobody waits for a slow reader: a pipe, socket or terminal is written to when it
//! has room. What it has none for is kept, up to [`MAX_PENDING`]; beyond that lines
//! are lost, and a line says how many.
//!
//! An error (a full disk, a reader that went away) ends the log with one message, and
//! nothing else. A line that the disk had only room for a part of is taken back.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use humantime::format_rfc3339_micros;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use serde::Serialize;

use super::names;
use super::process::Process;
use super::record::{Identity, Record, Sink};
use super::spec::LogTarget;
use crate::policy::{Carried, FlowClosed, FlowOpened, FlowVerdict, HowEnded, Party};

/// Bytes of lines that wait for a reader.
const MAX_PENDING: usize = 1 << 20;

/// What a write to a pipe may have so that it is not mixed with others
/// (`PIPE_BUF` of Linux).
const PIPE_BUF: usize = 4096;

/// Bytes of one write to anything else.
const MAX_WRITE: usize = 64 << 10;

/// How long the end waits for a reader.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// The flow log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum FlowLogError {
    /// A file cannot be written.
    #[error("cannot write the flow log '{path}': {source}; choose another with --flow-log")]
    File {
        /// Where.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// A pipe that is not read.
    #[error("nobody reads the pipe '{0}'; start its reader before gw")]
    NoReader(String),
    /// Standard output is closed.
    #[error("cannot write the flow log to standard output: {0}; give --flow-log a file")]
    Stdout(#[source] io::Error),
}

/// Writes the flow log. See the module's documentation.
#[derive(Debug)]
pub struct FlowLog {
    /// `None` once it has failed.
    out: Option<Output>,
    /// Whole lines that are still to be written.
    pending: Vec<u8>,
    /// Lines that there was no room for.
    lost: u64,
}

#[derive(Debug)]
struct Output {
    file: File,
    kind: Kind,
    /// What messages call it.
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Takes what it is given, or fails.
    Regular,
    /// Holds a few pages for its reader.
    Pipe,
    /// Holds what its buffer does.
    Socket,
    /// A terminal or another device.
    Other,
}

impl FlowLog {
    /// Opens `target`; a file is made, or appended to. For an inherited descriptor
    /// that is `adopted`.
    ///
    /// # Errors
    /// [`FlowLogError`].
    pub fn open(target: &LogTarget, adopted: Option<OwnedFd>) -> Result<Self, FlowLogError> {
        let (file, name) = match (target, adopted) {
            (LogTarget::Path(path), _) => (open(path)?, format!("'{}'", path.display())),
            (LogTarget::Fd(number), Some(fd)) => (File::from(fd), format!("fd:{number}")),
            (LogTarget::Stdout | LogTarget::Fd(_), _) => {
                let stdout = io::stdout().as_fd().try_clone_to_owned();
                let stdout = stdout.map_err(FlowLogError::Stdout)?;
                (File::from(stdout), "standard output".to_owned())
            }
        };
        let kind = match file.metadata().map(|data| data.file_type()) {
            Ok(kind) if kind.is_file() => Kind::Regular,
            Ok(kind) if kind.is_fifo() => Kind::Pipe,
            Ok(kind) if kind.is_socket() => Kind::Socket,
            _ => Kind::Other,
        };
        Ok(Self {
            out: Some(Output { file, kind, name }),
            pending: Vec::new(),
            lost: 0,
        })
    }

    fn add(&mut self, line: &Line<'_>) {
        if self.out.is_none() {
            return;
        }
        let before = self.pending.len();
        if before >= MAX_PENDING || !self.push(line) {
            self.pending.truncate(before);
            self.lost += 1;
        }
    }

    fn push(&mut self, line: &Line<'_>) -> bool {
        let written = serde_json::to_writer(&mut self.pending, line);
        self.pending.push(b'\n');
        written.is_ok()
    }

    /// Writes what there is room for.
    fn write(&mut self) {
        let Some(out) = &mut self.out else { return };
        let mut done = 0;
        let result = loop {
            let rest = &self.pending[done..];
            if rest.is_empty() || !out.has_room(Duration::ZERO) {
                break Ok(());
            }
            match out.write(rest) {
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        self.pending.drain(..done);
        if let Err(error) = result {
            self.stop(&error);
        } else if self.pending.is_empty() {
            self.pending.shrink_to(MAX_WRITE);
            self.tell_lost();
        }
    }

    fn tell_lost(&mut self) {
        if self.lost > 0 {
            let events = std::mem::take(&mut self.lost);
            self.add(&Line::lost(SystemTime::now(), events));
            tracing::warn!("{events} lines of the flow log are lost: its reader is too slow");
        }
    }

    fn stop(&mut self, error: &io::Error) {
        if let Some(out) = self.out.take() {
            tracing::warn!("the flow log to {} ends here: {error}", out.name);
        }
        self.pending = Vec::new();
    }
}

impl Output {
    /// Whether a write would be taken, at the latest after `wait`.
    fn has_room(&self, wait: Duration) -> bool {
        if self.kind == Kind::Regular {
            return true;
        }
        let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLOUT)];
        let wait = PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO);
        // An error is one that the write will tell of.
        !matches!(poll(&mut fds, wait), Ok(0))
    }

    /// Writes as many of `lines` as go at once; gives back their bytes.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let most = match self.kind {
            Kind::Pipe => PIPE_BUF,
            Kind::Regular | Kind::Socket | Kind::Other => MAX_WRITE,
        };
        let batch = whole_lines(lines, most);
        let mut done = 0;
        while done < batch.len() {
            match self.write_some(&batch[done..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Half a line is out, and the rest must follow.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock && done > 0 => {
                    if !self.has_room(LAST_CHANCE) {
                        return Err(io::ErrorKind::TimedOut.into());
                    }
                }
                Err(e) => {
                    self.take_back(&batch[..done]);
                    return Err(e);
                }
            }
        }
        Ok(done)
    }

    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.kind == Kind::Socket {
            // Whose file status others share: it may be a blocking one.
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            return Ok(send(self.file.as_raw_fd(), bytes, flags)?);
        }
        self.file.write(bytes)
    }

    /// Takes the last line of what was written off the file again, if it is not
    /// whole.
    fn take_back(&self, written: &[u8]) {
        let broken = written.rsplit(|byte| *byte == b'\n').next();
        let broken = broken.map_or(0, <[u8]>::len) as u64;
        if broken > 0
            && self.kind == Kind::Regular
            && let Ok(data) = self.file.metadata()
        {
            // The log ends either way.
            let _ = self.file.set_len(data.len().saturating_sub(broken));
        }
    }
}

/// As many whole lines as there are within `most` bytes; one at least.
fn whole_lines(lines: &[u8], most: usize) -> &[u8] {
    let newline = |byte: &u8| *byte == b'\n';
    let within = &lines[..lines.len().min(most)];
    let end = match within.iter().rposition(newline) {
        Some(at) => at + 1,
        None => lines
            .iter()
            .position(newline)
            .map_or(lines.len(), |at| at + 1),
    };
    &lines[..end]
}

fn open(path: &Path) -> Result<File, FlowLogError> {
    let name = path.display().to_string();
    // A pipe without a reader must not hold the start up, nor a slow one the log.
    let is_pipe = path.metadata().is_ok_and(|data| data.file_type().is_fifo());
    let mut options = OpenOptions::new();
    if is_pipe {
        options.write(true).custom_flags(libc::O_NONBLOCK);
    } else {
        options.append(true).create(true);
    }
    options.open(path).map_err(|source| {
        if is_pipe && source.raw_os_error() == Some(libc::ENXIO) {
            return FlowLogError::NoReader(name);
        }
        FlowLogError::File { path: name, source }
    })
}

impl Sink for FlowLog {
    fn record(&mut self, record: &Record) {
        match record {
            Record::Opened { flow, identity } => self.add(&Line::open(flow, identity)),
            Record::Decided { .. } => {}
            Record::Closed { flow, identity, at } => {
                self.add(&Line::close(flow, identity, *at));
            }
            Record::Lost { events, at } => {
                tracing::warn!(
                    "{events} events of flows are lost: they come faster than they are told"
                );
                self.add(&Line::lost(*at, *events));
            }
        }
    }

    fn flush(&mut self) {
        self.write();
    }

    fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    fn finish(&mut self) {
        let deadline = Instant::now() + LAST_CHANCE;
        loop {
            self.write();
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(out) = &self.out else { return };
            if self.pending.is_empty() {
                return;
            }
            if left.is_zero() || !out.has_room(left) {
                let lines = self.pending.iter().filter(|byte| **byte == b'\n').count();
                let lost = self.lost + lines as u64;
                tracing::warn!("the last {lost} lines of the flow log are lost: nobody reads them");
                return;
            }
        }
    }
}

/// A line of the log.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Line<'a> {
    Open {
        time: String,
        #[serde(flatten)]
        flow: Who<'a>,
    },
    Close(Box<Close<'a>>),
    Lost {
        time: String,
        events: u64,
    },
}

/// What a flow is, as far as that was known when it began.
#[derive(Debug, Serialize)]
struct Who<'a> {
    flow: u64,
    /// As the control socket's list of flows says it.
    id: Option<String>,
    protocol: &'static str,
    direction: &'static str,
    guest: String,
    remote: String,
    name: Option<&'a str>,
    process: Option<Holder<'a>>,
}

#[derive(Debug, Serialize)]
struct Holder<'a> {
    pid: u32,
    name: &'a str,
    exe: Option<String>,
    uid: u32,
}

#[derive(Debug, Serialize)]
struct Close<'a> {
    time: String,
    #[serde(flatten)]
    flow: Who<'a>,
    opened: String,
    peer: Option<String>,
    verdict: &'static str,
    how: &'static str,
    by: &'static str,
    half_closed_by: Option<&'static str>,
    impaired: bool,
    /// What impaired it, where that ended it.
    impairment: Option<&'static str>,
    duration_seconds: f64,
    connect_seconds: Option<f64>,
    rtt_seconds: Option<f64>,
    guest_rtt_seconds: Option<f64>,
    to_guest: Count,
    from_guest: Count,
}

#[derive(Debug, Serialize)]
struct Count {
    bytes: u64,
    packets: u64,
    retransmits: u64,
}

impl<'a> Line<'a> {
    fn open(flow: &FlowOpened, identity: &'a Identity) -> Self {
        Self::Open {
            time: time(identity.began),
            flow: Who::new(flow, identity),
        }
    }

    fn close(flow: &FlowClosed, identity: &'a Identity, at: SystemTime) -> Self {
        let lasted = flow.at.saturating_duration_since(flow.opened.at);
        let impairment = match (flow.verdict, flow.how) {
            (_, HowEnded::Impaired(kind)) | (Some(FlowVerdict::Impaired(kind)), _) => Some(kind),
            _ => None,
        };
        Self::Close(Box::new(Close {
            time: time(at),
            flow: Who::new(&flow.opened, identity),
            opened: time(identity.began),
            peer: flow.peer.map(|peer| peer.to_string()),
            verdict: names::verdict(flow.verdict),
            how: names::ended(flow.how),
            by: names::party(flow.by),
            half_closed_by: flow.half_closed_by.map(names::party),
            impaired: flow.impaired || impairment.is_some(),
            impairment,
            duration_seconds: seconds(lasted),
            connect_seconds: flow.connect_time.map(seconds),
            rtt_seconds: flow.rtt.map(seconds),
            guest_rtt_seconds: flow.guest_rtt.map(seconds),
            to_guest: flow.to_guest.into(),
            from_guest: flow.from_guest.into(),
        }))
    }

    fn lost(at: SystemTime, events: u64) -> Self {
        let time = time(at);
        Self::Lost { time, events }
    }
}

impl<'a> Who<'a> {
    fn new(flow: &FlowOpened, identity: &'a Identity) -> Self {
        Self {
            flow: flow.number.0,
            id: flow.id.map(|id| format!("{id:x}")),
            protocol: names::protocol(flow.protocol),
            direction: match flow.by {
                Party::Guest => "outbound",
                Party::Host | Party::Gateway => "inbound",
            },
            guest: flow.guest.to_string(),
            remote: flow.remote.to_string(),
            name: identity.name.as_deref(),
            process: identity.process.as_deref().map(Into::into),
        }
    }
}

impl<'a> From<&'a Process> for Holder<'a> {
    fn from(process: &'a Process) -> Self {
        Self {
            pid: process.pid,
            name: &process.name,
            exe: process
                .exe
                .as_ref()
                .map(|exe| exe.to_string_lossy().into_owned()),
            uid: process.uid,
        }
    }
}

impl From<Carried> for Count {
    fn from(carried: Carried) -> Self {
        Self {
            bytes: carried.bytes,
            packets: carried.packets,
            retransmits: carried.retransmits,
        }
    }
}

fn time(at: SystemTime) -> String {
    // Before 1970 and beyond 9999 there is no such text.
    let least = SystemTime::UNIX_EPOCH;
    let most = least + Duration::from_secs(253_402_300_799);
    format_rfc3339_micros(at.clamp(least, most)).to_string()
}

/// With microseconds, which is what the clocks have.
fn seconds(time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285 years")]
    let micros = time.as_micros() as f64;
    micros / 1e6
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
