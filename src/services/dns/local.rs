//! Names and addresses that are answered without asking anyone: static hosts,
//! the gateway's own names, those of guests, `localhost`, and the guests' network
//! in reverse. What comes first in this list wins.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use hickory_proto::op::{Edns, Message, OpCode, ResponseCode};
use hickory_proto::rr::rdata::PTR;
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use ipnet::IpNet;

use super::DnsError;
use super::guests::GuestNames;
use super::message::{CLASS_IN, Query, rtype};
use crate::net::AddressPlan;
use crate::services::dhcp::Lease;

/// Static names and addresses kept, as pairs. Enough for a generated hosts
/// file; a pair takes some hundred bytes.
pub(super) const MAX_STATIC_HOSTS: usize = 4096;
/// Seconds that a guest may keep an answer made here: short, because static
/// names can be added and removed while the gateway runs.
pub(super) const LOCAL_TTL: u32 = 10;

/// Names of the gateway; the first is what its address resolves to.
const GATEWAY_NAMES: [&str; 3] = [
    "gateway.gw.internal.",
    "host.gw.internal.",
    "host.containers.internal.",
];
/// Name of the resolver.
const RESOLVER_NAME: &str = "dns.gw.internal.";
/// The zone that the gateway's own names and those of guests make up: nothing
/// else is in it.
const OWN_ZONE: &str = "gw.internal.";

/// What is known about a name here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// These addresses, of both families.
    Addresses(Vec<IpAddr>),
    /// These names, for an address in reverse form.
    Names(Vec<Name>),
    /// The name stands, with nothing to tell.
    Nothing,
    /// There is no such name.
    NoSuchName,
}

/// The table of names.
#[derive(Debug)]
pub(super) struct LocalNames {
    plan: AddressPlan,
    own_zone: Name,
    /// Built in; static hosts of the same name win.
    built_in: HostTable,
    hosts: HostTable,
    guests: GuestNames,
}

/// Names and addresses, findable from both sides.
#[derive(Debug, Default)]
struct HostTable {
    /// Keys are absolute; a [`Name`] compares without regard to case.
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<IpAddr, Vec<Name>>,
    pairs: usize,
}

impl LocalNames {
    pub(super) fn new(hosts: &[(String, IpAddr)], plan: &AddressPlan) -> Result<Self, DnsError> {
        let mut local = Self {
            plan: plan.clone(),
            own_zone: parse_host(OWN_ZONE)?,
            built_in: built_in(plan)?,
            hosts: HostTable::default(),
            guests: GuestNames::default(),
        };
        for (name, addr) in hosts {
            local.add(name, *addr)?;
        }
        Ok(local)
    }

    pub(super) fn add(&mut self, name: &str, addr: IpAddr) -> Result<(), DnsError> {
        let name = parse_host(name)?;
        if self.hosts.pairs >= MAX_STATIC_HOSTS {
            return Err(DnsError::TooManyHosts);
        }
        self.hosts.add(name, addr);
        Ok(())
    }

    /// Forgets a pair; says whether there was one.
    pub(super) fn remove(&mut self, name: &str, addr: IpAddr) -> Result<bool, DnsError> {
        Ok(self.hosts.remove(&parse_host(name)?, addr))
    }

    /// All static pairs, in no particular order.
    pub(super) fn hosts(&self) -> Vec<(String, IpAddr)> {
        let pairs = |(name, addrs): (&Name, &Vec<IpAddr>)| {
            let name = super::to_text(name);
            addrs
                .iter()
                .map(|addr| (name.clone(), *addr))
                .collect::<Vec<_>>()
        };
        self.hosts.addresses.iter().flat_map(pairs).collect()
    }

    /// Takes note of the names in all leases there are.
    pub(super) fn follow_leases(&mut self, leases: impl Iterator<Item = Lease>) {
        self.guests.follow(leases);
    }

    /// What is known about `name`, an absolute one; `None`: ask elsewhere.
    pub(super) fn find(&self, name: &Name, now: Instant) -> Option<Known> {
        if let Some(found) = self
            .hosts
            .addresses
            .get(name)
            .or(self.built_in.addresses.get(name))
        {
            return Some(Known::Addresses(found.clone()));
        }
        if let Some(addr) = self.find_guest(name, now) {
            return Some(Known::Addresses(vec![addr]));
        }
        if *name == self.own_zone {
            return Some(Known::Nothing);
        }
        if self.own_zone.zone_of(name) {
            return Some(Known::NoSuchName);
        }
        if name.is_localhost() {
            // RFC 6761 section 6.3.
            let loopback = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            return Some(Known::Addresses(loopback.to_vec()));
        }
        self.find_reverse(name.parse_arpa_name().ok()?, now)
    }

