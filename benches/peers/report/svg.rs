//! The results as a plot for the README: small multiples of horizontal bars.

use std::fmt::Write;

#[path = "../../common/draw.rs"]
mod draw;

use self::draw::{escape, line_of_text, rect};
use super::format;
use super::model::{Better, OURS, Results, Row};

/// A panel: bars that belong together.
struct Panel {
    title: &'static str,
    scale: Scale,
    /// Cell ids and what stands above their bars.
    rows: &'static [(&'static str, &'static str)],
}

/// What the longest bar stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scale {
    /// The greatest value of the panel: its rows have the same unit.
    Panel,
    /// The greatest value of the row.
    Row,
}

/// The panels, row by row of the grid.
const PANELS: [Panel; 6] = [
    Panel {
        title: "TCP throughput",
        scale: Scale::Panel,
        rows: &[
            ("tcp-up-1500-1-v4-loopback", "MTU 1500, upload"),
            ("tcp-down-1500-1-v4-loopback", "MTU 1500, download"),
            ("tcp-up-65520-1-v4-loopback", "MTU 65520, upload"),
            ("tcp-down-65520-1-v4-loopback", "MTU 65520, download"),
        ],
    },
    Panel {
        title: "Gateway CPU time per gigabyte",
        scale: Scale::Panel,
        rows: &[
            ("cpu-up-1500-1-v4-loopback", "MTU 1500, upload"),
            ("cpu-down-1500-1-v4-loopback", "MTU 1500, download"),
            ("cpu-up-65520-1-v4-loopback", "MTU 65520, upload"),
            ("cpu-down-65520-1-v4-loopback", "MTU 65520, download"),
        ],
    },
    Panel {
        title: "Connections and datagrams per second",
        scale: Scale::Row,
        rows: &[
            ("tcp-crr", "TCP connect + request + close"),
            ("udp-up", "UDP 1400 bytes, upload"),
            ("udp-down", "UDP 1400 bytes, download"),
        ],
    },
    Panel {
        title: "Round trip of one byte",
        scale: Scale::Panel,
        rows: &[
            ("tcp-rr-p50", "TCP, median"),
            ("tcp-rr-p99", "TCP, 99th percentile"),
            ("udp-rr-p50", "UDP, median"),
        ],
    },
    Panel {
        title: "With 10,000 idle connections open",
        scale: Scale::Row,
        rows: &[
            ("idle-10k-tcp-up", "MTU 1500, upload"),
            ("idle-10k-tcp-down", "MTU 1500, download"),
            ("idle-10k-tcp-crr", "TCP connect + request + close"),
        ],
    },
    Panel {
        title: "Start and memory",
        scale: Scale::Row,
        rows: &[
            ("start-ready", "start until ready"),
            (
                "peak-memory-1500",
                "peak memory of the throughput tests, MTU 1500",
            ),
            ("idle-memory", "memory per idle connection"),
        ],
    },
];

// Everything in pixels of the drawing.
const WIDTH: f64 = 880.0;
const MARGIN: f64 = 24.0;
const GAP: f64 = 36.0;
const PANEL_WIDTH: f64 = (WIDTH - 2.0 * MARGIN - GAP) / 2.0;
/// The panels begin below title and legend.
const TOP: f64 = 92.0;
const PANEL_HEAD: f64 = 34.0;
const ROW_HEAD: f64 = 17.0;
const BAR_PITCH: f64 = 14.0;
const ROW_GAP: f64 = 10.0;
const PANEL_GAP: f64 = 18.0;
/// Right of the longest bar there is room for its value.
const VALUE_WIDTH: f64 = 100.0;
/// A bar is at least this long, so that a small value can be seen.
const LEAST_BAR: f64 = 1.5;

/// Draws the plot. Cells that were not measured are left out.
pub(crate) fn plot(results: &Results) -> String {
    let panels: Vec<(&Panel, Vec<(&Row, &str)>)> = PANELS
        .iter()
        .map(|panel| (panel, measured(results, panel)))
        .filter(|(_, rows)| !rows.is_empty())
        .collect();
    let mut body = String::new();
    let mut y = TOP;
    for pair in panels.chunks(2) {
        for (column, (panel, rows)) in [0.0, 1.0].iter().zip(pair) {
            let x = MARGIN + column * (PANEL_WIDTH + GAP);
            draw_panel(&mut body, results, panel, rows, x, y);
        }
        let tallest = pair.iter().map(|(_, rows)| rows.len()).max().unwrap_or(0);
        y += panel_height(results, tallest) + PANEL_GAP;
    }
    document(results, &body, y)
}

/// The panel's cells that have a value.
fn measured<'a>(results: &'a Results, panel: &'a Panel) -> Vec<(&'a Row, &'a str)> {
    let rows = panel.rows.iter();
    let found = rows.filter_map(|(id, title)| Some((results.find(id)?, *title)));
    found
        .filter(|(row, _)| greatest(results, row) > 0.0)
        .collect()
}

