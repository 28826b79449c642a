//! Answers as the user wants them to be wrong.

use std::rc::Rc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;
use tokio::time::Instant;

use super::super::testing::{Upstream, ask, config, edns_query, plan, query, resolver};
use super::super::{MAX_QUERIES_IN_FLIGHT, Resolver, Transport};
use crate::config::DnsConfig;
use crate::impair::{DnsFault, Effect, Faults, Matcher, NamePattern, Rule, RuleId, Schedule, Way};

const MS: Duration = Duration::from_millis(1);
const ZONE: &[(&str, &str)] = &[
    ("www.example.com.", "A 192.0.2.1\nAAAA 2001:db8::1"),
    ("other.example.net.", "A 192.0.2.2"),
];

fn rule(pattern: &str, effect: Effect) -> Rule {
    Rule {
        text: String::new(),
        way: Way::Both,
        matcher: Matcher {
            name: Some(NamePattern(pattern.to_owned())),
            ..Matcher::default()
        },
        schedule: Schedule::default(),
        effect,
    }
}

fn set(resolver: &Resolver, rules: &[Rule]) -> Rc<Faults> {
    let faults = Rc::new(Faults::of(rules, Instant::now().into_std()));
    resolver.set_faults(Rc::clone(&faults));
    faults
}

/// Gives all below example.com this fault.
fn set_one(resolver: &Resolver, fault: DnsFault) {
    set(resolver, &[rule("*.example.com", Effect::Dns(fault))]);
}

async fn a(resolver: &Resolver, name: &str, transport: Transport) -> Message {
    ask(resolver, &query(name, RecordType::A), transport).await
}

fn addresses(answer: &Message) -> Vec<String> {
    answer.answers.iter().map(|r| r.data.to_string()).collect()
}

/// Names that the rule is not for are answered as ever.
async fn assert_others_are_well(resolver: &Resolver) {
    let answer = a(resolver, "other.example.net.", Transport::Udp).await;
    assert_eq!(addresses(&answer), ["192.0.2.2"]);
}

#[tokio::test]
async fn nxdomain_and_servfail() {
    let upstream = Upstream::with_zone(ZONE).await;
    let resolver = resolver(&[&upstream]);
    for (fault, code) in [
        (DnsFault::NxDomain, ResponseCode::NXDomain),
        (DnsFault::ServFail, ResponseCode::ServFail),
    ] {
        set_one(&resolver, fault);
        for transport in [Transport::Udp, Transport::Tcp] {
            for rtype in [RecordType::A, RecordType::AAAA, RecordType::MX] {
                let query = edns_query("WWW.example.com.", rtype, 1232);
                let answer = ask(&resolver, &query, transport).await;
                assert_eq!(answer.metadata.response_code, code);
                assert!(answer.answers.is_empty() && answer.authorities.is_empty());
                assert!(answer.edns.is_some());
                assert!(!answer.metadata.truncation);
            }
        }
        assert_eq!(upstream.asked(), [""; 0], "nobody was asked");
        assert_others_are_well(&resolver).await;
        upstream.asked();
    }
    set(&resolver, &[]);
    let answer = a(&resolver, "www.example.com.", Transport::Udp).await;
    assert_eq!(addresses(&answer), ["192.0.2.1"]);
}

#[tokio::test]
async fn truncation_leads_to_tcp() {
    let upstream = Upstream::with_zone(ZONE).await;
    let resolver = resolver(&[&upstream]);
    set_one(&resolver, DnsFault::Truncate);
    let cut = a(&resolver, "www.example.com.", Transport::Udp).await;
    assert!(cut.metadata.truncation);
    assert_eq!(cut.metadata.response_code, ResponseCode::NoError);
    assert!(cut.answers.is_empty());
    let whole = a(&resolver, "www.example.com.", Transport::Tcp).await;
    assert!(!whole.metadata.truncation);
    assert_eq!(addresses(&whole), ["192.0.2.1"]);
    assert_others_are_well(&resolver).await;
}

#[tokio::test]
async fn dropped_questions_are_not_answered() {
    let upstream = Upstream::with_zone(ZONE).await;
    let resolver = resolver(&[&upstream]);
    set_one(&resolver, DnsFault::Drop);
    let bytes = query("www.example.com.", RecordType::A)
        .to_vec()
        .expect("query");
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(resolver.answer(&bytes, transport).await, None);
    }
    assert_others_are_well(&resolver).await;
}

