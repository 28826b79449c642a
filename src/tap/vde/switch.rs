//! A VDE switch that other programs plug into.
//!
//! # Theory of operation
//!
//! [`VdeSwitch`] listens on `ctl` in a directory and speaks versions 1 and 3 of
//! the protocol ([`super::protocol`]). Each client that gets through becomes a
//! port of the [`crate::tap::switch::Switch`] that this is a source of; frames
//! are switched there.
//!
//! For each client: take the request, see who it is from, connect a datagram
//! socket to the client's, give it a name in the directory (`PORT.NUMBER`, as
//! vde_switch does), and answer with that name. The order matters: once the
//! socket is connected it hears nobody but the client. The stream stays open
//! for as long as the port is there. Its end frees the port at once; so does an
//! empty datagram, with which clients of the second generation part.
//!
//! **No.** This protocol says no by closing the stream. So are answered requests
//! that make no sense, those for the management port, for a port that is taken
//! or does not exist, and those that fail the check below.
//!
//! **Whose socket.** A client could name the socket of another, or of a system's
//! service, and have frames sent to it. So the socket that is named must belong
//! to the user at the other end of the stream, unless that is root or this
//! user.
//!
//! **Limits.** [`MAX_HANDSHAKES`] and [`HANDSHAKE_TIMEOUT`] for clients that have
//! not sent their request; [`MAX_PORTS`].

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::fs;
use std::io::{self, IoSlice, Read as _};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::sys::epoll::{EpollEvent, EpollFlags};
use nix::sys::socket::{UnixCredentials, getsockopt, sockopt};
use nix::unistd::{Uid, chown};
use socket2::{SockAddr, Socket, Type};

use super::CTL;
use super::link::{Peer, VdeLink, data_socket};
use super::protocol::{BadRequest, MAX_REQUEST, Request, encode_address};
use crate::tap::acceptor::Acceptor;
use crate::tap::retry::Timer;
use crate::tap::socket_file::{Access, MAX_PATH, SocketFile, SocketFileError};
use crate::tap::switch::{MAX_PORTS, NewPort, PortSource};
use crate::tap::{Caps, Link, Offload, Received};

/// Clients that have connected and not yet sent their request. One more takes
/// the place of the one that has been silent longest: real clients send at once.
pub const MAX_HANDSHAKES: usize = 16;

/// How long a client may take to send its request.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes that a name in the directory needs: a slash, `ctl` or a port's number,
/// a dot and a descriptor's number.
const NAME_ROOM: usize = 1 + 3 + 1 + 10;

/// Where the switch is and who may plug in.
#[derive(Debug, Clone)]
pub struct SwitchOptions {
    /// Its directory, made when missing.
    pub directory: PathBuf,
    /// Permission bits of the directory if it is made. Default 2700: what is
    /// made in it belongs to its group.
    pub directory_mode: u32,
    /// Who may use the sockets. Default: this user. With a group, a mode such as
    /// 0660 and a directory mode such as 2770 let its members in.
    pub access: Access,
}

impl SwitchOptions {
    /// A switch in `directory` for this user alone.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            directory_mode: 0o2700,
            access: Access::default(),
        }
    }
}

/// A switch could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// Its directory cannot be made or used.
    #[error("cannot use the directory '{path}' for a VDE switch: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Its directory's name leaves no room for those of the sockets.
    #[error(
        "the path '{path}' is too long for a VDE switch; {max} bytes fit",
        max = MAX_PATH - NAME_ROOM
    )]
    TooLong {
        /// The directory.
        path: PathBuf,
    },
    /// The control socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketFileError),
    /// The system has no room.
    #[error("cannot start a VDE switch: {0}")]
    System(#[from] io::Error),
}

/// Why a client is sent away.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error(transparent)]
    Request(#[from] BadRequest),
    #[error("port {0} is taken")]
    Taken(u32),
    #[error("there is no port {0}; they are numbered from 1 to {MAX_PORTS}")]
    NoSuchPort(u32),
    #[error("all {MAX_PORTS} ports are taken")]
    Full,
    #[error("it names its socket by a path that does not begin with '/'")]
    Relative,
    #[error("what it names, '{0}', is not a socket")]
    NotASocket(PathBuf),
    #[error("the socket it names belongs to user {owner}, and the client is of user {client}")]
    Foreign { owner: u32, client: u32 },
    #[error("{what}: {source}")]
    System {
        what: &'static str,
        source: io::Error,
    },
}

/// See the module's documentation.
#[derive(Debug)]
pub struct VdeSwitch {
    name: String,
    acceptor: Acceptor,
    timer: Timer,
    /// The oldest first.
    handshakes: VecDeque<Handshake>,
    access: Access,
    shared: Rc<Shared>,
}

/// What the switch and its ports have in common, and the last of them gives up.
#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    /// Made by us, to be removed.
    is_made: bool,
    numbers: RefCell<BTreeSet<u32>>,
}

