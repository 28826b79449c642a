//! DHCPv6 for stateless clients (RFC 8415 section 6.1, RFC 3646).
//!
//! Addresses come by SLAAC; an information request is answered with the
//! resolver and the search list. Messages that ask for addresses or prefixes are
//! ignored, as a server without any does (RFC 8415 section 18.3).
//!
//! Received options are taken apart here rather than by dhcproto: its decoder
//! reads every known option eagerly and recurses into nested ones, which a
//! hostile message could drive deep. Only four options matter, and none nests.

use std::net::Ipv6Addr;

use dhcproto::Encodable;
use dhcproto::v6::{DhcpOption, DhcpOptions, Message, MessageType, OptionCode, UnknownOption};

use super::neighbourhood::{Reason, Settings};
use crate::net::{MacAddr, PlanV6};

/// Port of servers.
pub(super) const SERVER_PORT: u16 = 547;
/// Port of clients.
pub(super) const CLIENT_PORT: u16 = 546;
/// All DHCP relay agents and servers.
pub(super) const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Most bytes of a DUID with its type (RFC 8415 section 11.1).
const MAX_DUID_LEN: usize = 130;
/// Seconds until a client asks again (RFC 8415 section 21.23, its default).
const REFRESH: u32 = 86_400;

/// What an information request asks for.
#[derive(Debug)]
struct Request<'a> {
    xid: [u8; 3],
    client: Option<&'a [u8]>,
    /// Codes of the options wanted, as pairs of bytes; `None`: not said.
    wanted: Option<&'a [u8]>,
}

/// Answers `message`, the payload of a datagram to [`ALL_SERVERS`].
pub(super) fn answer(
    settings: &Settings,
    plan: &PlanV6,
    message: &[u8],
) -> Result<Vec<u8>, Reason> {
    let server = duid(settings.plan.gateway_mac);
    let request = parse(message, &server)?;
    let mut options = DhcpOptions::new();
    options.insert(DhcpOption::ServerId(server));
    if let Some(client) = request.client {
        options.insert(DhcpOption::ClientId(client.to_vec()));
    }
    if settings.announce_dns && request.wants_unless_told(OptionCode::DomainNameServers) {
        options.insert(DhcpOption::DomainNameServers(vec![plan.dns]));
    }
    if !settings.search.is_empty() && request.wants_unless_told(OptionCode::DomainSearchList) {
        // The library's own option would compress the names, which is forbidden.
        let list = settings.search.uncompressed();
        let option = UnknownOption::new(OptionCode::DomainSearchList, list);
        options.insert(DhcpOption::Unknown(option));
    }
    if request.wanted.is_some() && request.wants_unless_told(OptionCode::InformationRefreshTime) {
        options.insert(DhcpOption::InformationRefreshTime(REFRESH));
    }
    let mut reply = Message::new_with_id(MessageType::Reply, request.xid);
    reply.set_opts(options);
    reply.to_vec().map_err(|_| Reason::Unanswerable)
}

impl Request<'_> {
    /// True when the client asks for `code`, or has not said what it wants.
    fn wants_unless_told(&self, code: OptionCode) -> bool {
        let code = u16::from(code).to_be_bytes();
        self.wanted
            .is_none_or(|wanted| wanted.chunks_exact(2).any(|c| c == code))
    }
}

/// The server's DUID: its link-layer address (RFC 8415 section 11.4).
fn duid(MacAddr([a, b, c, d, e, f]): MacAddr) -> Vec<u8> {
    vec![0, 3, 0, 1, a, b, c, d, e, f]
}

/// Reads an information request (RFC 8415 section 16.12).
fn parse<'a>(message: &'a [u8], server: &[u8]) -> Result<Request<'a>, Reason> {
    let ([kind, x0, x1, x2], mut options) =
        message.split_first_chunk::<4>().ok_or(Reason::Malformed)?;
    match MessageType::from(*kind) {
        MessageType::InformationRequest => {}
        MessageType::RelayForw => return Err(Reason::Relayed),
        _ => return Err(Reason::Stateless),
    }
    let mut request = Request {
        xid: [*x0, *x1, *x2],
        client: None,
        wanted: None,
    };
    while !options.is_empty() {
        let (code, value, rest) = split_option(options).ok_or(Reason::Malformed)?;
        options = rest;
        match code {
            OptionCode::ClientId if (1..=MAX_DUID_LEN).contains(&value.len()) => {
                request.client = Some(value);
            }
            OptionCode::ClientId => return Err(Reason::Malformed),
            OptionCode::ServerId if value != server => return Err(Reason::OtherServer),
            OptionCode::IANA | OptionCode::IATA | OptionCode::IAPD => {
                return Err(Reason::Stateless);
            }
            OptionCode::ORO => request.wanted = Some(value),
            _ => {}
        }
    }
    Ok(request)
}

/// Splits the first option off: its code, value, and what follows.
fn split_option(bytes: &[u8]) -> Option<(OptionCode, &[u8], &[u8])> {
    let ([c0, c1, l0, l1], rest) = bytes.split_first_chunk::<4>()?;
    let len = usize::from(u16::from_be_bytes([*l0, *l1]));
    let (value, rest) = rest.split_at_checked(len)?;
    Some((u16::from_be_bytes([*c0, *c1]).into(), value, rest))
}
