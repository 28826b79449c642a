//! `--publish auto`: follows the ports that programs of the guest listen on.
//!
//! # Theory of operation
//!
//! [`Follower::follow`] is told, ten times a second, which sockets of the guest
//! wait for clients, and makes the table of forwards agree: a port that is new is
//! published under its own number, one that is gone is taken back.
//!
//! Which sockets count: TCP listeners, and bound UDP sockets without a peer, of
//! which those with a port of the range for clients ([`CLIENT_PORTS`]) are taken
//! for clients and left out. A program that listens on the guest's own loopback
//! means to be reached from there only, and could not be reached otherwise; it is
//! left out, as is one on an address that is not on the guest's network (that of
//! a bridge inside the guest, say).
//!
//! A port that the host cannot give is reported once. It is tried again, without
//! a word, every [`RETRY_AFTER`], and anew when the guest's program comes back.
//! Forwards that were asked for by name come first: their ports are left alone,
//! and taken from here when they are asked for later.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use super::spec::{AutoPublish, Publish};
use super::table::{ForwardError, Forwards, Origin, Outcome};
use super::{ForwardId, GuestSide};
use crate::net::AddressPlan;
use crate::policy::{PortRange, Protocol};

/// Most ports that are published at a time, lowest numbers first. More than the
/// programs of a development environment have together.
pub const MAX_AUTO: usize = 256;

/// UDP ports that the kernel gives to clients (`net.ipv4.ip_local_port_range`,
/// as it is by default).
pub const CLIENT_PORTS: PortRange = PortRange {
    first: 32768,
    last: 60999,
};

/// After this long a port that could not be had is tried again.
pub const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Where ports appear unless an address was given. The first must be had.
const LOOPBACK: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::LOCALHOST),
    IpAddr::V6(Ipv6Addr::LOCALHOST),
];

/// A socket of the guest that waits for clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// What it is bound to.
    pub at: SocketAddr,
}

/// What following came to, for the log.
#[derive(Debug)]
pub enum Notice {
    /// A port of the guest has appeared on the host.
    Published(Publish),
    /// It has gone again.
    Withdrawn(Publish),
    /// It cannot be published; said once for as long as it listens.
    Refused(ForwardError),
    /// There are more than [`MAX_AUTO`]; said once.
    TooMany,
}

/// Follows the guest's ports.
#[derive(Debug)]
pub struct Follower {
    rule: AutoPublish,
    plan: AddressPlan,
    ports: BTreeMap<Port, State>,
    too_many: Said,
}

/// A port of the guest: its number, and 17 for UDP or 6 for TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Port {
    number: u16,
    protocol: u8,
}

/// What has become of a port.
#[derive(Debug)]
enum State {
    /// It is published.
    Standing {
        guest: Option<IpAddr>,
        publish: Publish,
        ids: Vec<ForwardId>,
    },
    /// It cannot be.
    Refused { retry_at: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Yes,
    NotYet,
}

impl Follower {
    /// Follows by `rule`, for a guest on the network of `plan`.
    #[must_use]
    pub const fn new(rule: AutoPublish, plan: AddressPlan) -> Self {
        Self {
            rule,
            plan,
            ports: BTreeMap::new(),
            too_many: Said::NotYet,
        }
    }

