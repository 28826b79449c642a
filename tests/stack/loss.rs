//! A wire that loses, repeats, delays and reorders: data arrives intact.

use std::cell::RefCell;
use std::net::TcpStream;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State;

use crate::host::{Got, Host, assert_pattern, patterned, read, write};
use crate::world::{Fate, Options, World};

const SOON: Duration = Duration::from_secs(5);

/// A small generator of its own (xorshift), so that a seed replays a run.
#[derive(Clone)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

/// How bad one direction is, in per mille of its frames.
#[derive(Debug, Clone, Copy)]
struct Weather {
    lose: u64,
    twice: u64,
    late: u64,
    most_ms: u64,
}

impl Weather {
    fn judge(self, seed: u64) -> impl FnMut(&[u8]) -> Fate {
        let mut dice = Dice(seed | 1);
        move |frame| {
            // Nobody repeats a lost ARP request for us within a second.
            if frame[12..14] == [0x08, 0x06] {
                return Fate::Deliver;
            }
            let roll = dice.roll(1000);
            if roll < self.lose {
                Fate::Lose
            } else if roll < self.lose + self.twice {
                Fate::Twice
            } else if roll < self.lose + self.twice + self.late {
                Fate::Late(Duration::from_micros(dice.roll(self.most_ms * 1000 + 1)))
            } else {
                Fate::Deliver
            }
        }
    }
}

/// Bytes both ways at the same time, and then an orderly end.
pub(crate) struct Transfer {
    handle: SocketHandle,
    peer: TcpStream,
    up: usize,
    down: usize,
}

impl Transfer {
    pub(crate) fn begin(
        world: &mut World,
        host: &Host,
        window: usize,
        up: usize,
        down: usize,
    ) -> Self {
        let handle = world.connect_with(host.gateway(), window);
        let mut peer = None;
        world.until(Duration::from_secs(300), |_| {
            peer = host.try_accept();
            peer.is_some()
        });
        Self {
            handle,
            peer: peer.expect("just checked"),
            up,
            down,
        }
    }

    pub(crate) fn run(&mut self, world: &mut World, limit: Duration) {
        let Self {
            handle,
            peer,
            up,
            down,
        } = self;
        let (handle, up, down) = (*handle, *up, *down);
        let (mut sent_up, mut sent_down, mut got_up, mut got_down) = (0, 0, 0, 0);
        let (mut guest_done, mut host_done, mut ended) = (false, false, false);
        world.until(limit, |w| {
            let socket = w.tcp(handle);
            while sent_up < up && socket.can_send() {
                let len = (up - sent_up).min(8192);
                sent_up += socket.send_slice(&patterned(1, sent_up, len)).unwrap();
            }
            if sent_up == up && !guest_done && socket.may_send() {
                guest_done = true;
                socket.close();
            }
            while socket.can_recv() {
                let bytes = socket.recv(|b| (b.len(), b.to_vec())).unwrap();
                assert_pattern(2, got_down, &bytes);
                got_down += bytes.len();
            }
            while sent_down < down {
                let len = (down - sent_down).min(16_384);
                let n = write(peer, &patterned(2, sent_down, len));
                sent_down += n;
                if n == 0 {
                    break;
                }
            }
            if sent_down == down && !host_done {
                host_done = true;
                peer.shutdown(std::net::Shutdown::Write).unwrap();
            }
            while !ended {
                match read(peer, 65536) {
                    Got::Bytes(bytes) => {
                        assert_pattern(1, got_up, &bytes);
                        got_up += bytes.len();
                    }
                    Got::End => ended = true,
                    Got::Nothing => break,
                    Got::Reset => panic!("reset after {got_up} of {up} bytes"),
                }
            }
            (got_up, got_down, ended) == (up, down, true)
        });
    }

    /// Both sides close; nothing is left.
    pub(crate) fn finish(self, world: &mut World) {
        let handle = self.handle;
        world.until(Duration::from_secs(300), |w| {
            matches!(w.tcp(handle).state(), State::Closed | State::TimeWait)
        });
        world.forget(handle);
        drop(self.peer);
        world.until(Duration::from_secs(300), |w| w.slirp.flows() == (0, 0));
        world.assert_clean();
    }
}

#[test]
fn a_good_wire_carries_everything() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let mut transfer = Transfer::begin(&mut world, &host, 256 * 1024, 3 << 20, 3 << 20);
    transfer.run(&mut world, SOON);
    transfer.finish(&mut world);
}

#[test]
fn a_good_wire_of_65520_carries_everything() {
    let host = Host::listen();
    let mut world = World::new(&Options {
        mtu: 65520,
        ..Options::default()
    });
    let mut transfer = Transfer::begin(&mut world, &host, 256 * 1024, 3 << 20, 3 << 20);
    transfer.run(&mut world, SOON);
    transfer.finish(&mut world);
}

/// Every seventh frame towards the guest is lost, each one once.
#[test]
fn frames_lost_towards_the_guest_are_sent_again() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let mut transfer = Transfer::begin(&mut world, &host, 64 * 1024, 0, 300_000);
    let mut n = 0;
    world.judge_to_guest(move |_| {
        n += 1;
        if n % 7 == 0 {
            Fate::Lose
        } else {
            Fate::Deliver
        }
    });
    transfer.run(&mut world, Duration::from_secs(600));
    world.judge_nothing();
    transfer.finish(&mut world);
}

