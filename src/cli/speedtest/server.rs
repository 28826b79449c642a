//! The server: on the host's loopback, reached through the gateway's address.
//!
//! Each connection carries one request and is served on a thread of its own, at
//! most [`MAX_CONNECTIONS`] at once. Who does not know the run's secret gets
//! nothing but, with [`ONCE`], one byte back.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::datagrams::{self, MAX_DATAGRAM, POLL, QUIET, Train};
use super::pattern::{Datagram, HEADER, Mismatch, Pattern, Verifier, send};
use super::proto::{ONCE, Op, Ready, Request, Sent, Verdict, read_line_exactly, write_line};

/// Connections that are served at once; more are closed.
const MAX_CONNECTIONS: usize = 512;

/// How long a connection may stand still.
pub(super) const STALL: Duration = Duration::from_secs(10);

/// Longest phase that a request may ask for.
pub(super) const MAX_PHASE: Duration = Duration::from_secs(3600);

/// Bytes that are asked for in one read.
pub(super) const READ: usize = 256 << 10;

/// Receive buffer of UDP sockets in bytes; the kernel may grant less.
pub(super) const UDP_BUFFER: usize = 4 << 20;

/// The server's sockets.
#[derive(Debug)]
pub(super) struct Server {
    /// Where it takes connections.
    pub(super) tcp: SocketAddr,
    /// Where it takes datagrams.
    pub(super) udp: SocketAddr,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    secret: u64,
    pattern: Pattern,
    connections: AtomicUsize,
    /// One phase at a time uses datagrams.
    udp: Mutex<UdpSocket>,
}

impl Server {
    /// Listens on ephemeral ports of `address` and serves for as long as the
    /// process lives.
    ///
    /// # Errors
    /// When the sockets cannot be opened.
    pub(super) fn start(address: IpAddr, secret: u64) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let udp = UdpSocket::bind((address, 0))?;
        socket2::SockRef::from(&udp).set_recv_buffer_size(UDP_BUFFER)?;
        let server = Self {
            tcp: listener.local_addr()?,
            udp: udp.local_addr()?,
        };
        let shared = Arc::new(Shared {
            secret,
            pattern: Pattern::new(secret),
            connections: AtomicUsize::new(0),
            udp: Mutex::new(udp),
        });
        thread::Builder::new()
            .name("speedtest-accept".into())
            .spawn(move || accept(&listener, &shared))?;
        Ok(server)
    }
}

/// Accepts for ever.
fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: do not spin.
            thread::sleep(POLL);
            continue;
        };
        if shared.connections.fetch_add(1, Ordering::Relaxed) >= MAX_CONNECTIONS {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let shared_too = Arc::clone(shared);
        let spawned = thread::Builder::new().spawn(move || {
            // What fails here, the client notices and reports.
            let _ = serve(stream, &shared_too);
            shared_too.connections.fetch_sub(1, Ordering::Relaxed);
        });
        if spawned.is_err() {
            shared.connections.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Serves one connection.
fn serve(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))?;
    stream.set_nodelay(true)?;
    let mut first = [0; 1];
    stream.read_exact(&mut first)?;
    if first[0] == ONCE {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte)?;
        return stream.write_all(&byte);
    }
    let request: Request = read_line_exactly(&mut first.chain(&mut stream))?;
    if request.secret != shared.secret {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let during = Duration::from_millis(request.millis).min(MAX_PHASE);
    let number = request.number;
    match request.op {
        Op::TcpUpload => tcp_upload(stream, &shared.pattern, number),
        Op::TcpDownload => tcp_download(stream, &shared.pattern, number, during),
        Op::TcpEcho => echo(stream),
        Op::UdpUpload => shared.with_udp(|udp| {
            write_line(&mut stream, &Ready {})?;
            let arrived = datagrams::receive(udp, &shared.pattern, number, during)?;
            write_line(&mut stream, &arrived)
        }),
        Op::UdpDownload { datagram, rate } => shared.with_udp(|udp| {
            write_line(&mut stream, &Ready {})?;
            let train = Train {
                phase: number,
                length: datagram,
                rate,
                during,
            };
            let datagrams = udp_download(udp, &shared.pattern, train)?;
            write_line(&mut stream, &Sent { datagrams })
        }),
        Op::UdpEcho => shared.with_udp(|udp| {
            write_line(&mut stream, &Ready {})?;
            udp_echo(udp, &shared.pattern, number, during)
        }),
    }
}

