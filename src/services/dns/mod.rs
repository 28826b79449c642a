//! The resolver that guests reach at the plan's DNS address.
//!
//! # Theory of operation
//!
//! A query takes one of three ways.
//!
//! 1. *Answered here*: static hosts, the gateway's own names, guests by the names
//!    they gave themselves, `localhost`, the guests' network in reverse, and
//!    everything that is no proper query.
//! 2. *Passed on* to the host's servers, byte for byte but for the identifier
//!    and the UDP size, and the answer back likewise. Records are not decoded,
//!    so every type, class, EDNS option and DNSSEC signature survives.
//! 3. *Searched*: an address asked for by a short name is tried under the
//!    search domains, and the answer given as an alias (CNAME) of the name.
//!
//! Messages are read and made with `hickory-proto` wherever their records
//! matter. The servers are asked by our own few lines (`upstream.rs`) and not by
//! `hickory-resolver`: that decodes and re-encodes every message, makes an
//! error value without sections of NXDOMAIN, SERVFAIL and empty answers,
//! refuses records of another class than the question's, and knows neither
//! interface scopes nor `rotate` and `use-vc` of resolv.conf.
//!
//! There is no cache: the host's servers have one, most hosts run one locally,
//! and answers that are asked for anew follow the host from network to network.
//!
//! # When the search list applies
//!
//! A name on the wire has lost its trailing dot, and the guest's own stub
//! resolver searches too, with the list that DHCP and router advertisements
//! tell it. So the host's list applies to names with fewer than `ndots` dots
//! only; a list that the user gave applies to every name, in the order of
//! `search.rs`. Only questions for addresses are searched, and only without the
//! DNSSEC OK bit, since nobody can sign the alias.
//!
//! NXDOMAIN and empty answers lead to the next candidate; so do SERVFAIL and
//! silence. When nothing is found, a name with dots, tried as given first, has
//! the answer that it had there; for a short name the failures make it
//! SERVFAIL, because nobody knows that the name is not there. A candidate that
//! has the other kind of address ends the search with an empty answer: else a
//! guest would talk to one host by IPv4 and to its namesake by IPv6.
//!
//! # Limits
//!
//! [`MAX_QUERIES_IN_FLIGHT`] queries wait for servers at a time, each with one
//! socket, one answer (64 KiB at most) and [`DnsConfig::deadline`];
//! [`MAX_STREAMS`] streams are served. What is over the limits is dropped,
//! which guests take for loss.
//!
//! Not handled: zone transfers (NOTIMP), updates (NOTIMP), multicast DNS.

mod alias;
mod guests;
mod host_config;
mod local;
mod message;
mod names;
mod records;
mod search;
mod stream;
mod upstream;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use self::host_config::name_servers;
pub use self::names::{MAX_ADDRESSES, MAX_NAMES, NameTable};

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;

use hickory_proto::rr::Name;
use tokio::io::{AsyncRead, AsyncWrite};

use self::alias::Finding;
use self::host_config::{DNS_PORT, Follower};
use self::local::LocalNames;
use self::message::{ExtendedError, Query, Rejected, is_truncated, rcode};
use self::upstream::{LeaveFrom, UDP_ANSWER_LEN, Upstreams};
use super::dhcp::Lease;
use crate::config::DnsConfig;
use crate::net::AddressPlan;

/// Queries waiting for servers at a time. Each holds a socket, so this is also
/// what the resolver takes of the process's descriptors.
pub const MAX_QUERIES_IN_FLIGHT: usize = 512;
/// Streams served at a time.
pub const MAX_STREAMS: usize = 64;

/// What a guest is told when no server gave an answer to be used.
const NO_ANSWER: ExtendedError = ExtendedError::NoReachableAuthority;

/// What is wrong with the resolver's settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// A static host's name is none.
    #[error(
        "'{0}' is not a host name; write labels of at most 63 characters with dots between them"
    )]
    HostName(String),
    /// A search domain is none.
    #[error(
        "'{0}' is not a search domain; write labels of at most 63 characters with dots between them"
    )]
    SearchDomain(String),
    /// The table of static hosts is full.
    #[error("there are {max} static host names already; remove some first", max = local::MAX_STATIC_HOSTS)]
    TooManyHosts,
    /// More servers than anybody needs.
    #[error("{0} name servers are too many; give {max} at most", max = host_config::MAX_SERVERS)]
    TooManyServers(usize),
    /// More search domains than a lookup can go through.
    #[error("{0} search domains are too many; give {max} at most", max = search::MAX_SEARCH_DOMAINS)]
    TooManySearchDomains(usize),
}

