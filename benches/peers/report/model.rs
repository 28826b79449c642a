//! The results: cells and their samples per gateway.

use std::collections::BTreeMap;

use gw::cli::speedtest::stats::{median, ratio};
use serde::Serialize;

/// The gateway that all others are compared with.
pub(crate) const OURS: &str = "gw";

/// A quantity with a value per gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Cell {
    /// Short name for `--only` and for JSON: `tcp-up-1500-1-v4-loopback`.
    pub(crate) id: String,
    /// Heading that it stands under.
    pub(crate) group: String,
    /// What it says in the table.
    pub(crate) title: String,
    /// Of the value.
    pub(crate) unit: &'static str,
    /// Which values are better.
    pub(crate) better: Better,
}

/// Which of two values is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    /// The greater.
    Higher,
    /// The lesser.
    Lower,
}

/// A cell with what was measured.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// The cell.
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// Per gateway, one value per round.
    pub(crate) samples: BTreeMap<String, Vec<f64>>,
    /// Per gateway, why a round gave no value.
    pub(crate) failures: BTreeMap<String, Vec<String>>,
}

impl Row {
    /// The median of a gateway's samples; `None` if a failure outweighs them, for
    /// a median of the rounds that happened to work would flatter.
    pub(crate) fn median(&self, gateway: &str) -> Option<f64> {
        let samples = self.samples.get(gateway)?;
        let failed = self.failures.get(gateway).map_or(0, Vec::len);
        if failed >= samples.len() {
            return None;
        }
        median(samples).filter(|median| median.is_finite())
    }

    /// Our median divided by the other gateway's.
    pub(crate) fn ratio(&self, other: &str) -> Option<f64> {
        ratio(self.median(OURS)?, self.median(other)?)
    }

    /// The peer with the best median.
    pub(crate) fn best_peer<'a>(&self, peers: &[&'a str]) -> Option<&'a str> {
        let known = peers
            .iter()
            .filter_map(|&peer| Some((peer, self.median(peer)?)));
        let best = match self.cell.better {
            Better::Higher => known.max_by(|a, b| a.1.total_cmp(&b.1)),
            Better::Lower => known.min_by(|a, b| a.1.total_cmp(&b.1)),
        };
        best.map(|(peer, _)| peer)
    }
}

/// A gateway that took part.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Contender {
    /// Its short name.
    pub(crate) name: String,
    /// Its version.
    pub(crate) version: String,
    /// Whether we are compared with it; not so the run without a gateway.
    pub(crate) is_peer: bool,
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Results {
    /// Facts about the run, in the order in which they are shown.
    pub(crate) facts: Vec<(String, String)>,
    /// The gateways, ours first.
    pub(crate) contenders: Vec<Contender>,
    /// The cells, in the order in which they were first named.
    pub(crate) rows: Vec<Row>,
}

impl Results {
    /// Adds a cell, so that it has its place before it has values.
    pub(crate) fn announce(&mut self, cell: &Cell) {
        self.row(cell);
    }

    /// Adds a value.
    pub(crate) fn add(&mut self, cell: &Cell, gateway: &str, value: f64) {
        self.row(cell)
            .samples
            .entry(gateway.into())
            .or_default()
            .push(value);
    }

    /// Adds a failure.
    pub(crate) fn fail(&mut self, cell: &Cell, gateway: &str, why: &str) {
        self.row(cell)
            .failures
            .entry(gateway.into())
            .or_default()
            .push(why.into());
    }

    /// The row of a cell by its id.
    pub(crate) fn find(&self, id: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.cell.id == id)
    }

    /// The names of all gateways but ours.
    pub(crate) fn peers(&self) -> Vec<&str> {
        let peers = self
            .contenders
            .iter()
            .filter(|one| one.is_peer && one.name != OURS);
        peers.map(|one| one.name.as_str()).collect()
    }

    /// The groups in order, each with its rows; what was not measured is left out.
    pub(crate) fn groups(&self) -> Vec<(&str, Vec<&Row>)> {
        let mut groups: Vec<(&str, Vec<&Row>)> = Vec::new();
        let measured = |row: &&Row| !row.samples.is_empty() || !row.failures.is_empty();
        for row in self.rows.iter().filter(measured) {
            match groups.iter_mut().find(|(name, _)| *name == row.cell.group) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((&row.cell.group, vec![row])),
            }
        }
        groups
    }

    fn row(&mut self, cell: &Cell) -> &mut Row {
        let index = match self.rows.iter().position(|row| row.cell.id == cell.id) {
            Some(index) => index,
            None => {
                self.rows.push(Row {
                    cell: cell.clone(),
                    samples: BTreeMap::new(),
                    failures: BTreeMap::new(),
                });
                self.rows.len() - 1
            }
        };
        &mut self.rows[index]
    }
}
