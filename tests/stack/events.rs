//! What is told of flows: every way to begin and to end, and nothing else.

use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

use etherparse::PacketBuilder;
use gw::policy::{FlowClosed, FlowEvent, FlowVerdict, HostLoopback, HowEnded, Party, Protocol};
use gw::slirp::Telling;
use socket2::SockRef;

use crate::host::{Got, Host, read, reset, write};
use crate::inbound::{self, V4, accept, announce, syn};
use crate::inbound_udp;
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN};
use crate::world::{GATEWAY_MAC, GATEWAY4, GUEST_MAC, GUEST4, Options, World};

const SECOND: Duration = Duration::from_secs(1);

/// A flow from its beginning to its end, all of which was told.
#[track_caller]
fn only(world: &mut World) -> FlowClosed {
    let flows = told(world);
    assert_eq!(flows.len(), 1, "{flows:#?}");
    flows.into_iter().next().expect("just counted")
}

/// Every flow that was told of since the last call, all of them closed. Checks
/// that the events of each fit.
#[track_caller]
fn told(world: &mut World) -> Vec<FlowClosed> {
    world.settle();
    let mut open = Vec::new();
    let mut closed = Vec::new();
    for event in world.slirp.take_events() {
        match event {
            FlowEvent::Opened(flow) => open.push((flow, None)),
            FlowEvent::Decided(decided) => {
                let flow = open
                    .iter_mut()
                    .find(|(flow, _)| flow.number == decided.number)
                    .expect("it has begun");
                assert_eq!(flow.1.replace(decided), None, "decided twice");
            }
            FlowEvent::Closed(end) => {
                let at = open
                    .iter()
                    .position(|(flow, _)| flow.number == end.opened.number)
                    .expect("it has begun, and not ended before");
                let (began, decided) = open.remove(at);
                assert_eq!(began.at, end.opened.at);
                assert_eq!(began.protocol, end.opened.protocol);
                assert_eq!(decided.map(|d| d.verdict), end.verdict);
                assert_eq!(decided.and_then(|d| d.peer), end.peer);
                assert!(began.at <= end.at);
                closed.push(*end);
            }
        }
    }
    assert!(open.is_empty(), "not closed: {open:?}");
    assert_eq!(world.slirp.take_lost_events(), 0);
    closed
}

fn ended(flow: &FlowClosed) -> (Option<FlowVerdict>, HowEnded, Party, Option<Party>) {
    (flow.verdict, flow.how, flow.by, flow.half_closed_by)
}

/// A connection of the guest's that is open on both sides.
fn connected(world: &mut World) -> (Raw, std::net::TcpStream, Host) {
    let host = Host::listen();
    let mut raw = Raw::new(5000, host.gateway());
    raw.open(world);
    let stream = host.accept(world);
    world.settle();
    (raw, stream, host)
}

fn send_udp(world: &mut World, from: SocketAddr, to: SocketAddr, payload: &[u8]) {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else {
        panic!("IPv4 only");
    };
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0)
        .ipv4(from.ip().octets(), to.ip().octets(), 64)
        .udp(from.port(), to.port())
        .write(&mut frame, payload)
        .unwrap();
    world.inject(&frame);
}

fn acknowledge(raw: &mut Raw, world: &mut World) {
    for segment in raw.heard(world) {
        let control = u32::from(segment.flags & (FIN | SYN) != 0);
        let len = u32::try_from(segment.payload.len()).unwrap() + control;
        raw.ack = segment.seq.wrapping_add(len);
    }
    raw.send(world, ACK, &[]);
    world.settle();
}

