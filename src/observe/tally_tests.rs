use proptest::prelude::*;

use super::*;
use crate::observe::testing::{Flow, flow};
use crate::policy::FlowVerdict;
use std::time::SystemTime;

fn tally(flows: &[Flow]) -> Tally {
    let mut tally = Tally::new(Instant::now(), Keep::Flows);
    for flow in flows {
        tally.record(&flow.opened());
        tally.record(&flow.closed());
    }
    tally
}

#[test]
fn flows_to_one_name_are_one_remote() {
    let began = Instant::now();
    let tally = tally(&[
        flow(began, 1, "192.0.2.1:443").named("example.com"),
        flow(began, 2, "[2001:db8::1]:443").named("example.com"),
        flow(began, 3, "192.0.2.1:443"),
        flow(began, 4, "192.0.2.1:80")
            .named("example.com")
            .refused(),
    ]);
    let remotes = tally.remotes();
    let keys: Vec<_> = remotes
        .iter()
        .map(|r| (r.host.clone(), r.port, r.sums.flows, r.sums.failed()))
        .collect();
    let name = Host::Name("example.com".into());
    let addr = Host::Addr("192.0.2.1".parse().expect("an address"));
    assert_eq!(
        keys,
        [
            (name.clone(), 443, 2, 0),
            (addr, 443, 1, 0),
            (name, 80, 1, 1)
        ]
    );
    assert_eq!(remotes[0].addresses.len(), 2);
    assert_eq!(remotes[0].sums.to_guest.bytes, 2000);
    let connect = remotes[0].connect.quantiles().expect("two times");
    assert_eq!(connect.count, 2);
    // To two digits.
    let error = connect.median.abs_diff(Duration::from_millis(20));
    assert!(error <= Duration::from_micros(200), "{connect:?}");
    assert!(remotes[2].connect.quantiles().is_none());
    assert_eq!(tally.total.verdicts["refused"], 1);
    assert_eq!(tally.total.flows, 4);
}

#[test]
fn runs_of_one_program_are_one_program() {
    let began = Instant::now();
    let tally = tally(&[
        flow(began, 1, "192.0.2.1:443").of(7, "curl"),
        flow(began, 2, "192.0.2.1:443").of(8, "curl"),
        flow(began, 3, "192.0.2.1:443").of(9, "wget"),
        flow(began, 4, "192.0.2.1:443"),
    ]);
    let programs = tally.programs();
    let names: Vec<_> = programs.iter().map(|p| (&*p.name, p.pids.len())).collect();
    assert_eq!(names, [("curl", 2), ("wget", 1)]);
    assert_eq!(tally.other_programs.flows, 1);
}

#[test]
fn most_at_one_time() {
    let began = Instant::now();
    let flows: Vec<Flow> = (1..=3).map(|n| flow(began, n, "192.0.2.1:1")).collect();
    let mut tally = Tally::new(began, Keep::Sums);
    tally.record(&flows[0].opened());
    tally.record(&flows[1].opened());
    tally.record(&flows[0].closed());
    tally.record(&flows[2].opened());
    assert_eq!(tally.peak_open, 2);
    tally.record(&Record::Lost {
        events: 3,
        at: SystemTime::UNIX_EPOCH,
    });
    assert_eq!(tally.lost, 3);
    assert!(tally.kept.is_empty());
}

#[test]
fn clients_of_the_guest_are_one_remote_whatever_their_port() {
    let began = Instant::now();
    let mut flows = [
        flow(began, 1, "192.0.2.1:50000"),
        flow(began, 2, "192.0.2.1:50001"),
    ];
    for flow in &mut flows {
        flow.closed.opened.by = Party::Host;
    }
    let tally = tally(&flows);
    assert_eq!(tally.remotes().len(), 1);
    assert_eq!(tally.remotes()[0].port, 0);
}

#[test]
fn tables_are_bounded_and_sums_stay_right() {
    let began = Instant::now();
    let mut tally = Tally::new(began, Keep::Flows);
    let count = (MAX_FLOWS_KEPT + 500) as u64;
    for n in 0..count {
        let addr = std::net::Ipv4Addr::from(u32::try_from(n).expect("small"));
        let flow = flow(began, n, &format!("{addr}:443")).of(1, &format!("p{n}"));
        tally.record(&flow.closed());
    }
    assert_eq!(tally.kept.len(), MAX_FLOWS_KEPT);
    assert_eq!(tally.not_kept, 500);
    assert_eq!(tally.remotes().len(), MAX_REMOTES);
    assert_eq!(tally.programs().len(), MAX_PROCESSES);
    let others = count - MAX_REMOTES as u64;
    assert_eq!(tally.other_remotes.flows, others);
    assert_eq!(tally.other_remotes.to_guest.bytes, others * 1000);
    assert_eq!(tally.total.to_guest.bytes, count * 1000);
}

fn any_flow() -> impl Strategy<Value = Flow> {
    let verdict = prop_oneof![
        Just(None),
        Just(Some(FlowVerdict::Connected)),
        Just(Some(FlowVerdict::Dns)),
        Just(Some(FlowVerdict::NoAnswer)),
        Just(Some(FlowVerdict::Impaired("refuse"))),
    ];
    let time = prop::option::of(any::<u64>().prop_map(Duration::from_micros));
    (any::<u8>(), any::<u32>(), any::<u32>(), verdict, time).prop_map(
        |(host, down, up, verdict, time)| {
            let mut flow = flow(Instant::now(), u64::from(up), &format!("192.0.2.{host}:9"));
            flow.closed.verdict = verdict;
            flow.closed.connect_time = time;
            flow.closed.to_guest.bytes = u64::from(down) << 20;
            flow.closed.from_guest.bytes = u64::from(up);
            if host % 3 == 0 {
                flow = flow.named(&format!("host{}", host % 7));
            }
            if host % 2 == 0 {
                flow = flow.of(1, &format!("p{}", host % 5));
            }
            flow
        },
    )
}

proptest! {
    #[test]
    fn whatever_comes_every_table_has_the_same_sum(
        flows in prop::collection::vec(any_flow(), 0..60)
    ) {
        let tally = tally(&flows);
        let bytes: u64 = flows
            .iter()
            .map(|f| f.closed.to_guest.bytes + f.closed.from_guest.bytes)
            .sum();
        prop_assert_eq!(tally.total.bytes(), bytes);
        let remotes: u64 = tally.remotes().iter().map(|r| r.sums.bytes()).sum();
        prop_assert_eq!(remotes + tally.other_remotes.bytes(), bytes);
        let programs: u64 = tally.programs().iter().map(|p| p.sums.bytes()).sum();
        prop_assert_eq!(programs + tally.other_programs.bytes(), bytes);
        let protocols: u64 = tally.protocols.values().map(Sums::bytes).sum();
        prop_assert_eq!(protocols, bytes);
        let verdicts: u64 = tally.total.verdicts.values().sum();
        prop_assert_eq!(verdicts, flows.len() as u64);
    }
}