/// The greatest median of a row.
fn greatest(results: &Results, row: &Row) -> f64 {
    let medians = results
        .contenders
        .iter()
        .filter_map(|one| row.median(&one.name));
    medians.fold(0.0, f64::max)
}

fn row_height(results: &Results) -> f64 {
    ROW_HEAD + BAR_PITCH * count(results.contenders.len()) + ROW_GAP
}

fn panel_height(results: &Results, rows: usize) -> f64 {
    PANEL_HEAD + row_height(results) * count(rows)
}

/// A small count as a factor.
fn count(count: usize) -> f64 {
    u32::try_from(count).map_or(0.0, f64::from)
}

/// Title, legend and footer around the panels.
fn document(results: &Results, body: &str, height: f64) -> String {
    let mut legend = String::new();
    let mut x = MARGIN;
    for (index, contender) in results.contenders.iter().enumerate() {
        // The table has all of it; the legend has room for what is before a colon.
        let name = contender.version.split(':').next().unwrap_or_default();
        let text = escape(name);
        rect(&mut legend, &format!("bar{index}"), x, 58.0, 12.0);
        line_of_text(
            &mut legend,
            if index == 0 { "ours" } else { "" },
            x + 18.0,
            67.5,
            &text,
        );
        x += 18.0 + 6.6 * count(text.chars().count()) + 26.0;
    }
    let total = height + 14.0;
    let fact = |name: &str| {
        let found = results.facts.iter().find(|(known, _)| known == name);
        found.map_or("unknown", |(_, fact)| fact.as_str())
    };
    let note = format!(
        "Medians; one TCP stream, IPv4, server on the host's loopback (idle connections: over a \
         veth). Linux {}, {}.",
        fact("kernel"),
        fact("cores")
    );
    let mut footer = String::new();
    line_of_text(&mut footer, "note", MARGIN, height - 6.0, &escape(&note));
    let mut heading = String::new();
    line_of_text(&mut heading, "title", MARGIN, 38.0, "gw and its peers");
    let body = format!("{heading}{legend}{body}{footer}");
    draw::page("gw and its peers, measured", WIDTH, total, &body)
}

fn draw_panel(
    body: &mut String,
    results: &Results,
    panel: &Panel,
    rows: &[(&Row, &str)],
    x: f64,
    y: f64,
) {
    let better = match rows.first().map(|(row, _)| row.cell.better) {
        Some(Better::Higher) => "longer is better",
        _ => "shorter is better",
    };
    line_of_text(body, "panel", x, y + 10.0, &escape(panel.title));
    let _ = writeln!(
        body,
        "<text class=\"note\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{better}</text>\
         <line class=\"line\" x1=\"{x:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
        x + PANEL_WIDTH,
        y + 10.0,
        x + PANEL_WIDTH,
        y + 18.5,
        y + 18.5
    );
    let of_panel = rows
        .iter()
        .map(|(row, _)| greatest(results, row))
        .fold(0.0, f64::max);
    for (index, (row, title)) in rows.iter().enumerate() {
        let full = match panel.scale {
            Scale::Panel => of_panel,
            Scale::Row => greatest(results, row),
        };
        let top = y + PANEL_HEAD + row_height(results) * count(index);
        draw_row(body, results, row, title, full, (x, top));
    }
}

/// One cell: its title and a bar per gateway; `full` is the value of a full bar.
fn draw_row(
    body: &mut String,
    results: &Results,
    row: &Row,
    title: &str,
    full: f64,
    (x, y): (f64, f64),
) {
    line_of_text(body, "row", x, y + 8.0, &escape(title));
    for (index, contender) in results.contenders.iter().enumerate() {
        let top = y + ROW_HEAD - 2.0 + BAR_PITCH * count(index);
        let class = text_class(&contender.name);
        let Some(value) = row.median(&contender.name) else {
            line_of_text(body, "note", x, top + 9.5, "no value");
            continue;
        };
        let width = ((PANEL_WIDTH - VALUE_WIDTH) * value / full).max(LEAST_BAR);
        rect(body, &bar_class(index, &contender.name), x, top, width);
        let text = format!("{} {}", format::value(value), row.cell.unit);
        line_of_text(body, class, x + width + 6.0, top + 9.5, &escape(&text));
    }
}

/// The colour of a gateway's bars: ours stands out.
fn bar_class(index: usize, name: &str) -> String {
    if name == OURS {
        "bar0".into()
    } else {
        format!("bar{}", index.max(1))
    }
}

/// How a gateway's values are written.
fn text_class(name: &str) -> &'static str {
    if name == OURS { "ours" } else { "" }
}
