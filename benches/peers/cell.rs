//! What is measured: the cells of the table.

use crate::agent::proto::Load;
use crate::gateway::Family;
use crate::report::model::{Better, Cell};

/// Where the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Destination {
    /// On the host's loopback, through the gateway's address.
    Loopback,
    /// In another namespace, over a veth.
    Veth,
}

/// A direction, seen from the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the guest.
    Up,
    /// To the guest.
    Down,
}

/// One throughput measurement, from which two cells come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    /// Where the bytes go.
    pub(crate) direction: Direction,
    /// Connections at once.
    pub(crate) streams: usize,
    /// IP version.
    pub(crate) family: Family,
    /// Where the server is.
    pub(crate) destination: Destination,
}

/// MTUs at which throughput is measured.
pub(crate) const MTUS: [u16; 2] = [1500, 65520];

/// How many idle connections the last cells have.
pub(crate) const IDLE: u32 = 10_000;

impl Bulk {
    /// All throughput measurements of one MTU: to the loopback with 1 and 4
    /// streams, over the veth with 1.
    pub(crate) fn all() -> Vec<Self> {
        use Destination::{Loopback, Veth};
        let mut all = Vec::new();
        for (destination, streams) in [(Loopback, 1), (Loopback, 4), (Veth, 1)] {
            for family in [Family::V4, Family::V6] {
                for direction in [Direction::Up, Direction::Down] {
                    all.push(Self {
                        direction,
                        streams,
                        family,
                        destination,
                    });
                }
            }
        }
        all
    }

    /// One IPv4 stream over the veth.
    pub(crate) fn over_veth(direction: Direction) -> Self {
        let (family, destination) = (Family::V4, Destination::Veth);
        Self {
            direction,
            streams: 1,
            family,
            destination,
        }
    }

    /// The load that the guest's agent runs.
    pub(crate) fn load(self) -> Load {
        match self.direction {
            Direction::Up => Load::TcpUp,
            Direction::Down => Load::TcpDown,
        }
    }

    /// The throughput cell.
    pub(crate) fn throughput(self, mtu: u16) -> Cell {
        Cell {
            id: format!("tcp-{}", self.suffix(mtu)),
            group: format!("TCP throughput, MTU {mtu}"),
            title: self.title(),
            unit: "Gbit/s",
            better: Better::Higher,
        }
    }

    /// The CPU cell.
    pub(crate) fn cpu(self, mtu: u16) -> Cell {
        Cell {
            id: format!("cpu-{}", self.suffix(mtu)),
            group: format!("Gateway CPU, MTU {mtu}"),
            title: self.title(),
            unit: "s/GB",
            better: Better::Lower,
        }
    }

    fn suffix(self, mtu: u16) -> String {
        let Self {
            direction,
            streams,
            family,
            destination,
        } = self;
        let direction = direction.name();
        let (family, destination) = (family.id(), destination.name());
        format!("{direction}-{mtu}-{streams}-{family}-{destination}")
    }

    fn title(self) -> String {
        let streams = match self.streams {
            1 => "1 stream".to_owned(),
            streams => format!("{streams} streams"),
        };
        let (direction, family) = (self.direction.name(), self.family.title());
        format!(
            "{direction}, {streams}, {family}, {}",
            self.destination.name()
        )
    }
}

impl Direction {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

impl Destination {
    fn name(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::Veth => "veth",
        }
    }
}

impl Family {
    fn id(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// Group of the latency cells.
const LATENCY: &str = "Latency";
/// Group of the rates.
const RATES: &str = "Connections and datagrams";
/// Group of the start and memory cells.
const START: &str = "Start and memory";

fn cell(id: &str, group: &str, title: &str, unit: &'static str, better: Better) -> Cell {
    Cell {
        id: id.into(),
        group: group.into(),
        title: title.into(),
        unit,
        better,
    }
}

/// TCP round trip, median.
pub(crate) fn tcp_p50() -> Cell {
    cell(
        "tcp-rr-p50",
        LATENCY,
        "TCP 1-byte round trip, p50",
        "µs",
        Better::Lower,
    )
}

/// TCP round trip, 99th percentile.
pub(crate) fn tcp_p99() -> Cell {
    cell(
        "tcp-rr-p99",
        LATENCY,
        "TCP 1-byte round trip, p99",
        "µs",
        Better::Lower,
    )
}

/// UDP round trip, median.
pub(crate) fn udp_p50() -> Cell {
    cell(
        "udp-rr-p50",
        LATENCY,
        "UDP 1-byte round trip, p50",
        "µs",
        Better::Lower,
    )
}

/// Connections per second.
pub(crate) fn connections() -> Cell {
    cell(
        "tcp-crr",
        RATES,
        "connect + request + close",
        "/s",
        Better::Higher,
    )
}

/// Datagrams received per second.
pub(crate) fn datagrams(direction: Direction) -> Cell {
    let name = direction.name();
    cell(
        &format!("udp-{name}"),
        RATES,
        &format!("UDP 1400-byte datagrams {name}, received"),
        "/s",
        Better::Higher,
    )
}

/// From spawn to the gateway's own word.
pub(crate) fn ready() -> Cell {
    cell(
        "start-ready",
        START,
        "start until it says ready",
        "ms",
        Better::Lower,
    )
}

/// From spawn to the first byte through the gateway.
pub(crate) fn first_connection() -> Cell {
    cell(
        "start-first",
        START,
        "start until a first connection works",
        "ms",
        Better::Lower,
    )
}

/// Peak resident memory after the throughput cells of one MTU.
pub(crate) fn peak_memory(mtu: u16) -> Cell {
    cell(
        &format!("peak-memory-{mtu}"),
        START,
        &format!("peak memory of the throughput cells, MTU {mtu}"),
        "MiB",
        Better::Lower,
    )
}

/// Throughput without and with [`IDLE`] idle connections.
pub(crate) fn idle_throughput(direction: Direction, idle: Idle) -> Cell {
    let name = direction.name();
    cell(
        &format!("{}-tcp-{name}", idle.id()),
        &idle_group(),
        &format!("TCP {name}, 1 stream, {} idle", idle.count()),
        "Gbit/s",
        Better::Higher,
    )
}

/// Connections per second without and with [`IDLE`] idle connections.
pub(crate) fn idle_connections(idle: Idle) -> Cell {
    cell(
        &format!("{}-tcp-crr", idle.id()),
        &idle_group(),
        &format!("connect + request + close, {} idle", idle.count()),
        "/s",
        Better::Higher,
    )
}

/// Resident memory per idle connection.
pub(crate) fn idle_memory() -> Cell {
    cell(
        "idle-memory",
        &idle_group(),
        "memory per idle connection",
        "KiB",
        Better::Lower,
    )
}

fn idle_group() -> String {
    format!("{IDLE} idle connections, MTU 1500, veth")
}

/// Whether a cell tells of the gateway's process, and so not of a run without one.
pub(crate) fn is_about_the_gateway(id: &str) -> bool {
    ["cpu-", "peak-memory-", "start-", "idle-memory"]
        .iter()
        .any(|start| id.starts_with(start))
}

/// Whether the idle connections are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// Not yet.
    None,
    /// They are.
    Open,
}

impl Idle {
    fn id(self) -> &'static str {
        match self {
            Self::None => "idle-0",
            Self::Open => "idle-10k",
        }
    }

    fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Open => IDLE,
        }
    }
}