    /// The guest with this name, which stands alone or in the gateway's zone.
    fn find_guest(&self, name: &Name, now: Instant) -> Option<IpAddr> {
        let is_alone = name.num_labels() == 1;
        let is_ours = name.num_labels() == self.own_zone.num_labels() + 1;
        if !(is_alone || is_ours && self.own_zone.zone_of(name)) {
            return None;
        }
        let label = std::str::from_utf8(name.iter().next()?).ok()?;
        self.guests.addr(label, now)
    }

    fn find_reverse(&self, net: IpNet, now: Instant) -> Option<Known> {
        let is_host = net.prefix_len() == net.max_prefix_len();
        if !is_host {
            return self.covers(net).then_some(Known::Nothing);
        }
        let addr = net.addr();
        let tables = [&self.hosts, &self.built_in];
        if let Some(names) = tables.iter().find_map(|t| t.names.get(&addr)) {
            return Some(Known::Names(names.clone()));
        }
        if let Some(label) = self.guests.name(addr, now) {
            let name = Name::from_labels([label.as_bytes()]).ok()?;
            return Some(Known::Names(vec![name.append_name(&self.own_zone).ok()?]));
        }
        // The addresses of the guest's network mean nothing to anyone else.
        self.plan.is_local(addr).then_some(Known::NoSuchName)
    }

    /// True when the whole of `net` lies in the guest's network.
    fn covers(&self, net: IpNet) -> bool {
        match net {
            IpNet::V4(n) => self.plan.v4.is_some_and(|p| p.net.contains(&n)),
            IpNet::V6(n) => self.plan.v6.is_some_and(|p| p.net.contains(&n)),
        }
    }
}

impl HostTable {
    fn add(&mut self, name: Name, addr: IpAddr) {
        let addresses = self.addresses.entry(name.clone()).or_default();
        if addresses.contains(&addr) {
            return;
        }
        addresses.push(addr);
        self.names.entry(addr).or_default().push(name);
        self.pairs += 1;
    }

    fn remove(&mut self, name: &Name, addr: IpAddr) -> bool {
        let found = take(&mut self.addresses, name, &addr);
        if found {
            take(&mut self.names, &addr, name);
            self.pairs -= 1;
        }
        found
    }
}

/// Takes `value` out of the list at `key`, and the list when it is empty.
fn take<K: std::hash::Hash + Eq, V: PartialEq>(
    map: &mut HashMap<K, Vec<V>>,
    key: &K,
    value: &V,
) -> bool {
    let Some(list) = map.get_mut(key) else {
        return false;
    };
    let before = list.len();
    list.retain(|v| v != value);
    let found = list.len() < before;
    if list.is_empty() {
        map.remove(key);
    }
    found
}

fn built_in(plan: &AddressPlan) -> Result<HostTable, DnsError> {
    let mut table = HostTable::default();
    let gateway = [
        plan.v4.map(|p| p.gateway.into()),
        plan.v6.map(|p| p.gateway.into()),
    ];
    let resolver = [plan.v4.map(|p| p.dns.into()), plan.v6.map(|p| p.dns.into())];
    for addr in resolver.into_iter().flatten() {
        table.add(parse_host(RESOLVER_NAME)?, addr);
    }
    for addr in gateway.into_iter().flatten() {
        for name in GATEWAY_NAMES {
            table.add(parse_host(name)?, addr);
        }
        // In reverse, one name is enough.
        table.names.entry(addr).or_default().truncate(1);
    }
    for loopback in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        table
            .names
            .insert(loopback, vec![parse_host("localhost.")?]);
    }
    if let Some(v6) = plan.v6 {
        table.names.insert(
            v6.gateway_link_local.into(),
            vec![parse_host(GATEWAY_NAMES[0])?],
        );
    }
    Ok(table)
}

/// A host's name, absolute, in lower case.
fn parse_host(text: &str) -> Result<Name, DnsError> {
    let bad = || DnsError::HostName(text.to_owned());
    let mut name = Name::from_str_relaxed(text)
        .map_err(|_| bad())?
        .to_lowercase();
    name.set_fqdn(true);
    if name.is_root() { Err(bad()) } else { Ok(name) }
}

/// The records that answer a question of type `qtype` about `owner`.
fn records(known: &Known, owner: &Name, qtype: u16, ttl: u32) -> Vec<Record> {
    let wants = |t: u16| qtype == t || qtype == rtype::ANY;
    let data: Vec<RData> = match known {
        Known::Addresses(addresses) => addresses
            .iter()
            .filter_map(|addr| match addr {
                IpAddr::V4(a) => wants(rtype::A).then(|| RData::A((*a).into())),
                IpAddr::V6(a) => wants(rtype::AAAA).then(|| RData::AAAA((*a).into())),
            })
            .collect(),
        Known::Names(names) if wants(rtype::PTR) => names
            .iter()
            .map(|name| RData::PTR(PTR(name.clone())))
            .collect(),
        Known::Names(_) | Known::Nothing | Known::NoSuchName => Vec::new(),
    };
    data.into_iter()
        .map(|d| Record::from_rdata(owner.clone(), ttl, d))
        .collect()
}

