//! What becomes of packets, on virtual time.

use std::time::Duration;

use etherparse::PacketBuilder;
use proptest::prelude::*;

use super::super::{MAX_HELD_BYTES, NoNames};
use super::*;
use crate::net::{Gso, GsoKind};

const UP: Direction = Direction::Up;
const DOWN: Direction = Direction::Down;

/// A datagram from the guest to a remote; `len` bytes of frame at least 60.
fn frame(remote: [u8; 4], port: u16, number: u32, len: usize) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 2, 100], remote, 64)
        .udp(5000, port);
    let mut payload = vec![0; len - 42];
    payload[..4].copy_from_slice(&number.to_be_bytes());
    let mut frame = Vec::new();
    builder.write(&mut frame, &payload).expect("writes");
    assert_eq!(frame.len(), len);
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes([frame[42], frame[43], frame[44], frame[45]])
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    let rule = |text: &&str| {
        text.parse()
            .unwrap_or_else(|error| panic!("'{text}': {error}"))
    };
    texts.iter().map(rule).collect()
}

/// A link with rules, and a clock.
struct Bench {
    impairment: Impairment,
    start: Instant,
    /// Since the start.
    at: Duration,
}

impl Bench {
    fn new(texts: &[&str]) -> Self {
        let start = Instant::now();
        let mut impairment = Impairment::new(Rc::new(NoNames));
        impairment.set(rules(texts), start).expect("are not many");
        Self {
            impairment,
            start,
            at: Duration::ZERO,
        }
    }

    fn now(&self) -> Instant {
        self.start + self.at
    }

    fn offer(&mut self, way: Direction, frame: &[u8]) -> Entered {
        let now = self.now();
        let pieces = [IoSlice::new(frame)];
        self.impairment
            .enter(way, now, &Offload::default(), &pieces)
    }

    /// Sends numbered frames of `len` bytes, one each `gap`.
    fn train(&mut self, way: Direction, count: u32, gap: Duration, len: usize) {
        for n in 0..count {
            let entered = self.offer(way, &frame([192, 0, 2, 1], 7, n, len));
            assert_eq!(entered, Entered::Taken);
            self.at += gap;
        }
    }

    /// Everything that comes through, with when: time goes on as it must.
    fn arrivals(&mut self, way: Direction) -> Vec<(Duration, Due)> {
        let mut arrivals = Vec::new();
        while let Some(due) = self.impairment.next_due() {
            let mut any = false;
            while let Some(through) = self.impairment.pop(way, due) {
                arrivals.push((due - self.start, through));
                any = true;
            }
            if !any {
                // It went on to another rule, or the other way.
                while self.impairment.pop(opposite(way), due).is_some() {}
            }
        }
        arrivals
    }

    fn numbers(&mut self, way: Direction) -> Vec<u32> {
        let arrivals = self.arrivals(way);
        arrivals.iter().map(|(_, due)| number(&due.frame)).collect()
    }

    fn counts(&self, place: usize) -> (RuleCounts, RuleCounts) {
        let info = self.impairment.list(self.now()).nth(place).expect("a rule");
        (info.up, info.down)
    }
}

const fn opposite(way: Direction) -> Direction {
    match way {
        Direction::Up => Direction::Down,
        Direction::Down => Direction::Up,
    }
}

/// True when `hits` of `of` is what chance makes of `share` in all but one of
/// 100,000 cases: 4.4 standard deviations.
fn likely(hits: u64, of: u32, share: f64) -> bool {
    let expected = f64::from(of) * share;
    let deviation = (expected * (1.0 - share)).sqrt();
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    let hits = hits as f64;
    (hits - expected).abs() <= 4.4 * deviation
}

const MS: Duration = Duration::from_millis(1);
const US: Duration = Duration::from_micros(1);

