//! The figures in Prometheus's text format, version 0.0.4.

use std::time::{Duration, SystemTime};

use prometheus::TextEncoder;
use prometheus::proto::{
    Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType,
};

use super::counts::{BUCKETS, Counted, FlowCounts};
use super::{Capture, Port, Snapshot};

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts of what is not above some bounds.
    Histogram,
}

/// Figures of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Family {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// The labels of each figure.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

/// All that is served, in this order.
pub const CATALOGUE: &[Family] = &[
    gauge(
        "gw_info",
        &["version"],
        "Always 1; the label says which gw it is.",
    ),
    gauge("gw_flows", &["protocol"], "Open flows."),
    gauge(
        "gw_buffer_bytes",
        &[],
        "Bytes that the buffers of all flows hold.",
    ),
    gauge(
        "gw_buffer_limit_bytes",
        &[],
        "Bytes that they may hold (--memory).",
    ),
    gauge(
        "gw_queue_length",
        &["queue"],
        "What waits: DNS questions under way.",
    ),
    counter(
        "gw_link_frames_total",
        &["direction"],
        "Frames that the gateway took from the guest and gave to it; a super-frame counts once.",
    ),
    counter(
        "gw_link_bytes_total",
        &["direction"],
        "Bytes of these frames.",
    ),
    counter(
        "gw_dropped_packets_total",
        &["reason"],
        "Packets that were not carried.",
    ),
    counter(
        "gw_port_frames_total",
        &["port", "link", "direction"],
        "Frames of each link that guests are behind.",
    ),
    counter(
        "gw_port_not_sent_frames_total",
        &["port", "link"],
        "Frames that the link did not take.",
    ),
    counter(
        "gw_port_malformed_frames_total",
        &["port", "link"],
        "Frames from the link that were none.",
    ),
    gauge(
        "gw_impair_held_bytes",
        &[],
        "Bytes of packets that impairments hold until they are due.",
    ),
    counter(
        "gw_capture_packets_total",
        &["capture"],
        "Packets in the files of each capture that runs.",
    ),
    counter(
        "gw_capture_lost_packets_total",
        &["capture"],
        "Packets that a capture has lost.",
    ),
    counter(
        "gw_flows_opened_total",
        &["protocol"],
        "Flows that have begun.",
    ),
    counter(
        "gw_flow_verdicts_total",
        &["verdict"],
        "Flows that have ended, by what had become of them.",
    ),
    counter(
        "gw_flows_ended_total",
        &["how"],
        "Flows that have ended, by how.",
    ),
    counter(
        "gw_retransmitted_packets_total",
        &[],
        "Packets that the gateway sent again in TCP flows that have ended.",
    ),
    histogram(
        "gw_connect_seconds",
        "How long TCP flows that have ended took to be open on both sides.",
    ),
    counter(
        "gw_lost_events_total",
        &[],
        "Events of flows that the figures of flows do not cover: they came faster than they were taken.",
    ),
    counter("process_cpu_seconds_total", &[], "Time on processors."),
    gauge("process_resident_memory_bytes", &[], "Resident memory."),
    gauge(
        "process_start_time_seconds",
        &[],
        "When the gateway began to serve, since 1970.",
    ),
];

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Gauge,
        labels,
        help,
    }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind: Kind::Counter,
        labels,
        help,
    }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family {
        name,
        kind: Kind::Histogram,
        labels: &[],
        help,
    }
}

/// The text.
///
/// # Errors
/// Never in practice: every family has a name and a figure.
pub fn text(snapshot: &Snapshot, counts: &FlowCounts) -> prometheus::Result<String> {
    let counted = counts.read();
    let families: Vec<MetricFamily> = CATALOGUE
        .iter()
        .map(|family| encoded(family, metrics(family, snapshot, &counted)))
        // The encoder wants figures, and where a system tells none there are none.
        .filter(|family| !family.get_metric().is_empty())
        .collect();
    TextEncoder::new().encode_to_string(&families)
}

fn encoded(family: &Family, metrics: Vec<Metric>) -> MetricFamily {
    let mut encoded = MetricFamily::default();
    encoded.set_name(family.name.to_owned());
    encoded.set_help(family.help.to_owned());
    encoded.set_field_type(match family.kind {
        Kind::Counter => MetricType::COUNTER,
        Kind::Gauge => MetricType::GAUGE,
        Kind::Histogram => MetricType::HISTOGRAM,
    });
    encoded.set_metric(metrics);
    encoded
}

