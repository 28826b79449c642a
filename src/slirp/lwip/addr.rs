//! Addresses: the standard library's to lwIP's and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lwip_sys::{IPADDR_TYPE_V4, IPADDR_TYPE_V6, ip_addr_t};

/// lwIP keeps addresses in network byte order, IPv4 in the first word.
pub(super) fn to_lwip(addr: IpAddr) -> ip_addr_t {
    match addr {
        IpAddr::V4(a) => ip_addr_t {
            addr: [u32::from_ne_bytes(a.octets()), 0, 0, 0],
            type_: IPADDR_TYPE_V4,
        },
        IpAddr::V6(a) => {
            let o = a.octets();
            let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
            ip_addr_t {
                addr: [word(0), word(4), word(8), word(12)],
                type_: IPADDR_TYPE_V6,
            }
        }
    }
}

/// The inverse of [`to_lwip`]; a type that is neither is read as IPv4.
pub(super) fn from_lwip(addr: &ip_addr_t) -> IpAddr {
    if addr.type_ == IPADDR_TYPE_V6 {
        let mut octets = [0; 16];
        for (bytes, word) in octets.chunks_exact_mut(4).zip(addr.addr) {
            bytes.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(octets).into()
    } else {
        Ipv4Addr::from(addr.addr[0].to_ne_bytes()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_round_trip(addr: IpAddr) {
            prop_assert_eq!(from_lwip(&to_lwip(addr)), addr);
        }
    }
}
