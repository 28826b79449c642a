//! The progress bar, on terminals only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::proto::Phase;
use super::report::title;

/// Steps of the bar per phase.
const STEPS: u64 = 100;

/// How far the test is.
#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    /// How long a phase takes at least.
    phase_length: Duration,
    begun: u64,
    since: Instant,
}

impl Progress {
    /// A bar for `phases` phases of `phase_length`, on standard error; none where
    /// that is not a terminal or nobody wants one.
    pub(super) fn new(phases: usize, phase_length: Duration) -> Self {
        let target = if std::io::stderr().is_terminal() {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(phases as u64 * STEPS), target);
        if let Ok(style) = ProgressStyle::with_template("{bar:32.cyan} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        Self {
            bar,
            phase_length,
            begun: 0,
            since: Instant::now(),
        }
    }

    /// A phase begins.
    pub(super) fn begin(&mut self, phase: Phase) {
        self.begun += 1;
        self.since = Instant::now();
        self.bar.set_message(title(phase));
        self.tick();
    }

    /// Time has passed.
    pub(super) fn tick(&self) {
        let elapsed = self.since.elapsed().as_millis() * u128::from(STEPS);
        let steps = elapsed / self.phase_length.as_millis().max(1);
        let steps = u64::try_from(steps).map_or(STEPS, |steps| steps.min(STEPS));
        self.bar
            .set_position(self.begun.saturating_sub(1) * STEPS + steps);
    }

    /// The test is over: the bar goes away.
    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}
