//! How connections end: every row of the close table.

use std::net::Shutdown;
use std::time::Duration;

use smoltcp::socket::tcp::State;

use crate::host::{Got, Host, read, reset, write};
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN};
use crate::world::{Options, World};

const SOON: Duration = Duration::from_secs(2);

fn joined(world: &mut World, raw: &mut Raw, host: &Host) -> std::net::TcpStream {
    raw.open(world);
    host.accept(world)
}

fn setup() -> (World, Host, Raw) {
    let host = Host::listen();
    let raw = Raw::new(40_000, host.gateway());
    (World::raw(&Options::default()), host, raw)
}

#[test]
fn the_guests_end_half_closes_the_hosts_side() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    raw.send(&mut world, ACK | PSH, b"question");
    raw.send(&mut world, ACK | FIN, &[]);
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"question".to_vec()));
    assert_eq!(read(&mut peer, 100), Got::End);
    while raw.within(&mut world, Duration::from_millis(5)).is_some() {}
    // The other direction still works, for a long time.
    for _ in 0..5 {
        world.advance(Duration::from_secs(60));
        assert_eq!(write(&mut peer, b"answer"), 6);
        let segment = raw.next(&mut world);
        assert_eq!(segment.payload, b"answer");
        raw.ack = segment.seq.wrapping_add(6);
        raw.send(&mut world, ACK, &[]);
    }
    drop(peer);
    let fin = raw.next(&mut world);
    assert!(fin.is(FIN | ACK), "{fin:?}");
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    raw.silent_for(&mut world, Duration::from_secs(5));
    world.assert_clean();
}

#[test]
fn the_hosts_end_is_a_fin_and_the_guest_may_go_on() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    assert_eq!(write(&mut peer, b"bye"), 3);
    peer.shutdown(Shutdown::Write).unwrap();
    let mut data = Vec::new();
    loop {
        let segment = raw.next(&mut world);
        data.extend_from_slice(&segment.payload);
        raw.ack = segment
            .seq
            .wrapping_add(u32::try_from(segment.payload.len()).unwrap());
        if segment.flags & FIN != 0 {
            raw.ack = raw.ack.wrapping_add(1);
            break;
        }
    }
    assert_eq!(data, b"bye");
    raw.send(&mut world, ACK, &[]);
    for _ in 0..5 {
        world.advance(Duration::from_secs(60));
        raw.send(&mut world, ACK | PSH, b"more");
        let ack = raw.next(&mut world);
        assert_eq!(ack.ack, raw.seq);
        assert_eq!(read(&mut peer, 100), Got::Bytes(b"more".to_vec()));
    }
    raw.send(&mut world, ACK | FIN, &[]);
    let ack = raw.next(&mut world);
    assert_eq!(ack.ack, raw.seq);
    assert_eq!(read(&mut peer, 100), Got::End);
    world.assert_clean();
    // TIME-WAIT: the guest's FIN again is acknowledged again, not reset.
    raw.send_at(&mut world, ACK | FIN, raw.seq.wrapping_sub(1), &[]);
    let again = raw.next(&mut world);
    assert!(again.is(ACK) && again.ack == raw.seq, "{again:?}");
    // A late acknowledgement and a reset are nothing.
    raw.send_at(&mut world, ACK, raw.seq, &[]);
    raw.send_at(&mut world, RST, raw.seq, &[]);
    raw.silent_for(&mut world, SOON);
    // A new connection from the same port may begin behind the old numbers:
    // after a large upload it does.
    raw.seq = raw.seq.wrapping_sub(1_000_000_000);
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    raw.send(&mut world, ACK | PSH, b"new");
    world.settle();
    assert_eq!(read(&mut peer, 100), Got::Bytes(b"new".to_vec()));
}

#[test]
fn time_wait_ends() {
    let (mut world, host, mut raw) = setup();
    let peer = joined(&mut world, &mut raw, &host);
    drop(peer);
    let fin = raw.next(&mut world);
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK | FIN, &[]);
    assert_eq!(raw.next(&mut world).ack, raw.seq);
    world.assert_clean();
    world.advance(Duration::from_secs(61));
    raw.send_at(&mut world, ACK | FIN, raw.seq.wrapping_sub(1), &[]);
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
}

#[test]
fn both_close_at_once() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    peer.shutdown(Shutdown::Write).unwrap();
    let fin = raw.next(&mut world);
    assert!(fin.is(FIN | ACK));
    // The guest's FIN crossed ours: it acknowledges nothing new.
    raw.send(&mut world, ACK | FIN, &[]);
    let ack = raw.next(&mut world);
    assert_eq!(ack.ack, raw.seq);
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK, &[]);
    world.settle();
    assert_eq!(read(&mut peer, 10), Got::End);
    world.assert_clean();
}

#[test]
fn the_guests_reset_resets_the_host() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    raw.send(&mut world, RST | ACK, &[]);
    world.settle();
    assert_eq!(read(&mut peer, 10), Got::Reset);
    raw.silent_for(&mut world, SOON);
    world.assert_clean();
}

#[test]
fn the_hosts_reset_resets_the_guest() {
    let (mut world, host, mut raw) = setup();
    let peer = joined(&mut world, &mut raw, &host);
    reset(peer);
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
    assert_eq!(answer.seq, raw.ack);
    world.assert_clean();
}

#[test]
fn a_reset_after_half_close_resets_too() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    raw.send(&mut world, ACK | FIN, &[]);
    assert_eq!(raw.next(&mut world).ack, raw.seq);
    assert_eq!(read(&mut peer, 10), Got::End);
    reset(peer);
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0, "{answer:?}");
    world.assert_clean();
}

