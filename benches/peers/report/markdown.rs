//! The results as a Markdown document.

use std::fmt::Write;

use super::format;
use super::model::{Better, Results, Row};
use super::targets::{self, Outcome};

/// Whether a document is held against the targets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Targets {
    /// It is: gw beside its peers.
    Check,
    /// It is not: gw beside itself, with something switched on.
    Leave,
}

/// The whole document.
pub(crate) fn document(results: &Results, targets: Targets, plot: Option<&str>) -> String {
    let title = match targets {
        Targets::Check => "gw and its peers",
        Targets::Leave => "What watching and hurting cost",
    };
    let mut text = format!("# {title}\n\n");
    for (name, fact) in &results.facts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {name}: {fact}");
    }
    for contender in &results.contenders {
        let _ = writeln!(text, "- {}: {}", contender.name, contender.version);
    }
    text.push_str(
        "\nEvery value is the median over the rounds; a ratio is gw's median divided by the \
         other's. ↑: higher is better, ↓: lower is better.\n",
    );
    if let Some(plot) = plot {
        let _ = writeln!(text, "\n![gw and its peers]({plot})");
    }
    for (group, rows) in results.groups() {
        let _ = writeln!(text, "\n## {group}\n\n{}", group_table(results, &rows));
    }
    if targets == Targets::Check {
        let outcomes = targets::check(results);
        let _ = writeln!(text, "## Targets\n\n{}", targets_table(&outcomes));
    }
    let failures = failures(results);
    if !failures.is_empty() {
        let _ = writeln!(text, "## Failures\n\n{failures}");
    }
    text
}

/// The table of one group.
fn group_table(results: &Results, rows: &[&Row]) -> String {
    let names: Vec<&str> = results
        .contenders
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    let peers = results.peers();
    let mut header = vec![String::new()];
    header.extend(names.iter().map(ToString::to_string));
    header.extend(peers.iter().map(|peer| format!("gw / {peer}")));
    let body = rows.iter().map(|row| {
        let arrow = match row.cell.better {
            Better::Higher => "↑",
            Better::Lower => "↓",
        };
        let mut line = vec![format!("{}, {} {arrow}", row.cell.title, row.cell.unit)];
        line.extend(
            names
                .iter()
                .map(|name| optional(row.median(name), format::value)),
        );
        line.extend(
            peers
                .iter()
                .map(|peer| optional(row.ratio(peer), format::ratio)),
        );
        line
    });
    table(&header, body)
}

/// The table of targets.
pub(crate) fn targets_table(outcomes: &[Outcome]) -> String {
    let header = ["target", "asked for", "measured", "reached"].map(String::from);
    let body = outcomes.iter().map(|outcome| {
        vec![
            outcome.title.clone(),
            outcome.bound.to_string(),
            optional(outcome.measured, format::ratio),
            outcome.verdict().into(),
        ]
    });
    table(&header, body)
}

/// What failed, one line each.
fn failures(results: &Results) -> String {
    let mut text = String::new();
    for row in &results.rows {
        for (gateway, reasons) in &row.failures {
            let count = reasons.len();
            let first = reasons.first().map_or("", String::as_str);
            let _ = writeln!(text, "- {}, {gateway}, {count} times: {first}", row.cell.id);
        }
    }
    text
}

/// The value, or a dash.
fn optional(value: Option<f64>, format: fn(f64) -> String) -> String {
    value.map_or_else(|| "–".into(), format)
}

/// A table whose first column is left-aligned and padded so that it also reads
/// well as plain text.
fn table(header: &[String], body: impl Iterator<Item = Vec<String>>) -> String {
    let body: Vec<Vec<String>> = body.collect();
    let width = |column: usize| {
        let cells = body
            .iter()
            .chain(std::iter::once(&header.to_vec()))
            .map(|row| row.get(column).map_or(0, |cell| cell.chars().count()))
            .max();
        cells.unwrap_or(0).max(3)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &[String]| {
        let mut text = String::from("|");
        for (column, (cell, &width)) in cells.iter().zip(&widths).enumerate() {
            let _ = if column == 0 {
                write!(text, " {cell:<width$} |")
            } else {
                write!(text, " {cell:>width$} |")
            };
        }
        text + "\n"
    };
    let mut text = line(header);
    text.push('|');
    for (column, width) in widths.iter().enumerate() {
        let end = if column == 0 { '-' } else { ':' };
        let _ = write!(text, "{}{end}|", "-".repeat(width + 1));
    }
    text.push('\n');
    body.iter().for_each(|row| text.push_str(&line(row)));
    text
}
