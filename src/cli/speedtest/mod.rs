//! `gw speedtest`: what the gateway of this machine can do.
//!
//! # Theory of operation
//!
//! ```text
//!   gw speedtest ─ server on the host's loopback          (server)
//!      │                     ▲
//!      └─ gw run ─ gateway ──┘
//!             └─ gw speedtest --client, in the namespace  (client)
//! ```
//!
//! The parent listens on ephemeral ports of the loopback, has `gw run` make a
//! namespace in which the gateway's address reaches just these ports, and runs this
//! program in it again as the client. So the whole of the product is measured, as a
//! user gets it, and nothing else is needed.
//!
//! The client goes through its phases one after the other and reports on its
//! standard output ([`proto::Event`]). Both sides know the bytes that are sent and
//! compare every one of them ([`pattern`]); counts are compared besides, so that
//! nothing can be missing. A phase fails on the first wrong byte, and with it the
//! test. A client from which nothing is heard for [`GRACE`] longer than its phase
//! takes is ended.

mod client;
mod datagrams;
mod pattern;
mod progress;
mod proto;
mod report;
mod server;
pub mod stats;

use std::io::{self, BufReader, IsTerminal, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use self::progress::Progress;
use self::proto::{Event, Outcome, Plan, read_line, write_line};
use self::report::{Report, Style, title};
use self::server::Server;
use super::messages::{print_failure, print_usage_error};
use crate::net::{Mtu, MtuOutOfRange, PlanV4, PlanV6};

/// The guest's networks. The client is told the gateway's address in them.
const CIDR: &str = "10.0.2.0/24";
/// As [`CIDR`], for IPv6.
const CIDR6: &str = "fd00::/64";

/// Payload of a datagram, in bytes, where the MTU allows it.
const DATAGRAM: usize = 1400;

/// Headers of a datagram, IPv6's and UDP's, in bytes.
const HEADERS: usize = 48;

/// How much longer than it should a phase may take. More than the timeouts inside.
const GRACE: Duration = Duration::from_secs(30);

/// How long the gateway may take to end when told to.
const END: Duration = Duration::from_secs(3);

/// How often the progress bar moves.
const TICK: Duration = Duration::from_millis(100);

/// Events that may wait for the parent.
const EVENTS: usize = 16;

/// Arguments of `gw speedtest`.
#[derive(Debug, Clone, Args)]
pub struct SpeedtestArgs {
    /// Length of each phase in seconds, 0.1 to 3600
    #[arg(long, value_name = "SECONDS", default_value = "3", value_parser = seconds)]
    duration: Duration,

    /// Connections at once in the phases with several, 1 to 64
    #[arg(long, value_name = "N", default_value = "4", value_parser = clap::value_parser!(u16).range(1..=64))]
    streams: u16,

    /// Largest IP packet on the link, in bytes, 68 to 65520; IPv6 needs 1280
    #[arg(long, value_name = "BYTES", default_value = "1500", value_parser = mtu)]
    mtu: Mtu,

    /// Measure IPv6 instead of IPv4
    #[arg(long)]
    ipv6: bool,

    /// Print one JSON object instead of a table
    #[arg(long)]
    json: bool,

    /// Be the client of a running test: what to do, as JSON
    #[arg(long, value_name = "PLAN", hide = true)]
    client: Option<String>,
}

/// Why a test could not be made, or is worth nothing.
#[derive(Debug, thiserror::Error)]
enum SpeedtestError {
    #[error("an MTU of {0} is too small for IPv6; use --mtu {min} or more", min = Mtu::MIN_IPV6)]
    MtuForIpv6(Mtu),
    #[error("no server on the loopback: {0}; is the loopback interface up ('ip link set lo up')?")]
    Listen(#[source] io::Error),
    #[error("no random numbers from the kernel: {0}")]
    Random(#[source] getrandom::Error),
    #[error("this program's own file is not found: {0}; has it been moved or deleted?")]
    OwnFile(#[source] io::Error),
    #[error("'gw run' cannot be started: {0}")]
    Spawn(#[source] io::Error),
    #[error("the gateway ended early ({0}); if it said why, that stands above")]
    EndedEarly(ExitStatus),
    #[error(
        "nothing was heard from the client for {0:?}; the gateway is stuck, please report this"
    )]
    Hung(Duration),
    #[error("the plan given with --client is no such plan: {0}")]
    Plan(#[source] serde_json::Error),
    #[error("the result cannot be written: {0}")]
    Output(#[source] io::Error),
    #[error("{0} of {1} tests failed: {2}")]
    Failed(usize, usize, String),
    #[error("the address plan: {0}")]
    Addresses(String),
}

/// Runs `gw speedtest` and prints its result. The exit status is 0 only if every
/// phase worked and every byte was right.
#[must_use]
pub fn run(args: &SpeedtestArgs) -> ExitCode {
    let done = match &args.client {
        Some(plan) => run_client(plan),
        None => run_test(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ SpeedtestError::MtuForIpv6(_)) => {
            print_usage_error(&error.to_string());
            ExitCode::from(2)
        }
        Err(error) => {
            print_failure(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The client's part, inside the namespace.
fn run_client(plan: &str) -> Result<(), SpeedtestError> {
    let plan: Plan = serde_json::from_str(plan).map_err(SpeedtestError::Plan)?;
    client::run(&plan, |event| write_line(&mut io::stdout().lock(), event))
        .map_err(SpeedtestError::Output)
}

/// The parent's part.
fn run_test(args: &SpeedtestArgs) -> Result<(), SpeedtestError> {
    if args.ipv6 && args.mtu.get() < Mtu::MIN_IPV6 {
        return Err(SpeedtestError::MtuForIpv6(args.mtu));
    }
    let secret = getrandom::u64().map_err(SpeedtestError::Random)?;
    let (loopback, gateway) = addresses(args.ipv6)?;
    let server = Server::start(loopback, secret).map_err(SpeedtestError::Listen)?;
    let plan = Plan {
        tcp: SocketAddr::new(gateway, server.tcp.port()),
        udp: SocketAddr::new(gateway, server.udp.port()),
        millis: u64::try_from(args.duration.as_millis()).unwrap_or(u64::MAX),
        streams: args.streams,
        datagram: datagram_payload(args.mtu),
        secret,
    };
    let phases = watch(GatewayRun::start(args, &plan)?, args)?;
    print(args, phases)
}

/// The server's address and the one by which the guest reaches it.
fn addresses(ipv6: bool) -> Result<(IpAddr, IpAddr), SpeedtestError> {
    let invalid = |error: &dyn std::fmt::Display| SpeedtestError::Addresses(error.to_string());
    if ipv6 {
        let net = CIDR6.parse().map_err(|error| invalid(&error))?;
        let plan = PlanV6::new(net).map_err(|error| invalid(&error))?;
        Ok((Ipv6Addr::LOCALHOST.into(), plan.gateway.into()))
    } else {
        let net = CIDR.parse().map_err(|error| invalid(&error))?;
        let plan = PlanV4::new(net).map_err(|error| invalid(&error))?;
        Ok((Ipv4Addr::LOCALHOST.into(), plan.gateway.into()))
    }
}

/// [`DATAGRAM`], or what fits into a packet.
fn datagram_payload(mtu: Mtu) -> usize {
    DATAGRAM.min(usize::from(mtu.get()) - HEADERS)
}

/// `gw run` with the client inside; ended when dropped.
#[derive(Debug)]
struct GatewayRun {
    child: Child,
    events: Receiver<Event>,
}

impl GatewayRun {
    fn start(args: &SpeedtestArgs, plan: &Plan) -> Result<Self, SpeedtestError> {
        let program = std::env::current_exe().map_err(SpeedtestError::OwnFile)?;
        // A plan consists of numbers and addresses: it can be encoded.
        let json = serde_json::to_string(plan).map_err(SpeedtestError::Plan)?;
        let ports = format!("{},{}", plan.tcp.port(), plan.udp.port());
        let mut command = Command::new(&program);
        command
            .args(["run", "--quiet", "--no-dns", "--host-loopback", &ports])
            .args(["--mtu", &args.mtu.to_string()])
            // Ends with this process, however that ends.
            .args(["--exit-fd", "0"]);
        if args.ipv6 {
            command.args(["--cidr6", CIDR6]);
        } else {
            command.args(["--cidr", CIDR, "--no-ipv6"]);
        }
        command
            .arg("--")
            .arg(&program)
            .args(["speedtest", "--client", &json]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(SpeedtestError::Spawn)?;
        let (sender, events) = sync_channel(EVENTS);
        if let Some(stdout) = child.stdout.take() {
            thread::spawn(move || pass_events(stdout, &sender));
        }
        Ok(Self { child, events })
    }
}

impl Drop for GatewayRun {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let end = Instant::now() + END;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(TICK / 10);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the client's events until its output ends or is no event.
fn pass_events(stdout: ChildStdout, sender: &SyncSender<Event>) {
    let mut stdout = BufReader::new(stdout);
    while let Ok(event) = read_line(&mut stdout) {
        if sender.send(event).is_err() {
            return;
        }
    }
}

/// Follows the client through its phases.
fn watch(mut run: GatewayRun, args: &SpeedtestArgs) -> Result<Vec<Outcome>, SpeedtestError> {
    // The phases with datagrams take twice and a half.
    let limit = args.duration * 3 + GRACE;
    let mut progress = Progress::new(client::phases(args.streams).len(), args.duration);
    let mut outcomes = Vec::new();
    let mut heard = Instant::now();
    loop {
        match run.events.recv_timeout(TICK) {
            Ok(Event::Begin { phase }) => progress.begin(phase),
            Ok(Event::Done(outcome)) => outcomes.push(outcome),
            Ok(Event::End) => {
                progress.end();
                return Ok(outcomes);
            }
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > limit => {
                progress.end();
                return Err(SpeedtestError::Hung(limit));
            }
            Err(RecvTimeoutError::Timeout) => {
                progress.tick();
                continue;
            }
            Err(RecvTimeoutError::Disconnected) => {
                progress.end();
                let status = run.child.wait().map_err(SpeedtestError::Spawn)?;
                return Err(SpeedtestError::EndedEarly(status));
            }
        }
        heard = Instant::now();
    }
}

/// Prints the result; an error if a phase failed.
fn print(args: &SpeedtestArgs, phases: Vec<Outcome>) -> Result<(), SpeedtestError> {
    let failed: Vec<String> = phases
        .iter()
        .filter_map(|outcome| {
            let why = outcome.result.as_ref().err()?;
            Some(format!("{}: {why}", title(outcome.phase)))
        })
        .collect();
    let report = Report {
        mtu: args.mtu.get(),
        protocol: if args.ipv6 { "IPv6" } else { "IPv4" },
        congestion_control: congestion_control(),
        duration_seconds: args.duration.as_secs_f64(),
        ok: failed.is_empty(),
        phases,
    };
    let mut stdout = io::stdout().lock();
    let text = if args.json {
        report
            .json()
            .map_err(|error| SpeedtestError::Output(error.into()))?
    } else if stdout.is_terminal() {
        report.table(Style::Terminal)
    } else {
        report.table(Style::Plain)
    };
    writeln!(stdout, "{text}").map_err(SpeedtestError::Output)?;
    match failed.first() {
        None => Ok(()),
        Some(first) => Err(SpeedtestError::Failed(
            failed.len(),
            report.phases.len(),
            first.clone(),
        )),
    }
}

/// The congestion control that connections of this machine have by default.
fn congestion_control() -> String {
    let read = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
    read.map_or_else(|_| "unknown".into(), |name| name.trim().to_owned())
}

/// Parses `--duration`.
fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.1..=3600.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("choose 0.1 to 3600 seconds".into()),
    }
}

/// Parses `--mtu`.
fn mtu(text: &str) -> Result<Mtu, String> {
    let bytes = text
        .parse()
        .map_err(|_| "give a number of bytes, such as 1500".to_owned())?;
    Mtu::new(bytes).map_err(|error: MtuOutOfRange| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::speedtest::proto::{Measured, Phase};

    /// All phases against a server in this process, without a gateway between.
    fn without_gateway(loopback: IpAddr) -> Vec<Outcome> {
        let server = Server::start(loopback, 4711).expect("server");
        let plan = Plan {
            tcp: server.tcp,
            udp: server.udp,
            millis: 200,
            streams: 3,
            datagram: DATAGRAM,
            secret: 4711,
        };
        let mut outcomes = Vec::new();
        let mut ended = false;
        client::run(&plan, |event| {
            match event {
                Event::Begin { .. } => {}
                Event::Done(outcome) => outcomes.push(outcome.clone()),
                Event::End => ended = true,
            }
            Ok(())
        })
        .expect("run");
        assert!(ended);
        outcomes
    }

    #[test]
    fn every_phase_works_over_plain_loopback() {
        for loopback in [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            Ipv6Addr::LOCALHOST.into(),
        ] {
            let outcomes = without_gateway(loopback);
            assert_eq!(outcomes.len(), client::phases(3).len());
            for outcome in outcomes {
                let enough = match outcome.result.clone().expect("phase works") {
                    Measured::Throughput { bytes, seconds } => bytes > 0 && seconds > 0.1,
                    Measured::Datagrams {
                        flood,
                        sent,
                        paced,
                        paced_sent,
                        ..
                    } => flood.good > 0 && flood.good <= sent && paced.good <= paced_sent,
                    Measured::Latency {
                        count,
                        p50_us,
                        p99_us,
                        ..
                    } => count > 0 && p50_us > 0.0 && p50_us <= p99_us,
                    Measured::Rate { count, .. } => count > 0,
                };
                assert!(enough, "{outcome:?}");
            }
        }
    }

    #[test]
    fn a_client_with_another_secret_is_told_nothing() {
        let server = Server::start(Ipv4Addr::LOCALHOST.into(), 1).expect("server");
        let plan = Plan {
            tcp: server.tcp,
            udp: server.udp,
            millis: 100,
            streams: 1,
            datagram: DATAGRAM,
            secret: 2,
        };
        client::run(&plan, |event| {
            if let Event::Done(outcome) = event
                && outcome.phase != Phase::Connections
            {
                assert!(outcome.result.is_err(), "{outcome:?}");
            }
            Ok(())
        })
        .expect("run");
    }

    #[test]
    fn datagrams_fit_the_link() {
        let payload = |bytes| datagram_payload(Mtu::new(bytes).expect("MTU"));
        assert_eq!(
            (payload(1500), payload(65520), payload(1280)),
            (1400, 1400, 1232)
        );
        assert!(payload(68) >= pattern::HEADER);
    }

    #[test]
    fn durations_and_mtus_are_checked() {
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        for text in ["0", "-1", "NaN", "inf", "4000", "soon"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        assert!(mtu("1500").is_ok() && mtu("67").is_err() && mtu("big").is_err());
    }
}
