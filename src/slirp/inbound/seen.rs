//! Whom the guest sees, and which of its addresses is asked: pure functions.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;

use arrayvec::ArrayVec;

use super::GuestTarget;
use crate::net::AddressPlan;

/// Ports that stand in for a client's own when that is taken: Linux's own
/// choice for ephemeral ports.
const SUBSTITUTES: RangeInclusive<u16> = 32768..=60999;

/// Ports looked at for a free one.
const MAX_TRIES: usize = 4096;

impl GuestTarget {
    /// The guest's addresses to try for a client, best first: its own family's,
    /// then the other's. IPv4 for a client without address.
    pub(crate) fn candidates(&self, client: Option<IpAddr>) -> ArrayVec<SocketAddr, 2> {
        let (v4, v6) = (self.v4.map(SocketAddr::from), self.v6.map(SocketAddr::from));
        let order = match client {
            Some(IpAddr::V6(_)) => [v6, v4],
            Some(IpAddr::V4(_)) | None => [v4, v6],
        };
        order.into_iter().flatten().collect()
    }

    /// Without the sides that no guest of `plan` can have.
    pub(crate) fn within(self, plan: &AddressPlan) -> Self {
        Self {
            v4: self.v4.filter(|a| plan.is_guest((*a.ip()).into())),
            v6: self.v6.filter(|a| plan.is_guest((*a.ip()).into())),
        }
    }
}

/// The address that the guest at `guest` sees a client as: the client's own; the
/// gateway's for one that the guest could not answer by that, because it is of
/// another family, of the host's loopback, link-local, of the guest's own
/// network, or none at all.
///
/// `None` when the guest's family is switched off.
pub(crate) fn seen_as(plan: &AddressPlan, client: Option<IpAddr>, guest: IpAddr) -> Option<IpAddr> {
    let own = client.filter(|client| {
        client.is_ipv4() == guest.is_ipv4() && is_routable(*client) && !plan.is_local(*client)
    });
    own.or_else(|| plan.gateway_beside(guest))
}

/// True for what can be answered through a router.
fn is_routable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => {
            let first = a.octets()[0];
            !(first == 0 || a.is_loopback() || a.is_link_local() || first >= 224)
        }
        IpAddr::V6(a) => {
            let embeds_ipv4 = a.segments()[..5] == [0; 5];
            !(embeds_ipv4 || a.is_unicast_link_local() || a.is_multicast())
        }
    }
}

/// Takes IPv4 out of IPv6: what a socket for both families says of IPv4 clients.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (Ipv4Addr::from(v4.octets()), v6.port()).into(),
            None => addr,
        },
        SocketAddr::V4(_) => addr,
    }
}

/// Finds ports for clients whose own is taken.
#[derive(Debug)]
pub(crate) struct PortSearch {
    next: u16,
}

impl Default for PortSearch {
    fn default() -> Self {
        Self {
            next: *SUBSTITUTES.start(),
        }
    }
}

