//! Sockets that virtual machines connect to.
//!
//! | link | socket | who connects |
//! |---|---|---|
//! | [`Listener::qemu`] | a stream, unix or TCP; frames behind their lengths, 4 bytes each | QEMU's `-netdev stream` and `-netdev socket,connect=` |
//! | [`Listener::bess`] | unix, `SOCK_SEQPACKET`; a message is a frame | User-Mode Linux's `vec0:transport=bess,dst=PATH` |
//! | [`UnixgramLink`] | unix, `SOCK_DGRAM`; a datagram is a frame | vfkit's `virtio-net,unixSocketPath=`, QEMU's `-netdev dgram` |
//!
//! A [`Listener`] is a source of ports: each connection is one, and ends with it.
//! Datagram sockets have no connections: [`UnixgramLink`] is one port, whose peer
//! is whoever sent the last datagram from a socket with a name.
//!
//! **Who may connect.** Unix sockets are for this user unless asked otherwise. A
//! TCP port on the loopback address is open to every user of the host.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, UnixAddr, getsockopt, recvfrom, sendmsg, sockopt};
use socket2::{Domain, Protocol, SockAddr, Socket, TcpKeepalive, Type};

use super::acceptor::Acceptor;
use super::fd::{DatagramLink, Ends, SOCKET_BUFFER, StreamLink, plain};
use super::framing::Prefix;
use super::queue::FrameQueue;
use super::retry::Timer;
use super::software::{Software, can_carry};
use super::switch::{NewPort, PortSource};
use super::{Access, Caps, Link, Medium, Offload, Received, SocketFile, SocketFileError};

/// A silent TCP connection is asked whether it is still there after this long:
/// a host that has lost its power does not say goodbye.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// How long frames wait for a peer that does nothing.
const RETRY: Duration = Duration::from_millis(1);

/// Less than this is no Ethernet frame. vfkit introduces itself with four bytes.
const MIN_FRAME: usize = 14;

/// Slices that one `sendmsg` takes (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A unix socket, made here; one that was left behind is replaced.
    Unix {
        /// Its path.
        path: PathBuf,
        /// Who may connect. Default: this user.
        access: Access,
    },
    /// A TCP port of this host.
    Tcp(SocketAddr),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix { path, .. } => path.display().fmt(f),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// There is no listening.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The unix socket cannot be made.
    #[error(transparent)]
    Socket(#[from] SocketFileError),
    /// The address is not to be had.
    #[error(
        "cannot listen on TCP {address}: {source}; choose an address of this host and a free port"
    )]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The system has no room.
    #[error("cannot listen: {0}")]
    System(#[from] io::Error),
}

/// Makes a port of every connection.
#[derive(Debug)]
pub struct Listener {
    name: String,
    acceptor: Acceptor,
    kind: Kind,
    local: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Qemu,
    Bess,
}

impl Listener {
    /// For QEMU's `-netdev stream`.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn qemu(at: &ListenAddress) -> Result<Self, ListenError> {
        let (socket, file) = match at {
            ListenAddress::Unix { path, access } => {
                let (socket, file) = SocketFile::make(Type::STREAM, path, access)?;
                (socket, Some(file))
            }
            ListenAddress::Tcp(address) => (bind_tcp(*address)?, None),
        };
        let local = socket.local_addr()?.as_socket();
        Ok(Self {
            name: format!("qemu:{at}"),
            acceptor: Acceptor::new(socket, file)?,
            kind: Kind::Qemu,
            local,
        })
    }

    /// For User-Mode Linux's `bess` transport.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn bess(path: &Path, access: &Access) -> Result<Self, ListenError> {
        let (socket, file) = SocketFile::make(Type::SEQPACKET, path, access)?;
        Ok(Self {
            name: format!("bess:{}", path.display()),
            acceptor: Acceptor::new(socket, Some(file))?,
            kind: Kind::Bess,
            local: None,
        })
    }

    /// The TCP address, with the port that the system chose.
    #[must_use]
    pub const fn local_addr(&self) -> Option<SocketAddr> {
        self.local
    }

    fn port(&self, socket: Socket, from: &SockAddr) -> io::Result<NewPort> {
        let name = match from.as_socket() {
            Some(address) => {
                tune_tcp(&socket);
                format!("{} from {address}", self.name)
            }
            None => match getsockopt(&socket, sockopt::PeerCredentials) {
                Ok(peer) => format!("{} from process {}", self.name, peer.pid()),
                Err(_) => self.name.clone(),
            },
        };
        // Less room costs frames, but works.
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        let ends = Ends::one(socket.into())?;
        let link: Box<dyn Link> = match self.kind {
            Kind::Qemu => Box::new(StreamLink::new(ends, Prefix::Len32, Medium::Ethernet)?),
            Kind::Bess => Box::new(DatagramLink::new(ends, Medium::Ethernet)?),
        };
        Ok(NewPort { link, name })
    }
}

