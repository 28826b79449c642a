//! Links over descriptors that somebody else made: one frame a message
//! ([`DatagramLink`]), or frames behind their lengths on a stream ([`StreamLink`]).
//!
//! # Theory of operation
//!
//! Neither medium knows offloads, so super-frames are cut and checksums completed
//! in software before they leave ([`super::segment`]).
//!
//! When the other end is slow, frames wait ([`super::queue`]), and when they are
//! too many the newest are lost, as on any wire. A stream may take half a frame;
//! the rest of it waits, and is sent before anything else. For the medium to say
//! when it has room again, a link keeps an epoll instance of its own, which is
//! what the caller watches.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{SockType, getsockopt, sockopt};
use nix::sys::uio::writev;
use nix::unistd::read;

use super::framing::{Deframer, Prefix};
use super::queue::{ByteQueue, FrameQueue};
use super::software::{Software, can_carry};
use super::{Caps, Link, Medium, Offload, Received};

/// Bytes that the system may keep for one direction of a socket: a large window
/// of TCP, because what does not fit is lost. The system lowers it to its own
/// limit (`net.core.wmem_max`).
pub(super) const SOCKET_BUFFER: usize = 4 << 20;

/// Slices that one `writev` takes (`UIO_MAXIOV`), less one for a length.
const MAX_SLICES: usize = 1023;

/// What a medium without offloads can carry.
pub(super) const fn plain(medium: Medium) -> Caps {
    Caps {
        medium,
        checksum: false,
        tso: false,
        uso: false,
    }
}

/// A descriptor to read from and, possibly the same, one to write to.
#[derive(Debug)]
pub struct Ends {
    input: OwnedFd,
    /// `None`: the same.
    output: Option<OwnedFd>,
}

impl Ends {
    /// One descriptor for both directions.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn one(fd: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&fd)?;
        Ok(Self {
            input: fd,
            output: None,
        })
    }

    /// One for each direction.
    ///
    /// # Errors
    /// As `fcntl(2)`.
    pub fn two(input: OwnedFd, output: OwnedFd) -> io::Result<Self> {
        set_nonblocking(&input)?;
        set_nonblocking(&output)?;
        Ok(Self {
            input,
            output: Some(output),
        })
    }

    fn output(&self) -> &OwnedFd {
        self.output.as_ref().unwrap_or(&self.input)
    }
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

pub(super) fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the other end has closed")
}

/// One frame a message: sockets of type `SOCK_SEQPACKET` and `SOCK_DGRAM`, and
/// whatever else keeps the bounds of what is written.
#[derive(Debug)]
pub struct DatagramLink {
    caps: Caps,
    empty: Empty,
    outgoing: Messages,
    software: Software,
}

/// The writing half, apart so that the software path can borrow it.
#[derive(Debug)]
struct Messages {
    ends: Ends,
    epoll: Epoll,
    waiting: FrameQueue,
}

/// What a message of no bytes means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Empty {
    /// Nothing: datagram sockets have no end.
    Ignored,
    /// The other end has closed.
    End,
}

impl DatagramLink {
    /// A link over `ends`.
    ///
    /// # Errors
    /// When a descriptor cannot be waited for, such as a regular file.
    pub fn new(ends: Ends, medium: Medium) -> io::Result<Self> {
        let empty = match getsockopt(&ends.input, sockopt::SockType) {
            Ok(SockType::Datagram) => Empty::Ignored,
            _ => Empty::End,
        };
        Self::with_empty(ends, medium, empty)
    }

    /// The same, where the other end's protocol says what no bytes mean.
    pub(super) fn with_empty(ends: Ends, medium: Medium, empty: Empty) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ends.input, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            caps: plain(medium),
            empty,
            outgoing: Messages {
                ends,
                epoll,
                waiting: FrameQueue::default(),
            },
            software: Software::default(),
        })
    }

    /// What polls readable; others may be added to it.
    pub(super) const fn epoll(&self) -> &Epoll {
        &self.outgoing.epoll
    }

    /// Where frames are read.
    pub(super) fn input(&self) -> BorrowedFd<'_> {
        self.outgoing.ends.input.as_fd()
    }
}

