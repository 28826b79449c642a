//! The guest's neighbourhood: ARP, ND, router advertisements, DHCP, DHCPv6.

use std::time::Duration;

use crate::harness::peer::tcp_server;
use crate::harness::{
    DNS4, DNS6, GATEWAY4, GATEWAY6, Gw, Netns, PATIENCE, REMOTE4, REMOTE6, World, eventually,
    require,
};

/// A gateway whose guest does everything itself.
fn unconfigured(args: &[&str]) -> (World, Gw) {
    let world = World::new();
    world
        .guest
        .ok("echo 1 > /proc/sys/net/ipv6/conf/default/accept_ra");
    let gw = Gw::attach(&world, &[&["--no-configure"], args].concat());
    (world, gw)
}

/// A DHCP client script that prints what the client learned, and applies it.
fn udhcpc_script(guest: &Netns) {
    guest.ok(r#"cat > /run/udhcpc.sh <<'END'
#!/bin/sh
echo "event=$1"
env | grep -E '^(ip|subnet|mask|router|dns|domain|search|mtu|lease|serverid)=' | sort
case $1 in
bound)
    ip addr flush dev "$interface"
    ip addr add "$ip/$mask" dev "$interface"
    ip route replace default via "$router" dev "$interface"
    ;;
esac
END
chmod +x /run/udhcpc.sh"#);
}

fn udhcpc(guest: &Netns, options: &str) -> String {
    require("udhcpc");
    guest.ok(&format!(
        "ip link set tap0 up; \
         udhcpc -i tap0 -f -n -q -t 5 -T 1 -s /run/udhcpc.sh -O search -O mtu {options} 2>&1"
    ))
}

#[test]
fn arp_answers_for_the_gateways_addresses_only() {
    require("arping");
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    for address in [GATEWAY4, DNS4] {
        let run = world
            .guest
            .sh(&format!("arping -c 1 -w 3 -I tap0 {address}"));
        run.success().says("Received 1 response");
    }
    for address in ["10.0.2.77", "10.0.2.1", "192.0.2.1"] {
        let run = world
            .guest
            .sh(&format!("arping -c 1 -w 1 -I tap0 {address}"));
        run.failure().says("Received 0 response");
    }
}

#[test]
fn nobody_else_claims_the_guests_own_address() {
    require("arping");
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    // Duplicate address detection: success means that nobody answered.
    world
        .guest
        .sh("arping -D -c 1 -w 1 -I tap0 10.0.2.100")
        .success();
    world
        .guest
        .sh("arping -D -c 1 -w 1 -I tap0 10.0.2.2")
        .failure();
}

#[test]
fn neighbour_discovery_answers_for_the_gateways_addresses_only() {
    require("ndisc6");
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    for address in [GATEWAY6, DNS6] {
        world
            .guest
            .sh(&format!("ndisc6 -1 -r 3 -w 500 {address} tap0"))
            .success();
    }
    for address in ["fd00::77", "fd00::1", "2001:db8::1"] {
        world
            .guest
            .sh(&format!("ndisc6 -1 -r 1 -w 500 {address} tap0"))
            .failure();
    }
}

#[test]
fn a_router_advertisement_says_everything() {
    require("rdisc6");
    let (world, _gw) = unconfigured(&["--search", "corp.example", "--mtu", "1400"]);
    world.guest.ok("ip link set tap0 up");
    let run = eventually("a link-local address and a router", PATIENCE, || {
        let run = world.guest.sh("rdisc6 -1 -r 2 -w 1000 tap0");
        run.status.success().then_some(run)
    });
    run.says("fd00::/64")
        .says(DNS6)
        .says("corp.example")
        .says("1400 bytes");
}

#[test]
fn slaac_gives_an_address_and_a_route_that_work() {
    let (world, _gw) = unconfigured(&[]);
    let _server = tcp_server(&world.remote, 7000);
    world.guest.ok("ip link set tap0 up");
    eventually("an address of fd00::/64", PATIENCE, || {
        let addresses = world
            .guest
            .ok("ip -6 addr show dev tap0 scope global -tentative");
        addresses.contains("inet6 fd00:").then_some(())
    });
    let routes = world.guest.ok("ip -6 route show default");
    assert!(
        routes.contains("via fe80:"),
        "the router is its link-local address: {routes}"
    );
    world
        .guest
        .py(&format!("download({REMOTE6:?}, 7000, 100000)"));
}

