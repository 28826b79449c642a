//! The orchestrator: every gateway in turn, round after round.

use std::cell::RefCell;

use crate::agent::proto::Transport;
use crate::cell::{self, Bulk, Destination, Direction, Idle, MTUS};
use crate::error::{Error, Result};
use crate::gateway::{Gateway, Role};
use crate::namespace;
use crate::options::Options;
use crate::report::model::{Cell, Results};
use crate::session::{Session, StartBench};

/// Starts per gateway and round; a start is short and varies.
const STARTS: usize = 10;

/// Measures everything that was asked for.
pub(crate) fn run(gateways: &[Box<dyn Gateway>], options: &Options, results: &mut Results) {
    all_cells()
        .iter()
        .filter(|cell| options.wants(&cell.id))
        .for_each(|cell| results.announce(cell));
    let rounds = options.rounds();
    for round in 1..=rounds {
        for part in PARTS {
            for gateway in gateways {
                let recorder = Recorder {
                    options,
                    gateway: &**gateway,
                    results: results.into(),
                };
                if !recorder.wants_any(&part.cells()) || !part.suits(gateway.role()) {
                    continue;
                }
                eprintln!(
                    "round {round}/{rounds}, {}: {}",
                    gateway.name(),
                    part.title()
                );
                part.run(&recorder);
            }
        }
    }
}

/// All cells in the order of the report: throughput, CPU, then the rest.
pub(crate) fn all_cells() -> Vec<Cell> {
    let mut cells: Vec<Cell> = PARTS.iter().flat_map(Part::cells).collect();
    cells.sort_by_key(|cell| match cell.id.as_str() {
        id if id.starts_with("tcp-up-") || id.starts_with("tcp-down-") => 0,
        id if id.starts_with("cpu-") => 1,
        id if id.starts_with("peak-memory-") => 3,
        id if id.starts_with("start-") => 3,
        id if id.starts_with("idle-") => 4,
        _ => 2,
    });
    cells
}

/// The parts of a round. Each is made in namespaces of its own, so that no
/// connection, closing or open, of one is there in the next.
const PARTS: [Part; 5] = [
    Part::Bulk(MTUS[0]),
    Part::Bulk(MTUS[1]),
    Part::Small,
    Part::Start,
    Part::Idle,
];

#[derive(Debug, Clone, Copy)]
enum Part {
    /// Throughput at an MTU.
    Bulk(u16),
    /// Round trips, connections, datagrams.
    Small,
    /// How long a start takes.
    Start,
    /// The idle connections.
    Idle,
}

impl Part {
    fn title(self) -> String {
        match self {
            Self::Bulk(mtu) => format!("TCP throughput, MTU {mtu}"),
            Self::Small => "latency, connections, datagrams".into(),
            Self::Start => "start".into(),
            Self::Idle => format!("{} idle connections", cell::IDLE),
        }
    }

    /// Without a gateway there is nothing to start.
    fn suits(self, role: Role) -> bool {
        role == Role::Gateway || !matches!(self, Self::Start)
    }

    fn cells(&self) -> Vec<Cell> {
        match *self {
            Self::Bulk(mtu) => {
                let bulk = Bulk::all();
                let throughput = bulk.iter().map(|bulk| bulk.throughput(mtu));
                let cpu = bulk.iter().map(|bulk| bulk.cpu(mtu));
                throughput
                    .chain(cpu)
                    .chain([cell::peak_memory(mtu)])
                    .collect()
            }
            Self::Small => vec![
                cell::tcp_p50(),
                cell::tcp_p99(),
                cell::udp_p50(),
                cell::connections(),
                cell::datagrams(Direction::Up),
                cell::datagrams(Direction::Down),
            ],
            Self::Start => vec![cell::ready(), cell::first_connection()],
            Self::Idle => {
                let mut cells = idle_cells(Idle::None);
                cells.extend(idle_cells(Idle::Open));
                cells.push(cell::idle_memory());
                cells
            }
        }
    }

    fn run(self, recorder: &Recorder<'_>) {
        let done = match self {
            Self::Bulk(mtu) => bulk(recorder, mtu),
            Self::Small => small(recorder),
            Self::Start => start(recorder),
            Self::Idle => idle(recorder),
        };
        if let Err(Error(why)) = done {
            recorder.all_failed(&self.cells(), &why);
        }
    }
}

/// Throughput, CPU and peak memory at one MTU.
fn bulk(recorder: &Recorder<'_>, mtu: u16) -> Result<()> {
    let mut session = recorder.session(mtu)?;
    for bulk in Bulk::all() {
        let cells = [bulk.throughput(mtu), bulk.cpu(mtu)];
        recorder.measure(&cells, || {
            session
                .bulk(bulk)
                .map(|found| vec![found.gbits, found.cpu_per_gb])
        });
    }
    recorder.measure(&[cell::peak_memory(mtu)], || {
        session
            .peak_memory()
            .map(|bytes| vec![bytes / f64::from(1 << 20)])
    });
    Ok(())
}

