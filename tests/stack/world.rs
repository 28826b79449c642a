//! The world of a test: the translation core, a guest, a wire between them that
//! can be made bad, and time that passes when the test says so.
//!
//! The guest's side is smoltcp, or segments that a test makes itself (`raw`).
//! The host's side is real: sockets on the loopback, reached through the
//! gateway's address.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gw::net::{AddressPlan, Checksum, MacAddr, Mtu, Offload, PlanV4, PlanV6};
use gw::policy::{Exposed, HostLoopback, Policy};
use gw::services::neighbourhood::{Neighbourhood, NeighbourhoodConfig, TransportChecksum};
use gw::slirp::{HostSockets, Local, Outlet, Parts, Slirp, Telling};
use gw::tap::Medium;
use gw::wire::segment::Segmenter;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, Device, DeviceCapabilities};
use smoltcp::socket::tcp;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};

pub(crate) const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
pub(crate) const GUEST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 100]);
pub(crate) const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
pub(crate) const GUEST4: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 100);
pub(crate) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);
pub(crate) const GUEST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100);

/// How often a test looks again for what the host's kernel does by itself.
const PATIENCE: u32 = 20;

/// What the wire does to each frame of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Deliver,
    Lose,
    Twice,
    /// Arrives this much later, behind others.
    Late(Duration),
}

type Judge = Box<dyn FnMut(&[u8]) -> Fate>;

/// One direction of the wire.
#[derive(Default)]
pub(crate) struct Lane {
    /// Arrival time and frame.
    frames: VecDeque<(Instant, Vec<u8>)>,
    judge: Option<Judge>,
    pub(crate) carried: usize,
}

impl Lane {
    fn put(&mut self, now: Instant, frame: Vec<u8>) {
        self.carried += 1;
        let fate = self
            .judge
            .as_mut()
            .map_or(Fate::Deliver, |judge| judge(&frame));
        match fate {
            Fate::Deliver => self.insert(now, frame),
            Fate::Lose => {}
            Fate::Twice => {
                self.insert(now, frame.clone());
                self.insert(now, frame);
            }
            Fate::Late(by) => self.insert(now + by, frame),
        }
    }

    /// Behind everything that arrives no later.
    fn insert(&mut self, at: Instant, frame: Vec<u8>) {
        let place = self.frames.partition_point(|(t, _)| *t <= at);
        self.frames.insert(place, (at, frame));
    }

    fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.frames
            .front()
            .is_some_and(|(at, _)| *at <= now)
            .then(|| self.frames.pop_front())?
            .map(|f| f.1)
    }

    fn next(&self) -> Option<Instant> {
        self.frames.front().map(|(at, _)| *at)
    }
}

/// Frames on their way to the guest, and the clock they arrive by.
pub(crate) struct Wire {
    pub(crate) now: Instant,
    pub(crate) to_guest: Lane,
    pub(crate) to_gateway: Lane,
    segmenter: Segmenter,
    mtu: usize,
    /// The gateway is told that this is a wire, on which congestion is to be
    /// avoided.
    is_wire: bool,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct WireEnd(Rc<RefCell<Wire>>);

impl Outlet for WireEnd {
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let whole: Vec<u8> = frame.iter().flat_map(|s| s.iter().copied()).collect();
        let Wire {
            now,
            to_guest,
            segmenter,
            mtu,
            ..
        } = &mut *self.0.borrow_mut();
        let sent = segmenter.each(Medium::Ethernet, offload, &whole, |piece| {
            // lwIP's acknowledgements with four SACK ranges know no MTU.
            assert!(
                piece.len() <= (*mtu).max(76) + 14,
                "a frame of {} bytes",
                piece.len()
            );
            to_guest.put(*now, piece.to_vec());
            Ok::<(), io::Error>(())
        });
        sent.expect("super-frames can be cut")
    }

    fn is_wire(&self) -> bool {
        self.0.borrow().is_wire
    }
}

/// Answers ARP and neighbour discovery as the gateway does; DNS streams end at
/// a socket that the test holds.
#[derive(Debug)]
struct Neighbours {
    neighbourhood: Neighbourhood,
    streams: Rc<RefCell<Vec<UnixStream>>>,
}

