//! Between the gateway's loop and a capture's thread: frames one way, orders with
//! them, counts the other way.
//!
//! # Theory of operation
//!
//! Two buffers: the loop fills one while the thread empties the other, and the
//! thread swaps them when it is done. So the lock is held for a copy by the loop
//! and for a swap by the thread; neither waits for what the other does.
//!
//! The thread is woken by the first frame after it went to sleep, and then waits a
//! moment ([`GATHER`]) for others: a wake costs the loop a system call, and so there
//! is at most one in that time.

use std::io::IoSlice;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::note::Note;
use super::{CaptureError, Direction, Target};
use crate::net::Offload;

/// What waits for the thread of one capture, in bytes; as much again is in its
/// hands. At ten gigabits a second it is filled in seven milliseconds.
pub const QUEUE_BYTES: usize = 8 << 20;

/// What a buffer keeps when there is nothing to do.
const KEEP_BYTES: usize = 64 << 10;

/// How long the thread waits for more when it is woken.
const GATHER: Duration = Duration::from_millis(1);

/// A frame that was captured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Captured {
    /// Since 1970.
    pub(super) at: Duration,
    pub(super) interface: u32,
    pub(super) direction: Direction,
    pub(super) offload: Offload,
    /// Bytes of it in [`Batch::bytes`].
    pub(super) stored: usize,
    /// Bytes that it had.
    pub(super) len: usize,
    /// Packets of this interface that were lost before it, since the beginning.
    pub(super) lost: u64,
}

/// Something for the thread, in the order in which it came.
#[derive(Debug)]
pub(super) enum Item {
    /// From now on there is another interface.
    Interface(String),
    Frame(Captured),
    Note(Note),
}

/// What is done at the end of everything before it.
pub(super) enum Order {
    /// Begin another file; then this is called.
    Rotate(Done<()>),
    /// End; then this is called.
    Stop(Done<()>),
}

/// Called by the thread when it has done what was asked.
pub(super) type Done<T> = Box<dyn FnOnce(Result<T, CaptureError>) + Send>;

/// Frames, and what is with them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Of all frames, one behind the other.
    pub(super) bytes: Vec<u8>,
    pub(super) items: Vec<Item>,
}

impl Batch {
    fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }

    fn shrink(&mut self) {
        self.bytes.shrink_to(KEEP_BYTES);
        self.items.shrink_to(KEEP_BYTES / size_of::<Item>());
    }

    /// Bytes that it takes.
    fn used(&self) -> usize {
        self.bytes.len() + self.items.len() * size_of::<Item>()
    }
}

/// What was seen of an interface.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Packets that the filter picked.
    pub(super) picked: u64,
    /// Those of them that there was no room for.
    pub(super) lost: u64,
}

/// What the list of captures says.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    /// The file being written; `None` before it is open.
    pub(super) file: Option<Target>,
    /// Packets in all files.
    pub(super) packets: u64,
    /// Bytes in all files.
    pub(super) bytes: u64,
}

#[derive(Default)]
struct State {
    batch: Batch,
    orders: Vec<Order>,
    /// By interface.
    seen: Vec<Seen>,
    progress: Progress,
    /// The thread sleeps.
    asleep: bool,
    /// The thread was told to end.
    stopping: bool,
    /// The thread takes no more.
    closed: bool,
}

/// See the module's documentation.
#[derive(Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

/// A queue whose thread takes no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Closed;

/// A frame on its way into a queue.
#[derive(Debug)]
pub(super) struct Incoming<'f> {
    pub(super) at: Duration,
    pub(super) interface: u32,
    pub(super) direction: Direction,
    pub(super) offload: &'f Offload,
    /// All of it.
    pub(super) parts: &'f [IoSlice<'f>],
    /// Bytes of it.
    pub(super) len: usize,
    /// Bytes of it that are wanted.
    pub(super) wanted: usize,
    /// Packets of the file that it stands for.
    pub(super) packets: u64,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that could panic happens under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, mut state: MutexGuard<'_, State>) {
        let asleep = mem::take(&mut state.asleep);
        drop(state);
        if asleep {
            self.wake.notify_one();
        }
    }

    /// Adds an interface; the first is 0.
    pub(super) fn add_interface(&self, name: String) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.seen.push(Seen::default());
        state.batch.items.push(Item::Interface(name));
        self.wake(state);
        Ok(())
    }

    /// Adds a frame, or counts it as lost.
    pub(super) fn add_frame(&self, frame: &Incoming<'_>) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed || state.stopping {
            return Err(Closed);
        }
        let State { batch, seen, .. } = &mut *state;
        let index = usize::try_from(frame.interface).unwrap_or(usize::MAX);
        let Some(seen) = seen.get_mut(index) else {
            return Ok(());
        };
        seen.picked += frame.packets;
        let wanted = frame.wanted.min(frame.len);
        if batch.used() + wanted + size_of::<Item>() > QUEUE_BYTES {
            seen.lost += frame.packets;
            return Ok(());
        }
        let mut left = wanted;
        for part in frame.parts {
            let part = &part[..part.len().min(left)];
            batch.bytes.extend_from_slice(part);
            left -= part.len();
        }
        batch.items.push(Item::Frame(Captured {
            at: frame.at,
            interface: frame.interface,
            direction: frame.direction,
            offload: *frame.offload,
            stored: wanted - left,
            len: frame.len,
            lost: seen.lost,
        }));
        self.wake(state);
        Ok(())
    }

    /// Adds a note, if there is room.
    pub(super) fn add_note(&self, note: &Note) {
        let mut state = self.lock();
        if !state.closed && state.batch.used() + size_of::<Item>() + note.len() <= QUEUE_BYTES {
            state.batch.items.push(Item::Note(note.clone()));
            self.wake(state);
        }
    }

    /// Gives an order; hands it back when there is nobody left to do it.
    pub(super) fn order(&self, order: Order) -> Result<(), Order> {
        let mut state = self.lock();
        if state.closed || state.stopping {
            return Err(order);
        }
        state.stopping = matches!(order, Order::Stop(_));
        state.orders.push(order);
        self.wake(state);
        Ok(())
    }

    pub(super) fn progress(&self) -> Progress {
        self.lock().progress.clone()
    }

    /// Packets that were lost, of all interfaces.
    pub(super) fn lost(&self) -> u64 {
        self.lock().seen.iter().map(|seen| seen.lost).sum()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// For the thread: true when it was told to end.
    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// For the thread: what there is, in exchange for an empty buffer. Waits for
    /// something.
    pub(super) fn take(&self, batch: &mut Batch) -> Vec<Order> {
        batch.clear();
        let mut state = self.lock();
        if state.batch.items.is_empty() && state.orders.is_empty() {
            batch.shrink();
            state.asleep = true;
            let woken = self.wake.wait_while(state, |state| state.asleep);
            drop(woken.unwrap_or_else(PoisonError::into_inner));
            std::thread::sleep(GATHER);
            state = self.lock();
        }
        mem::swap(&mut state.batch, batch);
        mem::take(&mut state.orders)
    }

    /// For the thread: says how far it is; returns what was seen of each interface.
    pub(super) fn report(&self, progress: &Progress) -> Vec<Seen> {
        let mut state = self.lock();
        state.progress.clone_from(progress);
        state.seen.clone()
    }

    /// For the thread: takes no more. What nobody does any more is handed back.
    pub(super) fn close(&self) -> Vec<Order> {
        let mut state = self.lock();
        state.closed = true;
        state.batch = Batch::default();
        mem::take(&mut state.orders)
    }
}
