//! The servers that know more: which there are, which of them is asked, and
//! how one question is put to one of them.
//!
//! # Theory of operation
//!
//! A question is put to the servers in order until one gives an answer. An
//! answer is any message but SERVFAIL and REFUSED, which mean that this server
//! cannot tell. A server that stays silent or cannot be reached is put at the
//! end of the order for [`PENALTY`], so that only one query in that time waits
//! for it; then it has its old place back. A server that has answered another
//! query meanwhile is not silent, it only takes its time with this one.
//!
//! Each try has a socket, and so a source port, of its own, connected so that
//! the kernel drops what does not come from the server, and an identifier from
//! the kernel's random source (RFC 5452 section 9). What comes back must repeat
//! the question. After [`MAX_FOREIGN`] messages that do not, somebody is
//! guessing, and the question is put by TCP instead.
//!
//! Whenever a server has failed, the list itself is looked at again: a host
//! that has moved to another network has other servers by then.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{Instant, timeout};

use super::Transport;
use super::host_config::{FirstTransport, Follower, HostConfig, Look, Order, ServerOptions};
use super::message::{Arrived, ExtendedError, HEADER_LEN, Outgoing, is_truncated, rcode, rcode_of};
use crate::config::Outbound;

/// Bytes of answer asked for by UDP: what crosses any path in one piece
/// (dnsflagday.net 2020). Longer answers come by TCP.
pub(super) const UDP_ANSWER_LEN: u16 = 1232;
/// How long a silent server is asked last.
pub(super) const PENALTY: Duration = Duration::from_secs(30);
/// Messages that are no answer after which UDP is given up for a query.
const MAX_FOREIGN: usize = 32;
/// Room for an answer by UDP: some servers send more than they were asked for.
const UDP_BUFFER_LEN: usize = 4096;

/// Where the servers come from, and the list in force.
#[derive(Debug)]
pub(super) struct Upstreams {
    source: Source,
    /// Looked at for the servers only if they come from it.
    follower: RefCell<Follower>,
    current: RefCell<Rc<Servers>>,
    leave_from: LeaveFrom,
}

/// Where queries leave this host.
#[derive(Debug, Clone, Default)]
pub(super) struct LeaveFrom {
    pub(super) v4: Option<Outbound<Ipv4Addr>>,
    pub(super) v6: Option<Outbound<Ipv6Addr>>,
}

impl LeaveFrom {
    fn socket(&self, server: SocketAddr, kind: Type) -> io::Result<Socket> {
        let kind = kind.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(server), kind, None)?;
        match server.ip() {
            // A resolver of this host, which no other address reaches.
            ip if ip.is_loopback() => {}
            IpAddr::V4(_) => self.v4.as_ref().map_or(Ok(()), |o| o.bind(&socket))?,
            IpAddr::V6(_) => self.v6.as_ref().map_or(Ok(()), |o| o.bind(&socket))?,
        }
        Ok(socket)
    }
}

/// Where a list of servers comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Configuration,
    ResolvConf,
}

/// A list of servers and what is known of their health.
#[derive(Debug)]
struct Servers {
    list: Vec<Server>,
    options: ServerOptions,
    /// Where the next query begins, with [`Order::Rotate`].
    turn: Cell<usize>,
}

#[derive(Debug)]
struct Server {
    addr: SocketAddr,
    silent_until: Cell<Option<Instant>>,
    last_answer: Cell<Option<Instant>>,
    tcp_silent_until: Cell<Option<Instant>>,
}

/// What asking one server brought.
enum Asked {
    /// What it knows.
    Answer(Vec<u8>),
    /// A message cut short, and the server cannot be reached by TCP.
    Cut(Vec<u8>),
    /// SERVFAIL or REFUSED.
    CannotTell(Vec<u8>),
    /// Nothing in time.
    Silent,
    /// An error on the way there, or here.
    Unreachable,
}

/// Why there is no message from a server.
enum Failure {
    Timeout,
    Io(io::Error),
    /// Too many messages that were no answers.
    Forged,
    /// A message that cannot be read.
    Broken,
}

impl Upstreams {
    /// The servers at `addrs`, or those of the host's resolv.conf, as it
    /// changes, when there are none. Touches no file.
    pub(super) fn new(addrs: Vec<SocketAddr>, follower: Follower, leave_from: LeaveFrom) -> Self {
        let (source, servers) = if addrs.is_empty() {
            (Source::ResolvConf, Servers::of(follower.config()))
        } else {
            (
                Source::Configuration,
                Servers::new(addrs, ServerOptions::default()),
            )
        };
        let current = RefCell::new(Rc::new(servers));
        Self {
            source,
            follower: RefCell::new(follower),
            current,
            leave_from,
        }
    }

