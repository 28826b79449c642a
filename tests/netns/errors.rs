//! What cannot work says so in one line, names the remedy, and leaves nothing.

use crate::harness::{Finished, Gw, Launch, World, gw_binary};

/// Status of a wrong command line.
const USAGE: i32 = 2;

fn gw(world: &World, args: &[&str]) -> Finished {
    Launch::new(&world.outer, args).run()
}

/// Each of these ends with status 2 and a sentence with these words.
#[test]
fn wrong_command_lines() {
    let world = World::new();
    let pid = world.guest.inner_pid().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["--no-such-option"], "--no-such-option"),
        (&["--mtu", "67"], "68"),
        (&["--mtu", "65521"], "65520"),
        (&["--mtu", "many"], "mtu"),
        (&["--cidr", "10.0.2.0"], "cidr"),
        (&["--cidr", "10.0.2.0/30"], "cidr"),
        (&["--cidr", "127.0.0.0/8"], "127.0.0.0/8"),
        (&["--cidr6", "fe80::/64"], "fe80::/64"),
        (&["--cidr6", "10.0.2.0/24"], "cidr6"),
        (&["--mac", "01:00:5e:00:00:01"], "mac"),
        (&["--mac", "02:00"], "mac"),
        (&["--ifname", "a-name-that-is-too-long"], "ifname"),
        (&["--ifname", "a/b"], "ifname"),
        (&["--no-ipv4", "--no-ipv6"], "--no-ipv"),
        (&["--no-ipv4", "--cidr", "10.9.0.0/24"], "--cidr"),
        (&["--no-dns", "--dns", "192.0.2.1"], "--dns"),
        (&["--no-dns", "--search", "corp.example"], "--search"),
        (&["--dns", "resolver.example"], "dns"),
        (&["--host", "name"], "host"),
        (&["--host", "name=nowhere"], "host"),
        (&["--host-loopback", "99999"], "99999"),
        (&["--host-loopback", "10-5"], "10-5"),
        (&["--outbound-addr", "2001:db8::1"], "outbound-addr"),
        (&["--ready-fd", "minus"], "ready-fd"),
        (&["--log-format", "xml"], "xml"),
        (&["-q", "-v"], "-v"),
        (&["run"], "run"),
    ];
    for (args, word) in cases {
        let finished = gw(&world, &[&["--netns", pid.as_str()], *args].concat());
        assert_eq!(finished.code(), USAGE, "{args:?}: {finished:?}");
        assert_eq!(finished.stdout, "", "{args:?}");
        finished.says(word);
    }
    assert_eq!(world.guest.interfaces(), ["lo"]);
}

#[test]
fn nothing_to_do_is_a_wrong_command_line() {
    let world = World::new();
    let finished = gw(&world, &[]);
    assert_eq!(finished.code(), USAGE, "{finished:?}");
    finished.says("--netns");
}

#[test]
fn help_and_version_are_told() {
    let world = World::new();
    let help = gw(&world, &["--help"]).success();
    for option in [
        "--netns",
        "--userns",
        "--ifname",
        "--mtu",
        "--cidr",
        "--cidr6",
        "--mac",
        "--no-ipv4",
        "--no-ipv6",
        "--no-configure",
        "--host-loopback",
        "--publish",
        "--expose-host",
        "--outbound-addr",
        "--outbound-addr6",
        "--dns",
        "--no-dns",
        "--search",
        "--ndots",
        "--host",
        "--no-icmp",
        "--ready-fd",
        "--exit-fd",
        "--pid-file",
        "--log-format",
        "--memory",
        "run",
        "speedtest",
    ] {
        assert!(help.stdout.contains(option), "{option} is not in --help");
    }
    let run = gw(&world, &["run", "--help"]).success();
    assert!(run.stdout.contains("--map-root"), "{run:?}");
    gw(&world, &["--version"])
        .success()
        .says(env!("CARGO_PKG_VERSION"));
}

/// Fails, though not as a wrong command line; one line; these words.
#[track_caller]
fn fails(finished: Finished, words: &[&str]) {
    assert!(
        !matches!(finished.code(), 0 | USAGE | 101 | 134),
        "{finished:?}"
    );
    let lines: Vec<&str> = finished
        .stderr
        .lines()
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(lines.len(), 1, "one line: {finished:?}");
    for word in words {
        assert!(lines[0].contains(word), "no {word:?} in: {}", lines[0]);
    }
}

