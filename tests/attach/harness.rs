//! Runs each case in a process of its own with a single thread, which forking
//! and joining namespaces need. Speaks enough of the usual test command line
//! for `cargo test` and cargo-nextest.

use std::env;
use std::process::{Command, ExitCode};

pub(crate) type Case = (&'static str, fn());

/// Set in the process that runs one case.
const CHILD: &str = "GW_TEST_CASE";

pub(crate) fn main(cases: &[Case]) -> ExitCode {
    if let Ok(name) = env::var(CHILD) {
        match cases.iter().find(|(n, _)| *n == name) {
            Some((_, case)) => case(),
            None => return ExitCode::FAILURE,
        }
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = env::args().skip(1).collect();
    let has = |flag: &str| arguments.iter().any(|a| a == flag);
    if has("--list") {
        for (name, _) in cases.iter().filter(|_| !has("--ignored")) {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filter = arguments.iter().find(|a| !a.starts_with('-'));
    let chosen = |name: &str| match filter {
        None => true,
        Some(f) if has("--exact") => name == f,
        Some(f) => name.contains(f.as_str()),
    };
    let mut failed = 0;
    for (name, _) in cases.iter().filter(|(name, _)| chosen(name)) {
        let exe = env::current_exe().expect("own path");
        let status = Command::new(exe)
            .env(CHILD, name)
            .status()
            .expect("run the case");
        println!(
            "test {name} ... {}",
            if status.success() { "ok" } else { "FAILED" }
        );
        failed += usize::from(!status.success());
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
