//! Router advertisements (RFC 4861 section 6.2, RFC 8106).
//!
//! # Theory of operation
//! The guest learns its prefix (SLAAC), default route, MTU, resolver and search
//! list here. Advertisements go out
//! - at once to whoever solicits from an address of its own, by unicast. The
//!   random delay of RFC 4861 section 6.2.6 keeps routers from answering all
//!   together; there is no second router here, and the guest is waiting;
//! - by multicast to a solicitor without an address yet, at most every
//!   [`MIN_DELAY_BETWEEN_RAS`]; one that comes too early is answered then;
//! - by multicast unasked: three times, [`INITIAL_INTERVAL`] apart, at the start
//!   and after a change, then every 200 to 600 s. Nothing else wakes the
//!   process.
//!
//! After the search list changes, domains that were dropped are announced with
//! a lifetime of zero for as long as the initial series lasts.
//!
//! Not handled: advertisements of other routers (section 6.2.7) are not read.

use std::net::Ipv6Addr;
use std::time::{Duration, Instant};

use etherparse::icmpv6::{PrefixInformation, RouterAdvertisementHeader};

use super::ndp;
use super::neighbourhood::{Reason, Settings};
use super::search::SearchList;
use crate::net::{MacAddr, Mtu, PlanV6};

/// `MaxRtrAdvInterval`.
const MAX_INTERVAL: Duration = Duration::from_secs(600);
/// `MinRtrAdvInterval`.
const MIN_INTERVAL: Duration = Duration::from_secs(200);
/// `MAX_INITIAL_RTR_ADVERT_INTERVAL`.
const INITIAL_INTERVAL: Duration = Duration::from_secs(16);
/// `MAX_INITIAL_RTR_ADVERTISEMENTS`.
const INITIAL_COUNT: u8 = 3;
/// `MIN_DELAY_BETWEEN_RAS`, for multicast.
const MIN_DELAY_BETWEEN_RAS: Duration = Duration::from_secs(3);

/// `AdvDefaultLifetime` in seconds, three times the greatest interval.
const ROUTER_LIFETIME: u16 = 1800;
/// Lifetime of resolver and search list in seconds (RFC 8106 section 5.1).
const DNS_LIFETIME: u32 = 1800;
/// The prefix never changes while the gateway runs, so these, in seconds, only
/// say how soon a guest forgets a gateway that went away.
const PREFIX_VALID: u32 = 86_400;
const PREFIX_PREFERRED: u32 = 14_400;
/// Hop limit told to guests (RFC 1700's current value).
const HOP_LIMIT: u8 = 64;

/// Option types.
const MTU: u8 = 5;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;

/// Most bytes behind the IPv6 and ICMPv6 headers, so that the packet passes a
/// link of 1280 bytes.
const MAX_BODY_LEN: usize = 1280 - 40 - 8;

/// What to do with a router solicitation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Solicited {
    /// Advertise to this address and station now.
    Unicast(Ipv6Addr, MacAddr),
    /// Advertise to all nodes now.
    Multicast,
    /// The next multicast advertisement, due soon, is the answer.
    Later,
}

/// Decides when advertisements are sent and what they say.
#[derive(Debug)]
pub(super) struct Advertiser {
    next: Instant,
    last_multicast: Option<Instant>,
    /// Advertisements left of the initial series.
    initial_left: u8,
    /// Domains no longer searched, still to be revoked.
    retired: SearchList,
    random: Random,
}

impl Advertiser {
    /// The first advertisement is due at once.
    pub(super) fn new(mac: MacAddr, now: Instant) -> Self {
        Self {
            next: now,
            last_multicast: None,
            initial_left: INITIAL_COUNT,
            retired: SearchList::default(),
            random: Random::seeded_by(mac),
        }
    }

    /// When the next multicast advertisement is due.
    pub(super) const fn deadline(&self) -> Instant {
        self.next
    }

    /// The search list changes from `old` to `new`: tell everyone soon.
    pub(super) fn search_changed(&mut self, old: &SearchList, new: &SearchList) {
        self.retired = old.without(new);
        self.initial_left = INITIAL_COUNT;
        if let Some(last) = self.last_multicast {
            self.next = self.next.min(last + MIN_DELAY_BETWEEN_RAS);
        }
    }

