//! `gw` started as slirp4netns, as its callers start it.

use std::fs;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::harness::gw::NOBODY;
use crate::harness::peer::{dns_server, tcp_server};
use crate::harness::{
    BLACK_HOLE4, DNS4, GATEWAY4, GUEST4, Gw, Launch, Netns, PATIENCE, REMOTE4, World, eventually,
    gw_binary, require,
};

/// Where the world has the program, under the name that makes it slirp4netns.
const SLIRP4NETNS: &str = "/run/.etc/slirp4netns";

/// What the scripted name server answers.
const ANSWER: &str = "192.0.2.80";

/// The longest that hanging up the exit descriptor may take.
const NOTICE: Duration = Duration::from_secs(1);

/// A running slirp4netns, which must end well when it is told to by its exit
/// descriptor.
struct Slirp(Gw);

impl Slirp {
    /// `slirp4netns ARGS PID tap0`, with both descriptors.
    #[track_caller]
    fn attach(world: &World, args: &[&str]) -> Self {
        Self::start(world, &named(world, args))
    }

    #[track_caller]
    fn start(world: &World, args: &[&str]) -> Self {
        install(world);
        Self(Launch::new(&world.outer, args).binary(SLIRP4NETNS).start())
    }

    fn field(&self, name: &str) -> String {
        let status = fs::read_to_string(self.0.proc().join("status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':')).expect(name).1;
        value.trim().to_owned()
    }

    /// Names in the root directory as it sees it.
    fn root(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.proc().join("root"))
            .expect("it runs")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    /// Panics unless it has given up what the sandbox and the filter take.
    #[track_caller]
    fn is_confined(&self) {
        assert_eq!(self.root(), ["etc", "run"]);
        for set in ["CapInh", "CapAmb"] {
            assert_eq!(self.field(set), "0000000000000000", "{set}");
        }
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            // CAP_NET_BIND_SERVICE
            assert_eq!(self.field(set), "0000000000000400", "{set}");
        }
        assert_eq!(self.field("NoNewPrivs"), "1");
        assert_eq!(self.field("Seccomp"), "2");
        assert_eq!(self.field("Threads"), "1");
        let mounts = fs::read_to_string(self.0.proc().join("mountinfo")).expect("it runs");
        for mount in mounts.lines() {
            let options = mount.split(' ').nth(5).expect("options");
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(options.split(',').any(|o| o == option), "{option}: {mount}");
            }
        }
    }
}

impl Drop for Slirp {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.0.hang_up();
        let status = self.0.wait(NOTICE.max(PATIENCE));
        let said = self.0.stderr();
        assert!(status.success(), "{status}: {said}");
        assert!(
            said.ends_with("exitfd event\ndo_slirp is exiting\n"),
            "{said}"
        );
    }
}

/// Puts the program where [`SLIRP4NETNS`] says; a file of its own, since the
/// real one may lie in folders that are closed to some.
fn install(world: &World) {
    world.outer.ok(&format!(
        "test -e {SLIRP4NETNS} || {{ touch {SLIRP4NETNS} && mount --bind {} {SLIRP4NETNS}; }}",
        gw_binary().display()
    ));
}

/// Arguments with the guest's namespace behind them.
fn named(world: &World, args: &[&str]) -> Vec<&'static str> {
    // Leaked, as the few words of a test may be.
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let mut words: Vec<_> = args.iter().map(|arg| leak((*arg).to_owned())).collect();
    words.push(leak(world.guest.inner_pid().to_string()));
    words.push("tap0");
    words
}

/// Traffic of every kind flows from `guest`.
#[track_caller]
fn traffic_flows(world: &World, guest: &Netns) {
    require("dig");
    require("curl");
    let _server = tcp_server(&world.remote, 7000);
    let _dns = dns_server(&world.remote, REMOTE4, ANSWER);
    guest.py(&format!("download({REMOTE4:?}, 7000, 3000000)"));
    guest.py(&format!("upload({REMOTE4:?}, 7000, 3000000)"));
    assert_eq!(resolved(guest, "www.example"), ANSWER);
    assert_eq!(guest.sh(&format!("ping -n -c 1 -W 5 {GATEWAY4}")).code(), 0);
}

