//! Answers to the clients of the control sockets, given by the loop between two
//! rounds. Each takes a bounded time: lists come in pages.

use std::net::IpAddr;
use std::ops::ControlFlow;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::{Gateway, StopReason};
use crate::config::{Config, IcmpPolicy};
use crate::control::proto::{
    Again, Cursor, Flow, FlowCounts, FlowDirection, FlowFilter, FlowId, FlowProtocol, FlowState,
    ForwardRef, Hello, Host, Lease, LogLevel, MAX_LISTED_STATIONS, MAX_PAGE, Memory, Network,
    PROTOCOL, Port, Statistics,
};
use crate::control::{Command, Reply, Request, RequestError, Servers, SocketError};
use crate::forward::{ForwardError, ForwardId, ForwardInfo, ForwardSpec, Origin, Outcome};
use crate::policy::{HostLoopback, Protocol};
use crate::services::dns::{DnsError, HostRemoval};
use crate::slirp;
use crate::tap::switch::PortInfo;

/// Commands done before frames get their turn.
pub(super) const COMMANDS_PER_TURN: usize = 4;

/// Flows looked at for one page. Each TCP flow costs a system call, and the data
/// path waits meanwhile: a millisecond in all.
const MAX_EXAMINED: usize = 2000;

/// Sets how much is logged.
pub type SetLogLevel = Box<dyn Fn(LogLevel) -> Result<(), String>>;

/// The sockets and what comes from them.
pub(super) struct Control {
    servers: Servers,
    commands: mpsc::Receiver<Command>,
    started: Instant,
    hello: Hello,
    memory: usize,
    set_log_level: Option<SetLogLevel>,
}

impl Control {
    /// Makes the sockets of `config`; `None` when it asks for none.
    pub(super) fn new(config: &Config, now: Instant) -> Result<Option<Self>, SocketError> {
        let Some((servers, commands)) = Servers::bind(config)? else {
            return Ok(None);
        };
        Ok(Some(Self {
            servers,
            commands,
            started: now,
            hello: hello(config),
            memory: config.memory,
            set_log_level: None,
        }))
    }

    /// Starts to serve.
    pub(super) fn start(&mut self, set_log_level: Option<SetLogLevel>) {
        self.set_log_level = set_log_level;
        self.servers.spawn();
    }

    /// The next command that is there already.
    pub(super) fn try_next(&mut self) -> Option<Command> {
        self.commands.try_recv().ok()
    }
}

/// The next command; never without control sockets.
pub(super) async fn next(control: &mut Option<Control>) -> Command {
    let command = match control {
        Some(control) => control.commands.recv().await,
        None => None,
    };
    match command {
        Some(command) => command,
        None => std::future::pending().await,
    }
}

/// A client that waits for its answer.
pub(super) struct Answering(oneshot::Sender<Result<Reply, RequestError>>);

impl Answering {
    /// Answers, should the client still be there.
    pub(super) fn answer(self, answer: Result<Reply, RequestError>) {
        let _ = self.0.send(answer);
    }
}

