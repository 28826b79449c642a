//! Asks the gateway again and again, on a thread of its own: a gateway that does
//! not answer must not keep keys from being heard.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::time::{Duration, Instant};

use super::model::{Impaired, Look, Seen};
use super::ui::Errand;
use super::{Event, TopError};
use crate::cli::ctl::client::{Client, CtlError};
use crate::control::proto::{Cursor, Flow, FlowFilter, Hello, Reply, Request};

/// Flows looked at each time. Those beyond are counted only: each costs the
/// gateway a system call, between two rounds of its data path.
pub(super) const MAX_FLOWS: usize = 4096;

/// Flows up to which it is asked whose they are.
const MAX_WITH_PROCESSES: usize = 2000;

/// A look that took long is followed by a pause of so many times as much, however
/// short the interval: the gateway has more to do.
const PAUSE_PER_LOOK: u32 = 10;

/// But not longer: it may have been stopped meanwhile, and not busy.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Whether it is asked whose flows are. That takes the gateway a look at all of the
/// guest's processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Processes {
    /// It is.
    Told,
    /// There are too many.
    Untold,
}

impl Processes {
    /// With so many flows.
    const fn of(flows: usize) -> Self {
        if flows <= MAX_WITH_PROCESSES {
            Self::Told
        } else {
            Self::Untold
        }
    }
}

/// What there is to tell of the gateway.
#[derive(Debug)]
pub(super) enum Update {
    /// It was looked at.
    Look(Box<Look>),
    /// The connection was lost, and made again.
    Again(Box<Hello>),
    /// What came of an errand.
    Said(String),
    /// There is none any more.
    Gone(TopError),
}

/// A connection to a gateway, and what is remembered of it.
#[derive(Debug)]
pub(super) struct Poller {
    client: Client,
    path: PathBuf,
    /// What [`Look::at`] counts from.
    started: Instant,
    /// Whether the gateway can be asked whose flows are.
    knows_processes: bool,
}

impl Poller {
    /// Connects, and learns who is there. Looks are timed from `started` on.
    pub(super) fn connect(path: &Path, started: Instant) -> Result<(Self, Hello), TopError> {
        let mut poller = Self {
            client: Client::connect(path)?,
            path: path.to_owned(),
            started,
            knows_processes: true,
        };
        let hello = poller.hello()?;
        Ok((poller, hello))
    }

    fn hello(&mut self) -> Result<Hello, CtlError> {
        match self.client.ask(&Request::Hello {})?.reply {
            Reply::Hello(hello) => Ok(*hello),
            _ => Err(self.strange()),
        }
    }

    /// Looks once.
    pub(super) fn look(&mut self) -> Result<Look, CtlError> {
        let statistics = match self.client.ask(&Request::Statistics {})?.reply {
            Reply::Statistics(statistics) => *statistics,
            _ => return Err(self.strange()),
        };
        // Counted just before they are told, however long that took to begin.
        let at = self.started.elapsed();
        let count = statistics.flows.tcp + statistics.flows.udp;
        Ok(Look {
            at,
            statistics,
            flows: self.flows(Processes::of(count))?,
            rules: self.rules()?,
        })
    }

    /// The rules of impairment; none where a gateway knows nothing of them.
    fn rules(&mut self) -> Result<Vec<Impaired>, CtlError> {
        let rules = match self.client.ask(&Request::ImpairList {}) {
            Ok(answered) => match answered.reply {
                Reply::Impairments { rules } => rules,
                _ => return Err(self.strange()),
            },
            Err(CtlError::Gateway(_)) => Vec::new(),
            Err(error) => return Err(error),
        };
        let rules = rules.into_iter().map(|rule| Impaired {
            rule: rule.rule.to_string(),
            in_force: rule.in_force,
        });
        Ok(rules.collect())
    }

    /// The flows, page by page.
    fn flows(&mut self, processes: Processes) -> Result<Vec<Seen>, CtlError> {
        let mut flows: Vec<Seen> = Vec::new();
        let mut after = None;
        loop {
            let limit = MAX_FLOWS - flows.len();
            let (page, next) = self.page(after, limit, processes)?;
            let at = self.started.elapsed();
            flows.extend(page.into_iter().map(|flow| Seen { at, flow }));
            if next.is_none() || flows.len() >= MAX_FLOWS {
                flows.truncate(MAX_FLOWS);
                return Ok(flows);
            }
            after = next;
        }
    }