fn resolved(guest: &Netns, name: &str) -> String {
    let query = format!("dig +tries=1 +time=5 @{DNS4} +short {name} A");
    guest.ok(&query).trim().to_owned()
}

#[test]
fn it_configures_the_guest_and_says_so() {
    let world = World::new();
    let slirp = Slirp::attach(&world, &["-c", "--enable-ipv6"]);
    let shown = world.guest.ok("ip addr show dev tap0");
    for wanted in ["inet 10.0.2.100/24", "inet6 fd00::", "mtu 1500", ",UP"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    let routes = world.guest.ok("ip route show default");
    assert!(routes.contains("via 10.0.2.2 dev tap0"), "{routes}");
    assert!(world.guest.ok("ip link show lo").contains("UP"));
    traffic_flows(&world, &world.guest);
    let said = slirp.0.stdout();
    for line in [
        "WARNING: Support for IPv6 is experimental",
        "Starting slirp",
        "* MTU:             1500",
        "* Netmask:         255.255.255.0",
        "* Recommended IP:  10.0.2.100",
    ] {
        assert!(said.lines().any(|l| l == line), "{line}: {said}");
    }
    let said = slirp.0.stderr();
    assert!(said.starts_with("sent tapfd="), "{said}");
    assert!(said.contains(" for tap0\nreceived tapfd="), "{said}");
}

#[test]
fn ipv6_is_off_unless_asked_for() {
    let world = World::new();
    let _slirp = Slirp::attach(&world, &["-c"]);
    assert!(!world.guest.ok("ip addr show dev tap0").contains("fd00:"));
}

#[test]
fn options_shape_the_guest() {
    let world = World::new();
    let _server = tcp_server(&world.remote, 7000);
    let args = [
        "--configure",
        "--mt=65520",
        "--cidr",
        "10.9.0.0/16",
        "--macaddress=2:0:0:0:0:7",
    ];
    let _slirp = Slirp::attach(&world, &args);
    let shown = world.guest.ok("ip addr show dev tap0");
    for wanted in ["inet 10.9.0.100/16", "mtu 65520", "02:00:00:00:00:07"] {
        assert!(shown.contains(wanted), "{wanted}: {shown}");
    }
    world
        .guest
        .py(&format!("download({REMOTE4:?}, 7000, 3000000)"));
}

#[test]
fn the_first_lease_is_host_15() {
    require("udhcpc");
    let world = World::new();
    let _slirp = Slirp::attach(&world, &[]);
    world.guest.ok("ip link set tap0 up");
    let said = world
        .guest
        .sh("udhcpc -i tap0 -n -q -f -t 3 -s /bin/true")
        .success();
    said.says("10.0.2.15");
}

#[test]
fn the_hosts_loopback_is_open_unless_closed() {
    let world = World::new();
    let _server = world.outer.serve(
        "l = listen(7001, '127.0.0.1')
ready()
while True: l.accept()[0].sendall(b'host')",
    );
    let connects = || {
        let script = format!("print(outcome(lambda: connect({GATEWAY4:?}, 7001).recv(9)))");
        world.guest.py(&script)
    };
    {
        let _slirp = Slirp::attach(&world, &["-c"]);
        assert_eq!(connects(), "b'host'");
    }
    for option in ["--disable-host-loopback", "--no-host-loopback"] {
        let _slirp = Slirp::attach(&world, &["-c", option]);
        assert_eq!(connects(), "ENETUNREACH");
        world.guest.ok(&format!("ping -n -c 1 -W 5 {GATEWAY4}"));
    }
}

#[test]
fn the_resolvers_address_has_no_other_ports_and_may_have_none() {
    let world = World::new();
    let connects = |port: u16| {
        let script = format!("print(outcome(lambda: tcp(timeout=1).connect(({DNS4:?}, {port}))))");
        world.guest.py(&script)
    };
    {
        let _slirp = Slirp::attach(&world, &["-c"]);
        assert_eq!(connects(54), "ENETUNREACH");
    }
    let _slirp = Slirp::attach(&world, &["-c", "--disable-dns"]);
    let said = connects(53);
    assert!(said.to_lowercase().contains("time"), "{said}");
}

#[test]
fn the_source_address_can_be_chosen() {
    let world = World::new();
    world.outer.ok("ip address add 192.0.2.77/24 dev veth0");
    let _server = world.remote.serve(
        "l = listen(7002)
ready()
while True:
    s, peer = l.accept()
    s.sendall(peer[0].encode())
    s.close()",
    );
    for (option, source) in [
        ("--outbound-addr=192.0.2.77", "192.0.2.77"),
        ("--outbound-addr=veth0", "192.0.2.2"),
    ] {
        let _slirp = Slirp::attach(&world, &["-c", option]);
        let seen = world
            .guest
            .py(&format!("print(connect({REMOTE4:?}, 7002).recv(99))"));
        assert!(seen.contains(source), "{option}: {seen}");
    }
}

#[test]
fn only_hanging_up_the_exit_descriptor_ends_it() {
    let world = World::new();
    install(&world);
    let pid = world.guest.inner_pid();
    let said = world.outer.py(&format!(
        "import subprocess
def run(fd, theirs):
    r, w = os.pipe()
    p = subprocess.Popen([{SLIRP4NETNS:?}, '-c', '-r', str(w), '-e', str(fd), '{pid}', 'tap0'],
                         pass_fds=[w, *theirs], stdout=subprocess.DEVNULL,
                         stderr=subprocess.DEVNULL)
    os.close(w)
    assert os.read(r, 9) == b'1' and os.read(r, 9) == b''
    os.close(r)
    return p
def ended(p, wait):
    try: return p.wait(wait)
    except subprocess.TimeoutExpired: return 'runs'
r, w = os.pipe()
p = run(r, [r])
os.close(r)
os.write(w, b'data')
print('pipe', ended(p, 0.3))
os.close(w)
print('pipe', ended(p, 5))
a, b = socketpair()
p = run(b.fileno(), [b.fileno()])
b.close()
a.shutdown(SHUT_WR)
print('socket', ended(p, 0.3))
a.close()
print('socket', ended(p, 5))
f = open('/etc/hosts')
p = run(f.fileno(), [f.fileno()])
print('file', ended(p, 0.3))
p.kill()
p.wait()
p = run(99, [])
print('none', ended(p, 5))"
    ));
    assert_eq!(
        said,
        "pipe runs\npipe 0\nsocket runs\nsocket 0\nfile runs\nnone 0"
    );
}

#[test]
fn signals_have_their_default_effect() {
    use std::os::unix::process::ExitStatusExt as _;
    let world = World::new();
    install(&world);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let launch = Launch::new(&world.outer, &named(&world, &["-c"]));
        let mut slirp = launch.binary(SLIRP4NETNS).start();
        slirp.signal(signal);
        let status = slirp.wait(PATIENCE);
        #[expect(clippy::as_conversions, reason = "signals are numbers")]
        let number = signal as i32;
        assert_eq!(status.signal(), Some(number), "{status}");
        assert_eq!(world.guest.interfaces(), ["lo"]);
    }
}

