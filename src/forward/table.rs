//! The table of forwards.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::io;
use std::num::NonZeroU32;
use std::ops::Bound::{Excluded, Unbounded};

use serde::{Deserialize, Serialize};

use super::bind::{self, BindError, Bound, BoundAt, Inquiry};
use super::passed::{Passed, PassedError};
use super::spec::{Expose, ExposeTo, ForwardSpec, Publish, PublishAt};
use super::spec_error::SpecError;
use super::unix::{self, SocketFile};
use super::{ForwardId, GuestSide, HostSocket};
use crate::policy::{HostTarget, PortRange, Protocol};

/// Most forwards. More than a host with a container for each of its
/// low-numbered ports would have.
pub const MAX_FORWARDS: usize = 4096;

/// Most sockets of all forwards together: each is a descriptor and about 2 KiB
/// of the kernel's memory.
pub const MAX_SOCKETS: usize = 16384;

/// Who asked for a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The command line. Who holds a port that is in the way is looked up.
    CommandLine,
    /// A client of a control socket, while traffic flows.
    Control,
    /// `--publish auto`. Gives way to the others.
    Auto,
}

/// What came of adding a forward.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Names it.
    pub id: ForwardId,
    /// Whether it is new.
    pub outcome: Outcome,
}

/// Whether a forward is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is.
    New,
    /// The same forward was there, and is left as it was.
    AlreadyThere,
}

/// A forward as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ForwardInfo {
    /// Names it.
    pub id: ForwardId,
    /// What was asked for.
    pub spec: ForwardSpec,
    /// Who asked.
    pub origin: Origin,
    /// Where clients connect to, with the port that the system chose. Empty for
    /// an exposed port.
    pub at: Vec<BoundAt>,
}

/// Why a forward cannot be added; the text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// It makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A socket cannot be had.
    #[error("cannot publish {publish}: {source}")]
    Bind {
        /// What was asked for.
        publish: Box<Publish>,
        /// Why not.
        source: BindError,
    },
    /// No socket was passed for it.
    #[error("cannot publish {publish}: {source}")]
    Passed {
        /// What was asked for.
        publish: Box<Publish>,
        /// Why not.
        source: PassedError,
    },
    /// Another forward has the port.
    #[error(
        "{spec} wants a port that forward {id} has, {other}; leave one of the two out, or choose \
         another port"
    )]
    Taken {
        /// What was asked for.
        spec: Box<ForwardSpec>,
        /// The other forward.
        id: ForwardId,
        /// What it is.
        other: Box<ForwardSpec>,
    },
    /// The table is full.
    #[error(
        "there are {MAX_FORWARDS} forwards already, the most there may be; ranges count as one"
    )]
    TooManyForwards,
    /// Too many sockets.
    #[error(
        "{wanted} more sockets are too many: forwards may have {most}, and have {have}; \
         publish fewer ports{}", if *.most < MAX_SOCKETS { ", or raise the limit of open files (ulimit -n)" } else { "" }
    )]
    TooManySockets {
        /// How many it would take.
        wanted: usize,
        /// How many there are.
        have: usize,
        /// How many there may be.
        most: usize,
    },
    /// The guest's side refused.
    #[error("cannot publish {publish}: {source}")]
    Guest {
        /// What was asked for.
        publish: Box<Publish>,
        /// Why not.
        source: io::Error,
    },
}

/// The forwards of a gateway whose core names its listeners `L`.
#[derive(Debug)]
pub struct Forwards<L> {
    entries: BTreeMap<ForwardId, Entry<L>>,
    ids: HashMap<ForwardSpec, ForwardId>,
    next_id: Option<NonZeroU32>,
    /// Of all entries together.
    sockets: usize,
    most_sockets: usize,
    passed: Passed,
}

#[derive(Debug)]
struct Entry<L> {
    spec: ForwardSpec,
    origin: Origin,
    listeners: Vec<L>,
    at: Vec<BoundAt>,
    /// Removes the unix socket when dropped.
    _file: Option<SocketFile>,
}

/// What a publication is made of before the core has it.
#[derive(Debug, Default)]
struct Opened {
    sockets: Vec<HostSocket>,
    at: Vec<BoundAt>,
    file: Option<SocketFile>,
}

impl<L: Copy + Debug> Forwards<L> {
    /// An empty table. `descriptors` is how many may be open for all purposes;
    /// half of them may be sockets of forwards. `passed` are the service
    /// manager's.
    #[must_use]
    pub fn new(descriptors: usize, passed: Passed) -> Self {
        Self {
            entries: BTreeMap::new(),
            ids: HashMap::new(),
            next_id: Some(NonZeroU32::MIN),
            sockets: 0,
            most_sockets: MAX_SOCKETS.min(descriptors / 2),
            passed,
        }
    }