/// A door for the fuzz targets: reads a resolv.conf and the lists that follow
/// from it.
#[doc(hidden)]
pub fn fuzz_resolv_conf(text: &[u8]) {
    let _ = host_config::HostConfig::parse(text, DNS_PORT);
}

/// How a query came, and how its answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// A datagram: the answer is cut to what the guest takes.
    Udp,
    /// A stream: the answer is whole.
    Tcp,
}

/// What became of a static name that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostRemoval {
    /// It is gone.
    Removed,
    /// There was no such pair of name and address.
    Unknown,
}

/// The resolver. Clones share one state. Its futures need a tokio runtime with
/// time and input/output, and stay on one thread.
#[derive(Debug, Clone)]
pub struct Resolver {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: DnsConfig,
    /// The search domains given by the user.
    search: Option<Vec<Name>>,
    local: RefCell<LocalNames>,
    upstreams: Upstreams,
    names: Rc<NameTable>,
    in_flight: Cell<usize>,
    streams: Cell<usize>,
}

impl Resolver {
    /// Makes a resolver. Reads no file and opens no socket: that happens with
    /// the first query.
    ///
    /// # Errors
    /// [`DnsError`] when a name in `config` is none, or a list is too long.
    pub fn new(config: DnsConfig, plan: &AddressPlan) -> Result<Self, DnsError> {
        Self::with_port(config, plan, DNS_PORT)
    }

    /// The same, with the port that the servers of resolv.conf listen on.
    fn with_port(config: DnsConfig, plan: &AddressPlan, port: u16) -> Result<Self, DnsError> {
        if config.upstreams.len() > host_config::MAX_SERVERS {
            return Err(DnsError::TooManyServers(config.upstreams.len()));
        }
        let shared = Shared {
            search: config.search.as_deref().map(parse_search).transpose()?,
            local: RefCell::new(LocalNames::new(&config.hosts, plan)?),
            upstreams: Upstreams::new(
                config.upstreams.clone(),
                Follower::new(config.resolv_conf.clone(), port),
                LeaveFrom {
                    v4: config.outbound4.clone(),
                    v6: config.outbound6.clone(),
                },
            ),
            names: Rc::default(),
            in_flight: Cell::new(0),
            streams: Cell::new(0),
            config,
        };
        Ok(Self {
            shared: Rc::new(shared),
        })
    }

