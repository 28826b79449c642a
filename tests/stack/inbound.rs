//! Clients of forwarded ports: connect first towards the guest.

use std::io::{ErrorKind, Write};
use std::net::{
    Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use etherparse::{ArpEthIpv4Packet, ArpOperation, PacketBuilder, TcpOptionElement};
use gw::slirp::{DropReason, GuestTarget, Listener, ListenerId, ListenerKind};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp;
use socket2::{Domain, SockRef, Socket, Type};

use crate::host::{Got, assert_pattern, pattern, patterned, read, reset, write};
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN, Segment, parse};
use crate::world::{GATEWAY_MAC, GATEWAY4, GATEWAY6, GUEST_MAC, GUEST4, GUEST6, Options, World};

const SECOND: Duration = Duration::from_secs(1);
pub(crate) const AT_ONCE: Duration = Duration::from_millis(20);

pub(crate) const V4: GuestTarget = GuestTarget {
    v4: Some(SocketAddrV4::new(GUEST4, 80)),
    v6: None,
};
pub(crate) const V6: GuestTarget = GuestTarget {
    v4: None,
    v6: Some(SocketAddrV6::new(GUEST6, 80, 0, 0)),
};
pub(crate) const BOTH: GuestTarget = GuestTarget {
    v4: V4.v4,
    v6: V6.v6,
};

/// A forwarded port of the host.
pub(crate) struct Port {
    pub(crate) at: SocketAddr,
    pub(crate) id: ListenerId,
}

pub(crate) fn publish_at(world: &mut World, at: &str, target: GuestTarget) -> Port {
    let listener = TcpListener::bind(at).unwrap();
    let at = listener.local_addr().unwrap();
    let listener = Listener {
        socket: listener.into(),
        kind: ListenerKind::Tcp,
        target,
    };
    let id = world.slirp.listen(listener).unwrap();
    Port { at, id }
}

pub(crate) fn publish(world: &mut World, target: GuestTarget) -> Port {
    publish_at(world, "127.0.0.1:0", target)
}

impl Port {
    /// A client; the kernel has accepted it already.
    pub(crate) fn client(&self) -> TcpStream {
        let stream = TcpStream::connect(self.at).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    }
}

/// The guest says which hardware address its addresses have.
pub(crate) fn announce(world: &mut World) {
    world.inject(&arp(ArpOperation::REPLY, GUEST4));
    let advertisement = PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0)
        .ipv6(GUEST6.octets(), GATEWAY6.octets(), 255)
        .icmpv6_raw(136, 0, [0x60, 0, 0, 0]);
    let mut frame = Vec::new();
    let body = GUEST6.octets();
    advertisement.write(&mut frame, &body).unwrap();
    world.inject(&frame);
    world.settle();
}

pub(crate) fn arp(operation: ArpOperation, sender: Ipv4Addr) -> Vec<u8> {
    let packet = ArpEthIpv4Packet {
        operation,
        sender_mac: GUEST_MAC.0,
        sender_ipv4: sender.octets(),
        target_mac: GATEWAY_MAC.0,
        target_ipv4: GATEWAY4.octets(),
    };
    let mut frame = [&GATEWAY_MAC.0[..], &GUEST_MAC.0, &[8, 6]].concat();
    frame.extend_from_slice(&packet.to_bytes());
    frame
}

/// The next TCP segment that arrives at the guest.
pub(crate) fn next(world: &mut World, limit: Duration) -> Option<Segment> {
    let mut found = None;
    world.try_until(limit, &mut |world| {
        while let Some(frame) = world.arrived() {
            found = parse(&frame);
            if found.is_some() {
                return true;
            }
        }
        false
    });
    found
}

#[track_caller]
pub(crate) fn syn(world: &mut World) -> Segment {
    let segment = next(world, AT_ONCE).expect("a SYN at once");
    assert!(segment.is(SYN), "{segment:?}");
    segment
}