#[test]
fn a_connection_that_the_guest_closes() {
    let mut world = World::raw(&Options::default());
    let (mut raw, mut stream, host) = connected(&mut world);
    raw.send(&mut world, ACK | PSH, b"question");
    world.settle();
    assert_eq!(write(&mut stream, b"an answer"), 9);
    acknowledge(&mut raw, &mut world);
    raw.send(&mut world, FIN | ACK, &[]);
    world.settle();
    assert_eq!(read(&mut stream, 100), Got::Bytes(b"question".to_vec()));
    assert_eq!(read(&mut stream, 100), Got::End);
    world.advance(3 * SECOND);
    drop(stream);
    world.settle();
    acknowledge(&mut raw, &mut world);
    let flow = only(&mut world);
    let expected = (
        Some(FlowVerdict::Connected),
        HowEnded::Finished,
        Party::Guest,
        Some(Party::Guest),
    );
    assert_eq!(ended(&flow), expected);
    assert_eq!(flow.opened.protocol, Protocol::Tcp);
    assert_eq!(flow.opened.by, Party::Guest);
    assert_eq!(flow.opened.guest, raw.guest);
    assert_eq!(flow.opened.remote, host.gateway());
    let local: SocketAddr = (Ipv4Addr::LOCALHOST, host.port).into();
    assert_eq!(flow.peer, Some(local));
    assert!(flow.opened.id.is_some());
    assert_eq!((flow.to_guest.bytes, flow.from_guest.bytes), (9, 8));
    // SYN, the handshake's ACK, data, two ACKs, FIN.
    assert_eq!(flow.from_guest.packets, 6);
    // SYN-ACK, data, ACK of the data, ACK of the FIN, FIN; some go together.
    assert!((4..=5).contains(&flow.to_guest.packets), "{flow:?}");
    assert_eq!(flow.to_guest.retransmits, 0);
    assert!(flow.rtt.is_some() && flow.connect_time.is_some());
    assert_eq!(flow.guest_rtt, Some(Duration::ZERO), "virtual time");
    assert!(flow.at.duration_since(flow.opened.at) >= 3 * SECOND);
    assert!(!flow.impaired);
    world.assert_clean();
}

#[test]
fn a_connection_that_the_host_closes() {
    let mut world = World::raw(&Options::default());
    let (mut raw, stream, _host) = connected(&mut world);
    drop(stream);
    world.settle();
    acknowledge(&mut raw, &mut world);
    raw.send(&mut world, FIN | ACK, &[]);
    let flow = only(&mut world);
    let (host, finished) = (Party::Host, HowEnded::Finished);
    let connected = Some(FlowVerdict::Connected);
    assert_eq!(ended(&flow), (connected, finished, host, Some(host)));
}

#[test]
fn a_connection_that_the_guest_resets() {
    let mut world = World::raw(&Options::default());
    let (mut raw, _stream, _host) = connected(&mut world);
    raw.send(&mut world, RST | ACK, &[]);
    let flow = only(&mut world);
    let expected = (
        Some(FlowVerdict::Connected),
        HowEnded::Reset,
        Party::Guest,
        None,
    );
    assert_eq!(ended(&flow), expected);
}

#[test]
fn a_half_closed_connection_that_the_host_resets() {
    let mut world = World::raw(&Options::default());
    let (mut raw, mut stream, _host) = connected(&mut world);
    raw.send(&mut world, FIN | ACK, &[]);
    world.settle();
    assert_eq!(read(&mut stream, 100), Got::End);
    reset(stream);
    let flow = only(&mut world);
    let expected = (
        Some(FlowVerdict::Connected),
        HowEnded::Reset,
        Party::Host,
        Some(Party::Guest),
    );
    assert_eq!(ended(&flow), expected);
}

#[test]
fn a_half_closed_connection_that_rests_too_long() {
    let mut world = World::raw(&Options::default());
    let (mut raw, stream, _host) = connected(&mut world);
    stream.shutdown(Shutdown::Write).unwrap();
    world.settle();
    acknowledge(&mut raw, &mut world);
    world.advance(200 * SECOND);
    let flow = only(&mut world);
    let expected = (
        Some(FlowVerdict::Connected),
        HowEnded::Idle,
        Party::Gateway,
        Some(Party::Host),
    );
    assert_eq!(ended(&flow), expected);
}