    /// Answers one message. `None`: nothing is sent, because the message is no
    /// query at all, or because too many are under way.
    ///
    /// The answer to a query by UDP has at most the size that its OPT record
    /// allows, or 512 bytes without one (RFC 6891 section 6.2.5), and the TC
    /// bit when that cut it.
    pub async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = match Query::parse(query) {
            Ok(query) => query,
            Err(Rejected::Drop) => return None,
            Err(Rejected::Reply(reply)) => return Some(reply),
        };
        let reply = match self.answer_here(&query, &query.name, query.qtype) {
            Some(reply) => reply,
            None => self.answer_with_help(&query, transport).await?,
        };
        let reply = fit(&query, transport, reply);
        self.shared.names.learn(&query.name, &reply);
        Some(reply)
    }

    /// Which names led guests to which addresses: those that are answered from now
    /// on as well.
    #[must_use]
    pub fn names(&self) -> Rc<NameTable> {
        Rc::clone(&self.shared.names)
    }

    /// Serves DNS on a stream (RFC 7766) until the guest closes it, is silent
    /// for 10 seconds, or sends what cannot be a query.
    pub async fn serve_stream<S>(&self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(_slot) = Slot::take(&self.shared.streams, MAX_STREAMS) else {
            return tracing::debug!("too many DNS streams; one is closed");
        };
        if let Err(error) = stream::serve(self, stream).await {
            tracing::debug!(%error, "a DNS stream ended");
        }
    }

    /// The search domains that guests are to be told, without trailing dots:
    /// those of the configuration, or else the host's. Reads resolv.conf when
    /// it changed, at most once per second.
    #[must_use]
    pub fn search_domains(&self) -> Vec<String> {
        let text = |list: &[Name]| list.iter().map(to_text).collect();
        match &self.shared.search {
            Some(list) => text(list),
            None => self.shared.upstreams.with_host_config(|c| text(&c.search)),
        }
    }

    /// Adds an address to a static name, and the name to the address in reverse.
    ///
    /// # Errors
    /// [`DnsError`] when `name` is none or the table is full.
    pub fn add_host(&self, name: &str, addr: IpAddr) -> Result<(), DnsError> {
        self.shared.local.borrow_mut().add(name, addr)
    }

    /// Takes an address from a static name.
    ///
    /// # Errors
    /// [`DnsError::HostName`] when `name` is none.
    pub fn remove_host(&self, name: &str, addr: IpAddr) -> Result<HostRemoval, DnsError> {
        let found = self.shared.local.borrow_mut().remove(name, addr)?;
        Ok(if found {
            HostRemoval::Removed
        } else {
            HostRemoval::Unknown
        })
    }

    /// Questions that wait for an answer from elsewhere.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.in_flight.get()
    }

    /// All static names with their addresses, sorted; names without trailing dot.
    #[must_use]
    pub fn hosts(&self) -> Vec<(String, IpAddr)> {
        let mut hosts = self.shared.local.borrow().hosts();
        hosts.sort_unstable();
        hosts
    }

    /// Guests are found by the names in their leases from now on; `leases` are
    /// all there are.
    pub fn follow_leases(&self, leases: impl Iterator<Item = Lease>) {
        self.shared.local.borrow_mut().follow_leases(leases);
    }

    /// The answer to `query`, with `name` and `qtype` in place of its own, when
    /// nobody has to be asked.
    fn answer_here(&self, query: &Query<'_>, name: &Name, qtype: u16) -> Option<Vec<u8>> {
        if !local::concerns(query) {
            return None;
        }
        let now = tokio::time::Instant::now().into_std();
        let known = self.shared.local.borrow().find(name, now)?;
        local::reply(query, name, qtype, &known)
    }

    async fn answer_with_help(&self, query: &Query<'_>, transport: Transport) -> Option<Vec<u8>> {
        let _slot = Slot::take(&self.shared.in_flight, MAX_QUERIES_IN_FLIGHT)?;
        let lookup = self.search_or_pass_on(query, transport);
        let outcome = tokio::time::timeout(self.shared.config.deadline, lookup).await;
        let reply = outcome.unwrap_or(Err(NO_ANSWER));
        Some(reply.unwrap_or_else(|why| query.error_reply(rcode::SERV_FAIL, Some(why))))
    }

    async fn search_or_pass_on(
        &self,
        query: &Query<'_>,
        transport: Transport,
    ) -> Result<Vec<u8>, ExtendedError> {
        match &self.candidates(query)[..] {
            [] | [_] => self.pass_on(query, transport).await,
            order => self.search(query, order, transport).await,
        }
    }

    async fn pass_on(
        &self,
        query: &Query<'_>,
        transport: Transport,
    ) -> Result<Vec<u8>, ExtendedError> {
        let outgoing = query.outgoing(UDP_ANSWER_LEN);
        let answer = self.shared.upstreams.exchange(outgoing, transport).await?;
        Ok(query.adopt(answer))
    }

    /// The names that the query's name may stand for, in order.
    fn candidates(&self, query: &Query<'_>) -> Vec<Name> {
        let is_plain = query.recursion_desired() && !query.dnssec_ok() && !query.has_records;
        if !(is_plain && local::concerns(query) && alias::is_searched(query.qtype)) {
            return Vec::new();
        }
        let ndots = self.shared.config.ndots;
        // The wire has no trailing dots: any name may be a short one.
        let mut name = query.name.clone();
        name.set_fqdn(false);
        let order = |domains: &[Name]| search::candidates(&name, domains, ndots);
        match &self.shared.search {
            Some(domains) => order(domains),
            None if search::dots(&name) >= usize::from(ndots) => Vec::new(),
            None => self.shared.upstreams.with_host_config(|c| order(&c.search)),
        }
    }

    async fn search(
        &self,
        query: &Query<'_>,
        order: &[Name],
        transport: Transport,
    ) -> Result<Vec<u8>, ExtendedError> {
        let mut nothing = Nothing::default();
        for candidate in order {
            let answer = match self.ask(query, candidate, query.qtype, transport).await {
                Ok(answer) => answer,
                Err(why) => {
                    nothing.failed(why);
                    continue;
                }
            };
            let is_bare = *candidate == query.name;
            let present = |answer: Vec<u8>| match is_bare {
                true => Some(query.adopt(answer)),
                false => alias::reply(query, candidate, &answer),
            };
            match alias::judge(&answer, query.qtype) {
                Finding::Match => {
                    self.shared.names.learn(candidate, &answer);
                    match present(answer) {
                        Some(reply) => return Ok(reply),
                        None => nothing.failed(NO_ANSWER),
                    }
                }
                Finding::NoData => {
                    let is_it = self.has_sibling(query, candidate, transport).await;
                    match present(answer) {
                        Some(reply) if is_it => return Ok(reply),
                        reply if is_bare => nothing.bare = reply,
                        reply => nothing.no_data = nothing.no_data.or(reply),
                    }
                }
                Finding::NoName if is_bare => nothing.bare = present(answer),
                Finding::NoName => {}
                Finding::Failure if is_bare => nothing.bare_failed = present(answer),
                Finding::Failure => nothing.failed(NO_ANSWER),
            }
        }
        if order.first() == Some(&query.name) {
            nothing.verdict_after_bare()
        } else {
            nothing.verdict_before_bare()
        }
    }

    async fn ask(
        &self,
        query: &Query<'_>,
        name: &Name,
        qtype: u16,
        transport: Transport,
    ) -> Result<Vec<u8>, ExtendedError> {
        if let Some(known) = self.answer_here(query, name, qtype) {
            return Ok(known);
        }
        let outgoing = query.outgoing_for(name, qtype, UDP_ANSWER_LEN);
        self.shared.upstreams.exchange(outgoing, transport).await
    }

    /// True when a candidate that lacks what was asked for has another kind of
    /// address.
    async fn has_sibling(&self, query: &Query<'_>, name: &Name, transport: Transport) -> bool {
        for &qtype in alias::siblings(query.qtype) {
            let answer = self.ask(query, name, qtype, transport).await;
            if answer.is_ok_and(|a| alias::judge(&a, qtype) == Finding::Match) {
                return true;
            }
        }
        false
    }
}

