//! `cargo bench --bench peers`: gw, slirp4netns and pasta, measured in turn in
//! one run, in namespaces made for it.
//!
//! ```text
//!   fence ── run ── session ── agent (guest, host, remote: this program again)
//!             │        ├────── gateway (gw, slirp4netns, pasta)
//!             │        └────── procfs
//!             └──── report (medians, ratios, targets; Markdown, JSON, SVG)
//! ```
//!
//! A full run takes 40 minutes; `-- --quick` shows in 4 that everything works.
//! The machine should have nothing else to do.
//!
//! Nothing of the machine's network is used or changed, and no privilege is
//! needed, with one exception: where the kernel's default congestion control is
//! not cubic, namespaces must be allowed to choose it, see [`fence`].

#![expect(
    clippy::cast_precision_loss,
    reason = "counts and durations become floating-point rates; 52 bits are plenty"
)]

mod agent;
mod cell;
mod error;
mod fence;
mod gateway;
mod namespace;
mod options;
mod procfs;
mod report;
mod run;
mod session;

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use self::error::{Context, Error, Result};
use self::gateway::{Baseline, Gateway, Gw, Pasta, Role, Slirp4netns};
use self::options::Options;
use self::report::markdown::Targets;
use self::report::model::{Contender, Results};
use self::report::{markdown, svg, targets};

fn main() -> ExitCode {
    if let Ok(namespaces) = std::env::var(agent::ROLE) {
        return agent::main(&namespaces);
    }
    // Test runners start benchmarks to ask for tests; there are none in it.
    if std::env::args_os().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    if options.cells {
        run::all_cells()
            .iter()
            .for_each(|cell| println!("{:32} {}", cell.id, cell.title));
        return ExitCode::SUCCESS;
    }
    if !options.bench {
        println!("Not asked to measure; run: cargo bench --bench peers");
        return ExitCode::SUCCESS;
    }
    let done = fence::run_inside(|| match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    });
    done.unwrap_or_else(|error| failure(&error))
}

/// Prints an error.
fn failure(error: &Error) -> ExitCode {
    eprintln!("peers: {error}");
    ExitCode::FAILURE
}

/// Measures and reports.
fn measure(options: &Options) -> Result<()> {
    let candidates = candidates(options)?;
    let mut results = Results {
        facts: facts(options),
        ..Results::default()
    };
    let mut gateways = Vec::new();
    for gateway in candidates {
        if options.without.iter().any(|name| name == gateway.name()) {
            continue;
        }
        match gateway.version() {
            Ok(version) => {
                results.contenders.push(Contender {
                    name: gateway.name().into(),
                    version,
                    is_peer: gateway.role() == Role::Gateway,
                });
                gateways.push(gateway);
            }
            Err(error) => eprintln!("SKIPPED: {}: {error}", gateway.name()),
        }
    }
    for gateway in &gateways {
        let idle = run::idle_count(&**gateway)?;
        if idle < cell::IDLE {
            let why = "the limit of open files leaves no room for more";
            results.facts.push((
                format!("idle connections of {}", gateway.name()),
                format!("{idle}: {why}"),
            ));
        }
    }
    run::run(&gateways, options, &mut results);
    report(options, &results)
}

/// Who is to take part, ours first.
fn candidates(options: &Options) -> Result<Vec<Box<dyn Gateway>>> {
    let scratch = fence::scratch()?;
    let program = options
        .gw
        .clone()
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_gw").into());
    let mut candidates: Vec<Box<dyn Gateway>> = vec![Box::new(Gw::plain(program.clone()))];
    if let Some(other) = &options.against {
        candidates.push(Box::new(Gw {
            name: "other build",
            ..Gw::plain(other.clone())
        }));
    }
    if options.costs {
        for variant in Gw::with_costs(&program, &scratch) {
            candidates.push(Box::new(variant));
        }
    } else {
        let pid_file = scratch.join("pasta.pid");
        candidates.push(Box::new(Slirp4netns));
        candidates.push(Box::new(Pasta { pid_file }));
    }
    if options.baseline {
        candidates.push(Box::new(Baseline));
    }
    Ok(candidates)
}

/// What a reader must know about the run.
fn facts(options: &Options) -> Vec<(String, String)> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let timing = options.timing();
    [
        ("kernel", kernel.trim().to_owned()),
        ("processor", model.to_owned()),
        ("cores", format!("{cores} cores")),
        (
            "congestion control",
            format!("{} in every namespace", namespace::CONGESTION_CONTROL),
        ),
        (
            "rounds",
            format!(
                "{}, gateways in turn, {:.1} s per measurement",
                options.rounds(),
                timing.measure.as_secs_f64()
            ),
        ),
        (
            "destinations",
            "loopback: the host's, through the gateway's address; veth: another namespace, \
             routed by the host's"
                .into(),
        ),
        (
            "load",
            "plain read, write, send and recv; counted where it arrives".into(),
        ),
        (
            "start",
            "gw and slirp4netns: from spawn to the byte on --ready-fd; pasta, which has none: \
             from spawn until it is in the background"
                .into(),
        ),
    ]
    .map(|(name, fact)| (name.to_owned(), fact))
    .to_vec()
}

/// Prints the tables and writes the files.
fn report(options: &Options, results: &Results) -> Result<()> {
    let (name, targets) = if options.costs {
        ("costs", Targets::Leave)
    } else {
        ("peers", Targets::Check)
    };
    println!("{}", markdown::document(results, targets, None));
    let json = json(results)?;
    if let Some(file) = &options.json {
        write(file, &json)?;
    }
    if let Some(directory) = &options.out {
        std::fs::create_dir_all(directory).context(|| format!("making {}", directory.display()))?;
        let plot = (!options.costs).then_some("peers.svg");
        let document = markdown::document(results, targets, plot);
        write(&directory.join(format!("{name}.md")), &document)?;
        write(&directory.join(format!("{name}.json")), &json)?;
        if let Some(plot) = plot {
            write(&directory.join(plot), &svg::plot(results))?;
        }
    }
    Ok(())
}

/// The results with the outcome of the targets.
fn json(results: &Results) -> Result<String> {
    let targets: Vec<_> = targets::check(results)
        .iter()
        .map(|outcome| {
            serde_json::json!({
                "target": outcome.title,
                "bound": outcome.bound.to_string(),
                "measured": outcome.measured,
                "reached": outcome.verdict(),
            })
        })
        .collect();
    serde_json::to_string_pretty(&serde_json::json!({ "results": results, "targets": targets }))
        .context(|| "encoding the results".into())
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text).context(|| format!("writing {}", file.display()))
}
