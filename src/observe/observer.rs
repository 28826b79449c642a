//! The thread that everything that is told of flows goes through.
//!
//! # Theory of operation
//!
//! The loop tells ([`Observer::tell`]) what happened and which name belongs to it.
//! That goes into a queue of at most [`MAX_QUEUED`] events behind a lock that is
//! only ever held to put in or take out; beyond the bound events are counted and
//! forgotten. A thread takes what is there, asks for the process of each flow that
//! begins (see [`process`](super::process)) and hands the joined [`Record`]s to
//! the [`Sink`]s. It remembers who an open flow is about until that is closed.
//!
//! However slow a disk or a reader of the log is, what the loop does takes no longer.
//!
//! At the end [`Observer::finish`] waits for the thread, but no longer than
//! [`FINISH_DEADLINE`]: a reader that does not read must not keep the gateway.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use super::process::{Attribution, Ends};
use super::record::{Identity, Record, Sink};
use crate::policy::{FlowEvent, FlowNumber, FlowOpened};

/// Events that wait for the observer at most. Each is some 150 bytes, and twice
/// that for the end of a flow.
pub const MAX_QUEUED: usize = 65536;

/// Flows that the observer remembers: more than can be open at once.
const MAX_REMEMBERED: usize = 131_072;

/// Sinks are flushed at least this often while there are records.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

/// How long the end waits for sinks that are slow.
pub const FINISH_DEADLINE: Duration = Duration::from_secs(2);

/// An event, and the name that the guest knows the remote by.
#[derive(Debug)]
struct Told {
    event: FlowEvent,
    name: Option<Arc<str>>,
}

#[derive(Debug, Default)]
struct Queue {
    told: Vec<Told>,
    lost: u64,
    over: bool,
    finished: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    /// Something was told, or it is over.
    news: Condvar,
    /// The thread is done.
    done: Condvar,
}

impl Shared {
    /// A thread that panicked left the queue as valid as before.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's documentation.
pub struct Observer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Told in this round.
    round: Vec<Told>,
    /// Lost in this round.
    lost: u64,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").finish_non_exhaustive()
    }
}

impl Observer {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system has no thread to give.
    pub fn start(
        sinks: Vec<Box<dyn Sink>>,
        attribution: Box<dyn Attribution>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || Worker::new(sinks, attribution).run(&theirs))?;
        Ok(Self {
            shared,
            thread: Some(thread),
            round: Vec::new(),
            lost: 0,
        })
    }

    /// Tells of an event. `name` is what the guest knows the remote by; it is
    /// looked at when the flow begins only.
    pub fn tell(&mut self, event: FlowEvent, name: Option<Arc<str>>) {
        self.round.push(Told { event, name });
    }

    /// Tells that so many events were lost before they came here.
    pub fn tell_lost(&mut self, events: u64) {
        self.lost += events;
    }

    /// Hands over what was told since the last call: once per round.
    pub fn hand_over(&mut self) {
        if self.round.is_empty() && self.lost == 0 {
            return;
        }
        let mut queue = self.shared.lock();
        let room = MAX_QUEUED.saturating_sub(queue.told.len());
        let lost = self.round.len().saturating_sub(room);
        queue.told.extend(self.round.drain(..).take(room));
        queue.lost += mem::take(&mut self.lost) + lost as u64;
        drop(queue);
        self.shared.news.notify_one();
    }

    /// Hands over the rest and ends the thread, as soon as all of it has reached
    /// the sinks. False when that took longer than [`FINISH_DEADLINE`]: the thread
    /// is left to itself then.
    pub fn finish(mut self) -> bool {
        self.hand_over();
        let deadline = Instant::now() + FINISH_DEADLINE;
        let mut queue = self.shared.lock();
        queue.over = true;
        self.shared.news.notify_one();
        while !queue.finished {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let waited = self.shared.done.wait_timeout(queue, left);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(queue);
        // Finished: it returns at once.
        self.thread
            .take()
            .is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.news.notify_one();
    }
}

/// Tells waiting threads that the worker is done, however it ended.
struct Finished<'a>(&'a Shared);

impl Drop for Finished<'_> {
    fn drop(&mut self) {
        self.0.lock().finished = true;
        self.0.done.notify_all();
    }
}