#[test]
fn a_delay_is_exact_to_the_nanosecond() {
    let mut bench = Bench::new(&["delay=80.0001ms"]);
    bench.train(UP, 100, 10 * MS + Duration::from_nanos(1), 100);
    for (n, (at, due)) in (0..).zip(bench.arrivals(UP)) {
        let sent = (10 * MS + Duration::from_nanos(1)) * n;
        assert_eq!(at - sent, Duration::from_nanos(80_000_100));
        assert_eq!(number(&due.frame), n);
    }
}

#[test]
fn a_train_keeps_its_gaps_and_its_order() {
    // The original delivered all of them at the first one's deadline.
    let mut bench = Bench::new(&["delay=100ms"]);
    bench.train(DOWN, 12, 10 * MS, 100);
    let arrivals = bench.arrivals(DOWN);
    let at: Vec<Duration> = arrivals.iter().map(|(at, _)| *at).collect();
    let expected: Vec<Duration> = (0..12).map(|n| 100 * MS + 10 * MS * n).collect();
    assert_eq!(at, expected);
}

#[test]
fn nothing_comes_before_it_is_due() {
    let mut bench = Bench::new(&["delay=5ms"]);
    bench.train(UP, 1, MS, 100);
    let due = bench.impairment.next_due().expect("one is under way");
    let before = due - Duration::from_nanos(1);
    assert!(bench.impairment.pop(UP, before).is_none());
    assert!(bench.impairment.pop(DOWN, due).is_none());
    assert!(bench.impairment.pop(UP, due).is_some());
    assert_eq!(bench.impairment.held(), 0);
}

#[test]
fn shares_are_what_chance_makes_of_them() {
    const COUNT: u32 = 50_000;
    for percent in [0.1, 1.0, 10.0, 50.0] {
        let rule = format!(
            "delay=1ms loss={percent}% dup={percent}% reorder={percent}% corrupt={percent}% seed=7"
        );
        let mut bench = Bench::new(&[&rule]);
        bench.train(UP, COUNT, US, 100);
        let counts = bench.counts(0).0;
        let share = percent / 100.0;
        assert_eq!(counts.packets, u64::from(COUNT));
        assert!(likely(counts.duplicated, COUNT, share), "{counts:?}");
        let copies = u32::try_from(counts.duplicated).expect("is small");
        let offered = COUNT + copies;
        assert!(likely(counts.lost, offered, share), "{rule} {counts:?}");
        let left = offered - u32::try_from(counts.lost).expect("is small");
        assert!(likely(counts.reordered, left, share), "{rule} {counts:?}");
        assert!(likely(counts.corrupted, left, share), "{rule} {counts:?}");
        assert_eq!(counts.delayed + counts.reordered, u64::from(left));
        assert_eq!(
            bench.arrivals(UP).len(),
            usize::try_from(left).expect("fits")
        );
    }
}

#[test]
fn all_and_none_are_exact() {
    let mut bench = Bench::new(&["loss=100%", "dup=100%"]);
    bench.train(UP, 1000, US, 100);
    assert!(bench.arrivals(UP).is_empty());
    assert_eq!(bench.impairment.totals().lost, 1000);
    let mut bench = Bench::new(&["loss=0% dup=100% corrupt=0%"]);
    bench.train(UP, 1000, US, 100);
    let twice: Vec<u32> = (0..1000).flat_map(|n| [n, n]).collect();
    assert_eq!(bench.numbers(UP), twice);
}

#[test]
fn a_dead_link_lets_no_copy_through() {
    let mut bench = Bench::new(&["dead dup=100%"]);
    bench.train(UP, 1000, US, 100);
    assert!(bench.arrivals(UP).is_empty());
    assert_eq!(bench.impairment.held(), 0);
}

