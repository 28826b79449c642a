//! Parsers of single option values. Each error says what to write instead.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};

use crate::config::Outbound;
use crate::forward::{Expose, PublishOption, SpecError};
use crate::impair::Rule;
use crate::net::{MacAddr, Mtu, PlanV4, PlanV6};
use crate::policy::{HostLoopback, PortRange};
use crate::tap::netns::{NetnsTarget, is_interface_name};

/// Port of a DNS server when none is given.
const DNS_PORT: u16 = 53;
/// Least and greatest `--ndots`: resolv.conf(5) caps it at 15.
const MAX_NDOTS: u8 = 15;
/// Least `--memory`: room for a few flows at full speed.
const MIN_MEMORY: u64 = 16 << 20;
/// Most port ranges in one `--host-loopback`.
const MAX_PORT_RANGES: usize = 256;
/// Longest DNS name, in characters without the trailing dot (RFC 1035 section 2.3.4).
const MAX_NAME: usize = 253;
/// Longest label of a DNS name (RFC 1035 section 2.3.4).
const MAX_LABEL: usize = 63;

/// A value that cannot be used; the text says what to write.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadValue(String);

type Parsed<T> = Result<T, BadValue>;

fn bad<T>(text: impl Into<String>) -> Parsed<T> {
    Err(BadValue(text.into()))
}

/// `--netns`: digits are a PID, anything with a slash a path, the rest a name.
pub(crate) fn netns(text: &str) -> Parsed<NetnsTarget> {
    if text.is_empty() {
        return bad("give a process id, the path of a namespace, or a name of 'ip netns list'");
    }
    if text.bytes().all(|b| b.is_ascii_digit()) {
        return match text.parse() {
            Ok(pid) if pid > 0 => Ok(NetnsTarget::Pid(pid)),
            _ => bad(format!(
                "'{text}' is not a process id; those are 1 to {}",
                i32::MAX
            )),
        };
    }
    if text.starts_with('-') {
        return bad(format!(
            "'{text}' is not a process id; those are 1 to {}",
            i32::MAX
        ));
    }
    if text.contains('/') {
        return Ok(NetnsTarget::Path(PathBuf::from(text)));
    }
    Ok(NetnsTarget::Name(text.to_owned()))
}

/// `--ifname`.
pub(crate) fn ifname(text: &str) -> Parsed<String> {
    if is_interface_name(text) {
        Ok(text.to_owned())
    } else {
        bad("an interface's name has 1 to 15 characters, none of them '/', ':', '%' or a space")
    }
}

/// `--mtu`.
pub(crate) fn mtu(text: &str) -> Parsed<Mtu> {
    let Ok(bytes) = text.parse::<u32>() else {
        return bad(format!(
            "write a number of bytes, {} to {}",
            Mtu::MIN,
            Mtu::MAX
        ));
    };
    Mtu::new(bytes).map_err(|e| BadValue(e.to_string()))
}

/// `--cidr`.
pub(crate) fn cidr(text: &str) -> Parsed<PlanV4> {
    let Ok(net) = text.parse::<Ipv4Net>() else {
        return bad("write an IPv4 network and its prefix length, like 10.0.2.0/24");
    };
    PlanV4::new(net).map_err(|e| BadValue(e.to_string()))
}

/// `--cidr6`.
pub(crate) fn cidr6(text: &str) -> Parsed<PlanV6> {
    let Ok(net) = text.parse::<Ipv6Net>() else {
        return bad("write an IPv6 network and its prefix length, like fd00::/64");
    };
    PlanV6::new(net).map_err(|e| BadValue(e.to_string()))
}

/// `--mac`.
pub(crate) fn mac(text: &str) -> Parsed<MacAddr> {
    let mac: MacAddr = text
        .parse()
        .map_err(|e: crate::net::ParseMacError| BadValue(e.to_string()))?;
    if mac.is_unicast() {
        Ok(mac)
    } else {
        bad(format!(
            "{mac} is a group or zero address; choose one whose first byte is even, \
             like 02:00:00:00:00:01"
        ))
    }
}

