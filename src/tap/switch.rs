//! Several links as one: a learning switch with the gateway at one of its ports.
//!
//! # Theory of operation
//!
//! [`Switch`] is itself a [`Link`], so the gateway does not know that it serves
//! more than one. What comes in through a port is learnt ([`super::fdb`]) and
//! goes where its destination address says:
//!
//! | destination | to |
//! |---|---|
//! | the gateway | the gateway |
//! | a group, broadcast included | every other port, and the gateway |
//! | a station of another port | that port |
//! | a station of the same port | nobody: it has it already |
//! | nobody known | every other port |
//!
//! One [`Link::recv`] moves one frame. When that was not for the gateway the call
//! is answered `Interrupted`, which asks for another, so that guests who talk to
//! each other use up the gateway's round as any other traffic does.
//!
//! Ports take turns, a frame each; every [`TURNS_PER_LOOK`] turns the switch looks
//! who else has one, so that no port keeps the others waiting. A [`PortSource`]
//! makes ports while the switch runs: a listener its clients, a client its next
//! connection.
//!
//! **Failures.** A port whose link fails leaves the table and is reported; nobody
//! else notices. The switch itself never ends.
//!
//! **Limits.** [`MAX_PORTS`]; the tables of [`super::fdb`]; a port that takes no
//! frame loses it, and nobody waits.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::fdb::Fdb;
use super::{Caps, Course, Link, Medium, Offload, Received, SharedWatcher, Watched};
use crate::net::MacAddr;

/// Ports at most: as many as a switch in a rack has, and some.
pub const MAX_PORTS: usize = 256;

/// Turns after which the kernel is asked who has something, though some have.
const TURNS_PER_LOOK: u32 = 32;

/// Readiness events taken from the kernel at once.
const BATCH: usize = 64;

/// Bytes of an Ethernet header.
const HEADER_LEN: usize = 14;

/// Marks a source among the events.
const SOURCE: u64 = 1 << 63;

/// Names a port. Counted from 1, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(u32);

impl PortId {
    /// The first port there is.
    pub const FIRST: Self = Self(1);

    /// The number.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A link on its way into a switch, with the name that messages call it by.
#[derive(Debug)]
pub struct NewPort {
    /// What carries its frames.
    pub link: Box<dyn Link>,
    /// Such as `vde:/run/vde.ctl`.
    pub name: String,
}

/// Makes ports while the switch runs.
pub trait PortSource: fmt::Debug {
    /// How messages call it: the specification it was made from.
    fn name(&self) -> &str;

    /// A descriptor that polls readable when [`PortSource::poll`] has work.
    fn readiness(&self) -> BorrowedFd<'_>;

    /// Does what there is to do and returns a port that came about; `None`:
    /// nothing more for now.
    ///
    /// # Errors
    /// That something failed, for a message; the source goes on.
    fn poll(&mut self) -> io::Result<Option<NewPort>>;

    /// One of its ports has left the switch, for this reason.
    fn lost(&mut self, reason: &io::Error);
}

/// What a switch counts for each port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out.
    pub sent: u64,
    /// Frames that came in and were no Ethernet frames, or claimed to be from
    /// the gateway.
    pub malformed: u64,
    /// Frames that the link did not take.
    pub not_sent: u64,
}

/// A port as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortInfo {
    /// Which.
    pub id: PortId,
    /// Its name.
    pub name: String,
    /// Addresses seen behind it.
    pub stations: Vec<MacAddr>,
    /// What passed.
    pub counters: PortCounters,
}

#[derive(Debug)]
struct Port {
    link: Box<dyn Link>,
    name: String,
    /// Index of the source that made it.
    source: Option<usize>,
    /// It is among the turns.
    has_turn: bool,
    counters: PortCounters,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Switch {
    epoll: Epoll,
    ports: BTreeMap<PortId, Port>,
    sources: Vec<Box<dyn PortSource>>,
    fdb: Fdb<PortId>,
    /// Ports that may have a frame, in the order of their turns.
    turns: VecDeque<PortId>,
    until_look: u32,
    gateway: MacAddr,
    next_id: u32,
    /// Is shown every frame, at every port that it passes.
    watcher: Option<SharedWatcher>,
}

/// Where a frame from a port goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Gateway,
    /// To all other ports, and to the gateway.
    Everybody,
    /// To all other ports.
    OtherPorts,
    Port(PortId),
    Nowhere,
}

