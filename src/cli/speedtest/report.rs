//! The result as a table and as JSON.

use comfy_table::presets::{ASCII_MARKDOWN, UTF8_FULL_CONDENSED};
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::client::datagram_rate;
use super::proto::{Arrived, Measured, Outcome, Phase};

/// How the table is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// Lines made for terminals.
    Terminal,
    /// Markdown, for files and pipes.
    Plain,
}

/// What a test found, as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The link's MTU in bytes.
    pub(super) mtu: u16,
    /// `IPv4` or `IPv6`.
    pub(super) protocol: &'static str,
    /// The machine's TCP congestion control. It matters: bbr, for one, paces even
    /// what never leaves the machine.
    pub(super) congestion_control: String,
    /// Length of a phase in seconds.
    pub(super) duration_seconds: f64,
    /// The phases.
    pub(super) phases: Vec<Outcome>,
    /// Whether all of them worked.
    pub(super) ok: bool,
}

impl Report {
    /// The table.
    pub(super) fn table(&self, style: Style) -> String {
        let mut table = Table::new();
        table.load_style(match style {
            Style::Terminal => UTF8_FULL_CONDENSED,
            Style::Plain => ASCII_MARKDOWN,
        });
        table.set_header(["Test", "Result", "Verified"]);
        for outcome in &self.phases {
            let [result, verified] = match &outcome.result {
                Ok(measured) => [result(measured), verified(measured)],
                Err(why) => ["FAILED".into(), why.clone()],
            };
            table.add_row([title(outcome.phase), result, verified]);
        }
        if let Some(column) = table.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let Self {
            protocol,
            mtu,
            congestion_control,
            ..
        } = self;
        let caption = format!(
            "Through the gateway: {protocol}, MTU {mtu}, congestion control \
             {congestion_control}; every byte verified"
        );
        format!("{caption}\n{table}")
    }

    /// The same as one JSON object.
    ///
    /// # Errors
    /// Never in practice: all of it can be encoded.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

/// What a phase is called.
pub(super) fn title(phase: Phase) -> String {
    let streams = |count| match count {
        1 => "1 stream".to_owned(),
        count => format!("{count} streams"),
    };
    match phase {
        Phase::TcpUpload { streams: count } => format!("TCP upload, {}", streams(count)),
        Phase::TcpDownload { streams: count } => format!("TCP download, {}", streams(count)),
        Phase::UdpUpload => "UDP upload".into(),
        Phase::UdpDownload => "UDP download".into(),
        Phase::TcpLatency => "TCP round trip".into(),
        Phase::UdpLatency => "UDP round trip".into(),
        Phase::Connections => "Connect, request, close".into(),
    }
}

/// The measurement in words.
fn result(measured: &Measured) -> String {
    match *measured {
        Measured::Throughput { bytes, seconds } => {
            format!("{:.2} Gbit/s", bytes as f64 * 8.0 / seconds / 1e9)
        }
        Measured::Datagrams {
            ref flood, payload, ..
        } => {
            let rate = datagram_rate(flood);
            let gbits = rate * payload as f64 * 8.0 / 1e9;
            format!("{rate:.0} packets/s, {gbits:.2} Gbit/s")
        }
        Measured::Latency { p50_us, p99_us, .. } => {
            format!("p50 {p50_us:.0} µs, p99 {p99_us:.0} µs")
        }
        Measured::Rate { count, seconds } => format!("{:.0} /s", count as f64 / seconds),
    }
}

/// What the measurement rests on.
fn verified(measured: &Measured) -> String {
    match *measured {
        Measured::Throughput { bytes, .. } => format!("{:.2} GB", bytes as f64 / 1e9),
        Measured::Datagrams {
            ref flood,
            ref paced,
            paced_sent,
            ..
        } => {
            let lost = loss_percent(paced_sent, paced);
            let rate = datagram_rate(paced);
            format!("{} datagrams; {lost:.1} % lost at {rate:.0}/s", flood.good)
        }
        Measured::Latency { count, lost: 0, .. } => format!("{count} round trips"),
        Measured::Latency { count, lost, .. } => format!("{count} round trips, {lost} lost"),
        Measured::Rate { count, .. } => format!("{count} connections"),
    }
}

/// How many of `sent` datagrams did not arrive, in percent.
fn loss_percent(sent: u64, arrived: &Arrived) -> f64 {
    if sent == 0 {
        return 0.0;
    }
    sent.saturating_sub(arrived.good) as f64 / sent as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let flood = Arrived {
            good: 300_000,
            duplicates: 0,
            corrupt: 0,
            seconds: 3.0,
        };
        let paced = Arrived {
            good: 49_500,
            duplicates: 0,
            corrupt: 0,
            seconds: 1.0,
        };
        Report {
            mtu: 1500,
            protocol: "IPv4",
            congestion_control: "cubic".into(),
            duration_seconds: 3.0,
            ok: false,
            phases: vec![
                Outcome {
                    phase: Phase::TcpUpload { streams: 4 },
                    result: Ok(Measured::Throughput {
                        bytes: 7_500_000_000,
                        seconds: 3.0,
                    }),
                },
                Outcome {
                    phase: Phase::UdpUpload,
                    result: Ok(Measured::Datagrams {
                        flood,
                        sent: 400_000,
                        payload: 1400,
                        paced_sent: 50_000,
                        paced,
                    }),
                },
                Outcome {
                    phase: Phase::Connections,
                    result: Err("refused".into()),
                },
            ],
        }
    }

    #[test]
    fn the_plain_table_is_markdown() {
        let table = report().table(Style::Plain);
        assert!(
            table.starts_with("Through the gateway: IPv4, MTU 1500, congestion control cubic;")
        );
        for line in [
            "| Test                    |                         Result | Verified                               |",
            "| TCP upload, 4 streams   |                   20.00 Gbit/s | 7.50 GB                                |",
            "| UDP upload              | 100000 packets/s, 1.12 Gbit/s | 300000 datagrams; 1.0 % lost at 49500/s |",
            "| Connect, request, close |                         FAILED | refused                                |",
        ] {
            let words = |text: &str| {
                text.split_whitespace()
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            };
            assert!(
                table.lines().any(|drawn| words(drawn) == words(line)),
                "{line} in\n{table}"
            );
        }
    }

    #[test]
    fn json_says_what_failed() {
        let json: serde_json::Value =
            serde_json::from_str(&report().json().expect("encode")).expect("JSON");
        assert_eq!(json["ok"], false);
        assert_eq!(json["phases"][2]["result"]["Err"], "refused");
        assert_eq!(json["phases"][0]["phase"]["streams"], 4);
        assert_eq!(
            json["phases"][0]["result"]["Ok"]["bytes"],
            7_500_000_000_u64
        );
    }

    #[test]
    fn loss_is_what_did_not_arrive() {
        let arrived = Arrived {
            good: 75,
            ..Arrived::default()
        };
        assert!((loss_percent(100, &arrived) - 25.0).abs() < 1e-9);
        assert!(loss_percent(0, &arrived).abs() < 1e-9);
        assert!(loss_percent(50, &arrived).abs() < 1e-9);
    }
}
