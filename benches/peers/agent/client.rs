//! What an agent in the guest does: loads, latencies, connections.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use gw::cli::speedtest::stats::percentile;
use socket2::{Domain, Protocol, Socket, Type};

use super::proto::{Latency, Load, Reply, Transport, UDP_PAYLOAD};
use super::server::UDP_BUFFER;
use super::{Received, TCP_READ, TCP_WRITE, monotonic_nanos};

/// How long one blocking call may take before the load looks whether to stop.
const POLL: Duration = Duration::from_millis(100);

/// How long one connection may take to open.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer to one datagram is waited for.
const UDP_ANSWER: Duration = Duration::from_millis(200);

/// Pause between two attempts of [`first_connection`].
const RETRY: Duration = Duration::from_micros(200);

/// A load in progress.
#[derive(Debug)]
pub(super) struct Running {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Running {
    /// Starts `load` over `streams` connections.
    ///
    /// # Errors
    /// When a connection cannot be opened.
    pub(super) fn start(
        load: Load,
        to: SocketAddr,
        streams: usize,
        received: &Arc<Received>,
    ) -> io::Result<Self> {
        let mut running = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        for _ in 0..streams {
            let stop = Arc::clone(&running.stop);
            let received = Arc::clone(received);
            let thread = match load {
                Load::TcpUp => {
                    let stream = connect(to)?;
                    thread::spawn(move || tcp_up(stream, &stop))
                }
                Load::TcpDown => {
                    let stream = connect(to)?;
                    thread::spawn(move || tcp_down(stream, &stop, &received))
                }
                Load::UdpUp => {
                    let socket = udp_socket(to)?;
                    thread::spawn(move || udp_up(&socket, &stop))
                }
                Load::UdpDown => {
                    let socket = udp_socket(to)?;
                    thread::spawn(move || udp_down(&socket, &stop, &received))
                }
            };
            running.threads.push(thread);
        }
        Ok(running)
    }

    /// Ends the load and waits for its threads.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // A thread that panicked has printed why.
            let _ = thread.join();
        }
    }
}

/// Connects with a limit, and with timeouts so that a stuck gateway cannot hold
/// the load for ever.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&to, CONNECT)?;
    stream.set_write_timeout(Some(POLL))?;
    stream.set_read_timeout(Some(POLL))?;
    Ok(stream)
}

/// A UDP socket connected to `to`.
fn udp_socket(to: SocketAddr) -> io::Result<UdpSocket> {
    let any = if to.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(UDP_BUFFER)?;
    socket.bind(&any.into())?;
    socket.connect(&to.into())?;
    socket.set_read_timeout(Some(POLL))?;
    Ok(socket.into())
}

/// True for an error after which a load goes on.
fn is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

fn tcp_up(mut stream: TcpStream, stop: &AtomicBool) {
    let buffer = vec![0x5a; TCP_WRITE];
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = stream.write(&buffer)
            && !is_transient(&error)
        {
            return;
        }
    }
}

fn tcp_down(mut stream: TcpStream, stop: &AtomicBool, received: &Received) {
    let mut buffer = vec![0; TCP_READ];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => received.add_bytes(count),
            Err(error) if is_transient(&error) => {}
            Err(_) => return,
        }
    }
}

fn udp_up(socket: &UdpSocket, stop: &AtomicBool) {
    let payload = [0x5a; UDP_PAYLOAD];
    while !stop.load(Ordering::Relaxed) {
        // Refused or full: that datagram is lost, as datagrams are.
        let _ = socket.send(&payload);
    }
}

fn udp_down(socket: &UdpSocket, stop: &AtomicBool, received: &Received) {
    let mut buffer = [0; 2 * UDP_PAYLOAD];
    let mut asked: Option<Instant> = None;
    let mut started = false;
    while !stop.load(Ordering::Relaxed) {
        if !started && asked.is_none_or(|at| at.elapsed() > POLL) {
            let _ = socket.send(b"go");
            asked = Some(Instant::now());
        }
        if let Ok(count) = socket.recv(&mut buffer) {
            started = true;
            received.add_datagram(count);
        }
    }
}

