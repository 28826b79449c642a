//! One TCP stream for so long, counted where it arrives.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use super::lab::{ADDRESS, End, join};
use crate::error::{Context, Error, Result};
use crate::impairment::Direction;
use crate::model::{Load, Order, Stream};

const PORT: u16 = 5001;

/// How much longer than it should a silent stream is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends for as long as the order says and counts what arrives.
///
/// # Errors
/// When no connection comes about.
pub(crate) fn measure(order: &Order) -> Result<Stream> {
    let Load::Stream { direction, seconds } = order.load else {
        return Err(Error("this load is no stream".into()));
    };
    let limit = Duration::from_secs(seconds.into());
    let listener = join(
        End::Server.run(|| TcpListener::bind((ADDRESS, PORT)).context(|| "listening".into())),
    )?;
    let end = move |at: End, socket: TcpStream| match (at, direction) {
        (End::Client, Direction::Up) | (End::Server, Direction::Down) => {
            send(&socket, limit).map(|resent| (None, resent))
        }
        _ => receive(&socket, limit).map(|stream| (Some(stream), 0)),
    };
    let server = End::Server.run(move || {
        let (socket, _) = listener.accept().context(|| "accepting".into())?;
        end(End::Server, socket)
    });
    let client = End::Client.run(move || {
        let socket =
            TcpStream::connect((ADDRESS, PORT)).context(|| "connecting to the server".into())?;
        end(End::Client, socket)
    });
    let (client, server) = (join(client)?, join(server)?);
    let resent = client.1 + server.1;
    let stream = client.0.or(server.0);
    stream
        .map(|stream| Stream { resent, ..stream })
        .ok_or_else(|| Error("neither end received".into()))
}

/// Writes until the time is over; returns how many segments this namespace's
/// kernel has sent again.
fn send(socket: &TcpStream, limit: Duration) -> Result<u64> {
    let start = Instant::now();
    socket
        .set_write_timeout(Some(limit))
        .context(|| "setting a timeout".into())?;
    let buffer = vec![0x5a; 64 * 1024];
    let mut socket = socket;
    while start.elapsed() < limit {
        // The other end leaves when its time is over.
        if socket.write(&buffer).is_err() {
            break;
        }
    }
    let resent = retransmitted()?;
    let _ = socket.shutdown(Shutdown::Both);
    Ok(resent)
}

/// Reads until the time is over.
fn receive(mut socket: &TcpStream, limit: Duration) -> Result<Stream> {
    let start = Instant::now();
    let mut buffer = vec![0; 256 * 1024];
    let mut bytes = 0;
    loop {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        socket
            .set_read_timeout(Some(left.min(PATIENCE)))
            .context(|| "setting a timeout".into())?;
        match socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => bytes += count as u64,
            // Silence is a result, too.
            Err(_) => {}
        }
    }
    Ok(Stream {
        bytes,
        seconds: limit.as_secs_f64(),
        resent: 0,
    })
}

/// Segments sent again by the calling thread's namespace, ever.
fn retransmitted() -> Result<u64> {
    let path = "/proc/thread-self/net/snmp";
    let text = std::fs::read_to_string(path).context(|| format!("reading {path}"))?;
    let mut lines = text.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next(), lines.next());
    let mut columns = names
        .into_iter()
        .zip(values)
        .flat_map(|(names, values)| names.split_whitespace().zip(values.split_whitespace()));
    columns
        .find(|(name, _)| *name == "RetransSegs")
        .and_then(|(_, value)| value.parse().ok())
        .ok_or_else(|| Error(format!("{path} counts no segments sent again")))
}
