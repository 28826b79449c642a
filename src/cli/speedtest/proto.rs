//! What client, server and parent say to each other, one JSON object a line.

use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Longest line that is read, in bytes.
const MAX_LINE: usize = 4096;

/// First byte of a connection of the connections-per-second phase, which asks by
/// two raw bytes instead of a line: a token is not worth its cost there.
pub(super) const ONCE: u8 = b'.';

/// What the client needs to know; given on its command line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Plan {
    /// The server's TCP address, seen from the client.
    pub(super) tcp: SocketAddr,
    /// The server's UDP address, seen from the client.
    pub(super) udp: SocketAddr,
    /// Length of a phase in milliseconds.
    pub(super) millis: u64,
    /// Connections of the phases with several.
    pub(super) streams: u16,
    /// Payload of a datagram in bytes.
    pub(super) datagram: usize,
    /// What client and server know and no other program.
    pub(super) secret: u64,
}

/// A part of the test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub(super) enum Phase {
    /// TCP from the guest.
    TcpUpload {
        /// Connections at once.
        streams: u16,
    },
    /// TCP to the guest.
    TcpDownload {
        /// Connections at once.
        streams: u16,
    },
    /// Datagrams from the guest.
    UdpUpload,
    /// Datagrams to the guest.
    UdpDownload,
    /// One byte there and back on a connection.
    TcpLatency,
    /// A datagram there and back.
    UdpLatency,
    /// Connect, one byte there and back, close.
    Connections,
}

/// What the client asks of the server, on a connection of its own each time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Request {
    /// [`Plan::secret`].
    pub(super) secret: u64,
    /// Number of the stream or of the phase's datagrams; each is used once.
    pub(super) number: u64,
    /// Length of the phase in milliseconds.
    pub(super) millis: u64,
    /// What is asked.
    pub(super) op: Op,
}

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Op {
    /// The client sends a stream; the server answers with [`Verdict`].
    TcpUpload,
    /// The server sends a stream.
    TcpDownload,
    /// The server returns every byte.
    TcpEcho,
    /// The client sends datagrams; the server answers [`Ready`] and then [`Arrived`].
    UdpUpload,
    /// The server sends datagrams of this many bytes, this many a second at most
    /// (0: as fast as it can), to whoever sends it one of the phase; it answers
    /// [`Ready`] and then [`Sent`].
    UdpDownload {
        /// Payload in bytes.
        datagram: usize,
        /// Datagrams per second.
        rate: f64,
    },
    /// The server returns every datagram of the phase; it answers [`Ready`].
    UdpEcho,
}

/// The server listens to datagrams of the phase.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ready {}

/// What the server received of a TCP upload.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// Bytes.
    pub(super) bytes: u64,
    /// From the request to the end.
    pub(super) seconds: f64,
    /// What was wrong with them.
    pub(super) mismatch: Option<String>,
}

/// How many datagrams were sent.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Sent {
    /// How many.
    pub(super) datagrams: u64,
}

/// Datagrams as they arrived.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Arrived {
    /// Different ones, as they were sent.
    pub(super) good: u64,
    /// More copies of them.
    pub(super) duplicates: u64,
    /// With other bytes than were sent.
    pub(super) corrupt: u64,
    /// From the first to the last.
    pub(super) seconds: f64,
}

/// What the client tells its parent on standard output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub(super) enum Event {
    /// A phase begins.
    Begin {
        /// Which.
        phase: Phase,
    },
    /// A phase is over.
    Done(Outcome),
    /// All phases are over.
    End,
}

/// A phase and what came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// Which.
    pub(super) phase: Phase,
    /// The measurement, or why there is none.
    pub(super) result: Result<Measured, String>,
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "unit")]
pub(super) enum Measured {
    /// Of a TCP stream or several.
    Throughput {
        /// Payload that arrived as it was sent.
        bytes: u64,
        /// In this time.
        seconds: f64,
    },
    /// Of datagrams.
    Datagrams {
        /// As fast as they could be sent.
        flood: Arrived,
        /// How many were sent then.
        sent: u64,
        /// Payload of each, in bytes.
        payload: usize,
        /// Sent at half the rate that arrived, how many.
        paced_sent: u64,
        /// How these arrived.
        paced: Arrived,
    },
    /// Of round trips.
    Latency {
        /// How many.
        count: u64,
        /// How many got no answer.
        lost: u64,
        /// Median, in microseconds.
        p50_us: f64,
        /// 99th percentile, in microseconds.
        p99_us: f64,
    },
    /// Of connections.
    Rate {
        /// How many.
        count: u64,
        /// In this time.
        seconds: f64,
    },
}

/// Writes a message as a line.
///
/// # Errors
/// When writing fails.
pub(super) fn write_line(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    to.write_all(&line)
}

/// Reads a message, of at most [`MAX_LINE`] bytes.
///
/// # Errors
/// When reading fails, the stream ends, or the line is no such message.
pub(super) fn read_line<T: DeserializeOwned>(from: &mut impl BufRead) -> io::Result<T> {
    let mut line = Vec::new();
    from.take(MAX_LINE as u64).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_slice(&line)?)
}

/// Reads a message byte by byte, for a stream on which raw bytes follow.
///
/// # Errors
/// As [`read_line`].
pub(super) fn read_line_exactly<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut line = Vec::new();
    let mut byte = [0; 1];
    while line.len() < MAX_LINE {
        from.read_exact(&mut byte)?;
        if byte[0] == b'\n' {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.push(byte[0]);
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn messages_survive_the_way() {
        let request = Request {
            secret: u64::MAX,
            number: 1,
            millis: 3000,
            op: Op::UdpDownload {
                datagram: 1400,
                rate: 0.0,
            },
        };
        let mut line = Vec::new();
        write_line(&mut line, &request).expect("write");
        line.extend_from_slice(b"raw bytes");
        let mut rest = &line[..];
        let read: Request = read_line_exactly(&mut rest).expect("read");
        assert_eq!((read.secret, read.op), (request.secret, request.op));
        assert_eq!(rest, b"raw bytes");

        let event = Event::Done(Outcome {
            phase: Phase::TcpUpload { streams: 4 },
            result: Ok(Measured::Rate {
                count: 1,
                seconds: 0.5,
            }),
        });
        let mut line = Vec::new();
        write_line(&mut line, &event).expect("write");
        let Event::Done(read) = read_line(&mut &line[..]).expect("read") else {
            panic!("another event")
        };
        assert_eq!(read.phase, Phase::TcpUpload { streams: 4 });
        assert_eq!(
            read.result,
            Ok(Measured::Rate {
                count: 1,
                seconds: 0.5
            })
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..6000)) {
            let _ = read_line_exactly::<Request>(&mut &bytes[..]);
            let _ = read_line::<Event>(&mut &bytes[..]);
        }
    }
}
