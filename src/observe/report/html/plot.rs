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

/// Both, as SVG has them.
pub(super) const VIEW_BOX: &str = "0 0 1000 100";

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
    let stairs = Stairs {
        rates: &rates,
        start: 0.0,
        interval,
        drawn: (0.0, duration),
        duration,
        top,
    };
    html! {
        figure .plot {
            figcaption { (summary) }
            svg role="img" aria-label=(summary) width="100%" height="140" {
                svg class="area" x="0" y="0" width="100%" height="120"
                    viewBox=(VIEW_BOX) preserveAspectRatio="none" {
                    path class={ "rate " (class) } d=(stairs.path()) {}
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

/// A figure for every interval.
pub(super) struct Stairs<'a> {
    pub(super) rates: &'a [f64],
    /// Where the first interval begins, in seconds.
    pub(super) start: f64,
    /// Length of an interval in seconds.
    pub(super) interval: f64,
    /// What is drawn, from and to which second: intervals may begin before and
    /// end behind what they are about.
    pub(super) drawn: (f64, f64),
    /// What the whole width stands for, in seconds.
    pub(super) duration: f64,
    /// What the whole height stands for.
    pub(super) top: f64,
}

impl Stairs<'_> {
    /// A filled flight of stairs in [`VIEW_BOX`].
    pub(super) fn path(&self) -> String {
        let x = |at: usize| {
            let seconds = self.start + begin_of(at, self.interval);
            let seconds = seconds.max(self.drawn.0).min(self.drawn.1);
            (seconds / self.duration * WIDTH).clamp(0.0, WIDTH)
        };
        let y = |rate: f64| HEIGHT - rate / self.top * HEIGHT;
        let mut path = format!("M{:.2} {HEIGHT}", x(0));
        let mut level = 0.0;
        for (at, rate) in self.rates.iter().enumerate() {
            #[expect(clippy::float_cmp, reason = "the same figure again needs no step")]
            if *rate != level {
                // Writing to a String cannot fail.
                let _ = write!(path, "H{:.2}V{:.2}", x(at), y(*rate));
                level = *rate;
            }
        }
        let _ = write!(path, "H{:.2}V{HEIGHT}Z", x(self.rates.len()));
        path
    }
}

fn begin_of(interval: usize, length: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "there are a few hundred")]
    let at = interval as f64;
    at * length
}

/// Bits per second.
pub(super) fn rate(bytes: u64, interval: f64) -> f64 {
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
