//! A socket that listens, and that does not keep the loop busy when the process
//! has no room for another connection.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{SockAddr, Socket};

use super::retry::Timer;
use super::socket_file::SocketFile;

/// Connections that wait to be accepted. They are accepted at once; this many
/// may come together.
const BACKLOG: i32 = 64;

/// How long nothing is accepted after that failed.
const PAUSE: Duration = Duration::from_secs(1);

/// Accepts connections, and polls readable when there is one.
#[derive(Debug)]
pub(super) struct Acceptor {
    /// Of the socket, the timer, and whatever the owner adds.
    epoll: Epoll,
    socket: Socket,
    timer: Timer,
    is_paused: bool,
    /// Removed when this is dropped.
    _file: Option<SocketFile>,
}

impl Acceptor {
    /// Listens on a bound socket that does not block.
    ///
    /// # Errors
    /// As `listen(2)`, or when the process is out of descriptors.
    pub(super) fn new(socket: Socket, file: Option<SocketFile>) -> io::Result<Self> {
        socket.listen(BACKLOG)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let timer = Timer::new()?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        Ok(Self {
            epoll,
            socket,
            timer,
            is_paused: false,
            _file: file,
        })
    }

    /// What polls readable; others may be added to it.
    pub(super) const fn epoll(&self) -> &Epoll {
        &self.epoll
    }

    pub(super) fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// The next connection, which does not block.
    ///
    /// # Errors
    /// When there is no room for it. It is tried again in a while.
    pub(super) fn accept(&mut self) -> io::Result<Option<(Socket, SockAddr)>> {
        if self.is_paused {
            if !self.timer.has_expired() {
                return Ok(None);
            }
            self.listen_again()?;
        }
        loop {
            let error = match self
                .socket
                .accept4(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC)
            {
                Ok(accepted) => return Ok(Some(accepted)),
                Err(e) => e,
            };
            match error.raw_os_error() {
                Some(libc::EAGAIN) => return Ok(None),
                // Gone before it was accepted.
                Some(libc::ECONNABORTED | libc::EINTR) => {}
                _ => {
                    self.pause()?;
                    return Err(error);
                }
            }
        }
    }

    fn pause(&mut self) -> io::Result<()> {
        self.timer.set(PAUSE)?;
        self.epoll.delete(&self.socket)?;
        self.is_paused = true;
        Ok(())
    }

    fn listen_again(&mut self) -> io::Result<()> {
        self.epoll
            .add(&self.socket, EpollEvent::new(EpollFlags::EPOLLIN, 0))?;
        self.is_paused = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use socket2::Type;

    use super::super::socket_file::Access;
    use super::*;

    fn is_ready(acceptor: &Acceptor, wait: u16) -> bool {
        let mut fds = [PollFd::new(acceptor.readiness(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(wait)).expect("poll") == 1
    }

    #[test]
    fn a_pause_does_not_spin_and_ends() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("socket");
        let made = SocketFile::make(Type::STREAM, &path, &Access::default());
        let (socket, file) = made.expect("made");
        let mut acceptor = Acceptor::new(socket, Some(file)).expect("listens");
        assert!(acceptor.accept().expect("nobody").is_none());
        let _client = UnixStream::connect(&path).expect("connect");
        assert!(is_ready(&acceptor, 1000));
        // As when the process is out of descriptors.
        acceptor.pause().expect("pause");
        assert!(!is_ready(&acceptor, 0));
        assert!(acceptor.accept().expect("pause").is_none());
        assert!(is_ready(&acceptor, 3000), "until the pause is over");
        assert!(acceptor.accept().expect("room").is_some());
        drop(acceptor);
        assert!(!path.exists());
    }
}
