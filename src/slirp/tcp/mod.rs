//! The guest's TCP flows.
//!
//! # Theory of operation
//!
//! **Connect first.** The SYN of a new flow is held while the host connects to
//! the destination, so that the guest learns the truth:
//!
//! | the host's connect | the guest sees |
//! |---|---|
//! | succeeds | SYN-ACK |
//! | is refused | RST |
//! | finds no way | ICMP unreachable |
//! | gets no answer | nothing; its own SYNs time out |
//!
//! A repeated SYN replaces the held one. Then the flow is a [`join::Join`] until
//! both sides have closed.
//!
//! **Work is marked, then done.** Segments and socket events only note what
//! happened and mark their flow; [`Tcp::work`] visits each marked flow once per
//! round, so that a batch of frames costs one write to the host and one
//! acknowledgement.
//!
//! **Limits.** Flows: what the process may open as descriptors, at most
//! [`MAX_FLOWS`]. Idle: [`IDLE_ESTABLISHED`], [`IDLE_HALF_CLOSED`]. Memory: see
//! [`join`] and the budget.

mod held;
mod join;
mod list;
mod opening;
mod time_wait;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use socket2::SockRef;

use self::held::{HeldSyn, failed, hold};
use self::join::{ACK_DELAY, AckNeed, Join, Outcome};
pub(crate) use self::opening::HEAD_START;
use self::opening::Opening;
use self::time_wait::{Answer, TimeWaits, acknowledgement};
use super::Core;
use super::counters::DropReason;
use super::egress::Problem;
use super::events::{Ending, Ends, Kept, Way, verdict_of};
use super::flow::{FlowKey, Idle, Slots, Table, Token};
use super::flows::Direction;
use super::inbound::PortSearch;
use super::lwip::{End, Ingress};
use super::packet::{IpPacket, TcpHeader};
use super::reactor::Readiness;
use crate::policy::{Carried, FlowVerdict, HowEnded, Party, Protocol, Verdict};

/// Flows at most, whatever the limit on descriptors.
const MAX_FLOWS: usize = 65536;

/// Longest time a flow may be idle while both directions are open (RFC 5382
/// asks for no less than 2 h 4 min).
pub(crate) const IDLE_ESTABLISHED: Duration = Duration::from_secs(2 * 3600 + 4 * 60);

/// Longest time a flow may be idle once one direction has closed.
pub(crate) const IDLE_HALF_CLOSED: Duration = Duration::from_secs(120);

#[derive(Debug)]
enum Phase {
    Connecting(HeldSyn),
    Joined(Join),
}

#[derive(Debug)]
struct Flow {
    key: FlowKey,
    socket: OwnedFd,
    phase: Phase,
    /// A client that the guest has not answered yet: nothing is read from it.
    opening: Option<Box<Opening>>,
    direction: Direction,
    begun: Instant,
    /// When something last moved.
    active: Instant,
    /// In the queue of marked flows.
    marked: bool,
    /// In the queue of delayed acknowledgements.
    ack_queued: bool,
    /// Its idle limit is that of a half-closed flow.
    half_closed: bool,
    /// Keepalive is on at the host's side.
    keepalive: bool,
    account: Kept,
}

impl Flow {
    fn new(key: FlowKey, socket: OwnedFd, phase: Phase, now: Instant) -> Self {
        Self {
            key,
            socket,
            phase,
            opening: None,
            direction: Direction::Outbound,
            begun: now,
            active: now,
            marked: false,
            ack_queued: false,
            half_closed: false,
            keepalive: false,
            account: None,
        }
    }
}

impl Flow {
    /// Enters what the join has carried into the account.
    fn count(&mut self) {
        let (Some(account), Phase::Joined(join)) = (&mut self.account, &self.phase) else {
            return;
        };
        let (to_guest, from_guest) = join.carried();
        let sent = join.connection.sent();
        account.moved(self.key.guest(), self.key.remote());
        account.from_guest.bytes = from_guest;
        account.to_guest = Carried {
            bytes: to_guest,
            packets: account.to_guest.packets + sent.packets,
            retransmits: account.to_guest.retransmits + sent.again,
        };
    }
}

