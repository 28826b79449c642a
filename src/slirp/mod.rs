//! The translation core: the guest's layers 2 to 4 on one side, host sockets on
//! the other.
//!
//! # Theory of operation
//!
//! [`Slirp`] is sans-loop: a driver feeds it frames ([`Slirp::input`]), lets it
//! look at its sockets ([`Slirp::poll_host`]) and do the work that both left
//! ([`Slirp::work`]), and asks when it wants to be called again
//! ([`Slirp::next_deadline`]). Time is what the driver says it is
//! ([`Slirp::set_now`]). Frames for the guest leave through an [`Outlet`].
//!
//! A frame is checked once, at the door ([`ingress`]): Ethernet, IP, the source
//! address, the transport checksum. Then:
//!
//! | what | where |
//! |---|---|
//! | ARP, neighbour discovery, DHCP | [`Local`], outside this room |
//! | fragments | [`reassembly`], then again from the top |
//! | TCP | [`tcp`], on lwIP |
//! | UDP | [`udp`] |
//! | ICMP echo | [`echo`] |
//!
//! What begins on the host's side, clients of forwarded ports, comes in by
//! [`inbound`].
//!
//! UDP and echo have no state that a stack would keep, so lwIP has no part in
//! them; it terminates TCP, and only that.

mod counters;
mod echo;
mod egress;
mod errqueue;
mod events;
mod flow;
mod flows;
#[doc(hidden)]
pub mod fuzzing;
mod inbound;
mod ingress;
mod lwip;
mod neighbours;
mod packet;
mod pairs;
mod reactor;
mod reassembly;
mod sockets;
mod tcp;
mod udp;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

pub use self::counters::{Counters, DropReason};
pub use self::egress::Outlet;
pub use self::events::Telling;
pub use self::flows::{Direction, FlowId, FlowIdError, FlowInfo, FlowState, MAX_LISTED};
pub use self::inbound::{GuestTarget, Listener, ListenerId, ListenerKind};
pub use self::reactor::Reactor;
pub use self::sockets::{HostSockets, OutboundError};

use self::echo::Echo;
use self::egress::{Egress, Problem};
use self::events::{Ending, Events};
use self::flow::{Table, Token};
use self::inbound::Inbound;
use self::lwip::{Budget, FrameBuf, Pool, Stack, TICK_MS};
use self::packet::ETHERNET;
use self::reactor::Readiness;
use self::reassembly::Reassembly;
use self::tcp::Tcp;
use self::udp::{Receiver, Udp};
use crate::net::{AddressPlan, Checksum, Offload};
use crate::policy::{FlowEvent, HowEnded, Policy};

/// What the gateway answers itself and does not belong in this room.
pub trait Local: fmt::Debug {
    /// Takes a whole frame with ARP, neighbour or router discovery, or DHCP;
    /// pushes whole frames in answer.
    fn frame(&mut self, now: Instant, frame: &[u8], checksum: Checksum, answers: &mut Vec<Vec<u8>>);

    /// A DNS query in a datagram. The answer comes later, through
    /// [`Slirp::send_udp`], from `server` to `guest`.
    fn dns_datagram(&mut self, guest: SocketAddr, server: SocketAddr, query: &[u8]);

    /// A new DNS connection: a non-blocking stream socket whose other end is
    /// the resolver.
    ///
    /// # Errors
    /// When there are no descriptors left.
    fn dns_stream(&mut self) -> io::Result<OwnedFd>;
}

/// What a [`Slirp`] is made of.
#[derive(Debug)]
pub struct Parts {
    /// The guest's network.
    pub plan: AddressPlan,
    /// What flows may do.
    pub policy: Policy,
    /// Whether echo requests leave the gateway.
    pub forward_echo: bool,
    /// Makes host sockets.
    pub sockets: HostSockets,
    /// Bytes that all flows' buffers may hold.
    pub memory: usize,
    /// Descriptors that flows may use.
    pub descriptors: usize,
    /// Whether the link carries UDP super-frames.
    pub uso: bool,
    /// Whether [`Slirp::take_events`] has something to give.
    pub events: Telling,
    /// Takes frames for the guest.
    pub outlet: Box<dyn Outlet>,
    /// Answers what the gateway answers itself.
    pub local: Box<dyn Local>,
}

/// What [`Slirp::poll_host`] saw of the host's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// No news.
    Nothing,
    /// News, and that was all.
    All,
    /// As much as is taken at once; there may be more.
    More,
}

