//! What is passed on to servers, and which.

use std::fs;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::rdata::opt::{EdnsCode, EdnsOption};
use hickory_proto::rr::rdata::{A, NULL, TXT};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::time::Instant;

use super::super::testing::{
    Upstream, ask, config, edns_query, name, plan, query, resolver, response,
};
use super::super::upstream::PENALTY;
use super::super::{Resolver, Transport};
use crate::config::DnsConfig;

/// Extended error (RFC 8914) of an answer.
fn extended_error(answer: &Message) -> Option<u16> {
    match answer.edns.as_ref()?.option(EdnsCode::Unknown(15))? {
        EdnsOption::Unknown(_, data) => Some(u16::from_be_bytes(data[..2].try_into().ok()?)),
        _ => None,
    }
}

/// `count` text records of 100 bytes.
fn texts(owner: &str, count: usize) -> Vec<Record> {
    let text = |i| RData::TXT(TXT::new(vec![format!("{i:0>100}")]));
    (0..count)
        .map(|i| Record::from_rdata(name(owner), 60, text(i)))
        .collect()
}

#[tokio::test]
async fn every_type_class_and_option_passes_unchanged() {
    // The server answers with data that no decoder knows, in every section.
    let upstream = Upstream::start(|query, _| {
        let mut answer = query.to_vec();
        answer[2] |= 0x80;
        answer[3] |= 0x20; // AD
        vec![answer]
    })
    .await;
    let resolver = resolver(&[&upstream]);
    for qtype in (0..=260).chain([32768, 32769, 65280, 65535]) {
        if [251, 252].contains(&qtype) {
            continue;
        }
        for class in [DNSClass::IN, DNSClass::CH, DNSClass::ANY] {
            let mut query = edns_query("Some.Name.example.", RecordType::from(qtype), 1232);
            query.queries[0].set_query_class(class);
            query.metadata.checking_disabled = true;
            let edns = query.edns.as_mut().expect("edns");
            edns.set_dnssec_ok(true);
            edns.options_mut()
                .insert(EdnsOption::Unknown(65001, vec![1, 2, 3]));
            let unknown = RData::Unknown {
                code: RecordType::Unknown(65282),
                rdata: NULL::with(vec![0xc0, 0xff, 0]),
            };
            query.add_additional(Record::from_rdata(name("x.example."), 7, unknown));
            let sent = query.to_vec().expect("query");
            let answer = resolver
                .answer(&sent, Transport::Udp)
                .await
                .expect("answer");
            let mut expected = sent.clone();
            expected[2] |= 0x80;
            expected[3] |= 0x20;
            assert_eq!(answer, expected, "type {qtype}");
        }
    }
}

#[tokio::test]
async fn the_guests_identifier_is_not_the_servers() {
    let upstream = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let resolver = resolver(&[&upstream]);
    let query = query("a.example.", RecordType::A);
    for _ in 0..8 {
        ask(&resolver, &query, Transport::Udp).await;
    }
    let mut ids: Vec<_> = upstream.messages().iter().map(|m| m.id).collect();
    ids.dedup();
    assert!(ids.len() >= 7, "{ids:?}");
}

