//! The connection to a gateway's control socket.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::control::proto::{Answer, Reply, Request};

/// How long the gateway may take to answer; it takes a moment.
const PATIENCE: Duration = Duration::from_secs(30);

/// Bytes of an answer, at most. A page of a list has some hundred thousand.
const MAX_ANSWER: u64 = 4 << 20;

/// Why a gateway cannot be asked, or does not do it.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum CtlError {
    /// No such file.
    #[error(
        "there is no '{0}': no gateway was started with --control {0}, or it has ended; \
         'gw ctl' takes the path that the gateway was given"
    )]
    Missing(PathBuf),
    /// Another kind of file.
    #[error("'{0}' is no socket; give the path that the gateway was given with --control")]
    NotASocket(PathBuf),
    /// A socket without a process.
    #[error(
        "nobody listens on '{0}': the gateway that made it was killed; \
         start another with --control {0}, which replaces it"
    )]
    Refused(PathBuf),
    /// Somebody else's.
    #[error("may not use '{0}': ask as the user that runs the gateway, or as root")]
    Permission(PathBuf),
    /// Longer than a unix socket's can be.
    #[error("'{0}' is too long for the path of a unix socket; give a shorter one, from nearer")]
    TooLong(PathBuf),
    /// Anything else about the connection.
    #[error("cannot ask the gateway at '{path}': {source}")]
    Connection { path: PathBuf, source: io::Error },
    /// Silence.
    #[error("the gateway at '{0}' does not answer; is it stopped?")]
    Silent(PathBuf),
    /// The end instead of an answer.
    #[error("the gateway at '{0}' has closed the connection without an answer; is it ending?")]
    Closed(PathBuf),
    /// An answer that makes no sense.
    #[error(
        "what listens on '{0}' does not answer as gw does; give the path that the gateway was \
         given with --control, and ask with a gw of the same version"
    )]
    NotGw(PathBuf),
    /// The gateway says why not.
    #[error("{0}")]
    Gateway(String),
    /// Standard output.
    #[error("cannot print the answer: {0}")]
    Print(#[source] io::Error),
}

/// An answer that is no error.
#[derive(Debug)]
pub(in crate::cli) struct Answered {
    /// As it came.
    pub(in crate::cli) line: String,
    /// What it says.
    pub(in crate::cli) reply: Reply,
}

/// A connection.
#[derive(Debug)]
pub(in crate::cli) struct Client {
    stream: BufReader<UnixStream>,
    path: PathBuf,
}

impl Client {
    pub(in crate::cli) fn connect(path: &Path) -> Result<Self, CtlError> {
        let stream = UnixStream::connect(path).map_err(|e| not_connected(path, e))?;
        let client = Self {
            stream: BufReader::new(stream),
            path: path.to_owned(),
        };
        let stream = client.stream.get_ref();
        stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| stream.set_write_timeout(Some(PATIENCE)))
            .map_err(|e| client.broken(e))?;
        Ok(client)
    }

    /// Asks, and waits for the answer.
    pub(in crate::cli) fn ask(&mut self, request: &Request) -> Result<Answered, CtlError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.broken(e.into()))?;
        line.push(b'\n');
        let written = self.stream.get_mut().write_all(&line);
        // Who is turned away finds the connection closed, and the reason in it.
        match written {
            Err(e) if !is_closed(&e) => Err(self.broken(e)),
            _ => self.answer(),
        }
    }

    fn answer(&mut self) -> Result<Answered, CtlError> {
        let mut line = Vec::new();
        let read = self
            .stream
            .by_ref()
            .take(MAX_ANSWER)
            .read_until(b'\n', &mut line);
        match read {
            Ok(_) => {}
            Err(e) if is_closed(&e) => {}
            Err(e) => return Err(self.broken(e)),
        }
        if line.is_empty() {
            return Err(CtlError::Closed(self.path.clone()));
        }
        let not_gw = || CtlError::NotGw(self.path.clone());
        let line = String::from_utf8(line).map_err(|_| not_gw())?;
        let line = line.trim_end();
        match serde_json::from_str(line).map_err(|_| not_gw())? {
            Answer::Reply(reply) => Ok(Answered {
                line: line.to_owned(),
                reply,
            }),
            Answer::Error { error } => Err(CtlError::Gateway(error.message)),
        }
    }

    /// Waits until the gateway has closed the connection.
    pub(in crate::cli) fn wait_for_end(&mut self) -> Result<(), CtlError> {
        match io::copy(&mut self.stream, &mut io::sink()) {
            Err(e) if !is_closed(&e) => Err(self.broken(e)),
            _ => Ok(()),
        }
    }

    fn broken(&self, source: io::Error) -> CtlError {
        let path = self.path.clone();
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => CtlError::Silent(path),
            _ => CtlError::Connection { path, source },
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

fn not_connected(path: &Path, source: io::Error) -> CtlError {
    let path = path.to_owned();
    let is_socket = || std::fs::metadata(&path).is_ok_and(|m| m.file_type().is_socket());
    match source.kind() {
        io::ErrorKind::NotFound => CtlError::Missing(path),
        io::ErrorKind::ConnectionRefused if is_socket() => CtlError::Refused(path),
        io::ErrorKind::ConnectionRefused => CtlError::NotASocket(path),
        io::ErrorKind::PermissionDenied => CtlError::Permission(path),
        io::ErrorKind::InvalidInput => CtlError::TooLong(path),
        io::ErrorKind::WouldBlock => CtlError::Silent(path),
        _ => CtlError::Connection { path, source },
    }
}
