//! The tables.

use maud::{Markup, html};

use super::super::{FlowRow, ProgramRow, RemoteRow, Report, SumsRow, TimesRow};
use super::{timeline, words};
use crate::observe::{human, names};

/// Flows in the table: a browser takes a second for as many.
const MAX_ROWS: usize = 2000;

/// Rows of a table that is shown unfolded.
const UNFOLDED: usize = 60;

pub(super) fn sections(report: &Report) -> Markup {
    html! {
        (remotes(report))
        (programs(report))
        (flows(report))
        (dropped(report))
        (gateway(report))
    }
}

/// A table that scrolls by itself where the screen is narrow.
fn table(label: &str, heads: &[(&str, &str)], rows: &Markup) -> Markup {
    html! {
        div .scroll tabindex="0" role="region" aria-label=(label) {
            table {
                thead {
                    tr {
                        @for (class, head) in heads {
                            th scope="col" class=(class) { (head) }
                        }
                    }
                }
                tbody { (rows) }
            }
        }
    }
}

fn remotes(report: &Report) -> Markup {
    const HEADS: [(&str, &str); 8] = [
        ("", "Remote"),
        ("", "Protocol"),
        ("n", "Flows"),
        ("", "Verdicts"),
        ("n", "Received"),
        ("n", "Sent"),
        ("n", "Connect"),
        ("n", "Round trip"),
    ];
    let rows = html! {
        @for remote in &report.remotes { (remote_row(remote)) }
        @if let Some(others) = &report.other_remotes {
            tr {
                th scope="row" { em { "others" } }
                td {}
                (sums(others))
                td .n {}
                td .n {}
            }
        }
    };
    html! {
        section aria-labelledby="remotes" {
            h2 #remotes { "Remotes" }
            @if report.remotes.is_empty() {
                p .empty { "There were none." }
            } @else {
                (folded(report.remotes.len(), &table("Remotes", &HEADS, &rows)))
                p .note { "Connect and round trip: the median; 95 % are within what follows." }
            }
        }
    }
}

fn remote_row(remote: &RemoteRow) -> Markup {
    let host = remote.name.as_deref().map(human::printable);
    let addresses: Vec<String> = remote.addresses.iter().map(ToString::to_string).collect();
    let addresses = addresses.join(", ");
    html! {
        tr {
            th scope="row" {
                @match &host {
                    Some(name) => { bdi { (name) } (port(remote)) br; small { (addresses) } }
                    None => { (addresses) (port(remote)) }
                }
            }
            td { (remote.protocol.to_ascii_uppercase()) }
            (sums(&remote.sums))
            td .n { (times(remote.connect)) }
            td .n { (times(remote.rtt)) }
        }
    }
}

fn port(remote: &RemoteRow) -> Markup {
    html! {
        @match (remote.port, remote.protocol) {
            (_, "echo") => {}
            (Some(port), _) => { span .port { ":" (port) } }
            (None, _) => { " " span .port { "as a client" } }
        }
    }
}

fn times(times: Option<TimesRow>) -> Markup {
    html! {
        @match times {
            Some(times) => {
                (human::seconds(times.median_seconds)) br;
                small { (human::seconds(times.p95_seconds)) }
            }
            None => { span .none { "–" } }
        }
    }
}

/// Flows, verdicts, received, sent.
fn sums(sums: &SumsRow) -> Markup {
    html! {
        td .n { (human::count(sums.flows)) }
        td { (verdicts(sums)) }
        td .n { (human::bytes(sums.to_guest.bytes)) }
        td .n { (human::bytes(sums.from_guest.bytes)) }
    }
}

fn verdicts(sums: &SumsRow) -> Markup {
    html! {
        @for (verdict, count) in &sums.verdicts {
            span class={ "chip v-" (verdict) } {
                (words(verdict))
                @if *count > 1 { " " (human::count(*count)) }
            }
            " "
        }
    }
}

fn programs(report: &Report) -> Markup {
    const HEADS: [(&str, &str); 6] = [
        ("", "Program"),
        ("", "Processes"),
        ("n", "Flows"),
        ("", "Verdicts"),
        ("n", "Received"),
        ("n", "Sent"),
    ];
    if report.programs.is_empty() {
        return html! {};
    }
    let rows = html! {
        @for program in &report.programs { (program_row(program)) }
        @if let Some(others) = &report.other_programs {
            tr {
                th scope="row" { em { "not known" } }
                td {}
                (sums(others))
            }
        }
    };
    html! {
        section aria-labelledby="programs" {
            h2 #programs { "Programs" }
            (folded(report.programs.len(), &table("Programs", &HEADS, &rows)))
        }
    }
}

