//! Segments that are odd and allowed, or odd and not.

use std::time::Duration;

use crate::host::{Got, Host, assert_pattern, patterned, read, write};
use crate::raw::{ACK, FIN, PSH, Raw, URG};
use crate::world::{Options, World};

const SOON: Duration = Duration::from_secs(2);

fn joined() -> (World, Host, Raw, std::net::TcpStream) {
    joined_with_window(65535)
}

/// `window` is what the guest says once the handshake is done.
fn joined_with_window(window: u16) -> (World, Host, Raw, std::net::TcpStream) {
    let host = Host::listen();
    let mut raw = Raw::new(40_000, host.gateway());
    let mut world = World::raw(&Options::default());
    raw.half_open(&mut world);
    raw.window = window;
    raw.send(&mut world, ACK, &[]);
    let peer = host.accept(&mut world);
    (world, host, raw, peer)
}

fn drain(world: &mut World, raw: &Raw) -> Option<crate::raw::Segment> {
    let mut last = None;
    while let Some(segment) = raw.within(world, Duration::from_millis(5)) {
        last = Some(segment);
    }
    last
}

#[test]
fn a_keepalive_probe_is_answered_and_mirrored() {
    let (mut world, _host, raw, _peer) = joined();
    for payload in [&[][..], &[0]] {
        raw.send_at(&mut world, ACK, raw.seq.wrapping_sub(1), payload);
        let answer = raw.next(&mut world);
        assert!(
            answer.is(ACK) && answer.ack == raw.seq && answer.seq == raw.ack,
            "{answer:?}"
        );
    }
}

#[test]
fn segments_out_of_order_are_put_in_order() {
    let (mut world, _host, mut raw, mut peer) = joined();
    let start = raw.seq;
    let pieces: Vec<Vec<u8>> = (0..10).map(|n| patterned(1, n * 100, 100)).collect();
    for n in [3usize, 1, 2, 9, 5, 4, 8, 7, 6] {
        let at = start.wrapping_add(u32::try_from(n * 100).unwrap());
        raw.send_at(&mut world, ACK, at, &pieces[n]);
    }
    let last = drain(&mut world, &raw).expect("duplicate acknowledgements");
    assert_eq!(last.ack, start);
    assert!(!last.options.is_empty(), "SACK: {last:?}");
    assert_eq!(read(&mut peer, 10), Got::Nothing);
    raw.send(&mut world, ACK, &pieces[0]);
    let ack = drain(&mut world, &raw).expect("one for all");
    assert_eq!(ack.ack, start.wrapping_add(1000));
    let Got::Bytes(bytes) = read(&mut peer, 2000) else {
        panic!("data")
    };
    assert_eq!(bytes.len(), 1000);
    assert_pattern(1, 0, &bytes);
}

#[test]
fn hundreds_of_segments_above_a_hole_are_kept() {
    let (mut world, _host, raw, mut peer) = joined();
    let start = raw.seq;
    let at = |n: usize| start.wrapping_add(u32::try_from(n * 100).unwrap());
    for n in 1..600 {
        raw.send_at(&mut world, ACK, at(n), &patterned(1, n * 100, 100));
    }
    drain(&mut world, &raw).expect("duplicate acknowledgements");
    raw.send_at(&mut world, ACK, start, &patterned(1, 0, 100));
    let ack = drain(&mut world, &raw).expect("one for all");
    assert_eq!(ack.ack, at(600));
    let mut all = 0;
    while let Got::Bytes(bytes) = read(&mut peer, 100_000) {
        assert_pattern(1, all, &bytes);
        all += bytes.len();
    }
    assert_eq!(all, 60_000);
}

