//! The search list, seen from the guest and from the server.

use std::fs;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, RecordType};

use super::super::testing::{Upstream, ask, config, edns_query, plan, query};
use super::super::{Resolver, Transport};
use crate::config::DnsConfig;

const ZONE: &[(&str, &str)] = &[
    ("one.a.example.", "A 192.0.2.1\nAAAA 2001:db8::1"),
    ("two.b.example.", "A 192.0.2.2"),
    ("bare.", "A 192.0.2.3"),
    ("www.site.", "A 192.0.2.4"),
    ("www.site.a.example.", "A 192.0.2.5"),
    ("deep.sub.b.example.", "A 192.0.2.6"),
    ("mixed.a.example.", "A 192.0.2.7"),
    ("mixed.b.example.", "AAAA 2001:db8::7"),
    ("blocked.a.example.", "A 0.0.0.0"),
    ("blocked.b.example.", "A 192.0.2.8"),
    ("nulled.", "A 0.0.0.0"),
    ("broken.a.example.", "SERVFAIL"),
    ("broken.b.example.", "A 192.0.2.9"),
    ("lost.a.example.", "SERVFAIL"),
    ("mail.a.example.", "TXT here"),
    ("mail.b.example.", "MX 10 mx.example."),
    ("quiet.a.example.", "SILENT"),
    ("quiet.b.example.", "A 192.0.2.10"),
    ("bad.", "REFUSED"),
    ("gone.x.a.example.", "SERVFAIL"),
    ("sick.x.", "SERVFAIL"),
    ("sick.x.b.example.", "TXT here"),
    ("post.x.", "MX 10 mx.example."),
    ("post.x.a.example.", "REFUSED"),
];

