//! The control socket: what can be asked of a running gateway.
//!
//! Every front end (the JSON lines of `--control`, the slirp4netns API) makes a
//! [`Request`] of what it reads and passes it to the gateway's loop as a
//! [`Command`], through a bounded channel; the loop answers each between two
//! rounds. A client that is slow, or gone, keeps nobody but its own task waiting.

use tokio::sync::oneshot;

/// A request on its way to the gateway's loop, and where the answer goes.
#[derive(Debug)]
pub struct Command {
    /// What is asked.
    pub request: Request,
    /// Takes the answer; nobody may be left to receive it.
    pub reply: oneshot::Sender<Result<Reply, RequestError>>,
}

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// End, as SIGTERM would.
    Shutdown,
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done.
    Done,
}

/// Why a request was not done; the text says what to do instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Any reason of the part that was asked.
    #[error("{0}")]
    Refused(String),
}