#[test]
fn a_process_that_is_gone() {
    let world = World::new();
    fails(gw(&world, &["--netns", "999999"]), &["999999"]);
}

#[test]
fn a_namespace_that_does_not_exist() {
    let world = World::new();
    fails(
        gw(&world, &["--netns", "/run/no-such-file"]),
        &["/run/no-such-file"],
    );
    fails(gw(&world, &["--netns", "no-such-name"]), &["no-such-name"]);
}

#[test]
fn a_file_that_is_no_namespace() {
    let world = World::new();
    fails(gw(&world, &["--netns", "/etc/hosts"]), &["/etc/hosts"]);
    let pid = world.guest.inner_pid();
    let user = format!("/proc/{pid}/ns/user");
    fails(gw(&world, &["--netns", &user]), &[&user]);
}

#[test]
fn an_interface_name_that_is_taken() {
    let world = World::new();
    world.guest.ok("ip link add tap0 type veth peer name other");
    fails(Gw::refused(&world, &[]), &["tap0", "--ifname"]);
    assert_eq!(world.guest.interfaces(), ["lo", "other", "tap0"]);
}

#[test]
fn a_second_gateway_on_the_same_interface() {
    let world = World::new();
    let _first = Gw::attach(&world, &[]);
    fails(Gw::refused(&world, &[]), &["tap0"]);
    // The first one is not disturbed.
    world.guest.ok("ip addr show dev tap0 | grep -q 10.0.2.100");
}

#[test]
fn a_machine_without_tun() {
    let world = World::new();
    world.outer.ok("mount -t tmpfs none /dev/net");
    fails(Gw::refused(&world, &[]), &["/dev/net/tun", "modprobe tun"]);
    assert_eq!(world.guest.interfaces(), ["lo"]);
}

#[test]
fn a_tun_that_may_not_be_opened() {
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    world.outer.ok("chmod 600 /run/.etc/tun");
    let guest = world.guest_of_nobody();
    match Launch::netns(&world.outer, &guest, &[])
        .by_nobody()
        .try_start()
    {
        Ok(_) => panic!("got ready without /dev/net/tun"),
        Err(finished) => fails(finished, &["/dev/net/tun"]),
    }
    assert_eq!(guest.interfaces(), ["lo"]);
}

#[test]
fn somebody_elses_namespace() {
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    let pid = world.guest.inner_pid().to_string();
    let finished = Launch::new(&world.outer, &["--netns", &pid])
        .by_nobody()
        .run();
    fails(finished, &[&pid]);
    assert_eq!(world.guest.interfaces(), ["lo"]);
}

#[test]
fn no_user_namespaces() {
    // The limit belongs to a user namespace: this one is made for the purpose.
    let world = World::new();
    if !world.allow_nobody() {
        return;
    }
    let finished = world.outer.sh(&format!(
        "unshare --user --map-root-user sh -c 'echo 0 > /proc/sys/user/max_user_namespaces; \
         exec setpriv --inh-caps=-all --bounding-set=-all {} run -- true'",
        gw_binary().display()
    ));
    fails(finished, &["max_user_namespaces"]);
}

#[test]
fn a_ready_descriptor_that_is_not_open() {
    let world = World::new();
    let pid = world.guest.inner_pid().to_string();
    let finished = gw(&world, &["--netns", &pid, "--ready-fd", "77"]).failure();
    finished.says("77");
    let finished = gw(&world, &["--netns", &pid, "--exit-fd", "78"]).failure();
    finished.says("78");
    assert_eq!(world.guest.interfaces(), ["lo"]);
}

#[test]
fn a_pid_file_that_cannot_be_written() {
    let world = World::new();
    fails(
        Gw::refused(&world, &["--pid-file", "/no/such/folder/pid"]),
        &["/no/such/folder/pid"],
    );
    assert_eq!(world.guest.interfaces(), ["lo"]);
}

#[test]
fn an_outgoing_address_that_the_host_does_not_have() {
    let world = World::new();
    fails(
        Gw::refused(&world, &["--outbound-addr", "203.0.113.9"]),
        &["203.0.113.9"],
    );
    fails(
        Gw::refused(&world, &["--outbound-addr", "nosuchif"]),
        &["nosuchif"],
    );
    assert_eq!(world.guest.interfaces(), ["lo"]);
}
