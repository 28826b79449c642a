//! `gw serve`: guests behind links, each link with the real program at its other
//! end where there is one.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::ctl::SOCKET;
use crate::harness::peer::tcp_server;
use crate::harness::{
    DNS4, GATEWAY4, GATEWAY6, GUEST4, Gw, HOST4, Launch, Netns, PATIENCE, REMOTE4, REMOTE6,
    Running, World, eventually, gw_binary, require,
};

/// Carries a TAP in a guest's namespace to the other end of a link.
const BRIDGE: &str = concat!(
    "/usr/bin/python3 -u ",
    env!("CARGO_MANIFEST_DIR"),
    "/tests/netns/scripts/bridge.py"
);

/// Bytes that a guest fetches to show that it is connected: many frames.
const AMOUNT: u32 = 3_000_000;

fn serve(world: &World, args: &[&str]) -> Gw {
    let args = [&["serve", "--control", SOCKET], args].concat();
    Launch::new(&world.outer, &args).start()
}

/// What `gw ctl --json` says.
fn ask(world: &World, verb: &str) -> Value {
    let run = Launch::new(&world.outer, &["ctl", SOCKET, "--json", verb]).run();
    serde_json::from_str(&run.success().stdout).expect("JSON")
}

/// The ports' names.
fn ports(world: &World) -> Vec<String> {
    let answer = ask(world, "ports");
    let ports = answer["ports"].as_array().expect("a list");
    let name = |port: &Value| port["name"].as_str().expect("a name").to_owned();
    ports.iter().map(name).collect()
}

/// A cable from a guest's TAP to a link.
fn bridge(world: &World, guest: &Netns, how: &str) -> Running {
    require("python3");
    let pid = guest.inner_pid();
    let cable = world
        .outer
        .spawn(&format!("{BRIDGE} {pid} tap0 {how} 2>&1"));
    wait_for_tap(guest);
    cable
}

/// A cable from a guest's TAP to a VDE switch.
fn plug(guest: &Netns, directory: &str) -> Running {
    require("vde_plug");
    let cable = guest.spawn(&format!("vde_plug vde://{directory} tap://tap0"));
    wait_for_tap(guest);
    cable
}

fn wait_for_tap(guest: &Netns) {
    eventually("the guest's TAP", PATIENCE, || {
        guest
            .interfaces()
            .contains(&"tap0".to_owned())
            .then_some(())
    });
}

