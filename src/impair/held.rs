//! What is under way: packets by the time at which they are due.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::frame::About;
use super::series::RuleId;

/// Bytes of packets under way, in both directions together. What comes when so
/// many are held is lost, as in a queue that is full: 64 MiB is what 5 Gbit/s
/// send in 100 ms.
pub const MAX_HELD_BYTES: usize = 64 << 20;

/// Bytes that a packet takes beside its own, counted with them so that empty
/// ones are bounded as well.
const OVERHEAD: usize = 160;

/// A packet under way.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) frame: Vec<u8>,
    pub(super) about: About,
    pub(super) intact: Intact,
    /// The rule that it has met last.
    pub(super) after: RuleId,
    /// The last rule of those that there were when it came.
    pub(super) until: RuleId,
}

/// Whether a packet's checksum is known to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intact {
    /// It came with its checksum to be checked.
    Unchecked,
    /// The checksum was made here, or whoever sent it vouches for it.
    Vouched,
    /// A bit was flipped here.
    Corrupted,
}

/// How many bytes are held.
#[derive(Debug, Default)]
pub(super) struct Budget {
    used: usize,
}

impl Budget {
    /// Takes what a frame of `len` bytes needs. False when there is no room.
    #[must_use]
    pub(super) fn take(&mut self, len: usize) -> bool {
        let used = self.used.saturating_add(len + OVERHEAD);
        if used > MAX_HELD_BYTES {
            return false;
        }
        self.used = used;
        true
    }

    pub(super) fn give_back(&mut self, len: usize) {
        self.used = self.used.saturating_sub(len + OVERHEAD);
    }

    pub(super) const fn used(&self) -> usize {
        self.used
    }
}

/// The packets of one direction that are under way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Entry>,
    /// Numbers what comes: what is due at the same time leaves in that order.
    next: u64,
}

#[derive(Debug)]
struct Entry {
    due: Instant,
    number: u64,
    held: Held,
}

impl Queue {
    pub(super) fn push(&mut self, due: Instant, held: Held) {
        let number = self.next;
        self.next += 1;
        self.heap.push(Entry { due, number, held });
    }

    /// The next that is due at `now` or before, and when it was.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(Instant, Held)> {
        if self.heap.peek()?.due > now {
            return None;
        }
        let Entry { due, held, .. } = self.heap.pop()?;
        if self.heap.is_empty() {
            // A burst is over: what it needed is not kept.
            self.heap.shrink_to(KEEP);
        }
        Some((due, held))
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.due)
    }
}

/// Places of an empty queue that are kept.
const KEEP: usize = 1024;

/// The greatest is the one that is due first.
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
