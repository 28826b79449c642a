//! Which hardware address an address of the guest's network has.
//!
//! # Theory of operation
//!
//! Every packet of the guest tells; so an answer to it is never held up. Only
//! what begins on the host's side, clients of forwarded ports, may have to
//! *ask* first (ARP, neighbour solicitation): at once, then after the waits of
//! [`ASK_AGAIN`]. Frames for an address that is asked for are held, within
//! [`MAX_HELD`] and [`MAX_HELD_BYTES`], and sent when the answer comes. When
//! none has come, the address is *silent* for [`SILENT_FOR`], or until it speaks:
//! whoever has the choice between two addresses tries the other one first.
//!
//! Nothing is asked again while the hardware address is known: the segment has
//! no other stations, and a new one announces itself with its first packet.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::net::{MacAddr, Offload};

/// Guests whose hardware address is remembered.
const MAX_NEIGHBOURS: usize = 1024;

/// Addresses that are asked for or silent at a time; the one that was begun
/// first makes room.
const MAX_ASKED: usize = 32;

/// How long an answer to the first, second and last query is waited for. A
/// guest that is there answers within microseconds; two seconds in all are for
/// one that still looks for duplicates of its address (RFC 4862 section 5.4).
const ASK_AGAIN: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(800),
    Duration::from_millis(1000),
];

/// How long an address that did not answer counts as silent.
const SILENT_FOR: Duration = Duration::from_secs(60);

/// Frames that wait for hardware addresses, and their bytes in all.
const MAX_HELD: usize = 256;
const MAX_HELD_BYTES: usize = 256 * 1024;

/// A frame whose destination is still empty.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) offload: Offload,
    pub(crate) frame: Vec<u8>,
}

/// An address without hardware address.
#[derive(Debug)]
struct Asked {
    addr: IpAddr,
    /// Queries sent; all of them: it is silent.
    queries: usize,
    /// When the answer is overdue; for a silent one, when it is forgotten.
    due: Instant,
    held: Vec<Held>,
}

impl Asked {
    fn is_silent(&self) -> bool {
        self.queries > ASK_AGAIN.len()
    }
}

/// What time asks for.
#[derive(Debug, Default)]
pub(crate) struct Due {
    /// Ask for these (again).
    pub(crate) ask: Vec<IpAddr>,
    /// These did not answer, and this many frames were dropped for it.
    pub(crate) silent: Vec<(IpAddr, usize)>,
}

/// What to do with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holding {
    /// It waits; its address is being asked for.
    Waits,
    /// It waits; the address is to be asked for now.
    Ask,
    /// No room.
    Full,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    known: HashMap<IpAddr, MacAddr>,
    /// Few, oldest first.
    asked: Vec<Asked>,
    held: usize,
    held_bytes: usize,
}

impl Neighbours {
    /// The hardware address of `addr`.
    pub(crate) fn get(&self, addr: IpAddr) -> Option<MacAddr> {
        self.known.get(&addr).copied()
    }

    /// Another address of the same family that is known and not link-local, for
    /// one that does not answer.
    pub(crate) fn another(&self, addr: IpAddr) -> Option<IpAddr> {
        let usable = |a: &&IpAddr| {
            **a != addr
                && a.is_ipv4() == addr.is_ipv4()
                && !matches!(a, IpAddr::V6(a) if a.is_unicast_link_local())
        };
        self.known.keys().filter(usable).min().copied()
    }

    /// True while `addr` is known not to have answered.
    pub(crate) fn is_silent(&self, addr: IpAddr) -> bool {
        let asked = self.asked.iter().find(|asked| asked.addr == addr);
        asked.is_some_and(Asked::is_silent)
    }

    /// Remembers a hardware address. Gives back the frames that waited for it.
    /// A full table is emptied: its live entries come back with their next packet.
    pub(crate) fn learn(&mut self, addr: IpAddr, mac: MacAddr) -> Vec<Held> {
        if self.known.get(&addr) == Some(&mac) || !mac.is_unicast() {
            return Vec::new();
        }
        if self.known.len() >= MAX_NEIGHBOURS {
            self.known.clear();
        }
        self.known.insert(addr, mac);
        match self.asked.iter().position(|asked| asked.addr == addr) {
            Some(at) => self.forget(at),
            None => Vec::new(),
        }
    }

    fn forget(&mut self, at: usize) -> Vec<Held> {
        let asked = self.asked.remove(at);
        self.held -= asked.held.len();
        self.held_bytes -= asked.held.iter().map(|h| h.frame.len()).sum::<usize>();
        asked.held
    }