#[test]
fn overlaps_and_repetitions_deliver_each_byte_once() {
    let (mut world, _host, mut raw, mut peer) = joined();
    let start = raw.seq;
    let ranges = [
        (0, 50),
        (0, 50),
        (25, 75),
        (10, 20),
        (200, 300),
        (150, 250),
        (60, 160),
        (0, 310),
    ];
    for (from, to) in ranges {
        let at = start.wrapping_add(u32::try_from(from).unwrap());
        raw.send_at(&mut world, ACK, at, &patterned(2, from, to - from));
    }
    raw.seq = start.wrapping_add(310);
    let ack = drain(&mut world, &raw).expect("acknowledged");
    assert_eq!(ack.ack, raw.seq);
    let mut all = Vec::new();
    while let Got::Bytes(bytes) = read(&mut peer, 1000) {
        all.extend(bytes);
    }
    assert_eq!(all.len(), 310);
    assert_pattern(2, 0, &all);
}

#[test]
fn a_fin_out_of_order_waits_for_its_data() {
    let (mut world, _host, mut raw, mut peer) = joined();
    let start = raw.seq;
    raw.send_at(&mut world, ACK | FIN, start.wrapping_add(4), b"tail");
    world.settle();
    assert_eq!(read(&mut peer, 10), Got::Nothing);
    raw.send(&mut world, ACK, b"head");
    world.settle();
    let Got::Bytes(bytes) = read(&mut peer, 100) else {
        panic!("data")
    };
    assert_eq!(bytes, b"headtail");
    assert_eq!(read(&mut peer, 10), Got::End);
    raw.seq = start.wrapping_add(9);
    assert_eq!(drain(&mut world, &raw).expect("acknowledged").ack, raw.seq);
}

#[test]
fn urgent_data_is_data() {
    let (mut world, _host, mut raw, mut peer) = joined();
    raw.send(&mut world, ACK | PSH | URG, b"!now");
    raw.send(&mut world, ACK | PSH, b" then");
    let ack = drain(&mut world, &raw).expect("acknowledged");
    assert_eq!(ack.ack, raw.seq);
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"!now then".to_vec()));
}

#[test]
fn data_beyond_the_window_is_not_taken() {
    let (mut world, _host, raw, mut peer) = joined();
    raw.send_at(&mut world, ACK, raw.seq.wrapping_add(10_000_000), b"far");
    let ack = drain(&mut world, &raw).expect("told where we are");
    assert_eq!(ack.ack, raw.seq);
    raw.send_at(&mut world, ACK, raw.seq.wrapping_sub(1000), &[1; 500]);
    assert_eq!(drain(&mut world, &raw).expect("told again").ack, raw.seq);
    assert_eq!(read(&mut peer, 10), Got::Nothing);
    assert_eq!(world.slirp.memory_used(), 0);
}

#[test]
fn an_acknowledgement_of_what_was_not_sent_is_corrected() {
    let (mut world, _host, mut raw, mut peer) = joined();
    let right = raw.ack;
    raw.ack = right.wrapping_add(100_000);
    raw.send_at(&mut world, ACK, raw.seq, &[]);
    if let Some(answer) = drain(&mut world, &raw) {
        assert_eq!((answer.seq, answer.ack), (right, raw.seq));
    }
    raw.ack = right;
    write(&mut peer, b"still here");
    assert_eq!(
        raw.within(&mut world, SOON).expect("data").payload,
        b"still here"
    );
}

/// A guest with a window too small for a segment: lwIP never splits what is
/// queued, so nothing may be queued that does not fit.
#[test]
fn tiny_windows_do_not_stall() {
    // Scaled by 128: 128 bytes at a time.
    let (mut world, _host, mut raw, mut peer) = joined_with_window(1);
    let data = patterned(3, 0, 20_000);
    assert_eq!(write(&mut peer, &data), data.len());
    let mut got = Vec::new();
    let began = world.now;
    while got.len() < data.len() {
        let segment = raw
            .within(&mut world, Duration::from_secs(30))
            .expect("no stall");
        if segment.seq == raw.ack && !segment.payload.is_empty() {
            got.extend_from_slice(&segment.payload);
            raw.ack = raw
                .ack
                .wrapping_add(u32::try_from(segment.payload.len()).unwrap());
            raw.send(&mut world, ACK, &[]);
        }
    }
    assert_eq!(got, data);
    let took = world.now - began;
    assert!(
        took < Duration::from_secs(5),
        "every window waited for a timer: {took:?}"
    );
}