/// The thread's own.
struct Worker {
    sinks: Vec<Box<dyn Sink>>,
    attribution: Box<dyn Attribution>,
    open: HashMap<FlowNumber, Identity>,
}

impl Worker {
    fn new(sinks: Vec<Box<dyn Sink>>, attribution: Box<dyn Attribution>) -> Self {
        Self {
            sinks,
            attribution,
            open: HashMap::new(),
        }
    }

    fn run(mut self, shared: &Shared) {
        let _finished = Finished(shared);
        loop {
            let mut queue = shared.lock();
            while queue.told.is_empty() && queue.lost == 0 && !queue.over {
                let waiting = self.sinks.iter().any(|sink| sink.is_waiting());
                if !waiting {
                    let waited = shared.news.wait(queue);
                    queue = waited.unwrap_or_else(PoisonError::into_inner);
                    continue;
                }
                let waited = shared.news.wait_timeout(queue, FLUSH_INTERVAL);
                let (back, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
                queue = back;
                if timeout.timed_out() {
                    break;
                }
            }
            let told = mem::take(&mut queue.told);
            let lost = mem::take(&mut queue.lost);
            let over = queue.over;
            drop(queue);
            self.batch(told, lost);
            if over {
                for sink in &mut self.sinks {
                    sink.finish();
                }
                return;
            }
        }
    }

    fn batch(&mut self, told: Vec<Told>, lost: u64) {
        let clock = Clock::now();
        let processes = self.processes(&told);
        let mut processes = processes.into_iter();
        let mut flushed = Instant::now();
        for Told { event, name } in told {
            let record = match event {
                FlowEvent::Opened(flow) => {
                    let identity = Identity {
                        began: clock.at(flow.at),
                        name,
                        process: processes.next().flatten(),
                    };
                    self.remember(flow.number, &identity);
                    Record::Opened { flow, identity }
                }
                FlowEvent::Decided(flow) => Record::Decided {
                    at: clock.at(flow.at),
                    flow,
                },
                FlowEvent::Closed(flow) => {
                    let at = clock.at(flow.at);
                    let known = self.open.remove(&flow.opened.number);
                    let identity = known.unwrap_or_else(|| Identity {
                        began: clock.at(flow.opened.at),
                        name,
                        process: None,
                    });
                    Record::Closed { flow, identity, at }
                }
            };
            self.tell(&record);
            if flushed.elapsed() >= FLUSH_INTERVAL {
                self.flush();
                flushed = Instant::now();
            }
        }
        if lost > 0 {
            let at = SystemTime::now();
            self.tell(&Record::Lost { events: lost, at });
        }
        self.flush();
    }

    /// The processes of the flows that begin, in order: asked for before anything
    /// else, while their sockets are there.
    fn processes(&mut self, told: &[Told]) -> Vec<Option<Arc<super::process::Process>>> {
        let ends: Vec<Ends> = told
            .iter()
            .filter_map(|told| match &told.event {
                FlowEvent::Opened(flow) => Some(ends(flow)),
                FlowEvent::Decided(_) | FlowEvent::Closed(_) => None,
            })
            .collect();
        if ends.is_empty() {
            return Vec::new();
        }
        self.attribution.attribute(&ends)
    }

    fn remember(&mut self, number: FlowNumber, identity: &Identity) {
        if self.open.len() < MAX_REMEMBERED {
            self.open.insert(number, identity.clone());
        }
    }

    fn tell(&mut self, record: &Record) {
        for sink in &mut self.sinks {
            sink.record(record);
        }
    }

    fn flush(&mut self) {
        for sink in &mut self.sinks {
            sink.flush();
        }
    }
}

fn ends(flow: &FlowOpened) -> Ends {
    Ends {
        protocol: flow.protocol,
        guest: flow.guest,
        remote: flow.remote,
    }
}

/// The time of day of a moment of the monotonic clock, by what both say now.
#[derive(Debug, Clone, Copy)]
struct Clock {
    monotonic: Instant,
    wall: SystemTime,
}

impl Clock {
    fn now() -> Self {
        Self {
            monotonic: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    fn at(self, moment: Instant) -> SystemTime {
        let ago = self.monotonic.saturating_duration_since(moment);
        self.wall.checked_sub(ago).unwrap_or(self.wall)
    }
}