#[test]
fn bursts_lose_what_their_model_says() {
    // Stationary share p/(p+r)·(1-h) + r/(p+r)·(1-k); length of bursts 1/r.
    for (rule, p, r, bad, good) in [
        ("loss=gemodel,p=1%,r=20% seed=3", 0.01, 0.2, 1.0, 0.0),
        (
            "loss=gemodel,p=5%,r=30%,h=20%,k=99% seed=4",
            0.05,
            0.3,
            0.8,
            0.01,
        ),
    ] {
        const COUNT: u32 = 100_000;
        let mut bench = Bench::new(&[rule]);
        let mut lost = Vec::new();
        for n in 0..COUNT {
            let before = bench.impairment.totals().lost;
            bench.offer(UP, &frame([192, 0, 2, 1], 7, n, 64));
            let now = bench.now();
            while bench.impairment.pop(UP, now).is_some() {}
            lost.push(bench.impairment.totals().lost > before);
        }
        let stationary = p / (p + r) * bad + r / (p + r) * good;
        let hits: u32 = lost.iter().map(|lost| u32::from(*lost)).sum();
        let share = f64::from(hits) / f64::from(COUNT);
        // Neighbours are alike: the deviation is that of fewer packets.
        let alike = (2.0 - p - r) / (p + r);
        let deviation = (stationary * (1.0 - stationary) * alike / f64::from(COUNT)).sqrt();
        assert!(
            (share - stationary).abs() < 4.4 * deviation,
            "{rule}: {share}, {stationary}"
        );
        if (bad, good) == (1.0, 0.0) {
            let bursts = lost.windows(2).filter(|w| !w[0] && w[1]).count();
            #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
            let length = f64::from(hits) / bursts as f64;
            assert!((length - 1.0 / r).abs() < 0.3, "{length}");
        }
    }
}

#[test]
fn jitter_has_its_distribution() {
    const COUNT: u32 = 20_000;
    // Mean and standard deviation of min(4, (u^(-1/3) - 1.5) / 0.75), u even from 0
    // to 1; the table of `tc netem` has -0.0335 and 0.8197.
    const PARETO: (f64, f64) = (-0.0329, 0.8209);
    // Mean and standard deviation in milliseconds, least and greatest.
    for (name, mean, deviation, least, most) in [
        ("uniform", 100.0, 10.0 / 3_f64.sqrt(), 90.0, 110.0),
        ("normal", 100.0, 10.0, 60.0, 140.0),
        (
            "pareto",
            100.0 + 10.0 * PARETO.0,
            10.0 * PARETO.1,
            93.3,
            140.0,
        ),
    ] {
        let rule = format!("delay=100ms jitter=10ms dist={name} seed=5");
        let mut bench = Bench::new(&[&rule]);
        bench.train(UP, COUNT, Duration::ZERO, 64);
        let delays: Vec<f64> = bench
            .arrivals(UP)
            .iter()
            .map(|(at, _)| at.as_secs_f64() * 1e3)
            .collect();
        let n = f64::from(COUNT);
        let got = delays.iter().sum::<f64>() / n;
        let spread = (delays.iter().map(|d| (d - got).powi(2)).sum::<f64>() / n).sqrt();
        assert!((got - mean).abs() < 0.3, "{name}: mean {got}");
        assert!(
            (spread - deviation).abs() < 0.4,
            "{name}: deviation {spread}"
        );
        let bounds = (delays[0], delays[delays.len() - 1]);
        assert!(bounds.0 >= least && bounds.1 <= most, "{name}: {bounds:?}");
    }
}

#[test]
fn jitter_below_nothing_is_no_delay() {
    let mut bench = Bench::new(&["delay=1ms jitter=50ms seed=1"]);
    bench.train(UP, 1000, Duration::ZERO, 64);
    let arrivals = bench.arrivals(UP);
    assert_eq!(arrivals.len(), 1000);
    assert_eq!(arrivals[0].0, Duration::ZERO);
}

#[test]
fn packets_overtake_unless_the_order_is_kept() {
    let in_order = |rule: &str| {
        let mut bench = Bench::new(&[rule]);
        bench.train(UP, 1000, MS, 64);
        bench.numbers(UP).is_sorted()
    };
    assert!(!in_order("delay=50ms jitter=20ms seed=1"));
    assert!(!in_order("delay=50ms reorder=10% seed=1"));
    assert!(in_order("delay=50ms jitter=20ms order=keep seed=1"));
    for preset in ["3g", "4g", "dsl", "satellite", "flaky-wifi"] {
        assert!(in_order(&format!("{preset} seed=1")), "{preset}");
    }
}

