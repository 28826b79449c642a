//! Requests, replies and errors, in Rust and as JSON.
//!
//! A request is one line, `{"verb": ...}`; so is an answer, `{"reply": ...}` or
//! `{"error": {"code": ..., "message": ...}}`. `docs/control.md` shows each, and
//! a test reads it. Parsing is strict: a member that a verb does not have is an
//! error, so that a slip of the pen is not a default.

mod error;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

pub use self::error::{ErrorBody, ErrorCode, RequestError};
use crate::capture::{CaptureId, CaptureSpec};
use crate::forward::{Expose, ForwardId, ForwardSpec, Origin, Publish};
use crate::impair::{Rule, RuleCounts, RuleId};

/// Version of the protocol: counted up when a client of the version before
/// would misunderstand. New verbs and new members of replies do not count.
pub const PROTOCOL: u32 = 1;

/// Entries of a list in one reply, at most: some 100 KiB of text.
pub const MAX_PAGE: usize = 500;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Who are you?
    Hello {},
    /// Set up a forward. One that is there already is not set up again.
    ForwardAdd {
        /// Which.
        forward: ForwardSpec,
        /// What to do when it is there already.
        #[serde(skip, default)]
        again: Again,
    },
    /// Take a forward away; connections that it has accepted live on.
    ForwardRemove {
        /// Which.
        forward: ForwardRef,
    },
    /// The forwards, by id.
    ForwardList {
        /// Go on behind this page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Cursor>,
        /// Entries wanted; at most [`MAX_PAGE`] are given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Answer a name with an address. A pair that is there already stays.
    HostAdd {
        /// A host name.
        name: String,
        /// Its address.
        addr: IpAddr,
    },
    /// Answer it so no longer.
    HostRemove {
        /// A host name.
        name: String,
        /// Its address.
        addr: IpAddr,
    },
    /// The names answered by the gateway, by name; not its own.
    HostList {
        /// Go on behind this page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Cursor>,
        /// Entries wanted; at most [`MAX_PAGE`] are given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Open flows, in no particular order.
    FlowList {
        /// Only those that match all that is given.
        #[serde(default, skip_serializing_if = "FlowFilter::is_empty")]
        filter: FlowFilter,
        /// Say which process each belongs to. That takes the time to look at the
        /// guest's processes; nobody else waits meanwhile.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        processes: bool,
        /// Go on behind this page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<Cursor>,
        /// Entries wanted; at most [`MAX_PAGE`] are given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<u32>,
    },
    /// Reset a flow on both sides.
    FlowClose {
        /// As the list of flows says.
        id: FlowId,
    },
    /// DHCP leases.
    Leases {},
    /// What the guests are plugged into.
    Ports {},
    /// Counts and sizes.
    Statistics {},
    /// Replace all rules of impairment; when one is wrong nothing changes. Each
    /// begins anew, its schedule as well.
    ImpairSet {
        /// In order.
        rules: Vec<Rule>,
    },
    /// Put a rule behind the others.
    ImpairAdd {
        /// Which.
        rule: Box<Rule>,
    },
    /// Take a rule away; what it holds back comes when it was to come.
    ImpairRemove {
        /// As the list of rules says.
        id: RuleId,
    },
    /// The rules of impairment in order, and what they did.
    ImpairList {},
    /// Start a capture. It is answered when its file is open.
    CaptureStart {
        /// Of what, where to: as `--pcap` has it, with an absolute path.
        capture: CaptureSpec,
    },
    /// End a capture. It is answered when its file is complete.
    CaptureStop {
        /// Which; `None`: the only one there is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<CaptureId>,
    },
    /// Go on with a capture in another file. It is answered when that is begun.
    CaptureRotate {
        /// Which; `None`: the only one there is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<CaptureId>,
    },
    /// The captures, by id.
    CaptureList {},
    /// How much is logged from now on.
    Log {
        /// The least important that is.
        level: LogLevel,
    },
    /// End, as SIGTERM would.
    Shutdown {},
}

/// What to do about a forward that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Again {
    /// Answer with its id.
    #[default]
    SameId,
    /// Refuse, as binding its port again would be.
    Refuse,
}

/// Which forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardRef {
    /// That of this id.
    Id(ForwardId),
    /// That which was asked for so.
    Publish(Publish),
    /// The same, for the other direction.
    ExposeHost(Expose),
}

/// Where a page of a list ended: to be handed back as it was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Cursor(pub String);

/// Names a flow while it lives. A flow that comes later may be given the same
/// one only after tens of thousands of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FlowId(pub u64);

impl From<FlowId> for String {
    fn from(id: FlowId) -> Self {
        // A string, because JSON's readers keep 53 bits of a number.
        format!("{:x}", id.0)
    }
}

impl TryFrom<String> for FlowId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        u64::from_str_radix(&text, 16)
            .map(Self)
            .map_err(|_| format!("'{text}' is no flow's id; the list of flows says them"))
    }
}

