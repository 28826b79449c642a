use std::io;
use std::net::TcpListener;

use super::super::testing::{at_home, here};
use super::super::{HostSocket, Passed};
use super::*;
use crate::net::{MacAddr, Mtu, PlanV4, PlanV6};
use crate::policy::HostTarget;

/// A guest's side that takes everything.
#[derive(Debug, Default)]
struct Guest {
    next: u32,
    open: Vec<(u32, HostSocket)>,
}

impl GuestSide for Guest {
    type Listener = u32;

    fn listen(&mut self, socket: HostSocket) -> io::Result<u32> {
        self.next += 1;
        self.open.push((self.next, socket));
        Ok(self.next)
    }

    fn close(&mut self, listener: u32) {
        self.open.retain(|(id, _)| *id != listener);
    }

    fn expose(&mut self, _: Protocol, _: u16, _: HostTarget) {}

    fn conceal(&mut self, _: Protocol, _: u16) {}
}

struct Bench {
    follower: Follower,
    forwards: Forwards<u32>,
    guest: Guest,
    now: Instant,
}

impl Bench {
    fn new(rule: &str) -> Self {
        let Ok(super::super::PublishOption::Auto(rule)) = at_home(rule).parse() else {
            panic!("{rule} is no rule");
        };
        let plan = AddressPlan {
            v4: Some(PlanV4::new("10.0.2.0/24".parse().expect("net")).expect("plan")),
            v6: Some(PlanV6::new("fd00::/64".parse().expect("net")).expect("plan")),
            gateway_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            mtu: Mtu::ETHERNET,
        };
        Self {
            follower: Follower::new(rule, plan),
            forwards: Forwards::new(4096, Passed::default()),
            guest: Guest::default(),
            now: Instant::now(),
        }
    }

    /// One look; `t` or `u` in front of each address.
    fn look(&mut self, listening: &[&str]) -> Vec<Notice> {
        let listening: Vec<GuestPort> = listening
            .iter()
            .map(|text| GuestPort {
                protocol: match &text[..1] {
                    "t" => Protocol::Tcp,
                    _ => Protocol::Udp,
                },
                at: text[1..].parse().expect("an address"),
            })
            .collect();
        self.follower
            .follow(self.now, &listening, &mut self.forwards, &mut self.guest)
    }

    fn standing(&self) -> Vec<String> {
        let here = here().to_string();
        let specs = self.forwards.list().map(|f| f.spec.to_string());
        specs.map(|spec| spec.replace(&here, "HERE")).collect()
    }
}

#[test]
fn ports_appear_on_loopback_and_go_again() {
    let mut bench = Bench::new("auto");
    // The address is everybody's; the port is free.
    let free = TcpListener::bind("[::1]:0").expect("a port");
    let port = free.local_addr().expect("an address").port();
    drop(free);
    let both = [format!("t0.0.0.0:{port}"), format!("t[::]:{port}")];
    let notices = bench.look(&[&both[0], &both[1]]);
    assert!(
        matches!(&notices[..], [Notice::Published(_)]),
        "{notices:?}"
    );
    assert_eq!(
        bench.standing(),
        [
            format!("--publish 127.0.0.1:{port}:{port}/tcp"),
            format!("--publish [::1]:{port}:{port}/tcp"),
        ]
    );
    assert!(bench.look(&[&both[1]]).is_empty());
    let notices = bench.look(&[]);
    assert!(
        matches!(&notices[..], [Notice::Withdrawn(_)]),
        "{notices:?}"
    );
    assert!(bench.standing().is_empty() && bench.guest.open.is_empty());
}

#[test]
fn protocols_are_kept_apart() {
    let mut bench = Bench::new("auto:HERE");
    bench.look(&["t0.0.0.0:21000", "u[::]:21000", "u[::]:21001"]);
    assert_eq!(
        bench.standing(),
        [
            "--publish HERE:21000:21000/tcp",
            "--publish HERE:21000:21000/udp",
            "--publish HERE:21001:21001/udp",
        ]
    );
    bench.look(&["u[::]:21000"]);
    assert_eq!(bench.standing(), ["--publish HERE:21000:21000/udp"]);
}

