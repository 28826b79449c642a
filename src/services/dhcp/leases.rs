//! Which client has which address.
//!
//! # Theory of operation
//! The pool is a fixed, small row of slots, one per address. A slot is
//!
//! ```text
//!            offer                commit
//!   Idle ───────────▶ Offered ───────────▶ Bound ◀─┐ renew
//!    ▲  ◀─ withdrawn, 60 s ─┘                │ └────┘
//!    ├──────────── released, lease over ─────┤
//!    └─ 1 h ─ Declined ◀──── declined ───────┘
//! ```
//!
//! Time is not waited for: an end that has passed is noticed when the slot is
//! looked at. A slot remembers its last client, so that a client that comes back
//! gets the same address as long as no one else needed it; addresses that nobody
//! had are given out first, then the one that has been idle the longest.
//! A client holds one slot at most.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::net::MacAddr;

/// Addresses in the pool at most, whatever the plan says.
pub(crate) const POOL_SIZE: usize = 64;

/// How long an offer is kept for a client that does not take it.
const OFFER_TIME: Duration = Duration::from_secs(60);
/// How long an address that a client found in use is left alone.
const QUARANTINE: Duration = Duration::from_secs(3600);

/// What tells clients apart (RFC 2131 section 4.2): the client identifier where
/// one is sent, else the hardware address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClientKey {
    /// Option 61.
    Identifier(Box<[u8]>),
    /// `chaddr`.
    Hardware(MacAddr),
}

/// A client as the table knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    pub(super) key: ClientKey,
    pub(super) mac: MacAddr,
    pub(super) hostname: Option<String>,
}

/// An address that a client has leased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub addr: Ipv4Addr,
    /// The client's Ethernet address.
    pub mac: MacAddr,
    /// The name the client gave itself: one DNS label in lower case.
    pub hostname: Option<String>,
    /// When the lease ends if it is not renewed; may have passed.
    pub expires: Instant,
}

/// Why a client cannot have the address it requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It is not in the pool.
    OutsidePool,
    /// Another client has it, or it is in quarantine.
    Taken,
    /// The client was given another one.
    HasAnother,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Free since then; `None`: never used.
    Idle(Option<Instant>),
    /// Offered until then.
    Offered(Instant),
    /// Leased until then.
    Bound(Instant),
    /// In quarantine until then.
    Declined(Instant),
}

#[derive(Debug)]
struct Slot {
    addr: Ipv4Addr,
    /// Who has the address or had it last.
    client: Option<Client>,
    state: State,
}

impl Slot {
    /// Nobody but its last client has a claim to the address.
    fn is_free(&self, now: Instant) -> bool {
        match self.state {
            State::Idle(_) => true,
            State::Offered(until) | State::Bound(until) | State::Declined(until) => until <= now,
        }
    }

    /// Since when the address has been free; `None`, never used, sorts first.
    const fn free_since(&self) -> Option<Instant> {
        match self.state {
            State::Idle(since) => since,
            State::Offered(until) | State::Bound(until) | State::Declined(until) => Some(until),
        }
    }

    fn belongs_to(&self, key: &ClientKey) -> bool {
        self.client
            .as_ref()
            .is_some_and(|client| client.key == *key)
    }
}

/// The pool.
#[derive(Debug)]
pub(super) struct LeaseTable {
    slots: Vec<Slot>,
}

impl LeaseTable {
    /// A pool of `addresses`, of which at most [`POOL_SIZE`] are used.
    pub(super) fn new(addresses: impl IntoIterator<Item = Ipv4Addr>) -> Self {
        let slots = addresses
            .into_iter()
            .take(POOL_SIZE)
            .map(|addr| Slot {
                addr,
                client: None,
                state: State::Idle(None),
            })
            .collect();
        Self { slots }
    }

