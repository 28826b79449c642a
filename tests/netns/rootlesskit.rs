//! Debian's rootlesskit with `--net=slirp4netns`: what rootless Docker, nerdctl,
//! k3s and `BuildKit` stand on.
//!
//! rootlesskit runs as an ordinary user in the world's host; the remote is
//! "outside". It makes the TAP itself and configures it, before and after the
//! gateway comes.

use crate::harness::peer::{dns_server, tcp_server, udp_echo};
use crate::harness::slirp4netns::{OrdinaryUser, RUNTIME_DIR, Slirp4netns};
use crate::harness::{
    DNS4, Finished, GATEWAY4, HOST4, PATIENCE, REMOTE4, REMOTE6, Running, World, eventually,
    require,
};

/// rootlesskit, ready to be started by an ordinary user.
struct Rootlesskit<'a> {
    user: OrdinaryUser<'a>,
    binary: String,
}

impl<'a> Rootlesskit<'a> {
    /// `None`, and a message, where the tests are not run by root.
    fn new(world: &'a World) -> Option<Self> {
        for program in ["rootlesskit", "rootlessctl"] {
            require(program);
        }
        Some(Self {
            user: world.ordinary_user()?,
            binary: world.install_slirp4netns(Slirp4netns::UnderTest),
        })
    }

    /// The whole command line that starts `inside`.
    fn program(&self, options: &[&str], inside: &[&str]) -> Vec<String> {
        let first = [
            "rootlesskit".to_owned(),
            "--net=slirp4netns".to_owned(),
            format!("--slirp4netns-binary={}", self.binary),
            format!("--state-dir={RUNTIME_DIR}/rootlesskit"),
            "--copy-up=/etc".to_owned(),
        ];
        let rest = options.iter().chain(inside).map(ToString::to_string);
        first.into_iter().chain(rest).collect()
    }

    /// Runs a shell script inside to its end.
    fn sh(&self, options: &[&str], script: &str) -> Finished {
        self.user.run(&self.program(options, &["sh", "-c", script]))
    }

    /// Runs Python inside to its end, and returns what it printed, trimmed.
    #[track_caller]
    fn py(&self, options: &[&str], source: &str) -> String {
        let source = format!("from prelude import *\n{source}");
        let finished = self
            .user
            .run(&self.program(options, &["python3", "-u", "-c", &source]));
        finished.success().stdout.trim().to_owned()
    }

    /// Starts Python inside.
    fn spawn(&self, options: &[&str], source: &str) -> Running {
        let source = format!("from prelude import *\n{source}");
        self.user
            .spawn(&self.program(options, &["python3", "-u", "-c", &source]))
    }

    /// Starts Python inside and waits until it called `ready()`.
    fn serve(&self, options: &[&str], source: &str) -> Running {
        let mut running = self.spawn(options, source);
        running.wait_line("ready");
        running
    }

    /// What Docker asks of a running rootlesskit.
    #[track_caller]
    fn ctl(&self, args: &[&str]) -> String {
        let socket = format!("{RUNTIME_DIR}/rootlesskit/api.sock");
        let program = [&["rootlessctl", "--socket", &socket], args].concat();
        self.user.run(&program).success().stdout
    }
}

/// Tells each client its own address, as it is seen inside.
const TELL_SOURCE: &str = "
l = listen(80, '0.0.0.0')
ready()
while True:
    s, peer = l.accept()
    s.sendall(peer[0].encode())
    s.close()";

/// What is told of a client outside.
fn seen_source(world: &World, port: u16) -> String {
    world.remote.py(&format!(
        "print(connect({HOST4:?}, {port}).recv(100).decode())"
    ))
}

/// Moves data through a published port in both directions.
fn use_port(world: &World, port: u16) {
    world
        .remote
        .py(&format!("download({HOST4:?}, {port}, 1000000)"));
    world
        .remote
        .py(&format!("upload({HOST4:?}, {port}, 1000000)"));
}

#[test]
fn a_port_is_published_by_the_builtin_driver() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let options = [
        "--disable-host-loopback",
        "--port-driver=builtin",
        "--publish=0.0.0.0:8080:80/tcp",
    ];
    let _server = rootlesskit.serve(&options, "serve_tcp(80)");
    use_port(&world, 8080);
}

#[test]
fn a_port_is_published_by_the_slirp4netns_driver() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let options = [
        "--disable-host-loopback",
        "--port-driver=slirp4netns",
        "--publish=0.0.0.0:8080:80/tcp",
    ];
    let _server = rootlesskit.serve(&options, "serve_tcp(80)");
    use_port(&world, 8080);
}

/// The reason to choose this driver: rootlesskit's own one shows 127.0.0.1.
#[test]
fn the_slirp4netns_driver_shows_the_clients_address() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let options = ["--port-driver=slirp4netns", "-p", "0.0.0.0:8080:80/tcp"];
    let _server = rootlesskit.serve(&options, TELL_SOURCE);
    assert_eq!(seen_source(&world, 8080), REMOTE4);
}

