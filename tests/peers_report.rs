//! The report of `cargo bench --bench peers`: medians, ratios, targets, tables and
//! the plot, from made-up samples. (A benchmark without a test harness cannot hold
//! tests itself.)

#[path = "../benches/peers/report/mod.rs"]
mod report;

use report::model::{Better, Cell, Contender, Results};
use report::{format, markdown, svg, targets};

fn cell(id: &str, better: Better) -> Cell {
    Cell {
        id: id.into(),
        group: "Group".into(),
        title: id.into(),
        unit: "Gbit/s",
        better,
    }
}

/// Three gateways; ours is last when sorted by name only by chance.
fn results() -> Results {
    let contenders = ["gw", "slirp4netns", "pasta"].map(|name| Contender {
        name: name.into(),
        version: format!("{name} <1.0> & more"),
        is_peer: true,
    });
    let mut results = Results {
        contenders: contenders.to_vec(),
        ..Results::default()
    };
    let up = cell("tcp-up-1500-1-v4-loopback", Better::Higher);
    for (name, samples) in [
        ("gw", [27.0, 30.0, 3.0]),
        ("slirp4netns", [1.0, 2.0, 1.8]),
        ("pasta", [0.2, 0.3, 0.1]),
    ] {
        samples
            .iter()
            .for_each(|&sample| results.add(&up, name, sample));
    }
    let cpu = cell("cpu-up-1500-1-v4-loopback", Better::Lower);
    for (name, sample) in [("gw", 0.3), ("slirp4netns", 7.0), ("pasta", 1.7)] {
        results.add(&cpu, name, sample);
    }
    results
}

#[test]
fn ratios_are_of_medians() {
    let results = results();
    let row = results.find("tcp-up-1500-1-v4-loopback").expect("row");
    assert_eq!(row.median("gw"), Some(27.0));
    assert_eq!(row.ratio("slirp4netns"), Some(15.0));
    assert_eq!(row.best_peer(&results.peers()), Some("slirp4netns"));
    let row = results.find("cpu-up-1500-1-v4-loopback").expect("row");
    assert_eq!(row.best_peer(&results.peers()), Some("pasta"));
}

#[test]
fn a_gateway_that_failed_as_often_as_it_worked_has_no_median() {
    let mut results = results();
    let cell = cell("tcp-crr", Better::Higher);
    results.add(&cell, "gw", 4000.0);
    assert_eq!(
        results.find("tcp-crr").expect("row").median("gw"),
        Some(4000.0)
    );
    results.fail(&cell, "gw", "connection refused");
    assert_eq!(results.find("tcp-crr").expect("row").median("gw"), None);
    assert!(
        markdown::document(&results, markdown::Targets::Check, None)
            .contains("tcp-crr, gw, 1 times: connection refused")
    );
}

#[test]
fn infinite_values_are_no_values() {
    let mut results = results();
    let cell = cell("cpu", Better::Lower);
    results.add(&cell, "gw", f64::INFINITY);
    let row = results.find("cpu").expect("row");
    assert_eq!((row.median("gw"), row.ratio("gw")), (None, None));
}

#[test]
fn targets_compare_with_the_named_or_the_better_peer() {
    let outcomes = targets::check(&results());
    let find = |title: &str| {
        outcomes
            .iter()
            .find(|outcome| outcome.title.starts_with(title))
            .expect("target")
    };
    let up = find("tcp-up-1500-1-v4-loopback / slirp4netns");
    assert_eq!((up.measured, up.verdict()), (Some(15.0), "yes"));
    let cpu = find("cpu-up-1500-1-v4-loopback / pasta, the better peer");
    assert_eq!(
        (cpu.measured.map(format::ratio).as_deref(), cpu.verdict()),
        (Some("0.18x"), "yes")
    );
    let unmeasured = find("tcp-crr");
    assert_eq!((unmeasured.measured, unmeasured.verdict()), (None, "–"));
}

#[test]
fn a_target_that_is_missed_says_no() {
    let mut results = results();
    let cell = cell("tcp-up-1500-1-v4-loopback", Better::Higher);
    for _ in 0..7 {
        results.add(&cell, "gw", 2.0);
    }
    assert_eq!(targets::check(&results)[0].verdict(), "no");
}

