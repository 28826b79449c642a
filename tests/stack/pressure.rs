//! Back-pressure: whoever stops reading bounds what is held.

use std::time::Duration;

use crate::host::{Got, Host, assert_pattern, patterned, read, write};
use crate::raw::{ACK, Raw};
use crate::world::{Options, World};

const SOON: Duration = Duration::from_secs(5);

/// What one connection may hold in one direction: the largest window, and the
/// buffers of one round.
const ONE_FLOW: usize = (4 << 20) + (1 << 20);

#[test]
fn a_guest_that_stops_reading_bounds_memory() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let handle = world.connect_with(host.gateway(), 64 * 1024);
    let mut peer = host.accept(&mut world);
    let (mut sent, mut most) = (0, 0);
    for _ in 0..300 {
        sent += write(&mut peer, &patterned(1, sent, 65536));
        world.settle();
        most = most.max(world.slirp.memory_used());
    }
    assert!(
        most <= 4 * 65536,
        "held {most} bytes for a guest with a window of 64 KiB"
    );
    assert_eq!(write(&mut peer, &[0; 1]), 0, "the host is held back");
    // It reads again: everything is there.
    let mut got = 0;
    world.until(Duration::from_secs(60), |w| {
        while w.tcp(handle).can_recv() {
            let bytes = w.tcp(handle).recv(|b| (b.len(), b.to_vec())).unwrap();
            assert_pattern(1, got, &bytes);
            got += bytes.len();
        }
        got == sent
    });
    world.tcp(handle).abort();
    world.assert_clean();
}

#[test]
fn a_host_that_stops_reading_closes_the_window() {
    let host = Host::listen_with_buffer(4096);
    let mut world = World::new(&Options::default());
    let handle = world.connect_with(host.gateway(), 1 << 20);
    let mut peer = host.accept(&mut world);
    world.until(SOON, |w| w.tcp(handle).may_send());
    let (mut sent, mut most) = (0, 0);
    for _ in 0..100 {
        let bytes = patterned(2, sent, 65536);
        sent += world.tcp(handle).send_slice(&bytes).unwrap();
        world.settle();
        most = most.max(world.slirp.memory_used());
    }
    assert!(most <= ONE_FLOW, "held {most} bytes");
    assert!(!world.tcp(handle).can_send(), "the guest is held back");
    // A window that stays closed for long keeps the connection.
    world.advance(Duration::from_secs(600));
    assert_eq!(world.slirp.flows(), (1, 0));
    let mut got = 0;
    world.until(Duration::from_secs(120), |_| {
        while let Got::Bytes(bytes) = read(&mut peer, 65536) {
            assert_pattern(2, got, &bytes);
            got += bytes.len();
        }
        got == sent
    });
    world.tcp(handle).abort();
    world.assert_clean();
}

/// After the window was shut, the guest hears of room without having to ask.
#[test]
fn a_window_that_reopens_is_announced() {
    let host = Host::listen_with_buffer(4096);
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    let mut sent = 0;
    let mut edge = raw.seq.wrapping_add(65535);
    loop {
        let room = edge.wrapping_sub(raw.seq);
        if room < 1000 {
            break;
        }
        raw.send(&mut world, ACK, &patterned(3, sent, 1000));
        sent += 1000;
        for s in raw.heard(&mut world) {
            let next = s.ack.wrapping_add(u32::from(s.window) << 8);
            assert!(
                next.wrapping_sub(edge) < 1 << 31 || edge.wrapping_sub(next) < 256,
                "the edge moved back"
            );
            edge = next;
        }
        assert!(sent < 32 << 20, "the window shuts");
    }
    let mut got = 0;
    let mut opened = false;
    for _ in 0..1000 {
        while let Got::Bytes(bytes) = read(&mut peer, 65536) {
            assert_pattern(3, got, &bytes);
            got += bytes.len();
        }
        for s in raw.heard(&mut world) {
            opened |= s
                .ack
                .wrapping_add(u32::from(s.window) << 8)
                .wrapping_sub(edge)
                > 2 * 1460;
        }
        if got == sent && opened {
            break;
        }
    }
    assert_eq!(got, sent);
    assert!(opened, "no window update");
}

