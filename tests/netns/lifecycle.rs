//! Start, readiness, end; what is set up and what is left.

use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};

use crate::harness::peer::{tcp_server, udp_echo};
use crate::harness::{
    ALT4, DNS4, GATEWAY4, GATEWAY6, GUEST4, GUEST6, Gw, HOST4, Launch, PATIENCE, REMOTE4, REMOTE6,
    World, eventually, gw_binary, require,
};

/// The longest that the gateway may take to notice the end of its guest.
const NOTICE: Duration = Duration::from_secs(1);

#[test]
fn the_guest_is_configured() {
    let world = World::new();
    let _gw = Gw::attach(&world, &[]);
    let shown = world.guest.ok("ip addr show dev tap0");
    assert!(shown.contains(&format!("inet {GUEST4}/24")), "{shown}");
    assert!(shown.contains(&format!("inet6 {GUEST6}/64")), "{shown}");
    assert!(
        shown.contains("mtu 1500") && shown.contains(",UP"),
        "{shown}"
    );
    assert!(
        world
            .guest
            .ok("ip route show default")
            .contains(&format!("via {GATEWAY4} dev tap0"))
    );
    assert!(
        world
            .guest
            .ok("ip -6 route show default")
            .contains(GATEWAY6)
    );
    assert!(world.guest.ok("ip link show lo").contains("UP"));
}

#[test]
fn options_shape_the_guest() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let _gw = Gw::attach(
        &world,
        &[
            "--ifname",
            "eth7",
            "--mtu",
            "9000",
            "--cidr",
            "172.30.0.0/16",
            "--cidr6",
            "fd77::/64",
            "--mac",
            "02:11:22:33:44:55",
        ],
    );
    let shown = world.guest.ok("ip addr show dev eth7");
    for wanted in [
        "inet 172.30.0.100/16",
        "inet6 fd77::100/64",
        "mtu 9000",
        "02:11:22:33:44:55",
    ] {
        assert!(shown.contains(wanted), "{shown}");
    }
    assert!(
        world
            .guest
            .ok("ip route show default")
            .contains("via 172.30.0.2")
    );
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
    world
        .guest
        .py(&format!("download({REMOTE6:?}, 7000, 100000)"));
}

#[test]
fn one_family_alone() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = Gw::attach(&world, &["--no-ipv6"]);
    assert!(!world.guest.ok("ip addr show dev tap0").contains("fd00:"));
    assert_eq!(world.guest.ok("ip -6 route show default"), "");
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
    gw.terminate();
    let _gw = Gw::attach(&world, &["--no-ipv4"]);
    assert!(!world.guest.ok("ip addr show dev tap0").contains("inet "));
    world
        .guest
        .py(&format!("download({REMOTE6:?}, 7000, 100000)"));
}

/// What systemd does for a unit of `Type=notify`.
#[test]
fn a_service_manager_is_told() {
    let world = World::new();
    let pid = world.guest.inner_pid();
    let _server = tcp_server(&world.remote, 7000);
    let mut manager = world.outer.spawn_python(
        "s = socket(AF_UNIX, SOCK_DGRAM)
s.bind('/run/notify')
print('listening', flush=True)
print(s.recv(4096).decode())",
    );
    manager.wait_line("listening");
    let gw = Launch::netns(&world.outer, &world.guest, &[])
        .prefix(&["env", "NOTIFY_SOCKET=/run/notify"])
        .start();
    manager.wait_line("READY=1");
    manager.wait_line(&format!("STATUS=Serving process {pid}"));
    gw.terminate();
    // Nobody there: that is told, and the gateway serves.
    let gw = Launch::netns(&world.outer, &world.guest, &[])
        .prefix(&["env", "NOTIFY_SOCKET=/run/nobody"])
        .start();
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
    assert!(gw.terminate().contains("/run/nobody"));
    // With a command, that is the service.
    let finished = Launch::new(
        &world.outer,
        &["run", "--", "sh", "-c", "echo $NOTIFY_SOCKET"],
    )
    .prefix(&["env", "NOTIFY_SOCKET=/run/nobody"])
    .run();
    assert_eq!(finished.success().stdout, "/run/nobody\n");
}

#[test]
fn ready_means_that_the_first_packet_arrives() {
    // The program waits in the namespace for the interface and connects once.
    for _ in 0..3 {
        let world = World::new();
        let _server = tcp_server(&world.remote, 7000);
        let mut client = world.guest.spawn_python(&format!(
            "sys.stdin.readline()
download({REMOTE4:?}, 7000, 1000)
s = udp({REMOTE6:?}, connected=1)
s.send(b'x')
print(outcome(lambda: s.recv(1)))"
        ));
        let _gw = Gw::attach(&world, &[]);
        client.write(b"\n");
        assert_eq!(client.done(), "ECONNREFUSED");
    }
}

