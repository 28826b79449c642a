//! Router advertisements: what they say and when.

use super::*;

/// The options behind the fixed part of an advertisement, as bytes.
fn advertised(frame: &[u8]) -> Vec<Vec<u8>> {
    let (_, _, _, payload) = take_apart(frame);
    NdpOptionsIterator::from_slice(&payload[8..])
        .map(|option| option.expect("well-formed").as_bytes().to_vec())
        .collect()
}

fn option(frame: &[u8], kind: u8) -> Vec<Vec<u8>> {
    advertised(frame)
        .into_iter()
        .filter(|option| option[0] == kind)
        .collect()
}

#[test]
fn an_advertisement_says_everything() {
    let mut bench = Bench::new(config(&["corp.example", "lab"]));
    let answer = bench.answer(&router_solicitation("fe80::9", &SOURCE_OPTION));
    assert_eq!(answer[..6], GUEST_MAC.0);
    let (src, dst, fields, payload) = take_apart(&answer);
    assert_eq!((src, dst), (v6("fe80::2"), v6("fe80::9")));
    assert_eq!(fields, [64, 0x40, 0x07, 0x08], "hop limit, O flag, 1800 s");
    assert_eq!(payload[..8], [0; 8], "timers unspecified");
    let mut prefix = vec![3, 4, 64, 0xc0];
    prefix.extend_from_slice(&86_400u32.to_be_bytes());
    prefix.extend_from_slice(&14_400u32.to_be_bytes());
    prefix.extend_from_slice(&[0; 4]);
    prefix.extend_from_slice(&v6("fd00::").octets());
    let mut resolver = vec![25, 3, 0, 0];
    resolver.extend_from_slice(&1800u32.to_be_bytes());
    resolver.extend_from_slice(&v6("fd00::3").octets());
    let mut search = vec![31, 4, 0, 0];
    search.extend_from_slice(&1800u32.to_be_bytes());
    search.extend_from_slice(b"\x04corp\x07example\x00\x03lab\x00\x00\x00\x00\x00\x00");
    let expected = vec![
        vec![1, 1, 2, 0, 0, 0, 0, 2],
        vec![5, 1, 0, 0, 0, 0, 0x05, 0xdc],
        prefix,
        resolver,
        search,
    ];
    assert_eq!(advertised(&answer), expected);
}

#[test]
fn without_resolver_and_search_there_is_nothing_else_to_ask() {
    let mut quiet = config(&[]);
    quiet.announce_dns = false;
    let answer = Bench::new(quiet).answer(&router_solicitation("fe80::9", &[]));
    assert_eq!(take_apart(&answer).2, [64, 0, 0x07, 0x08], "no O flag");
    let kinds: Vec<u8> = advertised(&answer).iter().map(|option| option[0]).collect();
    assert_eq!(kinds, [1, 5, 3]);
}

#[test]
fn an_mtu_below_ipv6s_least_is_not_advertised() {
    let mut small = config(&[]);
    small.plan.mtu = Mtu::new(1279).expect("possible");
    let answer = Bench::new(small).answer(&router_solicitation("fe80::9", &[]));
    assert!(option(&answer, 5).is_empty());
}

