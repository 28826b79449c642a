//! A bar for each flow, from its beginning to its end.

use maud::{Markup, html};

use super::super::{Activity, FlowRow, Report};
use super::plot::{self, Stairs, rate, span, time_axis};
use super::{percent, words};
use crate::observe::{human, names};

/// Flows that are drawn: more would make a page that nobody scrolls through.
pub const MAX_BARS: usize = 500;

/// Height of a flow's row in pixels, and of the bar in it.
const ROW: usize = 20;
const BAR: usize = 10;

/// Height of the figures above.
const AXIS: usize = 20;

/// Characters of a name that can fit beside the bars.
const MAX_LABEL: usize = 60;

pub(super) fn section(report: &Report) -> Markup {
    let shown = &report.flows[..report.flows.len().min(MAX_BARS)];
    let all = report.overview.total.flows;
    html! {
        section aria-labelledby="timeline" {
            h2 #timeline { "Flows over time" }
            @if shown.is_empty() {
                p .empty { "There were none." }
            } @else {
                (legend(shown))
                figure .timeline tabindex="0" aria-labelledby="timeline" {
                    (bars(report, shown))
                }
                @if (shown.len() as u64) < all {
                    p .note {
                        "The first " (human::count(shown.len() as u64)) " of "
                        (human::count(all)) " flows."
                    }
                }
            }
        }
    }
}

/// What the colours mean: those that occur.
fn legend(shown: &[FlowRow]) -> Markup {
    let there = |verdict: &&&str| shown.iter().any(|flow| flow.verdict == **verdict);
    html! {
        ul .legend {
            @for verdict in names::VERDICTS.iter().filter(there) {
                li { span class={ "key " (fate(verdict)) " v-" (verdict) } {} (words(verdict)) }
            }
            @if shown.iter().any(|flow| flow.connect_seconds.is_some()) {
                li { span .key .connecting {} "connecting" }
            }
        }
    }
}

fn fate(verdict: &str) -> &'static str {
    if names::led_somewhere(verdict) {
        "led"
    } else {
        "failed"
    }
}

fn bars(report: &Report, shown: &[FlowRow]) -> Markup {
    let duration = span(report);
    let height = shown.len() * ROW;
    let label = format!(
        "{} flows over {}; the table of flows has the same figures",
        shown.len(),
        human::seconds(duration)
    );
    html! {
        svg .axis aria-hidden="true" width="100%" height=(AXIS) {
            svg class="when" x="31%" width="68%" { (time_axis(duration, "14")) }
        }
        svg #bars role="img" aria-label=(label) width="100%" height=(height) {
            svg class="who" x="0" width="30%" {
                @for (at, flow) in shown.iter().enumerate() {
                    text class="who-label" x="2" y=(at * ROW + 14) {
                        title { (tip(flow)) }
                        (human::shortened(&remote(flow), MAX_LABEL))
                    }
                }
            }
            svg class="when" x="31%" width="68%" {
                @for (at, flow) in shown.iter().enumerate() {
                    (bar(flow, at * ROW + (ROW - BAR) / 2, duration))
                }
            }
        }
    }
}

fn bar(flow: &FlowRow, y: usize, duration: f64) -> Markup {
    let FlowRow {
        start_seconds: start,
        end_seconds: end,
        ..
    } = *flow;
    let open = flow
        .connect_seconds
        .map_or(start, |connect| (start + connect).min(end));
    let width = |from: f64, to: f64| percent((to - from).max(0.0), duration);
    let fate = fate(flow.verdict);
    let followed = if flow.activity.is_some() {
        " followed"
    } else {
        ""
    };
    html! {
        g class={ "flow " (fate) (followed) " v-" (flow.verdict) } data-number=(flow.number) {
            title { (tip(flow)) }
            @if open > start {
                rect class="phase connecting" x=(percent(start, duration)) y=(y)
                    width=(width(start, open)) height=(BAR) {}
            }
            rect class="phase open" x=(percent(open, duration)) y=(y)
                width=(width(open, end)) height=(BAR) rx="1" {}
            @if let Some(activity) = &flow.activity {
                (shape(flow, activity, y, duration))
            }
            @if fate == "failed" {
                (said(flow, y, duration))
            }
        }
    }
}

/// What passed over time, both ways together, as a shape within the bar. The
/// highest fills it.
fn shape(flow: &FlowRow, activity: &Activity, y: usize, duration: f64) -> Markup {
    let both = activity.from_guest.iter().zip(&activity.to_guest);
    let rates: Vec<f64> = both
        .map(|(up, down)| rate(up.saturating_add(*down), activity.interval_seconds))
        .collect();
    let stairs = Stairs {
        rates: &rates,
        start: activity.start_seconds,
        interval: activity.interval_seconds,
        drawn: (flow.start_seconds, flow.end_seconds),
        duration,
        top: rates.iter().copied().fold(1.0, f64::max),
    };
    html! {
        svg x="0" y=(y) width="100%" height=(BAR) viewBox=(plot::VIEW_BOX)
            preserveAspectRatio="none" {
            path class="activity" d=(stairs.path()) {}
        }
    }
}

/// The verdict in words beside the bar: colours are not for everybody.
fn said(flow: &FlowRow, y: usize, duration: f64) -> Markup {
    let late = flow.end_seconds > duration * 0.7;
    let (x, dx, anchor) = if late {
        (flow.start_seconds, "-6", "end")
    } else {
        (flow.end_seconds, "6", "start")
    };
    html! {
        text class="verdict" x=(percent(x, duration)) y=(y + BAR - 1) dx=(dx)
            text-anchor=(anchor) { (words(flow.verdict)) }
    }
}

/// The other end: its name, else its address, and the port.
pub(super) fn remote(flow: &FlowRow) -> String {
    let port = flow.remote.port();
    let arrow = if flow.opened_by == "host" { "← " } else { "" };
    match (&flow.name, flow.protocol) {
        (Some(name), "echo") => format!("{arrow}{name}"),
        (Some(name), _) => format!("{arrow}{name}:{port}"),
        (None, "echo") => format!("{arrow}{}", flow.remote.ip()),
        (None, _) => format!("{arrow}{}", flow.remote),
    }
}

/// What is shown of a flow under the mouse.
fn tip(flow: &FlowRow) -> String {
    let mut lines = vec![format!(
        "{} {} · {}",
        flow.protocol.to_ascii_uppercase(),
        human::printable(&remote(flow)),
        words(flow.verdict)
    )];
    if flow.name.is_some() {
        lines.push(flow.remote.to_string());
    }
    if let Some(process) = &flow.process {
        let name = human::printable(&process.name);
        lines.push(format!("{name} (process {})", process.pid));
    }
    lines.push(format!(
        "from {} for {}",
        human::seconds(flow.start_seconds),
        human::seconds(flow.end_seconds - flow.start_seconds)
    ));
    if let Some(connect) = flow.connect_seconds {
        lines.push(format!("connected after {}", human::seconds(connect)));
    }
    lines.push(format!(
        "received {}, sent {}",
        human::bytes(flow.to_guest.bytes),
        human::bytes(flow.from_guest.bytes)
    ));
    lines.push(format!("{} by the {}", words(flow.ended), flow.ended_by));
    lines.join("\n")
}
