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
//! A frame is checked once, at the door: Ethernet, IP, the source address, the
//! transport checksum. Then:
//!
//! | what | where |
//! |---|---|
//! | ARP, neighbour discovery, DHCP | [`Local`], outside this room |
//! | fragments | [`reassembly`], then again from the top |
//! | TCP | [`tcp`], on lwIP |
//! | UDP | [`udp`] |
//! | ICMP echo | [`echo`] |
//!
//! UDP and echo have no state that a stack would keep, so lwIP has no part in
//! them; it terminates TCP, and only that.

mod counters;
mod echo;
mod egress;
mod errqueue;
mod flow;
#[doc(hidden)]
pub mod fuzzing;
mod inbound;
mod lwip;
mod packet;
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
pub use self::inbound::{GuestTarget, Listener, ListenerId, ListenerKind};
pub use self::reactor::Reactor;
pub use self::sockets::{HostSockets, OutboundError};

use self::echo::Echo;
use self::egress::{Egress, Problem};
use self::flow::{Table, Token};
use self::lwip::{Budget, FrameBuf, Ingress, Pool, Stack, TICK_MS};
use self::packet::{ETHERNET, Ethernet, IpPacket, TcpHeader, protocol, tcp_flags};
use self::reactor::Readiness;
use self::reassembly::Reassembly;
use self::tcp::Tcp;
use self::udp::Udp;
use crate::net::{AddressPlan, Checksum, MacAddr, Offload};
use crate::policy::Policy;
use crate::wire::checksum;

/// Segments with less payload are copied out of their frame buffer, so that a
/// small segment that has to wait does not hold 64 KiB.
const COPY_BELOW: usize = 16 * 1024;

