//! A train of datagrams: each says its number and when it was sent, and is
//! otherwise known by heart, so that damage is seen.

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::lab::{ADDRESS, End, join};
use crate::error::{Context, Error, Result};
use crate::impairment::Direction;
use crate::model::{Arrivals, Load, Order};

const PORT: u16 = 5000;

/// Number and time at the start of each datagram.
const HEAD: usize = 16;

/// What Ethernet, IPv4 and UDP add to a payload.
const HEADERS: f64 = 42.0;

/// How long the last ones may take: longer than any delay or queue here.
const QUIET: Duration = Duration::from_secs(4);

/// One datagram that arrived.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    number: u32,
    /// Nanoseconds since the clock's start.
    sent: u64,
    received: u64,
    whole: bool,
}

/// A train as it is sent.
#[derive(Debug, Clone, Copy)]
struct Train {
    count: u32,
    interval: Duration,
    payload: usize,
}

/// Sends a train and says what arrived.
///
/// # Errors
/// When a socket fails, or nothing arrives.
pub(crate) fn measure(order: &Order) -> Result<Arrivals> {
    let Load::Train {
        direction,
        count,
        interval,
        payload,
    } = order.load
    else {
        return Err(Error("this load is no train".into()));
    };
    let train = Train {
        count,
        interval: Duration::from_micros(interval.into()),
        payload: usize::from(payload).max(HEAD),
    };
    let clock = Instant::now();
    let server = join(End::Server.run(|| {
        UdpSocket::bind((ADDRESS, PORT)).context(|| "binding the server's socket".into())
    }))?;
    let client = join(End::Client.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").context(|| "binding a socket".into())?;
        socket
            .connect((ADDRESS, PORT))
            .context(|| "connecting a socket".into())?;
        Ok(socket)
    }))?;
    // Sockets stay in the namespace in which they were made.
    let (sender, receiver) = match direction {
        Direction::Up => (client, server),
        Direction::Down => {
            introduce(&client, &server)?;
            (server, client)
        }
    };
    let over = Arc::new(AtomicBool::new(false));
    let receiving = {
        let over = Arc::clone(&over);
        std::thread::spawn(move || receive(&receiver, train, clock, &over))
    };
    send(&sender, train, clock)?;
    over.store(true, Ordering::Release);
    let arrivals = join(receiving)?;
    summary(order, train, &arrivals)
}

/// Has the client send first: only then a gateway knows where answers belong.
fn introduce(client: &UdpSocket, server: &UdpSocket) -> Result<()> {
    client.send(b"hello").context(|| "sending".into())?;
    let patience = Some(QUIET);
    server
        .set_read_timeout(patience)
        .context(|| "setting a timeout".into())?;
    let (_, from) = server
        .recv_from(&mut [0; 64])
        .context(|| "waiting for the client's first datagram".into())?;
    server.connect(from).context(|| "connecting".into())
}

fn nanoseconds(clock: Instant) -> u64 {
    u64::try_from(clock.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// The byte at `index` of what is behind each datagram's head.
fn pattern(number: u32, index: usize) -> u8 {
    number.to_le_bytes()[index % 4] ^ index.to_le_bytes()[0]
}

fn send(socket: &UdpSocket, train: Train, clock: Instant) -> Result<()> {
    let mut buffer = vec![0; train.payload];
    let start = Instant::now();
    for number in 0..train.count {
        let due = start + train.interval * number;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        for (index, byte) in buffer.iter_mut().enumerate().skip(HEAD) {
            *byte = pattern(number, index);
        }
        buffer[..4].copy_from_slice(&number.to_le_bytes());
        buffer[4..8].copy_from_slice(&(!number).to_le_bytes());
        buffer[8..HEAD].copy_from_slice(&nanoseconds(clock).to_le_bytes());
        // A full queue is a loss like any other.
        let _ = socket.send(&buffer);
    }
    Ok(())
}

fn receive(
    socket: &UdpSocket,
    train: Train,
    clock: Instant,
    over: &AtomicBool,
) -> Result<Vec<Arrival>> {
    socket
        .set_read_timeout(Some(QUIET))
        .context(|| "setting a timeout".into())?;
    let mut arrivals = Vec::with_capacity(usize::try_from(train.count).unwrap_or(0));
    let mut buffer = vec![0; 65536];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) => {
                let received = nanoseconds(clock);
                arrivals.push(parse(&buffer[..length], train, received));
            }
            Err(_) if over.load(Ordering::Acquire) => return Ok(arrivals),
            Err(_) => {}
        }
    }
}

