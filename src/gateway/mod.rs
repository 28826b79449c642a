//! The composition root: builds a gateway from a [`Config`] and runs it.
//!
//! # Theory of operation
//!
//! The one hot loop is [`Gateway::run`]. A round takes what the link has (at
//! most [`FRAMES_PER_ROUND`] frames), looks at the host's sockets, and does the
//! work both left. Rounds follow each other while there is something to do;
//! then the loop sleeps in the asynchronous runtime until a descriptor, a
//! deadline, a DNS answer, a command or the end wakes it. Everything slow (DNS, for one)
//! runs as tasks of that runtime, between rounds.

mod capture;
mod control;
mod figures;
mod forwards;
mod impaired;
mod impairing;
mod line;
mod local;
mod metrics;
mod sampler;
mod watching;

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::mem;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::mpsc;

use self::capture::Capturing;
use self::control::Control;
pub use self::control::SetLogLevel;
pub use self::forwards::Inherited;
use self::forwards::Ports;
pub use self::impaired::random_seed;
use self::line::Line;
use self::local::{DnsAnswer, Services};
use self::metrics::Metrics;
use self::sampler::Sampler;
use self::watching::Watching;
use crate::capture::CaptureError;
use crate::config::{Config, IcmpPolicy};
use crate::control::SocketError;
use crate::control::proto::Traffic;
use crate::forward::{ForwardError, ForwardInfo, ForwardSpec};
use crate::impair::{Faults, RulesError};
use crate::observe::report::Figures;
use crate::policy::{Exposed, Policy};
use crate::services::dns::{DnsError, Resolver};
use crate::slirp::{HostSockets, OutboundError, Parts, Seen, Slirp, Telling};
use crate::tap::Link;
use crate::tap::sys::watch_readable;

/// Frames taken from the link before host sockets get their turn.
const FRAMES_PER_ROUND: usize = 64;

/// Rounds without sleep before other tasks get their turn.
const ROUNDS_PER_YIELD: u32 = 16;

/// Descriptors left for everything that is not a flow.
const RESERVED_DESCRIPTORS: usize = 256;

/// After this long without traffic, memory kept for speed is given back.
const TRIM_AFTER: Duration = Duration::from_secs(5);

/// Why the gateway was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// A signal, by number.
    Signal(i32),
    /// The other end of `--exit-fd` hung up.
    ExitFd,
    /// The namespace or its process is gone.
    TargetGone,
    /// The command of `gw run` ended.
    CommandEnded,
    /// A client of the control socket asked for it.
    Requested,
}

/// What ended a gateway.
#[derive(Debug)]
pub enum End {
    /// It was asked to stop.
    Asked(StopReason),
    /// The link went away, for this reason.
    LinkGone(io::Error),
}

/// How a gateway ended.
#[derive(Debug)]
pub struct Ended {
    /// What ended it.
    pub end: End,
    /// What summaries and reports say besides flows.
    pub figures: Figures,
}