#[test]
fn udhcpc_gets_a_lease_that_works() {
    let (world, _gw) = unconfigured(&["--search", "corp.example", "--mtu", "1400"]);
    let _server = tcp_server(&world.remote, 7000);
    udhcpc_script(&world.guest);
    let lease = udhcpc(&world.guest, "");
    for line in [
        "event=bound",
        "ip=10.0.2.15",
        "mask=24",
        "router=10.0.2.2",
        "dns=10.0.2.3",
        "serverid=10.0.2.2",
        "search=corp.example",
        "mtu=1400",
    ] {
        assert!(
            lease.lines().any(|said| said == line),
            "no {line} in: {lease}"
        );
    }
    assert!(lease.contains("lease="), "{lease}");
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
}

#[test]
fn dhclient_gets_a_lease() {
    require("dhclient");
    let (world, _gw) = unconfigured(&[]);
    world
        .guest
        .ok("ip link set tap0 up; echo 'request subnet-mask, routers, \
         domain-name-servers, interface-mtu;' > /run/dhclient.conf");
    let run = world.guest.sh(
        "dhclient -1 -v -cf /run/dhclient.conf -lf /run/leases -pf /run/dhclient.pid -sf /bin/true \
         tap0 2>&1; cat /run/leases; dhclient -x -pf /run/dhclient.pid tap0 2>/dev/null; true",
    );
    run.success()
        .says("bound to 10.0.2.15")
        .says("option routers 10.0.2.2;")
        .says("option domain-name-servers 10.0.2.3;")
        .says("option interface-mtu 1500;")
        .says("option dhcp-lease-time");
}

#[test]
fn the_same_client_gets_the_same_address() {
    let (world, _gw) = unconfigured(&[]);
    udhcpc_script(&world.guest);
    for _ in 0..2 {
        let lease = udhcpc(&world.guest, "");
        assert!(lease.contains("ip=10.0.2.15"), "{lease}");
    }
}

#[test]
fn another_client_gets_another_address() {
    let (world, _gw) = unconfigured(&[]);
    udhcpc_script(&world.guest);
    assert!(udhcpc(&world.guest, "").contains("ip=10.0.2.15"));
    world
        .guest
        .ok("ip link set tap0 down; ip link set tap0 address 02:00:00:00:77:01");
    let lease = udhcpc(&world.guest, "-r 10.0.2.15");
    assert!(
        lease.contains("ip=10.0.2.") && !lease.contains("ip=10.0.2.15"),
        "{lease}"
    );
}