/// What a search that found nothing came across.
#[derive(Default)]
struct Nothing {
    /// Why there was no answer about a candidate.
    failure: Option<ExtendedError>,
    /// The first empty answer about a candidate.
    no_data: Option<Vec<u8>>,
    /// The bare name's denial or empty answer.
    bare: Option<Vec<u8>>,
    /// The bare name's SERVFAIL or the like.
    bare_failed: Option<Vec<u8>>,
}

/// The verdicts are glibc's, `res_search`.
impl Nothing {
    fn failed(&mut self, why: ExtendedError) {
        self.failure.get_or_insert(why);
    }

    /// When the bare name was tried first: its own answer stands.
    fn verdict_after_bare(self) -> Result<Vec<u8>, ExtendedError> {
        self.bare
            .or(self.bare_failed)
            .ok_or(self.failure.unwrap_or(NO_ANSWER))
    }

    /// When the bare name was tried last: not to know goes before knowing that
    /// there is nothing, and a name without address before no name.
    fn verdict_before_bare(self) -> Result<Vec<u8>, ExtendedError> {
        match (self.bare_failed, self.failure) {
            (Some(reply), _) => Ok(reply),
            (None, Some(why)) => Err(why),
            (None, None) => self.no_data.or(self.bare).ok_or(NO_ANSWER),
        }
    }
}

/// One of a bounded number of places, given back when dropped.
struct Slot<'a>(&'a Cell<usize>);

impl<'a> Slot<'a> {
    fn take(taken: &'a Cell<usize>, max: usize) -> Option<Self> {
        (taken.get() < max).then(|| {
            taken.set(taken.get() + 1);
            Self(taken)
        })
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Makes an answer fit the way it goes.
fn fit(query: &Query<'_>, transport: Transport, reply: Vec<u8>) -> Vec<u8> {
    match transport {
        Transport::Udp => message::truncate(reply, query.question_end, query.udp_limit()),
        // A guest has no further way to ask.
        Transport::Tcp if is_truncated(&reply) => {
            query.error_reply(rcode::SERV_FAIL, Some(NO_ANSWER))
        }
        Transport::Tcp => reply,
    }
}

fn parse_search(domains: &[String]) -> Result<Vec<Name>, DnsError> {
    if domains.len() > search::MAX_SEARCH_DOMAINS {
        return Err(DnsError::TooManySearchDomains(domains.len()));
    }
    domains
        .iter()
        .map(|d| search::parse_domain(d).ok_or_else(|| DnsError::SearchDomain(d.clone())))
        .collect()
}

fn to_text(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_owned()
}
