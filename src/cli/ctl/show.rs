//! Answers for people.

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{CellAlignment, Table};

use crate::control::proto::{
    Capture, CaptureState, Flow, FlowDirection, FlowProtocol, FlowState, Forward, Hello, Host,
    Impairment, Lease, Network, Port, Reply, Statistics, Traffic,
};
use crate::forward::ForwardSpec;
use crate::impair::{Direction, RuleCounts};

/// How tables are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Lines made for terminals.
    Terminal,
    /// Markdown, for files and pipes.
    Plain,
}

/// The answer as text without a last end of line; `None`: there is nothing to
/// say.
pub(super) fn text(reply: &Reply, style: Style) -> Option<String> {
    let text = match reply {
        Reply::Done {} => return None,
        Reply::Hello(hello) => lines(&about(hello)),
        Reply::Forward { id } => id.to_string(),
        Reply::Forwards { forwards, .. } => forwards_table(forwards, style),
        Reply::Hosts { hosts, .. } => hosts_table(hosts, style),
        Reply::Flows { flows, .. } => flows_table(flows, style),
        Reply::Leases { leases } => leases_table(leases, style),
        Reply::Ports { ports } => ports_table(ports, style),
        Reply::Capture { id } => id.to_string(),
        Reply::Captures { captures } => captures_table(captures, style),
        Reply::Statistics(statistics) => lines(&counts(statistics)),
        Reply::Impairments { rules } => rules_table(rules, style),
        Reply::Impairment(rule) => rule.id.to_string(),
    };
    Some(text)
}

fn table<'a>(style: Style, header: impl IntoIterator<Item = &'a str>, right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(match style {
        Style::Terminal => UTF8_FULL_CONDENSED,
        Style::Plain => ASCII_MARKDOWN,
    });
    table.set_header(header.into_iter().collect::<Vec<_>>());
    for &at in right {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn forwards_table(forwards: &[Forward], style: Style) -> String {
    let mut table = table(
        style,
        ["ID", "Direction", "Forward", "Listens at", "By"],
        &[0],
    );
    for forward in forwards {
        let (direction, what) = match &forward.forward {
            ForwardSpec::Publish(publish) => ("host to guest", publish.to_string()),
            ForwardSpec::Expose(expose) => ("guest to host", expose.to_string()),
        };
        table.add_row([
            forward.id.to_string(),
            direction.to_owned(),
            what,
            forward.at.join(", "),
            format!("{:?}", forward.origin),
        ]);
    }
    table.to_string()
}

fn hosts_table(hosts: &[Host], style: Style) -> String {
    let mut table = table(style, ["Name", "Address"], &[]);
    for host in hosts {
        table.add_row([host.name.clone(), host.addr.to_string()]);
    }
    table.to_string()
}

fn flows_table(flows: &[Flow], style: Style) -> String {
    let named = flows.iter().any(|flow| flow.name.is_some());
    let owned = flows.iter().any(|flow| flow.process.is_some());
    let header = [
        "ID",
        "Protocol",
        "Guest",
        "",
        "Remote",
        "State",
        "To guest",
        "From guest",
        "Age",
        "Idle",
    ];
    let header = header
        .into_iter()
        .chain(named.then_some("Name"))
        .chain(owned.then_some("Process"));
    let mut table = table(style, header, &[0, 6, 7, 8, 9]);
    for flow in flows {
        let mut row = vec![
            String::from(flow.id),
            protocol(flow.protocol).to_owned(),
            flow.guest.to_string(),
            arrow(flow.direction).to_owned(),
            remote(flow),
            state(flow.state).to_owned(),
            flow.to_guest.to_string(),
            flow.from_guest.to_string(),
            duration(flow.age_seconds),
            duration(flow.idle_seconds),
        ];
        if named {
            row.push(flow.name.clone().unwrap_or_default());
        }
        if owned {
            row.push(process(flow));
        }
        table.add_row(row);
    }
    table.to_string()
}

/// Its name and number.
fn process(flow: &Flow) -> String {
    let process = flow.process.as_ref();
    process.map_or_else(String::new, |p| format!("{} ({})", p.name, p.pid))
}

/// As the guest sees it, and as the host does where that differs.
fn remote(flow: &Flow) -> String {
    match flow.peer {
        Some(peer) if peer != flow.remote => format!("{} ({peer})", flow.remote),
        _ => flow.remote.to_string(),
    }
}

const fn arrow(direction: FlowDirection) -> &'static str {
    match direction {
        FlowDirection::Outbound => "->",
        FlowDirection::Inbound => "<-",
    }
}

const fn state(state: FlowState) -> &'static str {
    match state {
        FlowState::Connecting => "connecting",
        FlowState::Open => "open",
        FlowState::HalfClosed => "half closed",
    }
}

