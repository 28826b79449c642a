//! The results as a plot for the README: where each number is between its limits,
//! and goodput as bars.

use std::fmt::Write as _;

#[path = "../../common/draw.rs"]
mod draw;

use self::draw::{BAR, escape, line_of_text, rect};
use super::judge::{Check, checks};
use super::model::Contender;
use super::results::{Group, Results};

// Everything in pixels of the drawing.
const WIDTH: f64 = 880.0;
const MARGIN: f64 = 24.0;
const TOP: f64 = 92.0;
const HEAD: f64 = 34.0;
const ROW: f64 = 17.0;
const GAP: f64 = 22.0;
/// Right of the names: the limits are as far from the middle as `HALF`.
const MIDDLE: f64 = 630.0;
const HALF: f64 = 150.0;
/// Nothing is drawn farther from the middle, in limits.
const FARTHEST: f64 = 1.4;
/// Goodput: where bars begin, and how long the longest is.
const BARS: f64 = 220.0;
const LONGEST: f64 = 540.0;

/// Draws the plot. What was not measured is left out.
pub(crate) fn plot(results: &Results) -> String {
    let checks = checks(results);
    let (streams, rest): (Vec<&Check>, Vec<&Check>) = checks
        .iter()
        .filter(|check| check.group != Group::Seed)
        .partition(|check| check.group == Group::Stream);
    let mut body = String::new();
    line_of_text(
        &mut body,
        "title",
        MARGIN,
        38.0,
        "gw --impair beside tc netem",
    );
    legend(&mut body);
    let mut y = TOP;
    if !rest.is_empty() {
        y = between_limits(&mut body, &rest, y) + GAP;
    }
    if !streams.is_empty() {
        y = goodput(&mut body, &streams, y) + GAP;
    }
    let kernel = results.facts.iter().find(|(name, _)| name == "netem");
    let note = format!(
        "Same packets, same kernel ({}), on virtual time.",
        kernel.map_or("unknown", |(_, fact)| fact.as_str())
    );
    line_of_text(&mut body, "note", MARGIN, y, &escape(&note));
    draw::page("gw --impair beside tc netem", WIDTH, y + 20.0, &body)
}

/// Colour of a contender.
fn class(contender: Contender) -> &'static str {
    match contender {
        Contender::Gw => "bar0",
        Contender::Netem => "bar1",
    }
}

fn legend(body: &mut String) {
    for (x, contender) in [(MARGIN, Contender::Gw), (MARGIN + 70.0, Contender::Netem)] {
        rect(body, class(contender), x, 58.0, 12.0);
        line_of_text(body, "", x + 18.0, 67.5, contender.name());
    }
}

fn heading(body: &mut String, y: f64, title: &str, note: &str) {
    line_of_text(body, "panel", MARGIN, y + 10.0, title);
    // Writing to a String cannot fail.
    let _ = writeln!(
        body,
        "<text class=\"note\" text-anchor=\"end\" x=\"{:.1}\" y=\"{:.1}\">{note}</text>\
         <line class=\"line\" x1=\"{MARGIN:.1}\" x2=\"{:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
        WIDTH - MARGIN,
        y + 10.0,
        WIDTH - MARGIN,
        y + 18.5,
        y + 18.5
    );
}

/// A line for each check, with a dot for each contender; returns where it ends.
fn between_limits(body: &mut String, checks: &[&Check], top: f64) -> f64 {
    heading(
        body,
        top,
        "Delay, jitter, loss, duplication, reordering, corruption, rate",
        "between the lines: within the limits",
    );
    let first = top + HEAD;
    let mut y = first;
    for check in checks {
        let name = format!(
            "{}, {}: {}",
            check.title,
            check.direction.name(),
            check.what
        );
        line_of_text(body, "row", MARGIN, y + 8.0, &escape(&name));
        for contender in [Contender::Netem, Contender::Gw] {
            if let Some(place) = check.value(contender).and_then(|value| place(check, value)) {
                let _ = writeln!(
                    body,
                    "<circle class=\"{}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>",
                    class(contender),
                    MIDDLE + HALF * place,
                    y + 4.5
                );
            }
        }
        y += ROW;
    }
    for (offset, dashes) in [(-HALF, ""), (0.0, " stroke-dasharray=\"2 4\""), (HALF, "")] {
        let _ = writeln!(
            body,
            "<line class=\"line\"{dashes} x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{:.1}\"/>",
            first - 6.0,
            y - 4.0,
            x = MIDDLE + offset
        );
    }
    y
}

/// Where a value is between limits, -1 to 1.
fn place(check: &Check, value: f64) -> Option<f64> {
    let half = (check.high - check.low) / 2.0;
    let middle = f64::midpoint(check.high, check.low);
    (half > 0.0).then(|| ((value - middle) / half).clamp(-FARTHEST, FARTHEST))
}

/// Two bars for each kind of stream; returns where it ends.
fn goodput(body: &mut String, checks: &[&Check], top: f64) -> f64 {
    heading(body, top, "TCP goodput, Mbit/s", "medians");
    let values = checks.iter().flat_map(|check| [check.netem, check.gw]);
    let greatest = values.flatten().fold(0.0, f64::max);
    let mut y = top + HEAD;
    for check in checks {
        let name = format!("{}, {}", check.title, check.direction.name());
        line_of_text(body, "row", MARGIN, y + 15.0, &escape(&name));
        for contender in [Contender::Gw, Contender::Netem] {
            if let Some(value) = check.value(contender).filter(|_| greatest > 0.0) {
                let width = (LONGEST * value / greatest).max(1.5);
                rect(body, class(contender), BARS, y, width);
                let text = format!("{value:.2}");
                line_of_text(body, "", BARS + width + 6.0, y + 9.5, &text);
            }
            y += BAR + 3.0;
        }
        y += 8.0;
    }
    y
}