/// What every protocol needs.
pub(crate) struct Core {
    stack: Stack<Egress>,
    pool: Rc<Pool>,
    reactor: Reactor,
    policy: Policy,
    sockets: HostSockets,
    local: Box<dyn Local>,
    plan: AddressPlan,
    events: Events,
    now: Instant,
    forward_echo: bool,
    uso: bool,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core")
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}

impl Core {
    fn egress(&mut self) -> &mut Egress {
        self.stack.egress()
    }

    fn drop(&mut self, reason: DropReason) {
        self.egress().counters.drop(reason);
    }

    /// Tells the guest, as the gateway, that its packet went nowhere.
    fn problem(&mut self, problem: Problem, offending: &[u8]) {
        let family: IpAddr = match offending.first().map(|b| b >> 4) {
            Some(6) => Ipv6Addr::UNSPECIFIED.into(),
            _ => Ipv4Addr::UNSPECIFIED.into(),
        };
        if let Some(gateway) = self.plan.gateway_beside(family) {
            self.egress().problem(problem, gateway, offending);
        }
    }

    /// The host's loopback is the gateway's address in the guest's eyes.
    fn as_guest_sees(&self, addr: SocketAddr, guest: SocketAddr) -> SocketAddr {
        if !addr.ip().is_loopback() {
            return addr;
        }
        let gateway = self.plan.gateway_beside(guest.ip());
        SocketAddr::new(gateway.unwrap_or(addr.ip()), addr.port())
    }

    /// Another address, known to be a guest's, for one of the plan that is not:
    /// DHCP and SLAAC give others than the plan's.
    fn another_guest(&mut self, guest: SocketAddr) -> Option<SocketAddr> {
        let planned = match guest.ip() {
            IpAddr::V4(a) => self
                .plan
                .v4
                .is_some_and(|p| [p.guest, p.dhcp_first].contains(&a)),
            IpAddr::V6(a) => self.plan.v6.is_some_and(|p| p.guest == a),
        };
        let neighbours = self.egress().neighbours();
        if !planned || neighbours.get(guest.ip()).is_some() {
            return None;
        }
        let other = neighbours.another(guest.ip())?;
        Some(SocketAddr::new(other, guest.port()))
    }

    fn send_udp(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        const HOP_LIMIT: u8 = 64;
        match crate::wire::udp::datagram(from, to, HOP_LIMIT, payload) {
            Ok(packet) => self.egress().packet(&packet),
            Err(_) => self.drop(DropReason::Malformed),
        }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Slirp {
    core: Core,
    tcp: Tcp,
    udp: Udp,
    echo: Echo,
    inbound: Inbound,
    /// Descriptors that TCP flows and listeners share.
    descriptors: usize,
    receiver: Receiver,
    reassembly: Reassembly,
    answers: Vec<Vec<u8>>,
    ready: Vec<(Token, Readiness)>,
    started: Instant,
    last_tick: Instant,
}

impl Slirp {
    /// # Errors
    /// When the process already has one, or is out of descriptors.
    pub fn new(parts: Parts, now: Instant) -> io::Result<Self> {
        let Parts {
            plan,
            policy,
            sockets,
            local,
            forward_echo,
            uso,
            ..
        } = parts;
        let egress = Egress::new(parts.outlet, plan.clone(), now);
        let stack = Stack::new(plan.mtu.get(), egress).map_err(io::Error::other)?;
        let pool = Pool::new(Budget::new(parts.memory));
        let reactor = Reactor::new()?;
        let udp_limit = udp::MAX_FLOWS.min(parts.descriptors / 4);
        let tcp_limit = parts
            .descriptors
            .saturating_sub(udp_limit.min(1024) + echo::MAX_FLOWS);
        let core = Core {
            stack,
            pool,
            reactor,
            policy,
            sockets,
            local,
            plan,
            events: Events::new(parts.events),
            now,
            forward_echo,
            uso,
        };
        Ok(Self {
            core,
            tcp: Tcp::new(tcp_limit),
            udp: Udp::new(udp_limit),
            echo: Echo::new(),
            inbound: Inbound::new(),
            descriptors: tcp_limit,
            receiver: Receiver::default(),
            reassembly: Reassembly::default(),
            answers: Vec::new(),
            ready: Vec::new(),
            started: now,
            last_tick: now,
        })
    }

    /// Sets the clock, once per round.
    pub fn set_now(&mut self, now: Instant) {
        self.core.now = now;
        self.core.egress().set_now(now);
        let elapsed = now.duration_since(self.started).as_millis();
        self.core
            .stack
            .set_now(u64::try_from(elapsed).unwrap_or(u64::MAX));
    }

    /// The descriptor that becomes readable when [`Slirp::poll_host`] has work.
    #[must_use]
    pub fn readiness(&self) -> BorrowedFd<'_> {
        self.core.reactor.as_fd()
    }

    /// Makes [`Slirp::readiness`] tell of `deadline` as well, once it comes.
    /// `now` is the time at this moment: a round takes some.
    ///
    /// # Errors
    /// As `timerfd_settime(2)`.
    pub fn wake_by(&mut self, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        self.core.reactor.wake_by(deadline, now)
    }

    /// Lets [`Slirp::readiness`] tell of another descriptor as well.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`.
    pub fn watch(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.core.reactor.watch_readable(fd)
    }

    /// The rules, to be changed.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.core.policy
    }