impl Idle for Flow {
    fn active(&self) -> Instant {
        self.active
    }

    fn limit(&self) -> Duration {
        if self.half_closed {
            IDLE_HALF_CLOSED
        } else {
            IDLE_ESTABLISHED
        }
    }
}

/// All TCP flows.
#[derive(Debug)]
pub(crate) struct Tcp {
    flows: Slots<Flow>,
    index: HashMap<FlowKey, Token>,
    time_waits: TimeWaits,
    marked: VecDeque<Token>,
    delayed_acks: VecDeque<(Instant, Token)>,
    /// Clients that the guest has not answered yet, by when to look at them.
    openings: BTreeSet<(Instant, Token)>,
    ports: PortSearch,
    ended: Vec<u64>,
}

/// A segment as the ingress found it.
#[derive(Debug)]
pub(crate) struct Arrival<'a> {
    pub(crate) ip: &'a IpPacket,
    pub(crate) header: TcpHeader,
    /// The frame's bytes, which `ip` holds offsets into; only looked at when the
    /// segment is a SYN.
    pub(crate) bytes: &'a [u8],
    /// Size of each segment in a super-frame.
    pub(crate) segment: Option<u16>,
}

impl Arrival<'_> {
    /// Packets of the wire's size that it stands for.
    fn packets(&self) -> u64 {
        match self.segment {
            Some(size) if size > 0 => self.header.payload.div_ceil(size.into()).max(1) as u64,
            _ => 1,
        }
    }
}

