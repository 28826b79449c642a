//! The client: in a namespace of its own, behind the gateway. Runs phase after
//! phase and tells its parent what it finds.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use super::datagrams::{self, MAX_DATAGRAM, POLL, QUIET, Train};
use super::pattern::{Datagram, Pattern, send};
use super::proto::{
    Arrived, Event, Measured, ONCE, Op, Outcome, Phase, Plan, Ready, Request, Sent, Verdict,
    read_line_exactly, write_line,
};
use super::server::{STALL, UDP_BUFFER, read_stream};
use super::stats::percentile;

/// Connections that the connections phase makes at most: each blocks a local port
/// for a minute, and there are 28,000 by default.
const MAX_CONNECTIONS: u64 = 20_000;

/// How long the answer to one datagram is waited for.
const ANSWER: Duration = Duration::from_millis(200);

/// Round-trip times that are kept per phase; 64 MiB.
const MAX_SAMPLES: usize = 8 << 20;

/// Datagrams per second below which pacing makes no sense.
const LEAST_RATE: f64 = 100.0;

/// Where the loss is measured, in proportion of the rate that arrives.
const PACED_SHARE: f64 = 0.5;

/// The phases in order.
pub(super) fn phases(streams: u16) -> Vec<Phase> {
    let mut phases = vec![
        Phase::TcpUpload { streams: 1 },
        Phase::TcpDownload { streams: 1 },
    ];
    if streams > 1 {
        phases.extend([Phase::TcpUpload { streams }, Phase::TcpDownload { streams }]);
    }
    phases.extend([
        Phase::UdpUpload,
        Phase::UdpDownload,
        Phase::TcpLatency,
        Phase::UdpLatency,
        Phase::Connections,
    ]);
    phases
}

/// Runs all phases; `tell` passes each event on. Stops at the first phase in which
/// nothing answers, for it would be the same in those after it.
///
/// # Errors
/// When `tell` fails. What fails in a phase is told.
pub(super) fn run(plan: &Plan, mut tell: impl FnMut(&Event) -> io::Result<()>) -> io::Result<()> {
    let mut client = Client {
        plan,
        pattern: Pattern::new(plan.secret),
        used: 0,
    };
    for phase in phases(plan.streams) {
        tell(&Event::Begin { phase })?;
        let result = client.measure(phase);
        let no_connection = matches!(result, Err(PhaseError::Connect(..)));
        let result = result.map_err(|error| error.to_string());
        tell(&Event::Done(Outcome { phase, result }))?;
        if no_connection {
            break;
        }
    }
    tell(&Event::End)
}

/// Why a phase failed.
#[derive(Debug, thiserror::Error)]
enum PhaseError {
    #[error("no connection to {0} through the gateway: {1}")]
    Connect(SocketAddr, #[source] io::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    #[error("{0}")]
    Mismatch(String),
    #[error("{sent} bytes were sent, but {received} arrived")]
    Length { sent: u64, received: u64 },
    #[error("{0} datagrams arrived with other bytes than were sent")]
    Corrupt(u64),
    #[error("a byte came back as another")]
    WrongEcho,
    #[error("not one datagram arrived")]
    NoDatagrams,
    #[error("not one answer came back")]
    NoAnswers,
    #[error("a thread of the test panicked")]
    Panicked,
}

type PhaseResult<T> = Result<T, PhaseError>;

#[derive(Debug)]
struct Client<'a> {
    plan: &'a Plan,
    pattern: Pattern,
    /// The greatest number of a stream or phase used until now.
    used: u64,
}

