//! Agents: this program again, inside one of the benchmark's namespaces, doing
//! there what the orchestrator asks for over a pipe.
//!
//! Client and server are processes of their own, because 10,000 connections need
//! 10,000 descriptors on each side. An agent ends when its pipe closes, and is
//! killed with the orchestrator.

mod client;
pub(crate) mod proto;
mod server;

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use self::proto::{Counters, Reply, Request, UDP_PAYLOAD};
use crate::error::{Context, Error, Result};
use crate::namespace::{self, Namespaces};

/// Set, to the namespaces wanted, in the environment of an agent.
pub(crate) const ROLE: &str = "GW_PEERS_AGENT";

/// Bytes that a load hands to one write.
const TCP_WRITE: usize = 128 << 10;

/// Bytes that a load asks for in one read.
const TCP_READ: usize = 256 << 10;

/// What the agent's threads received; shared by all of them.
#[derive(Debug, Default)]
struct Received {
    bytes: AtomicU64,
    datagrams: AtomicU64,
    /// The UDP source is sending.
    flooding: AtomicBool,
}

impl Received {
    fn add_bytes(&self, count: usize) {
        self.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts a datagram of the load; others are not its.
    fn add_datagram(&self, length: usize) {
        if length == UDP_PAYLOAD {
            self.datagrams.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counters(&self) -> Counters {
        Counters {
            nanos: monotonic_nanos(),
            bytes: self.bytes.load(Ordering::Relaxed),
            datagrams: self.datagrams.load(Ordering::Relaxed),
        }
    }
}

/// The monotonic clock, which all processes share, in nanoseconds.
pub(crate) fn monotonic_nanos() -> u64 {
    // The clock exists on every Linux; 0 would show as an absurd duration.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX)
    })
}

/// An agent, seen from the orchestrator.
#[derive(Debug)]
pub(crate) struct Agent {
    child: Child,
    requests: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Agent {
    /// Starts an agent in namespaces of its own, and waits until it is ready.
    ///
    /// # Errors
    /// When it cannot be started or its namespaces cannot be set up.
    pub(crate) fn spawn(namespaces: Namespaces) -> Result<Self> {
        let program = std::env::current_exe().context(|| "finding this program".into())?;
        let mut child = Command::new(program)
            .env(ROLE, namespaces.name())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context(|| "starting an agent".into())?;
        let (Some(requests), Some(replies)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error("an agent was started without pipes".into()));
        };
        let mut agent = Self {
            child,
            requests: Some(requests),
            replies: BufReader::new(replies),
        };
        agent.reply()?;
        Ok(agent)
    }

    /// The agent's process id, by which its namespaces are named.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the agent has ended or the request failed.
    pub(crate) fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.send(request)?;
        self.reply()
    }

    /// Asks without waiting; [`Agent::reply`] waits.
    ///
    /// # Errors
    /// When the agent has ended.
    pub(crate) fn send(&mut self, request: &Request) -> Result<()> {
        let mut line = serde_json::to_vec(request).context(|| "encoding a request".into())?;
        line.push(b'\n');
        let requests = self
            .requests
            .as_mut()
            .ok_or_else(|| Error("the agent was ended".into()))?;
        requests
            .write_all(&line)
            .context(|| "asking an agent".into())
    }

    /// Waits for the answer to [`Agent::send`].
    ///
    /// # Errors
    /// When the agent has ended or the request failed.
    pub(crate) fn reply(&mut self) -> Result<Reply> {
        let mut line = String::new();
        self.replies
            .read_line(&mut line)
            .context(|| "waiting for an agent".into())?;
        if line.is_empty() {
            return Err(Error("an agent ended early".into()));
        }
        match serde_json::from_str(&line).context(|| "reading an agent's answer".into())? {
            Reply::Failed { why } => Err(Error(why)),
            reply => Ok(reply),
        }
    }

    /// What the agent has received until now.
    ///
    /// # Errors
    /// When the agent has ended.
    pub(crate) fn counters(&mut self) -> Result<Counters> {
        match self.ask(&Request::Counters)? {
            Reply::Counters(counters) => Ok(counters),
            other => Err(unexpected(&other)),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        drop(self.requests.take());
        // It may hang in a request; its work is over either way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer that does not fit the request.
pub(crate) fn unexpected(reply: &Reply) -> Error {
    Error(format!("an agent gave the wrong answer: {reply:?}"))
}

/// The agent's main function.
pub(crate) fn main(namespaces: &str) -> ExitCode {
    let started = Namespaces::from_name(namespaces)
        .ok_or_else(|| Error(format!("'{namespaces}' is not a namespace set")))
        .and_then(namespace::enter);
    let answered = match started {
        Ok(()) => answer(&Reply::Done).and_then(|()| serve_requests()),
        Err(Error(why)) => answer(&Reply::Failed { why }),
    };
    if answered.is_ok() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Writes one answer.
fn answer(reply: &Reply) -> io::Result<()> {
    let mut line = serde_json::to_vec(reply)?;
    line.push(b'\n');
    io::stdout().write_all(&line)
}

/// Answers requests until the pipe closes.
fn serve_requests() -> io::Result<()> {
    let mut worker = Worker::default();
    for line in io::stdin().lines() {
        let reply = serde_json::from_str(&line?)
            .map_err(Error::from_display)
            .and_then(|request| worker.handle(request))
            .unwrap_or_else(|Error(why)| Reply::Failed { why });
        answer(&reply)?;
    }
    Ok(())
}

impl Error {
    /// An error that needs no context.
    fn from_display(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The agent's state between requests.
#[derive(Debug, Default)]
struct Worker {
    received: Arc<Received>,
    load: Option<client::Running>,
    idle: Vec<std::net::TcpStream>,
}

impl Worker {
    fn handle(&mut self, request: Request) -> Result<Reply> {
        match request {
            Request::Serve => server::start(&self.received)
                .map(Reply::Ports)
                .context(|| "opening the servers".into()),
            Request::Counters => Ok(Reply::Counters(self.received.counters())),
            Request::Mtu { interface } => {
                namespace::mtu(&interface).map(|bytes| Reply::Mtu { bytes })
            }
            Request::Start { load, to, streams } => {
                client::Running::start(load, to, streams, &self.received)
                    .context(|| format!("starting {load:?} to {to}"))
                    .map(|running| {
                        self.load = Some(running);
                        Reply::Done
                    })
            }
            Request::Stop => {
                self.received.flooding.store(false, Ordering::Relaxed);
                if let Some(load) = self.load.take() {
                    load.stop();
                }
                Ok(Reply::Done)
            }
            Request::RoundTrips {
                transport,
                to,
                millis,
            } => client::round_trips(transport, to, Duration::from_millis(millis))
                .context(|| format!("{transport:?} round trips to {to}")),
            Request::Connections { to, millis } => {
                client::connections(to, Duration::from_millis(millis))
                    .context(|| format!("connections to {to}"))
            }
            Request::Idle { first, port, count } => client::idle(first, port, count)
                .context(|| format!("opening {count} idle connections from {first} on"))
                .map(|streams| {
                    self.idle.extend(streams);
                    Reply::Done
                }),
            Request::FirstConnection { to, millis } => {
                client::first_connection(to, Duration::from_millis(millis))
                    .context(|| format!("first connection to {to}"))
            }
        }
    }
}