impl Tcp {
    /// A table for at most `limit` flows.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            flows: Slots::new(Table::Tcp, limit.min(MAX_FLOWS)),
            index: HashMap::new(),
            time_waits: TimeWaits::default(),
            marked: VecDeque::new(),
            delayed_acks: VecDeque::new(),
            openings: BTreeSet::new(),
            ports: PortSearch::default(),
            ended: Vec::new(),
        }
    }

    /// Changes how many flows there may be; those that are open stay.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.flows.set_limit(limit.min(MAX_FLOWS));
    }

    pub(crate) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Decides about a segment. `segment` makes the buffer that lwIP takes; it
    /// is not called when lwIP does not see the segment.
    pub(crate) fn input(
        &mut self,
        core: &mut Core,
        arrival: &Arrival<'_>,
        segment: impl FnOnce() -> Ingress,
    ) {
        let guest = SocketAddr::new(arrival.ip.source, arrival.header.source);
        let remote = SocketAddr::new(arrival.ip.destination, arrival.header.destination);
        let key = FlowKey::new(guest, remote);
        if let Some(&token) = self.index.get(&key) {
            if !(arrival.header.is_open() && self.is_over(token)) {
                return self.input_known(core, token, arrival, segment);
            }
            // The guest uses the port again. The old flow, which may still owe
            // the host data, ends by itself.
            self.index.remove(&key);
        }
        match self.time_waits.answer(&key, &arrival.header, core.now) {
            Answer::Acknowledge(state) => {
                core.egress().packet(&acknowledgement(guest, remote, state));
            }
            Answer::Ignore => {}
            Answer::Unknown | Answer::Open if arrival.header.is_open() => {
                self.connect(core, key, arrival);
            }
            Answer::Unknown | Answer::Open => {
                core.stack.refuse(segment());
            }
        }
    }

    /// True when a flow's connection with the guest has ended.
    fn is_over(&mut self, token: Token) -> bool {
        matches!(
            self.flows.get_mut(token),
            Some(Flow { phase: Phase::Joined(join), .. }) if join.connection.end().is_some()
        )
    }

    fn input_known(
        &mut self,
        core: &mut Core,
        token: Token,
        arrival: &Arrival<'_>,
        segment: impl FnOnce() -> Ingress,
    ) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        flow.active = core.now;
        if let Some(account) = &mut flow.account {
            account.from_guest.packets += arrival.packets();
        }
        match &mut flow.phase {
            Phase::Connecting(held) if arrival.header.is_open() => *held = hold(core, arrival),
            // The guest gave up.
            Phase::Connecting(_) if arrival.header.has(super::packet::tcp_flags::RST) => {
                self.end(core, token, Ending::new(Party::Guest, HowEnded::Reset));
            }
            Phase::Connecting(_) => {}
            // The guest is done with the connection, the host not yet with its
            // data: answered as in TIME-WAIT.
            Phase::Joined(join) if join.connection.end() == Some(End::Closed) => {
                if let Some(state) = join.connection.time_wait()
                    && let Answer::Acknowledge(state) = time_wait::answer(state, &arrival.header)
                {
                    let (guest, remote) = (flow.key.guest(), flow.key.remote());
                    core.egress().packet(&acknowledgement(guest, remote, state));
                }
            }
            Phase::Joined(join) => {
                if !flow.keepalive && join.connection.is_keepalive(&arrival.header) {
                    flow.keepalive = SockRef::from(&flow.socket).set_keepalive(true).is_ok();
                }
                core.stack.input(&join.connection, segment());
                self.mark(token);
            }
        }
    }

    /// Begins a flow: asks policy, then the host.
    fn connect(&mut self, core: &mut Core, key: FlowKey, arrival: &Arrival<'_>) {
        let remote = key.remote();
        let ends = ends(&key);
        let (opened, way) = match core.policy.verdict(Protocol::Tcp, remote) {
            Verdict::Drop | Verdict::Local => {
                let (verdict, by) = (FlowVerdict::Dropped, Party::Gateway);
                core.events.turned_away(core.now, ends, verdict, by);
                return core.drop(DropReason::NoNeighbour);
            }
            Verdict::Unreachable => {
                let (verdict, by) = (FlowVerdict::Unreachable, Party::Gateway);
                core.events.turned_away(core.now, ends, verdict, by);
                return core.problem(
                    Problem::NetUnreachable,
                    &arrival.bytes[arrival.ip.packet.clone()],
                );
            }
            _ if self.flows.is_full() => {
                let (verdict, by) = (FlowVerdict::NoRoom, Party::Gateway);
                core.events.turned_away(core.now, ends, verdict, by);
                return core.drop(DropReason::TableFull);
            }
            Verdict::Dns => (
                core.local
                    .dns_stream()
                    .map(|socket| (socket, Progress::Connected)),
                Way::Dns,
            ),
            Verdict::Connect(to) => (core.sockets.connect_tcp(to), Way::Socket(to)),
            Verdict::ConnectUnix(path) => (core.sockets.connect_unix(&path), Way::Unix),
        };
        let held = hold(core, arrival);
        match opened {
            Ok((socket, progress)) => self.begin(core, key, socket, held, (progress, way)),
            Err(error) => {
                let verdict = verdict_of(error.raw_os_error());
                let by = if verdict == FlowVerdict::NoRoom {
                    Party::Gateway
                } else {
                    Party::Host
                };
                core.events.turned_away(core.now, ends, verdict, by);
                failed(core, key, held, error.raw_os_error());
            }
        }
    }

    fn begin(
        &mut self,
        core: &mut Core,
        key: FlowKey,
        socket: OwnedFd,
        held: HeldSyn,
        (progress, way): (Progress, Way),
    ) {
        let (reactor, events, now) = (&core.reactor, &mut core.events, core.now);
        let token = self.flows.insert_with(|token| {
            reactor.watch(&socket, token).ok()?;
            let account = events.open(now, ends(&key), Party::Guest, Some(token.raw()));
            let mut flow = Flow::new(key, socket, Phase::Connecting(held), now);
            flow.account = account;
            if let Some(account) = &mut flow.account {
                account.from_guest.packets = 1;
                account.leads_to(way);
            }
            Some(flow)
        });
        let Some(token) = token else {
            let (verdict, by) = (FlowVerdict::NoRoom, Party::Gateway);
            core.events.turned_away(now, ends(&key), verdict, by);
            return core.drop(DropReason::HostSocket);
        };
        self.index.insert(key, token);
        self.flows.look_by(now + IDLE_ESTABLISHED);
        if progress == Progress::Connected {
            self.connected(core, token);
        }
    }

    /// The reactor has news of a flow's socket.
    pub(crate) fn host_ready(&mut self, core: &mut Core, token: Token, ready: Readiness) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        match &mut flow.phase {
            Phase::Joined(_) if flow.opening.is_some() => self.client_ready(core, token, ready),
            Phase::Joined(join) => {
                join.host_ready(ready);
                self.mark(token);
            }
            Phase::Connecting(_) if ready.writable => {
                // Writable without an error: connected, no need to ask.
                let error = if ready.error {
                    SockRef::from(&flow.socket)
                        .take_error()
                        .unwrap_or_else(Some)
                } else {
                    None
                };
                match error {
                    None => {
                        self.connected(core, token);
                        // The same event may tell of data and of their end.
                        if let Some(Flow {
                            phase: Phase::Joined(join),
                            ..
                        }) = self.flows.get_mut(token)
                        {
                            join.host_ready(ready);
                        }
                    }
                    Some(error) => {
                        let (code, now) = (error.raw_os_error(), core.now);
                        let verdict = verdict_of(code);
                        core.events
                            .decide(now, flow.account.as_mut(), verdict, None);
                        let ending = Ending::new(Party::Host, HowEnded::TurnedAway);
                        if let Some(Flow {
                            key,
                            phase: Phase::Connecting(held),
                            ..
                        }) = self.end(core, token, ending)
                        {
                            failed(core, key, held, code);
                        }
                    }
                }
            }
            Phase::Connecting(_) => {}
        }
    }

    /// The host's side is there: let lwIP answer the held SYN.
    fn connected(&mut self, core: &mut Core, token: Token) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        let Phase::Connecting(held) = &flow.phase else {
            return;
        };
        let syn = held.ingress(core, flow.key);
        match core.stack.open(syn, flow.key.remote(), token.raw()) {
            Some(connection) => {
                flow.phase = Phase::Joined(Join::new(connection));
                core.events.arrived(core.now, &mut flow.account);
                if let Some(account) = &mut flow.account {
                    account.asked_guest(core.now);
                }
            }
            None => {
                let verdict = FlowVerdict::NoRoom;
                core.events
                    .decide(core.now, flow.account.as_mut(), verdict, None);
                self.end(core, token, Ending::ours(HowEnded::TurnedAway));
            }
        }
    }

    fn mark(&mut self, token: Token) {
        if let Some(flow) = self.flows.get_mut(token)
            && !flow.marked
        {
            flow.marked = true;
            self.marked.push_back(token);
        }
    }

    /// Visits every marked flow once. True when some have more to do.
    pub(crate) fn work(&mut self, core: &mut Core) -> bool {
        core.stack.take_ended(&mut self.ended);
        while let Some(raw) = self.ended.pop() {
            self.mark(Token::from_raw(raw));
        }
        for _ in 0..self.marked.len() {
            let Some(token) = self.marked.pop_front() else {
                break;
            };
            self.visit(core, token);
        }
        !self.marked.is_empty()
    }

    fn visit(&mut self, core: &mut Core, token: Token) {
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        flow.marked = false;
        if flow.opening.is_some() && !self.answered(core, token) {
            return;
        }
        let Some(flow) = self.flows.get_mut(token) else {
            return;
        };
        let Phase::Joined(join) = &mut flow.phase else {
            return;
        };
        let outcome = join.round(&mut core.stack, &core.pool, &flow.socket);
        if join.ack_need() == AckNeed::Soon && !flow.ack_queued {
            flow.ack_queued = true;
            self.delayed_acks.push_back((core.now + ACK_DELAY, token));
        }
        flow.active = core.now;
        if let Some(account) = &mut flow.account
            && join.connection.is_established()
        {
            account.guest_answered(core.now, join.connection.sent().again > 0);
        }
        if join.is_half_closed() && !flow.half_closed {
            flow.half_closed = true;
            if let Some(account) = &mut flow.account {
                account.half_closed(join.closed_first());
            }
            self.flows.look_by(core.now + IDLE_HALF_CLOSED);
        }
        match outcome {
            Outcome::Open => {}
            Outcome::More => self.mark(token),
            Outcome::Finished => self.finish(core, token),
            Outcome::ResetHost(how) => self.reset(core, token, Ending::new(Party::Guest, how)),
            // Dropping the connection resets the guest's side.
            Outcome::ResetGuest(error) => self.reset(core, token, Ending::by_host(error)),
        }
    }

    fn finish(&mut self, core: &mut Core, token: Token) {
        let account = self.flows.get_mut(token).and_then(|f| f.account.as_ref());
        let first = account.and_then(|account| account.half_closed_by());
        let ending = Ending::new(first.unwrap_or(Party::Guest), HowEnded::Finished);
        if let Some(Flow {
            key,
            phase: Phase::Joined(join),
            ..
        }) = self.end(core, token, ending)
            && let Some(state) = join.connection.time_wait()
        {
            self.time_waits.insert(key, state, core.now);
        }
    }

    /// Ends a flow with a reset on whichever side is still there.
    fn reset(&mut self, core: &mut Core, token: Token, ending: Ending) {
        if let Some(flow) = self.end(core, token, ending) {
            abort(&flow.socket);
        }
    }

    /// Takes a flow out of the table, and tells of its end.
    fn end(&mut self, core: &mut Core, token: Token, ending: Ending) -> Option<Flow> {
        let mut flow = self.flows.remove(token)?;
        if flow.account.is_some() {
            flow.count();
            let account = flow.account.take();
            core.events
                .close_tcp(core.now, account, ending, &flow.socket);
        }
        if let Some(opening) = &flow.opening {
            self.openings.remove(&(opening.due(), token));
        }
        // The port may be in use again already.
        if self.index.get(&flow.key) == Some(&token) {
            self.index.remove(&flow.key);
        }
        Some(flow)
    }

    /// Runs lwIP's timers.
    pub(crate) fn tick(&mut self, core: &mut Core) {
        let connections = self.flows.iter().filter_map(|(_, flow)| match &flow.phase {
            Phase::Joined(join) => Some(&join.connection),
            Phase::Connecting(_) => None,
        });
        core.stack.tick(connections);
    }

    /// Does what is due at `core.now`: acknowledgements and idle limits.
    pub(crate) fn poll_timers(&mut self, core: &mut Core) {
        while let Some(&(due, token)) = self.delayed_acks.front()
            && due <= core.now
        {
            self.delayed_acks.pop_front();
            if let Some(flow) = self.flows.get_mut(token) {
                flow.ack_queued = false;
                if let Phase::Joined(join) = &mut flow.phase {
                    join.acknowledge_now(&mut core.stack);
                }
            }
        }
        self.poll_openings(core);
        for token in self.flows.idle(core.now) {
            self.reset(core, token, Ending::ours(HowEnded::Idle));
        }
    }

    /// When [`Tcp::poll_timers`] has something to do.
    pub(crate) fn next_deadline(&mut self) -> Option<Instant> {
        while let Some(&(_, token)) = self.delayed_acks.front() {
            match self.flows.get_mut(token) {
                Some(Flow {
                    phase: Phase::Joined(join),
                    ..
                }) if join.ack_need() == AckNeed::Soon => {
                    break;
                }
                Some(flow) => flow.ack_queued = false,
                None => {}
            }
            self.delayed_acks.pop_front();
        }
        let ack = self.delayed_acks.front().map(|(due, _)| *due);
        let opening = self.openings.first().map(|(due, _)| *due);
        [ack, opening, self.flows.next_look()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Resets every flow, on both sides.
    pub(crate) fn reset_all(&mut self, core: &mut Core, ending: Ending) {
        let tokens: Vec<Token> = self.flows.iter().map(|(token, _)| token).collect();
        for token in tokens {
            self.reset(core, token, ending);
        }
    }
}

/// The ends of a flow, to be told.
fn ends(key: &FlowKey) -> Ends {
    Ends {
        protocol: Protocol::Tcp,
        guest: key.guest(),
        remote: key.remote(),
    }
}

/// Lets the socket end with a reset when it is closed.
fn abort(socket: impl AsFd) {
    // Not possible on a unix socket, nor needed there.
    let _ = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
}

/// How far a connect got at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The destination has accepted.
    Connected,
    /// The reactor will tell.
    Pending,
}
