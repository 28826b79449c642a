//! The servers of an agent. Every listener takes IPv4 and IPv6.

use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;

use socket2::{Domain, Protocol, Socket, Type};

use super::proto::{Ports, UDP_PAYLOAD};
use super::{Received, TCP_READ, TCP_WRITE};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// Receive buffer of the UDP sockets, in bytes (the kernel may grant less).
pub(super) const UDP_BUFFER: usize = 4 << 20;

/// Starts all servers.
///
/// # Errors
/// When a socket cannot be opened.
pub(super) fn start(received: &Arc<Received>) -> io::Result<Ports> {
    Ok(Ports {
        sink: tcp(sink_connection(received))?,
        source: tcp(|stream| per_thread(stream, source))?,
        echo: tcp(|stream| per_thread(stream, echo))?,
        once: tcp(once)?,
        keep: tcp(keep())?,
        udp_sink: udp(count_datagrams(received))?,
        udp_source: udp(udp_source(received))?,
        udp_echo: udp(udp_echo)?,
    })
}

/// Listens and gives each connection to `serve` on the accepting thread.
fn tcp(mut serve: impl FnMut(TcpStream) + Send + 'static) -> io::Result<u16> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_only_v6(false)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            serve(stream);
        }
    });
    Ok(port)
}

/// Runs `serve` on a UDP socket in a thread of its own.
fn udp(serve: impl FnOnce(UdpSocket) + Send + 'static) -> io::Result<u16> {
    let socket = Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_only_v6(false)?;
    socket.set_recv_buffer_size(UDP_BUFFER)?;
    socket.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)).into())?;
    let socket = UdpSocket::from(socket);
    let port = socket.local_addr()?.port();
    thread::spawn(move || serve(socket));
    Ok(port)
}

/// Serves a connection on a thread of its own.
fn per_thread(stream: TcpStream, serve: fn(TcpStream)) {
    thread::spawn(move || serve(stream));
}

/// Reads everything and counts it.
fn sink_connection(received: &Arc<Received>) -> impl FnMut(TcpStream) + Send + 'static {
    let received = Arc::clone(received);
    move |stream| {
        let received = Arc::clone(&received);
        thread::spawn(move || sink(stream, &received));
    }
}

/// Reads until the peer ends.
pub(super) fn sink(mut stream: TcpStream, received: &Received) {
    let mut buffer = vec![0; TCP_READ];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        received.add_bytes(count);
    }
}

/// Writes until the peer goes away.
fn source(mut stream: TcpStream) {
    let buffer = vec![0x5a; TCP_WRITE];
    while stream.write_all(&buffer).is_ok() {}
}

/// Returns what arrives.
fn echo(mut stream: TcpStream) {
    let mut byte = [0; 1];
    if stream.set_nodelay(true).is_err() {
        return;
    }
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// Returns one byte and closes. On the accepting thread, so that no thread is
/// made per connection.
fn once(mut stream: TcpStream) {
    let mut byte = [0; 1];
    // A peer that went away in between is not this server's business.
    let _ = stream
        .read_exact(&mut byte)
        .and_then(|()| stream.write_all(&byte));
}

/// Returns one byte and keeps the connection until the agent ends.
fn keep() -> impl FnMut(TcpStream) + Send + 'static {
    let mut open = Vec::new();
    move |mut stream| {
        let mut byte = [0; 1];
        if stream
            .read_exact(&mut byte)
            .and_then(|()| stream.write_all(&byte))
            .is_ok()
        {
            open.push(stream);
        }
    }
}

/// Counts datagrams of the right length.
fn count_datagrams(received: &Arc<Received>) -> impl FnOnce(UdpSocket) + Send + 'static {
    let received = Arc::clone(received);
    move |socket| {
        let mut buffer = [0; 2 * UDP_PAYLOAD];
        while let Ok(count) = socket.recv(&mut buffer) {
            received.add_datagram(count);
        }
    }
}

/// Returns every datagram.
fn udp_echo(socket: UdpSocket) {
    let mut buffer = [0; 2 * UDP_PAYLOAD];
    while let Ok((count, peer)) = socket.recv_from(&mut buffer) {
        // An unreachable peer makes the next call fail; that is no reason to end.
        let _ = socket.send_to(&buffer[..count], peer);
    }
}

/// Floods whoever sends a datagram, until the agent is told to stop.
fn udp_source(received: &Arc<Received>) -> impl FnOnce(UdpSocket) + Send + 'static {
    let received = Arc::clone(received);
    move |socket| {
        let mut asked = [0; 16];
        loop {
            // Errors are those of earlier answers; the next request counts.
            if let Ok((_, peer)) = socket.recv_from(&mut asked)
                && !received.flooding.swap(true, Ordering::Relaxed)
            {
                flood(&socket, peer, &received);
            }
        }
    }
}

/// Sends to `peer` on a thread of its own while [`Received::flooding`] holds.
fn flood(socket: &UdpSocket, peer: SocketAddr, received: &Arc<Received>) {
    let Ok(socket) = socket.try_clone() else {
        return;
    };
    let received = Arc::clone(received);
    thread::spawn(move || {
        let payload = [0x5a; UDP_PAYLOAD];
        while received.flooding.load(Ordering::Relaxed) {
            // Refused or full: try again until told to stop.
            let _ = socket.send_to(&payload, peer);
        }
    });
}