/// Has a guest ask for an address, in the name that it is given; returns it.
fn lease(guest: &Netns, name: &str) -> String {
    require("udhcpc");
    guest.ok(r#"cat > /run/udhcpc-serve.sh <<'END'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip addr flush dev "$interface"
ip addr add "$ip/$mask" dev "$interface"
ip route replace default via "$router" dev "$interface"
echo "lease=$ip"
END
chmod +x /run/udhcpc-serve.sh"#);
    let said = guest.ok(&format!(
        "ip link set tap0 up
         udhcpc -i tap0 -f -n -q -t 10 -T 1 -s /run/udhcpc-serve.sh -x hostname:{name} 2>/dev/null"
    ));
    let line = said.lines().find_map(|line| line.strip_prefix("lease="));
    line.expect("a lease").to_owned()
}

/// The guest fetches something from outside, every byte of which is checked.
fn fetches(guest: &Netns) {
    guest.py(&format!("download('{REMOTE4}', 80, {AMOUNT})"));
}

fn pings(guest: &Netns, address: &str) {
    guest.ok(&format!("ping -n -c 2 -i 0.2 -W 5 {address}"));
}

#[test]
fn guests_plugged_into_our_vde_switch() {
    let world = World::new();
    let other = world.another_guest();
    let _server = tcp_server(&world.remote, 80);
    let _gw = serve(&world, &["--link", "vdeswitch:/run/vde"]);
    let _cables = [plug(&world.guest, "/run/vde"), plug(&other, "/run/vde")];
    let one = lease(&world.guest, "One");
    let two = lease(&other, "two");
    assert_eq!((one.as_str(), two.as_str()), ("10.0.2.15", "10.0.2.16"));
    fetches(&world.guest);
    fetches(&other);
    pings(&world.guest, &two);
    pings(&other, &one);

    // By name, from each other and back.
    let dig = |guest: &Netns, question: &str| {
        let answer = guest.ok(&format!("dig +short @{DNS4} {question}"));
        answer.trim().to_owned()
    };
    assert_eq!(dig(&other, "one A"), one);
    assert_eq!(dig(&other, "ONE.gw.internal A"), one);
    assert_eq!(dig(&world.guest, "two.gw.internal A"), two);
    assert_eq!(dig(&other, "one AAAA"), "");
    assert_eq!(dig(&world.guest, &format!("-x {two}")), "two.gw.internal.");
    pings(&world.guest, "two");

    // A namesake changes nothing.
    assert_eq!(lease(&other, "one"), two, "the address is the same again");
    assert_eq!(dig(&other, "one A"), one);
    assert_eq!(dig(&other, "two A"), "");

    let listed = ask(&world, "ports");
    let ports = listed["ports"].as_array().expect("a list");
    assert_eq!(ports.len(), 2, "{listed}");
    for port in ports {
        assert_eq!(
            port["stations"].as_array().map(Vec::len),
            Some(1),
            "{listed}"
        );
        assert!(port["received"].as_u64() > Some(10), "{listed}");
        assert!(port["sent"].as_u64() > Some(10), "{listed}");
        assert_eq!(port["malformed"], 0, "{listed}");
    }
    let leases = ask(&world, "leases");
    let names: Vec<&Value> = leases["leases"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|lease| &lease["hostname"])
        .collect();
    assert_eq!(names, ["one", "one"]);
    Launch::new(&world.outer, &["ctl", SOCKET, "ports"])
        .run()
        .success()
        .says("| Stations ")
        .says("vdeswitch:/run/vde");
}

#[test]
fn guests_on_two_taps() {
    let world = World::new();
    let other = world.another_guest();
    let _server = tcp_server(&world.remote, 80);
    let links = [&world.guest, &other].map(|g| format!("tap:tap0,netns={}", g.inner_pid()));
    let gw = serve(&world, &["--link", &links[0], "--link", &links[1]]);
    assert_eq!(ports(&world), links);
    let one = lease(&world.guest, "one");
    let two = lease(&other, "two");
    assert_ne!(one, two);
    pings(&world.guest, &two);
    fetches(&world.guest);
    fetches(&other);
    assert!(
        gw.stderr().contains("serving tap:tap0,netns="),
        "{}",
        gw.stderr()
    );
    // One of them is gone; the other is served.
    world.guest.ok("ip link del tap0");
    eventually("the port to be gone", PATIENCE, || {
        (ports(&world) == links[1..]).then_some(())
    });
    fetches(&other);
}

#[test]
fn a_switch_of_others_may_end_and_come_back() {
    require("vde_switch");
    let world = World::new();
    let other = world.another_guest();
    let _server = tcp_server(&world.remote, 80);
    let start = || {
        let switch = world.outer.spawn("vde_switch -s /run/theirs 2>&1");
        eventually("vde_switch", PATIENCE, || {
            world
                .outer
                .sh("test -S /run/theirs/ctl")
                .status
                .success()
                .then_some(())
        });
        switch
    };
    let switch = start();
    let tap = format!("tap:tap0,netns={}", other.inner_pid());
    let _gw = serve(&world, &["--link", "vde:/run/theirs", "--link", &tap]);
    let there = |there: bool| {
        eventually("the port in their switch", PATIENCE, || {
            let is_there = ports(&world).iter().any(|name| name == "vde:/run/theirs");
            (is_there == there).then_some(())
        });
    };
    there(true);
    let plug_in = || {
        let cable = plug(&world.guest, "/run/theirs");
        world.guest.ok("ip link set tap0 address 02:00:00:00:00:01");
        cable
    };
    let cable = plug_in();
    let one = lease(&world.guest, "one");
    let two = lease(&other, "two");
    fetches(&world.guest);
    pings(&world.guest, &two);

    switch.signal(Signal::SIGKILL);
    drop(switch);
    there(false);
    fetches(&other);
    drop(cable);
    world.outer.ok("rm -rf /run/theirs");
    let _switch = start();
    there(true);
    let _cable = plug_in();
    assert_eq!(lease(&world.guest, "one"), one);
    fetches(&world.guest);
    pings(&other, &one);
}

/// One gateway with a link of every kind that a socket can be.
#[test]
fn guests_behind_sockets() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let links = [
        ("udp:127.0.0.1:5555", "udp:5556:5555"),
        ("unixgram:/run/unixgram", "unixgram:/run/unixgram"),
        ("bess:/run/bess", "seqpacket:/run/bess"),
        ("qemu:/run/qemu", "len32:/run/qemu"),
    ];
    let args: Vec<&str> = links
        .iter()
        .flat_map(|(link, _)| ["--link", link])
        .collect();
    let _gw = serve(&world, &args);
    let guests: Vec<(Netns, Running, String)> = (1..)
        .zip(links)
        .map(|(n, (_, how))| {
            let guest = world.another_guest();
            let cable = bridge(&world, &guest, how);
            let address = lease(&guest, &format!("guest{n}"));
            (guest, cable, address)
        })
        .collect();
    for (at, (guest, _, _)) in guests.iter().enumerate() {
        fetches(guest);
        pings(guest, &guests[(at + 1) % guests.len()].2);
        pings(guest, "guest1");
    }
    assert_eq!(ports(&world).len(), links.len());
}

