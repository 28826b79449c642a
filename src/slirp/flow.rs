//! What identifies a flow, and the tokens by which the reactor names one.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// The two ends of a flow, as the guest sees them. Compact, for hashing: IPv4
/// addresses are held in mapped form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    guest: [u8; 16],
    remote: [u8; 16],
    ports: u32,
}

fn bytes(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

fn addr(bytes: [u8; 16]) -> IpAddr {
    IpAddr::from(bytes).to_canonical()
}

impl FlowKey {
    pub(crate) fn new(guest: SocketAddr, remote: SocketAddr) -> Self {
        let ports = u32::from(guest.port()) << 16 | u32::from(remote.port());
        Self {
            guest: bytes(guest.ip()),
            remote: bytes(remote.ip()),
            ports,
        }
    }

    /// The guest's end.
    pub(crate) fn guest(&self) -> SocketAddr {
        SocketAddr::new(addr(self.guest), (self.ports >> 16) as u16)
    }

    /// The other end, as the guest named it.
    pub(crate) fn remote(&self) -> SocketAddr {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half of 32 bits")]
        SocketAddr::new(addr(self.remote), self.ports as u16)
    }
}

/// The table that a token points into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Table {
    /// The link, or another descriptor of the driver's own.
    Driver,
    Tcp,
    Udp,
    Echo,
    Listener,
    /// A client of a UDP listener; it has no socket of its own.
    Client,
}

/// Names a flow, and says no when the flow has gone and its place is taken by
/// another: an event that was already collected must not reach the newcomer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token(u64);

impl Token {
    pub(crate) fn new(table: Table, index: usize, generation: u16) -> Self {
        let index = u64::from(u32::try_from(index).expect("tables are bounded far below 2^32"));
        Self((table as u64) << 48 | u64::from(generation) << 32 | index)
    }

    pub(crate) const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub(crate) const fn raw(self) -> u64 {
        self.0
    }

    pub(crate) fn table(self) -> Table {
        match self.0 >> 48 {
            1 => Table::Tcp,
            2 => Table::Udp,
            3 => Table::Echo,
            4 => Table::Listener,
            5 => Table::Client,
            _ => Table::Driver,
        }
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of the token")]
    pub(crate) fn index(self) -> usize {
        self.0 as u32 as usize
    }

    #[expect(clippy::cast_possible_truncation, reason = "fields of the token")]
    pub(crate) fn generation(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// What ends by itself when nothing has moved for long enough.
pub(crate) trait Idle {
    /// When something last moved.
    fn active(&self) -> Instant;

    /// How long it may rest.
    fn limit(&self) -> Duration;
}

/// Least time between two looks for idle flows: those that run out one shortly
/// after the other do not make a look each.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A table of flows with stable places. Bounded: [`Slots::insert_with`] refuses.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    table: Table,
    limit: usize,
    slots: Vec<(u16, Option<T>)>,
    free: Vec<usize>,
    /// When to look for idle flows; none is idle before.
    next_look: Option<Instant>,
}

impl<T> Slots<T> {
    pub(crate) fn new(table: Table, limit: usize) -> Self {
        Self {
            table,
            limit,
            slots: Vec::new(),
            free: Vec::new(),
            next_look: None,
        }
    }

    /// Flows in the table.
    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Changes how many may be in the table; those that are stay.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.limit
    }

    /// Puts in what `make` builds for its token; `None` when full or when
    /// `make` declines.
    pub(crate) fn insert_with(&mut self, make: impl FnOnce(Token) -> Option<T>) -> Option<Token> {
        if self.is_full() {
            return None;
        }
        let index = self.free.last().copied().unwrap_or(self.slots.len());
        let generation = self.slots.get(index).map_or(0, |slot| slot.0);
        let token = Token::new(self.table, index, generation);
        let value = make(token)?;
        if self.free.pop().is_some() {
            self.slots[index].1 = Some(value);
        } else {
            self.slots.push((generation, Some(value)));
        }
        Some(token)
    }

    pub(crate) fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let (generation, value) = self.slots.get_mut(token.index())?;
        if *generation == token.generation() {
            value.as_mut()
        } else {
            None
        }
    }

    pub(crate) fn remove(&mut self, token: Token) -> Option<T> {
        let (generation, value) = self.slots.get_mut(token.index())?;
        if *generation != token.generation() {
            return None;
        }
        let value = value.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(token.index());
        Some(value)
    }

