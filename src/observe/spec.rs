//! Where things are told, from text.

use std::net::SocketAddr;
use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

/// Not a place; the text says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ObserveSpecError(String);

/// Where the flow log goes: a path, `-` or `fd:N`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    Stdout,
    /// An inherited descriptor.
    Fd(RawFd),
    /// A file, appended to; or a pipe.
    Path(PathBuf),
}

impl FromStr for LogTarget {
    type Err = ObserveSpecError;

    fn from_str(text: &str) -> Result<Self, ObserveSpecError> {
        Err(ObserveSpecError(format!("'{text}' is no place for a log")))
    }
}

/// Where metrics are served: `ADDR:PORT` or `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetricsAt {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket, made there.
    Unix(PathBuf),
}

impl FromStr for MetricsAt {
    type Err = ObserveSpecError;

    fn from_str(text: &str) -> Result<Self, ObserveSpecError> {
        Err(ObserveSpecError(format!(
            "'{text}' is no place for metrics"
        )))
    }
}