#[test]
fn udp_for_one_peer_only() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let link = "udp:127.0.0.1:5555,framing=raw,peer=127.0.0.1:5556";
    let _gw = serve(&world, &["--link", link]);
    let stranger = world.another_guest();
    let _cables = [
        bridge(&world, &world.guest, "udp:5556:5555"),
        bridge(&world, &stranger, "udp:5557:5555"),
    ];
    lease(&world.guest, "one");
    fetches(&world.guest);
    stranger
        .sh("ip link set tap0 up; udhcpc -i tap0 -f -n -q -t 2 -T 1 -s /bin/true")
        .failure();
    let listed = ask(&world, "ports");
    assert_eq!(listed["ports"][0]["name"], link);
    assert!(
        listed["ports"][0]["received"].as_u64() > Some(10),
        "{listed}"
    );
}

#[test]
fn a_child_carries_a_guest() {
    require("iperf3");
    let world = World::new();
    let mut server = world.remote.spawn("iperf3 -s -1 --forceflush");
    server.wait_line("Server listening");
    let link = format!("exec:{BRIDGE} {} tap0 messages", world.guest.inner_pid());
    let gw = serve(&world, &["--link", &link]);
    wait_for_tap(&world.guest);
    lease(&world.guest, "one");
    world.guest.ok(&format!("iperf3 -c {REMOTE4} -n 20M"));
    drop(server);
    let mut server = world.remote.spawn("iperf3 -s -1 --forceflush");
    server.wait_line("Server listening");
    world.guest.ok(&format!("iperf3 -c {REMOTE4} -n 20M -R"));
    // It ends with us.
    gw.terminate();
    eventually("the child's end", PATIENCE, || {
        let left = world.processes();
        (!left.iter().any(|line| line.contains("bridge.py"))).then_some(())
    });
}

#[test]
fn a_child_ends_and_is_started_again() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let link = format!(
        "exec,restart:{BRIDGE} {} tap0 messages",
        world.guest.inner_pid()
    );
    let mut gw = serve(&world, &["--link", &link]);
    let plugged_in = || {
        wait_for_tap(&world.guest);
        world.guest.ok("ip link set tap0 address 02:00:00:00:00:01");
    };
    plugged_in();
    let address = lease(&world.guest, "one");
    fetches(&world.guest);
    // Its TAP goes, and with that the child.
    world.guest.ok("ip link del tap0");
    eventually("another child", PATIENCE, || {
        let said = gw.stderr();
        (said.contains("exit status: 1") && said.matches("plugged in").count() == 2).then_some(())
    });
    plugged_in();
    assert_eq!(lease(&world.guest, "one"), address);
    fetches(&world.guest);
    assert!(gw.alive());
}