#[test]
fn frames_lost_towards_the_gateway_are_sent_again() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let mut transfer = Transfer::begin(&mut world, &host, 64 * 1024, 300_000, 0);
    let mut n = 0;
    world.judge_to_gateway(move |_| {
        n += 1;
        if n % 7 == 0 {
            Fate::Lose
        } else {
            Fate::Deliver
        }
    });
    transfer.run(&mut world, Duration::from_secs(600));
    world.judge_nothing();
    transfer.finish(&mut world);
}

/// One lost segment is repaired by its duplicates, not by a timer.
#[test]
fn one_loss_is_repaired_fast() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let mut transfer = Transfer::begin(&mut world, &host, 256 * 1024, 0, 1 << 20);
    let mut n = 0;
    world.judge_to_guest(move |_| {
        n += 1;
        if n == 20 { Fate::Lose } else { Fate::Deliver }
    });
    let began = world.now;
    transfer.run(&mut world, Duration::from_secs(60));
    let took = world.now - began;
    assert!(took < Duration::from_secs(3), "{took:?}");
    world.judge_nothing();
    transfer.finish(&mut world);
}

#[test]
fn a_wire_that_is_cut_for_ten_seconds_goes_on() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let mut transfer = Transfer::begin(&mut world, &host, 64 * 1024, 100_000, 100_000);
    world.judge_to_guest(|_| Fate::Lose);
    world.judge_to_gateway(|_| Fate::Lose);
    write(&mut transfer.peer, &[]);
    world.advance(Duration::from_secs(10));
    world.judge_nothing();
    transfer.run(&mut world, Duration::from_secs(120));
    transfer.finish(&mut world);
}

fn weather() -> impl Strategy<Value = Weather> {
    (0u64..80, 0u64..80, 0u64..200, 0u64..120).prop_map(|(lose, twice, late, most_ms)| Weather {
        lose,
        twice,
        late,
        most_ms,
    })
}

/// In any weather, with any window and any sizes, every byte arrives, once and
/// in order. proptest prints the case; it replays by itself (`proptest-regressions`).
#[test]
fn any_weather() {
    let host = Host::listen();
    let world = RefCell::new(World::new(&Options::default()));
    let cases = std::env::var("PROPTEST_CASES")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(24);
    let mut runner = TestRunner::new(Config {
        cases,
        max_shrink_iters: 40,
        ..Config::default()
    });
    let strategy = (
        weather(),
        weather(),
        any::<u64>(),
        1usize..120_000,
        0usize..120_000,
        600usize..100_000,
    );
    runner
        .run(&strategy, |(there, back, seed, up, down, window)| {
            let world = &mut *world.borrow_mut();
            world.judge_to_guest(there.judge(seed));
            world.judge_to_gateway(back.judge(seed.rotate_left(32)));
            let mut transfer = Transfer::begin(world, &host, window, up, down);
            transfer.run(world, Duration::from_secs(3600));
            world.judge_nothing();
            transfer.finish(world);
            Ok(())
        })
        .unwrap();
}

/// The bytes kept until acknowledged: whatever sizes the host writes and
/// however little the guest takes at a time, what is sent again is right and
/// what is kept is let go.
#[test]
fn bytes_are_kept_until_acknowledged() {
    let host = Host::listen();
    let world = RefCell::new(World::new(&Options::default()));
    let mut runner = TestRunner::new(Config {
        cases: 16,
        max_shrink_iters: 40,
        ..Config::default()
    });
    let strategy = (
        any::<u64>(),
        600usize..40_000,
        prop::collection::vec((1usize..20_000, 1usize..5000), 1..30),
    );
    runner
        .run(&strategy, |(seed, window, steps)| {
            let world = &mut *world.borrow_mut();
            let mut transfer = Transfer::begin(world, &host, window, 0, 0);
            let handle = transfer.handle;
            let mut dice = Dice(seed | 1);
            world.judge_to_guest(move |_| {
                if dice.roll(20) == 0 {
                    Fate::Lose
                } else {
                    Fate::Deliver
                }
            });
            let (mut sent, mut got) = (0, 0);
            let mut take = |w: &mut World, most: usize| {
                let socket = w.tcp(handle);
                if !socket.can_recv() {
                    return 0;
                }
                let n = socket
                    .recv(|b| {
                        let n = b.len().min(most);
                        assert_pattern(9, got, &b[..n]);
                        (n, n)
                    })
                    .unwrap();
                got += n;
                n
            };
            for (bytes, taken) in steps {
                sent += write(&mut transfer.peer, &patterned(9, sent, bytes));
                world.settle();
                take(world, taken);
                world.advance(Duration::from_millis(20));
            }
            let mut all = 0;
            world.until(Duration::from_secs(600), |w| {
                while take(w, 100_000) > 0 {}
                all += 1;
                w.slirp.memory_used() == 0 && w.tcp(handle).recv_queue() == 0
            });
            prop_assert_eq!(got, sent);
            world.judge_nothing();
            world.tcp(handle).abort();
            world.settle();
            world.forget(handle);
            world.assert_clean();
            Ok(())
        })
        .unwrap();
}

/// A weather in which the data of the last segment, but not its FIN, was sent
/// again on its own; smoltcp never took the FIN when it came with that data.
#[test]
fn a_fin_is_not_parted_from_its_data() {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let there = Weather {
        lose: 19,
        twice: 46,
        late: 24,
        most_ms: 1,
    };
    let seed = 12_760_467_536_544_071_359_u64;
    for _ in 0..20 {
        world.judge_to_guest(there.judge(seed));
        let mut transfer = Transfer::begin(&mut world, &host, 36_661, 1266, 43_145);
        transfer.run(&mut world, Duration::from_secs(3600));
        world.judge_nothing();
        transfer.finish(&mut world);
    }
}
