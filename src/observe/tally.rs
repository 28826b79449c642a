//! What all flows together did: sums, by remote and by process, and the flows
//! themselves as far as there is room.
//!
//! # Theory of operation
//! A pure aggregate over [`Record`]s. A flow counts when it has ended, with all
//! that is known of it then; the end of the gateway ends all of them. Whatever
//! comes, memory is bounded: beyond [`MAX_REMOTES`], [`MAX_PROCESSES`] and
//! [`MAX_FLOWS_KEPT`] what is new is summed up as *others*, so that the sums stay
//! right. Times are kept in histograms of two digits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::names;
use super::process::Process;
use super::record::{Record, Sink};
use crate::policy::{Carried, FlowClosed, FlowNumber, Party, Protocol};

/// Flows of which each is kept. Some 300 bytes each.
pub const MAX_FLOWS_KEPT: usize = 10_000;

/// Remotes that are told apart. Some 10 KiB each at most, most of it times.
pub const MAX_REMOTES: usize = 1_000;

/// Programs that are told apart.
pub const MAX_PROCESSES: usize = 500;

/// Addresses shown of a remote that has a name.
pub const MAX_ADDRESSES: usize = 8;

/// Process ids shown of a program.
pub const MAX_PIDS: usize = 16;

/// Longest time that is told apart from longer ones.
const MAX_TIME: Duration = Duration::from_secs(3600);

/// Whether flows are kept one by one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Sums only.
    Sums,
    /// Also the first [`MAX_FLOWS_KEPT`] flows.
    Flows,
}

/// What flows did together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sums {
    /// Flows that have ended.
    pub flows: u64,
    /// What they carried towards the guest.
    pub to_guest: Carried,
    /// What they carried from the guest.
    pub from_guest: Carried,
    /// How many had which verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
}

impl Sums {
    fn add(&mut self, flow: &FlowClosed) {
        self.flows += 1;
        add(&mut self.to_guest, &flow.to_guest);
        add(&mut self.from_guest, &flow.from_guest);
        *self
            .verdicts
            .entry(names::verdict(flow.verdict))
            .or_default() += 1;
    }

    /// Adds what others did.
    pub fn merge(&mut self, other: &Self) {
        self.flows += other.flows;
        add(&mut self.to_guest, &other.to_guest);
        add(&mut self.from_guest, &other.from_guest);
        for (verdict, count) in &other.verdicts {
            *self.verdicts.entry(verdict).or_default() += count;
        }
    }

    /// Bytes both ways.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.to_guest.bytes.saturating_add(self.from_guest.bytes)
    }

    /// Flows that led nowhere.
    #[must_use]
    pub fn failed(&self) -> u64 {
        let failed = self.verdicts.iter();
        let failed = failed.filter(|(verdict, _)| !names::led_somewhere(verdict));
        failed.map(|(_, count)| count).sum()
    }
}

const fn add(sum: &mut Carried, more: &Carried) {
    sum.bytes = sum.bytes.saturating_add(more.bytes);
    sum.packets = sum.packets.saturating_add(more.packets);
    sum.retransmits = sum.retransmits.saturating_add(more.retransmits);
}

/// How long something took, many times. Resolved to the microsecond and two digits.
#[derive(Debug, Clone, Default)]
pub struct Times(Option<Box<Histogram<u32>>>);

/// What [`Times`] come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quantiles {
    /// How many times there were.
    pub count: u64,
    /// Half of them were not longer.
    pub median: Duration,
    /// 95 of a hundred were not longer.
    pub p95: Duration,
    /// None was longer.
    pub max: Duration,
}

impl Times {
    fn add(&mut self, time: Duration) {
        if self.0.is_none() {
            // Two digits are always possible; it grows as it must, MAX_TIME at most.
            self.0 = Histogram::new(2).ok().map(Box::new);
        }
        if let Some(histogram) = &mut self.0 {
            let micros = u64::try_from(time.min(MAX_TIME).as_micros()).unwrap_or(u64::MAX);
            // No longer than MAX_TIME, for which there is room in two digits.
            let _ = histogram.record(micros);
        }
    }

    /// `None` when there was none.
    #[must_use]
    pub fn quantiles(&self) -> Option<Quantiles> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        Some(Quantiles {
            count: histogram.len(),
            median: at(0.5),
            p95: at(0.95),
            max: Duration::from_micros(histogram.max()),
        })
    }
}