impl Shared {
    /// Runs a phase that needs the UDP socket.
    fn with_udp(&self, phase: impl FnOnce(&UdpSocket) -> io::Result<()>) -> io::Result<()> {
        // A phase that panicked has left the socket as it was.
        let udp = self.udp.lock().unwrap_or_else(PoisonError::into_inner);
        udp.set_read_timeout(Some(POLL))?;
        phase(&udp)
    }
}

fn tcp_upload(mut stream: TcpStream, pattern: &Pattern, number: u64) -> io::Result<()> {
    let start = Instant::now();
    let received = read_stream(&mut stream, pattern, number)?;
    let seconds = start.elapsed().as_secs_f64();
    let verdict = match received {
        Ok(bytes) => Verdict {
            bytes,
            seconds,
            mismatch: None,
        },
        Err(mismatch) => Verdict {
            bytes: 0,
            seconds,
            mismatch: Some(mismatch.to_string()),
        },
    };
    write_line(&mut stream, &verdict)
}

/// Reads stream `number` up to its end; returns its length, or what is wrong with
/// it. Reads no further then.
///
/// # Errors
/// When reading fails.
pub(super) fn read_stream(
    stream: &mut TcpStream,
    pattern: &Pattern,
    number: u64,
) -> io::Result<Result<u64, Mismatch>> {
    let mut verifier = Verifier::new(pattern, number);
    let mut buffer = vec![0; READ];
    while !verifier.has_ended() {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        if let Err(mismatch) = verifier.check(&buffer[..count]) {
            return Ok(Err(mismatch));
        }
    }
    Ok(verifier.finish())
}

fn tcp_download(
    mut stream: TcpStream,
    pattern: &Pattern,
    number: u64,
    during: Duration,
) -> io::Result<()> {
    let start = Instant::now();
    send(&mut stream, pattern, number, || start.elapsed() < during)?;
    // Closing with the client's last bytes unread would reset the connection.
    stream.shutdown(std::net::Shutdown::Write)?;
    io::copy(&mut stream, &mut io::sink()).map(drop)
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 64];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count])?,
        }
    }
}

/// Waits for the phase's first datagram and sends to where it came from.
fn udp_download(udp: &UdpSocket, pattern: &Pattern, train: Train) -> io::Result<u64> {
    let start = Instant::now();
    let mut buffer = [0; MAX_DATAGRAM];
    while start.elapsed() < STALL {
        match udp.recv_from(&mut buffer) {
            Ok((length, peer)) if is_of_phase(pattern, train.phase, &buffer[..length]) => {
                return Ok(train.send(pattern, |datagram| udp.send_to(datagram, peer)));
            }
            Ok(_) => {}
            Err(error) if datagrams::is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// Returns the phase's datagrams until `during` has passed and none comes.
fn udp_echo(udp: &UdpSocket, pattern: &Pattern, number: u64, during: Duration) -> io::Result<()> {
    let start = Instant::now();
    let mut last = start;
    let mut buffer = [0; MAX_DATAGRAM];
    while start.elapsed() < during || last.elapsed() < QUIET {
        match udp.recv_from(&mut buffer) {
            Ok((length, peer)) if is_of_phase(pattern, number, &buffer[..length]) => {
                last = Instant::now();
                // No room: that answer is lost, as datagrams are.
                let _ = udp.send_to(&buffer[..length], peer);
            }
            Ok(_) => {}
            Err(error) if datagrams::is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether a datagram is one of the phase. Others get no answer, so that nobody
/// can have this server flood a third party.
fn is_of_phase(pattern: &Pattern, phase: u64, datagram: &[u8]) -> bool {
    datagram.len() >= HEADER && matches!(pattern.check_datagram(phase, datagram), Datagram::Good(_))
}
