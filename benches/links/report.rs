//! The results: samples per network, as Markdown and JSON.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use gw::cli::speedtest::stats::{median, ratio};
use serde::Serialize;

#[path = "../peers/report/format.rs"]
mod format;

/// A stream from QEMU, served by gw.
pub(crate) const GW_QEMU: &str = "gw `qemu:`";
/// QEMU's own user networking.
pub(crate) const QEMU_USER: &str = "QEMU `-netdev user`";
/// A switch of gw's.
pub(crate) const GW_VDESWITCH: &str = "gw `vdeswitch:`";
/// A switch and a gateway of vde2's.
pub(crate) const VDE_SLIRP: &str = "`vde_switch` and `slirpvde`";

/// What is divided by what.
const RATIOS: [(&str, &str); 2] = [(GW_QEMU, QEMU_USER), (GW_VDESWITCH, VDE_SLIRP)];

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The guest receives.
    Down,
    /// The guest sends.
    Up,
}

impl Direction {
    /// In the order in which they are measured: slirpvde does not survive the last.
    pub(crate) const BOTH: [Self; 2] = [Self::Down, Self::Up];
}

/// What was measured of a network.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) network: String,
    /// Of its programs.
    pub(crate) version: String,
    /// Bits per second, one value per round.
    pub(crate) up: Vec<f64>,
    /// As `up`.
    pub(crate) down: Vec<f64>,
    /// Why a round gave no values.
    pub(crate) failures: Vec<String>,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Results {
    /// Facts about the run, in the order in which they are shown.
    pub(crate) facts: Vec<(String, String)>,
    /// The networks, in the order in which they were announced.
    pub(crate) rows: Vec<Row>,
}

impl Row {
    /// The median rate; `None` if failures outweigh the rounds that worked.
    fn median(&self, direction: Direction) -> Option<f64> {
        let samples = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        if self.failures.len() >= samples.len() {
            return None;
        }
        median(samples)
    }
}

impl Results {
    /// Gives a network its row.
    pub(crate) fn announce(&mut self, network: &str, version: &str) {
        self.rows.push(Row {
            network: network.to_owned(),
            version: version.to_owned(),
            up: Vec::new(),
            down: Vec::new(),
            failures: Vec::new(),
        });
    }

    /// Adds a rate in bits per second.
    pub(crate) fn add(&mut self, network: &str, direction: Direction, rate: f64) {
        if let Some(row) = self.row(network) {
            match direction {
                Direction::Up => row.up.push(rate),
                Direction::Down => row.down.push(rate),
            }
        }
    }

    /// Adds a round that failed.
    pub(crate) fn fail(&mut self, network: &str, why: &str) {
        if let Some(row) = self.row(network) {
            row.failures.push(why.to_owned());
        }
    }

    fn row(&mut self, network: &str) -> Option<&mut Row> {
        self.rows.iter_mut().find(|row| row.network == network)
    }

    fn median(&self, network: &str, direction: Direction) -> Option<f64> {
        let row = self.rows.iter().find(|row| row.network == network)?;
        row.median(direction)
    }
}

/// The whole document.
pub(crate) fn markdown(results: &Results) -> String {
    let mut text = String::from("# Virtual machines on links of gw\n\n");
    for (name, fact) in &results.facts {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "- {name}: {fact}");
    }
    for row in &results.rows {
        let _ = writeln!(text, "- {}: {}", row.network, row.version);
    }
    let _ = writeln!(text, "\nMedians over the rounds; higher is better.\n");
    let rates = results.rows.iter().map(|row| {
        let rate = |direction| {
            let rate = row.median(direction);
            optional(rate.map(|rate| rate / 1e6), format::value)
        };
        let [down, up] = Direction::BOTH.map(rate);
        [row.network.clone(), up, down]
    });
    let _ = writeln!(text, "{}\n", table("TCP throughput, Mbit/s", rates));
    let ratios = RATIOS.iter().map(|(ours, theirs)| {
        let quotient = |direction| {
            let both = results.median(ours, direction);
            let both = both.zip(results.median(theirs, direction));
            optional(both.and_then(|(a, b)| ratio(a, b)), format::ratio)
        };
        let [down, up] = Direction::BOTH.map(quotient);
        [format!("{ours} / {theirs}"), up, down]
    });
    let _ = writeln!(text, "{}", table("ratio", ratios));
    for row in &results.rows {
        if let Some(first) = row.failures.first() {
            let count = row.failures.len();
            let _ = writeln!(text, "\n{} failed {count} times: {first}", row.network);
        }
    }
    text
}

fn table(title: &str, rows: impl Iterator<Item = [String; 3]>) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([title, "up", "down"]);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// The value, or a dash.
fn optional(value: Option<f64>, format: fn(f64) -> String) -> String {
    value.map_or_else(|| "–".into(), format)
}
