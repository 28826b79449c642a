//! Figures for the clients of `--metrics`, given by the loop between two rounds.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{Gateway, GatewayError};
use crate::config::Config;
use crate::control::socket::{Listening, bind_control};
use crate::observe::metrics::{self, Asker, FlowCounts, Listener, Port, Question, Snapshot};
use crate::observe::{MetricsAt, Sink};
use crate::tap::switch::PortInfo;

/// Questions answered before frames get their turn.
const QUESTIONS_PER_TURN: usize = 4;

/// The socket and what comes from it.
pub(super) struct Metrics {
    listener: Option<Listener>,
    /// Kept for its file, which goes when this does.
    _unix: Option<Listening>,
    asker: Asker,
    questions: mpsc::Receiver<Question>,
    counts: Arc<FlowCounts>,
    began: SystemTime,
    budget: usize,
}

impl Metrics {
    /// Listens where `config` says; `None` when it does not. To be called inside a
    /// runtime.
    pub(super) fn new(config: &Config) -> Result<Option<Self>, GatewayError> {
        let Some(at) = &config.observe.metrics else {
            return Ok(None);
        };
        let (listener, unix) = match at {
            MetricsAt::Tcp(addr) => (Some(Listener::Tcp(bind_tcp(*addr)?)), None),
            MetricsAt::Unix(path) => {
                let mut listening = bind_control(path)?;
                (listening.take().map(Listener::Unix), Some(listening))
            }
        };
        let (asker, questions) = Asker::new();
        Ok(Some(Self {
            listener,
            _unix: unix,
            asker,
            questions,
            counts: Arc::default(),
            began: SystemTime::now(),
            budget: config.memory,
        }))
    }

    /// Starts to serve. To be called inside a `LocalSet`.
    pub(super) fn start(&mut self) {
        self.began = SystemTime::now();
        if let Some(listener) = self.listener.take() {
            let (asker, counts) = (self.asker.clone(), Arc::clone(&self.counts));
            tokio::task::spawn_local(metrics::serve(listener, asker, counts));
        }
    }

    /// What is to hear of flows.
    pub(super) fn sink(&self) -> Box<dyn Sink> {
        self.counts.sink()
    }
}

fn bind_tcp(addr: SocketAddr) -> Result<tokio::net::TcpListener, GatewayError> {
    let bind = || -> io::Result<_> {
        let listener = TcpListener::bind(addr)?;
        listener.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(listener)
    };
    bind().map_err(|source| GatewayError::Metrics { addr, source })
}

/// The next question; never without a socket.
pub(super) async fn next(metrics: &mut Option<Metrics>) -> Question {
    let question = match metrics {
        Some(metrics) => metrics.questions.recv().await,
        None => None,
    };
    match question {
        Some(question) => question,
        None => std::future::pending().await,
    }
}

impl Gateway {
    /// Answers what waits, a few questions at most.
    pub(super) fn answer_waiting_questions(&mut self) {
        for _ in 0..QUESTIONS_PER_TURN {
            let metrics = self.metrics.as_mut();
            let Some(question) = metrics.and_then(|metrics| metrics.questions.try_recv().ok())
            else {
                return;
            };
            self.answer_question(question);
        }
    }

    /// Answers a client, should it still be there.
    pub(super) fn answer_question(&mut self, question: Question) {
        if let Some(snapshot) = self.snapshot() {
            let _ = question.send(snapshot);
        }
    }

    fn snapshot(&mut self) -> Option<Snapshot> {
        let (tcp, udp) = self.slirp.flows();
        let used = self.slirp.memory_used();
        let ports = self.ports().into_iter().map(port).collect();
        let dropped = self.drops();
        let held = self
            .link
            .look_at_impairment(|impairment| impairment.rules().held());
        let captures = self.capturing.list();
        let services = self.services.borrow();
        let dns = services
            .resolver()
            .map_or(0, |resolver| resolver.in_flight());
        let metrics = self.metrics.as_ref()?;
        Some(Snapshot {
            began: metrics.began,
            flows: [("tcp", tcp), ("udp", udp)].into(),
            buffers: (used, metrics.budget),
            link: self.link_figures(),
            dropped,
            ports,
            queues: [("dns", dns)].into(),
            held: held.unwrap_or(0),
            captures: captures
                .into_iter()
                .map(|capture| metrics::Capture {
                    id: capture.id.0.get(),
                    packets: capture.packets,
                    lost: capture.lost,
                })
                .collect(),
        })
    }
}

fn port(info: PortInfo) -> Port {
    Port {
        id: info.id.get(),
        name: info.name,
        received: info.counters.received,
        sent: info.counters.sent,
        not_sent: info.counters.not_sent,
        malformed: info.counters.malformed,
    }
}