#[test]
fn ready_comes_soon() {
    let world = World::new();
    let gw = Gw::attach(&world, &[]);
    // A few milliseconds on an idle machine; this is a debug build on a busy one.
    assert!(
        gw.ready_after < Duration::from_secs(2),
        "{:?}",
        gw.ready_after
    );
}

/// Starts, ends by `end`, and compares what is left on the host.
fn leaves_nothing(end: impl FnOnce(&mut World, &mut Gw)) {
    let mut world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let state = world.host_state();
    let processes = world.processes();
    let mut gw = Gw::attach(&world, &["--pid-file", "/run/gw.pid"]);
    let _client = world.guest.serve(&format!(
        "s = connect({REMOTE4:?}, 7000)
s.sendall(b'get 100000000\\n')
ready()
read_all(s)
time.sleep(20)"
    ));
    end(&mut world, &mut gw);
    drop(_client);
    let mut left = Vec::new();
    let ended = |left: &mut Vec<String>| {
        *left = world.processes();
        (left.len() <= processes.len()).then_some(())
    };
    let deadline = Instant::now() + PATIENCE;
    while ended(&mut left).is_none() {
        assert!(
            Instant::now() < deadline,
            "still running: {left:#?}, before: {processes:#?}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(world.host_state(), state);
    if world.guest.pid().as_raw() > 0 && kill(world.guest.pid(), None).is_ok() {
        assert_eq!(world.guest.interfaces(), ["lo"]);
    }
}

#[test]
fn sigterm_and_sigint_end_it_cleanly() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        leaves_nothing(|_, gw| {
            gw.signal(signal);
            assert!(gw.wait(NOTICE).success(), "{signal}: {}", gw.stderr());
        });
    }
}

#[test]
fn sigterm_resets_open_flows() {
    let world = World::new();
    let mut server = world.remote.serve(
        "l = listen(7000)
ready()
s = l.accept()[0]
s.recv(1)
print('end', outcome(lambda: s.recv(1)), flush=True)",
    );
    let gw = Gw::attach(&world, &[]);
    let mut client = world.guest.serve(&format!(
        "s = connect({REMOTE4:?}, 7000)
s.sendall(b'x')
ready()
print('end', outcome(lambda: s.recv(1)), flush=True)"
    ));
    // The byte has arrived, so the flow is open on both sides.
    eventually("an open flow", PATIENCE, || {
        world
            .outer
            .ok("ss -Htn state established")
            .contains(":7000")
            .then_some(())
    });
    gw.terminate();
    assert_eq!(server.wait_line("end"), "end ECONNRESET");
    // The guest's interface goes with the gateway; its socket may learn of the
    // reset before that or find the network gone.
    let line = client.wait_line_for("end", Duration::from_secs(16));
    assert!(
        line.contains("ECONNRESET") || line.contains("ENETUNREACH"),
        "{line}"
    );
}

#[test]
fn the_exit_pipe_ends_it() {
    leaves_nothing(|_, gw| {
        gw.hang_up();
        assert!(gw.wait(NOTICE).success(), "{}", gw.stderr());
    });
}

#[test]
fn the_targets_death_ends_it() {
    leaves_nothing(|world, gw| {
        world.guest.kill();
        let status = gw.wait(NOTICE);
        assert!(status.success(), "{status}: {}", gw.stderr());
    });
}

#[test]
fn the_targets_death_ends_it_while_others_live_in_the_namespace() {
    let mut world = World::new();
    let mut gw = Gw::attach(&world, &[]);
    let _other = world.guest.spawn("sleep 30");
    world.guest.kill();
    assert!(gw.wait(NOTICE).success(), "{}", gw.stderr());
}

#[test]
fn killing_it_hard_leaves_nothing() {
    leaves_nothing(|world, gw| {
        gw.signal(Signal::SIGKILL);
        assert!(!gw.wait(NOTICE).success());
        // The PID file is the one thing that only a living process can remove.
        world.outer.ok("rm -f /run/gw.pid");
    });
}

#[test]
fn the_pid_file_holds_the_pid_while_it_runs() {
    let world = World::new();
    let gw = Gw::attach(&world, &["--pid-file", "/run/gw.pid"]);
    let text = world.outer.ok("cat /run/gw.pid");
    assert_eq!(text.trim(), gw.inner_pid().to_string());
    gw.terminate();
    world.outer.sh("test ! -e /run/gw.pid").success();
}

#[test]
fn a_path_names_a_namespace() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let pid = world.guest.inner_pid();
    let path = format!("/proc/{pid}/ns/net");
    let userns = format!("/proc/{pid}/ns/user");
    let _gw = Launch::new(&world.outer, &["--netns", &path, "--userns", &userns]).start();
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
}