/// Round trips, connections, datagrams.
fn small(recorder: &Recorder<'_>) -> Result<()> {
    let mut session = recorder.session(1500)?;
    recorder.measure(&[cell::tcp_p50(), cell::tcp_p99()], || {
        session
            .round_trips(Transport::Tcp)
            .map(|found| vec![found.p50, found.p99])
    });
    recorder.measure(&[cell::udp_p50()], || {
        session
            .round_trips(Transport::Udp)
            .map(|found| vec![found.p50])
    });
    recorder.measure(&[cell::connections()], || {
        session
            .connections(Destination::Loopback)
            .map(|rate| vec![rate])
    });
    for direction in [Direction::Up, Direction::Down] {
        recorder.measure(&[cell::datagrams(direction)], || {
            session.datagrams(direction).map(|rate| vec![rate])
        });
    }
    Ok(())
}

/// Starts.
fn start(recorder: &Recorder<'_>) -> Result<()> {
    let bench = StartBench::new()?;
    let cells = [cell::ready(), cell::first_connection()];
    for _ in 0..STARTS {
        let start = bench.once(recorder.gateway)?;
        recorder.record(&cells, Ok(vec![start.ready_ms, start.first_ms]));
    }
    Ok(())
}

/// The cells that are measured without and with idle connections.
fn idle_cells(idle: Idle) -> Vec<Cell> {
    vec![
        cell::idle_throughput(Direction::Up, idle),
        cell::idle_throughput(Direction::Down, idle),
        cell::idle_connections(idle),
    ]
}

/// Throughput and connections per second without and with idle connections, and
/// what an idle connection costs.
fn idle(recorder: &Recorder<'_>) -> Result<()> {
    let mut session = recorder.session(1500)?;
    // Memory first: what the loads leave behind in the gateway's pools would
    // otherwise serve the idle connections for free.
    let opened = session.open_idle(idle_count(recorder.gateway)?);
    recorder.record(
        &[cell::idle_memory()],
        opened.map(|bytes| vec![bytes / 1024.0]),
    );
    loaded(recorder, &mut session, Idle::Open);
    drop(session);
    let mut session = recorder.session(1500)?;
    loaded(recorder, &mut session, Idle::None);
    Ok(())
}

/// Descriptors that a gateway has open without connections, generously.
const OTHER_DESCRIPTORS: u64 = 200;

/// [`cell::IDLE`], or fewer where the limit of open files leaves the gateway no
/// room for so many: its next connection is to work, too.
pub(crate) fn idle_count(gateway: &dyn Gateway) -> Result<u32> {
    let room = namespace::file_limit()?.saturating_sub(OTHER_DESCRIPTORS);
    let fits = room / gateway.descriptors_per_connection();
    Ok(u32::try_from(fits).map_or(cell::IDLE, |fits| fits.min(cell::IDLE)))
}

fn loaded(recorder: &Recorder<'_>, session: &mut Session, idle: Idle) {
    for direction in [Direction::Up, Direction::Down] {
        recorder.measure(&[cell::idle_throughput(direction, idle)], || {
            session
                .bulk(Bulk::over_veth(direction))
                .map(|found| vec![found.gbits])
        });
    }
    recorder.measure(&[cell::idle_connections(idle)], || {
        session
            .connections(Destination::Veth)
            .map(|rate| vec![rate])
    });
}

/// Measures for one gateway and keeps what it finds.
struct Recorder<'a> {
    options: &'a Options,
    gateway: &'a dyn Gateway,
    results: RefCell<&'a mut Results>,
}

impl Recorder<'_> {
    fn session(&self, mtu: u16) -> Result<Session> {
        Session::start(self.gateway, mtu, self.options.timing())
    }

    fn wants_any(&self, cells: &[Cell]) -> bool {
        cells.iter().any(|cell| self.options.wants(&cell.id))
    }

    /// Measures what belongs together, if any of it was asked for and makes sense.
    fn measure(&self, cells: &[Cell], measure: impl FnOnce() -> Result<Vec<f64>>) {
        let about_the_gateway = cells
            .iter()
            .all(|cell| cell::is_about_the_gateway(&cell.id));
        if about_the_gateway && self.gateway.role() == Role::Baseline {
            return;
        }
        if self.wants_any(cells) {
            self.record(cells, measure());
        }
    }

    /// Keeps the values, one per cell, or the failure of all of them.
    fn record(&self, cells: &[Cell], found: Result<Vec<f64>>) {
        match found {
            Ok(values) => {
                for (cell, value) in cells.iter().zip(values) {
                    if self.gateway.role() == Role::Baseline && cell::is_about_the_gateway(&cell.id)
                    {
                        continue;
                    }
                    eprintln!("    {:32} {value:12.3} {}", cell.id, cell.unit);
                    self.results
                        .borrow_mut()
                        .add(cell, self.gateway.name(), value);
                }
            }
            Err(Error(why)) => self.all_failed(cells, &why),
        }
    }

    fn all_failed(&self, cells: &[Cell], why: &str) {
        for cell in cells.iter().filter(|cell| self.options.wants(&cell.id)) {
            eprintln!("    {:32} FAILED: {why}", cell.id);
            self.results
                .borrow_mut()
                .fail(cell, self.gateway.name(), why);
        }
    }
}
