//! A port of somebody else's VDE switch.
//!
//! # Theory of operation
//!
//! [`VdeClient`] connects to the switch's control socket, asks for a port with a
//! request of version 3 ([`super::protocol`]) and hands out the port as a link.
//! When the switch goes away so does the port, and the client tries again, with
//! pauses that grow from 100 ms to [`LONGEST_PAUSE`].
//!
//! | state | leaves it when | to |
//! |---|---|---|
//! | waiting | the pause is over, and the switch takes the request | asking |
//! | asking | the answer is there | plugged in |
//! | | the stream ends (so a switch says no), or [`ANSWER_TIMEOUT`] | waiting |
//! | plugged in | the port's link fails | waiting |
//!
//! Nothing blocks: connecting to a local socket succeeds or fails at once, and
//! the rest is driven by readiness.
//!
//! The client's own datagram socket is named as libvdeplug names it: hidden in
//! the switch's directory, or in one for temporary files where that is not
//! allowed. Its file is removed as soon as the switch has connected to it.

use std::env;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::iter;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::unistd::{Gid, Uid, User, chown};
use socket2::{Domain, SockAddr, Socket, Type};

use super::CTL;
use super::link::{Peer, VdeLink, data_socket};
use super::protocol::{ADDRESS_LEN, Request, decode_address};
use crate::tap::retry::{Backoff, Timer};
use crate::tap::socket_file::{Access, SocketFile, SocketFileError};
use crate::tap::switch::{NewPort, PortSource};

/// Longest pause between two attempts: they cost next to nothing.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// How long a switch may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a switch is looked for when none is named, `~` being the user's home.
pub const DEFAULT_SWITCHES: [&str; 3] =
    ["~/.vde2/default.switch", "/var/run/vde.ctl", "/tmp/vde.ctl"];

/// Where the client's socket goes when the switch's directory is closed to it.
const OTHER_DIRECTORIES: [&str; 3] = ["/var/run", "/var/tmp", "/tmp"];

/// Names tried in each directory.
const NAMES: u32 = 64;

/// The client's socket at first.
const PRIVATE: Access = Access {
    mode: 0o700,
    group: None,
};

/// What to connect to, and as whom.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    /// The switch's directory. `None`, the default: the first of
    /// [`DEFAULT_SWITCHES`] that there is.
    pub switch: Option<PathBuf>,
    /// The port wanted, from 1. `None`, the default: any.
    pub port: Option<u32>,
    /// What the switch is told about this client. `None`, the default: program,
    /// user and process.
    pub description: Option<String>,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct VdeClient {
    options: ClientOptions,
    name: String,
    epoll: Epoll,
    timer: Timer,
    backoff: Backoff,
    state: State,
    /// What was reported last, so that it is said once.
    complaint: Option<String>,
}

#[derive(Debug)]
enum State {
    Waiting { until: Instant },
    Asking(Box<Asking>),
    PluggedIn { since: Instant },
}

/// A request that was sent.
#[derive(Debug)]
struct Asking {
    ctl: Socket,
    data: Socket,
    /// Removed when the answer is there.
    _file: SocketFile,
    directory: PathBuf,
    answer: [u8; ADDRESS_LEN],
    filled: usize,
    until: Instant,
}

impl VdeClient {
    /// A client that has not connected yet.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(options: ClientOptions) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = Timer::new()?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        let until = Instant::now();
        timer.set(Duration::ZERO)?;
        Ok(Self {
            name: name(&options),
            options,
            epoll,
            timer,
            backoff: Backoff::new(LONGEST_PAUSE),
            state: State::Waiting { until },
            complaint: None,
        })
    }

    fn step(&mut self, now: Instant) -> io::Result<Option<NewPort>> {
        if let State::Waiting { until } = self.state {
            if now < until {
                return Ok(None);
            }
            let asking = self.ask(now)?;
            self.timer.set(ANSWER_TIMEOUT)?;
            let answered = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            self.epoll.add(&asking.ctl, answered)?;
            self.state = State::Asking(Box::new(asking));
        }
        let State::Asking(asking) = &mut self.state else {
            return Ok(None);
        };
        if !asking.read()? {
            if now >= asking.until {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("the switch did not answer in {ANSWER_TIMEOUT:?}"),
                ));
            }
            return Ok(None);
        }
        let next = State::PluggedIn { since: now };
        let State::Asking(asking) = std::mem::replace(&mut self.state, next) else {
            return Ok(None);
        };
        self.epoll.delete(&asking.ctl)?;
        self.timer.clear()?;
        let link = asking.finish()?;
        self.complaint = None;
        Ok(Some(NewPort {
            link: Box::new(link),
            name: self.name.clone(),
        }))
    }

    /// Connects and sends the request.
    fn ask(&self, now: Instant) -> io::Result<Asking> {
        let (directory, ctl) = self.connect()?;
        let data = data_socket()?;
        let file = bind(&data, &directory)?;
        open_to_switch(&file, &directory)?;
        let request = Request {
            client: file.path().to_owned(),
            port: self.options.port,
            description: self.options.description.clone().unwrap_or_else(whoami),
        };
        let request = request.encode().ok_or_else(|| {
            io::Error::other("the path of the client's socket does not fit a request")
        })?;
        // A new socket takes these few bytes whole.
        let sent = ctl.send_with_flags(&request, libc::MSG_NOSIGNAL)?;
        if sent < request.len() {
            return Err(io::ErrorKind::WriteZero.into());
        }
        Ok(Asking {
            ctl,
            data,
            _file: file,
            directory,
            answer: [0; ADDRESS_LEN],
            filled: 0,
            until: now + ANSWER_TIMEOUT,
        })
    }

    fn connect(&self) -> io::Result<(PathBuf, Socket)> {
        let candidates = match &self.options.switch {
            Some(directory) => vec![directory.clone()],
            None => default_switches(),
        };
        let mut failure = io::Error::new(
            io::ErrorKind::NotFound,
            format!("there is no VDE switch at {}", DEFAULT_SWITCHES.join(", ")),
        );
        for candidate in candidates {
            match connect_to(&candidate) {
                Ok(connected) => return Ok(connected),
                Err(e) if self.options.switch.is_none() && e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    let text = format!("cannot connect to '{}': {e}", candidate.display());
                    failure = io::Error::new(e.kind(), text);
                    break;
                }
            }
        }
        Err(failure)
    }

    fn wait(&mut self, now: Instant) {
        let pause = self.backoff.pause();
        self.state = State::Waiting { until: now + pause };
        // It fails for times that are none only.
        let _ = self.timer.set(pause);
    }
}

