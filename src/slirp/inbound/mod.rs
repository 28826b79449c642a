//! Listeners on the host whose clients are led to the guest.
//!
//! # Theory of operation
//!
//! A listener's socket is made above and handed over ([`Slirp::listen`]). It is
//! watched edge-triggered as every other; readiness only marks it, and
//! [`Inbound::work`] accepts from the marked ones in turn, at most
//! [`CLIENTS_PER_ROUND`] in all, so that a flood at one port starves neither the
//! other ports nor the flows that are open.
//!
//! What becomes of a client: TCP and unix streams in
//! [`tcp::opening`](super::tcp), datagrams in [`datagrams`]. What the guest sees
//! of it and which of the guest's addresses it gets: [`seen`].
//!
//! When the process is out of descriptors, accepting rests for [`PAUSE`]; the
//! clients stay in the kernel's queue. Where the table of flows is full instead,
//! they are reset: the queue would only make them wait.
//!
//! [`Slirp::listen`]: super::Slirp::listen

mod datagrams;
mod seen;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{SockRef, Type};

use self::datagrams::Clients;
pub(crate) use self::seen::{PortSearch, canonical, seen_as};
use super::Core;
use super::counters::DropReason;
use super::events::Ending;
use super::flow::{Slots, Table, Token};
use super::flows::FlowInfo;
use super::lwip::FrameBuf;
use super::reactor::Readiness;
use super::tcp::Tcp;
use super::udp::{Arrival, Batch, Pace, Receiver};
use crate::wire::icmp::Refusal;

/// Listeners at most: every port of both protocols and families would be four
/// times as many, but each costs a descriptor.
pub(crate) const MAX_LISTENERS: usize = 65536;

/// Clients accepted from one listener before the others get their turn, and
/// from all of them in one round.
const CLIENTS_PER_VISIT: usize = 16;
const CLIENTS_PER_ROUND: usize = 64;

/// How long accepting rests when there are no descriptors or is no memory.
const PAUSE: Duration = Duration::from_millis(100);

/// What a listener's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    /// A TCP socket that listens.
    Tcp,
    /// A unix stream socket that listens; its clients appear as the gateway.
    Unix,
    /// A bound UDP socket.
    Udp,
}

/// Where in the guest a listener's clients end up. A client gets the side of
/// its own family; the other one, where that is missing or refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestTarget {
    /// IPv4 side.
    pub v4: Option<SocketAddrV4>,
    /// IPv6 side.
    pub v6: Option<SocketAddrV6>,
}

/// A socket whose clients are led to the guest.
#[derive(Debug)]
pub struct Listener {
    /// Bound, and listening where its kind does that; non-blocking.
    pub socket: OwnedFd,
    /// What it is.
    pub kind: ListenerKind,
    /// Where its clients end up.
    pub target: GuestTarget,
}

/// Names a listener of a [`Slirp`](super::Slirp).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerId(pub(super) Token);

/// A listener at work.
#[derive(Debug)]
struct Entry {
    listener: Listener,
    pace: Pace,
    marked: bool,
}

/// All listeners.
#[derive(Debug)]
pub(crate) struct Inbound {
    listeners: Slots<Entry>,
    clients: Clients,
    marked: VecDeque<Token>,
    /// Nothing is accepted before.
    paused: Option<Instant>,
}