    /// Picks and reserves an address (RFC 2131 section 4.3.1): the client's
    /// own or last one, the one it wishes, one that nobody had, the one idle
    /// longest. `None` when all are taken.
    pub(super) fn offer(
        &mut self,
        now: Instant,
        client: &Client,
        wish: Option<Ipv4Addr>,
    ) -> Option<Ipv4Addr> {
        let free = |slot: &&mut Slot| slot.is_free(now);
        let slot = if let Some(at) = self.position(&client.key) {
            self.slots.get_mut(at)
        } else if let Some(at) = self
            .slots
            .iter()
            .position(|s| Some(s.addr) == wish && s.is_free(now))
        {
            self.slots.get_mut(at)
        } else {
            self.slots
                .iter_mut()
                .filter(free)
                .min_by_key(|slot| slot.free_since())
        }?;
        if !matches!(slot.state, State::Bound(until) if until > now) {
            slot.state = State::Offered(now + OFFER_TIME);
            slot.client = Some(client.clone());
        }
        Some(slot.addr)
    }

    /// Leases `addr` to the client until `until`, if it has a claim to it or
    /// nobody else has.
    pub(super) fn commit(
        &mut self,
        now: Instant,
        client: &Client,
        addr: Ipv4Addr,
        until: Instant,
    ) -> Result<(), Refused> {
        let own = self.position(&client.key);
        let at = self
            .slots
            .iter()
            .position(|s| s.addr == addr)
            .ok_or(Refused::OutsidePool)?;
        if own.is_some_and(|own| own != at) {
            return Err(Refused::HasAnother);
        }
        let slot = &mut self.slots[at];
        if own.is_none() && !slot.is_free(now) {
            return Err(Refused::Taken);
        }
        let before = slot.client.take().filter(|before| before.key == client.key);
        let hostname = client
            .hostname
            .clone()
            .or_else(|| before.and_then(|b| b.hostname));
        slot.client = Some(Client {
            hostname,
            ..client.clone()
        });
        slot.state = State::Bound(until);
        Ok(())
    }

    /// Takes back an offer that the client did not choose.
    pub(super) fn withdraw_offer(&mut self, now: Instant, key: &ClientKey) {
        let slot = self.position(key).and_then(|at| self.slots.get_mut(at));
        if let Some(slot) = slot.filter(|slot| matches!(slot.state, State::Offered(_))) {
            slot.state = State::Idle(Some(now));
        }
    }

    /// Ends the client's lease of `addr`; `None` when it has none.
    pub(super) fn release(&mut self, now: Instant, key: &ClientKey, addr: Ipv4Addr) -> Option<()> {
        self.owned(key, addr)?.state = State::Idle(Some(now));
        Some(())
    }

    /// The client found `addr`, which was given to it, in use; `None` when it
    /// was not.
    pub(super) fn decline(&mut self, now: Instant, key: &ClientKey, addr: Ipv4Addr) -> Option<()> {
        let slot = self.owned(key, addr)?;
        slot.state = State::Declined(now + QUARANTINE);
        slot.client = None;
        Some(())
    }

    /// The leases given, by address; those that have run out are still there
    /// until their address is needed.
    pub(super) fn iter(&self) -> impl Iterator<Item = Lease> + '_ {
        self.slots
            .iter()
            .filter_map(|slot| match (slot.state, &slot.client) {
                (State::Bound(expires), Some(client)) => Some(Lease {
                    addr: slot.addr,
                    mac: client.mac,
                    hostname: client.hostname.clone(),
                    expires,
                }),
                _ => None,
            })
    }

    /// The client's slot, present or past.
    fn position(&self, key: &ClientKey) -> Option<usize> {
        self.slots.iter().position(|slot| slot.belongs_to(key))
    }

    fn owned(&mut self, key: &ClientKey, addr: Ipv4Addr) -> Option<&mut Slot> {
        self.slots
            .iter_mut()
            .find(|slot| slot.addr == addr && slot.belongs_to(key))
    }
}

#[cfg(test)]
#[path = "leases_tests.rs"]
mod tests;