/// Ports that DHCP servers listen on.
const DHCP_SERVER: u16 = 67;
const DHCPV6_SERVER: u16 = 547;

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
        let egress = Egress::new(parts.outlet, plan.gateway_mac, plan.mtu, now);
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
            now,
            forward_echo,
            uso,
        };
        Ok(Self {
            core,
            tcp: Tcp::new(tcp_limit),
            udp: Udp::new(udp_limit),
            echo: Echo::new(),
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
    ///
    /// # Errors
    /// As `timerfd_settime(2)`.
    pub fn wake_by(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.core.reactor.wake_by(deadline, self.core.now)
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
    /// When the table of listeners is full, or as `epoll_ctl(2)`.
    pub fn listen(&mut self, listener: Listener) -> io::Result<ListenerId> {
        drop(listener);
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Closes a listener; what it has accepted lives on. False when there is
    /// no such listener any more.
    pub fn unlisten(&mut self, id: ListenerId) -> bool {
        let ListenerId(_) = id;
        false
    }

    /// What was dropped.
    #[must_use]
    pub fn counters(&mut self) -> &Counters {
        &self.core.egress().counters
    }

    /// Open TCP and UDP flows.
    #[must_use]
    pub fn flows(&self) -> (usize, usize) {
        (self.tcp.len(), self.udp.len())
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

    fn frame(&mut self, buffer: FrameBuf, len: usize, offload: &Offload) -> Result<(), DropReason> {
        let frame = &buffer.bytes()[..len];
        let ethernet = Ethernet::parse(frame)?;
        if !self.is_for_us(ethernet.destination) {
            return Err(DropReason::NoNeighbour);
        }
        if !ethernet.is_ip() {
            self.local(frame, offload.checksum);
            return Ok(());
        }
        let ip = IpPacket::parse(frame, ETHERNET)?;
        if self.is_local(&ip, frame) {
            self.learn(ip.source, ethernet.source);
            self.local(frame, offload.checksum);
            return Ok(());
        }
        if !self.core.plan.is_guest(ip.source) {
            return Err(DropReason::Source);
        }
        self.core.egress().learn(ip.source, ethernet.source);
        self.packet(buffer, ip, offload)
    }

    fn is_for_us(&self, mac: MacAddr) -> bool {
        mac == self.core.plan.gateway_mac || !mac.is_unicast()
    }

    /// True for what [`Local::frame`] answers: neighbour and router discovery,
    /// DHCP for IPv4 and IPv6.
    fn is_local(&self, ip: &IpPacket, frame: &[u8]) -> bool {
        /// Router solicitation to redirect (RFC 4861).
        const DISCOVERY: std::ops::RangeInclusive<u8> = 133..=137;
        if ip.fragment.is_some() {
            return false;
        }
        let payload = &frame[ip.payload.clone()];
        match ip.protocol {
            protocol::ICMPV6 => payload.first().is_some_and(|kind| DISCOVERY.contains(kind)),
            protocol::UDP => payload.get(2..4).is_some_and(|port| match ip.destination {
                IpAddr::V4(to) => {
                    port == DHCP_SERVER.to_be_bytes()
                        && (to == Ipv4Addr::BROADCAST || self.is_own(to.into()))
                }
                IpAddr::V6(_) => port == DHCPV6_SERVER.to_be_bytes(),
            }),
            _ => false,
        }
    }

    fn learn(&mut self, addr: IpAddr, mac: MacAddr) {
        if self.core.plan.is_guest(addr) {
            self.core.egress().learn(addr, mac);
        }
    }

    /// Hands a frame to what answers it here.
    fn local(&mut self, frame: &[u8], checksum: Checksum) {
        let mut answers = std::mem::take(&mut self.answers);
        self.core
            .local
            .frame(self.core.now, frame, checksum, &mut answers);
        for answer in answers.drain(..) {
            self.core.egress().frame(&answer);
        }
        self.answers = answers;
    }

    /// Takes an IP packet; `ip` holds offsets into `buffer`.
    fn packet(
        &mut self,
        buffer: FrameBuf,
        ip: IpPacket,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        if ip.hop_limit <= 1 && !self.is_own(ip.destination) {
            self.core
                .problem(Problem::HopLimit, &buffer.bytes()[ip.packet]);
            return Ok(());
        }
        if let Some(fragment) = ip.fragment {
            let whole = self
                .reassembly
                .input(buffer.bytes(), &ip, fragment, self.core.now)?;
            let Some(whole) = whole else { return Ok(()) };
            let mut ip = IpPacket::parse(&whole, 0)?;
            // The guest found it too long for the path and cut it up: so may we.
            ip.dont_fragment = false;
            return self.packet(self.core.pool.copy_of(&whole), ip, &Offload::default());
        }
        match ip.protocol {
            protocol::TCP => {
                verify(&ip, buffer.bytes(), offload)?;
                self.tcp_segment(buffer, &ip)
            }
            protocol::UDP => self.udp_datagram(buffer, ip, offload),
            protocol::ICMP | protocol::ICMPV6 => {
                self.echo.input(&mut self.core, &buffer.bytes()[ip.packet]);
                Ok(())
            }
            _ => Err(DropReason::Protocol),
        }
    }

    fn is_own(&self, addr: IpAddr) -> bool {
        self.core.plan.is_gateway(addr) || self.core.plan.is_dns(addr)
    }

    fn tcp_segment(&mut self, buffer: FrameBuf, ip: &IpPacket) -> Result<(), DropReason> {
        let header = TcpHeader::parse(&buffer.bytes()[ip.payload.clone()])?;
        let (guest, remote) = (ip.source, ip.destination);
        let range = ip.payload.clone();
        let len = u16::try_from(range.len()).map_err(|_| DropReason::Malformed)?;
        if header.payload > 0 && !self.core.pool.budget().has_room(header.payload) {
            return Err(DropReason::Memory);
        }
        if header.is_open() {
            // Held, not handed over: the table copies what it needs.
            let arrival = tcp::Arrival {
                ip,
                header,
                bytes: buffer.bytes(),
            };
            let pool = Rc::clone(&self.core.pool);
            self.tcp.input(&mut self.core, &arrival, || {
                let frame = pool.copy_of(&buffer.bytes()[range]);
                Ingress {
                    frame,
                    start: 0,
                    len,
                    guest,
                    remote,
                }
            });
            return Ok(());
        }
        let keeps = header.payload > 0 || header.has(tcp_flags::FIN);
        let (frame, start) = if keeps && header.payload < COPY_BELOW {
            (self.core.pool.copy_of(&buffer.bytes()[range]), 0)
        } else {
            (buffer, range.start)
        };
        let arrival = tcp::Arrival {
            ip,
            header,
            bytes: &[],
        };
        let segment = || Ingress {
            frame,
            start,
            len,
            guest,
            remote,
        };
        self.tcp.input(&mut self.core, &arrival, segment);
        Ok(())
    }

    fn udp_datagram(
        &mut self,
        buffer: FrameBuf,
        ip: IpPacket,
        offload: &Offload,
    ) -> Result<(), DropReason> {
        let datagram = &buffer.bytes()[ip.payload.clone()];
        let header: &[u8; udp::HEADER] = datagram.first_chunk().ok_or(DropReason::Malformed)?;
        let [s0, s1, d0, d1, l0, l1, c0, c1] = *header;
        let segment = offload.gso.map(|gso| gso.size).filter(|size| *size > 0);
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        // A super-frame's length field may speak of one piece only.
        let end = if segment.is_some() {
            ip.payload.end
        } else {
            ip.payload.start + len
        };
        if end > ip.payload.end || (segment.is_none() && len < udp::HEADER) {
            return Err(DropReason::Malformed);
        }
        let unchecked = ip.source.is_ipv4() && (c0, c1) == (0, 0); // RFC 768
        if !unchecked {
            let mut exact = ip.clone();
            exact.payload.end = end;
            verify(&exact, buffer.bytes(), offload)?;
        }
        let guest = SocketAddr::new(ip.source, u16::from_be_bytes([s0, s1]));
        let remote = SocketAddr::new(ip.destination, u16::from_be_bytes([d0, d1]));
        if remote.port() == 0 {
            return Err(DropReason::Malformed);
        }
        let payload = ip.payload.start + udp::HEADER..end;
        let arrival = udp::Arrival {
            ip,
            guest,
            remote,
            payload,
            segment,
        };
        self.udp.input(&mut self.core, arrival, buffer);
        Ok(())
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
                Table::Driver => {}
                Table::Tcp => tcp.host_ready(core, token, readiness),
                Table::Udp => udp.host_ready(core, token, readiness),
                Table::Echo => echo.host_ready(core, token, readiness),
            }
        }
        Ok(seen)
    }

    /// Does the work that frames, sockets and time have left. True when there
    /// is more, after others had their turn.
    pub fn work(&mut self) -> bool {
        self.udp.flush(&mut self.core);
        let udp = self.udp.work(&mut self.core);
        let tcp = self.tcp.work(&mut self.core);
        self.poll_timers();
        udp || tcp
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
        self.udp.poll_timers(now);
        self.echo.poll_timers(now);
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

    /// Resets every TCP flow on both sides.
    pub fn reset_all(&mut self) {
        self.tcp.reset_all();
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

/// Checks a transport checksum that the link did not vouch for.
fn verify(ip: &IpPacket, bytes: &[u8], offload: &Offload) -> Result<(), DropReason> {
    if offload.checksum != Checksum::Complete {
        return Ok(());
    }
    let transport = &bytes[ip.payload.clone()];
    let pseudo = checksum::pseudo(ip.source, ip.destination, ip.protocol, transport.len());
    let sum = pseudo.ok_or(DropReason::Malformed)?.bytes(transport);
    if sum.is_valid() {
        Ok(())
    } else {
        Err(DropReason::Checksum)
    }
}