impl Gateway {
    /// Does what waits, a few commands at most.
    pub(super) fn do_waiting_commands(&mut self) -> ControlFlow<StopReason> {
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.control.as_mut().and_then(Control::try_next) else {
                break;
            };
            self.do_command(command)?;
        }
        ControlFlow::Continue(())
    }

    /// Does what a client asks and answers it, should it still be there.
    pub(super) fn do_command(&mut self, command: Command) -> ControlFlow<StopReason> {
        let Some(command) = self.do_capture(command) else {
            return ControlFlow::Continue(());
        };
        let stops = command.request == Request::Shutdown {};
        let processes = matches!(
            command.request,
            Request::FlowList {
                processes: true,
                ..
            }
        );
        let answering = Answering(command.reply);
        match self.answer_request(command.request) {
            Ok(reply) if processes => self.watching.add_processes(reply, answering),
            answer => answering.answer(answer),
        }
        if stops {
            ControlFlow::Break(StopReason::Requested)
        } else {
            ControlFlow::Continue(())
        }
    }

    fn answer_request(&mut self, request: Request) -> Result<Reply, RequestError> {
        match request {
            Request::Hello {} => self.hello(),
            Request::ForwardAdd { forward, again } => self.add_forward(forward, again),
            Request::ForwardRemove { forward } => self.remove_forward(forward),
            Request::ForwardList { after, limit } => self.list_forwards(after, limit),
            Request::HostAdd { name, addr } => self.add_host(&name, addr),
            Request::HostRemove { name, addr } => self.remove_host(&name, addr),
            Request::HostList { after, limit } => self.list_hosts(after, limit),
            Request::FlowList {
                filter,
                // Looked for when the page is there.
                processes: _,
                after,
                limit,
            } => self.list_flows(&filter, after, limit),
            Request::FlowClose { id } => self.close_flow(id),
            Request::Leases {} => Ok(self.leases()),
            Request::Ports {} => Ok(self.list_ports()),
            Request::Statistics {} => self.statistics(),
            Request::ImpairSet { rules } => self.set_rules(rules),
            Request::ImpairAdd { rule } => self.add_rule(*rule),
            Request::ImpairRemove { id } => self.remove_rule(id),
            Request::ImpairList {} => Ok(self.list_rules()),
            Request::Log { level } => self.set_log_level(level),
            Request::Shutdown {} => Ok(Reply::Done {}),
            // Done by `do_capture`, whose answers come later.
            Request::CaptureStart { .. }
            | Request::CaptureStop { .. }
            | Request::CaptureRotate { .. }
            | Request::CaptureList {} => Err(RequestError::Stopping),
        }
    }

    fn hello(&self) -> Result<Reply, RequestError> {
        let control = self.control.as_ref().ok_or(RequestError::Stopping)?;
        let mut hello = Box::new(control.hello.clone());
        hello.uptime_seconds = control.started.elapsed().as_secs();
        Ok(Reply::Hello(hello))
    }

    fn add_forward(&mut self, spec: ForwardSpec, again: Again) -> Result<Reply, RequestError> {
        let (table, mut core) = self.ports.with(&mut self.slirp);
        let added = table.add(spec.clone(), Origin::Control, &mut core)?;
        match (added.outcome, again) {
            (Outcome::AlreadyThere, Again::Refuse) => Err(RequestError::Refused(format!(
                "{spec} is there already, as forward {}",
                added.id
            ))),
            (Outcome::New | Outcome::AlreadyThere, _) => Ok(Reply::Forward { id: added.id }),
        }
    }

    fn remove_forward(&mut self, forward: ForwardRef) -> Result<Reply, RequestError> {
        let (table, mut core) = self.ports.with(&mut self.slirp);
        let mut by_spec = |spec: ForwardSpec| {
            let removed = table.remove_spec(&spec, &mut core);
            removed.ok_or_else(|| spec.to_string())
        };
        let removed = match forward {
            ForwardRef::Publish(publish) => by_spec(publish.into()),
            ForwardRef::ExposeHost(expose) => by_spec(expose.into()),
            ForwardRef::Id(id) => table.remove(id, &mut core).ok_or_else(|| id.to_string()),
        };
        match removed {
            Ok(_) => Ok(Reply::Done {}),
            Err(which) => Err(RequestError::NotFound(format!(
                "there is no forward {which}; the list of forwards says which there are"
            ))),
        }
    }

    fn list_forwards(
        &self,
        after: Option<Cursor>,
        limit: Option<u32>,
    ) -> Result<Reply, RequestError> {
        let after: Option<ForwardId> = after
            .map(|cursor| {
                cursor
                    .0
                    .parse()
                    .map(ForwardId)
                    .map_err(|_| no_place(&cursor))
            })
            .transpose()?;
        let rest = self.ports.table.list_after(after);
        let (forwards, next) = page(rest, limit, |info| info.id.to_string());
        let forwards = forwards.into_iter().map(listed).collect();
        Ok(Reply::Forwards { forwards, next })
    }

    fn add_host(&self, name: &str, addr: IpAddr) -> Result<Reply, RequestError> {
        let services = self.services.borrow();
        let resolver = services.resolver().ok_or_else(no_resolver)?;
        resolver.add_host(name, addr)?;
        Ok(Reply::Done {})
    }

    fn remove_host(&self, name: &str, addr: IpAddr) -> Result<Reply, RequestError> {
        let services = self.services.borrow();
        let resolver = services.resolver().ok_or_else(no_resolver)?;
        match resolver.remove_host(name, addr)? {
            HostRemoval::Removed => Ok(Reply::Done {}),
            HostRemoval::Unknown => Err(RequestError::NotFound(format!(
                "there is no {name}={addr}; the list of hosts says which there are"
            ))),
        }
    }

    fn list_hosts(&self, after: Option<Cursor>, limit: Option<u32>) -> Result<Reply, RequestError> {
        let services = self.services.borrow();
        let resolver = services.resolver().ok_or_else(no_resolver)?;
        let after = after.map(|cursor| host_at(&cursor)).transpose()?;
        let rest = resolver
            .hosts()
            .into_iter()
            .filter(|host| after.as_ref().is_none_or(|after| host > after));
        let (hosts, next) = page(rest, limit, |(name, addr)| format!("{addr} {name}"));
        let hosts = hosts
            .into_iter()
            .map(|(name, addr)| Host { name, addr })
            .collect();
        Ok(Reply::Hosts { hosts, next })
    }

    /// Looks at a part of the flows; where few match, the page is a short one.
    fn list_flows(
        &self,
        filter: &FlowFilter,
        after: Option<Cursor>,
        limit: Option<u32>,
    ) -> Result<Reply, RequestError> {
        let after: Option<slirp::FlowId> = after
            .map(|cursor| cursor.0.parse().map_err(|_| no_place(&cursor)))
            .transpose()?;
        let limit = page_size(limit);
        let mut rest = self.slirp.flows_after(after);
        let mut flows = Vec::new();
        let mut last = None;
        for info in rest.by_ref().take(MAX_EXAMINED) {
            last = Some(info.id);
            if let Some(mut flow) = flow(&info).filter(|flow| filter.matches(flow)) {
                let name = self.watching.name_of(flow.remote.ip());
                flow.name = name.map(|name| name.to_string());
                flows.push(flow);
            }
            if flows.len() == limit {
                break;
            }
        }
        let next = last.filter(|_| rest.next().is_some());
        let next = next.map(|id| Cursor(id.to_string()));
        Ok(Reply::Flows { flows, next })
    }

    fn close_flow(&mut self, id: FlowId) -> Result<Reply, RequestError> {
        let text = String::from(id);
        let known = text
            .parse()
            .is_ok_and(|id: slirp::FlowId| self.slirp.close_flow(id));
        if known {
            Ok(Reply::Done {})
        } else {
            Err(RequestError::NotFound(format!(
                "there is no flow {text}, or not any more; the list of flows says which there are"
            )))
        }
    }

    fn leases(&self) -> Reply {
        let now = Instant::now();
        let services = self.services.borrow();
        let leases = services
            .leases()
            .filter(|lease| lease.expires > now)
            .map(|lease| Lease {
                addr: lease.addr.into(),
                mac: lease.mac.to_string(),
                hostname: lease.hostname,
                seconds_left: (lease.expires - now).as_secs(),
            })
            .collect();
        Reply::Leases { leases }
    }

    fn list_ports(&mut self) -> Reply {
        let ports = self.ports().into_iter().map(port).collect();
        Reply::Ports { ports }
    }

    fn statistics(&mut self) -> Result<Reply, RequestError> {
        let dropped = self.drops_that_occurred();
        let control = self.control.as_ref().ok_or(RequestError::Stopping)?;
        let (tcp, udp) = self.slirp.flows();
        let memory = Memory {
            used: self.slirp.memory_used(),
            budget: control.memory,
        };
        Ok(Reply::Statistics(Box::new(Statistics {
            uptime_seconds: control.started.elapsed().as_secs(),
            flows: FlowCounts { tcp, udp },
            memory,
            from_guest: self.received,
            to_guest: self.link.sent(),
            dropped,
        })))
    }

    fn set_log_level(&self, level: LogLevel) -> Result<Reply, RequestError> {
        let control = self.control.as_ref().ok_or(RequestError::Stopping)?;
        let set = control
            .set_log_level
            .as_ref()
            .ok_or_else(|| RequestError::Refused("this gateway's log level is fixed".to_owned()))?;
        set(level).map_err(RequestError::Refused)?;
        Ok(Reply::Done {})
    }
}

