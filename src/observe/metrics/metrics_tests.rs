use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::observe::record::Record;
use crate::observe::report::Frames;
use crate::observe::testing::flow;

fn snapshot() -> Snapshot {
    Snapshot {
        began: SystemTime::UNIX_EPOCH + Duration::from_millis(1500),
        flows: [("tcp", 3), ("udp", 2)].into(),
        buffers: (4096, 1 << 28),
        link: Link {
            from_guest: Frames {
                frames: 7,
                bytes: 700,
            },
            to_guest: Frames {
                frames: 8,
                bytes: 800,
            },
        },
        dropped: [("no_neighbour".to_owned(), 0), ("checksum".to_owned(), 4)].into(),
        ports: vec![Port {
            id: 1,
            name: "qemu:/a\"b\\c\nd".to_owned(),
            received: 1,
            sent: 2,
            not_sent: 3,
            malformed: 4,
        }],
        queues: [("dns", 1)].into(),
        held: 77,
        captures: vec![Capture {
            id: 3,
            packets: 5,
            lost: 6,
        }],
    }
}

fn served(counts: &FlowCounts) -> String {
    text(&snapshot(), counts).expect("encodes")
}

#[test]
fn figures_are_served_by_name() {
    let counts = Arc::new(FlowCounts::default());
    let mut sink = counts.sink();
    let began = Instant::now();
    for (number, millis) in [(1, 1), (2, 3), (3, 60_000)] {
        let mut flow = flow(began, number, "192.0.2.1:443");
        flow.closed.connect_time = Some(Duration::from_millis(millis));
        flow.closed.to_guest.retransmits = 2;
        sink.record(&flow.opened());
        sink.record(&flow.closed());
    }
    sink.record(&flow(began, 4, "192.0.2.1:443").refused().closed());
    sink.record(&Record::Lost {
        events: 9,
        at: SystemTime::UNIX_EPOCH,
    });
    let text = served(&counts);
    for line in [
        "gw_flows{protocol=\"tcp\"} 3",
        "gw_dropped_packets_total{reason=\"no_neighbour\"} 0",
        "gw_dropped_packets_total{reason=\"checksum\"} 4",
        "gw_link_bytes_total{direction=\"to_guest\"} 800",
        "gw_port_frames_total{port=\"1\",link=\"qemu:/a\\\"b\\\\c\\nd\",direction=\"to_guest\"} 2",
        "gw_impair_held_bytes 77",
        "gw_capture_lost_packets_total{capture=\"3\"} 6",
        "gw_flows_opened_total{protocol=\"tcp\"} 3",
        "gw_flow_verdicts_total{verdict=\"connected\"} 3",
        "gw_flow_verdicts_total{verdict=\"refused\"} 1",
        "gw_flows_ended_total{how=\"turned_away\"} 1",
        "gw_retransmitted_packets_total 6",
        "gw_connect_seconds_bucket{le=\"0.001\"} 1",
        "gw_connect_seconds_bucket{le=\"0.005\"} 2",
        "gw_connect_seconds_bucket{le=\"10\"} 2",
        "gw_connect_seconds_bucket{le=\"+Inf\"} 3",
        "gw_connect_seconds_sum 60.004",
        "gw_connect_seconds_count 3",
        "gw_lost_events_total 9",
        "process_start_time_seconds 1.5",
    ] {
        assert!(text.lines().any(|there| there == line), "{line} in {text}");
    }
}

#[test]
fn every_family_says_what_it_is() {
    let text = served(&FlowCounts::default());
    for family in CATALOGUE {
        let help = format!("# HELP {} {}\n", family.name, family.help);
        assert!(text.contains(&help), "{help} in {text}");
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let kind = format!("# TYPE {} {kind}\n", family.name);
        assert!(text.contains(&kind), "{kind} in {text}");
        assert_eq!(
            family.kind == Kind::Counter,
            family.name.ends_with("_total")
        );
    }
    assert_eq!(text.matches("# TYPE ").count(), CATALOGUE.len());
}

/// `UPDATE=1` writes it anew.
#[test]
fn the_document_lists_what_is_served() {
    let path = format!("{}/docs/metrics.md", env!("CARGO_MANIFEST_DIR"));
    let there = std::fs::read_to_string(&path).expect("the document is there");
    let (before, rest) = there.split_once("<!-- figures -->\n").expect("a beginning");
    let (_, after) = rest.split_once("<!-- end -->").expect("an end");
    let mut table = String::from("| name | kind | labels | what |\n|---|---|---|---|\n");
    for family in CATALOGUE {
        let labels: Vec<String> = family.labels.iter().map(|l| format!("`{l}`")).collect();
        let kind = format!("{:?}", family.kind).to_lowercase();
        let (name, help) = (family.name, family.help);
        table += &format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(" "));
    }
    let right = format!("{before}<!-- figures -->\n{table}<!-- end -->{after}");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, right).expect("writes");
    } else {
        assert_eq!(there, right, "UPDATE=1 writes docs/metrics.md anew");
    }
}
