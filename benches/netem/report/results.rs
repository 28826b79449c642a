//! Everything that was measured: netem.json.

use serde::{Deserialize, Serialize};

use super::impairment::{Direction, Impairment, Way};
use super::model::{Arrivals, Contender, Load, Outcome, Stream};

/// What a cell is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Group {
    /// What there is without impairment.
    Baseline,
    Delay,
    Jitter,
    Fate,
    Rate,
    Stream,
    Seed,
}

/// One thing that is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Cell {
    pub(crate) group: Group,
    /// What is set.
    pub(crate) title: String,
    pub(crate) way: Way,
    pub(crate) impairment: Impairment,
    pub(crate) load: Load,
    /// One run with each.
    pub(crate) seeds: Vec<u64>,
}

impl Cell {
    /// Whether `contender` is measured in it: this netem has no seeds.
    pub(crate) fn is_for(&self, contender: Contender) -> bool {
        self.group != Group::Seed || contender == Contender::Gw
    }

    /// What it is called, on the command line and while it runs.
    pub(crate) fn name(&self) -> String {
        let group = format!("{:?}", self.group).to_lowercase();
        format!("{group}: {}, {}", self.title, self.direction().name())
    }

    pub(crate) fn direction(&self) -> Direction {
        self.load.direction()
    }
}

/// A cell and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) cell: Cell,
    /// What was done, as the two are told; gw with the first seed.
    pub(crate) netem_words: String,
    pub(crate) gw_rule: String,
    pub(crate) netem: Vec<Outcome>,
    pub(crate) gw: Vec<Outcome>,
    pub(crate) failures: Vec<String>,
}

impl Row {
    pub(crate) fn new(cell: Cell) -> Self {
        let seed = cell.seeds.first().copied().unwrap_or_default();
        Self {
            netem_words: cell.impairment.netem(),
            gw_rule: cell.impairment.rule(cell.way, seed),
            cell,
            netem: Vec::new(),
            gw: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub(crate) fn outcomes(&self, contender: Contender) -> &[Outcome] {
        match contender {
            Contender::Netem => &self.netem,
            Contender::Gw => &self.gw,
        }
    }

    pub(crate) fn outcomes_mut(&mut self, contender: Contender) -> &mut Vec<Outcome> {
        match contender {
            Contender::Netem => &mut self.netem,
            Contender::Gw => &mut self.gw,
        }
    }

    /// The trains of all runs.
    pub(crate) fn trains(&self, contender: Contender) -> impl Iterator<Item = &Arrivals> {
        self.outcomes(contender).iter().filter_map(|one| match one {
            Outcome::Train(arrivals) => Some(arrivals),
            Outcome::Stream(_) => None,
        })
    }

    /// The streams of all runs.
    pub(crate) fn streams(&self, contender: Contender) -> impl Iterator<Item = &Stream> {
        self.outcomes(contender).iter().filter_map(|one| match one {
            Outcome::Stream(stream) => Some(stream),
            Outcome::Train(_) => None,
        })
    }
}

/// Everything that was measured.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Results {
    /// Facts about the run, in the order in which they are shown.
    pub(crate) facts: Vec<(String, String)>,
    pub(crate) rows: Vec<Row>,
}

impl Results {
    /// The rows of a group.
    pub(crate) fn of(&self, group: Group) -> impl Iterator<Item = &Row> {
        self.rows.iter().filter(move |row| row.cell.group == group)
    }
}
