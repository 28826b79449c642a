//! `gw doctor`: whether this machine lets `gw` work, and what to do if not.
//!
//! # Theory of operation
//!
//! Each group of checks is a module of its own in two parts: `Facts::collect`
//! looks at the machine, `checks` makes [`Check`]s of the facts and does nothing
//! else, so that every outcome is tested by table. What can be tried is tried in
//! the way `gw run` does it, in children that end at once, instead of guessed from
//! settings: a TAP is made in new namespaces, so that whatever forbids it, the
//! check says so. Settings are looked at for the remedy. No packet is sent and
//! nothing is changed.
//!
//! A check that cannot be made because an earlier one failed is left out.

mod check;
mod namespaces;
mod report;
mod resolver;
mod sockets;
mod subids;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Args, Parser};

use self::check::{Check, Status};
use self::report::Report;
use super::args::Cli;
use super::messages::{colour_on, print_failure};
use super::resolve::{UsageError, resolve};
use crate::config::Config;
use crate::tap::AttachError;

/// Arguments of `gw doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Print one JSON object instead of lines
    #[arg(long)]
    json: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
enum DoctorError {
    #[error("the defaults of 'gw run' make no sense: {0}; please report this")]
    Defaults(#[source] UsageError),
    #[error("cannot try to make namespaces: {0}; is the limit of processes too low?")]
    Fork(#[source] io::Error),
    #[error("cannot try to make a TAP: {0}")]
    Handover(#[source] AttachError),
    #[error("the report cannot be written: {0}; is the disk full, or the reader gone?")]
    Output(#[source] io::Error),
}

/// Runs `gw doctor` and prints its report. The exit status is 0 unless a check
/// failed. The process must have a single thread.
#[must_use]
pub(crate) fn run(args: &DoctorArgs) -> ExitCode {
    match examine().and_then(|report| print(args, &report)) {
        Ok(Status::Pass | Status::Warning) => ExitCode::SUCCESS,
        Ok(Status::Failure) => ExitCode::FAILURE,
        Err(error) => {
            print_failure(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// Makes every check.
fn examine() -> Result<Report, DoctorError> {
    let config = defaults().map_err(DoctorError::Defaults)?;
    let mut checks = namespaces::checks(&namespaces::Facts::collect(&config)?);
    checks.extend(sockets::checks(&sockets::Facts::collect()));
    let resolv_conf = config.dns.as_ref().map(|dns| dns.resolv_conf.as_path());
    checks.extend(resolv_conf.map(|path| resolver::check(path, &resolver::Facts::collect(path))));
    checks.extend(subids::check(&subids::Facts::collect()));
    Ok(Report::new(checks))
}

/// What `gw run` does without options.
fn defaults() -> Result<Config, UsageError> {
    let cli = Cli::try_parse_from(["gw", "run"]).map_err(|_| UsageError::NothingToDo)?;
    Ok(resolve(cli)?.config)
}

/// Returns the worst that was found.
fn print(args: &DoctorArgs, report: &Report) -> Result<Status, DoctorError> {
    let mut stdout = io::stdout().lock();
    let text = if args.json {
        let json = report.json();
        json.map_err(|error| DoctorError::Output(error.into()))?
    } else {
        report.lines(colour_on(&stdout))
    };
    writeln!(stdout, "{text}").map_err(DoctorError::Output)?;
    Ok(report.worst())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_hold_together() {
        assert!(defaults().is_ok());
    }
}
