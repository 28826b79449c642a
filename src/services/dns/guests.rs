//! Names that guests gave themselves when they asked for an address by DHCP.
//!
//! A guest that calls itself `web` is found as `web` and as `web.gw.internal`, and
//! its address leads back to the latter. A name is its first claimant's for as
//! long as that has its lease; then the next one's.
//!
//! A guest chooses its name freely, so there are names that none can have: those
//! of the gateway and of loopback, and those that clients look up to be told whom
//! to trust ([`RESERVED`]). Names with dots are never a guest's, but for those in
//! the gateway's own zone.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use crate::net::MacAddr;
use crate::services::dhcp::Lease;

/// Names that lead clients to proxies (WPAD) and tunnels (ISATAP, RFC 5214
/// section 8.3), and those that stand for the host itself.
const RESERVED: [&str; 6] = ["localhost", "wpad", "isatap", "gateway", "host", "dns"];

/// Who has claimed which name. There are as many claims as leases at most.
#[derive(Debug, Default)]
pub(super) struct GuestNames {
    /// The oldest first.
    claims: Vec<Claim>,
}

#[derive(Debug)]
struct Claim {
    name: String,
    addr: Ipv4Addr,
    mac: MacAddr,
    until: Instant,
}

impl Claim {
    fn is_by(&self, lease: &Lease) -> bool {
        self.addr == lease.addr
            && self.mac == lease.mac
            && Some(self.name.as_str()) == lease.hostname.as_deref()
    }
}

impl GuestNames {
    /// Takes note of all leases there are.
    pub(super) fn follow(&mut self, leases: impl Iterator<Item = Lease>) {
        let leases: Vec<Lease> = leases.collect();
        self.claims.retain_mut(|claim| {
            let lease = leases.iter().find(|lease| claim.is_by(lease));
            if let Some(lease) = lease {
                claim.until = lease.expires;
            }
            lease.is_some()
        });
        for lease in leases {
            let is_known = self.claims.iter().any(|claim| claim.is_by(&lease));
            if let Some(name) = lease.hostname
                && !is_known
                && !RESERVED.contains(&name.as_str())
            {
                self.claims.push(Claim {
                    name,
                    addr: lease.addr,
                    mac: lease.mac,
                    until: lease.expires,
                });
            }
        }
    }

    /// The address of the guest with this name, without regard to case.
    pub(super) fn addr(&self, name: &str, now: Instant) -> Option<IpAddr> {
        let owner = |claim: &&Claim| claim.until > now && claim.name.eq_ignore_ascii_case(name);
        self.claims
            .iter()
            .find(owner)
            .map(|claim| claim.addr.into())
    }

    /// The name of the guest with this address.
    pub(super) fn name(&self, addr: IpAddr, now: Instant) -> Option<&str> {
        let mut claims = self.claims.iter().filter(|claim| claim.until > now);
        let name = &claims.find(|claim| addr == claim.addr)?.name;
        (self.addr(name, now) == Some(addr)).then_some(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn lease(name: &str, last: u8, expires: Instant) -> Lease {
        Lease {
            addr: Ipv4Addr::new(10, 0, 2, last),
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            hostname: Some(name.to_owned()),
            expires,
        }
    }

    fn addr(last: u8) -> Option<IpAddr> {
        Some(IpAddr::from([10, 0, 2, last]))
    }

    #[test]
    fn the_first_has_the_name_until_its_lease_ends() {
        let now = Instant::now();
        let soon = now + Duration::from_secs(60);
        let late = now + Duration::from_secs(600);
        let mut names = GuestNames::default();
        names.follow([lease("web", 20, soon)].into_iter());
        // By address the second one comes first.
        let both = || [lease("web", 15, late), lease("web", 20, soon)].into_iter();
        names.follow(both());
        assert_eq!(names.addr("WEB", now), addr(20));
        assert_eq!(names.name(addr(20).expect("some"), now), Some("web"));
        assert_eq!(names.name(addr(15).expect("some"), now), None);

        assert_eq!(names.addr("web", soon), addr(15));
        assert_eq!(names.name(addr(15).expect("some"), soon), Some("web"));
        assert_eq!(names.name(addr(20).expect("some"), soon), None);
        assert_eq!(names.addr("web", late), None);

        // Renewed, it stays; released, it goes.
        names.follow([lease("web", 15, late), lease("web", 20, late)].into_iter());
        assert_eq!(names.addr("web", soon), addr(20));
        names.follow([lease("web", 15, late)].into_iter());
        assert_eq!(names.addr("web", now), addr(15));
    }

    #[test]
    fn a_guest_can_call_itself_something_else() {
        let now = Instant::now();
        let late = now + Duration::from_secs(600);
        let mut names = GuestNames::default();
        names.follow([lease("web", 15, late)].into_iter());
        names.follow([lease("db", 15, late)].into_iter());
        assert_eq!(
            (names.addr("web", now), names.addr("db", now)),
            (None, addr(15))
        );
        assert_eq!(names.name(addr(15).expect("some"), now), Some("db"));
    }

    #[test]
    fn some_names_are_nobodys() {
        let now = Instant::now();
        let late = now + Duration::from_secs(600);
        let mut names = GuestNames::default();
        names.follow(
            (15..)
                .zip(RESERVED)
                .map(|(last, name)| lease(name, last, late)),
        );
        for name in RESERVED {
            assert_eq!(names.addr(name, now), None, "{name}");
        }
        assert_eq!(names.name(addr(15).expect("some"), now), None);
    }
}