#[test]
fn a_zero_window_is_probed_and_reopens() {
    let (mut world, _host, mut raw, mut peer) = joined_with_window(0);
    world.settle();
    let data = patterned(4, 0, 5000);
    assert_eq!(write(&mut peer, &data), data.len());
    let probe = raw
        .within(&mut world, Duration::from_secs(10))
        .expect("a probe");
    assert!(probe.payload.len() <= 1, "{probe:?}");
    // Probed for as long as it takes; the connection lives on.
    for _ in 0..40 {
        if raw.within(&mut world, Duration::from_secs(120)).is_some() {
            raw.send(&mut world, ACK, &[]);
        }
    }
    assert_eq!(world.slirp.flows(), (1, 0));
    raw.window = 500;
    raw.send(&mut world, ACK, &[]);
    let mut got = Vec::new();
    while got.len() < data.len() {
        let segment = raw
            .within(&mut world, Duration::from_secs(130))
            .expect("data");
        if segment.seq == raw.ack && !segment.payload.is_empty() {
            got.extend_from_slice(&segment.payload);
            raw.ack = raw
                .ack
                .wrapping_add(u32::try_from(segment.payload.len()).unwrap());
            raw.send(&mut world, ACK, &[]);
        }
    }
    assert_eq!(got, data);
}

/// A window taken back (RFC 9293 section 3.8.6 advises against it, and asks to
/// be robust against it).
#[test]
fn a_window_that_shrinks_does_not_stall() {
    let (mut world, _host, mut raw, mut peer) = joined();
    let data = patterned(5, 0, 30_000);
    assert_eq!(write(&mut peer, &data), data.len());
    let mut got = Vec::new();
    let mut n = 0u16;
    while got.len() < data.len() {
        let segment = raw
            .within(&mut world, Duration::from_secs(130))
            .expect("no stall");
        n += 1;
        // What is sent again may begin before what was acknowledged.
        let known = usize::try_from(raw.ack.wrapping_sub(segment.seq)).unwrap();
        if known < segment.payload.len() {
            let new = &segment.payload[known..];
            let most = if n.is_multiple_of(3) {
                new.len() / 2 + 1
            } else {
                new.len()
            };
            got.extend_from_slice(&new[..most]);
            raw.ack = raw.ack.wrapping_add(u32::try_from(most).unwrap());
        }
        raw.window = [40, 3, 20, 1, 7][usize::from(n % 5)];
        raw.send(&mut world, ACK, &[]);
    }
    assert_eq!(got, data);
}

#[test]
fn wrapping_sequence_numbers_are_nothing_special() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    raw.seq = u32::MAX - 5000;
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    let mut got = Vec::new();
    for n in 0..20 {
        raw.send(&mut world, ACK, &patterned(6, n * 1000, 1000));
        world.settle();
        while let Got::Bytes(bytes) = read(&mut peer, 4000) {
            got.extend(bytes);
        }
    }
    assert_eq!(got.len(), 20_000);
    assert_pattern(6, 0, &got);
    assert_eq!(drain(&mut world, &raw).expect("acknowledged").ack, raw.seq);
}

/// At the least MTU an acknowledgement with four SACK ranges is larger than the
/// MTU allows (76 bytes), and still no arithmetic goes wrong.
#[test]
fn sack_fits_the_least_mtu() {
    let host = Host::listen();
    let mut raw = Raw::new(40_000, host.gateway());
    let mut world = World::raw(&Options {
        mtu: 68,
        ..Options::default()
    });
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    let start = raw.seq;
    for n in [2u32, 4, 6, 8, 10] {
        raw.send_at(&mut world, ACK, start.wrapping_add(n * 8), &[1; 8]);
    }
    assert_eq!(
        drain(&mut world, &raw).expect("an acknowledgement").ack,
        start
    );
    write(&mut peer, &[5; 300]);
    let mut got = 0;
    while let Some(s) = raw.within(&mut world, Duration::from_millis(5)) {
        got += s.payload.len();
    }
    assert_eq!(got, 300);
}
