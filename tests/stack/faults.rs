//! Faults of connections: each exactly, in both directions.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use gw::impair::{
    Effect, Faults, MatchProtocol, Matcher, NoNames, ResetAfter, Rule, RuleId, Schedule, TcpFault,
    Way,
};
use gw::policy::{FlowVerdict, HowEnded, Party};
use gw::slirp::DropReason;

use crate::events::{ended, only};
use crate::host::{Got, Host, assert_pattern, patterned, read, reset, write};
use crate::inbound::{Port, V4, accept, announce, assert_reset, next, publish, syn};
use crate::inbound_udp;
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN, Segment};
use crate::udp::{Server, datagram};
use crate::world::{GATEWAY4, GUEST4, Options, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn rule(fault: TcpFault) -> Rule {
    Rule {
        text: fault.name().to_owned(),
        way: Way::Both,
        matcher: Matcher::default(),
        schedule: Schedule::default(),
        effect: Effect::Tcp(fault),
    }
}

/// From now on these are the rules.
fn set(world: &mut World, rules: &[Rule]) -> Rc<Faults> {
    let faults = Rc::new(Faults::of(rules, world.now));
    world.slirp.set_faults(Rc::clone(&faults), Rc::new(NoNames));
    faults
}

/// A world whose flows all get `fault`, and a host.
fn outbound(fault: TcpFault) -> (World, Host, Raw) {
    let host = Host::listen();
    let raw = Raw::new(40_000, host.gateway());
    let mut world = World::raw(&Options::default());
    set(&mut world, &[rule(fault)]);
    (world, host, raw)
}

fn opened(fault: TcpFault) -> (World, TcpStream, Raw) {
    let (mut world, host, mut raw) = outbound(fault);
    raw.open(&mut world);
    let peer = host.accept(&mut world);
    world.settle();
    (world, peer, raw)
}

/// The same with a forwarded port.
fn inbound(fault: TcpFault) -> (World, Port) {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    set(&mut world, &[rule(fault)]);
    (world, port)
}

fn count(world: &mut World) -> u64 {
    world.slirp.counters().dropped(DropReason::Fault)
}

/// The guest hears nothing that is TCP.
#[track_caller]
fn assert_no_segment(world: &mut World, time: Duration) {
    assert_eq!(next(world, time), None);
}

/// Nothing waits for its time but the look for idle flows.
#[track_caller]
fn assert_nothing_soon(world: &mut World) {
    let next = world.slirp.next_deadline();
    let late = world.now + 3600 * SECOND;
    assert!(next.is_none_or(|at| at > late), "{next:?}");
}

/// Reads all that is there.
fn read_all(stream: &mut TcpStream) -> (Vec<u8>, Got) {
    let mut all = Vec::new();
    loop {
        match read(stream, 65536) {
            Got::Bytes(bytes) => all.extend_from_slice(&bytes),
            end => return (all, end),
        }
    }
}

#[test]
fn refuse_is_a_reset_for_the_syn_and_the_host_hears_nothing() {
    let (mut world, host, mut raw) = outbound(TcpFault::Refuse);
    raw.send(&mut world, SYN, &[]);
    let answer = raw.next(&mut world);
    assert!(answer.is(RST | ACK), "{answer:?}");
    assert_eq!((answer.seq, answer.ack), (0, raw.seq));
    assert!(host.try_accept().is_none());
    assert_eq!(count(&mut world), 1);
    world.assert_clean();
    // And a SYN with data, whose every byte is acknowledged (RFC 9293 3.10.7.1).
    raw.send(&mut world, SYN, b"early");
    let answer = raw.next(&mut world);
    assert_eq!((answer.seq, answer.ack), (0, raw.seq));
}

#[test]
fn a_black_hole_answers_no_syn_and_keeps_nothing() {
    let (mut world, host, mut raw) = outbound(TcpFault::BlackHole);
    let first = raw.seq;
    raw.send(&mut world, SYN, &[]);
    for _ in 0..6 {
        raw.silent_for(&mut world, SECOND);
        raw.send_at(&mut world, SYN, first, &[]);
    }
    world.settle();
    assert!(host.try_accept().is_none());
    assert_eq!(count(&mut world), 7);
    world.assert_clean();
    // The rules go, and the next SYN of the same connection is answered.
    set(&mut world, &[]);
    raw.send_at(&mut world, SYN, first, &[]);
    assert!(raw.next(&mut world).is(SYN | ACK));
}

#[test]
fn pass_in_front_spares_and_other_matchers_miss() {
    let (mut world, host, mut raw) = outbound(TcpFault::Refuse);
    let pass = Rule {
        effect: Effect::Pass,
        matcher: Matcher {
            to: Some("10.0.2.2/32".parse().unwrap()),
            ..Matcher::default()
        },
        ..rule(TcpFault::Refuse)
    };
    let down = Rule {
        way: Way::Down,
        ..rule(TcpFault::Refuse)
    };
    let datagrams = Rule {
        matcher: Matcher {
            protocol: Some(MatchProtocol::Udp),
            ..Matcher::default()
        },
        ..rule(TcpFault::Refuse)
    };
    let faults = set(&mut world, &[down, datagrams, pass, rule(TcpFault::Refuse)]);
    raw.open(&mut world);
    host.accept(&mut world);
    assert!((1..=4).all(|id| faults.hits(RuleId(id)) == 0));
}

/// Names have faults of their own.
#[test]
fn the_gateways_resolver_is_spared() {
    let mut world = World::raw(&Options::default());
    set(&mut world, &[rule(TcpFault::Refuse)]);
    let mut raw = Raw::new(40_000, ([10, 0, 2, 3], 53).into());
    raw.open(&mut world);
    assert_eq!(world.dns_streams.borrow().len(), 1);
}

#[test]
fn slow_accept_answers_the_syn_that_much_later() {
    let (mut world, host, mut raw) = outbound(TcpFault::SlowAccept(700 * MS));
    let start = world.now;
    let first = raw.seq;
    raw.send(&mut world, SYN, &[]);
    // The host is asked at once; what it says waits for the guest.
    let mut peer = host.accept(&mut world);
    assert_eq!(write(&mut peer, b"hello"), 5);
    raw.silent_for(&mut world, 300 * MS);
    raw.send_at(&mut world, SYN, first, &[]);
    let answer = raw.within(&mut world, SECOND).expect("a SYN-ACK");
    assert_eq!(world.now.duration_since(start), 700 * MS);
    assert!(answer.is(SYN | ACK) && answer.ack == raw.seq, "{answer:?}");
    raw.ack = answer.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    let data = raw.next(&mut world);
    assert_eq!(data.payload, b"hello");
    raw.ack = raw.ack.wrapping_add(5);
    raw.send(&mut world, ACK | PSH, b"answer");
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"answer".to_vec()));
    // From here on it is as any other.
    drop(peer);
    assert!(raw.next(&mut world).is(FIN | ACK));
    assert_eq!(count(&mut world), 0);
}