#[test]
fn a_released_address_is_free_again() {
    let (world, _gw) = unconfigured(&[]);
    udhcpc_script(&world.guest);
    assert!(udhcpc(&world.guest, "").contains("ip=10.0.2.15"));
    world.guest.py("e = Ether()
e.dhcp(7, options={54: inet_aton('10.0.2.2'), 61: b'\\x01' + e.mac}, ciaddr='10.0.2.15', answer=False)");
    world
        .guest
        .ok("ip link set tap0 down; ip link set tap0 address 02:00:00:00:77:01");
    let lease = udhcpc(&world.guest, "-r 10.0.2.15");
    assert!(lease.contains("ip=10.0.2.15"), "{lease}");
}

#[test]
fn an_address_of_another_network_is_denied() {
    let (world, _gw) = unconfigured(&[]);
    world.guest.ok("ip link set tap0 up");
    let kind = world.guest.py("e = Ether()
print(e.dhcp(3, options={50: inet_aton('192.168.7.7')}))");
    assert!(kind.starts_with("(6,"), "no NAK: {kind}");
}

#[test]
fn a_declined_address_is_not_offered_again() {
    let (world, _gw) = unconfigured(&[]);
    world.guest.ok("ip link set tap0 up");
    let said = world.guest.py("e = Ether()
server = {54: inet_aton('10.0.2.2')}
kind, first, _ = e.dhcp(1)
assert kind == 2, kind
kind, _, _ = e.dhcp(3, options={50: inet_aton(first), **server})
assert kind == 5, kind
e.dhcp(4, options={50: inet_aton(first), **server}, answer=False)
kind, second, _ = e.dhcp(1)
assert kind == 2 and second != first, (kind, first, second)
print(first)");
    assert_eq!(said, "10.0.2.15");
}

#[test]
fn an_inform_is_answered_without_a_lease() {
    let (world, _gw) = unconfigured(&[]);
    world
        .guest
        .ok("ip link set tap0 up; ip addr add 10.0.2.99/24 dev tap0");
    world.guest.py("e = Ether()
kind, address, options = e.dhcp(8, ciaddr='10.0.2.99')
assert kind == 5 and address == '0.0.0.0', (kind, address)
assert options[6] == inet_aton('10.0.2.3') and options[3] == inet_aton('10.0.2.2')
assert 51 not in options");
}

#[test]
fn broken_dhcp_is_survived() {
    let (world, _gw) = unconfigured(&[]);
    udhcpc_script(&world.guest);
    world.guest.ok("ip link set tap0 up");
    world.guest.py("e = Ether()
random.seed(3)
for i in range(300):
    body = bytearray(e.dhcp_message(1, {}, '0.0.0.0'))
    for _ in range(10): body[random.randrange(len(body))] = random.randrange(256)
    e.send_dhcp(bytes(body[:random.randrange(1, len(body))]))");
    assert!(udhcpc(&world.guest, "").contains("event=bound"));
}

#[test]
fn dhcpv6_tells_the_resolver() {
    require("dhclient");
    let (world, _gw) = unconfigured(&["--search", "corp.example"]);
    world.guest.ok("ip link set tap0 up");
    eventually("a link-local address", PATIENCE, || {
        let addresses = world
            .guest
            .ok("ip -6 addr show dev tap0 scope link -tentative");
        addresses.contains("fe80:").then_some(())
    });
    let run = world.guest.sh(
        "echo 'request dhcp6.name-servers, dhcp6.domain-search;' > /run/dhclient6.conf
         printf '#!/bin/sh\\nenv | grep new_ >> /run/dhclient6.out\\n' > /run/dhclient6.sh
         chmod +x /run/dhclient6.sh
         timeout 10 dhclient -6 -S -1 -v -cf /run/dhclient6.conf -lf /run/leases6 \
             -pf /run/dhclient6.pid -sf /run/dhclient6.sh tap0 2>&1
         cat /run/dhclient6.out",
    );
    run.says("new_dhcp6_name_servers=fd00::3")
        .says("corp.example");
}

#[test]
fn an_existing_tap_is_reused_and_left_alone() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    world.guest.ok(
        "ip tuntap add dev tap0 mode tap && ip link set tap0 mtu 1400 up && \
                    ip addr add 10.0.2.50/24 dev tap0 && ip route add default via 10.0.2.2",
    );
    let gw = Gw::attach(&world, &["--no-configure"]);
    let shown = world.guest.ok("ip addr show dev tap0");
    assert!(
        shown.contains("10.0.2.50/24") && shown.contains("mtu 1400"),
        "{shown}"
    );
    assert!(!shown.contains("10.0.2.100"), "{shown}");
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 5000000)"));
    world
        .guest
        .py(&format!("upload({REMOTE4:?}, 7000, 5000000)"));
    gw.terminate();
    // It is somebody else's: it stays.
    assert!(world.guest.interfaces().contains(&"tap0".to_owned()));
}

#[test]
fn no_ipv6_means_no_router() {
    require("rdisc6");
    let (world, _gw) = unconfigured(&["--no-ipv6"]);
    world.guest.ok("ip link set tap0 up");
    std::thread::sleep(Duration::from_millis(100));
    world.guest.sh("rdisc6 -1 -r 1 -w 1000 tap0").failure();
}