#[test]
fn the_only_link_ends_and_so_does_the_gateway() {
    let world = World::new();
    let args = ["serve", "--link", "exec:sh -c 'sleep 0.3; exit 7'"];
    let run = Launch::new(&world.outer, &args).run().failure();
    assert_eq!(run.code(), 1);
    run.says("the link 'exec:sh -c 'sleep 0.3; exit 7'' is gone")
        .says("the command ended with exit status: 7");
    let run = Launch::new(&world.outer, &["serve", "--link", "exec:/no/such"]).run();
    assert_eq!(run.code(), 1);
    run.says("cannot start '/no/such': No such file or directory");
    let guest = world.another_guest();
    let tap = format!("tap:tap0,netns={}", guest.inner_pid());
    let mut gw = Launch::new(&world.outer, &["serve", "--link", &tap]).start();
    guest.ok("ip link del tap0");
    assert_eq!(gw.wait(PATIENCE).code(), Some(1));
    assert!(gw.stderr().contains("tap0"), "{}", gw.stderr());
    // Its namespace's end is the end that was asked for.
    let mut guest = world.another_guest();
    let tap = format!("tap:tap0,netns={}", guest.inner_pid());
    let mut gw = Launch::new(&world.outer, &["serve", "--link", &tap]).start();
    guest.kill();
    assert_eq!(gw.wait(PATIENCE).code(), Some(0));
}

/// socat between the gateway's standard input and output and a guest's cable.
#[test]
fn standard_input_and_output() {
    require("socat");
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let gw = gw_binary().display().to_string();
    let cable = format!("{BRIDGE} {} tap0 len16", world.guest.inner_pid());
    let mut both = world.outer.spawn(&format!(
        "socat EXEC:'{gw} serve --link fd\\,framing=len16' EXEC:'{cable}' 2>&1"
    ));
    wait_for_tap(&world.guest);
    lease(&world.guest, "one");
    fetches(&world.guest);
    // Its TAP goes, and with that the other program.
    world.guest.ok("ip link del tap0");
    both.finish(PATIENCE);
    eventually("the gateway's end", PATIENCE, || {
        let left = world.processes();
        (!left.iter().any(|line| line.contains("serve --link"))).then_some(())
    });
    // The input's end is the link's.
    let run = world
        .outer
        .sh(&format!(": | {gw} serve --link fd,framing=len16 | cat"));
    run.says("the link 'fd,framing=len16' is gone: the other end has closed");
}

/// As openconnect and others start a program: a socket that VPNFD names.
#[test]
fn a_socket_that_vpnfd_names() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let gw = gw_binary().display().to_string();
    let pid = world.guest.inner_pid();
    let _both = world.outer.spawn_python(&format!(
        r#"
import subprocess
ours, theirs = socketpair(AF_UNIX, SOCK_SEQPACKET)
gw = subprocess.Popen(["{gw}", "serve", "--link", "fd"], pass_fds=[theirs.fileno()],
    env={{**os.environ, "VPNFD": str(theirs.fileno())}}, stdin=subprocess.DEVNULL)
theirs.close()
os.dup2(ours.fileno(), 0)
os.dup2(ours.fileno(), 1)
cable = "{BRIDGE} {pid} tap0 messages".split()
os.execv(cable[0], cable)
"#
    ));
    wait_for_tap(&world.guest);
    lease(&world.guest, "one");
    fetches(&world.guest);
}

#[test]
fn a_tun_in_a_namespace() {
    require("curl");
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let _web = world.remote.serve(
        r#"
import http.server
class Six(http.server.ThreadingHTTPServer):
    address_family = AF_INET6
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
server = Six(("::", 8000), Hello)
ready()
server.serve_forever()
"#,
    );
    let link = format!("tun:tun0,netns={}", world.guest.inner_pid());
    let _gw = serve(&world, &["--link", &link, "-p", "8080:80"]);
    for at in [format!("{REMOTE4}:8000"), format!("[{REMOTE6}]:8000")] {
        world
            .guest
            .sh(&format!("curl -sS http://{at}/"))
            .success()
            .says("hello");
    }
    fetches(&world.guest);
    pings(&world.guest, GATEWAY4);
    pings(&world.guest, GATEWAY6);
    let _inside = tcp_server(&world.guest, 80);
    world
        .remote
        .py(&format!("download('{HOST4}', 8080, {AMOUNT})"));
}

