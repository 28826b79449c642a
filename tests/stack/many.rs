//! Many connections, one after the other and at the same time.

use std::time::Duration;

use crate::host::{Got, Host, read, reset, write};
use crate::raw::{ACK, FIN, PSH, RST, Raw, SYN};
use crate::world::{Options, World};

const SOON: Duration = Duration::from_secs(2);

fn descriptors() -> Options {
    Options {
        descriptors: 9000,
        ..Options::default()
    }
}

/// A thousand at a time, ended in every way there is; nothing is left.
#[test]
fn a_thousand_connections_leave_nothing() {
    let host = Host::listen();
    let mut world = World::raw(&descriptors());
    let mut flows = Vec::new();
    // Two descriptors each, of the usual 1024, when the limit cannot be raised.
    let count = match nix_limit() {
        limit if limit > 2300 => 1000,
        limit => u16::try_from((limit - 200) / 2).unwrap(),
    };
    for n in 0..count {
        let mut raw = Raw::new(20_000 + n, host.gateway());
        raw.open(&mut world);
        let peer = host.accept(&mut world);
        flows.push((raw, peer));
    }
    assert_eq!(world.slirp.flows(), (usize::from(count), 0));
    for (raw, peer) in &mut flows {
        raw.send(&mut world, ACK | PSH, b"ping");
        world.settle();
        assert_eq!(read(peer, 10), Got::Bytes(b"ping".to_vec()));
        write(peer, b"pong");
    }
    world.settle();
    for (n, (mut raw, peer)) in flows.into_iter().enumerate() {
        raw.ack = raw.ack.wrapping_add(4);
        match n % 4 {
            0 => {
                raw.send(&mut world, ACK | FIN, &[]);
                world.settle();
                drop(peer);
                world.settle();
                raw.ack = raw.ack.wrapping_add(1);
                raw.send(&mut world, ACK, &[]);
            }
            1 => {
                drop(peer);
                world.settle();
                raw.ack = raw.ack.wrapping_add(1);
                raw.send(&mut world, ACK | FIN, &[]);
            }
            2 => raw.send(&mut world, RST | ACK, &[]),
            _ => reset(peer),
        }
        world.settle();
        while world.arrived().is_some() {}
    }
    world.assert_clean();
    world.advance(Duration::from_secs(3 * 3600));
    assert_eq!(world.slirp.next_deadline(), None);
}

fn nix_limit() -> u64 {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(10_000);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    wanted
}

/// One port of the guest's, used again and again at once.
#[test]
fn a_port_can_be_used_again_at_once() {
    let host = Host::listen();
    let mut world = World::raw(&Options::default());
    let mut raw = Raw::new(40_000, host.gateway());
    for _ in 0..200 {
        raw.open(&mut world);
        let peer = host.accept(&mut world);
        drop(peer);
        let fin = raw.within(&mut world, SOON).expect("a FIN");
        raw.ack = fin.seq.wrapping_add(1);
        raw.send(&mut world, ACK | FIN, &[]);
        assert_eq!(raw.next(&mut world).ack, raw.seq);
        world.assert_clean();
    }
}

/// The table is full: a new connection is dropped, and the others go on.
#[test]
fn a_full_table_refuses_and_recovers() {
    let host = Host::listen();
    // Descriptors less those of the other tables leave 44 for TCP.
    let options = Options {
        descriptors: 400,
        ..Options::default()
    };
    let mut world = World::raw(&options);
    let mut open = Vec::new();
    for n in 0..400 {
        let mut raw = Raw::new(20_000 + n, host.gateway());
        raw.send(&mut world, SYN, &[]);
        if raw.within(&mut world, Duration::from_millis(20)).is_none() {
            break;
        }
        open.push((raw, host.accept(&mut world)));
    }
    let limit = world.slirp.flows().0;
    assert!(limit > 10 && limit < 300, "{limit}");
    let (raw, _peer) = open.pop().unwrap();
    raw.send_at(&mut world, RST, raw.seq, &[]);
    world.settle();
    assert_eq!(world.slirp.flows().0, limit - 1);
    let mut late = Raw::new(50_000, host.gateway());
    late.open(&mut world);
    assert_eq!(world.slirp.flows().0, limit);
}
