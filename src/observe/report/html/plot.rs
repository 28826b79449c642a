//! Throughput over time: one plot for each direction.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::super::Report;
use super::{percent, round, ticks};
use crate::observe::human;

/// Height of a plot in its own units; the width is [`WIDTH`]. The style sheet
/// gives both their size.
const HEIGHT: f64 = 100.0;
const WIDTH: f64 = 1000.0;

pub(super) fn section(report: &Report) -> Markup {
    let throughput = &report.throughput;
    let nothing = throughput.to_guest.is_empty();
    html! {
        section aria-labelledby="throughput" {
            h2 #throughput { "Throughput" }
            @if nothing {
                p .empty { "Nothing passed." }
            } @else {
                (direction(report, "received", "Received", &throughput.to_guest))
                (direction(report, "sent", "Sent", &throughput.from_guest))
                p .note {
                    "Bytes of frames on the guest's link, in intervals of "
                    (human::seconds(throughput.interval_seconds)) "."
                }
            }
        }
    }
}

fn direction(report: &Report, class: &str, title: &str, bytes: &[u64]) -> Markup {
    let interval = report.throughput.interval_seconds;
    let duration = span(report);
    let rates: Vec<f64> = bytes.iter().map(|bytes| rate(*bytes, interval)).collect();
    let peak = rates.iter().copied().fold(0.0, f64::max);
    let sum: u64 = bytes.iter().sum();
    let summary = format!(
        "{title}: {} in all, {} at most",
        human::bytes(sum),
        human::bit_rate(peak)
    );
    let marks = ticks(peak);
    // A line of room above the highest mark.
    let top = peak.max(marks.last().copied().unwrap_or(0.0)).max(1.0) * 1.08;
    html! {
        figure .plot {
            figcaption { (summary) }
            svg role="img" aria-label=(summary) width="100%" height="140" {
                svg class="area" x="0" y="0" width="100%" height="120"
                    viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" {
                    path class={ "rate " (class) } d=(steps(&rates, interval, duration, top)) {}
                }
                @for mark in &marks {
                    @let y = format!("{:.1}", 120.0 - mark / top * 120.0);
                    line class="grid" x1="0" x2="100%" y1=(y) y2=(y) {}
                    @if *mark > 0.0 {
                        text class="mark" x="2" y=(y) dy="-3" { (round(&human::bit_rate(*mark))) }
                    }
                }
                (time_axis(duration, "134"))
            }
        }
    }
}

/// A figure for every interval, as a filled flight of stairs.
fn steps(rates: &[f64], interval: f64, duration: f64, top: f64) -> String {
    let x = |seconds: f64| (seconds / duration * WIDTH).clamp(0.0, WIDTH);
    let y = |rate: f64| HEIGHT - rate / top * HEIGHT;
    let mut path = format!("M0 {HEIGHT}");
    let mut level = 0.0;
    let mut end = 0.0;
    for (at, rate) in rates.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "there are a few hundred")]
        let begin = x(at as f64 * interval);
        end = x(begin_of(at + 1, interval));
        #[expect(clippy::float_cmp, reason = "the same figure again needs no step")]
        if *rate != level {
            // Writing to a String cannot fail.
            let _ = write!(path, "H{begin:.2}V{:.2}", y(*rate));
            level = *rate;
        }
    }
    let _ = write!(path, "H{end:.2}V{HEIGHT}Z");
    path
}

fn begin_of(interval: usize, length: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "there are a few hundred")]
    let at = interval as f64;
    at * length
}

/// Bits per second.
fn rate(bytes: u64, interval: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        reason = "it becomes a length on a screen"
    )]
    let bits = bytes as f64 * 8.0;
    if interval > 0.0 { bits / interval } else { 0.0 }
}

/// What the time axes span: all of the run, and never nothing.
pub(super) fn span(report: &Report) -> f64 {
    report.overview.duration_seconds.max(0.001)
}

/// Figures below a plot, `y` from its top.
pub(super) fn time_axis(duration: f64, y: &str) -> Markup {
    html! {
        @for (at, mark) in ticks(duration).into_iter().enumerate() {
            @let x = percent(mark, duration);
            @let anchor = if mark == 0.0 {
                "start"
            } else if mark > duration * 0.94 {
                "end"
            } else {
                "middle"
            };
            @let class = if at % 2 == 1 { "mark time odd" } else { "mark time" };
            text class=(class) x=(x) y=(y) text-anchor=(anchor) { (round(&human::seconds(mark))) }
        }
    }
}