#[test]
fn what_cannot_be_reached_or_is_a_client_is_left_out() {
    let mut bench = Bench::new("auto,except=21105-21110");
    bench.look(&[
        "t127.0.0.1:21100",
        "t[::1]:21101",
        "t172.17.0.1:21102",
        "t[2001:db8::1]:21103",
        "t[fe80::1]:21104",
        "t0.0.0.0:21105",
        "u0.0.0.0:21110",
        "u0.0.0.0:40000",
        "t10.0.2.2:21111",
    ]);
    assert_eq!(bench.standing(), Vec::<String>::new());
}

#[test]
fn a_single_address_of_the_guest_is_kept() {
    let mut bench = Bench::new("auto:HERE");
    bench.look(&["t10.0.2.7:21200", "t10.0.2.100:21201", "t[fd00::7]:21202"]);
    assert_eq!(
        bench.standing(),
        [
            "--publish HERE:21200:10.0.2.7:21200/tcp",
            "--publish HERE:21201:21201/tcp",
            "--publish HERE:21202:[fd00::7]:21202/tcp",
        ]
    );
    // Another program takes the same port everywhere.
    bench.look(&["t10.0.2.7:21200", "t[::]:21200"]);
    assert_eq!(bench.standing(), ["--publish HERE:21200:21200/tcp"]);
}

#[test]
fn a_port_in_use_is_said_once_and_tried_again() {
    let mut bench = Bench::new("auto:HERE");
    let taken = TcpListener::bind((here(), 21300)).expect("a port");
    let notices = bench.look(&["t0.0.0.0:21300"]);
    let [Notice::Refused(error)] = &notices[..] else {
        panic!("{notices:?}");
    };
    assert!(
        error.to_string().contains("port 21300 is in use"),
        "{error}"
    );
    assert!(bench.look(&["t0.0.0.0:21300"]).is_empty());
    bench.now += RETRY_AFTER;
    assert!(bench.look(&["t0.0.0.0:21300"]).is_empty());
    // The guest's program comes again.
    bench.look(&[]);
    assert!(matches!(
        &bench.look(&["t0.0.0.0:21300"])[..],
        [Notice::Refused(_)]
    ));
    drop(taken);
    assert!(bench.look(&["t0.0.0.0:21300"]).is_empty());
    bench.now += RETRY_AFTER;
    assert!(matches!(
        &bench.look(&["t0.0.0.0:21300"])[..],
        [Notice::Published(_)]
    ));
}

#[test]
fn forwards_by_name_come_first() {
    let mut bench = Bench::new("auto:HERE");
    let named: Publish = at_home("HERE:21400:80").parse().expect("a forward");
    let add = |bench: &mut Bench| {
        let guest = &mut bench.guest;
        bench
            .forwards
            .add(named.clone().into(), Origin::Control, guest)
            .expect("added")
            .id
    };
    let id = add(&mut bench);
    assert!(bench.look(&["t0.0.0.0:21400"]).is_empty());
    assert_eq!(bench.standing().len(), 1);
    bench.forwards.remove(id, &mut bench.guest);
    bench.look(&["t0.0.0.0:21400"]);
    assert_eq!(bench.standing(), ["--publish HERE:21400:21400/tcp"]);
    // Taken away.
    add(&mut bench);
    let notices = bench.look(&["t0.0.0.0:21400"]);
    assert!(
        matches!(&notices[..], [Notice::Withdrawn(_)]),
        "{notices:?}"
    );
    assert_eq!(bench.standing(), ["--publish HERE:21400:80/tcp"]);
}

#[test]
fn the_lowest_ports_of_very_many_are_published() {
    let mut bench = Bench::new("auto:HERE");
    let many: Vec<String> = (22000..22300).map(|p| format!("t0.0.0.0:{p}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let notices = bench.look(&many);
    assert!(notices.iter().any(|n| matches!(n, Notice::TooMany)));
    assert_eq!(bench.standing().len(), MAX_AUTO);
    assert_eq!(bench.standing()[0], "--publish HERE:22000:22000/tcp");
    assert!(bench.look(&many).is_empty());
}