    fn page(
        &mut self,
        after: Option<Cursor>,
        limit: usize,
        processes: Processes,
    ) -> Result<(Vec<Flow>, Option<Cursor>), CtlError> {
        let request = |processes| Request::FlowList {
            filter: FlowFilter::default(),
            after: after.clone(),
            limit: u32::try_from(limit).ok(),
            processes,
        };
        let wanted = processes == Processes::Told && self.knows_processes;
        let mut answered = self.client.ask(&request(wanted));
        // One of an earlier version does not know the word.
        if wanted && matches!(answered, Err(CtlError::Gateway(_))) {
            self.knows_processes = false;
            answered = self.client.ask(&request(false));
        }
        match answered?.reply {
            Reply::Flows { flows, next } => Ok((flows, next)),
            _ => Err(self.strange()),
        }
    }

    /// Does an errand; what came of it.
    fn run(&mut self, errand: Errand) -> Result<String, CtlError> {
        let (request, done) = match errand {
            Errand::Close(id, what) => (Request::FlowClose { id }, format!("killed {what}")),
            Errand::Impair(rules) => {
                let done = match rules.len() {
                    0 => "nothing is impaired".to_owned(),
                    1 => "impaired by 1 rule".to_owned(),
                    n => format!("impaired by {n} rules"),
                };
                (Request::ImpairSet { rules }, done)
            }
        };
        match self.client.ask(&request) {
            Ok(_) => Ok(done),
            // It lives, and does not want to.
            Err(CtlError::Gateway(why)) => Ok(why),
            Err(error) => Err(error),
        }
    }

    /// Tells of looks every `interval`, and runs errands in between, until nobody
    /// listens or there is no gateway any more.
    pub(super) fn serve(
        mut self,
        interval: Duration,
        errands: &Receiver<Errand>,
        events: &SyncSender<Event>,
    ) {
        loop {
            let began = Instant::now();
            let looked = self.look();
            let took = began.elapsed();
            let pause = took.saturating_mul(PAUSE_PER_LOOK).min(LONGEST_PAUSE);
            // From beginning to beginning, unless it is slow.
            let next = (began + interval).max(began + took + pause);
            let update = match looked {
                Ok(look) => Update::Look(Box::new(look)),
                Err(error) => self.connect_again(error),
            };
            let gone = matches!(update, Update::Gone(_));
            if events.send(Event::Update(update)).is_err() || gone {
                return;
            }
            if self.run_until(next, errands, events).is_break() {
                return;
            }
        }
    }

    fn run_until(
        &mut self,
        next: Instant,
        errands: &Receiver<Errand>,
        events: &SyncSender<Event>,
    ) -> std::ops::ControlFlow<()> {
        use std::ops::ControlFlow::{Break, Continue};
        loop {
            let left = next.saturating_duration_since(Instant::now());
            let errand = match errands.recv_timeout(left) {
                Ok(errand) => errand,
                Err(RecvTimeoutError::Timeout) => return Continue(()),
                Err(RecvTimeoutError::Disconnected) => return Break(()),
            };
            let update = match self.run(errand) {
                Ok(said) => Update::Said(said),
                Err(error) => self.connect_again(error),
            };
            let gone = matches!(update, Update::Gone(_));
            if events.send(Event::Update(update)).is_err() || gone {
                return Break(());
            }
        }
    }

    /// A connection may end without the gateway's end: it closes one on which
    /// nothing came for minutes, as when this program was stopped.
    fn connect_again(&mut self, lost: CtlError) -> Update {
        if !matches!(lost, CtlError::Closed(_) | CtlError::Connection { .. }) {
            return Update::Gone(lost.into());
        }
        match Self::connect(&self.path, self.started) {
            Ok((poller, hello)) => {
                *self = poller;
                Update::Again(Box::new(hello))
            }
            Err(_) => Update::Gone(TopError::Ended(self.path.clone())),
        }
    }

    fn strange(&self) -> CtlError {
        CtlError::NotGw(self.path.clone())
    }
}
