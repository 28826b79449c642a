//! An independent stack as the guest: smoltcp configures itself by DHCP and by
//! router advertisements, and finds the gateway's addresses.

use std::collections::VecDeque;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, icmp as icmp_socket};
use smoltcp::time::Instant as SmolInstant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, Icmpv6Repr, IpAddress, IpCidr};

use super::*;

/// A wire with smoltcp on one end.
#[derive(Default)]
struct Wire {
    to_guest: VecDeque<Vec<u8>>,
    from_guest: VecDeque<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sender<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

impl TxToken for Sender<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        self.0.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sender<'a>;

    fn receive(&mut self, _: SmolInstant) -> Option<(Received, Sender<'_>)> {
        let frame = self.to_guest.pop_front()?;
        Some((Received(frame), Sender(&mut self.from_guest)))
    }

    fn transmit(&mut self, _: SmolInstant) -> Option<Sender<'_>> {
        Some(Sender(&mut self.from_guest))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        capabilities
    }
}

/// A guest, the gateway, and a clock they share.
struct World {
    gateway: Neighbourhood,
    start: Instant,
    elapsed: Duration,
    wire: Wire,
    guest: Interface,
    sockets: SocketSet<'static>,
    /// What of the guest's frames was for the stack.
    not_mine: Vec<Vec<u8>>,
}

impl World {
    fn new(mac: MacAddr, slaac: bool) -> Self {
        let start = Instant::now();
        let mut wire = Wire::default();
        let mut guest_config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        guest_config.slaac = slaac;
        let guest = Interface::new(guest_config, &mut wire, SmolInstant::from_millis(0));
        Self {
            gateway: Neighbourhood::new(config(&["example"]), start),
            start,
            elapsed: Duration::ZERO,
            wire,
            guest,
            sockets: SocketSet::new(vec![]),
            not_mine: Vec::new(),
        }
    }

    /// One round: the guest's turn, then the gateway's, then 10 ms pass.
    fn turn(&mut self) {
        let smol_now = SmolInstant::ZERO + self.elapsed.into();
        self.guest.poll(smol_now, &mut self.wire, &mut self.sockets);
        let now = self.start + self.elapsed;
        let mut out = Vec::new();
        while let Some(frame) = self.wire.from_guest.pop_front() {
            let handled = self
                .gateway
                .handle(now, &frame, TransportChecksum::Verify, &mut out);
            if handled == Handled::NotMine {
                self.not_mine.push(frame);
            }
        }
        self.gateway.poll(now, &mut out);
        out.iter().for_each(|frame| assert_well_formed(frame));
        self.wire.to_guest.extend(out);
        self.elapsed += Duration::from_millis(10);
    }

    /// The configuration that the guest's DHCP client arrives at.
    fn configure(&mut self, dhcp: SocketHandle, turns: usize) -> Option<Configured> {
        for _ in 0..turns {
            self.turn();
            let event = self.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).poll();
            if let Some(dhcpv4::Event::Configured(found)) = event {
                return Some(Configured {
                    address: found.address.to_string(),
                    router: found.router.map(|a| a.to_string()),
                    dns: found.dns_servers.iter().map(ToString::to_string).collect(),
                });
            }
        }
        None
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Configured {
    address: String,
    router: Option<String>,
    dns: Vec<String>,
}

fn expected(address: &str) -> Configured {
    Configured {
        address: address.to_owned(),
        router: Some("10.0.2.2".to_owned()),
        dns: vec!["10.0.2.3".to_owned()],
    }
}

#[test]
fn smoltcp_leases_an_address_and_renews_it() {
    let mut world = World::new(GUEST_MAC, false);
    let dhcp = world.sockets.add(dhcpv4::Socket::new());
    assert_eq!(world.configure(dhcp, 200), Some(expected("10.0.2.15/24")));
    world.guest.update_ip_addrs(|addrs| {
        addrs
            .push("10.0.2.15/24".parse().expect("cidr"))
            .expect("room")
    });
    let lease = world.gateway.leases().next().expect("a lease");
    assert_eq!(lease.mac, GUEST_MAC);
    // Past T1 the client renews by unicast, after it resolved the gateway by ARP.
    world.elapsed += DEFAULT_LEASE_TIME / 2 + Duration::from_secs(1);
    for _ in 0..200 {
        world.turn();
    }
    let renewed = world.gateway.leases().next().expect("a lease");
    assert!(renewed.expires > lease.expires, "not renewed");
    assert!(world.not_mine.is_empty(), "{:?}", world.not_mine);
}

#[test]
fn smoltcp_configures_itself_from_an_advertisement_and_finds_the_gateway() {
    let mut world = World::new(GUEST_MAC, true);
    let link_local: IpCidr = "fe80::ff:fe00:9/64".parse().expect("cidr");
    world
        .guest
        .update_ip_addrs(|addrs| addrs.push(link_local).expect("room"));
    for _ in 0..600 {
        world.turn();
    }
    let addresses: Vec<String> = world
        .guest
        .ip_addrs()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        addresses.contains(&"fd00::ff:fe00:9/64".to_owned()),
        "{addresses:?}"
    );

    // The default route works: an echo request to elsewhere leaves through the
    // gateway, whose link-local address is found by neighbour discovery.
    let buffer = || {
        icmp_socket::PacketBuffer::new(vec![icmp_socket::PacketMetadata::EMPTY; 4], vec![0; 512])
    };
    let mut socket = icmp_socket::Socket::new(buffer(), buffer());
    socket.bind(icmp_socket::Endpoint::Ident(7)).expect("free");
    let socket = world.sockets.add(socket);
    for target in ["2001:db8::1", "fd00::2", "fd00::3"] {
        let target: std::net::Ipv6Addr = target.parse().expect("address");
        let echo = Icmpv6Repr::EchoRequest {
            ident: 7,
            seq_no: 1,
            data: b"hello",
        };
        let handle = world.sockets.get_mut::<icmp_socket::Socket<'_>>(socket);
        let payload = handle
            .send(echo.buffer_len(), IpAddress::Ipv6(target))
            .expect("room");
        let mut packet = smoltcp::wire::Icmpv6Packet::new_unchecked(payload);
        let own = v6("fd00::ff:fe00:9");
        echo.emit(
            &own,
            &target,
            &mut packet,
            &smoltcp::phy::ChecksumCapabilities::default(),
        );
        world.not_mine.clear();
        for _ in 0..200 {
            world.turn();
        }
        let sent = world
            .not_mine
            .iter()
            .any(|frame| frame[..6] == GATEWAY_MAC.0 && frame[38..54] == target.octets());
        assert!(sent, "{target}: {:?}", world.not_mine);
    }
}