#[test]
fn a_rate_is_exact_to_the_byte() {
    // 1 Mbit/s; a queue that takes all of them. Odd sizes, so that nothing comes
    // out even.
    let mut bench = Bench::new(&["rate=1mbit queue=10M"]);
    let mut bits = 0;
    let mut ends = Vec::new();
    for n in 0..5000 {
        let len = 64 + usize::try_from(n * 7919 % 1450).expect("fits");
        bits += len * 8;
        ends.push(bits);
        bench.offer(UP, &frame([192, 0, 2, 1], 7, n, len));
    }
    for ((at, _), bits) in bench.arrivals(UP).iter().zip(ends) {
        assert_eq!(at.as_nanos(), bits as u128 * 1000);
    }
    // 3 bits in 10 nanoseconds come out even after all of them only.
    let mut bench = Bench::new(&["rate=300mbit queue=10M"]);
    bench.train(UP, 3000, Duration::ZERO, 101);
    let arrivals = bench.arrivals(UP);
    let last = arrivals.last().expect("3000 came").0;
    assert_eq!(last.as_nanos(), 3000 * 101 * 8 * 10 / 3);
}

#[test]
fn a_rate_comes_before_the_delay() {
    let mut bench = Bench::new(&["rate=8mbit delay=10ms queue=1M"]);
    bench.train(UP, 10, Duration::ZERO, 1000);
    let at: Vec<Duration> = bench.arrivals(UP).iter().map(|(at, _)| *at).collect();
    let expected: Vec<Duration> = (1..=10).map(|n| MS * n + 10 * MS).collect();
    assert_eq!(at, expected);
}

#[test]
fn a_queue_drops_what_comes_when_it_is_full() {
    let mut bench = Bench::new(&["rate=8mbit queue=5000b"]);
    bench.train(UP, 10, Duration::ZERO, 1000);
    // The one that is being sent counts for what is left of it: all of it here.
    assert_eq!(bench.counts(0).0.queue_dropped, 5);
    bench.at += 2 * MS;
    bench.train(UP, 3, Duration::ZERO, 1000);
    assert_eq!(bench.counts(0).0.queue_dropped, 6);
    assert_eq!(bench.impairment.totals().queue_dropped, 6);
    assert_eq!(bench.numbers(UP), [0, 1, 2, 3, 4, 0, 1]);
    // A wire that is free takes what is longer than its queue.
    let mut bench = Bench::new(&["rate=8mbit queue=100b"]);
    bench.train(UP, 3, MS, 1000);
    assert_eq!(bench.arrivals(UP).len(), 3);
}

#[test]
fn memory_is_bounded_without_a_rate() {
    let mut bench = Bench::new(&["delay=10s"]);
    let big = frame([192, 0, 2, 1], 7, 0, 1500);
    let fits = MAX_HELD_BYTES / 1500;
    for _ in 0..fits + 1000 {
        bench.offer(UP, &big);
        bench.offer(DOWN, &big);
    }
    assert!(bench.impairment.held() <= MAX_HELD_BYTES);
    assert!(bench.impairment.totals().queue_dropped > 1000);
    bench.arrivals(UP);
    assert_eq!(bench.impairment.held(), 0);
}

#[test]
fn the_same_seed_gives_the_same_fates() {
    let run = |rule: &str, looks: u32| {
        let mut bench = Bench::new(&[rule]);
        let mut arrivals = Vec::new();
        for n in 0..2000 {
            bench.offer(UP, &frame([192, 0, 2, 1], 7, n, 100));
            bench.at += MS;
            // Whoever looks late sees the same.
            let now = bench.now();
            while n % looks == 0
                && let Some(due) = bench.impairment.pop(UP, now)
            {
                arrivals.push(due.frame);
            }
        }
        let rest = bench.arrivals(UP).into_iter().map(|(_, due)| due.frame);
        arrivals.extend(rest);
        arrivals
    };
    let rule = "delay=20ms jitter=10ms loss=5% dup=3% reorder=2% corrupt=4%";
    // Not by assert_eq: thousands of bytes say nothing.
    let first = run(&format!("{rule} seed=7"), 1);
    assert!(first == run(&format!("{rule} seed=7"), 1));
    assert!(first == run(&format!("{rule} seed=7"), 13));
    assert!(first != run(&format!("{rule} seed=8"), 1));
}