#[test]
fn a_slow_accept_of_what_has_ended_meanwhile() {
    // Ended in order: the answer and the end, late.
    let (mut world, host, mut raw) = outbound(TcpFault::SlowAccept(SECOND));
    raw.send(&mut world, SYN, &[]);
    let mut peer = host.accept(&mut world);
    peer.write_all(b"bye").unwrap();
    drop(peer);
    raw.silent_for(&mut world, 900 * MS);
    let answer = raw.within(&mut world, SECOND).expect("a SYN-ACK");
    assert!(answer.is(SYN | ACK));
    raw.ack = answer.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    let heard = raw.heard(&mut world);
    let bytes: Vec<u8> = heard.iter().flat_map(|s| s.payload.clone()).collect();
    assert_eq!(bytes, b"bye");
    assert!(heard.iter().any(|s| s.flags & FIN != 0), "{heard:?}");

    // Reset: at once.
    let mut raw = Raw::new(40_001, host.gateway());
    raw.send(&mut world, SYN, &[]);
    let peer = host.accept(&mut world);
    reset(peer);
    let answer = raw.within(&mut world, 900 * MS).expect("a reset");
    assert!(answer.is(RST | ACK) && answer.ack == raw.seq, "{answer:?}");

    // Given up by the guest.
    let mut raw = Raw::new(40_002, host.gateway());
    raw.send(&mut world, SYN, &[]);
    let mut peer = host.accept(&mut world);
    raw.send(&mut world, RST, &[]);
    world.settle();
    assert!(matches!(read(&mut peer, 1), Got::End | Got::Reset));
    raw.silent_for(&mut world, 2 * SECOND);
}

