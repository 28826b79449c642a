//! The guest's UDP.
//!
//! # Theory of operation
//!
//! **Endpoint-independent mapping** (RFC 4787 REQ-1): one host socket per guest
//! address and port, not connected, so that the guest keeps its outside port
//! towards everybody and every answer reaches it. A port of the gateway that
//! leads to another port of the host is the exception: it has a socket to itself,
//! because the answers must come from the port that was asked, and two such ports
//! may lead to one.
//!
//! **Batches.** Datagrams of one flow to one destination that arrive in the
//! same round and have the same size leave as one `sendmsg` with `UDP_SEGMENT`;
//! the guest's own super-frames (USO) already are such a batch. Towards the
//! guest, datagrams are taken from the socket many at a time, and those of the
//! same sender and size become one super-frame.
//!
//! **Hops and errors.** The gateway is one hop: the host's packets carry the
//! guest's hop limit less one. `IP_RECVERR` brings back what routers said; the
//! guest gets it as the ICMP error it would have seen.
//!
//! **Limits.** [`MAX_FLOWS`]; the flow that was idle longest makes room. Idle
//! times: [`IDLE_DNS`], [`IDLE_UNANSWERED`], [`IDLE_ANSWERED`] (RFC 4787 REQ-5).

mod batch;
mod receive;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

pub(crate) use self::batch::{Batch, Local};
pub(crate) use self::receive::{Datagram, Pace, Receiver};
use super::Core;
use super::counters::DropReason;
use super::egress::Problem;
use super::errqueue;
use super::events::{Ending, Ends, verdict_of};
use super::flow::{FlowKey, Idle, Slots, Table, Token};
use super::flows::{Direction, FlowInfo, FlowState};
use super::lwip::FrameBuf;
use super::packet::IpPacket;
use super::pairs::{Pairs, Passed};
use super::reactor::Readiness;
use super::sockets::{set_dont_fragment, set_hop_limit};
use crate::policy::{FlowVerdict, HowEnded, Party, Protocol, Verdict};
use crate::wire;

/// Flows at most.
pub(crate) const MAX_FLOWS: usize = 8192;

/// Idle limit of a flow that only ever asked port 53.
pub(crate) const IDLE_DNS: Duration = Duration::from_secs(10);
/// Idle limit of a flow that was never answered.
pub(crate) const IDLE_UNANSWERED: Duration = Duration::from_secs(30);
/// Idle limit of a flow with traffic both ways.
pub(crate) const IDLE_ANSWERED: Duration = Duration::from_secs(180);

/// Least time between two looks for idle pairs: each takes a look at all of them.
const PAIRS_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes of a UDP header.
pub(crate) const HEADER: usize = 8;

/// Datagrams in one super-frame of the guest's: Linux makes no more
/// (`UDP_MAX_SEGMENTS`). Where the host cannot cut, each costs a system call.
const MAX_GUEST_SEGMENTS: usize = 128;

/// Batches taken from a socket before the others get their turn.
pub(crate) const RECEIVE_ROUNDS: usize = 4;

#[derive(Debug)]
struct Flow {
    guest: SocketAddr,
    exposed: Option<Exposure>,
    socket: OwnedFd,
    begun: Instant,
    active: Instant,
    /// Where it last sent.
    last: SocketAddr,
    /// Payload bytes carried so far.
    to_guest: u64,
    from_guest: u64,
    answered: bool,
    /// Asked nothing but port 53.
    dns_only: bool,
    /// As set on the socket; `None`: the kernel's default.
    hop_limit: Option<u8>,
    dont_fragment: Option<bool>,
    readable: bool,
    pace: Pace,
    marked: bool,
    /// What is told of; `None` when nothing is.
    pairs: Option<Box<Pairs>>,
}

/// A port of the gateway that leads to another of the host.
#[derive(Debug, Clone, Copy)]
struct Exposure {
    /// The gateway's, as the guest names it.
    port: SocketAddr,
    /// The host's.
    target: SocketAddr,
}

/// Whom the guest sees as the other end at `addr`.
fn seen(core: &Core, exposed: Option<Exposure>, addr: SocketAddr, guest: SocketAddr) -> SocketAddr {
    match exposed {
        Some(exposed) if exposed.target == addr => exposed.port,
        _ => core.as_guest_sees(addr, guest),
    }
}

impl Idle for Flow {
    fn active(&self) -> Instant {
        self.active
    }

    fn limit(&self) -> Duration {
        match (self.answered, self.dns_only) {
            (_, true) => IDLE_DNS,
            (false, false) => IDLE_UNANSWERED,
            (true, false) => IDLE_ANSWERED,
        }
    }
}

