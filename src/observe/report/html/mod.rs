//! A report as a page for people.
//!
//! # Theory of operation
//! One file that needs no other and runs no script: its content security policy
//! lets a browser load nothing and execute nothing, whatever a guest managed to
//! have written into it. All text passes through `maud`, which escapes it, and
//! through [`human::printable`], which leaves nothing that turns lines around.
//!
//! Plots are inline SVG. Their lengths are percentages, so that text keeps its
//! size at every width; colours come from the style sheet, light or dark.

mod plot;
mod tables;
mod timeline;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{CommandEnd, Report};
use crate::observe::human;

pub use self::timeline::MAX_BARS;

const STYLE: &str = include_str!("style.css");

/// Nothing is loaded and nothing runs.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; \
                      form-action 'none'";

/// Characters of a command line that are shown in titles.
const MAX_TITLE: usize = 120;

/// Characters of a command line that are shown at all.
const MAX_COMMAND: usize = 2000;

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let command = command_line(report);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(format!("gw {}", report.overview.gw));
                meta name="color-scheme" content="light dark";
                title { (human::shortened(&command, MAX_TITLE)) " – network report" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (header(report, &command))
                main {
                    (glance(report))
                    (plot::section(report))
                    (timeline::section(report))
                    (tables::sections(report))
                }
                footer {
                    p {
                        "Written by gw " (report.overview.gw)
                        ". Bytes are payload, but for those of the plots, which are of frames; \
                         times of flows count from the gateway's beginning."
                    }
                }
            }
        }
    }
    .into_string()
}

fn header(report: &Report, command: &str) -> Markup {
    let overview = &report.overview;
    let (class, end) = match report.command.end {
        CommandEnd::ExitStatus(0) => ("good", "exit status 0".to_owned()),
        CommandEnd::ExitStatus(status) => ("bad", format!("exit status {status}")),
        CommandEnd::Signal(signal) => ("bad", format!("ended by signal {signal}")),
    };
    html! {
        header {
            p .kicker { "What a command did on the network" }
            h1 { code { bdi { (human::shortened(command, MAX_COMMAND)) } } }
            p .facts {
                span class={ "badge " (class) } { (end) }
                " ran for " strong { (human::seconds(overview.duration_seconds)) }
                ", started " time datetime=(overview.started) { (started(&overview.started)) }
            }
        }
    }
}

/// `2026-01-02T03:04:05.678Z` for people.
fn started(rfc3339: &str) -> String {
    let (day, time) = rfc3339.split_once('T').unwrap_or((rfc3339, ""));
    let time = time.split('.').next().unwrap_or_default();
    format!("{day} {time} UTC")
}

/// The command's words, those quoted that need it.
fn command_line(report: &Report) -> String {
    let words = report.command.arguments.iter().map(String::as_str);
    shlex::try_join(words.clone()).unwrap_or_else(|_| words.collect::<Vec<_>>().join(" "))
}

/// The most important figures.
fn glance(report: &Report) -> Markup {
    let total = &report.overview.total;
    let named = report.remotes.iter().filter(|r| r.name.is_some()).count();
    let tile = |title: &str, figure: String, more: String| {
        html! {
            div {
                dt { (title) }
                dd { strong { (figure) } span { (more) } }
            }
        }
    };
    let packets = |load: &super::Load| format!("{} packets", human::count(load.packets));
    let connect = report.overview.connect;
    let retransmits = total.from_guest.retransmits + total.to_guest.retransmits;
    html! {
        section aria-label="At a glance" {
            dl .tiles {
                (tile("Received", human::bytes(total.to_guest.bytes), packets(&total.to_guest)))
                (tile("Sent", human::bytes(total.from_guest.bytes), packets(&total.from_guest)))
                (tile(
                    "Flows",
                    human::count(total.flows),
                    format!("{} at one time at most", report.overview.gateway.peak_flows),
                ))
                (tile(
                    "Led nowhere",
                    human::count(total.failed),
                    if total.failed == 0 { "every flow was answered".into() } else { failures(report) },
                ))
                (tile(
                    "Remotes",
                    human::count(report.remotes.len() as u64),
                    format!("{named} by name"),
                ))
                @if let Some(connect) = connect {
                    (tile(
                        "Time to connect",
                        human::seconds(connect.median_seconds),
                        format!("median; 95 % within {}", human::seconds(connect.p95_seconds)),
                    ))
                }
                @if retransmits > 0 {
                    (tile("Sent again", human::count(retransmits), "packets of TCP".into()))
                }
            }
            @if report.overview.lost_events > 0 {
                p .note role="note" {
                    "This is not all: " (human::count(report.overview.lost_events))
                    " events came faster than they could be taken."
                }
            }
        }
    }
}

fn failures(report: &Report) -> String {
    let failed = report.overview.total.verdicts.iter();
    let failed = failed.filter(|(verdict, _)| !crate::observe::names::led_somewhere(verdict));
    let parts: Vec<String> = failed
        .map(|(verdict, count)| format!("{} {}", human::count(*count), words(verdict)))
        .collect();
    parts.join(", ")
}

/// `no_answer` is `no answer`.
fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A place on an axis from 0 to `whole`, in percent with three digits behind the
/// point: finer than any screen.
fn percent(part: f64, whole: f64) -> String {
    let percent = if whole > 0.0 {
        part / whole * 100.0
    } else {
        0.0
    };
    let text = format!("{:.3}", percent.clamp(0.0, 100.0));
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}%")
}

/// Marks of an axis from 0 to `whole`: round figures, three to seven of them.
fn ticks(whole: f64) -> Vec<f64> {
    const MOST: f64 = 6.0;
    if !whole.is_finite() || whole <= 0.0 {
        return vec![0.0];
    }
    let rough = whole / MOST;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= rough)
        .unwrap_or(magnitude);
    // Multiplied, not summed up: no error adds up.
    (0..=7u32)
        .map(|n| f64::from(n) * step)
        .take_while(|at| *at <= whole * (1.0 + 1e-9))
        .collect()
}

/// A round figure without the zeros behind its point: `2.00 s` is `2 s`.
fn round(text: &str) -> String {
    match text.split_once(' ') {
        Some((figure, unit)) if figure.contains('.') => {
            let figure = figure.trim_end_matches('0').trim_end_matches('.');
            format!("{figure} {unit}")
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