/// The guest's end of the connection that a SYN asks for.
fn raw_for(syn: &Segment) -> Raw {
    let mut raw = Raw::new(syn.to.port(), syn.from);
    raw.guest = syn.to;
    raw.ack = syn.seq.wrapping_add(1);
    raw
}

/// Accepts what a SYN asks for.
pub(crate) fn accept(world: &mut World, syn: &Segment) -> Raw {
    let mut raw = raw_for(syn);
    raw.send(world, SYN | ACK, &[]);
    let ack = raw.next(world);
    assert!(ack.is(ACK) && ack.ack == raw.seq, "{ack:?}");
    raw
}

pub(crate) fn refuse(world: &mut World, syn: &Segment) {
    let raw = raw_for(syn);
    raw.send_at(world, RST | ACK, 0, &[]);
    world.settle();
}

/// The client sees a reset, and no end before it.
#[track_caller]
pub(crate) fn assert_reset(world: &mut World, client: &mut TcpStream) {
    world.settle();
    assert_eq!(read(client, 100), Got::Reset);
}

#[test]
fn the_guest_is_asked_before_the_client_is_read_from() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    assert_eq!(write(&mut client, b"early"), 5);
    let syn = syn(&mut world);
    assert_eq!(syn.to, (GUEST4, 80).into());
    let seen = SocketAddr::from((GATEWAY4, client.local_addr().unwrap().port()));
    assert_eq!(syn.from, seen);
    assert_eq!(syn.window, 65535);
    for option in [
        TcpOptionElement::MaximumSegmentSize(1460),
        TcpOptionElement::WindowScale(8),
        TcpOptionElement::SelectiveAcknowledgementPermitted,
    ] {
        assert!(syn.options.contains(&option), "{option:?}: {syn:?}");
    }
    let mut raw = accept(&mut world, &syn);
    let data = raw.next(&mut world);
    assert_eq!(data.payload, b"early");
    raw.ack = raw.ack.wrapping_add(5);
    raw.send(&mut world, ACK | PSH, b"answer");
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Bytes(b"answer".to_vec()));
    // Half-closed by the client, then by the guest.
    client.shutdown(Shutdown::Write).unwrap();
    let fin = std::iter::from_fn(|| raw.within(&mut world, AT_ONCE))
        .last()
        .unwrap();
    assert!(fin.is(FIN | ACK), "{fin:?}");
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK | PSH, b"more");
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Bytes(b"more".to_vec()));
    raw.send(&mut world, ACK | FIN, &[]);
    world.settle();
    assert_eq!(read(&mut client, 100), Got::End);
    world.assert_clean();
}

#[test]
fn the_guests_end_half_closes_the_clients_side() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    raw.send(&mut world, ACK | FIN | PSH, b"bye");
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Bytes(b"bye".to_vec()));
    assert_eq!(read(&mut client, 100), Got::End);
    while raw.within(&mut world, AT_ONCE).is_some() {}
    assert_eq!(write(&mut client, b"still here"), 10);
    let data = raw.next(&mut world);
    assert_eq!(data.payload, b"still here");
    raw.ack = data.seq.wrapping_add(10);
    drop(client);
    let fin = raw.next(&mut world);
    assert!(fin.is(FIN | ACK), "{fin:?}");
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    world.assert_clean();
}

#[test]
fn resets_are_carried_both_ways() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    let first = syn(&mut world);
    let raw = accept(&mut world, &first);
    raw.send_at(&mut world, RST | ACK, raw.seq, &[]);
    assert_reset(&mut world, &mut client);
    let client = port.client();
    let second = syn(&mut world);
    let raw = accept(&mut world, &second);
    reset(client);
    let end = raw.next(&mut world);
    assert!(end.flags & RST != 0 && end.seq == raw.ack, "{end:?}");
    world.assert_clean();
}

#[test]
fn a_refused_client_is_reset() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    assert_eq!(write(&mut client, b"hello"), 5);
    let syn = syn(&mut world);
    world.advance(Duration::from_millis(200));
    assert_eq!(read(&mut client, 100), Got::Nothing);
    refuse(&mut world, &syn);
    assert_reset(&mut world, &mut client);
    assert_eq!(world.slirp.counters().dropped(DropReason::Refused), 1);
    world.assert_clean();
}