/// `--host-loopback`: `all`, or ports and ranges separated by commas.
pub(crate) fn host_loopback(text: &str) -> Parsed<HostLoopback> {
    if text == "all" {
        return Ok(HostLoopback::Open);
    }
    let ranges = text
        .split(',')
        .map(port_range)
        .collect::<Parsed<Vec<_>>>()?;
    if ranges.len() > MAX_PORT_RANGES {
        return bad(format!(
            "at most {MAX_PORT_RANGES} ranges of ports can be given; merge some"
        ));
    }
    Ok(HostLoopback::Ports(ranges))
}

fn port_range(text: &str) -> Parsed<PortRange> {
    let port = |t: &str| match t.parse::<u16>() {
        Ok(port) if port > 0 && t.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => bad(format!(
            "'{text}' is not a port or a range of ports; write ports 1 to 65535 like \
             5432,8000-8010, or put the command after '--'"
        )),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return bad(format!("the range {text} is empty; write {last}-{first}"));
    }
    Ok(PortRange { first, last })
}

/// `--publish`.
pub(crate) fn publish(text: &str) -> Result<PublishOption, SpecError> {
    text.parse()
}

/// `--expose-host`.
pub(crate) fn expose(text: &str) -> Result<Expose, SpecError> {
    text.parse()
}

/// `--outbound-addr`.
pub(crate) fn outbound4(text: &str) -> Parsed<Outbound<Ipv4Addr>> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) if a.is_multicast() || a.is_broadcast() || a.is_unspecified() => bad(
            format!("{a} cannot be a source; give an address of this host"),
        ),
        Ok(IpAddr::V4(a)) => Ok(Outbound::Address(a)),
        Ok(IpAddr::V6(_)) => bad("this is an IPv6 address; give it with --outbound-addr6"),
        Err(_) => outbound_interface(text, "an IPv4 address"),
    }
}

/// `--outbound-addr6`.
pub(crate) fn outbound6(text: &str) -> Parsed<Outbound<Ipv6Addr>> {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(a)) if a.is_multicast() || a.is_unspecified() => bad(format!(
            "{a} cannot be a source; give an address of this host"
        )),
        Ok(IpAddr::V6(a)) => Ok(Outbound::Address(a)),
        Ok(IpAddr::V4(_)) => bad("this is an IPv4 address; give it with --outbound-addr"),
        Err(_) => outbound_interface(text, "an IPv6 address"),
    }
}

fn outbound_interface<A>(text: &str, address: &str) -> Parsed<Outbound<A>> {
    if is_interface_name(text) {
        Ok(Outbound::Interface(text.to_owned()))
    } else {
        bad(format!(
            "give {address} of this host, or the name of one of its interfaces"
        ))
    }
}

/// `--dns`: an address, with a port behind a colon; IPv6 then in brackets.
pub(crate) fn dns(text: &str) -> Parsed<SocketAddr> {
    let bare = text
        .strip_prefix('[')
        .and_then(|t| t.strip_suffix(']'))
        .unwrap_or(text);
    let server = match (bare.parse::<IpAddr>(), text.parse::<SocketAddr>()) {
        (Ok(addr), _) => SocketAddr::new(addr, DNS_PORT),
        (_, Ok(server)) => server,
        _ => {
            return bad("write a server's address, with a port if it is not 53, \
                 like 192.0.2.1, 192.0.2.1:5353 or [2001:db8::1]:5353");
        }
    };
    if server.port() == 0 {
        return bad("port 0 cannot be asked; leave it out for 53");
    }
    let ip = server.ip();
    if ip.is_unspecified() || ip.is_multicast() {
        return bad(format!("{ip} is not a server's address"));
    }
    Ok(server)
}

/// `--search`: a domain; `.` stands for an empty list.
pub(crate) fn search(text: &str) -> Parsed<String> {
    if text == "." {
        Ok(String::new())
    } else {
        dns_name(text)
    }
}