impl Flow {
    fn passed(&self, core: &Core, peer: SocketAddr, bytes: u64, datagrams: u64) -> Passed {
        Passed {
            ends: Ends {
                protocol: Protocol::Udp,
                guest: self.guest,
                remote: seen(core, self.exposed, peer, self.guest),
            },
            peer,
            bytes,
            datagrams,
        }
    }

    fn tell_received(&mut self, core: &mut Core, datagrams: &[Datagram]) {
        if self.pairs.is_none() {
            return;
        }
        for datagram in datagrams {
            let (bytes, count) = (datagram.len as u64, datagram.count());
            let passed = self.passed(core, datagram.from, bytes, count);
            if let Some(pairs) = &mut self.pairs {
                pairs.received(&mut core.events, core.now, passed);
            }
        }
    }

    fn tell_sent(&mut self, core: &mut Core, batch: &Batch) {
        let passed = self.passed(core, batch.to, batch.bytes as u64, batch.datagrams());
        if let Some(pairs) = &mut self.pairs {
            pairs.sent(&mut core.events, core.now, passed);
        }
    }

    fn tell_failed(&mut self, core: &mut Core, peer: SocketAddr, problem: Problem) {
        if let Some(pairs) = &mut self.pairs {
            pairs.failed(&mut core.events, core.now, peer, problem);
        }
    }

    /// Takes one batch from the socket. True when there may be more.
    fn receive(&mut self, core: &mut Core, receiver: &mut Receiver) -> bool {
        let datagrams = match receiver.receive(&self.socket, &mut self.pace) {
            Ok(datagrams) => datagrams,
            Err(Errno::EAGAIN) => {
                self.readable = false;
                return false;
            }
            // An error of an earlier datagram; the queue has the details.
            Err(_) => return true,
        };
        self.readable = self.pace == Pace::Busy;
        self.active = core.now;
        self.answered = true;
        self.to_guest += datagrams.iter().map(|d| d.len as u64).sum::<u64>();
        let (guest, exposed) = (self.guest, self.exposed);
        self.tell_received(core, &datagrams);
        receiver.to_guest(core, guest, &datagrams, |core, from| {
            seen(core, exposed, from, guest)
        });
        self.readable
    }
}

/// A UDP datagram, or super-frame of several, from the guest.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) ip: IpPacket,
    pub(crate) guest: SocketAddr,
    pub(crate) remote: SocketAddr,
    /// Where in the frame the payload is.
    pub(crate) payload: Range<usize>,
    /// Size of each datagram in a super-frame.
    pub(crate) segment: Option<u16>,
}

impl Arrival {
    /// What the host's packets carry. The ingress has checked it, but for the
    /// gateway's own addresses.
    fn hop_limit(&self) -> u8 {
        self.ip.hop_limit.saturating_sub(1).max(1)
    }

    /// True for a super-frame of more datagrams than Linux makes.
    pub(crate) fn is_excessive(&self) -> bool {
        let most = |size| usize::from(size) * MAX_GUEST_SEGMENTS;
        self.segment
            .is_some_and(|size| self.payload.len() > most(size))
    }
}

/// All UDP flows.
pub(crate) struct Udp {
    flows: Slots<Flow>,
    index: HashMap<SocketAddr, Token>,
    /// Those with an [`Exposure`], by guest and the gateway's port.
    exposed: HashMap<FlowKey, Token>,
    marked: Vec<Token>,
    batch: Option<Batch>,
    /// When to look for idle pairs.
    pairs_look: Option<Instant>,
}

impl std::fmt::Debug for Udp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Udp")
            .field("flows", &self.flows.len())
            .finish_non_exhaustive()
    }
}

impl Udp {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            flows: Slots::new(Table::Udp, limit.min(MAX_FLOWS)),
            index: HashMap::new(),
            exposed: HashMap::new(),
            marked: Vec::new(),
            batch: None,
            pairs_look: None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Takes a datagram; `frame` holds its bytes.
    pub(crate) fn input(&mut self, core: &mut Core, arrival: Arrival, frame: FrameBuf) {
        let to = match core.policy.verdict(Protocol::Udp, arrival.remote) {
            Verdict::Connect(to) => to,
            Verdict::Dns => {
                let query = &frame.bytes()[arrival.payload];
                return core
                    .local
                    .dns_datagram(arrival.guest, arrival.remote, query);
            }
            Verdict::Unreachable | Verdict::ConnectUnix(_) => {
                turned_away(core, &arrival, FlowVerdict::Unreachable, Party::Gateway);
                let packet = &frame.bytes()[arrival.ip.packet];
                return core.problem(Problem::NetUnreachable, packet);
            }
            Verdict::Drop | Verdict::Local => {
                turned_away(core, &arrival, FlowVerdict::Dropped, Party::Gateway);
                return core.drop(DropReason::NoNeighbour);
            }
        };
        let exposed = (to.port() != arrival.remote.port()).then_some(Exposure {
            port: arrival.remote,
            target: to,
        });
        let flow = match self.flow_for(core, arrival.guest, to, exposed) {
            Ok(flow) => flow,
            Err(e) => {
                let errno = Errno::from_raw(e.raw_os_error().unwrap_or(0));
                let verdict = verdict_of(e.raw_os_error());
                turned_away(core, &arrival, verdict, Party::Gateway);
                let packet = &frame.bytes()[arrival.ip.packet];
                match Problem::from_errno(errno) {
                    Some(problem) => core.problem(problem, packet),
                    None => core.drop(DropReason::HostSocket),
                }
                return;
            }
        };
        self.enqueue(core, flow, to, arrival, frame);
    }