const fn protocol(protocol: FlowProtocol) -> &'static str {
    match protocol {
        FlowProtocol::Tcp => "TCP",
        FlowProtocol::Udp => "UDP",
    }
}

fn leases_table(leases: &[Lease], style: Style) -> String {
    let mut table = table(style, ["Address", "MAC", "Name", "Ends in"], &[3]);
    for lease in leases {
        table.add_row([
            lease.addr.to_string(),
            lease.mac.clone(),
            lease.hostname.clone().unwrap_or_default(),
            duration(lease.seconds_left),
        ]);
    }
    table.to_string()
}

fn ports_table(ports: &[Port], style: Style) -> String {
    let header = [
        "ID",
        "Port",
        "Stations",
        "Received",
        "Sent",
        "Not sent",
        "Malformed",
    ];
    let mut table = table(style, header, &[0, 3, 4, 5, 6]);
    for port in ports {
        let mut stations = port.stations.join(", ");
        if port.more_stations > 0 {
            stations.push_str(&format!(" and {} more", port.more_stations));
        }
        table.add_row([
            port.id.to_string(),
            port.name.clone(),
            stations,
            port.received.to_string(),
            port.sent.to_string(),
            port.not_sent.to_string(),
            port.malformed.to_string(),
        ]);
    }
    table.to_string()
}

/// A row for each direction of each rule.
fn rules_table(rules: &[Impairment], style: Style) -> String {
    let header = [
        "ID",
        "Rule",
        "Seed",
        "Now",
        "",
        "Packets",
        "Bytes",
        "Lost",
        "Copied",
        "Reordered",
        "Corrupted",
        "Delayed",
        "Queue full",
    ];
    let mut table = table(style, header, &[0, 2, 5, 6, 7, 8, 9, 10, 11, 12]);
    for rule in rules {
        let mut about = [
            rule.id.to_string(),
            rule.rule.to_string(),
            rule.seed.map(|seed| seed.to_string()).unwrap_or_default(),
            if rule.in_force { "on" } else { "off" }.to_owned(),
        ];
        for (direction, name, counts) in [
            (Direction::Up, "up", rule.up),
            (Direction::Down, "down", rule.down),
        ] {
            if rule.rule.way.includes(direction) {
                let about = std::mem::take(&mut about).into_iter();
                let counts = columns(counts).map(|count| count.to_string());
                table.add_row(about.chain([name.to_owned()]).chain(counts));
            }
        }
    }
    table.to_string()
}

fn captures_table(captures: &[Capture], style: Style) -> String {
    let header = ["ID", "Capture", "State", "File", "Packets", "Bytes", "Lost"];
    let mut table = table(style, header, &[0, 4, 5, 6]);
    for capture in captures {
        let state = match capture.state {
            CaptureState::Waiting => "waiting for a reader",
            CaptureState::Running => "running",
            CaptureState::Ending => "ending",
        };
        table.add_row([
            capture.id.to_string(),
            capture.capture.to_string(),
            state.to_owned(),
            capture.file.clone().unwrap_or_default(),
            capture.packets.to_string(),
            capture.bytes.to_string(),
            capture.lost.to_string(),
        ]);
    }
    table.to_string()
}

const fn columns(counts: RuleCounts) -> [u64; 8] {
    let RuleCounts {
        packets,
        bytes,
        lost,
        duplicated,
        reordered,
        corrupted,
        delayed,
        queue_dropped,
    } = counts;
    [
        packets,
        bytes,
        lost,
        duplicated,
        reordered,
        corrupted,
        delayed,
        queue_dropped,
    ]
}

fn about(hello: &Hello) -> Vec<(String, String)> {
    let network = |network: &Option<Network>| match network {
        None => "none".to_owned(),
        Some(Network {
            network,
            gateway,
            resolver,
            guest,
        }) => format!("{network}: gateway {gateway}, resolver {resolver}, guest {guest}"),
    };
    let on = |on| if on { "on" } else { "off" }.to_owned();
    named([
        (
            "version",
            format!("gw {}, protocol {}", hello.version, hello.protocol),
        ),
        ("process", hello.pid.to_string()),
        ("running for", duration(hello.uptime_seconds)),
        (
            "interface",
            format!("{}, MTU {} bytes", hello.interface, hello.mtu),
        ),
        ("IPv4", network(&hello.ipv4)),
        ("IPv6", network(&hello.ipv6)),
        ("host loopback", hello.host_loopback.clone()),
        ("DNS", on(hello.dns)),
        ("ping", on(hello.icmp)),
    ])
}

