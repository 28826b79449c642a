//! What of the host's settings stands in the way, to be told before it is missed.

use std::fs;

use nix::unistd::{getegid, geteuid, getgroups};

use crate::config::{Config, IcmpPolicy};

const PING_GROUP_RANGE: &str = "/proc/sys/net/ipv4/ping_group_range";

/// One line each.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    ping(config).into_iter().collect()
}

/// Ping sockets, for IPv4 and IPv6 alike, are for the groups of a range that is
/// empty by default (icmp(7)); root has raw sockets.
fn ping(config: &Config) -> Option<String> {
    if config.icmp == IcmpPolicy::GatewayOnly || geteuid().is_root() {
        return None;
    }
    let range = parse_range(&fs::read_to_string(PING_GROUP_RANGE).ok()?)?;
    let mut groups = getgroups().unwrap_or_default();
    groups.push(getegid());
    if groups.iter().any(|gid| range.contains(&gid.as_raw())) {
        return None;
    }
    Some(
        "pings will not leave the gateway: this user's groups are outside \
         net.ipv4.ping_group_range; an administrator allows them with \
         'sysctl -w net.ipv4.ping_group_range=\"0 2147483647\"', --no-icmp silences this"
            .to_owned(),
    )
}

fn parse_range(text: &str) -> Option<std::ops::RangeInclusive<u32>> {
    let mut words = text.split_ascii_whitespace();
    let (first, last) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        assert!(
            parse_range("1\t0\n").expect("range").is_empty(),
            "the kernel's default"
        );
        assert!(parse_range("0 2147483647").expect("range").contains(&1000));
        assert_eq!(parse_range("x"), None);
    }
}
