//! What is told of flows: the translation core's events, with the names that guests
//! know remotes by, go to the observer once per round.

use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use super::capture::Capturing;
use super::control::Answering;
use super::line::Line;
use crate::capture::Note;
use crate::control::proto::{Flow, FlowProcess, FlowProtocol, Reply};
use crate::observe::process::{
    Attribution, Ends, NoProcesses, Process, Processes, SocketLookup, SocketOwner,
};
use crate::observe::{Observer, Sink};
use crate::policy::{FlowDecided, FlowEvent, FlowNumber, FlowOpened, Protocol};
use crate::services::dns::NameTable;
use crate::slirp::{Slirp, Telling};
use crate::tap::{SocketOwners, Transport};

/// Finds processes, for whoever asks.
pub(super) type SharedAttribution = Arc<Mutex<dyn Attribution>>;

/// What looks on.
pub(super) struct Watching {
    /// `None`: nobody does.
    observer: Option<Observer>,
    names: Option<Rc<NameTable>>,
    processes: SharedAttribution,
    /// Open flows for whose packets there was a rule of impairment when they began.
    impaired: HashSet<FlowNumber>,
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
            impaired: HashSet::new(),
        })
    }

    /// Hands over what happened in a round.
    pub(super) fn take_events(&mut self, slirp: &mut Slirp, captures: &Capturing, link: &Line) {
        let noted = captures.wants_notes();
        slirp.set_telling(match noted || self.observer.is_some() {
            true => Telling::On,
            false => Telling::Off,
        });
        for mut event in slirp.take_events() {
            self.note_impairment(&mut event, link);
            if noted && let FlowEvent::Decided(flow) = &event {
                captures.note(&self.note(flow));
            }
            if let Some(observer) = &mut self.observer {
                let name = match &event {
                    FlowEvent::Opened(flow) => name_of(self.names.as_deref(), flow.remote.ip()),
                    FlowEvent::Decided(_) | FlowEvent::Closed(_) => None,
                };
                observer.tell(event, name);
            }
        }
        let lost = slirp.take_lost_events();
        if let Some(observer) = &mut self.observer {
            observer.tell_lost(lost);
            observer.hand_over();
        }
    }

    /// Notes whether rules of impairment are for a flow's packets. The core does not
    /// know: they meet them on the link.
    fn note_impairment(&mut self, event: &mut FlowEvent, link: &Line) {
        let is_for = |flow: &FlowOpened| {
            let rules = link.look_at_impairment(|impaired| {
                let rules = impaired.rules();
                rules.is_for_flow(flow.protocol, flow.remote, Instant::now())
            });
            rules.unwrap_or(false)
        };
        match event {
            FlowEvent::Opened(flow) => {
                if is_for(flow) {
                    self.impaired.insert(flow.number);
                }
            }
            FlowEvent::Decided(_) => {}
            FlowEvent::Closed(flow) => {
                let before = self.impaired.remove(&flow.opened.number);
                flow.impaired |= before || is_for(&flow.opened);
            }
        }
    }

    /// What a capture says about a flow.
    fn note(&self, flow: &FlowDecided) -> Note {
        let name = self.name_of(flow.remote.ip());
        let (protocol, verdict) = (flow.protocol, flow.verdict);
        let (guest, remote) = (flow.guest, flow.remote);
        Note::verdict(protocol, guest, remote, verdict, flow.peer, name.as_deref())
    }

    /// Ends the observer, with what is told of flows that end now.
    pub(super) fn finish(&mut self, slirp: &mut Slirp, captures: &Capturing, link: &Line) {
        self.take_events(slirp, captures, link);
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