/// Which flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FlowFilter {
    /// Of this protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<FlowProtocol>,
    /// Begun by this side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<FlowDirection>,
    /// With this address on any side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addr: Option<IpAddr>,
    /// With this port on any side.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

impl FlowFilter {
    /// True when every flow matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// True for a flow that is wanted.
    #[must_use]
    pub fn matches(&self, flow: &Flow) -> bool {
        let ends = [Some(flow.guest), Some(flow.remote), flow.peer];
        let any = |wanted: &dyn Fn(SocketAddr) -> bool| ends.into_iter().flatten().any(wanted);
        self.protocol.is_none_or(|wanted| flow.protocol == wanted)
            && self.direction.is_none_or(|wanted| flow.direction == wanted)
            && self.addr.is_none_or(|wanted| {
                let wanted = wanted.to_canonical();
                any(&|end| end.ip().to_canonical() == wanted)
            })
            && self
                .port
                .is_none_or(|wanted| any(&|end| end.port() == wanted))
    }
}

/// Protocol of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowProtocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Which side began a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowDirection {
    /// The guest.
    Outbound,
    /// A client of a forward.
    Inbound,
}

/// How far a flow is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowState {
    /// The other side has not answered yet.
    Connecting,
    /// Data go both ways.
    Open,
    /// One direction has closed.
    HalfClosed,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What failed.
    Error,
    /// What somebody should see to.
    Warn,
    /// What happens.
    Info,
    /// With details.
    Debug,
    /// Everything.
    Trace,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Done.
    Done {},
    /// Who this is.
    Hello(Box<Hello>),
    /// The forward that was added, or was there.
    Forward {
        /// Its id.
        id: ForwardId,
    },
    /// A page of forwards.
    Forwards {
        /// By id.
        forwards: Vec<Forward>,
        /// Where the page ends; `None`: there is no more.
        next: Option<Cursor>,
    },
    /// A page of names.
    Hosts {
        /// By name.
        hosts: Vec<Host>,
        /// Where the page ends; `None`: there is no more.
        next: Option<Cursor>,
    },
    /// A page of flows.
    Flows {
        /// In no particular order.
        flows: Vec<Flow>,
        /// Where the page ends; `None`: there is no more.
        next: Option<Cursor>,
    },
    /// All leases that have not run out: there are a few at most.
    Leases {
        /// By address.
        leases: Vec<Lease>,
    },
    /// All ports: there are 256 at most.
    Ports {
        /// In the order in which they came.
        ports: Vec<Port>,
    },
    /// The capture that was started.
    Capture {
        /// Its id.
        id: CaptureId,
    },
    /// All captures: there are 16 at most.
    Captures {
        /// By id.
        captures: Vec<Capture>,
    },
    /// Counts and sizes.
    Statistics(Box<Statistics>),
    /// All rules of impairment: there are 64 at most.
    Impairments {
        /// In order.
        rules: Vec<Impairment>,
    },
    /// The rule that was added.
    Impairment(Box<Impairment>),
}

/// Who this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`].
    pub protocol: u32,
    /// Version of gw.
    pub version: String,
    /// Process id, as the gateway itself sees it.
    pub pid: u32,
    /// Since it was started.
    pub uptime_seconds: u64,
    /// Name of the interface in the guest's namespace; with `gw serve` the links.
    pub interface: String,
    /// MTU in bytes.
    pub mtu: u16,
    /// The guest's IPv4 network, if it has one.
    pub ipv4: Option<Network>,
    /// The guest's IPv6 network, if it has one.
    pub ipv6: Option<Network>,
    /// What of the host's loopback the gateway's address reaches: `none`, `all`
    /// or ports like `5432,8000-8010`.
    pub host_loopback: String,
    /// Whether the resolver answers.
    pub dns: bool,
    /// Whether echo requests are passed on.
    pub icmp: bool,
}

/// A network of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Address and length.
    pub network: String,
    /// The gateway.
    pub gateway: IpAddr,
    /// The resolver.
    pub resolver: IpAddr,
    /// The guest, unless it chose another address.
    pub guest: IpAddr,
}

/// A forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forward {
    /// Never used twice.
    pub id: ForwardId,
    /// As it was asked for.
    pub forward: ForwardSpec,
    /// Who asked for it.
    pub origin: Origin,
    /// Where clients connect to, with the port that the system chose; nothing
    /// for what the guest connects to.
    pub at: Vec<String>,
}

/// A name answered by the gateway.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Without trailing dot.
    pub name: String,
    /// Its address, or one of them.
    pub addr: IpAddr,
}

/// An open flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// For [`Request::FlowClose`].
    pub id: FlowId,
    /// Its protocol.
    pub protocol: FlowProtocol,
    /// Which side began it.
    pub direction: FlowDirection,
    /// How far it is.
    pub state: FlowState,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it. The guest's own UDP flows lead to
    /// anybody: the last one that it sent to.
    pub remote: SocketAddr,
    /// The other end, as the host sees it; none for a unix socket, and before a
    /// host has answered.
    pub peer: Option<SocketAddr>,
    /// Payload bytes that the guest was sent.
    pub to_guest: u64,
    /// Payload bytes that the guest has sent.
    pub from_guest: u64,
    /// Since it began.
    pub age_seconds: u64,
    /// Since something last moved.
    pub idle_seconds: u64,
    /// The name that the guest resolved the remote's address from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The process whose socket it is, where that was asked for and can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<FlowProcess>,
}

