//! Sending and receiving the datagrams of a phase; the same on both sides.

use std::io;
use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use super::pattern::{Datagram, HEADER, Pattern};
use super::proto::Arrived;

/// Silence after which a phase's datagrams have all arrived or are lost.
pub(super) const QUIET: Duration = Duration::from_millis(300);

/// How long a receiver blocks before it looks at the time.
pub(super) const POLL: Duration = Duration::from_millis(50);

/// Longest datagram, in bytes, that is sent or received.
pub(super) const MAX_DATAGRAM: usize = 2048;

/// Datagrams of a phase of which duplicates are noticed: 16 Mi, 2 MiB of bits.
/// Later ones are counted as good without that check.
const MAX_TRACKED: u64 = 1 << 24;

/// Pause of a sender that is ahead of its rate.
const PACE: Duration = Duration::from_micros(200);

/// Datagrams that a sender with a rate sends at once at most. A receive buffer of
/// the usual 208 KiB holds about 90 of 1400 bytes.
const MAX_BURST: f64 = 48.0;

/// A phase's datagrams.
#[derive(Debug, Clone, Copy)]
pub(super) struct Train {
    /// The phase's number.
    pub(super) phase: u64,
    /// Payload in bytes, [`HEADER`] to [`MAX_DATAGRAM`].
    pub(super) length: usize,
    /// Datagrams per second; 0: as fast as possible.
    pub(super) rate: f64,
    /// How long to send.
    pub(super) during: Duration,
}

impl Train {
    /// Sends the datagrams by `send`; returns how many were accepted.
    pub(super) fn send(&self, pattern: &Pattern, send: impl Fn(&[u8]) -> io::Result<usize>) -> u64 {
        let mut buffer = [0; MAX_DATAGRAM];
        let datagram = &mut buffer[..self.length.clamp(HEADER, MAX_DATAGRAM)];
        let start = Instant::now();
        let mut pace = Pace::new(self.rate);
        let mut number = 0;
        while start.elapsed() < self.during {
            if !pace.allows(start.elapsed()) {
                thread::sleep(PACE);
                continue;
            }
            pattern.fill_datagram(self.phase, number, datagram);
            // Refused or no room: not sent, so not lost on the way.
            if send(datagram).is_ok() {
                number += 1;
            }
        }
        number
    }
}

/// A token bucket: a sender that was held up does not make up for it by a burst,
/// which would be lost in somebody's receive buffer and tell nothing.
#[derive(Debug)]
struct Pace {
    /// Datagrams per second; 0: no limit.
    rate: f64,
    /// Datagrams that may be sent now.
    tokens: f64,
    /// When they were counted, from the start.
    counted: Duration,
}

impl Pace {
    fn new(rate: f64) -> Self {
        Self {
            rate,
            tokens: 0.0,
            counted: Duration::ZERO,
        }
    }

    /// Whether a datagram may be sent `now`, measured from the start; it is then
    /// taken for sent.
    fn allows(&mut self, now: Duration) -> bool {
        if self.rate <= 0.0 {
            return true;
        }
        let earned = now.saturating_sub(self.counted).as_secs_f64() * self.rate;
        self.tokens = (self.tokens + earned).min(MAX_BURST);
        self.counted = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

/// Receives the datagrams of `phase` until `during` has passed and then nothing
/// comes any more.
///
/// # Errors
/// When the socket fails for good.
pub(super) fn receive(
    socket: &UdpSocket,
    pattern: &Pattern,
    phase: u64,
    during: Duration,
) -> io::Result<Arrived> {
    socket.set_read_timeout(Some(POLL))?;
    let mut tally = Tally::default();
    let mut buffer = [0; MAX_DATAGRAM];
    let start = Instant::now();
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => tally.add(pattern.check_datagram(phase, &buffer[..length])),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(error),
        }
        let quiet_since = tally.last.unwrap_or(start);
        if start.elapsed() > during && quiet_since.elapsed() > QUIET {
            return Ok(tally.arrived());
        }
    }
}

/// True for an error after which the next receive may work: a timeout, or the
/// answer to an earlier datagram.
pub(super) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(
        error.kind(),
        ConnectionRefused | Interrupted | TimedOut | WouldBlock
    )
}

/// Datagrams as they come.
#[derive(Debug, Default)]
struct Tally {
    arrived: Arrived,
    /// A bit per number.
    seen: Vec<u64>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Tally {
    fn add(&mut self, datagram: Datagram) {
        match datagram {
            Datagram::Good(number) if self.is_new(number) => self.arrived.good += 1,
            Datagram::Good(_) => self.arrived.duplicates += 1,
            Datagram::Corrupt => self.arrived.corrupt += 1,
            Datagram::Foreign => return,
        }
        let now = Instant::now();
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    /// Marks a number; false when it was marked already.
    fn is_new(&mut self, number: u64) -> bool {
        if number >= MAX_TRACKED {
            return true;
        }
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        if self.seen.len() <= word {
            self.seen.resize(word + 1, 0);
        }
        let is_new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        is_new
    }

    fn arrived(&self) -> Arrived {
        let seconds = self.first.zip(self.last).map_or(0.0, |(first, last)| {
            last.duration_since(first).as_secs_f64()
        });
        Arrived {
            seconds,
            ..self.arrived
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_and_corrupt_ones_are_counted_apart() {
        let mut tally = Tally::default();
        for datagram in [
            Datagram::Good(0),
            Datagram::Good(500),
            Datagram::Good(0),
            Datagram::Corrupt,
            Datagram::Foreign,
            Datagram::Good(MAX_TRACKED),
            Datagram::Good(u64::MAX),
        ] {
            tally.add(datagram);
        }
        let Arrived {
            good,
            duplicates,
            corrupt,
            ..
        } = tally.arrived();
        assert_eq!((good, duplicates, corrupt), (4, 1, 1));
    }

    #[test]
    fn a_paced_sender_keeps_its_rate() {
        let train = Train {
            phase: 1,
            length: 100,
            rate: 1000.0,
            during: Duration::from_millis(200),
        };
        let sent = train.send(&Pattern::new(1), |datagram| Ok(datagram.len()));
        assert!((50..=201).contains(&sent), "{sent}");
    }

    #[test]
    fn a_sender_that_was_held_up_does_not_burst() {
        let mut pace = Pace::new(10_000.0);
        let allowed = |pace: &mut Pace, now| (0..1000).filter(|_| pace.allows(now)).count();
        assert_eq!(allowed(&mut pace, Duration::ZERO), 0);
        assert_eq!(allowed(&mut pace, Duration::from_millis(1)), 10);
        assert_eq!(allowed(&mut pace, Duration::from_secs(1)), 48);
        // 0 stands for no limit.
        assert_eq!(allowed(&mut Pace::new(0.0), Duration::ZERO), 1000);
    }

    #[test]
    fn what_is_sent_is_what_arrives() {
        let receiver = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let sender = UdpSocket::bind("127.0.0.1:0").expect("bind");
        sender
            .connect(receiver.local_addr().expect("address"))
            .expect("connect");
        let during = Duration::from_millis(100);
        let train = Train {
            phase: 9,
            length: 1400,
            rate: 500.0,
            during,
        };
        let pattern = Pattern::new(4);
        let (sent, arrived) = thread::scope(|scope| {
            let sent = scope.spawn(|| train.send(&pattern, |datagram| sender.send(datagram)));
            let arrived = receive(&receiver, &pattern, 9, during).expect("receive");
            (sent.join().expect("sender"), arrived)
        });
        assert_eq!(
            (arrived.good, arrived.duplicates, arrived.corrupt),
            (sent, 0, 0)
        );
    }
}