    /// Takes in a router solicitation from the station `from`.
    pub(super) fn solicited(
        &mut self,
        now: Instant,
        plan: &PlanV6,
        message: ndp::Message<'_>,
        from: MacAddr,
    ) -> Result<Solicited, Reason> {
        let link_layer = ndp::source_link_layer(message.body)?;
        if !message.src.is_unspecified() {
            if ndp::is_own(plan, message.src) {
                return Err(Reason::Spoofed);
            }
            return Ok(Solicited::Unicast(message.src, link_layer.unwrap_or(from)));
        }
        if link_layer.is_some() {
            // RFC 4861 section 6.1.1.
            return Err(Reason::Malformed);
        }
        match self.last_multicast.map(|last| last + MIN_DELAY_BETWEEN_RAS) {
            Some(earliest) if now < earliest => {
                self.next = self.next.min(earliest);
                Ok(Solicited::Later)
            }
            _ => Ok(Solicited::Multicast),
        }
    }

    /// Notes a multicast advertisement and sets the timer for the next.
    pub(super) fn multicast_sent(&mut self, now: Instant) {
        self.last_multicast = Some(now);
        self.initial_left = self.initial_left.saturating_sub(1);
        let interval = if self.initial_left > 0 {
            INITIAL_INTERVAL
        } else {
            self.retired = SearchList::default();
            self.random.between(MIN_INTERVAL, MAX_INTERVAL)
        };
        self.next = now + interval;
    }

    /// Builds the advertisement for `dst` as an IPv6 packet.
    pub(super) fn packet(
        &self,
        settings: &Settings,
        plan: &PlanV6,
        dst: Ipv6Addr,
    ) -> Result<Vec<u8>, Reason> {
        let tells_dns = settings.announce_dns || !settings.search.is_empty();
        let header = RouterAdvertisementHeader {
            cur_hop_limit: HOP_LIMIT,
            managed_address_config: false,
            other_config: tells_dns,
            router_lifetime: ROUTER_LIFETIME,
        };
        let body = self.body(settings, plan);
        let src = plan.gateway_link_local;
        ndp::packet(
            src,
            dst,
            ndp::ROUTER_ADVERTISEMENT,
            header.to_bytes(),
            &body,
        )
        .map_err(|_| Reason::Unanswerable)
    }

    fn body(&self, settings: &Settings, plan: &PlanV6) -> Vec<u8> {
        // Reachable time and retransmission timer: not specified by this router.
        let mut body = vec![0; 8];
        let mac = settings.plan.gateway_mac;
        body.extend_from_slice(&ndp::link_layer_option(ndp::SOURCE_LINK_LAYER, mac));
        if settings.plan.mtu.get() >= Mtu::MIN_IPV6 {
            body.extend_from_slice(&[MTU, 1, 0, 0]);
            body.extend_from_slice(&u32::from(settings.plan.mtu.get()).to_be_bytes());
        }
        let prefix = PrefixInformation {
            prefix_length: plan.net.prefix_len(),
            on_link: true,
            autonomous_address_configuration: true,
            valid_lifetime: PREFIX_VALID,
            preferred_lifetime: PREFIX_PREFERRED,
            prefix: plan.net.network().octets(),
        };
        body.extend_from_slice(&prefix.to_bytes());
        if settings.announce_dns {
            body.extend_from_slice(&[RDNSS, 3, 0, 0]);
            body.extend_from_slice(&DNS_LIFETIME.to_be_bytes());
            body.extend_from_slice(&plan.dns.octets());
        }
        push_search(&mut body, &settings.search, DNS_LIFETIME);
        push_search(&mut body, &self.retired, 0);
        body
    }
}

/// Appends a DNSSL option (RFC 8106 section 5.2), if there is something to say
/// and it fits.
fn push_search(body: &mut Vec<u8>, search: &SearchList, lifetime: u32) {
    if search.is_empty() {
        return;
    }
    let mut names = search.uncompressed();
    names.resize(names.len().next_multiple_of(8), 0);
    let units = (8 + names.len()) / 8;
    let Ok(units) = u8::try_from(units) else {
        return;
    };
    if body.len() + 8 + names.len() > MAX_BODY_LEN {
        return;
    }
    body.extend_from_slice(&[DNSSL, units, 0, 0]);
    body.extend_from_slice(&lifetime.to_be_bytes());
    body.extend_from_slice(&names);
}

/// SplitMix64: spreads the advertisements of gateways that started together.
/// Its numbers are guessable, and nothing depends on that.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn seeded_by(MacAddr([a, b, c, d, e, f]): MacAddr) -> Self {
        Self(u64::from_be_bytes([0, 0, a, b, c, d, e, f]))
    }

    fn between(&mut self, low: Duration, high: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let span = u64::try_from((high - low).as_millis()).unwrap_or(u64::MAX);
        low + Duration::from_millis(z % span.max(1))
    }
}