    /// As [`Slots::iter`], to be changed.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut T)> {
        let table = self.table;
        self.slots
            .iter_mut()
            .enumerate()
            .filter_map(move |(index, (generation, value))| {
                Some((Token::new(table, index, *generation), value.as_mut()?))
            })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Token, &T)> {
        self.iter_from(0)
    }

    /// As [`Slots::iter`], from the place `first` on.
    pub(crate) fn iter_from(&self, first: usize) -> impl Iterator<Item = (Token, &T)> {
        self.slots
            .iter()
            .enumerate()
            .skip(first)
            .filter_map(|(index, (generation, value))| {
                Some((Token::new(self.table, index, *generation), value.as_ref()?))
            })
    }
}

impl<T: Idle> Slots<T> {
    /// The `count` flows that have rested longest: those to make room.
    pub(crate) fn longest_idle(&self, count: usize) -> Vec<Token> {
        let mut flows: Vec<(Instant, Token)> = self
            .iter()
            .map(|(token, flow)| (flow.active(), token))
            .collect();
        if count < flows.len() {
            flows.select_nth_unstable(count);
            flows.truncate(count);
        }
        flows.into_iter().map(|(_, token)| token).collect()
    }

    /// Some flow may be idle at `at`.
    pub(crate) fn look_by(&mut self, at: Instant) {
        self.next_look = Some(self.next_look.map_or(at, |next| next.min(at)));
    }

    /// When [`Slots::idle`] may find something.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.next_look
    }

    /// The flows whose time has run out; the caller removes them.
    pub(crate) fn idle(&mut self, now: Instant) -> Vec<Token> {
        let mut idle = Vec::new();
        if self.next_look.is_none_or(|at| at > now) {
            return idle;
        }
        let mut next: Option<Instant> = None;
        for (token, flow) in self.iter() {
            let end = flow.active() + flow.limit();
            if end <= now {
                idle.push(token);
            } else {
                next = Some(next.map_or(end, |next| next.min(end)));
            }
        }
        self.next_look = next.map(|at| at.max(now + LOOK_INTERVAL));
        idle
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_keep_both_ends(a: std::net::Ipv4Addr, b: std::net::Ipv4Addr, p: u16, q: u16) {
            let (guest, remote) = (SocketAddr::new(a.into(), p), SocketAddr::new(b.into(), q));
            let key = FlowKey::new(guest, remote);
            prop_assert_eq!((key.guest(), key.remote()), (guest, remote));
        }
    }

    impl Idle for (Instant, Duration) {
        fn active(&self) -> Instant {
            self.0
        }

        fn limit(&self) -> Duration {
            self.1
        }
    }

    #[test]
    fn what_rests_too_long_is_found_once_its_time_has_come() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut slots = Slots::new(Table::Udp, 4);
        let short = slots.insert_with(|_| Some((start + second, 9 * second)));
        let long = slots.insert_with(|_| Some((start, 20 * second)));
        slots.look_by(start + 10 * second);
        slots.look_by(start + 30 * second);
        assert_eq!(slots.longest_idle(1), [long.expect("room")]);
        assert_eq!(slots.longest_idle(9).len(), 2);
        assert_eq!(slots.idle(start + 9 * second), []);
        assert_eq!(slots.next_look(), Some(start + 10 * second));
        assert_eq!(slots.idle(start + 10 * second), [short.expect("room")]);
        slots.remove(short.expect("room"));
        assert_eq!(slots.next_look(), Some(start + 20 * second));
        assert_eq!(slots.idle(start + 20 * second), [long.expect("room")]);
        assert_eq!(slots.next_look(), None);
    }

    #[test]
    fn a_token_of_the_past_names_nothing() {
        let mut slots = Slots::new(Table::Udp, 2);
        let first = slots.insert_with(|_| Some('a')).expect("room");
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert_with(|_| Some('b')).expect("room");
        assert_eq!(second.index(), first.index());
        assert_eq!(slots.get_mut(first), None);
        assert_eq!(slots.remove(first), None);
        assert_eq!(slots.get_mut(second), Some(&mut 'b'));
        slots.insert_with(|_| Some('c')).expect("room");
        assert!(slots.insert_with(|_| Some('d')).is_none(), "bounded");
        assert_eq!(second.table(), Table::Udp);
    }
}
