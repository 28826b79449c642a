//! TIME-WAIT (RFC 9293 section 3.6.1), kept outside lwIP.
//!
//! When both directions have closed and our FIN was the first, the guest may
//! still repeat its own: it must be acknowledged, not reset. All that takes is
//! two sequence numbers.
//!
//! A SYN begins a new connection whatever its number. The rule to let only
//! numbers beyond the old connection's through (RFC 6191) would shut out a guest
//! that has just uploaded a gigabyte: that moves the numbers further than the
//! clock behind the initial ones, and its next connection from the port would
//! wait for a minute. What the rule protects from, a SYN of the old connection
//! that was held up on the way, gets a SYN-ACK here, which the guest resets.

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::super::flow::FlowKey;
use super::super::lwip::TimeWait;
use super::super::packet::{TcpHeader, tcp_flags};

/// How long a connection is remembered, the 2 MSL that Linux uses.
const LIFETIME: Duration = Duration::from_secs(60);

/// Connections remembered; the oldest makes room.
const MAX: usize = 8192;

/// What to do with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not of a connection that is remembered.
    Unknown,
    /// A new connection may begin.
    Open,
    /// Acknowledge again.
    Acknowledge(TimeWait),
    /// Nothing.
    Ignore,
}

/// The connections in TIME-WAIT.
#[derive(Debug, Default)]
pub(super) struct TimeWaits {
    connections: HashMap<FlowKey, (Instant, TimeWait)>,
    order: VecDeque<(Instant, FlowKey)>,
}

impl TimeWaits {
    pub(super) fn insert(&mut self, key: FlowKey, state: TimeWait, now: Instant) {
        self.expire(now);
        while self.order.len() >= MAX {
            self.remove_oldest();
        }
        self.connections.insert(key, (now, state));
        self.order.push_back((now, key));
    }

    pub(super) fn answer(&mut self, key: &FlowKey, segment: &TcpHeader, now: Instant) -> Answer {
        if self.connections.is_empty() {
            return Answer::Unknown;
        }
        self.expire(now);
        let Some(&(_, state)) = self.connections.get(key) else {
            return Answer::Unknown;
        };
        let answer = answer(state, segment);
        if answer == Answer::Open {
            self.connections.remove(key);
        }
        answer
    }

    /// True for a connection that is remembered.
    pub(super) fn holds(&self, key: &FlowKey, now: Instant) -> bool {
        let since = self.connections.get(key).map(|(since, _)| *since);
        since.is_some_and(|since| now.duration_since(since) < LIFETIME)
    }

    fn expire(&mut self, now: Instant) {
        while self
            .order
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) >= LIFETIME)
        {
            self.remove_oldest();
        }
    }

    /// The queue may hold a key twice, or one that was taken out since: only an
    /// entry of the same age is removed with it.
    fn remove_oldest(&mut self) {
        if let Some((since, key)) = self.order.pop_front()
            && self
                .connections
                .get(&key)
                .is_some_and(|(at, _)| *at == since)
        {
            self.connections.remove(&key);
        }
    }
}

/// What a segment to a connection in TIME-WAIT calls for.
pub(super) fn answer(state: TimeWait, segment: &TcpHeader) -> Answer {
    if segment.has(tcp_flags::RST) {
        return Answer::Ignore; // RFC 1337
    }
    if segment.is_open() {
        return Answer::Open;
    }
    if segment.has(tcp_flags::FIN) || segment.payload > 0 {
        return Answer::Acknowledge(state);
    }
    Answer::Ignore
}

/// A bare acknowledgement from `remote` to `guest`, as an IP packet.
pub(super) fn acknowledgement(guest: SocketAddr, remote: SocketAddr, state: TimeWait) -> Vec<u8> {
    use etherparse::PacketBuilder;
    const HOP_LIMIT: u8 = 64;
    let mut packet = Vec::with_capacity(60);
    let step = match (remote.ip(), guest.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            PacketBuilder::ipv4(from.octets(), to.octets(), HOP_LIMIT)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            PacketBuilder::ipv6(from.octets(), to.octets(), HOP_LIMIT)
        }
        _ => return packet, // both come from one packet
    };
    let built = step
        .tcp(remote.port(), guest.port(), state.snd_nxt, 0xffff)
        .ack(state.rcv_nxt)
        .write(&mut packet, &[]);
    if built.is_err() {
        packet.clear();
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(port: u16) -> FlowKey {
        let guest = format!("10.0.2.100:{port}").parse().expect("address");
        FlowKey::new(guest, "192.0.2.1:80".parse().expect("address"))
    }

    fn segment(flags: u8, sequence: u32) -> TcpHeader {
        TcpHeader {
            source: 1,
            destination: 80,
            sequence,
            flags,
            payload: 0,
        }
    }

    #[test]
    fn answers_by_table() {
        use tcp_flags::{ACK, FIN, RST, SYN};
        let now = Instant::now();
        let state = TimeWait {
            snd_nxt: 500,
            rcv_nxt: 1000,
        };
        for (flags, sequence, answer) in [
            (FIN | ACK, 999, Answer::Acknowledge(state)),
            (ACK, 1000, Answer::Ignore),
            (RST, 1000, Answer::Ignore),
            (SYN, 999, Answer::Open),
            (SYN, 1000, Answer::Open),
            (SYN, 5000, Answer::Open),
        ] {
            let mut table = TimeWaits::default();
            table.insert(key(1), state, now);
            assert_eq!(
                table.answer(&key(1), &segment(flags, sequence), now),
                answer
            );
            assert_eq!(
                table.answer(&key(2), &segment(flags, sequence), now),
                Answer::Unknown
            );
        }
    }

    #[test]
    fn is_bounded_in_time_and_number() {
        let now = Instant::now();
        let state = TimeWait {
            snd_nxt: 1,
            rcv_nxt: 1,
        };
        let mut table = TimeWaits::default();
        for port in 0..=u16::try_from(MAX).expect("fits") {
            table.insert(key(port), state, now);
        }
        assert_eq!(table.connections.len(), MAX);
        assert_eq!(
            table.answer(&key(0), &segment(1, 0), now),
            Answer::Unknown,
            "the oldest went"
        );
        let later = now + LIFETIME;
        assert_eq!(
            table.answer(&key(1), &segment(1, 0), later),
            Answer::Unknown
        );
        assert!(table.connections.is_empty() && table.order.is_empty());
    }
}
