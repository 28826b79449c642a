//! `--control`: requests and answers as JSON lines.
//!
//! A connection takes any number of requests, one after the other; a line of
//! answer follows each. What is wrong inside a line is answered, and the next
//! one is read. Who sends a line without end, stops in the middle of one or says
//! nothing for long is told so, and the connection closed.

use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::geteuid;
use tokio::io::AsyncReadExt as _;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout_at};

use super::proto::{self, Answer, Reply, Request, RequestError};
use super::{Asker, finish, write};

/// Bytes of a request. The longest that makes sense is a few hundred long.
pub const MAX_LINE: usize = 64 * 1024;

/// Clients at a time. Each takes a descriptor, and some [`MAX_LINE`] of memory
/// at most while it sends.
pub const MAX_CLIENTS: usize = 32;

/// How long a client may say nothing between two requests.
const IDLE: Duration = Duration::from_secs(300);

/// How long a request may take from its first byte to the end of its line.
const LINE_DEADLINE: Duration = Duration::from_secs(5);

/// Until the system is asked again that had no descriptor for a client.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Accepts clients for ever.
pub(super) async fn serve(listener: UnixListener, asker: Asker) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut warned = false;
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a control client was not accepted");
                sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let place = match allowed(&stream) {
            Ok(()) => Arc::clone(&places)
                .try_acquire_owned()
                .map_err(|_| RequestError::TooManyClients),
            Err(why) => Err(why),
        };
        match place {
            Err(why) => {
                if matches!(why, RequestError::NotAllowed { .. }) && !warned {
                    // Once: they could fill the log.
                    warned = true;
                    tracing::warn!("a control client was turned away: {why}");
                }
                turn_away(stream, why);
            }
            Ok(place) => {
                let asker = asker.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = client(stream, &asker).await {
                        tracing::debug!(%error, "a control client went away");
                    }
                    drop(place);
                });
            }
        }
    }
}

/// This user and root may ask.
fn allowed(stream: &UnixStream) -> Result<(), RequestError> {
    let ours = geteuid().as_raw();
    // Nobody, should the system not say.
    let client = stream.peer_cred().map_or(u32::MAX, |peer| peer.uid());
    if client == ours || client == 0 {
        Ok(())
    } else {
        Err(RequestError::NotAllowed { client, ours })
    }
}

/// Tells a client why it is not served, without waiting for it.
fn turn_away(stream: UnixStream, why: RequestError) {
    let tell = || -> io::Result<()> {
        let mut stream = stream.into_std()?;
        // The queue of a new connection is empty: a line fits.
        stream.write_all(&Answer::from(Err(why)).line())?;
        stream.shutdown(std::net::Shutdown::Write)?;
        // What is left unread would take the line from the client again.
        let mut sent = [0; 4096];
        while stream.read(&mut sent)? == sent.len() {}
        Ok(())
    };
    if let Err(error) = tell() {
        tracing::trace!(%error, "a control client did not wait to be turned away");
    }
}

/// Serves one client to its end.
async fn client(mut stream: UnixStream, asker: &Asker) -> io::Result<()> {
    let mut lines = Lines::default();
    loop {
        let why = match lines.next(&mut stream).await? {
            Line::Request(line) if line.trim_ascii().is_empty() => continue,
            Line::Request(line) => {
                answer(&mut stream, asker, &line).await?;
                continue;
            }
            Line::End => return Ok(()),
            Line::TooLong => RequestError::TooLong,
            Line::TooSlow => RequestError::TooSlow,
        };
        write(&mut stream, &Answer::from(Err(why)).line()).await?;
        finish(stream).await;
        return Ok(());
    }
}

async fn answer(stream: &mut UnixStream, asker: &Asker, line: &[u8]) -> io::Result<()> {
    let result = match proto::parse(line) {
        Ok(Request::Shutdown {}) => {
            // Said first: afterwards there is nobody to say it.
            write(stream, &Answer::Reply(Reply::Done {}).line()).await?;
            let _ = asker.ask(Request::Shutdown {}).await;
            return Ok(());
        }
        Ok(request) => asker.ask(request).await,
        Err(why) => Err(why),
    };
    if let Err(why) = &result {
        tracing::debug!(%why, "a control request was refused");
    }
    write(stream, &Answer::from(result).line()).await
}

/// What a client sent next.
#[derive(Debug, PartialEq, Eq)]
enum Line {
    /// A line without its end, or what came behind the last one.
    Request(Vec<u8>),
    /// No more.
    End,
    /// More than [`MAX_LINE`].
    TooLong,
    /// Nothing in time.
    TooSlow,
}

/// Cuts what a client sends into lines.
#[derive(Debug, Default)]
struct Lines {
    buffer: Vec<u8>,
    /// So much of it has no end of line in it.
    searched: usize,
}

impl Lines {
    async fn next(&mut self, stream: &mut UnixStream) -> io::Result<Line> {
        let started = Instant::now();
        let mut deadline = started
            + if self.buffer.is_empty() {
                IDLE
            } else {
                LINE_DEADLINE
            };
        let mut chunk = [0; 4096];
        loop {
            if let Some(line) = self.cut() {
                return Ok(line);
            }
            let Ok(read) = timeout_at(deadline, stream.read(&mut chunk)).await else {
                return Ok(Line::TooSlow);
            };
            let n = read?;
            if n == 0 {
                return Ok(match std::mem::take(&mut self.buffer) {
                    nothing if nothing.is_empty() => Line::End,
                    rest => Line::Request(rest),
                });
            }
            if self.buffer.is_empty() {
                deadline = Instant::now() + LINE_DEADLINE;
            }
            self.buffer.extend_from_slice(&chunk[..n]);
        }
    }

    /// Takes a line off the front of the buffer.
    fn cut(&mut self) -> Option<Line> {
        let end = self.buffer[self.searched..]
            .iter()
            .position(|byte| *byte == b'\n');
        let Some(end) = end.map(|at| self.searched + at) else {
            self.searched = self.buffer.len();
            return (self.searched > MAX_LINE).then_some(Line::TooLong);
        };
        if end > MAX_LINE {
            return Some(Line::TooLong);
        }
        let rest = self.buffer.split_off(end + 1);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        self.searched = 0;
        line.pop();
        Some(Line::Request(line))
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
