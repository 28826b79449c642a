//! The guest's pings to the outside.
//!
//! # Theory of operation
//! Each guest address and identifier has a socket of its own: an unprivileged
//! ping socket (`net.ipv4.ping_group_range` permitting), else a raw one. The
//! kernel puts its own identifier on the wire; replies get the guest's back. A
//! hop limit that runs out on the way is reported through the error queue, so
//! that ICMP traceroute works too.
//!
//! Limits: [`MAX_FLOWS`]; the one idle longest makes room. Idle: [`IDLE`].

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg, sendto};

use super::Core;
use super::counters::DropReason;
use super::egress::Problem;
use super::errqueue::{self, socket_addr};
use super::events::{Ending, Ends, verdict_of};
use super::flow::{Idle, Slots, Table, Token};
use super::pairs::{Pairs, Passed};
use super::reactor::Readiness;
use super::sockets::{EchoKind, set_hop_limit};
use crate::policy::{FlowVerdict, HowEnded, Party, Protocol, Verdict};
use crate::wire::icmp::{Echo as EchoMessage, echo_reply};

/// Flows at most.
pub(crate) const MAX_FLOWS: usize = 256;

/// How long a flow waits for another request or reply.
const IDLE: Duration = Duration::from_secs(30);

/// Replies taken from one socket per visit.
const REPLIES_PER_VISIT: usize = 64;

/// ICMP types of an echo request and its reply, IPv4 and IPv6.
const REQUEST4: u8 = 8;
const REPLY4: u8 = 0;
const REQUEST6: u8 = 128;
const REPLY6: u8 = 129;

#[derive(Debug)]
struct Flow {
    guest: IpAddr,
    ident: u16,
    socket: OwnedFd,
    kind: EchoKind,
    hop_limit: Option<u8>,
    active: Instant,
    /// What is told of; `None` when nothing is.
    pairs: Option<Box<Pairs>>,
}

impl Flow {
    fn send(&mut self, request: &EchoMessage<'_>, to: SocketAddr) -> std::io::Result<()> {
        let hops = request.ttl - 1; // checked by the ingress
        if self.hop_limit != Some(hops) {
            set_hop_limit(&self.socket, to.ip(), hops)?;
            self.hop_limit = Some(hops);
        }
        Ok(send_request(self, request, to)?)
    }
}

impl Idle for Flow {
    fn active(&self) -> Instant {
        self.active
    }

    fn limit(&self) -> Duration {
        IDLE
    }
}

/// All echo flows.
#[derive(Debug)]
pub(crate) struct Echo {
    flows: Slots<Flow>,
    index: HashMap<(IpAddr, u16), Token>,
    /// The missing permission was already reported.
    warned: bool,
    buffer: Vec<u8>,
}

impl Echo {
    pub(crate) fn new() -> Self {
        Self {
            flows: Slots::new(Table::Echo, MAX_FLOWS),
            index: HashMap::new(),
            warned: false,
            buffer: Vec::new(),
        }
    }

    /// Takes an ICMP packet of the guest. Only echo requests are carried.
    pub(crate) fn input(&mut self, core: &mut Core, packet: &[u8]) {
        let Some(request) = EchoMessage::parse_request(packet) else {
            return core.drop(DropReason::Protocol);
        };
        match core
            .policy
            .verdict(Protocol::Echo, SocketAddr::new(request.dst, 0))
        {
            Verdict::Local => {
                if let Some(reply) = echo_reply(packet) {
                    core.egress().packet(&reply);
                }
            }
            Verdict::Connect(to) if core.forward_echo => self.forward(core, &request, to, packet),
            Verdict::Connect(_) => {
                turned_away(core, &request, FlowVerdict::Unreachable);
                core.problem(Problem::Prohibited, packet);
            }
            Verdict::Unreachable => {
                turned_away(core, &request, FlowVerdict::Unreachable);
                core.problem(Problem::NetUnreachable, packet);
            }
            Verdict::Drop | Verdict::Dns | Verdict::ConnectUnix(_) => {
                turned_away(core, &request, FlowVerdict::Dropped);
                core.drop(DropReason::NoNeighbour)
            }
        }
    }

