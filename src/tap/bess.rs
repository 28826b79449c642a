//! The other side of User-Mode Linux's `bess` transport: a unix socket of
//! sequenced packets, each an Ethernet frame.
//!
//! # Theory of operation
//!
//! We listen; the guest connects (`vec0:transport=bess,dst=PATH`) and each packet
//! either way is one frame, with nothing in front of it. So checksums are
//! complete and super-frames are cut in software ([`crate::wire::segment`]).
//!
//! This is the link of `gw slirp4netns --target-type=bess`, which has one guest and
//! leaves its file behind, as slirp4netns does; [`super::listen`] has a switch's.
//!
//! One guest is served at a time. While there is one, others wait in the
//! socket's queue; when it goes away, which is seen as the end of the stream or
//! an error, the next is taken, so that a guest can be started again. Frames for
//! a guest that is not there are dropped, as on a cable that is not plugged in.
//!
//! The descriptor to wait for must stay the same while guests come and go: it is
//! an epoll instance that watches either the listening socket or the guest's.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, accept4, bind, listen, recv,
    sendmsg, setsockopt, socket, sockopt,
};

use super::fd::{SOCKET_BUFFER, plain};
use super::software::Software;
use super::{Caps, Link, Medium, Offload, Received};

/// Guests that wait for their turn.
const BACKLOG: i32 = 4;

const CAPS: Caps = plain(Medium::Ethernet);

/// A link to a User-Mode Linux.
#[derive(Debug)]
pub struct Bess {
    listener: OwnedFd,
    guest: Option<OwnedFd>,
    epoll: Epoll,
    software: Software,
}

impl Bess {
    /// Listens at `path`. A file that is there is replaced; ours is left behind
    /// at the end.
    ///
    /// # Errors
    /// When the socket cannot be made there.
    pub fn listen(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(listener.as_raw_fd(), &UnixAddr::new(path)?)?;
        listen(&listener, Backlog::new(BACKLOG)?)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let bess = Self {
            listener,
            guest: None,
            epoll,
            software: Software::default(),
        };
        bess.watch(bess.listener.as_fd())?;
        Ok(bess)
    }

    fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(self
            .epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, 0))?)
    }

    /// Takes the next guest.
    #[cold]
    fn accept(&mut self) -> io::Result<()> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let guest = match accept4(self.listener.as_raw_fd(), flags) {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(fd) => unsafe { OwnedFd::from_raw_fd(fd) },
            // It was gone before its turn.
            Err(nix::Error::ECONNABORTED) => return Err(io::ErrorKind::WouldBlock.into()),
            Err(e) if is_shortage(e) => {
                tracing::warn!(error = %e, "a guest cannot be let in");
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Err(e) => return Err(e.into()),
        };
        // Less room makes it slower, not wrong.
        let _ = setsockopt(&guest, sockopt::SndBuf, &SOCKET_BUFFER);
        self.watch(guest.as_fd())?;
        self.epoll.delete(&self.listener)?;
        self.guest = Some(guest);
        tracing::debug!("a guest has connected");
        Ok(())
    }

    /// Lets the guest go, and waits for the next.
    #[cold]
    fn disconnect(&mut self) -> io::Result<()> {
        // Closing it ends its being watched.
        self.guest = None;
        tracing::debug!("the guest has disconnected");
        self.watch(self.listener.as_fd())
    }
}

/// True for what passes, when somebody else gives something back.
fn is_shortage(error: nix::Error) -> bool {
    use nix::errno::Errno::{EMFILE, ENFILE, ENOBUFS, ENOMEM};
    matches!(error, EMFILE | ENFILE | ENOBUFS | ENOMEM)
}

impl Link for Bess {
    fn caps(&self) -> Caps {
        CAPS
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Reads one frame. One longer than any frame is counted as malformed, by
    /// being 0 bytes long.
    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        loop {
            let Some(guest) = &self.guest else {
                self.accept()?;
                continue;
            };
            // With MSG_TRUNC the packet's own length is returned.
            match recv(guest.as_raw_fd(), buf, MsgFlags::MSG_TRUNC) {
                Ok(0) => self.disconnect()?,
                Ok(len) => {
                    return Ok(Received {
                        len: if len <= buf.len() { len } else { 0 },
                        offload: Offload::default(),
                    });
                }
                Err(nix::Error::EAGAIN) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(nix::Error::EINTR) => {}
                Err(_) => self.disconnect()?,
            }
        }
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let Some(guest) = &self.guest else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        self.software
            .carry(&CAPS, offload, frame, MAX_SLICES, |frame| {
                write(guest, frame)
            })
    }
}

