//! `cargo bench --bench netem`: what gw's impairment does to packets, beside what
//! the kernel's `tc netem` does, in one run.
//!
//! ```text
//!   main ── plan     (what is measured)
//!     ├──── machine  (an emulated machine with a clock of its own)
//!     │       └ inside (in it: namespaces, netem or gw, datagrams and streams)
//!     ├──── judge    (limits and verdicts)
//!     └──── report, plot (Markdown, JSON, SVG)
//! ```
//!
//! Not every kernel has netem, and two tenths of a millisecond are not to be had
//! from a busy machine's clock. So all of it, gw included, runs in a machine that
//! QEMU emulates, with Debian's kernel and virtual time (see [`machine`]). gw and
//! netem get the same packets from the same program; only what is between the two
//! namespaces differs. Nothing of this machine's network is used or changed, and
//! how busy it is makes no difference but to the time that it takes.

#[path = "../../tests/guests/console.rs"]
mod console;
#[path = "../peers/error.rs"]
mod error;
#[path = "../../tests/guests/image.rs"]
#[expect(dead_code, reason = "shared with the tests and the other benchmark")]
mod image;
mod inside;
mod machine;
mod plan;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::Parser;

use self::error::{Context, Result};
use self::machine::Machine;
use self::plan::Effort;
use self::report::model::{self, Contender, Order};
use self::report::results::{Cell, Results, Row};
use self::report::{impairment, judge, results};

/// The argument that has this program carry out an order, in the machine.
const INSIDE: &str = "inside";

/// The kernel's congestion control, at both ends of a stream.
const CONGESTION: &str = "cubic";

/// Compares gw's impairment with tc netem.
#[derive(Debug, Parser)]
#[command(name = "netem", bin_name = "cargo bench --bench netem --")]
struct Options {
    /// Short measurements and one stream each: shows that it works.
    #[arg(long)]
    quick: bool,
    /// Datagrams whose fates are counted [default: 20000, with --quick 2000].
    #[arg(long, value_name = "N")]
    datagrams: Option<u32>,
    /// Streams of each lossy kind [default: 5, with --quick 1].
    #[arg(long, value_name = "N")]
    streams: Option<u64>,
    /// What the seconds of a stream are divided by [default: 1, with --quick 6].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=10))]
    haste: Option<u16>,
    /// List what is measured, and end.
    #[arg(long)]
    cells: bool,
    /// Only what has this in its name; can be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Fail when something of gw's is outside of its limits.
    #[arg(long)]
    check: bool,
    /// Write netem.md, netem.json and netem.svg into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The gw to measure [default: the one of this build].
    #[arg(long, value_name = "PROGRAM")]
    gw: Option<PathBuf>,
    /// The kernel's congestion control, at both ends: cubic or reno.
    #[arg(long, value_name = "NAME", default_value = CONGESTION)]
    congestion: String,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn cells(&self) -> Vec<Cell> {
        let usual = if self.quick {
            Effort::QUICK
        } else {
            Effort::FULL
        };
        let effort = Effort {
            datagrams: self.datagrams.unwrap_or(usual.datagrams).max(1),
            streams: self.streams.unwrap_or(usual.streams).max(1),
            haste: self.haste.unwrap_or(usual.haste),
            ..usual
        };
        let mut cells = plan::cells(effort);
        cells.retain(|cell| {
            let name = cell.name();
            self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
        });
        cells
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, order] = &arguments[..]
        && word == INSIDE
    {
        return inside::main(order);
    }
    // Test runners start benchmarks to ask for tests; there are none in it.
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    if !options.bench {
        println!("Not asked to measure; run: cargo bench --bench netem");
        return ExitCode::SUCCESS;
    }
    if options.cells {
        for cell in options.cells() {
            println!("{}", cell.name());
        }
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("netem: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Measures and reports.
fn measure(options: &Options) -> Result<ExitCode> {
    let scratch = tempfile::tempdir().context(|| "making a directory".into())?;
    let gw = options.gw.clone();
    let gw = gw.unwrap_or_else(|| env!("CARGO_BIN_EXE_gw").into());
    let mut machine = Machine::start(&gw, scratch.path())?;
    let mut results = Results {
        facts: facts(options, &mut machine)?,
        ..Results::default()
    };
    let cells = options.cells();
    let count = cells.len();
    for (index, cell) in cells.into_iter().enumerate() {
        eprintln!("{} of {count}: {}", index + 1, cell.name());
        results
            .rows
            .push(measure_one(&mut machine, cell, &options.congestion)?);
    }
    report(options, &results)
}

/// Both contenders in one cell, in turn.
fn measure_one(machine: &mut Machine, cell: Cell, congestion: &str) -> Result<Row> {
    let mut row = Row::new(cell);
    for seed in row.cell.seeds.clone() {
        for contender in Contender::BOTH {
            if !row.cell.is_for(contender) {
                continue;
            }
            let order = Order {
                contender,
                way: row.cell.way,
                impairment: row.cell.impairment,
                load: row.cell.load,
                seed,
                congestion: congestion.to_owned(),
            };
            match machine.carry_out(&order) {
                Ok(outcome) => row.outcomes_mut(contender).push(outcome),
                Err(error) => {
                    eprintln!("FAILED: {}: {error}", contender.name());
                    row.failures.push(format!("{}: {error}", contender.name()));
                    // A machine that is gone cannot do the next one either.
                    machine.run("true")?;
                }
            }
        }
    }
    Ok(row)
}

/// What a reader must know about the run.
fn facts(options: &Options, machine: &mut Machine) -> Result<Vec<(String, String)>> {
    let first = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let kernel = machine.run("uname -r")?;
    let gw = machine.run(&format!("{} --version", inside::GW))?;
    let tc = machine.run(&format!("{} -V", inside::TC))?;
    let qemu = Command::new("qemu-system-x86_64").arg("--version").output();
    let qemu = qemu.context(|| "asking QEMU for its version".into())?;
    let qemu = String::from_utf8_lossy(&qemu.stdout).into_owned();
    let facts = [
        ("gw", first(gw)),
        ("netem", format!("Linux {}, {}", first(kernel), first(tc))),
        (
            "machine",
            format!(
                "one emulated processor of {}, one nanosecond per instruction, on virtual time",
                first(qemu)
            ),
        ),
        (
            "network",
            "two namespaces; netem on the ends of a veth that carries single packets \
             (`gso_max_segs 1`), or gw with its TAP; MTU 1500"
                .to_owned(),
        ),
        (
            "congestion control",
            format!("{} in both kernels", options.congestion),
        ),
    ];
    Ok(facts.map(|(name, fact)| (name.to_owned(), fact)).to_vec())
}

/// Prints the tables and writes the files.
fn report(options: &Options, results: &Results) -> Result<ExitCode> {
    let document = report::markdown(results);
    println!("{document}");
    if let Some(directory) = &options.out {
        write(directory, results, &document)?;
    }
    let outside = judge::checks(results)
        .iter()
        .any(|check| !check.holds(Contender::Gw));
    let failed = results.rows.iter().any(|row| !row.failures.is_empty());
    if options.check && (outside || failed) {
        eprintln!("netem: not everything is within its limits");
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &Path, results: &Results, document: &str) -> Result<()> {
    let json = serde_json::to_string_pretty(results).context(|| "encoding the results".into())?;
    std::fs::create_dir_all(directory).context(|| format!("making {}", directory.display()))?;
    for (name, text) in [
        ("netem.md", document),
        ("netem.json", &json),
        ("netem.svg", &report::plot(results)),
    ] {
        let file = directory.join(name);
        std::fs::write(&file, text).context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