    /// Keeps a frame for `addr`, whose hardware address is not known.
    /// `dropped` counts frames that made room.
    pub(crate) fn hold(
        &mut self,
        addr: IpAddr,
        held: Held,
        now: Instant,
        dropped: &mut usize,
    ) -> Holding {
        if self.held >= MAX_HELD || self.held_bytes + held.frame.len() > MAX_HELD_BYTES {
            return Holding::Full;
        }
        self.held += 1;
        self.held_bytes += held.frame.len();
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.addr == addr) {
            asked.held.push(held);
            if !asked.is_silent() {
                return Holding::Waits;
            }
            // Time has passed: it may be there now.
            asked.queries = 1;
            asked.due = now + ASK_AGAIN[0];
            return Holding::Ask;
        }
        if self.asked.len() >= MAX_ASKED {
            *dropped += self.forget(0).len();
        }
        self.asked.push(Asked {
            addr,
            queries: 1,
            due: now + ASK_AGAIN[0],
            held: vec![held],
        });
        Holding::Ask
    }

    /// Does what is due at `now`.
    pub(crate) fn poll(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        let mut at = 0;
        while let Some(asked) = self.asked.get_mut(at) {
            if asked.due > now {
                at += 1;
                continue;
            }
            if asked.is_silent() {
                self.forget(at);
                continue;
            }
            asked.queries += 1;
            match ASK_AGAIN.get(asked.queries - 1) {
                Some(wait) => {
                    asked.due = now + *wait;
                    due.ask.push(asked.addr);
                }
                None => {
                    asked.due = now + SILENT_FOR;
                    let held = std::mem::take(&mut asked.held);
                    self.held -= held.len();
                    self.held_bytes -= held.iter().map(|h| h.frame.len()).sum::<usize>();
                    due.silent.push((asked.addr, held.len()));
                }
            }
            at += 1;
        }
        due
    }

    /// When [`Neighbours::poll`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.asked.iter().map(|asked| asked.due).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 100]);

    fn addr(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    fn frame(len: usize) -> Held {
        Held {
            offload: Offload::default(),
            frame: vec![0; len],
        }
    }

    fn nothing_held(neighbours: &Neighbours) -> bool {
        (neighbours.held, neighbours.held_bytes) == (0, 0)
    }

    #[test]
    fn an_answer_frees_what_waited() {
        let now = Instant::now();
        let mut neighbours = Neighbours::default();
        let guest = addr("10.0.2.100");
        let mut dropped = 0;
        assert_eq!(
            neighbours.hold(guest, frame(60), now, &mut dropped),
            Holding::Ask
        );
        assert_eq!(
            neighbours.hold(guest, frame(70), now, &mut dropped),
            Holding::Waits
        );
        assert!(neighbours.learn(addr("10.0.2.99"), MAC).is_empty());
        let freed = neighbours.learn(guest, MAC);
        assert_eq!(
            freed.iter().map(|h| h.frame.len()).collect::<Vec<_>>(),
            [60, 70]
        );
        assert!(neighbours.learn(guest, MAC).is_empty());
        assert_eq!(neighbours.get(guest), Some(MAC));
        assert!(nothing_held(&neighbours) && neighbours.next_deadline().is_none());
    }

    #[test]
    fn three_queries_then_silence_that_ends() {
        let start = Instant::now();
        let mut neighbours = Neighbours::default();
        let guest = addr("fd00::100");
        let mut dropped = 0;
        neighbours.hold(guest, frame(60), start, &mut dropped);
        let mut asked = 1;
        let (silent, now) = loop {
            let now = neighbours.next_deadline().expect("it is asked for");
            let due = neighbours.poll(now);
            asked += due.ask.len();
            if let [silent] = due.silent[..] {
                break (silent, now);
            }
        };
        assert_eq!((asked, silent), (3, (guest, 1)));
        assert_eq!(now - start, Duration::from_secs(2));
        assert!(neighbours.is_silent(guest) && nothing_held(&neighbours));
        // A frame makes it ask again.
        assert_eq!(
            neighbours.hold(guest, frame(60), now, &mut dropped),
            Holding::Ask
        );
        assert!(!neighbours.is_silent(guest));
        while let Some(at) = neighbours.next_deadline() {
            neighbours.poll(at);
        }
        assert!(!neighbours.is_silent(guest) && nothing_held(&neighbours));
        assert_eq!(dropped, 0);
    }

    #[test]
    fn what_is_held_is_bounded() {
        let now = Instant::now();
        let mut neighbours = Neighbours::default();
        let mut dropped = 0;
        for host in 0..=255 {
            let guest = IpAddr::from([10, 0, 3, host]);
            neighbours.hold(guest, frame(60), now, &mut dropped);
            assert!(neighbours.asked.len() <= MAX_ASKED);
        }
        assert_eq!(dropped, 256 - MAX_ASKED);
        let guest = addr("10.0.2.100");
        let full = (0..MAX_HELD + 1)
            .filter(|_| neighbours.hold(guest, frame(60), now, &mut dropped) == Holding::Full);
        assert!(full.count() > 0);
        assert!(neighbours.held <= MAX_HELD);
        neighbours.learn(guest, MAC);
        let full = (0..100)
            .filter(|_| neighbours.hold(guest, frame(60_000), now, &mut dropped) == Holding::Full);
        assert_eq!(full.count(), 96);
        while let Some(at) = neighbours.next_deadline() {
            neighbours.poll(at);
        }
        assert!(nothing_held(&neighbours));
    }

    #[test]
    fn another_address_is_of_the_same_family_and_routable() {
        let mut neighbours = Neighbours::default();
        for known in ["fe80::1", "10.0.2.15", "fd00::abcd"] {
            neighbours.learn(addr(known), MAC);
        }
        for (of, expected) in [
            ("fd00::100", Some("fd00::abcd")),
            ("10.0.2.100", Some("10.0.2.15")),
            ("10.0.2.15", None),
        ] {
            assert_eq!(neighbours.another(addr(of)), expected.map(addr), "{of}");
        }
    }
}