/// A name or address, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RemoteKey {
    host: Host,
    port: u16,
    protocol: Protocol,
}

/// What remotes are known by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The name that the guest looked up.
    Name(Arc<str>),
    /// Nothing but an address.
    Addr(IpAddr),
}

/// Whom the guest talked to, or was talked to by.
#[derive(Debug, Clone)]
pub struct Remote {
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The name that the guest looked up, or the address.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Its addresses, [`MAX_ADDRESSES`] at most.
    pub addresses: BTreeSet<IpAddr>,
    /// What its flows did.
    pub sums: Sums,
    /// How long it took to connect.
    pub connect: Times,
    /// Round trips between host and remote.
    pub rtt: Times,
}

/// A program of the guest, run once or many times.
#[derive(Debug, Clone)]
pub struct Program {
    /// Its name.
    pub name: String,
    /// Its executable, where it can be seen.
    pub exe: Option<PathBuf>,
    /// Its processes, [`MAX_PIDS`] at most.
    pub pids: BTreeSet<u32>,
    /// What its flows did.
    pub sums: Sums,
}

/// A flow that has ended.
#[derive(Debug, Clone)]
pub struct Kept {
    /// What the translation core said.
    pub flow: Box<FlowClosed>,
    /// The name that the guest looked up.
    pub name: Option<Arc<str>>,
    /// Whose it was.
    pub process: Option<Arc<Process>>,
}

/// See the module's documentation.
#[derive(Debug, Clone)]
pub struct Tally {
    /// When the gateway began.
    pub began: Instant,
    keep: Keep,
    /// All flows.
    pub total: Sums,
    /// The same by protocol.
    pub protocols: BTreeMap<&'static str, Sums>,
    /// How long it took TCP to connect.
    pub connect: Times,
    open: BTreeSet<FlowNumber>,
    /// Flows that were open at one time.
    pub peak_open: usize,
    remotes: HashMap<RemoteKey, Remote>,
    /// Flows to remotes that are not told apart.
    pub other_remotes: Sums,
    programs: HashMap<(String, Option<PathBuf>), Program>,
    /// Flows of programs that are not told apart, or not known.
    pub other_programs: Sums,
    /// The first flows that ended.
    pub kept: Vec<Kept>,
    /// Flows that ended after those.
    pub not_kept: u64,
    /// Events that nothing is known of: they came too fast.
    pub lost: u64,
}

/// Flows that are followed while they are open: more than the tables hold.
const MAX_OPEN: usize = 131_072;

impl Tally {
    /// Of a gateway that begins now.
    #[must_use]
    pub fn new(began: Instant, keep: Keep) -> Self {
        Self {
            began,
            keep,
            total: Sums::default(),
            protocols: BTreeMap::new(),
            connect: Times::default(),
            open: BTreeSet::new(),
            peak_open: 0,
            remotes: HashMap::new(),
            other_remotes: Sums::default(),
            programs: HashMap::new(),
            other_programs: Sums::default(),
            kept: Vec::new(),
            not_kept: 0,
            lost: 0,
        }
    }

    /// Something happened.
    pub fn record(&mut self, record: &Record) {
        match record {
            Record::Opened { flow, .. } => {
                if self.open.len() < MAX_OPEN {
                    self.open.insert(flow.number);
                }
                self.peak_open = self.peak_open.max(self.open.len());
            }
            Record::Decided { .. } => {}
            Record::Closed { flow, identity, .. } => {
                self.open.remove(&flow.opened.number);
                self.closed(flow, identity.name.as_ref(), identity.process.as_ref());
            }
            Record::Lost { events, .. } => self.lost += events,
        }
    }

    fn closed(
        &mut self,
        flow: &FlowClosed,
        name: Option<&Arc<str>>,
        process: Option<&Arc<Process>>,
    ) {
        self.total.add(flow);
        let protocol = names::protocol(flow.opened.protocol);
        self.protocols.entry(protocol).or_default().add(flow);
        if let Some(time) = connect_time(flow) {
            self.connect.add(time);
        }
        self.at_remote(flow, name);
        self.by_program(flow, process);
        if self.keep == Keep::Sums {
            return;
        }
        if self.kept.len() < MAX_FLOWS_KEPT {
            self.kept.push(Kept {
                flow: Box::new(flow.clone()),
                name: name.cloned(),
                process: process.cloned(),
            });
        } else {
            self.not_kept += 1;
        }
    }