impl Messages {
    fn send(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.flush()?;
        if !self.waiting.is_empty() {
            return self.waiting.push(frame);
        }
        match writev(self.ends.output(), frame) {
            Ok(_) => Ok(()),
            Err(Errno::EAGAIN) => {
                self.waiting.push(frame)?;
                self.wait_for_room()
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Sends what waits, as far as there is room.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let output = self.ends.output();
        self.waiting.flush(|frame| writev(output, frame).map(drop));
        if self.waiting.is_empty() {
            self.wait_no_more()?;
        }
        Ok(())
    }

    fn wait_for_room(&self) -> io::Result<()> {
        match &self.ends.output {
            Some(output) => {
                let writable = EpollEvent::new(EpollFlags::EPOLLOUT, 0);
                self.epoll.add(output, writable)?;
            }
            None => {
                let both = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                let mut event = EpollEvent::new(both, 0);
                self.epoll.modify(&self.ends.input, &mut event)?;
            }
        }
        Ok(())
    }

    fn wait_no_more(&self) -> io::Result<()> {
        match &self.ends.output {
            Some(output) => self.epoll.delete(output)?,
            None => {
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN, 0);
                self.epoll.modify(&self.ends.input, &mut event)?;
            }
        }
        Ok(())
    }
}

impl Link for DatagramLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.outgoing.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        self.outgoing.flush()?;
        match (read(&self.outgoing.ends.input, buf)?, self.empty) {
            (0, Empty::End) => Err(ended()),
            (0, Empty::Ignored) => Err(io::ErrorKind::Interrupted.into()),
            (len, _) => Ok(Received {
                len,
                offload: Offload::default(),
            }),
        }
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

/// Frames behind their lengths on a stream.
#[derive(Debug)]
pub struct StreamLink {
    caps: Caps,
    incoming: Deframer,
    outgoing: Outgoing,
    software: Software,
}

/// The writing half, apart so that the software path can borrow it.
#[derive(Debug)]
struct Outgoing {
    ends: Ends,
    epoll: Epoll,
    prefix: Prefix,
    /// What the stream did not take: perhaps the rest of a frame, then whole
    /// ones.
    waiting: ByteQueue,
}

impl StreamLink {
    /// A link over `ends`.
    ///
    /// # Errors
    /// When a descriptor cannot be waited for, such as a regular file.
    pub fn new(ends: Ends, prefix: Prefix, medium: Medium) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&ends.input, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        if let Some(output) = &ends.output {
            epoll.add(output, EpollEvent::new(EpollFlags::empty(), 1))?;
        }
        Ok(Self {
            caps: plain(medium),
            incoming: Deframer::new(prefix),
            outgoing: Outgoing {
                ends,
                epoll,
                prefix,
                waiting: ByteQueue::default(),
            },
            software: Software::default(),
        })
    }
}

impl Outgoing {
    fn send(&mut self, frame: &[IoSlice<'_>]) -> io::Result<()> {
        self.flush()?;
        let len = frame.iter().map(|slice| slice.len()).sum();
        let Some(header) = self.prefix.encode(len) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the frame is longer than its length can say",
            ));
        };
        let len = len + self.prefix.size();
        let mut slices = Vec::with_capacity(frame.len() + 1);
        slices.push(IoSlice::new(header.as_bytes()));
        slices.extend_from_slice(frame);
        if !self.waiting.is_empty() {
            if !self.waiting.has_room(len) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.waiting.push(&slices, 0);
            return Ok(());
        }
        let sent = match writev(self.ends.output(), &slices) {
            Ok(sent) => sent,
            Err(Errno::EAGAIN) => 0,
            Err(e) => return Err(e.into()),
        };
        if sent < len {
            self.waiting.push(&slices, sent);
            self.wait_for_room(true)?;
        }
        Ok(())
    }

    /// Sends what waits; that there is still no room is no error.
    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        while !self.waiting.is_empty() {
            match writev(self.ends.output(), &self.waiting.front(usize::MAX)) {
                Ok(sent) => self.waiting.pop(sent),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(()),
                Err(e) => return Err(e.into()),
            }
        }
        self.wait_for_room(false)
    }

    /// `WouldBlock`, unless the output is a descriptor of its own whose reader
    /// is gone: it would poll ready for ever.
    fn state(&self) -> io::Error {
        let Some(output) = &self.ends.output else {
            return io::ErrorKind::WouldBlock.into();
        };
        // With no events asked for, poll(2) tells of hang-up and error alone.
        let mut look = [PollFd::new(output.as_fd(), PollFlags::empty())];
        match poll(&mut look, PollTimeout::ZERO) {
            Ok(0) => io::ErrorKind::WouldBlock.into(),
            Ok(_) => ended(),
            Err(e) => e.into(),
        }
    }

    fn wait_for_room(&self, wanted: bool) -> io::Result<()> {
        let room = if wanted {
            EpollFlags::EPOLLOUT
        } else {
            EpollFlags::empty()
        };
        match &self.ends.output {
            Some(output) => self.epoll.modify(output, &mut EpollEvent::new(room, 1))?,
            None => {
                let mut event = EpollEvent::new(EpollFlags::EPOLLIN | room, 0);
                self.epoll.modify(&self.ends.input, &mut event)?;
            }
        }
        Ok(())
    }
}

