use std::net::IpAddr;

use super::super::NoNames;
use super::super::{Matcher, NamePattern, PacketEffect};
use super::*;
use crate::policy::PortRange;

const SECOND: Duration = Duration::from_secs(1);

/// Every address is `www.example.com`.
struct Www;

impl Names for Www {
    fn any_like(&self, _addr: IpAddr, pattern: &NamePattern) -> bool {
        pattern.matches("www.example.com")
    }
}

fn rule(effect: Effect) -> Rule {
    Rule {
        text: String::new(),
        way: Way::Both,
        matcher: Matcher::default(),
        schedule: Schedule::default(),
        effect,
    }
}

fn to(net: &str, effect: Effect) -> Rule {
    let mut rule = rule(effect);
    rule.matcher.to = Some(net.parse().expect("net"));
    rule
}

fn port(port: u16, effect: Effect) -> Rule {
    let mut rule = rule(effect);
    rule.matcher.ports = Some(PortRange::one(port));
    rule
}

fn named(pattern: &str, effect: Effect) -> Rule {
    let mut rule = rule(effect);
    rule.matcher.name = Some(NamePattern(pattern.to_owned()));
    rule
}

fn of(protocol: MatchProtocol, mut rule: Rule) -> Rule {
    rule.matcher.protocol = Some(protocol);
    rule
}

fn way(way: Way, mut rule: Rule) -> Rule {
    rule.way = way;
    rule
}

const REFUSE: Effect = Effect::Tcp(TcpFault::Refuse);
const STALL: Effect = Effect::Tcp(TcpFault::Stall);
const BLACK_HOLE: Effect = Effect::Tcp(TcpFault::BlackHole);

fn flow(by: Party) -> Beginning {
    Beginning {
        by,
        guest: "10.0.2.100:8080".parse().expect("address"),
        remote: "192.0.2.1:443".parse().expect("address"),
    }
}

fn tcp(rules: &[Rule], by: Party) -> Option<TcpFault> {
    let now = Instant::now();
    Faults::new(rules, now).tcp(now, flow(by), &Www)
}

fn udp(rules: &[Rule]) -> Option<TcpFault> {
    let now = Instant::now();
    Faults::new(rules, now).udp(now, flow(Party::Guest), &Www)
}

#[test]
fn the_first_fault_that_matches_counts() {
    let refuse = Some(TcpFault::Refuse);
    for (rules, expected) in [
        (&[][..], None),
        (&[rule(Effect::Packets(PacketEffect::default()))], None),
        (&[rule(REFUSE), rule(STALL)], refuse),
        (&[to("192.0.2.0/24", REFUSE), rule(STALL)], refuse),
        (&[to("198.51.100.0/24", STALL), rule(REFUSE)], refuse),
        (&[to("2001:db8::/32", STALL), rule(REFUSE)], refuse),
        (&[port(443, REFUSE)], refuse),
        (&[port(8080, REFUSE)], None),
        (&[named("*.example.com", REFUSE)], refuse),
        (&[named("example.com", REFUSE)], None),
        (&[of(MatchProtocol::Tcp, rule(REFUSE))], refuse),
        (&[of(MatchProtocol::Udp, rule(REFUSE))], None),
        (&[way(Way::Up, rule(REFUSE))], refuse),
        (&[way(Way::Down, rule(STALL)), rule(REFUSE)], refuse),
        (&[rule(Effect::Pass), rule(REFUSE)], None),
        (&[port(80, Effect::Pass), rule(REFUSE)], refuse),
        (&[named("*", Effect::Pass), rule(REFUSE)], None),
        (
            &[of(MatchProtocol::Udp, rule(Effect::Pass)), rule(REFUSE)],
            refuse,
        ),
        (&[rule(Effect::Dns(DnsFault::Drop)), rule(REFUSE)], refuse),
    ] {
        assert_eq!(tcp(rules, Party::Guest), expected, "{rules:?}");
    }
}