    fn at_remote(&mut self, flow: &FlowClosed, name: Option<&Arc<str>>) {
        let ip = flow.opened.remote.ip().to_canonical();
        let key = RemoteKey {
            host: name.map_or(Host::Addr(ip), |name| Host::Name(Arc::clone(name))),
            // A client's port is its own for one flow: all its flows are one remote.
            port: match flow.opened.by {
                Party::Host => 0,
                Party::Guest | Party::Gateway => flow.opened.remote.port(),
            },
            protocol: flow.opened.protocol,
        };
        if self.remotes.len() >= MAX_REMOTES && !self.remotes.contains_key(&key) {
            self.other_remotes.add(flow);
            return;
        }
        let remote = self
            .remotes
            .entry(key.clone())
            .or_insert_with(|| Remote::new(key));
        remote.add(flow, ip);
    }

    fn by_program(&mut self, flow: &FlowClosed, process: Option<&Arc<Process>>) {
        let Some(process) = process else {
            self.other_programs.add(flow);
            return;
        };
        let key = (process.name.clone(), process.exe.clone());
        if self.programs.len() >= MAX_PROCESSES && !self.programs.contains_key(&key) {
            self.other_programs.add(flow);
            return;
        }
        let program = self.programs.entry(key).or_insert_with(|| Program {
            name: process.name.clone(),
            exe: process.exe.clone(),
            pids: BTreeSet::new(),
            sums: Sums::default(),
        });
        if program.pids.len() < MAX_PIDS {
            program.pids.insert(process.pid);
        }
        program.sums.add(flow);
    }

    /// The remotes, those with most bytes first, then those with most flows.
    #[must_use]
    pub fn remotes(&self) -> Vec<&Remote> {
        let mut remotes: Vec<&Remote> = self.remotes.values().collect();
        remotes.sort_by_cached_key(|remote| {
            let Remote { host, port, .. } = remote;
            let protocol = names::protocol(remote.protocol);
            (most_first(&remote.sums), host.clone(), *port, protocol)
        });
        remotes
    }

    /// The programs, in the same order.
    #[must_use]
    pub fn programs(&self) -> Vec<&Program> {
        let mut programs: Vec<&Program> = self.programs.values().collect();
        programs.sort_by_cached_key(|program| {
            let Program { name, exe, .. } = program;
            (most_first(&program.sums), name.clone(), exe.clone())
        });
        programs
    }

    /// The flows that were kept, as they began.
    #[must_use]
    pub fn flows(&self) -> Vec<&Kept> {
        let mut flows: Vec<&Kept> = self.kept.iter().collect();
        flows.sort_by_key(|kept| (kept.flow.opened.at, kept.flow.opened.number));
        flows
    }
}

impl Remote {
    fn new(key: RemoteKey) -> Self {
        Self {
            protocol: key.protocol,
            host: key.host,
            port: key.port,
            addresses: BTreeSet::new(),
            sums: Sums::default(),
            connect: Times::default(),
            rtt: Times::default(),
        }
    }

    fn add(&mut self, flow: &FlowClosed, ip: IpAddr) {
        if self.addresses.len() < MAX_ADDRESSES {
            self.addresses.insert(ip);
        }
        self.sums.add(flow);
        if let Some(time) = connect_time(flow) {
            self.connect.add(time);
        }
        if let Some(time) = flow.rtt {
            self.rtt.add(time);
        }
    }
}

/// Of TCP: other protocols do not connect.
pub(super) fn connect_time(flow: &FlowClosed) -> Option<Duration> {
    flow.connect_time
        .filter(|_| flow.opened.protocol == Protocol::Tcp)
}

fn most_first(sums: &Sums) -> std::cmp::Reverse<(u64, u64)> {
    std::cmp::Reverse((sums.bytes(), sums.flows))
}

/// A tally that the observer's thread fills, and another reads at the end.
#[derive(Debug, Clone)]
pub struct SharedTally(Arc<Mutex<Tally>>);

impl SharedTally {
    /// Shares `tally`.
    #[must_use]
    pub fn new(tally: Tally) -> Self {
        Self(Arc::new(Mutex::new(tally)))
    }

    /// Looks at it.
    pub fn read(&self) -> MutexGuard<'_, Tally> {
        // Sums of a thread that panicked are as good as before.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for SharedTally {
    fn record(&mut self, record: &Record) {
        self.read().record(record);
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