#[test]
fn a_name_names_a_namespace_and_its_removal_ends_it() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    world
        .outer
        .ok("ip netns add blue && ip -n blue link set lo up");
    let mut gw = Launch::new(&world.outer, &["--netns", "blue"]).start();
    let run = world.outer.sh(&format!(
        "ip netns exec blue python3 -c 'import socket; \
         s = socket.create_connection((\"{REMOTE4}\", 7000), 5); s.sendall(b\"get 5\\n\"); \
         print(len(s.recv(5, socket.MSG_WAITALL)))'"
    ));
    assert_eq!(run.success().stdout.trim(), "5");
    world.outer.ok("ip netns del blue");
    assert!(gw.wait(NOTICE).success(), "{}", gw.stderr());
}

#[test]
fn two_gateways_do_not_meet() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let other = world.another_guest();
    let _first = Gw::attach(&world, &[]);
    let _second = Launch::netns(&world.outer, &other, &[]).start();
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
    other.py(&format!("download({REMOTE4:?}, 7000, 100000)"));
}

#[test]
fn it_comes_again_after_itself() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    for _ in 0..3 {
        let gw = Gw::attach(&world, &[]);
        world
            .guest
            .py(&format!("download({REMOTE4:?}, 7000, 100000)"));
        gw.terminate();
    }
}

#[test]
fn a_user_without_privilege_is_enough() {
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    let _server = tcp_server(&world.remote, 7000);
    let guest = world.guest_of_nobody();
    let _gw = Launch::netns(&world.outer, &guest, &[]).by_nobody().start();
    guest.py(&format!("download({REMOTE4:?}, 7000, 1000000)"));
    guest.py(&format!("upload({REMOTE6:?}, 7000, 1000000)"));
    require("ping");
    for address in [REMOTE4, REMOTE6] {
        guest
            .sh(&format!("ping -n -c 2 -i 0.2 -W 2 -s 1400 {address}"))
            .success();
    }
}

#[test]
fn a_terminal_is_told_what_was_done() {
    // `script` gives it a terminal; the world's own PID is named in the text.
    let world = World::new();
    let pid = world.guest.inner_pid();
    let mut gw = world.outer.spawn(&format!(
        "script -qefc 'exec {} --netns {pid}' /dev/null",
        gw_binary().display()
    ));
    let mut text = String::new();
    eventually("the block on the terminal", PATIENCE, || {
        text = gw.output();
        ["tap0", GUEST4, "10.0.2.3"]
            .iter()
            .all(|word| text.contains(word))
            .then_some(())
    });
    gw.write(b"\x03");
    let (status, _) = gw.finish(Duration::from_secs(3));
    assert!(status.success(), "{status} after Ctrl-C: {text}");
}

#[test]
fn quiet_is_quiet() {
    let world = World::new();
    let gw = Gw::attach(&world, &["-q"]);
    assert_eq!((gw.stdout(), gw.stderr()), (String::new(), String::new()));
    assert_eq!(gw.terminate(), "");
}

#[test]
fn verbose_logs_and_json_is_json() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let gw = Gw::attach(&world, &["-vv", "--log-format", "json"]);
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 1000)"));
    let log = gw.terminate();
    assert!(!log.is_empty());
    for line in log.lines() {
        assert!(
            line.starts_with('{') && line.ends_with('}'),
            "not JSON: {line}"
        );
    }
}

#[test]
fn the_hosts_loopback_is_closed_by_default() {
    let world = World::new();
    let mut server = world.outer.serve(
        "l = [listen(port) for port in (5432, 8000)]
ready()
while True:
    for s in select.select(l, [], [])[0]:
        s.accept()[0].close()
        print('accepted', flush=True)",
    );
    let _gw = Gw::attach(&world, &[]);
    for address in [GATEWAY4, GATEWAY6] {
        let started = Instant::now();
        let said = world.guest.py(&format!(
            "print(outcome(lambda: connect({address:?}, 5432)))"
        ));
        assert!(
            ["ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"].contains(&said.as_str()),
            "{said}"
        );
        assert!(started.elapsed() < Duration::from_secs(3));
    }
    assert!(!server.output().contains("accepted"));
}

/// A server on the host's loopback that says its port.
const LOOPBACK_SERVER: &str = "
def one(l, port):
    while True:
        s = l.accept()[0]
        s.sendall(str(port).encode())
        s.close()
for port in (5432, 8000, 8005, 8010, 8011):
    for address in ('127.0.0.1', '::1'):
        threading.Thread(target=one, args=(listen(port, address), port)).start()
ready()
";

/// What a guest gets from the gateway's `port`, over both families.
fn from_loopback(world: &World, port: u16) -> [String; 2] {
    [GATEWAY4, GATEWAY6].map(|address| {
        world.guest.py(&format!(
            "print(outcome(lambda: connect({address:?}, {port}).recv(9).decode()))"
        ))
    })
}