#[test]
fn a_clients_flow_is_matched_by_the_port_that_it_called() {
    let stall = Some(TcpFault::Stall);
    for (rule, expected) in [
        (rule(STALL), stall),
        (way(Way::Down, rule(STALL)), stall),
        (way(Way::Up, rule(STALL)), None),
        (port(8080, STALL), stall),
        (port(443, STALL), None),
        (to("192.0.2.1/32", STALL), stall),
    ] {
        let rules = [rule];
        assert_eq!(tcp(&rules, Party::Host), expected, "{rules:?}");
    }
}

#[test]
fn datagrams_are_refused_or_vanish_and_nothing_else() {
    let of_udp = |effect| of(MatchProtocol::Udp, rule(effect));
    assert_eq!(udp(&[of_udp(REFUSE)]), Some(TcpFault::Refuse));
    assert_eq!(udp(&[of_udp(BLACK_HOLE)]), Some(TcpFault::BlackHole));
    assert_eq!(udp(&[of_udp(STALL)]), None);
    assert_eq!(udp(&[rule(REFUSE)]), None);
    assert_eq!(udp(&[rule(Effect::Pass), of_udp(REFUSE)]), None);
}

#[test]
fn schedules_count_from_when_the_rules_were_set_up() {
    let start = Instant::now();
    let mut limited = rule(REFUSE);
    limited.schedule = Schedule {
        at: 10 * SECOND,
        lasts: Some(3 * SECOND),
    };
    let mut late = rule(STALL);
    late.schedule.at = 11 * SECOND;
    let faults = Faults::new(&[limited, late], start);
    for (at, expected) in [
        (0, None),
        (9_999, None),
        (10_000, Some(TcpFault::Refuse)),
        (12_999, Some(TcpFault::Refuse)),
        (13_000, Some(TcpFault::Stall)),
        (1_000_000, Some(TcpFault::Stall)),
    ] {
        let now = start + Duration::from_millis(at);
        let fault = faults.tcp(now, flow(Party::Guest), &NoNames);
        assert_eq!(fault, expected, "{at} ms");
    }
    assert_eq!(faults.hits().collect::<Vec<_>>(), [(0, 2), (1, 2)]);
    // A clock that goes back a little is no reason to panic.
    let before = start.checked_sub(SECOND).expect("some uptime");
    assert_eq!(faults.tcp(before, flow(Party::Guest), &NoNames), None);
}

#[test]
fn delays_add_up_in_front_of_the_first_fault() {
    let now = Instant::now();
    let delay = |ms| Effect::Dns(DnsFault::Delay(Duration::from_millis(ms)));
    let faults = Faults::new(
        &[
            rule(REFUSE),
            rule(delay(100)),
            to("192.0.2.1/32", Effect::Pass),
            named("*.example.com", delay(50)),
            named("spared.example.com", Effect::Pass),
            named("*.example.com", Effect::Dns(DnsFault::NxDomain)),
            named("*.example.com", delay(1000)),
            rule(Effect::Dns(DnsFault::ServFail)),
        ],
        now,
    );
    for (name, ms, fault) in [
        ("www.example.com", 150, Some(DnsFault::NxDomain)),
        ("WWW.Example.com", 150, Some(DnsFault::NxDomain)),
        ("spared.example.com", 150, None),
        ("example.com", 100, Some(DnsFault::ServFail)),
    ] {
        let delay = Duration::from_millis(ms);
        assert_eq!(faults.dns(now, name), DnsFate { delay, fault }, "{name}");
    }
    let hits: Vec<_> = faults.hits().collect();
    assert_eq!(hits, [(0, 0), (1, 4), (3, 3), (5, 2), (6, 0), (7, 1)]);
}

#[test]
fn without_rules_nothing_happens() {
    let faults = Faults::default();
    let now = Instant::now();
    assert_eq!(faults.tcp(now, flow(Party::Guest), &Www), None);
    assert_eq!(faults.udp(now, flow(Party::Guest), &Www), None);
    assert_eq!(faults.dns(now, "www.example.com"), DnsFate::default());
}
