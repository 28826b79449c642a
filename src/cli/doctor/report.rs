//! The checks as lines and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Check, Status};
use crate::cli::messages::Colour;

/// Columns of the status and the name.
const STATUS_WIDTH: usize = 9;
const NAME_WIDTH: usize = 18;

/// Everything that was found, as JSON shows it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Whether `gw` works here: no check failed.
    ok: bool,
    checks: Vec<Check>,
}

impl Report {
    /// Of these checks.
    pub(super) fn new(checks: Vec<Check>) -> Self {
        Self {
            ok: checks.iter().all(|check| check.status != Status::Failure),
            checks,
        }
    }

    /// The worst status of all.
    pub(super) fn worst(&self) -> Status {
        let statuses = self.checks.iter().map(|check| check.status);
        statuses.max().unwrap_or(Status::Pass)
    }

    /// One line for each check, and one for the whole.
    pub(super) fn lines(&self, colour: Colour) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let (status, code) = match check.status {
                Status::Pass => ("pass", "32"),
                Status::Warning => ("warning", "1;33"),
                Status::Failure => ("failure", "1;31"),
            };
            let (on, off) = match colour {
                Colour::On => (format!("\x1b[{code}m"), "\x1b[0m"),
                Colour::Off => (String::new(), ""),
            };
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "{on}{status:<STATUS_WIDTH$}{off}{name:<NAME_WIDTH$}{detail}",
                name = check.name,
                detail = check.detail,
            );
            if let Some(remedy) = &check.remedy {
                let _ = write!(text, "; {remedy}");
            }
            text.push('\n');
        }
        text.push_str(self.verdict());
        text
    }

    fn verdict(&self) -> &'static str {
        match self.worst() {
            Status::Pass => "gw works here.",
            Status::Warning => "gw works here, with less than it could have.",
            Status::Failure => "gw does not work here until the failures are mended.",
        }
    }

    /// The same as one JSON object.
    ///
    /// # Errors
    /// Never in practice: all of it can be encoded.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Check::pass("tun", "opens"),
            Check::warning("pings", "none", "allow them"),
            Check::from_text("namespaces", Status::Failure, &"forbidden; be root"),
        ])
    }

    #[test]
    fn one_line_each() {
        assert_eq!(
            report().lines(Colour::Off),
            "pass     tun               opens\n\
             warning  pings             none; allow them\n\
             failure  namespaces        forbidden; be root\n\
             gw does not work here until the failures are mended."
        );
        let coloured = report().lines(Colour::On);
        assert!(coloured.starts_with("\x1b[32mpass     \x1b[0mtun"));
    }

    #[test]
    fn the_worst_decides() {
        assert_eq!(report().worst(), Status::Failure);
        let mut checks = report().checks;
        checks.pop();
        let warned = Report::new(checks);
        assert_eq!((warned.worst(), warned.ok), (Status::Warning, true));
        assert_eq!(Report::new(Vec::new()).worst(), Status::Pass);
    }

    #[test]
    fn json_has_the_same() {
        let json: serde_json::Value =
            serde_json::from_str(&report().json().expect("encode")).expect("JSON");
        assert_eq!(json["ok"], false);
        assert_eq!(json["checks"][0]["status"], "pass");
        assert_eq!(json["checks"][0]["remedy"], serde_json::Value::Null);
        assert_eq!(json["checks"][2]["name"], "namespaces");
        assert_eq!(json["checks"][2]["remedy"], "be root");
    }
}