#[test]
fn a_guest_that_vanishes() {
    let mut world = World::raw(&Options::default());
    let (mut raw, mut stream, _host) = connected(&mut world);
    raw.heard(&mut world);
    raw.window = 65535;
    assert_eq!(write(&mut stream, b"are you there"), 13);
    world.settle();
    world.advance(3600 * SECOND);
    let flow = only(&mut world);
    let expected = (
        Some(FlowVerdict::Connected),
        HowEnded::Lost,
        Party::Guest,
        None,
    );
    assert_eq!(ended(&flow), expected);
    assert_eq!(flow.to_guest.bytes, 13);
    assert!(flow.to_guest.retransmits >= 5, "{flow:?}");
    assert!(flow.to_guest.packets > flow.to_guest.retransmits);
}

#[test]
fn a_connection_that_is_refused() {
    let mut world = World::raw(&Options::default());
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut raw = Raw::new(5000, (GATEWAY4, port).into());
    raw.send(&mut world, SYN, &[]);
    assert!(raw.next(&mut world).flags & RST != 0);
    let flow = only(&mut world);
    let (refused, host) = (Some(FlowVerdict::Refused), Party::Host);
    assert_eq!(ended(&flow), (refused, HowEnded::TurnedAway, host, None));
    assert_eq!((flow.connect_time, flow.peer), (None, None));
    assert_eq!((flow.from_guest.packets, flow.to_guest.bytes), (1, 0));
}

