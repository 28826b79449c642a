//! A session: fresh namespaces, one gateway, servers, and the measurements that
//! are made through it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::sleep;
use std::time::Duration;

use crate::agent::proto::{Latency, Load, Ports, Reply, Request, Transport};
use crate::agent::{Agent, unexpected};
use crate::cell::{Bulk, Destination, Direction};
use crate::error::{Error, Result};
use crate::gateway::{Addresses, Family, Gateway, Role, Running, TAP};
use crate::namespace::{self, Namespaces};
use crate::procfs;

/// A server in the remote namespace.
const REMOTE: Addresses = Addresses {
    v4: Ipv4Addr::new(198, 18, 0, 1),
    v6: Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1),
};

/// First of the addresses that the idle connections go to, one each.
const FIRST_IDLE: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 18, 1, 0));

/// When to give up waiting for a first connection.
const FIRST_CONNECTION: Duration = Duration::from_secs(10);

/// How long measurements take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// From the start of a load to the start of its measurement.
    pub(crate) warm_up: Duration,
    /// The measurement.
    pub(crate) measure: Duration,
}

/// What one throughput measurement found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Throughput {
    /// Gbit/s of TCP payload that arrived.
    pub(crate) gbits: f64,
    /// CPU seconds of the gateway per 10^9 bytes that arrived; infinite if none did.
    pub(crate) cpu_per_gb: f64,
}

/// Fresh namespaces with a gateway between them.
#[derive(Debug)]
pub(crate) struct Session {
    timing: Timing,
    loopback: Addresses,
    // Dropped in this order: the gateway first, so that it ends by our signal.
    gateway: Running,
    guest: Agent,
    host: Server,
    remote: Server,
}

/// An agent with servers.
#[derive(Debug)]
struct Server {
    agent: Agent,
    ports: Ports,
}

impl Server {
    fn start(mut agent: Agent) -> Result<Self> {
        match agent.ask(&Request::Serve)? {
            Reply::Ports(ports) => Ok(Self { agent, ports }),
            other => Err(unexpected(&other)),
        }
    }
}

impl Session {
    /// Makes the namespaces and starts everything.
    ///
    /// # Errors
    /// When something does not start, or the guest's MTU is not what was asked for.
    pub(crate) fn start(gateway: &dyn Gateway, mtu: u16, timing: Timing) -> Result<Self> {
        namespace::new_network()?;
        let remote = Server::start(Agent::spawn(Namespaces::Remote)?)?;
        namespace::join_host_and_remote(remote.agent.pid())?;
        let host = Server::start(Agent::spawn(Namespaces::Host)?)?;
        let guest = Agent::spawn(match gateway.role() {
            Role::Gateway => Namespaces::Guest,
            Role::Baseline => Namespaces::Host,
        })?;
        let running = gateway.start(guest.pid(), mtu)?;
        let loopback = gateway.host_loopback();
        let mut session = Self {
            timing,
            loopback,
            gateway: running,
            guest,
            host,
            remote,
        };
        if gateway.role() == Role::Gateway {
            session.check_mtu(mtu)?;
        }
        session.settle(Destination::Loopback)?;
        session.settle(Destination::Veth)?;
        Ok(session)
    }

    /// The most memory that the gateway has had resident, in bytes.
    ///
    /// # Errors
    /// When it has ended or there is none.
    pub(crate) fn peak_memory(&self) -> Result<f64> {
        procfs::status_bytes(self.gateway_pid()?, "VmHWM")
    }

    fn gateway_pid(&self) -> Result<u32> {
        self.gateway
            .pid
            .ok_or_else(|| Error("there is no gateway".into()))
    }

    /// CPU seconds that the gateway has used; 0 without one.
    fn cpu_seconds(&self) -> Result<f64> {
        self.gateway.pid.map_or(Ok(0.0), procfs::cpu_seconds)
    }