fn counts(statistics: &Statistics) -> Vec<(String, String)> {
    let traffic = |traffic: Traffic| format!("{} frames, {} bytes", traffic.frames, traffic.bytes);
    let Statistics { flows, memory, .. } = statistics;
    let mut rows = named([
        ("running for", duration(statistics.uptime_seconds)),
        ("flows", format!("{} TCP, {} UDP", flows.tcp, flows.udp)),
        (
            "memory",
            format!("{} of {} bytes", memory.used, memory.budget),
        ),
        ("from guest", traffic(statistics.from_guest)),
        ("to guest", traffic(statistics.to_guest)),
    ]);
    rows.extend(statistics.dropped.iter().map(|(reason, count)| {
        let reason = reason.replace('_', " ");
        (format!("dropped, {reason}"), count.to_string())
    }));
    rows
}

fn named<const N: usize>(rows: [(&str, String); N]) -> Vec<(String, String)> {
    rows.map(|(name, value)| (name.to_owned(), value)).into()
}

fn lines(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let lines = rows
        .iter()
        .map(|(name, value)| format!("{name:<width$}  {value}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// `1 h 5 min`, `5 min 3 s`, `3 s`.
fn duration(seconds: u64) -> String {
    let (minutes, s) = (seconds / 60, seconds % 60);
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{s} s"),
        (0, min) => format!("{min} min {s} s"),
        (h, min) => format!("{h} h {min} min"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU32;

    use crate::control::proto::{Cursor, FlowCounts, FlowId, FlowProcess, Memory};
    use crate::forward::ForwardId;
    use crate::impair::RuleId;

    #[test]
    fn durations() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3599, "59 min 59 s"),
            (3600, "1 h 0 min"),
            (90_000, "25 h 0 min"),
        ] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn answers_are_readable() {
        let id = ForwardId(NonZeroU32::MIN);
        assert_eq!(text(&Reply::Done {}, Style::Plain), None);
        assert_eq!(
            text(&Reply::Forward { id }, Style::Plain).as_deref(),
            Some("1")
        );
        let flows = Reply::Flows {
            flows: vec![Flow {
                id: FlowId(0x1_0000_0000_0007),
                protocol: FlowProtocol::Tcp,
                guest: "10.0.2.100:40000".parse().expect("an address"),
                remote: "10.0.2.2:80".parse().expect("an address"),
                peer: Some("127.0.0.1:80".parse().expect("an address")),
                direction: FlowDirection::Outbound,
                state: FlowState::HalfClosed,
                to_guest: 1234,
                from_guest: 567,
                age_seconds: 61,
                idle_seconds: 0,
                name: Some("www.example".to_owned()),
                process: Some(FlowProcess {
                    pid: 77,
                    name: "curl".to_owned(),
                    exe: None,
                }),
            }],
            next: Some(Cursor("7".to_owned())),
        };
        let table = text(&flows, Style::Plain).expect("a table");
        let cells = [
            "1000000000007",
            "TCP",
            "10.0.2.100:40000",
            "->",
            "10.0.2.2:80 (127.0.0.1:80)",
            "half closed",
            "1234",
            "567",
            "1 min 1 s",
            "0 s",
            "www.example",
            "curl (77)",
        ];
        let row = table.lines().last().expect("a row");
        let shown: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        assert_eq!(shown, cells, "{table}");
        let counts = RuleCounts {
            packets: 10,
            bytes: 1000,
            lost: 3,
            ..RuleCounts::default()
        };
        let rules = Reply::Impairments {
            rules: vec![Impairment {
                id: RuleId(2),
                rule: "loss=30%".parse().expect("a rule"),
                seed: Some(7),
                in_force: true,
                up: counts,
                down: RuleCounts::default(),
            }],
        };
        let table = text(&rules, Style::Plain).expect("a table");
        let rows = table.lines().skip(2).map(|row| {
            let cells = row.trim_matches('|').split('|').map(str::trim);
            cells.collect::<Vec<_>>().join(",")
        });
        assert_eq!(
            rows.collect::<Vec<_>>(),
            [
                "2,loss=30%,7,on,up,10,1000,3,0,0,0,0,0",
                ",,,,down,0,0,0,0,0,0,0,0"
            ],
            "{table}"
        );
        let statistics = Reply::Statistics(Box::new(Statistics {
            uptime_seconds: 61,
            flows: FlowCounts { tcp: 2, udp: 1 },
            memory: Memory {
                used: 7,
                budget: 1 << 20,
            },
            from_guest: Traffic::default(),
            to_guest: Traffic::default(),
            dropped: [("table_full".to_owned(), 3)].into(),
        }));
        let said = text(&statistics, Style::Plain).expect("lines");
        for line in [
            "running for          1 min 1 s",
            "memory               7 of 1048576 bytes",
            "dropped, table full  3",
        ] {
            assert!(said.lines().any(|said| said == line), "{said}");
        }
    }
}
