//! Over a wire that delays and loses because it was told to, the gateway avoids
//! congestion as other senders do; over a guest's own link there is none.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use crate::host::{Host, patterned, write};
use crate::loss::Transfer;
use crate::raw::parse;
use crate::world::{Fate, Options, World};

/// Window of the guest, in bytes: about 700 segments.
const WINDOW: usize = 1 << 20;

/// What arrives at the guest `later`, but every `nth` data segment.
fn wire(world: &World, later: Duration, nth: usize) {
    world.is_wire(true);
    let mut count = 0;
    world.judge_to_guest(move |frame| {
        let has_data = frame[12..14] != [0x08, 0x06]
            && parse(frame).is_some_and(|segment| !segment.payload.is_empty());
        count += usize::from(has_data);
        if has_data && count.is_multiple_of(nth) {
            Fate::Lose
        } else {
            Fate::Late(later)
        }
    });
}

/// Different data segments that leave for the guest before it can have answered,
/// of a host that has much to send.
fn first_flight(is_wire: bool) -> usize {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    wire(&world, Duration::from_millis(100), usize::MAX);
    world.is_wire(is_wire);
    let handle = world.connect_with(host.gateway(), WINDOW);
    let mut peer = None;
    world.until(Duration::from_secs(5), |world| {
        peer = peer.take().or_else(|| host.try_accept());
        let open = world.tcp(handle).may_send();
        peer.is_some() && open
    });
    let seen = Rc::new(RefCell::new(BTreeSet::new()));
    let noted = Rc::clone(&seen);
    world.judge_to_guest(move |frame| {
        if let Some(segment) = parse(frame).filter(|segment| !segment.payload.is_empty()) {
            noted.borrow_mut().insert(segment.seq);
        }
        Fate::Late(Duration::from_millis(100))
    });
    write(&mut peer.expect("just seen"), &patterned(2, 0, 60_000));
    world.advance(Duration::from_millis(90));
    seen.borrow().len()
}

#[test]
fn a_connection_over_a_wire_begins_with_ten_segments() {
    assert_eq!(first_flight(true), 10);
}

#[test]
fn a_connection_over_a_link_begins_with_all_there_is() {
    assert!(first_flight(false) > 40);
}

/// How long `bytes` take to the guest over a round trip of 80 ms.
fn download(bytes: usize, nth: usize) -> f64 {
    let host = Host::listen();
    let mut world = World::new(&Options::default());
    wire(&world, Duration::from_millis(80), nth);
    let mut transfer = Transfer::begin(&mut world, &host, WINDOW, 0, bytes);
    let began = world.now;
    transfer.run(&mut world, Duration::from_secs(600));
    let took = (world.now - began).as_secs_f64();
    world.is_wire(false);
    world.judge_nothing();
    transfer.finish(&mut world);
    took
}

#[test]
fn regular_losses_leave_the_window_that_cubic_has() {
    // RFC 9438 section 4.3: Reno's window with cubic's reduction, on average the
    // root of 1.5 / p: 12.2 segments of 1460 bytes each 80 ms, 18 s; less what
    // slow start carried before the first losses.
    let took = download(4_000_000, 100);
    assert!((12.0..20.0).contains(&took), "{took} s");
}

#[test]
fn slow_start_fills_a_window_in_a_few_round_trips() {
    // 10, 20, 40 ... 700 segments: seven round trips, and two windows more.
    let took = download(2_000_000, usize::MAX);
    assert!(took < 1.2, "{took} s");
}