#[test]
fn a_refusal_is_not_slow() {
    let host = Host::listen();
    let mut raw = Raw::new(40_000, host.gateway());
    drop(host);
    let mut world = World::raw(&Options::default());
    set(&mut world, &[rule(TcpFault::SlowAccept(SECOND))]);
    raw.send(&mut world, SYN, &[]);
    assert!(raw.next(&mut world).is(RST | ACK));
    world.assert_clean();
    assert_nothing_soon(&mut world);
}

/// What a kernel does whose application has stopped: acknowledges up to the
/// window, closes it, answers probes, and keeps the connection.
#[test]
fn stall_closes_the_window_and_answers_probes() {
    let (mut world, mut peer, mut raw) = opened(TcpFault::Stall);
    assert_eq!(write(&mut peer, b"greeting"), 8);
    let mut left = 65535_usize;
    let mut last = None;
    while left > 0 {
        let len = left.min(1400);
        left -= len;
        raw.send(&mut world, ACK | PSH, &vec![7; len]);
        last = raw.heard(&mut world).pop().or(last);
    }
    let last: Segment = last.expect("acknowledged");
    assert_eq!((last.ack, last.window), (raw.seq, 0), "the window closes");
    assert!(last.payload.is_empty());
    assert_eq!(read(&mut peer, 1), Got::Nothing);
    // Probes: a byte beyond the window, and keepalives.
    for probe in 0..3 {
        world.advance(100 * SECOND);
        let (seq, bytes): (u32, &[u8]) = match probe {
            0 => (raw.seq, b"x"),
            _ => (raw.seq.wrapping_sub(1), b""),
        };
        raw.send_at(&mut world, ACK, seq, bytes);
        let answer = raw.next(&mut world);
        assert!(answer.is(ACK), "{answer:?}");
        assert_eq!((answer.ack, answer.window), (raw.seq, 0));
    }
    raw.send(&mut world, RST | ACK, &[]);
    world.settle();
    assert_eq!(read_all(&mut peer), (Vec::new(), Got::Reset));
    world.assert_clean();
}

/// A stalled application does not close: half-closed it stays, for longer than
/// other flows may.
#[test]
fn stall_outlives_the_guests_end() {
    let (mut world, mut peer, mut raw) = opened(TcpFault::Stall);
    raw.send(&mut world, ACK | PSH, b"hello");
    raw.send(&mut world, ACK | FIN, &[]);
    let heard = raw.heard(&mut world);
    assert_eq!(heard.last().expect("acknowledged").ack, raw.seq);
    raw.silent_for(&mut world, 300 * SECOND);
    assert_eq!(read(&mut peer, 1), Got::Nothing);
    assert_eq!(world.slirp.flows(), (1, 0));
    // Nor does the host's end show.
    drop(peer);
    raw.silent_for(&mut world, 300 * SECOND);
    raw.send(&mut world, RST | ACK, &[]);
    world.assert_clean();
}

#[test]
fn half_open_answers_the_handshake_and_nothing_more() {
    let (mut world, mut peer, mut raw) = opened(TcpFault::HalfOpen);
    // The host's side ends in order.
    assert_eq!(read(&mut peer, 1), Got::End);
    let first = raw.seq;
    raw.send(&mut world, ACK | PSH, b"hello?");
    for _ in 0..10 {
        raw.silent_for(&mut world, 60 * SECOND);
        raw.send_at(&mut world, ACK | PSH, first, b"hello?");
    }
    raw.send(&mut world, ACK | FIN, &[]);
    raw.silent_for(&mut world, SECOND);
    assert_eq!(count(&mut world), 12);
    assert_eq!(world.slirp.flows(), (1, 0));
    // A keepalive two hours later is not answered; beyond that nobody remembers.
    world.advance(7200 * SECOND);
    raw.send_at(&mut world, ACK, first.wrapping_sub(1), &[]);
    raw.silent_for(&mut world, SECOND);
    world.advance(7450 * SECOND);
    assert_eq!(world.slirp.flows(), (0, 0));
    raw.silent_for(&mut world, SECOND);
    raw.send_at(&mut world, ACK, first, &[]);
    assert_ne!(raw.next(&mut world).flags & RST, 0);
    world.assert_clean();
}