impl Switch {
    /// An empty switch; `gateway` is the address of the port that
    /// [`Link::recv`] and [`Link::send`] are.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn new(gateway: MacAddr) -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            ports: BTreeMap::new(),
            sources: Vec::new(),
            fdb: Fdb::default(),
            turns: VecDeque::new(),
            until_look: TURNS_PER_LOOK,
            gateway,
            next_id: PortId::FIRST.get(),
            watcher: None,
        })
    }

    /// Plugs a link in.
    ///
    /// # Errors
    /// When the link is not an Ethernet link, all ports are taken, or its
    /// descriptor cannot be watched.
    pub fn plug(&mut self, port: NewPort) -> io::Result<PortId> {
        self.plug_from(port, None)
    }

    /// Lets `source` make ports from now on.
    ///
    /// # Errors
    /// When its descriptor cannot be watched.
    pub fn add_source(&mut self, source: Box<dyn PortSource>) -> io::Result<()> {
        let index = self.sources.len();
        let token = SOURCE | u64::try_from(index).map_err(io::Error::other)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, token);
        self.epoll.add(source.readiness(), event)?;
        self.sources.push(source);
        // What it can do without waiting, such as a first connection.
        self.poll_source(index);
        Ok(())
    }

    /// The ports, in the order they were plugged in.
    pub fn ports(&self) -> impl Iterator<Item = PortInfo> + '_ {
        let mut stations: BTreeMap<PortId, Vec<MacAddr>> = BTreeMap::new();
        for (mac, port, _) in self.fdb.iter() {
            stations.entry(port).or_default().push(mac);
        }
        self.ports.iter().map(move |(id, port)| {
            let mut stations = stations.remove(id).unwrap_or_default();
            stations.sort_unstable();
            PortInfo {
                id: *id,
                name: port.name.clone(),
                stations,
                counters: port.counters,
            }
        })
    }

    fn plug_from(&mut self, port: NewPort, source: Option<usize>) -> io::Result<PortId> {
        if port.link.caps().medium != Medium::Ethernet {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a link that carries bare IP packets cannot share a gateway; give it one of its own",
            ));
        }
        if self.ports.len() >= MAX_PORTS {
            return Err(io::Error::other(format!(
                "all {MAX_PORTS} ports are taken; unplug one first"
            )));
        }
        let id = PortId(self.next_id);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, u64::from(id.0));
        self.epoll.add(port.link.readiness(), event)?;
        self.next_id += 1;
        tracing::info!(port = %id, name = port.name, "plugged in");
        self.ports.insert(
            id,
            Port {
                link: port.link,
                name: port.name,
                source,
                has_turn: false,
                counters: PortCounters::default(),
            },
        );
        Ok(id)
    }

    fn unplug(&mut self, id: PortId, reason: &io::Error) {
        let Some(port) = self.ports.remove(&id) else {
            return;
        };
        self.fdb.forget_port(id);
        // Its descriptor may be shared with its source, so that closing it does
        // not end the watching.
        let _ = self.epoll.delete(port.link.readiness());
        tracing::warn!(port = %id, name = port.name, %reason, "unplugged");
        if let Some(source) = port.source.and_then(|index| self.sources.get_mut(index)) {
            source.lost(reason);
        }
    }

    /// The port whose turn it is, after asking the kernel when none is known to
    /// have a frame, or when it was not asked for long.
    fn next_turn(&mut self) -> io::Result<Option<PortId>> {
        self.until_look -= 1;
        if self.turns.is_empty() || self.until_look == 0 {
            self.until_look = TURNS_PER_LOOK;
            self.collect()?;
        }
        let next = self.turns.pop_front();
        if let Some(port) = next.and_then(|id| self.ports.get_mut(&id)) {
            port.has_turn = false;
        }
        Ok(next)
    }

    /// Lets a port have another turn, behind the others.
    fn give_turn(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(&id)
            && !port.has_turn
        {
            port.has_turn = true;
            self.turns.push_back(id);
        }
    }

    fn collect(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); BATCH];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(e) => return Err(e.into()),
        };
        self.fdb.expire(Instant::now());
        for event in &events[..count] {
            let token = event.data();
            if token & SOURCE == 0 {
                let id = u32::try_from(token).expect("put in from 32 bits");
                self.give_turn(PortId(id));
            } else {
                let index = usize::try_from(token & !SOURCE).expect("an index of sources");
                self.poll_source(index);
            }
        }
        Ok(())
    }

    fn poll_source(&mut self, index: usize) {
        // Bounded: a source that makes ports without end gets another turn.
        for _ in 0..BATCH {
            let Some(source) = self.sources.get_mut(index) else {
                return;
            };
            let outcome = source.poll();
            match outcome {
                Ok(Some(port)) => {
                    let name = port.name.clone();
                    if let Err(error) = self.plug_from(port, Some(index)) {
                        tracing::warn!(name, %error, "cannot plug in");
                        self.sources[index].lost(&error);
                    }
                }
                Ok(None) => return,
                Err(error) => {
                    let name = self.sources[index].name();
                    tracing::warn!(name, %error, "a link failed");
                    return;
                }
            }
        }
    }

    /// Learns from a frame's header and says where the frame goes.
    fn way(&mut self, from: PortId, frame: &[u8]) -> Option<Way> {
        let header: &[u8; HEADER_LEN] = frame.first_chunk()?;
        let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, ..] = *header;
        let destination = MacAddr([d0, d1, d2, d3, d4, d5]);
        let source = MacAddr([s0, s1, s2, s3, s4, s5]);
        if source == self.gateway {
            return None;
        }
        let now = Instant::now();
        self.fdb.learn(source, from, now);
        Some(if destination == self.gateway {
            Way::Gateway
        } else if !destination.is_unicast() {
            Way::Everybody
        } else {
            match self.fdb.find(destination, now) {
                Some(port) if port == from => Way::Nowhere,
                Some(port) => Way::Port(port),
                None => Way::OtherPorts,
            }
        })
    }

    fn send_to(&mut self, id: PortId, offload: &Offload, frame: &[IoSlice<'_>]) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.send(id, self.watcher.as_ref(), offload, frame);
        }
    }

    fn flood(&mut self, except: Option<PortId>, offload: &Offload, frame: &[IoSlice<'_>]) {
        for (id, port) in &mut self.ports {
            if Some(*id) != except {
                port.send(*id, self.watcher.as_ref(), offload, frame);
            }
        }
    }
}

