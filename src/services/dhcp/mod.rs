//! The DHCPv4 server (RFC 2131, options of RFC 2132 and RFC 3397).
//!
//! # Theory of operation
//! One server for one link, the only one there, so it is authoritative: it
//! says no at once where a server that shares the link must keep silent, and
//! confirms an address from a lease it does not remember (the gateway was
//! restarted) as long as that address is free. Everything a client may need is
//! told, asked for or not (RFC 2131 section 4.3.1 allows it), within the size
//! the client accepts.
//!
//! [`Server::handle`] takes a message and the time and gives the answer and
//! where it goes; there are no timers, see [`leases`].
//!
//! Not handled: relays (a guest network is one link), BOOTP, rapid commit.

mod leases;
mod request;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use dhcproto::v4::{DhcpOption, Message, MessageType, Opcode};
use dhcproto::{Encodable, Name};

pub use leases::Lease;

use self::leases::{LeaseTable, Refused};
use self::request::Request;
use super::neighbourhood::{Reason, Settings};
use crate::net::{MacAddr, PlanV4};

/// Port of servers.
pub(super) const SERVER_PORT: u16 = 67;
/// Port of clients.
pub(super) const CLIENT_PORT: u16 = 68;

/// Least message, in bytes: that of BOOTP (RFC 951), which some clients demand.
const MIN_MESSAGE: usize = 300;
/// Bytes of IP and UDP headers in front of a message.
const HEADERS: usize = 28;
/// Shortest lease granted to a client that asks for a short one.
const MIN_LEASE: Duration = Duration::from_secs(60);

/// A message for a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    /// The UDP payload.
    pub(super) message: Vec<u8>,
    /// Destination address.
    pub(super) to: Ipv4Addr,
    /// Destination station.
    pub(super) station: MacAddr,
}

/// What becomes of a message that was not ignored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is answered.
    Reply(Reply),
    /// It took effect and wants no answer.
    Noted,
}

/// The server and its leases.
#[derive(Debug)]
pub(super) struct Server {
    leases: LeaseTable,
}

impl Server {
    /// A server whose pool starts at the plan's first address.
    pub(super) fn new(settings: &Settings, plan: &PlanV4) -> Self {
        let first = u32::from(plan.dhcp_first);
        let pool = (first..)
            .take(plan.dhcp_count.into())
            .map(Ipv4Addr::from)
            .filter(|addr| settings.plan.is_guest((*addr).into()));
        Self {
            leases: LeaseTable::new(pool),
        }
    }

    /// The leases given; some may have run out.
    pub(super) fn leases(&self) -> impl Iterator<Item = Lease> + '_ {
        self.leases.iter()
    }

    /// Takes in the payload of a datagram to port 67.
    pub(super) fn handle(
        &mut self,
        now: Instant,
        settings: &Settings,
        plan: &PlanV4,
        message: &[u8],
    ) -> Result<Outcome, Reason> {
        let request = Request::parse(message)?;
        let is_others = request.server.is_some_and(|server| server != plan.gateway);
        if is_others {
            // RFC 2131 section 4.3.2: the client chose another server's offer.
            self.leases.withdraw_offer(now, &request.client.key);
            return Err(Reason::OtherServer);
        }
        let key = &request.client.key;
        match request.kind {
            MessageType::Discover => {
                let offered = self
                    .leases
                    .offer(now, &request.client, request.requested)
                    .ok_or(Reason::NoFreeAddress)?;
                answer(settings, plan, &request, Answer::Offer(offered))
            }
            MessageType::Request => self.requested(now, settings, plan, &request),
            MessageType::Decline => {
                let addr = request.requested.ok_or(Reason::Malformed)?;
                self.leases
                    .decline(now, key, addr)
                    .ok_or(Reason::NoSuchLease)?;
                Ok(Outcome::Noted)
            }
            MessageType::Release => {
                self.leases
                    .release(now, key, request.ciaddr)
                    .ok_or(Reason::NoSuchLease)?;
                Ok(Outcome::Noted)
            }
            MessageType::Inform if settings.plan.is_guest(request.ciaddr.into()) => {
                answer(settings, plan, &request, Answer::Inform)
            }
            MessageType::Inform => Err(Reason::Malformed),
            _ => Err(Reason::Unsupported),
        }
    }

    /// A DHCPREQUEST (RFC 2131 section 4.3.2): selecting an offer, verifying an
    /// address after a reboot, renewing or rebinding.
    fn requested(
        &mut self,
        now: Instant,
        settings: &Settings,
        plan: &PlanV4,
        request: &Request,
    ) -> Result<Outcome, Reason> {
        let renewed = Some(request.ciaddr).filter(|addr| !addr.is_unspecified());
        // Selecting and rebooting clients must give option 50, renewing ones ciaddr.
        let addr = renewed.or(request.requested).ok_or(Reason::Malformed)?;
        let granted = granted(settings.lease_time, request.lease_secs);
        match self
            .leases
            .commit(now, &request.client, addr, now + granted)
        {
            Ok(()) => answer(settings, plan, request, Answer::Ack(addr)),
            Err(refused) => answer(settings, plan, request, Answer::Nak(refused)),
        }
    }
}

