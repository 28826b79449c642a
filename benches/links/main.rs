//! `cargo bench --bench links`: a virtual machine's throughput through links of
//! gw, and through what else there is for them, measured in turn in one run.
//!
//! ```text
//!   fence ── run ── network (gw, QEMU's own, vde_switch + slirpvde)
//!             ├──── guest   (QEMU, and its console)
//!             ├──── load    (iperf3 in the guest, and its server)
//!             └──── report  (medians, ratios; Markdown, JSON)
//! ```
//!
//! A guest is started anew for each measurement, so that none profits from what
//! another did. It runs a Debian kernel and Debian's iperf3; the server is on an
//! address of the namespace in which the networks run, so that nothing but them
//! is between. Where KVM does not work the guest is emulated, and is what takes
//! most of the processor; the report says so. Nothing of the machine's network is
//! used or changed.

#[path = "../../tests/guests/console.rs"]
mod console;
#[path = "../peers/error.rs"]
mod error;
#[path = "../peers/fence.rs"]
mod fence;
mod guest;
#[path = "../../tests/guests/image.rs"]
mod image;
mod load;
#[path = "../peers/namespace.rs"]
#[expect(dead_code, reason = "shared with the other benchmark")]
mod namespace;
mod network;
mod report;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;

use self::error::{Context, Error, Result};
use self::guest::Guest;
use self::image::Accelerator;
use self::load::{SERVER, Server};
use self::network::Network;
use self::report::{Direction, Results};

/// How long something that should happen at once may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Compares links of gw with other networks for virtual machines.
#[derive(Debug, Parser)]
#[command(name = "links", bin_name = "cargo bench --bench links --")]
struct Options {
    /// Short measurements and one round: shows that it works, not how fast.
    #[arg(long)]
    quick: bool,
    /// Only the networks whose name contains this; can be given several times.
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// How often each network is measured, in turn [default: 5, with --quick 1].
    #[arg(long, value_name = "N")]
    rounds: Option<u32>,
    /// Whole seconds per measurement [default: 5, with --quick 1].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: Option<u16>,
    /// Write links.md and links.json into this directory.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The gw to measure [default: the one of this build].
    #[arg(long, value_name = "PROGRAM")]
    gw: Option<PathBuf>,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 1 } else { 5 }).max(1)
    }

    fn seconds(&self) -> u16 {
        self.seconds.unwrap_or(if self.quick { 1 } else { 5 })
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str()))
    }
}

fn main() -> ExitCode {
    // Test runners start benchmarks to ask for tests; there are none in it.
    if std::env::args_os().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    let options = Options::parse();
    if !options.bench {
        println!("Not asked to measure; run: cargo bench --bench links");
        return ExitCode::SUCCESS;
    }
    let done = fence::run_inside(|| match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error),
    });
    done.unwrap_or_else(|error| failure(&error))
}

fn failure(error: &Error) -> ExitCode {
    eprintln!("links: {error}");
    ExitCode::FAILURE
}

/// Measures and reports.
fn measure(options: &Options) -> Result<()> {
    namespace::new_network()?;
    run_ip(&format!("address add {SERVER}/32 dev lo"))?;
    let scratch = fence::scratch()?;
    let guest = Guest::prepare(&scratch)?;
    let gw = options.gw.clone();
    let gw = gw.unwrap_or_else(|| env!("CARGO_BIN_EXE_gw").into());
    let mut results = Results {
        facts: facts(options, guest.accelerator()),
        ..Results::default()
    };
    let mut networks = Vec::new();
    for network in Network::ALL {
        if !options.wants(network.name()) {
            continue;
        }
        match network.version(&gw) {
            Ok(version) => {
                results.announce(network.name(), &version);
                networks.push(network);
            }
            Err(error) => eprintln!("SKIPPED: {}: {error}", network.name()),
        }
    }
    for round in 1..=options.rounds() {
        for &network in &networks {
            eprintln!("round {round} of {}: {}", options.rounds(), network.name());
            if let Err(error) = measure_one(network, &gw, &guest, options, &mut results) {
                eprintln!("FAILED: {}: {error}", network.name());
                results.fail(network.name(), &error.to_string());
            }
        }
    }
    report(options, &results)
}

/// One guest on one network, both directions.
fn measure_one(
    network: Network,
    gw: &Path,
    guest: &Guest,
    options: &Options,
    results: &mut Results,
) -> Result<()> {
    let place = tempfile::tempdir_in(fence::scratch()?).context(|| "making a directory".into())?;
    let running = network.start(gw, place.path())?;
    let mut machine = guest.start(&running.netdev)?;
    for direction in Direction::BOTH {
        let server = Server::start(place.path())?;
        let rate = load::measure(&mut machine, server, direction, options.seconds())?;
        results.add(network.name(), direction, rate);
    }
    Ok(())
}

/// Ends with the measurement.
#[derive(Debug)]
struct Program(Child);

impl Program {
    /// Starts it, without an end of its standard input.
    fn start(command: &mut Command, package: &str) -> Result<Self> {
        let child = command
            .stdin(Stdio::piped())
            .spawn()
            .context(|| format!("starting {command:?} (Debian: {package})"))?;
        Ok(Self(child))
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run_ip(arguments: &str) -> Result<()> {
    let status = Command::new("ip")
        .args(arguments.split_whitespace())
        .status()
        .context(|| "running ip (Debian: iproute2)".into())?;
    if status.success() {
        return Ok(());
    }
    Err(Error(format!("ip {arguments}: {status}")))
}

/// What a reader must know about the run.
fn facts(options: &Options, accelerator: Accelerator) -> Vec<(String, String)> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let guest = match accelerator {
        Accelerator::Kvm => "QEMU with KVM, one processor, virtio-net, MTU 1500",
        Accelerator::Tcg => {
            "QEMU without KVM, one emulated processor, virtio-net, MTU 1500: emulating the guest \
             takes a whole core and is the limit, so the differences between networks are greater \
             than what is seen here"
        }
    };
    let rounds = format!(
        "{}, networks in turn, a fresh guest each, {} s per measurement after one second that is \
         not counted",
        options.rounds(),
        options.seconds()
    );
    [
        ("kernel", kernel.trim().to_owned()),
        ("processor", model.to_owned()),
        ("cores", cores.to_string()),
        ("guest", guest.to_owned()),
        ("rounds", rounds),
        (
            "load",
            "iperf3, one TCP stream over IPv4, counted where it arrives; up: the guest sends"
                .to_owned(),
        ),
        (
            "congestion control",
            format!("{} on both sides", namespace::CONGESTION_CONTROL),
        ),
    ]
    .map(|(name, fact)| (name.to_owned(), fact))
    .to_vec()
}

/// Prints the tables and writes the files.
fn report(options: &Options, results: &Results) -> Result<()> {
    let document = report::markdown(results);
    println!("{document}");
    if let Some(directory) = &options.out {
        let json =
            serde_json::to_string_pretty(results).context(|| "encoding the results".into())?;
        std::fs::create_dir_all(directory).context(|| format!("making {}", directory.display()))?;
        for (name, text) in [("links.md", &document), ("links.json", &json)] {
            let file = directory.join(name);
            std::fs::write(&file, text).context(|| format!("writing {}", file.display()))?;
        }
    }
    Ok(())
}
