#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::cli::top::samples::{at_millis, flow, hello, look};

fn model() -> Model {
    Model::new(hello())
}

#[test]
fn two_looks_make_a_rate() {
    let mut model = model();
    let mut first = look(0, vec![flow(1, 1000, 50)]);
    first.statistics.to_guest.bytes = 10_000;
    model.take(first);
    assert_eq!((model.rows[0].down, model.rows[0].up), (None, None));
    assert_eq!(model.down.now(), None);
    let mut second = look(500, vec![flow(1, 3000, 50)]);
    second.statistics.to_guest.bytes = 15_000;
    model.take(second);
    assert_eq!(
        (model.rows[0].down, model.rows[0].up),
        (Some(4000), Some(0))
    );
    assert_eq!(model.rows[0].rate(), 4000);
    assert_eq!((model.down.now(), model.up.now()), (Some(10_000), Some(0)));
    assert_eq!(model.down.peak, 10_000);
}

#[test]
fn pages_have_times_of_their_own() {
    let mut model = model();
    let seen = |look: &mut Look, millis| look.flows[0].at = at_millis(millis);
    let mut first = look(0, vec![flow(1, 0, 0)]);
    seen(&mut first, 100);
    model.take(first);
    let mut second = look(1000, vec![flow(1, 1000, 0)]);
    seen(&mut second, 2100);
    model.take(second);
    assert_eq!(model.rows[0].down, Some(500));
}

#[test]
fn a_flow_that_began_since_has_all_of_its_bytes_in_this_time() {
    let mut model = model();
    let aged = |id, age| {
        let mut flow = flow(id, 2000, 0);
        flow.age_seconds = age;
        flow
    };
    model.take(look(0, vec![]));
    model.take(look(2000, vec![aged(1, 1), aged(2, 3), aged(3, 4)]));
    let rates: Vec<_> = model.rows.iter().map(|row| row.down).collect();
    // The third was not looked at before: nobody knows.
    assert_eq!(rates, [Some(1000), Some(1000), None]);
}

#[test]
fn an_id_that_is_given_again_is_another_flow() {
    let mut model = model();
    let mut old = flow(1, 5000, 0);
    old.age_seconds = 100;
    model.take(look(0, vec![old.clone()]));
    let mut other = old.clone();
    other.to_guest = 10;
    model.take(look(1000, vec![other.clone()]));
    assert_eq!(model.rows[0].down, None);
    other.guest.set_port(1);
    other.to_guest = 6000;
    model.take(look(2000, vec![other]));
    assert_eq!(model.rows[0].down, None);
}

#[test]
fn drops_are_told_by_reason() {
    let mut model = model();
    let with = |at, drops: &[(&str, u64)]| {
        let mut look = look(at, vec![]);
        let drops = drops.iter().map(|(why, n)| ((*why).to_owned(), *n));
        look.statistics.dropped = drops.collect();
        look
    };
    model.take(with(0, &[("malformed", 70), ("no_route", 3), ("never", 0)]));
    let told = |model: &Model| -> Vec<(String, u64, u64)> {
        let drops = model.drops.iter();
        drops.map(|d| (d.reason.clone(), d.total, d.rate)).collect()
    };
    let line = |reason: &str, total, rate| (reason.to_owned(), total, rate);
    assert_eq!(
        told(&model),
        [line("malformed", 70, 0), line("no route", 3, 0)]
    );
    // What goes on now comes first; less than one a second is no zero.
    model.take(with(
        4000,
        &[("malformed", 70), ("no_route", 43), ("rare", 1)],
    ));
    assert_eq!(
        told(&model),
        [
            line("no route", 43, 10),
            line("rare", 1, 1),
            line("malformed", 70, 0)
        ]
    );
}

#[test]
fn flows_beyond_those_looked_at_are_counted() {
    let mut model = model();
    let mut look = look(0, vec![flow(1, 0, 0)]);
    look.statistics.flows.tcp = 5000;
    look.statistics.flows.udp = 7;
    model.take(look);
    assert_eq!(model.not_looked_at(), 5006);
}

proptest! {
    /// Whatever a gateway says, in whatever order of time.
    #[test]
    fn nothing_that_is_told_breaks_it(
        looks in prop::collection::vec(
            (any::<u32>(), any::<u64>(), prop::collection::vec((0..4_u64, any::<u64>(), any::<u64>()), 0..6)),
            0..600,
        )
    ) {
        let mut model = model();
        for (at, bytes, flows) in looks {
            let flows: Vec<Flow> = flows.into_iter().map(|(id, to, from)| flow(id, to, from)).collect();
            let count = flows.len();
            let mut look = look(at.into(), flows);
            look.statistics.to_guest.bytes = bytes;
            look.statistics.dropped.insert("x".to_owned(), bytes);
            model.take(look);
            prop_assert_eq!(model.rows.len(), count);
            prop_assert!(model.before.len() <= count);
            prop_assert!(model.down.newest_first().count() <= MAX_HISTORY);
            prop_assert!(model.down.newest_first().all(|rate| rate <= model.down.peak));
        }
    }

    #[test]
    fn rates_are_bytes_over_time(bytes in 0..1_u64 << 40, then in 0..1_u64 << 40, millis in 1..100_000_u64) {
        let rate = per_second(then + bytes, then, at_millis(millis));
        let exact = u128::from(bytes) * 1000 / u128::from(millis);
        prop_assert_eq!(u128::from(rate), exact);
        let back = per_second(then, then + bytes, at_millis(millis));
        prop_assert_eq!(back, 0);
    }
}

#[test]
fn the_history_is_bounded() {
    let mut model = model();
    for n in 0..2000 {
        let mut look = look(n * 1000, vec![]);
        look.statistics.from_guest.bytes = n * n;
        model.take(look);
    }
    assert_eq!(model.up.newest_first().count(), MAX_HISTORY);
    assert_eq!(model.up.newest_first().next().unwrap(), 2 * 1999 - 1);
    assert_eq!(model.up.peak, 2 * 1999 - 1);
}