/// The response code that goes with what is known.
fn response_code(known: &Known) -> ResponseCode {
    match known {
        Known::NoSuchName => ResponseCode::NXDomain,
        _ => ResponseCode::NoError,
    }
}

/// The answer to `query` with `name` and `qtype` in place of its own, `None`
/// if it cannot be encoded.
pub(super) fn reply(query: &Query<'_>, name: &Name, qtype: u16, known: &Known) -> Option<Vec<u8>> {
    let mut reply = blank_reply(query, name, qtype);
    reply.metadata.authoritative = true;
    reply.metadata.response_code = response_code(known);
    reply.add_answers(records(known, name, qtype, LOCAL_TTL));
    reply.to_vec().ok()
}

/// What a server elsewhere would answer `query` with if that was all it knew, to be
/// kept for `ttl` seconds; `None` if it cannot be encoded.
pub(super) fn reply_for(query: &Query<'_>, known: &Known, ttl: u32) -> Option<Vec<u8>> {
    let mut reply = blank_reply(query, &query.name, query.qtype);
    reply.metadata.response_code = response_code(known);
    reply.add_answers(records(known, &query.name, query.qtype, ttl));
    reply.to_vec().ok()
}

/// An answer to such a query with nothing in it yet but the question.
pub(super) fn blank_reply(query: &Query<'_>, name: &Name, qtype: u16) -> Message {
    let mut reply = Message::response(query.id(), OpCode::Query);
    reply.metadata.recursion_desired = query.recursion_desired();
    reply.metadata.recursion_available = true;
    reply.metadata.checking_disabled = query.checking_disabled();
    let mut question = hickory_proto::op::Query::query(name.clone(), RecordType::from(qtype));
    question.set_query_class(DNSClass::from(query.qclass));
    reply.add_query(question);
    if query.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(super::upstream::UDP_ANSWER_LEN);
        edns.set_dnssec_ok(query.dnssec_ok());
        reply.set_edns(edns);
    }
    reply
}