/// What a datagram says; not whole, if a bit of it is not as it was sent.
fn parse(datagram: &[u8], train: Train, received: u64) -> Arrival {
    let word = |at: usize| {
        let bytes = datagram.get(at..at + 4).and_then(|b| b.try_into().ok());
        u32::from_le_bytes(bytes.unwrap_or_default())
    };
    let number = word(0);
    let sent = u64::from(word(8)) | u64::from(word(12)) << 32;
    let rest = datagram.iter().enumerate().skip(HEAD);
    let whole = datagram.len() == train.payload
        && word(4) == !number
        && number < train.count
        && sent <= received
        && rest
            .into_iter()
            .all(|(i, &byte)| byte == pattern(number, i));
    Arrival {
        number,
        sent,
        received,
        whole,
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "nanoseconds of a few minutes, and small counts"
)]
fn summary(order: &Order, train: Train, arrivals: &[Arrival]) -> Result<Arrivals> {
    let early_below = order.impairment.delay
        * if order.impairment.reorder > 0.0 {
            0.5
        } else {
            0.0
        };
    let mut copies = vec![0_u8; usize::try_from(train.count).unwrap_or(0)];
    let mut fates = copies.clone();
    let mut outcome = Arrivals {
        sent: train.count,
        ..Arrivals::default()
    };
    let mut delays = Vec::with_capacity(arrivals.len());
    for arrival in arrivals {
        let at = usize::try_from(arrival.number).unwrap_or(usize::MAX);
        let Some(seen) = copies.get_mut(at).filter(|_| arrival.whole) else {
            outcome.damaged += 1;
            continue;
        };
        *seen = seen.saturating_add(1);
        fates[at] = fates[at].saturating_add(1);
        if *seen > 1 {
            outcome.copies += 1;
            continue;
        }
        outcome.arrived += 1;
        let delay = (arrival.received - arrival.sent) as f64 / 1e6;
        if delay < early_below {
            outcome.early += 1;
            fates[at] |= 0x80;
        } else {
            delays.push(delay);
        }
    }
    let mut before = 1;
    for &seen in &copies {
        outcome.bursts += u32::from(seen == 0 && before > 0);
        before = seen;
    }
    let (Some(first), Some(last)) = (arrivals.first(), arrivals.last()) else {
        return Err(Error(format!("none of {} datagrams arrived", train.count)));
    };
    let frame = train.payload as f64 + HEADERS;
    let span = (last.received - first.received).max(1) as f64 / 1e6;
    outcome.rate = (arrivals.len() - 1) as f64 * frame * 8.0 / span;
    outcome.fate = format!("{:016x}", digest(&fates));
    delays.sort_by(f64::total_cmp);
    let n = delays.len().max(1) as f64;
    outcome.mean = delays.iter().sum::<f64>() / n;
    let squares = delays.iter().map(|delay| (delay - outcome.mean).powi(2));
    outcome.deviation = (squares.sum::<f64>() / n).sqrt();
    outcome.quantiles = (0..=100)
        .filter_map(|hundredth| {
            let index = (delays.len().checked_sub(1)?) * hundredth / 100;
            delays.get(index).map(|delay| (delay * 1e4).round() / 1e4)
        })
        .collect();
    Ok(outcome)
}

/// FNV-1a: equal for equal fates, and only by chance otherwise.
fn digest(fates: &[u8]) -> u64 {
    fates.iter().fold(0xcbf2_9ce4_8422_2325, |hash, &fate| {
        (hash ^ u64::from(fate)).wrapping_mul(0x0100_0000_01b3)
    })
}