#[tokio::test]
async fn wrong_answers_are_the_whole_truth() {
    let upstream = Upstream::with_zone(ZONE).await;
    let resolver = resolver(&[&upstream]);
    let both = ["198.51.100.1", "198.51.100.2", "2001:db8::bad"];
    let both = both.map(|addr| addr.parse().expect("address")).to_vec();
    let v4 = both[..1].to_vec();
    for (addrs, rtype, expected) in [
        (&both, RecordType::A, &["198.51.100.1", "198.51.100.2"][..]),
        (&both, RecordType::AAAA, &["2001:db8::bad"]),
        (&both, RecordType::HTTPS, &[]),
        (&v4, RecordType::A, &["198.51.100.1"]),
        (&v4, RecordType::AAAA, &[]),
    ] {
        set_one(&resolver, DnsFault::Answer(addrs.clone()));
        let answer = ask(&resolver, &query("www.example.com.", rtype), Transport::Udp).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(!answer.metadata.authoritative);
        assert_eq!(addresses(&answer), expected, "{rtype}");
        assert!(answer.answers.iter().all(|record| record.ttl == 0));
    }
    assert_eq!(upstream.asked(), [""; 0], "nobody was asked");
    // Flows to them are the name's.
    let names = resolver.names();
    for addr in &both {
        let name = names.name_of(*addr);
        assert_eq!(name.as_deref(), Some("www.example.com"), "{addr}");
    }
    // What is answered here is no exception.
    set(
        &resolver,
        &[rule("host.gw.internal", Effect::Dns(DnsFault::Answer(v4)))],
    );
    let answer = a(&resolver, "host.gw.internal.", Transport::Udp).await;
    assert_eq!(addresses(&answer), ["198.51.100.1"]);
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_as_long_as_it_says() {
    let config = DnsConfig {
        hosts: vec![(
            "www.example.com".into(),
            "192.0.2.9".parse().expect("address"),
        )],
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    let delay = |ms: u32| Effect::Dns(DnsFault::Delay(MS * ms));
    let faults = set(
        &resolver,
        &[
            rule("*.example.com", delay(250)),
            rule("*", delay(1000)),
            rule("gone.example.com", Effect::Dns(DnsFault::NxDomain)),
        ],
    );
    for (name, ms, code) in [
        ("www.example.com.", 1250, ResponseCode::NoError),
        ("gone.example.com.", 1250, ResponseCode::NXDomain),
        ("localhost.", 1000, ResponseCode::NoError),
    ] {
        let start = Instant::now();
        let answer = a(&resolver, name, Transport::Udp).await;
        assert_eq!(start.elapsed(), MS * ms, "{name}");
        assert_eq!(answer.metadata.response_code, code, "{name}");
    }
    let hits = [1, 2, 3].map(|id| faults.hits(RuleId(id)));
    assert_eq!(hits, [2, 3, 1]);
}

/// A question meets the rules that are in force when it comes.
#[tokio::test(start_paused = true)]
async fn a_fault_on_a_schedule() {
    let resolver = Resolver::new(config(), &plan()).expect("resolver");
    let mut late = rule("localhost", Effect::Dns(DnsFault::ServFail));
    late.schedule = Schedule {
        at: 10 * MS,
        lasts: Some(10 * MS),
    };
    set(&resolver, &[late]);
    for code in [
        ResponseCode::NoError,
        ResponseCode::ServFail,
        ResponseCode::NoError,
    ] {
        let answer = a(&resolver, "localhost.", Transport::Udp).await;
        assert_eq!(answer.metadata.response_code, code);
        tokio::time::advance(10 * MS).await;
    }
}

/// Those that wait for their delay are bounded as those that wait for servers are.
#[tokio::test(start_paused = true)]
async fn no_more_wait_than_may() {
    let resolver = Resolver::new(config(), &plan()).expect("resolver");
    set(
        &resolver,
        &[rule("*", Effect::Dns(DnsFault::Delay(60_000 * MS)))],
    );
    let local = tokio::task::LocalSet::new();
    let bytes = query("localhost.", RecordType::A).to_vec().expect("query");
    let answered = local
        .run_until(async {
            let tasks: Vec<_> = (0..MAX_QUERIES_IN_FLIGHT + 10)
                .map(|_| {
                    let (resolver, bytes) = (resolver.clone(), bytes.clone());
                    tokio::task::spawn_local(async move {
                        resolver.answer(&bytes, Transport::Udp).await
                    })
                })
                .collect();
            let mut answered = 0;
            for task in tasks {
                answered += usize::from(task.await.expect("no panic").is_some());
            }
            answered
        })
        .await;
    assert_eq!(answered, MAX_QUERIES_IN_FLIGHT);
}