/// True for a question that this table may answer.
pub(super) fn concerns(query: &Query<'_>) -> bool {
    query.qclass == CLASS_IN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::services::dns::testing::plan;

    fn names(hosts: &[(&str, &str)]) -> LocalNames {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|(n, a)| ((*n).to_owned(), a.parse().expect("address")))
            .collect();
        LocalNames::new(&hosts, &plan()).expect("names")
    }

    fn addresses(list: &[&str]) -> Option<Known> {
        Some(Known::Addresses(
            list.iter().map(|a| a.parse().expect("address")).collect(),
        ))
    }

    fn pointer(name: &str) -> Option<Known> {
        Some(Known::Names(vec![Name::from_ascii(name).expect("name")]))
    }

    #[test]
    fn table() {
        let local = names(&[
            ("db.example", "192.0.2.1"),
            ("DB.example.", "2001:db8::1"),
            ("host.containers.internal", "192.0.2.9"),
            ("near.example", "10.0.2.50"),
        ]);
        let find = |name: &str| local.find(&Name::from_ascii(name).expect("name"), Instant::now());
        for (name, expected) in [
            ("Db.Example.", addresses(&["192.0.2.1", "2001:db8::1"])),
            ("x.db.example.", None),
            ("example.", None),
            // Built-in names, which a static host replaces.
            ("host.gw.internal.", addresses(&["10.0.2.2", "fd00::2"])),
            ("gateway.gw.internal.", addresses(&["10.0.2.2", "fd00::2"])),
            ("dns.gw.internal.", addresses(&["10.0.2.3", "fd00::3"])),
            ("host.containers.internal.", addresses(&["192.0.2.9"])),
            ("gw.internal.", Some(Known::Nothing)),
            ("other.gw.internal.", Some(Known::NoSuchName)),
            ("containers.internal.", None),
            ("LOCALHOST.", addresses(&["127.0.0.1", "::1"])),
            ("a.localhost.", addresses(&["127.0.0.1", "::1"])),
            // Reverse: known, in the guest's network, the network itself, elsewhere.
            ("1.2.0.192.in-addr.arpa.", pointer("db.example.")),
            ("2.2.0.10.in-addr.arpa.", pointer("gateway.gw.internal.")),
            ("3.2.0.10.IN-ADDR.arpa.", pointer("dns.gw.internal.")),
            ("50.2.0.10.in-addr.arpa.", pointer("near.example.")),
            ("1.0.0.127.in-addr.arpa.", pointer("localhost.")),
            ("77.2.0.10.in-addr.arpa.", Some(Known::NoSuchName)),
            ("2.0.10.in-addr.arpa.", Some(Known::Nothing)),
            ("0.10.in-addr.arpa.", None),
            ("8.8.8.8.in-addr.arpa.", None),
            ("999.2.0.10.in-addr.arpa.", None),
            ("in-addr.arpa.", None),
            (".", None),
        ] {
            assert_eq!(find(name), expected, "{name}");
        }
        let nibbles = "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.";
        assert_eq!(
            find(&format!("2.0.0.{nibbles}")),
            pointer("gateway.gw.internal.")
        );
        assert_eq!(find(&format!("7.0.0.{nibbles}")), Some(Known::NoSuchName));
        assert_eq!(find(&format!("0.0.{nibbles}")), Some(Known::Nothing));
        assert_eq!(find("d.f.ip6.arpa."), None);
    }

    #[test]
    fn guests_have_what_is_left() {
        let mut local = names(&[
            ("db", "192.0.2.1"),
            ("files.gw.internal", "192.0.2.2"),
            ("near.example", "10.0.2.17"),
        ]);
        let now = Instant::now();
        let lease = |name: &str, last| Lease {
            addr: Ipv4Addr::new(10, 0, 2, last),
            mac: crate::net::MacAddr([2, 0, 0, 0, 0, last]),
            hostname: Some(name.to_owned()),
            expires: now + std::time::Duration::from_secs(60),
        };
        let guests = ["web", "db", "files", "com"];
        local.follow_leases((15..).zip(guests).map(|(last, name)| lease(name, last)));
        let find = |name: &str| local.find(&Name::from_ascii(name).expect("name"), now);
        for (name, expected) in [
            ("web.", addresses(&["10.0.2.15"])),
            ("WEB.gw.internal.", addresses(&["10.0.2.15"])),
            ("x.web.gw.internal.", Some(Known::NoSuchName)),
            ("web.example.", None),
            ("x.web.", None),
            // Static names stay what they are.
            ("db.", addresses(&["192.0.2.1"])),
            ("db.gw.internal.", addresses(&["10.0.2.16"])),
            ("files.gw.internal.", addresses(&["192.0.2.2"])),
            ("files.", addresses(&["10.0.2.17"])),
            ("example.com.", None),
            ("15.2.0.10.in-addr.arpa.", pointer("web.gw.internal.")),
            ("17.2.0.10.in-addr.arpa.", pointer("near.example.")),
            ("99.2.0.10.in-addr.arpa.", Some(Known::NoSuchName)),
        ] {
            assert_eq!(find(name), expected, "{name}");
        }
    }

    #[test]
    fn pairs_come_and_go() {
        let mut local = names(&[]);
        let addr = "192.0.2.1".parse().expect("address");
        local.add("a.example", addr).expect("room");
        local.add("a.example", addr).expect("again");
        local.add("b.example", addr).expect("room");
        assert_eq!(local.hosts.pairs, 2);
        let mut listed = local.hosts();
        listed.sort();
        let pair = |name: &str| (name.to_owned(), addr);
        assert_eq!(listed, [pair("a.example"), pair("b.example")]);
        assert!(local.remove("A.example.", addr).expect("name"));
        assert!(!local.remove("a.example", addr).expect("name"));
        assert_eq!(
            local.find(
                &Name::from_ascii("a.example.").expect("name"),
                Instant::now()
            ),
            None
        );
        let reverse = Name::from_ascii("1.2.0.192.in-addr.arpa.").expect("name");
        assert_eq!(local.find(&reverse, Instant::now()), pointer("b.example."));
        assert!(local.remove("b.example", addr).expect("name"));
        assert_eq!(local.find(&reverse, Instant::now()), None);
        assert_eq!(local.hosts.pairs, 0);
    }

    #[test]
    fn the_table_is_bounded_and_checked() {
        let mut local = names(&[]);
        for i in 0..MAX_STATIC_HOSTS {
            local
                .add(&format!("h{i}.example"), Ipv4Addr::LOCALHOST.into())
                .expect("room");
        }
        assert!(matches!(
            local.add("one.example", Ipv4Addr::LOCALHOST.into()),
            Err(DnsError::TooManyHosts)
        ));
        for name in ["", ".", "a..b", &"x".repeat(64)] {
            let refused = local.add(name, Ipv4Addr::LOCALHOST.into());
            assert!(matches!(refused, Err(DnsError::HostName(_))), "{name}");
        }
    }
}