impl PortSource for Listener {
    fn name(&self) -> &str {
        &self.name
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.acceptor.readiness()
    }

    fn poll(&mut self) -> io::Result<Option<NewPort>> {
        match self.acceptor.accept()? {
            Some((socket, from)) => Ok(Some(self.port(socket, &from)?)),
            None => Ok(None),
        }
    }

    fn lost(&mut self, _reason: &io::Error) {}
}

fn bind_tcp(address: SocketAddr) -> Result<Socket, ListenError> {
    let bind = || {
        let kind = Type::STREAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
        // Connections of an earlier run may still be in TIME-WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bind().map_err(|source| ListenError::Tcp { address, source })
}

/// None of it is needed to work.
fn tune_tcp(socket: &Socket) {
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE));
}

/// Frames as datagrams at a unix socket of ours.
///
/// The socket is not connected: a peer that is started again must be able to
/// send, whatever became of the one before. So the system does not say when the
/// peer has room again, which on most systems it has for 10 datagrams only
/// (`net.unix.max_dgram_qlen`). Frames that wait are tried again with each frame
/// that comes, which is when the peer has done something, and after [`RETRY`].
#[derive(Debug)]
pub struct UnixgramLink {
    outgoing: Datagrams,
    software: Software,
    caps: Caps,
    /// Removed at the end.
    _file: SocketFile,
}

/// The sockets, apart so that the software path can borrow it.
#[derive(Debug)]
struct Datagrams {
    socket: Socket,
    peer: Option<UnixAddr>,
    waiting: FrameQueue,
    timer: Timer,
    /// Of the socket and the timer.
    epoll: Epoll,
}

impl UnixgramLink {
    /// Makes the socket; one that was left behind is replaced.
    ///
    /// # Errors
    /// [`ListenError`].
    pub fn new(path: &Path, access: &Access) -> Result<Self, ListenError> {
        let (socket, file) = SocketFile::make(Type::DGRAM, path, access)?;
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
        Ok(Self {
            outgoing: Datagrams::new(socket)?,
            software: Software::default(),
            caps: plain(Medium::Ethernet),
            _file: file,
        })
    }
}

impl Datagrams {
    fn new(socket: Socket) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = Timer::new()?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            socket,
            peer: None,
            waiting: FrameQueue::default(),
            timer,
            epoll,
        })
    }

    fn heard(&mut self, from: UnixAddr) {
        if self.peer == Some(from) {
            return;
        }
        if let Some(path) = from.path() {
            tracing::info!(peer = %path.display(), "frames come from here, and go there");
            self.peer = Some(from);
        }
    }

    fn send(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let Some(peer) = self.peer else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        if !self.waiting.is_empty() {
            return self.waiting.push(frame);
        }
        match send_to(&self.socket, &peer, frame) {
            Ok(()) => Ok(()),
            Err(Errno::EAGAIN | Errno::ENOBUFS) => {
                self.waiting.push(frame)?;
                self.timer.set(RETRY)
            }
            Err(e) => {
                if matches!(e, Errno::ECONNREFUSED | Errno::ENOENT) {
                    // Whoever it was is gone.
                    self.peer = None;
                }
                Err(e.into())
            }
        }
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self) -> io::Result<()> {
        self.timer.has_expired();
        let (socket, peer) = (&self.socket, self.peer);
        self.waiting.flush(|frame| match &peer {
            Some(peer) => send_to(socket, peer, frame),
            // For nobody any more.
            None => Ok(()),
        });
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.timer.set(RETRY)
    }
}

