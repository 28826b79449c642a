//! Forwards, tied to the translation core.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::time::{Duration, Instant};

use super::GatewayError;
use crate::config::{Config, Configure};
use crate::forward::auto::{Follower, GuestPort, MAX_AUTO, Notice};
use crate::forward::{
    ForwardSpec, Forwards, GuestSide, HostSocket, Origin, Passed, PublishAt, SocketKind,
};
use crate::net::AddressPlan;
use crate::observe::Sink;
use crate::policy::{HostTarget, Protocol};
use crate::slirp::{GuestTarget, Listener, ListenerId, ListenerKind, Slirp};
use crate::tap::{Listening, Seen, SocketOwners, SocketWatch};

/// How often the guest's sockets are looked at: a port appears within the time
/// that people wait without noticing.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a gateway is handed besides its configuration and its link.
#[derive(Default)]
pub struct Inherited {
    /// Sockets of the service manager.
    pub passed: Passed,
    /// Shows the guest's sockets; for `--publish auto`.
    pub sockets: Option<SocketWatch>,
    /// Shows which of the guest's sockets a flow belongs to.
    pub owners: Option<SocketOwners>,
    /// Take what is told of flows; none: nothing is.
    pub sinks: Vec<Box<dyn Sink>>,
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inherited")
            .field("passed", &self.passed)
            .field("sockets", &self.sockets)
            .field("owners", &self.owners)
            .field("sinks", &self.sinks.len())
            .finish()
    }
}

/// The forwards of a gateway.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) table: Forwards<ListenerId>,
    guests: Guests,
    following: Option<Following>,
}

/// `--publish auto` at work.
#[derive(Debug)]
struct Following {
    watch: SocketWatch,
    follower: Follower,
    next_look: Instant,
}

/// Where the guest is.
#[derive(Debug, Clone)]
struct Guests {
    plan: AddressPlan,
    configure: Configure,
}

/// The core as forwards see it.
#[derive(Debug)]
pub(super) struct Core<'a> {
    slirp: &'a mut Slirp,
    guests: &'a Guests,
}

impl Ports {
    /// Sets up the forwards of `config`, all of them or none. Of `descriptors`
    /// half may be listeners.
    pub(super) fn new(
        config: &Config,
        inherited: Inherited,
        descriptors: usize,
        slirp: &mut Slirp,
        now: Instant,
    ) -> Result<Self, GatewayError> {
        let following = inherited.sockets.zip(config.auto_publish.clone());
        let mut this = Self {
            table: Forwards::new(descriptors, inherited.passed),
            guests: Guests {
                plan: config.plan.clone(),
                configure: config.interface.configure,
            },
            following: following.map(|(watch, rule)| Following {
                watch,
                follower: Follower::new(rule, config.plan.clone()),
                next_look: now,
            }),
        };
        // Passed sockets that are called by name come first: the others get what
        // is left.
        let (rest, first): (Vec<_>, Vec<_>) = config.forwards.iter().partition(|f| takes_rest(f));
        for forward in first.into_iter().chain(rest) {
            let (table, mut core) = this.with(slirp);
            table.add(forward.clone(), Origin::CommandLine, &mut core)?;
        }
        for name in this.table.passed().names() {
            tracing::warn!(
                "the passed socket '{name}' is not used; \
                 -p systemd:{name}:GUESTPORT leads its clients to the guest"
            );
        }
        Ok(this)
    }

    /// The table, and the core as the table sees it.
    pub(super) const fn with<'a>(
        &'a mut self,
        slirp: &'a mut Slirp,
    ) -> (&'a mut Forwards<ListenerId>, Core<'a>) {
        let core = Core {
            slirp,
            guests: &self.guests,
        };
        (&mut self.table, core)
    }

    /// When [`Ports::poll`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.following.as_ref().map(|following| following.next_look)
    }

    /// Looks at the guest's sockets, if it is time to.
    pub(super) fn poll(&mut self, now: Instant, slirp: &mut Slirp) {
        let Some(following) = &mut self.following else {
            return;
        };
        if now < following.next_look {
            return;
        }
        following.next_look = now + LOOK_EVERY;
        let listening = match following.watch.look() {
            Ok(Seen::All(listening)) => listening,
            Ok(Seen::NotYet) => return,
            Err(error) => {
                tracing::warn!(
                    "the guest's ports cannot be followed any more: {error}; publish them by number"
                );
                self.following = None;
                return;
            }
        };
        let listening: Vec<GuestPort> = listening.into_iter().map(guest_port).collect();
        let mut core = Core {
            slirp,
            guests: &self.guests,
        };
        let follower = &mut following.follower;
        for notice in follower.follow(now, &listening, &mut self.table, &mut core) {
            tell(&notice);
        }
    }
}

/// Whether it takes the passed sockets that nobody names.
const fn takes_rest(forward: &ForwardSpec) -> bool {
    match forward {
        ForwardSpec::Publish(publish) => matches!(publish.host, PublishAt::Passed { name: None }),
        ForwardSpec::Expose(_) => false,
    }
}