#[test]
fn a_client_is_reset_when_a_firewall_of_the_guests_refuses() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    let mut quoted = None;
    world.try_until(AT_ONCE, &mut |world| {
        quoted = world.arrived().filter(|f| parse(f).is_some());
        quoted.is_some()
    });
    let quoted = quoted.expect("a SYN");
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(GUEST_MAC.0, GATEWAY_MAC.0)
        .ipv4(GUEST4.octets(), GATEWAY4.octets(), 64)
        .icmpv4_raw(3, 10, [0; 4])
        .write(&mut frame, &quoted[14..])
        .unwrap();
    world.inject(&frame);
    assert_reset(&mut world, &mut client);
    world.assert_clean();
}

#[test]
fn without_an_answer_the_syns_are_few_and_the_client_is_reset() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    let start = world.now;
    let mut syns = 0;
    while let Some(segment) = next(&mut world, 5 * SECOND) {
        if segment.flags & RST != 0 {
            break;
        }
        assert!(segment.is(SYN), "{segment:?}");
        assert_eq!(read(&mut client, 100), Got::Nothing);
        syns += 1;
    }
    let took = world.now - start;
    assert!((10..=20).contains(&took.as_secs()), "{took:?}");
    assert!((5..=15).contains(&syns), "{syns} SYNs");
    assert_reset(&mut world, &mut client);
    assert_eq!(world.slirp.counters().dropped(DropReason::NoAnswer), 1);
    world.assert_clean();
}

#[test]
fn a_lost_syn_is_repeated() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let client = port.client();
    let lost = syn(&mut world);
    let again = next(&mut world, 2 * SECOND).expect("another SYN");
    assert!(again.is(SYN) && again.seq == lost.seq, "{again:?}");
    accept(&mut world, &again);
    drop(client);
}

#[test]
fn a_client_that_goes_before_the_answer_takes_its_connection_along() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let client = port.client();
    let syn = syn(&mut world);
    reset(client);
    let end = next(&mut world, AT_ONCE).expect("a reset");
    assert!(end.flags & RST != 0, "{end:?}");
    assert_eq!((end.seq, end.to), (syn.seq.wrapping_add(1), syn.to));
    world.assert_clean();
}

#[test]
fn a_client_that_has_said_all_it_has_to_say_is_answered() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    assert_eq!(write(&mut client, b"question"), 8);
    client.shutdown(Shutdown::Write).unwrap();
    let syn = syn(&mut world);
    world.advance(Duration::from_millis(100));
    let mut raw = accept(&mut world, &syn);
    let mut said = Vec::new();
    loop {
        let segment = raw.next(&mut world);
        said.extend_from_slice(&segment.payload);
        if segment.flags & FIN != 0 {
            break;
        }
    }
    assert_eq!(said, b"question");
    raw.ack = raw.ack.wrapping_add(9);
    raw.send(&mut world, ACK | FIN | PSH, b"answer");
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Bytes(b"answer".to_vec()));
    assert_eq!(read(&mut client, 100), Got::End);
    world.assert_clean();
}

#[test]
fn clients_with_one_port_are_told_apart() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish_at(&mut world, "0.0.0.0:0", V4);
    let mut clients = Vec::new();
    let mut own = 0;
    let mut seen = Vec::new();
    for host in 1..=3 {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let at = SocketAddr::from((Ipv4Addr::new(127, 0, 0, host), own));
        socket.bind(&at.into()).unwrap();
        socket
            .connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port.at.port())).into())
            .unwrap();
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true).unwrap();
        own = stream.local_addr().unwrap().port();
        let syn = syn(&mut world);
        assert_eq!(syn.from.ip(), GATEWAY4);
        seen.push(syn.from.port());
        clients.push((stream, accept(&mut world, &syn)));
    }
    assert_eq!(seen[0], own);
    assert!(
        seen[1] != own && seen[2] != own && seen[1] != seen[2],
        "{seen:?}"
    );
    for (n, (client, raw)) in (0_u8..).zip(&mut clients) {
        raw.send(&mut world, ACK | PSH, &[n]);
        world.settle();
        assert_eq!(read(client, 100), Got::Bytes(vec![n]));
    }
}

