//! Time: idle limits, and nothing to do when nothing happens.

use std::time::Duration;

use crate::host::{Got, Host, read, write};
use crate::raw::{ACK, FIN, PSH, RST, Raw};
use crate::world::{Options, World};

const ESTABLISHED: Duration = Duration::from_secs(2 * 3600 + 4 * 60);
const HALF_CLOSED: Duration = Duration::from_secs(120);
const SECOND: Duration = Duration::from_secs(1);

fn joined() -> (World, Raw, std::net::TcpStream) {
    let host = Host::listen();
    let mut raw = Raw::new(40_000, host.gateway());
    let mut world = World::raw(&Options::default());
    raw.open(&mut world);
    let peer = host.accept(&mut world);
    raw.send(&mut world, ACK | PSH, b"x");
    world.advance(SECOND);
    while world.arrived().is_some() {}
    (world, raw, peer)
}

#[test]
fn an_idle_connection_wakes_nobody() {
    let (mut world, raw, mut peer) = joined();
    let next = world.slirp.next_deadline().expect("the idle limit");
    assert!(
        next >= world.now + ESTABLISHED - 2 * SECOND,
        "{:?}",
        next - world.now
    );
    // Nor after data the other way was acknowledged.
    write(&mut peer, b"y");
    let mut raw = raw;
    let segment = raw.next(&mut world);
    raw.ack = segment.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    world.advance(SECOND);
    let next = world.slirp.next_deadline().expect("the idle limit");
    assert!(
        next > world.now + Duration::from_secs(3600),
        "{:?}",
        next - world.now
    );
    raw.send(&mut world, RST | ACK, &[]);
    world.advance(ESTABLISHED + SECOND);
    assert_eq!(world.slirp.next_deadline(), None, "nothing is open");
}

#[test]
fn an_established_connection_is_reset_after_two_hours_and_four_minutes() {
    let (mut world, raw, mut peer) = joined();
    world.advance(ESTABLISHED - 10 * SECOND);
    assert_eq!(world.slirp.flows(), (1, 0));
    raw.silent_for(&mut world, SECOND);
    world.advance(20 * SECOND);
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
    assert_eq!(read(&mut peer, 10), Got::Bytes(b"x".to_vec()));
    assert_eq!(read(&mut peer, 10), Got::Reset);
    world.assert_clean();
}

#[test]
fn traffic_either_way_keeps_a_connection() {
    let (mut world, mut raw, mut peer) = joined();
    for n in 0..6 {
        world.advance(ESTABLISHED - 60 * SECOND);
        match n % 3 {
            0 => raw.send_at(&mut world, ACK, raw.seq.wrapping_sub(1), &[]), // keepalive
            1 => raw.send(&mut world, ACK | PSH, b"z"),
            _ => {
                write(&mut peer, b"w");
                raw.ack = raw.next(&mut world).seq.wrapping_add(1);
                raw.send(&mut world, ACK, &[]);
            }
        }
        world.settle();
        while world.arrived().is_some() {}
    }
    assert_eq!(world.slirp.flows(), (1, 0));
}

#[test]
fn a_half_closed_connection_is_reset_after_two_minutes() {
    let (mut world, mut raw, mut peer) = joined();
    raw.send(&mut world, ACK | FIN, &[]);
    // Acknowledged once the host has had its chance to end as well.
    world.advance(Duration::from_millis(5));
    while world.arrived().is_some() {}
    world.advance(HALF_CLOSED - 5 * SECOND);
    assert_eq!(world.slirp.flows(), (1, 0));
    world.advance(10 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 0));
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
    assert_eq!(read(&mut peer, 10), Got::Bytes(b"x".to_vec()));
    assert_eq!(read(&mut peer, 10), Got::End);
    assert!(std::io::Write::write(&mut peer, b"late").is_err());
    world.assert_clean();
}

#[test]
fn a_half_closed_connection_of_the_host_is_reset_after_two_minutes() {
    let (mut world, mut raw, mut peer) = joined();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    let fin = raw.next(&mut world);
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    world.advance(HALF_CLOSED - 5 * SECOND);
    assert_eq!(world.slirp.flows(), (1, 0));
    world.advance(10 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 0));
    assert_eq!(read(&mut peer, 10), Got::Bytes(b"x".to_vec()));
    assert_eq!(read(&mut peer, 10), Got::Reset);
}

/// A guest that vanished is given up by retransmission, long before it is idle.
#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let (mut world, raw, mut peer) = joined();
    write(&mut peer, b"are you there?");
    assert_eq!(raw.next(&mut world).payload, b"are you there?");
    world.advance(Duration::from_secs(3600));
    assert_eq!(world.slirp.flows(), (0, 0));
    assert_eq!(read(&mut peer, 1), Got::Bytes(b"x".to_vec()));
    assert_eq!(read(&mut peer, 1), Got::Reset);
}

/// Many half-closed connections that run out one after the other do not make a
/// scan of the whole table each.
#[test]
fn idle_scans_are_not_more_frequent_than_flows_warrant() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut peers = Vec::new();
    for n in 0..200 {
        let mut raw = Raw::new(40_000 + n, host.gateway());
        raw.open(&mut world);
        peers.push(host.accept(&mut world));
        raw.send(&mut world, ACK | FIN, &[]);
        world.advance(Duration::from_millis(5));
    }
    world.advance(HALF_CLOSED - 5 * SECOND);
    let mut wakeups = 0;
    let end = world.now + 10 * SECOND;
    while let Some(at) = world.slirp.next_deadline().filter(|at| *at < end) {
        world.now = at;
        world.round();
        wakeups += 1;
        assert!(wakeups < 20, "one wake-up per flow");
    }
    assert_eq!(world.slirp.flows(), (0, 0));
}