#[test]
fn data_for_a_host_that_closed_is_answered_by_a_reset() {
    let (mut world, host, mut raw) = setup();
    let peer = joined(&mut world, &mut raw, &host);
    drop(peer); // closed in full, not half
    let fin = raw.next(&mut world);
    raw.ack = fin.seq.wrapping_add(1);
    raw.send(&mut world, ACK | PSH, b"too late");
    let mut was_reset = false;
    for _ in 0..3 {
        if let Some(segment) = raw.within(&mut world, SOON) {
            was_reset |= segment.flags & RST != 0;
        }
        raw.send(&mut world, ACK | PSH, b"really");
    }
    assert!(was_reset);
    world.settle();
    assert_eq!(world.slirp.flows(), (0, 0));
}

#[test]
fn a_reset_with_a_guessed_number_is_challenged() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    // In the window, but not the next number: RFC 5961 section 3.2.
    raw.send_at(&mut world, RST, raw.seq.wrapping_add(100), &[]);
    let challenge = raw.next(&mut world);
    assert!(challenge.is(ACK), "{challenge:?}");
    // Outside: nothing at all.
    raw.send_at(&mut world, RST, raw.seq.wrapping_sub(100), &[]);
    raw.send_at(&mut world, RST, raw.seq.wrapping_add(100_000_000), &[]);
    raw.silent_for(&mut world, SOON);
    raw.send(&mut world, ACK | PSH, b"alive");
    world.settle();
    assert_eq!(read(&mut peer, 10), Got::Bytes(b"alive".to_vec()));
}

#[test]
fn a_syn_in_a_connection_is_challenged() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    raw.send_at(&mut world, SYN, raw.seq.wrapping_add(5), &[]);
    let challenge = raw.next(&mut world);
    assert!(
        challenge.is(ACK) && challenge.ack == raw.seq,
        "{challenge:?}"
    );
    raw.send(&mut world, ACK | PSH, b"alive");
    world.settle();
    assert_eq!(read(&mut peer, 10), Got::Bytes(b"alive".to_vec()));
}

#[test]
fn shutting_down_resets_everything() {
    let (mut world, host, mut raw) = setup();
    let mut peer = joined(&mut world, &mut raw, &host);
    world.slirp.reset_all();
    let answer = raw.next(&mut world);
    assert!(answer.flags & RST != 0);
    assert_eq!(read(&mut peer, 10), Got::Reset);
    world.assert_clean();
}

/// A connection that ended in order, but whose data the host has not taken yet:
/// the guest's FIN again must be acknowledged, since its data was.
#[test]
fn a_repeated_fin_is_acknowledged_while_the_host_is_slow() {
    let host = Host::listen_with_buffer(2048);
    let mut raw = Raw::new(40_000, host.gateway());
    let mut world = World::raw(&Options::default());
    raw.open(&mut world);
    let mut peer = host.accept(&mut world);
    peer.shutdown(Shutdown::Write).unwrap();
    let fin = raw.next(&mut world);
    assert!(fin.is(FIN | ACK));
    raw.ack = fin.seq.wrapping_add(1);
    // More than both socket buffers take.
    let mut sent = 0;
    let mut edge = raw.seq.wrapping_add(65535);
    while edge.wrapping_sub(raw.seq) > 8 * 1400 {
        raw.send(&mut world, ACK, &[9; 1400]);
        sent += 1400;
        for s in raw.heard(&mut world) {
            edge = s.ack.wrapping_add(u32::from(s.window) << 8);
        }
        assert!(sent < 32 << 20, "the window closes");
    }
    raw.send(&mut world, ACK | FIN, &[]);
    let ack = raw.within(&mut world, SOON).expect("acknowledged");
    assert_eq!(ack.ack, raw.seq);
    assert_eq!(world.slirp.flows(), (1, 0), "data is still held");
    raw.send_at(&mut world, ACK | FIN, raw.seq.wrapping_sub(1), &[]);
    let again = raw.within(&mut world, SOON).expect("acknowledged again");
    assert!(again.is(ACK), "{again:?}");
    // The host reads again, in real time: its kernel's timers count here.
    socket2::SockRef::from(&peer)
        .set_recv_buffer_size(1 << 20)
        .unwrap();
    let (mut got, mut ended) = (0, false);
    for _ in 0..10_000 {
        match read(&mut peer, 65536) {
            Got::Bytes(bytes) => got += bytes.len(),
            Got::Nothing => std::thread::sleep(Duration::from_micros(500)),
            other => {
                assert_eq!(other, Got::End);
                ended = true;
                break;
            }
        }
        world.settle();
    }
    assert!(ended, "{got} of {sent} bytes");
    assert_eq!(got, sent);
    world.assert_clean();
}

/// The same by an independent stack, in every order of closing.
#[test]
fn smoltcp_closes() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    for guest_first in [true, false] {
        let handle = world.connect(host.gateway());
        let mut peer = host.accept(&mut world);
        world.until(SOON, |w| w.tcp(handle).may_send());
        if guest_first {
            world.tcp(handle).close();
            world.until(SOON, |_| read(&mut peer, 1) == Got::End);
            drop(peer);
            world.until(SOON, |w| w.tcp(handle).state() == State::TimeWait);
        } else {
            peer.shutdown(Shutdown::Write).unwrap();
            world.until(SOON, |w| w.tcp(handle).state() == State::CloseWait);
            world.tcp(handle).close();
            world.until(SOON, |_| read(&mut peer, 1) == Got::End);
            world.until(SOON, |w| w.tcp(handle).state() == State::Closed);
        }
        world.forget(handle);
        world.assert_clean();
    }
}