impl From<ForwardError> for RequestError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Spec(_) => Self::BadRequest(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<DnsError> for RequestError {
    fn from(error: DnsError) -> Self {
        match error {
            DnsError::HostName(_) => Self::BadRequest(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

fn no_resolver() -> RequestError {
    RequestError::Refused("the resolver is off; start gw without --no-dns".to_owned())
}

fn no_place(cursor: &Cursor) -> RequestError {
    RequestError::BadRequest(format!(
        "'{}' is no place in this list; give what 'next' of the page before said",
        cursor.0
    ))
}

fn listed(info: ForwardInfo) -> crate::control::proto::Forward {
    crate::control::proto::Forward {
        id: info.id,
        forward: info.spec,
        origin: info.origin,
        at: info.at.iter().map(ToString::to_string).collect(),
    }
}

/// The place of a host in the list, from the cursor that names it.
fn host_at(cursor: &Cursor) -> Result<(String, IpAddr), RequestError> {
    let (addr, name) = cursor.0.split_once(' ').ok_or_else(|| no_place(cursor))?;
    let addr = addr.parse().map_err(|_| no_place(cursor))?;
    Ok((name.to_owned(), addr))
}

/// The first entries of `rest`, and where to go on when there are more.
fn page<T>(
    rest: impl Iterator<Item = T>,
    limit: Option<u32>,
    place: impl Fn(&T) -> String,
) -> (Vec<T>, Option<Cursor>) {
    let limit = page_size(limit);
    // One more, to know whether there is one.
    let mut entries: Vec<T> = rest.take(limit + 1).collect();
    if entries.len() <= limit {
        return (entries, None);
    }
    entries.truncate(limit);
    let next = entries.last().map(|last| Cursor(place(last)));
    (entries, next)
}

/// Entries of a page, when so many are wanted.
fn page_size(limit: Option<u32>) -> usize {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok());
    limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE)
}

fn port(info: PortInfo) -> Port {
    let PortInfo {
        id,
        name,
        stations,
        counters,
    } = info;
    let listed = stations.iter().take(MAX_LISTED_STATIONS);
    Port {
        id: id.get(),
        name,
        stations: listed.map(ToString::to_string).collect(),
        more_stations: stations.len().saturating_sub(MAX_LISTED_STATIONS),
        received: counters.received,
        sent: counters.sent,
        not_sent: counters.not_sent,
        malformed: counters.malformed,
    }
}

/// `None` for protocols that are not listed.
fn flow(info: &slirp::FlowInfo) -> Option<Flow> {
    Some(Flow {
        id: FlowId::try_from(info.id.to_string()).ok()?,
        protocol: match info.protocol {
            Protocol::Tcp => FlowProtocol::Tcp,
            Protocol::Udp => FlowProtocol::Udp,
            Protocol::Echo => return None,
        },
        direction: match info.direction {
            slirp::Direction::Outbound => FlowDirection::Outbound,
            slirp::Direction::Inbound => FlowDirection::Inbound,
        },
        state: match info.state {
            slirp::FlowState::Connecting => FlowState::Connecting,
            slirp::FlowState::Open => FlowState::Open,
            slirp::FlowState::HalfClosed => FlowState::HalfClosed,
        },
        guest: info.guest,
        remote: info.remote,
        peer: info.peer,
        to_guest: info.to_guest,
        from_guest: info.from_guest,
        age_seconds: info.age.as_secs(),
        idle_seconds: info.idle.as_secs(),
        name: None,
        process: None,
    })
}

fn hello(config: &Config) -> Hello {
    let plan = &config.plan;
    Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_seconds: 0,
        interface: config.interface.name.clone(),
        mtu: plan.mtu.get(),
        ipv4: plan.v4.map(|plan| Network {
            network: plan.net.to_string(),
            gateway: plan.gateway.into(),
            resolver: plan.dns.into(),
            guest: plan.guest.into(),
        }),
        ipv6: plan.v6.map(|plan| Network {
            network: plan.net.to_string(),
            gateway: plan.gateway.into(),
            resolver: plan.dns.into(),
            guest: plan.guest.into(),
        }),
        host_loopback: host_loopback(&config.host_loopback),
        dns: config.dns.is_some(),
        icmp: config.icmp == IcmpPolicy::Forward,
    }
}

fn host_loopback(allowed: &HostLoopback) -> String {
    match allowed {
        HostLoopback::Closed => "none".to_owned(),
        HostLoopback::Open => "all".to_owned(),
        HostLoopback::Ports(ranges) => {
            let ranges: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            ranges.join(",")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_end_where_the_list_does() {
        let place = |n: &u32| n.to_string();
        let list = |after: u32, limit| page((after + 1)..=7, limit, place);
        assert_eq!(list(0, Some(3)), (vec![1, 2, 3], Some(Cursor("3".into()))));
        assert_eq!(list(3, Some(3)), (vec![4, 5, 6], Some(Cursor("6".into()))));
        assert_eq!(list(6, Some(3)), (vec![7], None));
        assert_eq!(list(4, Some(3)), (vec![5, 6, 7], None));
        assert_eq!(list(7, None), (vec![], None));
        // Somebody asks for nothing, or for everything.
        assert_eq!(list(0, Some(0)), (vec![1], Some(Cursor("1".into()))));
        let (entries, next) = page(0..100_000, Some(u32::MAX), place);
        assert_eq!((entries.len(), next.is_some()), (MAX_PAGE, true));
    }
}
