//! From a tally and the gateway's figures to a summary or report.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;

use super::{
    Activity, FlowRow, Frames, GatewayRow, LinkRow, Load, Overview, ProcessRow, ProgramRow,
    RemoteRow, Report, SUMMARY_REMOTES, Summary, SumsRow, Throughput, TimesRow, VERSION,
};
use crate::observe::names;
use crate::observe::process::Process;
use crate::observe::rates::{Bytes, Rates};
use crate::observe::tally::{Host, Kept, Program, Quantiles, Remote, Sums, Tally};
use crate::policy::Carried;

/// What the gateway knows at its end.
#[derive(Debug, Clone)]
pub struct Figures {
    /// When it began to serve, by both clocks.
    pub began: (Instant, SystemTime),
    /// When it ended.
    pub ended: Instant,
    /// Frames on the link.
    pub link: Link,
    /// Bytes of frames over time.
    pub rates: Rates,
    /// The same of payload, for some of the flows of TCP.
    pub followed: Followed,
    /// Bytes that flows held at most, as far as was looked.
    pub peak_buffers: usize,
    /// Packets that were not carried, by reason; those that occurred.
    pub dropped: BTreeMap<String, u64>,
}

/// Bytes over time of flows, by their names in the list of flows.
pub type Followed = HashMap<u64, Rates>;

/// Flows that are followed: more would make reports that nobody reads.
pub const MAX_FOLLOWED: usize = 1000;

/// Intervals of a flow that is followed.
pub const MAX_FLOW_INTERVALS: usize = 100;

/// Frames on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Link {
    /// From the guest.
    pub from_guest: Frames,
    /// Towards the guest.
    pub to_guest: Frames,
}

/// A command that ran in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Command {
    /// Its words. What is no text in them is replaced.
    pub arguments: Vec<String>,
    /// How it ended.
    #[serde(flatten)]
    pub end: CommandEnd,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandEnd {
    /// With a status.
    ExitStatus(i32),
    /// By a signal.
    Signal(i32),
}

impl Command {
    /// The command with these words.
    #[must_use]
    pub fn new(words: &[OsString], end: CommandEnd) -> Self {
        let arguments = words
            .iter()
            .map(|word| word.to_string_lossy().into_owned())
            .collect();
        Self { arguments, end }
    }
}

/// What `--stats` says.
#[must_use]
pub fn summary(tally: &Tally, figures: &Figures) -> Summary {
    let remotes = tally.remotes();
    let (shown, rest) = remotes.split_at(remotes.len().min(SUMMARY_REMOTES));
    let mut others = tally.other_remotes.clone();
    rest.iter().for_each(|remote| others.merge(&remote.sums));
    Summary {
        kind: "summary",
        version: VERSION,
        overview: overview(tally, figures),
        remotes: shown.iter().copied().map(RemoteRow::from).collect(),
        other_remotes: unless_none(&others),
    }
}

/// What `gw run --report` says.
#[must_use]
pub fn report(tally: &Tally, figures: &Figures, command: Command) -> Report {
    let since = |at: Instant| seconds(at.saturating_duration_since(figures.began.0));
    let flow = |kept: &Kept| FlowRow {
        activity: activity(kept, figures),
        ..flow(kept, since)
    };
    Report {
        kind: "report",
        version: VERSION,
        command,
        overview: overview(tally, figures),
        throughput: throughput(&figures.rates),
        remotes: tally.remotes().into_iter().map(RemoteRow::from).collect(),
        other_remotes: unless_none(&tally.other_remotes),
        programs: tally.programs().into_iter().map(ProgramRow::from).collect(),
        other_programs: unless_none(&tally.other_programs),
        flows: tally.flows().into_iter().map(flow).collect(),
        more_flows: tally.not_kept,
    }
}

fn overview(tally: &Tally, figures: &Figures) -> Overview {
    let (began, wall) = figures.began;
    let protocols = tally.protocols.iter();
    Overview {
        gw: env!("CARGO_PKG_VERSION"),
        started: humantime::format_rfc3339_millis(wall).to_string(),
        duration_seconds: seconds(figures.ended.saturating_duration_since(began)),
        total: (&tally.total).into(),
        protocols: protocols.map(|(name, sums)| (*name, sums.into())).collect(),
        connect: tally.connect.quantiles().map(TimesRow::from),
        link: LinkRow {
            from_guest: figures.link.from_guest,
            to_guest: figures.link.to_guest,
        },
        gateway: gateway(tally, figures),
        dropped: figures.dropped.clone(),
        lost_events: tally.lost,
    }
}

fn gateway(tally: &Tally, figures: &Figures) -> GatewayRow {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok();
    GatewayRow {
        peak_flows: tally.peak_open,
        peak_buffers: figures.peak_buffers,
        // In KiB (getrusage(2)).
        peak_resident: usage
            .and_then(|usage| u64::try_from(usage.max_rss()).ok())
            .map(|kib| kib.saturating_mul(1024)),
        cpu_seconds: usage.and_then(|usage| {
            let time = usage.user_time() + usage.system_time();
            let micros = u64::try_from(time.num_microseconds()).ok()?;
            Some(seconds(Duration::from_micros(micros)))
        }),
    }
}