#[test]
fn a_half_open_connection_gives_way_to_a_new_one() {
    let (mut world, host, mut raw) = outbound(TcpFault::HalfOpen);
    raw.open(&mut world);
    host.accept(&mut world);
    set(&mut world, &[]);
    raw.silent_for(&mut world, SECOND);
    raw.send_at(&mut world, ACK | PSH, raw.seq, b"still silent");
    raw.silent_for(&mut world, SECOND);
    raw.seq = raw.seq.wrapping_add(1_000_000);
    raw.half_open(&mut world);
    assert_eq!(world.slirp.flows(), (1, 0));
    // One that is reset by the guest is forgotten.
    set(&mut world, &[rule(TcpFault::HalfOpen)]);
    let mut other = Raw::new(40_001, raw.remote);
    other.open(&mut world);
    other.silent_for(&mut world, SECOND);
    assert_eq!(world.slirp.flows(), (2, 0));
    other.send(&mut world, RST | ACK, &[]);
    world.settle();
    assert_eq!(world.slirp.flows(), (1, 0));
}

/// Exactly as many bytes as were said, towards the guest.
#[test]
fn reset_after_so_many_bytes_to_the_guest() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    for (port, bytes) in (40_000..).zip([1_u32, 1000, 10_000, 200_000]) {
        let limit = TcpFault::Reset(ResetAfter::Bytes(bytes.into()));
        let faults = set(&mut world, &[rule(limit)]);
        let mut raw = Raw::new(port, host.gateway());
        raw.open(&mut world);
        let mut peer = host.accept(&mut world);
        assert_eq!(write(&mut peer, &patterned(1, 0, 300_000)), 300_000);
        let start = raw.ack;
        let mut got = Vec::new();
        let end = loop {
            let segment = raw.within(&mut world, SECOND).expect("data or a reset");
            if segment.flags & RST != 0 {
                break segment;
            }
            got.extend_from_slice(&segment.payload);
            raw.ack = segment
                .seq
                .wrapping_add(u32::try_from(segment.payload.len()).unwrap());
            // The last byte is waited for: a reset must not overtake it.
            raw.send(&mut world, ACK, &[]);
        };
        assert_eq!(got.len(), bytes as usize);
        assert_pattern(1, 0, &got);
        assert_eq!(end.seq, start.wrapping_add(bytes));
        assert_eq!(end.ack, raw.seq);
        world.settle();
        assert_eq!(read(&mut peer, 1), Got::Reset);
        assert_eq!(faults.hits(RuleId(1)), 1);
        world.assert_clean();
    }
}

/// And from it.
#[test]
fn reset_after_so_many_bytes_from_the_guest() {
    let (mut world, mut peer, mut raw) = opened(TcpFault::Reset(ResetAfter::Bytes(10_000)));
    let mut sent = 0;
    while sent < 14_000 {
        raw.send(&mut world, ACK | PSH, &patterned(2, sent, 1400));
        sent += 1400;
    }
    let heard = raw.heard(&mut world);
    let end = heard.last().expect("a reset");
    assert_ne!(end.flags & RST, 0, "{end:?}");
    let (got, last) = read_all(&mut peer);
    assert_eq!((got.len(), last), (10_000, Got::Reset));
    assert_pattern(2, 0, &got);
    world.assert_clean();
}

/// Both directions count, together.
#[test]
fn reset_after_so_many_bytes_both_ways() {
    let (mut world, mut peer, mut raw) = opened(TcpFault::Reset(ResetAfter::Bytes(20)));
    raw.send(&mut world, ACK | PSH, b"question"); // 8
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"question".to_vec()));
    assert_eq!(write(&mut peer, b"an answer that is long"), 22);
    let data = loop {
        let segment = raw.next(&mut world);
        if !segment.payload.is_empty() {
            break segment;
        }
    };
    assert_eq!(data.payload, b"an answer th"); // 12
    raw.silent_for(&mut world, 100 * MS);
    raw.ack = raw.ack.wrapping_add(12);
    raw.send(&mut world, ACK, &[]);
    let end = raw.next(&mut world);
    assert_ne!(end.flags & RST, 0);
    assert_eq!(end.seq, raw.ack);
    world.assert_clean();
}

