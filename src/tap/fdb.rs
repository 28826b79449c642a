//! Which station is behind which port: the learning table of a switch.
//!
//! # Theory of operation
//!
//! As in any learning bridge (IEEE 802.1D section 7.8) a frame's source address
//! is learnt with the port it came in through, and a frame goes to the port that
//! its destination was last seen at; to all ports where that is not known. An
//! address has one owner and moves with its last frame. It is forgotten
//! [`AGEING`] after that.
//!
//! **Limits.** A port owns at most [`MAX_PER_PORT`] addresses and the table holds
//! at most [`MAX_STATIONS`]. A port that is full forgets its own longest silent
//! station, so that one guest that makes up addresses cannot push out another's;
//! when the whole table is full, a port without stations of its own to forget
//! learns none and its traffic is flooded.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::net::MacAddr;

/// Time after its last frame at which a station is forgotten (IEEE 802.1D
/// section 7.9.2).
pub const AGEING: Duration = Duration::from_secs(300);

/// Stations in the table: enough for as many machines as one process can carry;
/// an entry takes some 40 bytes.
pub const MAX_STATIONS: usize = 4096;

/// Stations behind one port: a machine with its containers.
pub const MAX_PER_PORT: usize = 256;

/// What learning an address changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learnt<P> {
    /// Nothing: it was known there.
    Known,
    /// It was not known.
    New,
    /// It was known at another port.
    Moved {
        /// Where it was before.
        from: P,
    },
    /// It is no station's address (a group's, or all zero), or there is no room.
    NotLearnt,
}

/// The table; `P` names a port.
#[derive(Debug)]
pub struct Fdb<P> {
    stations: HashMap<MacAddr, Station<P>>,
    per_port: HashMap<P, usize>,
    next_expiry: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Station<P> {
    port: P,
    seen: Instant,
}

impl<P> Default for Fdb<P> {
    fn default() -> Self {
        Self {
            stations: HashMap::new(),
            per_port: HashMap::new(),
            next_expiry: None,
        }
    }
}

impl<P: Copy + Eq + std::hash::Hash> Fdb<P> {
    /// Takes note that a frame with source address `mac` came in through `port`.
    pub fn learn(&mut self, mac: MacAddr, port: P, now: Instant) -> Learnt<P> {
        if !mac.is_unicast() {
            return Learnt::NotLearnt;
        }
        if let Some(station) = self.stations.get_mut(&mac)
            && station.port == port
        {
            station.seen = now;
            return Learnt::Known;
        }
        let is_known = self.stations.contains_key(&mac);
        let has_room = is_known || self.stations.len() < MAX_STATIONS;
        if (self.count(port) >= MAX_PER_PORT || !has_room) && !self.forget_oldest_of(port) {
            return Learnt::NotLearnt;
        }
        let before = self.stations.insert(mac, Station { port, seen: now });
        *self.per_port.entry(port).or_default() += 1;
        self.next_expiry = self.next_expiry.or(Some(now + AGEING));
        match before {
            Some(Station { port: from, .. }) => {
                self.release(from);
                Learnt::Moved { from }
            }
            None => Learnt::New,
        }
    }

    /// The port behind which `mac` is; `None`: not known, or not any more.
    #[must_use]
    pub fn find(&self, mac: MacAddr, now: Instant) -> Option<P> {
        let station = self.stations.get(&mac)?;
        (now.saturating_duration_since(station.seen) < AGEING).then_some(station.port)
    }

    /// Forgets all stations of a port that is gone.
    pub fn forget_port(&mut self, port: P) {
        if self.per_port.remove(&port).is_some() {
            self.stations.retain(|_, station| station.port != port);
        }
    }

    /// Forgets the stations that have been silent for long. To be called now
    /// and then; does nothing before the time.
    pub fn expire(&mut self, now: Instant) {
        if self.next_expiry.is_none_or(|at| at > now) {
            return;
        }
        let Self {
            stations, per_port, ..
        } = self;
        stations.retain(|_, station| {
            let stays = now.saturating_duration_since(station.seen) < AGEING;
            if !stays {
                release(per_port, station.port);
            }
            stays
        });
        self.next_expiry = self
            .stations
            .values()
            .map(|station| station.seen + AGEING)
            .min();
    }

    /// The stations: address, port and when last seen.
    pub fn iter(&self) -> impl Iterator<Item = (MacAddr, P, Instant)> + '_ {
        self.stations
            .iter()
            .map(|(mac, station)| (*mac, station.port, station.seen))
    }

    /// Stations behind `port`.
    #[must_use]
    pub fn count(&self, port: P) -> usize {
        self.per_port.get(&port).copied().unwrap_or(0)
    }

    /// Stations in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stations.len()
    }

    /// True when nobody was heard yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stations.is_empty()
    }

    fn forget_oldest_of(&mut self, port: P) -> bool {
        let of_port = self.stations.iter().filter(|(_, s)| s.port == port);
        let Some(oldest) = of_port.min_by_key(|(_, s)| s.seen).map(|(mac, _)| *mac) else {
            return false;
        };
        self.stations.remove(&oldest);
        self.release(port);
        true
    }

    fn release(&mut self, port: P) {
        release(&mut self.per_port, port);
    }
}

