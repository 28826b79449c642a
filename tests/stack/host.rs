//! The host's side: real sockets on the loopback, never blocking the test.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::world::{GATEWAY4, GATEWAY6, World};

/// A listener that the guest reaches through the gateway's address.
pub(crate) struct Host {
    pub(crate) listener: TcpListener,
    pub(crate) port: u16,
}

impl Host {
    pub(crate) fn listen() -> Self {
        Self::listen_at((Ipv4Addr::LOCALHOST, 0).into(), 1024, None)
    }

    pub(crate) fn listen_v6() -> Self {
        Self::listen_at("[::1]:0".parse().expect("address"), 1024, None)
    }

    /// With a fixed receive buffer, in bytes, so that back-pressure comes soon.
    pub(crate) fn listen_with_buffer(bytes: usize) -> Self {
        Self::listen_at((Ipv4Addr::LOCALHOST, 0).into(), 1024, Some(bytes))
    }

    pub(crate) fn listen_at(at: SocketAddr, backlog: i32, buffer: Option<usize>) -> Self {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))
            .expect("a socket");
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).expect("a size");
        }
        socket.bind(&at.into()).expect("a free port");
        socket.listen(backlog).expect("a listener");
        socket.set_nonblocking(true).expect("non-blocking");
        let listener = TcpListener::from(socket);
        let port = listener.local_addr().expect("bound").port();
        Self { listener, port }
    }

    pub(crate) fn gateway(&self) -> SocketAddr {
        if self.listener.local_addr().expect("bound").is_ipv6() {
            (GATEWAY6, self.port).into()
        } else {
            (GATEWAY4, self.port).into()
        }
    }

    pub(crate) fn try_accept(&self) -> Option<TcpStream> {
        let (stream, _) = self.listener.accept().ok()?;
        stream.set_nonblocking(true).expect("non-blocking");
        Some(stream)
    }

    /// Waits for the next connection.
    pub(crate) fn accept(&self, world: &mut World) -> TcpStream {
        let mut accepted = None;
        world.until(Duration::from_secs(5), |_| {
            accepted = self.try_accept();
            accepted.is_some()
        });
        accepted.expect("just checked")
    }
}

/// What a read that does not wait found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Nothing,
    Bytes(Vec<u8>),
    End,
    Reset,
}

/// Reads what is there, at most `most` bytes.
pub(crate) fn read(stream: &mut TcpStream, most: usize) -> Got {
    let mut bytes = vec![0; most];
    match stream.read(&mut bytes) {
        Ok(0) => Got::End,
        Ok(n) => {
            bytes.truncate(n);
            Got::Bytes(bytes)
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => Got::Nothing,
        Err(e) if e.kind() == ErrorKind::ConnectionReset => Got::Reset,
        Err(e) => panic!("{e}"),
    }
}

/// Writes what fits; the number of bytes.
pub(crate) fn write(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    match stream.write(bytes) {
        Ok(n) => n,
        Err(e) if e.kind() == ErrorKind::WouldBlock => 0,
        Err(e) => panic!("{e}"),
    }
}

/// Closes with a reset.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream)
        .set_linger(Some(Duration::ZERO))
        .expect("linger");
}

/// Byte `n` of the stream number `which`: position-dependent, so that loss,
/// repetition and reordering all show.
#[allow(clippy::cast_possible_truncation, reason = "a pattern of bytes")]
pub(crate) fn pattern(which: u64, at: usize) -> u8 {
    let x = (at as u64 ^ which.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x2545_f491_4f6c_dd1d);
    (x >> 32) as u8
}

pub(crate) fn patterned(which: u64, at: usize, len: usize) -> Vec<u8> {
    (at..at + len).map(|i| pattern(which, i)).collect()
}

pub(crate) fn assert_pattern(which: u64, at: usize, bytes: &[u8]) {
    for (i, byte) in bytes.iter().enumerate() {
        assert_eq!(
            *byte,
            pattern(which, at + i),
            "stream {which}, byte {}",
            at + i
        );
    }
}