#[test]
fn reset_after_no_byte_at_all() {
    let (mut world, _host, mut raw) = outbound(TcpFault::Reset(ResetAfter::Bytes(0)));
    raw.open(&mut world);
    let end = raw.next(&mut world);
    assert_ne!(end.flags & RST, 0, "{end:?}");
    assert_eq!(end.seq, raw.ack);
    world.assert_clean();
}

#[test]
fn what_ends_before_its_bytes_are_used_up_ends_as_any_other() {
    let (mut world, mut peer, mut raw) = opened(TcpFault::Reset(ResetAfter::Bytes(100)));
    raw.send(&mut world, ACK | PSH, b"hello");
    raw.send(&mut world, ACK | FIN, &[]);
    world.settle();
    assert_eq!(read_all(&mut peer), (b"hello".to_vec(), Got::End));
    drop(peer);
    let heard = raw.heard(&mut world);
    let fin = heard.last().expect("a FIN");
    assert!(fin.is(FIN | ACK), "{heard:?}");
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    raw.silent_for(&mut world, SECOND);
    assert_eq!(count(&mut world), 0);
    world.assert_clean();
}

#[test]
fn reset_after_a_time_counts_from_when_it_was_open() {
    let (mut world, host, mut raw) = outbound(TcpFault::Reset(ResetAfter::Time(1500 * MS)));
    raw.half_open(&mut world);
    let mut peer = host.accept(&mut world);
    // Not open yet.
    world.advance(SECOND);
    let opened = world.now;
    raw.send(&mut world, ACK, &[]);
    world.settle();
    world.advance(SECOND);
    raw.send(&mut world, ACK | PSH, b"hello");
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"hello".to_vec()));
    let end = loop {
        let segment = raw.within(&mut world, SECOND).expect("a reset");
        if segment.flags & RST != 0 {
            break segment;
        }
    };
    assert_eq!(world.now.duration_since(opened), 1500 * MS);
    assert_eq!((end.seq, end.ack), (raw.ack, raw.seq));
    world.settle();
    assert_eq!(read(&mut peer, 1), Got::Reset);
    assert_eq!(count(&mut world), 1);
    world.assert_clean();
}

#[test]
fn a_flow_that_ends_before_its_time_leaves_no_timer() {
    let (mut world, peer, raw) = opened(TcpFault::Reset(ResetAfter::Time(10 * SECOND)));
    reset(peer);
    assert_ne!(raw.next(&mut world).flags & RST, 0);
    world.assert_clean();
    world.advance(SECOND);
    assert_nothing_soon(&mut world);
}

#[test]
fn open_flows_keep_the_fault_that_they_have() {
    let (mut world, host, mut raw) = outbound(TcpFault::Stall);
    set(&mut world, &[]);
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    set(&mut world, &[rule(TcpFault::Refuse)]);
    raw.send(&mut world, ACK | PSH, b"hello");
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"hello".to_vec()));
    let mut other = Raw::new(40_001, host.gateway());
    other.send(&mut world, SYN, &[]);
    assert!(other.next(&mut world).is(RST | ACK));
}

#[test]
fn a_fault_on_a_schedule() {
    let (mut world, _host, mut raw) = outbound(TcpFault::Stall);
    let mut late = rule(TcpFault::Refuse);
    late.schedule = Schedule {
        at: SECOND,
        lasts: Some(SECOND),
    };
    set(&mut world, &[late]);
    for (port, expected) in [(1, SYN | ACK), (2, RST | ACK), (3, SYN | ACK)] {
        raw.guest.set_port(40_000 + port);
        raw.seq = 1000;
        raw.send(&mut world, SYN, &[]);
        let answer = raw.next(&mut world);
        assert!(answer.is(expected), "{port}: {answer:?}");
        world.advance(SECOND);
        while world.arrived().is_some() {}
    }
}

#[test]
fn a_client_is_refused_and_the_guest_not_asked() {
    let (mut world, port) = inbound(TcpFault::Refuse);
    let mut client = port.client();
    assert_reset(&mut world, &mut client);
    assert_no_segment(&mut world, SECOND);
    assert_eq!(count(&mut world), 1);
    world.assert_clean();
}