/// Slices that sendmsg(2) takes at once (`UIO_MAXIOV`).
const MAX_SLICES: usize = 1024;

/// Writes one frame. A guest that went away is noticed by reading.
fn write(guest: &OwnedFd, frame: &[IoSlice<'_>]) -> io::Result<()> {
    sendmsg::<UnixAddr>(guest.as_raw_fd(), frame, &[], MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tap::{Checksum, Gso, GsoKind};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::socket::{connect, send};

    fn client(path: &Path) -> OwnedFd {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("socket");
        let address = UnixAddr::new(path).expect("address");
        connect(socket.as_raw_fd(), &address).expect("connects");
        socket
    }

    fn is_ready(bess: &Bess) -> bool {
        let mut look = [PollFd::new(bess.readiness(), PollFlags::POLLIN)];
        poll(&mut look, PollTimeout::ZERO).expect("poll") == 1
    }

    fn receive(bess: &mut Bess) -> Option<Vec<u8>> {
        let mut buf = vec![0; crate::tap::MAX_FRAME_LEN];
        match bess.recv(&mut buf) {
            Ok(received) => Some(buf[..received.len].to_vec()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => panic!("{e}"),
        }
    }

    fn put(client: &OwnedFd, frame: &[u8]) {
        send(client.as_raw_fd(), frame, MsgFlags::empty()).expect("sends");
    }

    fn take(client: &OwnedFd) -> Option<Vec<u8>> {
        let mut buf = vec![0; 70_000];
        let len = recv(client.as_raw_fd(), &mut buf, MsgFlags::empty()).ok()?;
        Some(buf[..len].to_vec())
    }

    #[test]
    fn guests_come_and_go() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("bess");
        std::fs::write(&path, "in the way").expect("written");
        let mut bess = Bess::listen(&path).expect("listens");
        assert!(!is_ready(&bess));
        let unplugged = bess.send(&Offload::default(), &[IoSlice::new(b"x")]);
        assert_eq!(
            unplugged.expect_err("dropped").kind(),
            io::ErrorKind::WouldBlock
        );

        let first = client(&path);
        put(&first, b"one");
        put(&first, b"two");
        assert!(is_ready(&bess));
        assert_eq!(receive(&mut bess).as_deref(), Some(&b"one"[..]));
        assert_eq!(receive(&mut bess).as_deref(), Some(&b"two"[..]));
        assert_eq!(receive(&mut bess), None);
        assert!(!is_ready(&bess));

        let second = client(&path);
        put(&second, b"three");
        assert!(!is_ready(&bess), "the second waits");
        let parts = [IoSlice::new(b"to the "), IoSlice::new(b"first")];
        bess.send(&Offload::default(), &parts).expect("sent");
        assert_eq!(take(&first).as_deref(), Some(&b"to the first"[..]));
        assert_eq!(take(&second), None);

        drop(first);
        assert!(is_ready(&bess));
        assert_eq!(receive(&mut bess).as_deref(), Some(&b"three"[..]));
        assert_eq!(receive(&mut bess), None);
        drop(second);
        assert_eq!(receive(&mut bess), None);
        assert!(!is_ready(&bess));
    }

    #[test]
    fn a_packet_longer_than_any_frame_is_malformed() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("bess");
        let mut bess = Bess::listen(&path).expect("listens");
        let guest = client(&path);
        put(&guest, &vec![0; crate::tap::MAX_FRAME_LEN + 1]);
        put(&guest, b"next");
        assert_eq!(receive(&mut bess).as_deref(), Some(&b""[..]));
        assert_eq!(receive(&mut bess).as_deref(), Some(&b"next"[..]));
    }

    #[test]
    fn super_frames_are_cut() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("bess");
        let mut bess = Bess::listen(&path).expect("listens");
        let guest = client(&path);
        assert_eq!(receive(&mut bess), None);
        let payload = [7; 2500];
        let mut headers = Vec::new();
        etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2])
            .ipv4([10, 0, 2, 2], [10, 0, 2, 100], 64)
            .udp(1, 2)
            .write(&mut headers, &payload)
            .expect("built");
        headers.truncate(42);
        let offload = Offload {
            checksum: Checksum::Partial {
                start: 34,
                offset: 6,
            },
            gso: Some(Gso {
                kind: GsoKind::Udp,
                size: 1000,
                header_len: 42,
            }),
        };
        let frame = [IoSlice::new(&headers), IoSlice::new(&payload)];
        bess.send(&offload, &frame).expect("sent");
        let lengths: Vec<_> = std::iter::from_fn(|| take(&guest))
            .map(|piece| piece.len())
            .collect();
        assert_eq!(lengths, [1042, 1042, 542]);
    }
}