async fn setup(search: Option<&[&str]>, ndots: u8) -> (Upstream, Resolver) {
    let upstream = Upstream::with_zone(ZONE).await;
    let search = search.map(|list| list.iter().map(|d| (*d).to_owned()).collect());
    let config = DnsConfig {
        upstreams: vec![upstream.addr],
        search,
        ndots,
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    (upstream, resolver)
}

/// The answer's records in short: `-> name` for an alias, else the data.
fn records(answer: &Message) -> Vec<String> {
    let short = |data: &RData| match data {
        RData::CNAME(target) => format!("-> {}", target.0),
        other => other.to_string(),
    };
    answer.answers.iter().map(|r| short(&r.data)).collect()
}

#[tokio::test]
async fn names_are_found_in_order() {
    let (upstream, resolver) = setup(Some(&["a.example", "b.example."]), 1).await;
    let no_error = ResponseCode::NoError;
    let nx = ResponseCode::NXDomain;
    for (name, qtype, code, answers, asked) in [
        // No dot: the list first.
        (
            "one.",
            "A",
            no_error,
            "-> one.a.example., 192.0.2.1",
            "one.a.example. A",
        ),
        (
            "ONE.",
            "AAAA",
            no_error,
            "-> ONE.a.example., 2001:db8::1",
            "ONE.a.example. AAAA",
        ),
        (
            "two.",
            "A",
            no_error,
            "-> two.b.example., 192.0.2.2",
            "two.a.example. A, two.b.example. A",
        ),
        (
            "bare.",
            "A",
            no_error,
            "192.0.2.3",
            "bare.a.example. A, bare.b.example. A, bare. A",
        ),
        // A dot: the bare name first.
        ("www.site.", "A", no_error, "192.0.2.4", "www.site. A"),
        (
            "deep.sub.",
            "A",
            no_error,
            "-> deep.sub.b.example., 192.0.2.6",
            "deep.sub. A, deep.sub.a.example. A, deep.sub.b.example. A",
        ),
        // Nowhere.
        (
            "none.",
            "A",
            nx,
            "",
            "none.a.example. A, none.b.example. A, none. A",
        ),
        (
            "no.ne.",
            "A",
            nx,
            "",
            "no.ne. A, no.ne.a.example. A, no.ne.b.example. A",
        ),
        // A host with the other kind of address only ends the search.
        (
            "mixed.",
            "A",
            no_error,
            "-> mixed.a.example., 192.0.2.7",
            "mixed.a.example. A",
        ),
        (
            "mixed.",
            "AAAA",
            no_error,
            "-> mixed.a.example.",
            "mixed.a.example. AAAA, mixed.a.example. A",
        ),
        (
            "www.site.",
            "AAAA",
            no_error,
            "",
            "www.site. AAAA, www.site. A",
        ),
        (
            "one.",
            "HTTPS",
            no_error,
            "-> one.a.example.",
            "one.a.example. HTTPS, one.a.example. A",
        ),
        // 0.0.0.0 is no host.
        (
            "blocked.",
            "A",
            no_error,
            "-> blocked.b.example., 192.0.2.8",
            "blocked.a.example. A, blocked.b.example. A",
        ),
        (
            "nulled.",
            "A",
            no_error,
            "0.0.0.0",
            "nulled.a.example. A, nulled.b.example. A, nulled. A",
        ),
        // A failure is passed over, but not forgotten.
        (
            "broken.",
            "A",
            no_error,
            "-> broken.b.example., 192.0.2.9",
            "broken.a.example. A, broken.b.example. A",
        ),
        (
            "lost.",
            "A",
            ResponseCode::ServFail,
            "",
            "lost.a.example. A, lost.b.example. A, lost. A",
        ),
        (
            "bad.",
            "A",
            ResponseCode::Refused,
            "",
            "bad.a.example. A, bad.b.example. A, bad. A",
        ),
        // A name without addresses anywhere is not said not to be there.
        (
            "mail.",
            "A",
            no_error,
            "-> mail.a.example.",
            "mail.a.example. A, mail.a.example. AAAA, mail.b.example. A, mail.b.example. AAAA, mail. A",
        ),
        // A name tried first stands by its own answer.
        (
            "gone.x.",
            "A",
            nx,
            "",
            "gone.x. A, gone.x.a.example. A, gone.x.b.example. A",
        ),
        (
            "sick.x.",
            "A",
            ResponseCode::ServFail,
            "",
            "sick.x. A, sick.x.a.example. A, sick.x.b.example. A, sick.x.b.example. AAAA",
        ),
        (
            "post.x.",
            "A",
            no_error,
            "",
            "post.x. A, post.x. AAAA, post.x.a.example. A, post.x.b.example. A",
        ),
        // Other types are not searched.
        ("mail.", "MX", nx, "", "mail. MX"),
        ("one.", "ANY", nx, "", "one. ANY"),
    ] {
        let query = query(name, qtype.parse().expect("type"));
        let answer = ask(&resolver, &query, Transport::Udp).await;
        assert_eq!(upstream.asked().join(", "), asked, "{name} {qtype}");
        assert_eq!(
            (answer.response_code, records(&answer).join(", ")),
            (code, answers.to_owned()),
            "{name} {qtype}"
        );
    }
}

#[tokio::test]
async fn ndots_moves_the_border() {
    let (upstream, resolver) = setup(Some(&["a.example"]), 2).await;
    let answer = ask(
        &resolver,
        &query("www.site.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(records(&answer), ["-> www.site.a.example.", "192.0.2.5"]);
    assert_eq!(upstream.asked(), ["www.site.a.example. A"]);
}

#[tokio::test]
async fn only_plain_questions_are_searched() {
    let (upstream, resolver) = setup(Some(&["a.example"]), 1).await;
    // A validating guest would not believe an alias that nobody signed.
    let mut signed = edns_query("one.", RecordType::A, 1232);
    signed.edns.as_mut().expect("edns").set_dnssec_ok(true);
    let mut iterative = query("one.", RecordType::A);
    iterative.metadata.recursion_desired = false;
    for query in [signed, iterative] {
        let answer = ask(&resolver, &query, Transport::Udp).await;
        assert_eq!(answer.response_code, ResponseCode::NXDomain);
        assert_eq!(upstream.asked(), ["one. A"]);
    }
    // EDNS alone is no hindrance, and is answered with EDNS.
    let query = edns_query("one.", RecordType::A, 4096);
    let answer = ask(&resolver, &query, Transport::Udp).await;
    assert_eq!(records(&answer), ["-> one.a.example.", "192.0.2.1"]);
    assert!(answer.edns.is_some());
    assert!(!answer.authentic_data && !answer.authoritative && answer.recursion_available);
    assert_eq!(answer.answers[0].ttl, 300);
}

#[tokio::test]
async fn the_hosts_list_is_for_short_names_only() {
    let upstream = Upstream::with_zone(ZONE).await;
    let dir = tempfile::tempdir().expect("directory");
    let resolv_conf = dir.path().join("resolv.conf");
    fs::write(
        &resolv_conf,
        "nameserver 127.0.0.1\nsearch a.example b.example\n",
    )
    .expect("write");
    let config = DnsConfig {
        resolv_conf,
        ..config()
    };
    let resolver = Resolver::with_port(config, &plan(), upstream.addr.port()).expect("resolver");
    let answer = ask(&resolver, &query("two.", RecordType::A), Transport::Udp).await;
    assert_eq!(records(&answer), ["-> two.b.example.", "192.0.2.2"]);
    upstream.asked();
    let answer = ask(
        &resolver,
        &query("deep.sub.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
    assert_eq!(upstream.asked(), ["deep.sub. A"]);
}

#[tokio::test]
async fn the_hosts_list_goes_with_given_servers_too() {
    let upstream = Upstream::with_zone(ZONE).await;
    let dir = tempfile::tempdir().expect("directory");
    let resolv_conf = dir.path().join("resolv.conf");
    fs::write(&resolv_conf, "nameserver 127.0.0.9\nsearch b.example\n").expect("write");
    let config = DnsConfig {
        upstreams: vec![upstream.addr],
        resolv_conf,
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    assert_eq!(resolver.search_domains(), ["b.example"]);
    let answer = ask(&resolver, &query("two.", RecordType::A), Transport::Udp).await;
    assert_eq!(records(&answer), ["-> two.b.example.", "192.0.2.2"]);
}

#[tokio::test]
async fn an_empty_list_switches_searching_off() {
    let (upstream, resolver) = setup(Some(&[]), 1).await;
    let answer = ask(&resolver, &query("one.", RecordType::A), Transport::Udp).await;
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
    assert_eq!(upstream.asked(), ["one. A"]);
    assert!(resolver.search_domains().is_empty());
}

#[tokio::test]
async fn static_names_are_searched_too() {
    let (upstream, resolver) = setup(Some(&["a.example", "b.example"]), 1).await;
    resolver
        .add_host("two.a.example", "198.51.100.1".parse().expect("address"))
        .expect("room");
    let answer = ask(&resolver, &query("two.", RecordType::A), Transport::Udp).await;
    assert_eq!(records(&answer), ["-> two.a.example.", "198.51.100.1"]);
    // Known here, with the other kind of address: nobody is asked.
    let answer = ask(&resolver, &query("two.", RecordType::AAAA), Transport::Udp).await;
    assert_eq!(records(&answer), ["-> two.a.example."]);
    assert!(upstream.asked().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_silent_candidate_costs_its_time_only() {
    let (_upstream, resolver) = setup(Some(&["a.example", "b.example"]), 1).await;
    let start = tokio::time::Instant::now();
    let answer = ask(&resolver, &query("quiet.", RecordType::A), Transport::Udp).await;
    assert_eq!(records(&answer), ["-> quiet.b.example.", "192.0.2.10"]);
    assert_eq!(start.elapsed().as_secs(), 4);
    // And the deadline holds for the whole search.
    let upstream = Upstream::silent().await;
    let search = Some((0..20).map(|i| format!("d{i}.example")).collect());
    let config = DnsConfig {
        upstreams: vec![upstream.addr],
        search,
        ..config()
    };
    let resolver = Resolver::new(config, &plan()).expect("resolver");
    let start = tokio::time::Instant::now();
    let answer = ask(&resolver, &query("one.", RecordType::A), Transport::Udp).await;
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert_eq!(start.elapsed(), Duration::from_secs(10));
}