#[test]
fn a_client_vanishes_in_a_black_hole() {
    let (mut world, port) = inbound(TcpFault::BlackHole);
    let mut client = port.client();
    assert_eq!(write(&mut client, b"hello"), 5);
    assert_no_segment(&mut world, 60 * SECOND);
    assert_eq!(read(&mut client, 1), Got::Nothing);
    assert_eq!(world.slirp.flows(), (1, 0));
    // One that resets is gone at once, one that closes after a while.
    let other = port.client();
    world.settle();
    assert_eq!(world.slirp.flows(), (2, 0));
    reset(other);
    world.settle();
    assert_eq!(world.slirp.flows(), (1, 0));
    drop(client);
    world.settle();
    world.advance(121 * SECOND);
    world.assert_clean();
}

#[test]
fn a_client_is_slowly_accepted() {
    let (mut world, port) = inbound(TcpFault::SlowAccept(SECOND));
    let mut client = port.client();
    assert_eq!(write(&mut client, b"hello"), 5);
    let start = world.now;
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    raw.send(&mut world, ACK | PSH, b"greeting");
    let ack = raw.next(&mut world);
    assert_eq!(ack.ack, raw.seq);
    raw.silent_for(&mut world, SECOND - 100 * MS);
    assert_eq!(read(&mut client, 100), Got::Nothing);
    let data = loop {
        let segment = raw.within(&mut world, SECOND).expect("data");
        if !segment.payload.is_empty() {
            break segment;
        }
    };
    assert_eq!(data.payload, b"hello");
    assert_eq!(world.now.duration_since(start), SECOND);
    assert_eq!(read(&mut client, 100), Got::Bytes(b"greeting".to_vec()));
}

#[test]
fn a_client_is_stalled() {
    let (mut world, port) = inbound(TcpFault::Stall);
    let mut client = port.client();
    assert_eq!(write(&mut client, b"hello"), 5);
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    raw.send(&mut world, ACK | PSH, b"greeting");
    assert_eq!(raw.next(&mut world).ack, raw.seq);
    raw.silent_for(&mut world, 60 * SECOND);
    assert_eq!(read(&mut client, 100), Got::Nothing);
    raw.send(&mut world, RST | ACK, &[]);
    assert_reset(&mut world, &mut client);
    world.assert_clean();
}

#[test]
fn a_clients_connection_is_half_open() {
    let (mut world, port) = inbound(TcpFault::HalfOpen);
    let mut client = port.client();
    assert_eq!(write(&mut client, b"hello"), 5);
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    raw.send(&mut world, ACK | PSH, b"greeting");
    raw.silent_for(&mut world, 60 * SECOND);
    assert_eq!(read(&mut client, 100), Got::Nothing);
    drop(client);
    raw.send_at(&mut world, ACK | PSH, raw.seq.wrapping_sub(8), b"greeting");
    raw.silent_for(&mut world, 60 * SECOND);
    // The guest gives up.
    raw.send(&mut world, RST | ACK, &[]);
    raw.silent_for(&mut world, SECOND);
    world.assert_clean();
}

#[test]
fn a_clients_connection_is_reset_after_so_many_bytes() {
    let (mut world, port) = inbound(TcpFault::Reset(ResetAfter::Bytes(13)));
    let mut client = port.client();
    assert_eq!(write(&mut client, b"hello"), 5);
    let syn = syn(&mut world);
    let mut raw = accept(&mut world, &syn);
    assert_eq!(raw.next(&mut world).payload, b"hello");
    raw.ack = raw.ack.wrapping_add(5);
    raw.send(&mut world, ACK | PSH, b"greetings");
    let end = raw.next(&mut world);
    assert_ne!(end.flags & RST, 0, "{end:?}");
    assert_eq!(end.seq, raw.ack);
    assert_eq!(read_all(&mut client), (b"greeting".to_vec(), Got::Reset));
    world.assert_clean();
}

#[test]
fn a_clients_connection_is_reset_after_a_time() {
    let (mut world, port) = inbound(TcpFault::Reset(ResetAfter::Time(SECOND)));
    let mut client = port.client();
    let syn = syn(&mut world);
    let raw = accept(&mut world, &syn);
    let start = world.now;
    let end = raw.within(&mut world, 2 * SECOND).expect("a reset");
    assert_ne!(end.flags & RST, 0, "{end:?}");
    assert_eq!(world.now.duration_since(start), SECOND);
    assert_reset(&mut world, &mut client);
    world.assert_clean();
}