fn release<P: Eq + std::hash::Hash>(per_port: &mut HashMap<P, usize>, port: P) {
    if let Some(count) = per_port.get_mut(&port) {
        *count -= 1;
        if *count == 0 {
            per_port.remove(&port);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mac(n: u32) -> MacAddr {
        let [a, b, c, d] = n.to_be_bytes();
        MacAddr([2, 0, a, b, c, d])
    }

    #[test]
    fn an_address_has_one_owner_and_moves() {
        let now = Instant::now();
        let mut fdb = Fdb::default();
        assert_eq!(fdb.learn(mac(1), 'a', now), Learnt::New);
        assert_eq!(fdb.learn(mac(1), 'a', now), Learnt::Known);
        assert_eq!(fdb.learn(mac(1), 'b', now), Learnt::Moved { from: 'a' });
        assert_eq!(fdb.find(mac(1), now), Some('b'));
        assert_eq!((fdb.count('a'), fdb.count('b'), fdb.len()), (0, 1, 1));
    }

    #[test]
    fn groups_and_zero_are_no_stations() {
        let now = Instant::now();
        let mut fdb = Fdb::default();
        for address in [
            MacAddr::BROADCAST,
            MacAddr([0; 6]),
            MacAddr([1, 0, 0x5e, 0, 0, 1]),
        ] {
            assert_eq!(fdb.learn(address, 1, now), Learnt::NotLearnt);
        }
        assert!(fdb.is_empty());
    }

    #[test]
    fn stations_age() {
        let start = Instant::now();
        let mut fdb = Fdb::default();
        fdb.learn(mac(1), 1, start);
        fdb.learn(mac(2), 1, start + AGEING / 2);
        let later = start + AGEING;
        assert_eq!(fdb.find(mac(1), later), None);
        assert_eq!(fdb.find(mac(2), later), Some(1));
        fdb.expire(later);
        assert_eq!((fdb.len(), fdb.count(1)), (1, 1));
        fdb.expire(later + AGEING);
        assert!(fdb.is_empty());
        assert_eq!(fdb.count(1), 0);
    }

    #[test]
    fn who_makes_up_addresses_only_loses_its_own() {
        let now = Instant::now();
        let mut fdb = Fdb::default();
        fdb.learn(mac(0), 'v', now);
        for n in 1..=2 * u32::try_from(MAX_PER_PORT).expect("small") {
            fdb.learn(mac(n), 'x', now + Duration::from_millis(n.into()));
        }
        assert_eq!(fdb.find(mac(0), now), Some('v'));
        assert_eq!(fdb.count('x'), MAX_PER_PORT);
        let last = mac(2 * u32::try_from(MAX_PER_PORT).expect("small"));
        assert_eq!(fdb.find(last, now), Some('x'), "the newest stay");
    }

    #[test]
    fn a_full_table_learns_no_newcomer() {
        let now = Instant::now();
        let mut fdb = Fdb::default();
        let all = u32::try_from(MAX_STATIONS).expect("small");
        let per_port = u32::try_from(MAX_PER_PORT).expect("small");
        for n in 0..all {
            fdb.learn(mac(n), n / per_port, now);
        }
        assert_eq!(fdb.len(), MAX_STATIONS);
        assert_eq!(fdb.learn(mac(all), 9999, now), Learnt::NotLearnt);
        assert_eq!(
            fdb.learn(mac(all), 0, now),
            Learnt::New,
            "its own make room"
        );
        assert_eq!(fdb.len(), MAX_STATIONS);
    }

    #[test]
    fn a_port_that_is_gone_is_forgotten() {
        let now = Instant::now();
        let mut fdb = Fdb::default();
        fdb.learn(mac(1), 1, now);
        fdb.learn(mac(2), 2, now);
        fdb.forget_port(1);
        assert_eq!(
            (fdb.find(mac(1), now), fdb.find(mac(2), now)),
            (None, Some(2))
        );
    }

    #[derive(Debug, Clone)]
    enum Op {
        Learn(u8, u8),
        Forget(u8),
        Pass(u16),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            8 => (any::<u8>(), 0..6u8).prop_map(|(m, p)| Op::Learn(m, p)),
            1 => (0..6u8).prop_map(Op::Forget),
            2 => any::<u16>().prop_map(Op::Pass),
        ]
    }

    proptest! {
        /// Against a model that remembers everything.
        #[test]
        fn behaves_like_its_model(ops in proptest::collection::vec(op(), 0..200)) {
            let mut now = Instant::now();
            let mut fdb = Fdb::default();
            let mut model: HashMap<MacAddr, (u8, Instant)> = HashMap::new();
            for op in ops {
                match op {
                    Op::Learn(m, port) => {
                        fdb.learn(mac(m.into()), port, now);
                        model.insert(mac(m.into()), (port, now));
                    }
                    Op::Forget(port) => {
                        fdb.forget_port(port);
                        model.retain(|_, (p, _)| *p != port);
                    }
                    Op::Pass(seconds) => {
                        now += Duration::from_secs(u64::from(seconds) % 200);
                        fdb.expire(now);
                        model.retain(|_, (_, seen)| now.duration_since(*seen) < AGEING);
                    }
                }
                prop_assert_eq!(fdb.len(), model.len());
                for (address, (port, _)) in &model {
                    prop_assert_eq!(fdb.find(*address, now), Some(*port));
                }
                for port in 0..6 {
                    let expected = model.values().filter(|(p, _)| *p == port).count();
                    prop_assert_eq!(fdb.count(port), expected);
                }
            }
        }
    }
}
