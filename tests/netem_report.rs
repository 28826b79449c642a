//! The report of `cargo bench --bench netem`: limits and verdicts, from made-up
//! outcomes, and the document in docs/benchmarks against the numbers beside it.
//! (A benchmark without a test harness cannot hold tests itself.)

#![expect(clippy::expect_used, reason = "tests")]

#[path = "../benches/netem/report/mod.rs"]
#[expect(dead_code, reason = "what the machine inside needs is not used here")]
mod report;

use report::impairment::{Direction, Impairment, Loss, Way};
use report::judge::{Check, checks};
use report::model::{Arrivals, Contender, Load, Outcome, Stream};
use report::results::{Cell, Group, Results, Row};
use report::{markdown, plot};

fn train(direction: Direction) -> Load {
    Load::Train {
        direction,
        count: 10_000,
        interval: 1000,
        payload: 200,
    }
}

fn row(group: Group, impairment: Impairment, load: Load, netem: Outcome, gw: Outcome) -> Row {
    let mut row = Row::new(Cell {
        group,
        title: "as set".to_owned(),
        way: Way::Up,
        impairment,
        load,
        seeds: vec![7],
    });
    row.netem.push(netem);
    row.gw.push(gw);
    row
}

/// A train that took `mean` milliseconds and lost so many.
fn arrivals(mean: f64, lost: u32) -> Outcome {
    Outcome::Train(Arrivals {
        sent: 10_000,
        arrived: 10_000 - lost,
        mean,
        quantiles: vec![mean; 101],
        fate: "1".to_owned(),
        ..Arrivals::default()
    })
}

fn results(rows: Vec<Row>) -> Results {
    Results {
        facts: vec![("gw".to_owned(), "gw 1.0".to_owned())],
        rows,
    }
}

fn only(checks: &[Check], what: &str) -> Check {
    let found = checks.iter().find(|check| check.what.contains(what));
    found.expect("a check of that name").clone()
}

#[test]
fn delays_are_less_what_there_is_anyway() {
    let up = train(Direction::Up);
    let none = Impairment::default();
    let delay = Impairment {
        delay: 20.0,
        ..none
    };
    let results = results(vec![
        row(
            Group::Baseline,
            none,
            up,
            arrivals(0.1, 0),
            arrivals(0.5, 0),
        ),
        row(
            Group::Delay,
            delay,
            up,
            arrivals(20.1, 0),
            arrivals(20.75, 0),
        ),
    ]);
    let mean = only(&checks(&results), "mean");
    assert!(mean.holds(Contender::Netem), "{mean:?}");
    assert!(!mean.holds(Contender::Gw), "{mean:?}");
    let document = markdown(&results);
    assert!(document.contains("! 20.250 | **outside**"), "{document}");
    assert!(document.contains("gw 0 of 2, netem 2 of 2"), "{document}");
}

#[test]
fn losses_are_held_against_the_binomial_interval() {
    let loss = Impairment {
        loss: Some(Loss::Random(1.0)),
        ..Impairment::default()
    };
    // 100 are expected, with a standard deviation of 9.95.
    let up = train(Direction::Up);
    let row = row(Group::Fate, loss, up, arrivals(0.1, 74), arrivals(0.1, 125));
    let lost = only(&checks(&results(vec![row])), "lost");
    assert!((74.3..74.4).contains(&lost.low), "{lost:?}");
    assert!((125.6..125.7).contains(&lost.high), "{lost:?}");
    assert!(lost.holds(Contender::Gw) && !lost.holds(Contender::Netem));
}

#[test]
fn goodput_is_held_against_netems_median() {
    let stream = |megabits: u64| {
        Outcome::Stream(Stream {
            bytes: megabits * 125_000,
            seconds: 1.0,
            resent: 0,
        })
    };
    let load = Load::Stream {
        direction: Direction::Down,
        seconds: 1,
    };
    let none = Impairment::default();
    let mut row = row(Group::Stream, none, load, stream(100), stream(92));
    row.netem.extend([stream(1), stream(200)]);
    let results = results(vec![row]);
    assert!(only(&checks(&results), "goodput").holds(Contender::Gw));
    let document = markdown(&results);
    assert!(document.contains("0.92x"), "{document}");
}

#[test]
fn what_could_not_be_measured_is_outside() {
    let delay = Impairment {
        delay: 20.0,
        ..Impairment::default()
    };
    let up = train(Direction::Up);
    let mut row = row(
        Group::Delay,
        delay,
        up,
        arrivals(20.1, 0),
        arrivals(20.1, 0),
    );
    row.gw.clear();
    row.failures.push("gw: it ended".to_owned());
    let document = markdown(&results(vec![row]));
    assert!(document.contains("**outside**"), "{document}");
    assert!(document.contains("failed: gw: it ended"), "{document}");
}

#[test]
fn the_document_says_what_was_measured() {
    let read = |name: &str| {
        let file = format!("{}/docs/benchmarks/{name}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&file).expect("the benchmark's files")
    };
    let results: Results = serde_json::from_str(&read("netem.json")).expect("results");
    let remedy = "cargo bench --bench netem -- --out docs/benchmarks";
    assert!(
        read("netem.md") == markdown(&results),
        "to be written: {remedy}"
    );
    assert!(
        read("netem.svg") == plot(&results),
        "to be written: {remedy}"
    );
}