#[test]
fn gw_beside_itself_has_no_targets() {
    let text = markdown::document(&results(), markdown::Targets::Leave, None);
    assert!(text.starts_with("# What watching and hurting cost\n"));
    assert!(!text.contains("## Targets"));
    assert!(text.contains("15.0x"), "{text}");
}

#[test]
fn the_table_has_a_line_per_cell_and_columns_that_line_up() {
    let text = markdown::document(&results(), markdown::Targets::Check, Some("peers.svg"));
    let header = "|                                     |   gw | slirp4netns | pasta | gw / slirp4netns | gw / pasta |";
    assert!(text.contains(header), "{text}");
    let line = "| tcp-up-1500-1-v4-loopback, Gbit/s ↑ | 27.0 |        1.80 |  0.20 |            15.0x |       135x |";
    assert!(text.contains(line), "{text}");
    assert!(text.contains("![gw and its peers](peers.svg)"));
}

#[test]
fn numbers_have_three_digits() {
    for (value, text) in [
        (0.0, "0"),
        (0.0012, "0.001"),
        (0.27, "0.27"),
        (9.99, "9.99"),
        (27.64, "27.6"),
        (99.96, "100"),
        (123.4, "123"),
        (999.7, "1,000"),
        (1_234_567.0, "1,234,567"),
        (-12_345.0, "-12,345"),
        (f64::INFINITY, "–"),
    ] {
        assert_eq!(format::value(value), text);
    }
}

#[test]
fn ratios_are_short_and_never_nothing() {
    for (ratio, text) in [
        (135.2, "135x"),
        (15.0, "15.0x"),
        (7.5, "7.50x"),
        (0.15, "0.15x"),
        (0.0033, "0.003x"),
    ] {
        assert_eq!(format::ratio(ratio), text);
    }
}

#[test]
fn the_plot_draws_a_bar_per_value_and_escapes_text() {
    let plot = svg::plot(&results());
    assert!(plot.starts_with("<svg ") && plot.ends_with("</svg>\n"));
    assert!(plot.contains("gw &lt;1.0&gt; &amp; more"));
    assert!(plot.contains(">27.0 Gbit/s</text>"));
    // Two cells with three bars each, and three swatches in the legend.
    assert_eq!(plot.matches("<rect class=\"bar").count(), 9);
    // Nothing measured: still a document.
    assert!(svg::plot(&Results::default()).ends_with("</svg>\n"));
}

#[test]
fn a_missing_value_is_named_and_does_not_stretch_the_others() {
    let mut results = results();
    let idle = cell("idle-10k-tcp-up", Better::Higher);
    results.add(&idle, "gw", 20.0);
    results.fail(&idle, "pasta", "out of descriptors");
    let plot = svg::plot(&results);
    assert_eq!(plot.matches(">no value</text>").count(), 2);
}

#[test]
fn cells_keep_the_order_in_which_they_were_announced_and_unmeasured_ones_are_left_out() {
    let (first, second, never) = (
        cell("a", Better::Higher),
        cell("b", Better::Higher),
        cell("c", Better::Higher),
    );
    let mut results = Results::default();
    [&first, &second, &never]
        .into_iter()
        .for_each(|cell| results.announce(cell));
    results.add(&second, "gw", 1.0);
    results.add(&first, "gw", 1.0);
    let groups = results.groups();
    let ids: Vec<&str> = groups[0].1.iter().map(|row| row.cell.id.as_str()).collect();
    assert_eq!(ids, ["a", "b"]);
}

#[test]
fn the_run_without_a_gateway_is_shown_but_not_a_peer() {
    let mut results = results();
    results.contenders.push(Contender {
        name: "none".into(),
        version: "no gateway".into(),
        is_peer: false,
    });
    let up = cell("tcp-up-1500-1-v4-loopback", Better::Higher);
    results.add(&up, "none", 99.0);
    assert_eq!(results.peers(), ["slirp4netns", "pasta"]);
    assert!(!markdown::document(&results, markdown::Targets::Check, None).contains("gw / none"));
    assert!(markdown::document(&results, markdown::Targets::Check, None).contains("99.0"));
}