#[test]
fn rules_for_the_way_up_leave_clients_alone() {
    let (mut world, port) = inbound(TcpFault::Refuse);
    let up = Rule {
        way: Way::Up,
        ..rule(TcpFault::Refuse)
    };
    set(&mut world, &[up]);
    let client = port.client();
    let syn = syn(&mut world);
    assert_eq!(syn.to, (GUEST4, 80).into());
    assert_eq!(syn.from.ip(), GATEWAY4);
    drop(client);
}

fn of_udp(fault: TcpFault) -> Rule {
    let mut rule = rule(fault);
    rule.matcher.protocol = Some(MatchProtocol::Udp);
    rule
}

#[test]
fn datagrams_are_refused_or_vanish() {
    let server = Server::new();
    let mut world = World::raw(&Options::default());
    let frame = datagram(5000, server.port(), 64, b"hello");
    for (fault, refusals) in [(TcpFault::Refuse, 1), (TcpFault::BlackHole, 0)] {
        set(&mut world, &[of_udp(fault)]);
        let before = count(&mut world);
        world.inject(&frame);
        world.settle();
        assert_eq!(server.receive(), None);
        assert_eq!(count(&mut world), before + 1);
        let answers: Vec<_> = std::iter::from_fn(|| world.arrived()).collect();
        assert_eq!(answers.len(), refusals);
        for answer in answers {
            // ICMP: destination unreachable, port; and the guest's own headers.
            assert_eq!((answer[23], &answer[34..36]), (1, &[3, 3][..]));
            assert_eq!(answer[42..62], frame[14..34]);
        }
        assert_eq!(world.slirp.flows(), (0, 0));
    }
    set(&mut world, &[rule(TcpFault::BlackHole)]);
    world.inject(&frame);
    world.settle();
    assert!(server.receive().is_some(), "a rule for connections");
}

#[test]
fn a_clients_datagrams_vanish() {
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = inbound_udp::publish(&mut world, "127.0.0.1:0", V4).port;
    let port = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let client = inbound_udp::client("127.0.0.1:0");
    inbound_udp::exchange(&mut world, &client, port);
    set(&mut world, &[of_udp(TcpFault::Refuse)]);
    client.send_to(b"hello", port).unwrap();
    world.settle();
    assert_eq!(world.arrived(), None);
    assert_eq!(count(&mut world), 1);
}

#[test]
fn what_faults_do_to_flows_is_told() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    announce(&mut world);
    let port = publish(&mut world, V4);
    let connected = Some(FlowVerdict::Connected);
    for (at, fault, verdict, how, by) in [
        (
            1,
            TcpFault::Refuse,
            None,
            HowEnded::TurnedAway,
            Party::Gateway,
        ),
        (
            2,
            TcpFault::BlackHole,
            None,
            HowEnded::TurnedAway,
            Party::Gateway,
        ),
        (
            3,
            TcpFault::Reset(ResetAfter::Bytes(0)),
            connected,
            HowEnded::Impaired("reset-after"),
            Party::Gateway,
        ),
        (
            4,
            TcpFault::HalfOpen,
            connected,
            HowEnded::Impaired("half-open"),
            Party::Gateway,
        ),
        (5, TcpFault::Stall, connected, HowEnded::Reset, Party::Guest),
    ] {
        set(&mut world, &[rule(fault)]);
        let verdict = verdict.or(Some(FlowVerdict::Impaired(fault.name())));
        let mut raw = Raw::new(40_000 + at, host.gateway());
        raw.send(&mut world, SYN, &[]);
        if let Some(answer) = raw.within(&mut world, SECOND) {
            raw.ack = answer.seq.wrapping_add(1);
            raw.send(&mut world, ACK, &[]);
            world.settle();
            raw.send(&mut world, RST | ACK, &[]);
        }
        let flow = only(&mut world);
        assert_eq!(ended(&flow), (verdict, how, by, None));
        assert!(flow.impaired, "{flow:?}");
    }
    for fault in [TcpFault::Refuse, TcpFault::BlackHole] {
        set(&mut world, &[rule(fault)]);
        let client = port.client();
        world.settle();
        reset(client);
        let flow = only(&mut world);
        let verdict = Some(FlowVerdict::Impaired(fault.name()));
        assert_eq!(flow.verdict, verdict);
        assert_eq!((flow.opened.by, flow.impaired), (Party::Host, true));
    }
}