/// Why [`accept`] stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepted {
    /// Nobody waits any more.
    All,
    /// As many as it may.
    Some,
    /// The process cannot take more.
    Exhausted,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            listeners: Slots::new(Table::Listener, MAX_LISTENERS),
            clients: Clients::new(),
            marked: VecDeque::new(),
            paused: None,
        }
    }

    /// Listeners in the table.
    pub(crate) fn len(&self) -> usize {
        self.listeners.len()
    }

    /// Clients of UDP listeners.
    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// See [`Slirp::listen`](super::Slirp::listen).
    pub(crate) fn listen(&mut self, core: &Core, mut listener: Listener) -> io::Result<ListenerId> {
        listener.target = listener.target.within(&core.plan);
        if (listener.target.v4, listener.target.v6) == (None, None) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the target is no address that a guest can have",
            ));
        }
        prepare(&listener)?;
        if self.listeners.is_full() {
            return Err(io::Error::other("there are too many listeners"));
        }
        let mut watched = Ok(());
        let token = self.listeners.insert_with(|token| {
            watched = core.reactor.watch(&listener.socket, token);
            watched.is_ok().then_some(Entry {
                listener,
                pace: Pace::default(),
                marked: false,
            })
        });
        watched?;
        token
            .map(ListenerId)
            .ok_or_else(|| io::ErrorKind::Other.into())
    }

    /// See [`Slirp::unlisten`](super::Slirp::unlisten).
    pub(crate) fn unlisten(&mut self, core: &mut Core, ListenerId(token): ListenerId) -> bool {
        let Some(entry) = self.listeners.remove(token) else {
            return false;
        };
        // Whoever made the socket may hold a copy of it.
        core.reactor.forget(&entry.listener.socket);
        self.clients.end_all_of(core, token);
        true
    }

    /// The reactor has news of a listener's socket.
    pub(crate) fn host_ready(&mut self, token: Token, ready: Readiness) {
        if ready.readable
            && let Some(entry) = self.listeners.get_mut(token)
            && !entry.marked
        {
            entry.marked = true;
            self.marked.push_back(token);
        }
    }

    /// Takes what waits at marked listeners. True when there is more.
    pub(crate) fn work(&mut self, core: &mut Core, tcp: &mut Tcp, receiver: &mut Receiver) -> bool {
        if self.paused.is_some_and(|until| until > core.now) {
            return false;
        }
        self.paused = None;
        let mut clients = 0;
        while clients < CLIENTS_PER_ROUND
            && let Some(token) = self.marked.pop_front()
        {
            let Some(entry) = self.listeners.get_mut(token) else {
                continue;
            };
            let Entry {
                listener:
                    Listener {
                        socket,
                        kind,
                        target,
                    },
                pace,
                marked,
            } = entry;
            let accepted = if *kind == ListenerKind::Udp {
                clients += CLIENTS_PER_VISIT;
                let more = self
                    .clients
                    .receive(core, receiver, token, socket, pace, target);
                if more { Accepted::Some } else { Accepted::All }
            } else {
                accept(core, tcp, socket, target, &mut clients)
            };
            match accepted {
                Accepted::All => *marked = false,
                Accepted::Some => self.marked.push_back(token),
                Accepted::Exhausted => {
                    self.marked.push_front(token);
                    self.paused = Some(core.now + PAUSE);
                    return false;
                }
            }
        }
        !self.marked.is_empty()
    }

    /// The client that a datagram of the guest's is an answer to.
    pub(crate) fn find(&self, guest: SocketAddr, remote: SocketAddr) -> Option<Token> {
        self.clients.find(guest, remote)
    }

    /// Takes an answer to a client.
    pub(crate) fn answer(
        &mut self,
        core: &mut Core,
        client: Token,
        arrival: Arrival,
        frame: FrameBuf,
    ) {
        if let Some(batch) = self.clients.answer(core, client, arrival, frame) {
            self.send(core, &batch);
        }
    }

    /// Sends the answers under way.
    pub(crate) fn flush(&mut self, core: &mut Core) {
        if let Some(batch) = self.clients.take_batch() {
            self.send(core, &batch);
        }
    }

    fn send(&mut self, core: &mut Core, batch: &Batch) {
        if let Some((listener, source)) = self.clients.way_out(batch)
            && let Some(entry) = self.listeners.get_mut(listener)
        {
            // A client cannot be told, and the guest was.
            let _ = batch.send(core, &entry.listener.socket, source);
        }
    }

    /// What clients of UDP listeners there are from the place `first` on.
    pub(crate) fn list(&self, first: usize, now: Instant) -> impl Iterator<Item = FlowInfo> {
        self.clients.list(first, now)
    }

    /// Forgets a client of a UDP listener. False when there is none.
    pub(crate) fn close(&mut self, core: &mut Core, client: Token) -> bool {
        self.clients.close(core, client)
    }

    /// Forgets every client of a UDP listener.
    pub(crate) fn end_all(&mut self, core: &mut Core, ending: Ending) {
        self.clients.end_all(core, ending);
    }

    /// The guest said by ICMP that it does not want a datagram of a client's.
    pub(crate) fn refused(&mut self, core: &mut Core, refusal: &Refusal<'_>) {
        self.clients.refused(core, refusal);
    }

    /// Nobody on the guest's network has the address `addr`.
    pub(crate) fn silent(&mut self, core: &mut Core, addr: IpAddr) {
        self.clients.silent(core, addr);
    }

    /// Ends what is idle.
    pub(crate) fn poll_timers(&mut self, core: &mut Core) {
        self.clients.poll_timers(core);
    }

    /// When [`Inbound::work`] or [`Inbound::poll_timers`] has something to do
    /// although nothing arrives.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let times = [self.paused, self.clients.next_deadline()];
        times.into_iter().flatten().min()
    }
}