#[test]
fn it_outlives_its_target() {
    let mut world = World::new();
    let mut slirp = Slirp::attach(&world, &["-c"]);
    world.guest.kill();
    std::thread::sleep(NOTICE);
    assert!(slirp.0.alive());
}

#[test]
fn failures_end_with_status_1() {
    let world = World::new();
    install(&world);
    let run = |args: &str| world.outer.sh(&format!("{SLIRP4NETNS} {args}")).failure();
    let finished = run("-m 0 1 tap0").says("MTU must be a positive integer (< 65522)");
    assert_eq!(finished.code(), 1);
    assert!(finished.stdout.starts_with("Usage: "), "{finished:#?}");
    let finished = run("--bogus").says(&format!("{SLIRP4NETNS}: unrecognized option '--bogus'"));
    assert_eq!(finished.code(), 1);
    let finished = run("-c 999999 tap0").says("child failed(1)");
    assert_eq!((finished.code(), finished.stdout.len()), (1, 0));
    let long = "x".repeat(108);
    let finished = run(&format!(
        "-c -a /run/{long} {} tap0",
        world.guest.inner_pid()
    ))
    .says("the specified API socket path is too long");
    assert_eq!(finished.code(), 1);
    assert_eq!(world.guest.interfaces(), ["lo"]);
    // As a subcommand, too.
    let gw = gw_binary();
    let finished = world
        .outer
        .sh(&format!("{} slirp4netns --help", gw.display()));
    assert!(finished.success().stdout.contains("--netns-type"));
}