/// `--ndots`.
pub(crate) fn ndots(text: &str) -> Parsed<u8> {
    match text.parse() {
        Ok(n) if n <= MAX_NDOTS => Ok(n),
        _ => bad(format!("write a number of dots, 0 to {MAX_NDOTS}")),
    }
}

/// `--host`.
pub(crate) fn host(text: &str) -> Parsed<(String, IpAddr)> {
    let form = "write NAME=ADDR, like db.internal=192.0.2.7";
    let Some((name, addr)) = text.split_once('=') else {
        return bad(form);
    };
    let Ok(addr) = addr.parse() else {
        return bad(format!("'{addr}' is not an IP address; {form}"));
    };
    Ok((dns_name(name)?, addr))
}

/// A DNS name: lower case, without the trailing dot.
fn dns_name(text: &str) -> Parsed<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let label_is_good = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= MAX_NAME && name.split('.').all(label_is_good) {
        Ok(name.to_ascii_lowercase())
    } else {
        bad(format!(
            "'{text}' is not a domain name; use letters, digits, '-' and '_' between dots \
             (other scripts in their xn-- form)"
        ))
    }
}

/// `--latency`: milliseconds, as a rule for everything.
pub(crate) fn latency(text: &str) -> Parsed<Rule> {
    match format!("delay={text}ms").parse() {
        Ok(rule) => Ok(rule),
        Err(_) => bad("write milliseconds, 0 to 600000, like 80 or 0.5; \
             --impair 'down delay=80ms' is for one direction"),
    }
}

/// `--loss`: a share, as a rule for everything.
pub(crate) fn loss(text: &str) -> Parsed<Rule> {
    let share: Option<f64> = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    let rule = share.map(|share| format!("loss={}%", share * 100.0));
    match rule.and_then(|rule| rule.parse().ok()) {
        Some(rule) => Ok(rule),
        None => bad(
            "write a share from 0 to 1: 0.01 loses one packet in a hundred; \
             --impair 'down loss=1%' is for one direction",
        ),
    }
}

/// `--memory`: bytes, or with K, M or G in units of 1024.
pub(crate) fn memory(text: &str) -> Parsed<usize> {
    let form = "write a number of bytes, or with K, M or G behind it, like 256M";
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        "G" | "GB" | "GIB" => 30,
        _ => return bad(form),
    };
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return bad(form);
    }
    let Ok(number) = digits.parse::<u64>() else {
        return bad(form);
    };
    let bytes = number
        .checked_mul(1 << shift)
        .and_then(|b| Some((b, usize::try_from(b).ok()?)));
    match bytes {
        None => bad(format!(
            "{text} is more than this machine can address; {form}"
        )),
        Some((bytes, _)) if bytes < MIN_MEMORY => bad(format!(
            "{text} is too little; give at least {}M",
            MIN_MEMORY >> 20
        )),
        Some((_, bytes)) => Ok(bytes),
    }
}