#[test]
fn a_unix_client_appears_as_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("forward.sock");
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let listener = UnixListener::bind(&path).unwrap();
    let listener = Listener {
        socket: listener.into(),
        kind: ListenerKind::Unix,
        target: BOTH,
    };
    world.slirp.listen(listener).unwrap();
    let mut client = UnixStream::connect(&path).unwrap();
    client.set_nonblocking(true).unwrap();
    // It may be gone, and what it said still counts.
    client.write_all(b"datum").unwrap();
    let syn = syn(&mut world);
    assert_eq!(
        (syn.from.ip(), syn.to),
        (GATEWAY4.into(), (GUEST4, 80).into())
    );
    drop(client);
    world.advance(AT_ONCE);
    let raw = accept(&mut world, &syn);
    assert_eq!(raw.next(&mut world).payload, b"datum");
}

#[test]
fn a_listener_that_is_closed_leaves_its_clients() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut client = port.client();
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    assert!(world.slirp.unlisten(port.id));
    assert!(!world.slirp.unlisten(port.id));
    let error = TcpStream::connect(port.at).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    raw.send(&mut world, ACK | PSH, b"on");
    world.settle();
    assert_eq!(read(&mut client, 100), Got::Bytes(b"on".to_vec()));
    // The place is free for another.
    let port = publish(&mut world, V4);
    let _client = port.client();
    self::syn(&mut world);
}

/// What `Inbound` sets on a listener instead of on each client.
#[test]
fn accepted_sockets_inherit_nodelay() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_tcp_nodelay(true).unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (accepted, _) = listener.accept().unwrap();
    assert!(accepted.nodelay().unwrap());
}

#[test]
fn a_socket_of_another_kind_is_refused() {
    let mut world = World::raw(&Options::default());
    let tcp = || TcpListener::bind("127.0.0.1:0").unwrap().into();
    let udp = || UdpSocket::bind("127.0.0.1:0").unwrap().into();
    for (socket, kind) in [
        (udp(), ListenerKind::Tcp),
        (udp(), ListenerKind::Unix),
        (tcp(), ListenerKind::Udp),
    ] {
        let listener = Listener {
            socket,
            kind,
            target: V4,
        };
        let error = world.slirp.listen(listener).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{kind:?}");
    }
}

#[test]
fn a_target_that_no_guest_can_have_is_refused() {
    let mut world = World::raw(&Options::default());
    for v4 in [
        "10.0.2.2:80",
        "10.0.3.1:80",
        "127.0.0.1:80",
        "10.0.2.255:80",
    ] {
        let listener = Listener {
            socket: TcpListener::bind("127.0.0.1:0").unwrap().into(),
            kind: ListenerKind::Tcp,
            target: GuestTarget {
                v4: v4.parse().ok(),
                v6: None,
            },
        };
        let error = world.slirp.listen(listener).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{v4}");
    }
}