fn program_row(program: &ProgramRow) -> Markup {
    let pids: Vec<String> = program.pids.iter().map(ToString::to_string).collect();
    html! {
        tr {
            th scope="row" {
                bdi { (human::printable(&program.name)) }
                @if let Some(exe) = &program.exe {
                    br;
                    small { bdi { (human::printable(exe)) } }
                }
            }
            td .pids { (pids.join(", ")) }
            (sums(&program.sums))
        }
    }
}

fn flows(report: &Report) -> Markup {
    const HEADS: [(&str, &str); 9] = [
        ("n", "Start"),
        ("", "Remote"),
        ("", "Protocol"),
        ("", "Program"),
        ("", "Verdict"),
        ("n", "Connect"),
        ("n", "Length"),
        ("n", "Received"),
        ("n", "Sent"),
    ];
    let shown = &report.flows[..report.flows.len().min(MAX_ROWS)];
    let all = report.overview.total.flows;
    let failed = report.overview.total.failed;
    if shown.is_empty() {
        return html! {};
    }
    let rows = html! { @for flow in shown { (flow_row(flow)) } };
    let body = html! {
        @if failed > 0 && failed < all {
            fieldset .filter {
                legend { "Show" }
                label { input type="radio" name="show" id="show-all" checked; " all" }
                label { input type="radio" name="show" id="show-failed"; " what led nowhere" }
            }
        }
        (table("Flows", &HEADS, &rows))
    };
    html! {
        section .flows aria-labelledby="flows" {
            h2 #flows { "Flows" }
            (folded(shown.len(), &body))
            @if (shown.len() as u64) < all {
                p .note {
                    "The first " (human::count(shown.len() as u64)) " of " (human::count(all)) "."
                }
            }
        }
    }
}

fn flow_row(flow: &FlowRow) -> Markup {
    let fate = if names::led_somewhere(flow.verdict) {
        "led"
    } else {
        "failed"
    };
    html! {
        tr class=(fate) {
            td .n { (human::seconds(flow.start_seconds)) }
            th scope="row" {
                bdi { (human::printable(&timeline::remote(flow))) }
                @if flow.name.is_some() { br; small { (flow.remote.ip()) } }
            }
            td { (flow.protocol.to_ascii_uppercase()) }
            td {
                @match &flow.process {
                    Some(process) => {
                        bdi { (human::printable(&process.name)) } " " small { (process.pid) }
                    }
                    None => { span .none { "–" } }
                }
            }
            td {
                span class={ "chip v-" (flow.verdict) } { (words(flow.verdict)) }
                @if flow.ended != "finished" && flow.ended != "turned_away" {
                    " " small { (words(flow.ended)) " by the " (flow.ended_by) }
                }
            }
            td .n {
                @match flow.connect_seconds {
                    Some(connect) => { (human::seconds(connect)) }
                    None => { span .none { "–" } }
                }
            }
            td .n { (human::seconds(flow.end_seconds - flow.start_seconds)) }
            td .n { (human::bytes(flow.to_guest.bytes)) }
            td .n { (human::bytes(flow.from_guest.bytes)) }
        }
    }
}

fn dropped(report: &Report) -> Markup {
    if report.overview.dropped.is_empty() {
        return html! {};
    }
    let rows = html! {
        @for (reason, count) in &report.overview.dropped {
            tr {
                th scope="row" { (words(reason)) }
                td .n { (human::count(*count)) }
            }
        }
    };
    html! {
        section aria-labelledby="dropped" {
            h2 #dropped { "Packets that were not carried" }
            (table("Packets that were not carried", &[("", "Reason"), ("n", "Packets")], &rows))
        }
    }
}

fn gateway(report: &Report) -> Markup {
    let gateway = &report.overview.gateway;
    let link = &report.overview.link;
    let row = |what: &str, value: String| {
        html! { tr { th scope="row" { (what) } td .n { (value) } } }
    };
    let frames = |frames: &super::super::Frames| {
        format!(
            "{} in {} frames",
            human::bytes(frames.bytes),
            human::count(frames.frames)
        )
    };
    let rows = html! {
        (row("Frames towards the guest", frames(&link.to_guest)))
        (row("Frames from the guest", frames(&link.from_guest)))
        (row("Most flows at one time", human::count(gateway.peak_flows as u64)))
        (row("Most memory in buffers", human::bytes(gateway.peak_buffers as u64)))
        @if let Some(resident) = gateway.peak_resident {
            (row("Most memory of the process", human::bytes(resident)))
        }
        @if let Some(cpu) = gateway.cpu_seconds {
            (row("Processor time", human::seconds(cpu)))
        }
    };
    html! {
        section aria-labelledby="gateway" {
            h2 #gateway { "The gateway" }
            (table("The gateway", &[("", "What"), ("n", "How much")], &rows))
        }
    }
}

/// Long tables are folded away.
fn folded(rows: usize, table: &Markup) -> Markup {
    html! {
        @if rows > UNFOLDED {
            details {
                summary { (human::count(rows as u64)) " rows" }
                (table)
            }
        } @else {
            (table)
        }
    }
}
