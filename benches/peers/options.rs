//! The benchmark's command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::session::Timing;

/// Compares gw with slirp4netns and pasta, in namespaces made for it.
#[derive(Debug, Parser)]
#[command(name = "peers", bin_name = "cargo bench --bench peers --")]
pub(crate) struct Options {
    /// Short measurements and one round: shows that it works, not how fast.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Only the cells whose name contains this; can be given several times.
    #[arg(long, value_name = "TEXT")]
    pub(crate) only: Vec<String>,
    /// How often each gateway is measured, in turn [default: 5, with --quick 1].
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Seconds per measurement [default: 3, with --quick 0.5].
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<f64>,
    /// Also measure without a gateway, to show what the machine can do.
    #[arg(long)]
    pub(crate) baseline: bool,
    /// Compare gw with itself instead: with a capture, the flow log, metrics, a rule that
    /// nothing matches.
    #[arg(long)]
    pub(crate) costs: bool,
    /// Compare gw also with this program, another build of gw.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Option<PathBuf>,
    /// Leave this gateway out; can be given several times.
    #[arg(long, value_name = "NAME")]
    pub(crate) without: Vec<String>,
    /// Write the results as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write peers.md, peers.json and peers.svg into this directory; with --costs
    /// costs.md and costs.json.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print the names of all cells and end.
    #[arg(long)]
    pub(crate) cells: bool,
    /// The gw to measure [default: the one of this build].
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) gw: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// What is measured when gw is compared with itself.
const COSTS: [&str; 9] = [
    "tcp-up-1500-1-v4-veth",
    "tcp-down-1500-1-v4-veth",
    "cpu-up-1500-1-v4-veth",
    "cpu-down-1500-1-v4-veth",
    "tcp-rr-p50",
    "tcp-crr",
    "udp-up",
    "udp-down",
    "peak-memory-1500",
];

impl Options {
    /// Rounds to make, at least one.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    /// How long measurements take.
    pub(crate) fn timing(&self) -> Timing {
        let default = if self.quick { 0.5 } else { 3.0 };
        let measure = self.seconds.unwrap_or(default).clamp(0.1, 600.0);
        Timing {
            warm_up: Duration::from_millis(if self.quick { 300 } else { 700 }),
            measure: Duration::from_secs_f64(measure),
        }
    }

    /// Whether a cell was asked for.
    pub(crate) fn wants(&self, id: &str) -> bool {
        if self.costs && self.only.is_empty() {
            return COSTS.contains(&id);
        }
        self.only.is_empty() || self.only.iter().any(|text| id.contains(text.as_str()))
    }
}