#[test]
fn a_flood_is_bounded_by_the_table_and_reset_beyond() {
    let options = Options {
        descriptors: 400,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    announce(&mut world);
    let port = publish(&mut world, V4);
    let mut clients: Vec<TcpStream> = (0..120).map(|_| port.client()).collect();
    world.round();
    assert!(world.slirp.flows().0 <= 64, "{:?}", world.slirp.flows());
    world.settle();
    let (open, _) = world.slirp.flows();
    assert!(open > 0 && open < 120, "{open}");
    let refused = clients
        .iter_mut()
        .map(|c| read(c, 1))
        .filter(|got| *got == Got::Reset)
        .count();
    assert_eq!(refused, 120 - open);
    // Those that were taken are as good as any.
    let mut syns = std::iter::from_fn(|| next(&mut world, AT_ONCE)).filter(|s| s.is(SYN));
    let last = syns.by_ref().last().expect("a SYN");
    let raw = accept(&mut world, &last);
    drop(clients);
    assert!(raw.within(&mut world, AT_ONCE).is_some());
}

/// Out of descriptors: clients wait in the kernel's queue, and the loop sleeps.
#[test]
fn without_descriptors_accepting_rests() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let clients: Vec<TcpStream> = (0..5).map(|_| port.client()).collect();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let used = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64;
    // The count includes the folder's own descriptor: room for one more.
    setrlimit(Resource::RLIMIT_NOFILE, used, hard).unwrap();
    world.settle();
    let open = world.slirp.flows().0;
    let deadline = world.slirp.next_deadline().expect("it tries again");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    assert!(open < 5, "{open}");
    assert!(world.slirp.counters().dropped(DropReason::HostSocket) > 0);
    assert!(deadline > world.now && deadline <= world.now + SECOND / 5);
    world.advance(SECOND / 5);
    assert_eq!(world.slirp.flows().0, 5);
    drop(clients);
}

fn listen(world: &mut World) -> SocketHandle {
    let buffer = || tcp::SocketBuffer::new(vec![0; 64 * 1024]);
    let mut socket = tcp::Socket::new(buffer(), buffer());
    socket.set_nagle_enabled(false);
    socket.listen(80).unwrap();
    world.guest().sockets.add(socket)
}

#[test]
fn data_survive_in_pieces_of_any_size() {
    let mut world = World::new(&Options::default());
    let port = publish_at(&mut world, "[::1]:0", BOTH);
    let handle = listen(&mut world);
    let mut client = port.client();
    let total = 3 << 20;
    let (mut sent, mut got, mut back, mut echoed) = (0, 0, 0, 0);
    let mut random = 12345_u64;
    let mut size = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        1 + usize::try_from(random >> 33).unwrap() % 40_000
    };
    world.until(300 * SECOND, |world| {
        if sent < total {
            let piece = patterned(1, sent, size().min(total - sent));
            sent += write(&mut client, &piece);
            if sent == total {
                client.shutdown(Shutdown::Write).unwrap();
            }
        }
        let socket = world.tcp(handle);
        if socket.can_recv() {
            let most = size();
            got += socket
                .recv(|bytes| {
                    let n = bytes.len().min(most);
                    assert_pattern(1, got, &bytes[..n]);
                    (n, n)
                })
                .unwrap();
        }
        if socket.can_send() && echoed < total {
            let n = size().min(total - echoed);
            echoed += socket.send_slice(&patterned(2, echoed, n)).unwrap();
        }
        if echoed == total && got == total {
            socket.close();
        }
        match read(&mut client, size()) {
            Got::Bytes(bytes) => {
                assert_pattern(2, back, &bytes);
                back += bytes.len();
            }
            Got::End => return true,
            Got::Nothing => {}
            Got::Reset => panic!("reset"),
        }
        false
    });
    assert_eq!((got, back), (total, total));
    assert_eq!(pattern(1, 0), patterned(1, 0, 1)[0]);
}

#[test]
fn a_client_that_does_not_read_stops_the_guest() {
    let options = Options {
        memory: 32 << 20,
        ..Options::default()
    };
    let mut world = World::new(&options);
    let port = publish(&mut world, V4);
    let handle = listen(&mut world);
    let client = port.client();
    SockRef::from(&client)
        .set_recv_buffer_size(64 * 1024)
        .unwrap();
    // What the kernel buffers for the client, and a full window.
    const ENOUGH: usize = 32 << 20;
    let mut sent = 0;
    let mut quiet = 0;
    while quiet < 5 && sent < ENOUGH {
        world.advance(Duration::from_millis(10));
        let socket = world.tcp(handle);
        quiet += 1;
        while socket.can_send() {
            sent += socket.send_slice(&[7; 10_000]).unwrap();
            quiet = 0;
        }
    }
    assert!(sent < ENOUGH, "the guest was not stopped");
    assert!(world.slirp.memory_used() < 16 << 20);
}