#[test]
fn a_known_seed_has_known_fates() {
    // The generator must not change with a version: these are from the first one.
    let mut bench = Bench::new(&["loss=30% seed=7"]);
    bench.train(UP, 30, MS, 64);
    bench.train(DOWN, 30, MS, 64);
    let up = bench.numbers(UP);
    let mut bench = Bench::new(&["loss=30% seed=7"]);
    bench.train(DOWN, 30, MS, 64);
    let down = bench.numbers(DOWN);
    assert_eq!(up, KNOWN_UP);
    assert_eq!(down, KNOWN_DOWN);
}

const KNOWN_UP: &[u32] = &[
    0, 2, 5, 7, 8, 9, 10, 11, 13, 15, 16, 17, 18, 19, 20, 21, 22, 24, 25, 26, 28, 29,
];
const KNOWN_DOWN: &[u32] = &[
    0, 1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 19, 20, 21, 22, 23, 24, 26, 28,
];

#[test]
fn one_word_more_does_not_change_the_fates_of_the_others() {
    let lost = |rule: &str| {
        let mut bench = Bench::new(&[rule]);
        bench.train(UP, 500, 10 * MS, 100);
        let arrivals = bench.arrivals(UP).into_iter();
        // One each ten milliseconds, and none takes as long.
        let sent: Vec<_> = arrivals.map(|(at, _)| at.as_millis() / 10).collect();
        sent
    };
    let bare = lost("loss=10% seed=7");
    assert_eq!(bare, lost("loss=10% corrupt=50% seed=7"));
    assert_eq!(
        bare,
        lost("loss=10% delay=5ms jitter=1us order=keep seed=7")
    );
    assert_eq!(bare, lost("loss=10% rate=100mbit seed=7"));
    let mut twice = lost("loss=10% dup=100% seed=7");
    twice.dedup();
    assert!(bare.iter().all(|n| twice.contains(n)));
}

#[test]
fn corruption_flips_one_bit_behind_the_ethernet_header() {
    let mut bench = Bench::new(&["corrupt=100% seed=7"]);
    let mut places = std::collections::HashSet::new();
    for n in 0..2000 {
        let sent = frame([192, 0, 2, 1], 7, n, 64);
        bench.offer(UP, &sent);
        let now = bench.now();
        let due = bench.impairment.pop(UP, now).expect("comes at once");
        assert_eq!(due.intact, Intact::Corrupted);
        assert_eq!(due.offload(), Offload::default());
        let flipped: Vec<(usize, u8)> = (0..)
            .zip(sent.iter().zip(&due.frame))
            .filter(|(_, (a, b))| a != b)
            .map(|(at, (a, b))| (at, a ^ b))
            .collect();
        assert_eq!(flipped.len(), 1);
        assert!(flipped[0].0 >= ETHERNET && flipped[0].1.count_ones() == 1);
        places.insert(flipped[0]);
    }
    // 400 bits, and each was chosen at some time.
    assert!(places.len() > 390, "{}", places.len());
}

#[test]
fn rules_apply_one_behind_the_other() {
    let mut bench = Bench::new(&["delay=10ms", "to 192.0.2.0/24 delay=5ms", "down delay=1s"]);
    bench.train(UP, 1, MS, 64);
    assert_eq!(bench.arrivals(UP)[0].0, 15 * MS);
    assert_eq!(bench.counts(2).0.packets, 0);
    // A late look does not add up: the second rule reckons from when it was due.
    let mut bench = Bench::new(&["delay=10ms", "delay=5ms"]);
    bench.train(UP, 1, MS, 64);
    let start = bench.start;
    assert!(bench.impairment.pop(UP, start + 14 * MS).is_none());
    assert_eq!(bench.impairment.next_due(), Some(start + 15 * MS));
}