    fn forward(
        &mut self,
        core: &mut Core,
        request: &EchoMessage<'_>,
        to: SocketAddr,
        packet: &[u8],
    ) {
        let token = match self.flow_for(core, request) {
            Ok(token) => token,
            Err(error) => {
                turned_away(core, request, verdict_of(error.raw_os_error()));
                return self.failed(core, &error, packet);
            }
        };
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        if let Some(pairs) = &mut flow.pairs {
            let passed = passed(ends(request), to.ip(), request.payload.len());
            pairs.sent(&mut core.events, core.now, passed);
        }
        if let Err(error) = flow.send(request, to) {
            if let Some(pairs) = &mut flow.pairs
                && let Some(problem) = Problem::from_errno(errno(&error))
            {
                pairs.failed(&mut core.events, core.now, to, problem);
            }
            self.failed(core, &error, packet);
        }
    }

    fn failed(&mut self, core: &mut Core, error: &std::io::Error, packet: &[u8]) {
        let errno = errno(error);
        if matches!(errno, Errno::EACCES | Errno::EPERM) && !self.warned {
            self.warned = true;
            tracing::warn!(
                "guests cannot ping the outside: this user may not open ping sockets; \
                 to allow it: sysctl -w net.ipv4.ping_group_range=\"0 2147483647\""
            );
        }
        match Problem::from_errno(errno) {
            Some(problem) => core.problem(problem, packet),
            None => core.drop(DropReason::HostError),
        }
    }

    fn flow_for(&mut self, core: &mut Core, request: &EchoMessage<'_>) -> std::io::Result<Token> {
        let key = (request.src, request.ident);
        if let Some(&token) = self.index.get(&key)
            && let Some(flow) = self.flows.get_mut(token)
        {
            flow.active = core.now;
            return Ok(token);
        }
        if self.flows.is_full() {
            for oldest in self.flows.longest_idle(1) {
                self.remove(core, oldest, Ending::ours(HowEnded::Evicted));
            }
        }
        let (socket, kind) = core.sockets.echo(request.dst)?;
        let mut watched = Ok(());
        let token = self.flows.insert_with(|token| {
            watched = core.reactor.watch(&socket, token);
            let (guest, ident) = key;
            let active = core.now;
            watched.is_ok().then_some(Flow {
                guest,
                ident,
                socket,
                kind,
                hop_limit: None,
                active,
                pairs: core.events.is_on().then(|| Box::new(Pairs::new(token))),
            })
        });
        watched?;
        let token = token.ok_or(Errno::ENOBUFS)?;
        self.index.insert(key, token);
        self.flows.look_by(core.now + IDLE);
        Ok(token)
    }

    fn remove(&mut self, core: &mut Core, token: Token, ending: Ending) {
        if let Some(flow) = self.flows.remove(token) {
            if let Some(pairs) = flow.pairs {
                pairs.end(&mut core.events, core.now, ending);
            }
            self.index.remove(&(flow.guest, flow.ident));
        }
    }

    /// The reactor has news of a flow's socket.
    pub(crate) fn host_ready(&mut self, core: &mut Core, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        flow.active = core.now;
        if ready.error {
            let reports = errqueue::drain(&flow.socket);
            let _ = socket2::SockRef::from(&flow.socket).take_error();
            for report in reports {
                if let Some(pairs) = &mut flow.pairs {
                    let peer = SocketAddr::new(report.destination.ip(), 0);
                    pairs.failed(&mut core.events, core.now, peer, report.problem);
                }
                relay(core, flow, &report);
            }
        }
        if !ready.readable {
            return;
        }
        self.buffer.resize(u16::MAX.into(), 0);
        for _ in 0..REPLIES_PER_VISIT {
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            let fd = flow.socket.as_raw_fd();
            let received =
                recvmsg::<SockaddrStorage>(fd, &mut slices, None, MsgFlags::MSG_DONTWAIT)
                    .map(|m| (m.bytes, m.address.as_ref().and_then(socket_addr)));
            match received {
                Ok((len, Some(from))) => reply(core, flow, from.ip(), &self.buffer[..len]),
                Ok((_, None)) => {}
                Err(_) => return,
            }
        }
        // Edge-triggered: what is left comes with the next edge or is dropped
        // by the socket's own bound; pings are rare.
    }

    /// Removes idle flows.
    pub(crate) fn poll_timers(&mut self, core: &mut Core) {
        for token in self.flows.idle(core.now) {
            self.remove(core, token, Ending::ours(HowEnded::Idle));
        }
    }