#[test]
fn a_udp_port_is_published_by_either_driver() {
    for driver in ["--port-driver=builtin", "--port-driver=slirp4netns"] {
        let world = World::new();
        let Some(rootlesskit) = Rootlesskit::new(&world) else {
            return;
        };
        let options = [driver, "--publish=0.0.0.0:8080:80/udp"];
        let _server = rootlesskit.serve(&options, "serve_udp_echo(80)");
        let answer = world.remote.py(&format!(
            "s = udp(); s.sendto(b'question', ({HOST4:?}, 8080)); print(s.recv(100).decode())"
        ));
        assert_eq!(answer, "question", "{driver}");
    }
}

#[test]
fn ports_come_and_go_while_it_runs() {
    for driver in ["--port-driver=builtin", "--port-driver=slirp4netns"] {
        let world = World::new();
        let Some(rootlesskit) = Rootlesskit::new(&world) else {
            return;
        };
        let _server = rootlesskit.serve(&[driver], "serve_tcp(80)");
        let added = rootlesskit.ctl(&["add-ports", "0.0.0.0:8081:80/tcp", "0.0.0.0:8082:80/tcp"]);
        assert_eq!(added.trim(), "1\n2", "{driver}");
        use_port(&world, 8081);
        use_port(&world, 8082);
        rootlesskit.ctl(&["remove-ports", "1"]);
        let refused = world
            .remote
            .py(&format!("print(outcome(lambda: connect({HOST4:?}, 8081)))"));
        assert_eq!(refused, "ECONNREFUSED", "{driver}");
        use_port(&world, 8082);
        assert!(rootlesskit.ctl(&["list-ports"]).contains("8082"));
    }
}

/// Two containers want the same port: the second one is told.
#[test]
fn a_port_in_use_is_an_error() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _other = world.outer.serve("serve_tcp(8080)");
    let options = ["--port-driver=slirp4netns", "-p", "0.0.0.0:8080:80/tcp"];
    rootlesskit
        .sh(&options, "echo it ran")
        .failure()
        .lacks("it ran")
        .says("slirp_add_hostfwd failed");
}

#[test]
fn what_is_inside_reaches_the_world_by_name() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _tcp = tcp_server(&world.remote, 7000);
    let _udp = udp_echo(&world.remote, 7001);
    let resolv_conf = rootlesskit.sh(&[], "cat /etc/resolv.conf").success().stdout;
    assert_eq!(resolv_conf.trim(), format!("nameserver {DNS4}"));
    rootlesskit.py(
        &["--disable-host-loopback"],
        "download('www.example', 7000, 1000000)
upload('www.example', 7000, 1000000)
s = udp()
s.sendto(b'x', ('www.example', 7001))
assert s.recv(10) == b'x'",
    );
}

/// Tells how a connection to the host's own loopback ends.
const HOST_LOOPBACK: &str = "
s = outcome(lambda: connect('10.0.2.2', 7000))
print(s if isinstance(s, str) else 'connected')";

#[test]
fn the_hosts_loopback_is_closed_on_request() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _server = world.outer.serve(
        "l = listen(7000, '127.0.0.1'); ready()
while True: l.accept()",
    );
    assert_eq!(rootlesskit.py(&[], HOST_LOOPBACK), "connected");
    assert_eq!(
        rootlesskit.py(&["--disable-host-loopback"], HOST_LOOPBACK),
        "ENETUNREACH"
    );
    let options = ["--disable-host-loopback"];
    rootlesskit
        .sh(&options, &format!("ping -n -c 1 -W 5 {GATEWAY4}"))
        .success();
}

/// What dockerd-rootless.sh asks for.
#[test]
fn the_mtu_of_docker_carries_large_transfers() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _tcp = tcp_server(&world.remote, 7000);
    let source = format!(
        "import subprocess
print(subprocess.check_output(['ip', 'link', 'show', 'tap0'], text=True))
download({REMOTE4:?}, 7000, 10000000)
upload({REMOTE4:?}, 7000, 10000000)"
    );
    let link = rootlesskit.py(&["--mtu=65520"], &source);
    assert!(link.contains("mtu 65520"), "{link}");
}

/// The TAP is rootlesskit's, and a plain one. At an MTU of 1500, ten million
/// bytes are 6900 packets on a wire; here one frame stands for many of them.
#[test]
fn frames_are_large_on_a_tap_of_rootlesskits() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _tcp = tcp_server(&world.remote, 7000);
    let source = format!(
        "import json, subprocess
def moved(direction):
    shown = subprocess.check_output(['ip', '-j', '-s', 'link', 'show', 'tap0'])
    return json.loads(shown)[0]['stats64'][direction]
def average(transfer, direction):
    before = moved(direction)
    transfer({REMOTE4:?}, 7000, 10000000)
    after = moved(direction)
    return (after['bytes'] - before['bytes']) // (after['packets'] - before['packets'])
print(average(upload, 'tx'), average(download, 'rx'))"
    );
    let shown = rootlesskit.py(&["--mtu=1500"], &source);
    let averages: Vec<u32> = shown.split(' ').filter_map(|n| n.parse().ok()).collect();
    assert_eq!(averages.len(), 2, "{shown}");
    assert!(averages.iter().all(|bytes| *bytes > 6000), "{shown}");
}