/// The figures of a family.
fn metrics(family: &Family, snapshot: &Snapshot, counted: &Counted) -> Vec<Metric> {
    let one = |labels: &[&str], value: f64| figure(family, labels, value);
    let named = |counts: &[(&'static str, u64)]| {
        let counts = counts.iter();
        counts
            .map(|(name, count)| one(&[name], float(*count)))
            .collect()
    };
    let both_ways = |from_guest, to_guest| {
        vec![
            one(&["from_guest"], float(from_guest)),
            one(&["to_guest"], float(to_guest)),
        ]
    };
    let by_port = |value: fn(&Port) -> u64| {
        let ports = snapshot.ports.iter();
        let labelled = ports.map(|port| (port.id.to_string(), port));
        labelled
            .map(|(id, port)| one(&[&id, &port.name], float(value(port))))
            .collect()
    };
    let by_capture = |value: fn(&Capture) -> u64| {
        let captures = snapshot.captures.iter();
        captures
            .map(|capture| one(&[&capture.id.to_string()], float(value(capture))))
            .collect()
    };
    let link = &snapshot.link;
    match family.name {
        "gw_info" => vec![one(&[env!("CARGO_PKG_VERSION")], 1.0)],
        "gw_flows" => {
            let flows = snapshot.flows.iter();
            flows
                .map(|(name, count)| one(&[name], float(*count as u64)))
                .collect()
        }
        "gw_buffer_bytes" => vec![one(&[], float(snapshot.buffers.0 as u64))],
        "gw_buffer_limit_bytes" => vec![one(&[], float(snapshot.buffers.1 as u64))],
        "gw_queue_length" => {
            let queues = snapshot.queues.iter();
            queues
                .map(|(name, length)| one(&[name], float(*length as u64)))
                .collect()
        }
        "gw_link_frames_total" => both_ways(link.from_guest.frames, link.to_guest.frames),
        "gw_link_bytes_total" => both_ways(link.from_guest.bytes, link.to_guest.bytes),
        "gw_dropped_packets_total" => {
            let dropped = snapshot.dropped.iter();
            dropped
                .map(|(reason, count)| one(&[reason], float(*count)))
                .collect()
        }
        "gw_port_frames_total" => snapshot
            .ports
            .iter()
            .flat_map(|port| {
                let id = port.id.to_string();
                [("from_guest", port.received), ("to_guest", port.sent)]
                    .map(|(direction, count)| one(&[&id, &port.name, direction], float(count)))
            })
            .collect(),
        "gw_port_not_sent_frames_total" => by_port(|port| port.not_sent),
        "gw_port_malformed_frames_total" => by_port(|port| port.malformed),
        "gw_impair_held_bytes" => vec![one(&[], float(snapshot.held as u64))],
        "gw_capture_packets_total" => by_capture(|capture| capture.packets),
        "gw_capture_lost_packets_total" => by_capture(|capture| capture.lost),
        "gw_flows_opened_total" => named(&counted.opened),
        "gw_flow_verdicts_total" => named(&counted.verdicts),
        "gw_flows_ended_total" => named(&counted.ended),
        "gw_retransmitted_packets_total" => vec![one(&[], float(counted.retransmits))],
        "gw_connect_seconds" => vec![connect_times(counted)],
        "gw_lost_events_total" => vec![one(&[], float(counted.lost))],
        "process_cpu_seconds_total" => cpu_time()
            .map(|t| one(&[], t.as_secs_f64()))
            .into_iter()
            .collect(),
        "process_resident_memory_bytes" => {
            resident().map(|n| one(&[], float(n))).into_iter().collect()
        }
        "process_start_time_seconds" => {
            let since = snapshot.began.duration_since(SystemTime::UNIX_EPOCH);
            vec![one(&[], since.unwrap_or_default().as_secs_f64())]
        }
        _ => Vec::new(),
    }
}

fn figure(family: &Family, labels: &[&str], value: f64) -> Metric {
    debug_assert_eq!(family.labels.len(), labels.len(), "{}", family.name);
    let pairs = family.labels.iter().zip(labels).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    match family.kind {
        Kind::Counter => {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        }
        Kind::Gauge | Kind::Histogram => {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
    }
    metric
}

fn connect_times(counted: &Counted) -> Metric {
    let mut cumulative = 0;
    let buckets = BUCKETS.iter().zip(&counted.connect).map(|(bound, count)| {
        cumulative += count;
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound.as_secs_f64());
        bucket.set_cumulative_count(cumulative);
        bucket
    });
    let mut histogram = Histogram::default();
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(counted.connect.iter().sum());
    histogram.set_sample_sum(counted.connect_time.as_secs_f64());
    let mut metric = Metric::default();
    metric.set_histogram(histogram);
    metric
}

/// The format knows no integers.
#[expect(clippy::cast_precision_loss, reason = "exact up to 2^53")]
const fn float(count: u64) -> f64 {
    count as f64
}

fn cpu_time() -> Option<Duration> {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    u64::try_from(micros).ok().map(Duration::from_micros)
}

/// Bytes of memory that are resident now.
fn resident() -> Option<u64> {
    let pages = procfs::process::Process::myself()
        .ok()?
        .statm()
        .ok()?
        .resident;
    Some(pages * procfs::page_size())
}