impl PortSearch {
    /// The client's port, or else a free one; `None` when too many are taken.
    pub(crate) fn find(
        &mut self,
        own: Option<u16>,
        mut is_taken: impl FnMut(u16) -> bool,
    ) -> Option<u16> {
        if let Some(own) = own.filter(|port| *port != 0)
            && !is_taken(own)
        {
            return Some(own);
        }
        for _ in 0..MAX_TRIES {
            let port = self.next;
            self.next = if port == *SUBSTITUTES.end() {
                *SUBSTITUTES.start()
            } else {
                port + 1
            };
            if !is_taken(port) {
                return Some(port);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{MacAddr, Mtu, PlanV4, PlanV6};
    use proptest::prelude::*;

    fn plan() -> AddressPlan {
        AddressPlan {
            v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
            v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            mtu: Mtu::new(1500).expect("an MTU"),
        }
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    #[test]
    fn the_guest_sees_the_client_where_it_can_answer() {
        let plan = plan();
        for (client, guest, seen) in [
            ("192.0.2.7", "10.0.2.100", "192.0.2.7"),
            ("192.168.1.5", "10.0.2.100", "192.168.1.5"),
            ("2001:db8::7", "fd00::100", "2001:db8::7"),
            ("fd01::7", "fd00::100", "fd01::7"),
            // The host's own.
            ("127.0.0.1", "10.0.2.100", "10.0.2.2"),
            ("127.9.9.9", "10.0.2.100", "10.0.2.2"),
            ("::1", "fd00::100", "fd00::2"),
            // Not reachable through a router.
            ("169.254.7.7", "10.0.2.100", "10.0.2.2"),
            ("fe80::7", "fd00::100", "fd00::2"),
            ("0.0.0.0", "10.0.2.100", "10.0.2.2"),
            ("::", "fd00::100", "fd00::2"),
            ("224.0.0.1", "10.0.2.100", "10.0.2.2"),
            ("255.255.255.255", "10.0.2.100", "10.0.2.2"),
            ("ff02::1", "fd00::100", "fd00::2"),
            ("::ffff:192.0.2.7", "fd00::100", "fd00::2"),
            // The guest would look for it on its own segment.
            ("10.0.2.7", "10.0.2.100", "10.0.2.2"),
            ("10.0.2.100", "10.0.2.100", "10.0.2.2"),
            ("fd00::7", "fd00::100", "fd00::2"),
            // Of the other family.
            ("2001:db8::7", "10.0.2.100", "10.0.2.2"),
            ("192.0.2.7", "fd00::100", "fd00::2"),
        ] {
            assert_eq!(
                seen_as(&plan, Some(ip(client)), ip(guest)),
                Some(ip(seen)),
                "{client} to {guest}"
            );
        }
        assert_eq!(seen_as(&plan, None, ip("fd00::100")), Some(ip("fd00::2")));
        let v4_only = AddressPlan { v6: None, ..plan };
        assert_eq!(seen_as(&v4_only, None, ip("fd00::100")), None);
    }

    #[test]
    fn a_clients_own_family_comes_first() {
        let (v4, v6) = ("10.0.2.100:80", "[fd00::100]:80");
        let target = GuestTarget {
            v4: v4.parse().ok(),
            v6: v6.parse().ok(),
        };
        let one = GuestTarget { v6: None, ..target };
        for (target, client, expected) in [
            (target, Some("192.0.2.7"), vec![v4, v6]),
            (target, Some("2001:db8::7"), vec![v6, v4]),
            (target, None, vec![v4, v6]),
            (one, Some("2001:db8::7"), vec![v4]),
        ] {
            let candidates = target.candidates(client.map(ip));
            let texts: Vec<String> = candidates.iter().map(ToString::to_string).collect();
            assert_eq!(texts, expected);
        }
    }

    #[test]
    fn a_target_outside_the_guests_network_is_none() {
        let target = GuestTarget {
            v4: "192.0.2.1:80".parse().ok(),
            v6: "[fd00::100]:80".parse().ok(),
        };
        let within = target.within(&plan());
        assert_eq!((within.v4, within.v6), (None, target.v6));
    }

    #[test]
    fn a_port_that_is_taken_is_replaced_until_none_is_left() {
        let mut search = PortSearch::default();
        assert_eq!(search.find(Some(999), |_| false), Some(999));
        assert_eq!(search.find(Some(999), |port| port == 999), Some(32768));
        assert_eq!(search.find(None, |_| false), Some(32769));
        assert_eq!(search.find(Some(0), |_| false), Some(32770));
        let mut asked = 0;
        let found = search.find(Some(1), |_| {
            asked += 1;
            true
        });
        assert_eq!((found, asked), (None, 1 + MAX_TRIES));
    }

    proptest! {
        #[test]
        fn what_the_guest_sees_it_can_answer(client: IpAddr, v6: bool) {
            let plan = plan();
            let guest = if v6 { ip("fd00::100") } else { ip("10.0.2.100") };
            let seen = seen_as(&plan, Some(client), guest).expect("both families are on");
            prop_assert_eq!(seen.is_ipv4(), guest.is_ipv4());
            prop_assert!(plan.is_gateway(seen) || !plan.is_local(seen));
            prop_assert!(plan.is_gateway(seen) || is_routable(seen));
        }
    }
}
