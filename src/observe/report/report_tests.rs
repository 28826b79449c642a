use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::observe::rates::{Bytes, Rates};
use crate::observe::tally::{Keep, Tally};
use crate::observe::testing::{Flow, flow};

fn figures(began: Instant) -> Figures {
    let mut rates = Rates::default();
    let look = |rates: &mut Rates, ms, from_guest, to_guest| {
        let bytes = Bytes {
            from_guest,
            to_guest,
        };
        rates.look(Duration::from_millis(ms), bytes);
    };
    look(&mut rates, 120, 300, 0);
    look(&mut rates, 450, 400, 90_000);
    Figures {
        began: (began, SystemTime::UNIX_EPOCH),
        ended: began + Duration::from_secs(1),
        link: Link::default(),
        rates,
        followed: [(1, followed())].into(),
        peak_buffers: 4096,
        dropped: [("no_neighbour".to_owned(), 3)].into(),
    }
}

/// What was seen of a flow before its end.
fn followed() -> Rates {
    let mut rates = Rates::with_room(MAX_FLOW_INTERVALS);
    for (ms, to_guest) in [(150, 100), (350, 600)] {
        let bytes = Bytes {
            from_guest: 50,
            to_guest,
        };
        rates.look(Duration::from_millis(ms), bytes);
    }
    rates
}

fn of(flows: &[Flow], began: Instant, arguments: &[&str]) -> Report {
    let mut tally = Tally::new(began, Keep::Flows);
    for flow in flows {
        tally.record(&flow.opened());
        tally.record(&flow.closed());
    }
    let command = Command {
        arguments: arguments.iter().map(ToString::to_string).collect(),
        end: CommandEnd::ExitStatus(0),
    };
    report(&tally, &figures(began), command)
}

pub(super) fn example() -> Report {
    let began = Instant::now();
    let flows = [
        flow(began, 1, "192.0.2.1:443")
            .named("example.com")
            .of(7, "curl"),
        flow(began, 2, "[2001:db8::1]:80").refused(),
    ];
    of(&flows, began, &["curl", "https://example.com/?a&b"])
}

pub(super) fn empty() -> Report {
    let began = Instant::now();
    let mut report = of(&[], began, &["true"]);
    report.throughput.to_guest.clear();
    report.throughput.from_guest.clear();
    report
}

/// Whoever wrote these texts means no good.
pub(super) fn hostile() -> Report {
    let began = Instant::now();
    let script = "<script>alert(1)</script>";
    let quote = "\"><img src=x onerror=alert(1)>";
    let flows = [
        flow(began, 1, "192.0.2.1:443").named(script).of(7, quote),
        flow(began, 2, "192.0.2.1:443")
            .named("a\u{202e}b")
            .of(8, "</title><svg onload=x>"),
        flow(began, 3, "192.0.2.1:80")
            .named("' onmouseover='x")
            .refused(),
    ];
    of(
        &flows,
        began,
        &["sh", "-c", script, quote, "</style>", "\u{1b}[2J"],
    )
}

fn schema(name: &str) -> jsonschema::Validator {
    let path = format!("{}/docs/schema/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("the schema is there");
    let schema = serde_json::from_str(&text).expect("the schema is JSON");
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .expect("the schema is one")
}

fn check(schema: &jsonschema::Validator, value: &serde_json::Value) {
    let errors: Vec<String> = schema
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?} in {value:#}");
}

#[test]
fn reports_are_what_their_schema_says() {
    let schema = schema("report.schema.json");
    let mut signalled = example();
    signalled.command.end = CommandEnd::Signal(9);
    for report in [example(), empty(), hostile(), signalled] {
        let value = serde_json::to_value(&report).expect("JSON");
        check(&schema, &value);
    }
    // And the schema notices what is wrong.
    let good = serde_json::to_value(example()).expect("JSON");
    for (pointer, wrong) in [
        ("/version", serde_json::json!(2)),
        ("/flows/0/verdict", serde_json::json!("perhaps")),
        ("/flows/0/start_seconds", serde_json::json!(-1)),
        ("/total/flows", serde_json::json!("2")),
        ("/started", serde_json::json!("yesterday")),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect(pointer) = wrong;
        assert!(!schema.is_valid(&bad), "{pointer}");
    }
    let mut more = good;
    more["flows"][0]["surprise"] = serde_json::json!(1);
    assert!(!schema.is_valid(&more));
}

#[test]
fn summaries_are_what_their_schema_says() {
    let schema = schema("summary.schema.json");
    let began = Instant::now();
    let mut tally = Tally::new(began, Keep::Sums);
    for n in 0..20 {
        tally.record(&flow(began, n, &format!("192.0.2.{n}:443")).closed());
    }
    let summary = summary(&tally, &figures(began));
    assert_eq!(summary.remotes.len(), SUMMARY_REMOTES);
    let others = summary.other_remotes.as_ref().expect("ten others");
    assert_eq!((others.flows, others.to_guest.bytes), (10, 10_000));
    check(&schema, &serde_json::to_value(&summary).expect("JSON"));
}

#[test]
fn a_report_says_what_happened() {
    let report = example();
    assert_eq!(report.overview.started, "1970-01-01T00:00:00.000Z");
    assert_eq!(report.overview.total.failed, 1);
    assert_eq!(report.flows.len(), 2);
    let flow = &report.flows[0];
    assert_eq!(flow.start_seconds, 0.1);
    assert_eq!(flow.end_seconds, 0.6);
    assert_eq!(flow.connect_seconds, Some(0.02));
    assert_eq!(flow.process.as_ref().expect("known").name, "curl");
    let activity = flow.activity.as_ref().expect("was followed");
    assert_eq!(activity.start_seconds, 0.1);
    // What came behind the last look belongs to the end.
    assert_eq!(activity.to_guest, [100, 0, 500, 0, 0, 400]);
    assert_eq!(activity.from_guest.iter().sum::<u64>(), 100);
    assert!(report.flows[1].activity.is_none());
    assert_eq!(report.throughput.to_guest.iter().sum::<u64>(), 90_000);
    assert_eq!(report.throughput.interval_seconds, 0.1);
    assert_eq!(report.remotes[0].name.as_deref(), Some("example.com"));
}

#[test]
fn the_order_is_always_the_same() {
    let text = |report: &Report| serde_json::to_string(&report.remotes).expect("JSON");
    let began = Instant::now();
    let flows: Vec<Flow> = (0..50)
        .map(|n| flow(began, n, &format!("192.0.2.{n}:1")))
        .collect();
    let backwards: Vec<Flow> = flows.iter().rev().cloned().collect();
    assert_eq!(
        text(&of(&flows, began, &[])),
        text(&of(&backwards, began, &[]))
    );
}