#[test]
fn advertisements_start_quickly_and_then_come_every_few_minutes() {
    let mut bench = Bench::new(config(&[]));
    let (waited, frame) = bench.next_advertisement();
    assert_eq!(waited, Duration::ZERO);
    assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(take_apart(&frame).1, v6("ff02::1"));
    assert_eq!(bench.next_advertisement().0, Duration::from_secs(16));
    assert_eq!(bench.next_advertisement().0, Duration::from_secs(16));
    let waits: Vec<u64> = (0..100)
        .map(|_| bench.next_advertisement().0.as_secs())
        .collect();
    assert!(
        waits.iter().all(|wait| (200..600).contains(wait)),
        "{waits:?}"
    );
    assert!(
        waits.iter().max() > waits.iter().min(),
        "not in step: {waits:?}"
    );
    // Nothing is due in between.
    let mut out = Vec::new();
    bench
        .gateway
        .poll(bench.now + Duration::from_secs(199), &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_solicitor_without_address_is_answered_by_multicast_every_three_seconds() {
    let mut bench = Bench::new(config(&[]));
    let solicit = router_solicitation("::", &[]);
    let answer = bench.answer(&solicit);
    assert_eq!(answer[..6], [0x33, 0x33, 0, 0, 0, 1]);
    bench.now += Duration::from_secs(1);
    for _ in 0..3 {
        assert_eq!(bench.handle(&solicit).0, Handled::Accepted);
    }
    assert_eq!(bench.next_advertisement().0, Duration::from_secs(2));
    // Solicitations by unicast do not wait.
    bench.answer(&router_solicitation("fe80::9", &SOURCE_OPTION));
    assert_eq!(
        bench.ignored(&router_solicitation("::", &SOURCE_OPTION)),
        Reason::Malformed
    );
    assert_eq!(
        bench.ignored(&router_solicitation("fe80::2", &[])),
        Reason::Spoofed
    );
}

#[test]
fn a_new_search_list_is_advertised_at_once_and_the_old_one_revoked() {
    let mut bench = Bench::new(config(&["old.example", "kept.example"]));
    for _ in 0..4 {
        bench.next_advertisement();
    }
    bench.now += Duration::from_secs(60);
    bench
        .gateway
        .set_search(&["kept.example".to_owned(), "new.example".to_owned()]);
    for (n, expected_wait) in [0, 16, 16].into_iter().enumerate() {
        let (waited, frame) = bench.next_advertisement();
        assert_eq!(waited, Duration::from_secs(expected_wait), "{n}");
        let lists = option(&frame, 31);
        assert_eq!(lists.len(), 2, "{n}");
        assert_eq!(
            lists[0][8..],
            *b"\x04kept\x07example\x00\x03new\x07example\x00\x00\x00\x00\x00\x00"
        );
        assert_eq!(lists[1][4..8], [0; 4], "no longer valid");
        assert_eq!(lists[1][8..], *b"\x03old\x07example\x00\x00\x00\x00");
    }
    let (waited, frame) = bench.next_advertisement();
    assert!(waited >= Duration::from_secs(200));
    assert_eq!(option(&frame, 31).len(), 1);
    // The same list again changes nothing.
    let deadline = bench.gateway.next_deadline();
    bench
        .gateway
        .set_search(&["Kept.Example.".to_owned(), "new.example".to_owned()]);
    assert_eq!(bench.gateway.next_deadline(), deadline);
}

#[test]
fn the_longest_search_lists_keep_an_advertisement_under_1280_bytes() {
    let long = |tag: &str| -> Vec<String> {
        (0..40)
            .map(|i| format!("{tag}{i}.{}.example", "x".repeat(30)))
            .collect()
    };
    let mut bench = Bench::new(NeighbourhoodConfig {
        search: long("a"),
        ..config(&[])
    });
    bench.next_advertisement();
    bench.gateway.set_search(&long("b"));
    let (_, frame) = bench.next_advertisement();
    assert!(frame.len() <= 14 + 1280, "{}", frame.len());
    assert_eq!(option(&frame, 31).len(), 1, "the revoked list does not fit");
}

#[test]
fn without_ipv6_nothing_is_advertised_or_answered() {
    let mut off = config(&[]);
    off.plan.v6 = None;
    let mut bench = Bench::new(off);
    assert_eq!(bench.gateway.next_deadline(), None);
    let mut out = Vec::new();
    bench
        .gateway
        .poll(bench.now + Duration::from_secs(10_000), &mut out);
    assert!(out.is_empty());
    let solicit = router_solicitation("fe80::9", &[]);
    assert_eq!(bench.handle(&solicit).0, Handled::NotMine);
}