/// A client that has not yet sent its whole request.
#[derive(Debug)]
struct Handshake {
    ctl: Socket,
    client: UnixCredentials,
    request: ArrayVec<u8, MAX_REQUEST>,
    until: Instant,
}

/// What became of a handshake.
#[derive(Debug)]
enum Outcome {
    Unfinished,
    Gone,
    Request(Result<Request, BadRequest>),
}

impl VdeSwitch {
    /// Makes the directory and the control socket in it. A control socket that
    /// a switch left behind is replaced.
    ///
    /// # Errors
    /// [`SwitchError`], among them that another switch runs there.
    pub fn new(options: &SwitchOptions) -> Result<Self, SwitchError> {
        let shared = Shared::make(options)?;
        let ctl = shared.directory.join(CTL);
        let (socket, file) = SocketFile::make(Type::STREAM, &ctl, &options.access)?;
        let acceptor = Acceptor::new(socket, Some(file))?;
        let timer = Timer::new()?;
        let expired = EpollEvent::new(EpollFlags::EPOLLIN, 0);
        acceptor
            .epoll()
            .add(&timer, expired)
            .map_err(io::Error::from)?;
        Ok(Self {
            name: format!("vdeswitch:{}", options.directory.display()),
            acceptor,
            timer,
            handshakes: VecDeque::new(),
            access: options.access,
            shared: Rc::new(shared),
        })
    }

    /// Takes in who has come since.
    fn accept(&mut self, now: Instant) -> io::Result<()> {
        // Bounded: what is over comes next time.
        for _ in 0..MAX_HANDSHAKES {
            let Some((ctl, _)) = self.acceptor.accept()? else {
                return Ok(());
            };
            let client = getsockopt(&ctl, sockopt::PeerCredentials)?;
            let readable = EpollEvent::new(EpollFlags::EPOLLIN, 0);
            self.acceptor.epoll().add(&ctl, readable)?;
            if self.handshakes.len() >= MAX_HANDSHAKES {
                self.handshakes.pop_front();
            }
            self.handshakes.push_back(Handshake {
                ctl,
                client,
                request: ArrayVec::new(),
                until: now + HANDSHAKE_TIMEOUT,
            });
        }
        Ok(())
    }

    /// The next handshake with a whole request.
    fn next_request(&mut self, now: Instant) -> Option<(Handshake, Result<Request, BadRequest>)> {
        let mut index = 0;
        while let Some(handshake) = self.handshakes.get_mut(index) {
            match handshake.read(now) {
                Outcome::Unfinished => index += 1,
                Outcome::Gone => {
                    self.handshakes.remove(index);
                }
                Outcome::Request(request) => {
                    let handshake = self.handshakes.remove(index)?;
                    // From now on its port watches it, or it is closed.
                    let _ = self.acceptor.epoll().delete(&handshake.ctl);
                    return Some((handshake, request));
                }
            }
        }
        None
    }

    fn plug_in(&self, handshake: Handshake, request: &Request) -> Result<NewPort, Refusal> {
        let data = connect_to_client(&request.client, handshake.client.uid())?;
        let number = Number::take(&self.shared, request.port)?;
        let name = format!("{:03}.{}", number.number, data.as_raw_fd());
        let path = self.shared.directory.join(name);
        // Only a switch that was here before and did not end well has left one.
        let _ = fs::remove_file(&path);
        let file = SocketFile::bind(&data, &path, &self.access)
            .map_err(|e| Refusal::system("cannot make the port's socket", e.into()))?;
        let answer = encode_address(&path).ok_or_else(|| {
            Refusal::system(
                "cannot name the port's socket",
                io::ErrorKind::InvalidFilename.into(),
            )
        })?;
        let answered = |e| Refusal::system("cannot answer", e);
        // So few bytes go out whole.
        handshake
            .ctl
            .send_with_flags(&answer, libc::MSG_NOSIGNAL)
            .map_err(answered)?;
        let name = format!(
            "{} port {} ({})",
            self.name, number.number, request.description
        );
        let link = VdeLink::new(data, handshake.ctl, Peer::Client).map_err(answered)?;
        Ok(NewPort {
            link: Box::new(PortLink {
                link,
                _file: file,
                _number: number,
            }),
            name,
        })
    }

    /// Wakes when the next handshake has taken too long.
    fn set_timer(&self, now: Instant) -> io::Result<()> {
        match self.handshakes.front() {
            Some(oldest) => self.timer.set(oldest.until.saturating_duration_since(now)),
            None => self.timer.clear(),
        }
    }
}

