//! Datagrams: mapping, sizes, time.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use gw::policy::{HostTarget, Protocol};

use crate::world::{GATEWAY_MAC, GATEWAY4, GUEST_MAC, GUEST4, Options, World};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Server(UdpSocket);

impl Server {
    pub(crate) fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        Self(socket)
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    pub(crate) fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        let mut bytes = vec![0; 65536];
        let (len, from) = self.0.recv_from(&mut bytes).ok()?;
        bytes.truncate(len);
        Some((bytes, from))
    }
}

pub(crate) fn datagram(from: u16, to: u16, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0)
        .ipv4(GUEST4.octets(), GATEWAY4.octets(), ttl)
        .udp(from, to)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

/// Source port, destination port and payload of the next datagram.
fn arrived(world: &mut World) -> Option<(u16, u16, Vec<u8>)> {
    while let Some(frame) = world.arrived() {
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        if let Some(TransportSlice::Udp(udp)) = packet.transport {
            return Some((
                udp.source_port(),
                udp.destination_port(),
                udp.payload().to_vec(),
            ));
        }
    }
    None
}

/// Sends, and gives the host's side of the mapping.
fn exchange(world: &mut World, server: &Server, from: u16, payload: &[u8]) -> SocketAddr {
    world.inject(&datagram(from, server.port(), 64, payload));
    world.settle();
    let (bytes, outside) = server.receive().expect("a datagram");
    assert_eq!(bytes, payload);
    outside
}

#[test]
fn one_mapping_for_every_destination() {
    let (a, b) = (Server::new(), Server::new());
    let mut world = World::raw(&Options::default());
    let first = exchange(&mut world, &a, 5000, b"to a");
    let second = exchange(&mut world, &b, 5000, b"to b");
    assert_eq!(first.port(), second.port(), "endpoint-independent");
    assert_ne!(
        exchange(&mut world, &a, 5001, b"another").port(),
        first.port()
    );
    assert_eq!(world.slirp.flows(), (0, 2));
    // Somebody the guest never spoke to answers as well.
    let c = Server::new();
    for (server, text) in [(&a, b"from a"), (&b, b"from b"), (&c, b"from c")] {
        server.0.send_to(text, ("127.0.0.1", first.port())).unwrap();
        world.settle();
        assert_eq!(
            arrived(&mut world),
            Some((server.port(), 5000, text.to_vec()))
        );
    }
}

#[test]
fn empty_and_largest_datagrams_survive() {
    let server = Server::new();
    let mut world = World::raw(&Options {
        mtu: 65520,
        ..Options::default()
    });
    let outside = exchange(&mut world, &server, 5000, &[]);
    exchange(&mut world, &server, 5000, &vec![7; 65_400]);
    server
        .0
        .send_to(&[], ("127.0.0.1", outside.port()))
        .unwrap();
    world.settle();
    assert_eq!(arrived(&mut world), Some((server.port(), 5000, Vec::new())));
}

#[test]
fn an_unanswered_flow_lasts_30_seconds() {
    let server = Server::new();
    let mut world = World::raw(&Options::default());
    exchange(&mut world, &server, 5000, b"x");
    world.advance(28 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 1));
    world.advance(4 * SECOND);
    world.assert_clean();
    assert_eq!(world.slirp.next_deadline(), None);
}

#[test]
fn an_answered_flow_lasts_180_seconds_from_the_last_datagram() {
    let server = Server::new();
    let mut world = World::raw(&Options::default());
    for _ in 0..3 {
        let outside = exchange(&mut world, &server, 5000, b"x");
        server
            .0
            .send_to(b"y", ("127.0.0.1", outside.port()))
            .unwrap();
        world.settle();
        assert!(arrived(&mut world).is_some());
        world.advance(177 * SECOND);
        assert_eq!(world.slirp.flows(), (0, 1));
    }
    world.advance(5 * SECOND);
    world.assert_clean();
}

/// A query to port 53 needs a server there, which only root has: without it
/// the error comes back, and the limit is the same.
#[test]
fn a_flow_to_port_53_lasts_10_seconds() {
    let mut world = World::raw(&Options::default());
    world.inject(&datagram(5000, 53, 64, b"query"));
    world.settle();
    assert_eq!(world.slirp.flows(), (0, 1));
    world.advance(8 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 1));
    world.advance(4 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 0));
}

/// Time to live 0 and 1 to the gateway's own address: delivered, and no
/// arithmetic goes wrong.
#[test]
fn a_small_time_to_live_reaches_the_gateway() {
    let server = Server::new();
    let mut world = World::raw(&Options::default());
    for ttl in [0, 1, 2, 255] {
        world.inject(&datagram(5000, server.port(), ttl, &[ttl]));
        world.settle();
        assert_eq!(server.receive().expect("a datagram").0, [ttl]);
    }
}

