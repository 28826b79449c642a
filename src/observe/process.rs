//! Which process of the guest a flow belongs to.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use crate::policy::Protocol;

/// A process of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number, as the gateway's own namespace has it.
    pub pid: u32,
    /// Its name (`comm`), 15 bytes at most.
    pub name: String,
    /// Its executable; `None` where that is not to be read.
    pub exe: Option<PathBuf>,
    /// The user that the socket belongs to, as the gateway's namespace has it.
    pub uid: u32,
}

/// A flow whose process is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// TCP, UDP or echo.
    pub protocol: Protocol,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
}

/// Finds the processes of flows. Asking takes system calls: not for the loop.
pub trait Attribution: Send {
    /// The process of each, in order; `None`: not to be known.
    fn attribute(&mut self, flows: &[Ends]) -> Vec<Option<Arc<Process>>>;
}

/// Where no process can be seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoProcesses;

impl Attribution for NoProcesses {
    fn attribute(&mut self, flows: &[Ends]) -> Vec<Option<Arc<Process>>> {
        vec![None; flows.len()]
    }
}
