//! The control sockets: what can be asked of a running gateway.
//!
//! # Theory of operation
//!
//! Two front ends make a [`Request`] of what they read: JSON lines
//! ([`lines`], `--control`) and slirp4netns's API ([`slirp4netns`]). They are
//! tasks on the gateway's thread, one per client. A request goes to the
//! gateway's loop as a [`Command`] through a bounded channel; the loop answers
//! it between two rounds and never waits for anybody: the answer is handed
//! over, or dropped when its client has gone. What is slow (reading, writing,
//! turning an answer into text) happens in the client's own task, with a
//! deadline.
//!
//! The loop does a few commands per turn, each bounded: lists come in pages
//! ([`proto::MAX_PAGE`]).
//!
//! Who may ask: this user and root. The file of a socket is made with mode 0600
//! ([`socket`]).

pub mod lines;
pub mod proto;
pub mod slirp4netns;
pub mod socket;

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

pub use self::proto::{Reply, Request, RequestError};
pub use self::socket::SocketError;

use crate::config::Config;

/// Requests of all clients that wait for the loop; more wait in their tasks.
const MAX_COMMANDS: usize = 64;

/// How long a client may take to read an answer.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);

/// How long a client may take to close its side, when we have closed ours.
const LINGER: Duration = Duration::from_secs(1);

/// A request on its way to the gateway's loop, and where the answer goes.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Takes the answer; nobody may be left to receive it.
    pub reply: oneshot::Sender<Result<Reply, RequestError>>,
}

/// Asks the gateway's loop. Clones ask the same loop.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Command>);

impl Asker {
    /// An asker, and where its loop takes the questions from.
    #[must_use]
    pub fn new() -> (Self, mpsc::Receiver<Command>) {
        let (sender, receiver) = mpsc::channel(MAX_COMMANDS);
        (Self(sender), receiver)
    }

    /// Asks, and waits for the loop's answer.
    ///
    /// # Errors
    /// Those of the loop; [`RequestError::Stopping`] when there is none left.
    pub async fn ask(&self, request: Request) -> Result<Reply, RequestError> {
        let (reply, answer) = oneshot::channel();
        let command = Command { request, reply };
        self.0
            .send(command)
            .await
            .map_err(|_| RequestError::Stopping)?;
        answer.await.unwrap_or(Err(RequestError::Stopping))
    }
}

/// The sockets that a configuration asks for: bound and listening. Dropped,
/// their files are removed.
#[derive(Debug)]
pub struct Servers {
    lines: Option<socket::Listening>,
    slirp4netns: Option<socket::Listening>,
    guests: slirp4netns::Guests,
    asker: Asker,
}

impl Servers {
    /// Makes the sockets of `config`; `None` when it asks for none. To be called
    /// inside a runtime.
    ///
    /// # Errors
    /// [`SocketError`].
    pub fn bind(config: &Config) -> Result<Option<(Self, mpsc::Receiver<Command>)>, SocketError> {
        if config.control.is_none() && config.slirp4netns_api.is_none() {
            return Ok(None);
        }
        let (asker, commands) = Asker::new();
        let lines = config.control.as_deref().map(socket::bind_control);
        let api = config.slirp4netns_api.as_deref().map(socket::bind_api);
        let servers = Self {
            lines: lines.transpose()?,
            slirp4netns: api.transpose()?,
            guests: slirp4netns::Guests {
                v4: config.plan.v4.map(|plan| plan.guest),
                v6: config.plan.v6.map(|plan| plan.guest),
            },
            asker,
        };
        Ok(Some((servers, commands)))
    }

    /// Starts to serve. To be called inside a `LocalSet`.
    pub fn spawn(&mut self) {
        if let Some(listener) = self.lines.as_mut().and_then(socket::Listening::take) {
            let asker = self.asker.clone();
            tokio::task::spawn_local(lines::serve(listener, asker));
        }
        if let Some(listener) = self.slirp4netns.as_mut().and_then(socket::Listening::take) {
            let asker = self.asker.clone();
            tokio::task::spawn_local(slirp4netns::serve(listener, asker, Rc::new(self.guests)));
        }
    }
}

/// Writes all of `bytes`, to a client that takes them in time.
async fn write(stream: &mut UnixStream, bytes: &[u8]) -> std::io::Result<()> {
    timeout(WRITE_DEADLINE, stream.write_all(bytes)).await?
}

/// Closes a connection so that the last answer arrives: what the client has sent
/// and nobody will read would otherwise turn it into a reset (unix(7)).
async fn finish(mut stream: UnixStream) {
    /// What a client may still send.
    const MAX_REST: usize = 1 << 20;
    let drain = async {
        stream.shutdown().await?;
        let mut rest = [0; 4096];
        let mut seen = 0;
        while seen < MAX_REST {
            match stream.read(&mut rest).await? {
                0 => break,
                n => seen += n,
            }
        }
        std::io::Result::Ok(())
    };
    // However it ends, the connection is closed now.
    let _ = timeout(LINGER, drain).await;
}