    /// Makes `forwards` agree with what listens in the guest.
    pub fn follow<L: Copy + Debug>(
        &mut self,
        now: Instant,
        listening: &[GuestPort],
        forwards: &mut Forwards<L>,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Vec<Notice> {
        let mut notices = Vec::new();
        let wanted = self.wanted(listening, &mut notices);
        self.withdraw(&wanted, forwards, guest, &mut notices);
        for (port, to) in wanted {
            let first_try = match self.ports.get(&port) {
                Some(State::Standing { .. }) => continue,
                Some(State::Refused { retry_at }) if now < *retry_at => continue,
                Some(State::Refused { .. }) => false,
                None => true,
            };
            // Taken by a forward that was asked for by name.
            if forwards
                .published_at(port.protocol(), port.number)
                .is_some()
            {
                self.ports.remove(&port);
                continue;
            }
            let state = match self.publish(port, to, forwards, guest) {
                Ok(state) => {
                    if let State::Standing { publish, .. } = &state {
                        notices.push(Notice::Published(publish.clone()));
                    }
                    state
                }
                Err(error) => {
                    if first_try {
                        notices.push(Notice::Refused(error));
                    }
                    let retry_at = now + RETRY_AFTER;
                    State::Refused { retry_at }
                }
            };
            self.ports.insert(port, state);
        }
        notices
    }

    /// The ports that should be published, each with where in the guest it leads.
    fn wanted(
        &mut self,
        listening: &[GuestPort],
        notices: &mut Vec<Notice>,
    ) -> BTreeMap<Port, Option<IpAddr>> {
        let mut wanted = BTreeMap::new();
        for socket in listening {
            let Some(port) = Port::of(socket) else {
                continue;
            };
            if let Reach::At(to) = self.reach(socket) {
                let entry = wanted.entry(port).or_insert(to);
                // Any address is better than one; of two the choice is always
                // the same.
                *entry = entry.zip(to).map(|(a, b)| a.min(b));
            }
        }
        if let Some((&beyond, _)) = wanted.iter().nth(MAX_AUTO) {
            wanted.split_off(&beyond);
            if self.too_many == Said::NotYet {
                notices.push(Notice::TooMany);
            }
            self.too_many = Said::Yes;
        }
        wanted
    }

    /// How the gateway reaches a socket of the guest.
    fn reach(&self, socket: &GuestPort) -> Reach {
        let (addr, port) = (socket.at.ip().to_canonical(), socket.at.port());
        let is_client = socket.protocol == Protocol::Udp && CLIENT_PORTS.contains(port);
        let is_excepted = self.rule.except.iter().any(|range| range.contains(port));
        if is_client || is_excepted {
            return Reach::Not;
        }
        let is_the_guests = match addr {
            IpAddr::V4(a) => self.plan.v4.is_some_and(|plan| plan.guest == a),
            IpAddr::V6(a) => self.plan.v6.is_some_and(|plan| plan.guest == a),
        };
        if addr.is_unspecified() || is_the_guests {
            Reach::At(None)
        } else if self.plan.is_guest(addr) && !is_link_local(addr) {
            Reach::At(Some(addr))
        } else {
            Reach::Not
        }
    }

    /// Takes back what is not wanted any more, or leads elsewhere now, or was
    /// taken from here.
    fn withdraw<L: Copy + Debug>(
        &mut self,
        wanted: &BTreeMap<Port, Option<IpAddr>>,
        forwards: &mut Forwards<L>,
        guest: &mut impl GuestSide<Listener = L>,
        notices: &mut Vec<Notice>,
    ) {
        self.ports.retain(|port, state| {
            let to = wanted.get(port);
            match state {
                State::Refused { .. } => to.is_some(),
                State::Standing {
                    guest: leads_to,
                    publish,
                    ids,
                } => {
                    let stays = to == Some(leads_to) && ids.iter().all(|&id| forwards.contains(id));
                    if !stays {
                        for &id in &*ids {
                            forwards.remove(id, guest);
                        }
                        notices.push(Notice::Withdrawn(publish.clone()));
                    }
                    stays
                }
            }
        });
    }

    fn publish<L: Copy + Debug>(
        &self,
        port: Port,
        to: Option<IpAddr>,
        forwards: &mut Forwards<L>,
        guest: &mut impl GuestSide<Listener = L>,
    ) -> Result<State, ForwardError> {
        let spec = |addr| {
            let number = PortRange::one(port.number);
            Publish::ports(port.protocol(), Some(addr), number, to, number)
        };
        let (first, others) = match self.rule.addr {
            Some(addr) => (addr, &[][..]),
            None => (LOOPBACK[0], &LOOPBACK[1..]),
        };
        let publish = spec(first)?;
        let mut ids = vec![
            forwards
                .add(publish.clone().into(), Origin::Auto, guest)?
                .id,
        ];
        for &addr in others {
            match forwards.add(spec(addr)?.into(), Origin::Auto, guest) {
                Ok(added) if added.outcome == Outcome::New => ids.push(added.id),
                Ok(_) => {}
                // A host without IPv6, or with somebody else there.
                Err(error) => tracing::debug!(%error, "published at {first} only"),
            }
        }
        Ok(State::Standing {
            guest: to,
            publish,
            ids,
        })
    }
}

/// Whether the gateway can reach a socket of the guest.
enum Reach {
    /// At the guest's address, by the client's family, or at this one.
    At(Option<IpAddr>),
    /// It cannot, or should not.
    Not,
}

impl Port {
    const TCP: u8 = 6;
    const UDP: u8 = 17;

    const fn of(socket: &GuestPort) -> Option<Self> {
        let protocol = match socket.protocol {
            Protocol::Tcp => Self::TCP,
            Protocol::Udp => Self::UDP,
            Protocol::Echo => return None,
        };
        Some(Self {
            number: socket.at.port(),
            protocol,
        })
    }

    const fn protocol(self) -> Protocol {
        match self.protocol {
            Self::UDP => Protocol::Udp,
            _ => Protocol::Tcp,
        }
    }
}

const fn is_link_local(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(_) => false,
        IpAddr::V6(a) => a.is_unicast_link_local(),
    }
}

#[cfg(test)]
#[path = "auto_tests.rs"]
mod tests;