#[test]
fn a_tap_of_rootlesskits_gets_the_fast_path() {
    let world = World::new();
    world.guest.ok(&format!(
        "ip tuntap add name tap0 mode tap
        ip link set tap0 address 02:50:00:00:00:01
        ip link set tap0 mtu 65520 up
        ip addr add {GUEST4}/24 dev tap0
        ip route add default via {GATEWAY4}"
    ));
    let shown = || world.guest.ok("ip -d link show tap0");
    assert!(!shown().contains("vnet_hdr on"), "{}", shown());
    {
        let _slirp = Slirp::attach(&world, &["--mtu", "65520"]);
        assert!(shown().contains("vnet_hdr on"), "{}", shown());
        traffic_flows(&world, &world.guest);
    }
    assert!(shown().contains("tap0"), "it is rootlesskit's to remove");
    // Again, since the flags stay.
    let _slirp = Slirp::attach(&world, &["--mtu", "65520"]);
    traffic_flows(&world, &world.guest);
}

/// Serves a TAP that another program has attached with `flags`, inherited as a
/// descriptor.
fn inherited_tap(flags: &str, args: &str) {
    let world = World::new();
    install(&world);
    let pid = world.guest.inner_pid();
    let mut starter = world.outer.spawn_python(&format!(
        "import fcntl, subprocess
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 2, 0x1000, 0x4000
libc = ctypes.CDLL(None)
home, there = open('/proc/self/ns/net'), open('/proc/{pid}/ns/net')
assert libc.setns(there.fileno(), 0) == 0
tap = os.open('/dev/net/tun', os.O_RDWR)
fcntl.ioctl(tap, 0x400454ca, struct.pack('16sH22x', b'tap0', {flags}))
assert libc.setns(home.fileno(), 0) == 0
ready, theirs = os.pipe()
hang_up, w = os.pipe()
p = subprocess.Popen(
    [{SLIRP4NETNS:?}, '-r', str(theirs), '-e', str(hang_up), '--netns-type=tapfd',
     *{args:?}.split(), str(tap)],
    pass_fds=[theirs, hang_up, tap], stdout=subprocess.DEVNULL)
for fd in theirs, hang_up, tap: os.close(fd)
assert os.read(ready, 9) == b'1'
print('started', flush=True)
sys.stdin.read()
os.close(w)
sys.exit(p.wait())"
    ));
    starter.wait_line("started");
    world.guest.ok(&format!(
        "ip link set tap0 up
        ip addr add {GUEST4}/24 dev tap0
        ip route add default via {GATEWAY4}"
    ));
    traffic_flows(&world, &world.guest);
    starter.done();
}

#[test]
fn an_inherited_tap_without_the_header_is_served() {
    inherited_tap("IFF_TAP | IFF_NO_PI", "");
}

#[test]
fn an_inherited_tap_with_the_header_is_served() {
    inherited_tap("IFF_TAP | IFF_NO_PI | IFF_VNET_HDR", "--enable-seccomp");
}

