//! What is told when the gateway has ended: `--stats` and `--report`.

use std::io::{self, IsTerminal as _};
use std::time::Instant;

use super::Failure;
use super::messages::{Voice, colour_on};
use super::stats::{self, Style};
use crate::config::{ObserveConfig, Summary};
use crate::observe::Sink;
use crate::observe::report::output::ReportFile;
use crate::observe::report::{Command, Figures, report, summary};
use crate::observe::tally::{Keep, SharedTally, Tally};

/// What is to be told at the end, and what it takes. Made before anything starts:
/// that reports can be written is known by then.
#[derive(Debug)]
pub(crate) struct Closing {
    summary: Summary,
    reports: Vec<ReportFile>,
    /// `None`: nothing is to be told.
    tally: Option<SharedTally>,
}

impl Closing {
    /// Opens the files of `config`.
    pub(crate) fn prepare(config: &ObserveConfig) -> Result<Self, Failure> {
        let reports = config.reports.iter().map(|path| ReportFile::open(path));
        let reports = reports.collect::<Result<Vec<_>, _>>()?;
        let keep = if reports.is_empty() {
            Keep::Sums
        } else {
            Keep::Flows
        };
        let wanted = config.summary == Summary::AtTheEnd || !reports.is_empty();
        let tally = wanted.then(|| SharedTally::new(Tally::new(Instant::now(), keep)));
        Ok(Self {
            summary: config.summary,
            reports,
            tally,
        })
    }

    /// What is to hear of flows.
    pub(crate) fn sinks(&self) -> Vec<Box<dyn Sink>> {
        let tally = self.tally.iter().cloned();
        tally
            .map(|tally| Box::new(tally) as Box<dyn Sink>)
            .collect()
    }

    /// Tells it, of a gateway that has ended. A report is about a command.
    pub(crate) fn tell(self, figures: &Figures, command: Option<Command>, voice: Voice) {
        let Some(tally) = self.tally else {
            return;
        };
        let tally = tally.read();
        if let Some(command) = command.filter(|_| !self.reports.is_empty()) {
            let report = report(&tally, figures, command);
            for file in self.reports {
                // The command has run, and its exit status is what counts.
                if let Err(e) = file.write(&report) {
                    voice.fail(&e);
                }
            }
        }
        if self.summary == Summary::AtTheEnd {
            let summary = summary(&tally, figures);
            match (voice.is_json(), serde_json::to_string(&summary)) {
                (true, Ok(line)) => voice.show(&format!("{line}\n")),
                _ => voice.show(&stats::text(&summary, style())),
            }
        }
    }
}

fn style() -> Style {
    let stderr = io::stderr();
    if stderr.is_terminal() {
        Style::Terminal(colour_on(&stderr))
    } else {
        Style::Plain
    }
}