/// `--ready-fd`, `--exit-fd`.
pub(crate) fn fd(text: &str) -> Parsed<RawFd> {
    match text.parse::<RawFd>() {
        Ok(fd) if fd >= 0 => Ok(fd),
        _ => bad("write the number of an open file descriptor, like 3"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fmt::Debug;

    fn check<T: Debug + PartialEq>(
        parse: fn(&str) -> Parsed<T>,
        table: &[(&str, Result<T, &str>)],
    ) {
        for (text, expected) in table {
            match (parse(text), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, *expected, "{text}"),
                (Err(BadValue(said)), Err(part)) => {
                    assert!(said.contains(part), "{text}: '{said}' lacks '{part}'");
                }
                (result, _) => panic!("{text}: {result:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn namespaces() {
        check(
            netns,
            &[
                ("42", Ok(NetnsTarget::Pid(42))),
                (
                    "/proc/42/ns/net",
                    Ok(NetnsTarget::Path("/proc/42/ns/net".into())),
                ),
                ("./ns", Ok(NetnsTarget::Path("./ns".into()))),
                ("blue", Ok(NetnsTarget::Name("blue".into()))),
                (
                    "0",
                    Err("'0' is not a process id; those are 1 to 2147483647"),
                ),
                ("99999999999", Err("is not a process id")),
                ("-1", Err("is not a process id")),
                ("", Err("give a process id")),
            ],
        );
    }

    #[test]
    fn sizes() {
        check(
            mtu,
            &[
                ("68", Ok(Mtu::new(68).expect("MTU"))),
                ("65520", Ok(Mtu::new(65520).expect("MTU"))),
                (
                    "67",
                    Err("an MTU of 67 is not possible; choose 68 to 65520 bytes"),
                ),
                ("65521", Err("choose 68 to 65520")),
                ("4294967296", Err("write a number of bytes, 68 to 65520")),
                ("1500k", Err("write a number of bytes")),
            ],
        );
        check(
            memory,
            &[
                ("256M", Ok(256 << 20)),
                ("1g", Ok(1 << 30)),
                ("65536K", Ok(64 << 20)),
                ("16777216", Ok(16 << 20)),
                ("32MiB", Ok(32 << 20)),
                ("15M", Err("15M is too little; give at least 16M")),
                (
                    "99999999999999999G",
                    Err("more than this machine can address"),
                ),
                ("99999999999999999999", Err("write a number of bytes")),
                ("M", Err("write a number")),
                ("1.5G", Err("write a number")),
                ("-1M", Err("write a number")),
                ("12X", Err("like 256M")),
                ("", Err("write a number")),
            ],
        );
        check(
            ndots,
            &[
                ("0", Ok(0)),
                ("15", Ok(15)),
                ("16", Err("0 to 15")),
                ("x", Err("0 to 15")),
            ],
        );
        check(
            fd,
            &[("3", Ok(3)), ("-1", Err("like 3")), ("x", Err("like 3"))],
        );
    }

    #[test]
    fn networks() {
        for (text, part) in [
            ("10.0.2.100/24", "write the network address, 10.0.2.0/24"),
            ("10.0.2.0/26", "choose 1 to 25"),
            ("10.0.2.0", "like 10.0.2.0/24"),
            ("fd00::/64", "write an IPv4 network"),
        ] {
            assert!(cidr(text).expect_err("refused").0.contains(part), "{text}");
        }
        assert!(cidr("192.168.7.0/24").is_ok());
        for (text, part) in [
            ("fd00::/48", "SLAAC needs 64"),
            ("fd00::1/64", "write the network address, fd00::/64"),
            ("10.0.2.0/24", "write an IPv6 network"),
        ] {
            assert!(cidr6(text).expect_err("refused").0.contains(part), "{text}");
        }
        assert!(cidr6("fd12:3456::/64").is_ok());
        check(
            mac,
            &[
                ("02:00:00:00:00:07", Ok(MacAddr([2, 0, 0, 0, 0, 7]))),
                (
                    "01:00:00:00:00:07",
                    Err("choose one whose first byte is even"),
                ),
                ("00:00:00:00:00:00", Err("group or zero")),
                ("02:00", Err("is not a MAC address")),
            ],
        );
        check(
            ifname,
            &[
                ("eth0", Ok("eth0".into())),
                ("", Err("1 to 15")),
                ("a-very-long-name", Err("1 to 15")),
            ],
        );
    }

    #[test]
    fn loopback_ports() {
        let range = |first, last| PortRange { first, last };
        check(
            host_loopback,
            &[
                ("all", Ok(HostLoopback::Open)),
                ("5432", Ok(HostLoopback::Ports(vec![range(5432, 5432)]))),
                (
                    "5432,8000-8010",
                    Ok(HostLoopback::Ports(vec![
                        range(5432, 5432),
                        range(8000, 8010),
                    ])),
                ),
                (
                    "8010-8000",
                    Err("the range 8010-8000 is empty; write 8000-8010"),
                ),
                ("0", Err("ports 1 to 65535")),
                ("65536", Err("ports 1 to 65535")),
                ("+80", Err("ports 1 to 65535")),
                ("80,", Err("'' is not a port")),
                ("curl", Err("put the command after '--'")),
                ("", Err("'' is not a port")),
            ],
        );
    }

    #[test]
    fn sources() {
        check(
            outbound4,
            &[
                (
                    "192.0.2.1",
                    Ok(Outbound::Address(Ipv4Addr::new(192, 0, 2, 1))),
                ),
                ("wg0", Ok(Outbound::Interface("wg0".into()))),
                ("::1", Err("give it with --outbound-addr6")),
                ("224.0.0.1", Err("cannot be a source")),
                (
                    "192.0.2.256.eth0.x",
                    Err("give an IPv4 address of this host, or the name"),
                ),
            ],
        );
        check(
            outbound6,
            &[
                (
                    "2001:db8::1",
                    Ok(Outbound::Address("2001:db8::1".parse().expect("addr"))),
                ),
                ("wg0", Ok(Outbound::Interface("wg0".into()))),
                ("192.0.2.1", Err("give it with --outbound-addr")),
                ("::", Err("cannot be a source")),
                (
                    "2001:db8::g",
                    Err("give an IPv6 address of this host, or the name"),
                ),
            ],
        );
    }

    #[test]
    fn names() {
        let at = |text: &str| text.parse::<SocketAddr>().expect("socket address");
        check(
            dns,
            &[
                ("192.0.2.1", Ok(at("192.0.2.1:53"))),
                ("192.0.2.1:5353", Ok(at("192.0.2.1:5353"))),
                ("2001:db8::1", Ok(at("[2001:db8::1]:53"))),
                ("[2001:db8::1]", Ok(at("[2001:db8::1]:53"))),
                ("[2001:db8::1]:5353", Ok(at("[2001:db8::1]:5353"))),
                ("192.0.2.1:0", Err("port 0")),
                ("0.0.0.0", Err("is not a server's address")),
                ("dns.example", Err("like 192.0.2.1")),
                ("192.0.2.1:99999", Err("like 192.0.2.1")),
            ],
        );
        let addr = IpAddr::from([192, 0, 2, 7]);
        check(
            host,
            &[
                ("db.internal=192.0.2.7", Ok(("db.internal".into(), addr))),
                ("DB.Internal.=192.0.2.7", Ok(("db.internal".into(), addr))),
                ("v6=::1", Ok(("v6".into(), "::1".parse().expect("addr")))),
                ("db.internal", Err("write NAME=ADDR")),
                ("db=next", Err("'next' is not an IP address")),
                ("=192.0.2.7", Err("'' is not a domain name")),
                ("a..b=192.0.2.7", Err("is not a domain name")),
            ],
        );
        check(
            search,
            &[
                ("Example.COM.", Ok("example.com".into())),
                (".", Ok(String::new())),
                ("-a.com", Err("is not a domain name")),
                ("", Err("is not a domain name")),
                ("ex ample", Err("is not a domain name")),
            ],
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_a_parser_panic(text in "\\PC{0,40}") {
            let _ = (netns(&text), ifname(&text), mtu(&text), cidr(&text), cidr6(&text), mac(&text));
            let _ = (host_loopback(&text), outbound4(&text), outbound6(&text), dns(&text));
            let _ = (search(&text), ndots(&text), host(&text), memory(&text), fd(&text));
        }

        #[test]
        fn nor_does_text_that_is_nearly_right(text in "[0-9a-fKMG:./,=%\\[\\]+-]{0,40}") {
            let _ = (netns(&text), ifname(&text), mtu(&text), cidr(&text), cidr6(&text), mac(&text));
            let _ = (host_loopback(&text), outbound4(&text), outbound6(&text), dns(&text));
            let _ = (search(&text), ndots(&text), host(&text), memory(&text), fd(&text));
        }
    }
}