#[test]
fn what_policy_turns_away_is_told_of_once() {
    let options = Options {
        host_loopback: HostLoopback::Closed,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    for (remote, verdict) in [
        ("10.0.2.2:80", FlowVerdict::Unreachable),
        ("127.0.0.1:80", FlowVerdict::Unreachable),
        ("10.0.2.77:80", FlowVerdict::Dropped),
    ] {
        let raw = Raw::new(5000, remote.parse().unwrap());
        for _ in 0..4 {
            raw.send_at(&mut world, SYN, raw.seq, &[]);
            world.advance(10 * SECOND);
        }
        let flow = only(&mut world);
        let turned_away = HowEnded::TurnedAway;
        let expected = (Some(verdict), turned_away, Party::Gateway, None);
        assert_eq!(ended(&flow), expected, "{remote}");
        assert_eq!(flow.opened.id, None);
        assert_eq!(flow.opened.remote, raw.remote);
        world.advance(71 * SECOND);
        raw.send_at(&mut world, SYN, raw.seq, &[]);
        assert_eq!(only(&mut world).verdict, Some(verdict), "again, later");
    }
}

#[test]
fn a_full_table_turns_away() {
    let options = Options {
        descriptors: 500,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    let host = Host::listen();
    let mut flows = 0;
    for port in 1000..1500 {
        let mut raw = Raw::new(port, host.gateway());
        raw.send(&mut world, SYN, &[]);
        world.settle();
        flows += 1;
        if world.slirp.flows().0 < flows {
            break;
        }
    }
    let events: Vec<_> = world.slirp.take_events().collect();
    let Some(FlowEvent::Closed(flow)) = events.last() else {
        panic!("{events:?}");
    };
    let no_room = Some(FlowVerdict::NoRoom);
    let expected = (no_room, HowEnded::TurnedAway, Party::Gateway, None);
    assert_eq!(ended(flow), expected);
}

#[test]
fn killing_and_the_gateways_end() {
    let mut world = World::raw(&Options::default());
    let (_raw, _stream, _host) = connected(&mut world);
    let id = world.slirp.flow_list()[0].id;
    assert!(world.slirp.close_flow(id));
    let connected_ = Some(FlowVerdict::Connected);
    let killed = only(&mut world);
    let expected = (connected_, HowEnded::Killed, Party::Gateway, None);
    assert_eq!(ended(&killed), expected);
    assert_eq!(
        killed.opened.id.map(|id| format!("{id:x}")),
        Some(id.to_string())
    );

    let (_raw, _stream, _host) = connected(&mut world);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = (GATEWAY4, socket.local_addr().unwrap().port()).into();
    send_udp(&mut world, (GUEST4, 700).into(), to, b"hello");
    world.settle();
    world.slirp.reset_all();
    let flows = told(&mut world);
    assert_eq!(flows.len(), 2);
    for flow in &flows {
        assert_eq!((flow.how, flow.by), (HowEnded::Shutdown, Party::Gateway));
        assert!(flow.opened.number > killed.opened.number);
    }
    world.assert_clean();
}

#[test]
fn a_guest_that_gives_up_while_the_host_connects() {
    let mut world = World::raw(&Options::default());
    // A listener whose queue is full: a connect to it stays unanswered.
    let host = Host::listen_at((Ipv4Addr::LOCALHOST, 0).into(), 0, None);
    let _first = std::net::TcpStream::connect(host.listener.local_addr().unwrap()).unwrap();
    let mut raw = Raw::new(5000, host.gateway());
    raw.send(&mut world, SYN, &[]);
    world.settle();
    raw.send(&mut world, RST, &[]);
    let flow = only(&mut world);
    assert_eq!(ended(&flow), (None, HowEnded::Reset, Party::Guest, None));
    assert_eq!(flow.connect_time, None);
}

#[test]
fn the_gateways_resolver() {
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(5000, "10.0.2.3:53".parse().unwrap());
    raw.open(&mut world);
    world.settle();
    send_udp(&mut world, (GUEST4, 700).into(), raw.remote, b"a query");
    raw.send(&mut world, RST | ACK, &[]);
    let flow = only(&mut world);
    let dns = Some(FlowVerdict::Dns);
    assert_eq!(ended(&flow), (dns, HowEnded::Reset, Party::Guest, None));
    assert_eq!((flow.peer, flow.rtt), (None, None));
}

#[test]
fn a_client_of_a_forwarded_port() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = inbound::publish(&mut world, V4);
    let mut client = port.client();
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    assert_eq!(write(&mut client, b"hello"), 5);
    world.settle();
    acknowledge(&mut raw, &mut world);
    let here = client.local_addr().unwrap();
    drop(client);
    world.settle();
    acknowledge(&mut raw, &mut world);
    raw.send(&mut world, FIN | ACK, &[]);
    let flow = only(&mut world);
    let connected = Some(FlowVerdict::Connected);
    let host = Party::Host;
    assert_eq!(
        ended(&flow),
        (connected, HowEnded::Finished, host, Some(host))
    );
    assert_eq!((flow.opened.by, flow.peer), (Party::Host, Some(here)));
    assert_eq!(flow.opened.guest, (GUEST4, 80).into());
    assert_eq!(flow.opened.remote, (GATEWAY4, here.port()).into());
    assert_eq!((flow.to_guest.bytes, flow.from_guest.bytes), (5, 0));
    assert!(flow.connect_time.is_some());
}

#[test]
fn clients_that_the_guest_does_not_want() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = inbound::publish(&mut world, V4);
    let _client = port.client();
    let syn_ = syn(&mut world);
    let mut raw = Raw::new(80, syn_.from);
    raw.ack = syn_.seq.wrapping_add(1);
    raw.seq = 0;
    raw.send(&mut world, RST | ACK, &[]);
    let flow = only(&mut world);
    let (refused, guest) = (Some(FlowVerdict::Refused), Party::Guest);
    assert_eq!(ended(&flow), (refused, HowEnded::TurnedAway, guest, None));

    let _client = port.client();
    syn(&mut world);
    world.advance(13 * SECOND);
    let flow = only(&mut world);
    let silent = Some(FlowVerdict::NoAnswer);
    assert_eq!(ended(&flow), (silent, HowEnded::TurnedAway, guest, None));
    assert!(flow.to_guest.retransmits >= 2, "{flow:?}");

    let client = port.client();
    syn(&mut world);
    SockRef::from(&client)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(client);
    let flow = only(&mut world);
    assert_eq!(ended(&flow), (None, HowEnded::Reset, Party::Host, None));
}

