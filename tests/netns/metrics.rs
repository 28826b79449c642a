//! `--metrics`: what Prometheus would see.

use std::time::Duration;

use crate::harness::peer::tcp_server;
use crate::harness::{
    Finished, Gw, Launch, PATIENCE, REMOTE4, Running, World, eventually, require,
};

const PORT: u16 = 7000;
const AT: &str = "127.0.0.1:9500";
const SOCKET: &str = "/run/gw-metrics";

/// A reader of the format that is not ours: the reference implementation. Prints
/// each family's name and type, and whether its histograms make sense.
const READER: &str = r#"
import sys
from prometheus_client.parser import text_string_to_metric_families
for family in text_string_to_metric_families(sys.stdin.read()):
    assert family.documentation, family
    assert family.samples, family
    buckets = [s for s in family.samples if s.name.endswith("_bucket")]
    counts = [s.value for s in buckets]
    assert counts == sorted(counts), buckets
    if buckets:
        assert buckets[-1].labels["le"] == "+Inf", buckets
    print(family.name, family.type)
"#;

fn curl(world: &World, arguments: &str) -> Finished {
    require("curl");
    world
        .outer
        .sh(&format!("curl -sS --max-time 9 {arguments}"))
}

fn scrape(world: &World) -> String {
    curl(world, &format!("--fail http://{AT}/metrics"))
        .success()
        .stdout
}

/// The value of a figure, by its name with labels.
fn figure(text: &str, name: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("{name} is not in {text}"));
    value.parse().expect("a number")
}

/// A world in which a guest has done some things.
fn busy() -> (World, Running, Gw) {
    let world = World::new();
    let server = tcp_server(&world.remote, PORT);
    // A capture, for its figures.
    let gw = Gw::attach(&world, &["--metrics", AT, "--pcap", "/run/x.pcapng"]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, {})", 1 << 20));
    world.guest.sh(&format!("nc -z -w 2 {REMOTE4} 1")).failure();
    (world, server, gw)
}

#[test]
fn figures_follow_what_the_guest_does() {
    let (world, _server, _gw) = busy();
    // Flows are counted by another thread.
    let text = eventually("the flows' figures", PATIENCE, || {
        let text = scrape(&world);
        let ended: f64 = ["connected", "refused"]
            .iter()
            .map(|v| figure(&text, &format!("gw_flow_verdicts_total{{verdict=\"{v}\"}}")))
            .sum();
        (ended == 2.0).then_some(text)
    });
    for (name, value) in [
        ("gw_flows{protocol=\"udp\"}", 0.0),
        ("gw_flows_opened_total{protocol=\"tcp\"}", 2.0),
        ("gw_flow_verdicts_total{verdict=\"refused\"}", 1.0),
        ("gw_flows_ended_total{how=\"turned_away\"}", 1.0),
        ("gw_connect_seconds_count", 1.0),
        ("gw_connect_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("gw_dropped_packets_total{reason=\"memory\"}", 0.0),
        ("gw_buffer_limit_bytes", f64::from(256 << 20)),
        ("gw_lost_events_total", 0.0),
    ] {
        assert_eq!(figure(&text, name), value, "{name} in {text}");
    }
    let down = figure(&text, "gw_link_bytes_total{direction=\"to_guest\"}");
    assert!((1_048_576.0..1_300_000.0).contains(&down), "{down}");
    let frames = figure(
        &text,
        "gw_port_frames_total{port=\"1\",link=\"tap0\",direction=\"to_guest\"}",
    );
    assert_eq!(
        frames,
        figure(&text, "gw_link_frames_total{direction=\"to_guest\"}")
    );
    assert!(figure(&text, "process_resident_memory_bytes") > 1e6);
    assert!(figure(&text, "process_start_time_seconds") > 1.5e9);
}

#[test]
fn the_reference_implementation_reads_them() {
    let (world, _server, _gw) = busy();
    let read = world.outer.sh(&format!(
        "curl -sS http://{AT}/metrics | python3 -c '{}'",
        READER.replace('\'', "\"")
    ));
    let read = read.success().stdout;
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/metrics.md");
    let document = std::fs::read_to_string(document).expect("the document is there");
    let listed = document.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.trim().trim_end_matches('`');
        let kind = cells.next()?.trim();
        // The reader leaves the ending of counters away.
        let name = name.strip_suffix("_total").unwrap_or(name);
        Some(format!("{name} {kind}"))
    });
    let listed: Vec<String> = listed.collect();
    assert!(listed.len() > 10, "{listed:?}");
    assert_eq!(read.lines().collect::<Vec<_>>(), listed);
}