const fn guest_port(listening: Listening) -> GuestPort {
    let (protocol, at) = match listening {
        Listening::Tcp(at) => (Protocol::Tcp, at),
        Listening::Udp(at) => (Protocol::Udp, at),
    };
    GuestPort { protocol, at }
}

fn tell(notice: &Notice) {
    match notice {
        Notice::Published(publish) => tracing::info!("published {publish}"),
        Notice::Withdrawn(publish) => tracing::info!("took {publish} back"),
        Notice::Refused(error) => tracing::warn!("{error}"),
        Notice::TooMany => tracing::warn!(
            "the guest listens on more than {MAX_AUTO} ports; \
             publish those that are missing by number"
        ),
    }
}

impl GuestSide for Core<'_> {
    type Listener = ListenerId;

    fn listen(&mut self, socket: HostSocket) -> io::Result<ListenerId> {
        self.slirp.listen(Listener {
            socket: socket.socket,
            kind: match socket.kind {
                SocketKind::Tcp => ListenerKind::Tcp,
                SocketKind::Unix => ListenerKind::Unix,
                SocketKind::Udp => ListenerKind::Udp,
            },
            target: self.guests.target(socket.guest, socket.port)?,
        })
    }

    fn close(&mut self, listener: ListenerId) {
        self.slirp.unlisten(listener);
    }

    fn expose(&mut self, protocol: Protocol, port: u16, target: HostTarget) {
        let exposed = &mut self.slirp.policy_mut().exposed;
        exposed.insert(protocol, port, target);
    }

    fn conceal(&mut self, protocol: Protocol, port: u16) {
        self.slirp.policy_mut().exposed.remove(protocol, port);
    }
}

impl Guests {
    /// Where a listener's clients end up.
    fn target(&self, guest: Option<IpAddr>, port: u16) -> io::Result<GuestTarget> {
        let Some(addr) = guest else {
            return Ok(self.any(port));
        };
        if !self.plan.is_guest(addr) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{addr} is not an address that guests can have here; leave it out, or choose \
                     one in {}",
                    self.networks()
                ),
            ));
        }
        Ok(match addr {
            IpAddr::V4(addr) => GuestTarget {
                v4: Some(SocketAddrV4::new(addr, port)),
                v6: None,
            },
            IpAddr::V6(addr) => GuestTarget {
                v4: None,
                v6: Some(SocketAddrV6::new(addr, port, 0, 0)),
            },
        })
    }

    /// The guest's own addresses: as they are set, or where it configures itself,
    /// the first that DHCP hands out and the plan's. The core takes another one
    /// of the guest where it knows that one only.
    fn any(&self, port: u16) -> GuestTarget {
        let v4 = self.plan.v4.map(|p| match self.configure {
            Configure::Static => p.guest,
            Configure::LeaveAlone => p.dhcp_first,
        });
        let v6 = self.plan.v6.map(|p| p.guest);
        GuestTarget {
            v4: v4.map(|addr| SocketAddrV4::new(addr, port)),
            v6: v6.map(|addr| SocketAddrV6::new(addr, port, 0, 0)),
        }
    }

    fn networks(&self) -> String {
        let v4 = self.plan.v4.map(|p| p.net.to_string());
        let v6 = self.plan.v6.map(|p| p.net.to_string());
        v4.into_iter().chain(v6).collect::<Vec<_>>().join(" or ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{MacAddr, Mtu, PlanV4, PlanV6};

    fn guests(configure: Configure) -> Guests {
        let plan = AddressPlan {
            v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
            v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: Mtu::ETHERNET,
        };
        Guests { plan, configure }
    }

    fn target(guests: &Guests, guest: Option<&str>) -> Result<(String, String), String> {
        let guest = guest.map(|a| a.parse().expect("an address"));
        let show = |at: Option<String>| at.unwrap_or_default();
        match guests.target(guest, 80) {
            Ok(t) => Ok((
                show(t.v4.map(|a| a.to_string())),
                show(t.v6.map(|a| a.to_string())),
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn where_clients_end_up() {
        let both = |v4: &str, v6: &str| Ok((v4.to_owned(), v6.to_owned()));
        let set = guests(Configure::Static);
        assert_eq!(target(&set, None), both("10.0.2.100:80", "[fd00::100]:80"));
        assert_eq!(target(&set, Some("10.0.2.7")), both("10.0.2.7:80", ""));
        assert_eq!(target(&set, Some("fd00::7")), both("", "[fd00::7]:80"));
        let alone = guests(Configure::LeaveAlone);
        assert_eq!(target(&alone, None), both("10.0.2.15:80", "[fd00::100]:80"));
        for other in ["10.0.2.2", "10.0.3.1", "2001:db8::1", "fd00::2"] {
            let error = target(&set, Some(other)).expect_err(other);
            assert!(
                error.contains("choose one in 10.0.2.0/24 or fd00::/64"),
                "{error}"
            );
        }
    }
}