impl Port {
    fn send(
        &mut self,
        id: PortId,
        watcher: Option<&SharedWatcher>,
        offload: &Offload,
        frame: &[IoSlice<'_>],
    ) {
        // A link that is broken says so when it is read.
        if self.link.send(offload, frame).is_err() {
            self.counters.not_sent += 1;
            return;
        }
        self.counters.sent += 1;
        if let Some(watcher) = watcher {
            let mut watcher = watcher.borrow_mut();
            watcher.frame(id, &self.name, Course::Out, offload, frame);
        }
    }
}

impl Link for Switch {
    /// All offloads: each port does in software what it cannot leave to others.
    fn caps(&self) -> Caps {
        Caps {
            medium: Medium::Ethernet,
            checksum: true,
            tso: true,
            uso: true,
        }
    }

    fn readiness(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    fn recv(&mut self, buf: &mut [u8]) -> io::Result<Received> {
        // Bounded: a link that says it is readable, and is not, gets no more.
        for _ in 0..TURNS_PER_LOOK {
            let Some(id) = self.next_turn()? else {
                return Err(io::ErrorKind::WouldBlock.into());
            };
            let Some(port) = self.ports.get_mut(&id) else {
                continue;
            };
            let received = match port.link.recv(buf) {
                Ok(received) => received,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                    self.give_turn(id);
                    return Err(e);
                }
                Err(e) => {
                    self.unplug(id, &e);
                    continue;
                }
            };
            port.counters.received += 1;
            let frame = &buf[..received.len];
            if let Some(watcher) = &self.watcher {
                let mut watcher = watcher.borrow_mut();
                let parts = [IoSlice::new(frame)];
                watcher.frame(id, &port.name, Course::In, &received.offload, &parts);
            }
            self.give_turn(id);
            let Some(way) = self.way(id, frame) else {
                if let Some(port) = self.ports.get_mut(&id) {
                    port.counters.malformed += 1;
                }
                return Err(io::ErrorKind::Interrupted.into());
            };
            let slices = [IoSlice::new(frame)];
            match way {
                Way::Gateway => return Ok(received),
                Way::Everybody => {
                    self.flood(Some(id), &received.offload, &slices);
                    return Ok(received);
                }
                Way::OtherPorts => self.flood(Some(id), &received.offload, &slices),
                Way::Port(port) => self.send_to(port, &received.offload, &slices),
                Way::Nowhere => {}
            }
            return Err(io::ErrorKind::Interrupted.into());
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let mut destination = [0; 6];
        let bytes = frame.iter().flat_map(|slice| slice.iter());
        for (to, from) in destination.iter_mut().zip(bytes) {
            *to = *from;
        }
        let destination = MacAddr(destination);
        let known = if destination.is_unicast() {
            self.fdb.find(destination, Instant::now())
        } else {
            None
        };
        match known {
            Some(port) => self.send_to(port, offload, frame),
            None => self.flood(None, offload, frame),
        }
        Ok(())
    }

    fn ports(&self) -> Vec<PortInfo> {
        Self::ports(self).collect()
    }

    fn watch_frames(&mut self, watcher: Option<SharedWatcher>) -> Watched {
        self.watcher = watcher;
        Watched::ByTheLink
    }
}

#[cfg(test)]
mod tests;