    /// Sets a forward up, with all of its ports or none.
    ///
    /// # Errors
    /// [`ForwardError`]; nothing has changed then.
    pub fn add(
        &mut self,
        spec: ForwardSpec,
        origin: Origin,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Result<Added, ForwardError> {
        if let Some(&id) = self.ids.get(&spec) {
            return Ok(Added {
                id,
                outcome: Outcome::AlreadyThere,
            });
        }
        let next = self.next_id.map(ForwardId);
        let Some(id) = next.filter(|_| self.entries.len() < MAX_FORWARDS) else {
            return Err(ForwardError::TooManyForwards);
        };
        let entry = match &spec {
            ForwardSpec::Publish(publish) => self.publish(publish, origin, guest)?,
            ForwardSpec::Expose(expose) => self.expose(expose, origin, guest)?,
        };
        self.next_id = id.0.checked_add(1);
        self.sockets += entry.listeners.len();
        self.entries.insert(id, entry);
        self.ids.insert(spec, id);
        Ok(Added {
            id,
            outcome: Outcome::New,
        })
    }

    /// Takes a forward back and says what it was. Connections that came through
    /// it live on.
    pub fn remove(
        &mut self,
        id: ForwardId,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Option<ForwardInfo> {
        let entry = self.entries.remove(&id)?;
        self.ids.remove(&entry.spec);
        self.sockets -= entry.listeners.len();
        for &listener in &entry.listeners {
            guest.close(listener);
        }
        if let ForwardSpec::Expose(expose) = &entry.spec {
            for port in expose.ports.ports() {
                guest.conceal(expose.protocol, port);
            }
        }
        Some(entry.info(id))
    }

    /// As [`Forwards::remove`], for who knows what was asked for.
    pub fn remove_spec(
        &mut self,
        spec: &ForwardSpec,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Option<ForwardInfo> {
        let id = *self.ids.get(spec)?;
        self.remove(id, guest)
    }

    /// A forward by its name.
    #[must_use]
    pub fn get(&self, id: ForwardId) -> Option<ForwardInfo> {
        self.entries.get(&id).map(|entry| entry.info(id))
    }

    /// True while it stands.
    #[must_use]
    pub fn contains(&self, id: ForwardId) -> bool {
        self.entries.contains_key(&id)
    }

    /// All forwards, in the order in which they were added.
    pub fn list(&self) -> impl Iterator<Item = ForwardInfo> {
        self.entries.iter().map(|(&id, entry)| entry.info(id))
    }

    /// The same, from behind `after` on.
    pub fn list_after(&self, after: Option<ForwardId>) -> impl Iterator<Item = ForwardInfo> {
        let from = after.map_or(Unbounded, Excluded);
        let rest = self.entries.range((from, Unbounded));
        rest.map(|(&id, entry)| entry.info(id))
    }

    /// The sockets that were passed and that no forward has taken.
    #[must_use]
    pub const fn passed(&self) -> &Passed {
        &self.passed
    }

    /// The forward that listens on a port of the host, if one does.
    #[must_use]
    pub fn published_at(&self, protocol: Protocol, port: u16) -> Option<(ForwardId, Origin)> {
        let listens = |entry: &Entry<L>| match &entry.spec {
            ForwardSpec::Publish(publish) => {
                publish.protocol == protocol
                    && entry.at.iter().any(|at| at.has_port(PortRange::one(port)))
            }
            ForwardSpec::Expose(_) => false,
        };
        let found = self.entries.iter().find(|(_, entry)| listens(entry));
        found.map(|(&id, entry)| (id, entry.origin))
    }

    fn publish(
        &mut self,
        publish: &Publish,
        origin: Origin,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Result<Entry<L>, ForwardError> {
        publish.check()?;
        let wanted = publish.sockets();
        if wanted > self.most_sockets.saturating_sub(self.sockets) {
            return Err(ForwardError::TooManySockets {
                wanted,
                have: self.sockets,
                most: self.most_sockets,
            });
        }
        if origin != Origin::Auto {
            self.make_way(publish, guest);
        }
        let opened = self.open(publish, origin)?;
        let mut listeners = Vec::with_capacity(opened.sockets.len());
        for socket in opened.sockets {
            match guest.listen(socket) {
                Ok(listener) => listeners.push(listener),
                Err(source) => {
                    for listener in listeners {
                        guest.close(listener);
                    }
                    return Err(ForwardError::Guest {
                        publish: Box::new(publish.clone()),
                        source,
                    });
                }
            }
        }
        Ok(Entry {
            spec: publish.clone().into(),
            origin,
            listeners,
            at: opened.at,
            _file: opened.file,
        })
    }

    /// Takes back what was published by itself on the same ports: who names them
    /// has them.
    fn make_way(&mut self, publish: &Publish, guest: &mut impl GuestSide<Listener = L>) {
        let PublishAt::Ports { ports, .. } = publish.host else {
            return;
        };
        let in_the_way: Vec<ForwardId> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                entry.origin == Origin::Auto
                    && entry.protocol() == publish.protocol
                    && entry.at.iter().any(|at| at.has_port(ports))
            })
            .map(|(&id, _)| id)
            .collect();
        for id in in_the_way {
            self.remove(id, guest);
        }
    }

    /// Opens what a publication needs of the host.
    fn open(&mut self, publish: &Publish, origin: Origin) -> Result<Opened, ForwardError> {
        let failed = |source| ForwardError::Bind {
            publish: Box::new(publish.clone()),
            source,
        };
        match &publish.host {
            PublishAt::Ports { .. } => match bind::ports(publish, Inquiry::for_origin(origin)) {
                Ok(Bound { sockets, at }) => Ok(Opened {
                    sockets,
                    at: vec![at],
                    file: None,
                }),
                Err(error) => Err(self
                    .own_in_the_way(publish, &error)
                    .unwrap_or_else(|| failed(error))),
            },
            PublishAt::Unix(path) => {
                let (socket, file) = unix::listen(path).map_err(failed)?;
                Ok(Opened {
                    sockets: vec![unix::host_socket(socket, publish)],
                    at: vec![BoundAt::Unix(path.clone())],
                    file: Some(file),
                })
            }
            PublishAt::Passed { name } => {
                let taken = self.passed.take(publish, name.as_deref());
                let (sockets, at) = taken.map_err(|source| ForwardError::Passed {
                    publish: Box::new(publish.clone()),
                    source,
                })?;
                Ok(Opened {
                    sockets,
                    at,
                    file: None,
                })
            }
        }
    }

    /// Says so when it is a forward of this table that has the port.
    fn own_in_the_way(&self, publish: &Publish, error: &BindError) -> Option<ForwardError> {
        let BindError::InUse { port, .. } = error else {
            return None;
        };
        let (id, _) = self.published_at(publish.protocol, *port)?;
        let other = self.entries.get(&id)?.spec.clone();
        Some(ForwardError::Taken {
            spec: Box::new(publish.clone().into()),
            id,
            other: Box::new(other),
        })
    }

    fn expose(
        &self,
        expose: &Expose,
        origin: Origin,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Result<Entry<L>, ForwardError> {
        expose.check()?;
        if let Some((&id, other)) = self.entries.iter().find(|(_, entry)| entry.exposes(expose)) {
            return Err(ForwardError::Taken {
                spec: Box::new(expose.clone().into()),
                id,
                other: Box::new(other.spec.clone()),
            });
        }
        for (offset, port) in (0..).zip(expose.ports.ports()) {
            let target = match &expose.to {
                // No overflow: `check` has seen to it.
                ExposeTo::Loopback(first) => HostTarget::Loopback(first.saturating_add(offset)),
                ExposeTo::Unix(path) => HostTarget::Unix(path.as_path().into()),
            };
            guest.expose(expose.protocol, port, target);
        }
        Ok(Entry {
            spec: expose.clone().into(),
            origin,
            listeners: Vec::new(),
            at: Vec::new(),
            _file: None,
        })
    }
}

impl<L> Entry<L> {
    fn info(&self, id: ForwardId) -> ForwardInfo {
        ForwardInfo {
            id,
            spec: self.spec.clone(),
            origin: self.origin,
            at: self.at.clone(),
        }
    }

    const fn protocol(&self) -> Protocol {
        match &self.spec {
            ForwardSpec::Publish(publish) => publish.protocol,
            ForwardSpec::Expose(expose) => expose.protocol,
        }
    }

    /// Whether it has a port of the gateway's address that `other` wants.
    fn exposes(&self, other: &Expose) -> bool {
        match &self.spec {
            ForwardSpec::Expose(expose) => {
                expose.protocol == other.protocol && expose.ports.overlaps(other.ports)
            }
            ForwardSpec::Publish(_) => false,
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
