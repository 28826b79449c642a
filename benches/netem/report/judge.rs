//! What was measured against what was set: limits and verdicts.

use gw::cli::speedtest::stats::median;

use super::impairment::{Direction, Distribution, Loss};
use super::model::{Arrivals, Contender};
use super::results::{Group, Results, Row};

/// How far a delay may be off, in milliseconds.
pub(crate) const DELAY_LIMIT: f64 = 0.2;
/// How far a rate may be off.
pub(crate) const RATE_LIMIT: f64 = 0.01;
/// How far goodput may be off netem's.
pub(crate) const GOODPUT_LIMIT: f64 = 0.1;
/// So many standard deviations hold 99 % of a normal distribution.
pub(crate) const Z99: f64 = 2.575_829_303_549;

/// One number that is held against limits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Check {
    pub(crate) group: Group,
    /// What was set.
    pub(crate) title: String,
    pub(crate) direction: Direction,
    /// What was measured, and its unit.
    pub(crate) what: &'static str,
    pub(crate) low: f64,
    pub(crate) high: f64,
    pub(crate) netem: Option<f64>,
    pub(crate) gw: Option<f64>,
}

impl Check {
    /// What there is of a contender.
    pub(crate) fn value(&self, contender: Contender) -> Option<f64> {
        match contender {
            Contender::Netem => self.netem,
            Contender::Gw => self.gw,
        }
    }

    /// Whether it is within the limits; what could not be measured is not.
    pub(crate) fn holds(&self, contender: Contender) -> bool {
        let value = self.value(contender);
        value.is_some_and(|value| (self.low..=self.high).contains(&value))
    }
}

/// Every check there is, in the order of the cells.
pub(crate) fn checks(results: &Results) -> Vec<Check> {
    let mut checks = Vec::new();
    for row in &results.rows {
        match row.cell.group {
            Group::Baseline => {}
            Group::Delay => delay(&mut checks, results, row),
            Group::Jitter => jitter(&mut checks, results, row),
            Group::Fate => fate(&mut checks, row),
            Group::Rate => rate(&mut checks, row),
            Group::Stream => goodput(&mut checks, row),
            Group::Seed => seed(&mut checks, row),
        }
    }
    checks
}

/// A check of each contender's first train.
fn of_trains(
    row: &Row,
    what: &'static str,
    (low, high): (f64, f64),
    value: impl Fn(Contender, &Arrivals) -> Option<f64>,
) -> Check {
    let of = |contender| value(contender, row.trains(contender).next()?);
    Check {
        group: row.cell.group,
        title: row.cell.title.clone(),
        direction: row.cell.direction(),
        what,
        low,
        high,
        netem: of(Contender::Netem),
        gw: of(Contender::Gw),
    }
}

fn around(value: f64, margin: f64) -> (f64, f64) {
    (value - margin, value + margin)
}

/// What a datagram takes without impairment, in milliseconds.
pub(crate) fn baseline(
    results: &Results,
    contender: Contender,
    direction: Direction,
) -> Option<f64> {
    let mut rows = results.of(Group::Baseline);
    let row = rows.find(|row| row.cell.direction() == direction)?;
    Some(row.trains(contender).next()?.mean)
}

fn delay(checks: &mut Vec<Check>, results: &Results, row: &Row) {
    let limits = around(row.cell.impairment.delay, DELAY_LIMIT);
    let base = |contender| baseline(results, contender, row.cell.direction());
    checks.push(of_trains(row, "mean, ms", limits, |contender, train| {
        Some(train.mean - base(contender)?)
    }));
    checks.push(of_trains(row, "99 %, ms", limits, |contender, train| {
        Some(train.quantiles.get(99)? - base(contender)?)
    }));
}

fn jitter(checks: &mut Vec<Check>, results: &Results, row: &Row) {
    let Some((jitter, distribution)) = row.cell.impairment.jitter else {
        return;
    };
    let netem = row.trains(Contender::Netem).next();
    let base = |contender| baseline(results, contender, row.cell.direction());
    let set = row.cell.impairment.delay;
    let (mean, deviation) = match distribution {
        Distribution::Uniform => (set, jitter / 3.0_f64.sqrt()),
        Distribution::Normal => (set, jitter),
        // What its table makes of it is said by netem only.
        Distribution::Pareto => match netem {
            Some(train) => (
                train.mean - base(Contender::Netem).unwrap_or_default(),
                train.deviation,
            ),
            None => return,
        },
    };
    let limits = around(mean, DELAY_LIMIT);
    checks.push(of_trains(row, "mean, ms", limits, |contender, train| {
        Some(train.mean - base(contender)?)
    }));
    let limits = around(deviation, DELAY_LIMIT);
    checks.push(of_trains(
        row,
        "standard deviation, ms",
        limits,
        |_, train| Some(train.deviation),
    ));
}