    /// A wrong MTU would falsify every number.
    fn check_mtu(&mut self, mtu: u16) -> Result<()> {
        match self.guest.ask(&Request::Mtu {
            interface: TAP.into(),
        })? {
            Reply::Mtu { bytes } if bytes == u32::from(mtu) => Ok(()),
            Reply::Mtu { bytes } => Err(Error(format!(
                "the guest's MTU is {bytes}, not {mtu} as asked for"
            ))),
            other => Err(unexpected(&other)),
        }
    }

    /// Waits until both address families work towards `destination`: IPv6
    /// addresses may still be checked for duplicates.
    fn settle(&mut self, destination: Destination) -> Result<()> {
        for family in [Family::V4, Family::V6] {
            let to = self.address(destination, family, |ports| ports.once);
            let millis = millis(FIRST_CONNECTION);
            self.guest.ask(&Request::FirstConnection { to, millis })?;
        }
        Ok(())
    }

    /// The address of one of the servers.
    fn address(
        &self,
        destination: Destination,
        family: Family,
        port: impl Fn(&Ports) -> u16,
    ) -> SocketAddr {
        match destination {
            Destination::Loopback => {
                SocketAddr::new(self.loopback.of(family), port(&self.host.ports))
            }
            Destination::Veth => SocketAddr::new(REMOTE.of(family), port(&self.remote.ports)),
        }
    }

    /// The agent that has the servers of `destination`.
    fn server(&mut self, destination: Destination) -> &mut Agent {
        match destination {
            Destination::Loopback => &mut self.host.agent,
            Destination::Veth => &mut self.remote.agent,
        }
    }

    /// The agent at the receiving end.
    fn receiver(&mut self, direction: Direction, destination: Destination) -> &mut Agent {
        match direction {
            Direction::Up => self.server(destination),
            Direction::Down => &mut self.guest,
        }
    }

    /// TCP throughput, counted where the bytes arrive.
    ///
    /// # Errors
    /// When a connection fails or the gateway ends.
    pub(crate) fn bulk(&mut self, bulk: Bulk) -> Result<Throughput> {
        let Bulk {
            direction,
            streams,
            family,
            destination,
        } = bulk;
        let to = self.address(destination, family, |ports| match direction {
            Direction::Up => ports.sink,
            Direction::Down => ports.source,
        });
        self.guest.ask(&Request::Start {
            load: bulk.load(),
            to,
            streams,
        })?;
        sleep(self.timing.warm_up);
        let cpu_before = self.cpu_seconds()?;
        let before = self.receiver(direction, destination).counters()?;
        sleep(self.timing.measure);
        let after = self.receiver(direction, destination).counters()?;
        let cpu = self.cpu_seconds()? - cpu_before;
        self.stop(destination)?;
        let bytes = (after.bytes - before.bytes) as f64;
        let seconds = (after.nanos - before.nanos) as f64 / 1e9;
        Ok(Throughput {
            gbits: bytes * 8.0 / seconds / 1e9,
            cpu_per_gb: cpu / (bytes / 1e9),
        })
    }

    /// Datagrams per second, counted where they arrive.
    ///
    /// # Errors
    /// When the gateway ends.
    pub(crate) fn datagrams(&mut self, direction: Direction) -> Result<f64> {
        let destination = Destination::Loopback;
        let (load, to) = match direction {
            Direction::Up => (
                Load::UdpUp,
                self.address(destination, Family::V4, |ports| ports.udp_sink),
            ),
            Direction::Down => (
                Load::UdpDown,
                self.address(destination, Family::V4, |ports| ports.udp_source),
            ),
        };
        self.guest.ask(&Request::Start {
            load,
            to,
            streams: 1,
        })?;
        sleep(self.timing.warm_up);
        let before = self.receiver(direction, destination).counters()?;
        sleep(self.timing.measure);
        let after = self.receiver(direction, destination).counters()?;
        self.stop(destination)?;
        let seconds = (after.nanos - before.nanos) as f64 / 1e9;
        Ok((after.datagrams - before.datagrams) as f64 / seconds)
    }