#[test]
fn an_inherited_tap_is_served_from_the_sandbox() {
    inherited_tap("IFF_TAP | IFF_NO_PI", "--enable-sandbox --enable-seccomp");
}

#[test]
fn a_namespace_is_found_by_path() {
    let world = World::new();
    let path = format!("/proc/{}/ns/net", world.guest.inner_pid());
    let _slirp = Slirp::start(&world, &["-c", "--netns-type=path", &path, "tap0"]);
    traffic_flows(&world, &world.guest);
}

#[test]
fn the_sandbox_leaves_what_serving_needs() {
    let world = World::new();
    let slirp = Slirp::attach(&world, &["-c", "--enable-sandbox", "--enable-seccomp"]);
    slirp.is_confined();
    traffic_flows(&world, &world.guest);
    let said = slirp.0.stdout();
    assert!(said.contains("WARNING: Support for seccomp is experimental\n"));
    assert!(said.contains("\nseccomp: The following syscalls are blocked: execve "));
    // Errors of the host take other ways through the gateway.
    let timeout = world.guest.py(&format!(
        "print(outcome(lambda: tcp(timeout=0.3).connect(({BLACK_HOLE4:?}, 1))))"
    ));
    assert!(timeout.to_lowercase().contains("time"), "{timeout}");
}

#[test]
fn the_sandbox_and_the_host_share_mounts_one_way() {
    let world = World::new();
    world
        .outer
        .ok("mkdir /run/one /run/two && mount -t tmpfs tmpfs /run/one && touch /run/one/file");
    let slirp = Slirp::attach(&world, &["-c", "--enable-sandbox"]);
    let seen = slirp.0.proc().join("root/run");
    assert!(seen.join("one/file").exists());
    world
        .outer
        .ok("test -e /run/one/file && mountpoint -q /run/one");
    drop(slirp);
    world
        .outer
        .ok("test -e /run/one/file && mountpoint -q /run/one");
}

#[test]
fn a_user_without_privilege_is_confined_as_well() {
    for by_path in [false, true] {
        let world = World::new();
        if !world.allow_nobody() {
            return;
        }
        install(&world);
        let guest = world.guest_of_nobody();
        let pid = guest.inner_pid();
        let (net, user) = (
            format!("/proc/{pid}/ns/net"),
            format!("--userns-path=/proc/{pid}/ns/user"),
        );
        let pid = pid.to_string();
        let target = match by_path {
            true => vec!["--netns-type=path", &user, &net, "tap0"],
            false => vec![&pid[..], "tap0"],
        };
        let options = ["-c", "--enable-sandbox", "--enable-seccomp"];
        let args = [&options[..], &target[..]].concat();
        let launch = Launch::new(&world.outer, &args).prefix(NOBODY);
        let slirp = Slirp(launch.binary(SLIRP4NETNS).start());
        slirp.is_confined();
        traffic_flows(&world, &guest);
    }
}

/// DNS goes on in the sandbox when resolv.conf, a link to `target`, is replaced.
fn follows_resolv_conf(target: &str, prepare: &str, root: &[&str]) {
    require("dig");
    let world = World::new();
    let _first = dns_server(&world.remote, REMOTE4, ANSWER);
    let _second = dns_server(&world.remote, "198.51.100.2", "192.0.2.82");
    world.outer.ok(&format!(
        "{prepare}
        mkdir -p $(dirname {target}) && echo nameserver {REMOTE4} > {target}
        ln -sf {target} /etc/resolv.conf"
    ));
    let slirp = Slirp::attach(&world, &["-c", "--enable-sandbox", "--enable-seccomp"]);
    assert_eq!(slirp.root(), root);
    if root.contains(&"mnt") {
        let seen = slirp.0.proc().join("root/mnt");
        assert!(seen.join("wsl").exists() && !seen.join("secret").exists());
    }
    assert_eq!(resolved(&world.guest, "www.example"), ANSWER);
    world.outer.ok(&format!(
        "echo nameserver 198.51.100.2 > {target}.new && mv {target}.new {target}"
    ));
    let mut number = 0;
    eventually("the new server to be asked", PATIENCE, || {
        number += 1;
        (resolved(&world.guest, &format!("www{number}.example")) == "192.0.2.82").then_some(())
    });
}