#[tokio::test]
async fn denials_pass_as_they_are() {
    let first = Upstream::start(|query, _| {
        let query = Message::from_vec(query).expect("query");
        let mut answer = response(&query, ResponseCode::NXDomain, Vec::new());
        let soa = "ns.example. admin.example. 1 2 3 4 5";
        let soa = RData::try_from_str(RecordType::SOA, soa).expect("soa");
        answer.add_authority(Record::from_rdata(name("example."), 99, soa));
        vec![answer.to_vec().expect("answer")]
    })
    .await;
    let second = Upstream::silent().await;
    let resolver = resolver(&[&first, &second]);
    let answer = ask(
        &resolver,
        &query("no.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(answer.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities[0].ttl, 99);
    assert!(second.asked().is_empty());
}

#[tokio::test]
async fn a_server_that_cannot_tell_is_passed_over() {
    let first = Upstream::with_zone(&[
        ("a.example.", "SERVFAIL"),
        ("b.example.", "REFUSED"),
        ("c.example.", "SERVFAIL"),
    ])
    .await;
    let second = Upstream::with_zone(&[
        ("a.example.", "A 192.0.2.1"),
        ("b.example.", "A 192.0.2.2"),
        ("c.example.", "REFUSED"),
    ])
    .await;
    let resolver = resolver(&[&first, &second]);
    for (name, code, answers) in [
        ("a.example.", ResponseCode::NoError, 1),
        ("b.example.", ResponseCode::NoError, 1),
        ("c.example.", ResponseCode::ServFail, 0),
    ] {
        let answer = ask(&resolver, &query(name, RecordType::A), Transport::Udp).await;
        assert_eq!(
            (answer.response_code, answer.answers.len()),
            (code, answers),
            "{name}"
        );
        // It stays first: it is only this name that it cannot tell.
        assert_eq!(first.asked(), [format!("{name} A")]);
        assert_eq!(second.asked(), [format!("{name} A")]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_passed_over_and_remembered() {
    let silent = Upstream::silent().await;
    let good = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let resolver = resolver(&[&silent, &good]);
    let query = query("a.example.", RecordType::A);
    let start = Instant::now();
    ask(&resolver, &query, Transport::Udp).await;
    let first = start.elapsed();
    assert!((2000..2100).contains(&first.as_millis()), "{first:?}");
    assert_eq!(silent.asked().len(), 1);
    // The next one does not wait for it.
    let start = Instant::now();
    ask(&resolver, &query, Transport::Udp).await;
    assert!(start.elapsed() < Duration::from_millis(100));
    assert!(silent.asked().is_empty());
    // Later it is given another chance.
    tokio::time::advance(PENALTY).await;
    ask(&resolver, &query, Transport::Udp).await;
    assert_eq!(silent.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_slow_with_one_name_keeps_its_place() {
    let zone = &[("slow.example.", "SILENT"), ("a.example.", "A 192.0.2.1")];
    let first = Upstream::with_zone(zone).await;
    let second = Upstream::with_zone(&[("slow.example.", "A 192.0.2.2")]).await;
    let resolver = resolver(&[&first, &second]);
    let (slow, fast) = (
        query("slow.example.", RecordType::A),
        query("a.example.", RecordType::A),
    );
    let meanwhile = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        ask(&resolver, &fast, Transport::Udp).await
    };
    let (slow, _) = tokio::join!(ask(&resolver, &slow, Transport::Udp), meanwhile);
    assert_eq!(slow.answers.len(), 1);
    assert_eq!((first.asked().len(), second.asked().len()), (2, 1));
    ask(&resolver, &fast, Transport::Udp).await;
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn when_all_are_silent_it_ends_with_servfail() {
    let one = Upstream::silent().await;
    let two = Upstream::silent().await;
    let upstreams = vec![one.addr, two.addr];
    for (deadline, seconds) in [(60, 8), (3, 3)] {
        let deadline = Duration::from_secs(deadline);
        let config = DnsConfig {
            upstreams: upstreams.clone(),
            deadline,
            ..config()
        };
        let resolver = Resolver::new(config, &plan()).expect("resolver");
        let start = Instant::now();
        let query = edns_query("a.example.", RecordType::A, 1232);
        let answer = ask(&resolver, &query, Transport::Udp).await;
        assert_eq!(start.elapsed().as_secs(), seconds);
        assert_eq!(answer.response_code, ResponseCode::ServFail);
        assert_eq!(extended_error(&answer), Some(22));
    }
}

#[tokio::test]
async fn a_server_that_refuses_connections_costs_no_time() {
    let gone = Upstream::silent().await.addr;
    // Another address of the loopback, where nobody listens.
    let nobody = format!("127.0.0.9:{}", gone.port())
        .parse()
        .expect("address");
    let good = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let start = Instant::now();
    let config1 = DnsConfig {
        upstreams: vec![nobody, good.addr],
        ..config()
    };
    let resolver = Resolver::new(config1, &plan()).expect("resolver");
    ask(
        &resolver,
        &query("a.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert!(start.elapsed() < Duration::from_secs(1));
    let alone = DnsConfig {
        upstreams: vec![nobody],
        ..config()
    };
    let resolver = Resolver::new(alone, &plan()).expect("resolver");
    let query = edns_query("a.example.", RecordType::A, 1232);
    let answer = ask(&resolver, &query, Transport::Udp).await;
    assert_eq!(answer.response_code, ResponseCode::ServFail);
    assert_eq!(extended_error(&answer), Some(23));
}

#[tokio::test]
async fn a_server_of_the_other_family_serves_as_well() {
    let upstream = match tokio::net::UdpSocket::bind("[::1]:0").await {
        Ok(_) => Upstream::start_at("[::1]:0", |q, _| vec![echo(q)]).await,
        Err(error) => return eprintln!("SKIPPED: no IPv6 loopback here: {error}"),
    };
    let resolver = resolver(&[&upstream]);
    let answer = ask(
        &resolver,
        &query("a.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(answer.response_code, ResponseCode::NoError);
}

/// An empty answer to `query`.
fn echo(query: &[u8]) -> Vec<u8> {
    let query = Message::from_vec(query).expect("query");
    response(&query, ResponseCode::NoError, Vec::new())
        .to_vec()
        .expect("response")
}

/// A server whose answer is long: cut by UDP, whole by TCP.
async fn long_winded() -> Upstream {
    Upstream::start(|query, transport| {
        let query = Message::from_vec(query).expect("query");
        let owner = query.queries[0].name().to_ascii();
        let mut answer = response(&query, ResponseCode::NoError, texts(&owner, 20));
        if transport == Transport::Udp {
            answer.answers.truncate(2);
            answer.metadata.truncation = true;
        }
        vec![answer.to_vec().expect("answer")]
    })
    .await
}

#[tokio::test]
async fn long_answers_come_by_tcp_and_are_cut_for_the_guest() {
    let upstream = long_winded().await;
    let resolver = resolver(&[&upstream]);
    for (udp_len, transport, cut, at_least) in [
        (None, Transport::Udp, true, 3),
        (Some(0), Transport::Udp, true, 3),
        (Some(1232), Transport::Udp, true, 9),
        (Some(4096), Transport::Udp, false, 20),
        (None, Transport::Tcp, false, 20),
        (Some(512), Transport::Tcp, false, 20),
    ] {
        let query = match udp_len {
            None => query("long.example.", RecordType::TXT),
            Some(len) => edns_query("long.example.", RecordType::TXT, len),
        };
        let answer = ask(&resolver, &query, transport).await;
        assert_eq!(answer.truncation, cut, "{udp_len:?} {transport:?}");
        assert!(
            answer.answers.len() >= at_least,
            "{} {udp_len:?}",
            answer.answers.len()
        );
        assert_eq!(
            answer.edns.is_some(),
            udp_len.is_some(),
            "the OPT record stays"
        );
        assert_eq!(
            upstream.asked(),
            ["long.example. TXT", "long.example. TXT tcp"]
        );
    }
}

#[tokio::test]
async fn no_more_is_asked_for_by_udp_than_crosses_any_path() {
    let upstream = Upstream::with_zone(&[("a.example.", "A 192.0.2.1")]).await;
    let resolver = resolver(&[&upstream]);
    for (guest, asked) in [(4096, 1232), (512, 512), (1232, 1232)] {
        let query = edns_query("a.example.", RecordType::A, guest);
        ask(&resolver, &query, Transport::Udp).await;
        assert_eq!(upstream.messages()[0].max_payload(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_without_tcp_gives_what_it_can() {
    // Connections are taken, but nothing is said.
    let upstream = Upstream::start(|query, transport| {
        let mut answer = echo(query);
        answer[2] |= 0x02;
        if transport == Transport::Udp {
            vec![answer]
        } else {
            Vec::new()
        }
    })
    .await;
    let resolver = resolver(&[&upstream]);
    let question = query("a.example.", RecordType::A);
    for seconds in [2, 0] {
        // The second time it is known not to answer by TCP.
        let start = Instant::now();
        let answer = ask(&resolver, &question, Transport::Udp).await;
        assert!(answer.truncation);
        assert_eq!(start.elapsed().as_secs(), seconds);
    }
    let answer = ask(&resolver, &question, Transport::Tcp).await;
    assert_eq!(
        (answer.response_code, answer.truncation),
        (ResponseCode::ServFail, false)
    );
}

#[tokio::test]
async fn what_was_not_asked_for_is_not_believed() {
    let upstream = Upstream::start(|bytes, _| {
        let query = Message::from_vec(bytes).expect("query");
        let data = RData::A(A::new(203, 0, 113, 66));
        let evil = vec![Record::from_rdata(query.queries[0].name().clone(), 9, data)];
        let forged = response(&query, ResponseCode::NoError, evil)
            .to_vec()
            .expect("response");
        let mut wrong_id = forged.clone();
        wrong_id[0] ^= 1;
        let mut wrong_name = forged.clone();
        wrong_name[13] ^= 1;
        let mut wrong_type = forged.clone();
        let end = 12 + query.queries[0].name().len() + 1;
        wrong_type[end + 1] ^= 1;
        let mut no_response = forged.clone();
        no_response[2] &= 0x7f;
        let no_question = [&forged[..4], &[0; 8]].concat();
        let short = forged[..11].to_vec();
        let good = echo(bytes);
        vec![
            wrong_id,
            wrong_name,
            wrong_type,
            no_response,
            no_question,
            short,
            Vec::new(),
            good,
        ]
    })
    .await;
    let resolver = resolver(&[&upstream]);
    let answer = ask(
        &resolver,
        &query("abc.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(
        (answer.response_code, answer.answers.len()),
        (ResponseCode::NoError, 0)
    );
    assert_eq!(upstream.asked().len(), 1);
}

#[tokio::test]
async fn somebody_who_guesses_drives_the_query_to_tcp() {
    let upstream = Upstream::start(|query, transport| {
        let mut forged = echo(query);
        if transport == Transport::Tcp {
            return vec![forged];
        }
        forged[0] ^= 0xff;
        vec![forged; 40]
    })
    .await;
    let resolver = resolver(&[&upstream]);
    ask(
        &resolver,
        &query("a.example.", RecordType::A),
        Transport::Udp,
    )
    .await;
    assert_eq!(upstream.asked(), ["a.example. A", "a.example. A tcp"]);
}

#[tokio::test]
async fn broken_answers_and_errors_without_question_lead_to_the_next() {
    let broken = Upstream::start(|query, _| {
        let mut answer = echo(query);
        answer[7] = 9; // nine records that are not there
        vec![answer]
    })
    .await;
    let curt = Upstream::start(|query, _| {
        let mut answer = echo(query)[..12].to_vec();
        answer[3] = 5; // REFUSED
        answer[5] = 0; // no question
        vec![answer]
    })
    .await;
    let query = query("a.example.", RecordType::A);
    let answer = ask(&resolver(&[&broken, &curt]), &query, Transport::Udp).await;
    assert_eq!(answer.response_code, ResponseCode::Refused);
    assert_eq!(curt.asked().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn resolv_conf_is_followed_even_in_the_middle_of_a_query() {
    let old = Upstream::silent().await;
    let port = old.addr.port();
    let new = Upstream::start_at(&format!("127.0.0.2:{port}"), |q, _| vec![echo(q)]).await;
    let third = Upstream::start_at(&format!("127.0.0.3:{port}"), |q, _| vec![echo(q)]).await;
    let dir = tempfile::tempdir().expect("directory");
    let resolv_conf = dir.path().join("resolv.conf");
    let write = |text: &str| {
        let next = dir.path().join("next");
        fs::write(&next, text).expect("write");
        fs::rename(&next, &resolv_conf).expect("rename");
    };
    write("nameserver 127.0.0.1\nsearch old.example\n");
    let config = DnsConfig {
        resolv_conf: resolv_conf.clone(),
        ..config()
    };
    let resolver = Resolver::with_port(config, &plan(), port).expect("resolver");
    assert_eq!(resolver.search_domains(), ["old.example"]);
    let question = query("a.example.", RecordType::A);
    let change = async {
        tokio::time::sleep(Duration::from_millis(1500)).await;
        write("nameserver 127.0.0.2\nsearch new.example other.example\n");
    };
    let start = Instant::now();
    let (answer, ()) = tokio::join!(ask(&resolver, &question, Transport::Udp), change);
    assert_eq!(answer.response_code, ResponseCode::NoError);
    assert_eq!(start.elapsed().as_secs(), 2);
    assert_eq!((old.asked().len(), new.asked().len()), (1, 1));
    assert_eq!(resolver.search_domains(), ["new.example", "other.example"]);
    // And between queries.
    write("nameserver 127.0.0.3\n");
    tokio::time::advance(Duration::from_secs(1)).await;
    ask(&resolver, &question, Transport::Udp).await;
    assert_eq!((new.asked().len(), third.asked().len()), (0, 1));
}

#[tokio::test]
async fn rotate_and_use_vc_are_obeyed() {
    let one = Upstream::start(|q, _| vec![echo(q)]).await;
    let port = one.addr.port();
    let two = Upstream::start_at(&format!("127.0.0.2:{port}"), |q, _| vec![echo(q)]).await;
    let dir = tempfile::tempdir().expect("directory");
    let resolv_conf = dir.path().join("resolv.conf");
    let text = "nameserver 127.0.0.1\nnameserver 127.0.0.2\noptions rotate use-vc\n";
    fs::write(&resolv_conf, text).expect("write");
    let resolver = Resolver::with_port(
        DnsConfig {
            resolv_conf,
            ..config()
        },
        &plan(),
        port,
    );
    let resolver = resolver.expect("resolver");
    for _ in 0..4 {
        ask(
            &resolver,
            &query("a.example.", RecordType::A),
            Transport::Udp,
        )
        .await;
    }
    assert_eq!(one.asked(), ["a.example. A tcp", "a.example. A tcp"]);
    assert_eq!(two.asked(), ["a.example. A tcp", "a.example. A tcp"]);
}
