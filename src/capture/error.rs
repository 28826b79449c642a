//! Why a capture is not started, or ends.

use std::io;

use super::MAX_CAPTURES;
use super::set::CaptureId;
use super::spec::Target;

/// Why a capture cannot be had; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The file cannot be opened.
    #[error("cannot capture to '{target}': {source}; {}", advice(source))]
    Open {
        /// Where to.
        target: Target,
        /// Why not.
        source: io::Error,
    },
    /// It is no file and no pipe.
    #[error("cannot capture to '{0}': it is {1}; name a file or a FIFO")]
    Kind(Target, &'static str),
    /// Standard output is what somebody looks at.
    #[error(
        "cannot capture to standard output: it is a terminal; pipe it on, like \
         '--pcap - | tshark -r -', or name a file"
    )]
    Terminal,
    /// Another capture of this or another gateway writes there.
    #[error("cannot capture to '{0}': another capture is being written there; name another file")]
    Busy(Target),
    /// Pipes have no second part.
    #[error("'{0}' is a pipe, which is one stream; size=, files= and rotating are for files")]
    Pipe(Target),
    /// A client's `-`.
    #[error("'-' is the gateway's own standard output; name a file or a FIFO")]
    StdoutLater,
    /// A path that depends on who reads it.
    #[error("'{0}' is relative to nothing that the gateway knows; give an absolute path")]
    Relative(Target),
    /// There are enough.
    #[error("{MAX_CAPTURES} captures run already; stop one first")]
    TooMany,
    /// It names what is not there.
    #[error("there is no capture {0}, or not any more; the list of captures says which there are")]
    Unknown(CaptureId),
    /// It names none, and there are several or none.
    #[error("say which capture: {0} are running; the list of captures says their ids")]
    Which(usize),
    /// The system gives no thread.
    #[error("cannot start a thread for a capture: {0}; is the limit of processes too low?")]
    Thread(#[source] io::Error),
    /// It ended before it had done what was asked.
    #[error("the capture to '{0}' has ended before that; the log says why")]
    Ended(Target),
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "make its directory first",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "name one in a directory that this user may write to"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "make room first",
        _ => "name another",
    }
}
