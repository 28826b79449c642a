//! A gateway in memory, for the targets that feed whole frames. lwIP is global:
//! one for the whole run, emptied between inputs.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use gw::net::{AddressPlan, Checksum, MacAddr, Mtu, Offload, PlanV4, PlanV6};
use gw::policy::{Exposed, FlowEvent, HostLoopback, Policy};
use gw::services::neighbourhood::{Neighbourhood, NeighbourhoodConfig, TransportChecksum};
use gw::slirp::{HostSockets, Local, Outlet, Parts, Slirp, Telling};
use gw::tap::Medium;
use gw::wire::segment::Segmenter;

pub const GATEWAY_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

pub fn plan() -> AddressPlan {
    AddressPlan {
        v4: Some(PlanV4::new("10.0.2.0/24".parse().unwrap()).unwrap()),
        v6: Some(PlanV6::new("fd00::/64".parse().unwrap()).unwrap()),
        gateway_mac: GATEWAY_MAC,
        mtu: Mtu::ETHERNET,
    }
}

/// Cuts every frame, so that its headers and offload are looked at.
#[derive(Debug, Default)]
struct Sink {
    segmenter: Segmenter,
    last: std::rc::Rc<std::cell::RefCell<Vec<u8>>>,
}

impl Outlet for Sink {
    fn send(&mut self, offload: &Offload, frame: &[IoSlice<'_>]) -> io::Result<()> {
        let whole: Vec<u8> = frame.iter().flat_map(|s| s.iter().copied()).collect();
        let last = &self.last;
        self.segmenter
            .each(Medium::Ethernet, offload, &whole, |piece| {
                *last.borrow_mut() = piece.to_vec();
                Ok::<(), io::Error>(())
            })
            .expect("what the gateway sends can be cut")
    }
}

#[derive(Debug)]
struct Neighbours(Neighbourhood);

impl Local for Neighbours {
    fn frame(&mut self, now: Instant, frame: &[u8], sum: Checksum, answers: &mut Vec<Vec<u8>>) {
        let sum = match sum {
            Checksum::Complete => TransportChecksum::Verify,
            _ => TransportChecksum::Vouched,
        };
        self.0.handle(now, frame, sum, answers);
    }

    fn dns_datagram(&mut self, _: SocketAddr, _: SocketAddr, _: &[u8]) {}

    /// Its other end is closed at once.
    fn dns_stream(&mut self) -> io::Result<OwnedFd> {
        let (stream, _) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        Ok(stream.into())
    }
}

pub struct World {
    pub slirp: Slirp,
    pub now: Instant,
    /// The frame that was sent last.
    #[allow(dead_code)]
    pub last: std::rc::Rc<std::cell::RefCell<Vec<u8>>>,
}

impl World {
    /// `open`: which ports of the host's loopback can be reached. Everything
    /// else leads to addresses that this target never lets through.
    pub fn new(open: HostLoopback) -> Self {
        let now = Instant::now();
        let sink = Sink::default();
        let last = std::rc::Rc::clone(&sink.last);
        let parts = Parts {
            policy: Policy {
                plan: plan(),
                host_loopback: open,
                exposed: Exposed::default(),
                dns: true,
            },
            plan: plan(),
            forward_echo: false,
            sockets: HostSockets::default(),
            memory: 4 << 20,
            descriptors: 600,
            uso: true,
            events: Telling::On,
            outlet: Box::new(sink),
            local: Box::new(Neighbours(Neighbourhood::new(
                NeighbourhoodConfig::new(plan()),
                now,
            ))),
        };
        Self {
            slirp: Slirp::new(parts, now).expect("the only one"),
            now,
            last,
        }
    }

    pub fn feed(&mut self, frame: &[u8], offload: &Offload) {
        let frame = &frame[..frame.len().min(gw::net::MAX_FRAME_LEN)];
        let mut buffer = self.slirp.buffer();
        buffer.bytes_mut()[..frame.len()].copy_from_slice(frame);
        self.slirp.input(buffer, frame.len(), offload);
    }

    pub fn turn(&mut self, passed: Duration) {
        self.now += passed;
        self.slirp.set_now(self.now);
        self.slirp.poll_host().expect("epoll works");
        for _ in 0..4 {
            self.slirp.work();
        }
        let _ = self.slirp.next_deadline();
    }

    /// Nothing of this input is left for the next.
    pub fn empty(&mut self) {
        self.slirp.reset_all();
        for _ in 0..3 {
            self.turn(Duration::from_secs(200));
        }
        assert_eq!(self.slirp.flows(), (0, 0));
        assert_eq!(self.slirp.memory_used(), 0);
        self.check_events();
    }

    /// Whatever began has ended once, and nothing else has.
    fn check_events(&mut self) {
        let mut open = std::collections::HashSet::new();
        for event in self.slirp.take_events() {
            match event {
                FlowEvent::Opened(flow) => assert!(open.insert(flow.number)),
                FlowEvent::Decided(flow) => assert!(open.contains(&flow.number)),
                FlowEvent::Closed(flow) => assert!(open.remove(&flow.opened.number)),
            }
        }
        assert!(open.is_empty(), "{open:?}");
    }
}

pub fn sum(parts: &[&[u8]]) -> u16 {
    let mut sum: u64 = 0;
    for part in parts {
        for w in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([w[0], w.get(1).copied().unwrap_or(0)]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Makes an IPv4 or IPv6 frame's checksums right, so that what is behind them
/// is reached.
#[allow(dead_code)]
pub fn fix(frame: &mut [u8]) -> Option<()> {
    let packet = frame.get_mut(14..)?;
    let (addresses, protocol, start, end): (Vec<u8>, u8, usize, usize) = match packet.first()? >> 4
    {
        4 => {
            let header = usize::from(packet[0] & 15) * 4;
            packet.get_mut(10..12)?.fill(0);
            let sum = sum(&[packet.get(..header)?]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            let end = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            (packet.get(12..20)?.to_vec(), packet[9], header, end)
        }
        6 => {
            let end = 40 + usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
            (packet.get(8..40)?.to_vec(), packet[6], 40, end)
        }
        _ => return None,
    };
    let field = match protocol {
        6 => 16,
        17 => 6,
        1 | 58 => 2,
        _ => return None,
    };
    let transport = packet.get_mut(start..end)?;
    transport.get_mut(field..field + 2)?.fill(0);
    let len = (transport.len() as u32).to_be_bytes();
    let pseudo = [&addresses[..], &len, &[0, 0, 0, protocol]].concat();
    let sum = if protocol == 1 {
        sum(&[transport])
    } else {
        sum(&[&pseudo, transport])
    };
    transport[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(())
}
