//! What is measured.

use super::impairment::{Direction, Distribution, Impairment, Loss, Way};
use super::model::Load;
use super::results::{Cell, Group};

/// How much of everything.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Datagrams whose fates are counted.
    pub(crate) datagrams: u32,
    /// Datagrams whose delay is measured.
    pub(crate) delays: u32,
    /// Seconds at a rate.
    pub(crate) rate_seconds: u32,
    /// Streams of a lossy kind, each with a seed of its own; one of the others.
    pub(crate) streams: u64,
    /// What the seconds of a stream are divided by.
    pub(crate) haste: u16,
}

impl Effort {
    pub(crate) const FULL: Self = Self {
        datagrams: 20_000,
        delays: 1000,
        rate_seconds: 10,
        streams: 5,
        haste: 1,
    };
    /// Shows that it works.
    pub(crate) const QUICK: Self = Self {
        datagrams: 2000,
        delays: 100,
        rate_seconds: 2,
        streams: 1,
        haste: 6,
    };
}

/// The seed of what is measured once.
const SEED: u64 = 7;

/// Delay, loss and rate of streams: milliseconds, percent, kilobit per second; and
/// their seconds: chance makes the more of a difference the fewer losses there are
/// in them.
const STREAMS: [(f64, f64, u32, u16); 4] = [
    (10.0, 0.1, 50_000, 10),
    (20.0, 0.0, 20_000, 10),
    (40.0, 0.5, 0, 60),
    (50.0, 1.0, 10_000, 100),
];

/// Everything, in the order in which it is measured.
pub(crate) fn cells(effort: Effort) -> Vec<Cell> {
    let mut cells = Vec::new();
    for direction in Direction::BOTH {
        cells.push(train(Group::Baseline, "nothing", direction, effort.delays));
    }
    delays(&mut cells, effort);
    jitters(&mut cells, effort);
    fates(&mut cells, effort);
    rates(&mut cells, effort);
    streams(&mut cells, effort);
    seeds(&mut cells, effort);
    cells
}

/// A cell without impairment yet: `count` small datagrams, one each millisecond.
fn train(group: Group, title: &str, direction: Direction, count: u32) -> Cell {
    Cell {
        group,
        title: title.to_owned(),
        way: direction.way(),
        impairment: Impairment::default(),
        load: Load::Train {
            direction,
            count,
            interval: 1000,
            payload: 200,
        },
        seeds: vec![SEED],
    }
}

fn delays(cells: &mut Vec<Cell>, effort: Effort) {
    for (delay, way) in [
        (2.0, None),
        (20.0, None),
        (20.0, Some(Way::Both)),
        (200.0, None),
    ] {
        for direction in Direction::BOTH {
            let both = if way.is_some() { ", both ways" } else { "" };
            let title = format!("delay {delay} ms{both}");
            let mut cell = train(Group::Delay, &title, direction, effort.delays);
            cell.way = way.unwrap_or(cell.way);
            cell.impairment.delay = delay;
            cells.push(cell);
        }
    }
}

fn jitters(cells: &mut Vec<Cell>, effort: Effort) {
    for distribution in [
        Distribution::Uniform,
        Distribution::Normal,
        Distribution::Pareto,
    ] {
        for direction in Direction::BOTH {
            let title = format!("delay 50 ms, jitter 5 ms {}", distribution.name());
            let mut cell = train(Group::Jitter, &title, direction, effort.datagrams);
            cell.impairment.delay = 50.0;
            cell.impairment.jitter = Some((5.0, distribution));
            cells.push(cell);
        }
    }
}

fn fates(cells: &mut Vec<Cell>, effort: Effort) {
    let none = Impairment::default();
    let lossy = |loss| Impairment {
        loss: Some(loss),
        ..none
    };
    for (title, impairment) in [
        ("loss 1 %", lossy(Loss::Random(1.0))),
        ("loss 10 %", lossy(Loss::Random(10.0))),
        (
            "loss in bursts: 1 % begin, 25 % end",
            lossy(Loss::Bursts {
                begin: 1.0,
                end: 25.0,
            }),
        ),
        ("duplication 2 %", Impairment { dup: 2.0, ..none }),
        (
            "reordering 5 %, delay 10 ms",
            Impairment {
                reorder: 5.0,
                delay: 10.0,
                ..none
            },
        ),
        (
            "corruption 2 %",
            Impairment {
                corrupt: 2.0,
                ..none
            },
        ),
    ] {
        for direction in Direction::BOTH {
            let mut cell = train(Group::Fate, title, direction, effort.datagrams);
            cell.impairment = impairment;
            cells.push(cell);
        }
    }
}

fn rates(cells: &mut Vec<Cell>, effort: Effort) {
    /// Bytes of a frame, and of the payload in it.
    const FRAME: u32 = 1042;
    const PAYLOAD: u16 = 1000;
    for rate in [1000, 10_000] {
        for direction in Direction::BOTH {
            let title = format!("rate {} Mbit/s", rate / 1000);
            let mut cell = train(Group::Rate, &title, direction, 0);
            // Half as much again as there is room for.
            let interval = FRAME * 8 * 1000 / rate * 2 / 3;
            cell.impairment.rate = rate;
            cell.load = Load::Train {
                direction,
                count: effort.rate_seconds * 1_000_000 / interval,
                interval,
                payload: PAYLOAD,
            };
            cells.push(cell);
        }
    }
}

fn streams(cells: &mut Vec<Cell>, effort: Effort) {
    for (delay, percent, rate, seconds) in STREAMS {
        for direction in Direction::BOTH {
            let loss = if percent > 0.0 {
                Some(Loss::Random(percent))
            } else {
                None
            };
            let streams = if percent > 0.0 { effort.streams } else { 1 };
            let title = match rate {
                0 => format!("{delay} ms, {percent} %"),
                _ => format!("{delay} ms, {percent} %, {} Mbit/s", rate / 1000),
            };
            cells.push(Cell {
                group: Group::Stream,
                title,
                way: Way::Both,
                impairment: Impairment {
                    delay,
                    loss,
                    rate,
                    ..Impairment::default()
                },
                load: Load::Stream {
                    direction,
                    seconds: seconds / effort.haste,
                },
                seeds: (1..=streams).collect(),
            });
        }
    }
}

/// The same twice, then with another seed.
fn seeds(cells: &mut Vec<Cell>, effort: Effort) {
    for direction in Direction::BOTH {
        let title = "seeds 7, 7 and 8";
        let mut cell = train(Group::Seed, title, direction, effort.datagrams / 4);
        cell.impairment = Impairment {
            delay: 10.0,
            jitter: Some((2.0, Distribution::Normal)),
            loss: Some(Loss::Random(5.0)),
            dup: 2.0,
            reorder: 2.0,
            corrupt: 1.0,
            rate: 0,
        };
        cell.seeds = vec![SEED, SEED, SEED + 1];
        cells.push(cell);
    }
}