#[test]
fn other_requests_are_answered_as_http_wants_it() {
    let world = World::new();
    let _gw = Gw::attach(&world, &["--metrics", AT]);
    let headers = curl(&world, &format!("-D - -o /dev/null http://{AT}/metrics"));
    headers
        .success()
        .says("HTTP/1.1 200 OK")
        .says("content-type: text/plain; version=0.0.4; charset=utf-8")
        .says("connection: close");
    let head = curl(&world, &format!("--head http://{AT}/metrics"));
    head.success().says("200 OK").lacks("# HELP");
    let post = curl(&world, &format!("-i --data x=1 http://{AT}/metrics"));
    post.success()
        .says("405 Method Not Allowed")
        .says("allow: GET, HEAD");
    for path in ["/", "/metrics/", "/../metrics%00"] {
        let other = curl(&world, &format!("-i --path-as-is 'http://{AT}{path}'"));
        other.success().says("404 Not Found").lacks("# HELP");
    }
    // What is no HTTP gets no figures, and does no harm.
    let noise = world
        .outer
        .sh("printf 'SSH-2.0-x\\r\\n\\r\\n' | nc -w 2 127.0.0.1 9500");
    noise.lacks("# HELP");
    let long = world.outer.sh(
        "(printf 'GET /metrics HTTP/1.1\\r\\nX: '; head -c 100000 /dev/zero | tr '\\0' a) \
         | nc -w 2 127.0.0.1 9500",
    );
    long.lacks("# HELP");
    scrape(&world);
}

#[test]
fn a_unix_socket_is_for_this_user_and_goes_away() {
    let world = World::new();
    let gw = Gw::attach(&world, &["--metrics", &format!("unix:{SOCKET}")]);
    let get = format!("--unix-socket {SOCKET} http://localhost/metrics");
    curl(&world, &get).success().says("gw_info{version=");
    assert_eq!(world.outer.ok(&format!("stat -c %a {SOCKET}")), "600\n");
    // It is in use.
    let second = world.another_guest();
    let place = format!("unix:{SOCKET}");
    let refused = Launch::netns(&world.outer, &second, &["--metrics", &place]).try_start();
    let Err(refused) = refused else {
        panic!("two gateways at one socket");
    };
    refused.failure().says("somebody listens");
    gw.terminate();
    world.outer.ok(&format!("! test -e {SOCKET}"));
}

#[test]
fn a_port_that_is_taken_is_refused_before_anything_starts() {
    let world = World::new();
    let _gw = Gw::attach(&world, &["--metrics", AT]);
    let run = Launch::new(&world.outer, &["run", "--metrics", AT, "--", "echo", "ran"]).run();
    assert_eq!(run.code(), 1, "{run:?}");
    run.says("Address already in use")
        .says("--metrics")
        .lacks("ran");
}

#[test]
fn what_is_no_place_is_a_usage_error() {
    let world = World::new();
    for (at, said) in [(":9500", "127.0.0.1:9500"), ("unix:", "unix:PATH")] {
        let run = Launch::new(&world.outer, &["run", "--metrics", at, "--", "true"]).run();
        assert_eq!(run.code(), 2, "{run:?}");
        run.says(said);
    }
}

#[test]
fn clients_that_say_nothing_hold_nobody_for_long() {
    let (world, _server, _gw) = busy();
    let idle = world.outer.serve(
        "held = [create_connection(('127.0.0.1', 9500), PATIENCE) for n in range(40)]
ready()
import time
time.sleep(60)",
    );
    // Traffic does not wait, and a scraper gets its turn.
    world
        .guest
        .py(&format!("download({REMOTE4:?}, {PORT}, {})", 1 << 20));
    eventually("a turn", Duration::from_secs(40), || {
        let scraped = curl(&world, &format!("--fail http://{AT}/metrics"));
        scraped.status.success().then_some(())
    });
    // They were turned out, not just passed by.
    idle.signal(nix::sys::signal::Signal::SIGTERM);
}