impl PortSource for VdeSwitch {
    fn name(&self) -> &str {
        &self.name
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.acceptor.readiness()
    }

    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        let now = Instant::now();
        self.timer.has_expired();
        self.accept(now)?;
        while let Some((handshake, request)) = self.next_request(now) {
            let client = handshake.client;
            let plugged = request
                .map_err(Refusal::from)
                .and_then(|request| self.plug_in(handshake, &request));
            match plugged {
                Ok(port) => {
                    self.set_timer(now)?;
                    return Ok(Some(port));
                }
                Err(reason) => {
                    let (name, pid) = (&self.name, client.pid());
                    tracing::info!(name, pid, %reason, "a client was refused");
                }
            }
        }
        self.set_timer(now)?;
        Ok(None)
    }

    fn lost(&mut self, _reason: &io::Error) {}
}

impl Handshake {
    fn read(&mut self, now: Instant) -> Outcome {
        let mut buf = [0; MAX_REQUEST];
        let room = self.request.remaining_capacity();
        match (&self.ctl).read(&mut buf[..room]) {
            Ok(0) => Outcome::Gone,
            Ok(n) => {
                // Proof that there is room: no more was read.
                let _ = self.request.try_extend_from_slice(&buf[..n]);
                match Request::parse(&self.request) {
                    Err(BadRequest::Short) => Outcome::Unfinished,
                    request => Outcome::Request(request),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && now < self.until => {
                Outcome::Unfinished
            }
            Err(_) => Outcome::Gone,
        }
    }
}

impl Shared {
    fn make(options: &SwitchOptions) -> Result<Self, SwitchError> {
        let path = &options.directory;
        let failed = |source| SwitchError::Directory {
            path: path.clone(),
            source,
        };
        // For nobody else before it has its mode.
        let is_made = match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => true,
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => false,
            Err(e) => return Err(failed(e)),
        };
        let shared = Self {
            directory: path.canonicalize().map_err(failed)?,
            is_made,
            numbers: RefCell::default(),
        };
        if is_made {
            let mode = fs::Permissions::from_mode(options.directory_mode);
            chown(path, None, options.access.group).map_err(|e| failed(e.into()))?;
            fs::set_permissions(path, mode).map_err(failed)?;
        }
        let len = shared.directory.as_os_str().len();
        if len + NAME_ROOM > MAX_PATH {
            return Err(SwitchError::TooLong { path: path.clone() });
        }
        Ok(shared)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.is_made {
            let _ = fs::remove_dir(&self.directory);
        }
    }
}

impl Refusal {
    const fn system(what: &'static str, source: io::Error) -> Self {
        Self::System { what, source }
    }
}

/// A port's number, given back when dropped.
#[derive(Debug)]
struct Number {
    number: u32,
    shared: Rc<Shared>,
}

impl Number {
    fn take(shared: &Rc<Shared>, wanted: Option<u32>) -> Result<Self, Refusal> {
        let last = u32::try_from(MAX_PORTS).unwrap_or(u32::MAX);
        let mut numbers = shared.numbers.borrow_mut();
        let number = match wanted {
            Some(number) if number > last => return Err(Refusal::NoSuchPort(number)),
            Some(number) if numbers.contains(&number) => return Err(Refusal::Taken(number)),
            Some(number) => number,
            None => (1..=last)
                .find(|number| !numbers.contains(number))
                .ok_or(Refusal::Full)?,
        };
        numbers.insert(number);
        Ok(Self {
            number,
            shared: Rc::clone(shared),
        })
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.shared.numbers.borrow_mut().remove(&self.number);
    }
}

/// A socket that is connected to the client's, if that is really the client's.
fn connect_to_client(path: &Path, client: u32) -> Result<Socket, Refusal> {
    if !path.is_absolute() {
        return Err(Refusal::Relative);
    }
    let cannot = |source| Refusal::system("cannot reach the socket it names", source);
    // What is looked at must be what is connected to, so it is held.
    let held: OwnedFd = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_PATH | libc::O_NOFOLLOW)
        .open(path)
        .map_err(cannot)?
        .into();
    let meta = fs::metadata(held_path(&held)).map_err(cannot)?;
    if meta.mode() & libc::S_IFMT != libc::S_IFSOCK {
        return Err(Refusal::NotASocket(path.to_owned()));
    }
    let owner = meta.uid();
    let is_trusted = client == 0 || client == Uid::effective().as_raw();
    if owner != client && !is_trusted {
        return Err(Refusal::Foreign { owner, client });
    }
    let data = data_socket().map_err(cannot)?;
    let address = SockAddr::unix(held_path(&held)).map_err(cannot)?;
    data.connect(&address).map_err(cannot)?;
    Ok(data)
}

fn held_path(held: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()))
}

/// A client's port: everything that goes with it.
#[derive(Debug)]
struct PortLink {
    link: VdeLink,
    /// The port's socket; removed with the port.
    _file: SocketFile,
    _number: Number,
}

impl Link for PortLink {
    fn caps(&self) -> Caps {
        self.link.caps()
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.link.readiness()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        self.link.recv(buf)
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.link.send(offload, frame)
    }
}