/// The budget is used up by connections whose guests do not read. Nothing
/// breaks, and when some of it comes back the others go on.
#[test]
fn an_exhausted_budget_is_survived() {
    let host = Host::listen();
    let options = Options {
        memory: 2 << 20,
        ..Options::default()
    };
    let mut world = World::new(&options);
    let mut flows = Vec::new();
    for _ in 0..40 {
        let handle = world.connect_with(host.gateway(), 256 * 1024);
        let peer = host.accept(&mut world);
        flows.push((handle, peer, 0usize, 0usize));
    }
    let mut most = 0;
    for _ in 0..20 {
        for (n, (handle, peer, down, up)) in flows.iter_mut().enumerate() {
            *down += write(peer, &patterned(n as u64, *down, 65536));
            let bytes = patterned(100 + n as u64, *up, 65536);
            if world.tcp(*handle).can_send() {
                *up += world.tcp(*handle).send_slice(&bytes).unwrap();
            }
        }
        world.settle();
        most = most.max(world.slirp.memory_used());
    }
    // One chunk per flow may exceed the budget, so that none starves.
    assert!(
        most < (2 << 20) + 40 * 66_000 + (1 << 20),
        "held {most} bytes"
    );
    let totals: Vec<(usize, usize)> = flows.iter().map(|f| (f.2, f.3)).collect();
    let mut got = vec![(0, 0); flows.len()];
    world.until(Duration::from_secs(900), |w| {
        for (n, (handle, peer, ..)) in flows.iter_mut().enumerate() {
            while w.tcp(*handle).can_recv() {
                let bytes = w.tcp(*handle).recv(|b| (b.len(), b.to_vec())).unwrap();
                assert_pattern(n as u64, got[n].0, &bytes);
                got[n].0 += bytes.len();
            }
            while let Got::Bytes(bytes) = read(peer, 65536) {
                assert_pattern(100 + n as u64, got[n].1, &bytes);
                got[n].1 += bytes.len();
            }
        }
        got == totals
    });
    for (handle, ..) in &flows {
        world.tcp(*handle).abort();
    }
    world.assert_clean();
}

/// A guest that says nothing and a host that drips: what lwIP needs for each
/// byte counts as well.
#[test]
fn dripping_bytes_are_charged_for_what_they_cost() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    for _ in 0..500 {
        write(&mut peer, b"x");
        world.settle();
    }
    let held = world.slirp.memory_used();
    assert!(held >= 100 * 500 || held < 70_000, "{held}");
    // And the other way: single bytes out of order are held in buffers.
    let before = world.slirp.memory_used();
    for n in 1..40u32 {
        raw.send_at(&mut world, ACK, raw.seq.wrapping_add(2 * n), b"x");
    }
    world.settle();
    let held = world.slirp.memory_used() - before;
    assert!(held >= 39 * 64, "{held} bytes for 39 segments");
}

/// SYNs that carry data, to a destination that does not answer: what is kept of
/// them counts.
#[test]
fn held_syns_are_within_the_budget() {
    let listener =
        socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    listener.bind(&any.into()).unwrap();
    listener.listen(0).unwrap();
    let port = listener.local_addr().unwrap().as_socket().unwrap().port();
    let at: std::net::SocketAddr = ([127, 0, 0, 1], port).into();
    let _first = std::net::TcpStream::connect(at).unwrap();
    let options = Options {
        mtu: 65520,
        memory: 1 << 20,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    for n in 0..100 {
        let raw = Raw::new(40_000 + n, (crate::world::GATEWAY4, port).into());
        world.inject(&raw.frame(crate::raw::SYN, 1, &[0; 60_000]));
        world.settle();
    }
    let held = world.slirp.memory_used();
    assert!(held <= (1 << 20) + 70_000, "{held}");
    let flows = world.slirp.flows().0;
    assert!(flows * 60_000 <= held, "{flows} flows are charged {held}");
}