impl Local for Neighbours {
    fn frame(
        &mut self,
        now: Instant,
        frame: &[u8],
        checksum: Checksum,
        answers: &mut Vec<Vec<u8>>,
    ) {
        let checksum = match checksum {
            Checksum::Complete => TransportChecksum::Verify,
            _ => TransportChecksum::Vouched,
        };
        self.neighbourhood.handle(now, frame, checksum, answers);
    }

    fn dns_datagram(&mut self, _guest: SocketAddr, _server: SocketAddr, _query: &[u8]) {}

    fn dns_stream(&mut self) -> io::Result<OwnedFd> {
        let (theirs, ours) = UnixStream::pair()?;
        theirs.set_nonblocking(true)?;
        ours.set_nonblocking(true)?;
        self.streams.borrow_mut().push(ours);
        Ok(theirs.into())
    }
}

/// Settings that tests vary.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) mtu: u32,
    pub(crate) memory: usize,
    pub(crate) descriptors: usize,
    pub(crate) host_loopback: HostLoopback,
    pub(crate) events: Telling,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mtu: 1500,
            memory: 64 << 20,
            descriptors: 4096,
            host_loopback: HostLoopback::Open,
            events: Telling::On,
        }
    }
}

/// See the module's documentation.
pub(crate) struct World {
    pub(crate) slirp: Slirp,
    pub(crate) wire: Rc<RefCell<Wire>>,
    pub(crate) now: Instant,
    start: Instant,
    pub(crate) dns_streams: Rc<RefCell<Vec<UnixStream>>>,
    guest: Option<Guest>,
}

pub(crate) struct Guest {
    pub(crate) interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    device: GuestDevice,
    next_port: u16,
}

struct GuestDevice {
    wire: Rc<RefCell<Wire>>,
    mtu: usize,
}