/// As rootless Docker has it: outward through the gateway, inward by
/// rootlesskit's own port driver beside it.
#[test]
fn iperf3_runs_at_the_mtu_of_docker_with_the_builtin_driver() {
    require("iperf3");
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _out = world.remote.spawn("iperf3 --server --port=5202");
    let options = [
        "--mtu=65520",
        "--port-driver=builtin",
        "--publish=0.0.0.0:5201:5201/tcp",
    ];
    // A run's bytes, as whoever receives counts them.
    let source = format!(
        "import json, subprocess
server = subprocess.Popen(['iperf3', '--server', '--port=5201'], stdout=subprocess.DEVNULL)
def run(*more):
    deadline = time.monotonic() + PATIENCE
    while True:
        done = subprocess.run(['iperf3', '--client', {REMOTE4:?}, '--port=5202', '--time=1',
                               '--json', *more], capture_output=True, text=True)
        told = json.loads(done.stdout)
        if done.returncode == 0:
            return told['end']['sum_received']['bytes']
        assert time.monotonic() < deadline, told
        time.sleep(0.05)
print(run(), run('--reverse'))
ready()
server.wait()"
    );
    let mut inside = rootlesskit.spawn(&options, &source);
    let moved = inside.wait_line(" ");
    let moved: Vec<u64> = moved.split(' ').filter_map(|n| n.parse().ok()).collect();
    assert_eq!(moved.len(), 2, "{moved:?}");
    inside.wait_line("ready");
    let inward = world.remote.ok(&format!(
        "iperf3 --client {HOST4} --port=5201 --time=1 --json | grep -c sum_received"
    ));
    assert_eq!(inward.trim(), "1");
    // Far below what any machine does, far above what a stall leaves.
    assert!(moved.iter().all(|bytes| *bytes > 10_000_000), "{moved:?}");
}

#[test]
fn another_network_is_used_on_request() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _tcp = tcp_server(&world.remote, 7000);
    let options = ["--cidr=10.77.0.0/24", "--disable-host-loopback"];
    let source = "
import subprocess
print(subprocess.check_output(['ip', '-4', 'addr', 'show', 'tap0'], text=True))
print(open('/etc/resolv.conf').read())
download('www.example', 7000, 1000000)";
    let shown = rootlesskit.py(&options, source);
    assert!(shown.contains("inet 10.77.0.100/24"), "{shown}");
    assert!(shown.contains("nameserver 10.77.0.3"), "{shown}");
}

/// The guest gets its address from router advertisements, some time after
/// rootlesskit has started the program.
#[test]
fn ipv6_comes_by_advertisement() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _tcp = tcp_server(&world.remote, 7000);
    let source = format!(
        "
import subprocess
deadline = time.monotonic() + PATIENCE
shown = ''
while 'inet6 fd00::' not in shown or 'tentative' in shown:
    assert time.monotonic() < deadline, shown
    time.sleep(0.02)
    shown = subprocess.check_output(['ip', '-6', 'addr', 'show', 'tap0'], text=True)
download({REMOTE6:?}, 7000, 1000000)
upload({REMOTE6:?}, 7000, 1000000)"
    );
    rootlesskit.py(&["--ipv6", "--disable-host-loopback"], &source);
}

#[test]
fn it_works_in_the_sandbox_under_seccomp() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let _dns = dns_server(&world.remote, REMOTE4, REMOTE4);
    let _tcp = tcp_server(&world.remote, 7000);
    let options = [
        "--slirp4netns-sandbox=true",
        "--slirp4netns-seccomp=true",
        "--disable-host-loopback",
        "--port-driver=slirp4netns",
        "--publish=0.0.0.0:8080:80/tcp",
    ];
    let server = "
download('www.example', 7000, 1000000)
serve_tcp(80)";
    let _server = rootlesskit.serve(&options, server);
    use_port(&world, 8080);
}

/// rootlesskit ends its gateway; it neither lingers nor leaves anything.
#[test]
fn nothing_is_left_when_it_ends() {
    let world = World::new();
    let Some(rootlesskit) = Rootlesskit::new(&world) else {
        return;
    };
    let state = world.host_state();
    rootlesskit
        .sh(
            &["--port-driver=slirp4netns", "-p", "0.0.0.0:8080:80/tcp"],
            "true",
        )
        .success();
    eventually("the gateway's end", PATIENCE, || {
        world.processes().is_empty().then_some(())
    });
    assert_eq!(world.host_state(), state);
}