    /// Leads the clients of `listener` to the guest.
    ///
    /// # Errors
    /// `InvalidInput` when neither side of the target is an address that a guest
    /// can have, or the socket is not what its kind says; when the table of listeners is full; as `epoll_ctl(2)`.
    pub fn listen(&mut self, listener: Listener) -> io::Result<ListenerId> {
        let id = self.inbound.listen(&self.core, listener)?;
        self.share_descriptors();
        Ok(id)
    }

    /// Closes a listener; what it has accepted lives on. False when there is
    /// no such listener any more.
    pub fn unlisten(&mut self, id: ListenerId) -> bool {
        let known = self.inbound.unlisten(&mut self.core, id);
        self.share_descriptors();
        known
    }

    fn share_descriptors(&mut self) {
        let listeners = self.inbound.len();
        self.tcp
            .set_limit(self.descriptors.saturating_sub(listeners));
    }

    /// What was dropped.
    #[must_use]
    pub fn counters(&mut self) -> &Counters {
        &self.core.egress().counters
    }

    /// Open TCP and UDP flows.
    #[must_use]
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len() + self.inbound.clients())
    }

    /// The TCP and UDP flows at this moment, at most [`MAX_LISTED`] of TCP.
    /// A system call for each of those, during which nothing is carried.
    #[must_use]
    pub fn flow_list(&self) -> Vec<FlowInfo> {
        self.flows_after(None).collect()
    }

    /// As [`Slirp::flow_list`], one by one, those behind `after` in its order.
    /// That flow may have gone. What stays is listed once, whatever comes and
    /// goes between two calls.
    pub fn flows_after(&self, after: Option<FlowId>) -> impl Iterator<Item = FlowInfo> {
        const NONE: usize = usize::MAX;
        let first = after.map(|id| (id.token().table(), id.token().index() + 1));
        let (tcp, client, udp) = match first {
            None => (0, 0, 0),
            Some((Table::Tcp, first)) => (first, 0, 0),
            Some((Table::Client, first)) => (NONE, first, 0),
            Some((Table::Udp, first)) => (NONE, NONE, first),
            Some((Table::Driver | Table::Echo | Table::Listener, _)) => (NONE, NONE, NONE),
        };
        let (core, now) = (&self.core, self.core.now);
        self.tcp
            .list(tcp, now)
            .chain(self.inbound.list(client, now))
            .chain(self.udp.list(udp, core))
    }

    /// Ends a flow: TCP with a reset on both sides, UDP by forgetting it. False
    /// when it has gone already.
    pub fn close_flow(&mut self, id: FlowId) -> bool {
        let (core, token) = (&mut self.core, id.token());
        match token.table() {
            Table::Tcp => self.tcp.close(core, token),
            Table::Udp => self.udp.close(core, token),
            Table::Client => self.inbound.close(core, token),
            Table::Driver | Table::Echo | Table::Listener => false,
        }
    }

    /// Bytes that flows hold.
    #[must_use]
    pub fn memory_used(&self) -> usize {
        self.core.pool.budget().used()
    }

    /// A buffer to read a frame into.
    #[must_use]
    pub fn buffer(&self) -> Buffer {
        Buffer(self.core.pool.frame())
    }

    /// Takes a frame of `len` bytes from the guest.
    pub fn input(&mut self, buffer: Buffer, len: usize, offload: &Offload) {
        if let Err(reason) = self.frame(buffer.0, len, offload) {
            self.core.drop(reason);
        }
    }

    /// Looks at the host's sockets without waiting; notes what became ready.
    ///
    /// # Errors
    /// When epoll fails, which means that the process is broken.
    pub fn poll_host(&mut self) -> io::Result<Seen> {
        let Self {
            core,
            tcp,
            udp,
            echo,
            inbound,
            ready,
            ..
        } = self;
        let more = core.reactor.poll(|token, readiness| {
            if token.table() != Table::Driver {
                ready.push((token, readiness));
            }
        })?;
        let seen = match (more, ready.is_empty()) {
            (true, _) => Seen::More,
            (false, false) => Seen::All,
            (false, true) => Seen::Nothing,
        };
        for (token, readiness) in ready.drain(..) {
            match token.table() {
                // The latter have no descriptors.
                Table::Driver | Table::Client => {}
                Table::Tcp => tcp.host_ready(core, token, readiness),
                Table::Udp => udp.host_ready(core, token, readiness),
                Table::Echo => echo.host_ready(core, token, readiness),
                Table::Listener => inbound.host_ready(token, readiness),
            }
        }
        Ok(seen)
    }

    /// Does the work that frames, sockets and time have left. True when there
    /// is more, after others had their turn.
    pub fn work(&mut self) -> bool {
        self.udp.flush(&mut self.core);
        self.inbound.flush(&mut self.core);
        let (core, receiver) = (&mut self.core, &mut self.receiver);
        let clients = self.inbound.work(core, &mut self.tcp, receiver);
        let udp = self.udp.work(&mut self.core, &mut self.receiver);
        let tcp = self.tcp.work(&mut self.core);
        self.poll_timers();
        clients || udp || tcp
    }

    fn poll_timers(&mut self) {
        let now = self.core.now;
        if self.core.stack.wants_tick() && now >= self.last_tick + TICK {
            // After a suspend one tick stands for many: timers skip, they do
            // not burst.
            self.last_tick = now;
            self.tcp.tick(&mut self.core);
        }
        self.tcp.poll_timers(&mut self.core);
        for addr in self.core.egress().poll_neighbours() {
            self.tcp.silent(&mut self.core, addr);
            self.inbound.silent(&mut self.core, addr);
        }
        self.udp.poll_timers(&mut self.core);
        self.inbound.poll_timers(&mut self.core);
        self.echo.poll_timers(&mut self.core);
        for packet in self.reassembly.expire(now) {
            self.core.problem(Problem::Reassembly, &packet);
            self.core.drop(DropReason::Fragment);
        }
    }

    /// When [`Slirp::work`] has something to do although nothing arrives.
    pub fn next_deadline(&mut self) -> Option<Instant> {
        let tick = self.core.stack.wants_tick().then(|| self.last_tick + TICK);
        let others = [
            tick,
            self.tcp.next_deadline(),
            self.udp.next_deadline(),
            self.echo.next_deadline(),
            self.reassembly.next_deadline(),
            self.core.egress().neighbours().next_deadline(),
            self.inbound.next_deadline(),
        ];
        others.into_iter().flatten().min()
    }

    /// Sends a datagram to a guest.
    pub fn send_udp(&mut self, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
        self.core.send_udp(from, to, payload);
    }

    /// Sends a whole frame to the guest.
    pub fn send_frame(&mut self, frame: &[u8]) {
        self.core.egress().frame(frame);
    }

    /// Gives back memory that is kept for speed: nothing is going on.
    pub fn trim(&mut self) {
        self.core.pool.trim();
    }

    /// What was told of flows since the last call: to be called once per round.
    pub fn take_events(&mut self) -> impl Iterator<Item = FlowEvent> {
        self.core.events.take()
    }

    /// Flows that were not told of since the last call, for want of room.
    pub fn take_lost_events(&mut self) -> u64 {
        self.core.events.take_lost()
    }

    /// The end: resets every TCP flow on both sides, forgets all others.
    pub fn reset_all(&mut self) {
        let ending = Ending::ours(HowEnded::Shutdown);
        self.tcp.reset_all(&mut self.core, ending);
        self.udp.end_all(&mut self.core, ending);
        self.inbound.end_all(&mut self.core, ending);
        self.echo.end_all(&mut self.core, ending);
    }
}

const TICK: Duration = Duration::from_millis(TICK_MS);

/// A buffer for one frame.
#[derive(Debug)]
pub struct Buffer(FrameBuf);

impl Buffer {
    /// [`MAX_FRAME_LEN`](crate::net::MAX_FRAME_LEN) bytes to read a frame into.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.0.bytes_mut()
    }
}