impl Link for UnixgramLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.outgoing.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        if !self.outgoing.waiting.is_empty() {
            self.outgoing.flush()?;
        }
        let (len, from) = recvfrom::<UnixAddr>(self.outgoing.socket.as_raw_fd(), buf)?;
        if let Some(from) = from {
            self.outgoing.heard(from);
        }
        if len < MIN_FRAME {
            return Err(io::ErrorKind::Interrupted.into());
        }
        Ok(Received {
            len,
            offload: Offload::default(),
        })
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let Self {
            caps,
            outgoing,
            software,
            ..
        } = self;
        if can_carry(caps, offload) && frame.len() <= MAX_SLICES {
            return outgoing.send(frame);
        }
        software.send(caps, offload, frame, |_, whole| {
            outgoing.send(&[IoSlice::new(whole)])
        })
    }
}

fn send_to(socket: &Socket, peer: &UnixAddr, frame: &[IoSlice<'_>]) -> nix::Result<()> {
    sendmsg(
        socket.as_raw_fd(),
        frame,
        &[],
        MsgFlags::empty(),
        Some(peer),
    )
    .map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;
    use std::os::unix::net::{UnixDatagram, UnixStream};
    use std::time::Instant;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::net::{MAX_FRAME_LEN, MacAddr};
    use crate::tap::switch::Switch;

    const GATEWAY: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
    const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);

    fn frame(to: MacAddr, from: MacAddr, text: &str) -> Vec<u8> {
        [&to.0[..], &from.0, &[0x88, 0xb5], text.as_bytes()].concat()
    }

    fn with_length(frame: &[u8]) -> Vec<u8> {
        let len = Prefix::Len32.encode(frame.len()).expect("fits");
        [len.as_bytes(), frame].concat()
    }

    fn switch(listener: Listener) -> Switch {
        let mut switch = Switch::new(GATEWAY).expect("switch");
        switch.add_source(Box::new(listener)).expect("room");
        switch
    }

    /// The next frame's text, within a while.
    fn next(link: &mut dyn Link) -> String {
        let end = Instant::now() + Duration::from_secs(5);
        let mut buf = vec![0; MAX_FRAME_LEN];
        while Instant::now() < end {
            match link.recv(&mut buf) {
                Ok(received) => {
                    return String::from_utf8_lossy(&buf[14..received.len]).into_owned();
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        panic!("nothing came");
    }

    fn send(link: &mut dyn Link, frame: &[u8]) -> io::Result<()> {
        link.send(&Offload::default(), &[IoSlice::new(frame)])
    }

    fn until_ports(switch: &mut Switch, count: usize) {
        let end = Instant::now() + Duration::from_secs(5);
        let mut buf = vec![0; MAX_FRAME_LEN];
        while switch.ports().count() != count {
            assert!(Instant::now() < end, "{count} ports");
            let _ = switch.recv(&mut buf);
        }
    }

    fn exchange(switch: &mut Switch, stream: &mut (impl io::Read + io::Write)) {
        stream
            .write_all(&with_length(&frame(GATEWAY, A, "hello")))
            .expect("write");
        assert_eq!(next(switch), "hello");
        let answer = frame(A, GATEWAY, "and to you");
        send(switch, &answer).expect("room");
        let mut read = vec![0; 4 + answer.len()];
        stream.read_exact(&mut read).expect("frame");
        assert_eq!(read, with_length(&answer));
    }

    #[test]
    fn streams_over_unix_and_tcp() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("qemu");
        let at = ListenAddress::Unix {
            path: path.clone(),
            access: Access::default(),
        };
        let mut switch = switch(Listener::qemu(&at).expect("listens"));
        for _ in 0..2 {
            let mut stream = UnixStream::connect(&path).expect("connect");
            exchange(&mut switch, &mut stream);
            let name = switch.ports().next().expect("a port").name;
            let expected = format!(
                "qemu:{} from process {}",
                path.display(),
                std::process::id()
            );
            assert_eq!(name, expected);
            drop(stream);
            until_ports(&mut switch, 0);
        }
        drop(switch);
        assert!(!path.exists());

        let any = ListenAddress::Tcp("127.0.0.1:0".parse().expect("address"));
        let listener = Listener::qemu(&any).expect("listens");
        let address = listener.local_addr().expect("TCP");
        let mut switch = self::switch(listener);
        let mut stream = TcpStream::connect(address).expect("connect");
        exchange(&mut switch, &mut stream);

        let said = Listener::qemu(&ListenAddress::Tcp(address)).expect_err("taken");
        assert!(said.to_string().contains(&address.to_string()), "{said}");
    }

    #[test]
    fn who_speaks_another_protocol_is_unplugged() {
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().expect("address"));
        let listener = Listener::qemu(&any).expect("listens");
        let address = listener.local_addr().expect("TCP");
        let mut switch = switch(listener);
        let mut stream = TcpStream::connect(address).expect("connect");
        until_ports(&mut switch, 1);
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("write");
        until_ports(&mut switch, 0);
        assert!(!matches!(stream.read(&mut [0; 1]), Ok(1..)));
    }

    #[test]
    fn sequenced_packets_are_frames() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("bess");
        let listener = Listener::bess(&path, &Access::default()).expect("listens");
        let mut switch = switch(listener);
        let guest = Socket::new(Domain::UNIX, Type::SEQPACKET, None).expect("socket");
        guest
            .connect(&SockAddr::unix(&path).expect("address"))
            .expect("connect");
        guest.send(&frame(GATEWAY, A, "hello")).expect("send");
        assert_eq!(next(&mut switch), "hello");
        let answer = frame(A, GATEWAY, "back");
        send(&mut switch, &answer).expect("room");
        let mut buf = [0; 100];
        let len = (&guest).read(&mut buf).expect("frame");
        assert_eq!(buf[..len], answer);
        drop(guest);
        until_ports(&mut switch, 0);
    }

    #[test]
    fn datagrams_go_to_who_spoke_last() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("gram");
        let mut link = UnixgramLink::new(&path, &Access::default()).expect("link");
        let nobody = send(&mut link, &frame(A, GATEWAY, "early")).expect_err("nobody");
        assert_eq!(nobody.kind(), io::ErrorKind::NotConnected);

        let unnamed = UnixDatagram::unbound().expect("socket");
        unnamed
            .send_to(&frame(GATEWAY, A, "no name"), &path)
            .expect("send");
        assert_eq!(next(&mut link), "no name");
        assert!(send(&mut link, &frame(A, GATEWAY, "to whom?")).is_err());

        for name in ["first", "second"] {
            let guest = UnixDatagram::bind(dir.path().join(name)).expect("bind");
            guest.connect(&path).expect("connect");
            guest.set_nonblocking(true).expect("set");
            guest.send(b"VFKT").expect("send");
            guest.send(&frame(GATEWAY, A, name)).expect("send");
            assert_eq!(next(&mut link), name);
            let answer = frame(A, GATEWAY, "back");
            send(&mut link, &answer).expect("room");
            let mut buf = [0; 100];
            let len = guest.recv(&mut buf).expect("frame");
            assert_eq!(buf[..len], answer);
            drop(guest);
            assert!(send(&mut link, &answer).is_err(), "gone");
        }
        drop(link);
        assert!(!path.exists());
    }

    /// More than the 10 datagrams that a peer's queue holds.
    #[test]
    fn datagrams_wait_for_a_slow_peer() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("gram");
        let mut link = UnixgramLink::new(&path, &Access::default()).expect("link");
        let guest = UnixDatagram::bind(dir.path().join("guest")).expect("bind");
        guest.set_nonblocking(true).expect("set");
        guest
            .send_to(&frame(GATEWAY, A, "hello"), &path)
            .expect("send");
        assert_eq!(next(&mut link), "hello");
        for n in 0..200 {
            send(&mut link, &frame(A, GATEWAY, &n.to_string())).expect("taken");
        }
        let mut seen = Vec::new();
        let mut buf = [0; 100];
        while seen.len() < 200 {
            let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
            let ready = poll(&mut fds, PollTimeout::from(1000u16));
            while let Ok(len) = guest.recv(&mut buf) {
                seen.push(String::from_utf8_lossy(&buf[14..len]).into_owned());
            }
            if seen.len() < 200 {
                assert_eq!(ready, Ok(1), "its timer wakes it");
                assert!(link.recv(&mut [0; 100]).is_err());
            }
        }
        let expected: Vec<_> = (0..200).map(|n| n.to_string()).collect();
        assert_eq!(seen, expected);
        assert!(link.outgoing.waiting.is_empty());
    }
}
