//! The report of `cargo bench --bench links`: medians, ratios and tables, from
//! made-up samples. (A benchmark without a test harness cannot hold tests itself.)

#[path = "../benches/links/report.rs"]
mod report;

use report::{Direction, GW_QEMU, GW_VDESWITCH, QEMU_USER, Results, VDE_SLIRP, markdown};

/// Every network, with the same rates in each of three rounds but one.
fn results() -> Results {
    let mut results = Results::default();
    for (network, down, up) in [
        (GW_QEMU, 3e9, 2e9),
        (QEMU_USER, 1e9, 4e9),
        (GW_VDESWITCH, 500e6, 500e6),
        (VDE_SLIRP, 100e6, 50e6),
    ] {
        results.announce(network, "1.0");
        for factor in [1.0, 1.0, 0.01] {
            results.add(network, Direction::Down, down * factor);
            results.add(network, Direction::Up, up * factor);
        }
    }
    results
}

fn cells<'a>(document: &'a str, first: &str) -> Vec<&'a str> {
    let line = document
        .lines()
        .find(|line| line.starts_with(&format!("| {first} ")))
        .unwrap_or_else(|| panic!("no line {first} in {document}"));
    line.split('|').map(str::trim).skip(2).take(2).collect()
}

#[test]
fn rates_are_medians_and_ratios_are_of_medians() {
    let document = markdown(&results());
    assert_eq!(cells(&document, "TCP throughput, Mbit/s"), ["up", "down"]);
    assert_eq!(cells(&document, GW_QEMU), ["2,000", "3,000"]);
    assert_eq!(cells(&document, VDE_SLIRP), ["50.0", "100"]);
    let ratio = format!("{GW_QEMU} / {QEMU_USER}");
    assert_eq!(cells(&document, &ratio), ["0.50x", "3.00x"]);
    let ratio = format!("{GW_VDESWITCH} / {VDE_SLIRP}");
    assert_eq!(cells(&document, &ratio), ["10.0x", "5.00x"]);
    assert!(!document.contains("failed"), "{document}");
}

#[test]
fn a_network_that_mostly_failed_has_no_rate_and_says_why() {
    let mut results = results();
    for _ in 0..3 {
        results.fail(VDE_SLIRP, "it ended");
    }
    let document = markdown(&results);
    assert_eq!(cells(&document, VDE_SLIRP), ["–", "–"]);
    let ratio = format!("{GW_VDESWITCH} / {VDE_SLIRP}");
    assert_eq!(cells(&document, &ratio), ["–", "–"]);
    assert!(document.contains("failed 3 times: it ended"), "{document}");
}

#[test]
fn a_network_that_was_not_measured_is_not_there() {
    let mut results = Results::default();
    results.announce(GW_QEMU, "1.0");
    let document = markdown(&results);
    assert_eq!(cells(&document, GW_QEMU), ["–", "–"]);
    assert!(!document.contains(&format!("| {VDE_SLIRP} ")), "{document}");
}