#[test]
fn pass_spares_what_matches_from_the_rules_behind_it() {
    let mut bench = Bench::new(&["delay=10ms", "port 22 pass", "loss=100%"]);
    bench.offer(UP, &frame([192, 0, 2, 1], 22, 1, 64));
    bench.offer(UP, &frame([192, 0, 2, 1], 23, 2, 64));
    assert_eq!(bench.numbers(UP), [1]);
    let mut bench = Bench::new(&["port 22 pass", "loss=100%"]);
    let ssh = frame([192, 0, 2, 1], 22, 1, 64);
    assert_eq!(bench.offer(UP, &ssh), Entered::Past);
}

#[test]
fn what_no_rule_is_for_goes_past() {
    let other = frame([198, 51, 100, 1], 7, 0, 64);
    let all = frame([192, 0, 2, 1], 7, 0, 64);
    for rule in [
        "to 192.0.2.0/24 loss=100%",
        "port 8 loss=100%",
        "proto tcp loss=100%",
        "proto icmp loss=100%",
        "name example.com loss=100%",
        "down loss=100%",
        "at 1s loss=100%",
        "refuse",
    ] {
        let mut bench = Bench::new(&[rule]);
        assert_eq!(bench.offer(UP, &other), Entered::Past, "{rule}");
    }
    let mut bench = Bench::new(&["to 192.0.2.0/24 port 5-9 proto udp loss=100%"]);
    assert_eq!(bench.offer(UP, &all), Entered::Taken);
    // To the guest the remote is the source.
    let mut bench = Bench::new(&["to 10.0.2.100 port 5000 loss=100%"]);
    assert_eq!(bench.offer(DOWN, &all), Entered::Taken);
}

#[test]
fn a_schedule_counts_from_the_start() {
    let mut bench = Bench::new(&["at 10ms for 3ms loss=100%"]);
    bench.at = 5 * MS;
    let now = bench.now();
    bench.impairment.start(now);
    bench.at = Duration::ZERO;
    let mut through = Vec::new();
    for n in 0..30 {
        let entered = bench.offer(UP, &frame([192, 0, 2, 1], 7, n, 64));
        if entered == Entered::Past {
            through.push(n);
        }
        bench.at += MS;
    }
    let expected: Vec<u32> = (0..15).chain(18..30).collect();
    assert_eq!(through, expected);
}

#[test]
fn super_frames_are_cut_before_anything_is_drawn() {
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
        .ipv4([10, 0, 2, 100], [192, 0, 2, 1], 64)
        .tcp(5000, 80, 1000, 65535);
    let mut big = Vec::new();
    builder.write(&mut big, &[7; 14480]).expect("writes");
    let offload = Offload {
        checksum: Checksum::Partial {
            start: 34,
            offset: 16,
        },
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size: 1448,
            header_len: 54,
        }),
    };
    let mut bench = Bench::new(&["loss=50% seed=2"]);
    let now = bench.now();
    // In pieces, as the translation core has it.
    let (headers, payload) = big.split_at(54);
    let pieces = [IoSlice::new(headers), IoSlice::new(payload)];
    let entered = bench.impairment.enter(DOWN, now, &offload, &pieces);
    assert_eq!(entered, Entered::Taken);
    let counts = bench.counts(0).1;
    assert_eq!((counts.packets, counts.bytes), (10, 10 * 1502));
    assert!(counts.lost > 0 && counts.lost < 10);
    for (_, due) in bench.arrivals(DOWN) {
        assert_eq!(due.frame.len(), 1502);
        assert_eq!(due.offload().checksum, Checksum::Valid);
    }
    // One that no rule is for stays whole.
    let mut bench = Bench::new(&["port 81 loss=50%"]);
    let entered = bench.impairment.enter(DOWN, now, &offload, &pieces);
    assert_eq!(entered, Entered::Past);
}