/// A process of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowProcess {
    /// Its number, as the gateway sees it.
    pub pid: u32,
    /// Its name, 15 bytes at most.
    pub name: String,
    /// Its executable; none where that cannot be read.
    pub exe: Option<String>,
}

/// A DHCP lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The address.
    pub addr: IpAddr,
    /// The client's Ethernet address.
    pub mac: String,
    /// The name the client gave itself.
    pub hostname: Option<String>,
    /// Until it ends if it is not renewed.
    pub seconds_left: u64,
}

/// Stations of a port that are listed one by one.
pub const MAX_LISTED_STATIONS: usize = 16;

/// What guests are plugged into.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Never used twice.
    pub id: u32,
    /// The link, and who is at its other end where that is known.
    pub name: String,
    /// Ethernet addresses that were seen behind it in the last five minutes, at
    /// most [`MAX_LISTED_STATIONS`].
    pub stations: Vec<String>,
    /// Those seen beyond the ones that are listed.
    pub more_stations: usize,
    /// Frames that came in.
    pub received: u64,
    /// Frames that went out.
    pub sent: u64,
    /// Frames that there was no room for, or no way.
    pub not_sent: u64,
    /// Frames that came in and made no sense.
    pub malformed: u64,
}

/// A rule of impairment as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Impairment {
    /// Never used twice.
    pub id: RuleId,
    /// As it was written.
    pub rule: Rule,
    /// Where its generators started: the same once more gives the same fates. None
    /// for what draws nothing.
    pub seed: Option<u64>,
    /// Whether its schedule has it in force at the moment.
    pub in_force: bool,
    /// What it did to packets from the guest.
    pub up: RuleCounts,
    /// What it did to packets to the guest.
    pub down: RuleCounts,
}

/// A capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// Never used twice.
    pub id: CaptureId,
    /// As it was asked for.
    pub capture: CaptureSpec,
    /// How far it is.
    pub state: CaptureState,
    /// The file being written; none before a FIFO has a reader.
    pub file: Option<String>,
    /// Packets in all its files.
    pub packets: u64,
    /// Bytes of all its files.
    pub bytes: u64,
    /// Packets that were lost, because what it is written to is too slow.
    pub lost: u64,
}

/// How far a capture is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureState {
    /// Nobody reads its FIFO yet.
    Waiting,
    /// It captures.
    Running,
    /// It writes what is left.
    Ending,
}

/// Counts and sizes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statistics {
    /// Since the gateway was started.
    pub uptime_seconds: u64,
    /// Open flows.
    pub flows: FlowCounts,
    /// Memory for the flows' buffers.
    pub memory: Memory,
    /// Frames from the guest.
    pub from_guest: Traffic,
    /// Frames to the guest.
    pub to_guest: Traffic,
    /// Packets that were dropped, by reason; those that occurred.
    pub dropped: BTreeMap<String, u64>,
}

/// Open flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowCounts {
    /// TCP.
    pub tcp: usize,
    /// UDP.
    pub udp: usize,
}

/// Memory for the flows' buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Bytes in use.
    pub used: usize,
    /// Bytes that may be.
    pub budget: usize,
}

/// Frames in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames; one may stand for many packets.
    pub frames: u64,
    /// Bytes in them, Ethernet headers included.
    pub bytes: u64,
}

impl Traffic {
    /// Counts a frame of `len` bytes.
    pub fn count(&mut self, len: usize) {
        self.frames += 1;
        self.bytes += len as u64;
    }
}

/// A line of answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// It was not done.
    Error {
        /// Why.
        error: ErrorBody,
    },
    /// It was.
    Reply(Reply),
}

impl From<Result<Reply, RequestError>> for Answer {
    fn from(result: Result<Reply, RequestError>) -> Self {
        match result {
            Ok(reply) => Self::Reply(reply),
            Err(error) => Self::Error {
                error: error.into(),
            },
        }
    }
}

impl Answer {
    /// The line, with its end.
    #[must_use]
    pub fn line(&self) -> Vec<u8> {
        // Maps with keys that are strings and numbers that are finite: there is
        // nothing in it that JSON does not have.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// Reads a line.
///
/// # Errors
/// [`RequestError::NotJson`], [`RequestError::BadRequest`].
pub fn parse(line: &[u8]) -> Result<Request, RequestError> {
    serde_json::from_slice(line).map_err(|error| {
        // Where in its line it is, serde_json says itself; lines count from 1.
        let text = error.to_string().replace("line 1 column", "column");
        match error.classify() {
            serde_json::error::Category::Data => RequestError::BadRequest(text),
            _ => RequestError::NotJson(text),
        }
    })
}

#[cfg(test)]
#[path = "proto_tests.rs"]
mod tests;