#[test]
fn a_resolv_conf_below_run_is_followed_from_the_sandbox() {
    follows_resolv_conf(
        "../run/systemd/resolve/stub-resolv.conf",
        "cd /etc",
        &["etc", "run"],
    );
}

#[test]
fn a_resolv_conf_by_way_of_var_is_followed_from_the_sandbox() {
    follows_resolv_conf(
        "/var/run/nm/resolv.conf",
        "test -L /var/run",
        &["etc", "run", "var"],
    );
}

#[test]
fn a_resolv_conf_elsewhere_is_followed_from_the_sandbox() {
    // As on WSL, where it is in /mnt/wsl.
    let prepare = "mount -t tmpfs tmpfs /mnt && mkdir /mnt/wsl && touch /mnt/secret";
    follows_resolv_conf("/mnt/wsl/resolv.conf", prepare, &["etc", "mnt", "run"]);
}

#[test]
fn a_user_mode_linux_is_served_and_may_come_again() {
    for options in ["", "--enable-sandbox --enable-seccomp"] {
        let world = World::new();
        let words: Vec<_> = options
            .split_whitespace()
            .chain(["--target-type=bess", "/run/bess.sock"])
            .collect();
        let slirp = Slirp::start(&world, &words);
        let said = slirp.0.stderr();
        assert!(
            said.contains("Waiting for connection to /run/bess.sock"),
            "{said}"
        );
        let _server = tcp_server(&world.remote, 7000);
        for _ in 0..2 {
            let said = world.outer.py(BESS_GUEST);
            assert_eq!(said, "arp\nping\nconnected");
        }
    }
}

/// A guest on the packet socket: asks for the gateway, pings it, connects to the
/// remote.
const BESS_GUEST: &str = r"
s = socket(AF_UNIX, SOCK_SEQPACKET)
s.settimeout(5)
s.connect('/run/bess.sock')
me, my_ip, gw_ip = b'\x02\0\0\0\0\x64', bytes([10, 0, 2, 100]), bytes([10, 0, 2, 2])
def ask():
    while True:
        s.send(b'\xff' * 6 + me + b'\x08\x06' + struct.pack('!HHBBH', 1, 0x800, 6, 4, 1)
               + me + my_ip + b'\0' * 6 + gw_ip)
        f = s.recv(70000)
        if f[12:14] == b'\x08\x06' and f[20:22] == b'\0\x02' and f[28:32] == gw_ip:
            return f[22:28]
gw = ask()
print('arp')
def answer(protocol, remote):
    while True:
        f = s.recv(70000)
        assert len(f) <= 1514, len(f)
        if f[:6] == me and f[12:14] == b'\x08\0' and f[23] == protocol and f[26:30] == remote:
            return f[34:]
echo = struct.pack('!BBHHH', 8, 0, 0, 7, 1) + b'x' * 32
echo = echo[:2] + struct.pack('!H', checksum(echo)) + echo[4:]
s.send(gw + me + b'\x08\0' + ipv4('10.0.2.100', '10.0.2.2', 1, echo))
assert answer(1, gw_ip)[0] == 0
print('ping')
remote = bytes([192, 0, 2, 1])
port = 40000 + os.getpid() % 20000
syn = struct.pack('!HHIIBBHHH', port, 7000, 1, 0, 5 << 4, 2, 65535, 0, 0)
pseudo = my_ip + remote + struct.pack('!BBH', 0, 6, len(syn))
syn = syn[:16] + struct.pack('!H', checksum(pseudo + syn)) + syn[18:]
s.send(gw + me + b'\x08\0' + ipv4('10.0.2.100', '192.0.2.1', 6, syn))
assert answer(6, remote)[13] == 0x12
print('connected')
";