/// How many of `n` are hit in 99 % of cases when each is with probability `p`,
/// with the variance of a count of independent ones times `factor`.
fn interval(n: f64, p: f64, factor: f64) -> (f64, f64) {
    around(n * p, Z99 * (n * p * (1.0 - p) * factor).sqrt())
}

fn fate(checks: &mut Vec<Check>, row: &Row) {
    let impairment = row.cell.impairment;
    let Some(sent) = row
        .trains(Contender::Gw)
        .chain(row.trains(Contender::Netem))
        .next()
    else {
        return;
    };
    let n = f64::from(sent.sent);
    let missing = |train: &Arrivals| f64::from(train.sent - train.arrived);
    match impairment.loss {
        Some(Loss::Random(percent)) => {
            let limits = interval(n, percent / 100.0, 1.0);
            checks.push(of_trains(row, "lost", limits, |_, train| {
                Some(missing(train))
            }));
        }
        Some(Loss::Bursts { begin, end }) => bursts(checks, row, n, begin / 100.0, end / 100.0),
        None => {}
    }
    if impairment.dup > 0.0 {
        let limits = interval(n, impairment.dup / 100.0, 1.0);
        checks.push(of_trains(row, "arrived twice", limits, |_, train| {
            Some(train.copies.into())
        }));
    }
    if impairment.reorder > 0.0 {
        let limits = interval(n, impairment.reorder / 100.0, 1.0);
        checks.push(of_trains(row, "went ahead", limits, |_, train| {
            Some(train.early.into())
        }));
    }
    if impairment.corrupt > 0.0 {
        // The receiving kernel drops by the checksum what it sees to be damaged.
        let limits = interval(n, impairment.corrupt / 100.0, 1.0);
        checks.push(of_trains(row, "dropped for damage", limits, |_, train| {
            Some(missing(train))
        }));
    }
}

/// Two states, the bad one loses: how many are lost, and how many in a row.
fn bursts(checks: &mut Vec<Check>, row: &Row, n: f64, begin: f64, end: f64) {
    let bad = begin / (begin + end);
    // Neighbours have the same fate more often than not: the correlation from one
    // to the next is 1 - begin - end, and falls with its powers.
    let correlation = 1.0 - begin - end;
    let limits = interval(n, bad, (1.0 + correlation) / (1.0 - correlation));
    let missing = |train: &Arrivals| f64::from(train.sent - train.arrived);
    checks.push(of_trains(row, "lost", limits, |_, train| {
        Some(missing(train))
    }));
    let count = (n * bad * end).max(1.0);
    let spread = (1.0 - end).sqrt() / end / count.sqrt();
    let limits = around(1.0 / end, Z99 * spread);
    checks.push(of_trains(row, "lost in a row, mean", limits, |_, train| {
        (train.bursts > 0).then(|| missing(train) / f64::from(train.bursts))
    }));
}

fn rate(checks: &mut Vec<Check>, row: &Row) {
    let set = f64::from(row.cell.impairment.rate) / 1000.0;
    let limits = around(set, set * RATE_LIMIT);
    checks.push(of_trains(row, "Mbit/s of frames", limits, |_, train| {
        Some(train.rate / 1000.0)
    }));
}

/// The median of a contender's streams, in megabit per second.
pub(crate) fn median_goodput(row: &Row, contender: Contender) -> Option<f64> {
    let rates: Vec<f64> = row.streams(contender).map(|one| one.goodput()).collect();
    median(&rates)
}

fn goodput(checks: &mut Vec<Check>, row: &Row) {
    let netem = median_goodput(row, Contender::Netem);
    let (low, high) = netem.map_or((0.0, 0.0), |netem| around(netem, netem * GOODPUT_LIMIT));
    checks.push(Check {
        group: Group::Stream,
        title: row.cell.title.clone(),
        direction: row.cell.direction(),
        what: "goodput, Mbit/s",
        low,
        high,
        netem,
        gw: median_goodput(row, Contender::Gw),
    });
}

/// 1 if the first two runs have the same fates, and the third others.
fn seed(checks: &mut Vec<Check>, row: &Row) {
    let fates: Vec<&str> = row
        .trains(Contender::Gw)
        .map(|train| train.fate.as_str())
        .collect();
    let gw = match fates[..] {
        [first, second, third] => Some(f64::from(u8::from(first == second && first != third))),
        _ => None,
    };
    checks.push(Check {
        group: Group::Seed,
        title: row.cell.title.clone(),
        direction: row.cell.direction(),
        what: "fates are the same, the same, others (1: yes)",
        low: 1.0,
        high: 1.0,
        netem: None,
        gw,
    });
}