#[test]
fn a_tap_that_is_configured_from_here() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 80);
    let link = format!("tap:eth0,netns={},static", world.guest.inner_pid());
    let _gw = serve(&world, &["--link", &link, "-p", "8080:80", "--mtu", "1400"]);
    let shown = world.guest.ok("ip addr show eth0");
    assert!(
        shown.contains(GUEST4) && shown.contains("mtu 1400"),
        "{shown}"
    );
    fetches(&world.guest);
    let _inside = tcp_server(&world.guest, 80);
    world
        .remote
        .py(&format!("download('{HOST4}', 8080, {AMOUNT})"));
}

/// A published port leads to the first guest that asks for an address, or to the
/// one that is named.
#[test]
fn ports_lead_to_guests() {
    let world = World::new();
    let other = world.another_guest();
    let ports = ["-p", "8080:80", "-p", "8081:10.0.2.16:80"];
    let _gw = serve(
        &world,
        &[&["--link", "vdeswitch:/run/vde"], &ports[..]].concat(),
    );
    let _cables = [plug(&world.guest, "/run/vde"), plug(&other, "/run/vde")];
    assert_eq!(lease(&world.guest, "one"), "10.0.2.15");
    assert_eq!(lease(&other, "two"), "10.0.2.16");
    let _servers = [tcp_server(&world.guest, 80), tcp_server(&other, 80)];
    for port in [8080, 8081] {
        world
            .remote
            .py(&format!("download('{HOST4}', {port}, {AMOUNT})"));
    }
}

#[test]
fn what_cannot_be_opened_is_told() {
    let world = World::new();
    world.outer.ok("touch /run/file && mkdir -p /run/taken");
    let _taken = world.outer.serve(
        "s = udp('127.0.0.1', 5555)\nt = listen(5555, '127.0.0.1')\nready()\ntime.sleep(1000)",
    );
    for (link, part) in [
        ("qemu:/run/file", "exists and is not a socket"),
        (
            "qemu:/no/such/place",
            "cannot make the socket '/no/such/place': No such file",
        ),
        (
            "qemu:127.0.0.1:5555",
            "cannot listen on TCP 127.0.0.1:5555: Address already in use",
        ),
        (
            "udp:127.0.0.1:5555",
            "cannot listen on UDP 127.0.0.1:5555: Address already in use",
        ),
        ("udp:203.0.113.77:5555", "choose an address of this host"),
        ("vdeswitch:/run/file", "'/run/file/ctl': Not a directory"),
        ("fd:9", "descriptor 9 is not open"),
        ("tap:tap0,netns=999999", "there is no process 999999"),
        ("exec:/no/such", "cannot start '/no/such'"),
    ] {
        let run = Launch::new(&world.outer, &["serve", "--link", link]).run();
        assert_eq!(run.code(), 1, "{link}: {run:?}");
        run.says(&format!("the link '{link}': ")).says(part);
    }
    for (line, part) in [
        (&["serve"][..], "say whom to serve, with --link"),
        (
            &["serve", "--link", "wifi:x"],
            "there is no kind of link 'wifi'",
        ),
        (
            &["serve", "--link", "tun:a", "--link", "vde:"],
            "cannot be switched",
        ),
    ] {
        let run = Launch::new(&world.outer, line).run();
        assert_eq!(run.code(), 2, "{line:?}: {run:?}");
        run.says(part);
    }
    // Nothing is left of those that were opened before another failed.
    let line = ["serve", "--link", "qemu:/run/left", "--link", "fd:9"];
    Launch::new(&world.outer, &line).run().failure();
    assert!(!Path::new(&world.outer.root()).join("run/left").exists());
}

#[test]
fn the_switch_is_gone_when_the_gateway_is() {
    let world = World::new();
    let before = world.host_state();
    let gw = serve(
        &world,
        &["--link", "vdeswitch:/run/vde", "--link", "bess:/run/bess"],
    );
    world.outer.ok("test -S /run/vde/ctl && test -S /run/bess");
    gw.terminate();
    assert_eq!(world.host_state(), before);
    let args = ["--link", "vdeswitch:/run/vde", "--pid-file", "/run/gw.pid"];
    let mut gw = serve(&world, &args);
    let pid = world.outer.ok("cat /run/gw.pid");
    assert_eq!(pid.trim(), gw.inner_pid().to_string());
    gw.hang_up();
    assert_eq!(gw.wait(Duration::from_secs(3)).code(), Some(0));
}