#[test]
fn a_closed_port_is_an_icmp_error() {
    let port = Server::new().port();
    let mut world = World::raw(&Options::default());
    world.inject(&datagram(5000, port, 64, b"anybody?"));
    world.settle();
    let frame = world.arrived().expect("an error");
    assert_eq!(
        (frame[23], frame[34], frame[35]),
        (1, 3, 3),
        "port unreachable"
    );
    // It quotes the datagram: ports as the guest wrote them.
    assert_eq!(
        frame[62..66],
        [19, 136, (port >> 8) as u8, (port & 0xff) as u8]
    );
}

/// Ports of the gateway that lead to one port of the host, beside that port
/// itself: every answer comes from the port that was asked.
#[test]
fn an_exposed_port_answers_under_its_own_number() {
    let server = Server::new();
    let mut world = World::raw(&Options::default());
    let exposed = &mut world.slirp.policy_mut().exposed;
    for port in [80, 81] {
        exposed.insert(Protocol::Udp, port, HostTarget::Loopback(server.port()));
    }
    let ports = [80, server.port(), 81];
    let mut outside = Vec::new();
    for port in ports {
        world.inject(&datagram(5000, port, 64, b"question"));
        world.settle();
        outside.push(server.receive().expect("a datagram").1);
    }
    for (port, outside) in ports.iter().zip(&outside).rev() {
        server.0.send_to(b"answer", outside).unwrap();
        world.settle();
        assert_eq!(arrived(&mut world), Some((*port, 5000, b"answer".to_vec())));
    }
    // The same flows again.
    world.inject(&datagram(5000, 81, 64, b"question"));
    world.settle();
    assert_eq!(server.receive().expect("a datagram").1, outside[2]);
    world.advance(200 * SECOND);
    world.assert_clean();
}

#[test]
fn an_error_about_an_exposed_port_quotes_its_own_number() {
    let closed = Server::new().port();
    let mut world = World::raw(&Options::default());
    let exposed = &mut world.slirp.policy_mut().exposed;
    exposed.insert(Protocol::Udp, 80, HostTarget::Loopback(closed));
    world.inject(&datagram(5000, 80, 64, b"anybody?"));
    world.settle();
    let frame = world.arrived().expect("an error");
    assert_eq!((frame[23], frame[34], frame[35]), (1, 3, 3));
    assert_eq!(frame[62..66], [19, 136, 0, 80]);
}

/// A super-frame cut into more pieces than any program can ask for is not sent
/// piece by piece.
#[test]
fn a_super_frame_of_single_bytes_is_refused() {
    use gw::net::{Checksum, Gso, GsoKind, Offload};
    let server = Server::new();
    let mut world = World::raw(&Options {
        mtu: 65520,
        ..Options::default()
    });
    let frame = datagram(5000, server.port(), 64, &[1; 20_000]);
    let offload = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 6,
        },
        gso: Some(Gso {
            kind: GsoKind::Udp,
            size: 1,
            header_len: 42,
        }),
    };
    world.feed(&frame, &offload);
    world.settle();
    assert_eq!(server.receive(), None);
    // A sane one is.
    let offload = Offload {
        gso: Some(Gso {
            kind: GsoKind::Udp,
            size: 1000,
            header_len: 42,
        }),
        ..offload
    };
    world.feed(&frame, &offload);
    world.settle();
    let mut count = 0;
    while let Some((bytes, _)) = server.receive() {
        assert_eq!(bytes.len(), 1000);
        count += 1;
    }
    assert_eq!(count, 20);
}

/// The host's burst becomes super-frames, which are cut to the guest's MTU.
#[test]
fn a_burst_of_the_host_arrives_whole() {
    let server = Server::new();
    let mut world = World::raw(&Options::default());
    let outside = exchange(&mut world, &server, 5000, b"x");
    for n in 0..50u8 {
        server
            .0
            .send_to(&[n; 1200], ("127.0.0.1", outside.port()))
            .unwrap();
    }
    world.settle();
    for n in 0..50u8 {
        assert_eq!(
            arrived(&mut world),
            Some((server.port(), 5000, vec![n; 1200]))
        );
    }
    assert_eq!(arrived(&mut world), None);
}

/// More guests' ports than the table has places: the oldest go.
#[test]
fn the_table_is_bounded() {
    let server = Server::new();
    let mut world = World::raw(&Options {
        descriptors: 400,
        ..Options::default()
    });
    for n in 0..300 {
        exchange(&mut world, &server, 5000 + n, b"x");
    }
    assert_eq!(world.slirp.flows(), (0, 100));
    world.advance(60 * SECOND);
    world.assert_clean();
}
