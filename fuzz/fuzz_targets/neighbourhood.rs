//! ARP, neighbour discovery, router solicitations, DHCP and DHCPv6.
#![no_main]

mod common;

use std::time::{Duration, Instant};

use arbitrary::Arbitrary;
use gw::services::neighbourhood::{Neighbourhood, NeighbourhoodConfig, TransportChecksum};

#[derive(Debug, Arbitrary)]
struct Input {
    frame: Vec<u8>,
    mend: bool,
    vouched: bool,
    wait: u16,
}

libfuzzer_sys::fuzz_target!(|inputs: Vec<Input>| {
    let mut now = Instant::now();
    let mut neighbourhood = Neighbourhood::new(NeighbourhoodConfig::new(common::plan()), now);
    let mut out = Vec::new();
    for mut input in inputs {
        if input.mend {
            let _ = common::fix(&mut input.frame);
        }
        let sum =
            if input.vouched { TransportChecksum::Vouched } else { TransportChecksum::Verify };
        let before = out.len();
        neighbourhood.handle(now, &input.frame, sum, &mut out);
        assert!(out.len() <= before + 1, "more than one answer");
        now += Duration::from_secs(input.wait.into());
        neighbourhood.poll(now, &mut out);
    }
    assert!(neighbourhood.leases().count() <= 16);
    assert!(out.iter().all(|frame| (14..=1514).contains(&frame.len())));
});