#[test]
fn what_cannot_be_cut_goes_past() {
    let offload = Offload {
        checksum: Checksum::Complete,
        gso: Some(Gso {
            kind: GsoKind::Tcp6,
            size: 1,
            header_len: 1,
        }),
    };
    let mut bench = Bench::new(&["loss=100%"]);
    let (now, frame) = (bench.now(), frame([192, 0, 2, 1], 7, 0, 64));
    let pieces = [IoSlice::new(&frame)];
    let entered = bench.impairment.enter(UP, now, &offload, &pieces);
    assert_eq!(entered, Entered::Past);
}

#[test]
fn packets_under_way_keep_their_times_when_rules_change() {
    let mut bench = Bench::new(&["delay=10ms", "delay=5ms", "delay=3ms"]);
    bench.train(UP, 1, Duration::ZERO, 64);
    let second = bench
        .impairment
        .list(bench.now())
        .nth(1)
        .expect("is there")
        .id;
    // A rule that is gone is not met, one that came later neither.
    assert!(bench.impairment.remove(second));
    assert!(!bench.impairment.remove(second));
    let (added, now) = (rules(&["delay=1s"]).remove(0), bench.now());
    let id = bench.impairment.add(added, now).expect("is one");
    assert!(id > second);
    assert_eq!(bench.arrivals(UP)[0].0, 13 * MS);
    let mut bench = Bench::new(&["delay=10ms"]);
    bench.train(UP, 1, Duration::ZERO, 64);
    let now = bench.now();
    bench.impairment.set(rules(&["dead"]), now).expect("is one");
    assert_eq!(bench.arrivals(UP)[0].0, 10 * MS);
}

#[test]
fn rules_are_counted_and_replaced_at_once_or_not_at_all() {
    let mut bench = Bench::new(&["delay=1ms"]);
    let now = bench.now();
    let many = rules(&vec!["pass"; MAX_RULES + 1]);
    assert_eq!(bench.impairment.set(many, now), Err(RulesError::TooMany));
    assert_eq!(bench.impairment.list(now).count(), 1);
    let just = rules(&vec!["pass"; MAX_RULES]);
    assert_eq!(bench.impairment.set(just, now), Ok(()));
    let one = rules(&["pass"]).remove(0);
    let refused = bench.impairment.add(one, now);
    assert_eq!(refused, Err(RulesError::TooMany));
}

proptest! {
    /// Nothing is lost or made out of nothing, whatever the rules.
    #[test]
    fn packets_add_up(
        words in proptest::collection::vec(proptest::sample::select(vec![
            "loss=20%", "delay=3ms", "delay=2ms jitter=5ms", "dup=30%", "rate=1mbit queue=3k",
            "delay=1ms reorder=50%", "corrupt=40%", "rate=500kbit delay=1ms order=keep",
            "loss=gemodel,p=10%,r=30%", "at 3ms for 4ms loss=50%", "port 7 pass", "3g",
        ]), 1..6),
        seed: u32,
        count in 1..200_u32,
    ) {
        let texts: Vec<String> = words
            .iter()
            .map(|word| if *word == "port 7 pass" { (*word).to_owned() } else { format!("{word} seed={seed}") })
            .collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let mut bench = Bench::new(&texts);
        let mut past = 0;
        for n in 0..count {
            let entered = bench.offer(UP, &frame([192, 0, 2, 1], 7, n, 100));
            past += u64::from(entered == Entered::Past);
            bench.at += 100 * US;
        }
        let arrived = bench.arrivals(UP).len() as u64;
        let copies: u64 = bench.impairment.list(bench.now()).map(|r| r.up.duplicated).sum();
        let totals = bench.impairment.totals();
        prop_assert_eq!(
            past + arrived + totals.lost + totals.queue_dropped,
            u64::from(count) + copies
        );
        prop_assert_eq!(bench.impairment.held(), 0);
    }
}
