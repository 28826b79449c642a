//! Tests of the lease table, in virtual time.

use super::*;

const FIRST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const DAY: Duration = Duration::from_secs(86_400);

/// Sixteen addresses.
fn pool() -> impl Iterator<Item = Ipv4Addr> {
    (u32::from(FIRST)..).take(16).map(Ipv4Addr::from)
}

fn addr(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 2, last)
}

fn client(number: u8) -> Client {
    let mac = MacAddr([2, 0, 0, 0, 0, number]);
    Client {
        key: ClientKey::Hardware(mac),
        mac,
        hostname: None,
    }
}

/// A table in which clients 1 to `count` hold leases, the n-th until `now` + n seconds + 1 day.
fn table_with(count: u8, now: Instant) -> LeaseTable {
    let mut table = LeaseTable::new(pool());
    for n in 1..=count {
        let offered = table.offer(now, &client(n), None).expect("room");
        let until = now + DAY + Duration::from_secs(n.into());
        table
            .commit(now, &client(n), offered, until)
            .expect("offered to it");
    }
    table
}

#[test]
fn addresses_are_given_out_in_order() {
    let table = table_with(16, Instant::now());
    let given: Vec<u8> = table.iter().map(|lease| lease.addr.octets()[3]).collect();
    assert_eq!(given, (15..=30).collect::<Vec<u8>>());
}

#[test]
fn a_full_pool_refuses_and_then_reclaims_what_ran_out_first() {
    let now = Instant::now();
    let mut table = table_with(16, now);
    assert_eq!(table.offer(now, &client(99), None), None);
    assert_eq!(table.offer(now + DAY, &client(99), None), None);
    // Clients 1 and 2 have run out.
    let later = now + DAY + Duration::from_secs(2);
    assert_eq!(table.offer(later, &client(99), None), Some(addr(15)));
    assert_eq!(table.offer(later, &client(98), None), Some(addr(16)));
    assert_eq!(table.offer(later, &client(97), None), None);
    // The client that lost its address is told so.
    assert_eq!(
        table.commit(later, &client(1), addr(15), later + DAY),
        Err(Refused::Taken)
    );
}

#[test]
fn a_client_gets_its_address_back_while_nobody_needs_it() {
    let now = Instant::now();
    let mut table = table_with(3, now);
    table
        .release(now, &client(2).key, addr(16))
        .expect("its own");
    assert_eq!(
        table.offer(now, &client(4), None),
        Some(addr(18)),
        "unused ones go first"
    );
    assert_eq!(table.offer(now, &client(2), None), Some(addr(16)));
    assert_eq!(
        table.offer(now + 30 * DAY, &client(3), Some(addr(20))),
        Some(addr(17))
    );
}

#[test]
fn a_wish_is_granted_when_the_address_is_free() {
    let now = Instant::now();
    let mut table = table_with(1, now);
    assert_eq!(table.offer(now, &client(2), Some(addr(22))), Some(addr(22)));
    assert_eq!(
        table.offer(now, &client(3), Some(addr(15))),
        Some(addr(16)),
        "taken"
    );
    for outside in [addr(2), addr(3), addr(0), addr(255), addr(31), addr(100)] {
        let offered = table.offer(now, &client(4), Some(outside)).expect("room");
        assert!(
            (15..=30).contains(&offered.octets()[3]),
            "{outside}: {offered}"
        );
    }
}

#[test]
fn an_offer_is_kept_for_a_minute() {
    let now = Instant::now();
    let mut table = table_with(15, now);
    assert_eq!(table.offer(now, &client(20), None), Some(addr(30)));
    let later = now + Duration::from_secs(59);
    assert_eq!(table.offer(later, &client(21), None), None);
    let later = now + Duration::from_secs(60);
    assert_eq!(table.offer(later, &client(21), None), Some(addr(30)));
    assert_eq!(
        table.commit(later, &client(20), addr(30), later + DAY),
        Err(Refused::Taken)
    );
}

#[test]
fn a_withdrawn_offer_is_free_at_once_and_a_lease_is_not_withdrawn() {
    let now = Instant::now();
    let mut table = table_with(15, now);
    assert_eq!(table.offer(now, &client(20), None), Some(addr(30)));
    table.withdraw_offer(now, &client(20).key);
    assert_eq!(table.offer(now, &client(21), None), Some(addr(30)));
    table.withdraw_offer(now, &client(1).key);
    assert_eq!(table.iter().count(), 15);
}

#[test]
fn a_declined_address_rests_for_an_hour() {
    let now = Instant::now();
    let mut table = table_with(16, now);
    table
        .decline(now, &client(5).key, addr(19))
        .expect("its own");
    let almost = now + Duration::from_secs(3599);
    assert_eq!(table.offer(almost, &client(5), None), None);
    assert_eq!(
        table.commit(almost, &client(5), addr(19), almost + DAY),
        Err(Refused::Taken)
    );
    let after = now + Duration::from_secs(3600);
    assert_eq!(table.offer(after, &client(5), None), Some(addr(19)));

    // It is the last to be tried again.
    let mut table = table_with(2, now);
    table
        .release(now, &client(1).key, addr(15))
        .expect("its own");
    table
        .decline(now, &client(2).key, addr(16))
        .expect("its own");
    for n in 0..14 {
        assert_eq!(
            table.offer(after, &client(20 + n), None),
            Some(addr(17 + n))
        );
    }
    assert_eq!(table.offer(after, &client(40), None), Some(addr(15)));
    assert_eq!(table.offer(after, &client(41), None), Some(addr(16)));
}

#[test]
fn nobody_can_release_or_decline_the_address_of_another() {
    let now = Instant::now();
    let mut table = table_with(2, now);
    assert_eq!(table.release(now, &client(1).key, addr(16)), None);
    assert_eq!(table.decline(now, &client(1).key, addr(16)), None);
    assert_eq!(table.release(now, &client(9).key, addr(16)), None);
    assert_eq!(table.iter().count(), 2);
}

#[test]
fn refusals_say_why() {
    let now = Instant::now();
    let mut table = table_with(2, now);
    let until = now + DAY;
    let mut commit = |n, a| table.commit(now, &client(n), addr(a), until);
    assert_eq!(commit(1, 2), Err(Refused::OutsidePool));
    assert_eq!(commit(1, 31), Err(Refused::OutsidePool));
    assert_eq!(commit(1, 20), Err(Refused::HasAnother));
    assert_eq!(commit(1, 16), Err(Refused::HasAnother));
    assert_eq!(commit(9, 16), Err(Refused::Taken));
    assert_eq!(commit(9, 20), Ok(()), "not remembered, but free");
    assert_eq!(commit(1, 15), Ok(()));
}

#[test]
fn a_renewal_without_a_name_keeps_the_name() {
    let now = Instant::now();
    let mut table = LeaseTable::new(pool());
    let named = Client {
        hostname: Some("box".to_owned()),
        ..client(1)
    };
    let at = table.offer(now, &named, None).expect("room");
    table.commit(now, &named, at, now + DAY).expect("offered");
    table
        .commit(now, &client(1), at, now + 2 * DAY)
        .expect("its own");
    let lease = table.iter().next().expect("a lease");
    assert_eq!(lease.hostname.as_deref(), Some("box"));
    assert_eq!(lease.expires, now + 2 * DAY);
}
