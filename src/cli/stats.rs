//! `--stats`: the summary as a person reads it.

use std::fmt::Write as _;

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{Cell, CellAlignment, Color, ContentArrangement, Table};

use super::messages::Colour;
use crate::observe::human;
use crate::observe::names::led_somewhere;
use crate::observe::report::{RemoteRow, Summary, SumsRow};

/// Characters of a remote's name in the table.
const MAX_NAME: usize = 48;

/// How a summary is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Lines made for terminals.
    Terminal(Colour),
    /// Markdown, for files and pipes.
    Plain,
}

/// The text, with an end of line.
pub(crate) fn text(summary: &Summary, style: Style) -> String {
    let overview = &summary.overview;
    let total = &overview.total;
    let mut text = format!(
        "{} in {}: {} received, {} sent",
        flows(total.flows),
        human::seconds(overview.duration_seconds),
        human::bytes(total.to_guest.bytes),
        human::bytes(total.from_guest.bytes),
    );
    if total.failed > 0 {
        let _ = write!(text, "; led nowhere: {}", failures(total));
    }
    text.push('\n');
    if !summary.remotes.is_empty() {
        let _ = writeln!(text, "{}", table(summary, style));
    }
    if !overview.dropped.is_empty() {
        let _ = writeln!(
            text,
            "Packets not carried: {}",
            counts(overview.dropped.iter())
        );
    }
    let gateway = &overview.gateway;
    let _ = write!(
        text,
        "At most {} at one time, {} in buffers",
        flows(gateway.peak_flows as u64),
        human::bytes(gateway.peak_buffers as u64)
    );
    if let Some(resident) = gateway.peak_resident {
        let _ = write!(text, ", {} of memory", human::bytes(resident));
    }
    if let Some(cpu) = gateway.cpu_seconds {
        let _ = write!(text, "; {} of processor time", human::seconds(cpu));
    }
    text.push('\n');
    if overview.lost_events > 0 {
        let _ = writeln!(
            text,
            "This is not all: {} events came faster than they could be taken",
            human::count(overview.lost_events)
        );
    }
    text
}

fn flows(count: u64) -> String {
    match count {
        1 => "1 flow".to_owned(),
        count => format!("{} flows", human::count(count)),
    }
}

fn failures(sums: &SumsRow) -> String {
    let failed = sums.verdicts.iter();
    counts(failed.filter(|(verdict, _)| !led_somewhere(verdict)))
}

/// `3 refused, 1 no answer`.
fn counts<'a>(counts: impl Iterator<Item = (impl AsRef<str>, &'a u64)>) -> String {
    let parts: Vec<String> = counts
        .map(|(name, count)| {
            let name = name.as_ref().replace('_', " ");
            format!("{} {name}", human::count(*count))
        })
        .collect();
    parts.join(", ")
}

fn table(summary: &Summary, style: Style) -> Table {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Disabled);
    match style {
        Style::Terminal(Colour::On) => {
            table.load_style(UTF8_FULL_CONDENSED);
            table.enforce_styling();
        }
        Style::Terminal(Colour::Off) => {
            table.load_style(UTF8_FULL_CONDENSED);
            table.force_no_tty();
        }
        Style::Plain => {
            table.load_style(ASCII_MARKDOWN);
            table.force_no_tty();
        }
    }
    table.set_header([
        "Remote",
        "Flows",
        "Nowhere",
        "Received",
        "Sent",
        "Again",
        "Connect",
        "Round trip",
    ]);
    for remote in &summary.remotes {
        let times = |times: Option<crate::observe::report::TimesRow>| {
            times.map_or_else(String::new, |times| human::seconds(times.median_seconds))
        };
        table.add_row(row(
            &name(remote),
            &remote.sums,
            times(remote.connect),
            times(remote.rtt),
        ));
    }
    if let Some(others) = &summary.other_remotes {
        table.add_row(row("others", others, String::new(), String::new()));
    }
    for column in 1..8 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn row(name: &str, sums: &SumsRow, connect: String, rtt: String) -> [Cell; 8] {
    let unless_none = |count: u64| match count {
        0 => String::new(),
        count => human::count(count),
    };
    [
        Cell::new(name),
        Cell::new(human::count(sums.flows)),
        Cell::new(unless_none(sums.failed)).fg(Color::Red),
        Cell::new(human::bytes(sums.to_guest.bytes)),
        Cell::new(human::bytes(sums.from_guest.bytes)),
        Cell::new(unless_none(
            sums.to_guest.retransmits + sums.from_guest.retransmits,
        )),
        Cell::new(connect),
        Cell::new(rtt),
    ]
}

/// `example.com:443`, `192.0.2.1:53 udp`. A guest may look up any name.
fn name(remote: &RemoteRow) -> String {
    let host = match (&remote.name, &remote.addresses[..]) {
        (Some(name), _) => human::shortened(name, MAX_NAME),
        (None, [std::net::IpAddr::V6(addr), ..]) => format!("[{addr}]"),
        (None, [addr, ..]) => addr.to_string(),
        (None, []) => String::new(),
    };
    match (remote.protocol, remote.port) {
        ("echo", _) => format!("{host} echo"),
        ("tcp", Some(port)) => format!("{host}:{port}"),
        ("tcp", None) => format!("{host}, a client"),
        (other, Some(port)) => format!("{host}:{port} {other}"),
        (other, None) => format!("{host}, a client, {other}"),
    }
}