    fn flow_for(
        &mut self,
        core: &mut Core,
        guest: SocketAddr,
        to: SocketAddr,
        exposed: Option<Exposure>,
    ) -> std::io::Result<Token> {
        let known = match &exposed {
            Some(exposed) => self.exposed.get(&FlowKey::new(guest, exposed.port)),
            None => self.index.get(&guest),
        };
        if let Some(&token) = known
            && let Some(flow) = self.flows.get_mut(token)
        {
            flow.active = core.now;
            flow.dns_only &= to.port() == 53;
            return Ok(token);
        }
        if self.flows.is_full() {
            for oldest in self.flows.longest_idle(1) {
                self.remove(core, oldest, Ending::ours(HowEnded::Evicted));
            }
        }
        let socket = core.sockets.udp(to)?;
        let mut watched = Ok(());
        let token = self.flows.insert_with(|token| {
            watched = core.reactor.watch(&socket, token);
            watched.is_ok().then_some(Flow {
                guest,
                exposed,
                socket,
                begun: core.now,
                active: core.now,
                last: to,
                to_guest: 0,
                from_guest: 0,
                answered: false,
                dns_only: to.port() == 53,
                hop_limit: None,
                dont_fragment: None,
                readable: false,
                pace: Pace::default(),
                marked: false,
                pairs: core.events.is_on().then(|| Box::new(Pairs::new(token))),
            })
        });
        watched?;
        let token = token.ok_or(Errno::ENOBUFS)?;
        match exposed {
            Some(exposed) => {
                let key = FlowKey::new(guest, exposed.port);
                self.exposed.insert(key, token)
            }
            None => self.index.insert(guest, token),
        };
        self.flows.look_by(core.now + IDLE_DNS);
        Ok(token)
    }

    fn remove(&mut self, core: &mut Core, token: Token, ending: Ending) {
        if let Some(flow) = self.flows.remove(token) {
            if let Some(pairs) = flow.pairs {
                pairs.end(&mut core.events, core.now, ending);
            }
            match flow.exposed {
                Some(exposed) => self.exposed.remove(&FlowKey::new(flow.guest, exposed.port)),
                None => self.index.remove(&flow.guest),
            };
        }
    }

    /// Adds to the batch under way when it fits, else sends that first.
    fn enqueue(
        &mut self,
        core: &mut Core,
        flow: Token,
        to: SocketAddr,
        arrival: Arrival,
        frame: FrameBuf,
    ) {
        if let Some(batch) = &mut self.batch
            && batch.fits(flow, to, &arrival)
        {
            return batch.add(arrival, frame);
        }
        self.flush(core);
        self.batch = Some(Batch::new(flow, to, arrival, frame));
    }

    /// Sends the batch under way.
    pub(crate) fn flush(&mut self, core: &mut Core) {
        let Some(batch) = self.batch.take() else {
            return;
        };
        let Some(flow) = self.flows.get_mut(batch.flow) else {
            return;
        };
        if flow.hop_limit != Some(batch.hop_limit)
            && set_hop_limit(&flow.socket, batch.to.ip(), batch.hop_limit).is_ok()
        {
            flow.hop_limit = Some(batch.hop_limit);
        }
        if flow.dont_fragment != Some(batch.dont_fragment)
            && set_dont_fragment(&flow.socket, batch.to.ip(), batch.dont_fragment).is_ok()
        {
            flow.dont_fragment = Some(batch.dont_fragment);
        }
        flow.last = batch.to;
        flow.from_guest += batch.bytes as u64;
        if flow.pairs.is_none() {
            let _ = batch.send(core, &flow.socket, None);
            return;
        }
        flow.tell_sent(core, &batch);
        let look = core.now + IDLE_DNS;
        self.pairs_look = Some(self.pairs_look.map_or(look, |at| at.min(look)));
        if let Err(problem) = batch.send(core, &flow.socket, None) {
            flow.tell_failed(core, batch.to, problem);
        }
    }

