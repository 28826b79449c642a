//! The learning table of a switch, against a model that forgets nothing but what
//! it is told to.
#![no_main]

use std::collections::HashMap;
use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use gw::net::MacAddr;
use gw::tap::fdb::{AGEING, Fdb, Learnt, MAX_PER_PORT, MAX_STATIONS};

#[derive(Debug, Arbitrary)]
enum Op {
    Learn { mac: [u8; 3], port: u8 },
    /// Many at once, to reach the bounds.
    LearnMany { first: u16, count: u16, port: u8 },
    ForgetPort(u8),
    Pass { seconds: u8 },
}

fn mac([a, b, c]: [u8; 3]) -> MacAddr {
    // Groups among them, from the first byte.
    MacAddr([a, 0, 0, 0, b, c])
}

libfuzzer_sys::fuzz_target!(|ops: Vec<Op>| {
    let mut now = Instant::now();
    let mut fdb: Fdb<u8> = Fdb::default();
    let mut model: HashMap<MacAddr, (u8, Instant)> = HashMap::new();
    for op in ops {
        match op {
            Op::Learn { mac: m, port } => learn(&mut fdb, &mut model, mac(m), port, now),
            Op::LearnMany { first, count, port } => {
                for n in 0..count.min(512) {
                    let [b, c] = first.wrapping_add(n).to_be_bytes();
                    learn(&mut fdb, &mut model, mac([2, b, c]), port, now);
                }
            }
            Op::ForgetPort(port) => {
                fdb.forget_port(port);
                assert_eq!(fdb.count(port), 0);
                model.retain(|_, (p, _)| *p != port);
            }
            Op::Pass { seconds } => {
                now += Duration::from_secs(seconds.into());
                fdb.expire(now);
                model.retain(|_, (_, seen)| now.duration_since(*seen) < AGEING);
            }
        }
        assert!(fdb.len() <= MAX_STATIONS && fdb.len() <= model.len());
        let mut counts: HashMap<u8, usize> = HashMap::new();
        for (mac, port, seen) in fdb.iter() {
            assert!(mac.is_unicast());
            // What it knows is right; what it forgot had to make room.
            assert_eq!(model.get(&mac), Some(&(port, seen)));
            *counts.entry(port).or_default() += 1;
        }
        for (port, count) in counts {
            assert!(count <= MAX_PER_PORT);
            assert_eq!(fdb.count(port), count);
        }
    }
});

fn learn(
    fdb: &mut Fdb<u8>,
    model: &mut HashMap<MacAddr, (u8, Instant)>,
    mac: MacAddr,
    port: u8,
    now: Instant,
) {
    match fdb.learn(mac, port, now) {
        Learnt::NotLearnt if !mac.is_unicast() => {}
        // No room: where it was before is not where it is now.
        Learnt::NotLearnt => assert_ne!(fdb.find(mac, now), Some(port)),
        _ => {
            assert_eq!(fdb.find(mac, now), Some(port));
            model.insert(mac, (port, now));
        }
    }
}
