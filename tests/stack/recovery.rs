//! What a link towards the guest loses is sent again within round trips, not
//! after a timer.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use crate::host::Host;
use crate::loss::{Dice, Transfer};
use crate::raw::parse;
use crate::world::{Fate, Options, World};

/// The least time that lwIP's own timer takes.
const TIMER: Duration = Duration::from_millis(500);

/// Window of the guest, in bytes: about 180 segments.
const WINDOW: usize = 256 * 1024;

/// A link with a round trip time, which loses what `lose` says of the number of
/// each data segment towards the guest. Returns the count of data segments.
fn link(
    world: &World,
    round_trip: Duration,
    mut lose: impl FnMut(u64) -> bool + 'static,
) -> Rc<Cell<u64>> {
    let count = Rc::new(Cell::new(0));
    let counted = Rc::clone(&count);
    let there = if round_trip.is_zero() {
        Fate::Deliver
    } else {
        Fate::Late(round_trip)
    };
    world.judge_to_guest(move |frame| {
        if parse(frame).is_none_or(|segment| segment.payload.is_empty()) {
            return there;
        }
        counted.set(counted.get() + 1);
        if lose(counted.get()) {
            Fate::Lose
        } else {
            there
        }
    });
    count
}

/// How long `bytes` take to the guest, and how many segments.
fn download(
    bytes: usize,
    round_trip: Duration,
    lose: impl FnMut(u64) -> bool + 'static,
) -> (Duration, u64) {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    let mut transfer = Transfer::begin(&mut world, &host, WINDOW, 0, bytes);
    let count = link(&world, round_trip, lose);
    let began = world.now;
    transfer.run(&mut world, Duration::from_secs(600));
    let took = world.now - began;
    let segments = count.get();
    world.judge_nothing();
    transfer.finish(&mut world);
    (took, segments)
}

fn least_segments(bytes: usize) -> u64 {
    bytes.div_ceil(1460) as u64
}

#[test]
fn nothing_is_sent_twice_without_loss() {
    let bytes = 4 << 20;
    let (_, segments) = download(bytes, Duration::from_millis(1), |_| false);
    // Chunks end with a shorter segment each.
    let most = least_segments(bytes) + (bytes / 16_384) as u64 + 10;
    assert!(segments <= most, "{segments} segments, {most} at most");
}

fn burst(length: u64, every: u64) {
    let bytes: usize = 1 << 20;
    let round_trip = Duration::from_millis(10);
    let clean = bytes.div_ceil(WINDOW);
    let (took, segments) = download(bytes, round_trip, move |n| {
        n >= 100 && n < 100 + length * every && n.is_multiple_of(every)
    });
    let round_trips = took.as_secs_f64() / round_trip.as_secs_f64();
    assert!(took < TIMER / 2, "{length}: {took:?}");
    assert!(
        round_trips < (clean + 18) as f64,
        "{length}: {round_trips} round trips"
    );
    let most = least_segments(bytes) + (bytes / 5000) as u64 + 2 * length + 20;
    assert!(
        segments <= most,
        "{length}: {segments} segments, {most} at most"
    );
}

#[test]
fn a_burst_of_2_is_repaired_without_a_timer() {
    burst(2, 1);
}

#[test]
fn a_burst_of_8_is_repaired_without_a_timer() {
    burst(8, 1);
}

#[test]
fn a_burst_of_30_is_repaired_without_a_timer() {
    burst(30, 1);
}

#[test]
fn every_third_of_a_window_is_repaired_without_a_timer() {
    burst(10, 3);
}

/// The last segments of a transfer have none behind them that would tell.
fn tail(lost: u64) {
    let bytes = 100_000;
    let last = least_segments(bytes) + 1;
    let mut dropped = 0;
    let (took, _) = download(bytes, Duration::from_millis(1), move |n| {
        let lose = n > last - lost && dropped < lost;
        dropped += u64::from(lose);
        lose
    });
    assert!(took < Duration::from_millis(900), "{lost}: {took:?}");
}

#[test]
fn a_lost_last_segment_is_asked_for() {
    tail(2);
}

#[test]
fn a_lost_tail_is_asked_for() {
    tail(20);
}

fn random(per_mille: u64, round_trip_ms: u64, bytes: usize) {
    let mut dice = Dice(0x1234_5678);
    let round_trip = Duration::from_millis(round_trip_ms);
    let (took, segments) = download(bytes, round_trip, move |_| dice.roll(1000) < per_mille);
    let rate = bytes as f64 / took.as_secs_f64();
    // Mathis et al. 1997: what Reno reaches, and what the window lets it.
    let loss = per_mille as f64 / 1000.0;
    let theory = 1460.0 / round_trip.as_secs_f64() * 1.22 / loss.sqrt();
    let theory = theory.min(WINDOW as f64 / round_trip.as_secs_f64());
    eprintln!(
        "{per_mille} per mille, {round_trip_ms} ms: {:.0} kB/s, theory {:.0} kB/s, {segments} segments",
        rate / 1e3,
        theory / 1e3,
    );
    assert!(rate > theory / 2.0, "{rate:.0} B/s, theory {theory:.0} B/s");
}

#[test]
fn one_per_cent_at_1_ms() {
    random(10, 1, 8 << 20);
}

#[test]
fn one_per_cent_at_10_ms() {
    random(10, 10, 8 << 20);
}

#[test]
fn one_per_cent_at_50_ms() {
    random(10, 50, 8 << 20);
}

#[test]
fn five_per_cent_at_1_ms() {
    random(50, 1, 4 << 20);
}

#[test]
fn five_per_cent_at_10_ms() {
    random(50, 10, 4 << 20);
}

#[test]
fn five_per_cent_at_50_ms() {
    random(50, 50, 4 << 20);
}