/// What a listener's socket is set to, once for all its clients.
fn prepare(listener: &Listener) -> io::Result<()> {
    let socket = SockRef::from(&listener.socket);
    let fits = match listener.kind {
        ListenerKind::Tcp | ListenerKind::Unix => socket.is_listener()?,
        ListenerKind::Udp => socket.r#type()? == Type::DGRAM,
    };
    if !fits {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the socket is not of the kind that the forward needs",
        ));
    }
    socket.set_nonblocking(true)?;
    match listener.kind {
        // Linux hands it on to the sockets that are accepted.
        ListenerKind::Tcp => socket.set_tcp_nodelay(true),
        ListenerKind::Unix => Ok(()),
        ListenerKind::Udp => prepare_udp(&listener.socket),
    }
}

fn prepare_udp(socket: &OwnedFd) -> io::Result<()> {
    // Without it datagrams come one by one: slower, not wrong.
    let _ = setsockopt(socket, sockopt::UdpGroSegment, &true);
    let local = SockRef::from(socket).local_addr()?.as_socket();
    match local {
        Some(SocketAddr::V4(at)) if at.ip().is_unspecified() => {
            setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?;
        }
        Some(SocketAddr::V6(at)) if at.ip().is_unspecified() => {
            setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?;
        }
        _ => {}
    }
    Ok(())
}

/// The guest's addresses to try for a client.
#[derive(Debug)]
pub(crate) struct Candidates {
    /// Best first.
    pub(crate) all: ArrayVec<SocketAddr, 2>,
    /// Which to begin with: the first, unless it alone is known not to answer.
    pub(crate) at: usize,
}

impl Candidates {
    pub(crate) fn new(core: &mut Core, target: &GuestTarget, client: Option<IpAddr>) -> Self {
        let mut all = target.candidates(client);
        for guest in &mut all {
            if core.egress().neighbours().is_silent(guest.ip()) {
                *guest = core.another_guest(*guest).unwrap_or(*guest);
            }
        }
        let neighbours = core.egress().neighbours();
        let at = match all[..] {
            [a, b] if neighbours.is_silent(a.ip()) && !neighbours.is_silent(b.ip()) => 1,
            _ => 0,
        };
        Self { all, at }
    }
}

/// Accepts some clients of a listener; `clients` counts them.
fn accept(
    core: &mut Core,
    tcp: &mut Tcp,
    socket: &OwnedFd,
    target: &GuestTarget,
    clients: &mut usize,
) -> Accepted {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    for _ in 0..CLIENTS_PER_VISIT {
        *clients += 1;
        match acceptfrom_with(socket, flags) {
            Ok((accepted, addr)) => {
                let client = addr.and_then(|addr| SocketAddr::try_from(addr).ok());
                tcp.accepted(core, accepted, client.map(canonical), target);
            }
            Err(Errno::AGAIN) => return Accepted::All,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                core.drop(DropReason::HostSocket);
                return Accepted::Exhausted;
            }
            // Not a listening socket (any more): only an edge could change it.
            Err(Errno::INVAL | Errno::BADF | Errno::NOTSOCK | Errno::OPNOTSUPP) => {
                return Accepted::All;
            }
            // That client has gone again; the next may be there.
            Err(_) => {}
        }
    }
    Accepted::Some
}