    /// Ends the load on both sides and lets the queues empty.
    fn stop(&mut self, destination: Destination) -> Result<()> {
        self.guest.ask(&Request::Stop)?;
        self.server(destination).ask(&Request::Stop)?;
        sleep(self.timing.warm_up / 2);
        Ok(())
    }

    /// Round-trip times of one byte to the host's loopback.
    ///
    /// # Errors
    /// When the connection fails.
    pub(crate) fn round_trips(&mut self, transport: Transport) -> Result<Latency> {
        let to = self.address(Destination::Loopback, Family::V4, |ports| match transport {
            Transport::Tcp => ports.echo,
            Transport::Udp => ports.udp_echo,
        });
        let millis = millis(self.timing.measure);
        match self.guest.ask(&Request::RoundTrips {
            transport,
            to,
            millis,
        })? {
            Reply::Latency(latency) => Ok(latency),
            other => Err(unexpected(&other)),
        }
    }

    /// New connections per second.
    ///
    /// # Errors
    /// When one fails.
    pub(crate) fn connections(&mut self, destination: Destination) -> Result<f64> {
        let to = self.address(destination, Family::V4, |ports| ports.once);
        let millis = millis(self.timing.measure);
        match self.guest.ask(&Request::Connections { to, millis })? {
            Reply::Rate { count, seconds } => Ok(count as f64 / seconds),
            other => Err(unexpected(&other)),
        }
    }

    /// The gateway's resident memory in bytes; 0 without one.
    fn resident(&self) -> Result<f64> {
        self.gateway
            .pid
            .map_or(Ok(0.0), |pid| procfs::status_bytes(pid, "VmRSS"))
    }

    /// Opens `count` connections that stay open; bytes of gateway memory that
    /// each of them costs.
    ///
    /// # Errors
    /// When one fails.
    pub(crate) fn open_idle(&mut self, count: u32) -> Result<f64> {
        let before = self.resident()?;
        let port = self.remote.ports.keep;
        self.guest.ask(&Request::Idle {
            first: FIRST_IDLE,
            port,
            count,
        })?;
        sleep(self.timing.warm_up);
        let after = self.resident()?;
        Ok((after - before) / f64::from(count))
    }
}

/// How long a gateway takes to start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// Until it says that it is ready, in milliseconds.
    pub(crate) ready_ms: f64,
    /// Until a byte came back through it, in milliseconds.
    pub(crate) first_ms: f64,
}

/// Namespaces in which a gateway is started again and again.
#[derive(Debug)]
pub(crate) struct StartBench {
    host: Server,
    // Its namespace holds the other end of the veth.
    _remote: Agent,
}

impl StartBench {
    /// Makes the namespaces.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn new() -> Result<Self> {
        namespace::new_network()?;
        let remote = Agent::spawn(Namespaces::Remote)?;
        namespace::join_host_and_remote(remote.pid())?;
        let host = Server::start(Agent::spawn(Namespaces::Host)?)?;
        Ok(Self {
            host,
            _remote: remote,
        })
    }

    /// Starts a gateway for a fresh guest. The guest begins to try only when the
    /// gateway has said that it is ready, so that its trying costs the start nothing.
    ///
    /// # Errors
    /// When the gateway does not start or no connection works.
    pub(crate) fn once(&self, gateway: &dyn Gateway) -> Result<Start> {
        let mut guest = Agent::spawn(Namespaces::Guest)?;
        let running = gateway.start(guest.pid(), 1500)?;
        let to = SocketAddr::new(gateway.host_loopback().v4.into(), self.host.ports.once);
        let millis = millis(FIRST_CONNECTION);
        match guest.ask(&Request::FirstConnection { to, millis })? {
            Reply::At { nanos } => Ok(Start {
                ready_ms: running.ready_after.as_secs_f64() * 1e3,
                first_ms: nanos.saturating_sub(running.spawned_nanos) as f64 / 1e6,
            }),
            other => Err(unexpected(&other)),
        }
    }
}

/// A duration in whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