impl PortSource for VdeClient {
    fn name(&self) -> &str {
        &self.name
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        self.timer.has_expired();
        let now = Instant::now();
        let error = match self.step(now) {
            Ok(port) => return Ok(port),
            Err(error) => error,
        };
        self.wait(now);
        let text = error.to_string();
        if self.complaint.as_ref() == Some(&text) {
            return Ok(None);
        }
        self.complaint = Some(text);
        Err(error)
    }

    fn lost(&mut self, _reason: &io::Error) {
        let now = Instant::now();
        if let State::PluggedIn { since } = self.state {
            self.backoff.lived(now.saturating_duration_since(since));
            self.wait(now);
        }
    }
}

impl Asking {
    /// Takes what there is of the answer; true when it is whole.
    fn read(&mut self) -> io::Result<bool> {
        while self.filled < ADDRESS_LEN {
            match (&self.ctl).read(&mut self.answer[self.filled..]) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionRefused,
                        "the switch refuses: the port may be taken, or all of them",
                    ));
                }
                Ok(n) => self.filled += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    fn finish(self) -> io::Result<VdeLink> {
        let path = decode_address(&self.answer).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the switch names no socket for the port",
            )
        })?;
        self.data
            .connect(&SockAddr::unix(self.directory.join(path))?)?;
        VdeLink::new(self.data, self.ctl, Peer::Switch)
    }
}

/// Connects to the switch in `directory`; with its absolute path.
fn connect_to(directory: &Path) -> io::Result<(PathBuf, Socket)> {
    let directory = directory.canonicalize()?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(directory.join(CTL))?)?;
    Ok((directory, socket))
}

/// Gives the client's socket a name that the switch can reach.
fn bind(data: &Socket, directory: &Path) -> io::Result<SocketFile> {
    let pid = process::id();
    let mut failure = None;
    for (directory, prefix) in
        iter::once((directory, ".")).chain(OTHER_DIRECTORIES.map(|dir| (Path::new(dir), "vde.")))
    {
        for n in 0..NAMES {
            let path = directory.join(format!("{prefix}{pid:05}-{n:05}"));
            match SocketFile::bind(data, &path, &PRIVATE) {
                Ok(file) => return Ok(file),
                // Another connection of this process, or one of its namesakes.
                Err(SocketFileError::System { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse => {}
                Err(e) => {
                    failure.get_or_insert(e);
                    break;
                }
            }
        }
    }
    Err(failure.map_or_else(|| io::ErrorKind::AddrInUse.into(), Into::into))
}

/// Lets the switch's process connect, and as few others as can be. That is for
/// as long as a handshake takes; then the file goes.
fn open_to_switch(file: &SocketFile, directory: &Path) -> io::Result<()> {
    let ctl = fs::symlink_metadata(directory.join(CTL))?;
    let is_root = ctl.uid() == 0;
    if is_root || ctl.uid() == Uid::effective().as_raw() {
        return Ok(());
    }
    // In a directory for one group the file has that group already.
    let mode = match chown(file.path(), None, Some(Gid::from_raw(ctl.gid()))) {
        Ok(()) => 0o770,
        Err(_) => 0o777,
    };
    fs::set_permissions(file.path(), fs::Permissions::from_mode(mode))
}

fn default_switches() -> Vec<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from);
    DEFAULT_SWITCHES
        .iter()
        .filter_map(|path| match path.strip_prefix("~/") {
            Some(rest) => Some(home.as_ref()?.join(rest)),
            None => Some(PathBuf::from(path)),
        })
        .collect()
}

/// As libvdeplug introduces its programs.
fn whoami() -> String {
    let uid = Uid::effective();
    let user = match User::from_uid(uid) {
        Ok(Some(user)) => user.name,
        _ => uid.to_string(),
    };
    format!("gw user={user} PID={}", process::id())
}

fn name(options: &ClientOptions) -> String {
    let mut name = String::from("vde:");
    if let Some(directory) = &options.switch {
        name.push_str(&directory.to_string_lossy());
    }
    if let Some(port) = options.port {
        let _ = write!(name, "[{port}]");
    }
    name
}