    /// Runs `f` on what the host's resolv.conf says now.
    pub(super) fn with_host_config<T>(&self, f: impl FnOnce(&HostConfig) -> T) -> T {
        self.refresh();
        f(self.follower.borrow().config())
    }

    fn refresh(&self) {
        let mut follower = self.follower.borrow_mut();
        let look = follower.look(Instant::now());
        if look == Look::Changed && self.source == Source::ResolvConf {
            self.current
                .replace(Rc::new(Servers::of(follower.config())));
        }
    }

    fn current(&self) -> Rc<Servers> {
        if self.source == Source::ResolvConf {
            self.refresh();
        }
        Rc::clone(&self.current.borrow())
    }

    /// Puts a question to the servers. `for_guest` is how the guest asked: one
    /// that asked by UDP takes an answer cut short.
    pub(super) async fn exchange(
        &self,
        mut query: Outgoing,
        for_guest: Transport,
    ) -> Result<Vec<u8>, ExtendedError> {
        // Ends at the caller's deadline at the latest.
        loop {
            let servers = self.current();
            match self.exchange_with(&servers, &mut query, for_guest).await {
                Some(outcome) => return outcome,
                None => tracing::debug!("the servers have changed; the query starts over"),
            }
        }
    }

    /// `None` when the list has changed meanwhile.
    async fn exchange_with(
        &self,
        servers: &Rc<Servers>,
        query: &mut Outgoing,
        for_guest: Transport,
    ) -> Option<Result<Vec<u8>, ExtendedError>> {
        let mut second_best: Option<Vec<u8>> = None;
        let mut round = servers.order(Instant::now());
        let mut why = ExtendedError::NetworkError;
        for _ in 0..servers.options.attempts {
            let mut silent = Vec::new();
            for index in round {
                match servers.ask(index, query, for_guest, &self.leave_from).await {
                    Asked::Answer(answer) => return Some(Ok(answer)),
                    Asked::Cut(answer) if for_guest == Transport::Udp => return Some(Ok(answer)),
                    Asked::CannotTell(answer) => second_best = second_best.or(Some(answer)),
                    Asked::Silent => silent.push(index),
                    Asked::Cut(_) => why = ExtendedError::NoReachableAuthority,
                    Asked::Unreachable => {}
                }
                if !Rc::ptr_eq(servers, &self.current()) {
                    return None;
                }
            }
            if second_best.is_some() || silent.is_empty() {
                break;
            }
            why = ExtendedError::NoReachableAuthority;
            round = silent;
        }
        Some(second_best.ok_or(why))
    }
}

impl Servers {
    fn of(config: &HostConfig) -> Self {
        Self::new(config.servers.clone(), config.options)
    }

    fn new(addrs: Vec<SocketAddr>, options: ServerOptions) -> Self {
        let list = addrs.into_iter().map(Server::new).collect();
        Self {
            list,
            options,
            turn: Cell::new(0),
        }
    }

    /// The servers to ask, as indices: those in good health first.
    fn order(&self, now: Instant) -> Vec<usize> {
        let len = self.list.len();
        let first = match self.options.order {
            Order::AsListed => 0,
            Order::Rotate => self.turn.replace((self.turn.get() + 1) % len.max(1)),
        };
        let mut order: Vec<_> = (0..len).map(|i| (first + i) % len).collect();
        // Stable: equals keep their order.
        order.sort_by_key(|&i| in_force(&self.list[i].silent_until, now));
        order
    }

    async fn ask(
        &self,
        index: usize,
        query: &mut Outgoing,
        for_guest: Transport,
        from: &LeaveFrom,
    ) -> Asked {
        let server = &self.list[index];
        let asked = Instant::now();
        let result = match self.options.first {
            FirstTransport::Udp => self.ask_udp_first(server, query, for_guest, from).await,
            FirstTransport::Tcp => by_tcp(from, server.addr, query, self.options.try_timeout).await,
        };
        match result {
            Ok(answer) => {
                server.has_answered();
                sort_answer(answer)
            }
            Err(failure) => {
                tracing::debug!(server = %server.addr, %failure, "a name server failed");
                server.has_failed(&failure, asked);
                if matches!(failure, Failure::Timeout) {
                    Asked::Silent
                } else {
                    Asked::Unreachable
                }
            }
        }
    }

    async fn ask_udp_first(
        &self,
        server: &Server,
        query: &mut Outgoing,
        for_guest: Transport,
        from: &LeaveFrom,
    ) -> Result<Vec<u8>, Failure> {
        let time = self.options.try_timeout;
        let cut = match by_udp(from, server.addr, query, time).await {
            Ok(answer) if is_truncated(&answer) => answer,
            Err(Failure::Forged) => return by_tcp(from, server.addr, query, time).await,
            other => return other,
        };
        let is_enough = for_guest == Transport::Udp;
        if is_enough && in_force(&server.tcp_silent_until, Instant::now()) {
            return Ok(cut);
        }
        match by_tcp(from, server.addr, query, time).await {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                tracing::debug!(server = %server.addr, %failure, "no answer by TCP");
                if failure.is_the_servers() {
                    server.tcp_silent_until.set(Some(Instant::now() + PENALTY));
                }
                Ok(cut)
            }
        }
    }
}