    /// The reactor has news of a flow's socket.
    pub(crate) fn host_ready(&mut self, core: &mut Core, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        if ready.error {
            let reports = errqueue::drain(&flow.socket);
            let (guest, exposed) = (flow.guest, flow.exposed);
            let hops = flow.hop_limit.unwrap_or(64).saturating_add(1);
            // The error is also pending on the socket; take it, or the next
            // call would fail with it.
            let _ = socket2::SockRef::from(&flow.socket).take_error();
            for report in reports {
                let remote = seen(core, exposed, report.destination, guest);
                flow.tell_failed(core, report.destination, report.problem);
                relay(core, guest, remote, hops, report);
            }
        }
        if ready.readable {
            flow.readable = true;
            self.mark(token);
        }
    }

    fn mark(&mut self, token: Token) {
        if let Some(flow) = self.flows.get_mut(token)
            && !flow.marked
        {
            flow.marked = true;
            self.marked.push(token);
        }
    }

    /// Takes what arrived for marked flows. True when there is more.
    pub(crate) fn work(&mut self, core: &mut Core, receiver: &mut Receiver) -> bool {
        for token in std::mem::take(&mut self.marked) {
            let Some(flow) = self.flows.get_mut(token) else {
                continue;
            };
            flow.marked = false;
            for _ in 0..RECEIVE_ROUNDS {
                if !flow.receive(core, receiver) {
                    break;
                }
            }
            if flow.readable {
                self.mark(token);
            }
        }
        !self.marked.is_empty()
    }

    /// Removes idle flows.
    pub(crate) fn poll_timers(&mut self, core: &mut Core) {
        for token in self.flows.idle(core.now) {
            self.remove(core, token, Ending::ours(HowEnded::Idle));
        }
        if self.pairs_look.is_some_and(|at| at <= core.now) {
            self.end_idle_pairs(core);
        }
    }

    fn end_idle_pairs(&mut self, core: &mut Core) {
        let now = core.now;
        let flows = self.flows.iter_mut();
        let next = flows
            .filter_map(|(_, flow)| flow.pairs.as_mut()?.end_idle(&mut core.events, now))
            .min();
        self.pairs_look = next.map(|at| at.max(now + PAIRS_INTERVAL));
    }

    /// Ends every flow.
    pub(crate) fn end_all(&mut self, core: &mut Core, ending: Ending) {
        let tokens: Vec<Token> = self.flows.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.remove(core, token, ending);
        }
    }

    /// What flows there are from the place `first` on.
    pub(crate) fn list(&self, first: usize, core: &Core) -> impl Iterator<Item = FlowInfo> {
        let flows = self.flows.iter_from(first);
        flows.map(|(token, flow)| FlowInfo {
            id: token.into(),
            protocol: Protocol::Udp,
            direction: Direction::Outbound,
            guest: flow.guest,
            remote: seen(core, flow.exposed, flow.last, flow.guest),
            peer: Some(flow.last),
            state: if flow.answered {
                FlowState::Open
            } else {
                FlowState::Connecting
            },
            to_guest: flow.to_guest,
            from_guest: flow.from_guest,
            age: core.now.duration_since(flow.begun),
            idle: core.now.duration_since(flow.active),
        })
    }

    /// Forgets a flow. False when there is none.
    pub(crate) fn close(&mut self, core: &mut Core, token: Token) -> bool {
        let known = self.flows.get_mut(token).is_some();
        self.remove(core, token, Ending::ours(HowEnded::Killed));
        known
    }

    /// When [`Udp::poll_timers`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let times = [self.flows.next_look(), self.pairs_look];
        times.into_iter().flatten().min()
    }
}

/// Tells of a datagram that led to no flow.
fn turned_away(core: &mut Core, arrival: &Arrival, verdict: FlowVerdict, by: Party) {
    let ends = Ends {
        protocol: Protocol::Udp,
        guest: arrival.guest,
        remote: arrival.remote,
    };
    core.events.turned_away(core.now, ends, verdict, by);
}

/// Passes on what a router, or the host, said.
fn relay(
    core: &mut Core,
    guest: SocketAddr,
    remote: SocketAddr,
    hops: u8,
    report: errqueue::Report,
) {
    // The packet as the guest sent it, as far as it is known.
    let Ok(offending) = wire::udp::datagram(guest, remote, hops, &report.payload) else {
        return;
    };
    match report.offender.filter(|a| !a.is_loopback()) {
        Some(router) => core.egress().problem(report.problem, router, &offending),
        None => core.problem(report.problem, &offending),
    }
}
