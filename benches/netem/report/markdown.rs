//! The results as a document.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};

use super::judge::{Check, checks, median_goodput};
use super::model::Contender;
use super::results::{Group, Results, Row};

#[path = "../../peers/report/format.rs"]
mod format;

/// The parts of the document, and what is said of each.
const PARTS: [(Group, &str, &str); 6] = [
    (
        Group::Delay,
        "Delay",
        "One way, by one clock at both ends, less what the same way takes without impairment. \
         Limit: 0.2 ms from what is set.",
    ),
    (
        Group::Jitter,
        "Jitter",
        "As above. Pareto means what netem's table makes of it, so its limit is 0.2 ms from what \
         netem did.",
    ),
    (
        Group::Fate,
        "Loss, duplication, reordering, corruption",
        "Of the datagrams that were sent, so many. Limit: the binomial interval that holds 99 % of \
         what chance makes of the set probability (for bursts, that of the two-state chain).",
    ),
    (
        Group::Rate,
        "Rate",
        "Ethernet frames, as both count them, without check sequence, while more is sent than fits. \
         Limit: 1 % from what is set.",
    ),
    (
        Group::Stream,
        "TCP goodput",
        "Delay, loss and rate in each direction; the median over streams of the same kind. Limit: \
         10 % from netem's.",
    ),
    (
        Group::Seed,
        "Seeds",
        "Delay, jitter, loss, duplication, reordering and corruption together.",
    ),
];

/// The whole document.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::from("# gw's impairment beside tc netem\n\n");
    for (name, fact) in &results.facts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {name}: {fact}");
    }
    let checks = checks(results);
    let _ = writeln!(
        text,
        "\nup: the guest sends. What is outside of its limits is marked with `!`; for netem it is \
         shown, too, though it is what others are measured by.\n\n{}",
        verdict(&checks)
    );
    for (group, title, note) in PARTS {
        let rows: Vec<&Check> = checks.iter().filter(|check| check.group == group).collect();
        if rows.is_empty() {
            continue;
        }
        let _ = writeln!(text, "\n## {title}\n\n{note}\n\n{}", table(&rows));
        if group == Group::Stream {
            let _ = writeln!(text, "\n{}", streams(results));
        }
    }
    rules(&mut text, results);
    for row in &results.rows {
        for failure in &row.failures {
            let _ = writeln!(text, "\n{} failed: {failure}", row.cell.name());
        }
    }
    text
}

/// How many of gw's numbers are within their limits.
fn verdict(checks: &[Check]) -> String {
    let within = |contender| checks.iter().filter(|one| one.holds(contender)).count();
    let of_netem = checks.iter().filter(|one| one.netem.is_some()).count();
    format!(
        "Within its limits: gw {} of {}, netem {} of {of_netem}.",
        within(Contender::Gw),
        checks.len(),
        within(Contender::Netem),
    )
}

fn table(checks: &[&Check]) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["set", "", "measured", "from", "to", "netem", "gw", ""]);
    for check in checks {
        let number = |value: f64| number(check, value);
        let shown = |contender| {
            let Some(value) = check.value(contender) else {
                return "–".to_owned();
            };
            let mark = if check.holds(contender) { "" } else { "! " };
            format!("{mark}{}", number(value))
        };
        table.add_row([
            check.title.clone(),
            check.direction.name().to_owned(),
            check.what.to_owned(),
            number(check.low),
            number(check.high),
            shown(Contender::Netem),
            shown(Contender::Gw),
            if check.holds(Contender::Gw) {
                "within"
            } else {
                "**outside**"
            }
            .to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(3).take(4) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A number with as many digits as its kind deserves.
fn number(check: &Check, value: f64) -> String {
    match check.group {
        Group::Delay | Group::Jitter | Group::Rate => format!("{value:.3}"),
        Group::Fate if check.what.contains("mean") => format!("{value:.2}"),
        Group::Fate => format!("{value:.0}"),
        _ => format::value(value),
    }
}

/// Goodput of each stream, and what gw's median is of netem's.
fn streams(results: &Results) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["each stream, Mbit/s", "", "netem", "gw", "gw / netem"]);
    for row in results.of(Group::Stream) {
        let each = |contender| {
            let values = row.streams(contender);
            let values = values.map(|one| format!("{:.2}", one.goodput()));
            values.collect::<Vec<_>>().join(" ")
        };
        table.add_row([
            row.cell.title.clone(),
            row.cell.direction().name().to_owned(),
            each(Contender::Netem),
            each(Contender::Gw),
            quotient(row).map_or_else(|| "–".to_owned(), format::ratio),
        ]);
    }
    table
}

/// What gw's goodput is of netem's.
pub(super) fn quotient(row: &Row) -> Option<f64> {
    let netem = median_goodput(row, Contender::Netem).filter(|&rate| rate > 0.0)?;
    Some(median_goodput(row, Contender::Gw)? / netem)
}

/// How the two were told.
fn rules(text: &mut String, results: &Results) {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header(["tc qdisc add dev eth0 root ...", "gw --impair ..."]);
    for row in &results.rows {
        if !row.cell.impairment.is_none() {
            table.add_row([
                format!("`{}`", row.netem_words),
                format!("`{}`", row.gw_rule),
            ]);
        }
    }
    let _ = writeln!(text, "\n## What was set\n\n{table}");
}