/// The kinds of answers.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Offer(Ipv4Addr),
    Ack(Ipv4Addr),
    Nak(Refused),
    /// An acknowledgement without a lease.
    Inform,
}

/// The lease time a client gets: what it asks for, within our bounds.
fn granted(longest: Duration, asked_secs: Option<u32>) -> Duration {
    let shortest = MIN_LEASE.min(longest);
    asked_secs.map_or(longest, |secs| {
        Duration::from_secs(u64::from(secs)).clamp(shortest, longest)
    })
}

fn answer(
    settings: &Settings,
    plan: &PlanV4,
    request: &Request,
    answer: Answer,
) -> Result<Outcome, Reason> {
    let message = build(settings, plan, request, answer).ok_or(Reason::Unanswerable)?;
    let (to, station) = destination(request, answer);
    Ok(Outcome::Reply(Reply {
        message,
        to,
        station,
    }))
}

/// Where an answer goes (RFC 2131 section 4.1).
fn destination(request: &Request, answer: Answer) -> (Ipv4Addr, MacAddr) {
    const EVERYONE: (Ipv4Addr, MacAddr) = (Ipv4Addr::BROADCAST, MacAddr::BROADCAST);
    let yiaddr = match answer {
        Answer::Nak(_) => return EVERYONE,
        // An acknowledgement to INFORM always goes to ciaddr (section 4.3.5).
        Answer::Inform => return (request.ciaddr, request.client.mac),
        Answer::Offer(addr) | Answer::Ack(addr) => addr,
    };
    if !request.ciaddr.is_unspecified() {
        (request.ciaddr, request.client.mac)
    } else if request.flags.broadcast() {
        EVERYONE
    } else {
        (yiaddr, request.client.mac)
    }
}

/// Builds the message, with as many search domains as the client has room for.
fn build(settings: &Settings, plan: &PlanV4, request: &Request, answer: Answer) -> Option<Vec<u8>> {
    let room = usize::from(request.max_message.min(settings.plan.mtu.get().max(576))) - HEADERS;
    let mut search = settings.search.names();
    loop {
        let mut bytes = encode(settings, plan, request, answer, &search)?;
        if bytes.len() <= room || search.pop().is_none() {
            bytes.resize(bytes.len().max(MIN_MESSAGE), 0);
            return Some(bytes);
        }
    }
}

fn encode(
    settings: &Settings,
    plan: &PlanV4,
    request: &Request,
    answer: Answer,
    search: &[Name],
) -> Option<Vec<u8>> {
    const NONE: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
    let (kind, yiaddr) = match answer {
        Answer::Offer(addr) => (MessageType::Offer, addr),
        Answer::Ack(addr) => (MessageType::Ack, addr),
        Answer::Nak(_) => (MessageType::Nak, NONE),
        Answer::Inform => (MessageType::Ack, NONE),
    };
    // RFC 2131 table 3: only an acknowledgement returns ciaddr.
    let ciaddr = if kind == MessageType::Ack {
        request.ciaddr
    } else {
        NONE
    };
    let chaddr = request.client.mac.0;
    let mut message = Message::new_with_id(request.xid, ciaddr, yiaddr, NONE, NONE, &chaddr);
    message
        .set_opcode(Opcode::BootReply)
        .set_flags(request.flags);
    let options = message.opts_mut();
    options.insert(DhcpOption::MessageType(kind));
    options.insert(DhcpOption::ServerIdentifier(plan.gateway));
    if let Some(identifier) = &request.identifier {
        options.insert(DhcpOption::ClientIdentifier(identifier.clone()));
    }
    if let Answer::Nak(refused) = answer {
        options.insert(DhcpOption::Message(refused.text().to_owned()));
        return message.to_vec().ok();
    }
    if matches!(answer, Answer::Offer(_) | Answer::Ack(_)) {
        let lease = granted(settings.lease_time, request.lease_secs).as_secs();
        let lease = u32::try_from(lease).unwrap_or(u32::MAX);
        options.insert(DhcpOption::AddressLeaseTime(lease));
        // RFC 2131 section 4.4.5: one half and seven eighths.
        options.insert(DhcpOption::Renewal(lease / 2));
        options.insert(DhcpOption::Rebinding(lease - lease / 8));
    }
    options.insert(DhcpOption::SubnetMask(plan.net.netmask()));
    options.insert(DhcpOption::BroadcastAddr(plan.net.broadcast()));
    options.insert(DhcpOption::Router(vec![plan.gateway]));
    options.insert(DhcpOption::InterfaceMtu(settings.plan.mtu.get()));
    if settings.announce_dns {
        options.insert(DhcpOption::DomainNameServer(vec![plan.dns]));
    }
    if let Some(domain) = settings.search.first() {
        options.insert(DhcpOption::DomainName(domain.to_owned()));
    }
    if !search.is_empty() {
        options.insert(DhcpOption::DomainSearch(search.to_vec()));
    }
    message.to_vec().ok()
}

impl Refused {
    /// What the client is told (option 56); some log it.
    const fn text(self) -> &'static str {
        match self {
            Self::OutsidePool => "address is not one of this network's pool",
            Self::Taken => "address is in use",
            Self::HasAnother => "another address was offered",
        }
    }
}

#[cfg(test)]
mod tests;