/// A gateway could not be built, or failed.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The translation core did not start.
    #[error("cannot start the gateway: {0}")]
    Start(#[source] io::Error),
    /// `--outbound-addr` names what this host does not have.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The resolver's configuration is unusable.
    #[error("cannot start the resolver: {0}")]
    Dns(#[from] DnsError),
    /// A control socket cannot be made.
    #[error(transparent)]
    Control(#[from] SocketError),
    /// Metrics cannot be served at this address.
    #[error("cannot serve metrics at {addr}: {source}; choose another place with --metrics")]
    Metrics {
        /// Where.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A port cannot be published or exposed.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The rules of impairment are too many.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// A capture cannot be written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// epoll or the runtime failed.
    #[error("the event loop failed: {0}")]
    EventLoop(#[source] io::Error),
}

/// A gateway that is built and not yet running.
pub struct Gateway {
    slirp: Slirp,
    link: Line,
    services: Rc<RefCell<Services>>,
    answers: mpsc::Receiver<DnsAnswer>,
    ports: Ports,
    watching: Watching,
    capturing: Capturing,
    /// `None` without control sockets.
    control: Option<Control>,
    set_log_level: Option<SetLogLevel>,
    /// Those of the rules, for flows and questions that begin.
    faults: Rc<Faults>,
    /// What the link is called where it has no ports.
    interface: String,
    /// Frames from the link.
    received: Traffic,
    sampler: Sampler,
    /// `None` without `--metrics`.
    metrics: Option<Metrics>,
}

impl fmt::Debug for Gateway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gateway")
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// What a round left.
#[derive(Debug)]
enum Round {
    /// Nothing happened.
    Idle,
    /// Something did, and is done with.
    Done,
    /// More to do at once.
    Busy,
    /// The link is gone.
    LinkGone(io::Error),
}

impl Gateway {
    /// Builds the gateway that `config` describes on `link`. Its forwards stand
    /// then: clients that come early wait.
    ///
    /// # Errors
    /// [`GatewayError`]; a process can hold one gateway at a time.
    pub fn new(
        config: &Config,
        link: Box<dyn Link>,
        mut inherited: Inherited,
    ) -> Result<Self, GatewayError> {
        let sockets = HostSockets {
            outbound4: config.outbound4.clone(),
            outbound6: config.outbound6.clone(),
        };
        sockets.check()?;
        let uso = link.caps().uso;
        let now = Instant::now();
        let (services, answers) = Services::new(config, now)?;
        let link = Line::new(link, services.names());
        if !config.impairments.is_empty() {
            link.with_impairment(|impairment| impairment.set(config.impairments.clone(), now))
                .transpose()?;
        }
        let metrics = Metrics::new(config)?;
        let mut sinks = mem::take(&mut inherited.sinks);
        sinks.extend(metrics.as_ref().map(Metrics::sink));
        let services = Rc::new(RefCell::new(services));
        let parts = Parts {
            plan: config.plan.clone(),
            policy: Policy {
                plan: config.plan.clone(),
                host_loopback: config.host_loopback.clone(),
                exposed: Exposed::default(),
                dns: config.dns.is_some(),
            },
            forward_echo: config.icmp == IcmpPolicy::Forward,
            sockets,
            memory: config.memory,
            descriptors: descriptors().saturating_sub(listeners(config)),
            uso,
            events: match sinks.is_empty() {
                true => Telling::Off,
                false => Telling::On,
            },
            outlet: Box::new(link.outlet()),
            local: Box::new(Rc::clone(&services)),
        };
        let mut slirp = Slirp::new(parts, now).map_err(GatewayError::Start)?;
        let owners = inherited.owners.take();
        let names = services.borrow().resolver().map(Resolver::names);
        let watching = Watching::start(sinks, owners, names).map_err(GatewayError::Start)?;
        let ports = Ports::new(config, inherited, descriptors(), &mut slirp, now)?;
        if let Some(watched) = link.with_link(|link| slirp.watch(link.readiness())) {
            watched.map_err(GatewayError::Start)?;
        }
        let mut gateway = Self {
            slirp,
            link,
            services,
            answers,
            ports,
            watching,
            capturing: Capturing::new(config),
            control: Control::new(config, now)?,
            set_log_level: None,
            faults: Rc::default(),
            interface: config.interface.name.clone(),
            received: Traffic::default(),
            sampler: Sampler::new(&config.observe, now),
            metrics,
        };
        gateway.follow_rules();
        // Last: a file that is there is emptied.
        gateway.start_captures(&config.observe.captures)?;
        gateway.take_events();
        Ok(gateway)
    }

    /// The forwards as they stand.
    pub fn forwards(&self) -> impl Iterator<Item = ForwardInfo> {
        self.ports.table.list()
    }

    /// Lets clients of the control socket set how much is logged.
    pub fn on_log_level(&mut self, set: SetLogLevel) {
        self.set_log_level = Some(set);
    }

    /// Serves until `stop` resolves or the link is gone, then resets open
    /// flows. `ready` is called when frames are being carried.
    ///
    /// Must run on a current-thread runtime.
    ///
    /// # Errors
    /// [`GatewayError::EventLoop`].
    pub async fn run(
        mut self,
        ready: impl FnOnce(),
        stop: impl Future<Output = StopReason>,
    ) -> Result<Ended, GatewayError> {
        let local = tokio::task::LocalSet::new();
        local
            .run_until(async move {
                let end = self
                    .serve(ready, stop)
                    .await
                    .map_err(GatewayError::EventLoop)?;
                self.slirp.reset_all();
                self.watching
                    .finish(&mut self.slirp, &self.capturing, &self.link);
                self.capturing.finish();
                let figures = self.figures();
                Ok(Ended { end, figures })
            })
            .await
    }

    async fn serve(
        &mut self,
        ready: impl FnOnce(),
        stop: impl Future<Output = StopReason>,
    ) -> io::Result<End> {
        let events = self.slirp.readiness().try_clone_to_owned()?;
        let events = watch_readable(events)?;
        let mut stop = pin!(stop);
        let mut rounds = 0;
        let mut last_traffic: Option<Instant> = None;
        if let Some(control) = &mut self.control {
            control.start(self.set_log_level.take());
        }
        self.link.start_schedules(Instant::now());
        self.follow_rules();
        if let Some(metrics) = &mut self.metrics {
            metrics.start();
        }
        self.sampler.begin(Instant::now());
        ready();
        loop {
            match self.round()? {
                Round::LinkGone(reason) => return Ok(End::LinkGone(reason)),
                Round::Busy => {
                    last_traffic = Some(Instant::now());
                    rounds += 1;
                    if rounds % ROUNDS_PER_YIELD == 0 {
                        tokio::select! {
                            biased;
                            reason = &mut stop => return Ok(End::Asked(reason)),
                            () = tokio::task::yield_now() => {}
                        }
                        while let Ok(answer) = self.answers.try_recv() {
                            self.answer(&answer);
                        }
                        if let ControlFlow::Break(reason) = self.do_waiting_commands() {
                            return Ok(End::Asked(reason));
                        }
                        self.answer_waiting_questions();
                        self.ports.poll(Instant::now(), &mut self.slirp);
                    }
                    continue;
                }
                Round::Done => last_traffic = Some(Instant::now()),
                Round::Idle => {}
            }
            let now = Instant::now();
            if last_traffic.is_some_and(|at| now.duration_since(at) >= TRIM_AFTER) {
                self.slirp.trim();
                last_traffic = None;
            }
            self.ports.poll(now, &mut self.slirp);
            let deadline = self.next_deadline(last_traffic);
            self.slirp.wake_by(deadline, now)?;
            tokio::select! {
                biased;
                reason = &mut stop => return Ok(End::Asked(reason)),
                // Cleared before the sockets are looked at: what comes later is
                // a new edge.
                guard = events.readable() => guard?.clear_ready(),
                Some(answer) = self.answers.recv() => self.answer(&answer),
                question = metrics::next(&mut self.metrics) => self.answer_question(question),
                command = control::next(&mut self.control) => {
                    if let ControlFlow::Break(reason) = self.do_command(command) {
                        return Ok(End::Asked(reason));
                    }
                }
            }
        }
    }

    /// One round; see the module's documentation.
    fn round(&mut self) -> io::Result<Round> {
        let now = Instant::now();
        self.slirp.set_now(now);
        let frames = match self.take_frames() {
            Ok(count) => count,
            Err(error) => {
                tracing::debug!(%error, "the link is gone");
                return Ok(Round::LinkGone(error));
            }
        };
        if frames > 0 {
            // Before the guest has its answer: its process may not live long.
            self.take_events();
        }
        let seen = self.slirp.poll_host()?;
        let more_work = self.slirp.work();
        self.services.borrow_mut().poll(now, &mut self.slirp);
        if self.sampler.is_on() {
            self.sample(now);
        }
        self.take_events();
        self.capturing.end_round();
        Ok(
            if frames == FRAMES_PER_ROUND || seen == Seen::More || more_work {
                Round::Busy
            } else if frames > 0 || seen == Seen::All {
                Round::Done
            } else {
                Round::Idle
            },
        )
    }

    /// Hands on what is told of flows.
    fn take_events(&mut self) {
        self.watching
            .take_events(&mut self.slirp, &self.capturing, &self.link);
    }

    /// Takes frames from the link, and says how many.
    fn take_frames(&mut self) -> io::Result<usize> {
        for taken in 0..FRAMES_PER_ROUND {
            let mut buffer = self.slirp.buffer();
            let received = self.link.recv(buffer.bytes_mut());
            match received {
                Ok(frame) => {
                    self.received.count(frame.len);
                    self.slirp.input(buffer, frame.len, &frame.offload);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(FRAMES_PER_ROUND)
    }

    fn answer(&mut self, answer: &DnsAnswer) {
        self.slirp
            .send_udp(answer.server, answer.guest, &answer.message);
    }

    fn next_deadline(&mut self, last_traffic: Option<Instant>) -> Option<Instant> {
        let trim = last_traffic.map(|since| since + TRIM_AFTER);
        let services = self.services.borrow().next_deadline();
        let ports = self.ports.next_deadline();
        let line = self.link.next_deadline();
        let sampler = self.sampler.next_deadline(self.passed());
        [
            self.slirp.next_deadline(),
            services,
            ports,
            line,
            sampler,
            trim,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Sockets that the forwards of `config` take.
fn listeners(config: &Config) -> usize {
    let sockets = |forward: &ForwardSpec| match forward {
        ForwardSpec::Publish(publish) => publish.sockets(),
        ForwardSpec::Expose(_) => 0,
    };
    config.forwards.iter().map(sockets).sum()
}

/// Descriptors that flows may use, from the process's limit.
fn descriptors() -> usize {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(limit)
        .unwrap_or(usize::MAX)
        .saturating_sub(RESERVED_DESCRIPTORS)
}
