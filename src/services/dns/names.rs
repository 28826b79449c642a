//! Which names led guests to which addresses.
//!
//! # Theory of operation
//!
//! Every answer that a guest is given to a question for addresses is noted: the
//! name that it asked for and, where the search list made another of that, the one
//! that was found. Not those in between, of which the guest knows nothing. What
//! deals with flows asks the other way round: what did the guest call this address?
//!
//! An address may have many names, and a name many addresses. The newest name
//! stands first, since it is the likeliest that a flow which begins now is about.
//!
//! Programs keep addresses for longer than they should, and flows begin some time
//! after the answer. So a name stays for [`GRACE`] beyond its time to live.
//!
//! # Limits
//!
//! [`MAX_ADDRESSES`], the one that was answered longest ago makes room;
//! [`MAX_NAMES`] of each, likewise; [`MAX_PER_ANSWER`] of one answer, so that no
//! single one sweeps the table. A name of more than [`MAX_NAME_LEN`] characters is
//! not noted. A guest can push names of its own out, and those of other guests: what
//! is built on this tells people, and impairs, but allows nothing.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use hickory_proto::rr::Name;

use super::message::{addresses, question_end};
use super::to_text;
use crate::impair::{NamePattern, Names};

/// Addresses whose names are known at a time.
pub const MAX_ADDRESSES: usize = 4096;
/// Names of one address.
pub const MAX_NAMES: usize = 4;
/// Addresses that are noted of one answer.
const MAX_PER_ANSWER: usize = 64;
/// Characters of a name: all of a usual one; bytes that are no letters take four.
const MAX_NAME_LEN: usize = 255;
/// How long a name outlives its time to live.
const GRACE: Duration = Duration::from_secs(3600);
/// Longest time to live that is believed.
const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// See the module's documentation.
#[derive(Debug, Default)]
pub struct NameTable {
    entries: RefCell<Entries>,
}

#[derive(Debug, Default)]
struct Entries {
    by_address: HashMap<IpAddr, Entry>,
    /// Every address once, the one that was answered longest ago first.
    by_age: BTreeMap<u64, IpAddr>,
    /// The age that the last answer got; the first one gets 1.
    last_age: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// The key in [`Entries::by_age`]; 0 before it is there.
    age: u64,
    /// The newest first; never empty.
    names: ArrayVec<Named, MAX_NAMES>,
}

#[derive(Debug)]
struct Named {
    /// In lower case, without trailing dot.
    name: Rc<str>,
    until: Instant,
}

impl NameTable {
    /// The name that the guest last resolved to `addr`, in lower case and without
    /// trailing dot.
    #[must_use]
    pub fn name_of(&self, addr: IpAddr) -> Option<Rc<str>> {
        self.find(addr, |name| Some(Rc::clone(name)))
    }

    /// All names that led to `addr`, the newest first; [`MAX_NAMES`] at most.
    #[must_use]
    pub fn names_of(&self, addr: IpAddr) -> Vec<Rc<str>> {
        let mut names = Vec::new();
        self.find(addr, |name| {
            names.push(Rc::clone(name));
            None::<()>
        });
        names
    }

    /// Addresses whose names are known, those whose time has run out as well.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.borrow().by_address.len()
    }

    /// True when no address has a name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Notes that a guest who asked for `name` was told what `answer`, a whole
    /// message, says.
    pub(super) fn learn(&self, name: &Name, answer: &[u8]) {
        let Some(question_end) = question_end(answer) else {
            return;
        };
        let mut found = addresses(answer, question_end).peekable();
        if found.peek().is_none() {
            return;
        }
        let name = to_text(&name.to_lowercase());
        for (addr, ttl) in found.take(MAX_PER_ANSWER) {
            self.note(addr, &name, Duration::from_secs(ttl.into()));
        }
    }

    /// Notes that `name` led to `addr`, to be kept for `ttl` by the guest.
    fn note(&self, addr: IpAddr, name: &str, ttl: Duration) {
        let addr = addr.to_canonical();
        // Those lead nowhere that a gateway could see.
        if addr.is_unspecified() || addr.is_loopback() {
            return;
        }
        if name.is_empty() || name.len() > MAX_NAME_LEN {
            return;
        }
        let until = now() + ttl.min(MAX_TTL) + GRACE;
        self.entries.borrow_mut().note(addr, name, until);
    }

    /// What `read` makes of the first name of `addr` that it makes something of.
    fn find<R>(&self, addr: IpAddr, read: impl FnMut(&Rc<str>) -> Option<R>) -> Option<R> {
        let entries = self.entries.borrow();
        let now = now();
        let entry = entries.by_address.get(&addr.to_canonical())?;
        let fresh = entry.names.iter().filter(|named| named.until > now);
        fresh.map(|named| &named.name).find_map(read)
    }
}

impl Names for NameTable {
    fn any_like(&self, addr: IpAddr, pattern: &NamePattern) -> bool {
        let is_like = |name: &Rc<str>| pattern.matches(name).then_some(());
        self.find(addr, is_like).is_some()
    }
}

impl Entries {
    fn note(&mut self, addr: IpAddr, name: &str, until: Instant) {
        if !self.by_address.contains_key(&addr) && self.by_address.len() >= MAX_ADDRESSES {
            self.remove_oldest();
        }
        let entry = self.by_address.entry(addr).or_default();
        entry.note(name, until);
        self.by_age.remove(&entry.age);
        self.last_age += 1;
        entry.age = self.last_age;
        self.by_age.insert(entry.age, addr);
    }

    fn remove_oldest(&mut self) {
        if let Some((_, addr)) = self.by_age.pop_first() {
            self.by_address.remove(&addr);
        }
    }
}

impl Entry {
    /// Puts a name in front.
    fn note(&mut self, name: &str, until: Instant) {
        let known = self.names.iter().position(|named| *named.name == *name);
        let name = match known {
            Some(at) => self.names.remove(at).name,
            None => name.into(),
        };
        if self.names.is_full() {
            self.names.pop();
        }
        self.names.insert(0, Named { name, until });
    }
}

/// The runtime's clock, which tests can set.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