impl World {
    /// A world whose guest is made of raw segments.
    pub(crate) fn raw(options: &Options) -> Self {
        let now = Instant::now();
        let plan = AddressPlan {
            v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
            v6: (options.mtu >= 1280)
                .then(|| PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
            gateway_mac: GATEWAY_MAC,
            mtu: Mtu::new(options.mtu).expect("a possible MTU"),
        };
        let wire = Rc::new(RefCell::new(Wire {
            now,
            to_guest: Lane::default(),
            to_gateway: Lane::default(),
            segmenter: Segmenter::default(),
            mtu: plan.mtu.get().into(),
            is_wire: false,
        }));
        let dns_streams = Rc::default();
        let local = Neighbours {
            neighbourhood: Neighbourhood::new(NeighbourhoodConfig::new(plan.clone()), now),
            streams: Rc::clone(&dns_streams),
        };
        let parts = Parts {
            policy: Policy {
                plan: plan.clone(),
                host_loopback: options.host_loopback.clone(),
                exposed: Exposed::default(),
                dns: true,
            },
            plan,
            forward_echo: true,
            sockets: HostSockets::default(),
            memory: options.memory,
            descriptors: options.descriptors,
            uso: true,
            events: options.events,
            outlet: Box::new(WireEnd(Rc::clone(&wire))),
            local: Box::new(local),
        };
        let slirp = Slirp::new(parts, now)
            .expect("one gateway per process: run these tests with `cargo nextest run`");
        Self {
            slirp,
            wire,
            now,
            start: now,
            dns_streams,
            guest: None,
        }
    }

    /// A world with a smoltcp guest.
    pub(crate) fn new(options: &Options) -> Self {
        let mut world = Self::raw(options);
        let mtu = usize::try_from(options.mtu).expect("small") + 14;
        let mut device = GuestDevice {
            wire: Rc::clone(&world.wire),
            mtu,
        };
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(GUEST_MAC.0)));
        config.random_seed = 7;
        let mut interface = Interface::new(config, &mut device, smoltcp::time::Instant::ZERO);
        interface.update_ip_addrs(|addrs| {
            addrs
                .push(IpCidr::new(IpAddress::Ipv4(GUEST4), 24))
                .expect("room");
            if options.mtu >= 1280 {
                addrs
                    .push(IpCidr::new(IpAddress::Ipv6(GUEST6), 64))
                    .expect("room");
            }
        });
        interface
            .routes_mut()
            .add_default_ipv4_route(GATEWAY4)
            .expect("room");
        let sockets = SocketSet::new(Vec::new());
        world.guest = Some(Guest {
            interface,
            sockets,
            device,
            next_port: 40_000,
        });
        world
    }

    pub(crate) fn guest(&mut self) -> &mut Guest {
        self.guest.as_mut().expect("this world has a smoltcp guest")
    }

    /// Decides what happens to frames towards the guest from now on.
    pub(crate) fn judge_to_guest(&self, judge: impl FnMut(&[u8]) -> Fate + 'static) {
        self.wire.borrow_mut().to_guest.judge = Some(Box::new(judge));
    }

    /// Decides what happens to the guest's frames from now on.
    pub(crate) fn judge_to_gateway(&self, judge: impl FnMut(&[u8]) -> Fate + 'static) {
        self.wire.borrow_mut().to_gateway.judge = Some(Box::new(judge));
    }

    /// Tells the gateway from now on whether the link is a wire that delays and
    /// loses because it was told to.
    pub(crate) fn is_wire(&self, is_wire: bool) {
        self.wire.borrow_mut().is_wire = is_wire;
    }

    /// The wire is a good one again.
    pub(crate) fn judge_nothing(&self) {
        let mut wire = self.wire.borrow_mut();
        wire.to_guest.judge = None;
        wire.to_gateway.judge = None;
    }

    fn smoltcp_now(&self) -> smoltcp::time::Instant {
        let micros = self.now.duration_since(self.start).as_micros();
        smoltcp::time::Instant::from_micros(i64::try_from(micros).expect("a short test"))
    }

    /// Puts a frame on the wire to the gateway.
    pub(crate) fn inject(&mut self, frame: &[u8]) {
        let now = self.now;
        self.wire.borrow_mut().to_gateway.put(now, frame.to_vec());
    }

    /// The next frame that arrives at the guest; for worlds without smoltcp.
    pub(crate) fn arrived(&mut self) -> Option<Vec<u8>> {
        let now = self.now;
        self.wire.borrow_mut().to_guest.take(now)
    }

    /// Hands a frame to the gateway at once, as the driver does.
    pub(crate) fn feed(&mut self, frame: &[u8], offload: &Offload) {
        let mut buffer = self.slirp.buffer();
        buffer.bytes_mut()[..frame.len()].copy_from_slice(frame);
        self.slirp.input(buffer, frame.len(), offload);
    }

    /// One round of both sides; true when something moved.
    pub(crate) fn round(&mut self) -> bool {
        self.wire.borrow_mut().now = self.now;
        self.slirp.set_now(self.now);
        let before = self.carried();
        let timestamp = self.smoltcp_now();
        if let Some(Guest {
            interface,
            sockets,
            device,
            ..
        }) = &mut self.guest
        {
            interface.poll(timestamp, device, sockets);
        }
        let mut taken = false;
        loop {
            let frame = self.wire.borrow_mut().to_gateway.take(self.now);
            let Some(frame) = frame else { break };
            taken = true;
            self.feed(&frame, &Offload::default());
        }
        let seen = self.slirp.poll_host().expect("epoll works");
        let more = self.slirp.work();
        taken || more || seen != gw::slirp::Seen::Nothing || self.carried() != before
    }

    fn carried(&self) -> (usize, usize) {
        let wire = self.wire.borrow();
        (wire.to_guest.carried, wire.to_gateway.carried)
    }

    /// Runs both sides at this instant until nothing moves any more.
    pub(crate) fn settle(&mut self) {
        let mut quiet = 0;
        let mut rounds = 0;
        while quiet < 3 {
            quiet = if self.round() { 0 } else { quiet + 1 };
            rounds += 1;
            assert!(rounds < 100_000, "no end of traffic at one instant");
        }
    }

    /// Lets time pass, stopping at every deadline on the way.
    pub(crate) fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        self.settle();
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = at.max(self.now + Duration::from_micros(1)).min(end);
            self.settle();
            if self.now >= end {
                return;
            }
        }
        self.now = end;
        self.settle();
    }

    /// When something happens by itself.
    fn next_event(&mut self) -> Option<Instant> {
        let timestamp = self.smoltcp_now();
        let guest = self
            .guest
            .as_mut()
            .and_then(|g| g.interface.poll_delay(timestamp, &g.sockets));
        let guest = guest.map(|d| self.now + Duration::from_micros(d.total_micros()));
        let (there, back) = {
            let wire = self.wire.borrow();
            let there = if self.guest.is_some() {
                wire.to_guest.next()
            } else {
                None
            };
            (there, wire.to_gateway.next())
        };
        [guest, there, back, self.slirp.next_deadline()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Runs until `done` says so, in at most `limit` of virtual time. Real time
    /// passes too, a little, for what the host's kernel does on its own.
    #[track_caller]
    pub(crate) fn until(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) {
        assert!(
            self.try_until(limit, &mut done),
            "did not happen within {limit:?}"
        );
    }

    /// As [`World::until`]; false when it did not happen.
    pub(crate) fn try_until(
        &mut self,
        limit: Duration,
        done: &mut dyn FnMut(&mut Self) -> bool,
    ) -> bool {
        let end = self.now + limit;
        let mut patience = PATIENCE;
        loop {
            let moved = self.round();
            if done(self) {
                return true;
            }
            if moved {
                patience = PATIENCE;
                continue;
            }
            if patience > 0 {
                patience -= 1;
                std::thread::sleep(Duration::from_micros(100));
                continue;
            }
            match self.next_event() {
                Some(at) if at <= end => self.now = at.max(self.now + Duration::from_micros(1)),
                _ if self.now >= end => return false,
                _ => self.now = end,
            }
        }
    }

    /// A new guest socket that connects to `port` of the host's loopback.
    pub(crate) fn connect(&mut self, to: SocketAddr) -> SocketHandle {
        self.connect_with(to, 64 * 1024)
    }

    /// As [`World::connect`], with buffers of `size` bytes.
    pub(crate) fn connect_with(&mut self, to: SocketAddr, size: usize) -> SocketHandle {
        let guest = self.guest();
        guest.next_port += 1;
        if guest.next_port > 60_000 {
            guest.next_port = 40_000;
        }
        let port = guest.next_port;
        let buffer = || tcp::SocketBuffer::new(vec![0; size]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        socket.set_nagle_enabled(false);
        let to = (smoltcp_addr(to.ip()), to.port());
        socket
            .connect(guest.interface.context(), to, port)
            .expect("a fresh socket");
        guest.sockets.add(socket)
    }

    pub(crate) fn tcp(&mut self, handle: SocketHandle) -> &mut tcp::Socket<'static> {
        self.guest().sockets.get_mut::<tcp::Socket<'static>>(handle)
    }

    /// Forgets a guest's socket without a word on the wire.
    pub(crate) fn forget(&mut self, handle: SocketHandle) {
        self.guest().sockets.remove(handle);
    }

    /// Nothing is open, nothing is held.
    #[track_caller]
    pub(crate) fn assert_clean(&mut self) {
        self.settle();
        assert_eq!(self.slirp.flows(), (0, 0), "flows are left");
        assert_eq!(self.slirp.memory_used(), 0, "memory is held");
    }
}

fn smoltcp_addr(addr: IpAddr) -> IpAddress {
    match addr {
        IpAddr::V4(a) => IpAddress::Ipv4(a),
        IpAddr::V6(a) => IpAddress::Ipv6(a),
    }
}

pub(crate) struct Received(Vec<u8>);
pub(crate) struct Transmit(Rc<RefCell<Wire>>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl phy::TxToken for Transmit {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        let mut wire = self.0.borrow_mut();
        let now = wire.now;
        wire.to_gateway.put(now, frame);
        result
    }
}

impl Device for GuestDevice {
    type RxToken<'a> = Received;
    type TxToken<'a> = Transmit;

    fn receive(&mut self, _: smoltcp::time::Instant) -> Option<(Received, Transmit)> {
        let mut wire = self.wire.borrow_mut();
        let now = wire.now;
        let frame = wire.to_guest.take(now)?;
        Some((Received(frame), Transmit(Rc::clone(&self.wire))))
    }

    fn transmit(&mut self, _: smoltcp::time::Instant) -> Option<Transmit> {
        Some(Transmit(Rc::clone(&self.wire)))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.max_transmission_unit = self.mtu;
        capabilities.medium = phy::Medium::Ethernet;
        capabilities
    }
}