impl Link for StreamLink {
    fn caps(&self) -> Caps {
        self.caps
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.outgoing.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        self.outgoing.flush()?;
        loop {
            let next = self.incoming.next_frame();
            let next = next.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            if let Some(frame) = next {
                // Longer than there is room for is longer than a packet can be.
                let len = match buf.get_mut(..frame.len()) {
                    Some(room) => {
                        room.copy_from_slice(frame);
                        frame.len()
                    }
                    None => 0,
                };
                return Ok(Received {
                    len,
                    offload: Offload::default(),
                });
            }
            match read(&self.outgoing.ends.input, self.incoming.space()) {
                Ok(0) => return Err(ended()),
                Ok(n) => self.incoming.filled(n),
                Err(Errno::EAGAIN) => return Err(self.outgoing.state()),
                Err(e) => return Err(e.into()),
            }
        }
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

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, setsockopt, socketpair};

    use super::*;
    use crate::net::{Checksum, MAX_FRAME_LEN};

    fn pair(kind: SockType) -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_NONBLOCK).expect("pair")
    }

    fn datagrams(kind: SockType) -> (DatagramLink, DatagramLink) {
        let (a, b) = pair(kind);
        let link = |fd| {
            let ends = Ends::one(fd).expect("descriptor");
            DatagramLink::new(ends, Medium::Ethernet).expect("link")
        };
        (link(a), link(b))
    }

    fn streams(prefix: Prefix) -> (StreamLink, StreamLink) {
        let (a, b) = UnixStream::pair().expect("pair");
        let link = |fd: UnixStream| {
            let ends = Ends::one(fd.into()).expect("descriptor");
            StreamLink::new(ends, prefix, Medium::Ethernet).expect("link")
        };
        (link(a), link(b))
    }

    fn send(link: &mut dyn Link, bytes: &[u8]) -> io::Result<()> {
        let (a, b) = bytes.split_at(bytes.len() / 2);
        link.send(&Offload::default(), &[IoSlice::new(a), IoSlice::new(b)])
    }

    fn recv(link: &mut dyn Link) -> io::Result<Vec<u8>> {
        let mut buf = vec![0; MAX_FRAME_LEN];
        let received = link.recv(&mut buf)?;
        Ok(buf[..received.len].to_vec())
    }

    fn is_ready(link: &dyn Link) -> bool {
        let mut fds = [PollFd::new(link.readiness(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::ZERO).expect("poll") == 1
    }

    fn kind(result: io::Result<Vec<u8>>) -> io::ErrorKind {
        result.expect_err("no frame").kind()
    }

    #[test]
    fn messages_are_frames_and_the_end_is_seen() {
        let (mut a, mut b) = datagrams(SockType::SeqPacket);
        assert_eq!(kind(recv(&mut b)), io::ErrorKind::WouldBlock);
        send(&mut a, b"first frame").expect("room");
        send(&mut a, b"second").expect("room");
        assert_eq!(recv(&mut b).expect("frame"), b"first frame");
        assert_eq!(recv(&mut b).expect("frame"), b"second");
        drop(a);
        assert_eq!(kind(recv(&mut b)), io::ErrorKind::UnexpectedEof);
    }

    /// A small buffer, and a reader that is slow: frames wait, in order.
    #[test]
    fn messages_wait_for_room() {
        for kind_of_socket in [SockType::SeqPacket, SockType::Datagram] {
            let (mut a, mut b) = datagrams(kind_of_socket);
            setsockopt(&a.input(), sockopt::SndBuf, &10_000).expect("set");
            let frames: Vec<_> = (0..250u8).map(|n| vec![n; 1400]).collect();
            for frame in &frames {
                send(&mut a, frame).expect("taken");
            }
            assert!(!is_ready(&a), "no room to wait for");
            let mut seen = Vec::new();
            while seen.len() < frames.len() {
                match recv(&mut b) {
                    Ok(frame) => seen.push(frame),
                    Err(e) => {
                        assert_eq!(e.kind(), io::ErrorKind::WouldBlock);
                        assert!(is_ready(&a), "there is room");
                        assert_eq!(kind(recv(&mut a)), io::ErrorKind::WouldBlock);
                    }
                }
            }
            assert_eq!(seen, frames);
            assert!(!is_ready(&a), "nothing waits");
        }
    }

    #[test]
    fn an_empty_datagram_is_nothing() {
        let (mut a, mut b) = datagrams(SockType::Datagram);
        // Not by writev(2), which sends nothing then.
        let socket = a.input().as_raw_fd();
        nix::sys::socket::send(socket, b"", MsgFlags::empty()).expect("room");
        send(&mut a, b"frame").expect("room");
        assert_eq!(kind(recv(&mut b)), io::ErrorKind::Interrupted);
        assert_eq!(recv(&mut b).expect("frame"), b"frame");
    }

    #[test]
    fn a_checksum_left_open_is_completed() {
        let (mut a, mut b) = datagrams(SockType::SeqPacket);
        let frame = [0u8; 60];
        let offload = Offload {
            checksum: Checksum::Partial {
                start: 34,
                offset: 6,
            },
            ..Offload::default()
        };
        a.send(&offload, &[IoSlice::new(&frame)]).expect("room");
        let seen = recv(&mut b).expect("frame");
        assert_eq!(seen[40..42], [0xff, 0xff], "the sum of nothing, inverted");
    }

    #[test]
    fn streams_keep_frames_apart() {
        for prefix in [Prefix::Len16, Prefix::Len32] {
            let (mut a, mut b) = streams(prefix);
            let frames: Vec<Vec<u8>> = (1..100u8).map(|n| vec![n; usize::from(n) * 13]).collect();
            for frame in &frames {
                send(&mut a, frame).expect("room");
            }
            for frame in &frames {
                assert_eq!(&recv(&mut b).expect("frame"), frame);
            }
            assert_eq!(kind(recv(&mut b)), io::ErrorKind::WouldBlock);
            drop(a);
            assert_eq!(kind(recv(&mut b)), io::ErrorKind::UnexpectedEof);
        }
    }

    /// The reader is slow: frames are lost, none is cut.
    #[test]
    fn a_full_stream_loses_whole_frames() {
        let (mut a, mut b) = streams(Prefix::Len32);
        let mut sent = Vec::new();
        for n in 0..200u8 {
            if send(&mut a, &vec![n; 30_000]).is_ok() {
                sent.push(n);
            }
        }
        assert!((1..200).contains(&sent.len()), "{} of 200", sent.len());
        assert!(!is_ready(&a), "no room to wait for");
        let mut seen = Vec::new();
        loop {
            match recv(&mut b) {
                Ok(frame) => {
                    assert_eq!(frame, vec![frame[0]; 30_000]);
                    seen.push(frame[0]);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if !is_ready(&a) {
                        break;
                    }
                    // There is room: the rest of the last frame goes out.
                    assert_eq!(kind(recv(&mut a)), io::ErrorKind::WouldBlock);
                }
                Err(e) => panic!("{e}"),
            }
        }
        assert_eq!(seen, sent);
        send(&mut a, b"after").expect("room again");
        assert_eq!(recv(&mut b).expect("frame"), b"after");
    }

    /// Input and output as two pipes, of which only one hangs up.
    #[test]
    fn either_end_of_a_pair_of_pipes_ends_the_stream() {
        for closed in ["input", "output"] {
            let (input, to_input) = nix::unistd::pipe().expect("pipe");
            let (from_output, output) = nix::unistd::pipe().expect("pipe");
            let ends = Ends::two(input, output).expect("descriptors");
            let mut link = StreamLink::new(ends, Prefix::Len16, Medium::Ethernet).expect("link");
            assert_eq!(kind(recv(&mut link)), io::ErrorKind::WouldBlock);
            assert!(!is_ready(&link));
            let kept = if closed == "input" {
                drop(to_input);
                from_output
            } else {
                drop(from_output);
                to_input
            };
            assert!(is_ready(&link));
            assert_eq!(
                kind(recv(&mut link)),
                io::ErrorKind::UnexpectedEof,
                "{closed}"
            );
            drop(kept);
        }
    }

    #[test]
    fn a_stream_out_of_step_ends() {
        let (a, b) = UnixStream::pair().expect("pair");
        let ends = Ends::one(b.into()).expect("descriptor");
        let mut link = StreamLink::new(ends, Prefix::Len32, Medium::Ethernet).expect("link");
        nix::unistd::write(&a, b"GET / HTTP/1.0").expect("room");
        assert_eq!(kind(recv(&mut link)), io::ErrorKind::InvalidData);
    }
}
