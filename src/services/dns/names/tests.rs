use std::net::Ipv4Addr;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{RData, Record, RecordType};
use proptest::prelude::*;

use super::super::testing::{Upstream, ask, config, name, plan, query, resolver, response};
use super::super::{Resolver, Transport};
use super::*;
use crate::config::DnsConfig;

const MINUTE: Duration = Duration::from_secs(60);

fn addr(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn names(table: &NameTable, at: &str) -> Vec<String> {
    let names = table.names_of(addr(at));
    assert_eq!(table.name_of(addr(at)).as_ref(), names.first());
    names.iter().map(|name| name.to_string()).collect()
}

fn like(table: &NameTable, at: &str, pattern: &str) -> bool {
    table.any_like(addr(at), &NamePattern(pattern.to_owned()))
}

#[tokio::test(start_paused = true)]
async fn names_stand_the_newest_first_and_run_out() {
    let table = NameTable::default();
    let at = addr("192.0.2.1");
    table.note(at, "a.example", MINUTE);
    table.note(at, "b.example", 10 * MINUTE);
    assert_eq!(names(&table, "192.0.2.1"), ["b.example", "a.example"]);
    assert_eq!(
        names(&table, "::ffff:192.0.2.1"),
        ["b.example", "a.example"]
    );
    assert!(like(&table, "192.0.2.1", "*.example"));
    assert!(like(&table, "192.0.2.1", "A.Example."));
    assert!(!like(&table, "192.0.2.2", "*"));
    // Answered again: first again.
    table.note(at, "a.example", MINUTE);
    assert_eq!(names(&table, "192.0.2.1"), ["a.example", "b.example"]);
    for n in 0..MAX_NAMES {
        table.note(at, &format!("{n}.example"), Duration::ZERO);
    }
    assert_eq!(names(&table, "192.0.2.1").len(), MAX_NAMES);
    assert!(!like(&table, "192.0.2.1", "a.example"), "pushed out");
    table.note(at, "late.example", 30 * MINUTE);
    tokio::time::advance(GRACE + MINUTE).await;
    assert_eq!(names(&table, "192.0.2.1"), ["late.example"]);
    tokio::time::advance(30 * MINUTE).await;
    assert!(names(&table, "192.0.2.1").is_empty());
    assert!(!like(&table, "192.0.2.1", "*"));
}

#[tokio::test]
async fn the_address_answered_longest_ago_makes_room() {
    let table = NameTable::default();
    let nth = |n: usize| {
        IpAddr::from(Ipv4Addr::from_bits(
            0x0a00_0000 + u32::try_from(n).expect("small"),
        ))
    };
    for n in 0..MAX_ADDRESSES {
        table.note(nth(n), "a.example", MINUTE);
    }
    table.note(nth(0), "b.example", MINUTE);
    table.note(nth(MAX_ADDRESSES), "c.example", MINUTE);
    assert_eq!(table.len(), MAX_ADDRESSES);
    assert!(table.name_of(nth(0)).is_some());
    assert!(table.name_of(nth(1)).is_none());
    assert!(table.name_of(nth(2)).is_some());
}

#[tokio::test]
async fn what_leads_nowhere_has_no_name() {
    let table = NameTable::default();
    for at in ["127.0.0.1", "::1", "0.0.0.0", "::"] {
        table.note(addr(at), "a.example", MINUTE);
    }
    table.note(addr("192.0.2.1"), "", MINUTE);
    table.note(addr("192.0.2.1"), &"x".repeat(MAX_NAME_LEN + 1), MINUTE);
    assert!(table.is_empty());
}

#[tokio::test]
async fn answers_of_every_way_are_noted() {
    let upstream = Upstream::with_zone(&[
        ("www.example.", "A 192.0.2.1\nA 192.0.2.2\nAAAA 2001:db8::1"),
        ("txt.example.", "TXT hello"),
        ("web.corp.example.", "A 192.0.2.3"),
    ])
    .await;
    let config = DnsConfig {
        upstreams: vec![upstream.addr],
        hosts: vec![("db.example".to_owned(), addr("192.0.2.9"))],
        search: Some(vec!["corp.example".to_owned()]),
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    let table = resolver.names();
    for (text, rtype, transport) in [
        ("WWW.Example.", RecordType::A, Transport::Udp),
        ("www.example.", RecordType::AAAA, Transport::Tcp),
        ("txt.example.", RecordType::TXT, Transport::Udp),
        ("db.example.", RecordType::A, Transport::Udp),
        ("web.", RecordType::A, Transport::Udp),
        ("none.example.", RecordType::A, Transport::Udp),
        ("host.gw.internal.", RecordType::A, Transport::Udp),
    ] {
        ask(&resolver, &query(text, rtype), transport).await;
    }
    for (at, expected) in [
        ("192.0.2.1", &["www.example"][..]),
        ("192.0.2.2", &["www.example"]),
        ("2001:db8::1", &["www.example"]),
        ("192.0.2.9", &["db.example"]),
        ("192.0.2.3", &["web", "web.corp.example"]),
        ("10.0.2.2", &["host.gw.internal"]),
    ] {
        assert_eq!(names(&table, at), expected, "{at}");
    }
    assert_eq!(table.len(), 6);
}

/// A chain of aliases: the guest knows the name that it asked for.
#[tokio::test]
async fn an_alias_is_the_guests_name() {
    let upstream = Upstream::start(|bytes, _| {
        let query = Message::from_vec(bytes).expect("query");
        let owner = query.queries[0].name().clone();
        let records = vec![
            Record::from_rdata(owner, 60, RData::CNAME(CNAME(name("cdn.example.net.")))),
            Record::from_rdata(
                name("cdn.example.net."),
                60,
                RData::A(Ipv4Addr::new(192, 0, 2, 1).into()),
            ),
        ];
        let answer = response(&query, ResponseCode::NoError, records);
        vec![answer.to_vec().expect("response")]
    })
    .await;
    let resolver = resolver(&[&upstream]);
    ask(
        &resolver,
        &query("www.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(names(&resolver.names(), "192.0.2.1"), ["www.example"]);
}

#[test]
fn patterns() {
    for (pattern, name, expected) in [
        ("*", "a.example", true),
        ("*", "", true),
        ("a.example", "A.EXAMPLE", true),
        ("a.example.", "a.example", true),
        ("a.example", "b.a.example", false),
        ("*.example.com", "www.example.com", true),
        ("*.example.com", "a.b.example.com.", true),
        ("*.example.com", "example.com", false),
        ("*.example.com", ".example.com", false),
        ("*.example.com", "notexample.com", false),
        ("*.example.com", "com", false),
        ("*.e", "ä.e", true),
        ("*.e", "äe", false),
    ] {
        let is_like = NamePattern(pattern.to_owned()).matches(name);
        assert_eq!(is_like, expected, "{pattern} {name}");
    }
}

/// One thing done to a table: an address, a name and the seconds to keep it.
type Step = (u8, u8, u32);

proptest! {
    /// Against a list of everything that was ever noted.
    #[test]
    fn it_is_what_a_list_of_all_answers_says(steps: Vec<Step>) {
        let table = NameTable::default();
        let mut all: Vec<(IpAddr, String)> = Vec::new();
        for (last, n, ttl) in steps {
            let at = IpAddr::from([192, 0, 2, last % 8]);
            let name = format!("{}.example", n % 8);
            table.note(at, &name, Duration::from_secs(ttl.into()));
            all.retain(|known| *known != (at, name.clone()));
            all.insert(0, (at, name));
            let expected: Vec<&str> = all
                .iter()
                .filter(|(a, _)| *a == at)
                .map(|(_, name)| name.as_str())
                .take(MAX_NAMES)
                .collect();
            prop_assert_eq!(names(&table, &at.to_string()), expected);
        }
        let entries = table.entries.borrow();
        prop_assert_eq!(entries.by_age.len(), entries.by_address.len());
        for (age, at) in &entries.by_age {
            prop_assert_eq!(entries.by_address[at].age, *age);
        }
    }

    #[test]
    fn any_answer_is_taken(bytes: Vec<u8>, label in "[a-z]{1,20}") {
        let table = NameTable::default();
        table.learn(&name(&format!("{label}.")), &bytes);
        prop_assert!(table.len() <= MAX_PER_ANSWER);
    }

    /// As above, beginning like an answer does.
    #[test]
    fn any_records_are_taken(count: u16, records: Vec<u8>) {
        let mut answer = vec![0, 0, 0x81, 0x80, 0, 1];
        answer.extend_from_slice(&count.to_be_bytes());
        answer.extend_from_slice(&[0, 0, 0, 0, 1, b'a', 0, 0, 1, 0, 1]);
        answer.extend_from_slice(&records);
        let table = NameTable::default();
        table.learn(&name("a."), &answer);
        prop_assert!(table.len() <= MAX_PER_ANSWER);
    }
}