/// One byte there and back for `during`.
///
/// # Errors
/// When the connection fails, or no datagram comes back.
pub(super) fn round_trips(
    transport: Transport,
    to: SocketAddr,
    during: Duration,
) -> io::Result<Reply> {
    let nanos = match transport {
        Transport::Tcp => {
            let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(CONNECT))?;
            timed(during, || exchange(&mut stream).map(Some))?
        }
        Transport::Udp => {
            let socket = udp_socket(to)?;
            socket.set_read_timeout(Some(UDP_ANSWER))?;
            timed(during, || {
                socket.send(b"x")?;
                match socket.recv(&mut [0; 16]) {
                    Ok(_) => Ok(Some(())),
                    Err(error) if is_transient(&error) => Ok(None),
                    Err(error) => Err(error),
                }
            })?
        }
    };
    let micros: Vec<f64> = nanos.iter().map(|&nanos| nanos as f64 / 1e3).collect();
    match (percentile(&micros, 50.0), percentile(&micros, 99.0)) {
        (Some(p50), Some(p99)) => Ok(Reply::Latency(Latency {
            count: micros.len(),
            p50,
            p99,
        })),
        _ => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "not one answer came back",
        )),
    }
}

/// Durations in nanoseconds of `step`, repeated for `during`; `None` of a step
/// (lost) is left out.
fn timed(
    during: Duration,
    mut step: impl FnMut() -> io::Result<Option<()>>,
) -> io::Result<Vec<u64>> {
    let end = Instant::now() + during;
    let mut nanos = Vec::new();
    loop {
        let before = Instant::now();
        if before >= end {
            return Ok(nanos);
        }
        if step()?.is_some() {
            nanos.push(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
        }
    }
}

/// One byte there and back on a stream.
fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let mut byte = [b'x'];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)
}

/// Connects, exchanges a byte and closes, again and again for `during`.
///
/// # Errors
/// When a connection fails.
pub(super) fn connections(to: SocketAddr, during: Duration) -> io::Result<Reply> {
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < during {
        let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
        stream.set_read_timeout(Some(CONNECT))?;
        exchange(&mut stream)?;
        count += 1;
    }
    Ok(Reply::Rate {
        count,
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// Opens `count` connections, each to the next address from `first` on, each of
/// which carries a byte there and back.
///
/// # Errors
/// When one of them fails; says how many were open by then.
pub(super) fn idle(first: IpAddr, port: u16, count: u32) -> Result<Vec<TcpStream>, String> {
    let open_one = |index| {
        let to = SocketAddr::new(nth(first, index), port);
        let mut stream = TcpStream::connect_timeout(&to, CONNECT)?;
        stream.set_read_timeout(Some(CONNECT))?;
        exchange(&mut stream)?;
        Ok(stream)
    };
    (0..count)
        .map(|index| open_one(index).map_err(|error: io::Error| format!("after {index}: {error}")))
        .collect()
}

/// The address `index` after `first`.
fn nth(first: IpAddr, index: u32) -> IpAddr {
    match first {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(index)).into(),
        IpAddr::V6(first) => {
            Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(index))).into()
        }
    }
}

/// Connects as soon as it works; says when a byte had come back.
///
/// # Errors
/// When `limit` passes without success.
pub(super) fn first_connection(to: SocketAddr, limit: Duration) -> io::Result<Reply> {
    let start = Instant::now();
    loop {
        let attempt = TcpStream::connect_timeout(&to, limit).and_then(|mut stream| {
            stream.set_read_timeout(Some(limit))?;
            exchange(&mut stream)
        });
        match attempt {
            Ok(()) => {
                return Ok(Reply::At {
                    nanos: monotonic_nanos(),
                });
            }
            Err(error) if start.elapsed() > limit => return Err(error),
            Err(_) => thread::sleep(RETRY),
        }
    }
}