impl Server {
    fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            silent_until: Cell::new(None),
            last_answer: Cell::new(None),
            tcp_silent_until: Cell::new(None),
        }
    }

    fn has_answered(&self) {
        self.last_answer.set(Some(Instant::now()));
        self.silent_until.set(None);
    }

    /// Takes note that a query sent at `asked` failed.
    fn has_failed(&self, failure: &Failure, asked: Instant) {
        let is_alive = self.last_answer.get().is_some_and(|at| at > asked);
        if failure.is_the_servers() && !is_alive {
            self.silent_until.set(Some(Instant::now() + PENALTY));
        }
    }
}

fn in_force(until: &Cell<Option<Instant>>, now: Instant) -> bool {
    until.get().is_some_and(|end| now < end)
}

fn sort_answer(answer: Vec<u8>) -> Asked {
    match rcode_of(&answer) {
        rcode::SERV_FAIL | rcode::REFUSED => Asked::CannotTell(answer),
        _ if is_truncated(&answer) => Asked::Cut(answer),
        _ => Asked::Answer(answer),
    }
}

impl Failure {
    /// False when it is this host that lacks something.
    fn is_the_servers(&self) -> bool {
        let Self::Io(error) = self else { return true };
        let lacking = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        !error
            .raw_os_error()
            .is_some_and(|code| lacking.contains(&code))
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Io(error) => error.fmt(f),
            Self::Forged => f.write_str("many messages that answer nothing asked"),
            Self::Broken => f.write_str("an answer that cannot be read"),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

async fn by_udp(
    from: &LeaveFrom,
    server: SocketAddr,
    query: &mut Outgoing,
    time: Duration,
) -> Result<Vec<u8>, Failure> {
    query.set_id(random_id()?);
    timeout(time, udp_exchange(from, server, query))
        .await
        .unwrap_or(Err(Failure::Timeout))
}

async fn udp_exchange(
    from: &LeaveFrom,
    server: SocketAddr,
    query: &Outgoing,
) -> Result<Vec<u8>, Failure> {
    let socket = UdpSocket::from_std(from.socket(server, Type::DGRAM)?.into())?;
    socket.connect(server).await?;
    socket.send(query.bytes()).await?;
    let mut buffer = vec![0; UDP_BUFFER_LEN];
    for _ in 0..MAX_FOREIGN {
        let len = socket.recv(&mut buffer).await?;
        match query.judge(&buffer[..len]) {
            Arrived::Foreign => {}
            Arrived::Broken => return Err(Failure::Broken),
            Arrived::Answer(answer) => return Ok(answer),
        }
    }
    Err(Failure::Forged)
}

async fn by_tcp(
    from: &LeaveFrom,
    server: SocketAddr,
    query: &mut Outgoing,
    time: Duration,
) -> Result<Vec<u8>, Failure> {
    query.set_id(random_id()?);
    timeout(time, tcp_exchange(from, server, query))
        .await
        .unwrap_or(Err(Failure::Timeout))
}

async fn tcp_exchange(
    from: &LeaveFrom,
    server: SocketAddr,
    query: &Outgoing,
) -> Result<Vec<u8>, Failure> {
    let socket: std::net::TcpStream = from.socket(server, Type::STREAM)?.into();
    let mut stream: TcpStream = TcpSocket::from_std_stream(socket).connect(server).await?;
    // One write, so that the length and the message leave together (RFC 7766
    // section 8). A query is far below 64 KiB: MAX_QUERY_LEN and a long name.
    let len = u16::try_from(query.bytes().len()).map_err(|_| Failure::Broken)?;
    let mut framed = len.to_be_bytes().to_vec();
    framed.extend_from_slice(query.bytes());
    stream.write_all(&framed).await?;
    let mut answer = vec![0; stream.read_u16().await?.into()];
    if answer.len() < HEADER_LEN {
        return Err(Failure::Broken);
    }
    stream.read_exact(&mut answer).await?;
    match query.judge(&answer) {
        Arrived::Answer(answer) => Ok(answer),
        Arrived::Broken | Arrived::Foreign => Err(Failure::Broken),
    }
}

fn random_id() -> io::Result<u16> {
    let mut id = [0; 2];
    getrandom::fill(&mut id).map_err(io::Error::other)?;
    Ok(u16::from_ne_bytes(id))
}