#[test]
fn the_hosts_loopback_opens_on_request() {
    let world = World::new();
    let _server = world.outer.serve(LOOPBACK_SERVER);
    let _gw = Gw::attach(&world, &["--host-loopback"]);
    for port in [5432, 8011] {
        assert_eq!(
            from_loopback(&world, port),
            [port.to_string(), port.to_string()]
        );
    }
    assert_eq!(from_loopback(&world, 1), ["ECONNREFUSED", "ECONNREFUSED"]);
}

#[test]
fn the_hosts_loopback_opens_for_some_ports_only() {
    let world = World::new();
    let _server = world.outer.serve(LOOPBACK_SERVER);
    let _gw = Gw::attach(&world, &["--host-loopback", "5432,8000-8010"]);
    for port in [5432, 8000, 8005, 8010] {
        assert_eq!(
            from_loopback(&world, port),
            [port.to_string(), port.to_string()]
        );
    }
    for said in from_loopback(&world, 8011) {
        assert!(said.starts_with('E'), "port 8011 answered {said}");
    }
}

#[test]
fn the_hosts_loopback_over_udp() {
    let world = World::new();
    let _server = udp_echo(&world.outer, 7001);
    let gw = Gw::attach(&world, &[]);
    let ask = |address: &str| {
        world.guest.py(&format!(
            "s = udp({address:?}, connected=7001, timeout=2)
s.send(b'hello')
print(outcome(lambda: s.recv(9).decode()))"
        ))
    };
    for address in [GATEWAY4, GATEWAY6] {
        assert_ne!(ask(address), "hello");
    }
    gw.terminate();
    let _gw = Gw::attach(&world, &["--host-loopback", "7001"]);
    for address in [GATEWAY4, GATEWAY6] {
        assert_eq!(ask(address), "hello");
    }
}

#[test]
fn the_hosts_own_address_is_reached_like_any_other() {
    let world = World::new();
    let _server = tcp_server(&world.outer, 7000);
    let _gw = Gw::attach(&world, &[]);
    world
        .guest
        .py(&format!("download({HOST4:?}, 7000, 1000000)"));
}

/// What source address the remote sees.
fn source_seen(world: &World, target: &str) -> String {
    let mut server = world.remote.serve(
        "l = listen(7100)
ready()
print('from', l.accept()[1][0].removeprefix('::ffff:'), flush=True)",
    );
    world
        .guest
        .py(&format!("connect({target:?}, 7100).close()"));
    let line = server.wait_line("from");
    let _ = server.finish(PATIENCE);
    line.trim_start_matches("from ").to_owned()
}

#[test]
fn the_source_address_can_be_chosen() {
    let world = World::new();
    world.outer.ok("ip addr add 192.0.2.77/24 dev veth0; \
                    ip addr add 2001:db8::77/64 dev veth0 nodad");
    let _gw = Gw::attach(
        &world,
        &[
            "--outbound-addr",
            "192.0.2.77",
            "--outbound-addr6",
            "2001:db8::77",
        ],
    );
    assert_eq!(source_seen(&world, REMOTE4), "192.0.2.77");
    assert_eq!(source_seen(&world, REMOTE6), "2001:db8::77");
}

/// Who binds to a tunnel's address does not want names to be asked elsewhere.
#[test]
fn names_are_asked_from_the_chosen_address() {
    let world = World::new();
    world.outer.ok("ip addr add 192.0.2.77/24 dev veth0");
    let mut server = world.remote.serve(
        "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.bind(('192.0.2.1', 53))
ready()
print('from', s.recvfrom(512)[1][0], flush=True)",
    );
    let _gw = Gw::attach(&world, &["--outbound-addr", "192.0.2.77", "--dns", REMOTE4]);
    // Nobody answers; asking is enough.
    let _ = world
        .guest
        .sh(&format!("dig +tries=1 +time=1 @{DNS4} name.example"));
    assert_eq!(server.wait_line("from").trim(), "from 192.0.2.77");
}

#[test]
fn the_outgoing_interface_can_be_chosen() {
    let world = World::new();
    let remote = world.remote.inner_pid();
    world.outer.ok(&format!(
        "ip link add second type veth peer name second netns {remote}; \
         ip addr add 192.0.9.2/24 dev second; ip link set second up; \
         ip route add default via 192.0.9.1 dev second metric 999"
    ));
    world
        .remote
        .ok("ip addr add 192.0.9.1/24 dev second; ip link set second up");
    let _gw = Gw::attach(&world, &["--outbound-addr", "second"]);
    assert_eq!(source_seen(&world, ALT4[0]), "192.0.9.2");
}
