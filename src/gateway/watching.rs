//! What is told of flows: the translation core's events, with the names that guests
//! know remotes by, go to the observer once per round.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::control::Answering;
use crate::control::proto::{Flow, FlowProcess, FlowProtocol, Reply};
use crate::observe::process::{
    Attribution, Ends, NoProcesses, Process, Processes, SocketLookup, SocketOwner,
};
use crate::observe::{Observer, Sink};
use crate::policy::{FlowEvent, Protocol};
use crate::services::dns::NameTable;
use crate::slirp::Slirp;
use crate::tap::{SocketOwners, Transport};

/// Finds processes, for whoever asks.
pub(super) type SharedAttribution = Arc<Mutex<dyn Attribution>>;

/// What looks on.
pub(super) struct Watching {
    /// `None`: nobody does.
    observer: Option<Observer>,
    names: Option<Rc<NameTable>>,
    processes: SharedAttribution,
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watching")
            .field("observer", &self.observer)
            .finish_non_exhaustive()
    }
}

impl Watching {
    /// Starts the observer, if there are `sinks`. Flows have processes where
    /// `owners` shows the guest's sockets, and names where there are `names`.
    pub(super) fn start(
        sinks: Vec<Box<dyn Sink>>,
        owners: Option<SocketOwners>,
        names: Option<Rc<NameTable>>,
    ) -> io::Result<Self> {
        let processes: SharedAttribution = match owners {
            Some(owners) => Arc::new(Mutex::new(Processes::new(Owners(owners)))),
            None => Arc::new(Mutex::new(NoProcesses)),
        };
        let observer = match sinks.is_empty() {
            true => None,
            false => Some(Observer::start(sinks, Box::new(Arc::clone(&processes)))?),
        };
        Ok(Self {
            observer,
            names,
            processes,
        })
    }

    /// Hands over what happened in a round.
    pub(super) fn take_events(&mut self, slirp: &mut Slirp) {
        let Some(observer) = &mut self.observer else {
            return;
        };
        for event in slirp.take_events() {
            let name = match &event {
                FlowEvent::Opened(flow) => name_of(self.names.as_deref(), flow.remote.ip()),
                FlowEvent::Decided(_) | FlowEvent::Closed(_) => None,
            };
            observer.tell(event, name);
        }
        observer.tell_lost(slirp.take_lost_events());
        observer.hand_over();
    }

    /// Ends the observer, with what is told of flows that end now.
    pub(super) fn finish(&mut self, slirp: &mut Slirp) {
        self.take_events(slirp);
        if let Some(observer) = self.observer.take()
            && !observer.finish()
        {
            tracing::warn!("what was told of flows last is lost: its readers are too slow");
        }
    }

    /// The name that the guest knows `addr` by.
    pub(super) fn name_of(&self, addr: IpAddr) -> Option<Rc<str>> {
        self.names.as_ref()?.name_of(addr)
    }

    /// Answers with a list of flows once their processes are found, which others do
    /// not wait for.
    pub(super) fn add_processes(&self, reply: Reply, answering: Answering) {
        let processes = Arc::clone(&self.processes);
        tokio::task::spawn_local(async move {
            let with = tokio::task::spawn_blocking(move || with_processes(reply, processes));
            if let Ok(reply) = with.await {
                answering.answer(Ok(reply));
            }
        });
    }
}

fn name_of(names: Option<&NameTable>, addr: IpAddr) -> Option<Arc<str>> {
    names?.name_of(addr).map(|name| Arc::from(&*name))
}

fn with_processes(mut reply: Reply, mut processes: SharedAttribution) -> Reply {
    if let Reply::Flows { flows, .. } = &mut reply {
        let ends: Vec<Ends> = flows.iter().map(ends).collect();
        for (flow, process) in flows.iter_mut().zip(processes.attribute(&ends)) {
            flow.process = process.as_deref().map(shown);
        }
    }
    reply
}

fn ends(flow: &Flow) -> Ends {
    Ends {
        protocol: match flow.protocol {
            FlowProtocol::Tcp => Protocol::Tcp,
            FlowProtocol::Udp => Protocol::Udp,
        },
        guest: flow.guest,
        remote: flow.remote,
    }
}

fn shown(process: &Process) -> FlowProcess {
    FlowProcess {
        pid: process.pid,
        name: process.name.clone(),
        exe: process
            .exe
            .as_ref()
            .map(|exe| exe.to_string_lossy().into_owned()),
    }
}

/// The guest's sockets, as the link's namespace shows them.
struct Owners(SocketOwners);

impl SocketLookup for Owners {
    fn find(&mut self, flow: Ends) -> Option<SocketOwner> {
        let transport = match flow.protocol {
            Protocol::Tcp => Transport::Tcp,
            Protocol::Udp => Transport::Udp,
            // Ping sockets have no sock_diag.
            Protocol::Echo => return None,
        };
        let owner = match self.0.find(transport, flow.guest, flow.remote) {
            Ok(owner) => owner?,
            Err(error) => {
                tracing::debug!(%error, "the kernel does not say whose a socket is");
                return None;
            }
        };
        Some(SocketOwner {
            inode: owner.inode.into(),
            uid: owner.uid,
        })
    }

    fn namespace(&self) -> Option<u64> {
        self.0.namespace()
    }
}