    /// Ends every flow.
    pub(crate) fn end_all(&mut self, core: &mut Core, ending: Ending) {
        let tokens: Vec<Token> = self.flows.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.remove(core, token, ending);
        }
    }

    /// When [`Echo::poll_timers`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.flows.next_look()
    }
}

fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(0))
}

/// The ends of the flow that a request belongs to. A flow of echo has no ports;
/// the guest's is the identifier.
fn ends(request: &EchoMessage<'_>) -> Ends {
    Ends {
        protocol: Protocol::Echo,
        guest: SocketAddr::new(request.src, request.ident),
        remote: SocketAddr::new(request.dst, 0),
    }
}

fn passed(ends: Ends, peer: IpAddr, bytes: usize) -> Passed {
    Passed {
        ends,
        peer: SocketAddr::new(peer, 0),
        bytes: bytes as u64,
        datagrams: 1,
    }
}

/// Tells of a request that led to no flow.
fn turned_away(core: &mut Core, request: &EchoMessage<'_>, verdict: FlowVerdict) {
    let by = Party::Gateway;
    core.events
        .turned_away(core.now, ends(request), verdict, by);
}

fn send_request(flow: &Flow, request: &EchoMessage<'_>, to: SocketAddr) -> Result<(), Errno> {
    let kind = if to.is_ipv4() { REQUEST4 } else { REQUEST6 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(request.ident.to_be_bytes());
    message.extend(request.seq.to_be_bytes());
    message.extend_from_slice(request.payload);
    if to.is_ipv4() {
        // The kernel fills it in on ping sockets, and for ICMPv6 on both kinds.
        let sum = crate::wire::checksum::internet(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    let address = SockaddrStorage::from(SocketAddr::new(to.ip(), 0));
    sendto(
        flow.socket.as_raw_fd(),
        &message,
        &address,
        MsgFlags::MSG_DONTWAIT,
    )
    .map(|_| ())
}

/// Hands a reply to the guest, under its own identifier.
fn reply(core: &mut Core, flow: &mut Flow, from: IpAddr, bytes: &[u8]) {
    let message = match (flow.kind, from) {
        // Raw IPv4 sockets deliver the IP header as well (raw(7)).
        (EchoKind::Raw, IpAddr::V4(_)) => {
            let header = usize::from(bytes.first().copied().unwrap_or(0) & 0x0f) * 4;
            bytes.get(header..).unwrap_or_default()
        }
        _ => bytes,
    };
    let Some((&[kind, _, _, _, i0, i1, s0, s1], payload)) = message.split_first_chunk() else {
        return;
    };
    let expected = if from.is_ipv4() { REPLY4 } else { REPLY6 };
    let ours = flow.kind == EchoKind::Ping || u16::from_be_bytes([i0, i1]) == flow.ident;
    if kind != expected || !ours {
        return;
    }
    let seen = core.as_guest_sees(SocketAddr::new(from, 0), SocketAddr::new(flow.guest, 0));
    let reply = EchoMessage {
        src: seen.ip(),
        dst: flow.guest,
        ttl: 64,
        ident: flow.ident,
        seq: u16::from_be_bytes([s0, s1]),
        payload,
    };
    if let Some(pairs) = &mut flow.pairs {
        let ends = Ends {
            protocol: Protocol::Echo,
            guest: SocketAddr::new(flow.guest, flow.ident),
            remote: seen,
        };
        let passed = passed(ends, from, payload.len());
        pairs.received(&mut core.events, core.now, passed);
    }
    if let Ok(packet) = reply.to_reply_packet() {
        core.egress().packet(&packet);
    }
}

/// Passes on what a router said about a request.
fn relay(core: &mut Core, flow: &Flow, report: &errqueue::Report) {
    let Some((&[_, _, _, _, _, _, s0, s1], payload)) = report.payload.split_first_chunk() else {
        return;
    };
    let request = EchoMessage {
        src: flow.guest,
        dst: report.destination.ip(),
        ttl: flow.hop_limit.unwrap_or(63).saturating_add(1),
        ident: flow.ident,
        seq: u16::from_be_bytes([s0, s1]),
        payload,
    };
    let Ok(offending) = request.to_request_packet() else {
        return;
    };
    match report.offender {
        Some(router) => core.egress().problem(report.problem, router, &offending),
        None => core.problem(report.problem, &offending),
    }
}
