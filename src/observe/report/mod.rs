//! What is left of a run: a summary, and a report of what a command did on the
//! network. The types here are the JSON; `docs/schema` describes it.
//!
//! Times are seconds, sizes bytes, names as [`super::names`] has them. A field whose
//! value is not known is left out. The order is always the same: flows as they
//! began, remotes and programs by their bytes.

mod build;
pub mod html;
pub mod output;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

pub use self::build::{
    Command, CommandEnd, Figures, Followed, Link, MAX_FLOW_INTERVALS, MAX_FOLLOWED, report, summary,
};

/// Of the JSON; another when a field changes its meaning or goes.
pub const VERSION: u32 = 1;

/// Remotes in a summary.
pub const SUMMARY_REMOTES: usize = 10;

/// `--stats`: what the gateway did.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `summary`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// [`VERSION`].
    pub version: u32,
    /// What it says.
    #[serde(flatten)]
    pub overview: Overview,
    /// The [`SUMMARY_REMOTES`] with most bytes.
    pub remotes: Vec<RemoteRow>,
    /// All other flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_remotes: Option<SumsRow>,
}

/// `gw run --report`: what the command did on the network.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// `report`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// [`VERSION`].
    pub version: u32,
    /// The command.
    pub command: Command,
    /// All in all.
    #[serde(flatten)]
    pub overview: Overview,
    /// Bytes on the link over time.
    pub throughput: Throughput,
    /// Whom the guest talked to.
    pub remotes: Vec<RemoteRow>,
    /// Flows to remotes for which there was no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_remotes: Option<SumsRow>,
    /// What programs of the guest did.
    pub programs: Vec<ProgramRow>,
    /// Flows of programs that are not known, or for which there was no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_programs: Option<SumsRow>,
    /// The flows, those that ended first.
    pub flows: Vec<FlowRow>,
    /// Flows for which there was no room.
    pub more_flows: u64,
}

/// All in all.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The program's version.
    pub gw: &'static str,
    /// When the gateway began to serve (RFC 3339, UTC).
    pub started: String,
    /// For how long it did.
    pub duration_seconds: f64,
    /// All flows.
    pub total: SumsRow,
    /// All flows by protocol.
    pub protocols: BTreeMap<&'static str, SumsRow>,
    /// How long TCP took to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimesRow>,
    /// Frames on the guest's link.
    pub link: LinkRow,
    /// What the gateway itself took.
    pub gateway: GatewayRow,
    /// Packets that were not carried, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Events that this does not cover: they came faster than they were taken.
    pub lost_events: u64,
}

/// Frames on the guest's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LinkRow {
    /// From the guest.
    pub from_guest: Frames,
    /// Towards the guest.
    pub to_guest: Frames,
}

/// Frames, some of which stand for many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Frames {
    /// How many.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What the gateway itself took.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GatewayRow {
    /// Flows at one time at most.
    pub peak_flows: usize,
    /// Bytes that flows held at one time at most, as far as was looked.
    pub peak_buffers: usize,
    /// Resident memory of the process at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_resident: Option<u64>,
    /// Time on processors.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_seconds: Option<f64>,
}

/// One direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Load {
    /// Payload.
    pub bytes: u64,
    /// Packets of the wire's size.
    pub packets: u64,
    /// Packets of TCP that the gateway sent again.
    pub retransmits: u64,
}

/// What flows did together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SumsRow {
    /// How many.
    pub flows: u64,
    /// Those of them that led nowhere.
    pub failed: u64,
    /// From the guest.
    pub from_guest: Load,
    /// Towards the guest.
    pub to_guest: Load,
    /// How many had which verdict.
    pub verdicts: BTreeMap<&'static str, u64>,
}

/// How long something took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct TimesRow {
    /// How many times.
    pub count: u64,
    /// Half of them were not longer.
    pub median_seconds: f64,
    /// 95 of a hundred were not longer.
    pub p95_seconds: f64,
    /// None was longer.
    pub max_seconds: f64,
}

/// Whom the guest talked to, or was talked to by.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RemoteRow {
    /// `tcp`, `udp` or `echo`.
    pub protocol: &'static str,
    /// The name that the guest looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its port; none for clients of the guest, who come from many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What flows did.
    #[serde(flatten)]
    pub sums: SumsRow,
    /// How long TCP took to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<TimesRow>,
    /// Round trips between host and remote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt: Option<TimesRow>,
}

/// A program of the guest.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ProgramRow {
    /// Its name.
    pub name: String,
    /// Its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
    /// Some of its processes.
    pub pids: Vec<u32>,
    /// What flows did.
    #[serde(flatten)]
    pub sums: SumsRow,
}

/// A process of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessRow {
    /// Its number on the host.
    pub pid: u32,
    /// Its name.
    pub name: String,
    /// Its executable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exe: Option<String>,
}

/// A flow.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FlowRow {
    /// Counts flows as they began.
    pub number: u64,
    /// `tcp`, `udp` or `echo`.
    pub protocol: &'static str,
    /// Who began it.
    pub opened_by: &'static str,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// The other end, as the host sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<SocketAddr>,
    /// The name that the guest looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Whose it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessRow>,
    /// From the gateway's beginning to the flow's.
    pub start_seconds: f64,
    /// From the gateway's beginning to the flow's end.
    pub end_seconds: f64,
    /// From its beginning to its being open on both sides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_seconds: Option<f64>,
    /// Round trips between host and remote.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rtt_seconds: Option<f64>,
    /// What became of it.
    pub verdict: &'static str,
    /// How it ended.
    pub ended: &'static str,
    /// Who ended it.
    pub ended_by: &'static str,
    /// An impairment changed what became of it.
    pub impaired: bool,
    /// From the guest.
    pub from_guest: Load,
    /// Towards the guest.
    pub to_guest: Load,
    /// Its bytes over time, of TCP flows that took a while; not of all when there
    /// were many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activity: Option<Activity>,
}

/// Payload of a flow over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Activity {
    /// When the first interval begins, from the gateway's beginning.
    pub start_seconds: f64,
    /// Length of an interval.
    pub interval_seconds: f64,
    /// Bytes in each interval.
    pub from_guest: Vec<u64>,
    /// Bytes in each interval.
    pub to_guest: Vec<u64>,
}

/// Bytes of frames on the link over time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// Length of an interval.
    pub interval_seconds: f64,
    /// Bytes in each interval.
    pub from_guest: Vec<u64>,
    /// Bytes in each interval.
    pub to_guest: Vec<u64>,
}

impl SumsRow {
    /// Bytes both ways.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.from_guest.bytes.saturating_add(self.to_guest.bytes)
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