fn throughput(rates: &Rates) -> Throughput {
    let passed = rates.passed();
    Throughput {
        interval_seconds: seconds(rates.interval()),
        from_guest: passed.iter().map(|bytes| bytes.from_guest).collect(),
        to_guest: passed.iter().map(|bytes| bytes.to_guest).collect(),
    }
}

fn flow(kept: &Kept, since: impl Fn(Instant) -> f64) -> FlowRow {
    let Kept {
        flow,
        name,
        process,
    } = kept;
    FlowRow {
        number: flow.opened.number.0,
        protocol: names::protocol(flow.opened.protocol),
        opened_by: names::party(flow.opened.by),
        guest: flow.opened.guest,
        remote: flow.opened.remote,
        peer: flow.peer,
        name: name.as_deref().map(str::to_owned),
        process: process.as_deref().map(ProcessRow::from),
        start_seconds: since(flow.opened.at),
        end_seconds: since(flow.at),
        connect_seconds: super::super::tally::connect_time(flow).map(seconds),
        rtt_seconds: flow.rtt.map(seconds),
        verdict: names::verdict(flow.verdict),
        ended: names::ended(flow.how),
        ended_by: names::party(flow.by),
        impaired: flow.impaired,
        activity: None,
        from_guest: flow.from_guest.into(),
        to_guest: flow.to_guest.into(),
    }
}

/// Bytes over time of a flow that was followed, and lasted for more than one
/// interval.
fn activity(kept: &Kept, figures: &Figures) -> Option<Activity> {
    let flow = &kept.flow;
    let mut rates = figures.followed.get(&flow.opened.id?)?.clone();
    let total = Bytes {
        from_guest: flow.from_guest.bytes,
        to_guest: flow.to_guest.bytes,
    };
    if rates.seen().is_beyond(total) {
        // Another flow had the name after this one.
        return None;
    }
    rates.look(flow.at.saturating_duration_since(figures.began.0), total);
    let first = rates
        .passed()
        .iter()
        .position(|bytes| *bytes != Bytes::default())?;
    let passed = &rates.passed()[first..];
    let first = u32::try_from(first).ok()?;
    (passed.len() > 1).then(|| Activity {
        start_seconds: seconds(rates.interval().saturating_mul(first)),
        interval_seconds: seconds(rates.interval()),
        from_guest: passed.iter().map(|bytes| bytes.from_guest).collect(),
        to_guest: passed.iter().map(|bytes| bytes.to_guest).collect(),
    })
}

/// Microseconds are enough for everybody, and shorter to write.
fn seconds(time: Duration) -> f64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(micros).as_secs_f64()
}

fn unless_none(sums: &Sums) -> Option<SumsRow> {
    (sums.flows > 0).then(|| sums.into())
}

impl From<Carried> for Load {
    fn from(carried: Carried) -> Self {
        let Carried {
            bytes,
            packets,
            retransmits,
        } = carried;
        Self {
            bytes,
            packets,
            retransmits,
        }
    }
}

impl From<&Sums> for SumsRow {
    fn from(sums: &Sums) -> Self {
        Self {
            flows: sums.flows,
            failed: sums.failed(),
            from_guest: sums.from_guest.into(),
            to_guest: sums.to_guest.into(),
            verdicts: sums.verdicts.clone(),
        }
    }
}

impl From<Quantiles> for TimesRow {
    fn from(quantiles: Quantiles) -> Self {
        Self {
            count: quantiles.count,
            median_seconds: seconds(quantiles.median),
            p95_seconds: seconds(quantiles.p95),
            max_seconds: seconds(quantiles.max),
        }
    }
}

impl From<&Remote> for RemoteRow {
    fn from(remote: &Remote) -> Self {
        Self {
            protocol: names::protocol(remote.protocol),
            name: match &remote.host {
                Host::Name(name) => Some(name.to_string()),
                Host::Addr(_) => None,
            },
            addresses: remote.addresses.iter().copied().collect(),
            port: (remote.port != 0).then_some(remote.port),
            sums: (&remote.sums).into(),
            connect: remote.connect.quantiles().map(TimesRow::from),
            rtt: remote.rtt.quantiles().map(TimesRow::from),
        }
    }
}

impl From<&Program> for ProgramRow {
    fn from(program: &Program) -> Self {
        Self {
            name: program.name.clone(),
            exe: program
                .exe
                .as_deref()
                .map(|exe| exe.to_string_lossy().into_owned()),
            pids: program.pids.iter().copied().collect(),
            sums: (&program.sums).into(),
        }
    }
}

impl From<&Process> for ProcessRow {
    fn from(process: &Process) -> Self {
        Self {
            pid: process.pid,
            name: process.name.clone(),
            exe: process
                .exe
                .as_deref()
                .map(|exe| exe.to_string_lossy().into_owned()),
        }
    }
}
