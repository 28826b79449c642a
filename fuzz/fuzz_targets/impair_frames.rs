//! Frames of a hostile guest, and to it, under rules of all kinds.
#![no_main]

use std::io::IoSlice;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gw::impair::{Direction, Impairment, NoNames, Rule};

const RULES: &[&str] = &[
    "port 53 pass",
    "to 10.0.0.0/8 loss=10% dup=50% seed=1",
    "corrupt=50% delay=1ms jitter=2ms dist=pareto seed=2",
    "rate=1mbit queue=64k order=keep",
    "name *.example.com loss=gemodel,p=10%,r=20% seed=3",
];

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((offload, frame)) = gw::tap::fuzz_vnet(bytes) else {
        return;
    };
    let start = Instant::now();
    let mut impairment = Impairment::new(Rc::new(NoNames));
    let rules: Vec<Rule> = RULES.iter().map(|rule| rule.parse().expect("a rule")).collect();
    impairment.set(rules, start).expect("are not many");
    for way in [Direction::Up, Direction::Down] {
        let (head, rest) = frame.split_at(frame.len() / 2);
        let pieces = [IoSlice::new(head), IoSlice::new(rest)];
        let _ = impairment.enter(way, start, &offload, &pieces);
        let late = start + Duration::from_secs(3600);
        while let Some(due) = impairment.pop(way, late) {
            assert!(due.frame.len() <= frame.len());
        }
    }
    assert_eq!(impairment.held(), 0);
});