impl Client<'_> {
    fn measure(&mut self, phase: Phase) -> PhaseResult<Measured> {
        match phase {
            Phase::TcpUpload { streams } => self.tcp(streams, Self::tcp_upload),
            Phase::TcpDownload { streams } => self.tcp(streams, Self::tcp_download),
            Phase::UdpUpload => self.udp(Self::udp_upload),
            Phase::UdpDownload => self.udp(Self::udp_download),
            Phase::TcpLatency => self.tcp_latency(),
            Phase::UdpLatency => self.udp_latency(),
            Phase::Connections => self.connections(),
        }
    }

    fn during(&self) -> Duration {
        Duration::from_millis(self.plan.millis)
    }

    /// A number that no other stream or phase has.
    fn number(&mut self) -> u64 {
        self.used += 1;
        self.used
    }

    /// Opens a connection that may stand still for a while, but not for ever.
    fn connect(&self) -> PhaseResult<TcpStream> {
        let to = self.plan.tcp;
        let open = || {
            let stream = TcpStream::connect_timeout(&to, STALL)?;
            stream.set_read_timeout(Some(STALL))?;
            stream.set_write_timeout(Some(STALL))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        };
        open().map_err(|error| PhaseError::Connect(to, error))
    }

    /// Opens a connection and asks for something.
    fn request(&self, number: u64, op: Op, during: Duration) -> PhaseResult<TcpStream> {
        let mut stream = self.connect()?;
        let millis = u64::try_from(during.as_millis()).unwrap_or(u64::MAX);
        let request = Request {
            secret: self.plan.secret,
            number,
            millis,
            op,
        };
        write_line(&mut stream, &request)?;
        Ok(stream)
    }

    /// Runs `stream` on as many threads as asked for and adds the results up.
    fn tcp(
        &mut self,
        streams: u16,
        stream: fn(&Self, u64) -> PhaseResult<(u64, f64)>,
    ) -> PhaseResult<Measured> {
        let numbers: Vec<u64> = (0..streams).map(|_| self.number()).collect();
        let client = &*self;
        let results: Vec<PhaseResult<(u64, f64)>> = thread::scope(|scope| {
            let threads: Vec<_> = numbers
                .into_iter()
                .map(|number| scope.spawn(move || stream(client, number)))
                .collect();
            let joined = threads.into_iter().map(thread::ScopedJoinHandle::join);
            joined
                .map(|result| result.unwrap_or(Err(PhaseError::Panicked)))
                .collect()
        });
        let (mut bytes, mut seconds) = (0, 0.0_f64);
        for result in results {
            let (more, took) = result?;
            bytes += more;
            seconds = seconds.max(took);
        }
        Ok(Measured::Throughput { bytes, seconds })
    }

    fn tcp_upload(&self, number: u64) -> PhaseResult<(u64, f64)> {
        let mut stream = self.request(number, Op::TcpUpload, self.during())?;
        let start = Instant::now();
        let sent = send(&mut stream, &self.pattern, number, || {
            start.elapsed() < self.during()
        });
        // When the server finds a mismatch, it closes and sending fails; why is in
        // its verdict.
        let verdict: Result<Verdict, _> = read_line_exactly(&mut stream);
        let Verdict {
            bytes,
            seconds,
            mismatch,
        } = match (&sent, verdict) {
            (_, Ok(verdict)) => verdict,
            (Ok(_), Err(error)) => return Err(error.into()),
            (Err(_), Err(_)) => return Err(sent.map_or_else(Into::into, |_| PhaseError::Panicked)),
        };
        if let Some(mismatch) = mismatch {
            return Err(PhaseError::Mismatch(mismatch));
        }
        let sent = sent?;
        if sent != bytes {
            return Err(PhaseError::Length {
                sent,
                received: bytes,
            });
        }
        Ok((bytes, seconds))
    }

    fn tcp_download(&self, number: u64) -> PhaseResult<(u64, f64)> {
        let mut stream = self.request(number, Op::TcpDownload, self.during())?;
        let start = Instant::now();
        let received = read_stream(&mut stream, &self.pattern, number)?;
        let bytes = received.map_err(|error| PhaseError::Mismatch(error.to_string()))?;
        Ok((bytes, start.elapsed().as_secs_f64()))
    }

    /// As fast as possible, and then at a part of the rate that arrived, to see
    /// what is lost without a flood.
    fn udp(
        &mut self,
        train: fn(&Self, Train) -> PhaseResult<(u64, Arrived)>,
    ) -> PhaseResult<Measured> {
        let (length, during) = (self.plan.datagram, self.during());
        let flood = Train {
            phase: self.number(),
            length,
            rate: 0.0,
            during,
        };
        let (sent, flooded) = train(self, flood)?;
        let rate = (datagram_rate(&flooded) * PACED_SHARE).max(LEAST_RATE);
        let slow = Train {
            phase: self.number(),
            length,
            rate,
            during: during / 2,
        };
        let (paced_sent, paced) = train(self, slow)?;
        let corrupt = flooded.corrupt + paced.corrupt;
        match (corrupt, flooded.good) {
            (1.., _) => Err(PhaseError::Corrupt(corrupt)),
            (0, 0) => Err(PhaseError::NoDatagrams),
            _ => Ok(Measured::Datagrams {
                flood: flooded,
                sent,
                payload: length,
                paced_sent,
                paced,
            }),
        }
    }

    fn udp_upload(&self, train: Train) -> PhaseResult<(u64, Arrived)> {
        let udp = self.udp_socket()?;
        let mut control = self.request(train.phase, Op::UdpUpload, train.during)?;
        let Ready {} = read_line_exactly(&mut control)?;
        let sent = train.send(&self.pattern, |datagram| udp.send(datagram));
        Ok((sent, read_line_exactly(&mut control)?))
    }

    fn udp_download(&self, train: Train) -> PhaseResult<(u64, Arrived)> {
        let udp = self.udp_socket()?;
        let op = Op::UdpDownload {
            datagram: train.length,
            rate: train.rate,
        };
        let mut control = self.request(train.phase, op, train.during)?;
        let Ready {} = read_line_exactly(&mut control)?;
        self.knock(&udp, train.phase)?;
        let arrived = datagrams::receive(&udp, &self.pattern, train.phase, train.during)?;
        let Sent { datagrams } = read_line_exactly(&mut control)?;
        Ok((datagrams, arrived))
    }

    /// Sends datagrams of the phase until the first one comes back, which it leaves
    /// in the socket.
    fn knock(&self, udp: &UdpSocket, phase: u64) -> PhaseResult<()> {
        let start = Instant::now();
        let mut datagram = [0; 64];
        self.pattern.fill_datagram(phase, 0, &mut datagram);
        udp.set_read_timeout(Some(POLL))?;
        while start.elapsed() < STALL {
            // Lost on the way or refused: the next one may pass.
            let _ = udp.send(&datagram);
            if udp.peek(&mut [0; 1]).is_ok() {
                return Ok(());
            }
        }
        Err(PhaseError::NoDatagrams)
    }

    /// A UDP socket towards the server.
    fn udp_socket(&self) -> PhaseResult<UdpSocket> {
        let to = self.plan.udp;
        let open = || {
            let socket = match to {
                SocketAddr::V4(_) => UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)),
                SocketAddr::V6(_) => UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)),
            }?;
            socket2::SockRef::from(&socket).set_recv_buffer_size(UDP_BUFFER)?;
            socket.connect(to)?;
            Ok(socket)
        };
        open().map_err(|error| PhaseError::Connect(to, error))
    }

    fn tcp_latency(&mut self) -> PhaseResult<Measured> {
        let number = self.number();
        let mut stream = self.request(number, Op::TcpEcho, self.during())?;
        let mut value = 0_u8;
        latency(self.during(), || {
            value = value.wrapping_add(1);
            exchange(&mut stream, value).map(|()| true)
        })
    }

    fn udp_latency(&mut self) -> PhaseResult<Measured> {
        let phase = self.number();
        let udp = self.udp_socket()?;
        let mut control = self.request(phase, Op::UdpEcho, self.during())?;
        let Ready {} = read_line_exactly(&mut control)?;
        udp.set_read_timeout(Some(ANSWER))?;
        let mut number = 0;
        let mut datagram = [0; 32];
        let mut buffer = [0; MAX_DATAGRAM];
        let measured = latency(self.during(), || {
            number += 1;
            self.pattern.fill_datagram(phase, number, &mut datagram);
            udp.send(&datagram)?;
            loop {
                let length = match udp.recv(&mut buffer) {
                    Ok(length) => length,
                    Err(error) if datagrams::is_passing(&error) => return Ok(false),
                    Err(error) => return Err(error.into()),
                };
                match self.pattern.check_datagram(phase, &buffer[..length]) {
                    Datagram::Good(answer) if answer == number => return Ok(true),
                    // A late answer to an earlier one.
                    Datagram::Good(_) => {}
                    Datagram::Corrupt | Datagram::Foreign => return Err(PhaseError::Corrupt(1)),
                }
            }
        });
        // The server has the socket until then.
        thread::sleep(QUIET + POLL);
        measured
    }

    fn connections(&mut self) -> PhaseResult<Measured> {
        let start = Instant::now();
        let mut count = 0;
        let mut value = 0_u8;
        while start.elapsed() < self.during() && count < MAX_CONNECTIONS {
            let mut stream = self.connect()?;
            value = value.wrapping_add(1);
            stream.write_all(&[ONCE, value])?;
            let mut answer = [0; 1];
            stream.read_exact(&mut answer)?;
            if answer[0] != value {
                return Err(PhaseError::WrongEcho);
            }
            count += 1;
        }
        Ok(Measured::Rate {
            count,
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Datagrams per second that arrived.
pub(super) fn datagram_rate(arrived: &Arrived) -> f64 {
    if arrived.seconds > 0.0 {
        arrived.good as f64 / arrived.seconds
    } else {
        0.0
    }
}

/// One byte there and back.
fn exchange(stream: &mut TcpStream, value: u8) -> PhaseResult<()> {
    let mut byte = [value];
    stream.write_all(&byte)?;
    stream.read_exact(&mut byte)?;
    if byte[0] == value {
        Ok(())
    } else {
        Err(PhaseError::WrongEcho)
    }
}

/// Measures `step` again and again; `false` of it means that no answer came.
fn latency(during: Duration, mut step: impl FnMut() -> PhaseResult<bool>) -> PhaseResult<Measured> {
    let start = Instant::now();
    let mut micros = Vec::new();
    let mut lost = 0;
    while start.elapsed() < during && micros.len() < MAX_SAMPLES {
        let before = Instant::now();
        if step()? {
            micros.push(before.elapsed().as_secs_f64() * 1e6);
        } else {
            lost += 1;
        }
    }
    match (percentile(&micros, 50.0), percentile(&micros, 99.0)) {
        (Some(p50_us), Some(p99_us)) => Ok(Measured::Latency {
            count: micros.len() as u64,
            lost,
            p50_us,
            p99_us,
        }),
        _ => Err(PhaseError::NoAnswers),
    }
}