#[test]
fn udp_is_told_of_by_pairs() {
    let mut world = World::raw(&Options::default());
    let hosts = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let guest: SocketAddr = (GUEST4, 700).into();
    for (n, host) in hosts.iter().enumerate() {
        let to = (GATEWAY4, host.local_addr().unwrap().port()).into();
        for _ in 0..=n {
            send_udp(&mut world, guest, to, b"hello");
        }
    }
    world.settle();
    let mut bytes = [0; 9];
    let (_, from) = hosts[1].recv_from(&mut bytes).unwrap();
    hosts[1].send_to(b"welcome", from).unwrap();
    // Somebody else finds the port.
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    stranger.send_to(b"boo", from).unwrap();
    world.settle();
    assert_eq!(world.slirp.flows(), (0, 1));
    world.advance(200 * SECOND);
    let mut flows = told(&mut world);
    flows.sort_by_key(|flow| flow.opened.number);
    let [unanswered, answered, strange] = &flows[..] else {
        panic!("{flows:#?}");
    };
    let peer = |socket: &UdpSocket| Some(socket.local_addr().unwrap());
    let idle = |verdict| (verdict, HowEnded::Idle, Party::Gateway, None);
    assert_eq!(ended(unanswered), idle(None));
    assert_eq!((unanswered.from_guest.bytes, unanswered.peer), (5, None));
    let time = unanswered.at.duration_since(unanswered.opened.at);
    assert!((30..=36).contains(&time.as_secs()), "{time:?}");
    assert_eq!(ended(answered), idle(Some(FlowVerdict::Connected)));
    assert_eq!(answered.peer, peer(&hosts[1]));
    assert_eq!(answered.opened.by, Party::Guest);
    assert_eq!(
        (answered.from_guest.bytes, answered.from_guest.packets),
        (10, 2)
    );
    assert_eq!((answered.to_guest.bytes, answered.to_guest.packets), (7, 1));
    assert_eq!((answered.rtt, answered.connect_time), (None, None));
    assert_eq!(strange.opened.by, Party::Host);
    assert_eq!(
        strange.opened.remote.port(),
        peer(&stranger).unwrap().port()
    );
    assert_eq!(strange.opened.id, answered.opened.id, "one socket");
}

#[test]
fn a_closed_udp_port_is_told_of_once() {
    let mut world = World::raw(&Options::default());
    let port = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    for _ in 0..5 {
        let to = (GATEWAY4, port).into();
        send_udp(&mut world, (GUEST4, 700).into(), to, b"hello");
        world.advance(SECOND);
    }
    let flow = only(&mut world);
    let (refused, host) = (Some(FlowVerdict::Refused), Party::Host);
    assert_eq!(ended(&flow), (refused, HowEnded::TurnedAway, host, None));
    assert_eq!(flow.from_guest.packets, 1);
}

#[test]
fn clients_of_a_forwarded_udp_port() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = inbound_udp::publish(&mut world, "127.0.0.1:0", V4);
    let client = inbound_udp::client("127.0.0.1:0");
    let here = client.local_addr().unwrap();
    client.send_to(b"hello", ("127.0.0.1", port.port)).unwrap();
    world.settle();
    let answer_to = (GATEWAY4, here.port()).into();
    send_udp(&mut world, (GUEST4, 80).into(), answer_to, b"welcome");
    world.advance(200 * SECOND);
    let flow = only(&mut world);
    let (connected, gateway) = (Some(FlowVerdict::Connected), Party::Gateway);
    assert_eq!(ended(&flow), (connected, HowEnded::Idle, gateway, None));
    assert_eq!((flow.opened.by, flow.peer), (Party::Host, Some(here)));
    assert_eq!((flow.to_guest.bytes, flow.to_guest.packets), (5, 1));
    assert_eq!((flow.from_guest.bytes, flow.from_guest.packets), (7, 1));
}

#[test]
fn nothing_is_told_where_nobody_listens() {
    let options = Options {
        events: Telling::Off,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    let (mut raw, _stream, host) = connected(&mut world);
    let to = (GATEWAY4, host.port).into();
    send_udp(&mut world, (GUEST4, 700).into(), to, b"hello");
    raw.send(&mut world, RST | ACK, &[]);
    world.settle();
    world.slirp.reset_all();
    assert_eq!(told(&mut world), []);
}
